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
//! With many targets the requests go to one after the other, so that each has been away as long as
//! can be when it is its turn again; their disks together are as large as the one, until that would
//! leave less than a request. What a frame costs more then is fetching what a target is made of, not
//! work: finding it is one look into a table, and no turn visits a target that nothing waits for.
//!
//! `cargo bench --bench loop`.
#![allow(missing_docs, reason = "the macros of criterion define undocumented functions")]

mod common;

use std::hint::black_box;

use aoe_server::clock::Instant;
use aoe_server::link::{BATCH_FRAMES, Link as _};
use aoe_server::protocol::Address;
use aoe_server::server::Backend;
use common::{DATA_LEN, disk, read, serving, serving_by_turns, write};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// The address of the target with this number.
fn address(number: u16) -> Address {
    Address::new(number / 16, number.to_le_bytes()[0] % 16)
}

/// Disks at as many addresses.
fn disks(count: u16) -> Vec<(Address, Backend)> {
    (0..count).map(|number| (address(number), Box::new(disk()) as Backend)).collect()
}

fn turns(c: &mut Criterion) {
    let mut group = c.benchmark_group("loop");
    let bytes = (BATCH_FRAMES * DATA_LEN) as u64;
    group.throughput(Throughput::ElementsAndBytes { elements: BATCH_FRAMES as u64, bytes });
    let reply_len = 36 + DATA_LEN;
    for (name, frame, reply_len, targets) in [
        ("read/2-sectors/mem", read(address(0)), reply_len, 1),
        ("write/2-sectors/mem", write(), 60, 0),
        ("read/2-sectors/mem/8-targets", read(address(0)), reply_len, 8),
        ("read/2-sectors/mem/64-targets", read(address(0)), reply_len, 64),
        ("read/2-sectors/mem/1024-targets", read(address(0)), reply_len, 1024),
    ] {
        let mut listener = if targets == 0 {
            serving(frame, reply_len, Box::new(disk()))
        } else {
            let addresses = (0..targets).map(address).collect();
            serving_by_turns(frame, reply_len, disks(targets), addresses)
        };
        // Long before the next look around: that is a matter of tenths of seconds.
        group.bench_function(name, |bencher| {
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
