//! What was written to a volume and is not in its tree yet.
//!
//! A *generation* gathers writes until a commit takes it over; then the next one begins. Writes are
//! kept by block, with a bit for each sector that was written, so that a write never has to read
//! anything: a block that was written in part is completed once, by the commit.
//!
//! # Invariants
//! * What [`Generation::compose`] takes from a generation is what the last write to the sector said.
//! * A generation that was handed over never changes.
//! * Its buffers are of a [`Budget`], which has each back when its block is dropped: when it is
//!   discarded, when the generation is emptied, and when it is no more.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::BlockNumber;
use super::budget::Budget;
use crate::units::{Lba, SECTOR_SIZE, Sectors};

/// Sectors of one block, a bit each; the lowest is the first. Blocks have 128 at most.
pub(super) type SectorMask = u128;

/// The bits of `count` sectors from `first` on.
pub(super) fn mask(first: usize, count: usize) -> SectorMask {
    let ones = if count >= 128 { SectorMask::MAX } else { (1 << count) - 1 };
    ones << first
}

/// A block that was written to.
#[derive(Debug)]
pub(super) struct DirtyBlock {
    octets: Box<[u8]>,
    /// Sectors that were written.
    valid: SectorMask,
}

/// Ranges of blocks, sorted and apart from each other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct RangeSet(Vec<Range<u64>>);

impl RangeSet {
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|known| known.end < range.start);
        let last = self.0.partition_point(|known| known.start <= range.end);
        let mut merged = range;
        if let Some(touched) = self.0.get(first..last).filter(|touched| !touched.is_empty()) {
            merged.start = merged.start.min(touched[0].start);
            merged.end = merged.end.max(touched[touched.len() - 1].end);
        }
        self.0.splice(first..last, [merged]);
    }

    pub(super) fn contains(&self, block: u64) -> bool {
        let after = self.0.partition_point(|known| known.start <= block);
        after.checked_sub(1).is_some_and(|index| self.0[index].contains(&block))
    }

    pub(super) fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }
}

/// The part of a request that falls into one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) block: BlockNumber,
    /// The first sector, counted from the start of the block.
    pub(super) first: usize,
    /// How many sectors.
    pub(super) count: usize,
    /// Where it starts in the octets of the request.
    pub(super) at: usize,
}

impl Piece {
    pub(super) fn mask(&self) -> SectorMask {
        mask(self.first, self.count)
    }

    /// Its octets, counted from the start of the block.
    pub(super) fn in_block(&self) -> Range<usize> {
        self.first * SECTOR_SIZE..(self.first + self.count) * SECTOR_SIZE
    }

    /// Its octets in those of the request.
    pub(super) fn in_request(&self) -> Range<usize> {
        self.at..self.at + self.count * SECTOR_SIZE
    }
}

/// Divides `count` sectors from `lba` on into blocks of `block_bytes`.
pub(super) fn pieces(
    lba: Lba,
    count: usize,
    block_bytes: usize,
) -> impl Iterator<Item = Piece> + Clone {
    let per_block = (block_bytes / SECTOR_SIZE) as u64;
    let end = lba.0 + count as u64;
    let mut next = lba.0;
    std::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        let block = next / per_block;
        let until = end.min((block + 1) * per_block);
        #[allow(clippy::cast_possible_truncation, reason = "a request is in memory")]
        let piece = Piece {
            block: BlockNumber(block),
            first: (next % per_block) as usize,
            count: (until - next) as usize,
            at: (next - lba.0) as usize * SECTOR_SIZE,
        };
        next = until;
        Some(piece)
    })
}

/// Writes to one volume, from one hand-over to the next.
#[derive(Debug)]
pub(super) struct Generation {
    budget: Arc<Budget>,
    blocks: HashMap<u64, DirtyBlock>,
    /// Blocks that read as zeros, but for what is in `blocks`.
    cleared: RangeSet,
    /// The number of the last write in it; 0 when there is none.
    last: u64,
}

impl Generation {
    /// An empty one with room in its table for `blocks`.
    pub(super) fn new(budget: Arc<Budget>, blocks: usize) -> Self {
        let blocks = HashMap::with_capacity(blocks);
        Self { budget, blocks, cleared: RangeSet::default(), last: 0 }
    }

    /// Bytes that its blocks hold.
    pub(super) fn bytes(&self) -> u64 {
        (self.blocks.len() * self.block_bytes()) as u64
    }

    /// The number of the last write in it; 0 when there is none.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.cleared.0.is_empty()
    }

    pub(super) fn cleared(&self) -> &RangeSet {
        &self.cleared
    }

    /// The blocks that were written to, in no order.
    pub(super) fn dirty(&self) -> impl Iterator<Item = BlockNumber> {
        self.blocks.keys().copied().map(BlockNumber)
    }

    /// How many bytes more a write of `count` sectors would make it hold.
    pub(super) fn growth(&self, lba: Lba, count: usize) -> u64 {
        let absent = pieces(lba, count, self.block_bytes())
            .filter(|piece| !self.blocks.contains_key(&piece.block.0))
            .count();
        (absent * self.block_bytes()) as u64
    }

    /// Takes a write. Its growth is in the budget already.
    pub(super) fn write(&mut self, number: u64, lba: Lba, data: &[u8]) {
        self.last = number;
        for piece in pieces(lba, data.len() / SECTOR_SIZE, self.block_bytes()) {
            let dirty = self.dirty_block(piece.block);
            dirty.octets[piece.in_block()].copy_from_slice(&data[piece.in_request()]);
            dirty.valid |= piece.mask();
        }
    }

    /// How many bytes more a discard would make it hold: those of the blocks that it covers in part.
    pub(super) fn discard_growth(&self, lba: Lba, count: Sectors) -> u64 {
        self.edges(lba, count)
            .into_iter()
            .flatten()
            .map(|(lba, count)| self.growth(lba, count))
            .sum()
    }

    /// Makes sectors zeros. The growth is in the budget already; tells how many bytes it has put back.
    pub(super) fn discard(&mut self, number: u64, lba: Lba, count: Sectors) -> u64 {
        self.last = number;
        let whole = self.whole_blocks(lba, count);
        let mut freed = 0;
        // Whichever is shorter: the blocks of the range, or those there are.
        if whole.end - whole.start <= self.blocks.len() as u64 {
            for block in whole.clone() {
                freed += self.drop_block(block);
            }
        } else {
            let within: Vec<u64> =
                self.blocks.keys().copied().filter(|block| whole.contains(block)).collect();
            for block in within {
                freed += self.drop_block(block);
            }
        }
        self.cleared.insert(whole);
        for (lba, count) in self.edges(lba, count).into_iter().flatten() {
            for piece in pieces(lba, count, self.block_bytes()) {
                let dirty = self.dirty_block(piece.block);
                dirty.octets[piece.in_block()].fill(0);
                dirty.valid |= piece.mask();
            }
        }
        freed
    }

    /// Copies of the `wanted` sectors of `block` those that it has into `into`, which starts with
    /// sector `first` of the block, and tells which sectors are still wanted.
    pub(super) fn compose(
        &self,
        block: BlockNumber,
        first: usize,
        wanted: SectorMask,
        into: &mut [u8],
    ) -> SectorMask {
        let mut wanted = wanted;
        if let Some(dirty) = self.blocks.get(&block.0) {
            copy_sectors(wanted & dirty.valid, first, into, |range| &dirty.octets[range]);
            wanted &= !dirty.valid;
        }
        if wanted != 0 && self.cleared.contains(block.0) {
            zero_sectors(wanted, first, into);
            wanted = 0;
        }
        wanted
    }

    /// Empties it, to be used again.
    pub(super) fn clear(&mut self) {
        for (_, dirty) in self.blocks.drain() {
            self.budget.put_back(dirty.octets);
        }
        self.cleared.0.clear();
        self.last = 0;
    }

    fn drop_block(&mut self, block: u64) -> u64 {
        let Some(dirty) = self.blocks.remove(&block) else { return 0 };
        self.budget.put_back(dirty.octets);
        self.block_bytes() as u64
    }

    fn dirty_block(&mut self, block: BlockNumber) -> &mut DirtyBlock {
        let budget = &self.budget;
        let absent = || DirtyBlock { octets: budget.buffer(), valid: 0 };
        self.blocks.entry(block.0).or_insert_with(absent)
    }

    fn block_bytes(&self) -> usize {
        self.budget.block_bytes()
    }

    fn sectors_per_block(&self) -> u64 {
        (self.block_bytes() / SECTOR_SIZE) as u64
    }

    /// The blocks of which all sectors are among these.
    fn whole_blocks(&self, lba: Lba, count: Sectors) -> Range<u64> {
        let per_block = self.sectors_per_block();
        let start = lba.0.div_ceil(per_block);
        start..((lba.0 + count.0) / per_block).max(start)
    }

    /// The sectors before and after [`Self::whole_blocks`].
    fn edges(&self, lba: Lba, count: Sectors) -> [Option<(Lba, usize)>; 2] {
        let (per_block, end) = (self.sectors_per_block(), lba.0 + count.0);
        let whole = self.whole_blocks(lba, count);
        let edge = |from: u64, to: u64| {
            #[allow(clippy::cast_possible_truncation, reason = "fewer than two blocks have")]
            (from < to).then(|| (Lba(from), (to - from) as usize))
        };
        if whole.is_empty() {
            return [edge(lba.0, end), None];
        }
        [edge(lba.0, whole.start * per_block), edge(whole.end * per_block, end)]
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Fills the `wanted` sectors of a block, in `into` from sector `first` on, with what `source` has at
/// a range of octets of the block; as few copies as there are runs of sectors.
pub(super) fn copy_sectors<'s>(
    wanted: SectorMask,
    first: usize,
    into: &mut [u8],
    source: impl Fn(Range<usize>) -> &'s [u8],
) {
    for run in runs(wanted) {
        let (from, to) = (run.start * SECTOR_SIZE, run.end * SECTOR_SIZE);
        let at = (run.start - first) * SECTOR_SIZE;
        into[at..at + to - from].copy_from_slice(source(from..to));
    }
}

/// Makes the `wanted` sectors of a block zeros, in `into` from sector `first` on.
pub(super) fn zero_sectors(wanted: SectorMask, first: usize, into: &mut [u8]) {
    for run in runs(wanted) {
        into[(run.start - first) * SECTOR_SIZE..(run.end - first) * SECTOR_SIZE].fill(0);
    }
}

/// Runs of ones, as ranges of bits.
pub(super) fn runs(mut wanted: SectorMask) -> impl Iterator<Item = Range<usize>> {
    std::iter::from_fn(move || {
        if wanted == 0 {
            return None;
        }
        let start = wanted.trailing_zeros() as usize;
        let len = (wanted >> start).trailing_ones() as usize;
        wanted &= !mask(start, len);
        Some(start..start + len)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 4096;

    fn generation() -> (Arc<Budget>, Generation) {
        let budget = Arc::new(Budget::new(1 << 20, BLOCK));
        let generation = Generation::new(Arc::clone(&budget), 4);
        (budget, generation)
    }

    /// Makes room for a write, and writes.
    fn write(generation: &mut Generation, number: u64, lba: u64, data: &[u8]) {
        assert!(generation.budget.take(generation.growth(Lba(lba), data.len() / SECTOR_SIZE)));
        generation.write(number, Lba(lba), data);
    }

    /// Makes room for a discard, and discards.
    fn discard(generation: &mut Generation, number: u64, lba: u64, count: u64) -> u64 {
        let growth = generation.discard_growth(Lba(lba), Sectors(count));
        assert!(generation.budget.take(growth));
        generation.discard(number, Lba(lba), Sectors(count))
    }

    fn sector(octet: u8) -> Vec<u8> {
        vec![octet; SECTOR_SIZE]
    }

    /// What a generation has of the sectors of a block; `None` for those that it does not have.
    fn look(generation: &Generation, block: u64) -> Vec<Option<u8>> {
        let mut into = vec![0xa5; BLOCK];
        let left = generation.compose(BlockNumber(block), 0, mask(0, 8), &mut into);
        let sectors = into.chunks(SECTOR_SIZE).map(|octets| {
            assert!(octets.iter().all(|octet| *octet == octets[0]));
            octets[0]
        });
        sectors.enumerate().map(|(n, octet)| (left & mask(n, 1) == 0).then_some(octet)).collect()
    }

    #[test]
    fn writes_are_kept_by_sector_and_the_last_one_counts() {
        let (budget, mut generation) = generation();
        assert_eq!(generation.growth(Lba(7), 2), 2 * BLOCK as u64);
        write(&mut generation, 1, 7, &[sector(1), sector(2)].concat());
        write(&mut generation, 2, 8, &sector(3));
        assert_eq!(look(&generation, 0)[6..], [None, Some(1)]);
        assert_eq!(look(&generation, 1)[..2], [Some(3), None]);
        assert_eq!((generation.last(), generation.bytes()), (2, 2 * BLOCK as u64));
        assert_eq!(generation.growth(Lba(0), 16), 0);
        assert_eq!(budget.used(), 2 * BLOCK as u64);
        generation.clear();
        assert!(generation.is_empty() && look(&generation, 0)[7].is_none());
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn discarded_blocks_are_zeros_until_they_are_written_again() {
        let (budget, mut generation) = generation();
        write(&mut generation, 1, 8, &sector(1).repeat(8));
        // Two sectors of block 0, the whole of blocks 1 and 2, one of block 3.
        let freed = discard(&mut generation, 2, 6, 19);
        assert_eq!(freed, BLOCK as u64);
        assert_eq!(look(&generation, 0)[5..], [None, Some(0), Some(0)]);
        assert_eq!(look(&generation, 1), [Some(0); 8]);
        assert_eq!(look(&generation, 3)[..2], [Some(0), None]);
        write(&mut generation, 3, 17, &sector(9));
        assert_eq!(look(&generation, 2)[..3], [Some(0), Some(9), Some(0)]);
        // The whole of a large disk costs nothing but its edges.
        discard(&mut generation, 4, 1, 1 << 40);
        assert_eq!(generation.cleared().ranges(), [Range { start: 1, end: 1 << 37 }]);
        assert_eq!(look(&generation, 2), [Some(0); 8]);
        // The blocks on both edges; the others were put back.
        assert_eq!(budget.used(), 2 * BLOCK as u64);
        drop(generation);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let mut set = RangeSet::default();
        for range in [10..12, 20..22, 0..0, 12..14, 30..31, 13..25] {
            set.insert(range);
        }
        assert_eq!(set.ranges(), [10..25, 30..31]);
        let inside: Vec<u64> = (0..40).filter(|block| set.contains(*block)).collect();
        assert_eq!(inside, (10..25).chain([30]).collect::<Vec<_>>());
    }

    #[test]
    fn a_block_of_128_sectors_has_a_bit_for_each() {
        assert_eq!(mask(0, 128), SectorMask::MAX);
        assert_eq!(mask(127, 1), 1 << 127);
        assert!(runs(mask(0, 128)).eq(std::iter::once(0..128)));
        assert_eq!(runs(mask(3, 2) | mask(127, 1)).collect::<Vec<_>>(), [3..5, 127..128]);
    }
}
