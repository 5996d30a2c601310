//! A hot read and a write allocate nothing on the thread that calls.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[allow(dead_code, reason = "shared with the suite, which uses all of it")]
#[path = "storage/loop_device.rs"]
mod loop_device;

use aoe_server::storage::cas::{CasStore, StoreOptions, TreeBench, VolumeOptions};
use aoe_server::storage::file::{FileOptions, FileStorage};
use aoe_server::storage::journal::{FileJournal, JournalOptions};
use aoe_server::storage::{Accepted, BlockStorage, Ready, Ticket};
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};

#[path = "common/allocations.rs"]
mod allocations;

use self::allocations::{allocations, check_that_they_are_counted};
use self::loop_device::LoopDevice;

#[test]
fn hot_reads_and_writes_allocate_nothing() {
    check_that_they_are_counted();

    hot_reads_and_writes(FileOptions::default());
}

#[test]
fn hot_reads_and_writes_that_are_journalled_allocate_nothing() {
    let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // Small, so that its segments are used again and again.
    let options = JournalOptions { bytes: 4 << 20, ..JournalOptions::default() };
    let (journal, _) = FileJournal::open(dir.path().join("journal"), options).unwrap();
    hot_reads_and_writes(FileOptions { journal: Some(journal), ..FileOptions::default() });
}

/// Its blocks are in the overlay all the time: memory for those is taken when they are written first.
#[test]
fn hot_reads_and_writes_of_a_volume_allocate_nothing() {
    check_that_they_are_counted();
    let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (store, _) = CasStore::open(dir.path(), &StoreOptions::default()).unwrap();
    let options = VolumeOptions { size: Some(Sectors(8192)), ..VolumeOptions::default() };
    let mut disk = store.attach("disk", options).unwrap();
    for lba in (0..8192).step_by(16) {
        while disk.write(Lba(lba), &[0x5a; 16 * SECTOR_SIZE]).unwrap() == Accepted::Later {
            disk.progress();
        }
    }
    hot_turns(&mut disk);
}

fn hot_reads_and_writes(options: FileOptions) {
    let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = FileOptions { size: Some(Sectors(8192)), ..options };
    hot_turns(&mut FileStorage::open(dir.path().join("image"), options).unwrap());
}

fn hot_turns(disk: &mut impl BlockStorage) {
    let mut octets = vec![0xa5; 16 * SECTOR_SIZE];
    for lba in (0..8192).step_by(16) {
        while disk.read(Lba(lba), &mut octets).unwrap() == Ready::Later {
            while !disk.progress() {}
        }
    }

    let before = allocations();
    let mut last = Ticket::NONE;
    for turn in 0..20_000_u64 {
        let lba = Lba(turn * 16 % 8192);
        while disk.read(lba, &mut octets).unwrap() == Ready::Later {
            disk.progress();
        }
        if turn % 4 == 0 {
            match disk.write(lba, &octets).unwrap() {
                Accepted::Done(ticket) => last = ticket,
                Accepted::Later => while !disk.progress() {},
            }
        }
        if turn % 1000 == 0 {
            let _ = disk.flush().unwrap();
        }
        disk.progress();
        let done = disk.durable();
        disk.outcome(done).unwrap();
    }
    while disk.durable() < last {
        disk.progress();
    }
    assert_eq!(allocations(), before);
}

#[test]
fn reads_and_writes_of_a_device_allocate_nothing() {
    const SECTORS: u64 = 8192;
    let Some(device) = LoopDevice::new(SECTORS * SECTOR_SIZE as u64, 512, false) else { return };
    for method in device.methods() {
        let mut disk = device.open(method);
        let mut octets = vec![0xa5; 16 * SECTOR_SIZE];
        let before = allocations();
        let mut last = Ticket::NONE;
        for turn in 0..2000_u64 {
            // Some at random, many in flight, and then some one behind the other.
            for ahead in 0..8 {
                let lba = Lba((turn + ahead) * 7919 * 16 % SECTORS);
                if turn % 64 < 32 {
                    let _ = disk.read(lba, &mut octets).unwrap();
                }
            }
            let lba = Lba(turn * 16 % SECTORS);
            while disk.read(lba, &mut octets).unwrap() == Ready::Later {
                disk.progress();
            }
            if turn % 16 == 0 {
                match disk.write(lba, &octets).unwrap() {
                    Accepted::Done(ticket) => last = ticket,
                    Accepted::Later => while !disk.progress() {},
                }
            }
        }
        while disk.durable() < last {
            disk.progress();
        }
        disk.outcome(last).unwrap();
        assert_eq!(allocations(), before, "{method:?}");
    }
}

#[test]
fn looking_up_a_block_of_an_archive_allocates_nothing() {
    check_that_they_are_counted();
    let mut tree = TreeBench::new(1 << 15);
    let before = allocations();
    for block in 0..1 << 15 {
        tree.peek(block).unwrap();
        tree.peek(block * 4097 % (1 << 15)).unwrap();
    }
    assert_eq!(allocations(), before);
}
