//! A store on a disk that is full: what cannot be kept is not acknowledged, what was can be read, and
//! when there is room again everything goes on.

use std::fs;
use std::time::Duration;

use aoe_server::storage::cas::{CasStore, FsckOptions, StoreOptions, VolumeOptions};
use aoe_server::storage::{Accepted, BlockStorage as _};
use aoe_server::units::{Lba, Sectors};

use crate::disk::{read, settle, wait, while_driven};
use crate::small_disk::SmallDisk;

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
    let mut state = lba + 1;
    let word = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state ^ state >> 29).to_le_bytes()
    };
    std::iter::repeat_with(word).take(8 * 512 / 8).flatten().collect()
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
