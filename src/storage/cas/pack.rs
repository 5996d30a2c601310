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
    /// Blocks.
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
            FrameKind::Block => Self::Data,
            FrameKind::Node | FrameKind::Manifest | FrameKind::PackList => Self::Meta,
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
        reader.reserved::<8>()?;
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
