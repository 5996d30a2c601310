//! How long things take, for `docs/performance.md`: nothing here fails.
//!
//! `cargo test --release --lib --features cas index_figures -- --ignored --nocapture`, with
//! `AOE_ENTRIES=1000000` for fewer entries.

use std::hint::black_box;
use std::time::Duration;

use super::tests::location;
use super::*;
use crate::clock;

const STORE: StoreId = StoreId(*b"a store to meter");
const LOOKUPS: u32 = 1_000_000;

/// Splitmix64, four times: keys that are spread as hashes are, for less than a hash.
fn key(number: u64) -> ContentId {
    let mut octets = [0; 32];
    for (part, chunk) in (0..4_u64).zip(octets.chunks_exact_mut(8)) {
        let mut z = (number * 4 + part + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    ContentId(octets)
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = clock::now();
    let result = work();
    println!("{what}: {:.3?}", clock::now().since(start));
    result
}

/// Time of one of [`LOOKUPS`] lookups of scattered keys.
fn per_lookup(index: &Index<FileRuns>, entries: u64, absent: bool) -> Duration {
    let scattered = |n: u32| u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15) % entries;
    let offset = if absent { 1 << 60 } else { 0 };
    let keys: Vec<_> = (0..LOOKUPS).map(|n| key(scattered(n) + offset)).collect();
    let start = clock::now();
    let found = keys.iter().filter(|id| black_box(index.get(**id)).unwrap().is_some()).count();
    let spent = clock::now().since(start);
    assert_eq!(found, if absent { 0 } else { keys.len() });
    spent / LOOKUPS
}

fn report(index: &Index<FileRuns>, entries: u64) {
    let sizes: Vec<u64> = index.runs().iter().map(|run| run.entries).collect();
    println!("  runs {sizes:?}, {} bytes of memory", index.bytes());
    for _ in 0..2 {
        let [hit, miss] = [false, true].map(|absent| per_lookup(index, entries, absent));
        println!("  hit {hit:?}, miss {miss:?}");
    }
}

#[test]
#[ignore = "measures, and takes a minute"]
fn index_figures() {
    let entries = std::env::var("AOE_ENTRIES").map_or(10_000_000, |text| text.parse().unwrap());
    let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let open = || Index::open(FileRuns::open(temp.path()).unwrap(), STORE).unwrap().index;
    let index = open();
    let packs = 10_u32;
    let pack_of = |pack: u32| {
        let each = entries / u64::from(packs);
        let first = u64::from(pack) * each;
        (first..first + each).map(move |n| (key(n), location(1, pack)))
    };
    timed("insert a tenth", || index.insert_many(pack_of(0)));
    println!("{entries} entries, a tenth in memory");
    report(&index, entries / 10);
    for pack in 0..packs {
        if pack > 0 {
            index.insert_many(pack_of(pack));
        }
        timed("flush a tenth, and merge", || index.flush(pack).unwrap());
    }
    report(&index, entries);
    timed("merge all", || index.compact(&|_| true).unwrap());
    report(&index, entries);
    drop(index);
    let index = timed("open", open);
    report(&index, entries);
    assert!(timed("verify", || index.verify()).is_empty());
}
