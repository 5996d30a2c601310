//! Finding targets, and what they say of themselves.

use std::time::Duration;

use super::{AtaCommand, Client, ClientError, IN_FLIGHT, Job};
use crate::clock::{self, Instant};
use crate::engine::ConfigString;
use crate::engine::initiator::{Answers, Ask, Reply, RequestId, Unanswered};
use crate::protocol::ata::{
    AtaText, IDENTIFY_LEN, IdentifyPage, LBA28_SECTORS, LBA48_SECTORS, WriteCache,
};
use crate::protocol::{
    Address, AtaFields, AtaFlags, Command, ConfigArg, ConfigFields, FrameWriter, MacAddr, Opcode,
    sectors_per_frame,
};
use crate::units::{Lba, Sectors};

/// How long to listen on after the first answer, for another server that has the same address.
const SETTLE: Duration = Duration::from_millis(20);
/// The sectors of a frame for a target that does not tell: what fits an MTU of 1500.
const DEFAULT_SECTORS: u8 = 2;
/// Bits of the device register that are always set: those that ATA has declared obsolete, and LBA.
const DEVICE_LBA: u8 = 0xe0;

/// One answer to a config query: a target, as seen at one of its stations.
///
/// Two with the same address are one target behind two interfaces, or two servers that take each
/// other's writes away; equal serial numbers tell the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its address.
    pub address: Address,
    /// The station that answered.
    pub mac: MacAddr,
    /// How many frames it can hold.
    pub buffer_count: u16,
    /// Its firmware version.
    pub firmware: u16,
    /// The most sectors of one request; zero means two.
    pub sector_count: u8,
    /// Its config string.
    pub config_string: ConfigString,
    /// What its IDENTIFY page says; `None` when it was not asked, or did not answer properly.
    pub disk: Option<DiskFacts>,
}

/// What an IDENTIFY page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the page has a bit for each")]
pub struct DiskFacts {
    /// Tells this disk from others.
    pub serial: AtaText<20>,
    /// Firmware revision.
    pub firmware: AtaText<8>,
    /// Model.
    pub model: AtaText<40>,
    /// Its size.
    pub size: Sectors,
    /// Whether it takes 48-bit addresses.
    pub lba48: bool,
    /// Whether writes are acknowledged before they are durable.
    pub write_cache: bool,
    /// Whether sectors can be discarded.
    pub trim: bool,
    /// Whether the page's checksum holds.
    pub checksum_holds: bool,
}

impl DiskFacts {
    /// Reads the page at the start of `data`; `None` when it is shorter than that.
    pub fn of(data: &[u8]) -> Option<Self> {
        let page = IdentifyPage::parse(data)?;
        Some(Self {
            serial: page.serial(),
            firmware: page.firmware(),
            model: page.model(),
            size: page.size(),
            lba48: page.lba48(),
            write_cache: page.write_cache() == WriteCache::On,
            trim: page.trim(),
            checksum_holds: page.checksum_holds(),
        })
    }
}

/// A target that can be read and written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its address.
    pub address: Address,
    /// The station that is used.
    pub mac: MacAddr,
    /// All stations that answer at this address.
    pub stations: Vec<MacAddr>,
    /// How many frames it can hold, one at least.
    pub buffer_count: u16,
    /// The sectors of a full frame: what both the target and the interface can.
    pub sectors_per_frame: u8,
    /// What it says of itself.
    pub facts: DiskFacts,
}

impl Disk {
    /// Its size.
    pub const fn size(&self) -> Sectors {
        self.facts.size
    }

    /// How many requests to have in flight: `depth`, but not more than target and client can hold.
    pub fn window(&self, depth: usize) -> usize {
        depth.min(usize::from(self.buffer_count)).clamp(1, IN_FLIGHT)
    }

    /// Makes sure that these sectors are on the disk, and can be addressed.
    ///
    /// # Errors
    /// [`ClientError::OutOfRange`] when they are not.
    pub fn contains(&self, lba: Lba, count: Sectors) -> Result<(), ClientError> {
        let reach = if self.facts.lba48 { LBA48_SECTORS } else { LBA28_SECTORS };
        let size = Sectors(self.facts.size.0.min(reach));
        if lba.fits(count, size) {
            return Ok(());
        }
        Err(ClientError::OutOfRange { address: self.address, lba, count, size })
    }

    /// The command that reads, or writes, `count` sectors at `lba`.
    pub(super) fn command(&self, write: bool, lba: Lba, count: u8) -> AtaCommand {
        let opcode = match (write, self.facts.lba48) {
            (false, true) => Opcode::READ_EXT,
            (true, true) => Opcode::WRITE_EXT,
            (false, false) => Opcode::READ,
            (true, false) => Opcode::WRITE,
        };
        let mut registers = [0; 6];
        for (register, octet) in registers.iter_mut().zip(lba.0.to_le_bytes()) {
            *register = octet;
        }
        let mut flags = if write { AtaFlags::WRITE } else { AtaFlags::default() };
        if self.facts.lba48 {
            flags = flags.union(AtaFlags::EXTENDED);
        } else {
            let [_, _, _, device, ..] = &mut registers;
            *device = *device & 0x0f | DEVICE_LBA;
        }
        let (command, sector_count) = (opcode.0, count);
        let fields = AtaFields { flags, feature: 0, sector_count, command, lba: registers };
        AtaCommand { address: self.address, fields, lba }
    }
}

/// IDENTIFY DEVICE to `address`.
pub(super) fn identify_command(address: Address) -> AtaCommand {
    let fields = AtaFields {
        sector_count: 1,
        command: Opcode::IDENTIFY_DEVICE.0,
        lba: [0, 0, 0, DEVICE_LBA & !0x40, 0, 0],
        ..AtaFields::default()
    };
    AtaCommand { address, fields, lba: Lba(0) }
}

/// Reads an answer to a config query.
pub(super) fn found(reply: &Reply<'_>) -> Result<Found, ClientError> {
    let address = reply.frame.header.address();
    let malformed = ClientError::Malformed { address, command: Command::CONFIG };
    let Ok(config) = ConfigArg::parse(reply.frame.header.arg()) else { return Err(malformed) };
    let Some(config_string) = config.string().and_then(ConfigString::from_octets) else {
        return Err(malformed);
    };
    Ok(Found {
        address,
        mac: reply.frame.source,
        buffer_count: config.buffer_count(),
        firmware: config.firmware(),
        sector_count: config.sector_count(),
        config_string,
        disk: None,
    })
}

impl Client {
    /// Lists the targets that `address` names, which may be a wildcard, in the order of their
    /// addresses. It listens for `timeout` in any case, and asks again meanwhile. With `identify`
    /// each is then asked for its IDENTIFY page.
    ///
    /// # Errors
    /// [`ClientError::Link`] when the interface cannot be used.
    pub fn discover(
        &mut self,
        address: Address,
        timeout: Duration,
        identify: bool,
    ) -> Result<Vec<Found>, ClientError> {
        let mut all = self.query(address, timeout, None)?;
        all.sort_by_key(|found| (found.address, found.mac));
        if identify {
            for found in &mut all {
                found.disk = match self.identify(found.mac, found.address) {
                    Ok(facts) => Some(facts),
                    Err(error @ ClientError::Link { .. }) => return Err(error),
                    Err(error) => {
                        log::warn!("{} at {}: {error}", found.address, found.mac);
                        None
                    }
                };
            }
        }
        Ok(all)
    }

    /// Everybody who answers a config query for `address` within `timeout`, or, with `settle`,
    /// within that after the first answer.
    pub(super) fn query(
        &mut self,
        address: Address,
        timeout: Duration,
        settle: Option<Duration>,
    ) -> Result<Vec<Found>, ClientError> {
        self.begin(1)?;
        let ask = Ask {
            answers: Answers::Many,
            patience: timeout,
            ..self.ask(MacAddr::BROADCAST, address, Command::CONFIG)
        };
        let mut job = Query { found: Vec::new(), settle, until: None, over: false };
        // The window is empty, so that there is room.
        let _ = self.initiator.submit(ask, clock::now());
        loop {
            let until = job.until;
            self.turn(&mut job, until)?;
            if job.over || job.until.is_some_and(|until| clock::now() >= until) {
                self.initiator.abandon();
                return Ok(job.found);
            }
        }
    }

    /// Asks a target for its IDENTIFY page.
    ///
    /// # Errors
    /// [`ClientError`] when it does not answer, or not with such a page.
    pub fn identify(&mut self, mac: MacAddr, address: Address) -> Result<DiskFacts, ClientError> {
        let command = identify_command(address);
        let ask = self.ask(mac, address, Command::ATA);
        self.exchange(
            ask,
            |writer| {
                writer.ata(&command.fields);
            },
            |reply| {
                let page = command.check(reply, IDENTIFY_LEN)?;
                let have = page.len();
                let short = ClientError::ShortReply { address, expected: IDENTIFY_LEN, have };
                DiskFacts::of(page).ok_or(short)
            },
        )
    }

    /// Looks for one target: which stations answer at its address.
    ///
    /// # Errors
    /// [`ClientError::NoAnswer`] when nobody does, [`ClientError::Wildcard`] for a wildcard.
    pub fn locate(&mut self, address: Address) -> Result<Vec<Found>, ClientError> {
        if address.is_wildcard() {
            return Err(ClientError::Wildcard { address });
        }
        let before = self.initiator.counters().transmissions;
        let found = self.query(address, self.patience, Some(SETTLE))?;
        if found.is_empty() {
            let sent = self.initiator.counters().transmissions - before;
            return Err(ClientError::NoAnswer {
                address,
                waited: self.patience,
                transmissions: u32::try_from(sent).unwrap_or(u32::MAX),
            });
        }
        Ok(found)
    }

    /// Looks for one target and asks it what is needed to read and write it. The first station that
    /// answered is used.
    ///
    /// # Errors
    /// As [`Self::locate`] and [`Self::identify`]; [`ClientError::MtuTooSmall`] when no sector fits
    /// a frame.
    pub fn open(&mut self, address: Address) -> Result<Disk, ClientError> {
        let mtu = self.link.info().mtu;
        let ours = sectors_per_frame(mtu);
        if ours == 0 {
            return Err(ClientError::MtuTooSmall { mtu });
        }
        let found = self.locate(address)?;
        let stations: Vec<_> = found.iter().map(|found| found.mac).collect();
        // `locate` answers with at least one.
        let Some(first) = found.into_iter().next() else {
            return Err(ClientError::Malformed { address, command: Command::CONFIG });
        };
        let theirs = match first.sector_count {
            0 => DEFAULT_SECTORS,
            count => count,
        };
        Ok(Disk {
            address,
            mac: first.mac,
            stations,
            buffer_count: first.buffer_count.max(1),
            sectors_per_frame: ours.min(theirs),
            facts: self.identify(first.mac, address)?,
        })
    }
}

/// The job of a config query.
struct Query {
    found: Vec<Found>,
    settle: Option<Duration>,
    until: Option<Instant>,
    over: bool,
}

impl Job for Query {
    fn argument(&mut self, _: RequestId, writer: &mut FrameWriter<'_>) {
        writer.config(&ConfigFields::default(), &[]);
    }

    fn reply(&mut self, reply: &Reply<'_>) {
        let source = reply.frame.source;
        let found = match (reply.refused, found(reply)) {
            (None, Ok(found)) => found,
            (Some(error), _) => {
                log::warn!("{source} refuses the config command: {error}");
                return;
            }
            (None, Err(error)) => {
                log::warn!("{source}: {error}");
                return;
            }
        };
        // A query that is repeated is answered again.
        let same = |old: &Found| old.address == found.address && old.mac == found.mac;
        if !self.found.iter().any(same) {
            self.found.push(found);
        }
        if let (None, Some(settle)) = (self.until, self.settle) {
            self.until = Some(clock::now().after(settle));
        }
    }

    fn unanswered(&mut self, _: &Unanswered) {
        self.over = true;
    }
}
