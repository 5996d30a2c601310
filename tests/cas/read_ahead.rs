//! Whoever reads a volume from first to last has its blocks fetched ahead, many in one piece, and each once.

use std::collections::VecDeque;
use std::time::Duration;

use aoe_server::storage::cas::{CasStore, CasVolume, StoreOptions, VolumeOptions};
use aoe_server::storage::{BlockStorage as _, Ready, Ticket};
use aoe_server::units::{Lba, Sectors};

use crate::disk::{offer, settle, stamp, wait, while_driven};

/// Octets of the caches. What is read does not fit in.
const CACHE: u64 = 32 << 20;
/// Sectors that are read: 48 MiB.
const SECTORS: u64 = 96 << 10;
/// Of a request, which is half a block.
const REQUEST: u64 = 16;
const BLOCKS: u64 = SECTORS / REQUEST / 2;

/// A volume, all of which is in packs; each block starts with a sector that no other one has.
fn volume(store: &CasStore) -> CasVolume {
    let size = Some(Sectors(SECTORS));
    let mut disk =
        store.attach("e1.0", VolumeOptions { size, ..VolumeOptions::default() }).unwrap();
    let mut last = Ticket::default();
    for lba in (0..SECTORS).step_by(2 * REQUEST as usize) {
        last = offer(&mut disk, lba, &stamp(lba, 1)).unwrap();
    }
    settle(&mut disk, last).unwrap();
    while_driven(&mut disk, || store.commit()).unwrap();
    disk
}

/// Reads all of it in order, with `depth` requests in flight: those that have to wait are asked again, the
/// oldest first, when something has come.
fn read_all(disk: &mut CasVolume, depth: usize) {
    let mut into = [0; REQUEST as usize * 512];
    let mut done = |disk: &mut CasVolume, lba: u64| {
        let done = disk.read(Lba(lba), &mut into).unwrap() == Ready::Done;
        if done && lba.is_multiple_of(2 * REQUEST) {
            assert_eq!(into[..512], stamp(lba, 1));
        }
        done
    };
    let mut next = (0..SECTORS).step_by(REQUEST as usize).peekable();
    let mut waiting = VecDeque::new();
    while next.peek().is_some() || !waiting.is_empty() {
        while waiting.len() < depth
            && let Some(lba) = next.next()
        {
            if !done(disk, lba) {
                waiting.push_back(lba);
            }
        }
        if !waiting.is_empty() {
            wait(|| disk.progress().then_some(()));
            waiting.retain(|lba| !done(disk, *lba));
        }
    }
}

/// Pieces of packs, and octets of them, that are read while `work` is done.
fn reads(store: &CasStore, work: impl FnOnce()) -> (u64, u64) {
    let before = store.info().unwrap().reads;
    work();
    // What was fetched ahead behind the end, if anything, is in, too.
    std::thread::park_timeout(Duration::from_millis(50));
    let after = store.info().unwrap().reads;
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn blocks_are_fetched_ahead_in_pieces_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { cache_bytes: CACHE, ..StoreOptions::default() };
    let (store, _) = CasStore::open(directory.path(), &options).unwrap();
    let mut disk = volume(&store);
    let stored = store.info().unwrap().stored_bytes;
    // The first time the caches fill; after that they are full of what was read before.
    for (round, depth) in [1, 1, 1, 16, 16].into_iter().enumerate() {
        let (pieces, octets) = reads(&store, || read_all(&mut disk, depth));
        println!("round {round}, {depth} in flight: {pieces} pieces, {octets} of {stored} octets");
        assert!(pieces < BLOCKS / 4, "round {round}: {pieces} pieces for {BLOCKS} blocks");
        assert!(octets < stored + stored / 8, "round {round}: {octets} of {stored} octets");
    }
}
