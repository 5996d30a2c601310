//! The nodes of a volume's tree, and their octets; `docs/formats.md` has those as a table.
//!
//! A node has 128 places, each with the name of what is there: of a block in a leaf, which has level
//! 0, and of a node one level down in all others. A place without a name stands for zeros, all the way
//! down.
//!
//! # Invariants
//! * A node has exactly one form: equal content has equal octets, and so one name.
//! * A node without names does not exist; the place for it has none itself.
//!
//! Everything here is pure: octets in, values out, and no input panics.

use std::array;

use super::id::ContentId;

/// The places of a node.
pub(super) const FAN_OUT: u64 = 1 << FAN_OUT_LOG2;
/// How far a block's number is shifted for each level.
pub(super) const FAN_OUT_LOG2: u8 = 7;
/// The most levels of a tree: more blocks than any disk has, and their numbers never overflow.
pub(super) const DEPTH_MAX: u8 = 9;
/// Octets of a node before its names.
pub(super) const NODE_HEADER: usize = 24;
/// The most octets of a node.
#[cfg(test)]
pub(super) const NODE_MAX: usize = NODE_HEADER + PLACES * ID;

/// [`FAN_OUT`], for arrays.
pub(super) const PLACES: usize = 1 << FAN_OUT_LOG2;
/// Octets of a name.
const ID: usize = 32;

/// How many blocks lie below a node of `level`, which is less than [`DEPTH_MAX`].
pub(super) const fn blocks_below(level: u8) -> u64 {
    1 << (FAN_OUT_LOG2 * (level + 1))
}

/// A node in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    level: u8,
    /// Bit *n* says whether place *n* has a name.
    present: u128,
    /// The names that are there, in the order of their places.
    ids: Box<[ContentId]>,
}

/// Why octets are not those of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum NodeError {
    /// The number of names does not go with the number of octets, or the header is cut short.
    #[error("a node of {len} octets where {wanted} were expected")]
    Length { len: usize, wanted: usize },
    /// Another kind of tree.
    #[error("a node with 2^{0} places; this program knows 2^7 only")]
    FanOut(u8),
    /// More than there can be.
    #[error("a node of level {0}; the highest is 8")]
    Level(u8),
    /// Octets that have to be zero are not.
    #[error("a node whose reserved octets are not zero")]
    Reserved,
    /// No names: this is not stored.
    #[error("a node with nothing in it")]
    Empty,
}

impl Node {
    /// The node of `level` with these names at its places; `None` when there are none.
    pub(super) fn new(level: u8, places: &[Option<ContentId>; PLACES]) -> Option<Self> {
        let mut present = 0;
        for (place, id) in places.iter().enumerate() {
            present |= u128::from(id.is_some()) << place;
        }
        let ids = places.iter().flatten().copied().collect();
        (present != 0).then_some(Self { level, present, ids })
    }

    /// What is never stored: a node of `level` with zeros everywhere.
    pub(super) fn nothing(level: u8) -> Self {
        Self { level, present: 0, ids: Box::default() }
    }

    /// How far it is from the leaves, which have level 0.
    pub(super) const fn level(&self) -> u8 {
        self.level
    }

    /// Which places have a name, as bits.
    pub(super) const fn present(&self) -> u128 {
        self.present
    }

    /// The name at `place`.
    pub(super) fn child(&self, place: usize) -> Option<ContentId> {
        let bit = 1_u128.checked_shl(u32::try_from(place).ok()?)?;
        if self.present & bit == 0 {
            return None;
        }
        let before = (self.present & (bit - 1)).count_ones();
        self.ids.get(before as usize).copied()
    }

    /// Places and their names, in order.
    pub(super) fn children(&self) -> impl Iterator<Item = (usize, ContentId)> + '_ {
        bits(self.present).zip(self.ids.iter().copied())
    }

    /// What is at each place.
    pub(super) fn places(&self) -> [Option<ContentId>; PLACES] {
        let mut places = [None; PLACES];
        for (place, id) in self.children() {
            places[place] = Some(id);
        }
        places
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.ids)
    }

    /// The octets of the node.
    pub(super) fn emit(&self) -> Vec<u8> {
        let mut octets = Vec::with_capacity(NODE_HEADER + self.ids.len() * ID);
        octets.extend_from_slice(&[self.level, FAN_OUT_LOG2]);
        octets.extend_from_slice(&[0; 6]);
        octets.extend_from_slice(&self.present.to_le_bytes());
        self.ids.iter().for_each(|id| octets.extend_from_slice(&id.0));
        octets
    }

    /// The node whose octets these are: no more and no less.
    pub(super) fn parse(octets: &[u8]) -> Result<Self, NodeError> {
        let length = |wanted| NodeError::Length { len: octets.len(), wanted };
        let (header, names) =
            octets.split_first_chunk::<NODE_HEADER>().ok_or(length(NODE_HEADER))?;
        let [level, fan_out, reserved @ ..] = header;
        let (reserved, present) = reserved.split_at(6);
        if *fan_out != FAN_OUT_LOG2 {
            return Err(NodeError::FanOut(*fan_out));
        }
        if *level >= DEPTH_MAX {
            return Err(NodeError::Level(*level));
        }
        if reserved != [0; 6] {
            return Err(NodeError::Reserved);
        }
        let present = u128::from_le_bytes(array::from_fn(|at| present[at]));
        if present == 0 {
            return Err(NodeError::Empty);
        }
        let (ids, rest) = names.as_chunks::<ID>();
        let wanted = present.count_ones() as usize;
        if ids.len() != wanted || !rest.is_empty() {
            return Err(length(NODE_HEADER + wanted * ID));
        }
        Ok(Self { level: *level, present, ids: ids.iter().map(|id| ContentId(*id)).collect() })
    }
}

/// Which bits of `word` are set, from the lowest.
pub(super) fn bits(mut word: u128) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (bit < u128::BITS).then_some(bit as usize)
    })
}

/// The body of the fuzz target `node`: any octets as a node, and a tree that has it everywhere.
#[doc(hidden)]
pub fn fuzz(octets: &[u8]) {
    let Ok(node) = Node::parse(octets) else { return };
    assert_eq!(node.emit(), octets, "a node has two forms");
    assert_eq!(Node::new(node.level, &node.places()).as_ref(), Some(&node));
    let children: Vec<_> = node.children().collect();
    for place in 0..PLACES {
        let child = children.iter().find(|(at, _)| *at == place).map(|(_, id)| *id);
        assert_eq!(node.child(place), child);
    }
    assert_eq!((node.child(PLACES), children.len()), (None, node.present.count_ones() as usize));
    super::tree::fuzz(&node);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::cas::id::FrameKind;
    use proptest::prelude::*;

    /// A leaf with blocks at places 1 and 127, laid out by hand.
    const LEAF: [u8; 88] = {
        let mut octets = [0; 88];
        octets[1] = 7; // level 0; 2^7 places; reserved
        octets[8] = 0x02; // place 1
        octets[23] = 0x80; // place 127
        let mut at = 24;
        while at < 88 {
            octets[at] = if at < 56 { 0x11 } else { 0x22 };
            at += 1;
        }
        octets
    };
    /// The BLAKE3 of [`LEAF`] with a key derived from "aoe-server archive 2026 node", computed by
    /// another implementation.
    const LEAF_NAME: &str = "4977f76b5716a71cbe4401f9837cd40906bb67c712d6ac236aa3c026f7901b34";

    fn leaf() -> Node {
        let mut places = [None; PLACES];
        places[1] = Some(ContentId([0x11; 32]));
        places[127] = Some(ContentId([0x22; 32]));
        Node::new(0, &places).unwrap()
    }

    #[test]
    fn a_leaf_has_known_octets_and_a_known_name() {
        assert_eq!(leaf().emit(), LEAF);
        assert_eq!(Node::parse(&LEAF), Ok(leaf()));
        assert_eq!(ContentId::of(FrameKind::Node, &LEAF).to_string(), LEAF_NAME);
    }

    #[test]
    fn a_full_node_is_the_longest() {
        let places = array::from_fn(|place| Some(ContentId([place.to_le_bytes()[0]; 32])));
        let node = Node::new(8, &places).unwrap();
        let octets = node.emit();
        assert_eq!(octets.len(), NODE_MAX);
        assert_eq!(Node::parse(&octets).unwrap().places(), places);
    }

    #[test]
    fn other_lengths_are_refused() {
        for len in 0..LEAF.len() {
            let wanted = if len < NODE_HEADER { NODE_HEADER } else { LEAF.len() };
            assert_eq!(Node::parse(&LEAF[..len]), Err(NodeError::Length { len, wanted }));
        }
        for more in [1, 32, 33, 5000] {
            let mut octets = LEAF.to_vec();
            octets.resize(LEAF.len() + more, 0xa5);
            let error = NodeError::Length { len: octets.len(), wanted: LEAF.len() };
            assert_eq!(Node::parse(&octets), Err(error));
        }
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        let with = |at: usize, octet: u8| {
            let mut octets = LEAF;
            octets[at] = octet;
            Node::parse(&octets)
        };
        assert_eq!(with(0, 8).map(|node| node.level()), Ok(8));
        assert_eq!(with(0, 9), Err(NodeError::Level(9)));
        assert_eq!(with(1, 8), Err(NodeError::FanOut(8)));
        (2..8).for_each(|at| assert_eq!(with(at, 1), Err(NodeError::Reserved)));
        assert_eq!(with(9, 1), Err(NodeError::Length { len: 88, wanted: 120 }));
        assert_eq!(Node::parse(&[0, 7, 0, 0, 0, 0, 0, 0].repeat(3)[..]), {
            Err(NodeError::Length { len: 24, wanted: 24 + 6 * 32 }) // two sevens have six bits
        });
        let mut nothing = [0; NODE_HEADER];
        nothing[1] = FAN_OUT_LOG2;
        assert_eq!(Node::parse(&nothing), Err(NodeError::Empty));
        assert_eq!(Node::new(0, &[None; PLACES]), None);
    }

    #[test]
    fn a_flipped_bit_is_refused_or_shows_in_the_name() {
        let name = ContentId::of(FrameKind::Node, &LEAF);
        for bit in 0..LEAF.len() * 8 {
            let mut octets = LEAF;
            octets[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(ContentId::of(FrameKind::Node, &octets), name);
            if let Ok(node) = Node::parse(&octets) {
                assert_ne!(node, leaf());
                assert_eq!(node.emit(), octets);
            }
        }
    }

    #[test]
    fn levels_go_up_to_a_tree_that_has_room_for_every_disk() {
        assert_eq!([0, 1, 3].map(blocks_below), [128, 16_384, 1 << 28]);
        assert_eq!(blocks_below(DEPTH_MAX - 1), 1 << 63);
    }

    #[test]
    fn places_past_the_last_have_nothing() {
        for place in [128, 129, 1 << 32, (1 << 32) + 1, usize::MAX] {
            assert_eq!(leaf().child(place), None);
        }
    }

    proptest! {
        #[test]
        fn what_is_parsed_is_what_was_emitted(
            level in 0..DEPTH_MAX,
            ids in prop::collection::btree_map(0..PLACES, any::<[u8; 32]>(), 1..PLACES),
        ) {
            let places = array::from_fn(|place| ids.get(&place).copied().map(ContentId));
            let node = Node::new(level, &places).unwrap();
            prop_assert_eq!(Node::parse(&node.emit()), Ok(node.clone()));
            prop_assert_eq!(node.places(), places);
            prop_assert_eq!(node.children().count(), ids.len());
            for (place, id) in places.iter().enumerate() {
                prop_assert_eq!(node.child(place), *id);
            }
        }

        #[test]
        fn any_octets_are_read_without_panic(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            fuzz(&octets);
        }
    }
}
