//! The whole loop over a link in memory: what one core could serve if the wire cost nothing.
//!
//! The link makes every request from a template, with the next sector's number and the next tag
//! written in, and throws the replies away after looking at the last one's length. So a frame
//! costs what it costs in service (receiving into the pool as one copy of the request, the checks,
//! the way to the target, the copy of the sectors, the reply's headers, the bookkeeping of a turn),
//! but for
//! * the kernel and the wire, both ways;
//! * cache misses on the data: the disk is 64 KiB of memory;
//! * waiting: a disk in memory is durable at once.
//!
//! `cargo bench --bench loop`.
#![allow(missing_docs, reason = "the macros of criterion define undocumented functions")]

mod common;

use std::hint::black_box;

use aoe_server::clock::Instant;
use aoe_server::link::{BATCH_FRAMES, Link as _};
use common::{DATA_LEN, TARGET, disk, read, serving, write};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn turns(c: &mut Criterion) {
    let mut group = c.benchmark_group("loop");
    let bytes = (BATCH_FRAMES * DATA_LEN) as u64;
    group.throughput(Throughput::ElementsAndBytes { elements: BATCH_FRAMES as u64, bytes });
    for (name, frame, reply_len) in [("read", read(TARGET), 36 + DATA_LEN), ("write", write(), 60)]
    {
        let mut listener = serving(frame, reply_len, Box::new(disk()));
        // Long before the next look around: that is a matter of tenths of seconds.
        group.bench_function(format!("{name}/2-sectors/mem"), |bencher| {
            bencher.iter(|| assert!(listener.turn(black_box(Instant::from_nanos(2)))));
        });
        let counters = listener.link_mut(0).expect("the only link").counters();
        let rest = counters.received.abs_diff(counters.sent);
        assert!(rest <= BATCH_FRAMES as u64, "every request but the last burst was answered");
    }
    group.finish();
}

criterion_group!(benches, turns);
criterion_main!(benches);
