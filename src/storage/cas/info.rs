//! What a store tells of itself.

use std::path::PathBuf;

use super::StoreId;
use super::manifest::Layout;
use crate::units::{Lba, Sectors};

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInfo {
    /// What it is called.
    pub name: String,
    /// Its size.
    pub size: Sectors,
    /// When it was made, in seconds since 1970.
    pub created_unix_seconds: u64,
    /// How many snapshots it has.
    pub snapshots: usize,
    /// Whether it has a front end, as it has while it is served.
    pub attached: bool,
    /// Bytes that were written to it and are not in its tree yet, as far as they were handed over.
    pub dirty_bytes: u64,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The volume.
    pub volume: String,
    /// What it is called.
    pub name: String,
    /// The size of the volume at that time.
    pub size: Sectors,
    /// When it was made, in seconds since 1970.
    pub created_unix_seconds: u64,
}

/// Sectors that are not the same in two states of a volume. They are whole blocks, but for the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiffRange {
    /// The first one.
    pub lba: Lba,
    /// How many.
    pub sectors: Sectors,
}

/// What the time of commits went into, in nanoseconds since the store was opened. Work that several
/// threads do at once counts for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommitSplit {
    /// Composing blocks, and reading what they are completed with.
    pub fill: u64,
    /// Naming blocks.
    pub hash: u64,
    /// Looking whether they are stored.
    pub index: u64,
    /// Compressing those that are not.
    pub compress: u64,
    /// Filling packs, and waiting for them to be durable.
    pub put: u64,
    /// Changing trees.
    pub tree: u64,
    /// Storing nodes, manifest and root slot.
    pub publish: u64,
}

impl CommitSplit {
    pub(super) fn add(&mut self, other: &Self) {
        self.fill += other.fill;
        self.hash += other.hash;
        self.index += other.index;
        self.compress += other.compress;
        self.put += other.put;
        self.tree += other.tree;
        self.publish += other.publish;
    }
}

/// What there is to say of a store without reading all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreInfo {
    /// Where it is.
    pub path: PathBuf,
    /// Its name.
    pub id: StoreId,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// How blocks are kept.
    pub layout: Layout,
    /// The number of the last commit.
    pub commit: u64,
    /// Commits since it was opened.
    pub commits: u64,
    /// How many volumes.
    pub volumes: usize,
    /// How many snapshots.
    pub snapshots: usize,
    /// How many packs.
    pub packs: u64,
    /// Octets of all packs: what the store takes, but for journal, index and root slots.
    pub stored_bytes: u64,
    /// Packs that were put since it was opened, and their octets.
    pub put: (u64, u64),
    /// Bytes of memory that the index takes, and its entries that are in memory only.
    pub index: (u64, u64),
    /// Bytes that overlays hold, and may hold: what [`StoreOptions::overlay_bytes`] leaves beside packs.
    ///
    /// [`StoreOptions::overlay_bytes`]: super::StoreOptions::overlay_bytes
    pub overlay: (u64, u64),
    /// Bytes that caches hold, and may hold.
    pub cache: (u64, u64),
    /// Reads of parts of packs since it was opened, and their octets.
    pub reads: (u64, u64),
    /// Blocks and nodes that could not be read since it was opened.
    pub read_failures: u64,
    /// What the time of commits went into.
    pub split: CommitSplit,
    /// Why commits fail, while they do.
    pub failing: Option<String>,
    /// Whether it takes writes; after some failures it does not until it is opened again.
    pub stopped: bool,
}
