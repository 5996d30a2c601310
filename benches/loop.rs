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

use std::hint::black_box;
use std::time::Duration;

use aoe_server::clock::Instant;
use aoe_server::engine::{Durability, Export, MacList, Settings, Target, TargetProfile};
use aoe_server::link::{BATCH_FRAMES, Batch, Link, LinkCounters, LinkError, LinkInfo};
use aoe_server::protocol::{
    Address, AtaFields, AtaFlags, Command, FrameFields, FrameWriter, MacAddr, Opcode, Tag,
};
use aoe_server::server::{Admission, Listener, PortSet};
use aoe_server::storage::mem::MemStorage;
use aoe_server::units::SECTOR_SIZE;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SERVER: MacAddr = MacAddr([0x02, 0xae, 0, 0, 0, 1]);
const INITIATOR: MacAddr = MacAddr([0x02, 0xc1, 0, 0, 0, 1]);
const TARGET: Address = Address::new(7, 3);
const SECTORS: u8 = 2;
const DATA_LEN: usize = SECTORS as usize * SECTOR_SIZE;
/// Sectors of the disk, a power of two that two octets can say.
const DISK_SECTORS: u16 = 128;

/// A link with no end of requests.
struct Template {
    frame: Vec<u8>,
    /// What each reply has to be as long as.
    reply_len: usize,
    tag: u32,
    counters: LinkCounters,
}

impl Link for Template {
    fn info(&self) -> LinkInfo {
        LinkInfo { mac: SERVER, mtu: 1_500, up: true }
    }

    fn receive(&mut self, batch: &mut Batch<'_>) -> Result<usize, LinkError> {
        let before = batch.len();
        for _ in 0..BATCH_FRAMES {
            let Some(buffer) = batch.next_buffer() else { break };
            buffer[..self.frame.len()].copy_from_slice(&self.frame);
            self.tag = self.tag.wrapping_add(1);
            buffer[20..24].copy_from_slice(&self.tag.to_be_bytes());
            let [low, ..] = self.tag.wrapping_mul(2).to_le_bytes();
            buffer[28] = low % DISK_SECTORS.to_le_bytes()[0];
            batch.commit(self.frame.len());
        }
        let received = batch.len() - before;
        self.counters.received += received as u64;
        Ok(received)
    }

    fn send(&mut self, batch: &Batch<'_>, first: usize) -> Result<usize, LinkError> {
        let sent = batch.len() - first;
        let last = black_box(batch.frame(batch.len() - 1));
        assert!(last.len() == self.reply_len || self.counters.sent == 0, "a reply of no interest");
        self.counters.sent += sent as u64;
        Ok(sent)
    }

    fn counters(&mut self) -> LinkCounters {
        self.counters
    }
}

fn request(opcode: Opcode, flags: AtaFlags, data: &[u8]) -> Vec<u8> {
    let fields = FrameFields::request(INITIATOR, SERVER, TARGET, Command::ATA, Tag([0; 4]));
    let registers =
        AtaFields { flags, feature: 0, sector_count: SECTORS, command: opcode.0, lba: [0; 6] };
    let mut octets = vec![0; 2_000];
    let mut writer = FrameWriter::new(&mut octets, &fields);
    let len = writer.ata(&registers).octets(data).finish().expect("2000 octets are enough");
    octets.truncate(len);
    octets
}

/// A loop that serves a disk in memory to a link that asks with `frame` again and again.
fn serving(frame: Vec<u8>, reply_len: usize) -> Listener<Template> {
    let link = Template { frame, reply_len, tag: 0, counters: LinkCounters::default() };
    let (mut listener, control) =
        Listener::new([("template".to_string(), link)], |_| None).expect("a loop");
    let profile = TargetProfile {
        address: TARGET,
        buffer_count: 64,
        durability: Durability::Durable,
        allow: MacList::new(),
    };
    let octets = vec![0x5a; usize::from(DISK_SECTORS) * SECTOR_SIZE];
    let storage = Box::new(MemStorage::new(octets, "bench"));
    let export =
        Export { target: Target::new(profile, Settings::default()), storage: storage as _ };
    let answer = control.add(export, PortSet::ALL, Duration::ZERO).expect("the loop takes orders");
    while answer.try_recv().map_or(true, |(admission, _)| admission != Admission::Served) {
        listener.turn(Instant::from_nanos(1));
    }
    listener
}

fn turns(c: &mut Criterion) {
    let mut group = c.benchmark_group("loop");
    let bytes = (BATCH_FRAMES * DATA_LEN) as u64;
    group.throughput(Throughput::ElementsAndBytes { elements: BATCH_FRAMES as u64, bytes });
    let read = request(Opcode::READ_EXT, AtaFlags::EXTENDED, &[]);
    let flags = AtaFlags::EXTENDED.union(AtaFlags::WRITE);
    let write = request(Opcode::WRITE_EXT, flags, &[0xa5; DATA_LEN]);
    for (name, frame, reply_len) in [("read", read, 36 + DATA_LEN), ("write", write, 60)] {
        let mut listener = serving(frame, reply_len);
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
