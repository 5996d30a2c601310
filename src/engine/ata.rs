//! ATA commands against storage.
//!
//! Every failure that ATA can express is a status, never an AoE error. There are no partial
//! transfers: initiators read neither the count nor the address of a failed command.

use super::target::{Outcome, Target};
use super::{Action, After, Durability, Request, identify};
use crate::protocol::ata::{
    AtaFlags, DSM_TRIM, IDENTIFY_LEN, Opcode, POWER_ACTIVE, error, features, status, trim_ranges,
};
use crate::protocol::{
    ATA_DATA_OFFSET, ATA_LEN, AoeError, AtaArg, AtaFields, FrameWriter, MIN_FRAME_LEN,
    advertised_sectors,
};
use crate::storage::{Accepted, BlockStorage, Fault, Ready, Ticket};
use crate::units::{Lba, SECTOR_SIZE, Sectors};

/// What went wrong, and in which direction: ATA tells media errors of reads and writes apart.
#[derive(Debug, Clone, Copy)]
enum Failure {
    /// The command makes no sense, or not here.
    Abort,
    Read(Fault),
    Write(Fault),
}

/// A command that is understood.
struct Ata<'r, 'f> {
    request: &'r Request<'f>,
    arg: AtaArg<'f>,
}

/// Whether the ATA command in `arg` keeps its place among writes.
pub(super) fn is_ordered(arg: &[u8]) -> bool {
    AtaArg::parse(arg).is_ok_and(|ata| {
        matches!(
            ata.opcode(),
            Opcode::WRITE
                | Opcode::WRITE_EXT
                | Opcode::DATA_SET_MANAGEMENT
                | Opcode::FLUSH_CACHE
                | Opcode::FLUSH_CACHE_EXT
                | Opcode::SET_FEATURES // turning the write cache off flushes it
        )
    })
}

/// Answers an ATA command.
#[inline]
pub(super) fn handle<S: BlockStorage>(
    target: &mut Target,
    request: &Request<'_>,
    storage: &mut S,
    reply: &mut [u8],
) -> Action {
    let Ok(arg) = AtaArg::parse(request.frame.header.arg()) else {
        let outcome = target.malformed();
        return target.conclude(request, outcome, reply);
    };
    // A reservation stops I/O by others, never IDENTIFY or a query: they must still find us.
    if target.settings.reservation.shuts_out(request.frame.source)
        && arg.opcode() != Opcode::IDENTIFY_DEVICE
    {
        return target.conclude(request, Outcome::Refuse(AoeError::TARGET_RESERVED), reply);
    }
    let command = Ata { request, arg };
    // The frequent ones conclude apart, so that their results stay in registers. Where they share a
    // place in memory with others', they are written in parts and read as a whole, which stalls.
    let result = match arg.opcode() {
        Opcode::READ_EXT | Opcode::READ => {
            let result = command.read(target, storage, reply);
            return command.conclude(target, result, reply);
        }
        Opcode::WRITE_EXT | Opcode::WRITE => {
            let result = command.write(target, storage, reply);
            return command.conclude(target, result, reply);
        }
        Opcode::IDENTIFY_DEVICE => command.identify(target, storage, reply),
        Opcode::FLUSH_CACHE | Opcode::FLUSH_CACHE_EXT => command.flush(target, storage, reply),
        Opcode::READ_VERIFY_EXT | Opcode::READ_VERIFY => command.verify(target, storage, reply),
        Opcode::DATA_SET_MANAGEMENT => command.trim(target, storage, reply),
        Opcode::CHECK_POWER_MODE => {
            Ok(Outcome::Reply(command.done(target, POWER_ACTIVE, reply), After::Now))
        }
        Opcode::SET_FEATURES => command.set_features(target, storage, reply),
        _ => Err(Failure::Abort),
    };
    command.conclude(target, result, reply)
}

impl Ata<'_, '_> {
    /// What a command comes to.
    #[inline]
    fn conclude(
        &self,
        target: &mut Target,
        result: Result<Outcome, Failure>,
        reply: &mut [u8],
    ) -> Action {
        match result {
            Ok(outcome) => target.conclude(self.request, outcome, reply),
            Err(failure) => self.failed(target, failure, reply),
        }
    }

    /// The first sector, as the command has it.
    fn lba(&self) -> Lba {
        match self.arg.opcode() {
            Opcode::READ | Opcode::WRITE | Opcode::READ_VERIFY => self.arg.lba28(),
            _ => self.arg.lba48(),
        }
    }

    /// The sectors to transfer, when the count and the range are in order.
    #[inline]
    fn range(&self, lba: Lba, size: Sectors, fault: fn(Fault) -> Failure) -> Result<u8, Failure> {
        let count = self.arg.sector_count();
        // ATA reads a count of 0 as 256 or 65536, neither of which fits a frame.
        if count == 0 || count > advertised_sectors(self.request.port.mtu) {
            return Err(Failure::Abort);
        }
        if lba.fits(Sectors(u64::from(count)), size) {
            Ok(count)
        } else {
            Err(fault(Fault::OutOfRange))
        }
    }

    #[inline]
    fn read<S: BlockStorage>(
        &self,
        target: &mut Target,
        storage: &mut S,
        reply: &mut [u8],
    ) -> Result<Outcome, Failure> {
        if self.arg.flags().contains(AtaFlags::WRITE) {
            return Err(Failure::Abort);
        }
        let lba = self.lba();
        let count = self.range(lba, storage.info().size, Failure::Read)?;
        let mut writer = FrameWriter::new(reply, &target.reply_fields(self.request));
        writer.ata(&self.success(0));
        let Some(data) = writer.space(usize::from(count) * SECTOR_SIZE) else {
            return Err(Failure::Abort);
        };
        match storage.read(lba, data).map_err(Failure::Read)? {
            Ready::Later => return Ok(Outcome::Park),
            Ready::Done => {}
        }
        target.counters.reads += 1;
        target.counters.sectors_read += u64::from(count);
        Ok(Outcome::Reply(writer.finish(), After::Now))
    }

    #[inline]
    fn write<S: BlockStorage>(
        &self,
        target: &mut Target,
        storage: &mut S,
        reply: &mut [u8],
    ) -> Result<Outcome, Failure> {
        if !self.arg.flags().contains(AtaFlags::WRITE) {
            return Err(Failure::Abort);
        }
        let info = storage.info();
        if info.read_only {
            return Err(Failure::Write(Fault::WriteProtected));
        }
        let lba = self.lba();
        let count = self.range(lba, info.size, Failure::Write)?;
        // What is cut short is refused whole; what is too long may be padding.
        let data = self.arg.data().get(..usize::from(count) * SECTOR_SIZE).ok_or(Failure::Abort)?;
        let accepted = storage.write(lba, data).map_err(Failure::Write)?;
        let Some(after) = settle(target, storage, accepted)? else { return Ok(Outcome::Park) };
        target.counters.writes += 1;
        target.counters.sectors_written += u64::from(count);
        Ok(Outcome::Reply(self.done(target, 0, reply), after))
    }

    fn identify<S: BlockStorage>(
        &self,
        target: &mut Target,
        storage: &mut S,
        reply: &mut [u8],
    ) -> Result<Outcome, Failure> {
        if self.arg.sector_count() != 1 {
            return Err(Failure::Abort);
        }
        let identity =
            identify::identity(storage.info(), target.profile.durability, target.write_cache);
        let mut writer = FrameWriter::new(reply, &target.reply_fields(self.request));
        writer.ata(&self.success(0));
        let page = writer.space(IDENTIFY_LEN).and_then(|space| space.first_chunk_mut());
        identity.emit(page.ok_or(Failure::Abort)?);
        Ok(Outcome::Reply(writer.finish(), After::Now))
    }

    fn flush<S: BlockStorage>(
        &self,
        target: &mut Target,
        storage: &mut S,
        reply: &mut [u8],
    ) -> Result<Outcome, Failure> {
        match storage.flush().map_err(Failure::Write)? {
            Accepted::Later => Ok(Outcome::Park),
            Accepted::Done(ticket) => {
                target.counters.flushes += 1;
                Ok(Outcome::Reply(self.done(target, 0, reply), After::Durable(ticket)))
            }
        }
    }

    fn verify<S: BlockStorage>(
        &self,
        target: &mut Target,
        storage: &mut S,
        reply: &mut [u8],
    ) -> Result<Outcome, Failure> {
        let lba = self.lba();
        // No data travels, so that the frame does not limit the count.
        let count = Sectors(u64::from(self.arg.sector_count()));
        if count.0 == 0 {
            return Err(Failure::Abort);
        }
        if !lba.fits(count, storage.info().size) {
            return Err(Failure::Read(Fault::OutOfRange));
        }
        match storage.verify(lba, count).map_err(Failure::Read)? {
            Ready::Later => Ok(Outcome::Park),
            Ready::Done => Ok(Outcome::Reply(self.done(target, 0, reply), After::Now)),
        }
    }

    /// DATA SET MANAGEMENT: only TRIM, of one block of ranges as the IDENTIFY page says.
    fn trim<S: BlockStorage>(
        &self,
        target: &mut Target,
        storage: &mut S,
        reply: &mut [u8],
    ) -> Result<Outcome, Failure> {
        let info = storage.info();
        let (size, read_only) = (info.size, info.read_only);
        let asked = self.arg.flags().contains(AtaFlags::WRITE)
            && self.arg.feature() == DSM_TRIM
            && self.arg.sector_count() == 1;
        if !info.discard || !asked {
            return Err(Failure::Abort);
        }
        if read_only {
            return Err(Failure::Write(Fault::WriteProtected));
        }
        let ranges = self.arg.data().get(..SECTOR_SIZE).ok_or(Failure::Abort)?;
        if !trim_ranges(ranges).all(|(lba, count)| lba.fits(count, size)) {
            return Err(Failure::Write(Fault::OutOfRange));
        }
        // Only the last ticket's outcome is asked for: a TRIM is a hint, and sectors that keep
        // their content lose nothing.
        let mut accepted = Accepted::Done(Ticket::NONE);
        for (lba, count) in trim_ranges(ranges) {
            accepted = storage.discard(lba, count).map_err(Failure::Write)?;
            if accepted == Accepted::Later {
                break; // what was taken already is discarded twice, which changes nothing
            }
        }
        let Some(after) = settle(target, storage, accepted)? else { return Ok(Outcome::Park) };
        Ok(Outcome::Reply(self.done(target, 0, reply), after))
    }

    /// SET FEATURES: what illumos and ATA drivers send at start, and nothing else.
    fn set_features<S: BlockStorage>(
        &self,
        target: &mut Target,
        storage: &mut S,
        reply: &mut [u8],
    ) -> Result<Outcome, Failure> {
        let mut after = After::Now;
        match self.arg.feature() {
            // A durable target stays one: a write cache is allowed to be empty.
            features::ENABLE_WRITE_CACHE => {
                target.write_cache = target.profile.durability == Durability::Volatile;
            }
            // What the cache holds becomes durable before the initiator hears that there is none,
            // and before it hears so again: the first reply may still be waiting.
            features::DISABLE_WRITE_CACHE if target.profile.durability == Durability::Volatile => {
                match storage.flush().map_err(Failure::Write)? {
                    Accepted::Later => return Ok(Outcome::Park),
                    Accepted::Done(ticket) => after = After::Durable(ticket),
                }
                target.write_cache = false;
            }
            features::DISABLE_WRITE_CACHE
            | features::SET_TRANSFER_MODE
            | features::ENABLE_LOOK_AHEAD
            | features::DISABLE_LOOK_AHEAD => {}
            _ => return Err(Failure::Abort),
        }
        Ok(Outcome::Reply(self.done(target, 0, reply), after))
    }

    /// The registers of success.
    #[inline]
    fn success(&self, sector_count: u8) -> AtaFields {
        AtaFields { feature: 0, sector_count, command: status::DRDY, ..AtaFields::of(&self.arg) }
    }

    /// A reply that reports success without data; its length.
    #[inline]
    fn done(&self, target: &Target, sector_count: u8, reply: &mut [u8]) -> Option<usize> {
        let mut writer = FrameWriter::new(reply, &target.reply_fields(self.request));
        writer.ata(&self.success(sector_count)).finish()
    }

    /// Failure, with the count as it was asked for: nothing was transferred.
    #[cold]
    fn failed(&self, target: &mut Target, failure: Failure, reply: &mut [u8]) -> Action {
        target.counters.ata_errors += 1;
        let (status, error) = registers(failure);
        let fields = AtaFields { feature: error, command: status, ..AtaFields::of(&self.arg) };
        let mut writer = FrameWriter::new(reply, &target.reply_fields(self.request));
        let len = writer.ata(&fields).finish();
        target.conclude(self.request, Outcome::Reply(len, After::Now), reply)
    }
}

/// When something that was accepted may be acknowledged; `None` when it was not accepted.
#[inline]
fn settle<S: BlockStorage>(
    target: &Target,
    storage: &mut S,
    accepted: Accepted,
) -> Result<Option<After>, Failure> {
    let Accepted::Done(ticket) = accepted else { return Ok(None) };
    match (target.profile.durability, target.write_cache) {
        (Durability::Durable, _) => Ok(Some(After::Durable(ticket))),
        (Durability::Volatile, true) => Ok(Some(After::Applied(ticket))),
        // The initiator turned the cache off: a volatile disk syncs only when it is told to. A
        // flush that is not taken parks the write too, which is then written twice, in its place.
        // The write's own ticket is waited for: the flush's would not tell how the write ended.
        (Durability::Volatile, false) => match storage.flush().map_err(Failure::Write)? {
            Accepted::Done(_) => Ok(Some(After::Durable(ticket))),
            Accepted::Later => Ok(None),
        },
    }
}

/// Status and error register for a failure.
const fn registers(failure: Failure) -> (u8, u8) {
    const FAILED: u8 = status::DRDY | status::ERR;
    match failure {
        Failure::Read(Fault::OutOfRange) | Failure::Write(Fault::OutOfRange) => {
            (FAILED, error::IDNF)
        }
        Failure::Read(Fault::Media) => (FAILED, error::UNC),
        Failure::Write(Fault::Media | Fault::NoSpace) => (FAILED | status::DF, error::ABRT),
        Failure::Abort | Failure::Read(_) | Failure::Write(_) => (FAILED, error::ABRT),
    }
}

/// Turns the reply to a write, a flush or a discard into a failure. Returns its length.
pub(super) fn fail_reply(reply: &mut [u8], fault: Fault) -> usize {
    let (status, error) = registers(Failure::Write(fault));
    let registers =
        reply.get_mut(ATA_DATA_OFFSET - ATA_LEN..).and_then(|arg| arg.first_chunk_mut::<ATA_LEN>());
    if let Some([_, feature, _, command, ..]) = registers {
        (*feature, *command) = (error, status);
    }
    reply.len().min(MIN_FRAME_LEN)
}
