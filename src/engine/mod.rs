//! The engine: one request in, one decision out.
//!
//! It is sans-io: frames, the reply buffer and storage are arguments, there is no clock, and what
//! has to wait is the caller's to hold. A caller does, for every frame:
//!
//! ```
//! use aoe_server::engine::{Action, Engine, Exports, Port};
//!
//! fn serve<X: Exports>(engine: &mut Engine<X>, frame: &[u8], port: Port, reply: &mut [u8]) {
//!     let Some(request) = engine.accept(frame, port) else { return };
//!     let mut addressee = engine.first_addressee(&request);
//!     while let Some(target) = addressee {
//!         match engine.handle(target, &request, reply) {
//!             Action::Ignore => {}
//!             Action::Reply { len, after } => { /* send reply[..len] when `after` has come */ }
//!             Action::Park => { /* keep the frame, and handle it again after progress */ }
//!         }
//!         addressee = engine.next_addressee(&request, target);
//!     }
//! }
//! ```
//!
//! # Invariants
//! * No input panics, allocates or makes the engine answer a response.
//! * What ATA can express is answered in ATA registers, never as an AoE error: Linux retransmits
//!   over an AoE error until it gives the whole disk up.
//! * Settings that initiators change (config string, MAC mask, reservation) take effect only when
//!   the caller has made them durable, and only then is the reply sent.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::std_instead_of_core)]

mod access;
mod ata;
mod config;
mod identify;
pub mod initiator;
mod router;
mod target;

pub use access::{MacList, MacListFull};
pub use config::ConfigString;
pub use target::{Durability, Settings, Target, TargetCounters, TargetProfile};

use crate::protocol::{Address, AoeError, Command, Frame, MacAddr, ParseError};
use crate::storage::{BlockStorage, Fault, Ticket};
use router::Router;
pub use router::{AddressTaken, MAX_TARGETS};

/// The link a frame came in on, as far as replies depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The address that replies leave with.
    pub mac: MacAddr,
    /// Octets that a frame may have after its Ethernet header.
    pub mtu: usize,
}

/// Which target, as a place in the engine's list. Valid until the list is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(pub usize);

/// A frame that is a request to at least possibly one of our targets.
#[derive(Debug, Clone, Copy)]
pub struct Request<'f> {
    /// The frame.
    pub frame: Frame<'f>,
    /// Where it came in.
    pub port: Port,
}

impl Request<'_> {
    /// Whether it must not overtake, nor be overtaken by, another such request to the same target
    /// that was parked: it writes, discards or flushes.
    pub fn is_ordered(&self) -> bool {
        self.frame.header.command() == Command::ATA && ata::is_ordered(self.frame.header.arg())
    }
}

/// What to do about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Nothing: the sender is to hear nothing from this target.
    Ignore,
    /// Send the first `len` octets of the reply buffer.
    Reply {
        /// Octets of the reply.
        len: usize,
        /// When it may leave.
        after: After,
    },
    /// Keep the request, and handle it again when the storage or the settings have made progress.
    Park,
}

/// When a reply may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// At once.
    Now,
    /// When [`BlockStorage::applied`] has reached the ticket and its outcome is good; otherwise
    /// [`fail_reply`] turns it into an error first.
    Applied(Ticket),
    /// The same for [`BlockStorage::durable`].
    Durable(Ticket),
    /// When the target's [`Target::staged`] settings are durable and [`Target::apply_staged`] was
    /// called. When they cannot be made durable, [`Target::abandon_staged`] and [`refuse_reply`].
    Saved,
}

/// What a config reply says: at this address there is a target, with this station. Two stations that
/// claim one address are two servers: initiators spread their writes over both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The target's address.
    pub address: Address,
    /// The station that has it.
    pub mac: MacAddr,
}

impl Claim {
    /// The claim in `octets`, if they are a config reply.
    pub fn parse(octets: &[u8]) -> Option<Self> {
        let frame = Frame::parse(octets).ok()?;
        let header = &frame.header;
        (header.flags().is_response() && header.command() == Command::CONFIG)
            .then_some(Self { address: header.address(), mac: frame.source })
    }
}

/// A target and what it stores its sectors in.
#[derive(Debug)]
pub struct Export<S> {
    /// The target.
    pub target: Target,
    /// Its disk.
    pub storage: S,
}

/// A list of exports: an array, a `heapless::Vec`, a `Vec`.
pub trait Exports {
    /// The kind of disk.
    type Storage: BlockStorage;
    /// The exports.
    fn exports(&self) -> &[Export<Self::Storage>];
    /// The exports, to be worked on.
    fn exports_mut(&mut self) -> &mut [Export<Self::Storage>];
}

impl<S: BlockStorage, const N: usize> Exports for [Export<S>; N] {
    type Storage = S;
    fn exports(&self) -> &[Export<S>] {
        self
    }
    fn exports_mut(&mut self) -> &mut [Export<S>] {
        self
    }
}

impl<S: BlockStorage, const N: usize> Exports for heapless::Vec<Export<S>, N> {
    type Storage = S;
    fn exports(&self) -> &[Export<S>] {
        self
    }
    fn exports_mut(&mut self) -> &mut [Export<S>] {
        self
    }
}

#[cfg(feature = "std")]
impl<S: BlockStorage> Exports for Vec<Export<S>> {
    type Storage = S;
    fn exports(&self) -> &[Export<S>] {
        self
    }
    fn exports_mut(&mut self) -> &mut [Export<S>] {
        self
    }
}

/// Frames that reached no target, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct EngineCounters {
    /// Frames looked at; one that had to wait, for storage or for room, is looked at again.
    pub frames: u64,
    /// Cut short, or from an address that no station has: dropped.
    pub malformed: u64,
    /// Another protocol, or another VLAN's.
    pub not_aoe: u64,
    /// Responses: never answered.
    pub responses: u64,
    /// Sent to another station; seen in promiscuous mode.
    pub other_station: u64,
    /// Requests to targets that are not here.
    pub other_target: u64,
}

/// Many targets behind any number of links.
#[derive(Debug)]
pub struct Engine<X> {
    exports: X,
    router: Router,
    counters: EngineCounters,
}

impl<X: Exports> Engine<X> {
    /// An engine that serves `exports`.
    ///
    /// # Errors
    /// [`AddressTaken`] when two targets share an address, or there are more than [`MAX_TARGETS`].
    pub fn new(exports: X) -> Result<Self, AddressTaken> {
        let mut router = Router::new();
        router.refill(exports.exports().iter().map(|export| export.target.address()))?;
        Ok(Self { exports, router, counters: EngineCounters::default() })
    }

    /// The exports.
    pub fn exports(&self) -> &[Export<X::Storage>] {
        self.exports.exports()
    }

    /// One export, to be worked on; its target keeps its address.
    pub fn export_mut(&mut self, id: TargetId) -> Option<&mut Export<X::Storage>> {
        self.exports.exports_mut().get_mut(id.0)
    }

    /// Changes the list of exports. Every [`TargetId`] from before is void afterwards.
    ///
    /// # Errors
    /// [`AddressTaken`] as for [`Self::new`]; the change has been made, and the first target that
    /// cannot be served and all after it are not reachable by their addresses: undo it.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut X) -> T) -> Result<T, AddressTaken> {
        let result = change(&mut self.exports);
        let addresses = self.exports.exports().iter().map(|export| export.target.address());
        self.router.refill(addresses)?;
        Ok(result)
    }

    /// Frames that reached no target.
    pub fn counters(&self) -> &EngineCounters {
        &self.counters
    }

    /// Checks whether `octets` is a request that may be for one of our targets; counts it and
    /// answers `None` when it is not, whatever it is.
    #[inline]
    pub fn accept<'f>(&mut self, octets: &'f [u8], port: Port) -> Option<Request<'f>> {
        self.counters.frames += 1;
        let frame = match Frame::parse(octets) {
            Ok(frame) => frame,
            Err(ParseError::NotAoe { .. }) => {
                self.counters.not_aoe += 1;
                return None;
            }
            Err(_) => {
                self.counters.malformed += 1;
                return None;
            }
        };
        if frame.header.flags().is_response() {
            self.counters.responses += 1;
            return None;
        }
        if frame.destination != port.mac && !frame.destination.is_group() {
            self.counters.other_station += 1;
            return None;
        }
        // No station is a group: the reply would go to everybody, at a forger's request.
        if frame.source.is_group() {
            self.counters.malformed += 1;
            return None;
        }
        Some(Request { frame, port })
    }

    /// The target at `address`, which is not a wildcard.
    #[inline]
    pub fn find(&self, address: Address) -> Option<TargetId> {
        self.router.find(address).map(TargetId)
    }

    /// The first target that `request` addresses.
    #[inline]
    pub fn first_addressee(&mut self, request: &Request<'_>) -> Option<TargetId> {
        let address = request.frame.header.address();
        let first = if address.is_wildcard() { self.scan(address, 0) } else { self.find(address) };
        if first.is_none() {
            self.counters.other_target += 1;
        }
        first
    }

    /// The target after `previous` that `request` addresses: there is one only for wildcards.
    #[inline]
    pub fn next_addressee(&self, request: &Request<'_>, previous: TargetId) -> Option<TargetId> {
        let address = request.frame.header.address();
        if address.is_wildcard() { self.scan(address, previous.0 + 1) } else { None }
    }

    fn scan(&self, address: Address, from: usize) -> Option<TargetId> {
        let mut exports = self.exports.exports().iter().enumerate().skip(from);
        exports
            .find(|(_, export)| address.matches(export.target.address()))
            .map(|(index, _)| TargetId(index))
    }

    /// Answers `request` for one target. The reply is built in `reply`, which has room for the
    /// longest frame of the link; only storage does more. Never panics on any input.
    #[inline]
    pub fn handle(&mut self, id: TargetId, request: &Request<'_>, reply: &mut [u8]) -> Action {
        match self.exports.exports_mut().get_mut(id.0) {
            Some(Export { target, storage }) => target.handle(request, storage, reply),
            None => Action::Ignore,
        }
    }
}

/// Turns a reply that was held back into one that reports `fault`, when what it acknowledged
/// failed after all. Returns its new length; its registers and addresses stay.
pub fn fail_reply(reply: &mut [u8], fault: Fault) -> usize {
    ata::fail_reply(reply, fault)
}

/// Turns a reply that was held back into a refusal with `error`. Returns its new length.
pub fn refuse_reply(reply: &mut [u8], error: AoeError) -> usize {
    target::refuse_reply(reply, error)
}
