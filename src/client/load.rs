//! A load generator: requests of one size, a mix of reads and writes, as fast as they are answered.
//!
//! A turn takes up to 32 answers, puts as many new requests in their place and sends them at once;
//! it allocates nothing. Data is made anew at each transmission from what stamps it, so that none
//! has to be kept.

use std::time::Duration;

use super::{AtaCommand, Client, ClientError, Disk, IN_FLIGHT, Job, no_answer};
use crate::clock::{self, Instant};
use crate::engine::initiator::{Ask, Initiator, Reply, RequestId, Unanswered};
use crate::protocol::{Command, FrameWriter};
use crate::units::{Lba, SECTOR_SIZE, Sectors};

/// Marks a sector that a load generator wrote.
const MAGIC: u64 = u64::from_le_bytes(*b"aoestamp");
/// The most places of a disk that are remembered to be verified: one GiB of memory.
const MOST_UNITS: u64 = 1 << 28;
/// How many places are tried to find one that no request is in flight for.
const TRIES: usize = 64;
/// In a remembered place: a request is in flight for it.
const BUSY: u32 = 1 << 31;

/// Reading or writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Sectors come from the target.
    Read,
    /// Sectors go to the target.
    Write,
}

/// In what order places are visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// One after the other, and again from the start.
    Sequential,
    /// At random.
    #[default]
    Random,
}

/// What to generate.
#[derive(Debug, Clone, Copy)]
pub struct Load<'d> {
    /// The disk.
    pub disk: &'d Disk,
    /// How many requests to have in flight, if the target can hold them.
    pub depth: usize,
    /// Sectors of a request: from one to what fits a frame.
    pub sectors: u8,
    /// How many of a hundred requests write.
    pub write_percent: u8,
    /// In what order.
    pub order: Order,
    /// The first sector to use.
    pub lba: Lba,
    /// How many sectors to use; what is left over of the last request is not.
    pub count: Sectors,
    /// When to stop, if not before.
    pub duration: Duration,
    /// After how many requests to stop, if not before.
    pub requests: u64,
    /// What chance starts from: the same seed asks the same.
    pub seed: u64,
    /// Whether reads are checked against what was written before. No two requests are then in flight
    /// for the same sectors.
    pub verify: bool,
}

/// Takes note of what a load generator measures.
pub trait Recorder {
    /// A request was answered with success, `latency` after it was first sent.
    fn completed(&mut self, kind: Kind, latency: Duration);

    /// Whether to end early. Asked every turn.
    fn stop(&mut self) -> bool {
        false
    }
}

/// What a load generator did.
#[derive(Debug, Default)]
pub struct LoadReport {
    /// How many requests could be in flight.
    pub window: usize,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Reads that succeeded.
    pub reads: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Octets read.
    pub octets_read: u64,
    /// Octets written.
    pub octets_written: u64,
    /// Requests that were refused or failed.
    pub errors: u64,
    /// Requests that were not answered.
    pub unanswered: u64,
    /// Requests that were sent again.
    pub retransmissions: u64,
    /// Reads that did not find what was written.
    pub mismatches: u64,
    /// Reads whose content was known and was checked.
    pub verified: u64,
    /// The first thing that went wrong.
    pub first_error: Option<ClientError>,
}

impl LoadReport {
    /// Requests that succeeded in a second.
    pub fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "2^53 requests take centuries")]
        let done = (self.reads + self.writes) as f64;
        done / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Octets read and written in a second.
    pub fn octets_per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate is approximate")]
        let octets = (self.octets_read + self.octets_written) as f64;
        octets / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

impl Client {
    /// Generates `load`. Requests that fail are counted, and do not end it.
    ///
    /// # Errors
    /// [`ClientError::OutOfRange`] when no request fits the sectors that may be used,
    /// [`ClientError::TooManyToVerify`], or [`ClientError::Link`].
    pub fn load<R: Recorder>(
        &mut self,
        load: &Load<'_>,
        recorder: &mut R,
    ) -> Result<LoadReport, ClientError> {
        self.load_over(load, &[], recorder)
    }

    /// Generates `load` over its disk and `others` alike: the same sectors of each are used, and
    /// what may be in flight is shared by all.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn load_over<R: Recorder>(
        &mut self,
        load: &Load<'_>,
        others: &[Disk],
        recorder: &mut R,
    ) -> Result<LoadReport, ClientError> {
        let mut sectors = load.sectors.clamp(1, load.disk.sectors_per_frame);
        load.disk.contains(load.lba, load.count)?;
        for disk in others {
            disk.contains(load.lba, load.count)?;
            sectors = sectors.min(disk.sectors_per_frame);
        }
        let disks = others.len() as u64 + 1;
        let units = (load.count.0 / u64::from(sectors)).saturating_mul(disks);
        if units == 0 {
            let (address, size) = (load.disk.address, load.count);
            let count = Sectors(sectors.into());
            return Err(ClientError::OutOfRange { address, lba: load.lba, count, size });
        }
        if load.verify && units > MOST_UNITS {
            return Err(ClientError::TooManyToVerify { units, most: MOST_UNITS });
        }
        // So many may come to be in flight at one of them.
        let window = others.iter().fold(load.disk.window(load.depth), |least, d| d.window(least));
        self.begin(window)?;
        let before = self.initiator.counters().retransmissions;
        let started = clock::now();
        let mut generator = Generator::new(load, others, units, started, recorder);
        (generator.sectors, generator.window) = (sectors, window);
        while !generator.stopped || self.initiator.in_flight() > 0 {
            self.turn(&mut generator, None)?;
        }
        let Generator { mut report, last_answer, .. } = generator;
        report.window = window;
        report.elapsed = last_answer.since(started);
        report.retransmissions = self.initiator.counters().retransmissions - before;
        Ok(report)
    }
}

/// A request in flight.
#[derive(Debug, Clone, Copy)]
struct Pending {
    kind: Kind,
    unit: u64,
    /// Of a write, what it stamps its sectors with; of a read, what they should be stamped with,
    /// zero when that is not known.
    generation: u32,
}

struct Generator<'l, R> {
    load: &'l Load<'l>,
    others: &'l [Disk],
    sectors: u8,
    window: usize,
    /// Places of a request, those of all disks in turn.
    units: u64,
    chance: Chance,
    /// What tells stamps of this run from those of others.
    run: u32,
    next_unit: u64,
    generation: u32,
    /// By place, the generation last written, zero when unknown; empty unless verifying.
    known: Vec<u32>,
    pending: [Pending; IN_FLIGHT],
    asked: u64,
    ends: Instant,
    /// Something was answered since the last turn.
    answered: bool,
    last_answer: Instant,
    stopped: bool,
    report: LoadReport,
    recorder: &'l mut R,
}

impl<'l, R: Recorder> Generator<'l, R> {
    fn new(
        load: &'l Load<'l>,
        others: &'l [Disk],
        units: u64,
        started: Instant,
        recorder: &'l mut R,
    ) -> Self {
        let mut chance = Chance(load.seed);
        let remembered = if load.verify { usize::try_from(units).unwrap_or(0) } else { 0 };
        Self {
            load,
            others,
            sectors: 1,
            window: 1,
            units,
            // Runs with the same seed ask the same, but their stamps differ.
            run: chance.half() ^ Chance(clock::unix_micros()).half(),
            chance,
            next_unit: 0,
            generation: 0,
            known: vec![0; remembered],
            pending: [Pending { kind: Kind::Read, unit: 0, generation: 0 }; IN_FLIGHT],
            asked: 0,
            ends: started.after(load.duration),
            answered: false,
            last_answer: started,
            stopped: false,
            report: LoadReport::default(),
            recorder,
        }
    }

    /// The disk that a place is on, and which of the disk's places it is.
    fn place(&self, unit: u64) -> (&'l Disk, u64) {
        // Dividing takes a while, and is seldom needed.
        if self.others.is_empty() {
            return (self.load.disk, unit);
        }
        let disks = self.others.len() as u64 + 1;
        let index = usize::try_from(unit % disks).unwrap_or(0);
        let other = index.checked_sub(1).and_then(|other| self.others.get(other));
        (other.unwrap_or(self.load.disk), unit / disks)
    }

    fn disk(&self, unit: u64) -> &'l Disk {
        self.place(unit).0
    }

    fn lba(&self, unit: u64) -> Lba {
        // The unit lies on the disk, which has an end.
        Lba(self.load.lba.0 + self.place(unit).1 * u64::from(self.sectors))
    }

    fn command(&self, pending: &Pending) -> AtaCommand {
        let write = pending.kind == Kind::Write;
        self.disk(pending.unit).command(write, self.lba(pending.unit), self.sectors)
    }

    fn len(&self) -> usize {
        usize::from(self.sectors) * SECTOR_SIZE
    }

    fn known_mut(&mut self, unit: u64) -> Option<&mut u32> {
        self.known.get_mut(usize::try_from(unit).ok()?)
    }

    fn draw_unit(&mut self) -> u64 {
        match self.load.order {
            Order::Random => self.chance.below(self.units),
            Order::Sequential => {
                let unit = self.next_unit;
                self.next_unit = if unit + 1 < self.units { unit + 1 } else { 0 };
                unit
            }
        }
    }

    /// The next request; `None` when all places that were tried are in use.
    fn draw(&mut self) -> Option<Pending> {
        let write = self.chance.below(100) < u64::from(self.load.write_percent);
        let kind = if write { Kind::Write } else { Kind::Read };
        for _ in 0..TRIES {
            let unit = self.draw_unit();
            let mut expected = 0;
            if let Some(known) = self.known_mut(unit) {
                if *known & BUSY != 0 {
                    continue;
                }
                expected = *known;
                *known |= BUSY;
            }
            if kind == Kind::Read {
                return Some(Pending { kind, unit, generation: expected });
            }
            // Never zero, and never as if busy.
            self.generation = (self.generation + 1) % (BUSY - 1);
            return Some(Pending { kind, unit, generation: self.generation + 1 });
        }
        None
    }

    /// Notes what the place of a request holds now, and that it is free.
    fn settle(&mut self, unit: u64, generation: u32) {
        if let Some(known) = self.known_mut(unit) {
            *known = generation;
        }
    }

    fn failed(&mut self, pending: &Pending, error: ClientError) {
        // A write that failed may have been done.
        let generation = if pending.kind == Kind::Write { 0 } else { pending.generation };
        self.settle(pending.unit, generation);
        self.report.first_error.get_or_insert(error);
    }

    /// Whether `data`, read by `pending`, is what was written.
    fn is_as_written(&self, pending: &Pending, data: &[u8]) -> bool {
        let lba = self.lba(pending.unit);
        let (sectors, _) = data.as_chunks::<SECTOR_SIZE>();
        sectors.iter().zip(lba.0..).all(|(sector, lba)| {
            sector_is(sector, Stamp { lba, generation: pending.generation, run: self.run })
        })
    }
}

impl<R: Recorder> Job for Generator<'_, R> {
    fn refill(&mut self, initiator: &mut Initiator<IN_FLIGHT>, ask: Ask, now: Instant) {
        if std::mem::take(&mut self.answered) {
            self.last_answer = now;
        }
        if self.stopped {
            return;
        }
        if now >= self.ends || self.recorder.stop() {
            self.stopped = true;
        }
        while !self.stopped && initiator.in_flight() < self.window {
            if self.asked >= self.load.requests {
                self.stopped = true;
                return;
            }
            let Some(pending) = self.draw() else { return };
            let disk = self.disk(pending.unit);
            let ask =
                Ask { destination: disk.mac, address: disk.address, command: Command::ATA, ..ask };
            let Some(id) = initiator.submit(ask, now) else { return };
            if let Some(place) = self.pending.get_mut(id.index()) {
                *place = pending;
            }
            self.asked += 1;
        }
    }

    fn argument(&mut self, id: RequestId, writer: &mut FrameWriter<'_>) {
        let Some(pending) = self.pending.get(id.index()) else { return };
        writer.ata(&self.command(pending).fields);
        if pending.kind == Kind::Write
            && let Some(data) = writer.space(self.len())
        {
            let (sectors, _) = data.as_chunks_mut::<SECTOR_SIZE>();
            for (sector, lba) in sectors.iter_mut().zip(self.lba(pending.unit).0..) {
                stamp(sector, Stamp { lba, generation: pending.generation, run: self.run });
            }
        }
    }

    fn reply(&mut self, reply: &Reply<'_>) {
        let Some(&pending) = self.pending.get(reply.id.index()) else { return };
        let len = self.len();
        let expected = if pending.kind == Kind::Read { len } else { 0 };
        self.answered = true;
        let data = match self.command(&pending).check(reply, expected) {
            Ok(data) => data,
            Err(error) => {
                self.report.errors += 1;
                self.failed(&pending, error);
                return;
            }
        };
        self.recorder.completed(pending.kind, reply.waited);
        self.settle(pending.unit, pending.generation);
        match pending.kind {
            Kind::Read => {
                self.report.reads += 1;
                self.report.octets_read += len as u64;
            }
            Kind::Write => {
                self.report.writes += 1;
                self.report.octets_written += len as u64;
            }
        }
        if self.load.verify && pending.kind == Kind::Read && pending.generation != 0 {
            self.report.verified += 1;
            if !self.is_as_written(&pending, data) {
                self.report.mismatches += 1;
                self.report.first_error.get_or_insert(ClientError::Differs {
                    address: self.disk(pending.unit).address,
                    lba: self.lba(pending.unit),
                    count: Sectors(self.sectors.into()),
                });
            }
        }
    }

    fn unanswered(&mut self, unanswered: &Unanswered) {
        let Some(&pending) = self.pending.get(unanswered.id.index()) else { return };
        self.report.unanswered += 1;
        self.answered = true;
        self.failed(&pending, no_answer(unanswered));
    }
}

/// What a sector says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    lba: u64,
    generation: u32,
    run: u32,
}

impl Stamp {
    fn head(self) -> [[u8; 8]; 3] {
        let tail = u64::from(self.generation) << 32 | u64::from(self.run);
        [MAGIC.to_le_bytes(), self.lba.to_le_bytes(), tail.to_le_bytes()]
    }
}

/// Fills a sector: the stamp, noise that depends on it, a checksum.
fn stamp(sector: &mut [u8; SECTOR_SIZE], stamp: Stamp) {
    let (words, _) = sector.as_chunks_mut::<8>();
    let mut noise = Chance(stamp.lba ^ u64::from(stamp.generation) << 32);
    let noise = noise.next().to_le_bytes();
    let head = stamp.head();
    for (word, value) in words.iter_mut().zip(head.into_iter().chain(std::iter::repeat(noise))) {
        *word = value;
    }
    let [data @ .., a, b, c, d] = sector;
    [*a, *b, *c, *d] = crc32c::crc32c(data).to_le_bytes();
}

/// Whether a sector is as [`stamp`] made it.
fn sector_is(sector: &[u8; SECTOR_SIZE], stamp: Stamp) -> bool {
    let (words, _) = sector.as_chunks::<8>();
    let [data @ .., a, b, c, d] = sector;
    words.iter().zip(stamp.head()).all(|(word, expected)| *word == expected)
        && crc32c::crc32c(data) == u32::from_le_bytes([*a, *b, *c, *d])
}

/// Numbers as if by chance (`SplitMix64`): fast, and good enough to spread requests.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number of 32 bits.
    fn half(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.next().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// A number below `limit`, which is not zero.
    fn below(&mut self, limit: u64) -> u64 {
        // The high half of the product.
        let (_, high) = self.next().carrying_mul(limit, 0);
        high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_tells_a_stale_a_misplaced_and_a_damaged_sector() {
        let right = Stamp { lba: 77, generation: 3, run: 0x1234_5678 };
        let mut sector = [0xa5; SECTOR_SIZE];
        stamp(&mut sector, right);
        assert!(sector_is(&sector, right));
        assert!(!sector_is(&sector, Stamp { generation: 4, ..right }));
        assert!(!sector_is(&sector, Stamp { lba: 78, ..right }));
        assert!(!sector_is(&sector, Stamp { run: 1, ..right }));
        for at in 0..SECTOR_SIZE {
            sector[at] ^= 1;
            assert!(!sector_is(&sector, right), "octet {at}");
            sector[at] ^= 1;
        }
    }

    #[test]
    fn chance_reaches_every_number_below_its_limit_and_no_other() {
        let mut chance = Chance(1);
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            seen[usize::try_from(chance.below(10)).unwrap()] += 1;
        }
        assert!(seen.iter().all(|count| (800..1_200).contains(count)), "{seen:?}");
    }
}
