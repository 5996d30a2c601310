//! A machine whose power is cut at any moment: the journal, its threads and the writers of its
//! images, run step by step in an order that a seed gives, over disks that lose what was not synced.
//!
//! After each crash the journal is replayed, and every sector of every image must be what was last
//! acknowledged, or something that was written later. A seed that fails does so each time:
//! `AOE_SEED=123 cargo test simulation`; `AOE_SEEDS=100000` tries that many.

pub(in crate::storage) mod disk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};

use self::disk::{Chance, Defect, Power, SimulatedDisk};
use super::super::writer::{Disk, Syncs, Worker, Writer};
use super::super::{Accepted, Ticket};
use super::committer::{Leaving, Left, Request, Step, lock};
use super::file_journal::{JournalLink, Parts, attach};
use super::journal_file::format;
use super::replay::{replay, survey};
use super::{Geometry, ImageNumber, JournalId, Scan, Sequence};
use crate::units::SECTOR_SIZE;

const IMAGES: usize = 3;
const SECTORS: u64 = 96;
const ID: JournalId = JournalId(*b"simulated disks!");
const GEOMETRY: Geometry = Geometry { segment_bytes: 64 << 10, segments: 4 };
/// Seeds that are tried when nobody says how many: less than a minute.
const SEEDS: u64 = 2000;

/// The ticket of what is never acknowledged.
const NEVER: Ticket = Ticket(u64::MAX);

/// A mistake that the simulation has to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    /// The journal's disk skips syncs.
    JournalNotSynced,
    /// Images are released without having been synced.
    ImageNotSynced,
    /// Writes are acknowledged when they are applied.
    AcknowledgedTooEarly,
    /// A record is replayed that was torn.
    TornRecordReplayed,
    /// Entries are replayed in the wrong order.
    ReplayedOutOfOrder,
    /// What is in the journal is forgotten.
    NotReplayed,
}

/// What a sector may be after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    /// 0 for zeros.
    number: u64,
    ticket: Ticket,
}

/// One image: its disk, what writes to it, and what ought to be there.
struct Image {
    disk: SimulatedDisk,
    writer: Writer,
    worker: Worker<SimulatedDisk>,
    number: ImageNumber,
    /// Of each sector, what it is and then what it was told to become.
    versions: Vec<VecDeque<Version>>,
    outstanding: VecDeque<Ticket>,
    acknowledged: Ticket,
    /// Those that were answered with an error: they may have been carried out or not.
    refused: BTreeSet<Ticket>,
    closed: bool,
}

struct Machine {
    power: Arc<Mutex<Power>>,
    chance: Chance,
    bug: Option<Bug>,
    journal: SimulatedDisk,
    parts: Option<Parts<SimulatedDisk>>,
    images: Vec<Image>,
    next_image: u64,
    version: u64,
    crashes: u64,
    segments: u64,
    acknowledged: u64,
}

fn octets(image: usize, sector: u64, version: u64) -> [u8; SECTOR_SIZE] {
    let mut octets = [0; SECTOR_SIZE];
    if version > 0 {
        for (n, word) in octets.chunks_exact_mut(8).enumerate() {
            let stamp = version ^ (sector << 40) ^ ((image as u64) << 56) ^ ((n as u64) << 48);
            word.copy_from_slice(&stamp.to_le_bytes());
        }
    }
    octets
}

impl Machine {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let power = Arc::new(Mutex::new(Power::new(seed)));
        let journal = SimulatedDisk::new(usize::try_from(GEOMETRY.bytes()).unwrap(), &power);
        format(&journal, ID, GEOMETRY, Sequence(0)).unwrap();
        let mut machine = Self {
            chance: Chance::new(!seed),
            bug,
            journal,
            parts: None,
            images: Vec::new(),
            next_image: 1,
            version: 0,
            crashes: 0,
            segments: 0,
            acknowledged: 0,
            power,
        };
        let scan = Scan::of(&machine.journal).unwrap();
        machine.parts = Some(Parts::new(&scan, machine.journal.clone(), "journal".into()).unwrap());
        for _ in 0..IMAGES {
            let disk =
                SimulatedDisk::new(usize::try_from(SECTORS).unwrap() * SECTOR_SIZE, &machine.power);
            let zeros = VecDeque::from([Version { number: 0, ticket: Ticket::NONE }]);
            let versions = vec![zeros; usize::try_from(SECTORS).unwrap()];
            let image = machine.open(disk, versions);
            machine.images.push(image);
        }
        if bug == Some(Bug::JournalNotSynced) {
            machine.journal.set_defect(Defect::SyncsSkipped);
        }
        machine
    }

    /// Puts an image into the journal.
    fn open(&mut self, disk: SimulatedDisk, versions: Vec<VecDeque<Version>>) -> Image {
        let number = ImageNumber(self.next_image);
        self.next_image += 1;
        let (mut writer, worker) =
            Writer::with_worker(disk.clone(), "image".into(), Syncs::AtTheEnd, None);
        let parts = self.parts.as_ref().unwrap();
        let (open, path) = (&parts.open, PathBuf::from(format!("/images/{number}")));
        let synced = disk.clone();
        if self.bug == Some(Bug::ImageNotSynced) {
            synced.set_defect(Defect::SyncsSkipped);
        }
        let state = Arc::clone(writer.state());
        let (attached, orders) = attach(open, number, path, false, Box::new(synced), state, None);
        parts.requests.send(Request::Attach(attached)).unwrap();
        writer.use_journal(JournalLink::by_hand(orders, number, parts.requests.clone()));
        Image {
            disk,
            writer,
            worker,
            number,
            versions,
            outstanding: VecDeque::new(),
            acknowledged: Ticket::NONE,
            refused: BTreeSet::new(),
            closed: false,
        }
    }

    /// One step of whatever chance says.
    fn step(&mut self) {
        match self.chance.below(20) {
            0..9 => self.write(),
            9 => self.discard(),
            10..13 => {
                let image = self.pick();
                self.images[image].worker.step();
            }
            13..17 => {
                let before = self.parts.as_ref().unwrap().checkpointer.reclaimer.waiting().len();
                self.parts.as_mut().unwrap().committer.step();
                self.parts.as_mut().unwrap().checkpointer.step();
                let after = self.parts.as_ref().unwrap().checkpointer.reclaimer.waiting().len();
                self.segments += u64::from(after > before);
            }
            17 => {
                self.parts.as_mut().unwrap().checkpointer.step();
            }
            18 if self.chance.one_in(12) => {
                let image = self.pick();
                self.reopen(image);
            }
            _ => self.acknowledge(),
        }
    }

    fn pick(&mut self) -> usize {
        usize::try_from(self.chance.below(IMAGES as u64)).unwrap()
    }

    fn extent(&mut self) -> (u64, u64) {
        let count = 1 + self.chance.below(17);
        // A small hot part makes for overlaps.
        let end = if self.chance.one_in(2) { 24 } else { SECTORS };
        (self.chance.below(end - count + 1), count)
    }

    fn write(&mut self) {
        let image = self.pick();
        let (start, count) = self.extent();
        if self.images[image].closed {
            return;
        }
        self.version += 1;
        let version = self.version;
        let data: Vec<u8> =
            (start..start + count).flat_map(|sector| octets(image, sector, version)).collect();
        let accepted = self.images[image].writer.write(start * SECTOR_SIZE as u64, &data);
        self.images[image].note(accepted, start, count, version);
    }

    fn discard(&mut self) {
        let image = self.pick();
        if self.images[image].closed {
            return;
        }
        let (start, count) = self.extent();
        let (offset, len) = (start * SECTOR_SIZE as u64, count * SECTOR_SIZE as u64);
        let accepted = self.images[image].writer.discard(offset, len);
        self.images[image].note(accepted, start, count, 0);
    }

    fn acknowledge(&mut self) {
        let early = self.bug == Some(Bug::AcknowledgedTooEarly);
        for image in &mut self.images {
            let durable = if early { image.writer.applied() } else { image.writer.durable() };
            assert!(early || durable <= image.writer.applied(), "durable before it was applied");
            while image.outstanding.front().is_some_and(|ticket| *ticket <= durable) {
                let ticket = image.outstanding.pop_front().unwrap();
                if image.writer.outcome(ticket).is_ok() {
                    image.acknowledged = ticket;
                    self.acknowledged += 1;
                } else {
                    image.refused.insert(ticket);
                }
            }
        }
    }

    /// Closes an image and opens it again, as a reload does.
    fn reopen(&mut self, index: usize) {
        let closed = self.close(index);
        // As for real, none is opened any more once something has failed, nor without a sync.
        let pinned = lock(&self.parts.as_ref().unwrap().open).pinned;
        if !closed || pinned || Disk::sync(&mut self.images[index].disk).is_err() {
            return;
        }
        let Image { disk, versions, refused, .. } = self.images.swap_remove(index);
        let versions = versions.into_iter().map(|versions| settled(versions, &refused)).collect();
        let image = self.open(disk, versions);
        self.images.push(image);
        let last = self.images.len() - 1;
        self.images.swap(index, last);
    }

    /// Closes an image; whether all of it is durable then.
    fn close(&mut self, index: usize) -> bool {
        let image = &mut self.images[index];
        if std::mem::replace(&mut image.closed, true) {
            return false;
        }
        while image.worker.step() {}
        image.worker.end();
        let parts = self.parts.as_mut().unwrap();
        let (done, closed) = mpsc::sync_channel(1);
        let leaving = Leaving { whole: !image.writer.state().has_failed(), staged: false, done };
        parts.requests.send(Request::Detach(image.number, leaving)).unwrap();
        for _ in 0..1000 {
            if let Ok(closed) = closed.try_recv() {
                self.acknowledge();
                self.images[index].writer.leave_journal();
                return closed && self.images[index].outstanding.is_empty();
            }
            for image in &mut self.images {
                image.worker.step();
            }
            let parts = self.parts.as_mut().unwrap();
            parts.committer.step();
            parts.checkpointer.step();
        }
        panic!("an image cannot be closed");
    }

    /// Ends everything as a server that is told to does. `false` when something had failed.
    fn stop(&mut self) -> bool {
        let closed = (0..IMAGES).filter(|image| self.close(*image)).count();
        let parts = self.parts.as_mut().unwrap();
        parts.requests.send(Request::Close).unwrap();
        while parts.committer.step() != Step::Ended {}
        match parts.committer.left() {
            Left::Whole(last) => {
                parts.checkpointer.reclaimer.close(last).is_ok() && closed == IMAGES
            }
            Left::Needed => false,
        }
    }

    /// The end of the process, by a power cut or without.
    fn crash(&mut self, power_cut: bool) {
        self.acknowledge();
        self.crashes += 1;
        // First the committer: who waits for it then does so in vain, but not for ever.
        self.parts = None;
        if power_cut {
            self.journal.lose_power();
            self.images.iter().for_each(|image| image.disk.lose_power());
        }
        lock(&self.power).restore();
    }

    /// Replays the journal, perhaps at the second attempt, and checks all images.
    fn recover(&mut self) {
        self.plant_in_recovery();
        if self.chance.one_in(3) {
            if self.chance.one_in(3) {
                // The heads, which are read first, or anything.
                let end = if self.chance.one_in(2) { 4 } else { 200 };
                lock(&self.power).read_fuse = Some(1 + self.chance.below(end));
            } else {
                lock(&self.power).fuse = Some(1 + self.chance.below(12));
            }
            if self.replay().is_ok() {
                lock(&self.power).restore();
            } else {
                let power_cut = self.chance.one_in(2);
                self.crash(power_cut);
            }
        }
        if self.parts.is_none() {
            self.replay().expect("nothing is wrong with the disks now");
        }
        let mut versions = Vec::new();
        for (index, image) in self.images.iter().enumerate() {
            image.disk.set_defect(Defect::None);
            versions.push((image.disk.clone(), image.check(index)));
        }
        self.images.clear();
        for (disk, versions) in versions {
            let image = self.open(disk, versions);
            self.images.push(image);
        }
    }

    fn replay(&mut self) -> Result<(), ()> {
        let scan = Scan::of(&self.journal).map_err(|_| ())?;
        assert_eq!(scan.lost(), [], "damage was found where there is none");
        let pending = survey(&scan, &self.journal).map_err(|_| ())?;
        let mut disks = BTreeMap::new();
        for image in &self.images {
            image.disk.distrust_cache().map_err(|_| ())?;
            if pending.iter().any(|pending| pending.number == image.number) {
                disks.insert(image.number, image.disk.clone());
            }
        }
        if self.bug != Some(Bug::NotReplayed) {
            replay(&scan, &self.journal, &mut disks).map_err(|_| ())?;
        }
        let (_, mut reclaimer) = scan.ends(self.journal.clone());
        reclaimer.close(scan.tip().last).map_err(|_| ())?;
        let scan = Scan::of(&self.journal).map_err(|_| ())?;
        assert!(scan.is_empty(), "it was emptied");
        let parts = Parts::new(&scan, self.journal.clone(), "journal".into()).map_err(|_| ())?;
        self.parts = Some(parts);
        Ok(())
    }

    fn plant_in_recovery(&mut self) {
        match self.bug {
            Some(Bug::TornRecordReplayed) => self.journal.set_defect(Defect::ChecksumsForged(ID)),
            Some(Bug::ReplayedOutOfOrder) => {
                self.images.iter().for_each(|image| image.disk.set_defect(Defect::Swapped));
            }
            _ => {}
        }
    }
}

/// What a sector may be when everything was carried out that was not refused.
fn settled(versions: VecDeque<Version>, refused: &BTreeSet<Ticket>) -> VecDeque<Version> {
    let sure = versions.iter().rposition(|known| !refused.contains(&known.ticket));
    let may = versions.into_iter().skip(sure.unwrap_or(0));
    let tickets = std::iter::once(Ticket::NONE).chain(std::iter::repeat(NEVER));
    may.zip(tickets).map(|(Version { number, .. }, ticket)| Version { number, ticket }).collect()
}

impl Image {
    fn note(
        &mut self,
        accepted: Result<Accepted, super::super::Fault>,
        start: u64,
        count: u64,
        number: u64,
    ) {
        let Ok(Accepted::Done(ticket)) = accepted else { return };
        assert!(!self.closed, "a write was taken after the end");
        self.outstanding.push_back(ticket);
        for sector in start..start + count {
            self.versions[usize::try_from(sector).unwrap()].push_back(Version { number, ticket });
        }
    }

    /// Compares every sector with what it may be; returns what it is.
    fn check(&self, index: usize) -> Vec<VecDeque<Version>> {
        let contents = self.disk.contents();
        let mut found = Vec::new();
        for (sector, versions) in (0..).zip(&self.versions) {
            let at = usize::try_from(sector).unwrap() * SECTOR_SIZE;
            let content = &contents[at..at + SECTOR_SIZE];
            let sure = |known: &Version| {
                known.ticket <= self.acknowledged && !self.refused.contains(&known.ticket)
            };
            let sure = versions.iter().rposition(sure);
            let may = versions.range(sure.unwrap_or(0)..);
            let is = may.rev().find(|known| octets(index, sector, known.number) == content);
            let Some(is) = is else {
                panic!(
                    "image {index}, sector {sector}: is none of {versions:?}, of which {:?} was \
                     acknowledged",
                    self.acknowledged
                )
            };
            found.push(VecDeque::from([Version { number: is.number, ticket: Ticket::NONE }]));
        }
        found
    }
}

/// Runs one machine through some crashes; tells of crashes, used segments and acknowledgements.
fn run(seed: u64, bug: Option<Bug>) -> [u64; 3] {
    let mut machine = Machine::new(seed, bug);
    for _ in 0..4 {
        let steps = 20 + machine.chance.below(600);
        if machine.chance.one_in(3) {
            lock(&machine.power).fuse = Some(1 + machine.chance.below(steps));
        }
        if machine.chance.one_in(4) {
            lock(&machine.power).faults = Some(20 + machine.chance.below(100));
        }
        for _ in 0..steps {
            if lock(&machine.power).cut {
                break;
            }
            machine.step();
        }
        let cut = lock(&machine.power).cut;
        if !cut && machine.chance.one_in(4) {
            let whole = machine.stop();
            assert!(whole || lock(&machine.power).faulted > 0, "not whole for no reason");
            if whole {
                for image in &mut machine.images {
                    image.acknowledged = Ticket(NEVER.0 - 1);
                }
            }
        }
        let power_cut = lock(&machine.power).cut || machine.chance.one_in(2);
        machine.crash(power_cut);
        machine.recover();
    }
    [machine.crashes, machine.segments, machine.acknowledged]
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|number| number.parse().ok())
}

fn fails(seed: u64, bug: Option<Bug>) -> bool {
    std::panic::catch_unwind(|| run(seed, bug)).is_err()
}

#[test]
fn nothing_acknowledged_is_lost_whatever_moment_the_power_is_cut() {
    if let Some(seed) = number_from("AOE_SEED") {
        run(seed, None);
        return;
    }
    let mut sums = [0; 3];
    for seed in 0..number_from("AOE_SEEDS").unwrap_or(SEEDS) {
        let counts = std::panic::catch_unwind(|| run(seed, None));
        let counts = counts.unwrap_or_else(|_| panic!("seed {seed}: AOE_SEED={seed} repeats it"));
        sums = std::array::from_fn(|n| sums[n] + counts[n]);
    }
    let [crashes, segments, acknowledged] = sums;
    println!("{crashes} crashes, {segments} segments filled, {acknowledged} writes acknowledged");
    assert!(segments > crashes / 4 && acknowledged > 10 * crashes, "too little happens");
}

#[test]
fn planted_bugs_are_found() {
    for bug in [
        Bug::JournalNotSynced,
        Bug::ImageNotSynced,
        Bug::AcknowledgedTooEarly,
        Bug::TornRecordReplayed,
        Bug::ReplayedOutOfOrder,
        Bug::NotReplayed,
    ] {
        let found = (0..SEEDS).find(|seed| fails(*seed, Some(bug)));
        println!("{bug:?} shows with seed {found:?}");
        let seed = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        assert!(fails(seed, Some(bug)), "seed {seed} does not show {bug:?} again");
        assert!(!fails(seed, None), "seed {seed} fails without {bug:?}, too");
    }
}

/// Damage in the middle is told of, with what is missing, and is never replayed.
#[test]
fn damage_before_the_end_is_named() {
    let mut named = 0;
    for seed in 0..200 {
        let mut machine = Machine::new(seed, None);
        for _ in 0..200 {
            machine.step();
        }
        machine.crash(false);
        let before = Scan::of(&machine.journal).unwrap();
        assert_eq!(before.lost(), []);
        let places = before.places();
        let Some((_, but_last)) = places.split_last() else { continue };
        if but_last.is_empty() {
            continue;
        }
        let victim = machine.chance.below(but_last.len() as u64);
        let (first, last, at, len) = but_last[usize::try_from(victim).unwrap()];
        let octet = machine.chance.below(len as u64);
        machine.journal.damage(usize::try_from(at + octet).unwrap(), 1);
        let after = Scan::of(&machine.journal).unwrap();
        assert_eq!(after.lost(), [first.0..=last.0], "seed {seed}");
        named += 1;
    }
    assert!(named > 100, "too few journals had anything in the middle: {named}");
}
