//! An initiator that writes stamped sectors with many requests in flight, remembers what was
//! acknowledged, and knows what a disk may hold afterwards.
//!
//! # Invariants
//! * Two requests for one unit are never in flight together, so that after a write was acknowledged
//!   an older one of the same sectors can come back only by a fault of the target.
//! * A write counts as possible from the moment it is submitted, and as promised from the moment
//!   its acknowledgement is received.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::time::Duration;

use aoe_server::clock::{Instant, now, unix_micros};
use aoe_server::engine::initiator::{Answers, Ask, Initiator, RequestId, Timing};
use aoe_server::link::af_packet::AfPacketLink;
use aoe_server::link::{BATCH_FRAMES, FramePool, Link};
use aoe_server::protocol::ata::status;
use aoe_server::protocol::{
    Address, AtaArg, AtaFields, AtaFlags, Command, FrameWriter, MacAddr, Opcode,
};
use aoe_server::units::SECTOR_SIZE;

/// Requests in flight.
pub(crate) const DEPTH: usize = 64;
/// Sectors of one request: what a frame of an MTU of 1500 carries.
pub(crate) const UNIT_SECTORS: usize = 2;
/// Octets of one request.
pub(crate) const UNIT: usize = UNIT_SECTORS * SECTOR_SIZE;
/// Where the checksum of a sector lies.
const CHECKSUM: usize = SECTOR_SIZE - 4;

/// Numbers by chance, the same for the same seed.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// Numbers from the seed in the environment, or another one each time; it is printed, so that a
    /// failure can be had again.
    #[allow(clippy::print_stderr, reason = "whoever reads of a failure needs the seed")]
    pub(crate) fn new() -> Self {
        let given = std::env::var("AOE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed: u64 = given.unwrap_or_else(unix_micros).max(1);
        eprintln!("AOE_TEST_SEED={seed}");
        Self(seed)
    }

    /// The next number (xorshift64).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// The sector at `lba` as the write with number `generation` makes it: both numbers, octets that
/// follow from them, and a checksum of all.
fn stamp(lba: u64, generation: u64) -> [u8; SECTOR_SIZE] {
    let mut sector = [0; SECTOR_SIZE];
    let mut filler = Chance((lba << 32 ^ generation) | 1 << 63);
    for chunk in sector.chunks_exact_mut(8) {
        chunk.copy_from_slice(&filler.next().to_le_bytes());
    }
    sector[..8].copy_from_slice(&lba.to_le_bytes());
    sector[8..16].copy_from_slice(&generation.to_le_bytes());
    let sum = crc32c::crc32c(&sector[..CHECKSUM]);
    sector[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
    sector
}

/// The generation of the sector at `lba`, zero for one that was never written.
fn generation_of(lba: u64, sector: &[u8]) -> Result<u64, String> {
    if sector.iter().all(|octet| *octet == 0) {
        return Ok(0);
    }
    let number = |at: usize| u64::from_le_bytes(sector[at..at + 8].try_into().expect("eight"));
    let (written_for, generation) = (number(0), number(8));
    if sector[CHECKSUM..] != crc32c::crc32c(&sector[..CHECKSUM]).to_le_bytes() {
        return Err(format!("sector {lba} is torn: it starts as {written_for}.{generation}"));
    }
    if written_for != lba {
        return Err(format!("sector {lba} holds what was written to {written_for}"));
    }
    Ok(generation)
}

/// Makes sure that each sector of a target holds what some write made it, or was never written.
pub(crate) fn check_stamps(octets: &[u8]) -> Result<(), String> {
    let mut sectors = (0..).zip(octets.chunks_exact(SECTOR_SIZE));
    sectors.try_for_each(|(lba, sector)| generation_of(lba, sector).map(|_| ()))
}

/// What is known of one unit: generations of its sectors.
#[derive(Debug, Clone, Default)]
struct Unit {
    /// The last acknowledged write of each sector.
    promised: [u64; UNIT_SECTORS],
    /// Later writes that were sent, and may have been done in part.
    possible: Vec<u64>,
    in_flight: bool,
}

impl Unit {
    /// Exactly these writes are there.
    fn settle(&mut self, promised: [u64; UNIT_SECTORS]) {
        self.promised = promised;
        self.possible.clear();
    }
}

/// A request in flight.
#[derive(Debug, Clone, Copy)]
struct Request {
    unit: usize,
    /// What is written; `None` for a read.
    generation: Option<u64>,
}

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Its unit.
    pub(crate) unit: usize,
    /// What went wrong.
    pub(crate) what: String,
}

/// The initiator.
pub(crate) struct Stamper {
    link: AfPacketLink,
    station: MacAddr,
    address: Address,
    initiator: Initiator<DEPTH>,
    received: FramePool,
    sending: FramePool,
    taken: usize,
    requests: [Option<Request>; DEPTH],
    units: Vec<Unit>,
    chance: Chance,
    generation: u64,
    last_answer: Instant,
    /// How many of a hundred requests read.
    pub(crate) read_percent: u64,
    /// Writes acknowledged so far.
    pub(crate) acknowledged: u64,
    /// Reads that were answered with what must be there.
    pub(crate) confirmed: u64,
    /// The longest time without an answer.
    pub(crate) longest_gap: Duration,
    /// Requests that failed, and reads that found something wrong.
    pub(crate) failures: Vec<Failure>,
}

impl Stamper {
    /// An initiator for the target at `address` of `station`, with a disk of zeros of which it uses
    /// `units`.
    pub(crate) fn new(
        link: AfPacketLink,
        station: MacAddr,
        address: Address,
        units: usize,
        mut chance: Chance,
    ) -> Self {
        let tags = u32::try_from(chance.next() >> 33).expect("31 bits");
        Self {
            link,
            station,
            address,
            initiator: Initiator::new(tags, Timing::default()),
            received: FramePool::new(BATCH_FRAMES),
            sending: FramePool::new(BATCH_FRAMES),
            taken: 0,
            requests: [None; DEPTH],
            units: vec![Unit::default(); units],
            chance,
            generation: 0,
            last_answer: now(),
            read_percent: 0,
            acknowledged: 0,
            confirmed: 0,
            longest_gap: Duration::ZERO,
            failures: Vec::new(),
        }
    }

    /// How many requests are in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.initiator.in_flight()
    }

    /// Whether a write of the unit was ever acknowledged.
    pub(crate) fn is_promised(&self, unit: usize) -> bool {
        self.units[unit].promised != [0; UNIT_SECTORS]
    }

    /// Goes on for a moment: takes answers, asks for something new, sends.
    pub(crate) fn turn(&mut self) {
        self.take_answers();
        self.refill();
        self.give_out();
    }

    /// Goes on until `enough`, for `limit` at most; tells whether it came to that.
    pub(crate) fn run(&mut self, limit: Duration, mut enough: impl FnMut(&Self) -> bool) -> bool {
        let end = now().after(limit);
        while !enough(self) {
            if now() >= end {
                return false;
            }
            self.turn();
        }
        true
    }

    /// Asks nothing new, and goes on until nothing is in flight or the patience of all is over.
    pub(crate) fn finish(&mut self) {
        while self.in_flight() > 0 {
            self.take_answers();
            self.give_out();
        }
    }

    /// Takes what has come from a target that is gone. What was not answered never will be; whether
    /// it was done is not known.
    pub(crate) fn mourn(&mut self) {
        let quiet = Duration::from_millis(50);
        let mut until = now().after(quiet);
        while now() < until {
            if self.take_answers() {
                until = now().after(quiet);
            }
        }
        self.initiator.abandon();
        self.sending.batch().clear();
        self.taken = 0;
        self.requests = [None; DEPTH];
        for unit in &mut self.units {
            unit.in_flight = false;
        }
        self.last_answer = now();
    }

    /// Writes one unit and waits for the answer; tells the failure, if it is one.
    pub(crate) fn write_one(&mut self, unit: usize) -> Option<Failure> {
        assert_eq!(self.in_flight(), 0, "one at a time");
        let failures = self.failures.len();
        self.submit(unit, true);
        self.finish();
        self.failures.get(failures).cloned()
    }

    /// Tells each sector of `disk` that is not what it must be, and takes what was found for
    /// promised: it must not go back either.
    pub(crate) fn check(&mut self, disk: &[u8]) -> Vec<String> {
        assert!(disk.len() >= self.units.len() * UNIT, "the whole disk");
        let mut faults = Vec::new();
        for (index, (unit, octets)) in self.units.iter_mut().zip(disk.chunks(UNIT)).enumerate() {
            let mut there = unit.promised;
            for (place, (lba, sector)) in sectors(index, octets).enumerate() {
                match generation_of(lba, sector) {
                    Ok(found) if found == unit.promised[place] => {}
                    Ok(found) if unit.possible.contains(&found) => there[place] = found,
                    Ok(found) => faults.push(format!(
                        "sector {lba} has write {found}, but {} was acknowledged and {:?} under way",
                        unit.promised[place], unit.possible
                    )),
                    Err(fault) => faults.push(fault),
                }
            }
            unit.settle(there);
        }
        faults
    }

    fn take_answers(&mut self) -> bool {
        let Self { link, initiator, received, requests, units, .. } = self;
        let at = now();
        let mac = link.info().mac;
        let mut batch = received.batch();
        batch.clear();
        let count = link.receive(&mut batch).expect("the link receives");
        for frame in batch.frames() {
            let Some(reply) = initiator.receive(frame, mac, at) else { continue };
            let request = requests[reply.id.index()].take().expect("it was asked");
            let unit = &mut units[request.unit];
            unit.in_flight = false;
            self.longest_gap = self.longest_gap.max(at.since(self.last_answer));
            self.last_answer = at;
            let what = match (outcome(reply.refused.is_some(), reply.frame.header.arg()), request) {
                (Err(what), _) => what,
                (Ok(_), Request { generation: Some(generation), .. }) => {
                    unit.settle([generation; UNIT_SECTORS]);
                    self.acknowledged += 1;
                    continue;
                }
                (Ok(data), Request { unit: index, .. }) => match mismatch(index, unit, data) {
                    None => {
                        self.confirmed += 1;
                        continue;
                    }
                    Some(what) => what,
                },
            };
            self.failures.push(Failure { unit: request.unit, what });
        }
        if count == BATCH_FRAMES {
            return true; // what waits to be fetched is not overdue
        }
        while let Some(unanswered) = initiator.tick(at) {
            let request = requests[unanswered.id.index()].take().expect("it was asked");
            units[request.unit].in_flight = false;
            let what = format!("no answer in {:?}", unanswered.waited);
            self.failures.push(Failure { unit: request.unit, what });
        }
        count > 0
    }

    fn refill(&mut self) {
        // A unit that is busy or half known is left out, so that this may not fill the window.
        for _ in 0..DEPTH {
            if self.initiator.in_flight() == DEPTH {
                return;
            }
            let unit = usize::try_from(self.chance.below(self.units.len() as u64)).expect("small");
            let write = self.chance.below(100) >= self.read_percent;
            let Unit { in_flight, possible, .. } = &self.units[unit];
            if !in_flight && (write || possible.is_empty()) {
                self.submit(unit, write);
            }
        }
    }

    fn submit(&mut self, unit: usize, write: bool) {
        let ask = Ask {
            destination: self.station,
            address: self.address,
            command: Command::ATA,
            answers: Answers::One,
            patience: Duration::from_secs(30),
            transmissions: 100,
        };
        let id = self.initiator.submit(ask, now()).expect("there is room");
        let generation = write.then(|| {
            self.generation += 1;
            self.generation
        });
        self.requests[id.index()] = Some(Request { unit, generation });
        self.units[unit].in_flight = true;
        self.units[unit].possible.extend(generation);
    }

    fn give_out(&mut self) {
        let Self { link, initiator, sending, requests, .. } = self;
        let (at, mac) = (now(), link.info().mac);
        let mut batch = sending.batch();
        if self.taken >= batch.len() {
            batch.clear();
            self.taken = 0;
        }
        while let Some(buffer) = batch.next_buffer() {
            let write = |id: RequestId, writer: &mut FrameWriter<'_>| {
                argument(requests[id.index()].expect("it was asked"), writer);
            };
            let Some(len) = initiator.next_frame(at, mac, write, buffer) else { break };
            batch.commit(len);
        }
        if !batch.is_empty() {
            self.taken += link.send(&batch, self.taken).expect("the link sends");
        }
    }
}

/// The first sector of a unit.
fn first_lba(unit: usize) -> u64 {
    (unit * UNIT_SECTORS) as u64
}

/// The sectors of a unit, each with its address.
fn sectors(unit: usize, octets: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    (first_lba(unit)..).zip(octets.chunks(SECTOR_SIZE))
}

/// Writes what a request carries.
fn argument(request: Request, writer: &mut FrameWriter<'_>) {
    let [l0, l1, l2, l3, l4, l5, ..] = first_lba(request.unit).to_le_bytes();
    let (flags, opcode) = match request.generation {
        Some(_) => (AtaFlags::EXTENDED.union(AtaFlags::WRITE), Opcode::WRITE_EXT),
        None => (AtaFlags::EXTENDED, Opcode::READ_EXT),
    };
    writer.ata(&AtaFields {
        flags,
        feature: 0,
        sector_count: u8::try_from(UNIT_SECTORS).expect("two"),
        command: opcode.0,
        lba: [l0, l1, l2, l3, l4, l5],
    });
    if let Some(generation) = request.generation {
        for place in 0..UNIT_SECTORS as u64 {
            writer.octets(&stamp(first_lba(request.unit) + place, generation));
        }
    }
}

/// The data of an answer, or why there is none.
fn outcome(refused: bool, arg: &[u8]) -> Result<&[u8], String> {
    let ata = AtaArg::parse(arg).map_err(|_| "a malformed answer".to_string())?;
    if refused {
        return Err("refused".into());
    }
    if ata.status() & status::FAILURE != 0 {
        return Err(format!("{:02x}/{:02x}", ata.status(), ata.feature()));
    }
    Ok(ata.data())
}

/// What is wrong with what was read, if anything.
fn mismatch(index: usize, unit: &Unit, data: &[u8]) -> Option<String> {
    let Some(data) = data.get(..UNIT) else { return Some(format!("{} octets", data.len())) };
    sectors(index, data).zip(unit.promised).find_map(
        |((lba, sector), promised)| match generation_of(lba, sector) {
            Ok(found) if found == promised => None,
            Ok(found) => Some(format!("read {found} where {promised} was acknowledged")),
            Err(fault) => Some(fault),
        },
    )
}
