//! A store on a real disk, driven as the poll loop drives it: 64 requests in flight, each of 16 sectors
//! unless it says otherwise, and acknowledged when it is durable.
//!
//! What it leaves out: frames and links (`aoe-server bench` has those). Everything else is there: journal,
//! overlays, commits, packs, and a loop that sleeps when there is nothing to do. Stores are made below
//! `TMPDIR`; the figures are that disk's as much as this program's, so that the disk alone, and the file
//! targets, are measured in the same rounds.
//!
//! `ARCHIVE_BLOCKS=10000000` adds the opening of a store with that many blocks, which takes minutes and
//! some 7 GB to make.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "it tells what criterion does not")]

mod beside;
mod drive;

use std::path::Path;
use std::time::Duration;

use aoe_server::clock::now;
use aoe_server::storage::cas::{CasStore, CasVolume, StoreOptions, VolumeOptions};
use aoe_server::storage::file::{FileOptions, FileStorage};
use aoe_server::storage::journal::{FileJournal, JournalOptions};
use aoe_server::units::Sectors;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use beside::{Limit, LimitBesidePacks, Rounds, per_mille, rate, resident_mib};
use drive::{DEPTH, Driven, Pace, SECTOR};

/// The size of the volumes: 1 GiB.
const SIZE: Sectors = Sectors(2 << 20);
/// What is written in one go: several commits.
const WRITTEN: usize = 256 << 20;
/// Octets of a full frame.
const FRAME: usize = 16 * SECTOR;
/// The longest record that requests in flight make, about; what the limit is measured with.
const RECORD: usize = DEPTH * FRAME;
/// Octets of a pack, as the archive makes them.
const PACK: usize = 16 << 20;

/// A store that is gone when this is.
struct Scratch {
    store: CasStore,
    disk: Driven<CasVolume>,
    directory: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        Self::with(&StoreOptions::default(), SIZE)
    }

    fn with(options: &StoreOptions, size: Sectors) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, disk) = open(directory.path(), options, size);
        Self { store, disk, directory }
    }

    fn commit(&mut self) {
        let Self { store, disk, .. } = self;
        std::thread::scope(|scope| {
            let commit = scope.spawn(|| store.commit().unwrap());
            while !commit.is_finished() {
                disk.rest(Duration::from_millis(1));
            }
        });
    }
}

fn open(path: &Path, options: &StoreOptions, size: Sectors) -> (CasStore, Driven<CasVolume>) {
    let (store, _) = CasStore::open(path, options).unwrap();
    let disk = Driven::new(|waker| {
        let waker = Some(waker);
        let options = VolumeOptions { size: Some(size), waker, ..VolumeOptions::default() };
        store.attach("bench", options).unwrap()
    });
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

fn sequential_writes(c: &mut Criterion) {
    let mut group = c.benchmark_group("archive/write");
    group.sample_size(10).throughput(Throughput::Bytes(WRITTEN as u64));
    let mut data = vec![0; WRITTEN];
    noise(0, &mut data);
    let mut seed = 0;
    for (name, is_new) in [("new", true), ("duplicate", false)] {
        let base = resident_mib();
        let mut scratch = Scratch::new();
        let limit = Limit::new(scratch.directory.path(), RECORD);
        let at = |seed: u64| move |number: usize| number as u64 * 16 + seed % 8 * 32;
        scratch.disk.write(&data, FRAME, Pace::Full, at(0));
        let (mut all, mut rounds) = (Vec::new(), Rounds::default());
        group.bench_function(BenchmarkId::new("sequential", name), |b| {
            b.iter_custom(|count| {
                let mut took = Duration::ZERO;
                for _ in 0..count {
                    seed += 1;
                    if is_new {
                        noise(seed, &mut data);
                    }
                    // One block further each time, so that duplicates are not where they were.
                    let start = now();
                    all.extend(scratch.disk.write(&data, FRAME, Pace::Full, at(seed)));
                    let round = now().since(start);
                    took += round;
                    rounds.add("archive", rate(WRITTEN, round));
                    rounds.add("disk alone, as its journal", limit.rate());
                }
                took
            });
        });
        rounds.tell(name, "archive", "MB/s");
        tell_latencies(name, &mut all);
        println!("{name}: {:?}", scratch.store.info().unwrap().split);
        println!("{name}: {} MiB resident more than before", resident_mib().saturating_sub(base));
    }
    group.finish();
}

fn tell_latencies(of: &str, latencies: &mut [Duration]) {
    if latencies.is_empty() {
        return; // left out by a filter
    }
    let [half, most, nearly_all] = [500, 990, 999].map(|part| per_mille(latencies, part));
    let longest = per_mille(latencies, 1000);
    println!(
        "{of}: until durable: p50 {half:?}, p99 {most:?}, p99.9 {nearly_all:?}, longest {longest:?}"
    );
}

/// At the rate of a gigabit link, which leaves the machine time: what a write waits for the others,
/// and for commits. In the same rounds, the disk alone with the same writes and packs.
fn paced_writes(c: &mut Criterion) {
    const RATE: u32 = 118_000_000;
    let mut group = c.benchmark_group("archive/write");
    group.sample_size(10).throughput(Throughput::Bytes(WRITTEN as u64));
    let mut data = vec![0; WRITTEN];
    let mut scratch = Scratch::new();
    let gap = Duration::from_secs(1) / (RATE / u32::try_from(FRAME).unwrap());
    let commit = usize::try_from(StoreOptions::default().commit_bytes).unwrap();
    let limit = LimitBesidePacks::new(scratch.directory.path(), RECORD);
    let (mut seed, mut all, mut alone) = (100, Vec::new(), Vec::new());
    let mut rounds = Rounds::default();
    group.bench_function("sequential/new, at 118 MB/s", |b| {
        b.iter_custom(|count| {
            let mut took = Duration::ZERO;
            for _ in 0..count {
                seed += 1;
                noise(seed, &mut data);
                let start = now();
                let place = |number| number as u64 * 16;
                let mut round = scratch.disk.write(&data, FRAME, Pace::Every(gap), place);
                took += now().since(start);
                // What is left over from the last commits is not to meet the disk alone.
                scratch.commit();
                rounds.add("archive", per_mille(&mut round, 990).as_secs_f64() * 1e3);
                all.extend(round);
                let mut round = limit.latencies(&data, FRAME, gap, (commit, PACK));
                rounds.add(
                    "disk alone, as its journal and packs",
                    per_mille(&mut round, 990).as_secs_f64() * 1e3,
                );
                alone.extend(round);
            }
            took
        });
    });
    tell_latencies("new, at 118 MB/s", &mut all);
    tell_latencies("new, at 118 MB/s, disk alone", &mut alone);
    rounds.tell("p99 until durable of a round", "archive", "ms");
    group.finish();
}

/// Places of small requests: in order, or anywhere.
fn places(random: bool, seed: u64) -> impl FnMut(usize) -> u64 {
    let mut state = seed;
    move |number| {
        if !random {
            return number as u64 * 2;
        }
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 33) % (SIZE.0 / 2) * 2
    }
}

/// A file target, all of whose image was written before.
fn file_target(directory: &Path, journalled: bool) -> Driven<FileStorage> {
    let path = directory.join(if journalled { "journalled" } else { "plain" });
    let zeros = std::fs::File::create(&path).unwrap();
    std::io::copy(
        &mut std::io::Read::take(std::io::repeat(0), SIZE.0 * SECTOR as u64),
        &mut &zeros,
    )
    .unwrap();
    zeros.sync_all().unwrap();
    let journal = journalled.then(|| {
        FileJournal::open(directory.join("journal"), JournalOptions::default()).unwrap().0
    });
    Driven::new(|waker| {
        let waker = Some(waker);
        FileStorage::open(path, FileOptions { journal, waker, ..FileOptions::default() }).unwrap()
    })
}

fn small_writes(c: &mut Criterion) {
    const COUNT: usize = 20_000;
    let mut group = c.benchmark_group("archive/write");
    group.sample_size(10).throughput(Throughput::Elements(COUNT as u64));
    let mut data = vec![0; COUNT * 2 * SECTOR];
    noise(7, &mut data);
    let mut scratch = Scratch::new();
    let images = tempfile::tempdir().unwrap();
    let mut plain = file_target(images.path(), false);
    let mut journalled = file_target(images.path(), true);
    for (name, random) in [("sequential", false), ("random", true)] {
        let (mut seed, mut rounds) = (0, Rounds::default());
        group.bench_function(BenchmarkId::new("2-sectors", name), |b| {
            b.iter_custom(|count| {
                let mut all = Duration::ZERO;
                for _ in 0..count {
                    seed += 1;
                    let places = || places(random, seed);
                    let mut timed = |what, write: &mut dyn FnMut()| {
                        let start = now();
                        write();
                        let took = now().since(start);
                        rounds.add(what, rate(COUNT, took) * 1e3);
                        took
                    };
                    all += timed("archive", &mut || {
                        scratch.disk.write(&data, 2 * SECTOR, Pace::Full, places());
                    });
                    timed("file", &mut || {
                        plain.write(&data, 2 * SECTOR, Pace::Full, places());
                    });
                    timed("file with a journal", &mut || {
                        journalled.write(&data, 2 * SECTOR, Pace::Full, places());
                    });
                }
                all
            });
        });
        rounds.tell(&format!("2 sectors, {name}"), "archive", "thousand writes/s");
    }
    group.finish();
}

fn reads(c: &mut Criterion) {
    const CACHED: usize = 64 << 20;
    let mut group = c.benchmark_group("archive/read");
    group.sample_size(10);
    let mut data = vec![0; WRITTEN];
    noise(3, &mut data);
    let base = resident_mib();
    let mut scratch = Scratch::new();
    scratch.disk.write(&data, FRAME, Pace::Full, |n| n as u64 * 16);
    scratch.commit();
    // More than the cache has: from packs in the page cache.
    group.throughput(Throughput::Bytes(WRITTEN as u64));
    for (name, depth) in [("packs", DEPTH), ("packs, one at a time", 1)] {
        let before = scratch.store.info().unwrap().reads;
        let mut rounds = 0;
        group.bench_function(BenchmarkId::new("sequential", name), |b| {
            b.iter(|| {
                rounds += 1;
                scratch.disk.read(WRITTEN, FRAME, depth);
            });
        });
        if rounds == 0 {
            continue; // left out by a filter
        }
        let after = scratch.store.info().unwrap().reads;
        println!(
            "{name}: {} reads of packs a round, {} MiB",
            (after.0 - before.0) / rounds,
            ((after.1 - before.1) / rounds) >> 20
        );
    }
    println!("packs: {} MiB resident more than before", resident_mib().saturating_sub(base));
    group.throughput(Throughput::Bytes(CACHED as u64));
    for (name, depth) in [("cached", DEPTH), ("cached, one at a time", 1)] {
        scratch.disk.read(CACHED, FRAME, depth);
        group.bench_function(BenchmarkId::new("sequential", name), |b| {
            b.iter(|| scratch.disk.read(CACHED, FRAME, depth));
        });
    }
    let usage = scratch.store.info().unwrap();
    println!("read: caches hold {:?} of bytes, overlays {:?}", usage.cache, usage.overlay);
    group.finish();
}

/// A volume of 100 GiB that has a sector of its own in each 2 MiB, and so each of its tree's 51 200
/// leaves.
fn snapshots(c: &mut Criterion) {
    const LARGE: Sectors = Sectors(200 << 20);
    const LEAF: u64 = 4096;
    let mut group = c.benchmark_group("archive/snapshot");
    group.sample_size(10);
    let mut scratch = Scratch::with(&StoreOptions::default(), LARGE);
    let mut data = vec![0; usize::try_from(LARGE.0 / LEAF).unwrap() * SECTOR];
    noise(3, &mut data);
    scratch.disk.write(&data, SECTOR, Pace::Full, |n| n as u64 * LEAF);
    scratch.commit();
    let mut number = 0;
    group.bench_function("idle-100-GiB", |b| {
        b.iter(|| {
            number += 1;
            scratch.store.create_snapshot("bench", &format!("s{number}")).unwrap()
        });
    });
    println!("snapshot: {:?}", scratch.store.info().unwrap());
    group.finish();
}

fn replay(c: &mut Criterion) {
    let mut group = c.benchmark_group("archive/replay");
    group.sample_size(10).throughput(Throughput::Bytes(WRITTEN as u64));
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        commit_bytes: 1 << 30,
        overlay_bytes: 2 << 30,
        journal_bytes: 768 << 20,
        commit_interval: Duration::from_hours(1),
        ..StoreOptions::default()
    };
    let (store, mut disk) = open(directory.path(), &options, SIZE);
    let mut data = vec![0; WRITTEN];
    noise(3, &mut data);
    disk.write(&data, FRAME, Pace::Full, |n| n as u64 * 16);
    // As after a crash: what is in the files now is what a restart finds.
    let copy = tempfile::tempdir().unwrap();
    let copied = |to: &Path| {
        let run = std::process::Command::new("cp").arg("-r").arg(directory.path()).arg(to).status();
        assert!(run.unwrap().success());
    };
    group.bench_function("256-MiB", |b| {
        b.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for round in 0..rounds {
                let path = copy.path().join(format!("copy-{round}"));
                copied(&path);
                let start = now();
                let (store, recovered) = CasStore::open(&path, &options).unwrap();
                took += now().since(start);
                assert_eq!(recovered.bytes, WRITTEN as u64);
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

/// What a store takes for 256 MiB of which a quarter are there twice and half compress well. Counted, not
/// timed: when it is closed.
fn stored(_: &mut Criterion) {
    let mut data = vec![0; WRITTEN];
    let quarter = WRITTEN / 4;
    noise(11, &mut data);
    data.copy_within(..quarter, quarter);
    for octets in data[2 * quarter..].chunks_exact_mut(64) {
        octets[16..].fill(0x5a);
    }
    let mut scratch = Scratch::new();
    scratch.disk.write(&data, FRAME, Pace::Full, |n| n as u64 * 16);
    let Scratch { store, disk, directory } = scratch;
    drop(disk);
    store.close().unwrap();
    drop(store);
    let usage = CasStore::usage_of(directory.path()).unwrap();
    let ratio = usage.overhead_ratio();
    println!("stored: {ratio:.4} octets for one of payload: {usage:?}");
}

/// Opening a store with many blocks: of 4 KiB, each with a sector of its own and zeros behind it.
fn many_blocks(c: &mut Criterion) {
    const ONE_GO: usize = 1 << 16;
    let Some(count) = std::env::var_os("ARCHIVE_BLOCKS") else { return };
    let count: usize = count.to_str().unwrap().parse().unwrap();
    let options = StoreOptions { block_bytes: Some(4096), ..StoreOptions::default() };
    let Scratch { store, mut disk, directory } = Scratch::with(&options, Sectors(count as u64 * 8));
    let mut data = vec![0; ONE_GO * SECTOR];
    for from in (0..count).step_by(ONE_GO) {
        for (n, sector) in data.chunks_exact_mut(SECTOR).enumerate() {
            sector[..8].copy_from_slice(&((from + n) as u64).to_le_bytes());
        }
        let here = ONE_GO.min(count - from);
        disk.write(&data[..here * SECTOR], SECTOR, Pace::Full, |n| (from + n) as u64 * 8);
    }
    drop(disk);
    store.close().unwrap();
    drop(store);
    let mut group = c.benchmark_group("archive/open");
    group.sample_size(10);
    group.bench_function(BenchmarkId::new("blocks", count), |b| {
        b.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                let start = now();
                let (store, _) = CasStore::open(directory.path(), &options).unwrap();
                took += now().since(start);
                println!("open: {:?}", store.info().unwrap());
            }
            took
        });
    });
    group.finish();
}

criterion_group!(
    benches,
    // First: what others delete when they are done, a file system may discard for seconds after.
    paced_writes,
    sequential_writes,
    small_writes,
    reads,
    snapshots,
    replay,
    stored,
    many_blocks
);
criterion_main!(benches);
