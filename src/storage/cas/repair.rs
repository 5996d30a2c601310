//! Mending what a store needs and can be made of what else it has: the index from its packs, the root
//! slots from the manifests that are in them.
//!
//! # Invariants
//! * Blobs are not changed, nor is the journal.
//! * A root slot is written that names a state which is there in full, as far as lengths tell, and only
//!   when it is newer than what there is.
//! * Whether acknowledged writes are missing from that state the journal decides: if it cannot be shown
//!   that it goes on where the state ends, the store is opened only by who accepts the loss.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::entry::ArchiveEntry;
use super::error::{CasError, Why, chain};
use super::frame::open_frame;
use super::fsck::{FsckPhase, FsckProgress, PackCheck, PackStates};
use super::index::{FileRuns, Index, Location};
use super::manifest::{FrameRef, Manifest};
use super::pack::{DirectoryEntry, PACK_HEADER, PackKind, parse_header, scan_frames};
use super::recover::{Found, find, read_entries, read_frame, read_state};
use super::root::{RootSlot, SlotState, examine_roots};
use super::runs::Runs;
use super::store::files::{MendedFiles, mend_files};
use super::{FrameKind, StoreId, VolumeNumber};
use crate::blob::file::FileBlobStore;
use crate::blob::{BLOB_MAX, BlobId, BlobInfo, BlobPrefix, BlobStore};
use crate::storage::journal::{JournalId, Scan, Sequence};

/// Entries in memory from which on the index is written.
const INDEX_ENTRIES: usize = 1 << 18;

/// What an index was made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexRepair {
    /// Packs that were read.
    pub packs: u64,
    /// Places of frames that are in it.
    pub entries: u64,
    /// Packs with frames that are damaged, and how many. They are not in the index, so that what they
    /// held is stored again when it is written again.
    pub damaged: Vec<(BlobId, u64)>,
    /// Packs whose directories are damaged, and what was found in them by searching: how many frames.
    pub searched: Vec<(BlobId, u64)>,
    /// Packs of which nothing can be had, and why not.
    pub unusable: Vec<(BlobId, String)>,
}

/// Throws the index of a store away, and makes it anew from its packs, all of which are read.
pub(super) fn repair_index(
    path: &Path,
    progress: &mut dyn FnMut(FsckProgress),
) -> Result<IndexRepair, CasError> {
    let MendedFiles { blobs, roots, index, .. } = mend_files(path)?;
    let roots = roots.ok_or_else(|| CasError::NoRoots { path: path.into() })?;
    let found = find(path, &blobs, &roots)?;
    let runs = FileRuns::open(&index);
    let runs = runs.map_err(|source| CasError::Io { op: "open", path: index, source })?;
    make_index(path, &blobs, &found, Runs::File(runs), progress)
}

/// Makes the index of a state anew, in place of what `runs` has.
pub(super) fn make_index(
    path: &Path,
    blobs: &dyn BlobStore,
    found: &Found,
    runs: Runs,
    progress: &mut dyn FnMut(FsckProgress),
) -> Result<IndexRepair, CasError> {
    let Found { manifest, packs, .. } = found;
    let failed = |error: super::index::IndexError| CasError::Unreadable {
        path: path.into(),
        why: Why::from(error).0,
    };
    let index = Index::create(runs, manifest.store).map_err(failed)?;
    let mut repair = IndexRepair::default();
    let check = PackCheck { blobs, store: manifest.store, block_bytes: manifest.block_bytes };
    let of = packs.iter().count() as u64;
    let of_bytes = packs.iter().map(|pack| u64::from(pack.bytes)).sum();
    let mut bytes = 0;
    for (done, pack) in (1..).zip(packs.iter()) {
        let (mut states, mut findings) = (PackStates::default(), Vec::new());
        let read = check.check(&pack, &mut states, &mut findings);
        let located =
            |frame: &DirectoryEntry| (frame.id, Location { pack: pack.number, place: frame.place });
        let sound = read.frames.iter().map(located).filter(|(id, at)| states.has(*id, *at));
        let sound: Vec<_> = sound.collect();
        let (count, damaged) = (sound.len() as u64, (read.frames.len() - sound.len()) as u64);
        match findings.first() {
            Some(finding) if count == 0 => repair.unusable.push((pack.id, finding.to_string())),
            _ if !states.has_directory(pack.number) => repair.searched.push((pack.id, count)),
            _ if damaged > 0 => repair.damaged.push((pack.id, damaged)),
            _ => {}
        }
        repair.packs += 1;
        repair.entries += count;
        index.insert_many(sound);
        if index.memtable_len() >= INDEX_ENTRIES {
            index.flush(pack.number).map_err(failed)?;
        }
        bytes += read.bytes;
        progress(FsckProgress { phase: FsckPhase::Packs, done, of, bytes, of_bytes });
    }
    index.flush(manifest.next_pack - 1).map_err(failed)?;
    Ok(repair)
}

/// How root slots are to be made anew.
#[derive(Debug, Clone, Default)]
pub struct RepairRootsOptions {
    /// The journal. `None`: in the store.
    pub journal: Option<PathBuf>,
    /// Only tells what would be done.
    pub dry_run: bool,
    /// Goes back even if there is a root slot of that commit or a later one.
    pub force: bool,
}

/// What the journal tells of whether writes are missing from a state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JournalRelation {
    /// It goes on where the state ends: nothing that was acknowledged is missing.
    Follows,
    /// It does not have enough in it to tell. Opening the store asks to accept the loss.
    Unknown,
    /// It lacks writes, or has some to volumes that the state does not have: something is missing.
    Gap,
    /// It cannot be read, or is not there.
    Unreadable(String),
}

/// A state that root slots were, or can be, made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootsRepair {
    /// The store.
    pub store: StoreId,
    /// The commit.
    pub commit: u64,
    /// Its volumes, and their sizes.
    pub volumes: Vec<super::VolumeInfo>,
    /// How many snapshots it has.
    pub snapshots: usize,
    /// Later commits that are not there in full, and what they lack.
    pub incomplete: Vec<(u64, String)>,
    /// The commits of the root slots that were sound.
    pub sound: Vec<u64>,
    /// What the journal tells.
    pub journal: JournalRelation,
    /// Whether root slots were written.
    pub written: bool,
}

/// A manifest, and where it is.
struct Candidate {
    manifest: Manifest,
    at: FrameRef,
    info: BlobInfo,
}

impl Candidate {
    /// The newest one last: by commit, and for attempts at the same one by what is in them.
    fn rank(&self) -> (u64, u64, u64, BlobId) {
        let Manifest { commit, volumes, .. } = &self.manifest;
        let through = volumes.iter().fold(0, |sum: u64, volume| sum.saturating_add(volume.through));
        (*commit, through, self.info.stored_unix_seconds, self.info.id)
    }

    fn slot(&self, journal: JournalId, released: Sequence) -> Option<RootSlot> {
        Some(RootSlot {
            store: self.manifest.store,
            journal,
            commit: self.manifest.commit,
            manifest: self.at,
            pack_number: self.manifest.next_pack.checked_sub(1)?,
            pack_bytes: u32::try_from(self.info.len).ok()?,
            released,
        })
    }

    /// Why the state is not there in full.
    fn check(&self, path: &Path, blobs: &FileBlobStore) -> Result<(), String> {
        let slot = self.slot(JournalId([0; 16]), Sequence(0));
        let slot = slot.ok_or("it makes no sense")?;
        let found = read_state(path, blobs, slot).map_err(|error| match error {
            CasError::Manifest { why, .. } => why,
            error => chain(&error),
        })?;
        for pack in found.packs.iter() {
            let info = blobs.info(pack.id).map_err(|error| chain(&error))?;
            if info.len != u64::from(pack.bytes) {
                return Err(format!(
                    "pack {} has {} octets in place of {}",
                    pack.id, info.len, pack.bytes
                ));
            }
        }
        Ok(())
    }
}

/// Finds the newest state of a store that is there in full, and makes a root slot for it.
pub(super) fn repair_roots(
    path: &Path,
    options: &RepairRootsOptions,
) -> Result<RootsRepair, CasError> {
    let files = mend_files(path)?;
    let (sound, is_unreadable) = match &files.roots {
        Some(roots) => sound_slots(path, roots)?,
        None => (Vec::new(), false),
    };
    let candidates = candidates(path, &files.blobs)?;
    let mut incomplete = Vec::new();
    let mut chosen = None;
    for candidate in candidates {
        match candidate.check(path, &files.blobs) {
            Ok(()) => {
                chosen = Some(candidate);
                break;
            }
            Err(why) => incomplete.push((candidate.manifest.commit, why)),
        }
    }
    let Some(chosen) = chosen else {
        return Err(CasError::NoState { path: path.into(), tried: incomplete.len() });
    };
    let newest = sound.iter().map(|slot| slot.commit).max();
    // One that cannot be read keeps the store from being opened, even if the other is the newest.
    let least = chosen.manifest.commit + u64::from(is_unreadable);
    if let Some(commit) = newest.filter(|commit| *commit >= least)
        && !options.force
    {
        return Err(CasError::RootsSound { path: path.into(), commit });
    }
    let (journal, relation, released) = relation(&files, options, &chosen.manifest, &sound);
    let slot = chosen.slot(journal, released);
    let slot = slot.ok_or_else(|| CasError::NoState { path: path.into(), tried: 1 })?;
    if !options.dry_run {
        write(path, &files, &slot)?;
    }
    let Candidate { manifest, .. } = chosen;
    Ok(RootsRepair {
        store: manifest.store,
        commit: manifest.commit,
        volumes: manifest.volumes.iter().map(|volume| manifest.volume_info(volume)).collect(),
        snapshots: manifest.snapshots.len(),
        incomplete,
        sound: sound.iter().map(|slot| slot.commit).collect(),
        journal: relation,
        written: !options.dry_run,
    })
}

/// The slots that are sound, and whether there is one that the disk does not hand out.
fn sound_slots(path: &Path, roots: &std::fs::File) -> Result<(Vec<RootSlot>, bool), CasError> {
    let (mut sound, mut is_unreadable) = (Vec::new(), false);
    for state in examine_roots(roots) {
        match state {
            SlotState::Sound(slot) => sound.push(slot),
            SlotState::Version(found) => {
                let source = super::RootsError::Version { found };
                return Err(CasError::Roots { path: path.into(), source });
            }
            SlotState::Unreadable => is_unreadable = true,
            SlotState::Empty | SlotState::Damaged => {}
        }
    }
    Ok((sound, is_unreadable))
}

/// Every manifest that is in a pack, the newest first.
fn candidates(path: &Path, blobs: &FileBlobStore) -> Result<Vec<Candidate>, CasError> {
    let mut infos = Vec::new();
    blobs.list(&BlobPrefix::ALL, &mut |info| {
        infos.push(info);
        ControlFlow::Continue(())
    })?;
    let mut candidates: Vec<Candidate> = Vec::new();
    for info in infos {
        for frame in manifest_frames(blobs, &info) {
            let at = FrameRef { pack: info.id, place: frame.place, id: frame.id };
            let Ok(octets) = read_frame(blobs, &at, FrameKind::Manifest) else { continue };
            let Ok(manifest) = Manifest::parse(&octets) else { continue };
            candidates.push(Candidate { manifest, at, info });
        }
    }
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.rank()));
    let store = candidates.first().map(|newest| newest.manifest.store);
    match candidates.iter().find(|other| Some(other.manifest.store) != store) {
        Some(other) => Err(CasError::Roots {
            path: path.into(),
            source: super::RootsError::Stores {
                newer: store.unwrap_or(other.manifest.store),
                older: other.manifest.store,
            },
        }),
        None => Ok(candidates),
    }
}

/// The frames of a pack that say that they are manifests.
fn manifest_frames(blobs: &FileBlobStore, info: &BlobInfo) -> Vec<DirectoryEntry> {
    let mut header = [0; PACK_HEADER];
    let kind = match blobs.get_range(info.id, 0, &mut header) {
        Ok(()) => parse_header(&header).map(|header| header.kind),
        Err(_) => return Vec::new(),
    };
    // A damaged header says nothing.
    if kind == Ok(PackKind::Data) {
        return Vec::new();
    }
    let mut frames =
        read_entries(blobs, info.id, info.len).unwrap_or_else(|_| searched(blobs, info));
    frames.retain(|frame| frame.kind == FrameKind::Manifest);
    frames
}

/// The frames that are found in a pack whose directory is damaged.
fn searched(blobs: &FileBlobStore, info: &BlobInfo) -> Vec<DirectoryEntry> {
    let len = usize::try_from(info.len).unwrap_or(usize::MAX);
    let mut octets = vec![0; len.min(BLOB_MAX)];
    if blobs.get_range(info.id, 0, &mut octets).is_err() {
        return Vec::new();
    }
    let sound = |frame: &DirectoryEntry| {
        let octets = frame.place.of(&octets);
        octets.is_some_and(|octets| open_frame(octets, frame.kind, frame.id).is_ok())
    };
    scan_frames(&octets).filter(sound).collect()
}

/// The name that the journal has, what it tells of a state, and what it may have given up with that.
fn relation(
    files: &MendedFiles,
    options: &RepairRootsOptions,
    manifest: &Manifest,
    sound: &[RootSlot],
) -> (JournalId, JournalRelation, Sequence) {
    let named = sound.first().map_or(JournalId([0; 16]), |slot| slot.journal);
    let unreadable = |why| (named, JournalRelation::Unreadable(why), Sequence(0));
    let journal = match files.examine_journal(options.journal.as_deref()) {
        Ok(journal) => journal,
        Err(error) => return unreadable(chain(&error)),
    };
    let scan = match Scan::of(&journal) {
        Ok(scan) => scan,
        Err(error) => return unreadable(chain(&error)),
    };
    let mut first: BTreeMap<VolumeNumber, u64> = BTreeMap::new();
    let read = scan.entries(&journal, |_, entry| {
        if let Some(entry) = ArchiveEntry::parse(entry) {
            let number = first.entry(entry.volume()).or_insert(entry.number());
            *number = (*number).min(entry.number());
        }
        true
    });
    if let Err(error) = read {
        return unreadable(chain(&error));
    }
    let through: HashMap<_, _> =
        manifest.volumes.iter().map(|volume| (volume.number, volume.through)).collect();
    let gap = first.iter().any(|(number, first)| match through.get(number) {
        Some(through) => *first > through + 1,
        None => number.0 >= manifest.next_volume,
    });
    // What it has given up is in the commit that it is marked with.
    let (mark, commit) = (scan.mark(), manifest.commit);
    let gap = gap || mark > commit;
    let follows = scan.released() == Sequence(0)
        || (1..=commit).contains(&mark)
        || !through.is_empty() && through.keys().all(|number| first.contains_key(number));
    match (gap, follows) {
        (true, _) => (scan.id(), JournalRelation::Gap, Sequence(0)),
        (false, true) => (scan.id(), JournalRelation::Follows, scan.released()),
        (false, false) => (scan.id(), JournalRelation::Unknown, Sequence(0)),
    }
}

/// Writes the slot. An index that may be of another state goes.
fn write(path: &Path, files: &MendedFiles, slot: &RootSlot) -> Result<(), CasError> {
    if files.index.is_dir() {
        let failed = |source| CasError::Io { op: "open", path: files.index.clone(), source };
        let runs = FileRuns::open(&files.index).map_err(failed)?;
        Index::create(Runs::File(runs), slot.store)
            .map_err(|error| CasError::Unreadable { path: path.into(), why: Why::from(error).0 })?;
    }
    files.write_roots(slot)
}
