//! Changes of what is in a store: volumes and snapshots.

use super::super::error::{CasError, ReadError};
use super::super::id::TreeRoot;
use super::super::manifest::{Manifest, SIZE_MAX, SnapshotEntry, VolumeEntry, is_name};
use super::super::request::{Edit, Edited, Shrink};
use super::super::{BlockNumber, SnapshotInfo, VolumeInfo, VolumeNumber};
use super::Trouble;
use super::nodes::CommitNodes;
use crate::units::{SECTOR_SIZE, Sectors};

/// What a change has to know beside the manifest.
pub(super) struct EditMeans<'a> {
    /// Where nodes come from, those of this commit included.
    pub(super) nodes: &'a mut CommitNodes,
    /// Volumes that have a front end.
    pub(super) attached: &'a dyn Fn(VolumeNumber) -> bool,
    /// Volumes that an initiator has used just now, and within how many seconds.
    pub(super) active: &'a dyn Fn(VolumeNumber) -> Option<u64>,
    /// Snapshots that have a front end.
    pub(super) exported: &'a dyn Fn(VolumeNumber, &str) -> bool,
}

/// Why a change was not made.
pub(super) enum Refused {
    /// It cannot be; the commit goes on without it.
    Edit(Box<CasError>),
    /// The commit cannot go on.
    Trouble(Trouble),
}

impl From<CasError> for Refused {
    fn from(error: CasError) -> Self {
        Self::Edit(Box::new(error))
    }
}

impl From<ReadError> for Refused {
    fn from(error: ReadError) -> Self {
        Self::Trouble(error.into())
    }
}

/// How many blocks a disk has.
pub(in super::super) fn blocks_of(size: Sectors, block_bytes: u32) -> u64 {
    size.0.div_ceil(u64::from(block_bytes) / SECTOR_SIZE as u64)
}

impl Manifest {
    /// Makes a change. All writes that came before it are in the trees already.
    pub(super) fn edit(
        &mut self,
        edit: &Edit,
        means: &mut EditMeans<'_>,
    ) -> Result<Edited, Refused> {
        match edit {
            Edit::CreateVolume { name, size, unix_seconds } => {
                let root = TreeRoot::empty(self.depth_for(*size)?);
                self.add_volume(name, *size, root, *unix_seconds)
            }
            Edit::ResizeVolume { name, size, shrink } => self.resize(name, *size, *shrink, means),
            Edit::DeleteVolume { name, with_snapshots } => {
                self.delete_volume(name, *with_snapshots, means)
            }
            Edit::CreateSnapshot { volume, name, unix_seconds } => {
                Ok(Edited::Snapshot(self.add_snapshot(volume, name, *unix_seconds)?))
            }
            Edit::DeleteSnapshot { volume, name } => {
                let place = self.snapshot_place(volume, name)?;
                if (means.exported)(self.snapshots[place].volume, name) {
                    let (volume, name) = (volume.clone(), name.clone());
                    return Err(CasError::SnapshotInUse { volume, name }.into());
                }
                self.snapshots.remove(place);
                Ok(Edited::Done)
            }
            Edit::RestoreSnapshot { volume, name, force, unix_seconds } => {
                let place = self.snapshot_place(volume, name)?;
                let SnapshotEntry { root, size, volume: number, .. } = self.snapshots[place];
                if let Some(seconds) = (means.active)(number).filter(|_| !force) {
                    return Err(CasError::Active { name: volume.clone(), seconds }.into());
                }
                let before = format!("before-restore-{}", self.commit);
                let before = self.add_snapshot(volume, &before, *unix_seconds)?;
                let entry = self.volume_mut(volume)?;
                (entry.root, entry.size) = (root, size);
                Ok(Edited::Snapshot(before))
            }
            Edit::Clone { volume, snapshot, name, unix_seconds } => {
                let (root, size) = if let Some(snapshot) = snapshot {
                    let SnapshotEntry { root, size, .. } = *self.snapshot(volume, snapshot)?;
                    (root, size)
                } else {
                    let VolumeEntry { root, size, .. } = *self.volume_mut(volume)?;
                    (root, size)
                };
                self.add_volume(name, size, root, *unix_seconds)
            }
        }
    }

    fn depth_for(&self, size: Sectors) -> Result<u8, CasError> {
        let bytes = size.bytes().filter(|bytes| *bytes > 0 && size <= SIZE_MAX);
        bytes.ok_or(CasError::Size { size })?;
        Ok(TreeRoot::depth_for(blocks_of(size, self.block_bytes)))
    }

    pub(in super::super) fn volume(&self, name: &str) -> Option<&VolumeEntry> {
        self.volumes.iter().find(|volume| volume.name == name)
    }

    fn volume_mut(&mut self, name: &str) -> Result<&mut VolumeEntry, CasError> {
        let found = self.volumes.iter_mut().find(|volume| volume.name == name);
        found.ok_or_else(|| CasError::NoVolume { name: name.into() })
    }

    fn snapshot_place(&self, volume: &str, name: &str) -> Result<usize, CasError> {
        let missing = || CasError::NoVolume { name: volume.into() };
        let number = self.volume(volume).ok_or_else(missing)?.number;
        let found = self.snapshots.iter().position(|s| s.volume == number && s.name == name);
        found.ok_or_else(|| CasError::NoSnapshot { volume: volume.into(), name: name.into() })
    }

    pub(in super::super) fn snapshot(
        &self,
        volume: &str,
        name: &str,
    ) -> Result<&SnapshotEntry, CasError> {
        self.snapshot_place(volume, name).map(|place| &self.snapshots[place])
    }

    /// The tree and the size of a volume, or of a snapshot of it.
    pub(in super::super) fn state(
        &self,
        volume: &str,
        snapshot: Option<&str>,
    ) -> Result<(TreeRoot, Sectors), CasError> {
        if let Some(name) = snapshot {
            return self.snapshot(volume, name).map(|entry| (entry.root, entry.size));
        }
        let entry = self.volume(volume).map(|entry| (entry.root, entry.size));
        entry.ok_or_else(|| CasError::NoVolume { name: volume.into() })
    }

    /// What there is to say of a volume.
    pub(in super::super) fn volume_info(&self, volume: &VolumeEntry) -> VolumeInfo {
        VolumeInfo {
            name: volume.name.clone(),
            size: volume.size,
            created_unix_seconds: volume.created_unix_seconds,
            snapshots: self.snapshots.iter().filter(|s| s.volume == volume.number).count(),
            attached: false,
            dirty_bytes: 0,
        }
    }

    /// What there is to say of all snapshots.
    pub(in super::super) fn snapshot_infos(&self) -> Vec<SnapshotInfo> {
        let info = |snapshot: &SnapshotEntry| {
            let volume = self.volumes.iter().find(|volume| volume.number == snapshot.volume)?;
            Some(SnapshotInfo {
                volume: volume.name.clone(),
                name: snapshot.name.clone(),
                size: snapshot.size,
                created_unix_seconds: snapshot.created_unix_seconds,
            })
        };
        self.snapshots.iter().filter_map(info).collect()
    }

    fn add_volume(
        &mut self,
        name: &str,
        size: Sectors,
        root: TreeRoot,
        unix_seconds: u64,
    ) -> Result<Edited, Refused> {
        check_name(name)?;
        if self.volume(name).is_some() {
            return Err(CasError::VolumeExists { name: name.into() }.into());
        }
        let entry = VolumeEntry {
            number: VolumeNumber(self.next_volume),
            name: name.into(),
            size,
            root,
            through: 0,
            created_unix_seconds: unix_seconds,
        };
        self.next_volume += 1;
        let info = self.volume_info(&entry);
        self.volumes.push(entry);
        self.volumes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Edited::Volume(info))
    }

    fn resize(
        &mut self,
        name: &str,
        size: Sectors,
        may_shrink: Shrink,
        means: &mut EditMeans<'_>,
    ) -> Result<Edited, Refused> {
        let (depth, block_bytes) = (self.depth_for(size)?, self.block_bytes);
        let entry = self.volume_mut(name)?;
        if size < entry.size {
            let (name, was) = (name.to_owned(), entry.size);
            let active = || (means.active)(entry.number);
            match may_shrink {
                Shrink::Never => {
                    return Err(CasError::WouldShrink { name, size: was, wanted: size }.into());
                }
                Shrink::WhenIdle => {
                    if let Some(seconds) = active() {
                        return Err(CasError::Active { name, seconds }.into());
                    }
                }
                Shrink::Always => {}
            }
            entry.root = shrink(entry.root, size, block_bytes, means.nodes)?;
        } else {
            let mut emitted = Vec::new();
            entry.root = entry.root.deepen(depth, &mut |id, octets| emitted.push((id, octets)));
            means.nodes.take_in(emitted)?;
        }
        entry.size = size;
        let entry = entry.clone();
        Ok(Edited::Volume(self.volume_info(&entry)))
    }

    fn delete_volume(
        &mut self,
        name: &str,
        with_snapshots: bool,
        means: &EditMeans<'_>,
    ) -> Result<Edited, Refused> {
        let number = self.volume_mut(name)?.number;
        if (means.attached)(number) {
            return Err(CasError::VolumeInUse { name: name.into() }.into());
        }
        let own: Vec<_> = self.snapshots.iter().filter(|s| s.volume == number).collect();
        if !own.is_empty() && !with_snapshots {
            let snapshots = own.len();
            return Err(CasError::HasSnapshots { name: name.into(), snapshots }.into());
        }
        if let Some(used) = own.iter().find(|s| (means.exported)(number, &s.name)) {
            let (volume, name) = (name.to_owned(), used.name.clone());
            return Err(CasError::SnapshotInUse { volume, name }.into());
        }
        self.snapshots.retain(|snapshot| snapshot.volume != number);
        self.volumes.retain(|volume| volume.number != number);
        Ok(Edited::Done)
    }

    fn add_snapshot(
        &mut self,
        volume: &str,
        name: &str,
        unix_seconds: u64,
    ) -> Result<SnapshotInfo, CasError> {
        check_name(name)?;
        let VolumeEntry { number, size, root, through, .. } = *self.volume_mut(volume)?;
        if self.snapshots.iter().any(|s| s.volume == number && s.name == name) {
            let (volume, name) = (volume.to_owned(), name.to_owned());
            return Err(CasError::SnapshotExists { volume, name });
        }
        self.snapshots.push(SnapshotEntry {
            name: name.into(),
            volume: number,
            size,
            root,
            through,
            created_unix_seconds: unix_seconds,
        });
        self.snapshots
            .sort_by(|one, other| (one.volume, &one.name).cmp(&(other.volume, &other.name)));
        Ok(SnapshotInfo {
            volume: volume.into(),
            name: name.into(),
            size,
            created_unix_seconds: unix_seconds,
        })
    }
}

/// Cuts a tree off behind `size`; a block that is in part behind it keeps the rest, and zeros.
fn shrink(
    root: TreeRoot,
    size: Sectors,
    block_bytes: u32,
    nodes: &mut CommitNodes,
) -> Result<TreeRoot, Refused> {
    let blocks = blocks_of(size, block_bytes);
    let mut emitted = Vec::new();
    let cut = root.truncate(blocks, nodes, &mut |id, octets| emitted.push((id, octets)))?;
    nodes.take_in(emitted)?;
    let per_block = u64::from(block_bytes) / SECTOR_SIZE as u64;
    if size.0.is_multiple_of(per_block) {
        return Ok(cut);
    }
    // If the disk grows again, what was cut off must not come back.
    let last = BlockNumber(blocks - 1);
    let Some(id) = cut.lookup(last, nodes)? else { return Ok(cut) };
    #[allow(clippy::cast_possible_truncation, reason = "less than a block")]
    let keep = (size.0 % per_block) as usize * SECTOR_SIZE;
    let changed = nodes.cut_block(id, keep)?;
    let mut emitted = Vec::new();
    let emit = &mut |id, octets| emitted.push((id, octets));
    let cut = cut.update(&[], &[(last, changed)], nodes, emit)?;
    nodes.take_in(emitted)?;
    Ok(cut)
}

fn check_name(name: &str) -> Result<(), CasError> {
    if is_name(name) { Ok(()) } else { Err(CasError::BadName { name: name.into() }) }
}
