//! The memory of overlays: buffers for blocks that were written to, and how many of them there may be.
//!
//! # Invariants
//! * A buffer is counted before it is taken, and no more when it has been put back. Where the limit is
//!   kept, as many as it allows are all that were ever made: one that is counted either waits here, or
//!   is one less.
//! * All volumes of a store share them: what one has put back another takes.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;

/// Buffers of one block each, for all volumes of a store.
#[derive(Debug)]
pub(super) struct Budget {
    /// Bytes of a buffer.
    block_bytes: usize,
    limit: u64,
    used: AtomicU64,
    /// Those that wait to be used again. What they hold means nothing.
    spare: ArrayQueue<Box<[u8]>>,
}

impl Budget {
    /// Of `limit` bytes, for blocks of `block_bytes`.
    pub(super) fn new(limit: u64, block_bytes: usize) -> Self {
        let buffers = usize::try_from(limit / block_bytes as u64).unwrap_or(usize::MAX);
        let spare = ArrayQueue::new(buffers.clamp(1, 1 << 24));
        Self { block_bytes, limit, used: AtomicU64::new(0), spare }
    }

    /// Bytes of a buffer.
    pub(super) fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Counts `bytes` more, if that many may be held.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_ok()
    }

    /// Counts `bytes` more, even past the limit: for what a crash has left.
    pub(super) fn force(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    /// A buffer, which was counted. What it holds means nothing.
    pub(super) fn buffer(&self) -> Box<[u8]> {
        self.spare.pop().unwrap_or_else(|| vec![0; self.block_bytes].into())
    }

    /// Takes a buffer back, and counts it no more.
    pub(super) fn put_back(&self, buffer: Box<[u8]>) {
        // One that was made beyond the limit is let go when there is no room for it.
        let _ = self.spare.push(buffer);
        // Only now: whoever may have it next must find it here.
        self.used.fetch_sub(self.block_bytes as u64, Ordering::AcqRel);
    }

    /// Bytes that are held.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 4096;
    const LIMIT: u64 = 2 * BLOCK as u64;

    #[test]
    fn no_more_is_counted_than_the_limit_unless_it_must_be() {
        let budget = Budget::new(LIMIT, BLOCK);
        assert!(budget.take(LIMIT) && !budget.take(1));
        budget.force(BLOCK as u64);
        assert_eq!((budget.used(), budget.limit()), (3 * BLOCK as u64, LIMIT));
        budget.put_back(budget.buffer());
        budget.put_back(budget.buffer());
        assert_eq!(budget.used(), BLOCK as u64);
        assert!(!budget.take(u64::MAX));
    }

    #[test]
    fn buffers_are_used_again() {
        let budget = Budget::new(LIMIT, BLOCK);
        assert!(budget.take(LIMIT));
        for mut buffer in [budget.buffer(), budget.buffer()] {
            // New ones are zeros.
            buffer.fill(7);
            budget.put_back(buffer);
        }
        assert!(budget.take(LIMIT));
        let again = [budget.buffer(), budget.buffer()];
        assert!(again.iter().all(|buffer| buffer[..] == [7; BLOCK]));
        assert!(budget.spare.is_empty());
    }
}
