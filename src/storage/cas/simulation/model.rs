//! What a simulated store ought to have: which version of each sector, in volumes and in snapshots.

use std::collections::{BTreeMap, VecDeque};

use super::super::manifest::Manifest;
use super::super::request::{Edit, Shrink};
use crate::units::SECTOR_SIZE;

/// Versions with this bit look the same in each sector, so that blocks of them are stored once.
pub(super) const COMMON: u64 = 1 << 63;

/// What a sector holds at a version; 0 is zeros. Some are easily compressed, and some are not.
pub(super) fn octets(version: u64, sector: u64) -> [u8; SECTOR_SIZE] {
    let mut octets = [0; SECTOR_SIZE];
    if version == 0 {
        return octets;
    }
    let place = if version & COMMON == 0 { sector << 40 } else { 0 };
    let mut word = version;
    for octet in octets.chunks_exact_mut(8) {
        octet.copy_from_slice(&word.to_le_bytes());
        word = match version % 2 {
            0 => version ^ place ^ 0x5555,
            _ => (word ^ place).wrapping_mul(0xd134_2543_de82_ef95).rotate_left(29) | 1,
        };
    }
    octets
}

/// The version that a sector is of; `None` when it was never written like that.
pub(super) fn version(content: &[u8], sector: u64) -> Option<u64> {
    let version = u64::from_le_bytes(*content.first_chunk()?);
    (octets(version, sector) == content).then_some(version)
}

/// The versions of all sectors of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State(pub(super) Vec<u64>);

impl State {
    fn zeros(sectors: u64) -> Self {
        Self(vec![0; usize::try_from(sectors).unwrap()])
    }

    pub(super) fn sectors(&self) -> u64 {
        self.0.len() as u64
    }

    /// What is behind the end is not there.
    fn write(&mut self, write: &Write) {
        let end = write.start.saturating_add(write.count).min(self.sectors());
        if let Some(sectors) = range(write.start, end).and_then(|range| self.0.get_mut(range)) {
            sectors.fill(write.version);
        }
    }

    fn resize(&mut self, sectors: u64) {
        self.0.resize(usize::try_from(sectors).unwrap(), 0);
    }
}

fn range(start: u64, end: u64) -> Option<std::ops::Range<usize>> {
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

/// A write, or a discard, which makes sectors version 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Write {
    /// Its place among the writes to its volume.
    pub(super) number: u64,
    pub(super) start: u64,
    pub(super) count: u64,
    pub(super) version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) state: State,
    pub(super) through: u64,
}

/// What a volume ought to be.
#[derive(Debug, Clone)]
pub(super) struct Volume {
    pub(super) number: u32,
    /// After the writes up to `through`: what the newest root has.
    pub(super) base: State,
    pub(super) through: u64,
    /// Those that came later.
    pub(super) writes: VecDeque<Write>,
    /// The last one that was taken.
    pub(super) last: u64,
    /// The last one that was acknowledged.
    pub(super) acknowledged: u64,
    pub(super) snapshots: BTreeMap<String, Snapshot>,
}

impl Volume {
    fn new(number: u32, base: State) -> Self {
        Self {
            number,
            base,
            through: 0,
            writes: VecDeque::new(),
            last: 0,
            acknowledged: 0,
            snapshots: BTreeMap::new(),
        }
    }

    /// What a reader has to see.
    pub(super) fn current(&self) -> State {
        let mut state = self.base.clone();
        self.writes.iter().for_each(|write| state.write(write));
        state
    }

    /// What a reader has to see of a few sectors.
    pub(super) fn part(&self, start: u64, count: u64) -> Vec<u64> {
        let range = range(start, start + count).unwrap();
        let mut part = self.base.0[range].to_vec();
        for write in &self.writes {
            let end = write.start.saturating_add(write.count).min(start + count);
            for sector in write.start.max(start)..end {
                part[usize::try_from(sector - start).unwrap()] = write.version;
            }
        }
        part
    }

    pub(super) fn take(&mut self, write: Write) {
        assert_eq!(write.number, self.last + 1, "a number was left out or given twice");
        self.last = write.number;
        self.writes.push_back(write);
    }

    /// A root has everything up to `through`.
    fn fold(&mut self, through: u64) {
        assert!(through >= self.through, "a volume went back from {} to {through}", self.through);
        assert!(through <= self.last, "a root has a write that was not made");
        while self.writes.front().is_some_and(|write| write.number <= through) {
            let write = self.writes.pop_front().unwrap();
            self.base.write(&write);
        }
        self.through = through;
    }

    /// After a crash `last` is the last write that is there.
    pub(super) fn survive(&mut self, last: u64) {
        assert!(
            (self.acknowledged..=self.last).contains(&last),
            "of {} writes {} were acknowledged and {last} are left",
            self.last,
            self.acknowledged
        );
        assert!(last >= self.through, "the root had {} and {last} are left", self.through);
        self.writes.retain(|write| write.number <= last);
        (self.last, self.acknowledged) = (last, last);
    }

    fn add_snapshot(&mut self, name: &str) -> Result<(), ()> {
        if self.snapshots.contains_key(name) {
            return Err(());
        }
        let snapshot = Snapshot { state: self.base.clone(), through: self.through };
        self.snapshots.insert(name.into(), snapshot);
        Ok(())
    }
}

/// What a store ought to have.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) volumes: BTreeMap<String, Volume>,
    /// The newest commit that is known to hold.
    pub(super) commit: u64,
}

impl Model {
    pub(super) fn by_number(&mut self, number: u32) -> Option<&mut Volume> {
        self.volumes.values_mut().find(|volume| volume.number == number)
    }

    /// A root holds that names this manifest. Changes that are in there are not looked at.
    pub(super) fn fold(&mut self, manifest: &Manifest) {
        self.commit = manifest.commit;
        for entry in &manifest.volumes {
            if let Some(volume) = self.by_number(entry.number.0) {
                volume.fold(entry.through);
            }
        }
    }

    /// Makes a change, as the commit of this manifest did, when it can be made.
    pub(super) fn edit(&mut self, edit: &Edit, manifest: &Manifest) -> Result<(), ()> {
        match edit {
            Edit::CreateVolume { name, size, .. } => {
                self.add_volume(name, State::zeros(size.0), manifest)
            }
            Edit::ResizeVolume { name, size, shrink } => {
                let volume = self.volumes.get_mut(name).ok_or(())?;
                if size.0 < volume.base.sectors() && *shrink == Shrink::Never {
                    return Err(());
                }
                volume.base.resize(size.0);
                Ok(())
            }
            Edit::DeleteVolume { name, with_snapshots } => {
                let volume = self.volumes.get(name).ok_or(())?;
                if !volume.snapshots.is_empty() && !with_snapshots {
                    return Err(());
                }
                self.volumes.remove(name);
                Ok(())
            }
            Edit::CreateSnapshot { volume, name, .. } => {
                self.volumes.get_mut(volume).ok_or(())?.add_snapshot(name)
            }
            Edit::DeleteSnapshot { volume, name } => {
                let removed = self.volumes.get_mut(volume).ok_or(())?.snapshots.remove(name);
                removed.map(drop).ok_or(())
            }
            Edit::RestoreSnapshot { volume, name, .. } => {
                let volume = self.volumes.get_mut(volume).ok_or(())?;
                let Snapshot { state, .. } = volume.snapshots.get(name).ok_or(())?.clone();
                volume.add_snapshot(&format!("before-restore-{}", manifest.commit))?;
                volume.base = state;
                Ok(())
            }
            Edit::Clone { volume, snapshot, name, .. } => {
                let volume = self.volumes.get(volume).ok_or(())?;
                let state = match snapshot {
                    Some(snapshot) => volume.snapshots.get(snapshot).ok_or(())?.state.clone(),
                    None => volume.base.clone(),
                };
                self.add_volume(name, state, manifest)
            }
        }
    }

    fn add_volume(&mut self, name: &str, state: State, manifest: &Manifest) -> Result<(), ()> {
        if self.volumes.contains_key(name) {
            return Err(());
        }
        // One that is gone by the end of the same commit has a number that nobody asks for.
        let number = manifest.volume(name).map_or(0, |entry| entry.number.0);
        self.volumes.insert(name.into(), Volume::new(number, state));
        Ok(())
    }

    /// Whether the names and sizes in a manifest are those that ought to be there.
    pub(super) fn agrees(&self, manifest: &Manifest) -> bool {
        let volumes = self.volumes.iter().map(|(name, volume)| {
            (name.as_str(), volume.number, volume.base.sectors(), volume.through)
        });
        let entries = manifest
            .volumes
            .iter()
            .map(|entry| (entry.name.as_str(), entry.number.0, entry.size.0, entry.through));
        if !volumes.eq(entries) {
            return false;
        }
        self.volumes.values().all(|volume| {
            let found: BTreeMap<_, _> = manifest
                .snapshots
                .iter()
                .filter(|entry| entry.volume.0 == volume.number)
                .map(|entry| (entry.name.as_str(), (entry.size.0, entry.through)))
                .collect();
            let wanted = volume.snapshots.iter().map(|(name, snapshot)| {
                (name.as_str(), (snapshot.state.sectors(), snapshot.through))
            });
            wanted.eq(found)
        })
    }
}
