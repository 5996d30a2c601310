//! An initiator against the loop, over a cable that loses, doubles, swaps and delays frames, on
//! virtual time, against a model of the disk.
//!
//! Damaged frames are not among the faults: Ethernet's check sequence makes losses of them, and AoE
//! has no other. A late copy of a write may undo a later one, against which AoE has no remedy: the
//! initiator here leaves sectors alone that it has written, for longer than the cable can hold a
//! copy. Under this rule the disk has to be exactly what the model says, always.

use std::time::Duration;

use aoe_server::clock::Instant;
use aoe_server::engine::initiator::{Answers, Ask, Initiator, RequestId, Timing};
use aoe_server::engine::{Durability, Export, MacList, Settings, Target, TargetProfile};
use aoe_server::link::fault::{FaultLink, FaultOptions, Faults};
use aoe_server::link::memory::{MemoryLink, MemoryOptions};
use aoe_server::link::{FramePool, Link as _};
use aoe_server::protocol::ata::status;
use aoe_server::protocol::{AtaArg, AtaFields, AtaFlags, Command, FrameWriter, Opcode};
use aoe_server::server::{Listener, PortSet};
use aoe_server::units::SECTOR_SIZE;

use crate::harness::{Disk, INITIATOR, SERVER, TARGET};

const WINDOW: usize = 64;
const OPERATIONS: u32 = 4_000;
/// Sectors that are used: few, so that they are used often.
const USED: usize = 1_000;
const DELAY_TURNS: u32 = 20;
/// Turns for which a sector that was written is left alone: no copy of the write is on its way
/// after that, neither on the cable nor parked in the loop.
const QUARANTINE: u64 = 100;
/// Sectors of the longest request: what MTU 1500 carries.
const LONGEST: usize = 2;

/// `SplitMix64`.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % limit as u64) as usize
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

#[derive(Debug, Clone, Copy)]
struct Operation {
    id: RequestId,
    kind: Kind,
    sector: usize,
    count: usize,
    number: u32,
}

impl Operation {
    fn sectors(&self) -> std::ops::Range<usize> {
        self.sector..self.sector + self.count
    }

    fn argument(&self, writer: &mut FrameWriter<'_>) {
        let [a, b, c, d, ..] = (self.sector as u64).to_le_bytes();
        let (command, flags) = match self.kind {
            Kind::Read => (Opcode::READ_EXT, AtaFlags::EXTENDED),
            Kind::Write => (Opcode::WRITE_EXT, AtaFlags::EXTENDED.union(AtaFlags::WRITE)),
            Kind::Flush => (Opcode::FLUSH_CACHE_EXT, AtaFlags::EXTENDED),
        };
        writer.ata(&AtaFields {
            flags,
            feature: 0,
            sector_count: self.count as u8,
            command: command.0,
            lba: [a, b, c, d, 0, 0],
        });
        if self.kind == Kind::Write {
            for sector in self.sectors() {
                writer.octets(&content(self.number, sector));
            }
        }
    }
}

/// What write number `number` puts into `sector`.
fn content(number: u32, sector: usize) -> [u8; SECTOR_SIZE] {
    let mut octets = [number as u8 ^ sector as u8; SECTOR_SIZE];
    octets[..4].copy_from_slice(&number.to_be_bytes());
    octets[4..8].copy_from_slice(&(sector as u32).to_be_bytes());
    octets
}

struct Trial {
    chance: Chance,
    listener: Listener<FaultLink<MemoryLink>>,
    wire: MemoryLink,
    initiator: Box<Initiator<WINDOW>>,
    disk: Disk,
    now: Instant,
    turn: u64,
    in_flight: [Option<Operation>; WINDOW],
    model: Vec<[u8; SECTOR_SIZE]>,
    /// The turn from which on a sector may be used again.
    free_from: Vec<u64>,
    number: u32,
    completed: u32,
}

impl Trial {
    fn new(seed: u64) -> Self {
        let faults = Faults {
            drop: 0.02,
            duplicate: 0.05,
            reorder: 0.10,
            delay: 0.05,
            delay_turns: DELAY_TURNS,
            ..Faults::default()
        };
        let options = MemoryOptions { macs: [INITIATOR, SERVER], ..MemoryOptions::default() };
        let (wire, link) = MemoryLink::pair(&options).unwrap();
        let link = FaultLink::new(link, &FaultOptions { seed, receive: faults, send: faults });
        let (mut listener, control) =
            Listener::new([("cable".to_string(), link)], |_| None).unwrap();
        let disk = Disk::new();
        let profile = TargetProfile {
            address: TARGET,
            buffer_count: WINDOW as u16,
            durability: Durability::Durable,
            allow: MacList::new(),
        };
        let target = Target::new(profile, Settings::default());
        let export = Export { target, storage: Box::new(disk.clone()) as _ };
        let answer = control.add(export, PortSet::ALL, Duration::ZERO).unwrap();
        listener.turn(Instant::ZERO);
        listener.turn(Instant::ZERO);
        assert!(answer.try_recv().is_ok());
        let timing = Timing {
            initial: Duration::from_millis(6),
            min: Duration::from_millis(4),
            max: Duration::from_millis(50),
        };
        Self {
            chance: Chance(seed),
            listener,
            wire,
            initiator: Box::new(Initiator::new(seed as u32, timing)),
            disk,
            now: Instant::from_nanos(1),
            turn: 0,
            in_flight: [None; WINDOW],
            model: vec![[0xa5; SECTOR_SIZE]; USED],
            free_from: vec![0; USED],
            number: 0,
            completed: 0,
        }
    }

    /// The disk gets slow, or fast again, by chance.
    fn moods(&mut self) {
        let mood = self.chance.below(60);
        let steps = self.chance.below(8) as u64;
        let mut script = self.disk.script();
        match mood {
            0 => script.hold_reads = true,
            1 => script.hold_writes = true,
            2 | 3 => script.hold_tickets = true,
            4..10 => script.release(),
            10..40 => {
                let durable = script.last.min(script.durable + steps);
                script.set_durable(durable);
            }
            _ => {}
        }
    }

    fn submit(&mut self) {
        while self.number < OPERATIONS && self.initiator.in_flight() < WINDOW {
            let kind = match self.chance.below(20) {
                0 => Kind::Flush,
                1..11 => Kind::Write,
                _ => Kind::Read,
            };
            let count = if kind == Kind::Flush { 0 } else { 1 + self.chance.below(LONGEST) };
            let sector = self.chance.below(USED - LONGEST);
            let sectors = sector..sector + count;
            if self.free_from[sectors.clone()].iter().any(|from| *from > self.turn) {
                return; // another turn, another sector
            }
            let ask = Ask {
                destination: SERVER,
                address: TARGET,
                command: Command::ATA,
                answers: Answers::One,
                patience: Duration::from_hours(1),
                transmissions: u32::MAX,
            };
            let id = self.initiator.submit(ask, self.now).unwrap();
            self.number += 1;
            self.free_from[sectors].fill(u64::MAX);
            let operation = Operation { id, kind, sector, count, number: self.number };
            self.in_flight[id.index()] = Some(operation);
        }
    }

    fn send(&mut self) {
        let mut pool = FramePool::new(1);
        loop {
            let mut batch = pool.batch();
            batch.clear();
            let in_flight = &self.in_flight;
            let argument = |id: RequestId, writer: &mut FrameWriter<'_>| {
                in_flight[id.index()].unwrap().argument(writer);
            };
            let out = batch.next_buffer().unwrap();
            let Some(len) = self.initiator.next_frame(self.now, INITIATOR, argument, out) else {
                return;
            };
            batch.commit(len);
            // What a full cable does not take is lost, as anything may be.
            let _ = self.wire.send(&batch, 0).unwrap();
        }
    }

    fn receive(&mut self) {
        let mut pool = FramePool::new(32);
        let mut batch = pool.batch();
        while self.wire.receive(&mut batch).unwrap() > 0 {
            for octets in batch.frames() {
                let Some(reply) = self.initiator.receive(octets, INITIATOR, self.now) else {
                    continue;
                };
                assert_eq!(reply.refused, None);
                let arg = AtaArg::parse(reply.frame.header.arg()).unwrap();
                assert_eq!((arg.status(), arg.feature()), (status::DRDY, 0));
                let operation = self.in_flight[reply.id.index()].take().unwrap();
                assert_eq!(operation.id, reply.id);
                self.completed += 1;
                let at = operation.sector * SECTOR_SIZE;
                let range = at..at + operation.count * SECTOR_SIZE;
                if operation.kind == Kind::Write {
                    for sector in operation.sectors() {
                        self.model[sector] = content(operation.number, sector);
                    }
                }
                let expected = self.model[operation.sectors()].as_flattened();
                let wait = match operation.kind {
                    Kind::Read => {
                        assert_eq!(arg.data()[..expected.len()], *expected, "{operation:?}");
                        0
                    }
                    Kind::Write => {
                        let durable = &self.disk.script().durable_octets[range];
                        assert_eq!(durable, expected, "answered, but not durable: {operation:?}");
                        QUARANTINE
                    }
                    Kind::Flush => 0,
                };
                self.free_from[operation.sectors()].fill(self.turn + wait);
            }
            batch.clear();
        }
    }

    fn run(mut self) -> u64 {
        while self.completed < OPERATIONS {
            self.turn += 1;
            assert!(self.turn < 2_000_000, "{} of {OPERATIONS} are done", self.completed);
            self.now = self.now.after(Duration::from_micros(100));
            self.moods();
            self.submit();
            assert_eq!(self.initiator.tick(self.now), None);
            self.send();
            self.listener.turn(self.now);
            self.receive();
        }
        // What is still on its way arrives, and changes nothing.
        self.disk.script().release();
        for _ in 0..2 * QUARANTINE {
            self.now = self.now.after(Duration::from_micros(100));
            self.listener.turn(self.now);
            self.receive();
        }
        assert!(self.listener.is_idle());
        let expected = self.model.as_flattened();
        let script = self.disk.script();
        assert!(script.octets[..expected.len()] == *expected, "the disk is not as the model");
        assert!(script.durable_octets[..expected.len()] == *expected, "not all of it is durable");
        assert!(script.octets[expected.len()..].iter().all(|octet| *octet == 0xa5));
        drop(script);
        let link = self.listener.link_mut(0).unwrap();
        let (received, sent) = (link.receive_faults(), link.send_faults());
        for faults in [received, sent] {
            assert!(faults.dropped > 20 && faults.duplicated > 20, "{faults:?}");
            assert!(faults.reordered > 20 && faults.delayed > 20, "{faults:?}");
        }
        self.initiator.counters().retransmissions
    }
}

#[test]
fn a_disk_behind_a_bad_cable_is_what_the_model_says() {
    let seeds = match std::env::var("AOE_SEED") {
        Ok(seed) => vec![seed.parse().expect("AOE_SEED is a number")],
        Err(_) => (1..=8).collect::<Vec<u64>>(),
    };
    for seed in seeds {
        println!("seed {seed}; repeat it alone with AOE_SEED={seed}");
        let retransmissions = Trial::new(seed).run();
        println!("seed {seed}: {OPERATIONS} operations, {retransmissions} retransmissions");
        assert!(retransmissions > 20);
    }
}
