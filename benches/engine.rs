//! What the engine takes for one request, from the first look at the frame to the finished reply.
//!
//! Left out: the wire, the loop, and all that storage does. The storage of `read/no-copy` copies
//! nothing and so shows the engine alone; that of the others copies to and from memory that is in
//! the cache. One frame is served again and again, so that everything is hot, except in
//! `read/targets`, where each request goes to another target than the one before.
#![allow(missing_docs, reason = "the macros of criterion define undocumented functions")]

use std::hint::black_box;

use aoe_server::engine::{
    Action, Durability, Engine, Export, MacList, Port, Settings, Target, TargetProfile,
};
use aoe_server::protocol::ata::{AtaFlags, AtaText, Opcode};
use aoe_server::protocol::{
    Address, AtaFields, Command, ConfigFields, FrameFields, FrameWriter, MacAddr, Tag,
};
use aoe_server::storage::{Accepted, BlockStorage, DeviceInfo, Fault, Ready, Ticket};
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};
use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};

const SERVER: MacAddr = MacAddr([0x02, 0xae, 0, 0, 0, 1]);
const CLIENT: MacAddr = MacAddr([0x02, 0xc1, 0, 0, 0, 1]);
const PORT: Port = Port { mac: SERVER, mtu: 1_500 };
/// Sectors of one frame at that MTU.
const SECTORS: u8 = 2;
const DATA_LEN: u64 = SECTORS as u64 * SECTOR_SIZE as u64;
/// Sectors of each disk: few enough for the first-level cache.
const DISK_SECTORS: u8 = 8;
const DISK_LEN: usize = DISK_SECTORS as usize * SECTOR_SIZE;

/// A disk that answers at once, and copies or does not.
struct Disk<const COPY: bool> {
    info: DeviceInfo,
    octets: [u8; DISK_LEN],
}

impl<const COPY: bool> Disk<COPY> {
    fn new() -> Self {
        let info = DeviceInfo {
            size: Sectors(u64::from(DISK_SECTORS)),
            serial: AtaText::new("serial-0123"),
            model: AtaText::new("a disk that costs nothing"),
            read_only: false,
            discard: false,
        };
        Self { info, octets: [0x5a; DISK_LEN] }
    }

    fn sectors(&mut self, lba: Lba, len: usize) -> Result<&mut [u8], Fault> {
        let start = usize::try_from(lba.0).map_err(|_| Fault::OutOfRange)? * SECTOR_SIZE;
        self.octets.get_mut(start..start + len).ok_or(Fault::OutOfRange)
    }
}

impl<const COPY: bool> BlockStorage for Disk<COPY> {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }
    fn read(&mut self, lba: Lba, into: &mut [u8]) -> Result<Ready, Fault> {
        let octets = self.sectors(lba, into.len())?;
        if COPY {
            into.copy_from_slice(octets);
        }
        Ok(Ready::Done)
    }
    fn write(&mut self, lba: Lba, data: &[u8]) -> Result<Accepted, Fault> {
        let octets = self.sectors(lba, data.len())?;
        if COPY {
            octets.copy_from_slice(data);
        }
        Ok(Accepted::Done(Ticket::NONE))
    }
    fn flush(&mut self) -> Result<Accepted, Fault> {
        Ok(Accepted::Done(Ticket::NONE))
    }
    fn verify(&mut self, _: Lba, _: Sectors) -> Result<Ready, Fault> {
        Ok(Ready::Done)
    }
    fn applied(&self) -> Ticket {
        Ticket::NONE
    }
    fn durable(&self) -> Ticket {
        Ticket::NONE
    }
}

type Server<const COPY: bool> = Engine<Vec<Export<Disk<COPY>>>>;

/// The address of target number `index`: 16 slots to a shelf.
fn address(index: u16) -> Address {
    let [_, low] = index.to_be_bytes();
    Address::new(index >> 4, low & 0x0f)
}

fn engine<const COPY: bool>(targets: u16) -> Server<COPY> {
    let exports = (0..targets)
        .map(|index| {
            let profile = TargetProfile {
                address: address(index),
                buffer_count: 64,
                durability: Durability::Durable,
                allow: MacList::new(),
            };
            Export { target: Target::new(profile, Settings::default()), storage: Disk::new() }
        })
        .collect();
    Engine::new(exports).expect("the addresses differ")
}

fn head(to: Address, command: Command) -> FrameFields {
    FrameFields::request(CLIENT, SERVER, to, command, Tag([0, 1, 0x1c, 0x2b]))
}

/// An ATA request of `count` sectors at LBA 4, with room for `data` octets of data.
fn ata(to: Address, opcode: Opcode, flags: AtaFlags, count: u8, data: usize) -> Vec<u8> {
    let mut frame = vec![0; 36 + data];
    let lba = [4, 0, 0, 0, 0, 0];
    let fields = AtaFields { flags, feature: 0, sector_count: count, command: opcode.0, lba };
    FrameWriter::new(&mut frame, &head(to, Command::ATA)).ata(&fields);
    frame
}

fn read(to: Address) -> Vec<u8> {
    ata(to, Opcode::READ_EXT, AtaFlags::EXTENDED, SECTORS, 0)
}

fn config(to: Address) -> Vec<u8> {
    let mut frame = vec![0; 32];
    FrameWriter::new(&mut frame, &head(to, Command::CONFIG)).config(&ConfigFields::default(), b"");
    frame
}

/// Serves one frame as the loop does; tells how many octets of replies there are.
#[inline]
fn serve<const COPY: bool>(engine: &mut Server<COPY>, frame: &[u8], reply: &mut [u8]) -> usize {
    let Some(request) = engine.accept(frame, PORT) else { return 0 };
    let mut octets = 0;
    let mut addressee = engine.first_addressee(&request);
    while let Some(id) = addressee {
        if let Action::Reply { len, .. } = engine.handle(id, &request, reply) {
            octets += len;
        }
        addressee = engine.next_addressee(&request, id);
    }
    octets
}

/// Serves `frame` again and again, and checks that each time `expected` octets are answered.
fn again<const COPY: bool>(bencher: &mut Bencher<'_>, targets: u16, frame: &[u8], expected: usize) {
    let mut engine = engine::<COPY>(targets);
    let mut reply = vec![0xa5; 1_514];
    assert_eq!(serve(&mut engine, frame, &mut reply), expected);
    bencher.iter(|| serve(&mut engine, black_box(frame), black_box(&mut reply)));
}

fn requests(c: &mut Criterion) {
    let to = address(0);
    let transfer = Throughput::ElementsAndBytes { elements: 1, bytes: DATA_LEN };
    let data_len = usize::from(SECTORS) * SECTOR_SIZE;

    let mut group = c.benchmark_group("engine");
    group.throughput(transfer);
    let frame = read(to);
    group.bench_function("read/no-copy", |b| again::<false>(b, 1, &frame, 36 + data_len));
    group.bench_function("read/copy", |b| again::<true>(b, 1, &frame, 36 + data_len));
    let flags = AtaFlags::EXTENDED.union(AtaFlags::WRITE);
    let frame = ata(to, Opcode::WRITE_EXT, flags, SECTORS, data_len);
    group.bench_function("write/copy", |b| again::<true>(b, 1, &frame, 60));

    group.throughput(Throughput::Elements(1));
    let frame = ata(to, Opcode::IDENTIFY_DEVICE, AtaFlags::default(), 1, 0);
    group.bench_function("identify", |b| again::<false>(b, 1, &frame, 548));
    let frame = config(to);
    group.bench_function("config", |b| again::<false>(b, 1, &frame, 60));
    let mut response = read(to);
    response[14] |= 0x08;
    group.bench_function("ignored/response", |b| again::<false>(b, 1, &response, 0));
    let elsewhere = read(address(999));
    group.bench_function("ignored/other-target", |b| again::<false>(b, 1, &elsewhere, 0));
    let frame = config(Address::EVERYONE);
    group.throughput(Throughput::Elements(64)); // replies
    group.bench_function("config/everyone-of-64", |b| again::<false>(b, 64, &frame, 64 * 60));
    group.finish();
}

/// Requests to as many targets in turn, in an order that no prefetcher guesses: what finding a
/// target costs, and what it costs that the targets' own memory is not all in the nearest cache.
fn targets(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    for count in [1_u16, 64, 1_024] {
        // 389 is odd, so that its multiples visit every one of 64 or 1,024 targets.
        let frames: Vec<_> =
            (0..count).map(|index| read(address(index.wrapping_mul(389) % count))).collect();
        let mut engine = engine::<false>(count);
        let mut reply = vec![0xa5; 1_514];
        let mut turn = frames.iter().cycle();
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("lookup/{count}-targets"), |b| {
            b.iter(|| {
                let request = engine.accept(turn.next()?, PORT)?;
                black_box(engine.first_addressee(&request))
            });
        });
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: DATA_LEN });
        group.bench_function(format!("read/no-copy/{count}-targets"), |b| {
            b.iter(|| turn.next().map(|frame| serve(&mut engine, frame, black_box(&mut reply))));
        });
    }
    group.finish();
}

criterion_group!(benches, requests, targets);
criterion_main!(benches);
