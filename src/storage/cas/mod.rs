//! The archive: disks whose blocks are kept once, by the hash of what is in them.
//!
//! A *store* is a place for blobs with a journal and two root slots; a *volume* is a named disk in
//! it. Writes go into the journal and into the overlay of their volume, and are acknowledged when the
//! journal is durable. Every so often a *commit* takes the overlays: it hashes their blocks, keeps
//! those that are new in packs, writes the changed nodes of each volume's tree and a manifest that
//! names the trees, and at last the root slot that names the manifest. Then the journal needs the
//! writes no more.
//!
//! # Invariants
//! * Acknowledged means: in a synced record of the journal, or in the state that the newest sound
//!   root slot names.
//! * A root slot names a manifest, and everything that can be reached from it is in durable packs.
//! * The state of a volume is a prefix of its writes in the order they arrived. No older write ever
//!   undoes a newer one.
//! * Packs, nodes and manifests never change, and what is in them matches their names.
//! * Octets that an initiator gets were checked by their name since they last left memory, or come
//!   from an overlay.
//! * Losing the index, a cache or an unfinished file loses no data.

#![deny(unsafe_code)]

mod block;
mod budget;
mod commit;
mod compress;
mod entry;
mod error;
mod frame;
mod fsck;
mod group;
mod id;
mod index;
mod info;
#[doc(hidden)]
pub mod internals;
mod manifest;
mod node;
mod octets;
mod orphan;
mod overlay;
mod pack;
mod patch;
mod reader;
mod recover;
mod repair;
mod request;
mod root;
mod runs;
mod shared;
#[cfg(test)]
mod simulation;
mod sleepers;
mod store;
mod tree;
mod trust;
mod usage;
mod volume;

pub use error::CasError;
pub use fsck::{
    Finding, FsckCounts, FsckOptions, FsckPhase, FsckProgress, FsckReport, LostRange, PackPart,
    Severity,
};
pub use id::{BlockNumber, ContentId, FrameKind, StoreId, VolumeNumber};
#[doc(hidden)]
pub use index::fuzz as fuzz_index_run;
pub use info::{CommitSplit, DiffRange, SnapshotInfo, StoreInfo, VolumeInfo};
pub use manifest::Layout;
#[doc(hidden)]
pub use node::fuzz as fuzz_node;
pub use recover::Recovered;
pub use repair::{IndexRepair, JournalRelation, RepairRootsOptions, RootsRepair};
pub use request::Shrink;
pub use root::RootsError;
pub use store::{CasStore, SnapshotOptions, StoreOptions, VolumeOptions};
#[doc(hidden)]
pub use tree::TreeBench;
pub use usage::{DiskUsage, Usage};
pub use volume::CasVolume;
