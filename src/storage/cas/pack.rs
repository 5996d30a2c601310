//! Packs: blobs of many frames.
//!
//! A pack is a header, frames one behind the other, a directory of them and a footer. Its last octets are
//! enough to find everything in it; and if they are damaged, the frames still tell what they are. Packs of
//! blocks and packs of everything else are kept apart, so that trees can be read without the data.
//!
//! # Invariants
//! * Frames lie without gaps between the header and the directory, which has them in this order.
//! * A pack has at least one frame, and fits in a blob.
//! * A directory is believed as a whole or not at all.

use super::compress::Codec;
use super::frame::{FRAME_HEADER, FRAME_MAGIC, FrameHeader, is_frame_possible};
use super::id::{ContentId, FrameKind, StoreId};
use super::octets::{Reader, Writer, is_sealed, seal, word};
use crate::blob::BLOB_MAX;

/// Octets of a pack before its first frame.
pub(super) const PACK_HEADER: usize = 36;
/// Octets of a directory for each frame.
pub(super) const DIRECTORY_ENTRY: usize = 48;

const HEADER_MAGIC: [u8; 8] = *b"AoEpacks";
const FOOTER_MAGIC: [u8; 8] = *b"AoEpacke";
/// The version that is written, and the only one that is read.
const VERSION: u16 = 1;

/// What a pack has frames of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum PackKind {
    /// Blocks, and patches.
    Data,
    /// Everything else.
    Meta,
}

impl PackKind {
    /// What stands for it on disk.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Meta => 2,
        }
    }

    /// What `code` stands for.
    pub(super) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Data),
            2 => Some(Self::Meta),
            _ => None,
        }
    }

    /// The packs that frames of `kind` belong in.
    pub(super) const fn of(kind: FrameKind) -> Self {
        match kind {
            FrameKind::Block | FrameKind::Patch => Self::Data,
            FrameKind::Node | FrameKind::Manifest | FrameKind::PackList | FrameKind::Orphan => {
                Self::Meta
            }
        }
    }
}

/// Why octets are no pack, or not the part of one that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum PackError {
    /// It does not start as a pack does.
    #[error("it is not a pack, or its header is damaged")]
    Header,
    /// It does not end as a pack does.
    #[error("it is not a pack, or its footer is damaged")]
    Footer,
    /// A later program wrote it.
    #[error("the pack has format {found}, and this program knows format 1 only")]
    Version {
        /// The format.
        found: u16,
    },
    /// It has something that this program does not know.
    #[error("the pack has features that this program does not know: {unknown:#x}")]
    Features {
        /// A bit for each.
        unknown: u32,
    },
    /// It was cut short, or something was put in front of its end.
    #[error("the pack has {found} octets instead of {wanted}")]
    Length {
        /// Its length.
        found: u64,
        /// What its footer says.
        wanted: u64,
    },
    /// Its directory is damaged.
    #[error("the directory of the pack is damaged")]
    Directory,
    /// Its directory is what was written, and says what cannot be.
    #[error("the directory of the pack is wrong about frame {index}")]
    Entry {
        /// Which frame, from 0.
        index: u32,
    },
}

/// Where a frame is in its pack: header and payload, which is what has to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FramePlace {
    /// Where its header starts, in octets from the start of the pack.
    pub(super) offset: u32,
    /// Octets of header and payload.
    pub(super) len: u32,
}

impl FramePlace {
    /// Where it ends, in octets from the start of the pack.
    pub(super) const fn end(self) -> u64 {
        self.offset as u64 + self.len as u64
    }

    /// The octets of the frame, if `pack`, a whole pack, is that long.
    pub(super) fn of(self, pack: &[u8]) -> Option<&[u8]> {
        pack.get(self.offset as usize..)?.get(..self.len as usize)
    }

    /// Whether it can be in a pack of `pack_bytes`: behind the header, before what the directory needs
    /// at least.
    pub(super) const fn is_within(self, pack_bytes: u64) -> bool {
        self.offset as usize >= PACK_HEADER
            && self.len as usize > FRAME_HEADER
            && self.end() + ((DIRECTORY_ENTRY + Footer::LEN) as u64) <= pack_bytes
    }
}

/// What the directory of a pack tells of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirectoryEntry {
    pub(super) id: ContentId,
    pub(super) kind: FrameKind,
    pub(super) codec: Codec,
    pub(super) place: FramePlace,
    /// Octets before compression.
    pub(super) raw_len: u32,
}

impl DirectoryEntry {
    fn emit(&self) -> [u8; DIRECTORY_ENTRY] {
        let stored_len = self.place.len - word(FRAME_HEADER);
        let mut octets = [0; DIRECTORY_ENTRY];
        let mut writer = Writer::new(&mut octets);
        writer.put(&self.id.0);
        writer.put(&self.place.offset.to_le_bytes());
        writer.put(&stored_len.to_le_bytes());
        writer.put(&self.raw_len.to_le_bytes());
        writer.put(&[self.kind.code(), self.codec.code()]);
        octets
    }

    fn parse(octets: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(octets);
        let id = reader.content_id()?;
        let (offset, stored_len, raw_len) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let kind = FrameKind::from_code(reader.u8()?)?;
        let codec = Codec::from_code(reader.u8()?)?;
        reader.reserved::<2>()?;
        let place = FramePlace { offset, len: stored_len.checked_add(word(FRAME_HEADER))? };
        let sound = is_frame_possible(kind, codec, raw_len, stored_len);
        sound.then_some(Self { id, kind, codec, place, raw_len })
    }
}

/// What a pack says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackHeader {
    pub(super) store: StoreId,
    pub(super) kind: PackKind,
}

impl PackHeader {
    fn emit(&self) -> [u8; PACK_HEADER] {
        let mut octets = [0; PACK_HEADER];
        let mut writer = Writer::new(&mut octets);
        writer.put(&HEADER_MAGIC);
        writer.put(&VERSION.to_le_bytes());
        writer.put(&[self.kind.code(), 0]);
        writer.put(&[0; 4]);
        writer.put(&self.store.0);
        seal(&mut octets);
        octets
    }
}

/// What the first octets of a pack say.
pub(super) fn parse_header(octets: &[u8]) -> Result<PackHeader, PackError> {
    let octets = octets.first_chunk::<PACK_HEADER>().ok_or(PackError::Header)?;
    let (kind, mut reader) = sealed(octets, HEADER_MAGIC, PackError::Header)?;
    let store = reader.array().map(StoreId).ok_or(PackError::Header)?;
    Ok(PackHeader { store, kind })
}

/// What a pack says last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) store: StoreId,
    pub(super) kind: PackKind,
    /// Frames; at least one.
    pub(super) frames: u32,
    /// Where the directory starts, in octets from the start of the pack.
    pub(super) directory_at: u32,
    /// The first 16 octets of the directory's BLAKE3.
    pub(super) directory_hash: [u8; 16],
}

impl Footer {
    /// Octets of a footer.
    pub(super) const LEN: usize = 64;

    /// Octets of the directory.
    pub(super) const fn directory_len(&self) -> usize {
        self.frames as usize * DIRECTORY_ENTRY
    }

    /// Octets of the whole pack.
    pub(super) const fn pack_len(&self) -> u64 {
        self.directory_at as u64 + (self.directory_len() + Self::LEN) as u64
    }

    /// The directory, if all of it is in the last octets of the pack, `tail`.
    pub(super) fn directory_in<'a>(&self, tail: &'a [u8]) -> Option<&'a [u8]> {
        let end = tail.len().checked_sub(Self::LEN)?;
        tail.get(end.checked_sub(self.directory_len())?..end)
    }

    fn emit(&self) -> [u8; Self::LEN] {
        let mut octets = [0; Self::LEN];
        let mut writer = Writer::new(&mut octets);
        writer.put(&FOOTER_MAGIC);
        writer.put(&VERSION.to_le_bytes());
        writer.put(&[self.kind.code(), 0]);
        writer.put(&[0; 4]);
        writer.put(&self.store.0);
        writer.put(&self.frames.to_le_bytes());
        writer.put(&self.directory_at.to_le_bytes());
        writer.put(&self.directory_hash);
        seal(&mut octets);
        octets
    }

    /// What the last octets of a pack of `total_len` octets say. `tail` may be more than the footer.
    pub(super) fn parse(tail: &[u8], total_len: u64) -> Result<Self, PackError> {
        let octets = tail.last_chunk::<{ Self::LEN }>().ok_or(PackError::Footer)?;
        let (kind, reader) = sealed(octets, FOOTER_MAGIC, PackError::Footer)?;
        let footer = Self::parse_rest(kind, reader).ok_or(PackError::Footer)?;
        let wanted = footer.pack_len();
        if wanted == total_len {
            Ok(footer)
        } else {
            Err(PackError::Length { found: total_len, wanted })
        }
    }

    fn parse_rest(kind: PackKind, mut reader: Reader<'_>) -> Option<Self> {
        let store = reader.array().map(StoreId)?;
        let (frames, directory_at) = (reader.u32()?, reader.u32()?);
        let directory_hash = reader.array()?;
        reader.reserved::<4>()?;
        let least = PACK_HEADER as u64 + u64::from(frames) * (FRAME_HEADER as u64 + 1);
        let footer = Self { store, kind, frames, directory_at, directory_hash };
        let sound = frames > 0
            && u64::from(directory_at) >= least
            // The frames are counted, so that what follows from their number does not overflow.
            && u64::from(frames) < BLOB_MAX as u64
            && footer.pack_len() <= BLOB_MAX as u64;
        sound.then_some(footer)
    }
}

/// What follows magic, version, kind and features in a header or footer.
fn sealed(
    octets: &[u8],
    magic: [u8; 8],
    damaged: PackError,
) -> Result<(PackKind, Reader<'_>), PackError> {
    let mut reader = Reader::new(octets);
    if reader.array() != Some(magic) {
        return Err(damaged);
    }
    match reader.u16().ok_or(damaged)? {
        VERSION => {}
        // Another version may have its checksum anywhere.
        found => return Err(PackError::Version { found }),
    }
    if !is_sealed(octets) {
        return Err(damaged);
    }
    let kind = reader.u8().and_then(PackKind::from_code).ok_or(damaged)?;
    reader.reserved::<1>().ok_or(damaged)?;
    match reader.u32().ok_or(damaged)? {
        0 => Ok((kind, reader)),
        unknown => Err(PackError::Features { unknown }),
    }
}

/// The frames of a pack, in the order in which they lie in it. `octets` are its directory.
pub(super) fn parse_directory(
    octets: &[u8],
    footer: &Footer,
) -> Result<Vec<DirectoryEntry>, PackError> {
    if octets.len() != footer.directory_len() || directory_hash(octets) != footer.directory_hash {
        return Err(PackError::Directory);
    }
    // As many as there are octets for.
    let mut entries = Vec::with_capacity(octets.len() / DIRECTORY_ENTRY);
    let mut end = PACK_HEADER as u64;
    for (index, octets) in (0..).zip(octets.chunks_exact(DIRECTORY_ENTRY)) {
        let entry = DirectoryEntry::parse(octets)
            .filter(|entry| u64::from(entry.place.offset) == end)
            .filter(|entry| PackKind::of(entry.kind) == footer.kind)
            .ok_or(PackError::Entry { index })?;
        end = entry.place.end();
        entries.push(entry);
    }
    if end == u64::from(footer.directory_at) {
        Ok(entries)
    } else {
        Err(PackError::Entry { index: footer.frames - 1 })
    }
}

pub(super) fn directory_hash(directory: &[u8]) -> [u8; 16] {
    let mut hash = [0; 16];
    hash.copy_from_slice(&blake3::hash(directory).as_bytes()[..16]);
    hash
}

/// The frames that are found in `pack` by their headers, for a pack whose directory is damaged. Their
/// payloads have the right checksum; whether they are what they are called shows when they are opened.
///
/// What lies between sound frames is searched octet by octet. Octets that only look like a frame, being
/// the contents of a damaged one, are then found as well: they are what they are called, too.
pub(super) fn scan_frames(pack: &[u8]) -> impl Iterator<Item = DirectoryEntry> {
    let kind = parse_header(pack).ok().map(|header| header.kind);
    let mut at = if kind.is_some() { PACK_HEADER } else { 0 };
    std::iter::from_fn(move || {
        loop {
            at += pack.get(at..)?.windows(FRAME_MAGIC.len()).position(|at| at == FRAME_MAGIC)?;
            match frame_at(pack, at, kind) {
                Some(entry) => {
                    at += entry.place.len as usize;
                    return Some(entry);
                }
                None => at += 1,
            }
        }
    })
}

/// The frame that starts at `at`, if it is sound and can be in a pack of `kind`.
fn frame_at(pack: &[u8], at: usize, kind: Option<PackKind>) -> Option<DirectoryEntry> {
    let rest = &pack[at..];
    let header = FrameHeader::parse(rest).ok()?;
    let FrameHeader { kind: frame_kind, codec, raw_len, id, checksum, .. } = header;
    if kind.is_some_and(|kind| kind != PackKind::of(frame_kind)) {
        return None;
    }
    let payload = rest.get(FRAME_HEADER..header.frame_len())?;
    let [offset, len] = [at, header.frame_len()].map(word);
    let entry =
        DirectoryEntry { id, kind: frame_kind, codec, place: FramePlace { offset, len }, raw_len };
    (crc32c::crc32c(payload) == checksum).then_some(entry)
}

/// A pack in the making.
#[derive(Debug)]
pub(super) struct PackBuilder {
    header: PackHeader,
    /// Header and frames.
    pack: Vec<u8>,
    directory: Vec<u8>,
    /// Room that is made for a pack before it is filled, in octets.
    capacity: usize,
}

impl PackBuilder {
    /// An empty one that has room for a pack of `capacity` octets before it needs more memory.
    pub(super) fn new(store: StoreId, kind: PackKind, capacity: usize) -> Self {
        let header = PackHeader { store, kind };
        let mut builder = Self { header, pack: Vec::new(), directory: Vec::new(), capacity };
        builder.start(Vec::new());
        builder
    }

    /// Starts a pack in the memory of `pack`, and returns what was in the making.
    fn start(&mut self, mut pack: Vec<u8>) -> Vec<u8> {
        pack.clear();
        pack.reserve(self.capacity);
        pack.extend_from_slice(&self.header.emit());
        self.directory.clear();
        std::mem::replace(&mut self.pack, pack)
    }

    /// How many frames there are.
    pub(super) fn frames(&self) -> usize {
        self.directory.len() / DIRECTORY_ENTRY
    }

    /// Whether there is no frame yet: then there is no pack to be finished.
    pub(super) fn is_empty(&self) -> bool {
        self.directory.is_empty()
    }

    /// Octets of the finished pack if it gets one more frame, with a payload of `stored_len` octets.
    pub(super) fn len_with(&self, stored_len: usize) -> usize {
        let frame = FRAME_HEADER + stored_len;
        self.pack.len() + frame + self.directory.len() + DIRECTORY_ENTRY + Footer::LEN
    }

    /// Adds a frame of `kind` and the name `id`, whose `payload` stands for `raw_len` octets.
    ///
    /// # Panics
    /// When the frame cannot be in this pack: it belongs in one of the other kind, is longer than a
    /// frame may be, or with it the pack ([`Self::len_with`]) would be longer than a blob.
    pub(super) fn push(
        &mut self,
        kind: FrameKind,
        id: ContentId,
        codec: Codec,
        raw_len: u32,
        payload: &[u8],
    ) -> FramePlace {
        let header = FrameHeader::of(kind, id, codec, raw_len, payload);
        assert_eq!(PackKind::of(kind), self.header.kind, "a {kind:?} is in the wrong pack");
        assert!(
            is_frame_possible(kind, codec, raw_len, header.stored_len),
            "{} octets cannot stand for a {kind:?} of {raw_len}",
            payload.len()
        );
        assert!(self.len_with(payload.len()) <= BLOB_MAX, "a pack is longer than a blob");
        let [offset, len] = [self.pack.len(), header.frame_len()].map(word);
        let place = FramePlace { offset, len };
        self.pack.extend_from_slice(&header.emit());
        self.pack.extend_from_slice(payload);
        let entry = DirectoryEntry { id, kind, codec, place, raw_len };
        self.directory.extend_from_slice(&entry.emit());
        place
    }

    /// The whole pack. The next one is built in the memory of `reuse`, whose content is dropped.
    ///
    /// # Panics
    /// When it is empty: a pack has at least one frame.
    pub(super) fn finish(&mut self, reuse: Vec<u8>) -> Vec<u8> {
        assert!(!self.is_empty(), "a pack is finished without a frame");
        let PackHeader { store, kind } = self.header;
        let [frames, directory_at] = [self.frames(), self.pack.len()].map(word);
        let directory_hash = directory_hash(&self.directory);
        let footer = Footer { store, kind, frames, directory_at, directory_hash };
        self.pack.extend_from_slice(&self.directory);
        self.pack.extend_from_slice(&footer.emit());
        self.start(reuse)
    }
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::super::compress::compress;
    use super::super::frame::open_frame;
    use super::*;

    const STORE: StoreId = StoreId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

    /// A pack of the block `abc` and of one that is 64 times an `a`.
    const PACK: [u8; 322] = hex!(
        "41 6f 45 70 61 63 6b 73"              // AoEpacks
        "01 00 01 00"                          // version 1, of blocks, reserved
        "00 00 00 00"                          // no features
        "00 01 02 03 04 05 06 07"              // the store
        "08 09 0a 0b 0c 0d 0e 0f"
        "d0 0a bb ff"                          // checksum
        //
        "41 6f 45 66 01 01 00 00"              // at 36: AoEf, a block, as it is
        "03 00 00 00 03 00 00 00"              // 3 octets, in 3
        "64 37 b3 ac 38 46 51 33 ff b6 3b 75 27 3a 8d b5"
        "48 c5 58 46 5d 79 db 03 fd 35 9c 6c d5 bd 9d 85"
        "b7 3f 4b 36 8b 7e 12 4c"              // checksums
        "61 62 63"                             // abc
        //
        "41 6f 45 66 01 01 01 00"              // at 95: AoEf, a block, LZ4
        "40 00 00 00 0b 00 00 00"              // 64 octets, in 11
        "47 2c 51 29 0d 60 7f 10 0d 20 36 fd ce dd 75 90"
        "bb a2 45 e9 ad eb 21 36 4a 06 3b 7b b4 ca 81 c7"
        "7c bd 95 75 18 5c d0 5b"              // checksums
        "1f 61 01 00 27 50 61 61 61 61 61"
        //
        "64 37 b3 ac 38 46 51 33 ff b6 3b 75 27 3a 8d b5"
        "48 c5 58 46 5d 79 db 03 fd 35 9c 6c d5 bd 9d 85"
        "24 00 00 00 03 00 00 00 03 00 00 00"  // at 36, 3 octets, for 3
        "01 00 00 00"                          // a block, as it is, reserved
        "47 2c 51 29 0d 60 7f 10 0d 20 36 fd ce dd 75 90"
        "bb a2 45 e9 ad eb 21 36 4a 06 3b 7b b4 ca 81 c7"
        "5f 00 00 00 0b 00 00 00 40 00 00 00"  // at 95, 11 octets, for 64
        "01 01 00 00"                          // a block, LZ4, reserved
        //
        "41 6f 45 70 61 63 6b 65"              // AoEpacke
        "01 00 01 00"                          // version 1, of blocks, reserved
        "00 00 00 00"                          // no features
        "00 01 02 03 04 05 06 07"              // the store
        "08 09 0a 0b 0c 0d 0e 0f"
        "02 00 00 00"                          // two frames
        "a2 00 00 00"                          // the directory is at 162
        "43 fa 98 f9 fa b0 ff 80"              // BLAKE3 of the directory, half of it
        "4c dd e2 1f 37 b8 68 b6"
        "00 00 00 00"                          // reserved
        "62 fa cd 45"                          // checksum
    );

    /// 64 times an `a`, as another LZ4 compresses it.
    const A: [u8; 11] = hex!("1f 61 01 00 27 50 61 61 61 61 61");

    fn entries(pack: &[u8]) -> Result<Vec<DirectoryEntry>, PackError> {
        let footer = Footer::parse(pack, pack.len() as u64)?;
        parse_directory(footer.directory_in(pack).unwrap(), &footer)
    }

    fn push(builder: &mut PackBuilder, kind: FrameKind, raw: &[u8]) -> DirectoryEntry {
        let mut stored = Vec::new();
        let codec = compress(raw, &mut stored);
        let id = ContentId::of(kind, raw);
        let raw_len = word(raw.len());
        let place = builder.push(kind, id, codec, raw_len, &stored);
        DirectoryEntry { id, kind, codec, place, raw_len }
    }

    #[test]
    fn a_known_pack() {
        let mut builder = PackBuilder::new(STORE, PackKind::Data, 1000);
        assert!(builder.is_empty());
        let abc = push(&mut builder, FrameKind::Block, b"abc");
        assert_eq!(builder.len_with(A.len()), PACK.len());
        let (kind, codec, raw_len) = (FrameKind::Block, Codec::Lz4, 64);
        let id = ContentId::of(kind, &[b'a'; 64]);
        let place = builder.push(kind, id, codec, raw_len, &A);
        let a = DirectoryEntry { id, kind, codec, place, raw_len };
        assert_eq!(abc.place, FramePlace { offset: 36, len: 59 });
        assert_eq!(a.place, FramePlace { offset: 95, len: 67 });
        assert_eq!(builder.frames(), 2);
        assert_eq!(builder.finish(vec![0xa5; 7]), PACK);

        assert_eq!(parse_header(&PACK), Ok(PackHeader { store: STORE, kind: PackKind::Data }));
        assert_eq!(entries(&PACK), Ok(vec![abc, a]));
        assert!(scan_frames(&PACK).eq([abc, a]));
        let raw = open_frame(a.place.of(&PACK).unwrap(), FrameKind::Block, a.id);
        assert_eq!(raw, Ok(vec![b'a'; 64]));

        // The next one has nothing of it.
        assert!(builder.is_empty());
        let abc = push(&mut builder, FrameKind::Block, b"abc");
        assert_eq!(entries(&builder.finish(Vec::new())), Ok(vec![abc]));
    }

    #[test]
    fn the_tail_is_enough() {
        let footer = Footer::parse(&PACK[PACK.len() - Footer::LEN..], 322).unwrap();
        assert_eq!((footer.frames, footer.directory_at), (2, 162));
        assert_eq!((footer.store, footer.kind), (STORE, PackKind::Data));
        for from in 0..=PACK.len() {
            let tail = &PACK[from..];
            assert_eq!(Footer::parse(tail, 322).is_ok(), tail.len() >= Footer::LEN);
            let directory = footer.directory_in(tail);
            assert_eq!(directory.is_some(), from <= 162, "from octet {from} on");
            assert!(directory.is_none_or(|directory| directory == &PACK[162..258]));
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        for bit in 0..PACK.len() * 8 {
            let mut pack = PACK;
            pack[bit / 8] ^= 1 << (bit % 8);
            let opened = |entry: &DirectoryEntry| {
                let frame = entry.place.of(&pack).unwrap();
                open_frame(frame, entry.kind, entry.id).is_ok()
            };
            match bit / 8 {
                0..36 => assert!(parse_header(&pack).is_err(), "bit {bit}"),
                36..162 => {
                    // One frame is lost, and the other one is not.
                    let all = entries(&pack).unwrap();
                    assert_eq!(all.iter().filter(|entry| opened(entry)).count(), 1, "bit {bit}");
                    assert_eq!(scan_frames(&pack).count(), 1, "bit {bit}");
                }
                _ => {
                    assert!(entries(&pack).is_err(), "bit {bit}");
                    assert_eq!(scan_frames(&pack).filter(opened).count(), 2, "bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_pack_of_another_length_is_none() {
        for len in 0..PACK.len() {
            assert!(entries(&PACK[..len]).is_err(), "cut to {len} octets");
            assert!(parse_header(&PACK[..len.min(PACK_HEADER - 1)]).is_err());
            scan_frames(&PACK[..len]).for_each(drop);
        }
        let longer = Footer::parse(&PACK, 323);
        assert_eq!(longer, Err(PackError::Length { found: 323, wanted: 322 }));
    }

    #[test]
    fn versions_and_features_are_refused_by_their_numbers() {
        let (mut header, mut footer) = (PACK, PACK);
        header[8] = 2;
        footer[258 + 8] = 3;
        assert_eq!(parse_header(&header), Err(PackError::Version { found: 2 }));
        assert_eq!(Footer::parse(&footer, 322), Err(PackError::Version { found: 3 }));
        let (mut header, mut footer) = (PACK, PACK);
        header[12] = 4;
        seal(&mut header[..PACK_HEADER]);
        footer[258 + 13] = 1;
        seal(&mut footer[258..]);
        assert_eq!(parse_header(&header), Err(PackError::Features { unknown: 4 }));
        assert_eq!(Footer::parse(&footer, 322), Err(PackError::Features { unknown: 0x100 }));
    }

    /// [`PACK`] with `octets` at `at`, and all checksums right.
    fn changed(at: usize, octets: &[u8]) -> Vec<u8> {
        let mut pack = PACK.to_vec();
        pack[at..at + octets.len()].copy_from_slice(octets);
        let hash = directory_hash(&pack[162..258]);
        pack[298..314].copy_from_slice(&hash);
        seal(&mut pack[258..]);
        pack
    }

    #[test]
    fn a_directory_that_says_what_cannot_be_is_refused() {
        assert_eq!(changed(0, &[]), PACK);
        let [first, second] = [162, 210];
        for (at, octets, index) in [
            (first + 32, [0x23, 0, 0, 0], 0),  // in the header
            (first + 32, [0x25, 0, 0, 0], 0),  // a gap before it
            (second + 32, [0x24, 0, 0, 0], 1), // in the first one
            (second + 32, [0x60, 0, 0, 0], 1), // a gap before it
            (second + 36, [0xff; 4], 1),       // absurdly long
            (second + 36, [0x0c, 0, 0, 0], 1), // into the directory
            (second + 36, [0x0a, 0, 0, 0], 1), // a gap behind it
            (second + 40, [0, 0, 0, 0], 1),    // of nothing
            (second + 40, [0x0b, 0, 0, 0], 1), // LZ4 gained nothing
            (second + 40, [0, 0, 1, 0], 1),    // longer than a block, and than LZ4 can make
            (second + 44, [2, 1, 0, 0], 1),    // a node among blocks
            (second + 44, [0, 1, 0, 0], 1),    // of no kind
            (second + 44, [1, 2, 0, 0], 1),    // of no codec
            (second + 44, [1, 1, 1, 0], 1),    // with something in reserve
        ] {
            let error = Err(PackError::Entry { index });
            assert_eq!(entries(&changed(at, &octets)), error, "{octets:x?} at {at}");
        }
    }

    #[test]
    fn a_footer_that_says_what_cannot_be_is_refused() {
        let pack = |at: usize, octets: [u8; 4]| {
            let pack = changed(258 + at, &octets);
            Footer::parse(&pack, pack.len() as u64)
        };
        let length = |wanted| Err(PackError::Length { found: 322, wanted });
        assert_eq!(pack(8, [1, 0, 3, 0]), Err(PackError::Footer)); // of no kind
        assert_eq!(pack(8, [1, 0, 1, 1]), Err(PackError::Footer)); // something in reserve
        assert_eq!(pack(56, [0, 0, 0, 1]), Err(PackError::Footer));
        assert_eq!(pack(32, [0, 0, 0, 0]), Err(PackError::Footer)); // no frames
        assert_eq!(pack(32, [3, 0, 0, 0]), Err(PackError::Footer)); // no room for three
        assert_eq!(pack(32, [0xff; 4]), Err(PackError::Footer));
        assert_eq!(pack(36, [0xff; 4]), Err(PackError::Footer));
        assert_eq!(pack(32, [1, 0, 0, 0]), length(274));
        assert_eq!(pack(36, [0xa3, 0, 0, 0]), length(323));
    }

    #[test]
    fn a_scan_finds_what_lies_behind_damage() {
        let mut builder = PackBuilder::new(STORE, PackKind::Meta, 0);
        let nodes: Vec<_> =
            (0..20).map(|n| push(&mut builder, FrameKind::Node, &[n; 50])).collect();
        let pack = builder.finish(Vec::new());
        for (index, lost) in nodes.iter().enumerate() {
            let mut damaged = pack.clone();
            let start = lost.place.offset as usize;
            damaged[start..start + lost.place.len as usize].fill(0xa5);
            let rest = nodes.iter().filter(|node| *node != lost).copied();
            assert!(scan_frames(&damaged).eq(rest), "without frame {index}");
        }
        // Nor is the header needed.
        let mut headless = pack.clone();
        headless[..PACK_HEADER].fill(0);
        assert!(scan_frames(&headless).eq(nodes.iter().copied()));
        assert_eq!(scan_frames(&[]).count(), 0);
    }

    #[test]
    fn a_scan_takes_no_frame_for_one_of_another_kind_of_pack() {
        // A block that looks like nodes, stored as it is, and damaged in its first octet.
        let mut builder = PackBuilder::new(STORE, PackKind::Meta, 0);
        push(&mut builder, FrameKind::Node, b"node");
        let block = builder.finish(Vec::new());
        let mut builder = PackBuilder::new(STORE, PackKind::Data, 0);
        let id = ContentId::of(FrameKind::Block, &block);
        let place = builder.push(FrameKind::Block, id, Codec::Raw, word(block.len()), &block);
        let abc = push(&mut builder, FrameKind::Block, b"abc");
        let mut pack = builder.finish(Vec::new());
        pack[place.offset as usize + FRAME_HEADER] ^= 1;
        assert!(scan_frames(&pack).eq([abc]));
    }

    #[test]
    #[should_panic(expected = "wrong pack")]
    fn blocks_and_nodes_do_not_mix() {
        let mut builder = PackBuilder::new(STORE, PackKind::Data, 0);
        push(&mut builder, FrameKind::Node, b"node");
    }

    #[test]
    #[should_panic(expected = "without a frame")]
    fn an_empty_pack_is_none() {
        PackBuilder::new(STORE, PackKind::Data, 0).finish(Vec::new());
    }

    #[test]
    #[should_panic(expected = "longer than a blob")]
    fn a_pack_is_no_longer_than_a_blob() {
        let mut builder = PackBuilder::new(STORE, PackKind::Data, 0);
        let block = vec![0xa5; 65536];
        while builder.frames() < 1024 {
            builder.push(FrameKind::Block, ContentId([0; 32]), Codec::Raw, 65536, &block);
        }
    }

    #[test]
    fn memory_is_used_again() {
        let mut builder = PackBuilder::new(STORE, PackKind::Data, 4096);
        push(&mut builder, FrameKind::Block, b"abc");
        let first = builder.finish(Vec::new());
        let address = first.as_ptr();
        push(&mut builder, FrameKind::Block, b"abc");
        builder.finish(first);
        push(&mut builder, FrameKind::Block, b"abc");
        let third = builder.finish(Vec::new());
        assert_eq!(third.as_ptr(), address);
    }

    proptest! {
        #[test]
        fn what_is_packed_is_found(
            raws in prop::collection::vec(prop::collection::vec(0_u8..8, 1..300), 1..20),
            kind in 2_u8..=4,
        ) {
            let kind = FrameKind::from_code(kind).unwrap();
            let mut builder = PackBuilder::new(STORE, PackKind::Meta, 0);
            let pushed: Vec<_> = raws.iter().map(|raw| push(&mut builder, kind, raw)).collect();
            let pack = builder.finish(Vec::new());
            prop_assert_eq!(entries(&pack), Ok(pushed.clone()));
            prop_assert!(scan_frames(&pack).eq(pushed.iter().copied()));
            for (entry, raw) in pushed.iter().zip(raws) {
                let frame = entry.place.of(&pack).unwrap();
                prop_assert_eq!(open_frame(frame, kind, entry.id), Ok(raw));
            }
        }

        #[test]
        fn no_directory_panics(at in 162_usize..314, octets in any::<[u8; 4]>()) {
            let pack = changed(at, &octets);
            if let Ok(entries) = entries(&pack) {
                let octets: Vec<_> = entries.iter().flat_map(DirectoryEntry::emit).collect();
                prop_assert_eq!(&octets[..], &pack[162..258]);
            }
        }
    }
}
