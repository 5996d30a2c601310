//! Looking up one block after the other without asking for the same nodes again.

use std::sync::Arc;

use super::{NodeSource, TreeError, place, read};
use crate::storage::cas::id::{BlockNumber, ContentId, TreeRoot};
use crate::storage::cas::node::{DEPTH_MAX, FAN_OUT, Node};

/// Nodes that are in memory.
pub(in crate::storage::cas) trait NodeMemory {
    /// The node called `id`, if it is there without waiting. `level` is what it should be.
    fn cached(&self, id: ContentId, level: u8) -> Option<Arc<Node>>;
}

/// What became of a lookup that does not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage::cas) enum Peek {
    /// The name of the block; `None` for zeros.
    Found(Option<ContentId>),
    /// This node has to be brought into memory first, and more may be missing below it.
    Missing {
        /// Its name.
        id: ContentId,
        /// The level that it should be of.
        level: u8,
    },
}

/// Remembers the way to the block that was looked up last: others in the same leaf take no look for
/// nodes at all, and those nearby only for the lower ones. It keeps those nodes alive, at most nine.
/// It may be used with one root after the other, and with different ones in turn.
#[derive(Debug, Default)]
pub(in crate::storage::cas) struct Cursor {
    /// The last node of each level.
    path: [Option<(ContentId, Arc<Node>)>; DEPTH_MAX as usize],
    /// The tree in which the leaf of the path is, and which leaf of it that is, counted from 0.
    leaf: Option<(TreeRoot, u64)>,
}

impl Cursor {
    /// The name of `block` in the tree of `root`; `None` for zeros.
    pub(in crate::storage::cas) fn lookup<S>(
        &mut self,
        root: TreeRoot,
        block: BlockNumber,
        source: &S,
    ) -> Result<Option<ContentId>, S::Error>
    where
        S: NodeSource + ?Sized,
    {
        let leaf = Some((root, block.0 / FAN_OUT));
        if self.leaf == leaf
            && let Some((_, node)) = &self.path[0]
        {
            return Ok(node.child(place(block.0, 0)));
        }
        let mut level = root.top_above(block)?;
        let Some(mut id) = root.node else { return Ok(None) };
        loop {
            let child = self.step(id, level, source)?.child(place(block.0, level));
            if level == 0 {
                self.leaf = leaf;
                return Ok(child);
            }
            let Some(child) = child else { return Ok(None) };
            (id, level) = (child, level - 1);
        }
    }

    /// [`Self::lookup`] among what is in memory. Neither waits nor allocates.
    pub(in crate::storage::cas) fn peek<M>(
        &mut self,
        root: TreeRoot,
        block: BlockNumber,
        memory: &M,
    ) -> Result<Peek, TreeError>
    where
        M: NodeMemory + ?Sized,
    {
        match self.lookup(root, block, &InMemory(memory)) {
            Ok(found) => Ok(Peek::Found(found)),
            Err(Absent::Missing { id, level }) => Ok(Peek::Missing { id, level }),
            Err(Absent::Wrong(error)) => Err(error),
        }
    }

    /// The node `id`, which is the next one on the way.
    fn step<S>(&mut self, id: ContentId, level: u8, source: &S) -> Result<&Node, S::Error>
    where
        S: NodeSource + ?Sized,
    {
        let step = &mut self.path[usize::from(level)];
        let node = match step.take() {
            Some((last, node)) if last == id => node,
            _ => read(source, id, level)?,
        };
        Ok(&step.insert((id, node)).1)
    }
}

/// [`NodeMemory`] as a [`NodeSource`].
struct InMemory<'a, M: ?Sized>(&'a M);

/// Why it has no node.
enum Absent {
    Missing { id: ContentId, level: u8 },
    Wrong(TreeError),
}

impl From<TreeError> for Absent {
    fn from(error: TreeError) -> Self {
        Self::Wrong(error)
    }
}

impl<M> NodeSource for InMemory<'_, M>
where
    M: NodeMemory + ?Sized,
{
    type Error = Absent;

    fn node(&self, id: ContentId, level: u8) -> Result<Arc<Node>, Absent> {
        self.0.cached(id, level).ok_or(Absent::Missing { id, level })
    }
}
