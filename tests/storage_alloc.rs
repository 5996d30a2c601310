//! A hot read and a write allocate nothing on the thread that calls.

#![allow(unsafe_code, reason = "a counting allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use aoe_server::storage::file::{FileOptions, FileStorage};
use aoe_server::storage::{Accepted, BlockStorage, Ready, Ticket};
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is handed on to the system's allocator; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

#[test]
fn hot_reads_and_writes_allocate_nothing() {
    let before = allocations();
    drop(std::hint::black_box(vec![0_u8; 100]));
    assert_eq!(allocations(), before + 1, "allocations are counted");

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
