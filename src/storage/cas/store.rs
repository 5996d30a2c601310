//! A store in a directory, with its threads; and what others ask of it.

pub(super) mod files;
mod mapped;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use self::files::{StoreFiles, create, expect, open_files};
use super::commit::{CommitStatus, Committer};
use super::error::{CasError, Why};
use super::frame::BLOCK_MAX;
use super::fsck::{self, FsckOptions, FsckProgress, FsckReport};
use super::group::{GroupCommitter, GroupRequest, Step};
use super::manifest::{BLOCK_MIN, Layout, Manifest};
use super::recover::{OpenStore, Recovered, recover};
use super::repair::{self, IndexRepair, RepairRootsOptions, RootsRepair};
use super::request::{Attach, Edit, Edited, Reply, Request, Shrink};
use super::shared::StoreShared;
use super::usage::{self, Usage};
use super::volume::CasVolume;
use super::{DiffRange, SnapshotInfo, StoreInfo, VolumeInfo};
use crate::clock;
use crate::protocol::ata::AtaText;
use crate::scheduling;
use crate::storage::journal::{Geometry, Guarded, Medium, Sequence};
use crate::units::{Lba, SECTOR_SIZE, Sectors};
use crate::wake::Waker;

/// Threads that read what is not in memory. They wait for disks, not for processors.
const READERS: usize = 4;
/// The least bytes for overlays: several frames for each of several targets.
const OVERLAY_LEAST: u64 = 4 << 20;

/// How a store is to be opened, or made.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes of a block: 4, 8, 16, 32 or 64 KiB. `None`: as it is, and 16 KiB in a new one.
    pub block_bytes: Option<u32>,
    /// How blocks are kept. `None`: as they are, and in packs in a new one.
    pub layout: Option<Layout>,
    /// The journal. `None`: in the store.
    pub journal: Option<PathBuf>,
    /// Bytes of the journal, all of which are written when it is made.
    pub journal_bytes: u64,
    /// Bytes for what was written and is not in the trees. Packs that are being filled and put have 60 MiB
    /// of them, but no more than half; overlays have the rest, and writes wait for room in it.
    pub overlay_bytes: u64,
    /// Bytes of nodes and blocks that are kept in memory.
    pub cache_bytes: u64,
    /// From how many written bytes on they are committed.
    pub commit_bytes: u64,
    /// After which time they are committed, if there are fewer.
    pub commit_interval: Duration,
    /// The real-time priority of the thread that makes writes durable, from 1 to 99.
    pub priority: Option<u8>,
    /// Threads that prepare blocks for a commit.
    pub threads: usize,
    /// Goes on without acknowledged writes that are missing, if any are.
    pub accept_loss: bool,
    /// With [`Self::accept_loss`], makes a journal if there is none. By itself a loss that is accepted is
    /// never that of the whole journal: where it is looked for nothing may be mounted.
    pub new_journal: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            block_bytes: None,
            layout: None,
            journal: None,
            journal_bytes: 256 << 20,
            overlay_bytes: 256 << 20,
            cache_bytes: 256 << 20,
            commit_bytes: 64 << 20,
            commit_interval: Duration::from_secs(30),
            priority: None,
            threads: thread::available_parallelism().map_or(1, |count| count.get() - 1).clamp(1, 8),
            accept_loss: false,
            new_journal: false,
        }
    }
}

impl StoreOptions {
    /// The size of blocks in a store that was made without asking for one, in bytes.
    pub const BLOCK_BYTES: u32 = 16 << 10;

    fn check(&self) -> Result<(), CasError> {
        let least = |what, bytes, least| {
            if bytes < least { Err(CasError::TooSmall { what, bytes, least }) } else { Ok(()) }
        };
        least("a journal", self.journal_bytes, Geometry::LEAST_BYTES)?;
        least("room for overlays", self.overlay_bytes, OVERLAY_LEAST)?;
        match self.block_bytes {
            Some(bytes)
                if !bytes.is_power_of_two()
                    || !(BLOCK_MIN..=BLOCK_MAX).contains(&(bytes as usize)) =>
            {
                Err(CasError::BlockBytes { bytes })
            }
            _ => Ok(()),
        }
    }
}

/// How the front end of a volume is to be.
#[derive(Debug, Clone, Default)]
pub struct VolumeOptions {
    /// Its size: a volume that is missing is made, a smaller one grows. `None`: as it is.
    pub size: Option<Sectors>,
    /// Writes are refused.
    pub read_only: bool,
    /// The serial number, cut to 20 characters; `None` for one made from the names of the store and
    /// the volume.
    pub serial: Option<String>,
    /// Wakes the loop that drives it.
    pub waker: Option<Waker>,
}

/// How the front end of a snapshot is to be.
#[derive(Debug, Clone, Default)]
pub struct SnapshotOptions {
    /// As in [`VolumeOptions`].
    pub serial: Option<String>,
    /// As in [`VolumeOptions`].
    pub waker: Option<Waker>,
}

/// A store that is open, and its threads. Clones are the same store. Every method but for
/// [`Self::volumes`], [`Self::snapshots`] and [`Self::info`] may wait for a commit.
#[derive(Clone)]
pub struct CasStore(Arc<Inner>);

struct Inner {
    path: PathBuf,
    shared: Arc<StoreShared>,
    requests: Sender<Request>,
    group_requests: Sender<GroupRequest>,
    status: Arc<Mutex<CommitStatus>>,
    threads: Mutex<Option<Threads>>,
    /// Keeps others out of the journal.
    _files: StoreFiles,
}

type AnyMedium = Guarded<Arc<dyn Medium>>;

/// How long those who ask something of a store may take to let go of it when it is closed.
const LETTING_GO: Duration = Duration::from_secs(10);

struct Threads {
    group: JoinHandle<Sequence>,
    committer: JoinHandle<Committer<AnyMedium>>,
    readers: Vec<JoinHandle<()>>,
}

impl Threads {
    fn start(
        shared: &Arc<StoreShared>,
        group: GroupCommitter<AnyMedium>,
        committer: Committer<AnyMedium>,
        priority: Option<u8>,
    ) -> io::Result<Self> {
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let shared = Arc::clone(shared);
            let reader = thread::Builder::new().name("archive-read".into());
            let reader = reader.spawn(move || {
                let _guard = StopsOnPanic(Arc::clone(&shared));
                shared.reader.pool.run(&shared.reader);
            });
            readers.push(reader?);
        }
        let bells = Arc::clone(shared);
        let thread = thread::Builder::new().name("archive-journal".into());
        let group = thread.spawn(move || {
            let _guard = StopsOnPanic(Arc::clone(&bells));
            bells.journal_bell.answered_here();
            scheduling::raise(priority, &bells.name);
            run_group(group)
        });
        let group = group?;
        let bells = Arc::clone(shared);
        let thread = thread::Builder::new().name("archive-commit".into());
        let committer = thread.spawn(move || {
            let _guard = StopsOnPanic(Arc::clone(&bells));
            bells.commit_bell.answered_here();
            scheduling::lower();
            run_committer(committer)
        });
        let committer = committer?;
        Ok(Self { group, committer, readers })
    }
}

impl fmt::Debug for CasStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CasStore").field("path", &self.0.path).finish_non_exhaustive()
    }
}

impl CasStore {
    /// Makes a store in a directory that is missing or empty.
    ///
    /// # Errors
    /// [`CasError::Exists`] when there is one; others when it cannot be made.
    pub fn create(path: impl AsRef<Path>, options: &StoreOptions) -> Result<(), CasError> {
        options.check()?;
        create(path.as_ref(), options).map(drop)
    }

    /// Makes sure that there is a store at `path`, which [`Self::open`] would make.
    ///
    /// # Errors
    /// What there is instead: [`CasError::NotAnArchive`] when it is nothing, [`CasError::NoRoots`] or
    /// [`CasError::NoMarker`] when it is a store that lacks something; others when that cannot be seen.
    pub fn expect(path: impl AsRef<Path>) -> Result<(), CasError> {
        expect(path.as_ref())
    }

    /// Opens the store at `path`; a directory that is missing or empty becomes one. What a crash has
    /// left in its journal is taken in, and is committed in the background.
    ///
    /// # Errors
    /// [`CasError`]; nothing is changed then, but for what a crash has left unfinished.
    pub fn open(
        path: impl AsRef<Path>,
        options: &StoreOptions,
    ) -> Result<(Self, Recovered), CasError> {
        options.check()?;
        let path = path.as_ref();
        let (files, media) = open_files(path, options)?;
        let opened = recover(media, options, clock::now())?;
        files.check(&opened.committer, options)?;
        let recovered = opened.recovered;
        let store = Self::start(path, files, opened, options)?;
        Ok((store, recovered))
    }

    fn start(
        path: &Path,
        files: StoreFiles,
        opened: OpenStore,
        options: &StoreOptions,
    ) -> Result<Self, CasError> {
        let OpenStore { shared, group, committer, requests, group_requests, status, .. } = opened;
        let threads = Threads::start(&shared, group, committer, options.priority);
        let threads = threads.map_err(|source| {
            // Those that were started are not to keep it locked.
            shared.reader.pool.end();
            let _ = group_requests.send(GroupRequest::Close);
            shared.journal_bell.ring();
            CasError::Io { op: "start a thread for", path: path.to_path_buf(), source }
        })?;
        Ok(Self(Arc::new(Inner {
            path: path.into(),
            shared,
            requests,
            group_requests,
            status,
            threads: Mutex::new(Some(threads)),
            _files: files,
        })))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Makes a front end of a volume; there is one at a time. It is driven by one thread, and closed
    /// before the store is.
    ///
    /// # Errors
    /// [`CasError::NoSize`] when it is missing and has to be made, [`CasError::VolumeInUse`],
    /// [`CasError::WouldShrink`], and those of making or resizing it.
    pub fn attach(&self, volume: &str, options: VolumeOptions) -> Result<CasVolume, CasError> {
        let VolumeOptions { size, read_only, serial, waker } = options;
        let present = self.manifest()?.volume(volume).map(|entry| entry.size);
        match (present, size) {
            (None, None) => return Err(CasError::NoSize { name: volume.into() }),
            (None, Some(size)) => {
                self.create_volume(volume, size)?;
            }
            (Some(present), Some(size)) if size != present => {
                self.resize_volume(volume, size, Shrink::Never)?;
            }
            (Some(_), _) => {}
        }
        let serial = serial.map(|serial| AtaText::new(&serial));
        let attach = Attach { volume: volume.into(), read_only, serial, waker };
        self.ask(|reply| Request::Attach(attach, reply))
    }

    /// Makes a front end of a snapshot, which reads what it was and takes no writes. There can be
    /// several. As long as there is one the snapshot cannot be deleted.
    ///
    /// # Errors
    /// [`CasError::NoSnapshot`], [`CasError::NoVolume`].
    pub fn attach_snapshot(
        &self,
        volume: &str,
        snapshot: &str,
        options: SnapshotOptions,
    ) -> Result<CasVolume, CasError> {
        let SnapshotOptions { serial, waker } = options;
        let serial = serial.map(|serial| AtaText::new(&serial));
        let (volume, snapshot) = (volume.to_owned(), snapshot.to_owned());
        let attach = Attach { volume: volume.clone(), read_only: true, serial, waker };
        self.ask(|reply| Request::AttachSnapshot { volume, snapshot, attach, reply })
    }

    /// The volumes, in the order of their names.
    ///
    /// # Errors
    /// [`CasError::Stopped`] when the store is closed.
    pub fn volumes(&self) -> Result<Vec<VolumeInfo>, CasError> {
        let status = self.status();
        let manifest = self.manifest()?;
        let info = |entry| VolumeInfo {
            attached: status.attached.contains(&entry_number(entry)),
            ..manifest.volume_info(entry)
        };
        Ok(manifest.volumes.iter().map(info).collect())
    }

    /// The snapshots of `volume`, or of all volumes, in the order of their names.
    ///
    /// # Errors
    /// [`CasError::NoVolume`].
    pub fn snapshots(&self, volume: Option<&str>) -> Result<Vec<SnapshotInfo>, CasError> {
        let manifest = self.manifest()?;
        if let Some(name) = volume.filter(|name| manifest.volume(name).is_none()) {
            return Err(CasError::NoVolume { name: name.into() });
        }
        let mut snapshots = manifest.snapshot_infos();
        snapshots.retain(|snapshot| volume.is_none_or(|volume| snapshot.volume == volume));
        Ok(snapshots)
    }

    /// Makes a volume of zeros.
    ///
    /// # Errors
    /// [`CasError::BadName`], [`CasError::VolumeExists`], [`CasError::Size`], and those of a commit.
    pub fn create_volume(&self, name: &str, size: Sectors) -> Result<VolumeInfo, CasError> {
        let unix_seconds = unix_seconds();
        self.edit_volume(Edit::CreateVolume { name: name.into(), size, unix_seconds })
    }

    /// Changes the size of a volume. A volume that is being served tells its initiators when it is
    /// looked at again.
    ///
    /// # Errors
    /// [`CasError::WouldShrink`] and [`CasError::Active`], unless it may; [`CasError::NoVolume`],
    /// [`CasError::Size`], and those of a commit.
    pub fn resize_volume(
        &self,
        name: &str,
        size: Sectors,
        shrink: Shrink,
    ) -> Result<VolumeInfo, CasError> {
        self.edit_volume(Edit::ResizeVolume { name: name.into(), size, shrink })
    }

    /// Deletes a volume, and its snapshots if they may go.
    ///
    /// # Errors
    /// [`CasError::NoVolume`], [`CasError::VolumeInUse`], [`CasError::HasSnapshots`],
    /// [`CasError::SnapshotInUse`], and those of a commit.
    pub fn delete_volume(&self, name: &str, with_snapshots: bool) -> Result<(), CasError> {
        self.edit(Edit::DeleteVolume { name: name.into(), with_snapshots }).map(drop)
    }

    /// Keeps what a volume is now. Everything that was acknowledged before is in it.
    ///
    /// # Errors
    /// [`CasError::NoVolume`], [`CasError::BadName`], [`CasError::SnapshotExists`], and those of a
    /// commit.
    pub fn create_snapshot(&self, volume: &str, name: &str) -> Result<SnapshotInfo, CasError> {
        let (volume, name) = (volume.to_owned(), name.to_owned());
        self.edit_snapshot(Edit::CreateSnapshot { volume, name, unix_seconds: unix_seconds() })
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// [`CasError::NoSnapshot`], [`CasError::SnapshotInUse`], and those of a commit.
    pub fn delete_snapshot(&self, volume: &str, name: &str) -> Result<(), CasError> {
        self.edit(Edit::DeleteSnapshot { volume: volume.into(), name: name.into() }).map(drop)
    }

    /// Makes a volume what it was when a snapshot was made, its size included. What it is now is kept
    /// as another snapshot, which is returned.
    ///
    /// # Errors
    /// [`CasError::Active`] when an initiator has used the volume in the last seconds, unless it is
    /// forced; [`CasError::NoSnapshot`], and those of a commit.
    pub fn restore_snapshot(
        &self,
        volume: &str,
        name: &str,
        force: bool,
    ) -> Result<SnapshotInfo, CasError> {
        let (volume, name) = (volume.to_owned(), name.to_owned());
        let unix_seconds = unix_seconds();
        self.edit_snapshot(Edit::RestoreSnapshot { volume, name, force, unix_seconds })
    }

    /// Makes a volume that begins as what another is, or was when a snapshot was made. It takes no
    /// space until it is written to.
    ///
    /// # Errors
    /// [`CasError::NoVolume`], [`CasError::NoSnapshot`], [`CasError::BadName`],
    /// [`CasError::VolumeExists`], and those of a commit.
    pub fn clone_volume(
        &self,
        volume: &str,
        snapshot: Option<&str>,
        name: &str,
    ) -> Result<VolumeInfo, CasError> {
        self.edit_volume(Edit::Clone {
            volume: volume.into(),
            snapshot: snapshot.map(ToOwned::to_owned),
            name: name.into(),
            unix_seconds: unix_seconds(),
        })
    }

    /// The sectors that are not the same in two states of a volume, in order: in snapshots, or, for
    /// `None`, as it is now.
    ///
    /// # Errors
    /// [`CasError::NoVolume`], [`CasError::NoSnapshot`], [`CasError::Unreadable`], and those of a
    /// commit.
    pub fn diff(
        &self,
        volume: &str,
        one: Option<&str>,
        other: Option<&str>,
    ) -> Result<Vec<DiffRange>, CasError> {
        if one.is_none() || other.is_none() {
            self.commit()?;
        }
        let manifest = self.manifest()?;
        let (one, one_size) = manifest.state(volume, one)?;
        let (other, other_size) = manifest.state(volume, other)?;
        let end = one_size.max(other_size);
        let per_block = u64::from(manifest.block_bytes) / SECTOR_SIZE as u64;
        let mut ranges: Vec<DiffRange> = Vec::new();
        let compared = one.diff(other, &self.0.shared.reader, &mut |block, _, _| {
            let lba = block.0 * per_block;
            let sectors = per_block.min(end.0.saturating_sub(lba));
            match ranges.last_mut().filter(|last| last.lba.0 + last.sectors.0 == lba) {
                Some(last) => last.sectors.0 += sectors,
                None => ranges.push(DiffRange { lba: Lba(lba), sectors: Sectors(sectors) }),
            }
            if self.0.shared.is_closing() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        match compared {
            Ok(ControlFlow::Continue(())) => Ok(ranges),
            Ok(ControlFlow::Break(())) => Err(self.0.stopped()),
            Err(error) => {
                Err(CasError::Unreadable { path: self.0.path.clone(), why: Why::from(error).0 })
            }
        }
    }

    /// Brings everything that was acknowledged before into the trees.
    ///
    /// # Errors
    /// [`CasError::NoSpace`], [`CasError::CommitFailed`], [`CasError::Stopped`]. What was acknowledged
    /// is safe all the same.
    pub fn commit(&self) -> Result<(), CasError> {
        self.ask(Request::Commit)
    }

    /// What there is to say of it without reading it.
    ///
    /// # Errors
    /// [`CasError::Stopped`] when the store is closed.
    pub fn info(&self) -> Result<StoreInfo, CasError> {
        let (status, manifest, shared) = (self.status(), self.manifest()?, &self.0.shared);
        let reader = &shared.reader;
        let (packs, stored_bytes) = {
            let table = reader.packs.read().unwrap_or_else(PoisonError::into_inner);
            table.iter().fold((0, 0), |(count, sum), pack| (count + 1, sum + u64::from(pack.bytes)))
        };
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &reader.counters;
        Ok(StoreInfo {
            path: self.0.path.clone(),
            id: manifest.store,
            block_bytes: manifest.block_bytes,
            layout: manifest.layout,
            commit: manifest.commit,
            commits: status.commits,
            volumes: manifest.volumes.len(),
            snapshots: manifest.snapshots.len(),
            packs,
            stored_bytes,
            put: (status.packs_put, status.octets_put),
            index: (reader.index.bytes() as u64, reader.index.memtable_len() as u64),
            overlay: (shared.budget.used(), shared.budget.limit()),
            cache: (reader.cached_bytes(), reader.cache_bytes()),
            reads: (load(&counters.reads), load(&counters.bytes)),
            read_failures: load(&counters.failures),
            split: status.split,
            failing: status.failing,
            stopped: shared.is_stopped(),
        })
    }

    /// Commits everything, empties the journal and ends the threads. Front ends have to be closed
    /// before: what one still has is left in the journal.
    ///
    /// # Errors
    /// When something could not be committed; it is in the journal then, and taken in when the store
    /// is opened next.
    pub fn close(&self) -> Result<(), CasError> {
        self.0.close()
    }

    /// Closes it as [`Self::close`] does, and waits until it can be opened again: a closed store stays
    /// locked as long as a clone of it is there, which whoever is asking something of it has. Those are
    /// answered [`CasError::Stopped`]; who is not after some seconds is not waited for.
    ///
    /// # Errors
    /// As [`Self::close`].
    pub fn close_and_let_go(self) -> Result<(), CasError> {
        let closed = self.0.close();
        let patience = clock::now().after(LETTING_GO);
        while Arc::strong_count(&self.0) > 1 && clock::now() < patience {
            thread::park_timeout(Duration::from_millis(10));
        }
        closed
    }

    /// Reads through the store at `path`, which nobody may have open. Nothing is written to it.
    ///
    /// # Errors
    /// When it is in use, is none, or cannot be looked at; what is wrong with it is no error.
    pub fn fsck(
        path: impl AsRef<Path>,
        options: &FsckOptions,
        progress: &mut dyn FnMut(FsckProgress),
    ) -> Result<FsckReport, CasError> {
        fsck::fsck(path.as_ref(), options, progress)
    }

    /// Throws the index of the store at `path` away, which nobody may have open, and makes it anew from
    /// its packs, all of which are read: what is damaged is not in it, so that it is stored again when it is
    /// written again.
    ///
    /// # Errors
    /// When it is in use, or has no state that can be read. Packs that are damaged are no error.
    pub fn repair_index(
        path: impl AsRef<Path>,
        progress: &mut dyn FnMut(FsckProgress),
    ) -> Result<IndexRepair, CasError> {
        repair::repair_index(path.as_ref(), progress)
    }

    /// Makes the root slots of the store at `path` anew, which nobody may have open, for the newest state
    /// that is there in full.
    ///
    /// # Errors
    /// [`CasError::RootsSound`] when there is a slot for that state or a later one,
    /// [`CasError::NoState`] when there is no such state; when the store is in use.
    pub fn repair_roots(
        path: impl AsRef<Path>,
        options: &RepairRootsOptions,
    ) -> Result<RootsRepair, CasError> {
        repair::repair_roots(path.as_ref(), options)
    }

    /// Reads through what is durable of this store while it is open: packs, index and trees, but not
    /// journal and root slots. It takes no part in what else is done meanwhile.
    ///
    /// # Errors
    /// [`CasError::Stopped`] when the store is closed.
    pub fn scrub(&self, progress: &mut dyn FnMut(FsckProgress)) -> Result<FsckReport, CasError> {
        let manifest = self.manifest()?;
        let reader = &self.0.shared.reader;
        // Of packs that come later no tree of this manifest knows.
        let packs = reader.packs.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (blobs, index) = (&*reader.blobs, &reader.index);
        let report = fsck::scrub(&self.0.path, blobs, &manifest, &packs, index, progress);
        reader.doubt(&report);
        Ok(report)
    }

    /// Counts what the volumes and snapshots of this store hold, as of the last commit.
    ///
    /// # Errors
    /// [`CasError::Stopped`] when the store is closed, before or meanwhile.
    pub fn usage(&self) -> Result<Usage, CasError> {
        let manifest = self.manifest()?;
        let Inner { path, shared, .. } = &*self.0;
        let usage = usage::usage(path, &manifest, &shared.reader, &|| shared.is_closing());
        usage.ok_or_else(|| self.0.stopped())
    }

    /// As [`Self::usage`], of the store at `path`, which nobody may have open.
    ///
    /// # Errors
    /// When it is in use, is none, or has no state or index that can be read.
    pub fn usage_of(path: impl AsRef<Path>) -> Result<Usage, CasError> {
        usage::usage_of(path.as_ref())
    }

    fn status(&self) -> CommitStatus {
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn manifest(&self) -> Result<Arc<Manifest>, CasError> {
        self.status().manifest.ok_or_else(|| self.0.stopped())
    }

    fn edit(&self, edit: Edit) -> Result<Edited, CasError> {
        self.ask(|reply| Request::Edit(edit, reply))
    }

    fn edit_volume(&self, edit: Edit) -> Result<VolumeInfo, CasError> {
        match self.edit(edit)? {
            Edited::Volume(info) => Ok(info),
            _ => Err(self.0.stopped()),
        }
    }

    fn edit_snapshot(&self, edit: Edit) -> Result<SnapshotInfo, CasError> {
        match self.edit(edit)? {
            Edited::Snapshot(info) => Ok(info),
            _ => Err(self.0.stopped()),
        }
    }

    fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, CasError> {
        let (reply, answer) = mpsc::sync_channel(1);
        let sent = self.0.requests.send(request(reply));
        sent.map_err(|_| self.0.stopped())?;
        self.0.shared.commit_bell.ring();
        answer.recv().map_err(|_| self.0.stopped())?
    }
}

fn entry_number(entry: &super::manifest::VolumeEntry) -> super::VolumeNumber {
    entry.number
}

/// Seconds since 1970.
fn unix_seconds() -> u64 {
    clock::unix_micros() / 1_000_000
}

impl Inner {
    fn stopped(&self) -> CasError {
        CasError::Stopped { path: self.path.clone() }
    }

    fn close(&self) -> Result<(), CasError> {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Threads { group, committer, readers }) = threads else { return Ok(()) };
        self.shared.begin_to_close();
        let _ = self.group_requests.send(GroupRequest::Close);
        self.shared.journal_bell.ring();
        // The journal may have to wait for room, as long as commits make some.
        let last = group.join().map_err(|_| self.stopped())?;
        let _ = self.requests.send(Request::Close(last));
        self.shared.commit_bell.ring();
        let committer = committer.join().map_err(|_| self.stopped())?;
        self.shared.reader.pool.end();
        for reader in readers {
            let _ = reader.join();
        }
        let path = self.path.clone();
        match committer.failure() {
            _ if self.shared.is_stopped() => return Err(self.stopped()),
            Some(why) => return Err(CasError::CommitFailed { path, why }),
            None => {}
        }
        committer.close().map_err(|source| CasError::Io {
            op: "write to the journal of",
            path,
            source,
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            log::error!("{}", super::error::chain(&error));
        }
    }
}

/// Stops a store whose thread panics: nobody would do its work any more.
struct StopsOnPanic(Arc<StoreShared>);

impl Drop for StopsOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop("a thread of it has panicked");
        }
    }
}

fn run_group<M: Medium>(mut group: GroupCommitter<M>) -> Sequence {
    loop {
        match group.step() {
            Step::Done => {}
            Step::Idle => thread::park(),
            Step::Ended => return group.last(),
        }
    }
}

fn run_committer<M: Medium>(mut committer: Committer<M>) -> Committer<M> {
    loop {
        let now = clock::now();
        match committer.step(now) {
            Step::Done => {}
            Step::Idle => thread::park_timeout(committer.wake_at(now).since(now)),
            Step::Ended => {
                committer.fail_fronts();
                return committer;
            }
        }
    }
}
