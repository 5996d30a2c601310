//! Looking for others who already serve an address, before it is served here.
//!
//! Two servers on one address destroy a disk: initiators take them for two ways to the same target
//! and spread reads and writes over both. The protocol knows nothing against it, so each address is
//! asked for, several times on every link, and who answers keeps it.

use std::sync::mpsc::SyncSender;
use std::time::Duration;

use super::listener::Backend;
use crate::clock::Instant;
use crate::engine::{Claim, Export, Port};
use crate::protocol::{
    Address, Command, ConfigCommand, ConfigFields, FrameFields, FrameWriter, MacAddr, Tag,
};

/// How often an address is asked for while it is being probed: a lost frame is not fatal.
const TRIES: u32 = 3;
/// The top bit keeps Linux from taking the answers for its own.
const TAG: Tag = Tag([0x80, 0x70, 0x72, 0x62]);

/// How the wish to serve a target ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Admission {
    /// It is being served.
    Served,
    /// Another station has its address.
    Claimed {
        /// That station.
        mac: MacAddr,
        /// The link it was heard on.
        link: String,
    },
    /// One of our own targets has its address, or there are too many.
    AddressTaken(crate::engine::AddressTaken),
    /// The loop is being stopped.
    Stopping,
}

/// A target that is not served yet.
pub(super) struct Candidate {
    pub(super) export: Export<Backend>,
    /// The links it is to be served on.
    pub(super) ports: PortSet,
    /// Who waits to hear how it ended, and gets the export back when it is not served.
    pub(super) answer: SyncSender<(Admission, Option<Export<Backend>>)>,
    pub(super) claimed: Option<(MacAddr, usize)>,
    next: Instant,
    interval: Duration,
    tries: u32,
}

impl Candidate {
    /// A candidate that is probed for `time`, zero for not at all.
    pub(super) fn new(
        export: Export<Backend>,
        ports: PortSet,
        answer: SyncSender<(Admission, Option<Export<Backend>>)>,
        time: Duration,
    ) -> Self {
        let tries = if time.is_zero() { 0 } else { TRIES };
        let interval = time / TRIES;
        Self { export, ports, answer, claimed: None, next: Instant::ZERO, interval, tries }
    }

    pub(super) fn address(&self) -> Address {
        self.export.target.address()
    }

    /// When there is something to do about it next.
    pub(super) const fn due(&self) -> Instant {
        self.next
    }

    /// Whether it is known by now if the address is free.
    pub(super) fn is_decided(&self, now: Instant) -> bool {
        self.claimed.is_some() || self.tries == 0 && now >= self.next
    }

    /// Whether the address should be asked for now.
    pub(super) fn asks(&mut self, now: Instant) -> bool {
        if self.tries == 0 || now < self.next {
            return false;
        }
        self.tries -= 1;
        self.next = now.after(self.interval);
        true
    }

    /// Takes in that somebody answers at an address.
    pub(super) fn hear(&mut self, claim: Claim, port: usize) {
        if claim.address == self.address() && self.ports.contains(port) {
            self.claimed = Some((claim.mac, port));
        }
    }
}

/// Writes the question whether anybody serves `address`; `None` when `out` is too small.
pub(super) fn question(address: Address, port: Port, out: &mut [u8]) -> Option<usize> {
    let to = MacAddr::BROADCAST;
    let fields = FrameFields::request(port.mac, to, address, Command::CONFIG, TAG);
    let read = ConfigFields { command: ConfigCommand::READ, ..ConfigFields::default() };
    FrameWriter::new(out, &fields).config(&read, &[]).finish()
}

/// Some of the links of a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortSet(u64);

impl PortSet {
    /// The most links one loop has.
    pub const MAX: usize = 64;
    /// Every link.
    pub const ALL: Self = Self(u64::MAX);

    /// These links, by number.
    pub fn of(ports: impl IntoIterator<Item = usize>) -> Self {
        Self(
            ports.into_iter().filter(|port| *port < Self::MAX).fold(0, |set, port| set | 1 << port),
        )
    }

    /// Whether the link with number `port` is one of them.
    pub const fn contains(self, port: usize) -> bool {
        port < Self::MAX && self.0 >> port & 1 != 0
    }
}
