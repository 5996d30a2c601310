//! A hot read and a write allocate nothing on the thread that calls.

use aoe_server::storage::file::{FileOptions, FileStorage};
use aoe_server::storage::{Accepted, BlockStorage, Ready, Ticket};
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};

#[path = "common/allocations.rs"]
mod allocations;

use allocations::{allocations, check_that_they_are_counted};

#[test]
fn hot_reads_and_writes_allocate_nothing() {
    check_that_they_are_counted();

    let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = FileOptions { size: Some(Sectors(8192)), ..FileOptions::default() };
    let mut disk = FileStorage::open(dir.path().join("image"), options).unwrap();
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
