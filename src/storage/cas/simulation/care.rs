//! What its keeper does with a store that nobody has open: it is read through, and its index is mended.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::Path;

use super::super::error::chain;
use super::super::fsck::{ExaminedMedia, Finding, FsckReport, Severity, examine, scrub};
use super::super::recover::{find, read_entries, recover};
use super::super::repair::make_index;
use super::super::runs::Runs;
use super::{FOUND, Machine};
use crate::blob::{BlobInfo, BlobPrefix, BlobStore as _};

/// Where errors say that the store is.
const PATH: &str = "simulated";

/// Sectors of a volume, or of a snapshot of one, that could not be read.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) volume: String,
    pub(super) snapshot: Option<String>,
    pub(super) sectors: Vec<u64>,
}

impl Machine {
    /// Reads the store through, as `store fsck` does.
    pub(super) fn read_through(&self) -> FsckReport {
        let media = ExaminedMedia {
            blobs: &*self.media.blobs,
            roots: Some(&self.media.roots),
            journal: Ok(self.media.journal.clone()),
            index: Some(Runs::Memory(self.media.runs.clone())),
        };
        let read = examine(Path::new(PATH), media, &mut |_| ());
        read.unwrap_or_else(|error| panic!("it cannot be read through: {}", chain(&error)))
    }

    /// Whatever moment the power was cut, nothing is wrong with what is stored.
    pub(super) fn examine(&mut self) {
        let report = self.read_through();
        for finding in &report.findings {
            let expected = match finding {
                // It was being written.
                Finding::RootSlot { .. } => true,
                Finding::IndexDamaged { .. } => self.index_is_rotten,
                _ => finding.severity() == Severity::Note,
            };
            assert!(expected, "read through: {finding}");
        }
        assert_eq!(report.lost, [], "read through");
        self.counts.examined += 1;
    }

    /// Nothing is stored twice. What a crash has left behind does not count: no list names it.
    pub(super) fn seek_copies(&mut self) {
        // What could not be found was perhaps stored again.
        if self.was_crippled || self.crippled || self.index_is_rotten {
            return;
        }
        let packs = self.store().shared.reader.packs.read().unwrap().clone();
        let mut found = HashMap::new();
        for pack in packs.iter() {
            let entries = read_entries(&*self.media.blobs, pack.id, pack.bytes.into());
            for entry in entries.expect("a pack that is listed") {
                let other = found.insert((entry.kind, entry.id), pack.number);
                assert_eq!(
                    other, None,
                    "{:?} {} is in pack {}, too",
                    entry.kind, entry.id, pack.number
                );
            }
        }
        self.counts.frames += found.len() as u64;
    }

    /// Some blobs are damaged: what was in them is answered with errors, and everything else is what it
    /// was. The store goes on like that; when the blobs are put back nothing is missing.
    pub(super) fn rot(&mut self) {
        self.crash(false);
        let blobs = &self.media.blobs.inner;
        let mut ids = Vec::new();
        let mut list = |info: BlobInfo| {
            ids.push(info.id);
            ControlFlow::Continue(())
        };
        blobs.list(&BlobPrefix::ALL, &mut list).unwrap();
        for _ in 0..=self.chance.below(3) {
            let place = usize::try_from(self.chance.below(ids.len() as u64)).unwrap();
            blobs.damage(ids[place]);
        }
        self.rotten = true;
        for _ in 0..=self.chance.below(3) {
            if !self.live_on() {
                break;
            }
        }
        self.rotten = false;
        self.media.blobs.inner.put_back();
        self.crash(false);
        self.open();
        let unread = self.check(false);
        let whole = unread.iter().all(|part| part.sectors.is_empty());
        assert!(whole || self.crippled, "put back, and not to be read: {unread:?}");
    }

    /// Opens a store with damaged blobs, and uses it until it crashes; `false` if that cannot be.
    fn live_on(&mut self) -> bool {
        self.armed = true;
        let report = self.read_through();
        let opened = recover(self.media.handed_out(), &self.options, self.now);
        if let Some(manifest) = FOUND.take() {
            self.resolve(&manifest);
        }
        // Without its manifest there is no store.
        let Ok(store) = opened else { return false };
        let nothing_written = store.recovered.writes == 0;
        self.take_over(store);
        let unread = self.check(false);
        if self.index_is_rotten {
            return false;
        }
        agree(&unread, &report, nothing_written);
        self.counts.lost += unread.iter().map(|part| part.sectors.len() as u64).sum::<u64>();
        self.scrub();
        for _ in 0..self.chance.below(600) {
            self.step();
        }
        self.settle();
        let power_cut = self.chance.one_in(2);
        self.crash(power_cut);
        true
    }

    /// Reads through a store that is open, which then knows what it must not rely on.
    fn scrub(&mut self) {
        let store = self.store.as_ref().unwrap();
        let reader = &store.shared.reader;
        let packs = reader.packs.read().unwrap().clone();
        let (blobs, manifest) = (&*reader.blobs, store.committer.manifest());
        let report = scrub(Path::new(PATH), blobs, manifest, &packs, &reader.index, &mut |_| ());
        reader.doubt(&report);
    }

    /// Makes the index anew, as `store repair --index` does.
    pub(super) fn mend_index(&mut self) {
        let (path, blobs) = (Path::new(PATH), &*self.media.blobs);
        let mended = find(path, blobs, &self.media.roots).and_then(|found| {
            let runs = Runs::Memory(self.media.runs.clone());
            make_index(path, blobs, &found, runs, &mut |_| ())
        });
        let mended = mended.unwrap_or_else(|error| panic!("not mended: {}", chain(&error)));
        assert_eq!((mended.searched, mended.unusable), (Vec::new(), Vec::new()));
        self.examine();
        self.counts.mended += 1;
    }
}

/// Holds what could not be read against what reading the store through has found: no more is lost than
/// that, and no less if nothing was written since.
pub(super) fn agree(unread: &[Unread], report: &FsckReport, nothing_written: bool) {
    for Unread { volume, snapshot, sectors } in unread {
        let of_it = report.lost.iter().filter(|lost| {
            lost.volume == *volume && lost.snapshot.as_deref() == snapshot.as_deref()
        });
        let lost: BTreeSet<u64> =
            of_it.flat_map(|lost| lost.lba.0..lost.lba.0 + lost.sectors.0).collect();
        let unread: BTreeSet<u64> = sectors.iter().copied().collect();
        let name = || format!("{volume}@{}", snapshot.as_deref().unwrap_or(""));
        let untold: Vec<_> = unread.difference(&lost).collect();
        assert!(untold.is_empty(), "{}: {untold:?} cannot be read, and fsck finds nothing", name());
        let told: Vec<_> = lost.difference(&unread).collect();
        assert!(told.is_empty() || !nothing_written, "{}: {told:?} are not lost", name());
    }
}
