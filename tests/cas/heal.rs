//! What is lost comes back when it is written again.

use std::fs;

use aoe_server::storage::cas::{CasStore, Shrink, SnapshotOptions, VolumeOptions};
use aoe_server::storage::{BlockStorage as _, Fault};
use aoe_server::units::Sectors;

use crate::damage::{Damaged, expected, lost};
use crate::disk::{read, while_driven, write};
use crate::octets::{FRAME_HEADER, Frame, NODE, flip};

/// Sectors of one block.
const BLOCK: std::ops::Range<u64> = 40..48;

/// How a store comes to know that a pack is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It is not there.
    Missing,
    /// Somebody has read what is damaged.
    Read,
    /// All of it was read while it was served.
    Scrubbed,
    /// Its index was made anew.
    Repaired,
}

/// Writes a block as it was, into a store that is open for nothing else.
fn write_as_it_was(store: &Damaged, known: Known) {
    let open = store.open().unwrap();
    let mut disk = open.attach("e1.0", VolumeOptions::default()).unwrap();
    match known {
        Known::Read => assert_eq!(read(&mut disk, BLOCK.start, 8), Err(Fault::Media)),
        Known::Scrubbed => assert!(open.scrub(&mut |_| ()).unwrap().is_damaged()),
        Known::Missing | Known::Repaired => {}
    }
    let octets: Vec<u8> = BLOCK.flat_map(|lba| expected(lba, true)).collect();
    write(&mut disk, BLOCK.start, &octets).unwrap();
    while_driven(&mut disk, || open.commit()).unwrap();
    // From where it is stored: nothing of it is in memory.
    disk.finish().unwrap();
    drop(disk);
    open.close().unwrap();
}

/// Equal content is stored once; not where what is stored cannot be had.
#[test]
fn what_is_written_again_is_good_again() {
    for known in [Known::Missing, Known::Read, Known::Scrubbed, Known::Repaired] {
        let store = Damaged::new();
        let pack = store.data();
        if known == Known::Missing {
            fs::remove_file(&pack.path).unwrap();
        } else {
            flip(&pack.path, pack.frames[5].offset + FRAME_HEADER);
            assert_eq!(lost(&store.fsck()), ["e1.0 40..48 Block", "e1.0@one 40..48 Block"]);
        }
        if known == Known::Repaired {
            let repair = CasStore::repair_index(store.path(), &mut |_| ()).unwrap();
            assert_eq!(repair.damaged.iter().map(|(_, frames)| *frames).collect::<Vec<_>>(), [1]);
            assert_eq!(lost(&store.fsck()), ["e1.0 40..48 Block", "e1.0@one 40..48 Block"]);
        }
        write_as_it_was(&store, known);
        let report = store.fsck();
        let told = |lost: &str| lost.contains(" 40..48 ") || lost.contains(" 0..64 ");
        assert!(!lost(&report).iter().any(|lost| told(lost)), "{known:?}: {report:#?}");
        // Wherever else it is, too.
        let open = store.open().unwrap();
        let mut one = open.attach_snapshot("e1.0", "one", SnapshotOptions::default()).unwrap();
        let octets: Vec<u8> = BLOCK.flat_map(|lba| expected(lba, false)).collect();
        assert!(read(&mut one, BLOCK.start, 8) == Ok(octets), "{known:?}");
        // If only that was damaged, all is well.
        if known != Known::Missing {
            drop((one, open));
            assert_eq!(lost(&store.fsck()), [""; 0], "{known:?}");
        }
    }
}

/// Sectors below a leaf.
const LEAF: u64 = 1024;

/// Damages the only node of which a loss is told in these words.
fn damage_node(store: &Damaged, told: &str) -> Frame {
    let harm = |frame: &Frame| flip(&frame.pack, frame.offset + FRAME_HEADER);
    let is_it = |frame: &Frame| {
        harm(frame);
        let is_it = lost(&store.fsck()).contains(&told.to_owned());
        if !is_it {
            harm(frame);
        }
        is_it
    };
    store.frames(NODE).into_iter().find(is_it).expect("there is such a node")
}

/// A leaf all blocks of which are written again as they were comes out as it was, which is no reason not to
/// store it.
#[test]
fn a_lost_node_is_stored_again_when_its_blocks_are_written() {
    let store = Damaged::new();
    damage_node(&store, "e1.0 1024..2048 Node");
    let open = store.open().unwrap();
    let mut disk = open.attach("e1.0", VolumeOptions::default()).unwrap();
    // That is how it is found out.
    assert_eq!(read(&mut disk, LEAF, 8), Err(Fault::Media));
    for lba in (LEAF..2 * LEAF).step_by(64) {
        let octets: Vec<u8> = (lba..lba + 64).flat_map(|lba| expected(lba, true)).collect();
        write(&mut disk, lba, &octets).unwrap();
    }
    while_driven(&mut disk, || open.commit()).unwrap();
    disk.finish().unwrap();
    drop(disk);
    open.close().unwrap();
    drop(open);
    let report = store.fsck();
    assert_eq!(lost(&report), [""; 0]);
    store.reads_but_for_what_is_lost(&report);
}

/// What was on top is lost, and what was below it stands on top of what is left.
#[test]
fn a_volume_whose_tree_has_lost_its_top_can_be_cut() {
    let store = Damaged::new();
    let top = damage_node(&store, "e1.0 0..3072 Node");
    let open = store.open().unwrap();
    open.resize_volume("e1.0", Sectors(LEAF), Shrink::Always).unwrap();
    open.close().unwrap();
    drop(open);
    // No more than before: what was cut off is lost no longer.
    assert!(lost(&store.fsck()).contains(&"e1.0 0..1024 Node".to_owned()));
    let open = store.open().unwrap();
    let mut disk = open.attach("e1.0", VolumeOptions::default()).unwrap();
    assert_eq!(read(&mut disk, BLOCK.start, 8), Err(Fault::Media));
    // What is written to it is there.
    let octets: Vec<u8> = BLOCK.flat_map(|lba| expected(lba, true)).collect();
    write(&mut disk, BLOCK.start, &octets).unwrap();
    while_driven(&mut disk, || open.commit()).unwrap();
    assert_eq!(read(&mut disk, BLOCK.start, 8), Ok(octets));
    assert_eq!(read(&mut disk, 0, 8), Err(Fault::Media));
    disk.finish().unwrap();
    drop(disk);
    open.close().unwrap();
    drop(open);
    // Put back, it is what it was.
    flip(&top.pack, top.offset + FRAME_HEADER);
    assert_eq!(lost(&store.fsck()), [""; 0]);
    let open = store.open().unwrap();
    let mut disk = open.attach("e1.0", VolumeOptions::default()).unwrap();
    assert_eq!(disk.info().size, Sectors(LEAF));
    for lba in (0..LEAF).step_by(8) {
        let wanted: Vec<u8> = (lba..lba + 8).flat_map(|lba| expected(lba, true)).collect();
        assert!(read(&mut disk, lba, 8) == Ok(wanted), "sector {lba}");
    }
}
