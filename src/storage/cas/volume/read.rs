//! Reading: from overlays and from what is in memory at once; everything else is fetched by other
//! threads, and asked for again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::super::super::{Fault, Ready};
use super::super::ContentId;
use super::super::block::Block;
use super::super::id::TreeRoot;
use super::super::node::Node;
use super::super::overlay::{Piece, copy_sectors, pieces, zero_sectors};
use super::super::patch::sectors_of;
use super::super::reader::{CachedNodes, FETCHES, Fetch, FetchLink, Fetched, Purpose};
use super::super::shared::StoreShared;
use super::super::tree::{Cursor, Peek};
use super::CasVolume;
use crate::clock::{self, Instant};
use crate::units::{Lba, SECTOR_SIZE, Sectors};

/// Blocks and nodes that were fetched last, and that no cache can refuse: more than are wanted by all
/// requests that may be parked.
const RECENT: usize = 256;
/// How long they are kept for who waited for them, and has perhaps to wait for room on the wire, too.
const KEPT: Duration = Duration::from_secs(1);
/// From how many reads in a row on blocks are fetched ahead.
const RUN: u32 = 3;
/// Bytes that are fetched ahead at first, and at most.
const AHEAD_BYTES: (u64, u64) = (128 << 10, 8 << 20);
/// Bytes that a read may lie behind the furthest one of a run without ending it: requests that had to wait
/// are asked again when others, that came later, have been answered.
const BEHIND_BYTES: u64 = 1 << 20;
/// Bytes of one fetch ahead: short enough for several threads to share them.
const AHEAD_PIECE_BYTES: u64 = 512 << 10;

/// What a front end has to do with reads.
#[derive(Debug)]
pub(super) struct Reads {
    link: FetchLink,
    cursor: Cursor,
    /// Fetches that have not come back.
    outstanding: Vec<Fetch>,
    /// Blocks that could not be had, to be told once each.
    faults: VecDeque<(TreeRoot, u64)>,
    /// Verifications that ended well, to be told once each.
    verified: VecDeque<Fetch>,
    blocks: VecDeque<(ContentId, Arc<Block>)>,
    /// When the last of those came.
    came: Instant,
    /// Blocks of the request that is being answered.
    used: Vec<ContentId>,
    nodes: VecDeque<(ContentId, Arc<Node>)>,
    ahead: Ahead,
}

/// What is read one behind the other.
#[derive(Debug)]
struct Ahead {
    /// The block behind the furthest that a read of the run had.
    next: u64,
    run: u32,
    /// Blocks up to here were asked for.
    until: u64,
    /// Blocks to be ahead.
    window: u64,
    /// The first and the longest window.
    windows: (u64, u64),
    behind: u64,
    piece: u64,
}

impl Ahead {
    fn new(store: &StoreShared) -> Self {
        let blocks = |bytes: u64| (bytes / store.block_bytes as u64).max(1);
        // What is fetched ahead must not push itself out of the cache.
        let most = AHEAD_BYTES.1.min(store.reader.ahead_bytes());
        let windows = (blocks(AHEAD_BYTES.0.min(most)), blocks(most));
        let (behind, piece) = (blocks(BEHIND_BYTES), blocks(AHEAD_PIECE_BYTES));
        Self { next: 0, run: 0, until: 0, window: windows.0, windows, behind, piece }
    }

    /// Takes in a read of the blocks from `first` to `last`; tells which are to be fetched ahead.
    fn follow(&mut self, first: u64, last: u64) -> Option<(u64, u64)> {
        if first > self.next || first + self.behind < self.next {
            *self = Self { next: last + 1, run: 0, until: 0, window: self.windows.0, ..*self };
        } else if last + 1 > self.next {
            self.next = last + 1;
            self.run = self.run.saturating_add(1);
        }
        if self.run < RUN || self.until > self.next + self.window / 2 {
            return None;
        }
        let from = self.until.max(self.next);
        self.until = self.next + self.window;
        self.window = (self.window * 2).min(self.windows.1);
        Some((from, self.until))
    }
}

impl Reads {
    pub(super) fn new(link: FetchLink, store: &StoreShared) -> Self {
        Self {
            link,
            cursor: Cursor::default(),
            outstanding: Vec::with_capacity(FETCHES),
            faults: VecDeque::with_capacity(RECENT),
            verified: VecDeque::with_capacity(RECENT),
            blocks: VecDeque::with_capacity(RECENT),
            came: Instant::ZERO,
            used: Vec::with_capacity(RECENT),
            nodes: VecDeque::with_capacity(RECENT),
            ahead: Ahead::new(store),
        }
    }

    /// Asks for blocks, unless they are on their way. Tells whether they are now.
    fn fetch(&mut self, fetch: Fetch) -> bool {
        let covered = self.outstanding.iter().any(|other| other.covers(&fetch));
        if covered {
            return true;
        }
        // The last places are for those that somebody waits for.
        let spare = if fetch.purpose == Purpose::Ahead { FETCHES / 2 } else { 0 };
        if self.outstanding.len() + spare >= FETCHES || !self.link.send(fetch) {
            return false;
        }
        self.outstanding.push(fetch);
        true
    }

    /// Lets go of the blocks of a request that is answered: another one that wants them too finds them
    /// in the cache, or has them fetched again.
    fn forget_used(&mut self) {
        if !self.blocks.is_empty() {
            self.blocks.retain(|(known, _)| !self.used.contains(known));
        }
    }

    /// Lets go of blocks that nobody wants: whoever waited for them has had the time to ask again, and waits
    /// for no others.
    pub(super) fn forget_unwanted(&mut self) {
        let is_wanted = |fetch: &Fetch| fetch.purpose == Purpose::Read;
        if !self.blocks.is_empty()
            && !self.outstanding.iter().any(is_wanted)
            && clock::now().since(self.came) >= KEPT
        {
            self.blocks.clear();
        }
    }

    /// The fault of a block that could not be had, the first time it is asked for.
    fn take_fault(&mut self, root: TreeRoot, block: u64) -> Option<Fault> {
        let place = self.faults.iter().position(|fault| *fault == (root, block))?;
        self.faults.remove(place);
        Some(Fault::Media)
    }
}

/// Adds to a queue of bounded length, at the expense of the oldest.
fn push_recent<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == RECENT {
        queue.pop_front();
    }
    queue.push_back(item);
}

impl CasVolume {
    pub(super) fn read_sectors(&mut self, lba: Lba, into: &mut [u8]) -> Result<Ready, Fault> {
        let mut ready = true;
        self.reads.used.clear();
        let (mut first, mut last) = (u64::MAX, 0);
        for piece in pieces(lba, into.len() / SECTOR_SIZE, self.store.block_bytes) {
            ready &= self.read_piece(piece, &mut into[piece.in_request()])?;
            (first, last) = (first.min(piece.block.0), last.max(piece.block.0));
        }
        if ready {
            self.reads.forget_used();
        }
        if first <= last {
            self.read_ahead(first, last);
        }
        Ok(if ready { Ready::Done } else { Ready::Later })
    }

    /// Fills the sectors of a piece; `false` when they are on their way.
    fn read_piece(&mut self, piece: Piece, into: &mut [u8]) -> Result<bool, Fault> {
        let mut wanted = piece.mask();
        if let Some(writing) = &self.writing {
            wanted = writing.active.compose(piece.block, piece.first, wanted, into);
        }
        for generation in &self.frozen {
            if wanted == 0 {
                return Ok(true);
            }
            wanted = generation.compose(piece.block, piece.first, wanted, into);
        }
        if wanted == 0 {
            return Ok(true);
        }
        let Self { reads, store, view, .. } = self;
        let nodes = CachedNodes { reader: &store.reader, recent: &reads.nodes };
        match reads.cursor.peek(view.root, piece.block, &nodes) {
            Ok(Peek::Found(None)) => {
                zero_sectors(wanted, piece.first, into);
                return Ok(true);
            }
            Ok(Peek::Found(Some(id))) => {
                let recent = || {
                    let (_, octets) = reads.blocks.iter().rev().find(|(known, _)| *known == id)?;
                    Some(Arc::clone(octets))
                };
                if let Some(octets) = store.reader.cached_block(id).or_else(recent) {
                    if wanted & !sectors_of(&octets, store.block_bytes) != 0 {
                        // It was had in part, which counts for who has waited for it only.
                        reads.blocks.retain(|(known, _)| *known != id);
                        return Err(Fault::Media);
                    }
                    copy_sectors(wanted, piece.first, into, |range| &octets[range]);
                    reads.used.push(id);
                    return Ok(true);
                }
            }
            // What is wrong with a tree is told where it is fetched.
            Ok(Peek::Missing { .. }) | Err(_) => {}
        }
        if let Some(fault) = reads.take_fault(view.root, piece.block.0) {
            return Err(fault);
        }
        let (root, first) = (view.root, piece.block.0);
        reads.fetch(Fetch { root, first, count: 1, purpose: Purpose::Read });
        Ok(false)
    }

    /// Asks for the blocks that a sequential reader will want next.
    fn read_ahead(&mut self, first: u64, last: u64) {
        let Some((mut from, until)) = self.reads.ahead.follow(first, last) else { return };
        let blocks = self.info.size.0.div_ceil((self.store.block_bytes / SECTOR_SIZE) as u64);
        let until = until.min(blocks);
        while from < until {
            #[allow(clippy::cast_possible_truncation, reason = "a piece is a few blocks")]
            let count = (until - from).min(self.reads.ahead.piece) as u32;
            let fetch = Fetch { root: self.view.root, first: from, count, purpose: Purpose::Ahead };
            if !self.reads.fetch(fetch) {
                self.reads.ahead.until = from;
                return;
            }
            from += u64::from(count);
        }
    }

    /// Takes in what was fetched.
    pub(super) fn take_fetched(&mut self) {
        while let Some(fetched) = self.reads.link.receive() {
            self.came_back = true;
            let Fetched { fetch, nodes, blocks, faults } = fetched;
            if let Some(place) = self.reads.outstanding.iter().position(|known| *known == fetch) {
                self.reads.outstanding.swap_remove(place);
            }
            let clean = faults.is_empty();
            for (id, node) in nodes {
                self.store.reader.keep_node(id, &node);
                push_recent(&mut self.reads.nodes, (id, node));
            }
            for (id, octets) in blocks {
                self.store.reader.keep_block(id, &octets);
                if fetch.purpose == Purpose::Read {
                    push_recent(&mut self.reads.blocks, (id, octets));
                    self.reads.came = clock::now();
                }
            }
            if fetch.purpose != Purpose::Ahead {
                for block in faults {
                    push_recent(&mut self.reads.faults, (fetch.root, block));
                }
            }
            if clean && fetch.purpose == Purpose::Verify {
                push_recent(&mut self.reads.verified, fetch);
            }
        }
    }

    /// Has the blocks of these sectors read from where they are kept.
    pub(super) fn verify_sectors(&mut self, lba: Lba, count: Sectors) -> Result<Ready, Fault> {
        if count.0 == 0 {
            return Ok(Ready::Done);
        }
        let per_block = (self.store.block_bytes / SECTOR_SIZE) as u64;
        let (first, last) = (lba.0 / per_block, (lba.0 + count.0 - 1) / per_block);
        let blocks = u32::try_from(last - first + 1).map_err(|_| Fault::OutOfRange)?;
        let root = self.view.root;
        let fetch = Fetch { root, first, count: blocks, purpose: Purpose::Verify };
        if let Some(place) = self.reads.verified.iter().position(|done| *done == fetch) {
            self.reads.verified.remove(place);
            return Ok(Ready::Done);
        }
        let bad = |(at, block): &(TreeRoot, u64)| *at == root && (first..=last).contains(block);
        if let Some(place) = self.reads.faults.iter().position(bad) {
            self.reads.faults.remove(place);
            return Err(Fault::Media);
        }
        self.reads.fetch(fetch);
        Ok(Ready::Later)
    }
}
