//! A wrapper that makes a disk fail, for tests: on demand, or by chance from a seed.
//!
//! With [`FaultStorage::with_cache`] it also is a disk with a volatile write cache: what was not
//! flushed is lost, whole or in part, in a simulated power cut; and one may be made that loses
//! even what it said was durable, as bad disks do.

use std::collections::VecDeque;

use super::{Accepted, BlockStorage, DeviceInfo, Fault, Ready, Ticket};
use crate::units::{Lba, SECTOR_SIZE, Sectors};

/// How often things go wrong by chance, in 1024ths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultRates {
    /// Reads and verifications that are [`Fault::Media`].
    pub read_fault: u32,
    /// Writes that are refused with [`Fault::Media`].
    pub write_fault: u32,
    /// Reads that first answer [`Ready::Later`].
    pub read_later: u32,
    /// Writes that first answer [`Accepted::Later`].
    pub write_later: u32,
}

/// What the cache does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cache {
    /// There is none: everything goes to the disk inside.
    Through,
    /// It keeps writes until a flush, and says so.
    Honest,
    /// It keeps writes until a flush, and says that they are durable.
    Lying,
}

/// A range of sectors that fails.
#[derive(Debug, Clone)]
struct Bad {
    start: u64,
    end: u64,
    fault: Fault,
}

/// What was taken into the cache.
#[derive(Debug, Clone)]
enum Change {
    Write(Lba, Vec<u8>),
    Discard(Lba, Sectors),
    Flush,
}

#[derive(Debug, Clone)]
struct Cached {
    ticket: Ticket,
    change: Change,
    /// The ticket of the disk inside, once it has taken this.
    inner: Option<Ticket>,
}

/// A read that is being held up.
#[derive(Debug, Clone, Copy)]
struct Held {
    lba: Lba,
    sectors: u64,
    turns: u32,
}

/// A disk that fails. The same calls with the same seed fail in the same way.
#[derive(Debug)]
pub struct FaultStorage<S> {
    inner: S,
    random: u64,
    rates: FaultRates,
    bad_reads: Vec<Bad>,
    bad_writes: Vec<Bad>,
    /// How many calls of progress a read waits.
    read_delay: u32,
    held: Vec<Held>,
    write_delay: u32,
    write_turns: u32,
    /// Sectors that can still be written.
    room: Option<u64>,
    fail_next_flush: bool,
    stopped: bool,
    failed: Vec<Ticket>,
    cache: Cache,
    cached: VecDeque<Cached>,
    last: Ticket,
    durable: Ticket,
}

impl<S: BlockStorage> FaultStorage<S> {
    /// A disk that hands everything on to `inner` until it is told to fail. Chance starts from
    /// `seed`.
    pub fn new(inner: S, seed: u64) -> Self {
        Self {
            inner,
            random: seed,
            rates: FaultRates::default(),
            bad_reads: Vec::new(),
            bad_writes: Vec::new(),
            read_delay: 0,
            held: Vec::new(),
            write_delay: 0,
            write_turns: 0,
            room: None,
            fail_next_flush: false,
            stopped: false,
            failed: Vec::new(),
            cache: Cache::Through,
            cached: VecDeque::new(),
            last: Ticket::NONE,
            durable: Ticket::NONE,
        }
    }

    /// The same with a write cache: writes are applied at once and durable after a flush, and what
    /// is not is lost in a [`Self::crash`].
    pub fn with_cache(inner: S, seed: u64) -> Self {
        Self { cache: Cache::Honest, ..Self::new(inner, seed) }
    }

    /// The same with a cache that claims every write to be durable. Even flushes are lost.
    pub fn with_lying_cache(inner: S, seed: u64) -> Self {
        Self { cache: Cache::Lying, ..Self::new(inner, seed) }
    }

    /// The disk inside.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Gives the disk inside back. What is in the cache is lost whole.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Lets things go wrong by chance from now on.
    pub fn set_rates(&mut self, rates: FaultRates) {
        self.rates = rates;
    }

    /// Makes reads and verifications that touch the sectors fail with `fault`.
    pub fn fail_reads(&mut self, lba: Lba, count: Sectors, fault: Fault) {
        self.bad_reads.push(Bad { start: lba.0, end: lba.0.saturating_add(count.0), fault });
    }

    /// Makes writes and discards that touch the sectors fail with `fault`.
    pub fn fail_writes(&mut self, lba: Lba, count: Sectors, fault: Fault) {
        self.bad_writes.push(Bad { start: lba.0, end: lba.0.saturating_add(count.0), fault });
    }

    /// Makes every read answer [`Ready::Later`] until [`BlockStorage::progress`] was called `turns`
    /// times; 0 for none.
    pub fn delay_reads(&mut self, turns: u32) {
        self.read_delay = turns;
        self.held.clear();
    }

    /// The same for writes, one after the other.
    pub fn delay_writes(&mut self, turns: u32) {
        self.write_delay = turns;
        self.write_turns = turns;
    }

    /// Lets `sectors` more be written, after which writes are [`Fault::NoSpace`]; `None` for no
    /// limit.
    pub fn limit_room(&mut self, sectors: Option<Sectors>) {
        self.room = sectors.map(|sectors| sectors.0);
    }

    /// Makes the next flush fail, after which the disk takes no writes.
    pub fn fail_next_flush(&mut self) {
        self.fail_next_flush = true;
    }

    /// Takes everything back that was set to fail, but for what a failed flush has stopped.
    pub fn heal(&mut self) {
        self.bad_reads.clear();
        self.bad_writes.clear();
        self.rates = FaultRates::default();
        self.delay_reads(0);
        self.delay_writes(0);
        self.room = None;
        self.fail_next_flush = false;
    }

    /// A power cut: of each write that is still in the cache all, the first sectors or nothing
    /// reaches the disk inside, by chance. The disk starts again with an empty cache. The disk
    /// inside should be one that answers at once.
    pub fn crash(&mut self) {
        for cached in std::mem::take(&mut self.cached) {
            let Change::Write(lba, data) = cached.change else { continue };
            // Torn only at sectors: those are written whole or not at all.
            let sectors = (data.len() / SECTOR_SIZE) as u64;
            let kept = match self.chance() % 3 {
                0 => 0,
                1 => sectors,
                _ => self.chance() % (sectors + 1),
            };
            let kept = usize::try_from(kept).unwrap_or(0) * SECTOR_SIZE;
            if kept != 0 {
                // What does not go through is lost, as everything may be.
                let _ = self.inner.write(lba, &data[..kept]);
            }
        }
        self.held.clear();
        self.stopped = false;
        self.durable = self.last;
    }

    /// The next number of splitmix64.
    fn chance(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.random;
        number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ number >> 31
    }

    fn happens(&mut self, rate: u32) -> bool {
        // Without a rate the sequence stays where it is, so that a script does not depend on it.
        rate != 0 && self.chance() % 1024 < u64::from(rate)
    }

    fn check_size(&self, lba: Lba, count: Sectors) -> Result<(), Fault> {
        if lba.fits(count, self.info().size) { Ok(()) } else { Err(Fault::OutOfRange) }
    }

    /// What a read or a verification has to get past.
    fn gate_read(&mut self, lba: Lba, count: Sectors) -> Result<Ready, Fault> {
        self.check_size(lba, count)?;
        let held = self.held.iter().position(|held| held.lba == lba && held.sectors == count.0);
        match held {
            Some(place) if self.held[place].turns > 0 => return Ok(Ready::Later),
            Some(place) => {
                self.held.swap_remove(place);
            }
            None => {
                let by_chance = u32::from(self.happens(self.rates.read_later));
                let turns = self.read_delay.max(by_chance);
                if turns > 0 {
                    self.held.push(Held { lba, sectors: count.0, turns });
                    return Ok(Ready::Later);
                }
            }
        }
        fault_in(&self.bad_reads, lba, count)?;
        if self.happens(self.rates.read_fault) { Err(Fault::Media) } else { Ok(Ready::Done) }
    }

    /// What a write or a discard has to get past: `false` to wait.
    fn gate_write(&mut self, lba: Lba, count: Sectors) -> Result<bool, Fault> {
        self.check_size(lba, count)?;
        if self.stopped {
            return Err(Fault::Media);
        }
        if self.info().read_only {
            return Err(Fault::WriteProtected);
        }
        fault_in(&self.bad_writes, lba, count)?;
        if self.write_turns > 0 {
            return Ok(false);
        }
        if self.happens(self.rates.write_later) {
            self.write_turns = 1;
            return Ok(false);
        }
        if self.happens(self.rates.write_fault) {
            return Err(Fault::Media);
        }
        if self.room.is_some_and(|room| room < count.0) {
            return Err(Fault::NoSpace);
        }
        Ok(true)
    }

    /// Notes that a write has got past the gate and was taken.
    fn passed(&mut self, count: Sectors) {
        self.write_turns = self.write_delay;
        if let Some(room) = &mut self.room {
            *room = room.saturating_sub(count.0);
        }
    }

    fn take(&mut self, change: Change) -> Accepted {
        self.last = Ticket(self.last.0 + 1);
        if self.cache == Cache::Lying && matches!(change, Change::Flush) {
            return Accepted::Done(self.last);
        }
        self.cached.push_back(Cached { ticket: self.last, change, inner: None });
        Accepted::Done(self.last)
    }

    /// Hands over what a flush asks for, and takes note of what has become durable inside.
    fn write_back(&mut self) {
        let flush = self.cached.iter().rposition(|cached| matches!(cached.change, Change::Flush));
        let Some(flush) = flush else { return };
        for cached in self.cached.iter_mut().take(flush + 1) {
            if cached.inner.is_some() {
                continue;
            }
            let accepted = match &cached.change {
                Change::Write(lba, data) => self.inner.write(*lba, data),
                Change::Discard(lba, count) => self.inner.discard(*lba, *count),
                Change::Flush => self.inner.flush(),
            };
            match accepted {
                Ok(Accepted::Done(ticket)) => cached.inner = Some(ticket),
                Ok(Accepted::Later) => break,
                Err(_) => {
                    self.failed.push(cached.ticket);
                    cached.inner = Some(Ticket::NONE);
                }
            }
        }
        while let Some(cached) = self.cached.front()
            && cached.inner.is_some_and(|inner| inner <= self.inner.durable())
        {
            let (ticket, inner) = (cached.ticket, cached.inner.unwrap_or_default());
            if inner != Ticket::NONE && self.inner.outcome(inner).is_err() {
                self.failed.push(ticket);
            }
            self.durable = ticket;
            self.cached.pop_front();
        }
    }

    /// Puts what is in the cache over what was read from the disk inside.
    fn overlay(&self, lba: Lba, into: &mut [u8]) {
        for cached in &self.cached {
            let (start, data) = match &cached.change {
                Change::Write(start, data) => (start.0, Some(data)),
                Change::Discard(start, _) => (start.0, None),
                Change::Flush => continue,
            };
            let count = match &cached.change {
                Change::Discard(_, count) => count.0,
                _ => data.map_or(0, |data| (data.len() / SECTOR_SIZE) as u64),
            };
            for (index, sector) in into.chunks_exact_mut(SECTOR_SIZE).enumerate() {
                let at = lba.0 + index as u64;
                if !(start..start + count).contains(&at) {
                    continue;
                }
                let from = usize::try_from(at - start).unwrap_or(0) * SECTOR_SIZE;
                match data {
                    Some(data) => sector.copy_from_slice(&data[from..from + SECTOR_SIZE]),
                    None => sector.fill(0),
                }
            }
        }
    }
}

fn fault_in(ranges: &[Bad], lba: Lba, count: Sectors) -> Result<(), Fault> {
    let end = lba.0 + count.0;
    match ranges.iter().find(|bad| bad.start < end && lba.0 < bad.end) {
        Some(bad) => Err(bad.fault),
        None => Ok(()),
    }
}

impl<S: BlockStorage> BlockStorage for FaultStorage<S> {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn read(&mut self, lba: Lba, into: &mut [u8]) -> Result<Ready, Fault> {
        let count = Sectors((into.len() / SECTOR_SIZE) as u64);
        if self.gate_read(lba, count)? == Ready::Later {
            return Ok(Ready::Later);
        }
        let ready = self.inner.read(lba, into)?;
        if ready == Ready::Done {
            self.overlay(lba, into);
        }
        Ok(ready)
    }

    fn write(&mut self, lba: Lba, data: &[u8]) -> Result<Accepted, Fault> {
        let count = Sectors((data.len() / SECTOR_SIZE) as u64);
        if !self.gate_write(lba, count)? {
            return Ok(Accepted::Later);
        }
        let accepted = match self.cache {
            Cache::Through => self.inner.write(lba, data)?,
            _ => self.take(Change::Write(lba, data.into())),
        };
        if accepted != Accepted::Later {
            self.passed(count);
        }
        Ok(accepted)
    }

    fn flush(&mut self) -> Result<Accepted, Fault> {
        if self.stopped {
            return Err(Fault::Media);
        }
        if std::mem::take(&mut self.fail_next_flush) {
            self.stopped = true;
            return Err(Fault::Media);
        }
        if self.cache == Cache::Through {
            return self.inner.flush();
        }
        let accepted = self.take(Change::Flush);
        self.write_back();
        Ok(accepted)
    }

    fn discard(&mut self, lba: Lba, count: Sectors) -> Result<Accepted, Fault> {
        if !self.info().discard {
            return Err(Fault::Aborted);
        }
        if !self.gate_write(lba, count)? {
            return Ok(Accepted::Later);
        }
        let accepted = match self.cache {
            Cache::Through => self.inner.discard(lba, count)?,
            _ => self.take(Change::Discard(lba, count)),
        };
        if accepted != Accepted::Later {
            // A discard takes no room.
            self.passed(Sectors(0));
        }
        Ok(accepted)
    }

    fn verify(&mut self, lba: Lba, count: Sectors) -> Result<Ready, Fault> {
        if self.gate_read(lba, count)? == Ready::Later {
            return Ok(Ready::Later);
        }
        self.inner.verify(lba, count)
    }

    fn applied(&self) -> Ticket {
        if self.cache == Cache::Through { self.inner.applied() } else { self.last }
    }

    fn durable(&self) -> Ticket {
        match self.cache {
            Cache::Through => self.inner.durable(),
            Cache::Honest => self.durable,
            Cache::Lying => self.last,
        }
    }

    fn outcome(&mut self, ticket: Ticket) -> Result<(), Fault> {
        if self.cache == Cache::Through {
            return self.inner.outcome(ticket);
        }
        match self.failed.iter().position(|failed| *failed == ticket) {
            Some(place) => {
                self.failed.swap_remove(place);
                Err(Fault::Media)
            }
            None => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), Fault> {
        let _ = self.flush()?;
        self.write_back();
        self.inner.finish()?;
        self.write_back();
        let kept = self.cache == Cache::Honest && !self.cached.is_empty();
        if kept || self.stopped { Err(Fault::Media) } else { Ok(()) }
    }

    fn refresh(&mut self) -> bool {
        self.inner.refresh()
    }

    fn progress(&mut self) -> bool {
        let mut news = self.inner.progress();
        for held in &mut self.held {
            news |= held.turns == 1;
            held.turns = held.turns.saturating_sub(1);
        }
        news |= self.write_turns == 1;
        self.write_turns = self.write_turns.saturating_sub(1);
        self.write_back();
        news
    }
}

#[cfg(test)]
mod tests {
    use super::super::mem::MemStorage;
    use super::*;

    const SECTOR: [u8; SECTOR_SIZE] = [0x5a; SECTOR_SIZE];

    fn ram(sectors: usize) -> MemStorage<Vec<u8>> {
        MemStorage::new(vec![0; sectors * SECTOR_SIZE], "ram")
    }

    fn first_octet(disk: &mut impl BlockStorage, lba: u64) -> Result<u8, Fault> {
        let mut sector = [0xa5; SECTOR_SIZE];
        assert_eq!(disk.read(Lba(lba), &mut sector)?, Ready::Done);
        Ok(sector[0])
    }

    #[test]
    fn ranges_fail_until_healed() {
        let mut disk = FaultStorage::new(ram(8), 1);
        disk.fail_reads(Lba(3), Sectors(2), Fault::Media);
        disk.fail_writes(Lba(5), Sectors(1), Fault::NoSpace);
        assert_eq!(first_octet(&mut disk, 2), Ok(0));
        assert_eq!(first_octet(&mut disk, 4), Err(Fault::Media));
        assert_eq!(disk.verify(Lba(0), Sectors(8)), Err(Fault::Media));
        assert_eq!(disk.write(Lba(5), &SECTOR), Err(Fault::NoSpace));
        disk.heal();
        assert_eq!(first_octet(&mut disk, 4), Ok(0));
        assert_eq!(disk.write(Lba(5), &SECTOR), Ok(Accepted::Done(Ticket(1))));
    }

    #[test]
    fn delays_last_as_many_turns_as_told() {
        let mut disk = FaultStorage::new(ram(8), 1);
        disk.delay_reads(2);
        disk.delay_writes(1);
        let mut sector = [0xa5; SECTOR_SIZE];
        assert_eq!(disk.read(Lba(1), &mut sector), Ok(Ready::Later));
        assert_eq!(disk.write(Lba(1), &SECTOR), Ok(Accepted::Later));
        assert!(disk.progress());
        assert_eq!(disk.read(Lba(1), &mut sector), Ok(Ready::Later));
        assert_eq!(disk.write(Lba(1), &SECTOR), Ok(Accepted::Done(Ticket(1))));
        assert!(disk.progress());
        assert_eq!(disk.read(Lba(1), &mut sector), Ok(Ready::Done));
        assert_eq!(sector, SECTOR);
    }

    #[test]
    fn a_full_disk_takes_no_more() {
        let mut disk = FaultStorage::new(ram(8), 1);
        disk.limit_room(Some(Sectors(1)));
        assert_eq!(disk.write(Lba(0), &SECTOR), Ok(Accepted::Done(Ticket(1))));
        assert_eq!(disk.write(Lba(1), &SECTOR), Err(Fault::NoSpace));
        assert_eq!(first_octet(&mut disk, 1), Ok(0));
    }

    #[test]
    fn a_crash_keeps_what_was_flushed_and_tears_the_rest() {
        let (mut lost, mut torn, mut kept) = (0, 0, 0);
        for seed in 0..64 {
            let mut disk = FaultStorage::with_cache(ram(16), seed);
            assert_eq!(disk.write(Lba(0), &SECTOR), Ok(Accepted::Done(Ticket(1))));
            assert_eq!(disk.durable(), Ticket::NONE);
            assert_eq!(disk.flush(), Ok(Accepted::Done(Ticket(2))));
            assert_eq!(disk.durable(), Ticket(2));
            let long = [0x77; 8 * SECTOR_SIZE];
            assert_eq!(disk.write(Lba(4), &long), Ok(Accepted::Done(Ticket(3))));
            assert_eq!((disk.applied(), disk.durable()), (Ticket(3), Ticket(2)));
            assert_eq!(first_octet(&mut disk, 11), Ok(0x77));
            disk.crash();
            assert_eq!(first_octet(&mut disk, 0), Ok(0x5a));
            let sectors: Vec<_> = (4..12).map(|lba| first_octet(&mut disk, lba)).collect();
            let whole = sectors.iter().filter(|octet| **octet == Ok(0x77)).count();
            assert!(sectors.iter().skip(whole).all(|octet| *octet == Ok(0)));
            match whole {
                0 => lost += 1,
                8 => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(lost > 5 && torn > 5 && kept > 5, "{lost} lost, {torn} torn, {kept} kept");
    }

    #[test]
    fn a_lying_disk_loses_what_it_called_durable() {
        let crashed = |seed| {
            let mut disk = FaultStorage::with_lying_cache(ram(16), seed);
            assert_eq!(disk.write(Lba(0), &SECTOR), Ok(Accepted::Done(Ticket(1))));
            assert_eq!(disk.flush(), Ok(Accepted::Done(Ticket(2))));
            assert_eq!(disk.durable(), Ticket(2));
            disk.crash();
            first_octet(&mut disk, 0)
        };
        assert!((0..64).any(|seed| crashed(seed) == Ok(0)));
    }

    #[test]
    fn the_same_seed_fails_in_the_same_way() {
        let run = |seed| {
            let mut disk = FaultStorage::new(ram(8), seed);
            disk.set_rates(FaultRates { read_fault: 300, ..FaultRates::default() });
            (0..64).map(|_| first_octet(&mut disk, 0).is_ok()).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        assert!(run(7).contains(&true) && run(7).contains(&false));
    }

    #[test]
    fn a_failed_flush_stops_the_disk() {
        let mut disk = FaultStorage::with_cache(ram(8), 1);
        disk.fail_next_flush();
        assert_eq!(disk.write(Lba(0), &SECTOR), Ok(Accepted::Done(Ticket(1))));
        assert_eq!(disk.flush(), Err(Fault::Media));
        assert_eq!(disk.flush(), Err(Fault::Media));
        assert_eq!(disk.write(Lba(0), &SECTOR), Err(Fault::Media));
        assert_eq!(first_octet(&mut disk, 0), Ok(0x5a));
        assert_eq!(disk.durable(), Ticket::NONE);
    }
}
