//! The thread that makes room: it makes the images durable, so that segments of the journal are
//! needed no more.
//!
//! # Invariants
//! * A segment is released only when every image has been made durable after everything that the
//!   segment tells of it was applied.
//! * When an image cannot be made durable, it takes no more writes, and nothing is released any
//!   more: the journal has the only sure copy of what was acknowledged. A restart replays it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread::Thread;

use super::super::Ticket;
use super::committer::{OpenImages, SegmentUse, Step, lock};
use super::images::ImageNumber;
use super::log::Reclaimer;
use super::medium::Medium;

pub(super) struct Checkpointer<M> {
    pub(super) reclaimer: Reclaimer<M>,
    pub(super) uses: Receiver<SegmentUse>,
    /// Of the segments that wait, the tickets that are to be durable.
    pub(super) tickets: VecDeque<BTreeMap<ImageNumber, Ticket>>,
    pub(super) open: Arc<Mutex<OpenImages>>,
    /// To be woken when there is room.
    pub(super) committer: Option<Thread>,
    /// For the log.
    pub(super) name: String,
}

impl<M: Medium> Checkpointer<M> {
    /// Makes room if half of the segments are in use. [`Step::Full`] when that has to wait until
    /// something was applied.
    pub(super) fn step(&mut self) -> Step {
        for SegmentUse { segment, tickets } in self.uses.try_iter() {
            self.reclaimer.retire(segment);
            self.tickets.push_back(tickets);
        }
        let in_use = self.reclaimer.waiting().len() * 2;
        if lock(&self.open).pinned || in_use < self.reclaimer.geometry().segments as usize {
            return Step::Idle;
        }
        let ready = self.applied_segments();
        if ready == 0 {
            return Step::Full;
        }
        if !self.sync_images(ready) {
            return self.pin();
        }
        let through = self.reclaimer.waiting()[ready - 1].last;
        match self.reclaimer.release(through) {
            Ok(_) => {
                self.tickets.drain(..ready);
            }
            Err(error) => {
                log::error!(
                    "journal {}: ITS HEAD CANNOT BE WRITTEN; it will fill up, and then its targets \
                     take no more writes: {error}",
                    self.name
                );
                return self.pin();
            }
        }
        self.wake_committer();
        Step::Done
    }

    /// Gives up: the committer stops when there is no more room.
    fn pin(&mut self) -> Step {
        lock(&self.open).pinned = true;
        self.wake_committer();
        Step::Idle
    }

    fn wake_committer(&self) {
        if let Some(committer) = &self.committer {
            committer.unpark();
        }
    }

    /// How many of the oldest segments tell of nothing that is still to be applied.
    fn applied_segments(&self) -> usize {
        let open = lock(&self.open);
        let applied = |(image, ticket): (&ImageNumber, &Ticket)| {
            // One that is closed was made durable then, or else nothing is released any more.
            open.images.get(image).is_none_or(|image| image.state.applied() >= *ticket)
        };
        let count = self.tickets.iter().take_while(|tickets| tickets.iter().all(applied)).count();
        // A writer that has stopped may call things applied that are not.
        if open.pinned { 0 } else { count }
    }

    /// Makes the images of the `count` oldest segments durable; `false` when that failed.
    fn sync_images(&mut self, count: usize) -> bool {
        let numbers: BTreeSet<_> =
            self.tickets.iter().take(count).flat_map(BTreeMap::keys).copied().collect();
        for number in numbers {
            // The table is not held while a disk takes its time.
            let open = lock(&self.open);
            let Some(image) = open.images.get(&number).cloned() else {
                if open.pinned {
                    return false;
                }
                continue;
            };
            drop(open);
            let synced = image.state.sync(&mut **lock(&image.disk));
            if let Err(error) = synced {
                log::error!(
                    "{}: SYNC FAILED; it takes no more writes until the server is restarted, which \
                     replays from journal {} what was acknowledged; until then the journal cannot \
                     be emptied: {error}",
                    image.name,
                    self.name
                );
                image.state.fail_unjournalled();
                return false;
            }
        }
        true
    }
}
