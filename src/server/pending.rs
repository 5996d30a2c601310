//! What has to wait: replies for storage to be durable, requests for storage to be ready.
//!
//! Every target has room of its own, taken when it is added, so that one whose storage is stuck
//! keeps no other waiting. A request that carries no data is kept in a short place, of which there
//! are many; any other takes a place for a whole frame. The latter are address space and no memory
//! until they are used: a disk's own queue holds four windows of writes before one has to wait here.
//!
//! When its places are full a target takes no more requests, and the loop stops receiving rather
//! than drop one; but not for ever, see [`Room`].

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;
use crate::engine::Request;
use crate::link::FRAME_CAPACITY;
use crate::protocol::{Command, MIN_FRAME_LEN};
use crate::storage::Ticket;

/// Replies of one target that may wait, in each queue: 16 Linux initiators with 64 frames each.
const HELD_MAX: usize = 1024;
/// What is kept of a request without data; a READ is 36 octets.
const SHORT_CAPACITY: usize = 64;
/// Initiators that may have all in flight that they may, without data.
const SHORT_WINDOWS: usize = 16;
/// Initiators that may have all in flight that they may, full frames.
const LONG_WINDOWS: usize = 4;
/// The most that a configuration lets initiators have in flight.
const WINDOW_MAX: u16 = 1024;
/// How long requests to a target with no room, and all behind them, wait for it to get on.
const PATIENCE: Duration = Duration::from_secs(1);

/// A finished reply that may leave when storage has reached its ticket. Replies of this kind carry
/// no data, so that all have the shortest length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) ticket: Ticket,
    pub(super) port: usize,
    pub(super) reply: [u8; MIN_FRAME_LEN],
}

/// A queue of replies, in the order of their tickets.
#[derive(Debug)]
pub(super) struct HeldQueue(VecDeque<Held>);

impl HeldQueue {
    pub(super) fn new() -> Self {
        Self(VecDeque::with_capacity(HELD_MAX))
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= HELD_MAX
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn push(&mut self, held: Held) {
        debug_assert!(!self.is_full(), "the loop asks for room before it serves a request");
        self.0.push_back(held);
    }

    /// The first reply, when its ticket is reached.
    pub(super) fn front(&self, reached: Ticket) -> Option<&Held> {
        self.0.front().filter(|held| held.ticket <= reached)
    }

    pub(super) fn pop(&mut self) {
        self.0.pop_front();
        if self.0.is_empty() {
            self.0.clear(); // starts over at the front: a short queue stays in the nearest cache
        }
    }
}

/// A request that waits, by its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parked {
    slot: usize,
    len: usize,
    pub(super) port: usize,
    /// It keeps its place among writes.
    pub(super) ordered: bool,
}

/// Whether a request may be put to a target that may have to keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// It may.
    Present,
    /// Not now: it stays where it is, and all that came after it on its link.
    Later,
    /// All places are taken, and none has become free for a second: it is dropped for this target.
    /// So many requests to a disk that does not answer are repetitions, or come from more initiators
    /// than there is room for, who will repeat them.
    Never,
}

/// Places of one size.
struct Places<const CAPACITY: usize> {
    /// All of them, one behind the other.
    octets: Vec<u8>,
    free: Vec<usize>,
    /// A request has waited for one to become free since then.
    full_since: Option<Instant>,
}

impl<const CAPACITY: usize> Places<CAPACITY> {
    fn new(count: usize) -> Self {
        // Zeros come from the system as pages that take no memory before they are written to; of
        // arrays they would be written. The place that was used last is used next, so that few are.
        let octets = vec![0; count * CAPACITY];
        Self { octets, free: (0..count).rev().collect(), full_since: None }
    }

    fn count(&self) -> usize {
        self.octets.len() / CAPACITY
    }

    fn grow(&mut self, count: usize) {
        let before = self.count();
        if count > before {
            self.octets.resize(count * CAPACITY, 0);
            self.free.reserve(count);
            self.free.extend((before..count).rev());
        }
    }

    fn octets(&self, slot: usize, len: usize) -> &[u8] {
        &self.octets[slot * CAPACITY..][..len]
    }

    fn room(&mut self, now: Instant) -> Room {
        if !self.free.is_empty() {
            return Room::Present;
        }
        let since = *self.full_since.get_or_insert(now);
        if now.since(since) < PATIENCE { Room::Later } else { Room::Never }
    }

    /// Keeps a copy of `octets`, which fit; tells where, unless all places are taken.
    fn put(&mut self, octets: &[u8]) -> Option<usize> {
        let slot = self.free.pop()?;
        self.octets[slot * CAPACITY..][..octets.len()].copy_from_slice(octets);
        Some(slot)
    }

    fn release(&mut self, slot: usize) {
        self.free.push(slot);
        self.full_since = None;
    }
}

/// Copies of the requests of one target that wait.
pub(super) struct ParkedPool {
    short: Places<SHORT_CAPACITY>,
    long: Places<FRAME_CAPACITY>,
    /// Requests that were dropped since there was no room for them, and how many the log knows of.
    pub(super) dropped: u64,
    pub(super) dropped_logged: u64,
}

impl ParkedPool {
    /// Room for a target that has `buffer_count` frames in flight with each initiator.
    pub(super) fn new(buffer_count: u16) -> Self {
        let window = usize::from(buffer_count.min(WINDOW_MAX));
        Self {
            short: Places::new(SHORT_WINDOWS * window),
            long: Places::new(LONG_WINDOWS * window),
            dropped: 0,
            dropped_logged: 0,
        }
    }

    /// Makes room for a larger `buffer_count`; for a smaller one it stays.
    pub(super) fn grow(&mut self, buffer_count: u16) {
        let window = usize::from(buffer_count.min(WINDOW_MAX));
        self.short.grow(SHORT_WINDOWS * window);
        self.long.grow(LONG_WINDOWS * window);
    }

    /// How many requests can wait.
    pub(super) fn capacity(&self) -> usize {
        self.short.count() + self.long.count()
    }

    /// Whether there is room for a request that may have to be parked, of `len` octets.
    pub(super) fn room(&mut self, request: &Request<'_>, len: usize, now: Instant) -> Room {
        if !self.short.free.is_empty() && !self.long.free.is_empty() {
            return Room::Present;
        }
        let short = octets_to_keep(request, len) <= SHORT_CAPACITY;
        let room = if short { self.short.room(now) } else { self.long.room(now) };
        self.dropped += u64::from(room == Room::Never);
        room
    }

    /// Keeps a copy of a request; `None` when there is no room for it.
    pub(super) fn park(
        &mut self,
        request: &Request<'_>,
        frame: &[u8],
        port: usize,
    ) -> Option<Parked> {
        let octets = &frame[..octets_to_keep(request, frame.len())];
        let len = octets.len();
        let slot =
            if len <= SHORT_CAPACITY { self.short.put(octets) } else { self.long.put(octets) };
        slot.map(|slot| Parked { slot, len, port, ordered: request.is_ordered() })
    }

    pub(super) fn frame(&self, parked: Parked) -> &[u8] {
        let Parked { slot, len, .. } = parked;
        if len <= SHORT_CAPACITY {
            self.short.octets(slot, len)
        } else {
            self.long.octets(slot, len)
        }
    }

    pub(super) fn release(&mut self, parked: Parked) {
        if parked.len <= SHORT_CAPACITY {
            self.short.release(parked.slot);
        } else {
            self.long.release(parked.slot);
        }
    }
}

/// How many octets of a frame have to be kept to answer it later: what follows the registers of a
/// command that takes no data means nothing. (Linux probes a path with READs as long as WRITEs.)
fn octets_to_keep(request: &Request<'_>, len: usize) -> usize {
    let takes_data = request.frame.header.command() != Command::ATA || request.is_ordered();
    len.min(if takes_data { FRAME_CAPACITY } else { SHORT_CAPACITY })
}

/// What one target has waiting.
pub(super) struct Pending {
    /// Replies that wait for reads to see what they acknowledge.
    pub(super) applied: HeldQueue,
    /// Replies that wait for what they acknowledge to survive power loss.
    pub(super) durable: HeldQueue,
    /// Requests, in the order they came.
    pub(super) parked: VecDeque<Parked>,
    /// How many of them are ordered: while there is one, a later one must queue behind it.
    pub(super) ordered: usize,
    /// Requests are worth trying again, whatever storage says: settings were saved, or there was no
    /// room the last time.
    pub(super) retry: bool,
    /// The target's settings are being saved, and the reply waits for that.
    pub(super) saving: bool,
}

impl Pending {
    /// Room for `parked` requests.
    pub(super) fn new(parked: usize) -> Self {
        Self {
            applied: HeldQueue::new(),
            durable: HeldQueue::new(),
            parked: VecDeque::with_capacity(parked),
            ordered: 0,
            retry: false,
            saving: false,
        }
    }

    /// Makes room for `parked` requests, if there is less.
    pub(super) fn grow(&mut self, parked: usize) {
        self.parked.reserve(parked.saturating_sub(self.parked.len()));
    }

    /// Whether nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.applied.len() == 0 && self.durable.len() == 0 && self.parked.is_empty() && !self.saving
    }

    /// Whether another reply can be held, of either kind.
    pub(super) fn can_hold(&self) -> bool {
        !self.applied.is_full() && !self.durable.is_full()
    }
}
