//! Data that an archive can make nothing smaller of.

/// Fills `octets` with what does not compress, and what no other `seed` gives.
pub(crate) fn noise(seed: u64, octets: &mut [u8]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in octets.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}
