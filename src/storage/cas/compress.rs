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
/// Octets that cannot be compressed cost little: a sample of them is tried first.
pub(super) fn compress(raw: &[u8], out: &mut Vec<u8>) -> Codec {
    // Only what was not there before is filled with zeros.
    out.resize(block::get_maximum_output_size(raw.len()), 0);
    if may_pay(raw, out)
        && let Ok(len) = block::compress_into(raw, out)
        && len <= raw.len() / 16 * 15
        && Codec::Lz4.can_store(raw.len(), len)
    {
        out.truncate(len);
        return Codec::Lz4;
    }
    out.clear();
    out.extend_from_slice(raw);
    Codec::Raw
}

/// Pieces that a sample consists of, from all parts of the octets.
const PIECES: usize = 4;
/// A sample is one octet of so many.
const SAMPLED: usize = 8;
/// The octets of the shortest sample in which anything shows, and of the longest that is needed.
const SAMPLE: (usize, usize) = (1024, 4096);

/// Whether octets may be compressed so that it pays, by a sample of them. What looks like chance wherever
/// it is looked at, and repeats, is not found.
fn may_pay(raw: &[u8], out: &mut [u8]) -> bool {
    let len = (raw.len() / SAMPLED).clamp(SAMPLE.0, SAMPLE.1);
    if raw.len() < len * PIECES {
        return true;
    }
    let (mut sample, piece) = ([0; SAMPLE.1], len / PIECES);
    for part in 0..PIECES {
        let start = raw.len() / PIECES * part;
        sample[piece * part..][..piece].copy_from_slice(&raw[start..start + piece]);
    }
    let sample = &sample[..piece * PIECES];
    block::compress_into(sample, out).is_ok_and(|compressed| compressed <= len / 32 * 31)
}

/// Makes `into` the `raw_len` octets that `stored` stands for; `None` when it stands for something
/// else, or for nothing.
pub(super) fn decompress(
    codec: Codec,
    stored: &[u8],
    raw_len: usize,
    into: &mut Vec<u8>,
) -> Option<()> {
    if !codec.can_store(raw_len, stored.len()) {
        return None;
    }
    match codec {
        Codec::Raw => {
            into.clear();
            into.extend_from_slice(stored);
            Some(())
        }
        Codec::Lz4 => {
            // Only what was not there before is filled with zeros.
            into.resize(raw_len, 0);
            let len = block::decompress_into(stored, into).ok()?;
            (len == raw_len).then_some(())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decompress(codec: Codec, stored: &[u8], raw_len: usize) -> Option<Vec<u8>> {
        let mut raw = vec![0x5a; 7];
        super::decompress(codec, stored, raw_len, &mut raw).map(|()| raw)
    }

    /// 64 times an `a`, as the LZ4 library in C compresses it: one literal, a match of 58 at a distance
    /// of 1, five literals.
    const STORED: [u8; 11] =
        [0x1f, b'a', 0x01, 0x00, 58 - 4 - 15, 0x50, b'a', b'a', b'a', b'a', b'a'];

    /// Octets without any order.
    fn random(len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut octets);
        octets
    }

    fn stored(raw: &[u8]) -> (Codec, Vec<u8>) {
        // What was in it before must not matter.
        let mut out = vec![0xa5; 100];
        let codec = compress(raw, &mut out);
        (codec, out)
    }

    #[test]
    fn what_another_lz4_compressed_can_be_read() {
        let raw = decompress(Codec::Lz4, &STORED, 64);
        assert_eq!(raw.as_deref(), Some(&[b'a'; 64][..]));
    }

    #[test]
    fn what_gains_too_little_is_kept_as_it_is() {
        for len in [1, 15, 16, 512, 4096, 16384, 65536] {
            let block = random(len);
            assert_eq!(stored(&block), (Codec::Raw, block), "{len} octets");
        }
        // A sixteenth of 16384 octets is 1024: with the zeros, a little less than that is saved, or more.
        for (zeros, codec) in [(960, Codec::Raw), (1200, Codec::Lz4)] {
            let mut block = random(16384);
            block[..zeros].fill(0);
            let (found, out) = stored(&block);
            assert_eq!(found, codec, "{zeros} zeros become {} octets", out.len());
            assert!(codec == Codec::Raw || out.len() <= 16384 / 16 * 15);
        }
    }

    #[test]
    fn a_sample_tells_what_may_pay() {
        // Words in an order by chance; what is random but for a few octets of each record.
        let words = [b"sector ", b"volume ", b"initiat", b"journal", b"recover", b" frame "];
        let text: Vec<u8> =
            random(1 << 14).iter().flat_map(|o| words[*o as usize % 6]).copied().collect();
        let mut records = random(1 << 16);
        records.chunks_mut(64).for_each(|record| record[..16].fill(0));
        for octets in [text, records] {
            for len in [4096, 16384, 65536] {
                assert_eq!(stored(&octets[..len]).0, Codec::Lz4, "{len} octets");
            }
        }
        // As the documentation says: it is not looked for.
        assert_eq!(stored(&random(5000).repeat(4)[..16384]).0, Codec::Raw);
    }

    #[test]
    fn all_zeros_are_within_the_greatest_ratio() {
        for len in [4096, 16384, 65536, 64 << 20] {
            let (codec, out) = stored(&vec![0; len]);
            assert_eq!(codec, Codec::Lz4);
            assert_eq!(decompress(codec, &out, len), Some(vec![0; len]));
        }
    }

    #[test]
    fn only_the_exact_length_is_handed_out() {
        for len in 0..1000 {
            let raw = decompress(Codec::Lz4, &STORED, len);
            assert_eq!(raw.is_some(), len == 64, "{len} octets");
            let raw = decompress(Codec::Raw, &[0xa5; 64], len);
            assert_eq!(raw.is_some(), len == 64, "{len} octets");
        }
        for len in 0..STORED.len() {
            assert_eq!(decompress(Codec::Lz4, &STORED[..len], 64), None, "of {len} octets");
        }
    }

    #[test]
    fn an_absurd_length_is_refused_before_there_is_memory_for_it() {
        assert_eq!(decompress(Codec::Lz4, &STORED, usize::MAX), None);
        assert_eq!(decompress(Codec::Lz4, &STORED, 1 << 40), None);
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(
            pieces in prop::collection::vec((any::<u8>(), 1_usize..300), 0..100),
            noise in prop::collection::vec(any::<u8>(), 0..3000),
        ) {
            let mut raw = noise;
            raw.extend(pieces.iter().flat_map(|(octet, len)| std::iter::repeat_n(*octet, *len)));
            let (codec, out) = stored(&raw);
            prop_assert!(out.len() <= raw.len());
            prop_assert_eq!(decompress(codec, &out, raw.len()), Some(raw));
        }

        #[test]
        fn no_input_panics(
            stored in prop::collection::vec(any::<u8>(), 0..200),
            raw_len in 0_usize..10_000,
        ) {
            let raw = decompress(Codec::Lz4, &stored, raw_len);
            prop_assert!(raw.is_none_or(|raw| raw.len() == raw_len));
        }
    }
}
