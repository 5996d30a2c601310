//! An index that is damaged while a store is closed, and what the store does when it comes upon it.

use std::fs;
use std::path::PathBuf;

use aoe_server::storage::cas::{CasStore, SnapshotOptions, VolumeOptions};
use aoe_server::storage::{BlockStorage as _, Fault};

use crate::damage::{Damaged, SECTORS, expected};
use crate::disk::{discard, read, stamp, wait, while_driven, write};
use crate::octets::{flip, u64_at};

/// Octets of a run's header, of a block of its filter, and of a page of entries.
const HEADER: u64 = 128;
const BLOCK: u64 = 64;
const PAGE: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Filters,
    Pages,
    Both,
}

fn runs(store: &Damaged) -> Vec<PathBuf> {
    let runs = fs::read_dir(store.path().join("archive/index")).unwrap();
    let mut runs: Vec<PathBuf> = runs.map(|run| run.unwrap().path()).collect();
    runs.sort_unstable();
    runs
}

/// Damages a part of each run, but for what is looked at when it is opened.
fn damage(store: &Damaged, part: Part) {
    for run in runs(store) {
        let octets = fs::read(&run).unwrap();
        let (blocks, entries) = (u64_at(&octets, 40), u64_at(&octets, 48));
        let pages_at = (HEADER + blocks * BLOCK).next_multiple_of(PAGE);
        if part != Part::Pages {
            (0..blocks).for_each(|block| flip(&run, HEADER + block * BLOCK + 7));
        }
        if part != Part::Filters {
            (0..entries.div_ceil(85)).for_each(|page| flip(&run, pages_at + page * PAGE + 40));
        }
    }
}

/// Reads some sectors, perhaps after the index was mended.
fn read_at_last(disk: &mut impl aoe_server::storage::BlockStorage, lba: u64) -> Vec<u8> {
    wait(|| match read(disk, lba, 8) {
        Ok(octets) => Some(octets),
        Err(fault) => {
            assert_eq!(fault, Fault::Media);
            None
        }
    })
}

fn octets_of(lba: u64, of: impl Fn(u64) -> [u8; 512]) -> Vec<u8> {
    (lba..lba + 8).flat_map(of).collect()
}

/// Everything is what was written, and what was written later on top.
fn reads_right(open: &CasStore, again: u64) {
    let mut now = open.attach("e1.0", VolumeOptions::default()).unwrap();
    let mut one = open.attach_snapshot("e1.0", "one", SnapshotOptions::default()).unwrap();
    let is_now = |lba| if lba < again { stamp(lba, 9) } else { expected(lba, true) };
    for lba in (0..SECTORS).step_by(8) {
        assert!(read_at_last(&mut now, lba) == octets_of(lba, is_now), "sector {lba}");
        let wanted = octets_of(lba, |lba| expected(lba, false));
        assert!(read_at_last(&mut one, lba) == wanted, "sector {lba} of the snapshot");
    }
}

#[test]
fn a_damaged_index_is_mended_when_it_is_read() {
    for part in [Part::Filters, Part::Pages, Part::Both] {
        let store = Damaged::new();
        damage(&store, part);
        store.finds(&["index-damaged"]);
        let open = store.open().unwrap();
        reads_right(&open, 0);
        open.close().unwrap();
        drop(open);
        assert!(!store.finds(&[]).is_damaged(), "{part:?}");
        // It was written down, too.
        assert!(!runs(&store).is_empty());
        reads_right(&store.open().unwrap(), 0);
    }
}

/// Every commit used to fail from then on.
#[test]
fn commits_succeed_with_a_damaged_index() {
    for part in [Part::Filters, Part::Pages, Part::Both] {
        let store = Damaged::new();
        damage(&store, part);
        let open = store.open().unwrap();
        let mut disk = open.attach("e1.0", VolumeOptions::default()).unwrap();
        // Parts of blocks as well, the rest of which is where the index says.
        let again = 100;
        for lba in 0..again {
            write(&mut disk, lba, &stamp(lba, 9)).unwrap();
        }
        while_driven(&mut disk, || open.commit()).unwrap();
        assert_eq!(open.info().unwrap().failing, None);
        discard(&mut disk, 2000, 3).unwrap();
        write(&mut disk, 2000, &octets_of(2000, |lba| expected(lba, true))).unwrap();
        while_driven(&mut disk, || open.create_snapshot("e1.0", "two")).unwrap();
        disk.finish().unwrap();
        drop(disk);
        reads_right(&open, again);
        open.close().unwrap();
        drop(open);
        assert!(!store.finds(&[]).is_damaged(), "{part:?}");
        reads_right(&store.open().unwrap(), again);
    }
}

#[test]
fn what_is_in_the_journal_is_brought_in_with_a_damaged_index() {
    let store = Damaged::new();
    let open = store.open().unwrap();
    let mut disk = open.attach("e1.0", VolumeOptions::default()).unwrap();
    let again = 20;
    for lba in 0..again {
        write(&mut disk, lba, &stamp(lba, 9)).unwrap();
    }
    // As a crash leaves it: nothing of that is in the tree.
    let crashed = store.copied();
    drop((disk, open));
    damage(&crashed, Part::Pages);
    let (open, recovered) = crashed.open_and_recover().unwrap();
    assert_eq!(recovered.writes, again);
    open.commit().unwrap();
    reads_right(&open, again);
    open.close().unwrap();
    drop(open);
    assert!(!crashed.finds(&[]).is_damaged());
    reads_right(&crashed.open().unwrap(), again);
}

/// Reading it through finds what nobody has asked for.
#[test]
fn a_scrub_has_the_index_mended() {
    let store = Damaged::new();
    damage(&store, Part::Pages);
    let open = store.open().unwrap();
    assert!(open.scrub(&mut |_| ()).unwrap().is_damaged());
    wait(|| (!open.scrub(&mut |_| ()).unwrap().is_damaged()).then_some(()));
    open.close().unwrap();
    drop(open);
    assert!(!store.finds(&[]).is_damaged());
}
