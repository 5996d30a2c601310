//! A small target for the tests of initiators, and a link to a segment with several of them. It
//! answers properly unless it is told not to, and shares no code with the engine but the views and
//! writers of frames.

use std::cell::RefCell;
use std::rc::Rc;

use aoe_server::link::{Batch, Link, LinkCounters, LinkError, LinkInfo};
use aoe_server::protocol::ata::{AtaText, IDENTIFY_LEN, Identity, WriteCache, error, status};
use aoe_server::protocol::{
    Address, AoeError, AtaArg, AtaFields, Command, ConfigArg, ConfigCommand, ConfigFields,
    Directive, DirectiveCommand, Frame, FrameFields, FrameWriter, MacAddr, MaskArg, MaskCommand,
    MaskError, MaskFields, Opcode, ReserveArg, ReserveCommand,
};
use aoe_server::units::{SECTOR_SIZE, Sectors};

/// The station of the initiator under test.
pub(crate) const INITIATOR: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);

/// Numbers as if by chance, the same for the same seed.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// One target.
pub(crate) struct ScriptedTarget {
    pub(crate) address: Address,
    pub(crate) mac: MacAddr,
    pub(crate) disk: Vec<u8>,
    pub(crate) lba48: bool,
    pub(crate) buffer_count: u16,
    pub(crate) sector_count: u8,
    pub(crate) config_string: Vec<u8>,
    pub(crate) mask: Vec<MacAddr>,
    pub(crate) reservation: Vec<MacAddr>,
    /// Refuses every command of this kind.
    pub(crate) refuses: Option<(Command, AoeError)>,
    /// Fails every read that touches this sector.
    pub(crate) bad_sector: Option<usize>,
    /// Sends so many octets too few of what is read.
    pub(crate) cut: usize,
    /// Acknowledges writes to this sector, but forgets them.
    pub(crate) forgets: Option<usize>,
    /// Requests answered.
    pub(crate) answered: u64,
}

impl ScriptedTarget {
    pub(crate) fn new(address: Address, sectors: usize) -> Self {
        Self {
            address,
            mac: MacAddr([0x52, 0x54, 0, 1, address.shelf as u8, address.slot]),
            disk: (0..sectors * SECTOR_SIZE).map(|n| (n / 3 % 251) as u8).collect(),
            lba48: true,
            buffer_count: 16,
            sector_count: 2,
            config_string: Vec::new(),
            mask: Vec::new(),
            reservation: Vec::new(),
            refuses: None,
            bad_sector: None,
            cut: 0,
            forgets: None,
            answered: 0,
        }
    }

    /// Its answer to `octets`, if they are for it.
    pub(crate) fn answer(&mut self, octets: &[u8]) -> Option<Vec<u8>> {
        let frame = Frame::parse(octets).expect("initiators send AoE");
        assert!(!frame.header.flags().is_response(), "initiators send requests");
        assert!(frame.header.tag().0[0] & 0x80 != 0, "the top bit of the tag is set");
        let here = frame.destination == self.mac || frame.destination == MacAddr::BROADCAST;
        if !here || !frame.header.address().matches(self.address) {
            return None;
        }
        self.answered += 1;
        let mut out = vec![0xa5; 9300];
        let mut fields = FrameFields::reply(&frame.header, frame.source, self.mac, self.address);
        if let Some((command, error)) = self.refuses
            && command == fields.command
        {
            fields = fields.refusing(error);
        }
        let arg = frame.header.arg();
        let len = match fields.command {
            Command::ATA => self.ata(arg, &fields, &mut out)?,
            Command::CONFIG => self.config(arg, fields, &mut out)?,
            Command::MASK => self.mask(arg, &fields, &mut out)?,
            Command::RESERVE => self.reserve(arg, frame.source, fields, &mut out)?,
            other => panic!("initiators do not send {other}"),
        };
        out.truncate(len);
        Some(out)
    }

    fn ata(&mut self, arg: &[u8], fields: &FrameFields, out: &mut [u8]) -> Option<usize> {
        let ata = AtaArg::parse(arg).expect("a whole ATA argument");
        let mut registers = AtaFields { command: status::DRDY, ..AtaFields::of(&ata) };
        (registers.feature, registers.sector_count) = (0, 0);
        let count = usize::from(ata.sector_count());
        let (lba, is_read, is_write) = match ata.opcode() {
            Opcode::READ_EXT => (ata.lba48(), true, false),
            Opcode::WRITE_EXT => (ata.lba48(), false, true),
            Opcode::READ => (ata.lba28(), true, false),
            Opcode::WRITE => (ata.lba28(), false, true),
            Opcode::IDENTIFY_DEVICE => {
                let page = self.page();
                return FrameWriter::new(out, fields).ata(&registers).octets(&page).finish();
            }
            other => panic!("initiators do not send {other}"),
        };
        assert!(count > 0 && count <= usize::from(self.sector_count.max(2)), "{count} sectors");
        assert_eq!(is_write, ata.flags().0 & 1 != 0, "the W flag fits the opcode");
        let first = usize::try_from(lba.0).unwrap();
        let (start, end) = (first * SECTOR_SIZE, (first + count) * SECTOR_SIZE);
        let bad = self.bad_sector.is_some_and(|bad| (first..first + count).contains(&bad));
        let mut writer = FrameWriter::new(out, fields);
        if end > self.disk.len() || bad {
            registers.command = status::DRDY | status::ERR;
            registers.feature = if bad { error::UNC } else { error::IDNF };
            writer.ata(&registers);
        } else if is_read {
            writer.ata(&registers).octets(&self.disk[start..end - self.cut]);
        } else {
            assert_eq!(ata.data().len(), end - start, "exactly the data");
            let kept =
                self.forgets.is_none_or(|forgets| !(first..first + count).contains(&forgets));
            if kept {
                self.disk[start..end].copy_from_slice(ata.data());
            }
            writer.ata(&registers);
        }
        writer.finish()
    }

    fn page(&self) -> [u8; IDENTIFY_LEN] {
        let mut page = [0; IDENTIFY_LEN];
        let identity = Identity {
            serial: AtaText::new(&format!("serial {}", self.mac)),
            firmware: AtaText::new("1.0"),
            model: AtaText::new("scripted target"),
            size: Sectors((self.disk.len() / SECTOR_SIZE) as u64),
            write_cache: WriteCache::None,
            trim: false,
        };
        identity.emit(&mut page);
        if !self.lba48 {
            page[167] &= !0x04;
            page[173] &= !0x04;
        }
        page
    }

    fn config(&mut self, arg: &[u8], mut fields: FrameFields, out: &mut [u8]) -> Option<usize> {
        let config = ConfigArg::parse(arg).expect("a whole config argument");
        let string = config.string().expect("a whole config string");
        match config.command() {
            ConfigCommand::TEST if string != self.config_string => return None,
            ConfigCommand::TEST_PREFIX if !self.config_string.starts_with(string) => return None,
            ConfigCommand::SET
                if !self.config_string.is_empty() && self.config_string != string =>
            {
                fields = fields.refusing(AoeError::CONFIG_STRING_PRESENT);
            }
            ConfigCommand::SET | ConfigCommand::FORCE_SET => self.config_string = string.to_vec(),
            _ => {}
        }
        let config = ConfigFields {
            buffer_count: self.buffer_count,
            firmware: 0x4019,
            sector_count: self.sector_count,
            command: config.command(),
        };
        FrameWriter::new(out, &fields).config(&config, &self.config_string).finish()
    }

    fn mask(&mut self, arg: &[u8], fields: &FrameFields, out: &mut [u8]) -> Option<usize> {
        let mask = MaskArg::parse(arg).expect("a whole mask argument");
        let mut reply = MaskFields { command: mask.command(), ..MaskFields::default() };
        if mask.command() == MaskCommand::EDIT {
            for (index, directive) in mask.directives().expect("all directives").enumerate() {
                self.mask.retain(|mac| *mac != directive.mac);
                if directive.command == DirectiveCommand::ADD {
                    // A short list, so that it can be filled.
                    if self.mask.len() == 2 {
                        reply.error = MaskError::LIST_FULL;
                        reply.directive_count = index as u8;
                        return FrameWriter::new(out, fields).mask(&reply).finish();
                    }
                    self.mask.push(directive.mac);
                }
            }
        }
        reply.directive_count = self.mask.len() as u8;
        let mut writer = FrameWriter::new(out, fields);
        writer.mask(&reply);
        for mac in &self.mask {
            writer.directive(Directive { command: DirectiveCommand::NONE, mac: *mac });
        }
        writer.finish()
    }

    fn reserve(
        &mut self,
        arg: &[u8],
        source: MacAddr,
        mut fields: FrameFields,
        out: &mut [u8],
    ) -> Option<usize> {
        let reserve = ReserveArg::parse(arg).expect("a whole reserve argument");
        let holders: Vec<_> = reserve.macs().expect("all holders").collect();
        let free = self.reservation.is_empty() || self.reservation.contains(&source);
        match reserve.command() {
            ReserveCommand::SET if !free => fields = fields.refusing(AoeError::TARGET_RESERVED),
            ReserveCommand::SET | ReserveCommand::FORCE_SET => self.reservation = holders,
            _ => {}
        }
        let mut writer = FrameWriter::new(out, &fields);
        writer.reserve(reserve.command(), self.reservation.len() as u8);
        for mac in &self.reservation {
            writer.mac(*mac);
        }
        writer.finish()
    }
}

/// A segment: targets, and what the network does to frames on their way.
pub(crate) struct Segment {
    pub(crate) targets: Vec<ScriptedTarget>,
    pub(crate) chance: Chance,
    /// Frames lost, doubled and held back, of a hundred in each direction.
    pub(crate) faults: [u64; 3],
    pub(crate) up: bool,
    /// What is put into the initiator's way before the next answers.
    pub(crate) noise: Vec<Vec<u8>>,
    on_the_way: Vec<(u64, Vec<u8>)>,
    turn: u64,
}

impl Segment {
    fn carry(&mut self, frame: &[u8], deliver: &mut impl FnMut(&mut Self, u64, &[u8])) {
        let [lost, doubled, late] = self.faults;
        let copies = 1 + u64::from(self.chance.percent(doubled));
        for _ in 0..copies {
            if self.chance.percent(lost) {
                continue;
            }
            let delay = if self.chance.percent(late) { self.chance.next() % 200 } else { 0 };
            deliver(self, delay, frame);
        }
    }

    fn request(&mut self, frame: &[u8]) {
        self.carry(frame, &mut |this, delay, frame| {
            for index in 0..this.targets.len() {
                if let Some(answer) = this.targets[index].answer(frame) {
                    this.carry(&answer, &mut |this, more, answer| {
                        this.on_the_way.push((this.turn + delay + more, answer.to_vec()));
                    });
                }
            }
        });
    }
}

/// The initiator's end of a segment.
pub(crate) struct SegmentLink {
    segment: Rc<RefCell<Segment>>,
    mtu: usize,
}

/// A segment with `targets`, and the initiator's end of it.
pub(crate) fn segment(
    targets: Vec<ScriptedTarget>,
    mtu: usize,
) -> (Rc<RefCell<Segment>>, SegmentLink) {
    let segment = Rc::new(RefCell::new(Segment {
        targets,
        chance: Chance(0x9e37_79b9),
        faults: [0; 3],
        up: true,
        noise: Vec::new(),
        on_the_way: Vec::new(),
        turn: 0,
    }));
    (segment.clone(), SegmentLink { segment, mtu })
}

impl Link for SegmentLink {
    fn info(&self) -> LinkInfo {
        LinkInfo { mac: INITIATOR, mtu: self.mtu, up: self.segment.borrow().up }
    }

    fn receive(&mut self, batch: &mut Batch<'_>) -> Result<usize, LinkError> {
        let mut segment = self.segment.borrow_mut();
        if !segment.up {
            return Err(LinkError::Down);
        }
        segment.turn += 1;
        let turn = segment.turn;
        let room = batch.room();
        for frame in std::mem::take(&mut segment.noise) {
            assert!(batch.push(&frame));
        }
        segment.on_the_way.retain(|(due, frame)| *due > turn || !batch.push(frame));
        Ok(room - batch.room())
    }

    fn send(&mut self, batch: &Batch<'_>, first: usize) -> Result<usize, LinkError> {
        let mut segment = self.segment.borrow_mut();
        if !segment.up {
            return Err(LinkError::Down);
        }
        // A wire that is soon full, so that frames must be offered again.
        let taken = (batch.len() - first).min(5);
        for index in first..first + taken {
            segment.request(batch.frame(index));
        }
        Ok(taken)
    }

    fn counters(&mut self) -> LinkCounters {
        LinkCounters::default()
    }
}
