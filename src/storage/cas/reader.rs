//! From the name of a block to its octets: the index tells the pack, a part of the pack is read, and
//! what is in it is checked by its name.
//!
//! # Invariants
//! * What comes out of here hashes to the name that was asked for.
//! * What cannot be had is an error that says why. Only a tree can say that a block is zeros.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use rtrb::{Consumer, Producer, RingBuffer};

use super::block::{Block, BlockBuffers};
use super::error::ReadError;
use super::frame::{FrameHeader, open_frame, open_frame_into};
use super::fsck::{Finding, FsckReport};
use super::id::TreeRoot;
use super::index::{Index, Location};
use super::manifest::PackEntry;
use super::node::Node;
use super::orphan::Orphan;
use super::patch::{Patch, base_of};
use super::runs::Runs;
use super::shared::Bell;
#[cfg(test)]
use super::simulation::{Bug, is_planted};
use super::sleepers::Sleepers;
use super::tree::{self, Cursor, NodeMemory, NodeSource, Peek};
use super::trust::PackTrust;
use super::{BlockNumber, ContentId, FrameKind};
use crate::blob::{BlobId, BlobStore};
use crate::units::SECTOR_SIZE;
use crate::wake::Waker;

/// Fetches of one front end that can be under way.
pub(super) const FETCHES: usize = 64;
/// Frames of one pack are read in one piece when no more than this lies between them, in bytes: about
/// what a disk reads in the time of another request.
const GAP: u64 = 64 << 10;
/// The longest such piece, in bytes.
const SPAN: u64 = 1 << 20;
/// Of what is kept in memory, the part that is for nodes: 1/8 and at least this, in bytes, but never more
/// than half.
const NODES_LEAST: u64 = 4 << 20;
/// The part of that, one of so many, that is for nodes which are no leaves. All of them fit with the usual
/// 256 MiB, as long as what is read has no more than 500 GiB, in blocks of 16 KiB.
const UPPER: u64 = 4;
/// Of the cache of blocks, the part that is for those that were asked for again. The rest is for what has
/// just come: too little of it, and what was fetched ahead would be gone before somebody reads it.
const HOT: f64 = 0.75;
/// How many readers may each have as much fetched ahead as they can, before they push each other's blocks
/// out: what is not [`HOT`], by the most that is fetched ahead for one.
const AHEAD_READERS: u64 = 8;
/// What the table of a cache takes for an entry beside its octets, in bytes, roughly.
const ENTRY: u64 = 128;

/// Counts nodes and blocks by what they take in memory.
#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<ContentId, Arc<Block>> for ByBytes {
    fn weight(&self, _: &ContentId, octets: &Arc<Block>) -> u64 {
        octets.len() as u64 + ENTRY
    }
}

impl Weighter<ContentId, Arc<Node>> for ByBytes {
    fn weight(&self, _: &ContentId, node: &Arc<Node>) -> u64 {
        node.memory_bytes() as u64 + ENTRY
    }
}

/// Which packs there are, by their numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct PackTable(Vec<Option<PackEntry>>);

impl PackTable {
    pub(super) fn insert(&mut self, entry: PackEntry) {
        let place = entry.number as usize;
        if place >= self.0.len() {
            self.0.resize(place + 1, None);
        }
        self.0[place] = Some(entry);
    }

    pub(super) fn get(&self, number: u32) -> Option<PackEntry> {
        self.0.get(number as usize).copied().flatten()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = PackEntry> + Clone {
        self.0.iter().flatten().copied()
    }
}

/// What was read, and how often, since the store was opened.
#[derive(Debug, Default)]
pub(super) struct ReadCounters {
    /// Blocks that were in memory.
    pub(super) hits: AtomicU64,
    /// Parts of packs that were read.
    pub(super) reads: AtomicU64,
    /// Octets of those.
    pub(super) bytes: AtomicU64,
    /// Blocks and nodes that could not be had.
    pub(super) failures: AtomicU64,
}

/// Reads what a store keeps. Shared by all of its threads.
#[derive(Debug)]
pub(super) struct Reader {
    /// For the log.
    name: String,
    pub(super) blobs: Arc<dyn BlobStore>,
    pub(super) index: Index<Runs>,
    /// For the thread that commits, which also mends the index.
    pub(super) commit_bell: Arc<Bell>,
    pub(super) packs: RwLock<PackTable>,
    pub(super) trust: PackTrust,
    /// Nodes with others below them: there are few of them, and leaves do not push them out.
    upper: Cache<ContentId, Arc<Node>, ByBytes>,
    leaves: Cache<ContentId, Arc<Node>, ByBytes>,
    blocks: Cache<ContentId, Arc<Block>, ByBytes>,
    /// For the octets of blocks.
    buffers: Arc<BlockBuffers>,
    cache_bytes: u64,
    block_bytes: usize,
    pub(super) counters: ReadCounters,
    pub(super) pool: FetchPool,
}

impl std::fmt::Debug for dyn BlobStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlobStore")
    }
}

impl Reader {
    /// Keeps up to `cache_bytes` of nodes and blocks in memory.
    pub(super) fn new(
        name: String,
        blobs: Arc<dyn BlobStore>,
        index: Index<Runs>,
        packs: PackTable,
        block_bytes: usize,
        cache_bytes: u64,
    ) -> Self {
        let for_nodes = (cache_bytes / 8).max(NODES_LEAST.min(cache_bytes / 2));
        let for_blocks = cache_bytes - for_nodes;
        let for_upper = for_nodes / UPPER;
        let for_leaves = for_nodes - for_upper;
        let count = |bytes: u64, each: u64| usize::try_from(bytes / each + 1).unwrap_or(1 << 20);
        Self {
            name,
            blobs,
            index,
            commit_bell: Arc::default(),
            packs: RwLock::new(packs),
            trust: PackTrust::default(),
            upper: Cache::with_weighter(count(for_upper, 4096), for_upper, ByBytes),
            leaves: Cache::with_weighter(count(for_leaves, 4096), for_leaves, ByBytes),
            blocks: blocks_cache(count(for_blocks, block_bytes as u64), for_blocks),
            // What the cache lets go others take soon; they are beside it.
            buffers: Arc::new(BlockBuffers::new(
                block_bytes,
                count(for_blocks / 16, block_bytes as u64),
            )),
            cache_bytes,
            block_bytes,
            counters: ReadCounters::default(),
            pool: FetchPool::default(),
        }
    }

    /// How much may be fetched ahead for one reader, in bytes.
    pub(super) fn ahead_bytes(&self) -> u64 {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
        #[allow(clippy::cast_sign_loss, reason = "a part of it, roughly")]
        let cold = (self.blocks.capacity() as f64 * (1.0 - HOT)) as u64;
        cold / AHEAD_READERS
    }

    /// What may be kept in memory, in bytes.
    pub(super) fn cache_bytes(&self) -> u64 {
        self.cache_bytes
    }

    /// What is kept in memory now, in bytes.
    pub(super) fn cached_bytes(&self) -> u64 {
        self.upper.weight() + self.leaves.weight() + self.blocks.weight()
    }

    pub(super) fn cached_block(&self, id: ContentId) -> Option<Arc<Block>> {
        let found = self.blocks.get(&id);
        if found.is_some() {
            self.counters.hits.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    /// Keeps a block in memory; not one that was had in part, since the rest may be had the next time.
    pub(super) fn keep_block(&self, id: ContentId, octets: &Arc<Block>) {
        if octets.len() == self.block_bytes {
            self.blocks.insert(id, Arc::clone(octets));
        }
    }

    pub(super) fn keep_node(&self, id: ContentId, node: &Arc<Node>) {
        self.nodes(node.level()).insert(id, Arc::clone(node));
    }

    /// Where nodes of a level are kept.
    fn nodes(&self, level: u8) -> &Cache<ContentId, Arc<Node>, ByBytes> {
        if level == 0 { &self.leaves } else { &self.upper }
    }

    /// Where a frame is: its pack's name, too.
    fn locate(&self, id: ContentId) -> Result<(BlobId, Location), ReadError> {
        // The index has noted what is wrong with it.
        let found = self.index.get(id).inspect_err(|_| self.commit_bell.ring());
        let location = found?.ok_or(ReadError::Unknown { id })?;
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        let pack = packs.get(location.pack);
        let pack = pack.ok_or(ReadError::UnknownPack { number: location.pack })?;
        Ok((pack.id, location))
    }

    fn read_part(&self, pack: BlobId, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes.fetch_add(into.len() as u64, Ordering::Relaxed);
        Ok(self.blobs.get_range(pack, offset, into)?)
    }

    /// Does not rely on a pack any more if what was to be read of it is lost.
    fn doubting<T>(&self, pack: u32, read: Result<T, ReadError>) -> Result<T, ReadError> {
        if read.as_ref().is_err_and(ReadError::is_loss) {
            self.trust.doubt(pack);
        }
        read
    }

    /// What `open` makes of a frame, from where it is kept.
    fn opened<T>(
        &self,
        (pack, location): (BlobId, Location),
        open: impl FnOnce(&[u8]) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let Location { pack: number, place } = location;
        let mut octets = vec![0; place.len as usize];
        let read = self.read_part(pack, place.offset.into(), &mut octets);
        self.doubting(number, read.and_then(|()| open(&octets)))
    }

    /// Whether a frame is stored, and can be had as far as is known: otherwise it has to be stored again.
    pub(super) fn is_stored(&self, id: ContentId) -> Result<bool, ReadError> {
        #[cfg(test)]
        if is_planted(Bug::DedupForgotten) {
            return Ok(false);
        }
        let (pack, location) = match self.locate(id) {
            Ok(found) => found,
            // If the index cannot tell: stored twice is as good as once.
            Err(
                ReadError::Unknown { .. } | ReadError::UnknownPack { .. } | ReadError::Index(_),
            ) => return Ok(false),
            Err(error) => return Err(error),
        };
        match self.relies_on(location.pack) {
            Ok(false) => {}
            Err(error) if error.is_io() => return Ok(false),
            relies => return relies,
        }
        let opened = self.opened((pack, location), |octets| {
            let kind = FrameHeader::parse(octets).map_or(FrameKind::Block, |header| header.kind);
            open_frame(octets, kind, id).map_err(|source| ReadError::Frame { pack, id, source })
        });
        match opened {
            Ok(_) => Ok(true),
            Err(error) if error.is_loss() || error.is_io() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether nothing of a pack is known to be lost. Who asks for the first time finds out whether it is
    /// there, in its length.
    fn relies_on(&self, number: u32) -> Result<bool, ReadError> {
        if let Some(relies) = self.trust.of(number) {
            return Ok(relies);
        }
        let pack = self.packs.read().unwrap_or_else(PoisonError::into_inner).get(number);
        let pack = pack.ok_or(ReadError::UnknownPack { number })?;
        match self.blobs.info(pack.id).map_err(ReadError::from) {
            Ok(info) if info.len == u64::from(pack.bytes) => self.trust.rely_on(number),
            Ok(_) => self.trust.doubt(number),
            Err(error) if error.is_loss() => self.trust.doubt(number),
            Err(error) => return Err(error),
        }
        Ok(self.trust.of(number) == Some(true))
    }

    /// Does not rely on packs any more in which something was found.
    pub(super) fn doubt(&self, report: &FsckReport) {
        let named: HashSet<_> = report.findings.iter().filter_map(Finding::blob).collect();
        let named = |pack: &PackEntry| named.contains(&pack.id);
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        packs.iter().filter(named).for_each(|pack| self.trust.doubt(pack.number));
    }

    /// A block, from memory or from where it is kept; in part, if it is a patch on something that cannot
    /// be read.
    pub(super) fn block(&self, id: ContentId) -> Result<Arc<Block>, ReadError> {
        if let Some(octets) = self.blocks.get(&id) {
            return Ok(octets);
        }
        let (pack, location) = self.locate(id)?;
        self.opened((pack, location), |octets| self.open_block(octets, pack, id))
    }

    /// What the frame of a block says.
    fn open_block(
        &self,
        frame: &[u8],
        pack: BlobId,
        id: ContentId,
    ) -> Result<Arc<Block>, ReadError> {
        let damaged = |source| ReadError::Frame { pack, id, source };
        let kind = FrameHeader::parse(frame).map(|header| header.kind);
        if kind == Ok(FrameKind::Orphan) {
            let orphan = open_orphan(frame, pack, id)?;
            return match self.parted(&orphan)? {
                Some(child) => self.block(child),
                None => Ok(self.zeros()),
            };
        }
        if kind != Ok(FrameKind::Patch) {
            let mut octets = self.buffers.take();
            if let Err(source) = open_frame_into(frame, FrameKind::Block, id, &mut octets) {
                self.buffers.put_back(octets);
                return Err(damaged(source));
            }
            return self.of_block_length(octets, id);
        }
        let raw = open_frame(frame, FrameKind::Patch, id).map_err(damaged)?;
        let patch = Patch::parse(&raw, self.block_bytes);
        let patch = patch.ok_or(ReadError::Block { id, len: raw.len() })?;
        match self.block(patch.base) {
            Ok(base) => Ok(Block::new(patch.on(&base), &self.buffers)),
            Err(error) if error.is_loss() || error.is_io() => {
                Ok(Block::new(patch.in_part(), &self.buffers))
            }
            Err(error) => Err(error),
        }
    }

    fn zeros(&self) -> Arc<Block> {
        let mut octets = self.buffers.take();
        octets.fill(0);
        Block::new(octets, &self.buffers)
    }

    /// What an orphan stands for; `None` for zeros.
    fn parted(&self, orphan: &Orphan) -> Result<Option<ContentId>, ReadError> {
        Ok(orphan.of(&*tree::read(self, orphan.parent, orphan.level)?))
    }

    /// Others would be taken for blocks in part.
    fn of_block_length(&self, octets: Vec<u8>, id: ContentId) -> Result<Arc<Block>, ReadError> {
        if octets.len() == self.block_bytes {
            Ok(Block::new(octets, &self.buffers))
        } else {
            Err(ReadError::Block { id, len: octets.len() })
        }
    }

    /// Does what a fetch for `disk` says. Pieces of packs are read into `piece`, which grows as it has to.
    fn load(&self, fetch: Fetch, disk: &str, piece: &mut Vec<u8>) -> Fetched {
        let mut loading = Loading::new(self, fetch, disk, piece);
        loading.find();
        loading.read();
        loading.fetched
    }

    fn tell_failure(&self, fetch: &Fetch, disk: &str, block: u64, error: &ReadError) {
        // Each is answered with an error, which somebody has to look into.
        let count = self.counters.failures.fetch_add(1, Ordering::Relaxed);
        if fetch.purpose == Purpose::Ahead || count > 1000 && !count.is_multiple_of(1000) {
            return;
        }
        let per_block = (self.block_bytes / SECTOR_SIZE) as u64;
        let (first, last) = (block * per_block, (block + 1) * per_block - 1);
        log::error!(
            "archive {}: {disk}: sectors {first} to {last} CANNOT BE READ in full, and are answered with an \
             error: {error}",
            self.name
        );
    }
}

/// For `count` blocks or so, which take `bytes` at most.
fn blocks_cache(count: usize, bytes: u64) -> Cache<ContentId, Arc<Block>, ByBytes> {
    let options = OptionsBuilder::new()
        .estimated_items_capacity(count)
        .weight_capacity(bytes)
        .hot_allocation(HOT)
        .build();
    let Ok(options) = options else { unreachable!("all that has to be said is") };
    Cache::with_options(
        options,
        ByBytes,
        DefaultHashBuilder::default(),
        DefaultLifecycle::default(),
    )
}

impl NodeSource for Reader {
    type Error = ReadError;

    fn node(&self, id: ContentId, level: u8) -> Result<Arc<Node>, ReadError> {
        if let Some(node) = self.nodes(level).get(&id) {
            return Ok(node);
        }
        let (pack, location) = self.locate(id)?;
        let found = self.opened((pack, location), |frame| {
            if FrameHeader::parse(frame).is_ok_and(|header| header.kind == FrameKind::Orphan) {
                return Ok(Err(open_orphan(frame, pack, id)?));
            }
            let damaged = |source| ReadError::Frame { pack, id, source };
            let octets = open_frame(frame, FrameKind::Node, id).map_err(damaged)?;
            let node = Node::parse(&octets).map_err(|source| ReadError::Node { id, source })?;
            Ok(Ok(Arc::new(node)))
        })?;
        let node = match found {
            Ok(node) => node,
            Err(orphan) => match self.parted(&orphan)? {
                Some(child) => tree::read(self, child, level)?,
                None => Arc::new(Node::nothing(level)),
            },
        };
        self.keep_node(id, &node);
        Ok(node)
    }
}

/// The orphan in a frame.
fn open_orphan(frame: &[u8], pack: BlobId, id: ContentId) -> Result<Orphan, ReadError> {
    let raw = open_frame(frame, FrameKind::Orphan, id).map_err(|source| ReadError::Frame {
        pack,
        id,
        source,
    })?;
    Orphan::parse(&raw).ok_or(ReadError::Block { id, len: raw.len() })
}

/// The nodes that are in memory: nothing is read for them.
pub(super) struct CachedNodes<'a> {
    pub(super) reader: &'a Reader,
    /// Those that were fetched last.
    pub(super) recent: &'a VecDeque<(ContentId, Arc<Node>)>,
}

impl NodeMemory for CachedNodes<'_> {
    fn cached(&self, id: ContentId, level: u8) -> Option<Arc<Node>> {
        let recent = || {
            let (_, node) = self.recent.iter().rev().find(|(known, _)| *known == id)?;
            Some(Arc::clone(node))
        };
        self.reader.nodes(level).get(&id).or_else(recent)
    }
}

/// Why blocks are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Somebody waits for them.
    Read,
    /// Somebody may want them next.
    Ahead,
    /// To see that they can be read.
    Verify,
}

/// What the poll loop asks of the threads that read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fetch {
    pub(super) root: TreeRoot,
    /// The first block.
    pub(super) first: u64,
    /// How many.
    pub(super) count: u32,
    pub(super) purpose: Purpose,
}

impl Fetch {
    /// Whether this brings what `other` is to bring.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let end = |fetch: &Self| fetch.first + u64::from(fetch.count);
        let kind = self.purpose == other.purpose
            || (self.purpose != Purpose::Verify && other.purpose != Purpose::Verify);
        kind && self.root == other.root && self.first <= other.first && end(self) >= end(other)
    }
}

/// What a fetch has brought.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) fetch: Fetch,
    pub(super) nodes: Vec<(ContentId, Arc<Node>)>,
    /// None for a verification.
    pub(super) blocks: Vec<(ContentId, Arc<Block>)>,
    /// Blocks that could not be had.
    pub(super) faults: Vec<u64>,
}

/// A fetch that is under way.
struct Loading<'a> {
    reader: &'a Reader,
    fetched: Fetched,
    /// What it is for, for the log.
    disk: &'a str,
    /// What is to be read: block, name, pack, place.
    wanted: Vec<(u64, ContentId, BlobId, Location)>,
    /// For a piece of a pack.
    piece: &'a mut Vec<u8>,
}

impl<'a> Loading<'a> {
    fn new(reader: &'a Reader, fetch: Fetch, disk: &'a str, piece: &'a mut Vec<u8>) -> Self {
        let fetched = Fetched { fetch, nodes: Vec::new(), blocks: Vec::new(), faults: Vec::new() };
        Self { reader, fetched, disk, wanted: Vec::new(), piece }
    }

    fn fail(&mut self, block: u64, error: &ReadError) {
        self.reader.tell_failure(&self.fetched.fetch, self.disk, block, error);
        self.fetched.faults.push(block);
    }

    /// Finds out where the blocks are.
    fn find(&mut self) {
        let Fetch { root, first, count, purpose } = self.fetched.fetch;
        let mut cursor = Cursor::default();
        for block in first..first + u64::from(count) {
            let found = loop {
                let looked = {
                    let nodes = Nodes { reader: self.reader, brought: &self.fetched.nodes };
                    cursor.peek(root, BlockNumber(block), &nodes)
                };
                match looked {
                    Ok(Peek::Found(found)) => break Ok(found),
                    Ok(Peek::Missing { id, level }) => match self.reader.node(id, level) {
                        Ok(node) => self.fetched.nodes.push((id, node)),
                        Err(error) => break Err(error),
                    },
                    Err(error) => break Err(error.into()),
                }
            };
            let id = match found {
                Ok(None) => continue,
                Ok(Some(id)) => id,
                Err(error) => {
                    self.fail(block, &error);
                    continue;
                }
            };
            if purpose != Purpose::Verify
                && let Some(octets) = self.reader.blocks.get(&id)
            {
                if purpose == Purpose::Read {
                    self.fetched.blocks.push((id, octets));
                }
                continue;
            }
            match self.reader.locate(id) {
                Ok((pack, location)) => self.wanted.push((block, id, pack, location)),
                Err(error) => self.fail(block, &error),
            }
        }
    }

    /// Reads them, neighbours in one piece.
    fn read(&mut self) {
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.sort_unstable_by_key(|(_, _, _, at)| (at.pack, at.place.offset));
        let end = |at: &Location| u64::from(at.place.offset) + u64::from(at.place.len);
        let mut rest = wanted.as_slice();
        while let Some((_, _, pack, first)) = rest.first() {
            let start = u64::from(first.place.offset);
            let mut stop = end(first);
            let mut count = 1;
            while let Some((_, _, _, next)) = rest.get(count) {
                let near = next.pack == first.pack
                    && u64::from(next.place.offset) <= stop + GAP
                    && end(next) <= start + SPAN;
                if !near {
                    break;
                }
                stop = stop.max(end(next));
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            self.read_span(*pack, start, stop, now);
            rest = later;
        }
    }

    fn read_span(
        &mut self,
        pack: BlobId,
        start: u64,
        stop: u64,
        wanted: &[(u64, ContentId, BlobId, Location)],
    ) {
        #[allow(clippy::cast_possible_truncation, reason = "it is at most a frame or SPAN")]
        let len = (stop - start) as usize;
        if self.piece.len() < len {
            self.piece.resize(len, 0);
        }
        if let Err(error) = self.reader.read_part(pack, start, &mut self.piece[..len]) {
            if let [(block, _, _, at)] = wanted {
                if error.is_loss() {
                    self.reader.trust.doubt(at.pack);
                }
                self.fail(*block, &error);
                return;
            }
            // One of them may be past the end of a pack that was cut off; the others are not.
            for one in wanted {
                let start = u64::from(one.3.place.offset);
                self.read_span(
                    pack,
                    start,
                    start + u64::from(one.3.place.len),
                    std::slice::from_ref(one),
                );
            }
            return;
        }
        for (block, id, _, Location { pack: number, place }) in wanted {
            #[allow(clippy::cast_possible_truncation, reason = "it lies within the octets")]
            let at = (u64::from(place.offset) - start) as usize;
            let frame = &self.piece[at..at + place.len as usize];
            match self.reader.doubting(*number, self.reader.open_block(frame, pack, *id)) {
                Ok(octets) if self.fetched.fetch.purpose == Purpose::Verify => {
                    if let Some(base) = base_of(&octets, self.reader.block_bytes) {
                        self.fail(*block, &ReadError::InPart { id: *id, base });
                    }
                }
                Ok(octets) => self.fetched.blocks.push((*id, octets)),
                Err(error) => self.fail(*block, &error),
            }
        }
    }
}

/// Nodes in memory and those that a fetch has brought.
struct Nodes<'a> {
    reader: &'a Reader,
    brought: &'a [(ContentId, Arc<Node>)],
}

impl NodeMemory for Nodes<'_> {
    fn cached(&self, id: ContentId, level: u8) -> Option<Arc<Node>> {
        let brought = self.brought.iter().find(|(known, _)| *known == id);
        brought.map(|(_, node)| Arc::clone(node)).or_else(|| self.reader.nodes(level).get(&id))
    }
}

/// A front end's way to the threads that read.
#[derive(Debug)]
pub(super) struct FetchLink {
    fetches: Producer<Fetch>,
    fetched: Consumer<Fetched>,
    pool: Arc<Sleepers>,
}

impl FetchLink {
    /// Passes a fetch on; `false` when there is no room.
    pub(super) fn send(&mut self, fetch: Fetch) -> bool {
        let sent = self.fetches.push(fetch).is_ok();
        self.pool.wake_one();
        sent
    }

    pub(super) fn receive(&mut self) -> Option<Fetched> {
        self.fetched.pop().ok()
    }
}

/// The other end of a [`FetchLink`].
#[derive(Debug)]
struct FetchEnd {
    fetches: Consumer<Fetch>,
    fetched: Arc<Mutex<Producer<Fetched>>>,
    waker: Option<Waker>,
    /// The volume, or the snapshot, for the log.
    disk: Arc<str>,
}

/// A fetch, what it is for, where its result goes, and who is to be woken for it.
type TakenFetch = (Fetch, Arc<str>, Arc<Mutex<Producer<Fetched>>>, Option<Waker>);

/// Serves a fetch, whose pieces of packs are read into `piece`.
fn serve(reader: &Reader, (fetch, disk, fetched, waker): TakenFetch, piece: &mut Vec<u8>) {
    let result = reader.load(fetch, &disk, piece);
    // A front end never has more fetches under way than there is room for.
    let _ = fetched.lock().unwrap_or_else(PoisonError::into_inner).push(result);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// What the threads that read look into for work.
#[derive(Debug, Default)]
pub(super) struct FetchPool {
    ends: Mutex<Vec<FetchEnd>>,
    sleepers: Arc<Sleepers>,
    ended: AtomicBool,
}

impl FetchPool {
    /// A way in for the front end of `disk`.
    pub(super) fn link(&self, disk: &str, waker: Option<Waker>) -> FetchLink {
        let (fetches, wanted) = RingBuffer::new(FETCHES);
        let (done, fetched) = RingBuffer::new(FETCHES);
        let (fetched_end, disk) = (Arc::new(Mutex::new(done)), Arc::from(disk));
        let end = FetchEnd { fetches: wanted, fetched: fetched_end, waker, disk };
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).push(end);
        FetchLink { fetches, fetched, pool: Arc::clone(&self.sleepers) }
    }

    /// Serves one fetch; `false` when there is none.
    #[cfg(test)]
    pub(super) fn step(&self, reader: &Reader) -> bool {
        let Some(taken) = self.take() else { return false };
        serve(reader, taken, &mut Vec::new());
        true
    }

    fn take(&self) -> Option<TakenFetch> {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.retain(|end| !end.fetches.is_abandoned());
        let place = ends.iter().position(|end| !end.fetches.is_empty())?;
        let end = &mut ends[place];
        let fetch = end.fetches.pop().ok()?;
        let (disk, fetched) = (Arc::clone(&end.disk), Arc::clone(&end.fetched));
        let taken = (fetch, disk, fetched, end.waker.clone());
        // The others first, next time.
        ends.rotate_left(place + 1);
        Some(taken)
    }

    /// Serves fetches until [`Self::end`].
    pub(super) fn run(&self, reader: &Reader) {
        let own = self.sleepers.join();
        let mut piece = Vec::new();
        while !self.ended.load(Ordering::Acquire) {
            let mut taken = self.take();
            if taken.is_none() {
                self.sleepers.sleep(&own, || {
                    taken = self.take();
                    taken.is_some() || self.ended.load(Ordering::Acquire)
                });
            }
            if let Some(taken) = taken {
                serve(reader, taken, &mut piece);
            }
        }
    }

    /// Lets the threads come to their end.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.sleepers.wake_all();
    }
}
