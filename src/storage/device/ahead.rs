//! Noticing who reads a device from front to back, one read at a time.
//!
//! Nothing of a device is cached, so that such a reader would wait for the device each time. Who
//! keeps many reads in flight does not wait, and gets nothing from reading ahead: the end of each
//! burst would only look like the start of something.

use std::ops::Range;

/// Readers that are told apart.
const STREAMS: usize = 4;
/// Reads, each right behind the last, that make it likely that one more follows: more than
/// [`OTHERS`], since the last of a burst are few too.
const HITS: usize = 4;
/// A reader that was not seen for so many reads of others has stopped. By feel.
const STOPPED: u64 = 64;
/// Reads that may be under way besides, for a reader to count as one that waits for each.
pub(super) const OTHERS: usize = 2;

#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// Where the next read starts, in bytes.
    next: u64,
    /// The length of its reads.
    len: u64,
    /// Where what was read ahead ends.
    ahead: u64,
    /// Reads that came as expected.
    hits: usize,
    /// When it was last seen.
    turn: u64,
}

/// The readers that were seen last.
#[derive(Debug, Default)]
pub(super) struct Streams {
    list: [Stream; STREAMS],
    turn: u64,
}

impl Streams {
    /// Takes in that `span` was handed over, and `lone` tells whether its reader seems to wait for
    /// each read. Returns what to read ahead, in reads as long as this one: no more of them than
    /// its part of `depth`, and none before half of the last ones are used up, so that they begin
    /// together.
    pub(super) fn follow(
        &mut self,
        span: &Range<u64>,
        depth: usize,
        lone: impl FnOnce() -> bool,
    ) -> Option<Range<u64>> {
        self.turn += 1;
        let turn = self.turn;
        let len = span.end - span.start;
        let going_on = |stream: &&Stream| stream.hits >= HITS && turn - stream.turn < STOPPED;
        let depth = depth / self.list.iter().filter(going_on).count().max(1);
        let known = self.list.iter_mut().find(|stream| stream.next == span.start);
        let Some(stream) = known.filter(|stream| stream.len == len) else {
            let oldest = self.list.iter_mut().min_by_key(|stream| stream.turn)?;
            *oldest = Stream { next: span.end, len, ahead: span.end, hits: 0, turn };
            return None;
        };
        stream.next = span.end;
        stream.turn = turn;
        if !lone() {
            stream.hits = 0;
            return None;
        }
        stream.hits += 1;
        stream.ahead = stream.ahead.max(span.end);
        // One more with each, so that a short run costs little.
        let reads = (stream.hits + 1).checked_sub(HITS)?.min(depth) as u64;
        if stream.ahead - span.end > reads / 2 * len {
            return None;
        }
        let more = stream.ahead..span.end.saturating_add(reads.saturating_mul(len));
        stream.ahead = stream.ahead.max(more.end);
        (!more.is_empty()).then_some(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read ahead of reads of `len` bytes that start at `from`, one behind the other.
    fn follow(streams: &mut Streams, from: u64, len: u64, reads: u64) -> Vec<Range<u64>> {
        let starts = (0..reads).map(|read| from + read * len);
        starts.filter_map(|at| streams.follow(&(at..at + len), 8, || true)).collect()
    }

    #[test]
    fn who_reads_on_is_read_ahead_for_without_gaps() {
        let mut streams = Streams::default();
        assert_eq!(follow(&mut streams, 1000, 10, 4), []);
        let ahead = follow(&mut streams, 1040, 10, 100);
        assert_eq!(ahead[0], 1050..1060);
        assert!(ahead.windows(2).all(|pair| pair[0].end == pair[1].start), "{ahead:?}");
        let end = ahead.last().map_or(0, |last| last.end);
        assert!((2040..=2120).contains(&end), "{end}");
        assert!(ahead.len() < 40, "later ones begin together");
    }

    #[test]
    fn who_jumps_or_is_not_alone_is_not() {
        let mut streams = Streams::default();
        for at in (0..100_000).step_by(20) {
            assert_eq!(streams.follow(&(at..at + 10), 8, || true), None);
        }
        for at in (0..1000).step_by(10) {
            assert_eq!(streams.follow(&(at..at + 10), 8, || false), None);
        }
        assert_eq!(follow(&mut streams, 1000, 10, HITS as u64 - 1), []);
        assert_ne!(follow(&mut streams, 1030, 10, 3), []);
        // Another length would not find what was read in steps of this one.
        assert_eq!(follow(&mut streams, 1060, 20, HITS as u64), []);
    }

    #[test]
    fn some_readers_are_told_apart() {
        let mut streams = Streams::default();
        let mut ahead = [0; STREAMS];
        for read in 0..50 {
            for (reader, ahead) in (0..).zip(&mut ahead) {
                let at = reader * 100_000 + read * 10;
                *ahead += streams
                    .follow(&(at..at + 10), 8, || true)
                    .map_or(0, |more| more.end - more.start);
            }
        }
        assert!(ahead.iter().all(|ahead| *ahead >= 400), "{ahead:?}");
    }
}
