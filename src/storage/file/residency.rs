//! What is known of which parts of an image are in memory.
//!
//! Everything here has a fixed size and belongs to the poll loop's thread. The table is a guess
//! that ages: the kernel drops pages without telling, so that an entry is believed for one to two
//! seconds and then checked again.

use std::fmt;

use super::super::Ticket;

/// Bytes of a chunk: what is looked up, checked and fetched as one. Linux maps as much around a
/// page that is touched, and it is at most 16 pages.
pub(super) const CHUNK: usize = 64 * 1024;
/// Chunks that can be on their way into memory.
pub(super) const PENDING: usize = 64;
/// Chunks that the table has room for at most: 4 GiB of hot data, in 512 KiB.
const MAX_ENTRIES: u64 = 65_536;
/// Ticks for which an entry is believed.
const LIFETIME: u32 = 2;
/// Bits of an entry that hold the tick.
const TICK_BITS: u32 = 24;
/// Damaged chunks that are remembered: more than can be on their way at once, so that each is
/// found by the read that waited for it.
const DAMAGED: usize = 2 * PENDING;

/// The chunks seen in memory lately.
pub(super) struct Table {
    /// The number of a chunk, and the tick at which it was seen.
    entries: Box<[u64]>,
    mask: u64,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the thousands of entries.
        f.debug_struct("Table").field("mask", &self.mask).finish_non_exhaustive()
    }
}

impl Table {
    /// A table for an image of `chunks` chunks.
    pub(super) fn new(chunks: u64) -> Self {
        let entries = chunks.clamp(1, MAX_ENTRIES).next_power_of_two();
        let places = usize::try_from(entries).unwrap_or(1);
        Self { entries: vec![u64::MAX; places].into_boxed_slice(), mask: entries - 1 }
    }

    /// Whether `chunk` was in memory not long before `tick`.
    #[inline]
    pub(super) fn is_fresh(&self, chunk: u64, tick: u32) -> bool {
        let entry = self.entries[self.place(chunk)];
        let age = u64::from(tick).wrapping_sub(entry) & ((1 << TICK_BITS) - 1);
        entry >> TICK_BITS == chunk && age < u64::from(LIFETIME)
    }

    /// Notes that `chunk` is in memory at `tick`.
    pub(super) fn note(&mut self, chunk: u64, tick: u32) {
        let tick = u64::from(tick) & ((1 << TICK_BITS) - 1);
        self.entries[self.place(chunk)] = chunk << TICK_BITS | tick;
    }

    /// Forgets `chunk`.
    pub(super) fn forget(&mut self, chunk: u64) {
        let place = self.place(chunk);
        if self.entries[place] >> TICK_BITS == chunk {
            self.entries[place] = u64::MAX;
        }
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "the mask is below the number of places")]
    fn place(&self, chunk: u64) -> usize {
        (chunk & self.mask) as usize
    }
}

/// A chunk of which pages cannot be had.
#[derive(Debug, Clone, Copy)]
struct Damage {
    chunk: u64,
    /// The pages, one bit each.
    pages: u64,
    tick: u32,
    /// A write to it, after which it is worth looking again.
    healed_by: Option<Ticket>,
}

/// The chunks of which pages could not be had lately.
#[derive(Debug, Default)]
pub(super) struct Damages {
    list: heapless::Vec<Damage, DAMAGED>,
    next: usize,
}

impl Damages {
    /// Notes that `pages` of `chunk` cannot be had.
    pub(super) fn note(&mut self, chunk: u64, pages: u64, tick: u32) {
        let damage = Damage { chunk, pages, tick, healed_by: None };
        if let Some(old) = self.list.iter_mut().find(|old| old.chunk == chunk) {
            *old = damage;
        } else if let Err(damage) = self.list.push(damage) {
            self.list[self.next] = damage;
            self.next = (self.next + 1) % DAMAGED;
        }
    }

    /// Which pages of `chunk` cannot be had; `None` when it is worth trying.
    pub(super) fn look(&mut self, chunk: u64, tick: u32, applied: Ticket) -> Option<u64> {
        let place = self.list.iter().position(|damage| damage.chunk == chunk)?;
        let damage = self.list[place];
        let healed = damage.healed_by.is_some_and(|ticket| applied >= ticket);
        if healed || tick.wrapping_sub(damage.tick) >= LIFETIME {
            self.list.swap_remove(place);
            self.next = 0;
            return None;
        }
        Some(damage.pages)
    }

    /// Notes that a write to `chunk` was taken.
    #[inline]
    pub(super) fn heal(&mut self, chunk: u64, ticket: Ticket) {
        for damage in self.list.iter_mut().filter(|damage| damage.chunk == chunk) {
            damage.healed_by = Some(ticket);
        }
    }
}

/// The chunks on their way into memory, and whether a read waits for them.
#[derive(Debug, Default)]
pub(super) struct Pending {
    list: heapless::Vec<(u64, bool), PENDING>,
}

impl Pending {
    /// Whether `chunk` is on its way; a read that waits for it is noted.
    pub(super) fn contains(&mut self, chunk: u64, wanted: bool) -> bool {
        let Some(entry) = self.list.iter_mut().find(|entry| entry.0 == chunk) else { return false };
        entry.1 |= wanted;
        true
    }

    /// How many more can be on their way.
    pub(super) fn room(&self) -> usize {
        PENDING - self.list.len()
    }

    /// Notes a chunk that is being fetched. The caller has seen that there is room.
    pub(super) fn add(&mut self, chunk: u64, wanted: bool) {
        let added = self.list.push((chunk, wanted));
        debug_assert!(added.is_ok(), "room was checked");
    }

    /// Notes that `chunk` has arrived, and tells whether a read waited for it.
    pub(super) fn remove(&mut self, chunk: u64) -> bool {
        match self.list.iter().position(|entry| entry.0 == chunk) {
            Some(place) => self.list.swap_remove(place).1,
            None => false,
        }
    }
}

/// Recognizes a reader that goes forward, by the chunks it touches.
#[derive(Debug, Default)]
pub(super) struct Reader {
    last: u64,
    run: u32,
}

impl Reader {
    /// Whether `chunk` is where the reader was.
    #[inline]
    pub(super) fn is_at(&self, chunk: u64) -> bool {
        self.last == chunk
    }

    /// Notes a move, and tells whether reading ahead is worth it: after two steps forward.
    pub(super) fn moves_to(&mut self, chunk: u64) -> bool {
        if chunk == self.last + 1 {
            self.run = self.run.saturating_add(1);
        } else if chunk + 1 != self.last {
            // One step back is a frame that others have overtaken, no change of direction.
            self.run = 0;
        } else {
            return false;
        }
        self.last = chunk;
        self.run >= 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_age_and_collide() {
        let mut table = Table::new(4);
        table.note(1, 7);
        assert!(table.is_fresh(1, 7) && table.is_fresh(1, 8));
        assert!(!table.is_fresh(1, 9) && !table.is_fresh(5, 7));
        table.note(5, 8);
        assert!(table.is_fresh(5, 8) && !table.is_fresh(1, 8));
        table.forget(1);
        assert!(table.is_fresh(5, 8));
        table.forget(5);
        assert!(!table.is_fresh(5, 8));
    }

    #[test]
    fn ticks_may_wrap() {
        let mut table = Table::new(1 << 20);
        table.note(3, (1 << TICK_BITS) - 1);
        assert!(table.is_fresh(3, 1 << TICK_BITS));
        assert!(!table.is_fresh(3, (1 << TICK_BITS) + 1));
    }

    #[test]
    fn damage_is_forgotten_after_a_while_or_a_write() {
        let mut damages = Damages::default();
        damages.note(9, 0b10, 100);
        assert_eq!(damages.look(9, 101, Ticket(0)), Some(0b10));
        assert_eq!(damages.look(9, 102, Ticket(0)), None);
        damages.note(9, 0b10, 200);
        damages.heal(9, Ticket(5));
        assert_eq!(damages.look(9, 200, Ticket(4)), Some(0b10));
        assert_eq!(damages.look(9, 200, Ticket(5)), None);
        for chunk in 0..=DAMAGED as u64 {
            damages.note(chunk, 1, 300);
        }
        assert_eq!(damages.look(DAMAGED as u64, 300, Ticket(0)), Some(1));
        assert_eq!(damages.look(0, 300, Ticket(0)), None);
    }

    #[test]
    fn a_reader_that_goes_forward_is_recognized() {
        let mut reader = Reader::default();
        let steps = [10, 11, 12, 11, 13, 40, 41, 42];
        let ahead = steps.map(|chunk| reader.moves_to(chunk));
        assert_eq!(ahead, [false, false, true, false, true, false, false, true]);
    }
}
