//! What the engine's tests share: a disk in memory that does as it is told, requests laid out by
//! hand, and the checks that hold for every reply.
#![allow(dead_code, unreachable_pub, reason = "each test crate uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeMap;

use aoe_server::engine::{
    Action, After, Durability, Engine, Export, MacList, Port, Settings, Target, TargetId,
    TargetProfile, fail_reply, refuse_reply,
};
use aoe_server::protocol::ata::AtaText;
use aoe_server::protocol::{Address, AoeError, MacAddr, advertised_sectors};
use aoe_server::storage::{Accepted, BlockStorage, DeviceInfo, Fault, Ready, Ticket};
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};

/// The station under test, "M" of the checklist.
pub const SERVER: MacAddr = MacAddr([0x02, 0xae, 0, 0, 0, 0x01]);
/// An initiator, "C" of the checklist.
pub const CLIENT: MacAddr = MacAddr([0x02, 0xc1, 0, 0, 0, 0x01]);
/// Another initiator.
pub const OTHER: MacAddr = MacAddr([0x02, 0xc1, 0, 0, 0, 0x02]);
/// What buffers hold before anybody writes to them.
pub const FILLER: u8 = 0xa5;
/// Room for the longest reply of any link.
pub const REPLY_CAPACITY: usize = 70_000;

/// The status of success and of failure, and the error bits.
pub const OK: u8 = 0x40;
pub const FAILED: u8 = 0x41;
pub const DEVICE_FAULT: u8 = 0x61;
pub const ABRT: u8 = 0x04;
pub const IDNF: u8 = 0x10;
pub const UNC: u8 = 0x40;

/// A disk in memory, whose faults and delays are scripted.
#[derive(Debug)]
pub struct RamDisk {
    pub info: DeviceInfo,
    pub octets: Vec<u8>,
    /// The sector that `octets` starts with: a disk may claim more sectors than it holds.
    pub base: u64,
    /// What the next calls of each kind end in, until it is taken away again.
    pub read_fault: Option<Fault>,
    pub write_fault: Option<Fault>,
    pub flush_fault: Option<Fault>,
    pub discard_fault: Option<Fault>,
    /// How many of the next calls answer "later".
    pub later: u32,
    /// Tickets are reached only by [`Self::settle`]; otherwise at once.
    pub delayed: bool,
    /// Becoming durable takes a flush, as with a volatile cache.
    pub durable_by_flush: bool,
    /// What writes that were taken come to, by ticket.
    pub outcomes: BTreeMap<u64, Fault>,
    /// Calls that were taken.
    pub reads: u64,
    pub writes: u64,
    pub flushes: u64,
    last: u64,
    flushed: u64,
    applied: u64,
    durable: u64,
}

impl RamDisk {
    /// A disk of `sectors` sectors with content by which each sector can be told.
    pub fn new(sectors: u64) -> Self {
        let info = DeviceInfo {
            size: Sectors(sectors),
            serial: AtaText::new("serial-0123"),
            model: AtaText::new("ram disk of a test"),
            read_only: false,
            discard: false,
        };
        Self {
            info,
            octets: (0..sectors).flat_map(sector_content).collect(),
            base: 0,
            read_fault: None,
            write_fault: None,
            flush_fault: None,
            discard_fault: None,
            later: 0,
            delayed: false,
            durable_by_flush: false,
            outcomes: BTreeMap::new(),
            reads: 0,
            writes: 0,
            flushes: 0,
            last: 0,
            flushed: 0,
            applied: 0,
            durable: 0,
        }
    }

    /// A disk that claims `size` sectors and has `count` of them, from `base` on.
    pub fn window(size: u64, base: u64, count: u64) -> Self {
        let mut disk = Self::new(0);
        disk.info.size = Sectors(size);
        disk.octets = (base..base + count).flat_map(sector_content).collect();
        disk.base = base;
        disk
    }

    /// Lets up to `count` tickets be reached.
    pub fn settle(&mut self, count: u64) {
        self.applied = self.last.min(self.applied.saturating_add(count));
        let syncable = if self.durable_by_flush { self.flushed } else { self.last };
        self.durable = self.applied.min(syncable).max(self.durable);
    }

    /// The sectors at `lba`.
    pub fn sectors(&self, lba: u64, count: usize) -> &[u8] {
        let start = usize::try_from(lba - self.base).unwrap() * SECTOR_SIZE;
        &self.octets[start..start + count * SECTOR_SIZE]
    }

    fn is_late(&mut self) -> bool {
        let late = self.later > 0;
        self.later = self.later.saturating_sub(1);
        late
    }

    fn range(&self, lba: Lba, len: usize) -> Result<std::ops::Range<usize>, Fault> {
        let index = lba.0.checked_sub(self.base).and_then(|index| usize::try_from(index).ok());
        let start = index.and_then(|index| index.checked_mul(SECTOR_SIZE));
        let start = start.ok_or(Fault::OutOfRange)?;
        let end = start.checked_add(len).ok_or(Fault::OutOfRange)?;
        if end > self.octets.len() { Err(Fault::OutOfRange) } else { Ok(start..end) }
    }

    fn ticket(&mut self) -> Accepted {
        self.last += 1;
        if !self.delayed {
            self.settle(u64::MAX);
        }
        Accepted::Done(Ticket(self.last))
    }
}

/// What a sector of a new [`RamDisk`] holds: its number, over and over, so that no two are alike.
pub fn sector_content(lba: u64) -> impl Iterator<Item = u8> {
    (0..64_u64).flat_map(move |part| (lba << 8 | part).to_be_bytes())
}

impl BlockStorage for RamDisk {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read(&mut self, lba: Lba, into: &mut [u8]) -> Result<Ready, Fault> {
        if let Some(fault) = self.read_fault {
            into.fill(0xdd); // a read that fails may scribble
            return Err(fault);
        }
        if self.is_late() {
            into.fill(0xdd);
            return Ok(Ready::Later);
        }
        let range = self.range(lba, into.len())?;
        into.copy_from_slice(&self.octets[range]);
        self.reads += 1;
        Ok(Ready::Done)
    }

    fn write(&mut self, lba: Lba, data: &[u8]) -> Result<Accepted, Fault> {
        if let Some(fault) = self.write_fault {
            return Err(fault);
        }
        if self.is_late() {
            return Ok(Accepted::Later);
        }
        let range = self.range(lba, data.len())?;
        self.octets[range].copy_from_slice(data);
        self.writes += 1;
        Ok(self.ticket())
    }

    fn flush(&mut self) -> Result<Accepted, Fault> {
        if let Some(fault) = self.flush_fault {
            return Err(fault);
        }
        if self.is_late() {
            return Ok(Accepted::Later);
        }
        self.flushes += 1;
        self.flushed = self.last + 1;
        Ok(self.ticket())
    }

    fn discard(&mut self, lba: Lba, count: Sectors) -> Result<Accepted, Fault> {
        if let Some(fault) = self.discard_fault {
            return Err(fault);
        }
        if self.is_late() {
            return Ok(Accepted::Later);
        }
        let len = usize::try_from(count.0).unwrap() * SECTOR_SIZE;
        let range = self.range(lba, len)?;
        self.octets[range].fill(0);
        Ok(self.ticket())
    }

    fn verify(&mut self, lba: Lba, count: Sectors) -> Result<Ready, Fault> {
        if let Some(fault) = self.read_fault {
            return Err(fault);
        }
        if self.is_late() {
            return Ok(Ready::Later);
        }
        self.range(lba, usize::try_from(count.0).unwrap() * SECTOR_SIZE)?;
        Ok(Ready::Done)
    }

    fn applied(&self) -> Ticket {
        Ticket(self.applied)
    }

    fn durable(&self) -> Ticket {
        Ticket(self.durable)
    }

    fn outcome(&mut self, ticket: Ticket) -> Result<(), Fault> {
        self.outcomes.remove(&ticket.0).map_or(Ok(()), Err)
    }
}

/// A request, field by field.
#[derive(Debug, Clone)]
pub struct Ask {
    pub destination: MacAddr,
    pub source: MacAddr,
    pub ethertype: u16,
    /// Octet 14: version and flags.
    pub version_flags: u8,
    pub error: u8,
    pub shelf: u16,
    pub slot: u8,
    pub command: u8,
    pub tag: [u8; 4],
    pub arg: Vec<u8>,
}

impl Ask {
    /// A request from C to e7.3 at M.
    pub fn new(command: u8, arg: Vec<u8>) -> Self {
        let tag = [0x00, 0x01, 0xdf, 0xdc];
        Self {
            destination: SERVER,
            source: CLIENT,
            ethertype: 0x88a2,
            version_flags: 0x10,
            error: 0,
            shelf: 7,
            slot: 3,
            command,
            tag,
            arg,
        }
    }

    /// An ATA command, its twelve octets and its data.
    pub fn ata(flags: u8, feature: u8, count: u8, opcode: u8, lba: [u8; 6], data: &[u8]) -> Self {
        let [a, b, c, d, e, f] = lba;
        let mut arg = vec![flags, feature, count, opcode, a, b, c, d, e, f, 0, 0];
        arg.extend_from_slice(data);
        Self::new(0, arg)
    }

    /// READ SECTORS EXT as Linux sends it.
    pub fn read(lba: u64, count: u8) -> Self {
        Self::ata(0x40, 0, count, 0x24, lba48(lba), &[])
    }

    /// WRITE SECTORS EXT as Linux sends it.
    pub fn write(lba: u64, count: u8, data: &[u8]) -> Self {
        Self::ata(0x41, 0, count, 0x34, lba48(lba), data)
    }

    /// IDENTIFY DEVICE as Linux sends it.
    pub fn identify() -> Self {
        Self::ata(0, 0, 1, 0xec, [0, 0, 0, 0xa0, 0, 0], &[])
    }

    /// An ATA command without data, address or count.
    pub fn bare_ata(opcode: u8) -> Self {
        Self::ata(0, 0, 0, opcode, [0; 6], &[])
    }

    /// A config query that claims and holds `string`.
    pub fn config(ccmd: u8, string: &[u8]) -> Self {
        Self::config_claiming(ccmd, string.len(), string)
    }

    /// A config query that claims `len` octets and holds `string`.
    pub fn config_claiming(ccmd: u8, len: usize, string: &[u8]) -> Self {
        let [high, low] = u16::try_from(len).unwrap().to_be_bytes();
        let mut arg = vec![0, 0, 0, 0, 0, ccmd, high, low];
        arg.extend_from_slice(string);
        Self::new(1, arg)
    }

    /// A MAC mask command with these directives.
    pub fn mask(mcmd: u8, directives: &[(u8, MacAddr)]) -> Self {
        let mut arg = vec![0, mcmd, 0, u8::try_from(directives.len()).unwrap()];
        for (dcmd, mac) in directives {
            arg.extend_from_slice(&[0, *dcmd]);
            arg.extend_from_slice(&mac.0);
        }
        Self::new(2, arg)
    }

    /// A reserve/release command with these holders.
    pub fn reserve(rcmd: u8, macs: &[MacAddr]) -> Self {
        let mut arg = vec![rcmd, u8::try_from(macs.len()).unwrap()];
        arg.extend(macs.iter().flat_map(|mac| mac.0));
        Self::new(3, arg)
    }

    /// The same from another station.
    pub fn from(self, source: MacAddr) -> Self {
        Self { source, ..self }
    }

    /// The same to another address, sent to everybody.
    pub fn to(self, shelf: u16, slot: u8) -> Self {
        Self { shelf, slot, destination: MacAddr::BROADCAST, ..self }
    }

    /// The same with other octets after it.
    pub fn trailing(mut self, octets: &[u8]) -> Self {
        self.arg.extend_from_slice(octets);
        self
    }

    /// Enough of the frame to tell it by.
    fn head(&self) -> Vec<u8> {
        let mut frame = self.octets();
        frame.truncate(60);
        frame
    }

    /// The frame.
    pub fn octets(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(24 + self.arg.len());
        frame.extend_from_slice(&self.destination.0);
        frame.extend_from_slice(&self.source.0);
        frame.extend_from_slice(&self.ethertype.to_be_bytes());
        frame.extend_from_slice(&[self.version_flags, self.error]);
        frame.extend_from_slice(&self.shelf.to_be_bytes());
        frame.extend_from_slice(&[self.slot, self.command]);
        frame.extend_from_slice(&self.tag);
        frame.extend_from_slice(&self.arg);
        frame
    }
}

/// The address registers of a 48-bit command.
pub fn lba48(lba: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, _, _] = lba.to_le_bytes();
    [a, b, c, d, e, f]
}

/// A target at `address` with nothing set.
pub fn target(address: Address, durability: Durability) -> Target {
    let allow = MacList::new();
    let profile = TargetProfile { address, buffer_count: 16, durability, allow };
    Target::new(profile, Settings::default())
}

/// Checks what holds for every reply, whatever was asked: addresses, tag, version, flags, echoes,
/// exact length, zero padding.
#[track_caller]
pub fn check_reply(request: &[u8], reply: &[u8], port: Port, target: Address) {
    assert_eq!(request[14] & 0x08, 0, "a response was answered");
    assert!(reply.len() >= 60, "{} octets are too short", reply.len());
    assert!(reply.len() <= (port.mtu + 14).max(60), "{} octets are too long", reply.len());
    assert_eq!(reply[..6], request[6..12], "the sender is addressed");
    assert_eq!(reply[6..12], port.mac.0, "from our own station");
    assert_eq!(reply[12..14], [0x88, 0xa2]);
    assert!(matches!(reply[14], 0x18 | 0x1c), "version and flags {:#04x}", reply[14]);
    let refused = reply[14] == 0x1c;
    assert_eq!(refused, reply[15] != 0, "error {} with flags {:#04x}", reply[15], reply[14]);
    assert!(reply[15] <= 6);
    assert_eq!(reply[16..18], target.shelf.to_be_bytes(), "the target's own shelf");
    assert_eq!(reply[18], target.slot, "the target's own slot");
    assert_eq!(reply[19..24], request[19..24], "command and tag are echoed");
    let end = meaningful_end(request, reply);
    assert_eq!(reply.len(), end.max(60), "exact length");
    assert!(reply[end..].iter().all(|octet| *octet == 0), "padding {:02x?}", &reply[end..]);
}

/// Where the octets that mean something end in a reply, checking the fixed part on the way.
#[track_caller]
fn meaningful_end(request: &[u8], reply: &[u8]) -> usize {
    let refused = reply[14] == 0x1c;
    match (request[19], reply[15]) {
        (_, 1 | 5) => 24, // nothing but the header
        (0, _) if refused => {
            assert_eq!(reply[24..36], request[24..36], "the argument is echoed");
            36
        }
        (0, _) => {
            assert_eq!(reply[24], request[24], "AFlags are echoed");
            assert_eq!(reply[28..34], request[28..34], "the LBA is echoed");
            assert_eq!(reply[34..36], [0, 0], "reserved");
            let succeeded = reply[27] == OK;
            assert_eq!(reply[27] & 0xa9 == 0, succeeded, "status {:#04x}", reply[27]);
            assert_eq!(reply[25] == 0, succeeded, "error {:#04x}", reply[25]);
            let sectors = match request[27] {
                0x20 | 0x24 => usize::from(request[26]),
                0xec => 1,
                _ => 0,
            };
            if succeeded { 36 + sectors * SECTOR_SIZE } else { 36 }
        }
        (1, 0 | 4) => 32 + usize::from(u16::from_be_bytes([reply[30], reply[31]])),
        (2, 0) if reply[26] == 0 => 28 + usize::from(reply[27]) * 8,
        (1, _) => 32,
        (2, _) => 28,
        (3, 0 | 6) => 26 + usize::from(reply[25]) * 6,
        (3, _) => 26,
        (command, error) => panic!("command {command} is answered with error {error}"),
    }
}

/// A reply that has been checked, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply(pub Vec<u8>);

impl Reply {
    /// Status and error register.
    pub fn registers(&self) -> (u8, u8) {
        (self.0[27], self.0[25])
    }

    /// The AoE error; zero for success.
    pub fn error(&self) -> u8 {
        self.0[15]
    }

    /// What follows the twelve octets of an ATA reply.
    pub fn data(&self) -> &[u8] {
        &self.0[36..]
    }

    /// The config string in a config reply.
    pub fn string(&self) -> &[u8] {
        let len = usize::from(u16::from_be_bytes([self.0[30], self.0[31]]));
        &self.0[32..32 + len]
    }

    /// The addresses in a MAC mask reply.
    pub fn masked(&self) -> Vec<MacAddr> {
        let listed = &self.0[28..28 + 8 * usize::from(self.0[27])];
        listed.as_chunks::<8>().0.iter().map(|[_, _, mac @ ..]| MacAddr(*mac)).collect()
    }

    /// The addresses in a reserve reply.
    pub fn holders(&self) -> Vec<MacAddr> {
        let listed = &self.0[26..26 + 6 * usize::from(self.0[25])];
        listed.as_chunks::<6>().0.iter().copied().map(MacAddr).collect()
    }
}

/// An engine and the link it is asked through.
#[derive(Debug)]
pub struct Rig {
    pub engine: Engine<Vec<Export<RamDisk>>>,
    pub port: Port,
    /// What each reply is written over: [`Self::all`] starts from filler, [`Self::offer`] from what
    /// was there.
    pub buffer: Vec<u8>,
}

impl Rig {
    /// One target, e7.3, on a link with MTU 1500: 1,024 sectors, 16 buffers.
    pub fn new() -> Self {
        Self::with_targets(&[(7, 3)])
    }

    /// One such target on a link with another MTU.
    pub fn with_mtu(mtu: usize) -> Self {
        let mut rig = Self::new();
        rig.port.mtu = mtu;
        rig
    }

    /// Several such targets.
    pub fn with_targets(addresses: &[(u16, u8)]) -> Self {
        Self::with_disks(addresses, Durability::Durable, || RamDisk::new(1_024))
    }

    /// Targets with these disks.
    pub fn with_disks(
        addresses: &[(u16, u8)],
        durability: Durability,
        disk: impl Fn() -> RamDisk,
    ) -> Self {
        let exports = addresses
            .iter()
            .map(|(shelf, slot)| Export {
                target: target(Address::new(*shelf, *slot), durability),
                storage: disk(),
            })
            .collect();
        let engine = Engine::new(exports).unwrap();
        let port = Port { mac: SERVER, mtu: 1_500 };
        Self { engine, port, buffer: vec![FILLER; REPLY_CAPACITY] }
    }

    /// The first target's disk.
    pub fn disk(&mut self) -> &mut RamDisk {
        &mut self.export(0).storage
    }

    /// One of the exports.
    pub fn export(&mut self, index: usize) -> &mut Export<RamDisk> {
        self.engine.export_mut(TargetId(index)).unwrap()
    }

    /// Hands in a frame and tells what each addressed target wants done. The last reply is in the
    /// buffer.
    pub fn offer(&mut self, frame: &[u8]) -> Vec<(TargetId, Action)> {
        let Some(request) = self.engine.accept(frame, self.port) else { return Vec::new() };
        let mut actions = Vec::new();
        let mut addressee = self.engine.first_addressee(&request);
        while let Some(id) = addressee {
            actions.push((id, self.engine.handle(id, &request, &mut self.buffer)));
            addressee = self.engine.next_addressee(&request, id);
        }
        actions
    }

    /// Hands in a frame, does what a loop would do until it is answered, and checks every reply.
    #[track_caller]
    pub fn all(&mut self, frame: &[u8]) -> Vec<Reply> {
        let Some(request) = self.engine.accept(frame, self.port) else { return Vec::new() };
        let mut replies = Vec::new();
        let mut addressee = self.engine.first_addressee(&request);
        while let Some(id) = addressee {
            self.buffer.fill(FILLER);
            let mut action = self.engine.handle(id, &request, &mut self.buffer);
            for _ in 0..8 {
                if action == Action::Park {
                    action = self.engine.handle(id, &request, &mut self.buffer);
                }
            }
            match action {
                Action::Ignore => {}
                Action::Park => panic!("still parked"),
                Action::Reply { len, after } => {
                    let len = self.wait(id, len, after);
                    let reply = Reply(self.buffer[..len].to_vec());
                    let address = self.export(id.0).target.address();
                    check_reply(frame, &reply.0, self.port, address);
                    replies.push(reply);
                }
            }
            addressee = self.engine.next_addressee(&request, id);
        }
        replies
    }

    /// Lets what a reply waits for come to pass; tells the reply's length then.
    fn wait(&mut self, id: TargetId, len: usize, after: After) -> usize {
        let export = self.engine.export_mut(id).unwrap();
        let ticket = match after {
            After::Now => return len,
            After::Saved => {
                assert!(export.target.staged().is_some());
                export.target.apply_staged();
                return len;
            }
            After::Applied(ticket) | After::Durable(ticket) => ticket,
        };
        export.storage.settle(u64::MAX);
        let reached = match after {
            After::Durable(_) => export.storage.durable(),
            _ => export.storage.applied(),
        };
        assert!(reached >= ticket, "{ticket:?} is never reached");
        match export.storage.outcome(ticket) {
            Ok(()) => len,
            Err(fault) => fail_reply(&mut self.buffer[..len], fault),
        }
    }

    /// The only reply to a request.
    #[track_caller]
    pub fn ask(&mut self, ask: &Ask) -> Reply {
        let mut replies = self.all(&ask.octets());
        assert_eq!(replies.len(), 1, "replies to {:02x?}", ask.head());
        replies.remove(0)
    }

    /// Checks that nobody answers a frame.
    #[track_caller]
    pub fn silent(&mut self, frame: &[u8]) {
        assert_eq!(self.all(frame), [], "to {:02x?}", &frame[..frame.len().min(64)]);
    }

    /// Checks that a request fails in ATA registers, without data.
    #[track_caller]
    pub fn fails(&mut self, ask: &Ask, status: u8, error: u8) {
        let reply = self.ask(ask);
        assert_eq!((reply.error(), reply.registers()), (0, (status, error)), "{:02x?}", ask.head());
        assert_eq!(reply.0.len(), 60, "a failure has no data");
        assert_eq!(reply.0[26], ask.arg[2], "nothing was transferred");
    }

    /// Checks that a request without data succeeds.
    #[track_caller]
    pub fn succeeds(&mut self, ask: &Ask) -> Reply {
        let reply = self.ask(ask);
        assert_eq!((reply.error(), reply.registers()), (0, (OK, 0)), "{:02x?}", ask.head());
        reply
    }

    /// Checks that a request is refused with an AoE error.
    #[track_caller]
    pub fn refuses(&mut self, ask: &Ask, error: AoeError) -> Reply {
        let reply = self.ask(ask);
        assert_eq!((reply.0[14], reply.error()), (0x1c, error.0), "{:02x?}", ask.head());
        reply
    }

    /// The reply to a request whose settings could not be made durable.
    #[track_caller]
    pub fn fails_to_save(&mut self, ask: &Ask, error: AoeError) -> Reply {
        let actions = self.offer(&ask.octets());
        let [(id, Action::Reply { len, after: After::Saved })] = actions[..] else {
            panic!("{actions:?}");
        };
        self.export(id.0).target.abandon_staged();
        let len = refuse_reply(&mut self.buffer[..len], error);
        Reply(self.buffer[..len].to_vec())
    }

    /// The sector count this link is told.
    pub fn advertised(&self) -> u8 {
        advertised_sectors(self.port.mtu)
    }
}
