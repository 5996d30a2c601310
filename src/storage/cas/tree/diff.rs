//! How two trees differ.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{NodeSource, blocks_of_place, read};
use crate::storage::cas::id::{BlockNumber, ContentId, TreeRoot};
use crate::storage::cas::node::{Node, bits};

/// What is told of a block that differs: its number, and what it is called in either tree.
pub(in crate::storage::cas) type Differ<'a> =
    &'a mut dyn FnMut(BlockNumber, Option<ContentId>, Option<ContentId>) -> ControlFlow<()>;

impl TreeRoot {
    /// Visits the blocks that are not the same here and in `other`, in order, until the visitor has
    /// enough. What a tree has no room for counts as zeros. Subtrees that both share are not read.
    pub(in crate::storage::cas) fn diff<S>(
        self,
        other: Self,
        source: &S,
        visit: Differ<'_>,
    ) -> Result<ControlFlow<()>, S::Error>
    where
        S: NodeSource + ?Sized,
    {
        let (here, there) = (self.top()?, other.top()?);
        let sides = [Side { id: self.node, level: here }, Side { id: other.node, level: there }];
        compare(source, here.max(there), 0, sides, visit)
    }
}

/// What one of the trees has at the place that is looked at. It may be of a lower level than that
/// place: then it is what lies at its very beginning, and the rest is zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Side {
    id: Option<ContentId>,
    level: u8,
}

/// What is below a [`Side`].
enum Below {
    /// Zeros.
    Nothing,
    /// This, at the first place.
    First(Side),
    Node(Arc<Node>),
}

impl Side {
    fn below<S>(self, level: u8, source: &S) -> Result<Below, S::Error>
    where
        S: NodeSource + ?Sized,
    {
        match self.id {
            None => Ok(Below::Nothing),
            Some(_) if self.level < level => Ok(Below::First(self)),
            Some(id) => read(source, id, level).map(Below::Node),
        }
    }
}

impl Below {
    /// Which places have something, as bits.
    fn present(&self) -> u128 {
        match self {
            Self::Nothing => 0,
            Self::First(_) => 1,
            Self::Node(node) => node.present(),
        }
    }

    /// What is at `place`, which is of a node one level above `level`.
    fn at(&self, place: usize, level: u8) -> Side {
        match self {
            Self::First(side) if place == 0 => *side,
            Self::Node(node) => Side { id: node.child(place), level },
            _ => Side { id: None, level },
        }
    }
}

/// Compares what is at a place for a node of `level`, whose first block is `first`.
fn compare<S>(
    source: &S,
    level: u8,
    first: u64,
    sides: [Side; 2],
    visit: Differ<'_>,
) -> Result<ControlFlow<()>, S::Error>
where
    S: NodeSource + ?Sized,
{
    let zeros = sides.iter().all(|side| side.id.is_none());
    // One name at two levels is damage, which the node's level tells.
    if zeros || sides[0] == sides[1] {
        return Ok(ControlFlow::Continue(()));
    }
    let (one, other) = (sides[0].below(level, source)?, sides[1].below(level, source)?);
    for place in bits(one.present() | other.present()) {
        let first = first + place as u64 * blocks_of_place(level);
        let below = level.saturating_sub(1);
        let sides = [one.at(place, below), other.at(place, below)];
        let flow = match level {
            0 if sides[0].id == sides[1].id => continue,
            0 => visit(BlockNumber(first), sides[0].id, sides[1].id),
            _ => compare(source, below, first, sides, visit)?,
        };
        if flow.is_break() {
            return Ok(flow);
        }
    }
    Ok(ControlFlow::Continue(()))
}
