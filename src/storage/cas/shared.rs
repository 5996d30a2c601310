//! What the threads of a store share, and how they tell each other news.
//!
//! The poll loop owns the front ends of volumes and is never made to wait: what it tells others goes
//! through rings of fixed length and atomics, and so does what it is told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use super::VolumeNumber;
use super::budget::Budget;
use super::id::TreeRoot;
use super::overlay::Generation;
use super::reader::Reader;
use crate::clock::Instant;
use crate::units::{Lba, Sectors};
use crate::wake::Waker;

/// Wakes a thread that looks for work; nobody, where steps are made by hand.
#[derive(Debug, Default)]
pub(super) struct Bell {
    thread: OnceLock<Thread>,
    /// It was rung, and no simulated thread has heard it.
    #[cfg(test)]
    rung: AtomicBool,
}

impl Bell {
    /// The calling thread is the one to wake from now on.
    pub(super) fn answered_here(&self) {
        // One that is set already is this thread, too.
        let _ = self.thread.set(std::thread::current());
    }

    /// Makes the thread look for work. A system call only when it sleeps.
    pub(super) fn ring(&self) {
        #[cfg(test)]
        self.rung.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Whether it was rung since this was last asked: whether a thread that slept would be awake.
    #[cfg(test)]
    pub(super) fn take_rung(&self) -> bool {
        self.rung.swap(false, Ordering::Relaxed)
    }
}

/// What holds for a whole store.
#[derive(Debug)]
pub(super) struct StoreShared {
    /// For the log.
    pub(super) name: String,
    /// Bytes of a block.
    pub(super) block_bytes: usize,
    /// For what overlays hold.
    pub(super) budget: Arc<Budget>,
    /// Bytes in generations that nobody has asked for yet.
    pub(super) dirty: AtomicU64,
    /// From how many such bytes on a commit begins.
    pub(super) commit_bytes: u64,
    /// For the thread that journals.
    pub(super) journal_bell: Bell,
    /// For the thread that commits.
    pub(super) commit_bell: Arc<Bell>,
    pub(super) reader: Reader,
    /// Nothing is taken any more: what a restart finds in the journal is all there is.
    stopped: AtomicBool,
    /// It is being closed: nobody is waited for who may not be there any more.
    closing: AtomicBool,
    /// The journal has no room for what waits.
    journal_full: AtomicBool,
    /// Commits make no room in the journal for now: the last one has failed, one waits for somebody who does
    /// not answer, or there is nothing left to commit.
    barren: AtomicBool,
    /// Since when what is on its way waits for room that does not come, as far as was looked; 0 if it does
    /// not. In nanoseconds.
    stuck_since: AtomicU64,
}

impl StoreShared {
    pub(super) fn new(
        name: String,
        block_bytes: usize,
        overlay_bytes: u64,
        commit_bytes: u64,
        reader: Reader,
    ) -> Self {
        Self {
            name,
            block_bytes,
            budget: Arc::new(Budget::new(overlay_bytes, block_bytes)),
            dirty: AtomicU64::new(0),
            commit_bytes,
            journal_bell: Bell::default(),
            commit_bell: Arc::clone(&reader.commit_bell),
            reader,
            stopped: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            journal_full: AtomicBool::new(false),
            barren: AtomicBool::new(false),
            stuck_since: AtomicU64::new(0),
        }
    }

    /// Stops taking writes; logged by whoever does it first.
    pub(super) fn stop(&self, why: &str) {
        if !self.stopped.swap(true, Ordering::SeqCst) {
            log::error!(
                "archive {}: STOPPED, {why}; its volumes take no more writes until it is opened \
                 again, which brings in from the journal what was acknowledged",
                self.name
            );
            self.journal_bell.ring();
            self.commit_bell.ring();
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Begins to close: from here on commits do without what front ends have not handed over.
    pub(super) fn begin_to_close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.commit_bell.ring();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Notes whether the journal has room for what waits.
    pub(super) fn set_journal_full(&self, full: bool) {
        self.journal_full.store(full, Ordering::Relaxed);
    }

    /// Notes whether commits make room in the journal.
    pub(super) fn set_barren(&self, barren: bool) {
        if self.barren.swap(barren, Ordering::SeqCst) != barren {
            self.journal_bell.ring();
        }
    }

    /// Whether commits make no room in the journal for now.
    pub(super) fn is_barren(&self) -> bool {
        self.barren.load(Ordering::SeqCst)
    }

    /// Notes that a commit was made.
    pub(super) fn note_commit(&self) {
        self.set_barren(false);
        self.stuck_since.store(0, Ordering::Relaxed);
    }

    /// How long what is on its way into the journal has been seen to wait for room that does not come;
    /// since the last commit, whoever looked.
    pub(super) fn stuck_for(&self, now: Instant) -> Duration {
        if !(self.journal_full.load(Ordering::Relaxed) && self.is_barren()) {
            return Duration::ZERO;
        }
        let (relaxed, nanos) = (Ordering::Relaxed, now.nanos().max(1));
        let since = self.stuck_since.compare_exchange(0, nanos, relaxed, relaxed);
        now.since(Instant::from_nanos(since.err().unwrap_or(nanos)))
    }

    /// Counts bytes that were written, and calls for a commit when there are enough.
    pub(super) fn add_dirty(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let before = self.dirty.fetch_add(bytes, Ordering::Relaxed);
        if before < self.commit_bytes && before + bytes >= self.commit_bytes {
            self.commit_bell.ring();
        }
    }

    pub(super) fn remove_dirty(&self, bytes: u64) {
        self.dirty.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What the front end of a volume and the threads of its store both see.
#[derive(Debug)]
pub(super) struct VolumeShared {
    pub(super) number: VolumeNumber,
    /// The number of the last write that was taken.
    written: AtomicU64,
    /// The number of the last write that is durable; all, after a failure.
    journalled: AtomicU64,
    /// The first write that a failure took down; `u64::MAX` while all is well.
    failed_from: AtomicU64,
    /// How often its generation was asked for.
    wanted: AtomicU64,
    /// Counts what initiators ask for, to see whether any are there.
    accesses: AtomicU64,
    /// Wakes the loop that drives the front end.
    waker: Option<Waker>,
}

impl VolumeShared {
    /// Of a volume whose writes up to `through` are durable.
    pub(super) fn new(number: VolumeNumber, through: u64, waker: Option<Waker>) -> Self {
        Self {
            number,
            written: AtomicU64::new(through),
            journalled: AtomicU64::new(through),
            failed_from: AtomicU64::new(u64::MAX),
            wanted: AtomicU64::new(0),
            accesses: AtomicU64::new(0),
            waker,
        }
    }

    /// For the next front end of the volume, when this one's has handed over its writes up to
    /// `through`. Not all of them need be durable yet. What was asked of it need not be asked again.
    pub(super) fn succeeded(&self, through: u64, waker: Option<Waker>) -> Self {
        Self {
            journalled: AtomicU64::new(self.journalled().min(through)),
            wanted: AtomicU64::new(self.wanted()),
            ..Self::new(self.number, through, waker)
        }
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    pub(super) fn set_written(&self, number: u64) {
        self.written.store(number, Ordering::Release);
    }

    pub(super) fn journalled(&self) -> u64 {
        self.journalled.load(Ordering::Acquire)
    }

    /// Tells that everything up to `number` is durable. It never goes back: a thread may come here with
    /// a record that has become durable while another has given up.
    pub(super) fn set_journalled(&self, number: u64) {
        if self.journalled.fetch_max(number, Ordering::AcqRel) < number {
            self.wake();
        }
    }

    /// Tells that nothing after what is durable will ever be; it is called done with all the same,
    /// for its outcome to be asked.
    pub(super) fn fail(&self) {
        // Two threads may come here at once: the second one finds nothing that is not durable.
        let from = self.journalled().saturating_add(1);
        self.failed_from.fetch_min(from, Ordering::AcqRel);
        self.set_journalled(u64::MAX);
    }

    /// Whether the write `number` has failed.
    pub(super) fn has_failed(&self, number: u64) -> bool {
        number >= self.failed_from.load(Ordering::Acquire)
    }

    /// Asks the front end for its generation; tells the number of the request.
    pub(super) fn ask(&self) -> u64 {
        let wanted = self.wanted.fetch_add(1, Ordering::AcqRel) + 1;
        self.call();
        wanted
    }

    pub(super) fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::Acquire)
    }

    /// Only the loop calls this, so that no count is lost.
    pub(super) fn count_access(&self) {
        let count = self.accesses.load(Ordering::Relaxed);
        self.accesses.store(count.wrapping_add(1), Ordering::Relaxed);
    }

    pub(super) fn accesses(&self) -> u64 {
        self.accesses.load(Ordering::Relaxed)
    }

    /// Wakes the loop for a target that waits.
    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }

    /// Wakes the loop for a target that may well be at rest.
    pub(super) fn call(&self) {
        if let Some(waker) = &self.waker {
            waker.call();
        }
    }
}

/// A tree and how much of it is the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    pub(super) root: TreeRoot,
    pub(super) size: Sectors,
}

/// A write on its way into the journal.
#[derive(Debug)]
pub(super) enum Order {
    /// The first `len` octets of `buffer` were written.
    Write { number: u64, lba: Lba, buffer: Arc<[u8]>, len: usize },
    /// Sectors were made zeros.
    Zeros { number: u64, lba: Lba, count: Sectors },
}

impl Order {
    pub(super) fn number(&self) -> u64 {
        match self {
            Self::Write { number, .. } | Self::Zeros { number, .. } => *number,
        }
    }
}

/// What a front end hands over for a commit.
#[derive(Debug)]
pub(super) struct HandedOver {
    /// `None` when nothing was written.
    pub(super) generation: Option<Arc<Generation>>,
    /// The number of the last write that it was told to take.
    pub(super) through: u64,
    /// Which request this answers.
    pub(super) request: u64,
}

/// What a front end is told.
#[derive(Debug)]
pub(super) enum News {
    /// All writes up to `through` are in the tree now.
    Published { view: View, through: u64 },
    /// An empty generation, to be used again.
    Spare(Box<Generation>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_failed_stays_done_with_whoever_still_tells_of_a_record() {
        let volume = VolumeShared::new(VolumeNumber(1), 5, None);
        volume.fail();
        volume.set_journalled(7);
        assert_eq!(volume.journalled(), u64::MAX);
        assert!(volume.has_failed(6) && !volume.has_failed(5));
    }
}
