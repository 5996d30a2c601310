//! A scripted session between one initiator and the engine, each answer checked octet by octet
//! where it counts.
//!
//! It uses nothing but the library's public items and `core`, so that an ordinary test can run it
//! as well (`tests/freestanding.rs`).

use core::fmt::{self, Write};

use aoe_server::engine::{
    Action, After, Durability, Engine, Export, MacList, Port, Settings, Target, TargetId,
    TargetProfile,
};
use aoe_server::protocol::ata::{IDENTIFY_LEN, IdentifyPage, WriteCache, error, status};
use aoe_server::protocol::{
    ATA_DATA_OFFSET, Address, AoeError, AtaArg, AtaFields, AtaFlags, Command, ConfigArg,
    ConfigCommand, ConfigFields, Directive, DirectiveCommand, ETHERNET_LEN, Flags, Frame,
    FrameFields, FrameWriter, HEADER_LEN, MIN_FRAME_LEN, MacAddr, MaskArg, MaskCommand, MaskError,
    MaskFields, Opcode, ReserveArg, ReserveCommand, Tag,
};
use aoe_server::storage::BlockStorage;
use aoe_server::units::{SECTOR_SIZE, Sectors};

/// Sectors of the disk.
const DISK_SECTORS: u8 = 128;
/// How large the disk has to be that is given to [`run`], in bytes. All of them have to be zero.
pub(crate) const DISK_LEN: usize = DISK_SECTORS as usize * SECTOR_SIZE;

const INITIATOR: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);
/// Another station, which reservation and mask keep out.
const STRANGER: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x02]);
const PORT: Port = Port { mac: MacAddr([0x02, 0, 0, 0, 0, 0x0a]), mtu: 1500 };
const ADDRESS: Address = Address::new(7, 3);
const BUFFER_COUNT: u16 = 16;
/// Sectors of a frame at this MTU.
const FRAME_SECTORS: u8 = 2;
/// Room for any frame at this MTU.
const FRAME_LEN: usize = PORT.mtu + ETHERNET_LEN;

/// What went wrong first.
#[derive(Debug)]
pub(crate) struct Failure {
    /// In which part of the session.
    step: &'static str,
    /// What should have been.
    claim: &'static str,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: not so: {}", self.step, self.claim)
    }
}

impl From<fmt::Error> for Failure {
    fn from(_: fmt::Error) -> Self {
        Self { step: "output", claim: "what was done can be printed" }
    }
}

/// Serves `storage`, a disk of [`DISK_LEN`] zeros, and drives a session against it. Prints a
/// line for each step to `out`.
///
/// # Errors
/// [`Failure`] at the first answer that is wrong.
pub(crate) fn run<S: BlockStorage>(storage: S, out: &mut impl Write) -> Result<(), Failure> {
    let profile = TargetProfile {
        address: ADDRESS,
        buffer_count: BUFFER_COUNT,
        durability: Durability::Durable,
        allow: MacList::new(),
    };
    let target = Target::new(profile, Settings::default());
    let engine = Engine::new([Export { target, storage }])
        .map_err(|_| Failure { step: "start", claim: "one target has an address of its own" })?;
    let mut session = Session {
        engine,
        step: "start",
        tag: 0x1c2b_0000,
        request: [0xa5; FRAME_LEN],
        reply: [0xa5; FRAME_LEN],
    };
    session.discover(out)?;
    session.identify(out)?;
    session.transfer(out)?;
    session.overrun(out)?;
    session.unknown(out)?;
    session.config_string(out)?;
    session.reservation(out)?;
    session.mask(out)?;
    session.bad_frames(out)?;
    let answered = session.engine.exports()[0].target.counters().answered;
    writeln!(out, "the session is over: {answered} requests answered")?;
    Ok(())
}

/// The initiator and, since nothing is between them, the engine.
struct Session<S> {
    engine: Engine<[Export<S>; 1]>,
    step: &'static str,
    tag: u32,
    request: [u8; FRAME_LEN],
    reply: [u8; FRAME_LEN],
}

/// Who asks whom. What is asked follows.
#[derive(Clone, Copy)]
struct Asking {
    source: MacAddr,
    destination: MacAddr,
    address: Address,
}

/// The way everything but discovery is asked.
const DIRECTLY: Asking = Asking { source: INITIATOR, destination: PORT.mac, address: ADDRESS };
/// The same, by the other station.
const BY_STRANGER: Asking = Asking { source: STRANGER, ..DIRECTLY };

impl<S: BlockStorage> Session<S> {
    fn check(&self, holds: bool, claim: &'static str) -> Result<(), Failure> {
        if holds { Ok(()) } else { Err(Failure { step: self.step, claim }) }
    }

    fn failure(&self, claim: &'static str) -> Failure {
        Failure { step: self.step, claim }
    }

    /// Sends a request whose argument `write` appends, and returns the reply once it may leave;
    /// `None` when the target keeps silent. The headers of the reply are checked here.
    fn ask(
        &mut self,
        asking: Asking,
        command: Command,
        write: impl FnOnce(&mut FrameWriter<'_>),
    ) -> Result<Option<Frame<'_>>, Failure> {
        self.tag += 1;
        let tag = Tag(self.tag.to_be_bytes());
        let Asking { source, destination, address } = asking;
        let fields = FrameFields::request(source, destination, address, command, tag);
        let mut writer = FrameWriter::new(&mut self.request, &fields);
        write(&mut writer);
        let len = writer.finish_unpadded();
        let len = len.ok_or(self.failure("the request fits its buffer"))?;
        let Some(len) = self.serve(len)? else { return Ok(None) };
        self.check(len >= MIN_FRAME_LEN, "no reply is shorter than what Ethernet carries")?;
        let Some(Ok(reply)) = self.reply.get(..len).map(Frame::parse) else {
            return Err(self.failure("the reply is a frame"));
        };
        let Frame { header, .. } = &reply;
        let addressed = reply.destination == source && reply.source == PORT.mac;
        self.check(addressed, "the reply goes from the link's address to the one who asked")?;
        self.check(header.flags().is_response(), "the reply says that it is one")?;
        self.check(header.version() == 1, "the version is 1")?;
        self.check(header.address() == ADDRESS, "the target tells its own address")?;
        self.check(header.command() == command && header.tag() == tag, "command and tag return")?;
        Ok(Some(reply))
    }

    /// Does what a poll loop does with the first `len` octets of the request buffer. Returns the
    /// length of the reply.
    fn serve(&mut self, len: usize) -> Result<Option<usize>, Failure> {
        self.reply.fill(0xa5);
        let octets = self.request.get(..len).unwrap_or_default();
        let Some(request) = self.engine.accept(octets, PORT) else { return Ok(None) };
        let Some(target) = self.engine.first_addressee(&request) else { return Ok(None) };
        let action = self.engine.handle(target, &request, &mut self.reply);
        let next = self.engine.next_addressee(&request, target);
        self.check(next.is_none(), "there is one target")?;
        match action {
            Action::Ignore => Ok(None),
            Action::Reply { len, after } => self.settle(target, after).map(|()| Some(len)),
            Action::Park => Err(self.failure("memory never makes a request wait")),
        }
    }

    /// Sees to it that a reply may leave.
    fn settle(&mut self, target: TargetId, after: After) -> Result<(), Failure> {
        let gone = self.failure("the target is there");
        let Export { target, storage } = self.engine.export_mut(target).ok_or(gone)?;
        let ready = match after {
            After::Now => true,
            After::Applied(ticket) => {
                storage.applied() >= ticket && storage.outcome(ticket).is_ok()
            }
            After::Durable(ticket) => {
                storage.durable() >= ticket && storage.outcome(ticket).is_ok()
            }
            After::Saved => {
                let staged = target.staged().is_some();
                target.apply_staged();
                staged
            }
        };
        self.check(ready, "memory has done at once what it took")
    }

    /// The reply to a request that must get one.
    fn expect(
        &mut self,
        asking: Asking,
        command: Command,
        error: AoeError,
        write: impl FnOnce(&mut FrameWriter<'_>),
    ) -> Result<Frame<'_>, Failure> {
        let silent = self.failure("the target answers");
        let wrong = self.failure("success, or the right error, is what it answers");
        let reply = self.ask(asking, command, write)?.ok_or(silent)?;
        let refused = reply.header.flags().is_error();
        if refused == (error != AoeError::NONE) && reply.header.error() == error {
            Ok(reply)
        } else {
            Err(wrong)
        }
    }

    /// The reply to an ATA command that must end with these status and error registers.
    fn ata(
        &mut self,
        fields: AtaFields,
        data: &[u8],
        registers: (u8, u8),
    ) -> Result<AtaArg<'_>, Failure> {
        let short = self.failure("the reply has ATA registers");
        let wrong = self.failure("status and error registers are right");
        let reply = self.expect(DIRECTLY, Command::ATA, AoeError::NONE, |writer| {
            writer.ata(&fields).octets(data);
        })?;
        let ata = AtaArg::parse(reply.header.arg()).map_err(|_| short)?;
        if (ata.status(), ata.feature()) == registers { Ok(ata) } else { Err(wrong) }
    }

    fn read(&mut self, lba: u8, count: u8) -> Result<&[u8], Failure> {
        let short = self.failure("the reply has as many sectors as were asked for");
        let fields =
            AtaFields { flags: AtaFlags::EXTENDED, ..transfer(Opcode::READ_EXT, lba, count) };
        let ata = self.ata(fields, &[], (status::DRDY, 0))?;
        let data = ata.data();
        if data.len() == usize::from(count) * SECTOR_SIZE { Ok(data) } else { Err(short) }
    }

    /// A config query to everybody, as Linux sends it when its driver starts.
    fn discover(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        self.step = "config query by broadcast";
        let everybody =
            Asking { destination: MacAddr::BROADCAST, address: Address::EVERYONE, ..DIRECTLY };
        let short = self.failure("the reply has a config argument");
        let reply = self.expect(everybody, Command::CONFIG, AoeError::NONE, |writer| {
            writer.config(&ConfigFields::default(), &[]);
        })?;
        let config = ConfigArg::parse(reply.header.arg()).map_err(|_| short)?;
        let (address, source) = (reply.header.address(), reply.source);
        let (buffers, sectors) = (config.buffer_count(), config.sector_count());
        let empty = config.string() == Some(&[]);
        self.check(buffers == BUFFER_COUNT, "the buffer count is the configured one")?;
        self.check(sectors == FRAME_SECTORS, "as many sectors as fit the MTU are offered")?;
        self.check(empty, "the config string is empty")?;
        let padding = self.reply.get(ETHERNET_LEN + HEADER_LEN + 8..MIN_FRAME_LEN);
        let clean = padding.is_some_and(|padding| padding.iter().all(|octet| *octet == 0));
        self.check(clean, "the padding is zero")?;
        let step = self.step;
        writeln!(out, "{step}: {address} at {source}, {buffers} buffers, {sectors} sectors")?;
        Ok(())
    }

    fn identify(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        self.step = "IDENTIFY DEVICE";
        let short = self.failure("the reply has a page");
        let ata = self.ata(transfer(Opcode::IDENTIFY_DEVICE, 0, 1), &[], (status::DRDY, 0))?;
        let page: [u8; IDENTIFY_LEN] = *ata.data().first_chunk().ok_or(short)?;
        let page = IdentifyPage::parse(&page).ok_or(self.failure("the page is whole"))?;
        let size = Sectors(u64::from(DISK_SECTORS));
        self.check(page.size() == size, "the disk has the size that the session is written for")?;
        self.check(page.lba48(), "48-bit commands are taken")?;
        self.check(page.checksum_holds(), "the page sums to zero")?;
        self.check(
            page.write_cache() == WriteCache::None,
            "a durable target has no volatile write cache",
        )?;
        writeln!(out, "{}: {} sectors, model {}", self.step, page.size(), page.model())?;
        Ok(())
    }

    fn transfer(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        const LBA: u8 = 5;
        self.step = "WRITE SECTORS EXT";
        let mut data = [0; FRAME_SECTORS as usize * SECTOR_SIZE];
        for (index, octet) in data.iter_mut().enumerate() {
            // A period of 251, a prime, lines up with no sector.
            *octet = u8::try_from(index % 251).unwrap_or(0);
        }
        let fields = AtaFields {
            flags: AtaFlags::EXTENDED.union(AtaFlags::WRITE),
            ..transfer(Opcode::WRITE_EXT, LBA, FRAME_SECTORS)
        };
        self.ata(fields, &data, (status::DRDY, 0))?;
        writeln!(out, "{}: {FRAME_SECTORS} sectors at {LBA}", self.step)?;

        self.step = "READ SECTORS EXT";
        let same = self.read(LBA, FRAME_SECTORS)? == data;
        self.check(same, "what was written is read")?;
        let before = self.read(LBA - 1, 1)? == [0; SECTOR_SIZE];
        let after = self.read(LBA + FRAME_SECTORS, 1)? == [0; SECTOR_SIZE];
        self.check(before && after, "the sectors around it are as they were")?;
        writeln!(out, "{}: the same {} octets, and zeros around them", self.step, data.len())?;

        self.step = "FLUSH CACHE EXT";
        self.ata(transfer(Opcode::FLUSH_CACHE_EXT, 0, 0), &[], (status::DRDY, 0))?;
        writeln!(out, "{}: done", self.step)?;
        Ok(())
    }

    fn overrun(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        self.step = "past the end";
        let failed = (status::DRDY | status::ERR, error::IDNF);
        let read = transfer(Opcode::READ_EXT, DISK_SECTORS - 1, 2);
        self.ata(AtaFields { flags: AtaFlags::EXTENDED, ..read }, &[], failed)?;
        let flags = AtaFlags::EXTENDED.union(AtaFlags::WRITE);
        let write = transfer(Opcode::WRITE_EXT, DISK_SECTORS - 1, 2);
        self.ata(AtaFields { flags, ..write }, &[0xa5; 2 * SECTOR_SIZE], failed)?;
        let intact = self.read(DISK_SECTORS - 1, 1)? == [0; SECTOR_SIZE];
        self.check(intact, "a write that fails has written nothing")?;
        let furthest = AtaFields { flags, lba: [0xff; 6], ..write };
        self.ata(furthest, &[0xa5; 2 * SECTOR_SIZE], failed)?;
        writeln!(out, "{}: IDNF, and nothing written", self.step)?;
        Ok(())
    }

    fn unknown(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        self.step = "unknown command";
        let unknown = AoeError::UNRECOGNIZED_COMMAND;
        self.expect(DIRECTLY, Command(0x77), unknown, |_| {})?;
        let aborted = (status::DRDY | status::ERR, error::ABRT);
        self.ata(transfer(Opcode(0x91), 0, 1), &[], aborted)?;
        writeln!(out, "{}: error 1 to AoE's, ABRT to ATA's", self.step)?;
        Ok(())
    }

    fn config_string(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        self.step = "config string";
        let string = b"freestanding";
        let (none, present) = (AoeError::NONE, AoeError::CONFIG_STRING_PRESENT);
        for (command, text, answer) in [
            (ConfigCommand::SET, &string[..], none),
            (ConfigCommand::READ, b"", none),
            (ConfigCommand::SET, b"another", present),
            (ConfigCommand::TEST_PREFIX, b"free", none),
            (ConfigCommand::TEST, string, none),
        ] {
            let short = self.failure("the reply has a config argument");
            let reply = self.expect(DIRECTLY, Command::CONFIG, answer, |writer| {
                writer.config(&ConfigFields { command, ..ConfigFields::default() }, text);
            })?;
            let config = ConfigArg::parse(reply.header.arg()).map_err(|_| short)?;
            let same = config.string() == Some(string);
            self.check(same, "the string is the one that was set first")?;
        }
        let command = ConfigCommand::TEST;
        let silent = self.ask(DIRECTLY, Command::CONFIG, |writer| {
            writer.config(&ConfigFields { command, ..ConfigFields::default() }, b"free");
        })?;
        let silent = silent.is_none();
        self.check(silent, "a test for another string is not answered")?;
        writeln!(out, "{}: set, read, tested, and not set twice", self.step)?;
        Ok(())
    }

    fn reservation(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        self.step = "reservation";
        self.reserve(DIRECTLY, &[INITIATOR], AoeError::NONE)?;
        let reserved = AoeError::TARGET_RESERVED;
        self.reserve(BY_STRANGER, &[STRANGER], reserved)?;
        self.expect(BY_STRANGER, Command::ATA, reserved, |writer| {
            writer.ata(&transfer(Opcode::READ, 0, 1));
        })?;
        self.expect(BY_STRANGER, Command::ATA, AoeError::NONE, |writer| {
            writer.ata(&transfer(Opcode::IDENTIFY_DEVICE, 0, 1));
        })?;
        self.read(0, 1)?;
        self.reserve(DIRECTLY, &[], AoeError::NONE)?;
        self.expect(BY_STRANGER, Command::ATA, AoeError::NONE, |writer| {
            writer.ata(&transfer(Opcode::READ, 0, 1));
        })?;
        writeln!(out, "{}: holds off another station until it is released", self.step)?;
        Ok(())
    }

    /// Asks that `holders` hold the target, and checks that the initiator does afterwards if any.
    fn reserve(
        &mut self,
        asking: Asking,
        holders: &[MacAddr],
        answer: AoeError,
    ) -> Result<(), Failure> {
        let short = self.failure("the reply has a reservation argument");
        let count = u8::try_from(holders.len()).map_err(|_| self.failure("255 holders at most"))?;
        let reply = self.expect(asking, Command::RESERVE, answer, |writer| {
            writer.reserve(ReserveCommand::SET, count);
            for holder in holders {
                writer.mac(*holder);
            }
        })?;
        let arg = ReserveArg::parse(reply.header.arg()).map_err(|_| short)?;
        let held = arg.macs().is_some_and(|macs| macs.eq(holders.iter().map(|_| INITIATOR)));
        self.check(held, "the reply tells the holders")
    }

    fn mask(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        self.step = "MAC mask list";
        self.edit_mask(DirectiveCommand::ADD, &[INITIATOR])?;
        let silent = self.ask(BY_STRANGER, Command::CONFIG, |writer| {
            writer.config(&ConfigFields::default(), &[]);
        })?;
        let silent = silent.is_none();
        self.check(silent, "who is not listed is not heard")?;
        self.read(0, 1)?;
        self.edit_mask(DirectiveCommand::DELETE, &[])?;
        self.expect(BY_STRANGER, Command::CONFIG, AoeError::NONE, |writer| {
            writer.config(&ConfigFields::default(), &[]);
        })?;
        writeln!(out, "{}: silence to another station until it is emptied", self.step)?;
        Ok(())
    }

    /// Adds or deletes the initiator, and checks that the list is then `listed`.
    fn edit_mask(&mut self, command: DirectiveCommand, listed: &[MacAddr]) -> Result<(), Failure> {
        let short = self.failure("the reply has a mask argument");
        let edit =
            MaskFields { command: MaskCommand::EDIT, directive_count: 1, ..MaskFields::default() };
        let reply = self.expect(DIRECTLY, Command::MASK, AoeError::NONE, |writer| {
            writer.mask(&edit).directive(Directive { command, mac: INITIATOR });
        })?;
        let mask = MaskArg::parse(reply.header.arg()).map_err(|_| short)?;
        let macs = mask.directives().map(|list| list.map(|directive| directive.mac));
        let same = macs.is_some_and(|macs| macs.eq(listed.iter().copied()));
        let done = same && mask.error() == MaskError::NONE;
        self.check(done, "the reply tells the whole list")
    }

    /// Frames that must be left unanswered, whatever they make of themselves.
    fn bad_frames(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        self.step = "bad frames";
        let before = *self.engine.counters();
        // A read of one sector, whole but for its end.
        let fields = FrameFields::request(INITIATOR, PORT.mac, ADDRESS, Command::ATA, Tag([9; 4]));
        let read = transfer(Opcode::READ, 0, 1);
        let len = FrameWriter::new(&mut self.request, &fields).ata(&read).finish_unpadded();
        self.check(len == Some(ATA_DATA_OFFSET), "the request fits its buffer")?;
        for short in 0..ATA_DATA_OFFSET {
            let silent = self.serve(short)?.is_none();
            self.check(silent, "a frame that is cut short is not answered")?;
        }
        let whole = self.serve(ATA_DATA_OFFSET)?.is_some();
        self.check(whole, "the same frame is answered when it is whole")?;

        let request = fields;
        for (fields, claim) in [
            (FrameFields { flags: Flags::RESPONSE, ..request }, "a response is not answered"),
            (FrameFields { destination: STRANGER, ..request }, "another's frame is not answered"),
            (
                FrameFields { address: Address::new(7, 4), ..request },
                "a request to another target is not answered",
            ),
        ] {
            FrameWriter::new(&mut self.request, &fields).ata(&read);
            let silent = self.serve(ATA_DATA_OFFSET)?.is_none();
            self.check(silent, claim)?;
        }
        FrameWriter::new(&mut self.request, &request).ata(&read);
        if let Some(ethertype) = self.request.get_mut(12..ETHERNET_LEN) {
            ethertype.copy_from_slice(&[0x08, 0x00]);
        }
        let silent = self.serve(ATA_DATA_OFFSET)?.is_none();
        self.check(silent, "IPv4 is not answered")?;

        let after = *self.engine.counters();
        let headers = ETHERNET_LEN + HEADER_LEN;
        let malformed = usize::try_from(after.malformed - before.malformed);
        self.check(malformed == Ok(headers), "frames without whole headers are counted")?;
        let counted = after.responses - before.responses == 1
            && after.other_station - before.other_station == 1
            && after.other_target - before.other_target == 1
            && after.not_aoe - before.not_aoe == 1;
        self.check(counted, "each of the others is counted for what it is")?;
        writeln!(out, "{}: {} ignored", self.step, ATA_DATA_OFFSET + 4)?;
        Ok(())
    }
}

/// The registers of a command for `count` sectors at `lba`.
const fn transfer(opcode: Opcode, lba: u8, count: u8) -> AtaFields {
    AtaFields {
        flags: AtaFlags(0),
        feature: 0,
        sector_count: count,
        command: opcode.0,
        lba: [lba, 0, 0, 0, 0, 0],
    }
}
