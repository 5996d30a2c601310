//! What takes the space of a store: what its volumes and snapshots hold, what several of them share, and
//! what keeping each block once and compressed saves.
//!
//! Every node that is in use is read once or twice, blocks are not. Some 80 bytes of memory are taken for
//! each block and node.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ContentId;
use super::error::{CasError, Why};
use super::frame::FRAME_HEADER;
use super::fsck::frames_of;
use super::index::{FileRuns, Index};
use super::manifest::Manifest;
use super::reader::Reader;
use super::recover::{Found, find};
use super::runs::Runs;
use super::store::files::{ExaminedFiles, examine_files};
use super::tree::NodeSource as _;
use crate::units::Sectors;

/// Bytes of nodes that are kept in memory while trees are gone through.
const CACHE: u64 = 32 << 20;
/// Stands for a block that more than one volume or snapshot has.
const SHARED: u32 = u32::MAX;

/// What a volume or a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUsage {
    /// The volume.
    pub volume: String,
    /// The snapshot of it; `None` for the volume as it is now.
    pub snapshot: Option<String>,
    /// Its size.
    pub size: Sectors,
    /// Bytes of its blocks that are not zeros throughout.
    pub mapped_bytes: u64,
    /// Bytes of the blocks that nothing else has, each counted once.
    pub own_bytes: u64,
    /// Octets that those take, and the nodes that nothing else has: what is free to be dropped when it is
    /// deleted.
    pub own_stored_bytes: u64,
}

/// What takes the space of a store. What is in its journal is not counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Where it is.
    pub path: PathBuf,
    /// Volumes, each followed by its snapshots.
    pub disks: Vec<DiskUsage>,
    /// Bytes of all those that are not zeros.
    pub mapped_bytes: u64,
    /// Bytes of their blocks, each counted once.
    pub unique_bytes: u64,
    /// Octets of those as they are stored, compressed.
    pub payload_bytes: u64,
    /// Octets of the nodes of their trees, as they are stored.
    pub node_bytes: u64,
    /// Packs.
    pub packs: u64,
    /// Octets of all packs: those, and what was overwritten or deleted, and what it takes to find things.
    pub pack_bytes: u64,
    /// Nodes and blocks that could not be found, and are missing here with all that is below them.
    pub unreadable: u64,
}

impl Usage {
    /// How many times each block is there: 2.0 when half of what is mapped need not be stored.
    pub fn dedup_ratio(&self) -> f64 {
        ratio(self.mapped_bytes, self.unique_bytes)
    }

    /// How many bytes an octet of a block's payload stands for.
    pub fn compression_ratio(&self) -> f64 {
        ratio(self.unique_bytes, self.payload_bytes)
    }

    /// How many octets of packs there are for one of a payload that is in use.
    pub fn overhead_ratio(&self) -> f64 {
        ratio(self.pack_bytes, self.payload_bytes)
    }
}

/// 1.0 where there is nothing.
#[allow(clippy::cast_precision_loss, reason = "for people to read")]
fn ratio(of: u64, by: u64) -> f64 {
    if by == 0 { 1.0 } else { of as f64 / by as f64 }
}

/// Counts what a store has that nobody has open.
pub(super) fn usage_of(path: &Path) -> Result<Usage, CasError> {
    let ExaminedFiles { blobs, roots, index, .. } = examine_files(path, None)?;
    let roots = roots.ok_or_else(|| CasError::NoRoots { path: path.into() })?;
    let Found { manifest, packs, .. } = find(path, &blobs, &roots)?;
    let failed = |why: String| CasError::Unreadable { path: path.into(), why };
    let unusable =
        || failed("its index cannot be used: aoe-server store repair --index".to_owned());
    let runs = FileRuns::open(index.ok_or_else(unusable)?).map_err(|source| CasError::Io {
        op: "open the index of",
        path: path.into(),
        source,
    })?;
    let opened = Index::open(Runs::File(runs), manifest.store);
    let index = opened.map_err(|error| failed(Why::from(error).0))?.index;
    let covered = index.covered();
    if covered.is_some_and(|covered| covered >= manifest.next_pack) {
        return Err(unusable());
    }
    for pack in packs.iter().filter(|pack| covered.is_none_or(|covered| pack.number > covered)) {
        index.insert_many(frames_of(&blobs, &pack).0);
    }
    let block_bytes = manifest.block_bytes as usize;
    let name = path.display().to_string();
    let reader = Reader::new(name, Arc::new(blobs), index, packs, block_bytes, CACHE);
    usage(path, &manifest, &reader, &|| false)
        .ok_or_else(|| CasError::Stopped { path: path.into() })
}

/// Counts what the volumes and snapshots of a manifest have; `None` when it `is_over` before.
pub(super) fn usage(
    path: &Path,
    manifest: &Manifest,
    reader: &Reader,
    is_over: &dyn Fn() -> bool,
) -> Option<Usage> {
    let (blocks, nodes) = (HashMap::new(), HashMap::new());
    let mut walk = Walk { reader, is_over, blocks, nodes, unreadable: 0, disk: 0 };
    let block_bytes = u64::from(manifest.block_bytes);
    let mut disks = Vec::new();
    for volume in &manifest.volumes {
        let snapshots = manifest.snapshots.iter().filter(|s| s.volume == volume.number);
        let states = std::iter::once((None, volume.root, volume.size))
            .chain(snapshots.map(|s| (Some(s.name.clone()), s.root, s.size)));
        for (snapshot, root, size) in states {
            let mapped = match (root.node, root.depth.checked_sub(1)) {
                (Some(id), Some(level)) => walk.node(id, level),
                _ => 0,
            };
            walk.disk += 1;
            disks.push(DiskUsage {
                volume: volume.name.clone(),
                snapshot,
                size,
                mapped_bytes: mapped * block_bytes,
                own_bytes: 0,
                own_stored_bytes: 0,
            });
        }
    }
    let (mut payload_bytes, mut node_bytes) = (0, 0);
    for (stored, owner) in walk.blocks.values() {
        payload_bytes += u64::from(*stored);
        if let Some(disk) = disks.get_mut(*owner as usize) {
            disk.own_bytes += block_bytes;
            disk.own_stored_bytes += u64::from(*stored);
        }
    }
    for node in walk.nodes.values() {
        node_bytes += u64::from(node.stored);
        if let Some(disk) = disks.get_mut(node.owner as usize) {
            disk.own_stored_bytes += u64::from(node.stored);
        }
    }
    if is_over() {
        return None;
    }
    let table = reader.packs.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    Some(Usage {
        path: path.into(),
        mapped_bytes: disks.iter().map(|disk| disk.mapped_bytes).sum(),
        unique_bytes: walk.blocks.len() as u64 * block_bytes,
        payload_bytes,
        node_bytes,
        packs: table.iter().count() as u64,
        pack_bytes: table.iter().map(|pack| u64::from(pack.bytes)).sum(),
        unreadable: walk.unreadable,
        disks,
    })
}

/// A node that was seen.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The place of the disk that has it, or [`SHARED`].
    owner: u32,
    /// Octets of its payload.
    stored: u32,
    /// Blocks below it.
    mapped: u64,
}

struct Walk<'a> {
    reader: &'a Reader,
    /// Whether nobody wants to know any more.
    is_over: &'a dyn Fn() -> bool,
    /// Octets of the payload, and who has it.
    blocks: HashMap<ContentId, (u32, u32)>,
    nodes: HashMap<ContentId, Seen>,
    unreadable: u64,
    /// The place of the disk that is gone through.
    disk: u32,
}

impl Walk<'_> {
    /// Octets that the payload of a frame takes.
    fn stored(&self, id: ContentId) -> Option<u32> {
        let at = self.reader.index.get(id).ok().flatten()?;
        #[allow(clippy::cast_possible_truncation, reason = "a few dozen octets")]
        Some(at.place.len.saturating_sub(FRAME_HEADER as u32))
    }

    /// Counts what is below a node, which takes no more than two looks at it; how many blocks.
    fn node(&mut self, id: ContentId, level: u8) -> u64 {
        if let Some(seen) =
            self.nodes.get(&id).filter(|s| s.owner == self.disk || s.owner == SHARED)
        {
            return seen.mapped;
        }
        if (self.is_over)() {
            return 0;
        }
        let node = self.reader.node(id, level).ok().filter(|node| node.level() == level);
        let (Some(node), Some(stored)) = (node, self.stored(id)) else {
            self.unreadable += 1;
            return 0;
        };
        let owner = if self.nodes.contains_key(&id) { SHARED } else { self.disk };
        let mut mapped = 0;
        for (_, child) in node.children() {
            mapped += match level.checked_sub(1) {
                Some(below) => self.node(child, below),
                None => self.block(child),
            };
        }
        self.nodes.insert(id, Seen { owner, stored, mapped });
        mapped
    }

    fn block(&mut self, id: ContentId) -> u64 {
        if let Some((_, owner)) = self.blocks.get_mut(&id) {
            if *owner != self.disk {
                *owner = SHARED;
            }
            return 1;
        }
        let Some(stored) = self.stored(id) else {
            self.unreadable += 1;
            return 0;
        };
        self.blocks.insert(id, (stored, self.disk));
        1
    }
}
