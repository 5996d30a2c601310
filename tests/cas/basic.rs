//! A volume keeps what is written to it, in whatever way it is closed.

use std::time::Duration;

use aoe_server::storage::cas::{
    CasError, CasStore, Shrink, SnapshotOptions, StoreOptions, VolumeOptions,
};
use aoe_server::storage::{Accepted, BlockStorage as _, Fault, Ready, Ticket};
use aoe_server::units::{Lba, Sectors};

use crate::disk::{discard, read, stamp, wait, while_driven, write};

fn options() -> StoreOptions {
    StoreOptions {
        journal_bytes: 4 << 20,
        overlay_bytes: 4 << 20,
        cache_bytes: 8 << 20,
        commit_bytes: 1 << 20,
        ..StoreOptions::default()
    }
}

fn sized(sectors: u64) -> VolumeOptions {
    VolumeOptions { size: Some(Sectors(sectors)), ..VolumeOptions::default() }
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = CasStore::open(directory.path(), &options()).unwrap();
    let mut disk = store.attach("e1.0", sized(10_000)).unwrap();
    assert_eq!(read(&mut disk, 9_999, 1).unwrap(), [0; 512]);
    for lba in 0..10_000 {
        write(&mut disk, lba, &stamp(lba, 1)).unwrap();
    }
    for lba in (0..10_000).step_by(7) {
        write(&mut disk, lba, &stamp(lba, 2)).unwrap();
    }
    discard(&mut disk, 100, 1000).unwrap();
    let check = |disk: &mut aoe_server::storage::cas::CasVolume| {
        for lba in 0..10_000 {
            let expected = match lba {
                100..1100 => [0; 512],
                _ if lba % 7 == 0 => stamp(lba, 2),
                _ => stamp(lba, 1),
            };
            assert_eq!(read(disk, lba, 1).unwrap(), expected, "sector {lba}");
        }
    };
    check(&mut disk);
    while_driven(&mut disk, || store.commit()).unwrap();
    check(&mut disk);
    disk.finish().unwrap();
    drop(disk);
    store.close().unwrap();
    drop(store);
    let (store, recovered) = CasStore::open(directory.path(), &options()).unwrap();
    assert_eq!(recovered.writes, 0);
    let mut disk = store.attach("e1.0", VolumeOptions::default()).unwrap();
    check(&mut disk);
    // Another time without a commit: from the journal.
    write(&mut disk, 3, &stamp(3, 9)).unwrap();
}

#[test]
fn a_store_can_be_closed_while_nobody_drives_a_volume() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = CasStore::open(directory.path(), &options()).unwrap();
    let mut disk = store.attach("e1.0", sized(1000)).unwrap();
    for lba in 0..1000 {
        write(&mut disk, lba, &stamp(lba, 1)).unwrap();
    }
    // Both need what the volume has not handed over yet.
    let snapshot = {
        let store = store.clone();
        std::thread::spawn(move || store.create_snapshot("e1.0", "one"))
    };
    std::thread::park_timeout(Duration::from_millis(100));
    let close = std::thread::spawn(move || store.close());
    wait(|| (snapshot.is_finished() && close.is_finished()).then_some(()));
    let refused = snapshot.join().unwrap();
    assert!(matches!(refused, Err(CasError::Stopped { .. })), "{refused:?}");
    close.join().unwrap().unwrap();
    assert_eq!(write(&mut disk, 0, &[0; 512]), Err(Fault::Media));
    drop(disk);
    let (store, recovered) = CasStore::open(directory.path(), &options()).unwrap();
    assert_ne!(recovered.writes, 0, "what the volume had not handed over");
    assert_eq!(store.snapshots(Some("e1.0")).unwrap(), []);
    let mut disk = store.attach("e1.0", VolumeOptions::default()).unwrap();
    for lba in 0..1000 {
        assert_eq!(read(&mut disk, lba, 1).unwrap(), stamp(lba, 1));
    }
}

#[test]
fn a_store_that_was_closed_can_be_opened_again_at_once_whoever_has_it_still() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = CasStore::open(directory.path(), &options()).unwrap();
    let asking = store.clone();
    let asker = std::thread::spawn(move || {
        while asking.usage().is_ok() {}
        let refused = asking.usage();
        // It takes a while to tell somebody so.
        std::thread::park_timeout(Duration::from_millis(300));
        refused
    });
    store.close_and_let_go().unwrap();
    CasStore::open(directory.path(), &options()).expect("it is locked by nobody");
    let refused = asker.join().unwrap();
    assert!(matches!(refused, Err(CasError::Stopped { .. })), "{refused:?}");
}

#[test]
fn a_store_whose_journal_is_full_can_be_closed_while_nobody_drives_a_volume() {
    close_with_a_full_journal(false);
}

#[test]
fn a_volume_whose_journal_is_full_can_be_finished_while_nobody_drives_another() {
    close_with_a_full_journal(true);
}

fn close_with_a_full_journal(finished: bool) {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = CasStore::open(directory.path(), &options()).unwrap();
    let mut disk = store.attach("e1.0", sized(1000)).unwrap();
    let mut other = store.attach("e1.1", sized(1000)).unwrap();
    // A commit, which would make room in the journal, needs what this one has not handed over.
    write(&mut other, 0, &stamp(0, 1)).unwrap();
    let (mut version, mut acknowledged, mut patience) = (1, 0, 3000);
    while patience > 0 {
        disk.progress();
        match disk.write(Lba(8), &stamp(8, version)).unwrap() {
            Accepted::Done(ticket) => {
                assert_eq!(ticket.0, version);
                version += 1;
            }
            Accepted::Later => {
                patience -= 1;
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
        if disk.durable().0 > acknowledged {
            (acknowledged, patience) = (disk.durable().0, 3000);
        }
    }
    assert!(acknowledged + 1 < version, "the journal is never full");
    if finished {
        assert_eq!(disk.finish(), Err(Fault::Media));
    }
    let close = std::thread::spawn(move || store.close());
    wait(|| close.is_finished().then_some(()));
    close.join().unwrap().unwrap();
    assert_eq!(disk.outcome(Ticket(acknowledged)), Ok(()));
    assert_eq!(disk.outcome(Ticket(version - 1)), Err(Fault::Media), "it was not journalled");
    drop((disk, other));
    let (store, _) = CasStore::open(directory.path(), &options()).unwrap();
    let mut disk = store.attach("e1.0", VolumeOptions::default()).unwrap();
    let found = read(&mut disk, 8, 1).unwrap();
    // What a front end hands over may be committed without having been acknowledged.
    assert!(found == stamp(8, acknowledged) || finished && found == stamp(8, version - 1));
    let mut other = store.attach("e1.1", VolumeOptions::default()).unwrap();
    assert_eq!(read(&mut other, 0, 1).unwrap(), stamp(0, 1));
}

#[test]
#[allow(clippy::disallowed_methods, reason = "what comes back is not to be taken in yet")]
fn who_waits_hears_of_what_another_read_took_in() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = CasStore::open(directory.path(), &options()).unwrap();
    let mut disk = store.attach("e1.0", sized(10_000)).unwrap();
    for lba in [0, 5_000] {
        write(&mut disk, lba, &stamp(lba, 1)).unwrap();
    }
    drop(disk);
    store.close().unwrap();
    drop(store);
    let (store, _) = CasStore::open(directory.path(), &options()).unwrap();
    let mut disk = store.attach("e1.0", VolumeOptions::default()).unwrap();
    let mut sectors = [[0; 512]; 2];
    for (lba, sector) in [0, 5_000].into_iter().zip(&mut sectors) {
        assert_eq!(disk.read(Lba(lba), sector), Ok(Ready::Later));
    }
    // Both are there by now, most likely, and are taken in by the one that asks.
    std::thread::sleep(Duration::from_millis(200));
    wait(|| (disk.read(Lba(0), &mut sectors[0]) == Ok(Ready::Done)).then_some(()));
    wait(|| disk.progress().then_some(()));
    wait(|| (disk.read(Lba(5_000), &mut sectors[1]) == Ok(Ready::Done)).then_some(()));
    assert_eq!(sectors, [stamp(0, 1), stamp(5_000, 1)]);
}

#[test]
fn a_snapshot_stays_what_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = CasStore::open(directory.path(), &options()).unwrap();
    let mut disk = store.attach("e1.0", sized(1000)).unwrap();
    for lba in 0..1000 {
        write(&mut disk, lba, &stamp(lba, 1)).unwrap();
    }
    while_driven(&mut disk, || store.create_snapshot("e1.0", "one")).unwrap();
    for lba in 0..500 {
        write(&mut disk, lba, &stamp(lba, 2)).unwrap();
    }
    let mut old = store.attach_snapshot("e1.0", "one", SnapshotOptions::default()).unwrap();
    for lba in 0..1000 {
        assert_eq!(read(&mut old, lba, 1).unwrap(), stamp(lba, 1));
        assert_eq!(read(&mut disk, lba, 1).unwrap(), stamp(lba, if lba < 500 { 2 } else { 1 }));
    }
    assert!(while_driven(&mut disk, || store.delete_snapshot("e1.0", "one")).is_err());
    drop(old);
    let before = while_driven(&mut disk, || store.restore_snapshot("e1.0", "one", true)).unwrap();
    disk.progress();
    assert_eq!(read(&mut disk, 0, 1).unwrap(), stamp(0, 1));
    let ranges = while_driven(&mut disk, || store.diff("e1.0", Some(&before.name), None)).unwrap();
    assert_eq!(ranges.iter().map(|range| range.sectors.0).sum::<u64>(), 512);
    println!("{:#?}", store.info().unwrap());
}

#[test]
fn a_size_that_cannot_be_is_refused_and_harms_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = CasStore::open(directory.path(), &options()).unwrap();
    let mut disk = store.attach("e1.0", sized(64)).unwrap();
    write(&mut disk, 3, &stamp(3, 1)).unwrap();
    // None, more than an initiator can ask for, and more octets than can be counted.
    for sectors in [0, (1 << 48) + 1, 1 << 55, u64::MAX] {
        let size = Sectors(sectors);
        let refused = while_driven(&mut disk, || store.create_volume("e1.1", size));
        assert!(
            matches!(refused, Err(CasError::Size { size: told }) if told == size),
            "{refused:?}"
        );
        let refused = while_driven(&mut disk, || store.resize_volume("e1.0", size, Shrink::Always));
        assert!(
            matches!(refused, Err(CasError::Size { size: told }) if told == size),
            "{refused:?}"
        );
    }
    assert_eq!(store.volumes().unwrap().len(), 1);
    assert_eq!(read(&mut disk, 3, 1).unwrap(), stamp(3, 1));
    assert_eq!(read(&mut disk, 64, 1), Err(Fault::OutOfRange));
}
