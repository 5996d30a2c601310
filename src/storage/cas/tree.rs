//! What is done with a volume's tree, from which the name of each of its blocks is had.
//!
//! Nodes never change: whatever changes a tree hands out new nodes, from the leaves up, and returns a
//! new root. Old roots stay what they were as long as their nodes are kept. Nodes come from a
//! [`NodeSource`], which may read them from anywhere.
//!
//! # Invariants
//! * One content, one tree: two ways to the same blocks at the same depth end at the same root.
//! * A node that cannot be had, or is of another level than its place in the tree, is an error. It
//!   is never taken for zeros.
//! * A subtree that two roots share is never read to compare or to clear it.

mod bench;
mod cursor;
mod diff;
mod fuzz;
#[cfg(test)]
mod tests;
mod update;
mod walk;

use std::sync::Arc;

use super::id::{BlockNumber, ContentId, TreeRoot};
use super::node::{DEPTH_MAX, FAN_OUT, FAN_OUT_LOG2, Node, blocks_below};

#[doc(hidden)]
pub use bench::TreeBench;
pub(super) use cursor::{Cursor, NodeMemory, Peek};
pub(super) use fuzz::fuzz;
pub(super) use walk::{NodePlace, NodeVisitor};

/// Where nodes come from.
pub(super) trait NodeSource {
    /// Why a node cannot be had, and what is wrong with a tree.
    type Error: From<TreeError>;

    /// The node called `id`, whose octets were held against that name. It should be of `level`,
    /// which whoever asked looks at.
    fn node(&self, id: ContentId, level: u8) -> Result<Arc<Node>, Self::Error>;
}

/// What is wrong with a tree, or with what was asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum TreeError {
    /// Sound by its name, but not what may be at its place: whoever wrote the tree was wrong.
    #[error("node {id} is of level {found} where one of level {wanted} belongs")]
    Level { id: ContentId, wanted: u8, found: u8 },
    /// No tree has so many levels, or none.
    #[error("a tree of {0} levels; there can be 1 to 9")]
    Depth(u8),
    /// The block lies past everything the tree has room for.
    #[error("block {block} is beyond the {room} that its tree has room for")]
    Beyond { block: BlockNumber, room: u64 },
}

/// What takes new nodes: their names, and the octets that have to be stored under them.
pub(super) type Emit<'a> = &'a mut dyn FnMut(ContentId, Vec<u8>);

impl TreeRoot {
    /// A tree of zeros.
    pub(super) const fn empty(depth: u8) -> Self {
        Self { node: None, depth }
    }

    /// The depth of the tree of a disk of so many `blocks`. At most 2^63 count.
    pub(super) const fn depth_for(blocks: u64) -> u8 {
        let mut depth = 1;
        while depth < DEPTH_MAX && blocks_below(depth - 1) < blocks {
            depth += 1;
        }
        depth
    }

    /// How many blocks it has room for.
    pub(super) fn capacity(self) -> Result<u64, TreeError> {
        self.top().map(blocks_below)
    }

    /// The name of `block`; `None` for zeros.
    pub(super) fn lookup<S>(
        self,
        block: BlockNumber,
        source: &S,
    ) -> Result<Option<ContentId>, S::Error>
    where
        S: NodeSource + ?Sized,
    {
        let mut level = self.top_above(block)?;
        let Some(mut id) = self.node else { return Ok(None) };
        loop {
            let child = read(source, id, level)?.child(place(block.0, level));
            match child {
                Some(child) if level > 0 => (id, level) = (child, level - 1),
                found => return Ok(found),
            }
        }
    }

    /// The level of the node at the top.
    fn top(self) -> Result<u8, TreeError> {
        match self.depth {
            1..=DEPTH_MAX => Ok(self.depth - 1),
            depth => Err(TreeError::Depth(depth)),
        }
    }

    /// The level of the node at the top, if `block` is below it.
    fn top_above(self, block: BlockNumber) -> Result<u8, TreeError> {
        let top = self.top()?;
        let room = blocks_below(top);
        if block.0 < room { Ok(top) } else { Err(TreeError::Beyond { block, room }) }
    }
}

/// The node `id`, which has to be of `level`.
pub(super) fn read<S>(source: &S, id: ContentId, level: u8) -> Result<Arc<Node>, S::Error>
where
    S: NodeSource + ?Sized,
{
    let node = source.node(id, level)?;
    match node.level() {
        found if found == level => Ok(node),
        found => Err(TreeError::Level { id, wanted: level, found }.into()),
    }
}

/// The place in a node of `level` that has `block` below it.
#[allow(clippy::cast_possible_truncation, reason = "less than 128")]
const fn place(block: u64, level: u8) -> usize {
    (block >> (FAN_OUT_LOG2 * level) & (FAN_OUT - 1)) as usize
}

/// How many blocks lie below one place of a node of `level`.
const fn blocks_of_place(level: u8) -> u64 {
    1 << (FAN_OUT_LOG2 * level)
}
