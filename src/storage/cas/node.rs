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
