//! A store on a real disk, driven as the poll loop drives it: 64 requests in flight, each of 16 sectors
//! unless it says otherwise, and acknowledged when it is durable.
//!
//! What it leaves out: frames, links and the loop (`aoe-server bench` has those). Everything else is
//! there: journal, overlays, commits, packs. Stores are made below `TMPDIR`; the figures are that disk's as
//! much as this program's.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "it tells what criterion does not")]

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use aoe_server::clock::{Instant, now};
use aoe_server::storage::cas::{CasStore, CasVolume, StoreOptions, VolumeOptions};
use aoe_server::storage::{Accepted, BlockStorage, Ready, Ticket};
use aoe_server::units::{Lba, Sectors};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const DEPTH: usize = 64;
const SECTOR: usize = 512;
/// The size of the volumes: 1 GiB.
const SIZE: Sectors = Sectors(2 << 20);
/// What is written in one go: several commits.
const WRITTEN: usize = 256 << 20;

/// A store that is gone when this is.
struct Scratch {
    store: CasStore,
    disk: CasVolume,
    _directory: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, disk) = open(directory.path(), &StoreOptions::default());
        Self { store, disk, _directory: directory }
    }
}

fn open(path: &Path, options: &StoreOptions) -> (CasStore, CasVolume) {
    let (store, _) = CasStore::open(path, options).unwrap();
    let options = VolumeOptions { size: Some(SIZE), ..VolumeOptions::default() };
    let disk = store.attach("bench", options).unwrap();
    (store, disk)
}

/// Numbers that look random, a different sequence for each seed.
fn noise(seed: u64, octets: &mut [u8]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in octets.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

/// Waits as the loop does: looks again, and lets others have the processor.
fn pause(disk: &mut CasVolume) {
    if !disk.progress() {
        std::thread::yield_now();
    }
}

/// Writes requests of `data`, each to the place that `place` says, and waits until all are durable.
/// Tells how long each took until it was.
fn write(
    disk: &mut CasVolume,
    data: &[u8],
    request: usize,
    mut place: impl FnMut(usize) -> u64,
) -> Vec<Duration> {
    let mut in_flight: VecDeque<(Ticket, Instant)> = VecDeque::with_capacity(DEPTH);
    let mut latencies = Vec::with_capacity(data.len() / request);
    for (number, octets) in data.chunks_exact(request).enumerate() {
        let start = now();
        let ticket = loop {
            settle(disk, &mut in_flight, &mut latencies);
            if in_flight.len() == DEPTH {
                pause(disk);
                continue;
            }
            match disk.write(Lba(place(number)), octets).unwrap() {
                Accepted::Done(ticket) => break ticket,
                Accepted::Later => pause(disk),
            }
        };
        in_flight.push_back((ticket, start));
    }
    while !in_flight.is_empty() {
        settle(disk, &mut in_flight, &mut latencies);
        pause(disk);
    }
    latencies
}

fn settle(
    disk: &mut CasVolume,
    in_flight: &mut VecDeque<(Ticket, Instant)>,
    latencies: &mut Vec<Duration>,
) {
    let durable = disk.durable();
    while let Some(&(ticket, start)) = in_flight.front()
        && ticket <= durable
    {
        in_flight.pop_front();
        latencies.push(now().since(start));
    }
}

fn read(disk: &mut CasVolume, bytes: usize, request: usize) {
    let mut into = vec![0; request];
    for number in 0..bytes / request {
        let lba = Lba((number * request / SECTOR) as u64);
        while disk.read(lba, &mut into).unwrap() == Ready::Later {
            pause(disk);
        }
    }
}

fn percentile(latencies: &mut [Duration], percent: usize) -> Duration {
    latencies.sort_unstable();
    latencies[(latencies.len() - 1) * percent / 100]
}

fn sequential_writes(c: &mut Criterion) {
    let mut group = c.benchmark_group("archive/write");
    group.sample_size(10).throughput(Throughput::Bytes(WRITTEN as u64));
    let mut data = vec![0; WRITTEN];
    let mut seed = 0;
    for (name, is_new) in [("new", true), ("duplicate", false)] {
        let mut scratch = Scratch::new();
        noise(0, &mut data);
        write(&mut scratch.disk, &data, 16 * SECTOR, |n| n as u64 * 16);
        let mut all = Vec::new();
        group.bench_function(BenchmarkId::new("sequential", name), |b| {
            b.iter_custom(|rounds| {
                let mut took = Duration::ZERO;
                for _ in 0..rounds {
                    seed += 1;
                    if is_new {
                        noise(seed, &mut data);
                    }
                    // Half a block further each time, so that duplicates are not where they were.
                    let shift = seed % 8 * 32;
                    let start = now();
                    let latencies =
                        write(&mut scratch.disk, &data, 16 * SECTOR, |n| n as u64 * 16 + shift);
                    took += now().since(start);
                    all.extend(latencies);
                }
                took
            });
        });
        let (half, most) = (percentile(&mut all, 50), percentile(&mut all, 99));
        println!("{name}: until durable: p50 {half:?}, p99 {most:?}");
        println!("{name}: {:?}", scratch.store.info().unwrap().split);
    }
    group.finish();
}

fn small_writes(c: &mut Criterion) {
    const COUNT: usize = 20_000;
    let mut group = c.benchmark_group("archive/write");
    group.sample_size(10).throughput(Throughput::Elements(COUNT as u64));
    let mut data = vec![0; COUNT * 2 * SECTOR];
    noise(7, &mut data);
    let mut scratch = Scratch::new();
    for (name, random) in [("sequential", false), ("random", true)] {
        let mut state = 1_u64;
        group.bench_function(BenchmarkId::new("2-sectors", name), |b| {
            b.iter(|| {
                write(&mut scratch.disk, &data, 2 * SECTOR, |n| {
                    if !random {
                        return n as u64 * 2;
                    }
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    (state >> 33) % (SIZE.0 / 2) * 2
                })
            });
        });
    }
    group.finish();
}

fn reads(c: &mut Criterion) {
    let mut group = c.benchmark_group("archive/read");
    group.sample_size(10).throughput(Throughput::Bytes(WRITTEN as u64));
    let mut scratch = Scratch::new();
    let mut data = vec![0; WRITTEN];
    noise(3, &mut data);
    write(&mut scratch.disk, &data, 16 * SECTOR, |n| n as u64 * 16);
    commit(&mut scratch);
    // More than the cache has: from packs in the page cache.
    group.bench_function("sequential/packs", |b| {
        b.iter(|| read(&mut scratch.disk, WRITTEN, 16 * SECTOR));
    });
    group.throughput(Throughput::Bytes(64 << 20));
    group.bench_function("sequential/cached", |b| {
        b.iter(|| read(&mut scratch.disk, 64 << 20, 16 * SECTOR));
    });
    group.finish();
}

fn commit(scratch: &mut Scratch) {
    let Scratch { store, disk, .. } = scratch;
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| store.commit().unwrap());
        while !commit.is_finished() {
            pause(disk);
        }
    });
}

fn snapshots(c: &mut Criterion) {
    let mut group = c.benchmark_group("archive/snapshot");
    group.sample_size(10);
    let mut scratch = Scratch::new();
    let mut data = vec![0; 64 << 20];
    noise(3, &mut data);
    write(&mut scratch.disk, &data, 16 * SECTOR, |n| n as u64 * 16);
    commit(&mut scratch);
    let mut number = 0;
    group.bench_function("idle", |b| {
        b.iter(|| {
            number += 1;
            scratch.store.create_snapshot("bench", &format!("s{number}")).unwrap()
        });
    });
    group.finish();
}

fn replay(c: &mut Criterion) {
    const REPLAYED: usize = 192 << 20;
    let mut group = c.benchmark_group("archive/replay");
    group.sample_size(10).throughput(Throughput::Bytes(REPLAYED as u64));
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        commit_bytes: 1 << 30,
        overlay_bytes: 2 << 30,
        journal_bytes: 512 << 20,
        commit_interval: Duration::from_hours(1),
        ..StoreOptions::default()
    };
    let (store, mut disk) = open(directory.path(), &options);
    let mut data = vec![0; REPLAYED];
    noise(3, &mut data);
    write(&mut disk, &data, 16 * SECTOR, |n| n as u64 * 16);
    // As after a crash: what is in the files now is what a restart finds.
    let copy = tempfile::tempdir().unwrap();
    let copied = |to: &Path| {
        let run = std::process::Command::new("cp").arg("-r").arg(directory.path()).arg(to).status();
        assert!(run.unwrap().success());
    };
    group.bench_function("192-MiB", |b| {
        b.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for round in 0..rounds {
                let path = copy.path().join(format!("copy-{round}"));
                copied(&path);
                let start = now();
                let (store, recovered) = CasStore::open(&path, &options).unwrap();
                took += now().since(start);
                assert_eq!(recovered.bytes, REPLAYED as u64);
                drop(store);
                std::fs::remove_dir_all(&path).unwrap();
            }
            took
        });
    });
    group.finish();
    drop(disk);
    drop(store);
}

criterion_group!(benches, sequential_writes, small_writes, reads, snapshots, replay);
criterion_main!(benches);
