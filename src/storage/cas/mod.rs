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

// Not forbidden: the map of an index run is lifted out by name.
#![deny(unsafe_code)]

#[allow(dead_code, reason = "the store that uses it is being built")]
mod compress;
#[allow(dead_code, reason = "the store that uses it is being built")]
mod entry;
#[allow(dead_code, reason = "the store that uses it is being built")]
mod frame;
mod id;
#[doc(hidden)]
pub mod internals;
#[allow(dead_code, reason = "the store that uses it is being built")]
mod node;
#[allow(dead_code, unused_imports, reason = "the store that uses it is being built")]
mod tree;
mod manifest;
#[allow(dead_code, reason = "the store that uses it is being built")]
mod octets;
#[allow(dead_code, reason = "the store that uses it is being built")]
mod pack;
#[allow(dead_code, reason = "the store that uses it is being built")]
mod root;
#[allow(dead_code, unused_imports, reason = "the store that uses it is being built")]
mod index;

pub use id::{BlockNumber, ContentId, FrameKind, StoreId, VolumeNumber};
#[doc(hidden)]
pub use node::fuzz as fuzz_node;
#[doc(hidden)]
pub use tree::TreeBench;
pub use index::fuzz as fuzz_index_run;
