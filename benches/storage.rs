//! Storage back ends: what one frame's worth of octets costs the poll loop's thread.
//!
//! Left out are frames, the engine and the wire. Hot reads are of an image that is in the page
//! cache, addressed at random; durable writes include the sync, and say most about the disk below.
//! Reads of a device are of a loop device over such an image, whichever way they are read; they need
//! root. `DEVICE_BENCH_DIRECT=1` lets the loop device go past the page cache.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot run should say so")]

use std::collections::VecDeque;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::Command;

use aoe_server::storage::device::{DeviceOptions, DeviceStorage, ReadMethod};
use aoe_server::storage::file::{FileOptions, FileStorage};
use aoe_server::storage::mem::MemStorage;
use aoe_server::storage::{Accepted, BlockStorage, Ready, Ticket};
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Sectors of the image: 64 MiB, more than the caches of a processor.
const SIZE: u64 = 131_072;
/// Writes, or reads of a device, in flight.
const DEPTH: u64 = 64;

/// Addresses that follow no order, always the same.
struct Addresses(u64);

impl Addresses {
    fn next(&mut self, sectors: u64) -> Lba {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Lba((self.0 >> 33) % (SIZE / sectors) * sectors)
    }
}

fn image() -> (tempfile::TempDir, FileStorage) {
    let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = FileOptions { size: Some(Sectors(SIZE)), ..FileOptions::default() };
    let mut disk = FileStorage::open(dir.path().join("image"), options).unwrap();
    let data = [0x5a; 16 * SECTOR_SIZE];
    let mut last = Ticket::NONE;
    for lba in (0..SIZE).step_by(16) {
        last = write(&mut disk, Lba(lba), &data);
    }
    while disk.durable() < last {
        disk.progress();
    }
    (dir, disk)
}

fn write(disk: &mut impl BlockStorage, lba: Lba, data: &[u8]) -> Ticket {
    loop {
        match disk.write(lba, data).unwrap() {
            Accepted::Done(ticket) => return ticket,
            Accepted::Later => while !disk.progress() {},
        }
    }
}

fn read(disk: &mut impl BlockStorage, lba: Lba, into: &mut [u8]) {
    while disk.read(lba, into).unwrap() == Ready::Later {
        disk.progress();
    }
}

fn reads(c: &mut Criterion, name: &str, disk: &mut impl BlockStorage) {
    for sectors in [2_u64, 16] {
        let bytes = sectors * SECTOR_SIZE as u64;
        let mut buffer = vec![0xa5; 16 * SECTOR_SIZE];
        let into = &mut buffer[..usize::try_from(bytes).unwrap()];
        let mut group = c.benchmark_group("storage/read");
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes });
        let mut addresses = Addresses(1);
        group.bench_function(format!("{name}/{sectors} sectors, random"), |b| {
            b.iter(|| read(disk, black_box(addresses.next(sectors)), into));
        });
        group.bench_function(format!("{name}/{sectors} sectors, same"), |b| {
            b.iter(|| read(disk, black_box(Lba(4096)), into));
        });
        group.finish();
    }
}

fn hot_reads(c: &mut Criterion) {
    let (_dir, mut disk) = image();
    reads(c, "file", &mut disk);
    let octets = vec![0x5a; usize::try_from(SIZE).unwrap() * SECTOR_SIZE];
    reads(c, "mem", &mut MemStorage::new(octets, "ram"));
}

fn durable_writes(c: &mut Criterion) {
    let (_dir, mut disk) = image();
    let data = [0x77; 8 * SECTOR_SIZE];
    let mut group = c.benchmark_group("storage/write");
    group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: data.len() as u64 });
    let mut addresses = Addresses(1);
    let mut last = Ticket::NONE;
    group.bench_function("file/8 sectors, durable, 64 in flight", |b| {
        b.iter(|| {
            last = write(&mut disk, addresses.next(8), &data);
            while last.0 - disk.durable().0 >= DEPTH {
                disk.progress();
                std::thread::yield_now();
            }
        });
    });
    group.finish();
    disk.outcome(last).unwrap();
}

fn turns(c: &mut Criterion) {
    let (_dir, mut disk) = image();
    let mut group = c.benchmark_group("storage/progress");
    group.bench_function("file, no news", |b| b.iter(|| black_box(&mut disk).progress()));
    group.finish();
}

/// A block device over a file in the page cache.
struct LoopDevice {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl LoopDevice {
    /// `None`, which is said aloud, where there is none.
    #[allow(clippy::print_stderr, reason = "a bench that is skipped says so")]
    fn new() -> Option<Self> {
        let dir = tempfile::TempDir::new_in("/var/tmp").unwrap();
        let image = dir.path().join("image");
        let octets = vec![0x5a; usize::try_from(SIZE).unwrap() * SECTOR_SIZE];
        std::fs::write(&image, octets).unwrap();
        let direct = if std::env::var_os("DEVICE_BENCH_DIRECT").is_some() { "on" } else { "off" };
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).arg(format!("--direct-io={direct}")).arg(&image);
        let output = losetup.output().unwrap();
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            eprintln!("\n*** SKIPPED: no loop device, are you root? {} ***\n", why.trim());
            return None;
        }
        let path = String::from_utf8(output.stdout).unwrap().trim().into();
        Some(Self { path, _dir: dir })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

/// One more read, while others are in flight.
fn read_deep(disk: &mut DeviceStorage, asked: &mut VecDeque<Lba>, lba: Lba, into: &mut [u8]) {
    asked.push_back(lba);
    let _ = disk.read(lba, into).unwrap();
    while asked.len() as u64 >= DEPTH {
        if !disk.progress() {
            std::thread::yield_now();
            continue;
        }
        asked.retain(|lba| disk.read(*lba, into).unwrap() == Ready::Later);
    }
}

#[allow(clippy::print_stderr, reason = "a bench that is skipped says so")]
fn device_reads(c: &mut Criterion) {
    const SECTORS: u64 = 16;
    let Some(device) = LoopDevice::new() else { return };
    let mut group = c.benchmark_group("storage/device read");
    let bytes = SECTORS * SECTOR_SIZE as u64;
    group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes });
    for (name, reads) in [("ring", ReadMethod::Ring), ("threads", ReadMethod::Threads)] {
        let options = DeviceOptions { reads, ..DeviceOptions::default() };
        let mut disk = match DeviceStorage::open(&device.path, options) {
            Ok(disk) => disk,
            Err(error) => {
                eprintln!("\n*** SKIPPED: {name}: {error:?} ***\n");
                continue;
            }
        };
        let mut buffer = vec![0xa5; usize::try_from(bytes).unwrap()];
        let mut addresses = Addresses(1);
        group.bench_function(format!("{name}/16 sectors, random, 1 in flight"), |b| {
            b.iter(|| read_waiting(&mut disk, addresses.next(SECTORS), &mut buffer));
        });
        let mut next = 0;
        group.bench_function(format!("{name}/16 sectors, one after the other"), |b| {
            b.iter(|| {
                read_waiting(&mut disk, Lba(next), &mut buffer);
                next = (next + SECTORS) % SIZE;
            });
        });
        let mut asked = VecDeque::new();
        group.bench_function(format!("{name}/16 sectors, random, 64 in flight"), |b| {
            let mut next = || addresses.next(SECTORS);
            b.iter(|| read_deep(&mut disk, &mut asked, next(), &mut buffer));
        });
    }
    group.finish();
}

/// As [`read`], and lets the threads of others run meanwhile.
fn read_waiting(disk: &mut DeviceStorage, lba: Lba, into: &mut [u8]) {
    while disk.read(lba, into).unwrap() == Ready::Later {
        while !disk.progress() {
            std::thread::yield_now();
        }
    }
}

criterion_group!(benches, hot_reads, durable_writes, turns, device_reads);
criterion_main!(benches);
