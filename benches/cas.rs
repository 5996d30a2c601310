//! What an archive does with blocks before it stores them, in bytes per second of their content.
//!
//! Nothing here touches a disk; the hash that names a block is beside the compression so that the two
//! can be compared. *random* cannot be compressed, *text* is words in no order.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot run should say so")]

use std::hint::black_box;

use aoe_server::storage::cas::internals::{DataPacks, compress_block, decompress_block};
use aoe_server::storage::cas::{ContentId, FrameKind};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const BLOCK: usize = 16 << 10;
const PACK: usize = 16 << 20;

/// Marsaglia's xorshift, 64 bits.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn block(&mut self) -> Vec<u8> {
        (0..BLOCK / 8).flat_map(|_| self.next().to_le_bytes()).collect()
    }
}

/// Words in no order: LZ4 makes three fifths of them.
fn text() -> Vec<u8> {
    const SYLLABLES: [&str; 16] = [
        "an", "ber", "cor", "den", "est", "for", "gat", "hin", "ist", "kon", "lum", "mor", "net",
        "ost", "per", "ran",
    ];
    let mut random = Random(0x616f_6521);
    let mut octets = Vec::with_capacity(BLOCK + 16);
    while octets.len() < BLOCK {
        for _ in 0..=random.next() % 3 {
            // The shift leaves four bits.
            let syllable = SYLLABLES[usize::try_from(random.next() >> 60).unwrap()];
            octets.extend_from_slice(syllable.as_bytes());
        }
        octets.push(b' ');
    }
    octets.truncate(BLOCK);
    octets
}

fn contents() -> [(&'static str, Vec<u8>); 3] {
    [("random", Random(7).block()), ("text", text()), ("zeros", vec![0; BLOCK])]
}

fn compress(c: &mut Criterion) {
    let mut group = c.benchmark_group("cas/16 KiB");
    group.throughput(Throughput::Bytes(BLOCK as u64));
    for (name, block) in contents() {
        let mut stored = Vec::new();
        group.bench_function(format!("{name}/compress"), |b| {
            b.iter(|| compress_block(black_box(&block), &mut stored));
        });
        let is_compressed = compress_block(&block, &mut stored);
        group.bench_function(format!("{name}/decompress"), |b| {
            b.iter(|| decompress_block(is_compressed, black_box(&stored), BLOCK).unwrap());
        });
    }
    let block = text();
    group.bench_function("hash", |b| b.iter(|| ContentId::of(FrameKind::Block, black_box(&block))));
    group.finish();
}

/// Blocks that were hashed before, until the pack is full; its own hash is not among it.
fn build_packs(c: &mut Criterion) {
    let mut group = c.benchmark_group("cas/16 MiB");
    group.throughput(Throughput::Bytes(PACK as u64));
    let block = Random(7).block();
    let mut packs = DataPacks::new(PACK);
    let mut pack = Vec::new();
    group.bench_function("build a pack of blocks", |b| {
        b.iter(|| {
            while packs.has_room(BLOCK, PACK) {
                packs.push([0x5a; 32], black_box(&block));
            }
            pack = packs.finish(std::mem::take(&mut pack));
        });
    });
    group.finish();
}

criterion_group!(benches, compress, build_packs);
criterion_main!(benches);
