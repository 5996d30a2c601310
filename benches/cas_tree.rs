//! The tree of an archive's volume, with all nodes in memory: lookups as the poll loop does them, and
//! updates as a commit does them.
//!
//! The volume has 64 GiB in blocks of 16 KiB, none of them zeros, which makes 130 MiB of nodes. Nodes are found
//! in a plain hash table; a cache with a limit costs more. Updates include the hash of each new node, and
//! neither the hash of a block nor storing anything. What has to be stored for them is printed.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::print_stderr, reason = "what criterion has no place for")]

use std::hint::black_box;

use aoe_server::storage::cas::TreeBench;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const BLOCK_BYTES: u64 = 16 << 10;
/// A power of two, for [`scatter`].
const BLOCKS: u64 = (64 << 30) / BLOCK_BYTES;
/// What a commit of 64 MiB has.
const CHANGES: u64 = 4096;

/// The block after `block`, in an order that looks random and has every block once.
fn scatter(block: u64) -> u64 {
    (block.wrapping_mul(0x2c9_277b5) + 0x1_0fe3) % BLOCKS
}

fn lookups(c: &mut Criterion) {
    let mut tree = TreeBench::new(BLOCKS);
    let mut group = c.benchmark_group("cas_tree/lookup");
    group.throughput(Throughput::Elements(1)); // lookups per second
    let mut block = 0;
    group.bench_function("cursor, sequential", |b| {
        b.iter(|| {
            block = (block + 1) % BLOCKS;
            tree.peek(black_box(block)).expect("it is there")
        });
    });
    group.bench_function("cursor, random", |b| {
        b.iter(|| {
            block = scatter(block);
            tree.peek(black_box(block)).expect("it is there")
        });
    });
    group.bench_function("cursor, random in 1 GiB", |b| {
        b.iter(|| {
            block = scatter(block);
            tree.peek(black_box(block % (BLOCKS / 64))).expect("it is there")
        });
    });
    group.bench_function("no cursor, random", |b| {
        b.iter(|| {
            block = scatter(block);
            tree.lookup(black_box(block)).expect("it is there")
        });
    });
    group.finish();
    updates(c, &tree);
}

fn updates(c: &mut Criterion, tree: &TreeBench) {
    let mut scattered: Vec<_> = std::iter::successors(Some(7), |block| Some(scatter(*block)))
        .take(usize::try_from(CHANGES).expect("some thousand"))
        .collect();
    scattered.sort_unstable();
    // Nine of ten in a hundredth of the volume: what a busy file system does.
    let mut hot: Vec<_> = scattered
        .iter()
        .enumerate()
        .map(|(n, block)| if n % 10 == 0 { *block } else { block / 100 })
        .collect();
    hot.sort_unstable();
    hot.dedup();
    let patterns = [
        ("sequential", (BLOCKS / 2..BLOCKS / 2 + CHANGES).collect()),
        ("90 % in 1 %", hot),
        ("scattered", scattered),
    ];
    let mut group = c.benchmark_group("cas_tree/update");
    for (name, blocks) in patterns {
        let count = blocks.len() as u64;
        let (nodes, octets) = tree.update(&blocks, 1);
        eprintln!(
            "{name}, {count} blocks: {nodes} nodes, {octets} octets; each block {:.4} nodes, {:.1} \
             octets, {:.4} of what it holds",
            ratio(nodes, count),
            ratio(octets, count),
            ratio(octets, count * BLOCK_BYTES),
        );
        group.throughput(Throughput::Elements(count)); // blocks per second
        let mut salt = 1;
        group.bench_function(name, |b| {
            b.iter(|| {
                salt += 1;
                tree.update(black_box(&blocks), salt)
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("cas_tree/diff");
    group.sample_size(10);
    group.throughput(Throughput::Elements(BLOCKS)); // blocks per second
    group.bench_function("everything", |b| b.iter(|| tree.differing()));
    group.finish();
}

#[allow(clippy::cast_precision_loss, reason = "small numbers, for people")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

criterion_group!(benches, lookups);
criterion_main!(benches);
