//! The wire layer: frames parsed, written and printed, per second, in one thread on hot buffers.
//!
//! Left out: the sectors of a READ, which storage copies, and everything before and after the octets
//! (link, engine, storage). `cargo bench --bench wire`.

use std::fmt::{self, Write};
use std::hint::black_box;

use aoe_server::protocol::ata::{AtaText, IDENTIFY_LEN, Identity, WriteCache, status};
use aoe_server::protocol::print::FrameLine;
use aoe_server::protocol::{
    Address, AtaArg, AtaFields, AtaFlags, Command, ConfigArg, ConfigCommand, ConfigFields, Frame,
    FrameFields, FrameWriter, Header, MacAddr, Opcode, Tag,
};
use aoe_server::units::{SECTOR_SIZE, Sectors};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};

const INITIATOR: MacAddr = MacAddr([0x52, 0x54, 0, 0xaa, 0xbb, 1]);
const TARGET: MacAddr = MacAddr([0x76, 0xea, 0xbb, 0xfc, 0xf3, 0x24]);
const ADDRESS: Address = Address::new(7, 3);
/// Sectors of the frames here: what an MTU of 1500 carries.
const SECTORS: u8 = 2;
const DATA: [u8; SECTORS as usize * SECTOR_SIZE] = [0x5a; SECTORS as usize * SECTOR_SIZE];

/// The registers of a request for two sectors.
fn registers(opcode: Opcode, flags: AtaFlags) -> AtaFields {
    let lba = [0x10, 0x32, 0x54, 0, 0, 0];
    AtaFields { flags, feature: 0, sector_count: SECTORS, command: opcode.0, lba }
}

/// A request as an initiator sends it, written by `fill`.
fn request(command: Command, fill: impl FnOnce(&mut FrameWriter<'_>)) -> Vec<u8> {
    let mut octets = vec![0xa5; 2048];
    let fields =
        FrameFields::request(INITIATOR, TARGET, ADDRESS, command, Tag([0x12, 0x34, 0x56, 0x78]));
    let mut writer = FrameWriter::new(&mut octets, &fields);
    fill(&mut writer);
    let len = writer.finish_unpadded().expect("2048 octets are enough");
    octets.truncate(len);
    octets
}

fn read_request() -> Vec<u8> {
    let read = registers(Opcode::READ_EXT, AtaFlags::EXTENDED);
    request(Command::ATA, |writer| {
        writer.ata(&read);
    })
}

fn write_request() -> Vec<u8> {
    let write = registers(Opcode::WRITE_EXT, AtaFlags::EXTENDED.union(AtaFlags::WRITE));
    request(Command::ATA, |writer| {
        writer.ata(&write).octets(&DATA);
    })
}

fn config_request() -> Vec<u8> {
    let set = ConfigFields { command: ConfigCommand::SET, ..ConfigFields::default() };
    request(Command::CONFIG, |writer| {
        writer.config(&set, b"a config string of some length");
    })
}

/// A group that counts in frames per second.
fn frames<'c>(c: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    group
}

fn parse(c: &mut Criterion) {
    let (read, write, config) = (read_request(), write_request(), config_request());
    let mut group = frames(c, "wire/parse");
    group.bench_function("header", |b| {
        b.iter(|| {
            let header = Header::parse(black_box(&read[14..])).expect("a header");
            (header.flags(), header.address(), header.command(), header.tag())
        });
    });
    group.bench_function("ata-read", |b| b.iter(|| ata(black_box(&read))));
    group.bench_function("ata-write-2-sectors", |b| b.iter(|| ata(black_box(&write))));
    group.bench_function("config-set", |b| {
        b.iter(|| {
            let frame = Frame::parse(black_box(&config)).expect("a frame");
            let config = ConfigArg::parse(frame.header.arg()).expect("a config argument");
            (frame.source, frame.header.address(), config.command(), config.string())
        });
    });
    group.finish();
}

/// Reads everything that the engine asks of an ATA request.
fn ata(octets: &[u8]) -> (MacAddr, Address, Tag, AtaFields, u64, usize) {
    let frame = Frame::parse(octets).expect("a frame");
    let ata = AtaArg::parse(frame.header.arg()).expect("an ATA argument");
    let (fields, lba, data) = (AtaFields::of(&ata), ata.lba48().0, ata.data().len());
    (frame.source, frame.header.address(), frame.header.tag(), fields, lba, data)
}

fn build(c: &mut Criterion) {
    let (read, config) = (read_request(), config_request());
    let read = Frame::parse(&read).expect("a frame");
    let query = Frame::parse(&config).expect("a frame");
    let mut reply = [0xa5; 2048];
    let mut group = frames(c, "wire/build");
    group.bench_function("read-reply-without-data", |b| {
        b.iter(|| {
            let read = black_box(&read);
            let fields = FrameFields::reply(&read.header, read.source, TARGET, ADDRESS);
            let ata = AtaArg::parse(read.header.arg()).expect("an ATA argument");
            let done = AtaFields {
                command: status::DRDY,
                feature: 0,
                sector_count: 0,
                ..AtaFields::of(&ata)
            };
            let mut writer = FrameWriter::new(black_box(&mut reply), &fields);
            let space = writer.ata(&done).space(usize::from(SECTORS) * SECTOR_SIZE);
            black_box(space.is_some());
            writer.finish()
        });
    });
    group.bench_function("config-reply", |b| {
        let config = ConfigFields {
            buffer_count: 64,
            firmware: 1,
            sector_count: SECTORS,
            command: ConfigCommand::READ,
        };
        b.iter(|| {
            let query = black_box(&query);
            let fields = FrameFields::reply(&query.header, query.source, TARGET, ADDRESS);
            let mut writer = FrameWriter::new(black_box(&mut reply), &fields);
            writer.config(black_box(&config), b"a config string of some length").finish()
        });
    });
    group.finish();
}

fn identify(c: &mut Criterion) {
    let identity = Identity {
        serial: AtaText::new("e7.3-0123456789"),
        firmware: AtaText::new("0.1.0"),
        model: AtaText::new("aoe-server file"),
        size: Sectors(1 << 21),
        write_cache: WriteCache::None,
        trim: false,
    };
    let mut page = [0xa5; IDENTIFY_LEN];
    let mut group = c.benchmark_group("wire/identify");
    group.throughput(Throughput::Bytes(IDENTIFY_LEN as u64));
    group.bench_function("emit", |b| {
        b.iter(|| black_box(&identity).emit(black_box(&mut page)));
    });
    group.finish();
}

fn print(c: &mut Criterion) {
    let (read, write) = (read_request(), write_request());
    let mut group = frames(c, "wire/print");
    for (name, frame) in [("ata-read", &read), ("ata-write-2-sectors", &write)] {
        let mut line = Line { octets: [0; 256], len: 0 };
        group.bench_function(name, |b| {
            b.iter(|| {
                line.len = 0;
                write!(line, "{}", FrameLine::new(black_box(frame))).expect("256 are enough");
                black_box(&line.octets[..line.len]).len()
            });
        });
    }
    group.finish();
}

/// Text on the stack, so that no allocator is measured.
struct Line {
    octets: [u8; 256],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.octets.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

criterion_group!(benches, parse, build, identify, print);
criterion_main!(benches);
