//! The part of the index that is in no run yet.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::hash::{BuildHasherDefault, Hasher};
use std::mem;
use std::sync::Arc;

use super::super::ContentId;
use super::Location;
use super::format::Entry;

/// Takes a part of a key for its hash: keys are hashes themselves.
#[derive(Debug, Default, Clone, Copy)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, octets: &[u8]) {
        // Not the first octets: keys next to each other in a run would be so here.
        if let Some(last) = octets.last_chunk() {
            self.0 = u64::from_le_bytes(*last);
        }
    }

    /// The length of the key, which is always the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Keys and where they lead. Of two places for one key, that in the pack with the higher number
/// counts, in whatever order they came.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    newest: HashMap<ContentId, Location, BuildHasherDefault<KeyHasher>>,
    /// Places that are not the newest of their keys. There are few, and most tables have none; but
    /// when only older packs are covered by the next run, it has to have these.
    older: Vec<Entry>,
    /// The highest pack number of any.
    last: u32,
}

impl Memtable {
    pub(super) fn get(&self, id: ContentId) -> Option<Location> {
        self.newest.get(&id).copied()
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        let Entry { id, location } = entry;
        self.last = self.last.max(location.pack);
        match self.newest.entry(id) {
            Slot::Vacant(vacant) => {
                vacant.insert(location);
            }
            Slot::Occupied(mut there) => {
                let older = if there.get().pack <= location.pack {
                    mem::replace(there.get_mut(), location)
                } else {
                    location
                };
                if older.pack != there.get().pack {
                    self.older.push(Entry { id, location: older });
                }
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.newest.len()
    }

    /// Bytes of memory that it takes, as good as it can be told.
    pub(super) fn bytes(&self) -> usize {
        // The table is at most seven eighths full, and has an octet for each place besides.
        let places = match self.newest.capacity() {
            0 => 0,
            capacity => (capacity * 8 / 7).next_power_of_two(),
        };
        places * (size_of::<(ContentId, Location)>() + 1)
            + self.older.capacity() * size_of::<Entry>()
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        let newest =
            self.newest.iter().map(|(id, location)| Entry { id: *id, location: *location });
        newest.chain(self.older.iter().copied())
    }

    /// Takes out what lies in packs up to `through`.
    fn split(&mut self, through: u32) -> Self {
        let all = mem::take(self);
        if all.last <= through {
            return all;
        }
        let mut taken = Self::default();
        for entry in all.entries() {
            if entry.location.pack <= through { &mut taken } else { &mut *self }.insert(entry);
        }
        taken
    }

    /// What there is, in the order of the keys, which it has once each.
    pub(super) fn sorted(&self) -> Vec<Entry> {
        let newest =
            self.newest.iter().map(|(id, location)| Entry { id: *id, location: *location });
        let mut entries: Vec<Entry> = newest.collect();
        entries.sort_unstable_by_key(|entry| entry.id);
        entries
    }
}

/// The table that takes entries, and the one that is being made a run.
#[derive(Debug, Default)]
pub(super) struct Tables {
    active: Memtable,
    frozen: Option<Arc<Memtable>>,
}

impl Tables {
    pub(super) fn get(&self, id: ContentId) -> Option<Location> {
        let frozen = self.frozen.as_ref().and_then(|frozen| frozen.get(id));
        let active = self.active.get(id);
        active.into_iter().chain(frozen).max_by_key(|location| location.pack)
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        self.active.insert(entry);
    }

    pub(super) fn len(&self) -> usize {
        self.active.len() + self.frozen.as_ref().map_or(0, |frozen| frozen.len())
    }

    pub(super) fn bytes(&self) -> usize {
        self.active.bytes() + self.frozen.as_ref().map_or(0, |frozen| frozen.bytes())
    }

    /// Sets aside what lies in packs up to `through`. It is found until [`Self::drop_frozen`].
    pub(super) fn freeze(&mut self, through: u32) -> Arc<Memtable> {
        self.thaw();
        let frozen = Arc::new(self.active.split(through));
        self.frozen = Some(Arc::clone(&frozen));
        frozen
    }

    /// Puts back what was set aside.
    pub(super) fn thaw(&mut self) {
        let Some(frozen) = self.frozen.take() else { return };
        if self.active.len() == 0 {
            // The common case, when nobody else has the table any more.
            match Arc::try_unwrap(frozen) {
                Ok(frozen) => self.active = frozen,
                Err(frozen) => frozen.entries().for_each(|entry| self.active.insert(entry)),
            }
        } else {
            frozen.entries().for_each(|entry| self.active.insert(entry));
        }
    }

    /// Gives up what was set aside. The caller drops it without the lock: that takes time.
    #[must_use]
    pub(super) fn drop_frozen(&mut self) -> Option<Arc<Memtable>> {
        self.frozen.take()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{entry, id};
    use super::*;

    #[test]
    fn the_highest_pack_counts_in_any_order() {
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [3, 1, 2]] {
            let mut table = Memtable::default();
            for pack in order {
                table.insert(entry(7, pack));
            }
            assert_eq!(table.get(id(7)), Some(entry(7, 3).location));
            assert_eq!((table.len(), table.sorted()), (1, vec![entry(7, 3)]));
            // A run that covers only two of them has the newer one of these.
            let two = table.split(2);
            assert_eq!(two.sorted(), [entry(7, 2)]);
            assert_eq!(table.sorted(), [entry(7, 3)]);
            assert_eq!(two.older, [entry(7, 1)]);
        }
    }

    #[test]
    fn what_is_set_aside_is_found_and_comes_back() {
        let mut tables = Tables::default();
        assert_eq!((tables.len(), tables.bytes()), (0, 0));
        (0..10).for_each(|key| tables.insert(entry(key, u32::from(key))));
        for through in [4, 100] {
            let frozen = tables.freeze(through);
            assert_eq!(frozen.len(), if through == 4 { 5 } else { 10 });
            tables.insert(entry(0, 0));
            let all = |tables: &Tables| {
                (0..10).all(|key| tables.get(id(key)) == Some(entry(key, u32::from(key)).location))
            };
            assert!(all(&tables) && tables.bytes() > 10 * 45);
            // Once while somebody has it, once while nobody does.
            let held = (through == 4).then_some(frozen);
            tables.thaw();
            drop(held);
            assert!(all(&tables) && tables.len() == 10);
        }
        let _ = tables.freeze(4);
        assert_eq!(tables.drop_frozen().map(|frozen| frozen.len()), Some(5));
        assert_eq!((tables.get(id(4)), tables.len()), (None, 5));
    }
}
