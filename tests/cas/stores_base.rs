//! The store that `stores.rs` does damage to, and what is written in it.

use std::fmt;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aoe_server::blob::BlobId;
use aoe_server::storage::BlockStorage as _;
use aoe_server::storage::cas::{
    CasStore, CasVolume, FrameKind, FsckOptions, LostRange, StoreOptions, VolumeOptions,
};
use aoe_server::storage::journal::Geometry;
use aoe_server::units::Sectors;

use crate::disk::{discard, stamp, while_driven, write};
use crate::octets::{FRAME_HEADER, NODE, copy, flip, journal_bytes, packs};
use crate::stores::stores;

/// A volume or a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk<'a> {
    pub(crate) volume: &'a str,
    pub(crate) snapshot: Option<&'a str>,
}

impl Disk<'_> {
    pub(crate) fn sectors(self) -> u64 {
        if self.volume == LARGE { 2048 } else { 64 }
    }
}

impl fmt::Display for Disk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.snapshot {
            None => f.write_str(self.volume),
            Some(snapshot) => write!(f, "{}@{snapshot}", self.volume),
        }
    }
}

/// All that there are.
pub(crate) const DISKS: [Disk<'_>; 3] = [
    Disk { volume: LARGE, snapshot: None },
    Disk { volume: LARGE, snapshot: Some("one") },
    Disk { volume: SMALL, snapshot: None },
];

/// 2048 sectors, 256 blocks: a node above two leaves.
const LARGE: &str = "e1.0";
/// 64 sectors, 8 blocks: a leaf.
const SMALL: &str = "e1.1";

/// What the store has been through when something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum When {
    BeforeTheSnapshot,
    AfterIt,
    /// While the block could not be read: it becomes a patch.
    OnADamagedBlock,
    /// While the leaf could not be read: the other blocks become orphans.
    BelowADamagedNode,
    /// In packs that the index does not cover.
    AfterTheIndex,
    /// In no commit.
    InTheJournal,
}

/// Everything that is ever written, in this order: volume, sectors, and the version of their stamps, of which 0
/// stands for a discard.
const WRITES: [(When, &str, Range<u64>, u64); 20] = [
    (When::BeforeTheSnapshot, LARGE, 0..16, 1),
    (When::BeforeTheSnapshot, LARGE, 16..32, 1),
    (When::BeforeTheSnapshot, LARGE, 1016..1032, 1),
    (When::BeforeTheSnapshot, LARGE, 1032..1040, 1),
    (When::BeforeTheSnapshot, LARGE, 2040..2048, 1),
    (When::BeforeTheSnapshot, SMALL, 0..16, 11),
    (When::BeforeTheSnapshot, SMALL, 16..32, 11),
    (When::BeforeTheSnapshot, SMALL, 40..48, 11),
    (When::AfterIt, LARGE, 8..16, 2),
    (When::OnADamagedBlock, SMALL, 18..19, 12),
    (When::BelowADamagedNode, SMALL, 40..48, 12),
    (When::AfterTheIndex, LARGE, 24..32, 2),
    // The first two and the last two of a block, and the first one again.
    (When::InTheJournal, LARGE, 0..2, 3),
    (When::InTheJournal, LARGE, 6..8, 3),
    (When::InTheJournal, LARGE, 0..1, 4),
    (When::InTheJournal, LARGE, 600..601, 3),
    (When::InTheJournal, LARGE, 1031..1033, 3),
    (When::InTheJournal, LARGE, 2040..2042, 0),
    (When::InTheJournal, SMALL, 32..33, 13),
    (When::InTheJournal, LARGE, 2047..2048, 3),
];

/// What a sector was, the latest first.
pub(crate) fn history(disk: Disk<'_>, lba: u64) -> Vec<[u8; 512]> {
    let mut history = vec![[0; 512]];
    for (when, volume, sectors, version) in WRITES {
        let is_in_it = disk.snapshot.is_none() || when == When::BeforeTheSnapshot;
        if volume == disk.volume && is_in_it && sectors.contains(&lba) {
            history.push(content(lba, version));
        }
    }
    history.reverse();
    history
}

/// Whether it belongs to what was written last of all.
pub(crate) fn is_last(disk: Disk<'_>, lba: u64) -> bool {
    let (_, volume, sectors, _) = WRITES.last().unwrap();
    disk.snapshot.is_none() && disk.volume == *volume && sectors.contains(&lba)
}

fn content(lba: u64, version: u64) -> [u8; 512] {
    if version == 0 { [0; 512] } else { stamp(lba, version) }
}

pub(crate) fn options() -> StoreOptions {
    StoreOptions {
        block_bytes: Some(4096),
        journal_bytes: Geometry::LEAST_BYTES,
        overlay_bytes: 4 << 20,
        cache_bytes: 4 << 20,
        // Only when it is asked for.
        commit_interval: Duration::from_hours(1),
        ..StoreOptions::default()
    }
}

/// A copy of the store, with the zeros at the end of the journal, which are not kept.
pub(crate) fn base(to: &Path) {
    copy(&stores().join("base"), to);
    let journal = to.join("archive/journal");
    let bytes = journal_bytes(&fs::read(&journal).unwrap());
    File::options().write(true).open(journal).unwrap().set_len(bytes).unwrap();
}

/// Makes the store: once, since the places of all damages are places in it.
#[test]
#[ignore = "writes into the source"]
fn make_the_base() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path();
    write_and_close(store, &[When::BeforeTheSnapshot, When::AfterIt]);
    let block = block_of(store, SMALL, 16..24);
    flip(&block.0, block.1);
    write_and_close(store, &[When::OnADamagedBlock]);
    flip(&block.0, block.1);
    let leaf = node_of(store, SMALL);
    flip(&leaf.0, leaf.1);
    write_and_close(store, &[When::BelowADamagedNode]);
    flip(&leaf.0, leaf.1);

    let open = CasStore::open(store, &options()).unwrap().0;
    let made = tempfile::tempdir().unwrap();
    carry_out(&open, When::AfterTheIndex);
    let mut disks = [LARGE, SMALL].map(|name| open.attach(name, VolumeOptions::default()).unwrap());
    for (_, volume, sectors, version) in WRITES.iter().filter(|one| one.0 == When::InTheJournal) {
        put(&mut disks[usize::from(*volume == SMALL)], sectors.clone(), *version);
    }
    // As it is on the disk now.
    copy(store, made.path());
    drop(disks);
    drop(open);

    // Nothing but zeros follows what is in its first segment.
    let journal = made.path().join("archive/journal");
    let octets = fs::read(&journal).unwrap();
    let end = octets.iter().rposition(|octet| *octet != 0).unwrap() + 1;
    fs::write(journal, &octets[..end]).unwrap();
    let place = stores().join("base");
    assert!(!place.exists(), "there is one");
    copy(made.path(), &place);
}

/// Opens the store, does what is due, and closes it.
fn write_and_close(store: &Path, whens: &[When]) {
    let open = CasStore::open(store, &options()).unwrap().0;
    for when in whens {
        carry_out(&open, *when);
        if *when == When::BeforeTheSnapshot {
            open.create_snapshot(LARGE, "one").unwrap();
        }
    }
    open.close().unwrap();
}

/// Writes what is due, and commits it.
fn carry_out(store: &CasStore, due: When) {
    for disk in DISKS.into_iter().filter(|disk| disk.snapshot.is_none()) {
        let (name, size) = (disk.volume, Some(Sectors(disk.sectors())));
        let options = VolumeOptions { size, ..VolumeOptions::default() };
        let mut disk = store.attach(name, options).unwrap();
        for (when, volume, sectors, version) in WRITES {
            if when == due && volume == name {
                put(&mut disk, sectors, version);
            }
        }
        while_driven(&mut disk, || store.commit()).unwrap();
        disk.finish().unwrap();
    }
}

fn put(disk: &mut CasVolume, sectors: Range<u64>, version: u64) {
    if version == 0 {
        return discard(disk, sectors.start, sectors.end - sectors.start).unwrap();
    }
    let octets: Vec<u8> = sectors.clone().flat_map(|lba| content(lba, version)).collect();
    write(disk, sectors.start, &octets).unwrap();
}

/// Where the block of some sectors is, as they were at first: an octet of it.
fn block_of(store: &Path, volume: &str, sectors: Range<u64>) -> (PathBuf, u64) {
    let disk = Disk { volume, snapshot: None };
    let first = |lba| history(disk, lba).into_iter().rev().nth(1).unwrap();
    let octets: Vec<u8> = sectors.flat_map(first).collect();
    let name = BlobId::of(&octets).0;
    let mut frames = packs(store).into_iter().flat_map(|pack| pack.frames);
    let frame = frames.find(|frame| frame.name == name).unwrap();
    (frame.pack, frame.offset + FRAME_HEADER)
}

/// Where the leaf of a volume is: an octet of it, whose damage loses that volume and nothing else.
fn node_of(store: &Path, volume: &str) -> (PathBuf, u64) {
    let nodes = packs(store).into_iter().flat_map(|pack| pack.frames);
    let mut nodes = nodes.filter(|frame| frame.kind == NODE);
    let node = nodes.find(|node| {
        let at = node.offset + FRAME_HEADER + 30;
        flip(&node.pack, at);
        let report = CasStore::fsck(store, &FsckOptions::default(), &mut |_| ()).unwrap();
        flip(&node.pack, at);
        let is_it = |lost: &LostRange| lost.volume == volume && lost.kind == FrameKind::Node;
        !report.lost.is_empty() && report.lost.iter().all(is_it)
    });
    let node = node.unwrap();
    (node.pack, node.offset + FRAME_HEADER + 30)
}
