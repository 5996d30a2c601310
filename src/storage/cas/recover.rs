//! Opening a store: the state of the newest root slot, and what the journal has beside it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};

use super::commit::{
    CommitParts, CommitStatus, Committer, JournalParts, LIST_LEN, OWN_PACK, PackSizes, VolumeState,
};
use super::entry::ArchiveEntry;
use super::error::{CasError, ReadError, Why};
use super::frame::open_frame;
use super::fsck::frames_of;
use super::group::{GroupCommitter, Step};
use super::index::{Index, Location};
use super::manifest::{Features, FrameRef, Layout, Manifest, PackEntry, parse_pack_list};
use super::overlay::Generation;
use super::pack::{Footer, PackKind, parse_directory};
use super::reader::{PackTable, Reader};
use super::request::Request;
use super::root::{RootSlot, read_roots};
use super::runs::Runs;
use super::shared::StoreShared;
#[cfg(test)]
use super::simulation::{Bug, is_planted, note_found};
use super::store::StoreOptions;
use super::{ContentId, FrameKind, StoreId, VolumeNumber};
use crate::blob::{BlobError, BlobId, BlobStore};
use crate::clock::Instant;
use crate::storage::journal::{Guarded, JournalId, Medium, Reclaimer, Scan, Sequence, format};
use crate::units::{SECTOR_SIZE, Sectors};

/// Octets of the end of a pack that are read at once in the hope that the directory is among them.
const TAIL: u64 = 64 << 10;
/// More sectors than any disk has.
const SECTORS_MAX: Sectors = Sectors(1 << 52);

/// What a store is kept in.
pub(super) struct StoreMedia {
    /// For messages and the log.
    pub(super) path: PathBuf,
    pub(super) blobs: Arc<dyn BlobStore>,
    pub(super) roots: Arc<dyn Medium>,
    pub(super) journal: Arc<dyn Medium>,
    pub(super) runs: Runs,
}

/// What a store had in its journal when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Writes and discards that were not in the trees.
    pub writes: u64,
    /// Octets of those writes.
    pub bytes: u64,
    /// Volumes that they were for.
    pub volumes: u64,
}

/// A store that is open: its parts, for threads or a simulation to drive.
pub(super) struct OpenStore {
    pub(super) shared: Arc<StoreShared>,
    pub(super) group: GroupCommitter<Guarded<Arc<dyn Medium>>>,
    pub(super) committer: Committer<Guarded<Arc<dyn Medium>>>,
    pub(super) requests: Sender<Request>,
    pub(super) group_requests: Sender<super::group::GroupRequest>,
    pub(super) status: Arc<Mutex<CommitStatus>>,
    pub(super) recovered: Recovered,
}

/// What a new store is to be.
pub(super) struct NewStore {
    pub(super) id: StoreId,
    pub(super) journal: JournalId,
    pub(super) block_bytes: u32,
    pub(super) layout: Layout,
}

/// The parts of a manifest that say where things are.
pub(super) struct Found {
    pub(super) slot: RootSlot,
    pub(super) manifest: Manifest,
    pub(super) packs: PackTable,
    pub(super) own: PackEntry,
    /// The first of those lists that are full.
    pub(super) full_lists: usize,
}

/// Stores the first manifest of an empty store, and returns the root slot that names it. The store is
/// one when that is written and synced.
pub(super) fn found(blobs: &dyn BlobStore, new: &NewStore) -> Result<RootSlot, BlobError> {
    let manifest = Manifest {
        store: new.id,
        block_bytes: new.block_bytes,
        layout: new.layout,
        commit: 1,
        parent: None,
        next_volume: 1,
        next_pack: 1,
        features: Features::KNOWN,
        volumes: Vec::new(),
        snapshots: Vec::new(),
        pack_lists: Vec::new(),
    };
    let octets = manifest.emit();
    let id = ContentId::of(FrameKind::Manifest, &octets);
    let mut payload = Vec::new();
    let codec = super::compress::compress(&octets, &mut payload);
    let mut builder = super::pack::PackBuilder::new(new.id, PackKind::Meta, 0);
    #[allow(clippy::cast_possible_truncation, reason = "it has nothing in it")]
    let place = builder.push(FrameKind::Manifest, id, codec, octets.len() as u32, &payload);
    let pack = builder.finish(Vec::new());
    let blob = crate::blob::Blob::new(&pack);
    blobs.put(&blob)?;
    #[allow(clippy::cast_possible_truncation, reason = "it has nothing in it")]
    Ok(RootSlot {
        store: new.id,
        journal: new.journal,
        commit: 1,
        manifest: FrameRef { pack: blob.id(), place, id },
        released: Sequence(0),
        pack_number: 0,
        pack_bytes: pack.len() as u32,
    })
}

/// Opens a store. What its journal has is taken into overlays; if they have no room for all of it,
/// some is committed at once.
pub(super) fn recover(
    media: StoreMedia,
    options: &StoreOptions,
    now: Instant,
) -> Result<OpenStore, CasError> {
    let StoreMedia { path, blobs, roots, journal, runs } = media;
    let Found { slot, manifest, packs, own, full_lists } = find(&path, &*blobs, &roots)?;
    let (index, unread) = open_index(&path, &*blobs, runs, &manifest, &packs)?;
    let name = path.display().to_string();
    let block_bytes = manifest.block_bytes as usize;
    let reader = Reader::new(name.clone(), blobs, index, packs, block_bytes, options.cache_bytes);
    // Packs are made of the same blocks.
    let (pack_sizes, overlay_bytes) = PackSizes::within(options.overlay_bytes);
    let shared = Arc::new(StoreShared::new(
        name,
        block_bytes,
        overlay_bytes,
        options.commit_bytes.min(overlay_bytes / 2),
        reader,
    ));
    let journal = Guarded::new(journal);
    let scan = scan(&path, &journal, &slot, options.accept_loss)?;
    let mut replay = Replay::new(&path, &shared, manifest.taken());
    let complete = replay.pass(&scan, &journal)?;
    if replay.newest >= Some(VolumeNumber(manifest.next_volume)) && !options.accept_loss {
        return Err(CasError::RootLost { path, commit: slot.commit });
    }
    #[cfg(test)]
    note_found(&manifest);
    let mut recovered = replay.recovered();
    let (numbers, volumes) = replay.into_parts(&scan);
    let (appender, mut reclaimer) = scan.ends(journal.clone());
    use_journal(&path, &mut reclaimer, &slot, &scan)?;
    let (requests, requested) = mpsc::channel();
    let (group_requests, group_requested) = mpsc::channel();
    let (uses, used) = mpsc::channel();
    let group = GroupCommitter::new(appender, Arc::clone(&shared), group_requested, uses);
    let parts = CommitParts {
        shared: Arc::clone(&shared),
        unlisted: vec![own],
        full_lists,
        unread,
        manifest_id: slot.manifest.id,
        // More only if the loss of a root slot was accepted.
        released: slot.released.max(scan.released()),
        roots: Guarded::new(roots),
        journal: JournalParts {
            reclaimer,
            uses: used,
            numbers,
            id: scan.id(),
            group: group_requests.clone(),
        },
        volumes,
        requests: requested,
        requests_sender: requests.clone(),
        interval: options.commit_interval,
        pack_sizes,
        threads: options.threads,
        status: Arc::default(),
        manifest,
    };
    let status = Arc::clone(&parts.status);
    let mut committer = Committer::new(parts, now);
    if !complete {
        replay_rest(&path, &mut committer, &scan, &journal, &mut recovered, now)?;
    }
    Ok(OpenStore { shared, group, committer, requests, group_requests, status, recovered })
}

/// Notes in the journal that it is in use from now on: it was perhaps closed before.
fn use_journal(
    path: &std::path::Path,
    reclaimer: &mut Reclaimer<impl Medium>,
    slot: &RootSlot,
    scan: &Scan,
) -> Result<(), CasError> {
    reclaimer.set_mark(slot.commit);
    let released = reclaimer.release(scan.released());
    let failed = |source| CasError::Io { op: "write to the journal of", path: path.into(), source };
    released.map(drop).map_err(failed)
}

/// Replays what the overlays had no room for, with a commit before each part; where that fails, for want of
/// room on the disk perhaps, beyond what overlays may have: all of it can be read then.
fn replay_rest(
    path: &std::path::Path,
    committer: &mut Committer<Guarded<Arc<dyn Medium>>>,
    scan: &Scan,
    journal: &impl Medium,
    recovered: &mut Recovered,
    now: Instant,
) -> Result<(), CasError> {
    loop {
        while committer.step(now) == Step::Done {}
        if committer.shared().is_stopped() {
            // There would never be room for the rest.
            return Err(CasError::Stopped { path: path.into() });
        }
        let mut replay = Replay::new(path, committer.shared(), committer.taken());
        replay.unbounded = committer.failure().is_some();
        let complete = replay.pass(scan, journal)?;
        let more = replay.recovered();
        recovered.writes += more.writes;
        recovered.bytes += more.bytes;
        recovered.volumes = recovered.volumes.max(more.volumes);
        let (_, volumes) = replay.into_parts(scan);
        committer.take_pending(volumes);
        if complete {
            break;
        }
    }
    if committer.failure().is_some() {
        let budget = &committer.shared().budget;
        log::warn!(
            "archive {}: what its journal has takes {} bytes of memory, more than the {} that overlays may \
             have, until commits succeed",
            path.display(),
            budget.used(),
            budget.limit()
        );
    }
    Ok(())
}

/// Reads the newest root slot, its manifest and its lists of packs.
pub(super) fn find(
    path: &std::path::Path,
    blobs: &dyn BlobStore,
    roots: &impl Medium,
) -> Result<Found, CasError> {
    let slots =
        read_roots(roots).map_err(|source| CasError::Roots { path: path.into(), source })?;
    let slot = slots
        .into_iter()
        .next()
        .ok_or(CasError::Roots { path: path.into(), source: super::root::RootsError::Neither })?;
    read_state(path, blobs, slot)
}

/// Reads the manifest that a root slot names, and its lists of packs.
pub(super) fn read_state(
    path: &std::path::Path,
    blobs: &dyn BlobStore,
    slot: RootSlot,
) -> Result<Found, CasError> {
    let unreadable =
        |why: Why| CasError::Manifest { path: path.into(), commit: slot.commit, why: why.0 };
    let octets = read_frame(blobs, &slot.manifest, FrameKind::Manifest).map_err(unreadable)?;
    let mut manifest = Manifest::parse(&octets).map_err(|error| unreadable(error.into()))?;
    let unknown = manifest.features.unknown_to_write();
    if unknown != 0 {
        return Err(CasError::UnknownFeatures { path: path.into(), bits: unknown });
    }
    if manifest.store != slot.store || manifest.commit != slot.commit {
        return Err(unreadable(Why("it is not the one of that commit".into())));
    }
    let mut packs = PackTable::default();
    let mut lens = Vec::new();
    for list in &mut manifest.pack_lists {
        if list.pack == OWN_PACK {
            list.pack = slot.manifest.pack;
        }
        let pack = list.pack;
        let unlisted = |why: Why| unreadable(Why(format!("its list in pack {pack}: {}", why.0)));
        let octets = read_frame(blobs, list, FrameKind::PackList).map_err(unlisted)?;
        let entries = parse_pack_list(&octets).map_err(|error| unlisted(error.into()))?;
        lens.push(entries.len());
        for entry in entries {
            packs.insert(entry);
        }
    }
    let RootSlot { pack_number: number, pack_bytes: bytes, .. } = slot;
    let own = PackEntry { number, id: slot.manifest.pack, bytes, kind: PackKind::Meta };
    packs.insert(own);
    let full_lists = lens.iter().take_while(|len| **len == LIST_LEN).count();
    Ok(Found { slot, manifest, packs, own, full_lists })
}

/// A frame whose place is known.
pub(super) fn read_frame(
    blobs: &dyn BlobStore,
    at: &FrameRef,
    kind: FrameKind,
) -> Result<Vec<u8>, Why> {
    let mut octets = vec![0; at.place.len as usize];
    blobs.get_range(at.pack, at.place.offset.into(), &mut octets)?;
    Ok(open_frame(&octets, kind, at.id)?)
}

/// Opens the index, and completes it from the directories of packs that it does not cover. One that is
/// ahead of the store is made anew. Tells the first pack whose directory could not be read, if any.
fn open_index(
    path: &std::path::Path,
    blobs: &dyn BlobStore,
    runs: Runs,
    manifest: &Manifest,
    packs: &PackTable,
) -> Result<(Index<Runs>, Option<u32>), CasError> {
    let failed = |error: super::index::IndexError| CasError::Unreadable {
        path: path.into(),
        why: Why::from(error).0,
    };
    let opened = Index::open(runs, manifest.store).map_err(failed)?;
    for error in &opened.unusable {
        log::warn!("archive {}: {}; it is read from the packs again", path.display(), error);
    }
    let index = opened.index;
    if index.covered().is_some_and(|covered| covered >= manifest.next_pack) {
        index.clear().map_err(failed)?;
    }
    let covered = index.covered();
    let mut unread = None;
    for pack in packs.iter().filter(|pack| covered.is_none_or(|covered| pack.number > covered)) {
        let (frames, damage) = frames_of(blobs, &pack);
        // What is not found is answered with errors, each told when it is asked for.
        if let Some(why) = damage {
            unread = unread.or(Some(pack.number));
            tell_unread(&path.display(), &pack, frames.len(), why);
        }
        index.insert_many(frames);
    }
    Ok((index, unread))
}

/// Logs that not all of a pack may have been found.
pub(super) fn tell_unread(
    archive: &dyn std::fmt::Display,
    pack: &PackEntry,
    found: usize,
    error: ReadError,
) {
    log::error!(
        "archive {archive}: PACK {} IS DAMAGED, {found} frames were found in it, what else it had is lost \
         unless it is mended: {}; aoe-server store fsck tells what that is",
        pack.id,
        Why::from(error).0,
    );
}

/// What is in a pack, by its directory.
pub(super) fn read_directory(
    blobs: &dyn BlobStore,
    pack: &PackEntry,
) -> Result<Vec<(ContentId, Location)>, ReadError> {
    let entries = read_entries(blobs, pack.id, pack.bytes.into())?;
    let located = |entry: &super::pack::DirectoryEntry| {
        (entry.id, Location { pack: pack.number, place: entry.place })
    };
    Ok(entries.iter().map(located).collect())
}

/// The directory of a pack of `bytes` octets.
pub(super) fn read_entries(
    blobs: &dyn BlobStore,
    pack: BlobId,
    bytes: u64,
) -> Result<Vec<super::pack::DirectoryEntry>, ReadError> {
    #[allow(clippy::cast_possible_truncation, reason = "at most TAIL")]
    let mut tail = vec![0; bytes.min(TAIL) as usize];
    let len = blobs.get_tail(pack, &mut tail)?;
    let footer = Footer::parse(&tail, len)?;
    let mut octets = Vec::new();
    let directory = if let Some(directory) = footer.directory_in(&tail) {
        directory
    } else {
        octets.resize(footer.directory_len(), 0);
        blobs.get_range(pack, footer.directory_at.into(), &mut octets)?;
        &octets
    };
    Ok(parse_directory(directory, &footer)?)
}

/// Reads the journal, and refuses one that lacks anything which the root slot relies on.
fn scan(
    path: &std::path::Path,
    journal: &impl Medium,
    slot: &RootSlot,
    accept_loss: bool,
) -> Result<Scan, CasError> {
    let path = || path.to_path_buf();
    let scan =
        Scan::of(journal).map_err(|source| CasError::JournalUnreadable { path: path(), source })?;
    if scan.id() != slot.journal && scan.id() != slot.next_journal() {
        return Err(CasError::OtherJournal {
            path: path(),
            found: scan.id(),
            wanted: slot.journal,
        });
    }
    // It gives up what is in the tree of a durable root slot, and is marked with the commit of one: one
    // that came after this one.
    if (scan.released() > slot.released || scan.mark() > slot.commit) && !accept_loss {
        return Err(CasError::RootLost { path: path(), commit: slot.commit });
    }
    if scan.last() < slot.released {
        let (last, released) = (scan.last(), slot.released);
        if !accept_loss {
            return Err(CasError::JournalOlder { path: path(), last, released });
        }
        // All that it has is in the trees. New entries must not get numbers that were given up.
        format(journal, slot.next_journal(), scan.geometry(), released).map_err(|source| {
            CasError::Io { op: "write to the journal of", path: path(), source }
        })?;
        return Scan::of(journal)
            .map_err(|source| CasError::JournalUnreadable { path: path(), source });
    }
    if !scan.lost().is_empty() {
        let lost = scan.lost().to_vec();
        if !accept_loss {
            return Err(CasError::JournalDamaged { path: path(), lost });
        }
        log::error!("{}; going on without them", CasError::JournalDamaged { path: path(), lost });
    }
    Ok(scan)
}

/// The replay of a journal into overlays.
struct Replay<'a> {
    path: &'a std::path::Path,
    shared: &'a Arc<StoreShared>,
    volumes: BTreeMap<VolumeNumber, Replayed>,
    /// Every entry: its place, and what it is.
    numbers: Vec<(Sequence, VolumeNumber, u64)>,
    recovered: Recovered,
    /// There was no room for a write, so that none after it may be taken.
    full: bool,
    /// There is always room.
    unbounded: bool,
    /// The last volume that was made of those that were written to.
    newest: Option<VolumeNumber>,
}

struct Replayed {
    /// Writes up to here are in the tree, or were taken in before.
    through: u64,
    /// The last one that was found, or that the volume has already.
    last: u64,
    generation: Option<Generation>,
}

impl<'a> Replay<'a> {
    /// Of what came after the writes that volumes have already.
    fn new(
        path: &'a std::path::Path,
        shared: &'a Arc<StoreShared>,
        through: impl Iterator<Item = (VolumeNumber, u64)>,
    ) -> Self {
        let volumes = through.map(|(number, through)| {
            (number, Replayed { through, last: through, generation: None })
        });
        Self {
            path,
            shared,
            volumes: volumes.collect(),
            numbers: Vec::new(),
            recovered: Recovered::default(),
            full: false,
            unbounded: false,
            newest: None,
        }
    }

    fn recovered(&self) -> Recovered {
        let volumes = self.volumes.values().filter(|volume| volume.generation.is_some()).count();
        Recovered { volumes: volumes as u64, ..self.recovered }
    }

    /// Takes in what there is room for; tells whether that was all.
    fn pass(&mut self, scan: &Scan, journal: &impl Medium) -> Result<bool, CasError> {
        let mut unknown = None;
        #[cfg(test)]
        let mut held = Vec::new();
        let read = scan.entries(journal, |sequence, octets| {
            let Some(entry) = ArchiveEntry::parse(octets) else {
                unknown = Some(sequence.0);
                return false;
            };
            #[cfg(test)]
            if is_planted(Bug::ReplayedOutOfOrder) {
                held.push((sequence, octets.to_vec()));
                return true;
            }
            self.take(sequence, &entry);
            true
        });
        #[cfg(test)]
        for (sequence, octets) in held.iter().rev() {
            if let Some(entry) = ArchiveEntry::parse(octets) {
                self.take(*sequence, &entry);
            }
        }
        let path = || self.path.to_path_buf();
        read.map_err(|source| CasError::JournalUnreadable { path: path(), source })?;
        match unknown {
            Some(sequence) => Err(CasError::UnknownEntry { path: path(), sequence }),
            None => Ok(!self.full),
        }
    }

    /// Takes an entry in, unless there was no room for one before.
    fn take(&mut self, sequence: Sequence, entry: &ArchiveEntry<'_>) {
        let (volume, number) = (entry.volume(), entry.number());
        self.newest = self.newest.max(Some(volume));
        // Of a volume that is gone nothing is needed.
        let Some(replayed) = self.volumes.get_mut(&volume) else { return };
        self.numbers.push((sequence, volume, number));
        let (lba, count) = entry.range();
        if self.full || number <= replayed.through || !lba.fits(count, SECTORS_MAX) {
            return;
        }
        let budget = &self.shared.budget;
        let generation =
            replayed.generation.get_or_insert_with(|| Generation::new(Arc::clone(budget), 0));
        match *entry {
            ArchiveEntry::Write { lba, data, .. } => {
                let growth = generation.growth(lba, data.len() / SECTOR_SIZE);
                // One write always goes, however small the overlays are.
                if !budget.take(growth) {
                    if budget.used() > 0 && !self.unbounded {
                        self.full = true;
                        return;
                    }
                    budget.force(growth);
                }
                generation.write(number, lba, data);
                self.recovered.bytes += data.len() as u64;
            }
            ArchiveEntry::Zeros { lba, count, .. } => {
                budget.force(generation.discard_growth(lba, count));
                generation.discard(number, lba, count);
            }
        }
        replayed.last = number;
        self.recovered.writes += 1;
    }

    /// What each segment of the journal needs to be given up, the oldest first; and the volumes.
    fn into_parts(
        self,
        scan: &Scan,
    ) -> (VecDeque<BTreeMap<VolumeNumber, u64>>, BTreeMap<VolumeNumber, VolumeState>) {
        let mut segments = VecDeque::new();
        let mut numbers = self.numbers.into_iter().peekable();
        for last in scan.retired_lasts() {
            let mut segment = BTreeMap::new();
            while let Some((_, volume, number)) =
                numbers.next_if(|(sequence, ..)| *sequence <= last)
            {
                segment.insert(volume, number);
            }
            segments.push_back(segment);
        }
        let state = |(number, replayed): (VolumeNumber, Replayed)| {
            let Replayed { last, generation, .. } = replayed;
            let pending = generation.map(Arc::new).into_iter().collect();
            (number, VolumeState::new(number, last, pending))
        };
        (segments, self.volumes.into_iter().map(state).collect())
    }
}
