//! What things in a store are called.

use std::fmt;

pub(super) use super::pack::FramePlace;

/// What a frame of a pack holds. Part of a frame's name, so that one kind never passes for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrameKind {
    /// The octets of a block of a volume.
    Block,
    /// A node of a volume's tree.
    Node,
    /// A manifest: what is in the store.
    Manifest,
    /// A part of the list of packs.
    PackList,
    /// Some sectors of a block of which the others could not be read.
    Patch,
    /// What was below a node that could not be read.
    Orphan,
}

impl FrameKind {
    /// What separates the names of this kind from those of others; blocks have the plain hash, which
    /// is what `b3sum` prints.
    const fn context(self) -> Option<&'static str> {
        match self {
            Self::Block => None,
            Self::Node => Some("aoe-server archive 2026 node"),
            Self::Manifest => Some("aoe-server archive 2026 manifest"),
            Self::PackList => Some("aoe-server archive 2026 pack list"),
            Self::Patch => Some("aoe-server archive 2026 patch"),
            Self::Orphan => Some("aoe-server archive 2026 orphan"),
        }
    }
}

/// The name of what a frame holds: a BLAKE3 of its octets before compression. Blocks are named by the
/// plain hash, others by a derived key for each [`FrameKind`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId(pub [u8; 32]);

impl ContentId {
    /// The name of `octets` as a frame of `kind`.
    pub fn of(kind: FrameKind, octets: &[u8]) -> Self {
        Self(match kind.context() {
            None => *blake3::hash(octets).as_bytes(),
            Some(context) => blake3::derive_key(context, octets),
        })
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentId({self})")
    }
}

/// The place of a block in a volume: its first byte divided by the store's block size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockNumber(pub u64);

impl fmt::Display for BlockNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tells the volumes of one store apart. Never used again, not even when its volume is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeNumber(pub u32);

impl fmt::Display for VolumeNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tells stores apart: 16 random octets, drawn when one is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// The tree of a disk. Its depth follows from the size of the disk, so that equal disks have equal
/// roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TreeRoot {
    /// The node at the top; `None` when every block is zeros.
    pub node: Option<ContentId>,
    /// Levels of nodes, 1 to 9: a tree of depth *d* has room for 128^*d* blocks.
    pub depth: u8,
}
