//! Which packs are relied upon.
//!
//! What is written and is stored already is not stored again. It has to be where what is stored cannot be
//! had any more, or else what was acknowledged could not be read: so a pack of which something was missing
//! or damaged is not relied upon from then on, and each frame of it is read before it passes for stored.
//!
//! Damage that nobody has come upon yet is not known here. Reading all of a store finds it.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// What is known of packs, by their numbers.
#[derive(Debug, Default)]
pub(super) struct PackTrust(RwLock<HashMap<u32, bool>>);

impl PackTrust {
    /// Whether a pack is relied upon; `None` if nobody has looked yet.
    pub(super) fn of(&self, pack: u32) -> Option<bool> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&pack).copied()
    }

    /// Notes that a pack is there as a whole, unless something of it was missing before.
    pub(super) fn rely_on(&self, pack: u32) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).entry(pack).or_insert(true);
    }

    /// Notes that something of a pack cannot be had.
    pub(super) fn doubt(&self, pack: u32) {
        if self.of(pack) != Some(false) {
            self.0.write().unwrap_or_else(PoisonError::into_inner).insert(pack, false);
        }
    }
}
