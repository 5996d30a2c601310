//! The thread that journals: it gathers what the volumes of a store were told to write, commits it as
//! one record, and so lets all of it be acknowledged with one sync.
//!
//! # Invariants
//! * The entries of a volume are in the order of their numbers.
//! * A write is called durable only when its entry is.
//! * After a record could not be made durable nothing is journalled any more, and the store stops.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use rtrb::Consumer;

use super::VolumeNumber;
use super::entry::{ArchiveEntry, HEADER};
use super::shared::{Order, StoreShared, VolumeShared};
use crate::storage::journal::{Appender, Medium, Retired, Room, Sequence};

/// What the thread is told.
pub(super) enum GroupRequest {
    /// To take orders of a volume.
    Attach(Attached),
    /// To end, when all that was ordered is journalled.
    Close,
}

/// A volume as this thread sees it.
pub(super) struct Attached {
    pub(super) shared: Arc<VolumeShared>,
    pub(super) orders: Consumer<Order>,
    /// The last write that is staged or committed.
    pub(super) taken: u64,
}

impl Attached {
    fn precedes(&self, other: &Self) -> bool {
        self.shared.number == other.shared.number && !self.orders.is_empty()
    }
}

/// What was written of a segment: the last write of each volume in it.
pub(super) struct SegmentUse {
    pub(super) segment: Retired,
    pub(super) numbers: BTreeMap<VolumeNumber, u64>,
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Something was done, and there may be more.
    Done,
    /// There is nothing to do, or it has to wait for others.
    Idle,
    /// It is closed.
    Ended,
}

pub(super) struct GroupCommitter<M> {
    pub(super) appender: Appender<M>,
    pub(super) store: Arc<StoreShared>,
    pub(super) requests: Receiver<GroupRequest>,
    pub(super) uses: Sender<SegmentUse>,
    volumes: Vec<Attached>,
    /// Of the present segment.
    numbers: BTreeMap<VolumeNumber, u64>,
    /// Where gathering starts, so that one busy volume does not keep the others waiting.
    turn: usize,
    closing: bool,
}

impl<M: Medium> GroupCommitter<M> {
    pub(super) fn new(
        appender: Appender<M>,
        store: Arc<StoreShared>,
        requests: Receiver<GroupRequest>,
        uses: Sender<SegmentUse>,
    ) -> Self {
        let volumes = Vec::new();
        let numbers = BTreeMap::new();
        Self { appender, store, requests, uses, volumes, numbers, turn: 0, closing: false }
    }

    /// Does what there is to do, up to one record.
    pub(super) fn step(&mut self) -> Step {
        self.take_requests();
        if !self.volumes.iter().any(|volume| !volume.orders.is_empty()) {
            return if self.closing { Step::Ended } else { Step::Idle };
        }
        if self.store.is_stopped() {
            self.refuse();
            return Step::Done;
        }
        // Asked before: room that is made until then is found.
        let hopeless = self.closing && self.store.is_barren();
        let room = self.appender.begin();
        let retired = self.appender.take_retired();
        let may_get_room = retired.is_some();
        if let Some(segment) = retired {
            let numbers = std::mem::take(&mut self.numbers);
            // Nobody listens only when the other thread has panicked: then there will be no room.
            let _ = self.uses.send(SegmentUse { segment, numbers });
            self.store.commit_bell.ring();
        }
        self.store.set_journal_full(room == Room::None);
        if room == Room::None {
            if hopeless && !may_get_room {
                log::error!(
                    "archive {}: closed without what its journal has no room for, none of which was \
                     acknowledged",
                    self.store.name
                );
                self.refuse();
                return Step::Done;
            }
            return Step::Idle;
        }
        self.gather();
        match self.appender.commit() {
            Ok(()) => self.tell(),
            Err(error) => {
                self.store.stop(&format!("its journal cannot be written: {error}"));
                self.refuse();
            }
        }
        Step::Done
    }

    /// Tells the front ends what is durable. One that waits for what an earlier one of its volume has
    /// left is told nothing: its writes come after those.
    fn tell(&self) {
        for (place, volume) in self.volumes.iter().enumerate() {
            if !self.volumes[..place].iter().any(|other| other.precedes(volume)) {
                volume.shared.set_journalled(volume.taken);
            }
        }
    }

    /// The last entry that was journalled, when all that was ordered is.
    pub(super) fn last(&self) -> Sequence {
        self.appender.last()
    }

    fn take_requests(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                GroupRequest::Attach(volume) => {
                    self.volumes.push(volume);
                    if !self.store.is_stopped() {
                        self.tell();
                    }
                }
                GroupRequest::Close => self.closing = true,
            }
        }
        // A front end that is gone has nothing more to order.
        self.volumes.retain(|volume| !volume.orders.is_abandoned() || !volume.orders.is_empty());
    }

    /// Stages as much as fits into a record.
    fn gather(&mut self) {
        let count = self.volumes.len();
        self.turn = (self.turn + 1) % count.max(1);
        for n in 0..count {
            let place = (self.turn + n) % count;
            let (before, rest) = self.volumes.split_at_mut(place);
            let volume = &mut rest[0];
            // What an earlier front end of the volume has left comes first.
            if before.iter().any(|other| other.precedes(volume)) {
                continue;
            }
            while let Ok(order) = volume.orders.peek() {
                let len = HEADER + order.data().len();
                if !self.appender.has_room(len) {
                    return;
                }
                let entry = order.entry(volume.shared.number);
                self.appender.stage(&entry.emit(&mut [0; HEADER]));
                volume.taken = order.number();
                self.numbers.insert(volume.shared.number, volume.taken);
                // Its buffer is free again from here on.
                let _ = volume.orders.pop();
            }
        }
    }

    /// Lets go of everything that waits; it has failed.
    fn refuse(&mut self) {
        for volume in &mut self.volumes {
            volume.shared.fail();
            while volume.orders.pop().is_ok() {}
        }
    }
}

impl Order {
    fn data(&self) -> &[u8] {
        match self {
            Self::Write { buffer, len, .. } => &buffer[..*len],
            Self::Zeros { .. } => &[],
        }
    }

    fn entry(&self, volume: VolumeNumber) -> ArchiveEntry<'_> {
        match *self {
            Self::Write { number, lba, .. } => {
                ArchiveEntry::Write { volume, number, lba, data: self.data() }
            }
            Self::Zeros { number, lba, count } => {
                ArchiveEntry::Zeros { volume, number, lba, count }
            }
        }
    }
}
