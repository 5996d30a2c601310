//! What has to wait: replies for storage to be durable, requests for storage to be ready.
//!
//! All room is taken at the start. When a table is full its target takes no more requests, and the
//! loop stops receiving rather than drop one.

use std::collections::VecDeque;

use crate::link::FRAME_CAPACITY;
use crate::protocol::MIN_FRAME_LEN;
use crate::storage::Ticket;

/// Replies of one target that may wait, in each queue: 16 Linux initiators with 64 frames each.
const HELD_MAX: usize = 1024;
/// Requests of all targets that may wait: four full windows of Linux initiators.
const PARKED_MAX: usize = 256;

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

/// A request that waits, by its place in the pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parked {
    slot: usize,
    pub(super) port: usize,
    /// It keeps its place among writes.
    pub(super) ordered: bool,
}

/// Copies of requests that wait, for all targets of a loop.
pub(super) struct ParkedPool {
    frames: Vec<[u8; FRAME_CAPACITY]>,
    lens: Vec<usize>,
    free: Vec<usize>,
}

impl ParkedPool {
    pub(super) fn new() -> Self {
        Self {
            frames: vec![[0; FRAME_CAPACITY]; PARKED_MAX],
            lens: vec![0; PARKED_MAX],
            free: (0..PARKED_MAX).collect(),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Keeps a copy of `frame`; `None` when the pool is full.
    pub(super) fn park(&mut self, frame: &[u8], port: usize, ordered: bool) -> Option<Parked> {
        let slot = self.free.pop()?;
        let len = frame.len().min(FRAME_CAPACITY);
        self.frames[slot][..len].copy_from_slice(&frame[..len]);
        self.lens[slot] = len;
        Some(Parked { slot, port, ordered })
    }

    pub(super) fn frame(&self, parked: Parked) -> &[u8] {
        &self.frames[parked.slot][..self.lens[parked.slot]]
    }

    pub(super) fn release(&mut self, parked: Parked) {
        self.free.push(parked.slot);
    }
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
    pub(super) fn new() -> Self {
        Self {
            applied: HeldQueue::new(),
            durable: HeldQueue::new(),
            parked: VecDeque::with_capacity(PARKED_MAX),
            ordered: 0,
            retry: false,
            saving: false,
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.applied.len() == 0 && self.durable.len() == 0 && self.parked.is_empty() && !self.saving
    }

    /// Whether another reply can be held, of either kind.
    pub(super) fn has_room(&self) -> bool {
        !self.applied.is_full() && !self.durable.is_full()
    }
}
