//! Every structure of a store, damaged: what `fsck` finds, whether the store opens, and that of what is
//! damaged nothing but an error is ever read, and of all else what was written.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use aoe_server::storage::Fault;
use aoe_server::storage::cas::{
    CasError, CasStore, CasVolume, FsckOptions, FsckReport, JournalRelation, Recovered,
    RepairRootsOptions, SnapshotOptions, StoreOptions, VolumeOptions,
};
use aoe_server::storage::journal::Geometry;
use aoe_server::units::Sectors;
use tempfile::TempDir;

use crate::disk::{commit_and_close, read, stamp, while_driven, write};
use crate::octets::{
    FOOTER, FRAME_HEADER, Frame, NODE, PACK_LIST, Pack, copy, flip, newest_root, packs, roots_of,
    u64_at,
};

/// Sectors of the volume: 384 blocks of 4 KiB, in three leaves and a node on top.
pub(crate) const SECTORS: u64 = 3072;
/// Those that were written again after the snapshot.
const AGAIN: std::ops::Range<u64> = 64..256;
/// Those that never were.
const ZEROS: std::ops::Range<u64> = 1000..1200;

fn options() -> StoreOptions {
    StoreOptions {
        block_bytes: Some(4096),
        // Room enough for no commit to be made for lack of it.
        journal_bytes: 6 * Geometry::LEAST_BYTES,
        overlay_bytes: 16 << 20,
        cache_bytes: 8 << 20,
        // Only when it is asked for.
        commit_interval: Duration::from_hours(1),
        ..StoreOptions::default()
    }
}

/// What a sector of the volume was at the time of the snapshot, or is since.
pub(crate) fn expected(lba: u64, is_now: bool) -> [u8; 512] {
    match lba {
        _ if ZEROS.contains(&lba) => [0; 512],
        _ if is_now && AGAIN.contains(&lba) => stamp(lba, 2),
        _ => stamp(lba, 1),
    }
}

/// A store with a volume `e1.0` and a snapshot `one`, closed in order.
fn sound() -> &'static Path {
    static SOUND: OnceLock<TempDir> = OnceLock::new();
    let made = || {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = CasStore::open(directory.path(), &options()).unwrap();
        let size = VolumeOptions { size: Some(Sectors(SECTORS)), ..VolumeOptions::default() };
        let mut disk = store.attach("e1.0", size).unwrap();
        fill(&mut disk, 0..SECTORS, false);
        while_driven(&mut disk, || store.create_snapshot("e1.0", "one")).unwrap();
        fill(&mut disk, AGAIN, true);
        commit_and_close(&store, disk);
        directory
    };
    SOUND.get_or_init(made).path()
}

fn fill(disk: &mut CasVolume, sectors: std::ops::Range<u64>, is_now: bool) {
    for lba in sectors.step_by(64) {
        let octets: Vec<u8> = (lba..lba + 64).flat_map(|lba| expected(lba, is_now)).collect();
        if octets.iter().any(|octet| *octet != 0) {
            write(disk, lba, &octets).unwrap();
        }
    }
}

/// A copy of the store, to be damaged.
pub(crate) struct Damaged(TempDir);

impl Damaged {
    pub(crate) fn new() -> Self {
        Self::of(sound())
    }

    fn of(store: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        copy(store, directory.path());
        Self(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn fsck(&self) -> FsckReport {
        let mut done = 0;
        let report = CasStore::fsck(self.path(), &FsckOptions::default(), &mut |_| done += 1);
        let report = report.unwrap();
        assert!(done > 0 || report.commit.is_none());
        report
    }

    /// What is found, in words; and that a second look finds the same.
    #[track_caller]
    pub(crate) fn finds(&self, codes: &[&str]) -> FsckReport {
        let report = self.fsck();
        let found: Vec<_> =
            report.findings.iter().map(aoe_server::storage::cas::Finding::code).collect();
        assert_eq!(found, codes, "{:#?}", report.findings);
        assert_eq!(report, self.fsck());
        report
    }

    pub(crate) fn open(&self) -> Result<CasStore, CasError> {
        self.open_and_recover().map(|(store, _)| store)
    }

    pub(crate) fn open_and_recover(&self) -> Result<(CasStore, Recovered), CasError> {
        CasStore::open(self.path(), &options())
    }

    /// A copy of it as it is now.
    pub(crate) fn copied(&self) -> Self {
        Self::of(self.path())
    }

    /// That what can be read is exactly what is not told as lost, and is what was written.
    pub(crate) fn reads_but_for_what_is_lost(&self, report: &FsckReport) {
        let store = self.open().unwrap();
        Self::reads_of(&store, report);
        let scrubbed = store.scrub(&mut |_| ()).unwrap();
        assert_eq!(scrubbed.lost, report.lost);
    }

    fn reads_of(store: &CasStore, report: &FsckReport) {
        let mut now = store.attach("e1.0", VolumeOptions::default()).unwrap();
        let mut one = store.attach_snapshot("e1.0", "one", SnapshotOptions::default()).unwrap();
        for (disk, snapshot) in [(&mut now, None), (&mut one, Some("one"))] {
            let lost: BTreeSet<u64> = report
                .lost
                .iter()
                .filter(|range| range.volume == "e1.0" && range.snapshot.as_deref() == snapshot)
                .flat_map(|range| range.lba.0..range.lba.0 + range.sectors.0)
                .collect();
            for lba in (0..SECTORS).step_by(8) {
                let octets = read(disk, lba, 8);
                if lost.contains(&lba) {
                    assert_eq!(octets, Err(Fault::Media), "sector {lba} of {snapshot:?}");
                    continue;
                }
                let wanted: Vec<u8> =
                    (lba..lba + 8).flat_map(|lba| expected(lba, snapshot.is_none())).collect();
                assert!(octets == Ok(wanted), "sector {lba} of {snapshot:?}");
            }
        }
    }

    fn packs(&self) -> Vec<Pack> {
        packs(self.path())
    }

    /// The pack with the blocks of the snapshot.
    pub(crate) fn data(&self) -> Pack {
        let data = self.packs().into_iter().filter(Pack::has_blocks);
        data.max_by_key(|pack| pack.frames.len()).unwrap()
    }

    /// The frames of a kind, in the order of their packs.
    pub(crate) fn frames(&self, kind: u8) -> Vec<Frame> {
        let frames = self.packs().into_iter().flat_map(|pack| pack.frames);
        frames.filter(|frame| frame.kind == kind).collect()
    }

    fn journal(&self) -> PathBuf {
        self.path().join("archive/journal")
    }

    fn index(&self) -> PathBuf {
        let mut runs = fs::read_dir(self.path().join("archive/index")).unwrap();
        runs.next().unwrap().unwrap().path()
    }
}

/// Ranges as text: the disk, the first sector and the one after the last, and what is lost.
pub(crate) fn lost(report: &FsckReport) -> Vec<String> {
    let range = |range: &aoe_server::storage::cas::LostRange| {
        let snapshot = range.snapshot.as_ref().map_or(String::new(), |name| format!("@{name}"));
        let end = range.lba.0 + range.sectors.0;
        format!("{}{snapshot} {}..{end} {:?}", range.volume, range.lba, range.kind)
    };
    report.lost.iter().map(range).collect()
}

#[test]
fn nothing_is_wrong_with_a_sound_store() {
    let store = Damaged::new();
    let report = store.finds(&[]);
    assert!(!report.is_damaged() && report.lost.is_empty());
    let counts = report.counts;
    assert_eq!((counts.volumes, counts.snapshots, counts.unlisted), (1, 1, (0, 0)));
    assert_eq!(counts.packs as usize, store.packs().len());
    let frames: usize = store.packs().iter().map(|pack| pack.frames.len()).sum();
    assert_eq!((counts.frames as usize, counts.index_entries as usize), (frames, frames));
    // Three leaves and a node for each of two states, of which two leaves are the same.
    assert_eq!(counts.nodes, 6);
    store.reads_but_for_what_is_lost(&report);
}

/// A write to a block that cannot be read used to make every commit fail.
#[test]
fn a_damaged_block_takes_writes_and_keeps_the_rest_as_errors() {
    let store = Damaged::new();
    let pack = store.data();
    let at = pack.frames[5].offset + FRAME_HEADER;
    flip(&pack.path, at);
    write_and_close(&store, &[42]);
    let report = store.finds(&["pack-content", "frame"]);
    let of_snapshot = "e1.0@one 40..48 Block";
    assert_eq!(lost(&report), ["e1.0 40..42 Block", "e1.0 43..48 Block", of_snapshot]);
    let sectors = |wanted: &dyn Fn(u64) -> Option<u64>| {
        let open = store.open().unwrap();
        let mut disk = open.attach("e1.0", VolumeOptions::default()).unwrap();
        for lba in 32..56 {
            let wanted = wanted(lba).map(|version| stamp(lba, version).to_vec());
            assert_eq!(read(&mut disk, lba, 1), wanted.ok_or(Fault::Media), "sector {lba}");
        }
        assert_eq!(read(&mut disk, 40, 8).is_ok(), wanted(40).is_some());
    };
    sectors(&|lba| match lba {
        42 => Some(7),
        40..48 => None,
        _ => Some(1),
    });
    // More of it, on top of what is there in part.
    write_and_close(&store, &[47, 42]);
    assert_eq!(lost(&store.fsck())[..2], ["e1.0 40..42 Block", "e1.0 43..47 Block"]);
    // Put back, the block is what it was, with what was written to it.
    flip(&pack.path, at);
    assert!(!store.finds(&[]).is_damaged());
    sectors(&|lba| Some(if lba == 42 || lba == 47 { 7 } else { 1 }));
    // Damaged again, and written as a whole: it needs nothing else any more.
    flip(&pack.path, at);
    write_and_close(&store, &[40, 41, 43, 44, 45, 46]);
    assert_eq!(lost(&store.fsck()), [of_snapshot]);
    sectors(&|lba| Some(if (40..48).contains(&lba) { 7 } else { 1 }));
}

/// 64 sectors.
fn from(first: u64) -> Vec<u64> {
    (first..first + 64).collect()
}

/// Writes some sectors, and closes the store in order: with two commits, not with one or two as it comes.
fn write_and_close(store: &Damaged, sectors: &[u64]) {
    let open = store.open().unwrap();
    let mut disk = open.attach("e1.0", VolumeOptions::default()).unwrap();
    for lba in sectors {
        write(&mut disk, *lba, &stamp(*lba, 7)).unwrap();
    }
    commit_and_close(&open, disk);
}

#[test]
fn nothing_is_changed_by_looking() {
    let store = Damaged::new();
    let octets = |store: &Damaged| {
        let journal = fs::read(store.journal()).unwrap();
        (journal, fs::read(roots_of(store.path())).unwrap(), fs::read(store.index()).unwrap())
    };
    let before = octets(&store);
    store.fsck();
    assert!(octets(&store) == before);
    // One who reads does not keep others from reading, and keeps out who writes.
    let open = store.open().unwrap();
    let refused = CasStore::fsck(store.path(), &FsckOptions::default(), &mut |_| ());
    assert!(matches!(refused, Err(CasError::Blob(aoe_server::blob::BlobError::InUse { .. }))));
    drop(open);
    for nothing in ["", "missing"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(nothing);
        let refused = CasStore::fsck(&path, &FsckOptions::default(), &mut |_| ());
        assert!(refused.is_err());
        assert!(!path.join("aoe-blobs").exists());
    }
}

#[test]
fn bit_flip_in_a_block() {
    for at in [FRAME_HEADER, 20] {
        let store = Damaged::new();
        // The block with sector 40, which both have; that of sector 80 is another one by now.
        let pack = store.data();
        flip(&pack.path, pack.frames[5].offset + at);
        flip(&pack.path, pack.frames[10].offset + at);
        let report = store.finds(&["pack-content", "frame", "frame"]);
        assert_eq!(
            lost(&report),
            ["e1.0 40..48 Block", "e1.0@one 40..48 Block", "e1.0@one 80..88 Block"]
        );
        let name = pack.path.file_name().unwrap().to_str().unwrap();
        assert!(report.lost.iter().all(|lost| lost.pack.unwrap().to_string() == name));
        store.reads_but_for_what_is_lost(&report);
    }
}

#[test]
fn bit_flip_in_what_tells_of_blocks() {
    let pack = Damaged::new().data();
    let parts = [
        (20, "pack-header"),
        (pack.directory_at + 50, "pack-directory"),
        (pack.bytes - FOOTER + 36, "pack-footer"),
    ];
    for (at, code) in parts {
        let store = Damaged::new();
        flip(&store.data().path, at);
        let report = store.finds(&["pack-content", code]);
        assert!(report.is_damaged() && report.lost.is_empty());
        store.reads_but_for_what_is_lost(&report);
        // The index is what has them. Without it they are searched for.
        fs::remove_dir_all(store.path().join("archive/index")).unwrap();
        let report = store.fsck();
        assert!(report.lost.is_empty());
        store.reads_but_for_what_is_lost(&report);
        let repair = CasStore::repair_index(store.path(), &mut |_| ()).unwrap();
        assert_eq!(repair.searched.len(), usize::from(code != "pack-header"));
        assert!(repair.unusable.is_empty());
        let report = store.finds(&["pack-content", code]);
        store.reads_but_for_what_is_lost(&report);
    }
}

#[test]
fn pack_cut_short() {
    let store = Damaged::new();
    let pack = store.data();
    let cut = &pack.frames[pack.frames.len() / 2];
    let file = File::options().write(true).open(&pack.path).unwrap();
    file.set_len(cut.offset + 100).unwrap();
    let report = store.finds(&["pack-length", "pack-footer"]);
    assert!(!report.lost.is_empty());
    // What comes before the cut is there.
    let early = |lost: &aoe_server::storage::cas::LostRange| lost.lba.0 < 64;
    assert!(!report.lost.iter().any(early));
    store.reads_but_for_what_is_lost(&report);
    // The same is lost when all that is left is what is found by searching.
    CasStore::repair_index(store.path(), &mut |_| ()).unwrap();
    let again = store.finds(&["pack-length", "pack-footer"]);
    let sectors = |report: &FsckReport| -> Vec<_> {
        report.lost.iter().map(|lost| (lost.snapshot.clone(), lost.lba, lost.sectors)).collect()
    };
    assert_eq!(sectors(&again), sectors(&report));
    store.reads_but_for_what_is_lost(&again);
}

#[test]
fn pack_missing() {
    let store = Damaged::new();
    let pack = store.data();
    let kept = fs::read(&pack.path).unwrap();
    fs::remove_file(&pack.path).unwrap();
    let report = store.finds(&["pack-missing"]);
    assert_eq!(
        lost(&report),
        [
            "e1.0 0..64 Block",
            "e1.0 256..1000 Block",
            "e1.0 1200..3072 Block",
            "e1.0@one 0..1000 Block",
            "e1.0@one 1200..3072 Block",
        ]
    );
    store.reads_but_for_what_is_lost(&report);
    // Back from where it was kept, all is well.
    fs::write(&pack.path, kept).unwrap();
    let report = store.finds(&[]);
    store.reads_but_for_what_is_lost(&report);
}

#[test]
fn bit_flip_in_a_node() {
    let nodes = Damaged::new().frames(NODE);
    let mut seen = BTreeSet::new();
    for node in nodes {
        let store = Damaged::new();
        let name = node.pack.strip_prefix(store_of(&node.pack)).unwrap().to_path_buf();
        flip(&store.path().join(name), node.offset + FRAME_HEADER + 30);
        let report = store.finds(&["pack-content", "frame"]);
        seen.insert(lost(&report));
        store.reads_but_for_what_is_lost(&report);
    }
    let all: BTreeSet<Vec<String>> = [
        vec!["e1.0 0..3072 Node"],
        vec!["e1.0@one 0..3072 Node"],
        vec!["e1.0 0..1024 Node"],
        vec!["e1.0@one 0..1024 Node"],
        vec!["e1.0 1024..2048 Node", "e1.0@one 1024..2048 Node"],
        vec!["e1.0 2048..3072 Node", "e1.0@one 2048..3072 Node"],
    ]
    .into_iter()
    .map(|ranges| ranges.into_iter().map(String::from).collect())
    .collect();
    assert_eq!(seen, all);
}

fn store_of(pack: &Path) -> &Path {
    pack.ancestors().nth(2).unwrap()
}

#[test]
fn bit_flip_in_the_manifest() {
    let store = Damaged::new();
    let root = newest_root(store.path());
    flip(&root.pack, root.offset + FRAME_HEADER + 60);
    assert!(
        matches!(store.open(), Err(CasError::Manifest { commit, .. }) if commit == root.commit)
    );
    let report = store.fsck();
    assert_eq!(report.findings[0].code(), "manifest");
    // What there was before is looked at instead.
    assert_eq!(report.commit, Some(root.commit - 1));
    assert!(report.is_damaged());
    let repaired = CasStore::repair_roots(store.path(), &RepairRootsOptions::default());
    assert!(matches!(repaired, Err(CasError::RootsSound { .. })));
    let back = RepairRootsOptions { force: true, ..RepairRootsOptions::default() };
    let repaired = CasStore::repair_roots(store.path(), &back).unwrap();
    assert_eq!((repaired.commit, repaired.written), (root.commit - 1, true));
    assert_eq!(repaired.journal, JournalRelation::Gap);
    assert!(matches!(store.open(), Err(CasError::RootLost { .. })));
}

#[test]
fn bit_flip_in_a_list_of_packs() {
    let store = Damaged::new();
    let list = store.frames(PACK_LIST).pop().unwrap();
    flip(&list.pack, list.offset + FRAME_HEADER + 20);
    assert!(matches!(store.open(), Err(CasError::Manifest { .. })));
    let report = store.fsck();
    assert_eq!(report.findings[0].code(), "manifest");
    assert!(report.findings[0].to_string().contains("its list in pack"));
    // Packs that only the damaged state has belong to something.
    assert!(report.counts.unlisted.0 > 0);
    assert!(report.findings.iter().all(|finding| finding.code() != "unlisted"));
}

#[test]
fn older_root_slot_damaged() {
    let store = Damaged::new();
    let root = newest_root(store.path());
    flip(&roots_of(store.path()), 4096 - root.at + 60);
    let report = store.finds(&["root-slot"]);
    assert!(report.is_damaged() && report.lost.is_empty());
    store.reads_but_for_what_is_lost(&report);
}

#[test]
fn newest_root_slot_lost_after_the_journal_was_trimmed() {
    let store = Damaged::new();
    let root = newest_root(store.path());
    flip(&roots_of(store.path()), root.at + 60);
    let older = root.commit - 1;
    assert!(matches!(store.open(), Err(CasError::RootLost { commit, .. }) if commit == older));
    let report = store.fsck();
    let codes: Vec<_> =
        report.findings.iter().map(aoe_server::storage::cas::Finding::code).collect();
    assert_eq!(codes[..2], ["root-slot", "root-lost"]);
    assert_eq!(report.commit, Some(older));
    // Its manifest is there, so that nothing has to be given up.
    let repaired = CasStore::repair_roots(store.path(), &RepairRootsOptions::default()).unwrap();
    assert_eq!((repaired.commit, repaired.sound), (root.commit, vec![older]));
    let options = StoreOptions { accept_loss: true, ..options() };
    let (open, _) = CasStore::open(store.path(), &options).unwrap();
    let report = open.scrub(&mut |_| ()).unwrap();
    assert!(report.lost.is_empty());
    Damaged::reads_of(&open, &report);
}

#[test]
fn both_root_slots_torn() {
    let store = Damaged::new();
    let root = newest_root(store.path());
    for at in [60, 4096 + 60] {
        flip(&roots_of(store.path()), at);
    }
    assert!(matches!(store.open(), Err(CasError::Roots { .. })));
    let report = store.fsck();
    let codes: Vec<_> =
        report.findings.iter().map(aoe_server::storage::cas::Finding::code).collect();
    assert_eq!(codes[..3], ["root-slot", "root-slot", "no-root"]);
    assert_eq!((report.commit, report.store), (None, None));
    // Which blobs belong to something nothing tells.
    assert_eq!(codes.len(), 3);
    assert_eq!(report.counts.unlisted.0, store.packs().len() as u64);

    let look = RepairRootsOptions { dry_run: true, ..RepairRootsOptions::default() };
    let prospect = CasStore::repair_roots(store.path(), &look).unwrap();
    assert!(!prospect.written && matches!(store.open(), Err(CasError::Roots { .. })));
    let repaired = CasStore::repair_roots(store.path(), &RepairRootsOptions::default()).unwrap();
    assert_eq!((repaired.commit, repaired.snapshots, repaired.sound), (root.commit, 1, vec![]));
    assert_eq!(repaired.volumes[0].name, "e1.0");
    assert!(repaired.incomplete.is_empty());
    // The journal was emptied when the store was closed; that it was the last commit its mark tells.
    assert_eq!(repaired.journal, JournalRelation::Follows);
    let report = store.fsck();
    assert!(!report.is_damaged(), "{:#?}", report.findings);
    store.reads_but_for_what_is_lost(&report);
}

#[test]
fn roots_go_back_to_the_newest_state_that_is_whole() {
    let store = Damaged::new();
    let root = newest_root(store.path());
    fs::remove_file(roots_of(store.path())).unwrap();
    assert!(matches!(store.open(), Err(CasError::NoRoots { .. })));
    let codes = store.fsck().findings;
    assert_eq!(codes[0].code(), "no-root");
    flip(&root.pack, root.offset + FRAME_HEADER + 60);
    let repaired = CasStore::repair_roots(store.path(), &RepairRootsOptions::default()).unwrap();
    assert!(repaired.commit < root.commit);
    // Without its packs it is no state.
    for pack in store.packs().iter().filter(|pack| pack.has_blocks()) {
        fs::remove_file(&pack.path).unwrap();
    }
    fs::remove_file(roots_of(store.path())).unwrap();
    match CasStore::repair_roots(store.path(), &RepairRootsOptions::default()) {
        // The first ones had no blocks yet.
        Ok(repaired) => assert!(!repaired.incomplete.is_empty()),
        Err(error) => assert!(matches!(error, CasError::NoState { .. })),
    }
}

/// What a crash leaves while there is something in the journal.
fn crashed() -> Damaged {
    let store = Damaged::new();
    let open = store.open().unwrap();
    let mut disk = open.attach("e1.0", VolumeOptions::default()).unwrap();
    for lba in 0..64 {
        write(&mut disk, lba, &stamp(lba, 7)).unwrap();
    }
    // As it is on the disk now.
    Damaged::of(store.path())
}

#[test]
fn journal_with_writes_is_sound() {
    let store = crashed();
    let report = store.finds(&[]);
    assert_eq!(report.counts.journal, (64, 64 * 512));
    let open = store.open().unwrap();
    let mut disk = open.attach("e1.0", VolumeOptions::default()).unwrap();
    assert_eq!(read(&mut disk, 63, 1).unwrap(), stamp(63, 7));
}

#[test]
fn roots_are_mended_without_loss_when_the_journal_goes_on() {
    let store = crashed();
    let commit = newest_root(store.path()).commit;
    fs::remove_file(roots_of(store.path())).unwrap();
    let repaired = CasStore::repair_roots(store.path(), &RepairRootsOptions::default()).unwrap();
    assert_eq!((repaired.commit, repaired.journal), (commit, JournalRelation::Follows));
    let open = store.open().unwrap();
    let mut disk = open.attach("e1.0", VolumeOptions::default()).unwrap();
    assert_eq!(read(&mut disk, 63, 1).unwrap(), stamp(63, 7));
}

#[test]
fn bit_flip_in_the_journal() {
    let store = crashed();
    let octets = fs::read(store.journal()).unwrap();
    let mut records: Vec<(u64, usize)> = (8192..octets.len())
        .step_by(4096)
        .filter(|at| octets[*at..at + 4] == *b"AoEj")
        .map(|at| (u64_at(&octets, at + 8), at))
        .collect();
    // One in the middle of the 64 that came last.
    records.sort_unstable();
    let (_, at) = records[records.len() - 32];
    flip(&store.journal(), at as u64 + 200);
    assert!(matches!(store.open(), Err(CasError::JournalDamaged { .. })));
    let report = store.finds(&["journal-damaged"]);
    assert!(report.is_damaged());
    let options = StoreOptions { accept_loss: true, ..options() };
    CasStore::open(store.path(), &options).unwrap();
}

#[test]
fn heads_of_the_journal_damaged() {
    let store = Damaged::new();
    let octets = fs::read(store.journal()).unwrap();
    // The older one.
    let at = if u64_at(&octets, 48) < u64_at(&octets, 4096 + 48) { 0 } else { 4096 };
    flip(&store.journal(), at + 20);
    let report = store.finds(&[]);
    store.reads_but_for_what_is_lost(&report);
    let store = Damaged::new();
    flip(&store.journal(), 20);
    flip(&store.journal(), 4096 + 20);
    store.finds(&["journal-unreadable"]);
    assert!(matches!(store.open(), Err(CasError::JournalUnreadable { .. })));
}

#[test]
fn journal_missing() {
    let store = Damaged::new();
    fs::remove_file(store.journal()).unwrap();
    store.finds(&["journal-missing"]);
    assert!(matches!(store.open(), Err(CasError::NoJournal { .. })));
    // Accepted is a loss, not that of all there is; and it is not accepted by who wants a journal.
    for (accept_loss, new_journal) in [(true, false), (false, true)] {
        let options = StoreOptions { accept_loss, new_journal, ..options() };
        let refused = CasStore::open(store.path(), &options);
        assert!(matches!(refused, Err(CasError::NoJournal { .. })));
        assert!(!store.journal().exists());
    }
    let options = StoreOptions { accept_loss: true, new_journal: true, ..options() };
    CasStore::open(store.path(), &options).unwrap().0.close().unwrap();
    let report = store.finds(&[]);
    store.reads_but_for_what_is_lost(&report);
}

#[test]
fn journal_of_another_store() {
    let (store, other) = (Damaged::new(), tempfile::tempdir().unwrap());
    CasStore::create(other.path(), &options()).unwrap();
    fs::copy(other.path().join("archive/journal"), store.journal()).unwrap();
    store.finds(&["journal-other"]);
    assert!(matches!(store.open(), Err(CasError::OtherJournal { .. })));
    // Somebody may need it: it is not written over, whatever may be lost of this one.
    let before = fs::read(store.journal()).unwrap();
    let options = StoreOptions { accept_loss: true, new_journal: true, ..options() };
    let refused = CasStore::open(store.path(), &options);
    assert!(matches!(refused, Err(CasError::OtherJournal { .. })));
    assert!(fs::read(store.journal()).unwrap() == before);
}

/// Whoever asks for a store that lacks a file was told that there is none, and how to make one.
#[test]
fn what_is_no_store_is_told_from_what_is_left_of_one() {
    let expect = |path: &Path| CasStore::expect(path).unwrap_err();
    let nothing = tempfile::tempdir().unwrap();
    let file = nothing.path().join("file");
    fs::write(&file, "something else").unwrap();
    for path in [nothing.path(), &nothing.path().join("missing"), &file] {
        assert!(matches!(expect(path), CasError::NotAnArchive { .. }), "{}", path.display());
    }
    let store = Damaged::new();
    CasStore::expect(store.path()).unwrap();
    let roots = fs::read(roots_of(store.path())).unwrap();
    fs::remove_file(roots_of(store.path())).unwrap();
    assert!(matches!(expect(store.path()), CasError::NoRoots { .. }));
    // One that is being made.
    fs::write(store.path().join("archive/unfinished"), "").unwrap();
    assert!(matches!(expect(store.path()), CasError::NotAnArchive { .. }));
    fs::remove_dir_all(store.path().join("archive")).unwrap();
    assert!(matches!(expect(store.path()), CasError::NoRoots { .. }));

    let store = Damaged::new();
    let marker = store.path().join("aoe-blobs");
    let kept = fs::read(&marker).unwrap();
    fs::remove_file(&marker).unwrap();
    assert!(matches!(expect(store.path()), CasError::NoMarker { .. }));
    assert!(matches!(store.open(), Err(CasError::NoMarker { .. })));
    let refused = CasStore::create(store.path(), &options());
    assert!(matches!(refused, Err(CasError::NoMarker { .. })));
    let refused = CasStore::fsck(store.path(), &FsckOptions::default(), &mut |_| ());
    assert!(matches!(refused, Err(CasError::NoMarker { .. })));
    let refused = CasStore::repair_index(store.path(), &mut |_| ());
    assert!(matches!(refused, Err(CasError::NoMarker { .. })));
    assert!(!marker.exists());
    assert!(roots == fs::read(roots_of(store.path())).unwrap());
    // What the message says.
    let other = Damaged::new();
    fs::copy(other.path().join("aoe-blobs"), &marker).unwrap();
    assert!(fs::read(&marker).unwrap() == kept);
    assert!(!store.finds(&[]).is_damaged());
}

#[test]
fn index_missing_or_damaged() {
    let store = Damaged::new();
    fs::remove_dir_all(store.path().join("archive/index")).unwrap();
    let report = store.finds(&["index-unused"]);
    assert!(!report.is_damaged());
    store.reads_but_for_what_is_lost(&report);

    // Its header, its filter, and a page of entries.
    for (at, code) in [(20, "index-unused"), (140, "index-damaged"), (0, "index-damaged")] {
        let store = Damaged::new();
        let run = store.index();
        let bytes = fs::metadata(&run).unwrap().len();
        flip(&run, if at == 0 { bytes / 2 } else { at });
        let report = store.finds(&[code]);
        assert!(report.lost.is_empty());
        CasStore::repair_index(store.path(), &mut |_| ()).unwrap();
        let report = store.finds(&[]);
        store.reads_but_for_what_is_lost(&report);
    }
}

#[test]
fn index_of_another_state() {
    let indexed = |store: &Damaged, other: &Damaged| {
        let index = store.path().join("archive/index");
        fs::remove_dir_all(&index).unwrap();
        copy(&other.path().join("archive/index"), &index);
    };
    // Of a later one: not used.
    let (store, later) = (Damaged::new(), Damaged::new());
    write_and_close(&later, &from(0));
    indexed(&store, &later);
    let report = store.finds(&["index-unused"]);
    assert!(report.lost.is_empty() && !report.is_damaged());
    store.reads_but_for_what_is_lost(&report);

    // Of one that has as many packs, and others.
    let store = Damaged::new();
    write_and_close(&store, &from(512));
    indexed(&later, &store);
    let report = later.finds(&["index-wrong"]);
    assert!(report.is_damaged() && report.lost.is_empty());
    CasStore::repair_index(later.path(), &mut |_| ()).unwrap();
    later.finds(&[]);
    let open = later.open().unwrap();
    let mut disk = open.attach("e1.0", VolumeOptions::default()).unwrap();
    assert_eq!(read(&mut disk, 63, 1).unwrap(), stamp(63, 7));
    assert_eq!(read(&mut disk, 512, 1).unwrap(), stamp(512, 1));
}

#[test]
fn blobs_that_a_crash_has_left_are_told() {
    let store = Damaged::new();
    let other = Damaged::new();
    write_and_close(&other, &from(0));
    let known: BTreeSet<_> =
        store.packs().iter().map(|pack| pack.path.file_name().unwrap().to_owned()).collect();
    let new: Vec<_> = other
        .packs()
        .into_iter()
        .filter(|pack| !known.contains(pack.path.file_name().unwrap()))
        .collect();
    for pack in &new {
        let to = store.path().join(pack.path.strip_prefix(other.path()).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&pack.path, to).unwrap();
    }
    let report = store.finds(&vec!["unlisted"; new.len()]);
    assert!(!report.is_damaged());
    assert_eq!(report.counts.unlisted.0 as usize, new.len());
    assert_eq!(report.counts.unlisted.1, new.iter().map(|pack| pack.bytes).sum::<u64>());
}

#[test]
fn every_octet_of_a_pack_counts() {
    let packs = Damaged::new().packs();
    for (index, pack) in packs.iter().enumerate() {
        for at in (index as u64..pack.bytes).step_by(if pack.has_blocks() { 40_009 } else { 997 }) {
            let store = Damaged::new();
            let path = store.path().join(pack.path.strip_prefix(store_of(&pack.path)).unwrap());
            flip(&path, at);
            let report = store.fsck();
            assert!(report.is_damaged(), "octet {at} of {}", pack.path.display());
        }
    }
}

#[test]
fn space_is_told_by_who_takes_it() {
    let store = Damaged::new();
    let usage = CasStore::usage_of(store.path()).unwrap();
    let block = 4096;
    // What is zeros takes nothing; what was written since the snapshot is there twice.
    let (mapped, own) = (384 - 25, 24);
    assert_eq!(usage.disks.len(), 2);
    for (disk, snapshot) in usage.disks.iter().zip([None, Some("one")]) {
        assert_eq!((disk.volume.as_str(), disk.snapshot.as_deref()), ("e1.0", snapshot));
        assert_eq!((disk.mapped_bytes, disk.own_bytes), (mapped * block, own * block));
        // Two nodes as well, and less than that for what is compressed.
        assert!(disk.own_stored_bytes > 0 && disk.own_stored_bytes < own * block + 3 * block);
        assert_eq!(disk.size, Sectors(SECTORS));
    }
    assert_eq!(
        (usage.mapped_bytes, usage.unique_bytes),
        (2 * mapped * block, (mapped + own) * block)
    );
    let blocks = store.packs().into_iter().filter(Pack::has_blocks).flat_map(|pack| pack.frames);
    assert_eq!(usage.payload_bytes, blocks.map(|frame| frame.stored).sum::<u64>());
    assert_eq!(usage.pack_bytes, store.packs().iter().map(|pack| pack.bytes).sum::<u64>());
    assert_eq!((usage.packs as usize, usage.unreadable), (store.packs().len(), 0));
    assert!(usage.dedup_ratio() > 1.87 && usage.dedup_ratio() < 1.88);
    assert!(usage.compression_ratio() >= 1.0 && usage.overhead_ratio() >= 1.0);
    // The same of a store that is open.
    let open = store.open().unwrap();
    assert_eq!(open.usage().unwrap(), usage);
}
