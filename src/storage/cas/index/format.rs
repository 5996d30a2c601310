//! What every octet of a run means; `docs/formats.md` says the same in words.

use super::super::id::FramePlace;
use super::super::{ContentId, StoreId};
use super::Location;

/// What a run starts with.
const MAGIC: [u8; 8] = *b"AoEindex";
/// The version that is written, and the only one that is read.
pub(super) const VERSION: u16 = 1;
/// Octets of the header.
pub(super) const HEADER: usize = 128;
/// Octets of an entry.
pub(super) const ENTRY: usize = 48;
/// Octets of a page: what a disk and a page cache read at least.
pub(super) const PAGE: usize = 4096;
/// Entries of a full page.
pub(super) const ENTRIES: usize = 85;
/// Octets of a block of the filter: a line of the processor's cache, so that a lookup waits for
/// memory once.
pub(super) const BLOCK: usize = 64;
/// Octets of the key of a page in the directory.
pub(super) const FIRST: usize = 8;

/// Entries for each block of the filter: ten bits for each. Six bits are set of them, and one
/// absent key in eighty or so is taken for one that may be there.
const ENTRIES_PER_BLOCK: u64 = 48;
/// Bits of a block that are not its checksum.
const BLOCK_BITS: u32 = 480;
/// Bits of a key.
const KEY_BITS: usize = 6;

/// Where the checksum of the header is, in this version and all others.
const HEADER_CHECKSUM: usize = HEADER - 4;
/// Where the checksum of a page is. What is between the entries and it is zeros.
pub(super) const PAGE_CHECKSUM: usize = PAGE - 4;
const BLOCK_CHECKSUM: usize = BLOCK - 4;

const _: () = assert!(ENTRIES * ENTRY <= PAGE_CHECKSUM);

/// What a run says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) store: StoreId,
    /// The first pack that it covers.
    pub(super) first: u32,
    /// The last one.
    pub(super) last: u32,
    pub(super) entries: u64,
    /// Blocks of the filter; at least one.
    pub(super) blocks: u64,
    /// CRC-32C of the directory of pages.
    pub(super) directory_checksum: u32,
}

/// Why octets are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderError {
    Unsound,
    Version(u16),
    /// The bits that are not known.
    Features(u32),
}

/// Where the parts of a run are, in octets from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) pages: u64,
    pub(super) pages_at: u64,
    pub(super) directory_at: u64,
    pub(super) len: u64,
}

impl Header {
    pub(super) fn emit(&self) -> [u8; HEADER] {
        let mut octets = [0; HEADER];
        octets[..8].copy_from_slice(&MAGIC);
        octets[8..10].copy_from_slice(&VERSION.to_le_bytes());
        octets[16..32].copy_from_slice(&self.store.0);
        octets[32..36].copy_from_slice(&self.first.to_le_bytes());
        octets[36..40].copy_from_slice(&self.last.to_le_bytes());
        octets[40..48].copy_from_slice(&self.blocks.to_le_bytes());
        octets[48..56].copy_from_slice(&self.entries.to_le_bytes());
        octets[56..60].copy_from_slice(&self.directory_checksum.to_le_bytes());
        seal(&mut octets);
        octets
    }

    /// # Errors
    /// When it is not sound, or not of a kind that this program knows. The checksum is the first that
    /// is looked at, so that damage is never taken for another version.
    pub(super) fn parse(octets: &[u8; HEADER]) -> Result<Self, HeaderError> {
        let mut sealed = *octets;
        seal(&mut sealed);
        if sealed != *octets || octets[..8] != MAGIC {
            return Err(HeaderError::Unsound);
        }
        let version = u16::from_le_bytes(array(octets, 8));
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        match u32::from_le_bytes(array(octets, 12)) {
            0 => {}
            features => return Err(HeaderError::Features(features)),
        }
        let header = Self {
            store: StoreId(array(octets, 16)),
            first: u32::from_le_bytes(array(octets, 32)),
            last: u32::from_le_bytes(array(octets, 36)),
            blocks: u64::from_le_bytes(array(octets, 40)),
            entries: u64::from_le_bytes(array(octets, 48)),
            directory_checksum: u32::from_le_bytes(array(octets, 56)),
        };
        let is_possible =
            header.first <= header.last && header.blocks > 0 && header.layout().is_some();
        // What is reserved is zero.
        if is_possible && header.emit() == *octets { Ok(header) } else { Err(HeaderError::Unsound) }
    }

    /// Where the parts are; `None` when no file could be that long.
    pub(super) fn layout(&self) -> Option<Layout> {
        let filter = self.blocks.checked_mul(BLOCK as u64)?;
        let pages_at = filter.checked_add(HEADER as u64)?.checked_next_multiple_of(PAGE as u64)?;
        let pages = self.entries.div_ceil(ENTRIES as u64);
        let directory_at = pages.checked_mul(PAGE as u64)?.checked_add(pages_at)?;
        let len = pages.checked_mul(FIRST as u64)?.checked_add(directory_at)?;
        i64::try_from(len).is_ok().then_some(Layout { pages, pages_at, directory_at, len })
    }

    /// What the checksums of pages and filter start from, so that those of another run never fit.
    pub(super) fn salt(&self) -> u32 {
        crc32c::crc32c(&self.emit()[16..48])
    }
}

/// Puts the checksum into a header.
pub(super) fn seal(octets: &mut [u8; HEADER]) {
    let checksum = crc32c::crc32c(&octets[..HEADER_CHECKSUM]);
    octets[HEADER_CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
}

/// The `N` octets from `at` on, which have to be there.
fn array<const N: usize>(octets: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&octets[at..at + N]);
    array
}

/// How many blocks the filter of a run has that gets at most `entries`.
pub(super) fn filter_blocks(entries: u64) -> u64 {
    entries.div_ceil(ENTRIES_PER_BLOCK).max(1)
}

/// The part of a key that decides on its place: the higher, the further back.
#[inline]
pub(super) fn leading(id: ContentId) -> u64 {
    u64::from_be_bytes(array(&id.0, 0))
}

/// The block of the filter that a key belongs to. Keys in their order have blocks in their order: a
/// filter is written from its start to its end, and never as a whole in memory.
#[inline]
pub(super) fn block_of(leading: u64, blocks: u64) -> u64 {
    scaled(leading, blocks)
}

/// Where `leading` is on a scale of `end` places.
#[inline]
pub(super) fn scaled(leading: u64, end: u64) -> u64 {
    ((u128::from(leading) * u128::from(end)) >> 64) as u64
}

/// The bits of a key in its block: octet and mask.
#[inline]
fn bits(id: ContentId) -> [(usize, u8); KEY_BITS] {
    std::array::from_fn(|number| {
        let drawn = u16::from_le_bytes(array(&id.0, FIRST + 2 * number));
        let bit = (u32::from(drawn) * BLOCK_BITS) >> 16;
        ((bit >> 3) as usize, 1 << (bit & 7))
    })
}

/// CRC-32C of a number and of octets, on from the salt of a run.
#[inline]
fn checksum(salt: u32, number: u64, octets: &[u8]) -> [u8; 4] {
    let start = crc32c::crc32c_append(salt, &number.to_le_bytes());
    crc32c::crc32c_append(start, octets).to_le_bytes()
}

/// One block of the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block(pub(super) [u8; BLOCK]);

impl Block {
    pub(super) const EMPTY: Self = Self([0; BLOCK]);

    pub(super) fn insert(&mut self, id: ContentId) {
        for (octet, mask) in bits(id) {
            self.0[octet] |= mask;
        }
    }

    /// Whether `id` may be there.
    #[inline]
    pub(super) fn may_have(&self, id: ContentId) -> bool {
        bits(id).into_iter().all(|(octet, mask)| self.0[octet] & mask != 0)
    }

    pub(super) fn seal(&mut self, salt: u32, number: u64) {
        let checksum = checksum(salt, number, &self.0[..BLOCK_CHECKSUM]);
        self.0[BLOCK_CHECKSUM..].copy_from_slice(&checksum);
    }

    #[inline]
    pub(super) fn is_sound(&self, salt: u32, number: u64) -> bool {
        self.0[BLOCK_CHECKSUM..] == checksum(salt, number, &self.0[..BLOCK_CHECKSUM])
    }
}

/// Puts the checksum into a page.
pub(super) fn seal_page(page: &mut [u8; PAGE], salt: u32, number: u64) {
    let checksum = checksum(salt, number, &page[..PAGE_CHECKSUM]);
    page[PAGE_CHECKSUM..].copy_from_slice(&checksum);
}

/// Whether a page is as it was written.
#[inline]
pub(super) fn is_page_sound(page: &[u8; PAGE], salt: u32, number: u64) -> bool {
    page[PAGE_CHECKSUM..] == checksum(salt, number, &page[..PAGE_CHECKSUM])
}

/// A key and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: ContentId,
    pub(super) location: Location,
}

impl Entry {
    pub(super) fn emit(&self) -> [u8; ENTRY] {
        let Location { pack, place: FramePlace { offset, len } } = self.location;
        let mut octets = [0; ENTRY];
        octets[..32].copy_from_slice(&self.id.0);
        octets[32..36].copy_from_slice(&pack.to_le_bytes());
        octets[36..40].copy_from_slice(&offset.to_le_bytes());
        octets[40..44].copy_from_slice(&len.to_le_bytes());
        octets
    }

    /// `None` when what is reserved is not zero.
    #[inline]
    pub(super) fn parse(octets: &[u8; ENTRY]) -> Option<Self> {
        let number = |at| u32::from_le_bytes(array(octets, at));
        let place = FramePlace { offset: number(36), len: number(40) };
        let location = Location { pack: number(32), place };
        (number(44) == 0).then_some(Self { id: ContentId(array(octets, 0)), location })
    }
}

#[cfg(test)]
pub(super) use tests::OCTETS;

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a run that covers the packs 1 and 2, laid out by hand from `docs/formats.md`.
    pub(in super::super) const OCTETS: [u8; HEADER] = {
        let mut octets = [0; HEADER];
        octets.split_at_mut(60).0.copy_from_slice(&[
            0x41, 0x6f, 0x45, 0x69, 0x6e, 0x64, 0x65, 0x78, // AoEindex
            0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
            0x00, // version 1, reserved, no features
            0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, // the store
            0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, //
            0x01, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, // packs 1 to 2
            0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // one block of filter
            0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // two entries
            0x9d, 0xe4, 0x72, 0x6b, // checksum of the directory
        ]);
        octets.split_at_mut(124).1.copy_from_slice(&[0x68, 0x93, 0x8f, 0x27]); // checksum
        octets
    };

    const STORE: StoreId = StoreId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    const DECLARED: Header = Header {
        store: STORE,
        first: 1,
        last: 2,
        entries: 2,
        blocks: 1,
        directory_checksum: 0x6b72_e49d,
    };

    #[test]
    fn a_header_is_these_octets() {
        assert_eq!(DECLARED.emit(), OCTETS);
        assert_eq!(Header::parse(&OCTETS), Ok(DECLARED));
        let layout = Layout { pages: 1, pages_at: 4096, directory_at: 8192, len: 8200 };
        assert_eq!(DECLARED.layout(), Some(layout));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        for bit in 0..HEADER * 8 {
            let mut octets = OCTETS;
            octets[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::parse(&octets), Err(HeaderError::Unsound), "bit {bit}");
        }
    }

    #[test]
    fn sound_headers_of_another_kind_are_refused_by_number() {
        let parse = |at: usize, octet: u8| {
            let mut octets = OCTETS;
            octets[at] = octet;
            seal(&mut octets);
            Header::parse(&octets)
        };
        assert_eq!(parse(8, 1), Ok(DECLARED));
        assert_eq!(parse(8, 2), Err(HeaderError::Version(2)));
        assert_eq!(parse(9, 2), Err(HeaderError::Version(0x201)));
        assert_eq!(parse(12, 1), Err(HeaderError::Features(1)));
        assert_eq!(parse(15, 0x80), Err(HeaderError::Features(0x8000_0000)));
        // Magic; reserved; packs from the last to the first; no filter; no file is that long.
        for (at, octet) in
            [(0, b'a'), (10, 1), (60, 1), (123, 1), (32, 3), (40, 0), (47, 2), (55, 0xff)]
        {
            assert_eq!(parse(at, octet), Err(HeaderError::Unsound), "octet {at}");
        }
    }

    #[test]
    fn what_is_in_the_filter_is_let_through_and_little_else() {
        let keys = |range: std::ops::Range<u64>| {
            range.map(|number| ContentId(*blake3::hash(&number.to_le_bytes()).as_bytes()))
        };
        let blocks = filter_blocks(10_000);
        let mut filter = vec![Block::EMPTY; usize::try_from(blocks).unwrap()];
        let block = |id| usize::try_from(block_of(leading(id), blocks)).unwrap();
        keys(0..10_000).for_each(|id| filter[block(id)].insert(id));
        assert!(keys(0..10_000).all(|id| filter[block(id)].may_have(id)));
        let passed = keys(10_000..110_000).filter(|id| filter[block(*id)].may_have(*id)).count();
        assert!((500..1800).contains(&passed), "{passed} of 100 000 absent keys pass");
    }

    #[test]
    fn checksums_are_of_one_run_and_one_place() {
        let mut block = Block([0x5a; BLOCK]);
        block.seal(1, 2);
        assert!(block.is_sound(1, 2) && !block.is_sound(1, 3) && !block.is_sound(2, 2));
        let mut page = [0x5a; PAGE];
        seal_page(&mut page, 1, 2);
        assert!(is_page_sound(&page, 1, 2));
        assert!(!is_page_sound(&page, 1, 3) && !is_page_sound(&page, 2, 2));
    }
}
