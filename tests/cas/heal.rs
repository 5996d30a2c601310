//! What is lost comes back when it is written again.

use std::fs;

use aoe_server::storage::cas::{CasStore, SnapshotOptions, VolumeOptions};
use aoe_server::storage::{BlockStorage as _, Fault};

use crate::damage::{Damaged, expected, lost};
use crate::disk::{read, while_driven, write};
use crate::octets::{FRAME_HEADER, flip};

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
