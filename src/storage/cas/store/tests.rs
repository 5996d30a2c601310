//! What cannot be seen from outside.

use std::cell::Cell;

use super::*;
use crate::storage::{Accepted, BlockStorage as _};

#[test]
fn a_store_whose_thread_panics_stops() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { journal_bytes: 4 << 20, ..StoreOptions::default() };
    let (store, _) = CasStore::open(directory.path(), &options).unwrap();
    let shared = Arc::clone(&store.0.shared);
    let thread = thread::spawn(move || {
        let _guard = StopsOnPanic(shared);
        panic!("on purpose");
    });
    assert!(thread.join().is_err());
    assert!(matches!(store.commit(), Err(CasError::Stopped { .. })));
}

#[test]
fn who_counts_what_a_store_holds_ends_when_nobody_wants_to_know_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { journal_bytes: 4 << 20, ..StoreOptions::default() };
    let (store, _) = CasStore::open(directory.path(), &options).unwrap();
    let size = Some(Sectors(1 << 20));
    let mut disk =
        store.attach("e1.0", VolumeOptions { size, ..VolumeOptions::default() }).unwrap();
    // A leaf for each: 128 blocks of 32 sectors.
    for leaf in 0..100_u64 {
        let mut sector = [0x5a; SECTOR_SIZE];
        sector[..8].copy_from_slice(&leaf.to_le_bytes());
        while disk.write(Lba(leaf << 12), &sector).unwrap() == Accepted::Later {
            disk.progress();
        }
    }
    thread::scope(|scope| {
        let commit = scope.spawn(|| store.commit());
        while !commit.is_finished() {
            disk.progress();
        }
        commit.join().unwrap().unwrap();
    });
    let (manifest, reader) = (store.manifest().unwrap(), &store.0.shared.reader);
    let asked = Cell::new(0);
    let asked_for = |most: u32| {
        asked.set(0);
        let is_over = || asked.replace(asked.get() + 1) >= most;
        let usage = usage::usage(store.path(), &manifest, reader, &is_over);
        (usage, asked.get())
    };
    let (whole, asked) = asked_for(u32::MAX);
    assert_eq!(whole.unwrap().unreadable, 0);
    assert!(asked > 100, "{asked}: once for each node");
    let (ended, asked) = asked_for(1);
    assert_eq!(ended, None);
    assert!(asked < 10, "{asked}: it goes on");
}
