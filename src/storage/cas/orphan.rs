//! What was below a node that cannot be read.
//!
//! When something is written below a node that is lost, another node takes its place, and of its other places
//! nobody knows what was there. They get *orphans*, each of which says at which place of which node it was. So
//! nothing is made up, and nothing is given up: as long as that node cannot be had an orphan is an error,
//! and when it is put back an orphan stands for what the node has there.
//!
//! # Invariants
//! * The node that an orphan names was stored once, or is an orphan itself.

use std::array;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::error::ReadError;
use super::node::{DEPTH_MAX, Node, PLACES};
use super::reader::Reader;
use super::tree::NodeSource;
use super::{ContentId, FrameKind};

/// Octets of an orphan.
const LEN: usize = 40;

/// What is at a place of a node: a block if the node is a leaf, and else another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orphan {
    /// The node, or another orphan.
    pub(super) parent: ContentId,
    /// The level of that node.
    pub(super) level: u8,
    /// The place in it.
    pub(super) place: u8,
}

impl Orphan {
    /// What is stored of it.
    pub(super) fn emit(&self) -> [u8; LEN] {
        let mut octets = [0; LEN];
        octets[..32].copy_from_slice(&self.parent.0);
        (octets[32], octets[33]) = (self.level, self.place);
        octets
    }

    /// What was stored.
    pub(super) fn parse(octets: &[u8]) -> Option<Self> {
        let octets: &[u8; LEN] = octets.try_into().ok()?;
        let (parent, rest) = octets.split_first_chunk()?;
        let [level, place, reserved @ ..] = rest else { return None };
        let is_possible =
            *level < DEPTH_MAX && usize::from(*place) < PLACES && reserved.iter().all(|o| *o == 0);
        is_possible.then_some(Self { parent: ContentId(*parent), level: *level, place: *place })
    }

    /// What it is called.
    pub(super) fn id(&self) -> ContentId {
        ContentId::of(FrameKind::Orphan, &self.emit())
    }

    /// What it stands for, by the node that it names; `None` for zeros.
    pub(super) fn of(&self, parent: &Node) -> Option<ContentId> {
        parent.child(self.place.into())
    }
}

/// Nodes that stand in for those that are lost: they have orphans everywhere.
#[derive(Debug)]
pub(super) struct StandIns {
    orphans: RefCell<HashMap<ContentId, Orphan>>,
    /// For those that a disk fails to read, too.
    with_io: bool,
}

impl StandIns {
    /// For nodes that are lost, and `with_io` for those that a disk fails to read: it has failed before, and
    /// may always.
    pub(super) fn new(with_io: bool) -> Self {
        Self { orphans: RefCell::default(), with_io }
    }

    /// Whether what is written need not wait for what cannot be read for `error`.
    pub(super) fn can_do_without(&self, error: &ReadError) -> bool {
        error.is_loss() || self.with_io && error.is_io()
    }

    /// A node, or what stands in for it.
    pub(super) fn node(
        &self,
        reader: &Reader,
        id: ContentId,
        level: u8,
    ) -> Result<Arc<Node>, ReadError> {
        match reader.node(id, level) {
            Err(error) if self.can_do_without(&error) => {}
            read => return read,
        }
        let mut orphans = self.orphans.borrow_mut();
        #[allow(clippy::cast_possible_truncation, reason = "there are 128")]
        let places: [_; PLACES] = array::from_fn(|place| {
            let orphan = Orphan { parent: id, level, place: place as u8 };
            let name = orphan.id();
            orphans.insert(name, orphan);
            Some(name)
        });
        Ok(Arc::new(Node::new(level, &places).unwrap_or_else(|| Node::nothing(level))))
    }

    /// The orphans among `names`, and those that they name themselves: what has to be stored with them.
    pub(super) fn needed(&self, names: impl IntoIterator<Item = ContentId>) -> Vec<Orphan> {
        let orphans = self.orphans.borrow();
        let (mut needed, mut seen) = (Vec::new(), HashSet::new());
        if orphans.is_empty() {
            return needed;
        }
        for name in names {
            let mut next = name;
            while let Some(orphan) = orphans.get(&next)
                && seen.insert(next)
            {
                needed.push(*orphan);
                next = orphan.parent;
            }
        }
        needed
    }
}

/// The nodes of a store, and what stands in for them.
pub(super) struct StoodIn<'a> {
    pub(super) reader: &'a Reader,
    pub(super) stand_ins: &'a StandIns,
}

impl NodeSource for StoodIn<'_> {
    type Error = ReadError;

    fn node(&self, id: ContentId, level: u8) -> Result<Arc<Node>, ReadError> {
        self.stand_ins.node(self.reader, id, level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORPHAN: Orphan = Orphan { parent: ContentId([0x11; 32]), level: 2, place: 127 };

    #[test]
    fn a_known_orphan() {
        let mut known = [0x11; LEN];
        known[32..].copy_from_slice(&[2, 127, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ORPHAN.emit(), known);
        assert_eq!(Orphan::parse(&known), Some(ORPHAN));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let known = ORPHAN.emit();
        for len in 0..LEN {
            assert_eq!(Orphan::parse(&known[..len]), None, "{len} octets");
        }
        assert_eq!(Orphan::parse(&[known.as_slice(), &[0]].concat()), None);
        for (at, octet) in [(32, 9), (33, 128), (34, 1), (39, 0x80)] {
            let mut wrong = known;
            wrong[at] = octet;
            assert_eq!(Orphan::parse(&wrong), None, "octet {at}");
        }
    }

    #[test]
    fn an_orphan_is_what_its_node_has_at_its_place() {
        let mut places = [None; PLACES];
        places[127] = Some(ContentId([0x22; 32]));
        let node = Node::new(2, &places).unwrap();
        assert_eq!(ORPHAN.of(&node), Some(ContentId([0x22; 32])));
        assert_eq!(Orphan { place: 126, ..ORPHAN }.of(&node), None);
    }
}
