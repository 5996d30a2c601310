//! One suite that every back end of storage passes, and what is particular to each.
//!
//! Tests that need root, loop devices or a real file system say so aloud when they are skipped;
//! with `CI` set, where these are to be had, they fail instead.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[cfg(feature = "cas")]
mod archive;
mod device;
mod file;
mod loop_device;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aoe_server::clock;
use aoe_server::storage::device::DeviceStorage;
use aoe_server::storage::fault::FaultStorage;
use aoe_server::storage::file::{FileOptions, FileStorage, SyncPolicy};
use aoe_server::storage::journal::{FileJournal, Geometry, JournalOptions, Replayed};
use aoe_server::storage::mem::MemStorage;
use aoe_server::storage::readonly::ReadOnly;
use aoe_server::storage::{Accepted, BlockStorage, Fault, Ready, Ticket};
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};
use proptest::prelude::*;
use tempfile::TempDir;

use self::loop_device::{LoopDevice, skip};

/// Sectors of the disks here: some chunks of 64 KiB, and no whole number of them.
const SIZE: u64 = 1000;
/// Bytes of the disks here.
const BYTES: usize = 1000 * SECTOR_SIZE;

// --- Driving a disk as the loop does -----------------------------------------------------------

/// Calls `step` until it has a result, with progress in between.
fn until<S: BlockStorage, T>(disk: &mut S, mut step: impl FnMut(&mut S) -> Option<T>) -> T {
    let start = clock::now();
    loop {
        if let Some(result) = step(disk) {
            return result;
        }
        assert!(clock::now().since(start) < Duration::from_secs(20), "it takes too long");
        if !disk.progress() {
            std::thread::yield_now();
        }
    }
}

/// Waits until there is news.
fn news(disk: &mut impl BlockStorage) {
    let start = clock::now();
    while !disk.progress() {
        assert!(clock::now().since(start) < Duration::from_secs(20), "it takes too long");
        std::thread::yield_now();
    }
}

/// Calls `step` until it has a result, and as the loop does only when progress said it is worth it.
fn ask<S: BlockStorage, T>(disk: &mut S, mut step: impl FnMut(&mut S) -> Option<T>) -> T {
    loop {
        match step(disk) {
            Some(result) => return result,
            None => news(disk),
        }
    }
}

fn read(disk: &mut impl BlockStorage, lba: u64, sectors: usize) -> Result<Vec<u8>, Fault> {
    let mut octets = vec![0xa5; sectors * SECTOR_SIZE];
    ask(disk, |disk| match disk.read(Lba(lba), &mut octets) {
        Ok(Ready::Done) => Some(Ok(())),
        Ok(Ready::Later) => None,
        Err(fault) => Some(Err(fault)),
    })?;
    Ok(octets)
}

fn verify(disk: &mut impl BlockStorage, lba: u64, sectors: u64) -> Result<(), Fault> {
    ask(disk, |disk| match disk.verify(Lba(lba), Sectors(sectors)) {
        Ok(Ready::Done) => Some(Ok(())),
        Ok(Ready::Later) => None,
        Err(fault) => Some(Err(fault)),
    })
}

fn taken<S: BlockStorage>(
    disk: &mut S,
    mut call: impl FnMut(&mut S) -> Result<Accepted, Fault>,
) -> Result<Ticket, Fault> {
    ask(disk, |disk| match call(disk) {
        Ok(Accepted::Done(ticket)) => Some(Ok(ticket)),
        Ok(Accepted::Later) => None,
        Err(fault) => Some(Err(fault)),
    })
}

fn write(disk: &mut impl BlockStorage, lba: u64, data: &[u8]) -> Result<Ticket, Fault> {
    taken(disk, |disk| disk.write(Lba(lba), data))
}

fn applied(disk: &mut impl BlockStorage, ticket: Ticket) {
    until(disk, |disk| (disk.applied() >= ticket).then_some(()));
}

fn durable(disk: &mut impl BlockStorage, ticket: Ticket) -> Result<(), Fault> {
    until(disk, |disk| (disk.durable() >= ticket).then_some(()));
    assert!(disk.applied() >= disk.durable());
    disk.outcome(ticket)
}

/// Writes, and waits until it is durable.
fn put(disk: &mut impl BlockStorage, lba: u64, data: &[u8]) -> Result<(), Fault> {
    let ticket = write(disk, lba, data)?;
    durable(disk, ticket)
}

/// Octets that tell sectors and generations apart.
fn pattern(sectors: usize, seed: u8) -> Vec<u8> {
    (0..sectors * SECTOR_SIZE)
        .map(|at| u8::try_from(at * 7 % 251 + at / SECTOR_SIZE % 5).unwrap() ^ seed)
        .collect()
}

// --- The suite ---------------------------------------------------------------------------------

/// What every writable disk of [`SIZE`] sectors, all zero, does.
fn suite(disk: &mut impl BlockStorage) {
    assert_eq!(disk.info().size, Sectors(SIZE));
    assert!(!disk.info().read_only);
    boundaries(disk);
    ordering(disk);
    lengths(disk);
    discards(disk);
}

fn boundaries(disk: &mut impl BlockStorage) {
    let sector = pattern(1, 3);
    put(disk, SIZE - 1, &sector).unwrap();
    assert_eq!(read(disk, SIZE - 1, 1).unwrap(), sector);
    assert_eq!(read(disk, SIZE - 2, 1).unwrap(), [0; SECTOR_SIZE]);
    verify(disk, 0, SIZE).unwrap();
    let two = pattern(2, 4);
    for lba in [SIZE - 1, SIZE, SIZE + 1, 1 << 40, 1 << 55, u64::MAX - 1, u64::MAX] {
        assert_eq!(read(disk, lba, 2), Err(Fault::OutOfRange), "{lba}");
        assert_eq!(write(disk, lba, &two), Err(Fault::OutOfRange), "{lba}");
        assert_eq!(verify(disk, lba, 2), Err(Fault::OutOfRange), "{lba}");
        if disk.info().discard {
            let discarded = disk.discard(Lba(lba), Sectors(u64::MAX - 1));
            assert_eq!(discarded, Err(Fault::OutOfRange), "{lba}");
        }
    }
    assert_eq!(read(disk, SIZE, 1), Err(Fault::OutOfRange));
    assert_eq!(read(disk, SIZE - 1, 1).unwrap(), sector, "nothing of a refused write is there");
}

fn ordering(disk: &mut impl BlockStorage) {
    let mut last = Ticket::NONE;
    for generation in 0..200_u8 {
        // Overlapping by three sectors of four.
        let ticket = write(disk, u64::from(generation), &[generation; 4 * SECTOR_SIZE]).unwrap();
        assert!(ticket > last, "tickets grow");
        last = ticket;
        let (durable, applied) = (disk.durable(), disk.applied());
        assert!(durable <= applied && applied <= ticket);
    }
    let again = write(disk, 7, &[0xee; SECTOR_SIZE]).unwrap();
    let flush = taken(disk, BlockStorage::flush).unwrap();
    assert!(again > last && flush >= again);
    applied(disk, again);
    assert_eq!(read(disk, 7, 1).unwrap(), [0xee; SECTOR_SIZE], "a read sees what is applied");
    durable(disk, flush).unwrap();
    assert!(disk.durable() >= again, "a flush covers what came before");
    disk.outcome(again).unwrap();
    for lba in 0..200_u8 {
        let want = if lba == 7 { 0xee } else { lba };
        assert_eq!(read(disk, lba.into(), 1).unwrap(), [want; SECTOR_SIZE], "sector {lba}");
    }
    assert_eq!(read(disk, 202, 1).unwrap(), [199; SECTOR_SIZE]);
}

fn lengths(disk: &mut impl BlockStorage) {
    for sectors in [1, 2, 3, 7, 8, 16, 17, 18, 40, 256] {
        for lba in [0, 1, 5, 127, 128, 744] {
            let data = pattern(sectors, u8::try_from(sectors % 256).unwrap());
            let ticket = write(disk, lba, &data).unwrap();
            applied(disk, ticket);
            assert_eq!(read(disk, lba, sectors).unwrap(), data, "{sectors} sectors at {lba}");
        }
    }
}

fn discards(disk: &mut impl BlockStorage) {
    if !disk.info().discard {
        assert_eq!(disk.discard(Lba(0), Sectors(1)), Err(Fault::Aborted));
        return;
    }
    let data = pattern(256, 9);
    put(disk, 300, &data).unwrap();
    // Neither end on a page or a block.
    let ticket = taken(disk, |disk| disk.discard(Lba(303), Sectors(201))).unwrap();
    durable(disk, ticket).unwrap();
    assert_eq!(read(disk, 300, 3).unwrap(), data[..3 * SECTOR_SIZE]);
    assert_eq!(read(disk, 303, 201).unwrap(), vec![0; 201 * SECTOR_SIZE]);
    assert_eq!(read(disk, 504, 52).unwrap(), data[204 * SECTOR_SIZE..]);
    put(disk, 400, &data[..SECTOR_SIZE]).unwrap();
    assert_eq!(read(disk, 400, 1).unwrap(), data[..SECTOR_SIZE]);
    let ticket = taken(disk, |disk| disk.discard(Lba(301), Sectors(1))).unwrap();
    durable(disk, ticket).unwrap();
    assert_eq!(read(disk, 301, 1).unwrap(), [0; SECTOR_SIZE]);
}

// --- Random operations against an array --------------------------------------------------------

#[derive(Debug, Clone)]
enum Op {
    Write(u64, usize, u8),
    Discard(u64, u64),
    Read(u64, usize),
    Verify(u64, u64),
    Flush,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let lba = 0..SIZE - 40;
    prop_oneof![
        6 => (lba.clone(), 1..40_usize, any::<u8>()).prop_map(|(lba, n, seed)| Op::Write(lba, n, seed)),
        2 => (lba.clone(), 1..300_u64).prop_map(|(lba, n)| Op::Discard(lba, n.min(SIZE - lba))),
        4 => (lba.clone(), 1..40_usize).prop_map(|(lba, n)| Op::Read(lba, n)),
        1 => (lba, 1..40_u64).prop_map(|(lba, n)| Op::Verify(lba, n)),
        1 => Just(Op::Flush),
        1 => Just(Op::Reopen),
    ]
}

/// Carries `ops` out on the disk that `open` opens and on an array, and compares.
fn model<S: BlockStorage>(ops: &[Op], mut open: impl FnMut(Option<S>) -> S) {
    let mut disk = open(None);
    let mut array = vec![0_u8; BYTES];
    for op in ops {
        let mut last = Ticket::NONE;
        match *op {
            Op::Write(lba, sectors, seed) => {
                let data = pattern(sectors, seed);
                last = write(&mut disk, lba, &data).unwrap();
                let at = usize::try_from(lba).unwrap() * SECTOR_SIZE;
                array[at..at + data.len()].copy_from_slice(&data);
            }
            Op::Discard(lba, count) if disk.info().discard => {
                last = taken(&mut disk, |disk| disk.discard(Lba(lba), Sectors(count))).unwrap();
                let at = usize::try_from(lba).unwrap() * SECTOR_SIZE;
                array[at..at + usize::try_from(count).unwrap() * SECTOR_SIZE].fill(0);
            }
            Op::Read(lba, sectors) => {
                let at = usize::try_from(lba).unwrap() * SECTOR_SIZE;
                let octets = read(&mut disk, lba, sectors).unwrap();
                assert!(octets == array[at..at + octets.len()], "{op:?}");
            }
            Op::Verify(lba, count) => verify(&mut disk, lba, count).unwrap(),
            Op::Flush => {
                let ticket = taken(&mut disk, BlockStorage::flush).unwrap();
                durable(&mut disk, ticket).unwrap();
            }
            Op::Reopen => disk = open(Some(disk)),
            Op::Discard(..) => {}
        }
        applied(&mut disk, last);
    }
    disk = open(Some(disk));
    let whole: Vec<u8> =
        (0..SIZE).step_by(8).flat_map(|lba| read(&mut disk, lba, 8).unwrap()).collect();
    assert!(whole == array, "what is on the disk in the end");
}

fn ram() -> MemStorage<Vec<u8>> {
    MemStorage::new(vec![0; BYTES], "ram")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn memory_is_an_array(ops in prop::collection::vec(op(), 1..100)) {
        model(&ops, |old| old.unwrap_or_else(ram));
    }

    #[test]
    fn a_file_is_an_array(ops in prop::collection::vec(op(), 1..100), flush in any::<bool>()) {
        let dir = disk_dir();
        let sync = if flush { SyncPolicy::OnFlush } else { SyncPolicy::EveryGroup };
        model(&ops, |old: Option<FileStorage>| {
            drop(old);
            open_with(&dir.path().join("image"), FileOptions { sync, ..sized() })
        });
    }

    #[test]
    fn a_journalled_file_is_an_array(ops in prop::collection::vec(op(), 1..100)) {
        let dir = disk_dir();
        model(&ops, |old: Option<FileStorage>| {
            drop(old);
            open_with(&dir.path().join("image"), journalled(&dir))
        });
    }

    #[test]
    fn a_cache_over_a_file_is_an_array(ops in prop::collection::vec(op(), 1..60), seed in 0..9_u64) {
        let dir = disk_dir();
        let path = dir.path().join("image");
        model(&ops, |old: Option<FaultStorage<FileStorage>>| {
            if let Some(mut old) = old {
                let ticket = taken(&mut old, BlockStorage::flush).unwrap();
                durable(&mut old, ticket).unwrap();
            }
            let mut disk = FaultStorage::with_cache(open_with(&path, sized()), seed);
            disk.delay_reads(2);
            disk.delay_writes(1);
            disk
        });
    }

    #[test]
    fn a_device_is_an_array(ops in prop::collection::vec(op(), 1..40), large in any::<bool>()) {
        let device = || LoopDevice::new(BYTES as u64, if large { 4096 } else { 512 }, false);
        for method in device().map(|device| device.methods()).unwrap_or_default() {
            let Some(device) = device() else { return Ok(()) };
            model(&ops, |old: Option<DeviceStorage>| {
                drop(old);
                device.open(method)
            });
        }
    }
}

// --- Memory and wrappers -----------------------------------------------------------------------

#[test]
fn memory_passes_the_suite() {
    suite(&mut ram());
}

#[test]
fn wrappers_pass_the_suite() {
    suite(&mut FaultStorage::new(ram(), 1));
    let mut slow = FaultStorage::new(ram(), 1);
    slow.delay_reads(3);
    slow.delay_writes(2);
    suite(&mut slow);
    let mut boxed: Box<dyn BlockStorage> = Box::new(ram());
    suite(&mut boxed);
}

#[test]
fn a_read_only_wrapper_reads_and_refuses() {
    let mut disk = ram();
    put(&mut disk, 5, &pattern(1, 1)).unwrap();
    let mut disk = ReadOnly::new(disk);
    refuses_writes(&mut disk);
    assert_eq!(read(&mut disk, 5, 1).unwrap(), pattern(1, 1));
}

fn refuses_writes(disk: &mut impl BlockStorage) {
    assert!(disk.info().read_only && !disk.info().discard);
    assert_eq!(disk.write(Lba(0), &[1; SECTOR_SIZE]), Err(Fault::WriteProtected));
    assert_eq!(disk.discard(Lba(0), Sectors(1)), Err(Fault::WriteProtected));
    assert_eq!(disk.flush(), Ok(Accepted::Done(Ticket::NONE)));
    assert_eq!(read(disk, SIZE, 1), Err(Fault::OutOfRange));
    verify(disk, 0, SIZE).unwrap();
}

// --- Places to be in ---------------------------------------------------------------------------

/// A directory on the file system that the build is on.
fn disk_dir() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn sized() -> FileOptions {
    FileOptions { size: Some(Sectors(SIZE)), ..FileOptions::default() }
}

/// With a journal that is opened, and so perhaps made, for this image alone.
fn journalled(dir: &TempDir) -> FileOptions {
    let options = JournalOptions { bytes: Geometry::LEAST_BYTES, ..JournalOptions::default() };
    let (journal, replayed) = FileJournal::open(dir.path().join("journal"), options).unwrap();
    assert_eq!(replayed, Replayed::default(), "it was closed");
    FileOptions { journal: Some(journal), ..sized() }
}

fn open_with(path: &Path, options: FileOptions) -> FileStorage {
    FileStorage::open(path, options).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {error}");
    String::from_utf8(output.stdout).unwrap().trim().into()
}
