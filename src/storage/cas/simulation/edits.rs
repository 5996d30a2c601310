//! What is asked of a store beside reading and writing, and its answers.

use std::sync::mpsc;

use super::super::error::CasError;
use super::super::manifest::Manifest;
use super::super::request::{Attach, Edit, Edited, Request, Shrink};
use super::super::volume::CasVolume;
use super::fronts::{Front, compare_all};
use super::model::Model;
use super::{Machine, VolumeNumber};
use crate::storage::BlockStorage as _;
use crate::units::Sectors;

const VOLUMES: u64 = 5;
const SNAPSHOTS: u64 = 4;

/// A change that was asked for.
pub(super) struct InFlight {
    pub(super) edit: Edit,
    answer: mpsc::Receiver<Result<Edited, CasError>>,
    /// The volume that it is about, and what was acknowledged when it was asked for.
    acknowledged: Option<(u32, u64)>,
    /// The store has stopped, so that nobody knows.
    open: bool,
}

fn volume_of(edit: &Edit) -> &str {
    match edit {
        Edit::CreateVolume { name, .. }
        | Edit::ResizeVolume { name, .. }
        | Edit::DeleteVolume { name, .. } => name,
        Edit::CreateSnapshot { volume, .. }
        | Edit::DeleteSnapshot { volume, .. }
        | Edit::RestoreSnapshot { volume, .. }
        | Edit::Clone { volume, .. } => volume,
    }
}

/// Whether nobody can tell, after a crash, which of two changes a commit has made: a manifest shows names,
/// sizes, and how many writes there were.
fn are_alike(one: &Edit, other: &Edit) -> bool {
    match (one, other) {
        (Edit::DeleteVolume { .. }, _)
        | (_, Edit::DeleteVolume { .. })
        | (Edit::RestoreSnapshot { .. }, Edit::RestoreSnapshot { .. })
        | (Edit::ResizeVolume { .. }, Edit::ResizeVolume { .. }) => {
            volume_of(one) == volume_of(other)
        }
        (
            Edit::CreateVolume { name, .. } | Edit::Clone { name, .. },
            Edit::CreateVolume { name: other, .. } | Edit::Clone { name: other, .. },
        ) => name == other,
        _ => false,
    }
}

impl InFlight {
    /// Makes the change in the model, which must be possible.
    fn apply(&self, model: &mut Model, manifest: &Manifest) {
        let made = model.edit(&self.edit, manifest);
        assert!(made.is_ok(), "what cannot be was done: {:?}", self.edit);
        let barrier = self.barrier(model);
        assert_eq!(barrier, Ok(()), "{:?} lacks what was acknowledged before", self.edit);
    }

    /// Whether what was acknowledged before is in what was kept; else what is in it, and what was.
    fn barrier(&self, model: &mut Model) -> Result<(), (u64, u64)> {
        let Some((number, acknowledged)) = self.acknowledged else { return Ok(()) };
        let volume = match self.edit {
            Edit::CreateVolume { .. } | Edit::DeleteVolume { .. } => None,
            _ => model.by_number(number),
        };
        match volume.map(|volume| volume.through) {
            Some(through) if through < acknowledged => Err((through, acknowledged)),
            _ => Ok(()),
        }
    }
}

impl Machine {
    fn volume_name(&mut self) -> String {
        format!("v{}", self.chance.below(VOLUMES))
    }

    fn size(&mut self) -> Sectors {
        Sectors(match self.chance.below(8) {
            0 => 1 + self.chance.below(16),
            1 => 900 + self.chance.below(400),
            _ => 20 + self.chance.below(200),
        })
    }

    pub(super) fn ask_edit(&mut self) {
        // Few enough to find out, after a crash, which were made.
        if self.edits.len() >= 8 || self.excuse().stopped {
            return;
        }
        let mut volume = self.volume_name();
        if !self.model.volumes.contains_key(&volume) && self.chance.one_in(2) {
            volume = self.model.volumes.keys().next().cloned().unwrap_or(volume);
        }
        let name = format!("s{}", self.chance.below(SNAPSHOTS));
        let unix_seconds = 7;
        let edit = match self.chance.below(10) {
            0..2 => Edit::CreateVolume { name: volume, size: self.size(), unix_seconds },
            2..4 => {
                // Disks are always in use here.
                let shrink = if self.chance.one_in(4) { Shrink::Never } else { Shrink::Always };
                Edit::ResizeVolume { name: volume, size: self.size(), shrink }
            }
            4 => {
                let with_snapshots = self.chance.one_in(2);
                Edit::DeleteVolume { name: volume, with_snapshots }
            }
            5..7 => Edit::CreateSnapshot { volume, name, unix_seconds },
            7 => Edit::DeleteSnapshot { volume, name },
            8 => {
                let force = !self.chance.one_in(4);
                Edit::RestoreSnapshot { volume, name, force, unix_seconds }
            }
            _ => {
                let snapshot = self.chance.one_in(2).then_some(name);
                let name = self.volume_name();
                Edit::Clone { volume, snapshot, name, unix_seconds }
            }
        };
        if !self.edits.iter().any(|other| are_alike(&edit, &other.edit)) {
            self.send_edit(edit);
        }
    }

    pub(super) fn send_edit(&mut self, edit: Edit) {
        let volume = self.model.volumes.get(volume_of(&edit));
        let acknowledged = volume.map(|volume| (volume.number, volume.acknowledged));
        let (reply, answer) = mpsc::sync_channel(1);
        self.ask_committer(Request::Edit(edit.clone(), reply));
        self.edits.push(InFlight { edit, answer, acknowledged, open: false });
    }

    /// Takes in what a step of the committer has done.
    pub(super) fn take_answers(&mut self) {
        let store = self.store.as_ref().unwrap();
        let manifest = store.committer.manifest();
        let is_new = manifest.commit > self.model.commit;
        if is_new {
            self.counts.commits += 1;
            self.model.fold(manifest);
            self.fronts.iter_mut().for_each(|front| front.unseen += 1);
        }
        let (stopped, closing) = (store.shared.is_stopped(), store.shared.is_closing());
        let mut kept = Vec::new();
        for mut flying in std::mem::take(&mut self.edits) {
            match flying.answer.try_recv() {
                Err(_) => kept.push(flying),
                Ok(Ok(_)) => {
                    assert!(is_new, "a change was made without a commit");
                    self.counts.edits += 1;
                    flying.apply(&mut self.model, manifest);
                }
                // It was not begun.
                Ok(Err(CasError::Stopped { .. })) if closing && !stopped => {}
                Ok(Err(CasError::Stopped { .. })) => {
                    assert!(stopped, "a store that works says that it has stopped");
                    flying.open = true;
                    kept.push(flying);
                }
                Ok(Err(CasError::CommitFailed { why, .. })) => {
                    assert!(self.armed || self.media.power.lock().unwrap().cut, "{why}");
                }
                Ok(Err(CasError::NoSpace { .. })) => assert!(self.armed, "there is room"),
                Ok(Err(
                    CasError::VolumeInUse { .. }
                    | CasError::SnapshotInUse { .. }
                    | CasError::Active { .. },
                )) => {}
                Ok(Err(error)) => {
                    let made = self.model.clone().edit(&flying.edit, manifest);
                    assert!(made.is_err(), "{:?} is refused: {error}", flying.edit);
                }
            }
        }
        self.edits = kept;
        if is_new {
            assert!(self.model.agrees(manifest), "{:#?} is not {manifest:#?}", self.model);
        }
        self.take_commits();
        self.take_fronts();
    }

    fn take_commits(&mut self) {
        let model = &mut self.model;
        self.committing.retain(|(answer, acknowledged)| {
            let Ok(answer) = answer.try_recv() else { return true };
            if answer.is_ok() {
                for (number, acknowledged) in acknowledged {
                    let through = model.by_number(*number).map_or(u64::MAX, |v| v.through);
                    assert!(through >= *acknowledged, "not all that was acknowledged is committed");
                }
            }
            false
        });
    }

    fn take_fronts(&mut self) {
        let fronts = &self.fronts;
        let model = &self.model;
        let shared = &self.store.as_ref().unwrap().shared;
        let stopped = shared.is_stopped() || shared.is_closing();
        let mut new = Vec::new();
        self.attaching.retain(|(name, was_used, answer)| {
            match answer.try_recv() {
                Err(_) => return true,
                Ok(Ok(volume)) => {
                    assert_eq!(volume.applied().0, model.volumes[name].last, "writes are missing");
                    new.push(Front::new(name.clone(), volume));
                }
                Ok(Err(CasError::NoVolume { .. })) => {}
                Ok(Err(CasError::VolumeInUse { .. })) => {
                    let used = fronts.iter().chain(&new).any(|front| front.name == *name);
                    assert!(used || *was_used, "nobody uses {name}");
                }
                Ok(Err(CasError::Stopped { .. })) if stopped => {}
                Ok(Err(error)) => panic!("{name} cannot be attached: {error}"),
            }
            false
        });
        self.fronts.extend(new);
    }

    pub(super) fn ask_attach(&mut self, name: &str) {
        let (reply, answer) = mpsc::sync_channel(1);
        let attach = Attach { volume: name.into(), read_only: false, serial: None, waker: None };
        self.ask_committer(Request::Attach(attach, reply));
        let used = self.fronts.iter().any(|front| front.name == name)
            || self.attaching.iter().any(|(asked, ..)| asked == name);
        self.attaching.push((name.into(), used, answer));
    }

    pub(super) fn attach_or_detach(&mut self) {
        if self.model.volumes.is_empty() {
            if !self.edits.is_empty() {
                return;
            }
            let (name, size) = (self.volume_name(), self.size());
            return self.send_edit(Edit::CreateVolume { name, size, unix_seconds: 7 });
        }
        if self.fronts.len() < 2 || self.chance.one_in(2) {
            let name = self.volume_name();
            return self.ask_attach(&name);
        }
        let place = usize::try_from(self.chance.below(self.fronts.len() as u64)).unwrap();
        let mut front = self.fronts.swap_remove(place);
        if front.volume.durable() >= front.volume.applied() {
            let _ = front.volume.finish();
        }
        // A reload attaches it again at once.
        let name = front.name.clone();
        drop(front);
        if self.chance.one_in(2) {
            self.ask_attach(&name);
        }
    }

    /// Makes a front end of a snapshot, or reads through one that is there.
    pub(super) fn use_snapshot(&mut self) {
        let excuse = self.excuse();
        if self.exports.len() > 2 || !self.exports.is_empty() && self.chance.one_in(2) {
            let (mut export, state) = self.exports.swap_remove(0);
            let shared = &self.store.as_ref().unwrap().shared;
            let step = || _ = shared.reader.pool.step(&shared.reader);
            compare_all("a snapshot", &mut export, &state, excuse, step);
            self.counts.snapshots += 1;
            if self.chance.one_in(2) {
                self.exports.push((export, state));
            }
            return;
        }
        let all: Vec<_> = self
            .model
            .volumes
            .iter()
            .flat_map(|(name, volume)| volume.snapshots.keys().map(|s| (name.clone(), s.clone())))
            .collect();
        if all.is_empty() {
            return;
        }
        let (volume, snapshot) =
            &all[usize::try_from(self.chance.below(all.len() as u64)).unwrap()];
        self.export(volume, snapshot);
    }

    pub(super) fn export(&mut self, volume: &str, snapshot: &str) {
        let state = self.model.volumes[volume].snapshots[snapshot].state.clone();
        let (reply, answer) = mpsc::sync_channel(1);
        let attach = Attach { volume: volume.into(), read_only: true, serial: None, waker: None };
        let (volume, snapshot) = (volume.to_owned(), snapshot.to_owned());
        let request = Request::AttachSnapshot { volume, snapshot, attach, reply };
        self.ask_committer(request);
        self.step_committer();
        let export: CasVolume = answer.recv().unwrap().expect("a snapshot that is there");
        self.exports.push((export, state));
    }
}

impl Machine {
    /// After a crash: finds out which of the changes that were not answered have been made.
    pub(super) fn resolve(&mut self, manifest: &Manifest) {
        let asked = std::mem::take(&mut self.edits);
        assert!(manifest.commit >= self.model.commit, "a root went back");
        if manifest.commit == self.model.commit {
            return;
        }
        self.model.fold(manifest);
        // As many as possible: of those that a commit had not taken the manifest shows nothing.
        for made in (0..1_u32 << asked.len()).rev() {
            let mut model = self.model.clone();
            let chosen: Vec<_> = asked
                .iter()
                .enumerate()
                .filter(|(n, _)| made & 1 << n != 0)
                .map(|(_, e)| e)
                .collect();
            let all = chosen.iter().all(|flying| model.edit(&flying.edit, manifest).is_ok());
            // One that came too late may look as if it had been made: as another just like it was.
            let in_time = |model: &mut Model| chosen.iter().all(|e| e.barrier(model).is_ok());
            if all && model.agrees(manifest) && in_time(&mut model) {
                self.model = model;
                return;
            }
        }
        let asked: Vec<_> = asked.iter().map(|flying| &flying.edit).collect();
        panic!("{:#?} after some of {asked:?} is not {manifest:#?}", self.model);
    }

    /// The write that a volume has come to, as the store says.
    pub(super) fn survivor(&self, number: u32) -> Option<u64> {
        let store = self.store.as_ref()?;
        store.committer.last_write(VolumeNumber(number))
    }
}
