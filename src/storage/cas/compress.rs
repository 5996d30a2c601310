//! Compression of what frames hold.
//!
//! # Invariants
//! * What is stored is never longer than what it stands for.
//! * Decompression allocates what it was told to expect, and only if the stored octets can be that much;
//!   anything but exactly that is refused.

use lz4_flex::block;

/// How the octets of a frame are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Codec {
    /// As they are.
    Raw = 0,
    /// As one block of LZ4, without a frame of its own.
    Lz4 = 1,
}

impl Codec {
    /// What stands for it on disk.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Lz4 => 1,
        }
    }

    /// What `code` stands for.
    pub(super) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Raw),
            1 => Some(Self::Lz4),
            _ => None,
        }
    }

    /// Whether `raw_len` octets can have become `stored_len`.
    pub(super) const fn can_store(self, raw_len: usize, stored_len: usize) -> bool {
        match self {
            Self::Raw => stored_len == raw_len,
            Self::Lz4 => {
                stored_len > 0
                    && stored_len < raw_len
                    && raw_len <= stored_len.saturating_mul(LZ4_RATIO_MAX)
            }
        }
    }
}

/// An octet of LZ4 stands for no more than this: it adds 255 to the length of a match. A few more come
/// from the token, which is an octet as well.
const LZ4_RATIO_MAX: usize = 256;

/// Leaves what is to be stored for `raw` in `out`, whose memory is used again: compressed octets if they
/// are at most 15/16 of the raw ones, which is what reading them back is worth, or a copy.
///
/// Octets that cannot be compressed cost little: LZ4 takes longer steps the longer it finds nothing, and
/// goes through random blocks faster than they are hashed.
pub(super) fn compress(raw: &[u8], out: &mut Vec<u8>) -> Codec {
    // Only what was not there before is filled with zeros.
    out.resize(block::get_maximum_output_size(raw.len()), 0);
    match block::compress_into(raw, out) {
        Ok(len) if len <= raw.len() / 16 * 15 && Codec::Lz4.can_store(raw.len(), len) => {
            out.truncate(len);
            Codec::Lz4
        }
        _ => {
            out.clear();
            out.extend_from_slice(raw);
            Codec::Raw
        }
    }
}

/// The `raw_len` octets that `stored` stands for; `None` when it stands for something else, or for
/// nothing.
pub(super) fn decompress(codec: Codec, stored: &[u8], raw_len: usize) -> Option<Vec<u8>> {
    if !codec.can_store(raw_len, stored.len()) {
        return None;
    }
    match codec {
        Codec::Raw => Some(stored.to_vec()),
        Codec::Lz4 => {
            let mut raw = vec![0; raw_len];
            let len = block::decompress_into(stored, &mut raw).ok()?;
            (len == raw_len).then_some(raw)
        }
    }
}
