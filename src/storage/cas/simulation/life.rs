//! The end of a store, and its beginning.

use std::sync::atomic::Ordering;

use super::super::error::chain;
use super::super::group::{GroupRequest, Step};
use super::super::recover::{OpenStore, recover};
use super::super::request::Request;
use super::care::Unread;
use super::fronts::compare_all;
use super::{Awake, Bug, FOUND, Machine, PATIENCE, is_planted, some_limits};
use crate::blob::fault::BlobFaultRates;
use crate::storage::BlockStorage as _;
use crate::storage::journal::simulation::disk::Defect;

impl Machine {
    /// Ends everything as a server does that is told to; `false` when that was not possible.
    pub(super) fn close(&mut self) -> bool {
        // Now and then somebody closes the store before the volumes, which nobody drives any more, whatever
        // they have still to do.
        let neglected = self.chance.one_in(4);
        if !neglected || self.chance.one_in(2) {
            self.settle();
            if self.is_cut() || self.excuse().stopped || !self.is_settled() {
                return false;
            }
        } else if self.excuse().stopped {
            return false;
        }
        self.exports.clear();
        if neglected {
            self.ask_commit();
            self.ask_edit();
            for _ in 0..self.chance.below(4) {
                self.step_committer();
            }
        } else {
            for mut front in self.fronts.drain(..) {
                assert_eq!(front.volume.finish(), Ok(()), "everything was durable");
            }
        }
        self.store().shared.begin_to_close();
        self.store().group_requests.send(GroupRequest::Close).unwrap();
        let mut ended = false;
        for _ in 0..PATIENCE {
            ended = self.store().group.step() == Step::Ended;
            if ended {
                break;
            }
            self.pass(50);
            self.step_committer();
        }
        assert!(ended || self.is_cut() || self.excuse().stopped, "the journal does not end");
        let last = self.store().group.last();
        self.ask_committer(Request::Close(last));
        let now = self.now;
        for _ in 0..PATIENCE {
            let step = self.store().committer.step(now);
            self.take_answers();
            if step == Step::Ended {
                let store = self.store.take().unwrap();
                let whole = !store.shared.is_stopped() && store.committer.failure().is_none();
                let used = store.shared.budget.used() + store.shared.dirty.load(Ordering::Relaxed);
                let closed = store.committer.close();
                let excused = self.armed || self.is_cut();
                assert!(excused || whole && closed.is_ok(), "it cannot be closed for no reason");
                assert!(!whole || neglected || used == 0, "{used} bytes are not given back");
                return whole && !neglected && closed.is_ok();
            }
        }
        panic!("the store does not end");
    }

    /// The end of the process, by a power cut or without.
    pub(super) fn crash(&mut self, power_cut: bool) {
        if self.store.is_some() {
            self.acknowledge();
        }
        self.counts.crashes += 1;
        self.store = None;
        self.fronts.clear();
        self.exports.clear();
        self.attaching.clear();
        self.committing.clear();
        if power_cut {
            self.media.lose_power(&mut self.chance);
        }
        self.media.runs.set_fuse(None);
        self.heal();
        self.media.power.lock().unwrap().restore();
        self.was_crippled |= self.crippled || self.rotten || self.index_is_rotten;
        (self.armed, self.crippled) = (false, false);
        self.spoil_index();
        if !self.rotten && self.chance.one_in(4) {
            self.examine();
        }
    }

    /// The index is of no importance: parts of it go now and then, or are damaged, which the store mends
    /// when it comes upon it. What it has not come upon is mended or thrown away after the next crash.
    fn spoil_index(&mut self) {
        let mut is_rotten = std::mem::take(&mut self.index_is_rotten);
        if is_rotten && self.chance.one_in(2) {
            self.mend_index();
            is_rotten = false;
        }
        let some = self.chance.one_in(5);
        for name in self.media.runs.names() {
            if is_rotten || some && self.chance.one_in(2) {
                self.media.runs.lose(&name);
            } else if self.chance.one_in(12)
                && let Some(mut octets) = self.media.runs.octets(&name)
                && !octets.is_empty()
            {
                let place = usize::try_from(self.chance.below(octets.len() as u64)).unwrap();
                octets[place] ^= 1 << self.chance.below(8);
                self.media.runs.put(&name, octets);
                self.index_is_rotten = true;
            }
        }
    }

    /// Opens the store, perhaps at the second attempt.
    pub(super) fn open(&mut self) {
        if is_planted(Bug::TornRecordReplayed) {
            self.media.journal.set_defect(Defect::ChecksumsForged(super::media::JOURNAL));
        }
        self.options = some_limits(&mut self.chance);
        for attempt in 0..8 {
            if attempt < 2 && self.chance.one_in(3) {
                self.spoil_opening();
            }
            let opened = recover(self.media.handed_out(), &self.options, self.now);
            if let Some(manifest) = FOUND.take() {
                self.resolve(&manifest);
            }
            match opened {
                Ok(store) if !self.is_cut() => {
                    self.store = Some(store);
                    self.awake = Awake::ALL;
                    break;
                }
                Ok(_) => {}
                Err(error) => {
                    let faulted = self.media.power.lock().unwrap().faulted > 0;
                    let excused = self.armed || faulted;
                    assert!(excused, "it cannot be opened for no reason: {}", chain(&error));
                }
            }
            let power_cut = self.is_cut() || self.chance.one_in(2);
            self.crash(power_cut);
        }
        if is_planted(Bug::TornRecordReplayed) {
            self.media.journal.set_defect(Defect::None);
        }
        self.heal();
        self.media.power.lock().unwrap().restore();
        let store = self.store.take().expect("a store that cannot be opened");
        self.take_over(store);
    }

    pub(super) fn take_over(&mut self, store: OpenStore) {
        // What was committed meanwhile, for want of room, has no changes in it.
        self.model.fold(store.committer.manifest());
        self.counts.replayed += store.recovered.writes;
        self.store = Some(store);
        self.awake = Awake::ALL;
        let numbers: Vec<u32> = self.model.volumes.values().map(|volume| volume.number).collect();
        for number in numbers {
            let last = self.survivor(number).expect("a volume is missing");
            self.model.by_number(number).unwrap().survive(last);
        }
    }

    /// Lets something go wrong while the store is opened.
    fn spoil_opening(&mut self) {
        match self.chance.below(8) {
            0..2 => {
                self.media.power.lock().unwrap().faults = Some(2 + self.chance.below(10));
                self.armed = true;
            }
            2..4 => {
                let get_range = u32::try_from(self.chance.below(300)).unwrap();
                let rates =
                    BlobFaultRates { get_range, info: get_range, ..BlobFaultRates::default() };
                self.media.blobs.inner.set_rates(rates);
                (self.armed, self.crippled) = (true, true);
            }
            4..6 => {
                // The root slots, which are read first, and the heads of the journal; or anything. It is
                // refused, or goes on as if nothing had been: that excuses nothing.
                let end = if self.chance.one_in(2) { 5 } else { 200 };
                self.media.power.lock().unwrap().read_fuse = Some(1 + self.chance.below(end));
            }
            _ => self.media.power.lock().unwrap().fuse = Some(1 + self.chance.below(12)),
        }
    }

    /// Compares all that there is, and tells what of it cannot be read.
    pub(super) fn check(&mut self, closed: bool) -> Vec<Unread> {
        if closed {
            let recovered = self.store().recovered.writes;
            assert_eq!(recovered, 0, "a store that was closed has something in its journal");
        }
        let names: Vec<String> = self.model.volumes.keys().cloned().collect();
        let mut tries = 0;
        for name in &names {
            self.ask_attach(name);
            while !self.fronts.iter().any(|front| front.name == *name) {
                assert!(tries < 1000, "{name} cannot be attached");
                tries += 1;
                self.step_committer();
            }
        }
        let mut unread = self.read_at_last(Self::compare_fronts);
        let snapshots: Vec<_> = self
            .model
            .volumes
            .iter()
            .flat_map(|(name, volume)| volume.snapshots.keys().map(|s| (name.clone(), s.clone())))
            .collect();
        for (volume, snapshot) in snapshots {
            if self.chance.one_in(2) {
                unread.extend(self.read_at_last(|machine| {
                    machine.export(&volume, &snapshot);
                    let sectors = machine.use_last_export();
                    let (volume, snapshot) = (volume.clone(), Some(snapshot.clone()));
                    vec![Unread { volume, snapshot, sectors }]
                }));
            }
        }
        // Some go on being used.
        self.fronts.retain(|_| self.chance.one_in(2));
        unread
    }

    fn compare_fronts(&mut self) -> Vec<Unread> {
        let excuse = self.excuse();
        let shared = &self.store.as_ref().unwrap().shared;
        let mut unread = Vec::new();
        for front in &mut self.fronts {
            let state = self.model.volumes[&front.name].current();
            let step = || _ = shared.reader.pool.step(&shared.reader);
            let sectors = compare_all(&front.name, &mut front.volume, &state, excuse, step);
            unread.push(Unread { volume: front.name.clone(), snapshot: None, sectors });
        }
        unread
    }

    /// Waits until what was found damaged of the index is mended; whether it has some damage, and nothing
    /// else has.
    fn await_index(&mut self) -> bool {
        if !self.index_is_rotten || self.rotten {
            return false;
        }
        for _ in 0..PATIENCE {
            if !self.store().committer.is_to_be_mended() {
                return true;
            }
            self.pass(50);
            self.step_committer();
        }
        panic!("the index is not mended");
    }

    /// Reads until no more of the index is found damaged: if nothing else is, all can be read then.
    fn read_at_last(&mut self, mut read: impl FnMut(&mut Self) -> Vec<Unread>) -> Vec<Unread> {
        let is_whole = |unread: &[Unread]| unread.iter().all(|part| part.sectors.is_empty());
        let mut unread = read(self);
        // Of several damaged runs each may hide the next.
        for _ in 0..PATIENCE {
            if is_whole(&unread) || !self.await_index() {
                return unread;
            }
            let may_fail = self.armed || self.is_cut();
            let was_harmed = self.store().shared.reader.index.is_harmed();
            unread = read(self);
            if !is_whole(&unread) && !self.store().shared.reader.index.is_harmed() {
                assert!(may_fail || was_harmed, "not mended: {unread:?}");
                return unread;
            }
        }
        panic!("it is damaged again and again");
    }

    fn use_last_export(&mut self) -> Vec<u64> {
        let excuse = self.excuse();
        let (mut export, state) = self.exports.pop().unwrap();
        let shared = &self.store.as_ref().unwrap().shared;
        let step = || _ = shared.reader.pool.step(&shared.reader);
        let unread = compare_all("a snapshot", &mut export, &state, excuse, step);
        self.counts.snapshots += 1;
        unread
    }
}
