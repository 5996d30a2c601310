//! Memory that starts on a boundary, as direct I/O demands.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Buffers start on a multiple of this: the page size of nearly every machine, and more than any
/// disk's block or DMA alignment in use.
pub(super) const ALIGNMENT: usize = 4096;

/// A buffer whose first byte lies on a multiple of [`ALIGNMENT`]. It is a slice of a vector with
/// some room to spare, which never grows and so never moves.
pub(super) struct AlignedBuf {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// `len` zeros.
    pub(super) fn new(len: usize) -> Self {
        let memory = vec![0; len + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        assert!(start <= ALIGNMENT, "the start of a vector of bytes can be aligned");
        Self { memory, start, len }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the octets.
        f.debug_struct("AlignedBuf").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_when_moved() {
        let buffers: Vec<AlignedBuf> = (1..9).map(|n| AlignedBuf::new(n * 512)).collect();
        let moved: Vec<AlignedBuf> = buffers.into_iter().rev().collect();
        for buffer in &moved {
            assert_eq!(buffer.as_ptr().addr() % ALIGNMENT, 0);
            assert_eq!(buffer.len() % 512, 0);
        }
    }
}
