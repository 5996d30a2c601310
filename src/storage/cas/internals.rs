//! Doors to the formats for fuzzers and benches. Not an interface: anything here may change at any time.

use std::io;

use super::compress::{Codec, compress, decompress};
use super::entry::{ArchiveEntry, HEADER};
use super::frame::{FRAME_HEADER, FrameError, FrameHeader, open_frame};
use super::id::{ContentId, FrameKind, StoreId};
use super::manifest::{Manifest, emit_pack_list, parse_pack_list};
use super::octets::seal;
use super::pack::{
    DirectoryEntry, Footer, PACK_HEADER, PackBuilder, PackKind, directory_hash, parse_directory,
    parse_header, scan_frames,
};
use super::root::{RootSlot, SLOT, read_roots};
use crate::storage::journal::Medium;

/// What is stored for a block is left in `out`. Whether it is compressed.
pub fn compress_block(raw: &[u8], out: &mut Vec<u8>) -> bool {
    compress(raw, out) == Codec::Lz4
}

/// The block that was stored as `stored`.
pub fn decompress_block(is_compressed: bool, stored: &[u8], raw_len: usize) -> Option<Vec<u8>> {
    let mut raw = Vec::new();
    let codec = if is_compressed { Codec::Lz4 } else { Codec::Raw };
    decompress(codec, stored, raw_len, &mut raw).map(|()| raw)
}

/// Builds packs of blocks.
#[derive(Debug)]
pub struct DataPacks(PackBuilder);

impl DataPacks {
    /// Packs of no more than `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self(PackBuilder::new(StoreId([0x5a; 16]), PackKind::Data, bytes))
    }

    /// Whether a payload of `len` octets keeps the pack within `bytes`.
    pub fn has_room(&self, len: usize, bytes: usize) -> bool {
        self.0.len_with(len) <= bytes
    }

    /// Adds a block that is stored as it is.
    pub fn push(&mut self, id: [u8; 32], block: &[u8]) {
        let raw_len = super::octets::word(block.len());
        self.0.push(FrameKind::Block, ContentId(id), Codec::Raw, raw_len, block);
    }

    /// The pack; the next one is built in `reuse`.
    pub fn finish(&mut self, reuse: Vec<u8>) -> Vec<u8> {
        self.0.finish(reuse)
    }
}

/// `octets` with the right checksums for a frame's header and payload.
fn reseal_frame(octets: &mut [u8]) {
    if let Some((header, payload)) = octets.split_first_chunk_mut::<FRAME_HEADER>() {
        header[48..52].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        seal(header);
    }
}

/// The body of the fuzz target `archive_frame`: octets are no frame, or one that is written the same
/// again and holds nothing but what it is called.
///
/// # Panics
/// When they are not: that is the finding.
pub fn fuzz_frame(octets: &[u8]) {
    check_frame(octets);
    let mut resealed = octets.to_vec();
    reseal_frame(&mut resealed);
    if let Some(found) = check_frame(&resealed) {
        // By its right name it can be had.
        resealed[16..48].copy_from_slice(&found.0);
        reseal_frame(&mut resealed);
        assert_eq!(check_frame(&resealed), None, "a name is not that of the octets");
    }
}

/// The name that the content has, if the frame is sound but for its name.
fn check_frame(octets: &[u8]) -> Option<ContentId> {
    let header = FrameHeader::parse(octets).ok()?;
    assert_eq!(octets[..FRAME_HEADER], header.emit(), "two forms of {header:?}");
    match open_frame(octets, header.kind, header.id) {
        Ok(raw) => {
            assert_eq!(raw.len(), header.raw_len as usize, "not as long as it says");
            assert_eq!(ContentId::of(header.kind, &raw), header.id, "not what it is called");
            let mut stored = Vec::new();
            let codec = compress(&raw, &mut stored);
            assert!(stored.len() <= raw.len(), "storing it takes more than it has");
            let again = decompress_block(codec == Codec::Lz4, &stored, raw.len());
            assert_eq!(again.as_deref(), Some(&raw[..]), "not what was compressed");
            None
        }
        Err(FrameError::Content { found, .. }) => Some(found),
        Err(_) => None,
    }
}

/// `octets` with the right checksums for a pack.
fn reseal_pack(octets: &mut [u8]) {
    if let Some(header) = octets.first_chunk_mut::<PACK_HEADER>() {
        seal(header);
    }
    let len = octets.len();
    let Some(footer_at) = len.checked_sub(Footer::LEN) else { return };
    seal(&mut octets[footer_at..]);
    let Ok(footer) = Footer::parse(octets, len as u64) else { return };
    let Some(directory) = footer.directory_in(octets) else { return };
    let hash = directory_hash(directory);
    octets[footer_at + 40..footer_at + 56].copy_from_slice(&hash);
    seal(&mut octets[footer_at..]);
}

/// The body of the fuzz target `archive_pack`: octets are no pack, or one that is built the same again
/// from its frames; and a pack of any blocks comes back, whole or from its frames alone.
///
/// # Panics
/// When that is not so: that is the finding.
pub fn fuzz_pack(octets: &[u8]) {
    check_pack(octets);
    let mut resealed = octets.to_vec();
    reseal_pack(&mut resealed);
    check_pack(&resealed);
    build_pack(octets);
}

fn check_pack(octets: &[u8]) {
    let scanned: Vec<_> = scan_frames(octets).collect();
    let mut end = 0;
    for DirectoryEntry { place, .. } in &scanned {
        assert!(u64::from(place.offset) >= end, "frames overlap");
        end = place.end();
        assert!(end <= octets.len() as u64, "a frame lies beyond the end");
    }
    let Ok(footer) = Footer::parse(octets, octets.len() as u64) else { return };
    let directory = footer.directory_in(octets).expect("a whole pack has its directory");
    let Ok(entries) = parse_directory(directory, &footer) else { return };
    assert_eq!(entries.len(), footer.frames as usize, "not as many frames as were counted");
    let header = parse_header(octets);
    if scanned != entries || header.map(|header| header.store) != Ok(footer.store) {
        return;
    }
    // Nothing is damaged, so that there is one form for this.
    let mut builder = PackBuilder::new(footer.store, footer.kind, octets.len());
    for DirectoryEntry { id, kind, codec, place, raw_len } in entries {
        let frame = place.of(octets).expect("it was found there");
        let again = builder.push(kind, id, codec, raw_len, &frame[FRAME_HEADER..]);
        assert_eq!(again, place, "a frame has another place");
    }
    if header.map(|header| header.kind) == Ok(footer.kind) {
        assert!(builder.finish(Vec::new()) == octets, "two forms of a pack");
    }
}

/// Packs pieces of `octets`, each of a length that its first two octets give.
fn build_pack(mut octets: &[u8]) {
    let mut builder = PackBuilder::new(StoreId([0xa5; 16]), PackKind::Data, 0);
    let (mut stored, mut blocks) = (Vec::new(), Vec::new());
    while let Some(([low, high], rest)) = octets.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes([*low, *high])).clamp(1, rest.len().max(1));
        let Some((block, rest)) = rest.split_at_checked(len) else { break };
        octets = rest;
        let id = ContentId::of(FrameKind::Block, block);
        let codec = compress(block, &mut stored);
        let raw_len = super::octets::word(block.len());
        let len = builder.len_with(stored.len());
        let place = builder.push(FrameKind::Block, id, codec, raw_len, &stored);
        blocks.push((DirectoryEntry { id, kind: FrameKind::Block, codec, place, raw_len }, block));
        assert_eq!(len, builder.len_with(0) - DIRECTORY_AND_HEADER, "not as long as foretold");
    }
    if builder.is_empty() {
        return;
    }
    let pack = builder.finish(Vec::new());
    let entries: Vec<_> = blocks.iter().map(|(entry, _)| *entry).collect();
    let footer = Footer::parse(&pack, pack.len() as u64).expect("it was built");
    let directory = footer.directory_in(&pack).expect("it is whole");
    assert_eq!(parse_directory(directory, &footer).as_ref(), Ok(&entries));
    let cut = &pack[..footer.directory_at as usize];
    assert!(scan_frames(cut).eq(entries), "not all frames are found");
    for (DirectoryEntry { id, kind, place, .. }, block) in blocks {
        let frame = place.of(&pack).expect("it was put there");
        assert!(open_frame(frame, kind, id).as_deref() == Ok(block), "not the block");
    }
}

/// What one more frame takes besides its payload.
const DIRECTORY_AND_HEADER: usize = FRAME_HEADER + super::pack::DIRECTORY_ENTRY;

/// The body of the fuzz target `archive_manifest`: octets are no manifest and no list of packs, or the
/// one form of what they are read as.
///
/// # Panics
/// When they are not: that is the finding.
pub fn fuzz_manifest(octets: &[u8]) {
    if let Ok(manifest) = Manifest::parse(octets) {
        assert_eq!(manifest.emit(), octets, "two forms of {manifest:?}");
    }
    if let Ok(packs) = parse_pack_list(octets) {
        assert_eq!(emit_pack_list(&packs), octets, "two forms of {packs:?}");
    }
}

/// The octets of both slots, as a disk that cannot be written to.
struct Slots(Vec<u8>);

impl Medium for Slots {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..));
        let octets = from.and_then(|from| from.get(..into.len()));
        into.copy_from_slice(octets.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Octets of a slot that are not reserved.
const SLOT_USED: usize = 148;

/// The body of the fuzz target `archive_root`: what is read as the roots of a store is what is written in
/// their places. The first octet says which slots get the right checksum; then come the octets of both,
/// without the reserved ones, and some that are put in there.
///
/// # Panics
/// When that is not so: that is the finding.
pub fn fuzz_root(octets: &[u8]) {
    let Some((control, rest)) = octets.split_first() else { return };
    let mut slots = vec![0; if control & 8 == 0 { 2 * SLOT } else { SLOT }];
    let mut parts = rest.chunks(SLOT_USED);
    for (index, slot) in slots.chunks_exact_mut(SLOT).enumerate() {
        let part = parts.next().unwrap_or_default();
        slot[..part.len()].copy_from_slice(part);
        if control & (1 << index) != 0 {
            seal(&mut slot[..SLOT_USED]);
        }
    }
    if control & 4 != 0 {
        let part = parts.next().unwrap_or_default();
        slots[SLOT_USED..][..part.len()].copy_from_slice(part);
    }
    let medium = Slots(slots);
    let Ok(roots) = read_roots(&medium) else { return };
    assert!(!roots.is_empty() && roots.len() <= 2, "a store has one or two roots");
    assert!(roots.is_sorted_by(|one, next| one.commit > next.commit), "the newest is not first");
    for root in roots {
        let mut slot = [0xa5; SLOT];
        medium.read_at(RootSlot::place(root.commit), &mut slot).expect("it is there");
        assert_eq!(slot, root.emit(), "two forms of {root:?}");
    }
}

/// The body of the fuzz target `archive_entry`: octets are no entry of an archive's journal, or the one
/// form of what they are read as.
///
/// # Panics
/// When they are not: that is the finding.
pub fn fuzz_entry(octets: &[u8]) {
    if let Some(entry) = ArchiveEntry::parse(octets) {
        let mut header = [0xa5; HEADER];
        assert_eq!(entry.emit(&mut header).concat(), octets, "two forms of {entry:?}");
        let (lba, count) = entry.range();
        assert!(count.0 > 0 && lba.checked_add(count).is_some(), "it is nowhere");
    }
}
