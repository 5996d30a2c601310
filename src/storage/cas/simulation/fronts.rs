//! What initiators do: reads and writes, each answer compared with the model.

use std::collections::VecDeque;

use super::super::super::writer::SLOT_BYTES;
use super::super::super::{Accepted, BlockStorage as _, Fault, Ready};
use super::super::volume::CasVolume;
use super::model::{COMMON, State, Volume, Write, octets, version};
use super::{Bug, is_planted};
use crate::storage::journal::simulation::disk::Chance;
use crate::units::{Lba, SECTOR_SIZE, Sectors};

/// Sectors that are read at once when all are.
const SPAN: u64 = 64;

/// A write or a discard, which has version 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    pub(super) start: u64,
    pub(super) count: u64,
    pub(super) version: u64,
}

/// A read, or a verification, which is told no octets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    pub(super) start: u64,
    pub(super) count: u64,
    pub(super) verify: bool,
}

/// What may have gone wrong, so that an error is no surprise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Excuse {
    /// The store takes no writes.
    pub(super) stopped: bool,
    /// Something may be unreadable.
    pub(super) unreadable: bool,
}

/// A front end of a volume, and who uses it.
pub(super) struct Front {
    pub(super) name: String,
    pub(super) volume: CasVolume,
    /// What was not taken. Nothing is written before it is.
    pub(super) parked: Option<Offer>,
    /// Reads that were not answered yet.
    pub(super) reads: Vec<Read>,
    /// What is not acknowledged.
    pub(super) tickets: VecDeque<u64>,
    /// Commits since news were looked for.
    pub(super) unseen: u32,
}

/// Sectors of a disk of `size`; some places are written to more often.
pub(super) fn extent(chance: &mut Chance, size: u64) -> (u64, u64) {
    let most = if chance.one_in(30) { 60 } else { 17 };
    let count = match chance.below(4) {
        0 => 8,
        1 => 16,
        _ => 1 + chance.below(most),
    };
    let count = count.min(size);
    let end = if chance.one_in(2) { 48.max(count).min(size) } else { size };
    let start = chance.below(end - count + 1);
    // Whole blocks are frequent for real.
    let start = if chance.one_in(3) { start / 8 * 8 } else { start };
    (start, count)
}

impl Front {
    pub(super) fn new(name: String, volume: CasVolume) -> Self {
        Self { name, volume, parked: None, reads: Vec::new(), tickets: VecDeque::new(), unseen: 0 }
    }

    pub(super) fn size(&self) -> u64 {
        self.volume.info().size.0
    }

    /// Offers a write, or again the one that was not taken.
    pub(super) fn write(&mut self, offer: Offer, model: &mut Volume, excuse: Excuse) {
        let offer = self.parked.take().unwrap_or(offer);
        let Offer { start, count, version } = offer;
        let size = self.size();
        self.unseen = 0;
        let taken = if version == 0 {
            self.volume.discard(Lba(start), Sectors(count))
        } else {
            let data: Vec<u8> =
                (start..start + count).flat_map(|sector| octets(version, sector)).collect();
            self.volume.write(Lba(start), &data)
        };
        let ticket = match taken {
            Ok(Accepted::Done(ticket)) => ticket,
            Ok(Accepted::Later) => {
                self.parked = Some(offer);
                return;
            }
            Err(Fault::OutOfRange) => {
                let end = start.saturating_add(count);
                assert!(end > size.min(self.size()), "sectors that are there are out of range");
                return;
            }
            Err(fault) => {
                assert!(excuse.stopped, "a write is refused for no reason: {fault}");
                return;
            }
        };
        let piece = if version == 0 { u64::MAX } else { (SLOT_BYTES / SECTOR_SIZE) as u64 };
        let mut at = start;
        while at < start + count {
            let count = piece.min(start + count - at);
            model.take(Write { number: model.last + 1, start: at, count, version });
            at += count;
        }
        assert_eq!(ticket.0, model.last, "a ticket is not the number of the last piece");
        self.tickets.push_back(ticket.0);
    }

    pub(super) fn flush(&mut self, excuse: Excuse) {
        match self.volume.flush() {
            Ok(Accepted::Done(ticket)) => self.tickets.push_back(ticket.0),
            Ok(Accepted::Later) => panic!("a flush is always taken"),
            Err(fault) => assert!(excuse.stopped, "a flush is refused for no reason: {fault}"),
        }
    }

    /// Reads, or asks again for what was not there; `false` when it is not there yet.
    pub(super) fn read(&mut self, read: Read, model: &Volume, excuse: Excuse) -> bool {
        let Read { start, count, verify } = read;
        let mut into = vec![0xa5; usize::try_from(count).unwrap() * SECTOR_SIZE];
        self.unseen = 0;
        let answer = if verify {
            self.volume.verify(Lba(start), Sectors(count))
        } else {
            self.volume.read(Lba(start), &mut into)
        };
        match answer {
            Ok(Ready::Later) => return false,
            Ok(Ready::Done) if verify => {}
            Ok(Ready::Done) => {
                assert!(start + count <= model.base.sectors(), "what is not there was read");
                let wanted = model.part(start, count);
                compare(&self.name, start, &into, &wanted);
            }
            Err(Fault::OutOfRange) => {
                assert!(start + count > model.base.sectors(), "what is there was not read");
            }
            Err(fault) => assert!(excuse.unreadable, "a read fails for no reason: {fault}"),
        }
        true
    }

    /// Asks again for everything that was not there.
    pub(super) fn read_again(&mut self, model: &Volume, excuse: Excuse) {
        for read in std::mem::take(&mut self.reads) {
            if !self.read(read, model, excuse) {
                self.reads.push(read);
            }
        }
    }

    /// Takes in what is durable; tells how many writes that acknowledges.
    pub(super) fn acknowledge(&mut self, model: &mut Volume, excuse: Excuse) -> u64 {
        let early = is_planted(Bug::AcknowledgedTooEarly);
        let (applied, durable) = (self.volume.applied(), self.volume.durable());
        assert!(durable <= applied, "durable before it was applied");
        let durable = if early { applied } else { durable };
        let mut count = 0;
        while self.tickets.front().is_some_and(|ticket| *ticket <= durable.0) {
            let ticket = self.tickets.pop_front().unwrap();
            match self.volume.outcome(super::Ticket(ticket)) {
                Ok(()) => {
                    model.acknowledged = model.acknowledged.max(ticket);
                    count += 1;
                }
                Err(fault) => assert!(excuse.stopped, "a write fails for no reason: {fault}"),
            }
        }
        count
    }
}

/// Compares sectors from `start` on with the versions that they ought to be of.
fn compare(name: &str, start: u64, content: &[u8], wanted: &[u64]) {
    for ((sector, content), wanted) in (start..).zip(content.chunks(SECTOR_SIZE)).zip(wanted) {
        if octets(*wanted, sector) != content {
            let found = version(content, sector);
            let (common, wanted) = (wanted & COMMON != 0, wanted & !COMMON);
            panic!(
                "{name}, sector {sector}: found {found:?} instead of {wanted} (common: {common})"
            );
        }
    }
}

/// Reads a whole disk and compares it; tells the sectors that could not be read. `step` lets others work.
pub(super) fn compare_all(
    name: &str,
    volume: &mut CasVolume,
    wanted: &State,
    excuse: Excuse,
    mut step: impl FnMut(),
) -> Vec<u64> {
    assert_eq!(volume.info().size.0, wanted.sectors(), "{name} has another size");
    let mut unread = Vec::new();
    let mut read = |start: u64, count: u64| -> Result<(), Fault> {
        let part = usize::try_from(start).unwrap()..usize::try_from(start + count).unwrap();
        let mut into = vec![0xa5; part.len() * SECTOR_SIZE];
        let mut tries = 0;
        while volume.read(Lba(start), &mut into)? == Ready::Later {
            while !volume.progress() {
                assert!(tries < 1000, "{name}: a read waits for ever");
                tries += 1;
                step();
            }
        }
        compare(name, start, &into, &wanted.0[part]);
        Ok(())
    };
    for start in (0..wanted.sectors()).step_by(usize::try_from(SPAN).unwrap()) {
        let count = SPAN.min(wanted.sectors() - start);
        if let Err(fault) = read(start, count) {
            assert!(excuse.unreadable, "{name}, {start}: fails for no reason: {fault}");
            unread.extend((start..start + count).filter(|sector| read(*sector, 1).is_err()));
        }
    }
    unread
}
