//! From written sectors to stored blocks: a block is completed, named, and compressed if it is new.

use std::sync::Arc;
use std::thread;

use super::super::compress::{Codec, compress};
use super::super::error::ReadError;
use super::super::octets::word;
use super::super::orphan::{Orphan, StandIns, StoodIn};
use super::super::overlay::{Generation, RangeSet, SectorMask, copy_sectors, mask};
use super::super::patch::{Patch, base_of, sectors_of};
use super::super::reader::Reader;
use super::super::shared::View;
use super::super::tree::Cursor;
use super::super::{BlockNumber, ContentId, FrameKind, VolumeNumber};
use super::{Split, Trouble};
use crate::clock::{self, Instant};
use crate::units::SECTOR_SIZE;

/// Blocks that are prepared in one go.
const CHUNK_BYTES: usize = if cfg!(test) { 64 << 10 } else { 4 << 20 };

/// What is committed of one volume.
pub(super) struct VolumeJob {
    pub(super) number: VolumeNumber,
    /// The newest first.
    pub(super) layers: Vec<Arc<Generation>>,
    /// All writes up to here are in them, or in the tree.
    pub(super) through: u64,
    /// The tree that they go on top of.
    pub(super) base: View,
    pub(super) cleared: RangeSet,
    /// In order.
    pub(super) blocks: Vec<BlockNumber>,
    /// How many of those are done with.
    pub(super) done: usize,
    /// Their new names.
    pub(super) changes: Vec<(BlockNumber, Option<ContentId>)>,
    /// What those name of trees of which nodes are lost.
    pub(super) orphans: Vec<Orphan>,
}

impl VolumeJob {
    /// Of `layers` on top of `base`, which has `end` blocks.
    pub(super) fn new(
        number: VolumeNumber,
        layers: Vec<Arc<Generation>>,
        through: u64,
        base: View,
        end: u64,
    ) -> Self {
        let mut cleared = RangeSet::default();
        for range in layers.iter().flat_map(|layer| layer.cleared().ranges()) {
            cleared.insert(range.clone());
        }
        let dirty = layers.iter().flat_map(|layer| layer.dirty());
        // What was written behind the end was, before the volume became shorter.
        let mut blocks: Vec<BlockNumber> = dirty.filter(|block| block.0 < end).collect();
        blocks.sort_unstable();
        blocks.dedup();
        let changes = Vec::with_capacity(blocks.len());
        let orphans = Vec::new();
        Self { number, layers, through, base, cleared, blocks, done: 0, changes, orphans }
    }

    /// The blocks to be prepared next; none at the end.
    pub(super) fn chunk(&self, block_bytes: usize) -> &[BlockNumber] {
        let count = (CHUNK_BYTES / block_bytes).min(self.blocks.len() - self.done);
        &self.blocks[self.done..self.done + count]
    }
}

/// What a block has come to.
pub(super) enum Prepared {
    /// Zeros, which are not stored.
    Zeros,
    /// It is stored already.
    Stored(ContentId),
    /// It is to be stored.
    New { kind: FrameKind, id: ContentId, codec: Codec, raw_len: u32, payload: Vec<u8> },
}

/// Blocks that are prepared.
#[derive(Default)]
pub(super) struct Chunk {
    /// In order.
    pub(super) prepared: Vec<Prepared>,
    /// What they name of trees of which nodes are lost.
    pub(super) orphans: Vec<Orphan>,
    pub(super) split: Split,
}

/// Prepares blocks of a job, each of `block_bytes`, on `threads` threads, in order. If `with_io`, they do
/// without what a disk fails to read, too.
pub(super) fn prepare(
    reader: &Reader,
    job: &VolumeJob,
    blocks: &[BlockNumber],
    (block_bytes, threads): (usize, usize),
    with_io: bool,
) -> Result<Chunk, Trouble> {
    let work = |blocks: &[BlockNumber]| -> Result<Chunk, ReadError> {
        let mut preparing = Preparing::new(reader, job, block_bytes, with_io);
        let prepared = blocks.iter().map(|block| preparing.block(*block));
        let prepared = prepared.collect::<Result<_, _>>()?;
        let orphans = preparing.stand_ins.needed(preparing.bases);
        Ok(Chunk { prepared, orphans, split: preparing.split })
    };
    if threads <= 1 || blocks.len() < 2 * threads {
        return Ok(work(blocks)?);
    }
    let share = blocks.len().div_ceil(threads);
    let parts = thread::scope(|scope| {
        let spawn = |share| {
            let worker = thread::Builder::new().name("archive-hash".into());
            worker.spawn_scoped(scope, move || work(share)).map_err(Trouble::Thread)
        };
        // All are begun before the first one is waited for.
        let workers: Vec<_> = blocks.chunks(share).map(spawn).collect();
        let join = |worker: thread::ScopedJoinHandle<'_, Result<Chunk, ReadError>>| {
            Ok(worker.join().map_err(|_| Trouble::Panicked)??)
        };
        workers.into_iter().map(|worker| worker.and_then(join)).collect::<Vec<_>>()
    });
    let mut all = Chunk { prepared: Vec::with_capacity(blocks.len()), ..Chunk::default() };
    for part in parts {
        let Chunk { prepared, orphans, split } = part?;
        all.prepared.extend(prepared);
        all.orphans.extend(orphans);
        all.split.add(&split);
    }
    Ok(all)
}

/// One thread's part of the work.
struct Preparing<'a> {
    reader: &'a Reader,
    job: &'a VolumeJob,
    octets: Vec<u8>,
    /// Sectors of the block that were not written and cannot be read, and the block that they are in.
    holes: Option<(SectorMask, ContentId)>,
    /// Where else sectors of blocks are.
    bases: Vec<ContentId>,
    stand_ins: StandIns,
    compressed: Vec<u8>,
    cursor: Cursor,
    split: Split,
}

impl<'a> Preparing<'a> {
    fn new(reader: &'a Reader, job: &'a VolumeJob, block_bytes: usize, with_io: bool) -> Self {
        Self {
            reader,
            job,
            octets: vec![0; block_bytes],
            holes: None,
            bases: Vec::new(),
            stand_ins: StandIns::new(with_io),
            compressed: Vec::new(),
            cursor: Cursor::default(),
            split: Split::default(),
        }
    }

    fn block(&mut self, block: BlockNumber) -> Result<Prepared, ReadError> {
        let start = clock::now();
        self.fill(block)?;
        self.cut(block);
        let filled = clock::now();
        let (kind, patch) = match self.holes {
            None if is_zero(&self.octets) => return Ok(Prepared::Zeros),
            None => (FrameKind::Block, None),
            Some((holes, base)) => {
                self.bases.push(base);
                let valid = mask(0, self.octets.len() / SECTOR_SIZE) & !holes;
                if valid == 0 {
                    return Ok(Prepared::Stored(base));
                }
                let patch = Patch { base, valid, octets: self.octets.clone() };
                (FrameKind::Patch, Some(patch.emit()))
            }
        };
        let raw = patch.as_ref().unwrap_or(&self.octets);
        let id = ContentId::of(kind, raw);
        let hashed = clock::now();
        let stored = self.reader.is_stored(id)?;
        let looked = clock::now();
        let nanos = |from: Instant, to: Instant| {
            u64::try_from(to.since(from).as_nanos()).unwrap_or(u64::MAX)
        };
        self.split.fill += nanos(start, filled);
        self.split.hash += nanos(filled, hashed);
        self.split.index += nanos(hashed, looked);
        if stored {
            return Ok(Prepared::Stored(id));
        }
        let codec = compress(raw, &mut self.compressed);
        let raw_len = word(raw.len());
        self.split.compress += nanos(looked, clock::now());
        Ok(Prepared::New { kind, id, codec, raw_len, payload: self.compressed.clone() })
    }

    /// Composes the block: what was written, on top of what was there.
    fn fill(&mut self, block: BlockNumber) -> Result<(), ReadError> {
        self.holes = None;
        let mut wanted = mask(0, self.octets.len() / SECTOR_SIZE);
        for layer in &self.job.layers {
            wanted = layer.compose(block, 0, wanted, &mut self.octets);
            if wanted == 0 {
                return Ok(());
            }
        }
        let nodes = StoodIn { reader: self.reader, stand_ins: &self.stand_ins };
        match self.cursor.lookup(self.job.base.root, block, &nodes)? {
            Some(id) => {
                let block_bytes = self.octets.len();
                match self.reader.block(id) {
                    Ok(base) => {
                        let have = sectors_of(&base, block_bytes);
                        copy_sectors(wanted & have, 0, &mut self.octets, |range| &base[range]);
                        let holes = Some(wanted & !have).filter(|holes| *holes != 0);
                        self.holes = holes.zip(base_of(&base, block_bytes));
                    }
                    // What was written must not wait for what may never be read again.
                    Err(error) if self.stand_ins.can_do_without(&error) => {
                        self.holes = Some((wanted, id));
                    }
                    Err(error) => return Err(error),
                }
            }
            None => super::super::overlay::zero_sectors(wanted, 0, &mut self.octets),
        }
        Ok(())
    }
}

impl Preparing<'_> {
    /// Makes zeros of what is behind the end of the volume.
    fn cut(&mut self, block: BlockNumber) {
        let per_block = (self.octets.len() / SECTOR_SIZE) as u64;
        let sectors = self.job.base.size.0.saturating_sub(block.0 * per_block);
        if sectors < per_block {
            #[allow(clippy::cast_possible_truncation, reason = "less than a block")]
            let sectors = sectors as usize;
            self.octets[sectors * SECTOR_SIZE..].fill(0);
            let holes = self.holes.map(|(holes, base)| (holes & mask(0, sectors), base));
            self.holes = holes.filter(|(holes, _)| *holes != 0);
        }
    }
}

/// Whether there is nothing but zeros.
fn is_zero(octets: &[u8]) -> bool {
    let (words, rest) = octets.as_chunks::<64>();
    words.iter().all(|word| *word == [0; 64]) && rest.iter().all(|octet| *octet == 0)
}
