//! A station at the other end of the cable, that lays its requests out by hand.

use std::fmt;
use std::time::Duration;

use aoe_server::link::af_packet::{AfPacketLink, AfPacketOptions};
use aoe_server::link::{FramePool, Link, LinkError};
use aoe_server::protocol::MacAddr;

use super::report::{Check, ensure};
use crate::common::net::{MAC_A, MAC_B, PATIENCE, wait_readable, within};

/// Another station at the same end of the cable.
pub(crate) const OTHER: MacAddr = MacAddr([0x02, 0xae, 0, 0, 0, 0x0c]);
/// A station that is nowhere.
pub(crate) const NOBODY: MacAddr = MacAddr([0x02, 0xae, 0, 0, 0, 0xee]);
/// The target that says, by its answer, that what came before has been dealt with.
pub(crate) const GUARD: (u16, u8) = (65, 1);

/// The command codes.
pub(crate) const ATA: u8 = 0;
pub(crate) const CONFIG: u8 = 1;
pub(crate) const MASK: u8 = 2;
pub(crate) const RESERVE: u8 = 3;

/// One request, field by field.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) to: MacAddr,
    pub(crate) from: MacAddr,
    /// Version and flags.
    pub(crate) first: u8,
    pub(crate) error: u8,
    pub(crate) shelf: u16,
    pub(crate) slot: u8,
    pub(crate) command: u8,
    pub(crate) tag: u32,
    pub(crate) arg: Vec<u8>,
}

impl Ask {
    /// The frame, without any padding.
    pub(crate) fn octets(&self) -> Vec<u8> {
        let mut octets = Vec::with_capacity(24 + self.arg.len());
        octets.extend(self.to.0);
        octets.extend(self.from.0);
        octets.extend([0x88, 0xa2, self.first, self.error]);
        octets.extend(self.shelf.to_be_bytes());
        octets.extend([self.slot, self.command]);
        octets.extend(self.tag.to_be_bytes());
        octets.extend(&self.arg);
        octets
    }

    /// The same to another target.
    pub(crate) fn at(self, shelf: u16, slot: u8) -> Self {
        Self { shelf, slot, ..self }
    }

    /// The same to everybody on the segment.
    pub(crate) fn broadcast(self) -> Self {
        Self { to: MacAddr::BROADCAST, ..self }
    }

    /// The same from another station.
    pub(crate) fn from(self, from: MacAddr) -> Self {
        Self { from, ..self }
    }

    /// The same with one octet of the argument changed; the argument starts at octet 24.
    pub(crate) fn with(mut self, offset: usize, octet: u8) -> Self {
        self.arg[offset - 24] = octet;
        self
    }

    /// The same with `count` more octets at the end.
    pub(crate) fn trailing(mut self, octet: u8, count: usize) -> Self {
        self.arg.resize(self.arg.len() + count, octet);
        self
    }
}

/// One frame that came back, whole.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Reply(pub(crate) Vec<u8>);

impl Reply {
    pub(crate) fn octet(&self, offset: usize) -> u8 {
        self.0[offset]
    }
    pub(crate) fn destination(&self) -> &[u8] {
        &self.0[..6]
    }
    pub(crate) fn source(&self) -> &[u8] {
        &self.0[6..12]
    }
    pub(crate) fn target(&self) -> (u16, u8) {
        (u16::from_be_bytes([self.0[16], self.0[17]]), self.0[18])
    }
    pub(crate) fn tag(&self) -> u32 {
        u32::from_be_bytes([self.0[20], self.0[21], self.0[22], self.0[23]])
    }
    /// Whether it refuses, with an AoE error, and with which.
    pub(crate) fn refusal(&self) -> Option<u8> {
        (self.0[14] & 0x04 != 0).then_some(self.0[15])
    }
    /// ATA's status and error register.
    pub(crate) fn registers(&self) -> (u8, u8) {
        (self.0[27], self.0[25])
    }
    /// Whether ATA says that the command succeeded, with all sectors transferred.
    pub(crate) fn succeeded(&self) -> bool {
        self.0[14] == 0x18 && self.registers() == (0x40, 0) && self.0[26] == 0
    }
    /// Whether ATA says that the command was aborted, without data.
    pub(crate) fn aborted(&self) -> bool {
        self.0[14] == 0x18 && self.registers() == (0x41, 0x04) && self.0.len() == 60
    }
    /// Whether ATA says that there are no such sectors, without data.
    pub(crate) fn not_found(&self) -> bool {
        self.0[14] == 0x18 && self.registers() == (0x41, 0x10) && self.0.len() == 60
    }
    /// What ATA read.
    pub(crate) fn data(&self) -> &[u8] {
        &self.0[36..]
    }
    /// The config string.
    pub(crate) fn string(&self) -> &[u8] {
        let len = usize::from(u16::from_be_bytes([self.0[30], self.0[31]]));
        &self.0[32..32 + len]
    }
    /// Buffer count and sector count of a config reply.
    pub(crate) fn offer(&self) -> (u16, u8) {
        (u16::from_be_bytes([self.0[24], self.0[25]]), self.0[28])
    }
    /// The stations that a mask list or a reservation names.
    pub(crate) fn stations(&self) -> Vec<MacAddr> {
        let (start, step, count) =
            if self.0[19] == MASK { (30, 8, self.0[27]) } else { (26, 6, self.0[25]) };
        let station = |index: usize| {
            let at = start + index * step;
            MacAddr(self.0[at..at + 6].try_into().expect("six octets"))
        };
        (0..usize::from(count)).map(station).collect()
    }
    /// Whether it is a response to all on the segment, as an announcement is.
    pub(crate) fn is_announcement(&self) -> bool {
        self.0[14] & 0x08 != 0 && self.0[19] == CONFIG && self.tag() == 0
    }

    /// Where its meaning ends and the padding starts.
    fn end(&self) -> usize {
        let refused = self.0[14] & 0x04 != 0;
        match self.0[19] {
            _ if self.0[14] & 0x04 != 0 && self.0[15] == 5 => 24,
            ATA if self.0.len() == 60 => 36,
            ATA => self.0.len(),
            CONFIG if refused && self.0[15] != 4 => 32,
            CONFIG => 32 + self.string().len(),
            MASK if refused || self.0[26] != 0 => 28,
            MASK => 28 + 8 * usize::from(self.0[27]),
            RESERVE if refused && self.0[15] != 6 => 26,
            RESERVE => 26 + 6 * usize::from(self.0[25]),
            _ => 24,
        }
    }

    /// Checks what must be true of every reply to `ask`.
    fn check(&self, ask: &Ask) -> Check {
        let shown = || format!("{self:?} in answer to {ask:02x?}");
        let first = self.octet(14);
        ensure!(first == 0x18 || first == 0x1c, "version or flags are wrong: {}", shown());
        ensure!(first == 0x1c || self.octet(15) == 0, "an error without the flag: {}", shown());
        ensure!(self.source() == MAC_A.0, "not from the target's station: {}", shown());
        ensure!(self.destination() == ask.from.0, "not to the asking station: {}", shown());
        ensure!(self.tag() == ask.tag, "the tag is not echoed: {}", shown());
        ensure!(self.octet(19) == ask.command, "the command is not echoed: {}", shown());
        ensure!(self.0.len() >= 60, "shorter than 60 octets: {}", shown());
        let end = self.end();
        ensure!(self.0.len() == end.max(60), "{} octets, not {end}: {}", self.0.len(), shown());
        ensure!(self.0[end..].iter().all(|octet| *octet == 0), "padding is not zero: {}", shown());
        Ok(())
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(64)];
        write!(f, "{} octets {shown:02x?}", self.0.len())
    }
}

/// The station, and what it has heard besides answers.
pub(crate) struct Station {
    link: AfPacketLink,
    pool: FramePool,
    sent: FramePool,
    count: u32,
    /// AoE frames sent, and how many of them were responses, as far as the server could count.
    pub(crate) frames_sent: u64,
    pub(crate) responses_sent: u64,
    /// The station that is asked.
    pub(crate) server: MacAddr,
    /// Our own address.
    pub(crate) mac: MacAddr,
    /// Announcements, and requests of the server's own.
    pub(crate) asides: Vec<Reply>,
}

impl Station {
    /// Opens the end of the cable that is opposite of the server's.
    pub(crate) fn open() -> Self {
        Self::open_on(super::PEER, MAC_B, MAC_A, true)
    }

    /// Opens any interface as `mac`, to speak with the station `server`.
    pub(crate) fn open_on(name: &str, mac: MacAddr, server: MacAddr, promiscuous: bool) -> Self {
        let options = AfPacketOptions { promiscuous, ..AfPacketOptions::default() };
        let link = AfPacketLink::open(name, &options).expect("a packet socket");
        let (pool, sent) = (FramePool::new(32), FramePool::new(256));
        Self {
            link,
            pool,
            sent,
            count: 0,
            frames_sent: 0,
            responses_sent: 0,
            server,
            mac,
            asides: Vec::new(),
        }
    }

    /// A request to the target e7.3.
    pub(crate) fn request(&mut self, command: u8, arg: Vec<u8>) -> Ask {
        self.count += 1;
        let tag = 0x4e00_0000 + self.count;
        let (to, from) = (self.server, self.mac);
        Ask { to, from, first: 0x10, error: 0, shelf: 7, slot: 3, command, tag, arg }
    }

    /// A config query with the command `act`.
    pub(crate) fn config(&mut self, act: u8, string: &[u8]) -> Ask {
        let len = u16::try_from(string.len()).expect("a short string").to_be_bytes();
        let mut arg = vec![0, 0, 0, 0, 0, act, len[0], len[1]];
        arg.extend(string);
        self.request(CONFIG, arg)
    }

    /// An ATA command with a 48-bit address.
    pub(crate) fn ata(&mut self, flags: u8, opcode: u8, lba: u64, count: u8) -> Ask {
        let mut arg = vec![flags, 0, count, opcode];
        arg.extend(&lba.to_le_bytes()[..6]);
        arg.extend([0, 0]);
        self.request(ATA, arg)
    }

    /// IDENTIFY DEVICE.
    pub(crate) fn identify(&mut self) -> Ask {
        self.ata(0, 0xec, 0xa0 << 24, 1)
    }

    /// READ SECTORS EXT.
    pub(crate) fn read(&mut self, lba: u64, count: u8) -> Ask {
        self.ata(0x40, 0x24, lba, count)
    }

    /// WRITE SECTORS EXT of whole sectors.
    pub(crate) fn write(&mut self, lba: u64, data: &[u8]) -> Ask {
        let count = u8::try_from(data.len() / 512).expect("a frame's worth");
        let mut ask = self.ata(0x41, 0x34, lba, count);
        ask.arg.extend(data);
        ask
    }

    /// A MAC mask command with directives.
    pub(crate) fn mask(&mut self, act: u8, directives: &[(u8, MacAddr)]) -> Ask {
        let count = u8::try_from(directives.len()).expect("255 at most");
        let mut arg = vec![0, act, 0, count];
        for (directive, mac) in directives {
            arg.extend([0, *directive]);
            arg.extend(mac.0);
        }
        self.request(MASK, arg)
    }

    /// A reserve/release command with stations.
    pub(crate) fn reserve(&mut self, act: u8, stations: &[MacAddr]) -> Ask {
        let count = u8::try_from(stations.len()).expect("255 at most");
        let mut arg = vec![act, count];
        for mac in stations {
            arg.extend(mac.0);
        }
        self.request(RESERVE, arg)
    }

    /// Sends frames, in order.
    pub(crate) fn send(&mut self, frames: &[Vec<u8>]) -> Check {
        for some in frames.chunks(256) {
            let mut batch = self.sent.batch();
            batch.clear();
            for frame in some {
                ensure!(batch.push(frame), "{} octets are too many to send", frame.len());
            }
            let mut sent = 0;
            let done = within(PATIENCE, || {
                sent += self.link.send(&batch, sent).unwrap_or(0);
                sent == batch.len()
            });
            ensure!(done, "only {sent} of {} frames could be sent", batch.len());
            let aoe = some.iter().filter(|frame| frame[12..14] == [0x88, 0xa2]);
            self.frames_sent += aoe.clone().count() as u64;
            let responses = aoe.filter(|frame| frame.len() >= 24 && frame[14] & 0x08 != 0);
            self.responses_sent += responses.count() as u64;
        }
        Ok(())
    }

    /// Frames that have arrived; waits a little when there are none.
    pub(crate) fn receive(&mut self) -> Vec<Reply> {
        let mut batch = self.pool.batch();
        batch.clear();
        match self.link.receive(&mut batch) {
            Ok(0) => {
                wait_readable(&self.link, Duration::from_millis(20));
            }
            Ok(_) => {}
            Err(LinkError::Down) => {
                self.link.check();
            }
            Err(error) => panic!("cannot receive: {error}"),
        }
        batch
            .frames()
            .filter(|frame| frame.len() >= 24)
            .map(|frame| Reply(frame.to_vec()))
            .collect()
    }

    /// Forgets what has been heard so far.
    pub(crate) fn drain(&mut self) {
        while !self.receive().is_empty() {}
        self.asides.clear();
    }

    /// Frames that the kernel dropped here, for want of room.
    pub(crate) fn dropped(&mut self) -> u64 {
        self.link.counters().dropped
    }

    /// Receives until `enough`, putting aside what is no answer; tells whether it was enough. With
    /// `tag_zero` something was asked with the tag that announcements have.
    fn gather(
        &mut self,
        answers: &mut Vec<Reply>,
        tag_zero: bool,
        enough: impl Fn(&[Reply]) -> bool,
    ) -> bool {
        within(PATIENCE, || {
            for frame in self.receive() {
                let response = frame.octet(14) & 0x08 != 0;
                let to_us = tag_zero && frame.destination() == self.mac.0;
                if !response || frame.is_announcement() && !to_us {
                    self.asides.push(frame);
                } else {
                    answers.push(frame);
                }
            }
            enough(answers)
        })
    }

    /// Sends frames and waits for so many answers; then asks the guard, so that whatever else would
    /// be answered has been by then. Returns all answers.
    pub(crate) fn exchange(
        &mut self,
        frames: &[Vec<u8>],
        expected: usize,
    ) -> Result<Vec<Reply>, String> {
        let tag_zero = frames.iter().any(|frame| frame.get(20..24) == Some(&[0; 4]));
        self.send(frames)?;
        let mut answers = Vec::new();
        let came = self.gather(&mut answers, tag_zero, |answers| answers.len() >= expected);
        let shown = &answers[..answers.len().min(8)];
        ensure!(came, "{} of {expected} answers came: {shown:02x?}", answers.len());
        let mut guard = self.config(0, b"").at(GUARD.0, GUARD.1);
        guard.tag += 0x1000_0000;
        self.send(&[guard.octets()])?;
        let is_guard = |answer: &Reply| answer.tag() == guard.tag;
        let came = self.gather(&mut answers, tag_zero, |answers| answers.iter().any(is_guard));
        ensure!(came, "the server does not answer any more, not even for its guard");
        answers.retain(|answer| !is_guard(answer));
        Ok(answers)
    }

    /// Asks, and checks that nothing is answered.
    pub(crate) fn silence(&mut self, ask: &Ask) -> Check {
        self.silence_to(&ask.octets())
    }

    /// Sends any frame, and checks that nothing is answered.
    pub(crate) fn silence_to(&mut self, frame: &[u8]) -> Check {
        let answers = self.exchange(&[frame.to_vec()], 0)?;
        let shown = &frame[..frame.len().min(40)];
        ensure!(answers.is_empty(), "{answers:?} in answer to {shown:02x?}");
        Ok(())
    }

    /// Asks, and checks that there is one answer, in good form and from the target that was asked.
    pub(crate) fn ask(&mut self, ask: &Ask) -> Result<Reply, String> {
        let mut answers = self.all(ask, 1)?;
        let answer = answers.remove(0);
        let asked = (ask.shelf, ask.slot);
        let wildcard = ask.shelf == 0xffff || ask.slot == 0xff;
        ensure!(wildcard || answer.target() == asked, "{answer:?} is not from {asked:?}");
        Ok(answer)
    }

    /// Asks, and checks that there are so many answers, all in good form.
    pub(crate) fn all(&mut self, ask: &Ask, expected: usize) -> Result<Vec<Reply>, String> {
        let answers = self.exchange(&[ask.octets()], expected)?;
        ensure!(answers.len() == expected, "{} answers to {ask:02x?}", answers.len());
        answers.iter().try_for_each(|answer| answer.check(ask))?;
        Ok(answers)
    }

    /// Asks many things at once, and returns the answers in the order of the questions.
    pub(crate) fn burst(&mut self, asks: &[Ask]) -> Result<Vec<Reply>, String> {
        let frames: Vec<_> = asks.iter().map(Ask::octets).collect();
        let mut answers = self.exchange(&frames, asks.len())?;
        ensure!(answers.len() == asks.len(), "{} answers to {}", answers.len(), asks.len());
        let mut sorted = Vec::with_capacity(asks.len());
        for ask in asks {
            let at = answers.iter().position(|answer| answer.tag() == ask.tag);
            let Some(at) = at else { return Err(format!("no answer to {:08x}", ask.tag)) };
            let answer = answers.swap_remove(at);
            answer.check(ask)?;
            sorted.push(answer);
        }
        Ok(sorted)
    }

    /// Asks again and again, as initiators do, until there is an answer.
    pub(crate) fn persist(&mut self, ask: &Ask) -> Result<Reply, String> {
        let mut found = None;
        let answered = within(PATIENCE, || {
            let _ = self.send(&[ask.octets()]);
            found = self.receive().into_iter().find(|frame| frame.tag() == ask.tag);
            found.is_some()
        });
        ensure!(answered, "no answer to {ask:02x?}");
        // Answers to what was asked more than once are not for the next question.
        self.exchange(&[], 0)?;
        found.ok_or_else(|| "no answer".into())
    }

    /// Waits for an announcement that `wanted` holds for, among what was put aside too.
    pub(crate) fn announcement(&mut self, wanted: impl Fn(&Reply) -> bool) -> Check {
        let told = within(PATIENCE, || {
            let frames = self.receive();
            self.asides.extend(frames);
            self.asides.iter().any(|frame| frame.is_announcement() && wanted(frame))
        });
        ensure!(told, "not announced; heard were {:?}", self.asides);
        Ok(())
    }

    /// Clears config strings, mask list and reservation of the targets under test.
    pub(crate) fn reset(&mut self) -> Check {
        for (shelf, slot) in [(7, 3), (9, 3)] {
            let clear = self.config(4, b"").at(shelf, slot);
            self.ask(&clear)?;
            let release = self.reserve(2, &[]).at(shelf, slot);
            self.ask(&release)?;
            let read = self.mask(0, &[]).at(shelf, slot);
            let mut listed = self.ask(&read)?.stations();
            // Ourselves last: afterwards nothing would be heard.
            listed.sort_by_key(|mac| *mac == self.mac);
            let directives: Vec<_> = listed.into_iter().map(|mac| (2, mac)).collect();
            if !directives.is_empty() {
                let edit = self.mask(1, &directives).at(shelf, slot);
                self.ask(&edit)?;
            }
        }
        Ok(())
    }
}

/// Octets that differ from sector to sector and from `seed` to `seed`.
pub(crate) fn pattern(seed: u32, sectors: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let octet = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..sectors * 512).map(octet).collect()
}
