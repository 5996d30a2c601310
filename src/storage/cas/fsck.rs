//! Reading a store through: whether all of it is there, and is what was written.
//!
//! Every pack is read and each of its frames held against its name; root slots, manifest, lists of
//! packs, index and journal are looked at; then every tree is gone through, so that damage is told as
//! the sectors that it costs.
//!
//! # Invariants
//! * Nothing is written: what a crash has left to be done is not done either.
//! * What is told as lost is what cannot be had when the index is right. Damage of which nothing is
//!   known any more, as of a writer that was wrong, is not found.
//!
//! Memory: a pack at a time; names of nodes; what the index does not cover, as when the store is opened.
//! If the index is missing or wrong, a place for each frame, some 80 bytes.

mod packs;
mod report;
mod trees;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use self::packs::places_of;
pub(super) use self::packs::{PackCheck, PackStates, frames_of};
pub use self::report::{
    Finding, FsckCounts, FsckPhase, FsckProgress, FsckReport, LostRange, PackPart, Severity,
};
use self::trees::{Frames, Places, TreeCheck};
use super::ContentId;
use super::entry::ArchiveEntry;
use super::error::{CasError, chain};
use super::frame::{FRAME_HEADER, FrameHeader};
use super::index::{FileRuns, Index, Location, Opened};
use super::manifest::{Manifest, PackEntry};
use super::pack::DirectoryEntry;
use super::reader::PackTable;
use super::recover::{Found, read_state};
use super::root::{RootSlot, SlotState, examine_roots};
use super::runs::Runs;
use super::store::files::{ExaminedFiles, examine_files};
use crate::blob::{BlobPrefix, BlobStore};
use crate::storage::journal::{JournalError, Medium, Scan};

/// How a store is to be read through.
#[derive(Debug, Clone, Default)]
pub struct FsckOptions {
    /// The journal. `None`: in the store.
    pub journal: Option<PathBuf>,
}

/// Who is told how far it has come.
pub(super) type Progress<'a> = &'a mut dyn FnMut(FsckProgress);

/// What a store is kept in that is read through.
pub(super) struct ExaminedMedia<'a, R, J> {
    pub(super) blobs: &'a dyn BlobStore,
    /// `None` when they are not there.
    pub(super) roots: Option<&'a R>,
    pub(super) journal: Result<J, JournalError>,
    /// The same.
    pub(super) index: Option<Runs>,
}

/// Reads through a store that nobody has open.
pub(super) fn fsck(
    path: &Path,
    options: &FsckOptions,
    progress: Progress<'_>,
) -> Result<FsckReport, CasError> {
    let ExaminedFiles { blobs, roots, journal, index } =
        examine_files(path, options.journal.as_deref())?;
    let open = |index: PathBuf| match FileRuns::open(&index) {
        Ok(runs) => Ok(Runs::File(runs)),
        Err(source) => Err(CasError::Io { op: "open", path: index, source }),
    };
    let index = index.map(open).transpose()?;
    let media = ExaminedMedia { blobs: &blobs, roots: roots.as_ref(), journal, index };
    examine(path, media, progress)
}

/// The same, wherever its parts are.
pub(super) fn examine(
    path: &Path,
    media: ExaminedMedia<'_, impl Medium, impl Medium>,
    progress: Progress<'_>,
) -> Result<FsckReport, CasError> {
    let ExaminedMedia { blobs, roots, journal, index } = media;
    let mut check = Check::new(path, progress);
    let slots = match roots {
        Some(roots) => check.slots(roots)?,
        None => Vec::new(),
    };
    let Some(found) = check.state(blobs, &slots)? else {
        check.unlisted(blobs, &PackTable::default())?;
        return Ok(check.report);
    };
    check.journal(journal, &found.slot)?;
    let index = check.open_index(index, &found.manifest);
    check.unlisted(blobs, &found.packs)?;
    check.all(blobs, &found.manifest, &found.packs, index.as_ref(), false);
    Ok(check.report)
}

/// Reads through what an open store has made durable: its packs, its index and the trees of its last
/// commit.
pub(super) fn scrub(
    path: &Path,
    blobs: &dyn BlobStore,
    manifest: &Manifest,
    packs: &PackTable,
    index: &Index<Runs>,
    progress: Progress<'_>,
) -> FsckReport {
    let mut check = Check::new(path, progress);
    check.report.store = Some(manifest.store);
    check.report.commit = Some(manifest.commit);
    check.all(blobs, manifest, packs, Some(index), true);
    check.report
}

struct Check<'p> {
    report: FsckReport,
    progress: Progress<'p>,
}

/// How the index compares with the directories of packs.
#[derive(Debug, Default)]
struct IndexState {
    /// Entries that are as they should be.
    right: u64,
    missing: u64,
    wrong: u64,
    /// What was met of damage.
    damaged: Option<String>,
}

impl<'p> Check<'p> {
    fn new(path: &Path, progress: Progress<'p>) -> Self {
        let report = FsckReport {
            path: path.into(),
            store: None,
            commit: None,
            counts: FsckCounts::default(),
            findings: Vec::new(),
            lost: Vec::new(),
        };
        Self { report, progress }
    }

    fn find(&mut self, finding: Finding) {
        self.report.findings.push(finding);
    }

    /// Looks at both root slots; the sound ones, the newest first.
    fn slots(&mut self, roots: &impl Medium) -> Result<Vec<RootSlot>, CasError> {
        let path = || self.report.path.clone();
        let mut sound = Vec::new();
        let mut others = Vec::new();
        for (slot, state) in (0..).zip(examine_roots(roots)) {
            match state {
                SlotState::Sound(root) => sound.push(root),
                SlotState::Empty => others.push(Finding::RootSlotEmpty { slot }),
                SlotState::Damaged | SlotState::Unreadable => {
                    others.push(Finding::RootSlot { slot });
                }
                SlotState::Version(found) => {
                    let source = super::RootsError::Version { found };
                    return Err(CasError::Roots { path: path(), source });
                }
            }
        }
        sound.sort_unstable_by_key(|root| std::cmp::Reverse(root.commit));
        if let [newer, older] = sound[..]
            && newer.store != older.store
        {
            let source = super::RootsError::Stores { newer: newer.store, older: older.store };
            return Err(CasError::Roots { path: path(), source });
        }
        // The first commit has but one.
        let first = sound.first().is_some_and(|root| root.commit == 1);
        others.retain(|finding| !(first && matches!(finding, Finding::RootSlotEmpty { .. })));
        self.report.findings.extend(others);
        Ok(sound)
    }

    /// The state that the newest slot names or, if that cannot be read, the one before.
    fn state(
        &mut self,
        blobs: &dyn BlobStore,
        slots: &[RootSlot],
    ) -> Result<Option<Found>, CasError> {
        if slots.is_empty() {
            self.find(Finding::NoRoot);
        }
        self.report.store = slots.first().map(|slot| slot.store);
        for slot in slots {
            match read_state(&self.report.path, blobs, *slot) {
                Ok(found) => {
                    self.report.commit = Some(slot.commit);
                    return Ok(Some(found));
                }
                Err(CasError::Manifest { commit, why, .. }) => {
                    self.find(Finding::Manifest { commit, pack: slot.manifest.pack, why });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn journal(
        &mut self,
        journal: Result<impl Medium, JournalError>,
        slot: &RootSlot,
    ) -> Result<(), CasError> {
        let journal = match journal {
            Ok(journal) => journal,
            Err(JournalError::NotFound { path }) => {
                self.find(Finding::JournalMissing { path });
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let scan = match Scan::of(&journal) {
            Ok(scan) => scan,
            Err(error) => {
                self.find(Finding::JournalUnreadable { why: chain(&error) });
                return Ok(());
            }
        };
        if scan.id() != slot.journal && scan.id() != slot.next_journal() {
            self.find(Finding::JournalOther { found: scan.id(), wanted: slot.journal });
            return Ok(());
        }
        if scan.released() > slot.released || scan.mark() > slot.commit {
            self.find(Finding::RootLost { commit: slot.commit });
        }
        if scan.last() < slot.released {
            let (last, released) = (scan.last(), slot.released);
            self.find(Finding::JournalOlder { last, released });
        }
        if !scan.lost().is_empty() {
            self.find(Finding::JournalDamaged { lost: scan.lost().to_vec() });
        }
        let (mut unknown, mut counts) = (None, (0, 0));
        let read = scan.entries(&journal, |sequence, entry| match ArchiveEntry::parse(entry) {
            Some(ArchiveEntry::Write { data, .. }) => {
                counts = (counts.0 + 1, counts.1 + data.len() as u64);
                true
            }
            Some(ArchiveEntry::Zeros { .. }) => {
                counts.0 += 1;
                true
            }
            None => {
                unknown = Some(sequence.0);
                false
            }
        });
        self.report.counts.journal = counts;
        if let Some(sequence) = unknown {
            self.find(Finding::JournalEntry { sequence });
        }
        if let Err(error) = read {
            self.find(Finding::JournalUnreadable { why: chain(&error) });
        }
        Ok(())
    }

    /// Opens the index, if there is one that can be used.
    fn open_index(&mut self, runs: Option<Runs>, manifest: &Manifest) -> Option<Index<Runs>> {
        let unused = |why: &str| Finding::IndexUnused { why: why.into() };
        let Some(runs) = runs else {
            self.find(unused("it is not there"));
            return None;
        };
        let Opened { index, unusable } = match Index::open(runs, manifest.store) {
            Ok(opened) => opened,
            Err(error) => {
                self.find(Finding::IndexDamaged { why: chain(&error) });
                return None;
            }
        };
        for error in unusable {
            self.find(Finding::IndexUnused { why: chain(&error) });
        }
        if index.covered().is_some_and(|covered| covered >= manifest.next_pack) {
            self.find(unused("it is of a later state"));
            return None;
        }
        Some(index)
    }

    /// Blobs that no list names. They are told one by one only if it is sure that a crash has left them.
    fn unlisted(&mut self, blobs: &dyn BlobStore, packs: &PackTable) -> Result<(), CasError> {
        let listed: std::collections::HashSet<_> = packs.iter().map(|pack| pack.id).collect();
        let report = &mut self.report;
        // A state that cannot be read may need them.
        let is_sure = !report.findings.iter().any(Finding::hides_a_state);
        blobs.list(&BlobPrefix::ALL, &mut |info| {
            if !listed.contains(&info.id) {
                report.counts.unlisted.0 += 1;
                report.counts.unlisted.1 += info.len;
                if is_sure {
                    report.findings.push(Finding::Unlisted { blob: info.id, bytes: info.len });
                }
            }
            ControlFlow::Continue(())
        })?;
        Ok(())
    }

    /// Packs, index and trees. The index of an open store has everything that there is.
    fn all(
        &mut self,
        blobs: &dyn BlobStore,
        manifest: &Manifest,
        packs: &PackTable,
        index: Option<&Index<Runs>>,
        is_open: bool,
    ) {
        let mut states = PackStates::default();
        let mut compared = IndexState::default();
        let covered = index.and_then(Index::covered);
        let check = PackCheck { blobs, store: manifest.store, block_bytes: manifest.block_bytes };
        let of_bytes = packs.iter().map(|pack| u64::from(pack.bytes)).sum();
        let of = packs.iter().count() as u64;
        for (done, pack) in (1..).zip(packs.iter()) {
            let read = check.check(&pack, &mut states, &mut self.report.findings);
            self.report.counts.packs += 1;
            self.report.counts.pack_bytes += read.bytes;
            self.report.counts.frames += read.frames.len() as u64;
            if let Some(index) = index {
                if is_open || covered.is_some_and(|covered| pack.number <= covered) {
                    // An index that was made anew lacks what is damaged.
                    let found = read.frames.iter().map(|frame| located(&pack, frame));
                    let found = found.map(|(id, at)| (id, at, states.has(id, at)));
                    compare(index, blobs, packs, found, &mut compared);
                } else {
                    index.insert_many(read.frames.iter().map(|frame| located(&pack, frame)));
                }
            }
            let bytes = self.report.counts.pack_bytes;
            (self.progress)(FsckProgress { phase: FsckPhase::Packs, done, of, bytes, of_bytes });
        }
        let is_right = index.is_some_and(|index| {
            let run = IndexRun { blobs, packs, states: &states, is_open };
            self.index(index, &run, &mut compared)
        });
        let places = match index {
            Some(index) if is_right => Places::Index(index),
            _ => Places::Map(places_of(blobs, packs, &states)),
        };
        self.trees(Frames { blobs, packs, states: &states, places }, manifest);
    }

    /// Looks at all entries of the index; whether it is as the packs have it.
    fn index(&mut self, index: &Index<Runs>, run: &IndexRun<'_>, state: &mut IndexState) -> bool {
        let of: u64 = index.runs().iter().map(|run| run.entries).sum();
        self.report.counts.index_entries = of;
        // If each has been found by a directory, there is none that is not in one.
        let is_known = state.right == of && !run.is_open;
        let mut done = 0;
        let mut wrong = 0;
        let damaged = index.for_each(&mut |id, at| {
            done += 1;
            if done % 4096 == 0 {
                let (bytes, of_bytes) = (0, 0);
                let phase = FsckPhase::Index;
                (self.progress)(FsckProgress { phase, done, of, bytes, of_bytes });
            }
            if !is_known && !run.is_right(id, at) {
                wrong += 1;
            }
        });
        // Filters as well.
        let damaged = if damaged.is_empty() { index.verify() } else { damaged };
        for error in &damaged {
            self.find(Finding::IndexDamaged { why: chain(error) });
        }
        // It may have been mended since.
        if let Some(why) = state.damaged.clone().filter(|_| damaged.is_empty()) {
            self.find(Finding::IndexDamaged { why });
        }
        state.wrong = state.wrong.max(wrong);
        let IndexState { missing, wrong, .. } = *state;
        let is_damaged = state.damaged.is_some() || !damaged.is_empty();
        if (missing, wrong) != (0, 0) && !is_damaged {
            self.find(Finding::IndexWrong { missing, wrong });
        }
        (missing, wrong) == (0, 0) && !is_damaged
    }

    fn trees(&mut self, frames: Frames<'_>, manifest: &Manifest) {
        let counts = &mut self.report.counts;
        counts.volumes = manifest.volumes.len() as u64;
        counts.snapshots = manifest.snapshots.len() as u64;
        let of = counts.volumes + counts.snapshots;
        let mut trees = TreeCheck::new(frames, manifest.block_bytes);
        let mut done = 0;
        let progress = &mut self.progress;
        let lost = trees.run(manifest, &mut || {
            done += 1;
            let (phase, bytes, of_bytes) = (FsckPhase::Trees, 0, 0);
            progress(FsckProgress { phase, done, of, bytes, of_bytes });
        });
        counts.nodes = trees.nodes();
        self.report.lost = lost;
    }
}

fn located(pack: &PackEntry, frame: &DirectoryEntry) -> (ContentId, Location) {
    (frame.id, Location { pack: pack.number, place: frame.place })
}

/// Looks for frames in the index; each comes with whether it is sound.
fn compare(
    index: &Index<Runs>,
    blobs: &dyn BlobStore,
    packs: &PackTable,
    frames: impl Iterator<Item = (ContentId, Location, bool)>,
    state: &mut IndexState,
) {
    for (id, at, is_sound) in frames {
        match index.get(id) {
            Ok(Some(found)) if found == at => state.right += 1,
            // Of several copies it names one.
            Ok(Some(found)) if is_there(blobs, packs, id, found) != Some(false) => {}
            Ok(Some(_)) => state.wrong += 1,
            Ok(None) if is_sound => state.missing += 1,
            Ok(None) => {}
            Err(error) => _ = state.damaged.get_or_insert_with(|| chain(&error)),
        }
    }
}

/// Whether there is a frame of this name, as far as its header tells; `None` if that is damaged.
fn is_there(blobs: &dyn BlobStore, packs: &PackTable, id: ContentId, at: Location) -> Option<bool> {
    let Some(pack) = packs.get(at.pack) else { return Some(false) };
    let mut octets = [0; FRAME_HEADER];
    blobs.get_range(pack.id, at.place.offset.into(), &mut octets).ok()?;
    let header = FrameHeader::parse(&octets).ok()?;
    Some(header.id == id && header.frame_len() == at.place.len as usize)
}

/// What entries of the index are held against.
struct IndexRun<'a> {
    blobs: &'a dyn BlobStore,
    packs: &'a PackTable,
    states: &'a PackStates,
    is_open: bool,
}

impl IndexRun<'_> {
    /// Whether an entry is right. One about a pack that is damaged gets the benefit of the doubt.
    fn is_right(&self, id: ContentId, at: Location) -> bool {
        match is_there(self.blobs, self.packs, id, at) {
            Some(is_right) => is_right,
            None => !self.states.has(id, at) || !self.states.has_directory(at.pack),
        }
    }
}
