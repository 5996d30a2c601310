//! The other end: what an initiator keeps of its requests until they are answered.
//!
//! It is as sans-io as the engine: time, frames and the station's address are arguments. A caller
//! submits requests while the window has room, and then, turn by turn:
//!
//! ```
//! use aoe_server::clock::Instant;
//! use aoe_server::engine::initiator::{Initiator, RequestId};
//! use aoe_server::protocol::{FrameWriter, MacAddr};
//!
//! fn turn(
//!     initiator: &mut Initiator<16>,
//!     now: Instant,
//!     mac: MacAddr,
//!     arrived: &[&[u8]],
//!     mut argument: impl FnMut(RequestId, &mut FrameWriter<'_>),
//!     mut send: impl FnMut(&[u8]),
//! ) {
//!     for frame in arrived {
//!         if let Some(reply) = initiator.receive(frame, mac, now) { /* use it */ }
//!     }
//!     while let Some(unanswered) = initiator.tick(now) { /* give up on it */ }
//!     let mut out = [0; 9234];
//!     while let Some(len) = initiator.next_frame(now, mac, &mut argument, &mut out) {
//!         send(&out[..len]);
//!     }
//!     // Sleep until a frame arrives or initiator.deadline() has come.
//! }
//! ```
//!
//! # Tags
//! The top bit is set, so that a Linux driver on the same segment takes no reply for one of its own
//! (aoetools do the same). The rest is a generation and the request's place, which makes finding it
//! one look. Every transmission of a request has the same tag, as iPXE and Plan 9 have it and Linux
//! has not: all commands may be done twice, so the answer to any transmission is the answer, and a
//! reply that comes after the time for it was up still counts. Later copies are ignored.
//!
//! # Invariants
//! * A request ends exactly once: by its reply, by [`Initiator::tick`], or by
//!   [`Initiator::abandon`]. Its [`RequestId`] never names another one.
//! * Only a reply to a request that was sent once says anything about the round trip (Karn).
//! * What a request carries is written by the caller at each transmission; nothing of it is kept.
//!
//! What it cannot do: a copy of a write that the network holds back may arrive after a later write
//! to the same sectors was answered, and undo it. AoE has no remedy; [`Reply::transmissions`] tells
//! when this is possible at all.

use core::time::Duration;

use crate::clock::Instant;
use crate::protocol::{
    Address, AoeError, Command, Frame, FrameFields, FrameWriter, MacAddr, Tag, VERSION,
};

/// What marks a tag as ours.
const TOP_BIT: u32 = 1 << 31;
/// The longest that doubling goes on: 65 536 times the estimate, beyond any limit.
const MAX_BACKOFF: u32 = 16;

/// Tags of so many earlier requests of a place are taken for ours when an answer has one of them.
const RECENT: u32 = 1024;

/// How many answers a request is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// The first one ends it.
    One,
    /// As many as come while its patience lasts: a query to a wildcard address. It is repeated
    /// meanwhile, so that one target may answer more than once.
    Many,
}

/// A request, without its argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The station it is sent to. An answer must come from there, unless this is a group address.
    pub destination: MacAddr,
    /// The target, or a wildcard.
    pub address: Address,
    /// What is asked.
    pub command: Command,
    /// How many answers to wait for.
    pub answers: Answers,
    /// How long to wait for them, from when it is submitted.
    pub patience: Duration,
    /// How often it may be sent, the first time included.
    pub transmissions: u32,
}

/// Names one request among all that an initiator ever made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    tag: u32,
    index: u16,
}

impl RequestId {
    /// A number below `IN_FLIGHT` that no other request has while this one is in flight: for the
    /// caller's own tables.
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// The tag it has on the wire.
    pub const fn tag(self) -> Tag {
        Tag(self.tag.to_be_bytes())
    }
}

/// An answer to a request.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'f> {
    /// Which request.
    pub id: RequestId,
    /// The answer. Its sender, its address and its command fit the request; its argument is not
    /// checked.
    pub frame: Frame<'f>,
    /// Why the target refuses, if it does.
    pub refused: Option<AoeError>,
    /// The time since the request was first sent.
    pub waited: Duration,
    /// How often it was sent.
    pub transmissions: u32,
}

/// A request whose patience has come to its end. For one with many [`Answers`] that is its normal
/// end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered {
    /// Which request.
    pub id: RequestId,
    /// The target that was asked.
    pub address: Address,
    /// The time since it was submitted.
    pub waited: Duration,
    /// How often it was sent.
    pub transmissions: u32,
}

/// When a request is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// After this, as long as nothing is known of the round trip.
    pub initial: Duration,
    /// Never before this. A target may well take a while to make a write durable, and a copy of a
    /// write is work at best.
    pub min: Duration,
    /// Never later than this, however often it was sent already.
    pub max: Duration,
}

impl Default for Timing {
    /// The quarter of a second with which both iPXE and Linux start; the lower limit is TCP's on
    /// Linux, the upper one chosen by feel.
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(250),
            min: Duration::from_millis(200),
            max: Duration::from_secs(5),
        }
    }
}

/// What an initiator did, from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct InitiatorCounters {
    /// Requests submitted.
    pub requests: u64,
    /// Frames sent, repetitions included.
    pub transmissions: u64,
    /// Frames sent again.
    pub retransmissions: u64,
    /// Answers taken.
    pub replies: u64,
    /// Answers that came again, after the request had ended.
    pub duplicates: u64,
    /// AoE responses that answer nothing we asked: other initiators', advertisements, or ours from
    /// the wrong station or target.
    pub strays: u64,
    /// Requests that ran out of patience.
    pub unanswered: u64,
}

/// What is known of the round trip (RFC 6298, with nanoseconds for its clock).
#[derive(Debug, Clone, Copy)]
struct RoundTrip {
    timing: Timing,
    /// Smoothed round trip and its deviation.
    estimate: Option<(Duration, Duration)>,
    /// How often the time-out is doubled, for requests that follow one which had to be sent again,
    /// until one is answered at once. Without it, a target that became slower than the time-out
    /// would never again yield a measurement.
    backoff: u32,
}

impl RoundTrip {
    fn sample(&mut self, took: Duration) {
        self.backoff = 0;
        self.estimate = Some(match self.estimate {
            None => (took, took / 2),
            Some((smoothed, deviation)) => {
                let off = smoothed.abs_diff(took);
                ((smoothed * 7 + took) / 8, (deviation * 3 + off) / 4)
            }
        });
    }

    /// A request was answered only after it had been sent `transmissions` times.
    fn ambiguous(&mut self, transmissions: u32) {
        self.backoff = self.backoff.max(transmissions.saturating_sub(1)).min(MAX_BACKOFF);
    }

    /// How long to wait after transmission number `transmissions`.
    fn timeout(&self, transmissions: u32) -> Duration {
        let Timing { initial, min, max } = self.timing;
        let base = match self.estimate {
            None => initial,
            Some((smoothed, deviation)) => (smoothed + deviation * 4).max(min),
        };
        let doubled = transmissions.saturating_sub(1).max(self.backoff).min(MAX_BACKOFF);
        base.saturating_mul(1 << doubled).min(max)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No request; the generation is that of the last one.
    Free,
    /// To be sent, for the first time or again.
    ToSend,
    /// Sent; waiting.
    Sent,
}

/// The place of one request.
#[derive(Debug, Clone, Copy)]
struct Place {
    state: State,
    /// It is in the list of what is to be sent, perhaps for a request that was answered since.
    listed: bool,
    transmissions: u32,
    generation: u32,
    ask: Ask,
    submitted: Instant,
    first_sent: Instant,
    /// When to send again, if [`State::Sent`].
    again: Instant,
    gives_up: Instant,
}

/// Up to `IN_FLIGHT` requests in flight.
#[derive(Debug)]
pub struct Initiator<const IN_FLIGHT: usize> {
    places: [Place; IN_FLIGHT],
    free: heapless::Vec<u16, IN_FLIGHT>,
    to_send: heapless::Deque<u16, IN_FLIGHT>,
    window: usize,
    round_trip: RoundTrip,
    /// Nothing runs out before this. It may be too early, so that an answer need not look for the
    /// next time-out.
    check_at: Option<Instant>,
    counters: InitiatorCounters,
}

impl<const IN_FLIGHT: usize> Initiator<IN_FLIGHT> {
    /// The bits of a tag that are a place.
    const INDEX_BITS: u32 = usize::BITS - IN_FLIGHT.saturating_sub(1).leading_zeros();
    const CHECKED: () = assert!(IN_FLIGHT > 0 && IN_FLIGHT <= 4096);

    /// An initiator with nothing in flight and the widest window. `seed` is where its tags start:
    /// initiators that share a station should differ in it.
    pub fn new(seed: u32, timing: Timing) -> Self {
        let () = Self::CHECKED;
        let ask = Ask {
            destination: MacAddr::BROADCAST,
            address: Address::EVERYONE,
            command: Command::CONFIG,
            answers: Answers::One,
            patience: Duration::ZERO,
            transmissions: 0,
        };
        let nothing = Place {
            state: State::Free,
            listed: false,
            transmissions: 0,
            generation: seed,
            ask,
            submitted: Instant::ZERO,
            first_sent: Instant::ZERO,
            again: Instant::ZERO,
            gives_up: Instant::ZERO,
        };
        let mut free = heapless::Vec::new();
        // The lowest place on top, for small windows to stay in few cache lines.
        for index in (0..IN_FLIGHT).rev() {
            // Both conversions hold by the assertion above.
            let _ = u16::try_from(index).map(|index| free.push(index));
        }
        Self {
            places: [nothing; IN_FLIGHT],
            free,
            to_send: heapless::Deque::new(),
            window: IN_FLIGHT,
            round_trip: RoundTrip { timing, estimate: None, backoff: 0 },
            check_at: None,
            counters: InitiatorCounters::default(),
        }
    }

    /// Limits how many requests may be in flight at once: between one and `IN_FLIGHT`. Those that
    /// are stay.
    pub fn set_window(&mut self, window: usize) {
        self.window = window.clamp(1, IN_FLIGHT);
    }

    /// Changes when requests are sent again, and forgets what was measured.
    pub fn set_timing(&mut self, timing: Timing) {
        self.round_trip = RoundTrip { timing, estimate: None, backoff: 0 };
    }

    /// How many requests are in flight.
    pub fn in_flight(&self) -> usize {
        IN_FLIGHT - self.free.len()
    }

    /// The smoothed round trip; `None` before the first measurement.
    pub fn smoothed_round_trip(&self) -> Option<Duration> {
        self.round_trip.estimate.map(|(smoothed, _)| smoothed)
    }

    /// What was done so far.
    pub const fn counters(&self) -> &InitiatorCounters {
        &self.counters
    }

    /// When [`Self::tick`] is worth a call; `None` when nothing is in flight. It may be early.
    pub const fn deadline(&self) -> Option<Instant> {
        self.check_at
    }

    /// Takes a request, to be sent by [`Self::next_frame`]. `None` when the window is full.
    pub fn submit(&mut self, ask: Ask, now: Instant) -> Option<RequestId> {
        if self.in_flight() >= self.window {
            return None;
        }
        let index = self.free.pop()?;
        let place = self.places.get_mut(usize::from(index))?;
        let gives_up = now.after(ask.patience);
        // The place's last request may be listed still: answered before it was sent again.
        let listed = place.listed;
        *place = Place {
            state: State::ToSend,
            listed: true,
            transmissions: 0,
            generation: place.generation.wrapping_add(1),
            ask,
            submitted: now,
            first_sent: now,
            again: gives_up,
            gives_up,
        };
        let tag = Self::tag(place.generation, index);
        if !listed {
            // There is room: no place is listed twice.
            let _ = self.to_send.push_back(index);
        }
        self.look_again_at(gives_up);
        self.counters.requests += 1;
        Some(RequestId { tag, index })
    }

    /// Ends all requests, answered or not. Answers that still come are ignored.
    pub fn abandon(&mut self) {
        for (index, place) in self.places.iter_mut().enumerate() {
            place.listed = false;
            if place.state != State::Free {
                place.state = State::Free;
                let _ = u16::try_from(index).map(|index| self.free.push(index));
            }
        }
        self.to_send.clear();
        self.check_at = None;
    }

    fn tag(generation: u32, index: u16) -> u32 {
        TOP_BIT | generation << Self::INDEX_BITS | u32::from(index)
    }

    fn look_again_at(&mut self, at: Instant) {
        self.check_at = Some(self.check_at.map_or(at, |before| before.min(at)));
    }

    /// Writes the next frame that is to be sent, with `mac` as its source, into `out`, and tells its
    /// length; `None` when there is none. `argument` writes what follows the AoE header, the same at
    /// every transmission of a request. It is the caller's error when `out` has no room for it; such
    /// a request is not sent, and runs out of patience.
    pub fn next_frame(
        &mut self,
        now: Instant,
        mac: MacAddr,
        mut argument: impl FnMut(RequestId, &mut FrameWriter<'_>),
        out: &mut [u8],
    ) -> Option<usize> {
        while let Some(index) = self.to_send.pop_front() {
            let Some(place) = self.places.get_mut(usize::from(index)) else { continue };
            place.listed = false;
            if place.state != State::ToSend {
                continue;
            }
            let id = RequestId { tag: Self::tag(place.generation, index), index };
            let Ask { destination, address, command, transmissions, .. } = place.ask;
            let fields = FrameFields::request(mac, destination, address, command, id.tag());
            let mut writer = FrameWriter::new(out, &fields);
            argument(id, &mut writer);
            place.state = State::Sent;
            place.again = place.gives_up;
            let Some(len) = writer.finish_unpadded() else { continue };
            if place.transmissions == 0 {
                place.first_sent = now;
            } else {
                self.counters.retransmissions += 1;
            }
            place.transmissions = place.transmissions.saturating_add(1);
            if place.transmissions < transmissions {
                let timeout = self.round_trip.timeout(place.transmissions);
                place.again = now.after(timeout).min(place.gives_up);
            }
            let again = place.again;
            self.look_again_at(again);
            self.counters.transmissions += 1;
            return Some(len);
        }
        None
    }

    /// Takes a frame that arrived at the station with address `mac`; `None` when it answers nothing.
    pub fn receive<'f>(
        &mut self,
        frame: &'f [u8],
        mac: MacAddr,
        now: Instant,
    ) -> Option<Reply<'f>> {
        let frame = Frame::parse(frame).ok()?;
        let flags = frame.header.flags();
        if !flags.is_response() || frame.destination != mac {
            return None;
        }
        let tag = u32::from_be_bytes(frame.header.tag().0);
        let index = u16::try_from(tag & !(u32::MAX << Self::INDEX_BITS)).unwrap_or(u16::MAX);
        let Some(place) = self.places.get_mut(usize::from(index)).filter(|_| tag & TOP_BIT != 0)
        else {
            self.counters.strays += 1;
            return None;
        };
        let age =
            place.generation.wrapping_sub(tag >> Self::INDEX_BITS) & !TOP_BIT >> Self::INDEX_BITS;
        if age > RECENT || age == 0 && !place.ask.is_answered_by(&frame) {
            self.counters.strays += 1;
            return None;
        }
        // One that was never sent cannot be answered, only guessed.
        if age > 0 || place.state == State::Free || place.transmissions == 0 {
            self.counters.duplicates += 1;
            return None;
        }
        let transmissions = place.transmissions;
        let waited = now.since(place.first_sent);
        if place.ask.answers == Answers::One {
            place.state = State::Free;
            // There is room: a place is free once.
            let _ = self.free.push(index);
            if transmissions == 1 {
                self.round_trip.sample(waited);
            } else {
                self.round_trip.ambiguous(transmissions);
            }
        }
        self.counters.replies += 1;
        let refused = flags.is_error().then(|| frame.header.error());
        Some(Reply { id: RequestId { tag, index }, frame, refused, waited, transmissions })
    }

    /// Looks for what has run out: lists requests to be sent again, and ends one that has waited
    /// long enough. To be called until it answers `None`, after frames that have arrived were taken,
    /// or what was only slow would be sent again.
    pub fn tick(&mut self, now: Instant) -> Option<Unanswered> {
        if self.check_at.is_none_or(|at| at > now) {
            return None;
        }
        let mut next: Option<Instant> = None;
        for (place, index) in self.places.iter_mut().zip(0_u16..) {
            if place.state == State::Free {
                continue;
            }
            if place.gives_up <= now {
                place.state = State::Free;
                let _ = self.free.push(index);
                self.counters.unanswered += 1;
                return Some(Unanswered {
                    id: RequestId { tag: Self::tag(place.generation, index), index },
                    address: place.ask.address,
                    waited: now.since(place.submitted),
                    transmissions: place.transmissions,
                });
            }
            let mut at = place.gives_up;
            if place.state == State::Sent && place.again <= now {
                place.state = State::ToSend;
                if !place.listed {
                    place.listed = true;
                    let _ = self.to_send.push_back(index);
                }
            } else if place.state == State::Sent {
                at = place.again;
            }
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        self.check_at = next;
        None
    }
}

impl Ask {
    /// Whether `reply` has what an answer needs besides the tag.
    fn is_answered_by(&self, reply: &Frame<'_>) -> bool {
        let header = &reply.header;
        // A target that speaks another version says so in its error reply.
        (header.version() == VERSION || header.flags().is_error())
            && header.command() == self.command
            && !header.address().is_wildcard()
            && self.address.matches(header.address())
            && !reply.source.is_group()
            && (reply.source == self.destination || self.destination.is_group())
    }
}
