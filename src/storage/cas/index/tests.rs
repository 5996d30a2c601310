//! The index as a whole: against a model, over power loss, damage and threads.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use proptest::prelude::*;

use super::error::Damage;
use super::*;

const STORE: StoreId = StoreId(*b"a store of tests");

/// A key; those with numbers next to each other are next to each other.
pub(super) fn id(number: u8) -> ContentId {
    let mut octets = [0xa5; 32];
    octets[0] = number;
    ContentId(octets)
}

pub(super) fn location(number: u8, pack: u32) -> Location {
    Location { pack, place: FramePlace { offset: u32::from(number) * 1000, len: pack + 40 } }
}

pub(super) fn entry(number: u8, pack: u32) -> Entry {
    Entry { id: id(number), location: location(number, pack) }
}

/// A key as they are: spread evenly.
fn spread(number: u64) -> ContentId {
    ContentId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn open(runs: &MemRuns) -> Index<MemRuns> {
    let Opened { index, unusable } = Index::open(runs.clone(), STORE).unwrap();
    assert!(unusable.is_empty(), "{unusable:?}");
    index
}

/// What the directories of packs say: keys and numbers of packs.
#[derive(Debug, Clone, Default)]
struct Packs(BTreeMap<u32, Vec<u8>>);

impl Packs {
    fn push(&mut self, keys: &[u8]) -> u32 {
        let pack = self.0.last_key_value().map_or(0, |(pack, _)| pack + 1);
        self.0.insert(pack, keys.to_vec());
        pack
    }

    fn entries(&self, pack: u32) -> impl Iterator<Item = (ContentId, Location)> + '_ {
        self.0[&pack].iter().map(move |key| (id(*key), location(*key, pack)))
    }

    fn find(&self, key: u8) -> Option<Location> {
        let mut packs = self.0.iter().rev();
        packs.find(|(_, keys)| keys.contains(&key)).map(|(pack, _)| location(key, *pack))
    }

    /// Inserts what runs do not cover.
    fn read_into(&self, index: &Index<MemRuns>) {
        let first = index.covered().map_or(0, |covered| covered + 1);
        for pack in self.0.range(first..).map(|(pack, _)| *pack) {
            index.insert_many(self.entries(pack));
        }
    }

    /// Each key is found where it is; or, when there may be damage, the run is named.
    fn check(&self, index: &Index<MemRuns>, may_be_damaged: bool) -> bool {
        let mut is_sound = true;
        for key in 0..=u8::MAX {
            match index.get(id(key)) {
                Ok(found) => assert_eq!(found, self.find(key), "key {key} in {:?}", index.runs()),
                Err(IndexError::Damaged { path, .. }) if may_be_damaged => {
                    assert!(path.starts_with("memory") && path.extension().unwrap() == "run");
                    is_sound = false;
                }
                Err(error) => panic!("key {key}: {error}"),
            }
        }
        is_sound
    }
}

#[derive(Debug, Clone)]
enum Op {
    /// A pack with these keys.
    Pack(Vec<u8>),
    /// So many of the packs that are there are not covered.
    Flush(u8),
    Reopen,
    /// Power fails in a flush, after so many steps; the bits say what happened nevertheless.
    Crash(u8, u64),
    Lose(u8),
    /// A bit of a run flips.
    Damage(u8, u32),
    /// Packs go whose frames are all in newer ones as well.
    Compact,
    Rebuild,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Op::Pack),
        8 => (0_u8..3).prop_map(Op::Flush),
        3 => Just(Op::Reopen),
        3 => (0_u8..40, any::<u64>()).prop_map(|(steps, happened)| Op::Crash(steps, happened)),
        1 => any::<u8>().prop_map(Op::Lose),
        2 => (any::<u8>(), any::<u32>()).prop_map(|(run, bit)| Op::Damage(run, bit)),
        1 => Just(Op::Compact),
        1 => Just(Op::Rebuild),
    ]
}

struct Machine {
    packs: Packs,
    runs: MemRuns,
    index: Index<MemRuns>,
    damaged: bool,
}

impl Machine {
    fn new() -> Self {
        let runs = MemRuns::new();
        let index = Index::create(runs.clone(), STORE).unwrap();
        Self { packs: Packs::default(), runs, index, damaged: false }
    }

    fn reopen(&mut self) {
        let Opened { index, unusable } = Index::open(self.runs.clone(), STORE).unwrap();
        assert!(self.damaged || unusable.is_empty(), "{unusable:?}");
        self.packs.read_into(&index);
        self.index = index;
    }

    fn rebuild(&mut self) {
        self.index = Index::create(self.runs.clone(), STORE).unwrap();
        self.damaged = false;
        assert_eq!((self.runs.names(), self.index.covered()), (Vec::new(), None));
        self.packs.read_into(&self.index);
    }

    fn may_fail(&self, result: Result<(), IndexError>) {
        match result {
            Ok(()) => {}
            Err(IndexError::Damaged { .. }) if self.damaged => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn pick(&self, run: u8) -> Option<String> {
        let names = self.runs.names();
        names.get(usize::from(run) % names.len().max(1)).cloned()
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Pack(keys) => {
                let pack = self.packs.push(keys);
                self.index.insert_many(self.packs.entries(pack));
            }
            Op::Flush(left) => {
                let newest = self.packs.0.len().checked_sub(1 + usize::from(*left));
                let Some(through) = newest.and_then(|n| self.packs.0.keys().nth(n)) else { return };
                self.may_fail(self.index.flush(*through));
            }
            Op::Reopen => self.reopen(),
            Op::Crash(steps, happened) => {
                let Some((last, _)) = self.packs.0.last_key_value() else { return };
                self.runs.set_fuse(Some((*steps).into()));
                if self.index.flush(*last).is_err() {
                    // As long as the power lasts, nothing is lost.
                    self.packs.check(&self.index, self.damaged);
                }
                crash(&self.runs, *happened);
                self.reopen();
            }
            Op::Lose(run) => {
                let Some(name) = self.pick(*run) else { return };
                self.runs.lose(&name);
            }
            Op::Damage(run, bit) => {
                let Some(name) = self.pick(*run) else { return };
                let mut octets = self.runs.octets(&name).unwrap();
                let at = *bit as usize % octets.len().max(1);
                if let Some(octet) = octets.get_mut(at) {
                    *octet ^= 1 << (bit >> 29);
                    self.runs.put(&name, octets);
                    self.damaged = true;
                }
            }
            Op::Compact => {
                let dead = |pack: &u32, keys: &[u8]| {
                    Some(*pack) <= self.index.covered()
                        && keys.iter().all(|key| self.packs.find(*key).unwrap().pack > *pack)
                };
                let mut left = self.packs.0.clone();
                left.retain(|pack, keys| !dead(pack, keys));
                self.may_fail(self.index.compact(&|pack| left.contains_key(&pack)));
                // The numbers that follow stay as they are.
                if let Some((last, keys)) = self.packs.0.pop_last() {
                    left.insert(last, keys);
                }
                self.packs.0 = left;
            }
            Op::Rebuild => self.rebuild(),
        }
    }
}

/// A crash in which what the bits say has happened.
fn crash(runs: &MemRuns, mut happened: u64) {
    runs.crash(&mut || {
        happened = happened.rotate_right(1);
        happened.to_le_bytes()[0]
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn it_finds_what_a_model_finds(ops in proptest::collection::vec(op(), 1..60)) {
        let mut machine = Machine::new();
        for op in &ops {
            machine.step(op);
            let covered: Vec<_> = machine.index.runs();
            assert!(covered.is_sorted_by(|one, next| one.last + 1 == next.first));
            assert!(machine.damaged || covered.len() <= 12, "{covered:?}");
            if !machine.packs.check(&machine.index, machine.damaged) {
                machine.rebuild();
                machine.packs.check(&machine.index, false);
            }
        }
    }
}

/// What is done while power fails, at any step of it.
fn busy_day(index: &Index<MemRuns>, packs: &mut Packs) -> Result<(), IndexError> {
    for round in 0..14_u8 {
        let keys: Vec<u8> = (0..12).map(|n| round.wrapping_mul(7).wrapping_add(n * 3)).collect();
        let pack = packs.push(&keys);
        index.insert_many(packs.entries(pack));
        if round % 3 != 1 {
            index.flush(pack)?;
        }
    }
    index.compact(&|_| true)?;
    let pack = packs.push(&[1, 2, 3]);
    index.insert_many(packs.entries(pack));
    index.flush(pack)
}

#[test]
fn power_may_fail_at_any_step() {
    let count = |start: &MemRuns| {
        let before = start.steps();
        busy_day(&open(start), &mut Packs::default()).unwrap();
        start.steps() - before
    };
    let steps = count(&MemRuns::new());
    assert!(steps > 100, "{steps} steps");
    for step in 0..steps {
        for happened in [0, u64::MAX, 0xa5c3_96f0_1234_8765, 0x5a3c_690f_edcb_789a, step << 3] {
            let (runs, mut packs) = (MemRuns::new(), Packs::default());
            let index = open(&runs);
            runs.set_fuse(Some(step));
            assert!(busy_day(&index, &mut packs).is_err());
            packs.check(&index, false);
            crash(&runs, happened);
            let index = open(&runs);
            packs.read_into(&index);
            packs.check(&index, false);
            // And on, in the presence of what was left.
            busy_day(&index, &mut packs).unwrap();
            packs.check(&index, false);
            let index = open(&runs);
            packs.read_into(&index);
            packs.check(&index, false);
            assert!(runs.names().iter().all(|name| parse_name(name).is_some()), "all is swept");
        }
    }
}

#[test]
fn no_part_of_a_cleared_index_is_used_again() {
    let prepared = || {
        let (runs, mut packs) = (MemRuns::new(), Packs::default());
        let index = open(&runs);
        for round in 0..6_u8 {
            let keys: Vec<u8> = (0..1 << (6 - round)).collect();
            let pack = packs.push(&keys);
            index.insert_many(packs.entries(pack));
            index.flush(pack).unwrap();
        }
        assert_eq!(index.runs().len(), 6);
        (runs, index)
    };
    let (runs, index) = prepared();
    let before = runs.steps();
    index.clear().unwrap();
    assert_eq!((index.covered(), index.get(id(1)).unwrap(), index.bytes()), (None, None, 0));
    let steps = runs.steps() - before;
    for step in 0..=steps {
        for happened in (0..64_u64).map(|bits| bits.wrapping_mul(0x0421_0842_1084_2108)) {
            let (runs, index) = prepared();
            runs.set_fuse(Some(step));
            let cleared = index.clear();
            assert_eq!(cleared.is_ok(), step == steps);
            assert_eq!(index.get(id(1)).unwrap(), None);
            crash(&runs, happened);
            // Either as if nothing had happened, or nothing is left.
            let index = open(&runs);
            assert!(matches!(index.runs().len(), 0 | 6), "{:?}", index.runs());
            assert!(step < steps || index.covered().is_none());
            // What is not used does not come to be used.
            if index.covered().is_none() {
                index.insert_many([(id(1), location(9, 0))]);
                index.flush(0).unwrap();
                drop(index);
                assert_eq!(open(&runs).runs().len(), 1);
            }
        }
    }
}

/// A run that belongs to nothing any more must not come to be used by one that ends right before it:
/// the store may have gone back meanwhile, and its packs may be others.
#[test]
fn runs_behind_a_gap_are_removed_before_the_gap_is_filled() {
    let (runs, mut packs) = (MemRuns::new(), Packs::default());
    let index = open(&runs);
    for keys in [64_u8, 32, 16, 8] {
        let pack = packs.push(&(0..keys).collect::<Vec<_>>());
        index.insert_many(packs.entries(pack));
        index.flush(pack).unwrap();
    }
    let names = runs.names();
    assert_eq!(names, [0, 1, 2, 3].map(|pack| run_name((pack, pack))));
    runs.lose(&names[1]);
    let index = open(&runs);
    assert_eq!(index.covered(), Some(0));
    assert_eq!(runs.names().len(), 3, "nothing is removed by opening it");
    packs.read_into(&index);
    packs.check(&index, false);
    index.flush(1).unwrap();
    assert_eq!(runs.names(), &names[..2]);
    packs.check(&index, false);
}

#[test]
fn of_runs_that_cover_one_pack_the_longer_one_is_used() {
    let runs = MemRuns::new();
    let index = open(&runs);
    index.insert_many([(id(7), location(7, 0))]);
    index.flush(0).unwrap();
    let older = runs.octets(&run_name((0, 0))).unwrap();
    index.insert_many([(id(7), location(7, 1))]);
    index.flush(1).unwrap();
    assert_eq!(runs.names(), [run_name((0, 1))]);
    // As if power had failed before the older one was removed.
    runs.put(&run_name((0, 0)), older);
    let index = open(&runs);
    assert_eq!((index.covered(), index.runs().len()), (Some(1), 1));
    assert_eq!(index.get(id(7)).unwrap(), Some(location(7, 1)));
    index.flush(2).unwrap();
    assert!(!runs.names().contains(&run_name((0, 0))));
}

#[test]
fn packs_without_new_frames_are_covered_too() {
    let runs = MemRuns::new();
    let index = open(&runs);
    index.flush(5).unwrap();
    assert_eq!((index.covered(), index.runs()[0].entries), (Some(5), 0));
    assert_eq!(open(&runs).covered(), Some(5));
    assert_eq!(open(&runs).get(id(1)).unwrap(), None);
    // What is covered already is not written again.
    index.insert_many([(id(1), location(1, 3))]);
    index.flush(5).unwrap();
    assert_eq!((index.memtable_len(), index.get(id(1)).unwrap().is_some()), (1, true));
    index.flush(u32::MAX).unwrap();
    index.flush(u32::MAX).unwrap();
    assert_eq!((index.memtable_len(), index.covered()), (0, Some(u32::MAX)));
    assert_eq!(open(&runs).get(id(1)).unwrap(), Some(location(1, 3)));
}

#[test]
fn packs_that_are_gone_can_be_left_out() {
    let runs = MemRuns::new();
    let index = open(&runs);
    index.compact(&|_| true).unwrap();
    assert_eq!(index.covered(), None);
    for pack in 0..3_u8 {
        index.insert_many((0..30 >> pack).map(|n| (id(n + pack), location(n, pack.into()))));
        index.flush(pack.into()).unwrap();
    }
    index.insert_many([(id(200), location(200, 3))]);
    index.compact(&|pack| pack != 1).unwrap();
    assert_eq!((index.runs().len(), index.covered(), index.memtable_len()), (1, Some(2), 1));
    for key in 0..=u8::MAX {
        let pack = index.get(id(key)).unwrap().map(|location| location.pack);
        let wanted = match key {
            2..9 => Some(2),
            0..30 => Some(0),
            200 => Some(3),
            _ => None,
        };
        assert_eq!(pack, wanted, "key {key}");
    }
}

/// A run of some pages, with keys that share their leading octets, in a file of its own.
fn small_run() -> (MemRuns, String, Vec<(ContentId, Location)>) {
    let runs = MemRuns::new();
    let index = open(&runs);
    let alike = (0..100_u8).map(|number| {
        let mut key = id(0x80);
        key.0[31] = number;
        (key, location(number, 1))
    });
    let entries: Vec<_> =
        alike.chain((0..30).map(|number| (spread(number.into()), location(number, 0)))).collect();
    index.insert_many(entries.clone());
    index.flush(1).unwrap();
    (runs, run_name((0, 1)), entries)
}

fn built(packs: (u32, u32), entries: &[Entry]) -> Vec<u8> {
    let runs = MemRuns::new();
    let name = run_name(packs);
    let store = StoreId(std::array::from_fn(|n| u8::try_from(n).unwrap()));
    let count = entries.len() as u64;
    let mut run = RunBuilder::new(runs.create(&name).unwrap(), store, packs, count).unwrap();
    for entry in entries {
        run.push(entry).unwrap();
    }
    run.publish().unwrap();
    runs.octets(&name).unwrap()
}

/// The example of `docs/formats.md`.
#[test]
fn a_run_is_these_octets() {
    let key = |first: u8| ContentId(std::array::from_fn(|n| first + u8::try_from(n).unwrap()));
    let entry = |first, pack, offset, len| {
        let place = FramePlace { offset, len };
        Entry { id: key(first), location: Location { pack, place } }
    };
    let octets = built((1, 2), &[entry(0x10, 1, 80, 4136), entry(0x90, 2, 8192, 51)]);
    let mut wanted = vec![0; 8200];
    wanted[..128].copy_from_slice(&format::OCTETS);
    for (at, octets) in [
        (133, &[0x80, 0x44, 0x44, 0x02][..]), // the bits of both keys
        (163, &[0x80, 0x88, 0x88, 0x04]),     //
        (188, &[0x55, 0x37, 0x4d, 0x50]),     // checksum of the block
        (4096, &key(0x10).0),                 // a key
        (4128, &[1, 0, 0, 0, 0x50, 0, 0, 0, 0x28, 0x10]), // in pack 1, from octet 80 on, 4136
        (4144, &key(0x90).0),                 // another
        (4176, &[2, 0, 0, 0, 0, 0x20, 0, 0, 0x33]), // in pack 2, from octet 8192 on, 51
        (8188, &[0x7d, 0xd7, 0xc4, 0xfc]),    // checksum of the page
        (8192, &[0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17]), // the first key of the page
    ] {
        wanted[at..at + octets.len()].copy_from_slice(octets);
    }
    assert!(octets == wanted, "{octets:02x?}");
}

/// The checksum is that of what another program wrote by `docs/formats.md`.
#[test]
fn a_run_of_several_blocks_and_pages_is_as_documented() {
    let octet = |number: u32, at: u32| (number * 167 + at * number * 13 + at).to_le_bytes()[0];
    let entry = |pack: u32| {
        let place = FramePlace { offset: pack * 3, len: pack * 5 };
        let key = std::array::from_fn(|at| octet(pack, u32::try_from(at).unwrap()));
        Entry { id: ContentId(key), location: Location { pack, place } }
    };
    let mut entries: Vec<Entry> = (0..200).map(entry).collect();
    entries.sort_unstable_by_key(|entry| entry.id);
    let octets = built((0, 199), &entries);
    assert_eq!((octets.len(), crc32c::crc32c(&octets)), (16408, 0x5597_9bb7));
}

#[test]
fn every_flipped_bit_is_found_or_harmless() {
    let (runs, name, entries) = small_run();
    let sound = runs.octets(&name).unwrap();
    let (mut refused, mut found, mut harmless) = (0, 0, 0);
    for bit in 0..sound.len() * 8 {
        let mut octets = sound.clone();
        octets[bit / 8] ^= 1 << (bit % 8);
        let run = match Run::open(octets, "run".into(), STORE, (0, 1)) {
            Ok(run) => run,
            Err(IndexError::Damaged { .. }) => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("bit {bit}: {error}"),
        };
        let is_sound = match run.verify() {
            Ok(()) => true,
            Err(IndexError::Damaged { .. }) => false,
            Err(error) => panic!("bit {bit}: {error}"),
        };
        if is_sound {
            harmless += 1;
        } else {
            found += 1;
        }
        // Others each time, so that each key meets many of the bits.
        for (id, location) in entries.iter().skip(bit % 13).step_by(13) {
            match run.get(*id) {
                Ok(got) => assert_eq!(got, Some(*location), "bit {bit}"),
                Err(error) => assert!(!is_sound, "bit {bit}: {error}"),
            }
        }
        assert!(matches!(run.get(spread(1000 + bit as u64)), Ok(None) | Err(_)), "bit {bit}");
    }
    // Header and directory; filter and pages; what fills the filter up to the first page.
    let (pages, blocks) = (2, 3);
    assert_eq!(refused, (128 + pages * 8) * 8);
    assert_eq!(found, (blocks * 64 + pages * 4096) * 8);
    assert_eq!(harmless, (4096 - 128 - blocks * 64) * 8);
}

#[test]
fn a_run_of_another_length_or_name_is_refused() {
    let (runs, name, _) = small_run();
    let sound = runs.octets(&name).unwrap();
    for len in (0..sound.len()).step_by(61).chain([1, 127, 128, 129, sound.len() - 1]) {
        let run = Run::open(sound[..len].to_vec(), "run".into(), STORE, (0, 1));
        assert!(matches!(run, Err(IndexError::Damaged { .. })), "{len}");
    }
    let longer = [&sound[..], &[0]].concat();
    let run = Run::open(longer, "run".into(), STORE, (0, 1));
    let Err(IndexError::Damaged { what: Damage::Length { .. }, .. }) = run else { panic!() };
    let run = Run::open(sound, "run".into(), STORE, (0, 2));
    let Err(IndexError::Damaged { what: Damage::Renamed { first: 0, last: 1 }, .. }) = run else {
        panic!()
    };
}

#[test]
fn damage_is_told_by_name_and_the_packs_are_read_again() {
    let (runs, name, entries) = small_run();
    let mut octets = runs.octets(&name).unwrap();
    octets[40] ^= 1;
    runs.put(&name, octets);
    let Opened { index, unusable } = Index::open(runs.clone(), STORE).unwrap();
    assert_eq!(index.covered(), None);
    let [error] = &unusable[..] else { panic!("{unusable:?}") };
    assert_eq!(
        error.to_string(),
        "the index run memory/00000000-00000001.run is damaged: its header is not sound"
    );
    index.insert_many(entries.clone());
    index.flush(1).unwrap();
    let index = open(&runs);
    assert!(entries.iter().all(|(id, location)| index.get(*id).unwrap() == Some(*location)));
}

#[test]
fn a_run_that_is_found_damaged_is_made_anew_while_it_is_used() {
    let (runs, mut packs) = (MemRuns::new(), Packs::default());
    let index = Index::create(runs.clone(), STORE).unwrap();
    let keys = |range: std::ops::Range<u8>| range.collect::<Vec<u8>>();
    for (content, is_flushed) in
        [(keys(0..200), true), (keys(50..90), false), (keys(85..95), true), (keys(60..70), true)]
    {
        let pack = packs.push(&content);
        index.insert_many(packs.entries(pack));
        if is_flushed {
            index.flush(pack).unwrap();
        }
    }
    let names = ["00000000-00000000.run", "00000001-00000002.run", "00000003-00000003.run"];
    assert_eq!(runs.names(), names);
    let mut octets = runs.octets(names[1]).unwrap();
    octets[4096 + 100] ^= 1;
    runs.put(names[1], octets);

    let index = open(&runs);
    assert!(!index.is_harmed() && index.set_aside().is_none());
    assert!(!packs.check(&index, true) && index.is_harmed());
    let set_aside = index.set_aside().unwrap();
    assert_eq!((set_aside.first, set_aside.last), (1, 3));
    assert!(set_aside.why.contains(names[1]), "{}", set_aside.why);
    assert!(!index.is_harmed() && index.set_aside().is_none());
    assert_eq!(runs.names(), &names[..1]);
    for pack in 1..=3 {
        // Whoever opens what there is finds everything.
        let other = open(&runs);
        packs.read_into(&other);
        assert!(packs.check(&other, false));
        index.insert_many(packs.entries(pack));
        for key in 0..200 {
            // Perhaps an older place, where the newest is in what is damaged.
            match index.get(id(key)) {
                Ok(Some(found)) => assert!(packs.0[&found.pack].contains(&key)),
                Ok(None) => panic!("key {key} is not found"),
                Err(_) => assert!(pack == 1 && (90..95).contains(&key), "key {key}"),
            }
        }
        // The newest wherever a sound run tells it.
        assert!((60..70).all(|key| index.get(id(key)).unwrap() == packs.find(key)));
        index.flush(pack).unwrap();
    }
    index.let_go(true);
    assert!(packs.check(&index, false) && index.verify().is_empty());
    assert!(packs.check(&open(&runs), false));
}

#[test]
fn what_others_wrote_is_refused_and_left_alone() {
    let (runs, name, _) = small_run();
    let sound = runs.octets(&name).unwrap();
    let error = Index::open(runs.clone(), StoreId([1; 16])).unwrap_err();
    assert!(matches!(&error, IndexError::OtherStore { found: STORE, .. }), "{error}");
    for at in [8, 12] {
        let mut octets = sound.clone();
        octets[at] += 1;
        let header = octets.first_chunk_mut().unwrap();
        format::seal(header);
        runs.put(&name, octets);
        let error = Index::open(runs.clone(), STORE).unwrap_err();
        match error {
            IndexError::UnknownVersion { version: 2, .. } if at == 8 => {}
            IndexError::UnknownFeatures { features: 1, .. } if at == 12 => {}
            error => panic!("{error}"),
        }
        assert_eq!(runs.names(), std::slice::from_ref(&name));
    }
    // Unless somebody says so.
    runs.put("notes.txt", b"what is not a run is none of ours".to_vec());
    Index::create(runs.clone(), STORE).unwrap();
    assert_eq!(runs.names(), ["notes.txt"]);
}

#[test]
fn names_have_one_form() {
    assert_eq!(parse_name("00000000-0000001f.run"), Some((0, 31)));
    assert_eq!(covered_by_name("00000000-0000001f.run.new"), Some((0, 31)));
    for name in [
        "00000000-0000001F.run",
        "0-1f.run",
        "+0000000-0000001f.run",
        "00000000-0000001f",
        "00000000.run",
        "00000000-0000001f.run.new",
        "",
    ] {
        assert_eq!(parse_name(name), None, "{name}");
    }
}

#[test]
fn runs_are_files_of_a_directory() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("index");
    let open = || Index::open(FileRuns::open(&path).unwrap(), STORE).unwrap().index;
    let index = open();
    for pack in 0..20_u32 {
        index.insert_many((0..50).map(|n| (spread(u64::from(pack) * 50 + n), location(1, pack))));
        index.flush(pack).unwrap();
    }
    let names = || {
        let entries = fs::read_dir(&path).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let used: Vec<String> = index.runs().iter().map(RunInfo::name).collect();
    assert_eq!(names(), used);
    drop(index);
    // What a crash has left, and what is none of ours.
    fs::write(path.join("00000014-00000014.run.new"), b"half").unwrap();
    fs::write(path.join("00000014-00000020.run"), b"").unwrap();
    fs::write(path.join("notes.new"), b"kept").unwrap();
    let index = open();
    assert_eq!(index.covered(), Some(19));
    for n in 0..1000 {
        let pack = u32::try_from(n / 50).unwrap();
        assert_eq!(index.get(spread(n)).unwrap(), Some(location(1, pack)));
    }
    assert!((1000..3000).all(|n| index.get(spread(n)).unwrap().is_none()));
    assert!(index.verify().is_empty());
    index.insert_many([(spread(1000), location(1, 20))]);
    index.flush(20).unwrap();
    let mut wanted: Vec<String> = index.runs().iter().map(RunInfo::name).collect();
    wanted.push("notes.new".into());
    assert_eq!(names(), wanted);
    index.clear().unwrap();
    assert_eq!(names(), ["notes.new"]);
}

/// Reading a map beyond the end of its file ends the process, unless somebody sees to it.
#[test]
fn a_file_that_is_cut_short_while_it_is_open_is_damaged() {
    let temp = tempfile::tempdir().unwrap();
    let index = Index::create(FileRuns::open(temp.path()).unwrap(), STORE).unwrap();
    index.insert_many((0..2000).map(|n| (spread(n), location(1, 0))));
    index.flush(0).unwrap();
    let name = index.runs()[0].name();
    let file = fs::OpenOptions::new().write(true).open(temp.path().join(name)).unwrap();
    for pages in [12, 1, 0] {
        file.set_len(pages * 4096).unwrap();
        let results: Vec<_> = (0..4000).map(|n| (n, index.get(spread(n)))).collect();
        let mut damaged = 0;
        for (n, result) in results {
            match result {
                Ok(found) => assert_eq!(found, (n < 2000).then_some(location(1, 0))),
                Err(IndexError::Damaged { .. }) => damaged += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(damaged > 500, "{damaged} were found to be damaged");
        assert_eq!(index.verify().len(), 1);
    }
}

#[test]
fn threads_find_what_was_inserted_while_runs_are_written_and_merged() {
    const BATCH: u64 = 500;
    let runs = MemRuns::new();
    let index = open(&runs);
    let inserted = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        for reader in 1..4_u64 {
            let (index, inserted, done) = (&index, &inserted, &done);
            scope.spawn(move || {
                let mut draw = reader;
                while done.load(Ordering::Relaxed) == 0 {
                    let count = inserted.load(Ordering::Acquire);
                    draw = draw.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    let number = (draw >> 33) % count.max(1);
                    let found = index.get(spread(number)).unwrap();
                    assert!(count == 0 || found.is_some(), "{number} of {count}");
                    assert_eq!(index.get(spread(number | 1 << 40)).unwrap(), None);
                }
            });
        }
        for pack in 0..60_u32 {
            let first = u64::from(pack) * BATCH;
            index.insert_many((first..first + BATCH).map(|n| (spread(n), location(0, pack))));
            inserted.store(first + BATCH, Ordering::Release);
            if pack % 2 == 1 {
                index.flush(pack - pack % 3).unwrap();
            }
        }
        index.compact(&|_| true).unwrap();
        done.store(1, Ordering::Relaxed);
    });
}

#[test]
fn memory_is_accounted_for() {
    let runs = MemRuns::new();
    let index = open(&runs);
    assert_eq!(index.bytes(), 0);
    let polled = Cell::new(0);
    index.insert_many((0..10_000).map(|n| {
        polled.set(n);
        (spread(n), location(1, 0))
    }));
    assert_eq!((polled.get(), index.memtable_len()), (9999, 10_000));
    assert!((10_000 * 45..10_000 * 95).contains(&index.bytes()), "{}", index.bytes());
    index.flush(0).unwrap();
    assert_eq!(index.memtable_len(), 0);
    assert!((10_000 / 85 * 8..2000).contains(&index.bytes()), "{}", index.bytes());
}
