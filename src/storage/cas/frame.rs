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
            Self::Patch => 5,
            Self::Orphan => 6,
        }
    }

    /// What `code` stands for.
    pub(super) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Block),
            2 => Some(Self::Node),
            3 => Some(Self::Manifest),
            4 => Some(Self::PackList),
            5 => Some(Self::Patch),
            6 => Some(Self::Orphan),
            _ => None,
        }
    }

    /// What it is called in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Node => "node",
            Self::Manifest => "manifest",
            Self::PackList => "list of packs",
            Self::Patch => "patch",
            Self::Orphan => "orphan",
        }
    }

    /// The most octets that a frame of this kind stands for.
    const fn raw_max(self) -> usize {
        match self {
            // A patch lacks more of a block than it has besides.
            Self::Block | Self::Node | Self::Patch | Self::Orphan => BLOCK_MAX,
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
    let mut raw = Vec::new();
    open_frame_into(octets, kind, id, &mut raw)?;
    Ok(raw)
}

/// As [`open_frame`], into memory that is there. After an error it holds something else.
///
/// # Errors
/// Those of [`open_frame`].
pub(super) fn open_frame_into(
    octets: &[u8],
    kind: FrameKind,
    id: ContentId,
    into: &mut Vec<u8>,
) -> Result<(), FrameError> {
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
    decompress(header.codec, payload, header.raw_len as usize, into).ok_or(FrameError::Payload)?;
    let found = ContentId::of(kind, into);
    if found == id { Ok(()) } else { Err(FrameError::Content { wanted: id, found }) }
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::super::compress::compress;
    use super::*;

    /// The block `abc`, whose name every description of BLAKE3 has.
    const ABC: [u8; 59] = hex!(
        "41 6f 45 66"                          // AoEf
        "01 01 00 00"                          // version 1, a block, as it is, reserved
        "03 00 00 00"                          // 3 octets
        "03 00 00 00"                          // in 3 octets
        "64 37 b3 ac 38 46 51 33 ff b6 3b 75"  // BLAKE3
        "27 3a 8d b5 48 c5 58 46 5d 79 db 03"
        "fd 35 9c 6c d5 bd 9d 85"
        "b7 3f 4b 36"                          // checksum of the payload
        "8b 7e 12 4c"                          // checksum of the header
        "61 62 63"                             // abc
    );
    /// 64 times an `a` as a node, compressed.
    const NODE: [u8; 67] = hex!(
        "41 6f 45 66"                          // AoEf
        "01 02 01 00"                          // version 1, a node, LZ4, reserved
        "40 00 00 00"                          // 64 octets
        "0b 00 00 00"                          // in 11 octets
        "d1 1f be d7 3a 56 53 75 de 2d 1f a8"  // BLAKE3 with the key of nodes
        "64 b8 ec 68 10 5c 56 7b fa ff 3f c1"
        "ab f4 e1 63 c7 51 2c 1e"
        "7c bd 95 75"                          // checksum of the payload
        "5b 50 e6 12"                          // checksum of the header
        "1f 61 01 00 27 50 61 61 61 61 61"     // one literal, a match, five literals
    );

    fn abc() -> ContentId {
        ContentId::of(FrameKind::Block, b"abc")
    }

    fn frame(kind: FrameKind, raw: &[u8]) -> Vec<u8> {
        let mut payload = vec![0xa5; 10];
        let codec = compress(raw, &mut payload);
        let header =
            FrameHeader::of(kind, ContentId::of(kind, raw), codec, word(raw.len()), &payload);
        [&header.emit()[..], &payload].concat()
    }

    #[test]
    fn known_frames() {
        let header = FrameHeader::parse(&ABC).unwrap();
        let (raw_len, stored_len, checksum) = (3, 3, 0x364b_3fb7);
        let (kind, codec) = (FrameKind::Block, Codec::Raw);
        assert_eq!(header, FrameHeader { kind, codec, raw_len, stored_len, id: abc(), checksum });
        assert_eq!(header.frame_len(), ABC.len());
        assert_eq!(open_frame(&ABC, FrameKind::Block, abc()), Ok(b"abc".to_vec()));
        assert_eq!(frame(FrameKind::Block, b"abc"), ABC);

        let id = ContentId::of(FrameKind::Node, &[b'a'; 64]);
        assert_eq!(open_frame(&NODE, FrameKind::Node, id), Ok(vec![b'a'; 64]));
        // Compressed by another LZ4, which finds a match earlier.
        let payload = &NODE[FRAME_HEADER..];
        let header = FrameHeader::of(FrameKind::Node, id, Codec::Lz4, 64, payload);
        assert_eq!(header.emit(), NODE[..FRAME_HEADER]);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let node = ContentId::of(FrameKind::Node, &[b'a'; 64]);
        let frames: [(&[u8], _, _); 2] =
            [(&ABC, FrameKind::Block, abc()), (&NODE, FrameKind::Node, node)];
        for (octets, kind, id) in frames {
            for bit in 0..octets.len() * 8 {
                let mut flipped = octets.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(open_frame(&flipped, kind, id).is_err(), "bit {bit} of a {kind:?}");
            }
        }
    }

    #[test]
    fn refuses_every_other_length() {
        for len in 0..FRAME_HEADER {
            assert_eq!(FrameHeader::parse(&ABC[..len]), Err(FrameError::Header));
        }
        for found in [FRAME_HEADER, ABC.len() - 1] {
            let short = open_frame(&ABC[..found], FrameKind::Block, abc());
            assert_eq!(short, Err(FrameError::Length { wanted: found, found: 59 }));
        }
        let long = open_frame(&[&ABC[..], b"d"].concat(), FrameKind::Block, abc());
        assert_eq!(long, Err(FrameError::Length { wanted: 60, found: 59 }));
    }

    #[test]
    fn one_kind_never_passes_for_another() {
        let wanted_id = ContentId([0x5a; 32]);
        let other = open_frame(&ABC, FrameKind::Block, wanted_id);
        let wanted = FrameKind::Block;
        let found_id = abc();
        let error = FrameError::Other { wanted, wanted_id, found: FrameKind::Block, found_id };
        assert_eq!(other, Err(error));
        let wanted = FrameKind::Node;
        let other = open_frame(&ABC, wanted, found_id);
        let error =
            FrameError::Other { wanted, wanted_id: found_id, found: FrameKind::Block, found_id };
        assert_eq!(other, Err(error));
    }

    #[test]
    fn a_frame_that_is_not_what_it_is_called_is_refused() {
        let wanted = ContentId([0x5a; 32]);
        let header = FrameHeader::of(FrameKind::Block, wanted, Codec::Raw, 3, b"abc");
        let octets = [&header.emit()[..], b"abc"].concat();
        let opened = open_frame(&octets, FrameKind::Block, wanted);
        assert_eq!(opened, Err(FrameError::Content { wanted, found: abc() }));
    }

    #[test]
    fn later_versions_are_refused_by_their_number() {
        let mut later = ABC;
        later[4] = 2;
        assert_eq!(FrameHeader::parse(&later), Err(FrameError::Version { found: 2 }));
    }

    #[test]
    fn headers_that_say_what_cannot_be_are_refused() {
        let sound = FrameHeader::parse(&ABC).unwrap();
        let lz4 =
            |raw_len, stored_len| FrameHeader { codec: Codec::Lz4, raw_len, stored_len, ..sound };
        let raw = |len| FrameHeader { raw_len: len, stored_len: len, ..sound };
        let refused = [
            raw(0),
            raw(65537),
            raw(u32::MAX),
            FrameHeader { stored_len: 4, ..sound },
            FrameHeader { kind: FrameKind::Manifest, ..raw((64 << 20) + 1) },
            FrameHeader { kind: FrameKind::Node, ..raw(65537) },
            lz4(100, 0),
            lz4(100, 100),
            lz4(65537, 1000),
            lz4(65536, 255),
        ];
        for header in refused {
            assert_eq!(FrameHeader::parse(&header.emit()), Err(FrameError::Header), "{header:?}");
        }
        let taken = [
            raw(65536),
            FrameHeader { kind: FrameKind::Manifest, ..raw(64 << 20) },
            lz4(100, 99),
            lz4(65536, 256),
        ];
        for header in taken {
            assert_eq!(FrameHeader::parse(&header.emit()), Ok(header));
        }
        for (octet, wrong) in [(5, 0), (5, 7), (6, 2), (7, 1)] {
            let mut octets = *ABC.first_chunk::<FRAME_HEADER>().unwrap();
            octets[octet] = wrong;
            seal(&mut octets);
            assert_eq!(FrameHeader::parse(&octets), Err(FrameError::Header), "octet {octet}");
        }
    }

    proptest! {
        #[test]
        fn what_is_put_in_comes_out(
            kind in 1_u8..=5,
            raw in prop::collection::vec(0_u8..4, 1..5000),
        ) {
            let kind = FrameKind::from_code(kind).unwrap();
            let octets = frame(kind, &raw);
            prop_assert_eq!(open_frame(&octets, kind, ContentId::of(kind, &raw)), Ok(raw));
        }

        #[test]
        fn a_header_has_one_form(octets in prop::array::uniform32(any::<u8>()), place in 4_usize..25) {
            let mut header = *ABC.first_chunk::<FRAME_HEADER>().unwrap();
            header[place..place + 4].copy_from_slice(&octets[..4]);
            seal(&mut header);
            if let Ok(parsed) = FrameHeader::parse(&header) {
                prop_assert_eq!(parsed.emit(), header);
            }
        }
    }
}
