//! Buffers that carry what is written from the poll loop to the threads that store it.

use std::sync::Arc;

use super::writer::SLOT_BYTES;

/// A fixed number of buffers that are handed out in turn. Each is free again when every thread that
/// was given it has dropped it; dropping never frees memory, since this holds on to all of them.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Box<[Arc<[u8]>]>,
    /// The one that was used longest ago. Threads get done with them in order.
    next: usize,
}

impl Slots {
    /// `count` buffers of [`SLOT_BYTES`].
    pub(super) fn new(count: usize) -> Self {
        let slot = || -> Arc<[u8]> { vec![0; SLOT_BYTES].into() };
        Self { slots: (0..count).map(|_| slot()).collect(), next: 0 }
    }

    /// Whether `count` buffers are to be had.
    pub(super) fn has(&mut self, count: usize) -> bool {
        let all = self.slots.len();
        // The last one alone would tell if threads never got done out of order; to be sure costs
        // little, for nearly every write takes one.
        count <= all
            && (0..count).all(|n| {
                let place = (self.next + n) % all;
                Arc::get_mut(&mut self.slots[place]).is_some()
            })
    }

    /// A buffer that starts with `data`, which is no longer than it.
    ///
    /// # Panics
    /// When there is none; [`Self::has`] tells.
    pub(super) fn fill(&mut self, data: &[u8]) -> Arc<[u8]> {
        let all = self.slots.len();
        let slot = &mut self.slots[self.next];
        let Some(buffer) = Arc::get_mut(slot) else { panic!("buffers are counted before") };
        buffer[..data.len()].copy_from_slice(data);
        self.next = (self.next + 1) % all;
        Arc::clone(slot)
    }
}
