//! A volume of an archive passes the suite, and is an array, whenever it is committed or reopened.

use aoe_server::storage::cas::{
    CasStore, CasVolume, Layout, SnapshotOptions, StoreOptions, VolumeOptions,
};
use aoe_server::storage::journal::Geometry;
use aoe_server::storage::{BlockStorage as _, Fault};
use aoe_server::units::{Lba, Sectors};
use proptest::prelude::*;

use super::{
    SIZE, disk_dir, durable, model, op, pattern, put, read, refuses_writes, suite, taken, verify,
};

fn options(block_bytes: u32, layout: Layout) -> StoreOptions {
    StoreOptions {
        block_bytes: Some(block_bytes),
        layout: Some(layout),
        journal_bytes: Geometry::LEAST_BYTES,
        overlay_bytes: 4 << 20,
        cache_bytes: 1 << 20,
        commit_bytes: 256 << 10,
        ..StoreOptions::default()
    }
}

fn sized() -> VolumeOptions {
    VolumeOptions { size: Some(Sectors(SIZE)), ..VolumeOptions::default() }
}

/// Runs `work` while the disk is driven.
fn meanwhile<T: Send>(disk: &mut CasVolume, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let work = scope.spawn(work);
        while !work.is_finished() {
            disk.progress();
            std::thread::yield_now();
        }
        work.join().unwrap()
    })
}

#[test]
fn a_volume_passes_the_suite() {
    for (block_bytes, layout) in
        [(4096, Layout::Packed), (65_536, Layout::Packed), (8192, Layout::Loose)]
    {
        let dir = disk_dir();
        let (store, _) = CasStore::open(dir.path(), &options(block_bytes, layout)).unwrap();
        let mut disk = store.attach("disk", sized()).unwrap();
        suite(&mut disk);
        // Once more, on top of blocks that were stored and forgotten.
        meanwhile(&mut disk, || store.commit()).unwrap();
        let ticket = taken(&mut disk, |disk| disk.discard(Lba(0), Sectors(SIZE))).unwrap();
        durable(&mut disk, ticket).unwrap();
        meanwhile(&mut disk, || store.commit()).unwrap();
        suite(&mut disk);
        disk.finish().unwrap();
        drop(disk);
        store.close().unwrap();
    }
}

#[test]
fn a_snapshot_reads_and_refuses() {
    let dir = disk_dir();
    let (store, _) = CasStore::open(dir.path(), &options(4096, Layout::Packed)).unwrap();
    let mut disk = store.attach("disk", sized()).unwrap();
    put(&mut disk, 5, &pattern(3, 1)).unwrap();
    meanwhile(&mut disk, || store.create_snapshot("disk", "one")).unwrap();
    put(&mut disk, 5, &pattern(3, 2)).unwrap();
    let mut snapshot = store.attach_snapshot("disk", "one", SnapshotOptions::default()).unwrap();
    refuses_writes(&mut snapshot);
    assert_eq!(read(&mut snapshot, 5, 3).unwrap(), pattern(3, 1));
    verify(&mut snapshot, 0, SIZE).unwrap();
    assert_eq!(snapshot.write(Lba(SIZE), &[0; 512]), Err(Fault::OutOfRange));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Every reopening is a clean close, or leaves everything in the journal.
    #[test]
    fn a_volume_is_an_array(
        ops in prop::collection::vec(op(), 1..60),
        clean in any::<bool>(),
        loose in any::<bool>(),
    ) {
        let dir = disk_dir();
        let layout = if loose { Layout::Loose } else { Layout::Packed };
        let mut store: Option<CasStore> = None;
        model(&ops, |old: Option<CasVolume>| {
            if let Some(mut old) = old {
                if clean {
                    old.finish().unwrap();
                }
                drop(old);
            }
            if let Some(store) = store.take() {
                store.close().unwrap();
            }
            let (opened, _) = CasStore::open(dir.path(), &options(4096, layout)).unwrap();
            let disk = opened.attach("disk", sized()).unwrap();
            store = Some(opened);
            disk
        });
    }
}
