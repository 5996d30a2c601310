//! A store on a disk that is full: what cannot be kept is not acknowledged, what was can be read, and
//! when there is room again everything goes on.

use std::fs;
use std::time::Duration;

use aoe_server::storage::cas::{CasError, CasStore, FsckOptions, StoreOptions, VolumeOptions};
use aoe_server::storage::{Accepted, BlockStorage as _, Fault, Ticket};
use aoe_server::units::{Lba, Sectors};

use crate::disk::{offer, read, settle, wait, while_driven};
use crate::noise::noise as fill_with_noise;
use crate::small_disk::{SmallDisk, fill};

const MIB: u64 = 1 << 20;

fn options() -> StoreOptions {
    StoreOptions {
        block_bytes: Some(4096),
        journal_bytes: 16 * MIB,
        overlay_bytes: 4 * MIB,
        cache_bytes: 8 * MIB,
        commit_bytes: MIB,
        commit_interval: Duration::from_secs(1),
        ..StoreOptions::default()
    }
}

/// Eight sectors that do not compress.
fn noise(lba: u64) -> Vec<u8> {
    let mut octets = vec![0; 8 * 512];
    fill_with_noise(lba, &mut octets);
    octets
}

#[test]
fn a_full_disk_stops_acknowledgements_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("disk");
    let Some(_disk) = SmallDisk::mount(place.clone(), 40 << 20) else { return };
    let (store, _) = CasStore::open(place.join("store"), &options()).unwrap();
    // What somebody else has there, and will take away.
    let ballast = place.join("ballast");
    fs::write(&ballast, vec![0; 12 << 20]).unwrap();
    let size = VolumeOptions { size: Some(Sectors(64 * MIB / 512)), ..VolumeOptions::default() };
    let mut disk = store.attach("e1.0", size).unwrap();
    // Far more than there is room for; the last one is refused room.
    let mut tickets = Vec::new();
    let mut lba = 0;
    let mut patience = 3000;
    while patience > 0 {
        match disk.write(Lba(lba), &noise(lba)).unwrap() {
            Accepted::Done(ticket) => {
                tickets.push((lba, ticket));
                lba += 8;
            }
            Accepted::Later => {
                patience -= 1;
                disk.progress();
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
        assert!(lba < 64 * MIB / 512, "it is never full");
    }
    assert!(store.info().unwrap().failing.is_some(), "commits fail");
    assert!(!store.info().unwrap().stopped);
    // All that was taken is in the journal, and so acknowledged.
    let (_, last) = *tickets.last().unwrap();
    settle(&mut disk, last).unwrap();
    for (lba, _) in tickets.iter().step_by(97) {
        assert!(read(&mut disk, *lba, 8).unwrap() == noise(*lba), "sector {lba}");
    }
    assert!(matches!(disk.write(Lba(lba), &noise(lba)), Ok(Accepted::Later)));

    fs::remove_file(&ballast).unwrap();
    let ticket = wait(|| {
        disk.progress();
        match disk.write(Lba(lba), &noise(lba)).unwrap() {
            Accepted::Done(ticket) => Some(ticket),
            Accepted::Later => None,
        }
    });
    settle(&mut disk, ticket).unwrap();
    tickets.push((lba, ticket));
    while_driven(&mut disk, || store.commit()).unwrap();
    assert_eq!(store.info().unwrap().failing, None);
    disk.finish().unwrap();
    drop(disk);
    store.close().unwrap();
    drop(store);
    let path = place.join("store");
    let report = CasStore::fsck(&path, &FsckOptions::default(), &mut |_| ()).unwrap();
    assert!(!report.is_damaged(), "{:#?}", report.findings);
    let (store, recovered) = CasStore::open(&path, &options()).unwrap();
    assert_eq!(recovered.writes, 0);
    let mut disk = store.attach("e1.0", VolumeOptions::default()).unwrap();
    for (lba, _) in &tickets {
        assert!(read(&mut disk, *lba, 8).unwrap() == noise(*lba), "sector {lba}");
    }
}

#[test]
fn what_was_acknowledged_can_be_read_with_less_memory_and_a_full_disk() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("disk");
    let Some(_disk) = SmallDisk::mount(place.clone(), 40 << 20) else { return };
    let path = place.join("store");
    let ample = StoreOptions { overlay_bytes: 24 * MIB, ..options() };
    let (store, _) = CasStore::open(&path, &ample).unwrap();
    let size = VolumeOptions { size: Some(Sectors(64 * MIB / 512)), ..VolumeOptions::default() };
    let mut disk = store.attach("e1.0", size).unwrap();
    let ballast = place.join("ballast");
    fill(&ballast);
    let places = || (0..8 * MIB / 512).step_by(8);
    let mut last = Ticket::NONE;
    for lba in places() {
        last = offer(&mut disk, lba, &noise(lba)).unwrap();
    }
    settle(&mut disk, last).unwrap();
    wait(|| {
        disk.progress();
        store.info().unwrap().failing
    });
    disk.finish().unwrap();
    drop(disk);
    let closed = store.close();
    assert!(matches!(closed, Err(CasError::CommitFailed { .. })), "{closed:?}");
    drop(store);

    let (store, recovered) = CasStore::open(&path, &options()).unwrap();
    assert_eq!(recovered.writes, 8 * MIB / 4096);
    assert!(store.info().unwrap().overlay.0 > options().overlay_bytes);
    let mut disk = store.attach("e1.0", VolumeOptions::default()).unwrap();
    for lba in places() {
        assert!(read(&mut disk, lba, 8).unwrap() == noise(lba), "sector {lba}");
    }
    assert_eq!(disk.write(Lba(0), &noise(1)), Ok(Accepted::Later), "there is no room for it");
    fs::remove_file(&ballast).unwrap();
    while_driven(&mut disk, || store.commit()).unwrap();
    wait(|| {
        disk.progress();
        (store.info().unwrap().overlay.0 == 0).then_some(())
    });
    for lba in places() {
        assert!(read(&mut disk, lba, 8).unwrap() == noise(lba), "sector {lba}");
    }
}

#[test]
fn a_volume_that_waits_for_room_in_the_journal_can_be_finished() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("disk");
    let Some(_disk) = SmallDisk::mount(place.clone(), 40 << 20) else { return };
    let (store, _) = CasStore::open(place.join("store"), &options()).unwrap();
    let size = VolumeOptions { size: Some(Sectors(64 * MIB / 512)), ..VolumeOptions::default() };
    let mut disk = store.attach("e1.0", size).unwrap();
    fill(&place.join("ballast"));
    // One place again and again, which takes no more memory.
    let (mut version, mut patience) = (0, 3000);
    while patience > 0 {
        disk.progress();
        match disk.write(Lba(0), &noise(version)).unwrap() {
            Accepted::Done(_) => (version, patience) = (version + 1, 3000),
            Accepted::Later => {
                patience -= 1;
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
        assert!(version < 100_000, "the journal is never full");
    }
    assert!(disk.durable() < disk.applied());
    assert_eq!(disk.finish(), Err(Fault::Media), "not all of it is durable");
    drop(disk);
    let closed = store.close();
    assert!(matches!(closed, Err(CasError::CommitFailed { .. })), "{closed:?}");
}
