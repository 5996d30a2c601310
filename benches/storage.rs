//! Storage back ends: what one frame's worth of octets costs the poll loop's thread.
//!
//! Left out are frames, the engine and the wire. Hot reads are of an image that is in the page
//! cache, addressed at random; durable writes include the sync, and say most about the disk below.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot run should say so")]

use std::hint::black_box;

use aoe_server::storage::file::{FileOptions, FileStorage};
use aoe_server::storage::mem::MemStorage;
use aoe_server::storage::{Accepted, BlockStorage, Ready, Ticket};
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Sectors of the image: 64 MiB, more than the caches of a processor.
const SIZE: u64 = 131_072;
/// Writes in flight.
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

criterion_group!(benches, hot_reads, durable_writes, turns);
criterion_main!(benches);
