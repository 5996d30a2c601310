//! Stores of every version of the formats, as they were written then: what is new opens them.
//!
//! `tests/data/stores/version-N` is the directory of a store that was closed in order. Of its journal only
//! the heads are there (`archive/journal.heads`), since nothing is in it; the index is made anew.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use aoe_server::storage::BlockStorage as _;
use aoe_server::storage::cas::{
    CasStore, FsckOptions, SnapshotOptions, StoreOptions, VolumeOptions,
};
use aoe_server::storage::journal::Geometry;
use aoe_server::units::Sectors;

use crate::disk::{discard, read, stamp, while_driven, write};
use crate::octets::{copy, journal_bytes};

fn fixture(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/stores/version-{version}"))
}

pub(crate) fn options() -> StoreOptions {
    StoreOptions {
        block_bytes: Some(4096),
        journal_bytes: Geometry::LEAST_BYTES,
        overlay_bytes: 4 << 20,
        cache_bytes: 4 << 20,
        ..StoreOptions::default()
    }
}

/// What is in it: sectors 0 to 15 of the snapshot `one`, some of which were written again or discarded
/// since.
fn expected(lba: u64, is_now: bool) -> [u8; 512] {
    match lba {
        4..12 if is_now => stamp(lba, 2),
        15 if is_now => [0; 512],
        0..16 => stamp(lba, 1),
        _ => [0; 512],
    }
}

#[test]
fn stores_of_version_1_are_read() {
    let directory = tempfile::tempdir().unwrap();
    copy(&fixture(1), directory.path());
    let archive = directory.path().join("archive");
    let heads = fs::read(archive.join("journal.heads")).unwrap();
    let journal = File::create_new(archive.join("journal")).unwrap();
    journal.write_all_at(&heads, 0).unwrap();
    journal.set_len(journal_bytes(&heads)).unwrap();

    let report = CasStore::fsck(directory.path(), &FsckOptions::default(), &mut |_| ()).unwrap();
    let found: Vec<_> =
        report.findings.iter().map(aoe_server::storage::cas::Finding::code).collect();
    assert_eq!(found, ["index-unused"], "{:#?}", report.findings);
    let (store, recovered) = CasStore::open(directory.path(), &options()).unwrap();
    assert_eq!(recovered.writes, 0);
    let mut disk = store.attach("e1.0", VolumeOptions::default()).unwrap();
    let mut one = store.attach_snapshot("e1.0", "one", SnapshotOptions::default()).unwrap();
    for lba in 0..64 {
        assert_eq!(read(&mut disk, lba, 1).unwrap(), expected(lba, true), "sector {lba}");
        assert_eq!(read(&mut one, lba, 1).unwrap(), expected(lba, false), "sector {lba}");
    }
    // It can be written to.
    write(&mut disk, 20, &stamp(20, 3)).unwrap();
    while_driven(&mut disk, || store.commit()).unwrap();
}

/// Makes the fixture of the present version; once, when a version is new.
#[test]
#[ignore = "writes into the source"]
fn make_the_fixture() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = CasStore::open(directory.path(), &options()).unwrap();
    let size = VolumeOptions { size: Some(Sectors(64)), ..VolumeOptions::default() };
    let mut disk = store.attach("e1.0", size).unwrap();
    for lba in 0..16 {
        write(&mut disk, lba, &stamp(lba, 1)).unwrap();
    }
    while_driven(&mut disk, || store.create_snapshot("e1.0", "one")).unwrap();
    for lba in 4..12 {
        write(&mut disk, lba, &stamp(lba, 2)).unwrap();
    }
    discard(&mut disk, 15, 1).unwrap();
    disk.finish().unwrap();
    drop(disk);
    store.close().unwrap();
    let archive = directory.path().join("archive");
    let journal = fs::read(archive.join("journal")).unwrap();
    fs::write(archive.join("journal.heads"), &journal[..8192]).unwrap();
    fs::remove_file(archive.join("journal")).unwrap();
    fs::remove_dir_all(archive.join("index")).unwrap();
    let place = fixture(1);
    assert!(!place.exists(), "there is one");
    copy(directory.path(), &place);
}
