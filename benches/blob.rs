//! Stores of blobs: packs and small blobs put and had, beside a plain write, sync and rename.
//!
//! Puts include the hash and everything that makes a blob durable, and say most about the disk below;
//! so does *plain*, which writes the same octets to one directory, syncs the file and renames it, but
//! neither hashes nor syncs the directory. Everything that is read is in the page cache. What was put
//! is deleted again, which is not measured.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot run should say so")]

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write as _;
use std::thread;
use std::time::Duration;

use aoe_server::blob::file::FileBlobStore;
use aoe_server::blob::{Blob, BlobId, BlobStore};
use aoe_server::clock;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;

const PACK: usize = 16 << 20;
/// Blobs of one `put_many`.
const MANY: usize = 128;

fn temp() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Blobs of one length, none twice.
struct Source {
    octets: Vec<u8>,
    number: u64,
}

impl Source {
    fn new(len: usize) -> Self {
        let octets = (0..len as u64).map(|place| (place * place % 251).to_le_bytes()[0]).collect();
        Self { octets, number: 0 }
    }

    fn next(&mut self) -> &[u8] {
        self.number += 1;
        self.octets[..8].copy_from_slice(&self.number.to_le_bytes());
        &self.octets
    }
}

/// How long it takes to put `count` blobs in `times` rounds.
fn put(store: &FileBlobStore, source: &mut Source, times: u64, count: usize) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..times {
        let contents: Vec<_> = (0..count).map(|_| source.next().to_vec()).collect();
        let start = clock::now();
        let blobs: Vec<_> = contents.iter().map(|octets| Blob::new(octets)).collect();
        match &blobs[..] {
            [blob] => drop(store.put(blob).unwrap()),
            blobs => drop(store.put_many(blobs).unwrap()),
        }
        spent += clock::now().since(start);
        for blob in &blobs {
            store.delete(blob.id()).unwrap();
        }
    }
    spent
}

/// The same, one by one from several threads at once.
fn put_threads(store: &FileBlobStore, source: &mut Source, times: u64, count: usize) -> Duration {
    const THREADS: usize = 8;
    let mut spent = Duration::ZERO;
    for _ in 0..times {
        let contents: Vec<_> = (0..count).map(|_| source.next().to_vec()).collect();
        let start = clock::now();
        thread::scope(|scope| {
            for share in contents.chunks(count.div_ceil(THREADS)) {
                scope.spawn(move || {
                    for octets in share {
                        store.put(&Blob::new(octets)).unwrap();
                    }
                });
            }
        });
        spent += clock::now().since(start);
        for octets in &contents {
            store.delete(BlobId::of(octets)).unwrap();
        }
    }
    spent
}

fn plain(directory: &TempDir, source: &mut Source, times: u64) -> Duration {
    let (unfinished, finished) = (directory.path().join("new"), directory.path().join("file"));
    let mut spent = Duration::ZERO;
    for _ in 0..times {
        let octets = source.next();
        let start = clock::now();
        let mut file = File::create_new(&unfinished).unwrap();
        file.write_all(octets).unwrap();
        file.sync_all().unwrap();
        drop(file);
        fs::rename(&unfinished, &finished).unwrap();
        spent += clock::now().since(start);
        fs::remove_file(&finished).unwrap();
    }
    spent
}

fn puts(c: &mut Criterion) {
    let (store_dir, plain_dir) = (temp(), temp());
    let store = FileBlobStore::open(store_dir.path()).unwrap();
    for (name, len) in
        [("16 MiB", PACK), ("64 KiB", 1 << 16), ("16 KiB", 1 << 14), ("4 KiB", 1 << 12)]
    {
        let mut group = c.benchmark_group(format!("blob/put {name}"));
        group.sample_size(10);
        let mut source = Source::new(len);
        let each = Throughput::ElementsAndBytes { elements: 1, bytes: len as u64 };
        group.throughput(each);
        group.bench_function("plain", |b| b.iter_custom(|n| plain(&plain_dir, &mut source, n)));
        group.bench_function("one by one", |b| {
            b.iter_custom(|times| put(&store, &mut source, times, 1));
        });
        if len == PACK {
            continue;
        }
        let (elements, bytes) = (MANY as u64, (MANY * len) as u64);
        group.throughput(Throughput::ElementsAndBytes { elements, bytes });
        group.bench_function("many", |b| {
            b.iter_custom(|times| put(&store, &mut source, times, MANY));
        });
        group.bench_function("8 threads", |b| {
            b.iter_custom(|times| put_threads(&store, &mut source, times, MANY));
        });
    }
}

fn gets(c: &mut Criterion) {
    let dir = temp();
    let store = FileBlobStore::open(dir.path()).unwrap();
    for (name, len) in [("16 MiB", PACK), ("16 KiB", 1 << 14)] {
        let mut group = c.benchmark_group(format!("blob/get of {name}"));
        let mut source = Source::new(len);
        let blob = Blob::new(source.next());
        store.put(&blob).unwrap();
        let id = blob.id();
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: len as u64 });
        group.bench_function("whole, verified", |b| b.iter(|| black_box(store.get(id).unwrap())));
        group.bench_function("present", |b| b.iter(|| store.put(&blob).unwrap()));
        let part = len.min(1 << 14);
        let mut into = vec![0xa5; part];
        let mut offset = 0;
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: part as u64 });
        group.bench_function("16 KiB of it", |b| {
            b.iter(|| {
                store.get_range(id, offset as u64, black_box(&mut into)).unwrap();
                offset = (offset + part) % len;
            });
        });
    }
}

criterion_group!(benches, puts, gets);
criterion_main!(benches);
