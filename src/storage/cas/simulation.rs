//! A machine with a store whose power is cut at any moment: its threads and its initiators, run step by
//! step in an order that a seed gives, over disks and blobs that lose what was not made durable.
//!
//! After each crash the store is opened again, and each volume must be what a prefix of the writes to it
//! has made of it, with everything in it that was acknowledged; each snapshot must be what it was. Every
//! read on the way is compared, too. A seed that fails does so each time:
//! `AOE_SEED=123 cargo test cas::simulation`; `AOE_SEEDS=100000` tries that many, from `AOE_FIRST` on.

mod care;
mod edits;
mod fronts;
mod life;
mod media;
mod model;

use std::cell::Cell;
use std::sync::mpsc;
use std::time::Duration;

use self::edits::InFlight;
use self::fronts::{Excuse, Front, Offer, Read, extent};
use self::media::{Media, Puts};
use self::model::{COMMON, Model, State};
use super::super::{BlockStorage as _, Ticket};
use super::group::Step;
use super::manifest::{Layout, Manifest};
use super::recover::OpenStore;
use super::request::Request;
use super::store::StoreOptions;
use super::volume::CasVolume;
use super::{CasError, VolumeNumber};
use crate::blob::fault::BlobFaultRates;
use crate::clock::{self, Instant};
use crate::storage::journal::Geometry;
use crate::storage::journal::simulation::disk::{Chance, Defect};

/// Seeds that are tried when nobody says how many: about a minute.
const SEEDS: u64 = 3000;
/// How often everything is stepped before what still waits is said to wait for ever.
const PATIENCE: u32 = 4000;

/// A mistake that the simulation has to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// The disk of the journal skips syncs.
    JournalNotSynced,
    /// Blobs are lost that were said to be durable.
    PutsLost,
    /// The blobs that a root slot names are durable after it, not before.
    RootBeforePacks,
    /// The disk of the root slots skips syncs, so that the journal is released before they are durable.
    ReleasedBeforeRoot,
    /// Writes are acknowledged when they are applied.
    AcknowledgedTooEarly,
    /// A record is replayed that was torn.
    TornRecordReplayed,
    /// The journal is replayed from its end.
    ReplayedOutOfOrder,
    /// A commit takes older writes for the newer ones.
    CommittedOutOfOrder,
    /// A commit for a snapshot takes what it has, and asks no front end.
    FrontsNotAsked,
    /// The journal's thread is not woken for a write.
    JournalNotWoken,
    /// What a read takes in for another one, nobody hears of.
    NewsForgotten,
    /// What is stored already is not found.
    DedupForgotten,
    /// A damaged index stays as it is.
    IndexNotMended,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Whether a mistake is to be made on this thread.
pub(super) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

thread_local! {
    static FOUND: Cell<Option<Manifest>> = const { Cell::new(None) };
}

/// Recovery starts from this manifest.
pub(super) fn note_found(manifest: &Manifest) {
    FOUND.set(Some(manifest.clone()));
}

/// What has happened.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    crashes: u64,
    commits: u64,
    acknowledged: u64,
    snapshots: u64,
    edits: u64,
    failed_commits: u64,
    replayed: u64,
    /// How often it was read through, and how often its index was mended.
    examined: u64,
    mended: u64,
    /// Sectors that were lost with what was damaged.
    lost: u64,
    /// Frames of which no other is a copy.
    frames: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.commits += other.commits;
        self.acknowledged += other.acknowledged;
        self.snapshots += other.snapshots;
        self.edits += other.edits;
        self.failed_commits += other.failed_commits;
        self.replayed += other.replayed;
        self.examined += other.examined;
        self.mended += other.mended;
        self.lost += other.lost;
        self.frames += other.frames;
    }
}

/// A thread that has found nothing to do sleeps until somebody rings, as a real one does: news that
/// nobody rings for would have to wait for ever.
#[derive(Debug, Clone, Copy)]
struct Awake {
    group: bool,
    committer: bool,
    /// When the latter wakes up by itself.
    committer_at: Instant,
}

impl Awake {
    const ALL: Self = Self { group: true, committer: true, committer_at: Instant::ZERO };
}

#[expect(clippy::struct_excessive_bools, reason = "each may be so whatever the others are")]
struct Machine {
    chance: Chance,
    media: Media,
    options: StoreOptions,
    now: Instant,
    store: Option<OpenStore>,
    /// Who works for the store, and is awake.
    awake: Awake,
    model: Model,
    fronts: Vec<Front>,
    /// Front ends of snapshots, and what they have to read.
    exports: Vec<(CasVolume, State)>,
    /// Front ends that were asked for, and whether there was one already.
    #[allow(clippy::type_complexity, reason = "an answer to come")]
    attaching: Vec<(String, bool, mpsc::Receiver<Result<CasVolume, CasError>>)>,
    edits: Vec<InFlight>,
    /// Commits that were asked for, with what was acknowledged then of each volume.
    #[allow(clippy::type_complexity, reason = "volumes and writes, by number")]
    committing: Vec<(mpsc::Receiver<Result<(), CasError>>, Vec<(u32, u64)>)>,
    versions: u64,
    /// Faults were switched on since the store was opened.
    armed: bool,
    /// Something that was there when it was opened may be unreadable until it is opened again.
    crippled: bool,
    /// That was so once.
    was_crippled: bool,
    /// Some run of the index is damaged.
    index_is_rotten: bool,
    /// Some packs are damaged; nothing else goes wrong then.
    rotten: bool,
    counts: Counts,
}

impl Drop for Machine {
    fn drop(&mut self) {
        clock::simulate(None);
    }
}

/// Limits, as they may be in a configuration.
fn some_limits(chance: &mut Chance) -> StoreOptions {
    let overlay_bytes = (128 << chance.below(4)) << 10;
    StoreOptions {
        overlay_bytes,
        // No eviction, which does not repeat itself: all of it fits, or no block does.
        cache_bytes: if chance.one_in(2) { 0 } else { 16 << 20 },
        commit_bytes: overlay_bytes >> (2 + chance.below(3)),
        commit_interval: Duration::from_millis(100 << chance.below(9)),
        threads: 0,
        ..StoreOptions::default()
    }
}

impl Machine {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(!seed);
        let segments = 3 + u32::try_from(chance.below(4)).unwrap();
        let geometry = Geometry { segment_bytes: (48 + 16 * chance.below(5)) << 10, segments };
        let layout = if chance.one_in(3) { Layout::Loose } else { Layout::Packed };
        let puts = match PLANTED.get() {
            Some(Bug::PutsLost) => Puts::Lost,
            Some(Bug::RootBeforePacks) => Puts::Late,
            _ => Puts::Durable,
        };
        let media = Media::new(seed, geometry, layout, puts);
        match PLANTED.get() {
            Some(Bug::JournalNotSynced) => media.journal.set_defect(Defect::SyncsSkipped),
            Some(Bug::ReleasedBeforeRoot) => media.roots.set_defect(Defect::SyncsSkipped),
            _ => {}
        }
        let mut machine = Self {
            chance,
            media,
            options: StoreOptions::default(),
            now: Instant::from_nanos(1),
            store: None,
            awake: Awake::ALL,
            model: Model::default(),
            fronts: Vec::new(),
            exports: Vec::new(),
            attaching: Vec::new(),
            edits: Vec::new(),
            committing: Vec::new(),
            versions: 0,
            armed: false,
            crippled: false,
            was_crippled: false,
            index_is_rotten: false,
            rotten: false,
            counts: Counts::default(),
        };
        machine.model.commit = 1;
        machine.pass(0);
        machine
    }

    /// Lets time pass, for everybody on this thread.
    fn pass(&mut self, millis: u64) {
        self.now = self.now.after(Duration::from_millis(millis));
        clock::simulate(Some(self.now));
    }

    fn is_cut(&self) -> bool {
        self.media.power.lock().unwrap().cut
    }

    fn store(&mut self) -> &mut OpenStore {
        self.store.as_mut().unwrap()
    }

    fn excuse(&self) -> Excuse {
        let stopped = self.store.as_ref().is_none_or(|store| store.shared.is_stopped());
        // Until a damaged index is mended, once somebody has come upon it.
        Excuse { stopped, unreadable: self.armed || self.is_cut() || self.index_is_rotten }
    }

    /// One step of whatever chance says.
    fn step(&mut self) {
        let millis = self.chance.below(20);
        self.pass(millis);
        match self.chance.below(100) {
            0..28 => self.write(false),
            28..31 => self.write(true),
            31..33 => self.with_front(|machine, place| {
                let excuse = machine.excuse();
                machine.fronts[place].flush(excuse);
            }),
            33..43 => self.read(),
            43..49 => self.acknowledge(),
            49..56 => self.progress(),
            56..68 => self.step_group(),
            68..85 => self.step_committer(),
            85..91 => _ = self.step_reader(),
            91..94 => self.ask_edit(),
            94 => self.attach_or_detach(),
            95 => self.use_snapshot(),
            96 if self.chance.one_in(4) => self.ask_commit(),
            97 => {
                let millis = self.chance.below(4000);
                self.pass(millis);
            }
            98 if !self.rotten && self.chance.one_in(2) => self.change_faults(),
            99 if self.chance.one_in(8) => self.settle(),
            _ => {}
        }
    }

    /// Lets a front end that chance picks do something.
    fn with_front(&mut self, act: impl FnOnce(&mut Self, usize)) {
        if self.fronts.is_empty() {
            return self.attach_or_detach();
        }
        let place = usize::try_from(self.chance.below(self.fronts.len() as u64)).unwrap();
        act(self, place);
    }

    fn write(&mut self, discard: bool) {
        self.with_front(|machine, place| {
            let size = machine.fronts[place].size();
            let (mut start, mut count) = extent(&mut machine.chance, size);
            if discard && machine.chance.one_in(2) {
                // As a whole, or from somewhere on.
                start = if machine.chance.one_in(2) { 0 } else { start };
                count = size - start;
            }
            machine.versions += 1;
            let version = match discard {
                true => 0,
                false if machine.chance.one_in(6) => COMMON | (1 + machine.chance.below(6)),
                false => machine.versions,
            };
            let excuse = machine.excuse();
            let front = &mut machine.fronts[place];
            let model = machine.model.volumes.get_mut(&front.name).unwrap();
            front.write(Offer { start, count, version }, model, excuse);
        });
    }

    fn read(&mut self) {
        self.with_front(|machine, place| {
            let (start, count) = extent(&mut machine.chance, machine.fronts[place].size());
            let excuse = machine.excuse();
            let front = &mut machine.fronts[place];
            let model = &machine.model.volumes[&front.name];
            let verify = machine.chance.one_in(8);
            let read = Read { start, count, verify };
            if front.reads.len() < 8 && !front.read(read, model, excuse) {
                front.reads.push(read);
            }
        });
    }

    fn acknowledge(&mut self) {
        let excuse = self.excuse();
        for front in &mut self.fronts {
            let model = self.model.volumes.get_mut(&front.name).unwrap();
            self.counts.acknowledged += front.acknowledge(model, excuse);
        }
    }

    /// What the poll loop does now and then; what waited is asked for again when that is worth it.
    fn progress(&mut self) {
        for place in 0..self.fronts.len() {
            if self.chance.one_in(2) {
                self.progress_of(place);
            }
        }
    }

    /// The same for one front end; tells whether it was worth it.
    fn progress_of(&mut self, place: usize) -> bool {
        let excuse = self.excuse();
        let front = &mut self.fronts[place];
        front.unseen = 0;
        if !front.volume.progress() {
            return false;
        }
        let model = self.model.volumes.get_mut(&front.name).unwrap();
        front.read_again(model, excuse);
        if let Some(offer) = front.parked {
            front.write(offer, model, excuse);
        }
        true
    }

    fn step_group(&mut self) {
        let store = self.store.as_mut().unwrap();
        self.awake.group |= store.shared.journal_bell.take_rung();
        if self.awake.group {
            self.awake.group = store.group.step() == Step::Done;
        }
    }

    /// Tells whether there was anything to fetch.
    fn step_reader(&mut self) -> bool {
        let shared = &self.store().shared;
        shared.reader.pool.step(&shared.reader)
    }

    fn step_committer(&mut self) {
        let now = self.now;
        let store = self.store.as_mut().unwrap();
        self.awake.committer |= store.shared.commit_bell.take_rung();
        if !self.awake.committer && now < self.awake.committer_at {
            return;
        }
        let had_failed = store.committer.failure().is_some();
        self.awake.committer = store.committer.step(now) == Step::Done;
        self.awake.committer_at = store.committer.wake_at(now);
        let failing = self.store().committer.failure();
        if let Some(why) = &failing {
            let excused = self.armed && !self.rotten || self.is_cut();
            assert!(excused, "a commit fails for no reason: {why}");
            self.counts.failed_commits += u64::from(!had_failed);
        }
        self.take_answers();
        // The loop calls each at least some times a second.
        for place in 0..self.fronts.len() {
            if self.fronts[place].unseen >= 3 {
                self.progress_of(place);
            }
        }
    }

    fn ask_committer(&mut self, request: Request) {
        self.store().requests.send(request).unwrap();
        self.store().shared.commit_bell.ring();
    }

    fn ask_commit(&mut self) {
        let (reply, answer) = mpsc::sync_channel(1);
        let acknowledged = self.model.volumes.values().map(|v| (v.number, v.acknowledged));
        let acknowledged = acknowledged.collect();
        self.committing.push((answer, acknowledged));
        self.ask_committer(Request::Commit(reply));
    }

    fn change_faults(&mut self) {
        if self.armed && self.chance.one_in(2) {
            return self.heal();
        }
        self.armed = true;
        let blobs = &self.media.blobs.inner;
        match self.chance.below(4) {
            0 => blobs.limit_room(Some(self.chance.below(100_000))),
            1 => {
                let put = u32::try_from(self.chance.below(400)).unwrap();
                blobs.set_rates(BlobFaultRates { put, ..BlobFaultRates::default() });
            }
            2 => {
                let get_range = u32::try_from(self.chance.below(400)).unwrap();
                blobs.set_rates(BlobFaultRates { get_range, ..BlobFaultRates::default() });
            }
            _ => self.media.power.lock().unwrap().faults = Some(20 + self.chance.below(200)),
        }
    }

    fn heal(&mut self) {
        self.media.blobs.inner.heal();
        self.media.power.lock().unwrap().faults = None;
    }

    /// Nothing new comes, and nothing fails: everything that waits has to come to its end.
    fn settle(&mut self) {
        if self.crippled || self.excuse().stopped {
            return;
        }
        self.heal();
        for _ in 0..PATIENCE {
            self.pass(50);
            self.step_group();
            self.step_committer();
            let fetched = self.step_reader();
            self.acknowledge();
            for place in 0..self.fronts.len() {
                let waits = !self.fronts[place].reads.is_empty();
                let has_news = self.progress_of(place);
                assert!(fetched || has_news || !waits, "a read waits for what has come");
            }
            if self.is_cut() || self.excuse().stopped || self.is_settled() {
                return;
            }
        }
        let waits: Vec<_> = self
            .fronts
            .iter()
            .map(|front| (&front.name, front.parked, front.reads.len(), front.tickets.len()))
            .collect();
        panic!(
            "something waits for ever: fronts {waits:?}, {} changes, {} commits, {} front ends to come",
            self.edits.len(),
            self.committing.len(),
            self.attaching.len()
        );
    }

    fn is_settled(&self) -> bool {
        let rests = |front: &Front| {
            front.parked.is_none()
                && front.reads.is_empty()
                && front.tickets.is_empty()
                && front.volume.durable() >= front.volume.applied()
        };
        self.fronts.iter().all(rests)
            && self.edits.is_empty()
            && self.committing.is_empty()
            && self.attaching.is_empty()
    }
}

/// Runs one machine through some crashes.
fn run(seed: u64, bug: Option<Bug>) -> Counts {
    PLANTED.set(bug);
    let mut machine = Machine::new(seed);
    machine.open();
    for _ in 0..4 {
        let steps = 50 + machine.chance.below(1000);
        if machine.chance.one_in(2) {
            machine.media.power.lock().unwrap().fuse = Some(1 + machine.chance.below(steps / 4));
        }
        for _ in 0..steps {
            if machine.is_cut() {
                break;
            }
            machine.step();
        }
        let closed = !machine.is_cut() && machine.chance.one_in(4) && machine.close();
        let power_cut = machine.is_cut() || machine.chance.one_in(2);
        machine.crash(power_cut);
        machine.open();
        machine.check(closed);
        machine.seek_copies();
    }
    if machine.chance.one_in(4) {
        machine.rot();
    }
    machine.counts
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|number| number.parse().ok())
}

fn fails(seed: u64, bug: Option<Bug>) -> bool {
    std::panic::catch_unwind(|| run(seed, bug)).is_err()
}

#[test]
fn a_store_has_what_was_acknowledged_whatever_moment_the_power_is_cut() {
    if let Some(seed) = number_from("AOE_SEED") {
        println!("{:?}", run(seed, None));
        return;
    }
    let first = number_from("AOE_FIRST").unwrap_or(0);
    let seeds = number_from("AOE_SEEDS").unwrap_or(SEEDS);
    let mut sum = Counts::default();
    for seed in first..first + seeds {
        let counts = std::panic::catch_unwind(|| run(seed, None));
        sum.add(&counts.unwrap_or_else(|_| panic!("seed {seed}: AOE_SEED={seed} repeats it")));
    }
    println!("{seeds} seeds: {sum:?}");
    assert!(
        sum.commits > 4 * sum.crashes
            && sum.acknowledged > 20 * sum.crashes
            && 8 * sum.examined > sum.crashes
            && sum.frames > 10 * sum.crashes,
        "too little happens"
    );
}

#[test]
fn planted_bugs_are_found() {
    for bug in [
        Bug::JournalNotSynced,
        Bug::PutsLost,
        Bug::RootBeforePacks,
        Bug::ReleasedBeforeRoot,
        Bug::AcknowledgedTooEarly,
        Bug::TornRecordReplayed,
        Bug::ReplayedOutOfOrder,
        Bug::CommittedOutOfOrder,
        Bug::FrontsNotAsked,
        Bug::JournalNotWoken,
        Bug::NewsForgotten,
        Bug::DedupForgotten,
        Bug::IndexNotMended,
    ] {
        let found = (0..SEEDS).find(|seed| fails(*seed, Some(bug)));
        println!("{bug:?} shows with seed {found:?}");
        let seed = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        assert!(fails(seed, Some(bug)), "seed {seed} does not show {bug:?} again");
        assert!(!fails(seed, None), "seed {seed} fails without {bug:?}, too");
    }
}

#[test]
fn a_seed_repeats_itself() {
    for seed in 0..20 {
        assert_eq!(format!("{:?}", run(seed, None)), format!("{:?}", run(seed, None)));
    }
}
