//! Changing a tree: new nodes for what changed, from the leaves up, and the old ones for the rest.

use std::ops::Range;

use super::{Emit, NodeSource, blocks_of_place, place, read};
use crate::storage::cas::id::{BlockNumber, ContentId, FrameKind, TreeRoot};
use crate::storage::cas::node::{DEPTH_MAX, Node, PLACES, blocks_below};

impl TreeRoot {
    /// The tree after the blocks of `cleared` became zeros, and then each of `changes` what it says,
    /// `None` for zeros. Both are in order, and nothing in either overlaps; ranges may be of any
    /// length and reach past the end of the tree.
    ///
    /// Every node that changed is handed to `emit` once, those below it first; a node that comes up
    /// in several places of the tree may be handed over for each, and one that was made without a look at
    /// what was there before may be the same. Only nodes on the way to a change
    /// are read, and of these none that is cleared as a whole and no leaf of which every block is
    /// changed. An error may come when nodes were handed over already: they are of no use then.
    ///
    /// # Panics
    /// If `cleared` or `changes` are not in order: the tree would come out wrong.
    pub(in crate::storage::cas) fn update<S>(
        self,
        cleared: &[Range<u64>],
        changes: &[(BlockNumber, Option<ContentId>)],
        source: &S,
        emit: Emit<'_>,
    ) -> Result<Self, S::Error>
    where
        S: NodeSource + ?Sized,
    {
        let ends = cleared.iter().flat_map(|range| [range.start, range.end]);
        assert!(ends.is_sorted(), "ranges out of order");
        assert!(changes.is_sorted_by(|one, next| one.0 < next.0), "changes out of order");
        let top = match changes.last() {
            Some((last, _)) => self.top_above(*last)?,
            None => self.top()?,
        };
        let mut update = Update { source, emit };
        let node = update.subtree(top, 0, self.node, Edits { cleared, changes })?;
        Ok(Self { node, ..self })
    }

    /// The same blocks in a tree of `depth`, when that is more: the new levels are on top. Their nodes
    /// are handed to `emit`; the next operation on the tree reads them.
    ///
    /// # Panics
    /// If there is no tree of that depth.
    pub(in crate::storage::cas) fn deepen(self, depth: u8, emit: Emit<'_>) -> Self {
        assert!(depth <= DEPTH_MAX, "too deep");
        let mut root = self;
        while root.depth < depth {
            let mut places = [None; PLACES];
            places[0] = root.node;
            root.node = store(Node::new(root.depth, &places), emit);
            root.depth += 1;
        }
        root
    }

    /// The tree of the first `blocks` blocks, with the depth for that many, or as deep as it was when
    /// that is less: the rest is gone, and zeros if the tree is deepened again. Takes no more than the
    /// nodes on the edge.
    pub(in crate::storage::cas) fn truncate<S>(
        self,
        blocks: u64,
        source: &S,
        emit: Emit<'_>,
    ) -> Result<Self, S::Error>
    where
        S: NodeSource + ?Sized,
    {
        let mut root = self;
        root.top()?;
        let depth = Self::depth_for(blocks);
        while root.depth > depth {
            let level = root.depth - 1;
            root.node = match root.node {
                Some(id) => read(source, id, level)?.child(0),
                None => None,
            };
            root.depth = level;
        }
        if blocks >= root.capacity()? {
            return Ok(root);
        }
        #[allow(clippy::single_range_in_vec_init, reason = "one range is what is meant")]
        root.update(&[blocks..u64::MAX], &[], source, emit)
    }
}

/// What is to be done below some place of a tree. Ranges may stick out of that on both sides, changes
/// do not.
#[derive(Clone, Copy)]
struct Edits<'a> {
    cleared: &'a [Range<u64>],
    changes: &'a [(BlockNumber, Option<ContentId>)],
}

impl Edits<'_> {
    /// The first block from `at` on that something is done with.
    fn next(&self, at: u64) -> Option<u64> {
        let cleared = self.cleared.iter().map(|range| range.start.max(at)..range.end);
        let cleared = cleared.filter(|range| !range.is_empty()).map(|range| range.start).next();
        let changed = self.changes.first().map(|(block, _)| block.0);
        cleared.into_iter().chain(changed).min()
    }

    /// What is done up to `end`, and what after that.
    fn split(self, end: u64) -> (Self, Self) {
        let (changes, changes_after) =
            self.changes.split_at(self.changes.partition_point(|(block, _)| block.0 < end));
        let cleared = &self.cleared[..self.cleared.partition_point(|range| range.start < end)];
        let cleared_after = &self.cleared[self.cleared.partition_point(|range| range.end <= end)..];
        (Self { cleared, changes }, Self { cleared: cleared_after, changes: changes_after })
    }

    /// Whether all of `blocks` become zeros, whatever is changed afterwards.
    fn clear_all(&self, blocks: Range<u64>) -> bool {
        let mut clear_to = blocks.start;
        for range in self.cleared {
            if clear_to >= blocks.end || range.start > clear_to {
                break;
            }
            clear_to = clear_to.max(range.end);
        }
        clear_to >= blocks.end
    }

    /// Whether something may be there afterwards that is not there now.
    fn add(&self) -> bool {
        self.changes.iter().any(|(_, id)| id.is_some())
    }
}

struct Update<'a, S: ?Sized> {
    source: &'a S,
    emit: Emit<'a>,
}

impl<S> Update<'_, S>
where
    S: NodeSource + ?Sized,
{
    /// What becomes of the node `id` of `level`, below which block `first` is the first.
    fn subtree(
        &mut self,
        level: u8,
        first: u64,
        id: Option<ContentId>,
        edits: Edits<'_>,
    ) -> Result<Option<ContentId>, S::Error> {
        let end = first + blocks_below(level);
        // Whoever writes from the start to the end should not have to read leaves for it.
        let replaced = level == 0 && edits.changes.len() == PLACES;
        let base = id.filter(|_| !replaced && !edits.clear_all(first..end));
        if base.is_none() && !edits.add() {
            return Ok(None);
        }
        let old = base.map(|id| read(self.source, id, level)).transpose()?;
        let mut places = old.as_ref().map_or([None; PLACES], |old| old.places());
        // Ranges have nothing to clear where there is nothing.
        let cleared = if old.is_some() { edits.cleared } else { &[] };
        let mut rest = Edits { cleared, ..edits };
        let mut at = first;
        while let Some(block) = rest.next(at).filter(|block| *block < end) {
            let size = blocks_of_place(level);
            let child_first = block / size * size;
            at = child_first + size;
            let (here, after) = rest.split(at);
            rest = after;
            let child = &mut places[place(block, level)];
            *child = match level {
                0 => here.changes.last().and_then(|(_, id)| *id),
                _ => self.subtree(level - 1, child_first, *child, here)?,
            };
        }
        match Node::new(level, &places) {
            new if new.as_ref() == old.as_deref() => Ok(base),
            new => Ok(store(new, self.emit)),
        }
    }
}

/// Says what a node is called, if there is one, and hands it over: it may be the one that was there before,
/// and be lost.
fn store(node: Option<Node>, emit: Emit<'_>) -> Option<ContentId> {
    let octets = node?.emit();
    let id = ContentId::of(FrameKind::Node, &octets);
    emit(id, octets);
    Some(id)
}
