//! Frames: what a pack holds, one behind the other. A frame is a header and octets that may be
//! compressed, and says itself what it is.
//!
//! # Invariants
//! * A header that was damaged is none, and a payload that was damaged is found before it is looked at.
//! * Octets of a frame are handed out only if they hash to the name that was asked for.

use super::compress::{Codec, decompress};
use super::id::{ContentId, FrameKind};
use super::octets::{Reader, Writer, is_sealed, seal, word};
use crate::blob::BLOB_MAX;

/// Octets of a frame before its payload.
pub(super) const FRAME_HEADER: usize = 56;
/// What a frame starts with.
pub(super) const FRAME_MAGIC: [u8; 4] = *b"AoEf";
/// The version that is written, and the only one that is read.
const VERSION: u8 = 1;
/// The most octets of a block or a node, before compression: the largest block that a store can have.
pub(super) const BLOCK_MAX: usize = 64 << 10;

impl FrameKind {
    /// What stands for it on disk.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Block => 1,
            Self::Node => 2,
            Self::Manifest => 3,
            Self::PackList => 4,
        }
    }

    /// What `code` stands for.
    pub(super) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Block),
            2 => Some(Self::Node),
            3 => Some(Self::Manifest),
            4 => Some(Self::PackList),
            _ => None,
        }
    }

    /// The most octets that a frame of this kind stands for.
    const fn raw_max(self) -> usize {
        match self {
            Self::Block | Self::Node => BLOCK_MAX,
            Self::Manifest | Self::PackList => BLOB_MAX,
        }
    }
}

/// Why a frame is not what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum FrameError {
    /// There is none, or its header is damaged.
    #[error("there is no frame, or its header is damaged")]
    Header,
    /// A later program wrote it.
    #[error("the frame has format {found}, and this program knows format 1 only")]
    Version {
        /// The format.
        found: u8,
    },
    /// It is longer or shorter than the octets that were to hold it.
    #[error("the frame has {found} octets instead of {wanted}")]
    Length {
        /// What was read.
        wanted: usize,
        /// What its header says.
        found: usize,
    },
    /// It is sound, and another one.
    #[error("the frame is {found:?} {found_id} instead of {wanted:?} {wanted_id}")]
    Other {
        /// What was asked for.
        wanted: FrameKind,
        /// Its name.
        wanted_id: ContentId,
        /// What is there.
        found: FrameKind,
        /// Its name.
        found_id: ContentId,
    },
    /// Its payload is damaged.
    #[error("the frame is damaged behind its header")]
    Payload,
    /// Its payload is what was written, and is not what it is called.
    #[error("the frame of {wanted} holds something that hashes to {found}")]
    Content {
        /// What it is called.
        wanted: ContentId,
        /// What it should be called.
        found: ContentId,
    },
}

/// What a frame says before its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) kind: FrameKind,
    pub(super) codec: Codec,
    /// Octets before compression.
    pub(super) raw_len: u32,
    /// Octets of the payload.
    pub(super) stored_len: u32,
    /// The name of the octets before compression.
    pub(super) id: ContentId,
    /// CRC-32C of the payload.
    pub(super) checksum: u32,
}

impl FrameHeader {
    /// The header for `payload`, which stands for `raw_len` octets of the name `id`.
    pub(super) fn of(
        kind: FrameKind,
        id: ContentId,
        codec: Codec,
        raw_len: u32,
        payload: &[u8],
    ) -> Self {
        let checksum = crc32c::crc32c(payload);
        let stored_len = word(payload.len());
        Self { kind, codec, raw_len, stored_len, id, checksum }
    }

    /// Octets of the frame, header and payload.
    pub(super) const fn frame_len(&self) -> usize {
        FRAME_HEADER + self.stored_len as usize
    }

    pub(super) fn emit(&self) -> [u8; FRAME_HEADER] {
        let mut octets = [0; FRAME_HEADER];
        let mut writer = Writer::new(&mut octets);
        writer.put(&FRAME_MAGIC);
        writer.put(&[VERSION, self.kind.code(), self.codec.code(), 0]);
        writer.put(&self.raw_len.to_le_bytes());
        writer.put(&self.stored_len.to_le_bytes());
        writer.put(&self.id.0);
        writer.put(&self.checksum.to_le_bytes());
        seal(&mut octets);
        octets
    }

    /// What the first octets of a frame say.
    pub(super) fn parse(octets: &[u8]) -> Result<Self, FrameError> {
        let octets = octets.first_chunk::<FRAME_HEADER>().ok_or(FrameError::Header)?;
        let mut reader = Reader::new(octets);
        if reader.array() != Some(FRAME_MAGIC) {
            return Err(FrameError::Header);
        }
        match reader.u8() {
            Some(VERSION) => {}
            // Another version may have its checksum anywhere.
            found => return Err(FrameError::Version { found: found.unwrap_or_default() }),
        }
        let header = is_sealed(octets).then(|| Self::parse_rest(reader)).flatten();
        header.ok_or(FrameError::Header)
    }

    fn parse_rest(mut reader: Reader<'_>) -> Option<Self> {
        let kind = FrameKind::from_code(reader.u8()?)?;
        let codec = Codec::from_code(reader.u8()?)?;
        reader.reserved::<1>()?;
        let (raw_len, stored_len) = (reader.u32()?, reader.u32()?);
        let (id, checksum) = (reader.content_id()?, reader.u32()?);
        let sound = is_frame_possible(kind, codec, raw_len, stored_len);
        sound.then_some(Self { kind, codec, raw_len, stored_len, id, checksum })
    }
}

/// Whether a frame can say so: something is in it, and no more than its kind allows.
pub(super) fn is_frame_possible(
    kind: FrameKind,
    codec: Codec,
    raw_len: u32,
    stored_len: u32,
) -> bool {
    let (raw_len, stored_len) = (raw_len as usize, stored_len as usize);
    raw_len > 0 && raw_len <= kind.raw_max() && codec.can_store(raw_len, stored_len)
}

/// The octets that a frame stands for, checked by their name. `octets` are those of the whole frame, header
/// and payload, and nothing behind it.
pub(super) fn open_frame(
    octets: &[u8],
    kind: FrameKind,
    id: ContentId,
) -> Result<Vec<u8>, FrameError> {
    let header = FrameHeader::parse(octets)?;
    if octets.len() != header.frame_len() {
        return Err(FrameError::Length { wanted: octets.len(), found: header.frame_len() });
    }
    if (header.kind, header.id) != (kind, id) {
        let (found, found_id) = (header.kind, header.id);
        return Err(FrameError::Other { wanted: kind, wanted_id: id, found, found_id });
    }
    let payload = &octets[FRAME_HEADER..];
    if crc32c::crc32c(payload) != header.checksum {
        return Err(FrameError::Payload);
    }
    let raw = decompress(header.codec, payload, header.raw_len as usize);
    let raw = raw.ok_or(FrameError::Payload)?;
    let found = ContentId::of(kind, &raw);
    if found == id { Ok(raw) } else { Err(FrameError::Content { wanted: id, found }) }
}
