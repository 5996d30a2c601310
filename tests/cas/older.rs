//! Parts of a store that are as they were some time ago: it must not go back with them unnoticed.

use std::fs;
use std::path::Path;

use aoe_server::storage::BlockStorage as _;
use aoe_server::storage::cas::{
    CasError, CasStore, FsckOptions, RepairRootsOptions, Shrink, StoreOptions, VolumeOptions,
};
use aoe_server::units::Sectors;
use tempfile::TempDir;

use crate::disk::{read, stamp, while_driven, write};
use crate::fixture::options;
use crate::octets::{copy, flip, newest_root, roots_of};

fn accepting() -> StoreOptions {
    StoreOptions { accept_loss: true, ..options() }
}

/// Opens a store, and has it do something to its volume.
fn with(path: &Path, options: &StoreOptions, act: impl FnOnce(&CasStore)) {
    let (store, _) = CasStore::open(path, options).unwrap();
    act(&store);
    store.close().unwrap();
}

/// Writes some sectors of `e1.0`, as `version` of them.
fn fill(store: &CasStore, version: u64) {
    let size = VolumeOptions { size: Some(Sectors(64)), ..VolumeOptions::default() };
    let mut disk = store.attach("e1.0", size).unwrap();
    for lba in 0..8 {
        write(&mut disk, lba, &stamp(lba, version)).unwrap();
    }
    while_driven(&mut disk, || store.commit()).unwrap();
    disk.finish().unwrap();
}

fn holds(path: &Path, version: u64) {
    with(path, &options(), |store| {
        let mut disk = store.attach("e1.0", VolumeOptions::default()).unwrap();
        for lba in 0..8 {
            assert_eq!(read(&mut disk, lba, 1).unwrap(), stamp(lba, version), "sector {lba}");
        }
    });
}

fn refused(path: &Path) -> CasError {
    CasStore::open(path, &options()).map(|_| "it opens").unwrap_err()
}

/// A store as a power cut leaves it after `act`, whose outcome was told, and its newest root slot damaged.
fn after(act: impl FnOnce(&CasStore)) -> TempDir {
    let (store, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    with(store.path(), &options(), |store| {
        fill(store, 1);
        store.create_snapshot("e1.0", "one").unwrap();
    });
    let (open, _) = CasStore::open(store.path(), &options()).unwrap();
    act(&open);
    copy(store.path(), cut.path());
    drop(open);
    let root = newest_root(cut.path());
    flip(&roots_of(cut.path()), root.at + 60);
    cut
}

/// None of these frees anything in the journal, by which it would show.
#[test]
fn what_was_told_does_not_vanish_with_the_newest_root_slot() {
    type Act = fn(&CasStore);
    let acts: [(&str, Act); 6] = [
        ("snapshot", |store| drop(store.create_snapshot("e1.0", "two").unwrap())),
        ("deletion", |store| store.delete_snapshot("e1.0", "one").unwrap()),
        ("volume", |store| drop(store.create_volume("e1.1", Sectors(8)).unwrap())),
        ("clone", |store| drop(store.clone_volume("e1.0", None, "e1.1").unwrap())),
        ("size", |store| drop(store.resize_volume("e1.0", Sectors(99), Shrink::Never).unwrap())),
        ("restore", |store| drop(store.restore_snapshot("e1.0", "one", true).unwrap())),
    ];
    for (name, act) in acts {
        let cut = after(act);
        let error = refused(cut.path());
        assert!(matches!(error, CasError::RootLost { .. }), "{name}: {error}");
        let report = CasStore::fsck(cut.path(), &FsckOptions::default(), &mut |_| ()).unwrap();
        assert!(report.findings.iter().any(|finding| finding.code() == "root-lost"), "{name}");
        // Nothing has to be given up.
        let repair = CasStore::repair_roots(cut.path(), &RepairRootsOptions::default()).unwrap();
        assert!(repair.written, "{name}");
        with(cut.path(), &options(), |store| {
            let volumes: Vec<_> =
                store.volumes().unwrap().into_iter().map(|v| (v.name, v.size.0)).collect();
            let snapshots = store.snapshots(None).unwrap().len();
            let is_there = match name {
                "snapshot" | "restore" => snapshots == 2,
                "deletion" => snapshots == 0,
                "size" => volumes == [("e1.0".into(), 99)],
                _ => volumes.len() == 2,
            };
            assert!(is_there, "{name}: {volumes:?}, {snapshots} snapshots");
        });
    }
}

/// Writes that were committed and are in the journal still need no more than that.
#[test]
fn writes_that_the_journal_has_do_not_need_the_newest_root_slot() {
    let cut = after(|store| fill(store, 2));
    holds(cut.path(), 2);
}

#[test]
fn a_loss_is_accepted_once() {
    let cut = after(|store| drop(store.create_snapshot("e1.0", "two").unwrap()));
    with(cut.path(), &accepting(), |store| {
        assert_eq!(store.snapshots(None).unwrap().len(), 1);
    });
    holds(cut.path(), 1);
}

#[test]
fn an_older_copy_of_the_journal_is_refused() {
    let (store, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let journal = store.path().join("archive/journal");
    let old = kept.path().join("journal");
    with(store.path(), &options(), |store| fill(store, 1));
    fs::copy(&journal, &old).unwrap();
    with(store.path(), &options(), |store| fill(store, 2));
    fs::copy(&old, &journal).unwrap();
    let error = refused(store.path());
    assert!(matches!(error, CasError::JournalOlder { .. }), "{error}");
    let report = CasStore::fsck(store.path(), &FsckOptions::default(), &mut |_| ()).unwrap();
    assert!(report.findings.iter().any(|finding| finding.code() == "journal-older"));
    // Another has its place, and what is written then is there; also if the process dies at once.
    let (open, _) = CasStore::open(store.path(), &accepting()).unwrap();
    let cut = tempfile::tempdir().unwrap();
    copy(store.path(), cut.path());
    drop(open);
    for path in [store.path(), cut.path()] {
        with(path, &options(), |store| fill(store, 3));
        holds(path, 3);
        // The old one is none of this store any more.
        fs::copy(&old, path.join("archive/journal")).unwrap();
        let error = refused(path);
        assert!(matches!(error, CasError::OtherJournal { .. }), "{error}");
    }
}

#[test]
fn a_journal_that_was_missing_is_refused_when_it_comes_back() {
    let store = tempfile::tempdir().unwrap();
    let journal = store.path().join("archive/journal");
    let away = store.path().join("away");
    with(store.path(), &options(), |store| fill(store, 1));
    fs::rename(&journal, &away).unwrap();
    assert!(matches!(refused(store.path()), CasError::NoJournal { .. }));
    with(store.path(), &StoreOptions { new_journal: true, ..accepting() }, |store| fill(store, 2));
    holds(store.path(), 2);
    fs::rename(&away, &journal).unwrap();
    let error = refused(store.path());
    assert!(matches!(error, CasError::OtherJournal { .. }), "{error}");
}
