//! A disk that loses what was not synced. The simulation of the archive uses it, too.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};

use super::super::super::writer::Disk;
use super::super::committer::lock;
use super::super::format::{RECORD_HEADER, RecordHeader, UNIT};
use super::super::{JournalId, Medium};
use crate::units::SECTOR_SIZE;

/// Chance that repeats itself.
#[derive(Debug, Clone)]
pub(in crate::storage) struct Chance(u64);

impl Chance {
    pub(in crate::storage) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    fn next(&mut self) -> u64 {
        // SplitMix64: good enough for tests, and three lines.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(in crate::storage) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(in crate::storage) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// The power of the simulated machine: what all of its disks share.
#[derive(Debug)]
pub(in crate::storage) struct Power {
    pub(in crate::storage) chance: Chance,
    /// Writes and syncs until it is cut.
    pub(in crate::storage) fuse: Option<u64>,
    /// One in so many writes and syncs fails; of such a write a part may be there.
    pub(in crate::storage) faults: Option<u64>,
    /// Reads until one fails; those after it do not.
    pub(in crate::storage) read_fuse: Option<u64>,
    /// It was cut: nothing works.
    pub(in crate::storage) cut: bool,
    /// Faults that happened since it was switched on.
    pub(in crate::storage) faulted: u64,
}

impl Power {
    pub(in crate::storage) fn new(seed: u64) -> Self {
        let chance = Chance::new(seed);
        Self { chance, fuse: None, faults: None, read_fuse: None, cut: false, faulted: 0 }
    }

    /// Nothing fails any more.
    pub(in crate::storage) fn restore(&mut self) {
        *self = Self { chance: self.chance.clone(), ..Self::new(0) };
    }

    /// Counts a write, a sync or the like; whether it fails.
    pub(in crate::storage) fn use_up(&mut self) -> io::Result<()> {
        if let Some(fuse) = &mut self.fuse {
            *fuse = fuse.saturating_sub(1);
            self.cut |= *fuse == 0;
        }
        if self.cut || self.faults.is_some_and(|faults| self.chance.one_in(faults)) {
            self.faulted += 1;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    /// Counts a read; whether it fails.
    fn use_up_read(&mut self) -> io::Result<()> {
        let fails = self.read_fuse == Some(1);
        self.read_fuse =
            self.read_fuse.and_then(|fuse| fuse.checked_sub(1)).filter(|left| *left > 0);
        if self.cut || fails {
            self.faulted += 1;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    /// How much of a write that fails was carried out: some of its sectors, from the first one on.
    fn short(&mut self, len: usize) -> usize {
        let sectors = len / SECTOR_SIZE;
        // Nothing and all are too rare when left to chance.
        let written = match self.chance.below(4) {
            0 => 0,
            1 => sectors,
            _ => usize::try_from(self.chance.below(sectors as u64 + 1)).unwrap(),
        };
        written * SECTOR_SIZE
    }
}

/// What is wrong with a disk, for the tests of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::storage) enum Defect {
    #[default]
    None,
    /// Syncs do nothing, now and then.
    SyncsSkipped,
    /// Records are believed whose checksum is wrong.
    ChecksumsForged(JournalId),
    /// Writes change places with the one that follows.
    Swapped,
}

#[derive(Debug)]
struct State {
    /// As a read sees it.
    current: Vec<u8>,
    /// What would be there for sure after power loss.
    durable: Vec<u8>,
    /// Of each sector that was written since the last sync, everything that was.
    unsynced: BTreeMap<u64, Vec<[u8; SECTOR_SIZE]>>,
    /// A write that was held back by [`Defect::Swapped`].
    held: Option<(u64, Vec<u8>)>,
    defect: Defect,
}

/// A disk of the simulated machine. Clones are the same disk.
#[derive(Debug, Clone)]
pub(in crate::storage) struct SimulatedDisk {
    power: Arc<Mutex<Power>>,
    state: Arc<Mutex<State>>,
}

impl SimulatedDisk {
    pub(in crate::storage) fn new(len: usize, power: &Arc<Mutex<Power>>) -> Self {
        let state = State {
            current: vec![0; len],
            durable: vec![0; len],
            unsynced: BTreeMap::new(),
            held: None,
            defect: Defect::None,
        };
        Self { power: Arc::clone(power), state: Arc::new(Mutex::new(state)) }
    }

    pub(in crate::storage) fn set_defect(&self, defect: Defect) {
        lock(&self.state).defect = defect;
    }

    /// What a power cut leaves: of each sector that was not synced, any of what it was.
    pub(in crate::storage) fn lose_power(&self) {
        let mut power = lock(&self.power);
        let mut state = lock(&self.state);
        state.settle(&mut power.chance);
        state.current = state.durable.clone();
        state.held = None;
    }

    /// Syncs, and reads from the disk again from now on.
    pub(in crate::storage) fn distrust_cache(&self) -> io::Result<()> {
        self.flush()?;
        let mut state = lock(&self.state);
        state.current = state.durable.clone();
        Ok(())
    }

    /// What a read sees.
    pub(in crate::storage) fn contents(&self) -> Vec<u8> {
        lock(&self.state).current.clone()
    }

    /// Changes octets as decay does.
    pub(in crate::storage) fn damage(&self, offset: usize, len: usize) {
        let mut state = lock(&self.state);
        for octet in offset..offset + len {
            state.current[octet] ^= 0x5a;
            state.durable[octet] ^= 0x5a;
        }
    }

    fn put(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.state);
        let result = lock(&self.power).use_up();
        if lock(&self.power).cut && lock(&self.power).chance.one_in(2) {
            return result; // it did not get that far
        }
        let written = match result {
            Ok(()) => octets.len(),
            Err(_) => lock(&self.power).short(octets.len()),
        };
        let octets = &octets[..written];
        if state.defect == Defect::Swapped {
            if state.held.is_none() && lock(&self.power).chance.one_in(3) {
                state.held = Some((offset, octets.to_vec()));
                return result;
            }
            state.write(offset, octets);
            state.release_held();
        } else {
            state.write(offset, octets);
        }
        result
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.release_held();
        let mut power = lock(&self.power);
        if state.defect == Defect::SyncsSkipped && power.chance.one_in(2) {
            return Ok(());
        }
        let result = power.use_up();
        if result.is_ok() {
            state.settle_all();
        } else {
            // Linux forgets that these are still to be written; a later sync succeeds without.
            state.settle(&mut power.chance);
        }
        result
    }
}

impl State {
    fn write(&mut self, offset: u64, octets: &[u8]) {
        let start = usize::try_from(offset).unwrap();
        self.current[start..start + octets.len()].copy_from_slice(octets);
        let sector_size = SECTOR_SIZE as u64;
        for sector in offset / sector_size..(offset + octets.len() as u64).div_ceil(sector_size) {
            let at = usize::try_from(sector).unwrap() * SECTOR_SIZE;
            let mut content = [0; SECTOR_SIZE];
            content.copy_from_slice(&self.current[at..at + SECTOR_SIZE]);
            self.unsynced.entry(sector).or_default().push(content);
        }
    }

    fn release_held(&mut self) {
        if let Some((offset, octets)) = self.held.take() {
            self.write(offset, &octets);
        }
    }

    /// Makes everything durable.
    fn settle_all(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            let at = usize::try_from(sector).unwrap() * SECTOR_SIZE;
            if let Some(version) = versions.last() {
                self.durable[at..at + SECTOR_SIZE].copy_from_slice(version);
            }
        }
    }

    /// Makes any of what each unsynced sector was durable, or nothing of it.
    fn settle(&mut self, chance: &mut Chance) {
        // All, nothing, and anything between: the extremes are too rare when left to chance.
        let style = chance.below(4);
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            let at = usize::try_from(sector).unwrap() * SECTOR_SIZE;
            let version = match style {
                0 => continue,
                1 => versions.len(),
                _ => usize::try_from(chance.below(versions.len() as u64 + 1)).unwrap(),
            };
            if let Some(version) = version.checked_sub(1) {
                self.durable[at..at + SECTOR_SIZE].copy_from_slice(&versions[version]);
            }
        }
    }
}

impl Medium for SimulatedDisk {
    fn bytes(&self) -> io::Result<u64> {
        Ok(lock(&self.state).current.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        lock(&self.power).use_up_read()?;
        let state = lock(&self.state);
        let start = usize::try_from(offset).unwrap();
        into.copy_from_slice(&state.current[start..start + into.len()]);
        if let Defect::ChecksumsForged(id) = state.defect
            && offset.is_multiple_of(UNIT as u64)
            && let Some(header) = into.first_chunk::<RECORD_HEADER>().and_then(RecordHeader::parse)
            && let Some(record) = state.current.get(start..start + header.len())
        {
            let mut forged = record.to_vec();
            header.seal(id, &mut forged);
            into[4..8].copy_from_slice(&forged[4..8]);
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        self.put(offset, octets)
    }

    fn sync(&self) -> io::Result<()> {
        self.flush()
    }

    fn distrust(&self) -> io::Result<()> {
        self.distrust_cache()
    }
}

impl Disk for SimulatedDisk {
    fn len(&mut self) -> io::Result<u64> {
        self.bytes()
    }

    fn write(&mut self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let octets: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.put(offset, &octets)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.flush()
    }

    fn punch(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.put(offset, &vec![0; usize::try_from(len).unwrap()])
    }
}
