//! A million frames through the whole loop allocate nothing on its thread.

#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use std::time::Duration;

use aoe_server::clock;
use aoe_server::engine::{Durability, Export, MacList, Settings, Target, TargetProfile};
use aoe_server::link::memory::{MemoryLink, MemoryOptions};
use aoe_server::link::{BATCH_FRAMES, FramePool, Link};
use aoe_server::protocol::{
    Address, AtaFields, AtaFlags, Command, ConfigFields, FrameFields, FrameWriter, Opcode, Tag,
};
use aoe_server::server::{Admission, Backend, Control, Listener, PortSet};
use aoe_server::storage::file::{FileOptions, FileStorage};
use aoe_server::storage::mem::MemStorage;
use aoe_server::units::{SECTOR_SIZE, Sectors};

#[path = "common/allocations.rs"]
mod allocations;

use allocations::{allocations, check_that_they_are_counted};

const IN_MEMORY: Address = Address::new(1, 0);
const IN_A_FILE: Address = Address::new(1, 1);
const SECTORS: u64 = 8_192;
const FRAMES: u64 = 1_000_000;
/// Frames before counting starts: every page of the image is in memory, every buffer was used.
const WARM_UP: u64 = 50_000;

fn request(address: Address, command: Command, fill: impl FnOnce(&mut FrameWriter<'_>)) -> Vec<u8> {
    let MemoryOptions { macs: [initiator, server], .. } = MemoryOptions::default();
    let fields = FrameFields::request(initiator, server, address, command, Tag([0x80, 0, 0, 1]));
    let mut octets = vec![0xa5; 2_000];
    let mut writer = FrameWriter::new(&mut octets, &fields);
    fill(&mut writer);
    let len = writer.finish().expect("2000 octets are enough");
    octets.truncate(len);
    octets
}

fn ata(address: Address, opcode: Opcode, flags: AtaFlags, count: u8, data: &[u8]) -> Vec<u8> {
    let fields =
        AtaFields { flags, feature: 0, sector_count: count, command: opcode.0, lba: [0; 6] };
    request(address, Command::ATA, |writer| {
        writer.ata(&fields).octets(data);
    })
}

/// One of each kind, with the number of replies that it brings.
fn mix() -> Vec<(Vec<u8>, u64)> {
    let writing = AtaFlags::EXTENDED.union(AtaFlags::WRITE);
    let data = [0x5a; 2 * SECTOR_SIZE];
    let mut mix = Vec::new();
    for address in [IN_MEMORY, IN_A_FILE] {
        let read = ata(address, Opcode::READ_EXT, AtaFlags::EXTENDED, 2, &[]);
        let write = ata(address, Opcode::WRITE_EXT, writing, 2, &data);
        let flush = ata(address, Opcode::FLUSH_CACHE_EXT, AtaFlags::EXTENDED, 0, &[]);
        let identify = ata(address, Opcode::IDENTIFY_DEVICE, AtaFlags::default(), 1, &[]);
        let cut_short = ata(address, Opcode::WRITE_EXT, writing, 2, &data[..100]);
        let config = request(address, Command::CONFIG, |writer| {
            writer.config(&ConfigFields::default(), &[]);
        });
        mix.extend(std::iter::repeat_n((read, 1), 8));
        mix.extend([write, flush, identify, cut_short, config].map(|frame| (frame, 1)));
        mix.push((request(address, Command(0x77), |_| {}), 1));
    }
    let everyone = |writer: &mut FrameWriter<'_>| {
        writer.config(&ConfigFields::default(), &[]);
    };
    mix.push((request(Address::EVERYONE, Command::CONFIG, everyone), 2));
    mix.push((request(Address::new(9, 9), Command::CONFIG, everyone), 0));
    let mut response = mix[0].0.clone();
    response[14] |= 0x08;
    mix.push((response, 0));
    mix.push((mix[0].0[..23].to_vec(), 0));
    let mut other_protocol = mix[0].0.clone();
    other_protocol[12..14].copy_from_slice(&[0x08, 0x00]);
    mix.push((other_protocol, 0));
    mix.push((vec![0xa5; 1_514], 0));
    mix
}

fn serve(
    listener: &mut Listener<MemoryLink>,
    control: &Control,
    address: Address,
    storage: Backend,
) {
    let profile = TargetProfile {
        address,
        buffer_count: 64,
        durability: Durability::Durable,
        allow: MacList::new(),
    };
    let export = Export { target: Target::new(profile, Settings::default()), storage };
    let answer = control.add(export, PortSet::ALL, Duration::ZERO).expect("the loop takes orders");
    listener.turn(clock::now());
    listener.turn(clock::now());
    assert_eq!(answer.try_recv().expect("it is decided").0, Admission::Served);
}

/// The initiator's end, with what it has sent and heard.
struct Initiator {
    wire: MemoryLink,
    mix: Vec<(Vec<u8>, u64)>,
    burst: FramePool,
    received: FramePool,
    sent: u64,
    owed: u64,
}

impl Initiator {
    /// Sends a burst at ever other sectors, unless too many replies are owed.
    fn send(&mut self) {
        let mut batch = self.burst.batch();
        batch.clear();
        while batch.room() > 0 && self.owed < 128 {
            let (frame, replies) = &mut self.mix[(self.sent % 34) as usize];
            if frame.len() >= 36 && frame[24] & 0x40 != 0 {
                let [low, high, ..] = (self.sent * 2 % SECTORS).to_le_bytes();
                frame[28..30].copy_from_slice(&[low, high]);
            }
            assert!(batch.push(frame));
            self.owed += *replies;
            self.sent += 1;
        }
        assert_eq!(self.wire.send(&batch, 0), Ok(batch.len()));
    }

    fn receive(&mut self) {
        let mut batch = self.received.batch();
        batch.clear();
        let received = self.wire.receive(&mut batch).expect("the cable is whole");
        self.owed = self.owed.checked_sub(received as u64).expect("no reply too many");
    }
}

#[test]
fn a_million_frames_allocate_nothing_on_the_loop_thread() {
    check_that_they_are_counted();

    let (wire, link) = MemoryLink::pair(&MemoryOptions::default()).expect("a cable");
    let (mut listener, control) =
        Listener::new([("cable".to_string(), link)], |_| None).expect("a loop");
    let disk = MemStorage::new(vec![0xa5; SECTORS as usize * SECTOR_SIZE], "mem");
    serve(&mut listener, &control, IN_MEMORY, Box::new(disk));
    let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let waker = Some(control.waker());
    let options = FileOptions { size: Some(Sectors(SECTORS)), waker, ..FileOptions::default() };
    let image = FileStorage::open(dir.path().join("image"), options).expect("an image");
    serve(&mut listener, &control, IN_A_FILE, Box::new(image));

    let mix = mix();
    assert_eq!(mix.len(), 34, "a burst is no multiple of it, so that bursts differ");
    let mut initiator = Initiator {
        wire,
        mix,
        burst: FramePool::new(BATCH_FRAMES),
        received: FramePool::new(256),
        sent: 0,
        owed: 2, // the announcements
    };
    let mut counted_from = None;
    while initiator.sent < WARM_UP + FRAMES || initiator.owed > 0 {
        if initiator.sent < WARM_UP + FRAMES {
            initiator.send();
        }
        // The time is read as the loop does, so that it looks around and publishes as it does.
        listener.turn(clock::now());
        initiator.receive();
        if counted_from.is_none() && initiator.sent >= WARM_UP {
            counted_from = Some(allocations());
        }
    }
    assert_eq!(Some(allocations()), counted_from, "the loop has allocated");

    let status = control.status();
    assert!(status.engine.malformed > 1_000 && status.engine.not_aoe > 1_000);
    for target in &status.targets {
        let counters = target.counters;
        assert!(counters.reads > 100_000 && counters.writes > 10_000, "{counters:?}");
        assert!(counters.ata_errors > 10_000 && counters.aoe_errors > 10_000, "{counters:?}");
    }
}
