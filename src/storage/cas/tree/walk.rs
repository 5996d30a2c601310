//! Going through a tree: block by block, or node by node.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::{NodeSource, blocks_of_place, place, read};
use crate::storage::cas::id::{BlockNumber, ContentId, TreeRoot};
use crate::storage::cas::node::{Node, blocks_below};

/// Where in a tree a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::storage::cas) struct NodePlace {
    /// The name that is there.
    pub(in crate::storage::cas) id: ContentId,
    /// The level that belongs there.
    pub(in crate::storage::cas) level: u8,
    /// The blocks below it.
    pub(in crate::storage::cas) blocks: Range<u64>,
}

/// What looks at nodes.
pub(in crate::storage::cas) trait NodeVisitor<E> {
    /// Whether to read the node and go below it. Who goes through many trees says no to what was seen:
    /// what they share is then read once.
    fn enter(&mut self, place: &NodePlace) -> bool {
        let _ = place;
        true
    }

    /// The node is there. Those below it come next.
    fn node(&mut self, place: &NodePlace, node: &Node) -> ControlFlow<()>;

    /// The node, or what is below it, cannot be had. The one after it comes next.
    fn unreadable(&mut self, place: &NodePlace, error: E) -> ControlFlow<()>;
}

impl TreeRoot {
    /// Visits those of `blocks` that are not zeros, in order, until the visitor has enough. The range
    /// may reach past the end of the tree.
    pub(in crate::storage::cas) fn walk<S>(
        self,
        blocks: Range<u64>,
        source: &S,
        visit: &mut dyn FnMut(BlockNumber, ContentId) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, S::Error>
    where
        S: NodeSource + ?Sized,
    {
        let top = self.top()?;
        let blocks = blocks.start..blocks.end.min(blocks_below(top));
        match self.node {
            Some(id) if !blocks.is_empty() => walk_below(source, id, top, 0, &blocks, visit),
            _ => Ok(ControlFlow::Continue(())),
        }
    }

    /// Visits every node, each before those below it, and goes on after one that cannot be read. An
    /// error is that of the root itself; otherwise the visitor gets them all.
    pub(in crate::storage::cas) fn walk_nodes<S>(
        self,
        source: &S,
        visitor: &mut dyn NodeVisitor<S::Error>,
    ) -> Result<ControlFlow<()>, S::Error>
    where
        S: NodeSource + ?Sized,
    {
        let level = self.top()?;
        match self.node {
            Some(id) => {
                let place = NodePlace { id, level, blocks: 0..blocks_below(level) };
                Ok(visit_below(source, &place, visitor))
            }
            None => Ok(ControlFlow::Continue(())),
        }
    }
}

/// Visits those of `blocks` that are below the node `id`, whose first is block `first`.
fn walk_below<S>(
    source: &S,
    id: ContentId,
    level: u8,
    first: u64,
    blocks: &Range<u64>,
    visit: &mut dyn FnMut(BlockNumber, ContentId) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, S::Error>
where
    S: NodeSource + ?Sized,
{
    let node = read(source, id, level)?;
    let last = blocks.end.min(first + blocks_below(level)) - 1;
    let places = place(blocks.start.max(first), level)..=place(last, level);
    for (place, child) in node.children().filter(|(place, _)| places.contains(place)) {
        let first = first + place as u64 * blocks_of_place(level);
        let flow = match level {
            0 => visit(BlockNumber(first), child),
            _ => walk_below(source, child, level - 1, first, blocks, visit)?,
        };
        if flow.is_break() {
            return Ok(flow);
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Visits the node at `place` and those below it.
fn visit_below<S>(
    source: &S,
    place: &NodePlace,
    visitor: &mut dyn NodeVisitor<S::Error>,
) -> ControlFlow<()>
where
    S: NodeSource + ?Sized,
{
    if !visitor.enter(place) {
        return ControlFlow::Continue(());
    }
    let node: Arc<Node> = match read(source, place.id, place.level) {
        Ok(node) => node,
        Err(error) => return visitor.unreadable(place, error),
    };
    visitor.node(place, &node)?;
    let Some(level) = place.level.checked_sub(1) else { return ControlFlow::Continue(()) };
    for (slot, id) in node.children() {
        let first = place.blocks.start + slot as u64 * blocks_below(level);
        let below = NodePlace { id, level, blocks: first..first + blocks_below(level) };
        visit_below(source, &below, visitor)?;
    }
    ControlFlow::Continue(())
}
