//! One link of a loop, with the burst that came in and the burst that goes out.

use std::sync::Arc;

use crate::engine::{Port, TargetId};
use crate::link::{BATCH_FRAMES, FRAME_CAPACITY, FramePool, Link, LinkEvent, LinkInfo};
use crate::protocol::ata::status;
use crate::protocol::{AtaArg, Command, Frame};

/// Replies that may wait for the wire: a burst, and another for wildcards that address many.
const TRANSMIT_FRAMES: usize = 2 * BATCH_FRAMES;

/// For so many checks after the kernel has dropped frames more comes in than is answered.
const CROWDED_CHECKS: u32 = 10;
/// Requests of a full burst that are refused while that is so; the others get no answer.
const REFUSALS: u32 = 1;

/// A link, its burst in and its burst out.
pub(super) struct PortState<L> {
    pub(super) name: Arc<str>,
    pub(super) receive: FramePool,
    /// The first frame of `receive` that is not served yet.
    pub(super) next: usize,
    /// The last target that is done with that frame, when room ran out in the middle of a wildcard.
    pub(super) resume: Option<TargetId>,
    /// The link has no more frames, as at the end of a capture.
    pub(super) ended: bool,
    /// The system refused to receive, for another reason than that the interface is down.
    pub(super) troubled: bool,
    /// Frames that the kernel had dropped when that was last logged.
    pub(super) dropped_logged: u64,
    /// Frames that it had dropped at the last check.
    dropped: u64,
    /// Checks that are still to come while more comes in than is answered.
    crowded: u32,
    pub(super) out: Outgoing<L>,
}

/// The sending side of a port; apart from the burst in, which is read while replies are written.
pub(super) struct Outgoing<L> {
    pub(super) link: L,
    transmit: FramePool,
    /// Frames of `transmit` that have left.
    sent: usize,
    /// Replies that were given up since the link was down; initiators ask again.
    pub(super) given_up: u64,
    refusals: Refusals,
}

/// Replies that say that a request was not carried out.
#[derive(Default)]
struct Refusals {
    /// How many may still be sent of this burst; `None` while there is no need to count.
    left: Option<u32>,
    /// How many were not sent, since more came in than was answered.
    shed: u64,
}

impl Refusals {
    /// Whether a reply is to be left out, since it refuses a request and enough of those were.
    fn shed(&mut self, reply: &[u8]) -> bool {
        let Some(left) = self.left.as_mut().filter(|_| refuses(reply)) else { return false };
        let shed = *left == 0;
        *left = left.saturating_sub(1);
        self.shed += u64::from(shed);
        shed
    }
}

impl<L: Link> PortState<L> {
    pub(super) fn new(name: &str, link: L) -> Self {
        Self {
            name: Arc::from(name),
            receive: FramePool::new(BATCH_FRAMES),
            next: 0,
            resume: None,
            ended: false,
            troubled: false,
            dropped_logged: 0,
            dropped: 0,
            crowded: 0,
            out: Outgoing {
                link,
                transmit: FramePool::new(TRANSMIT_FRAMES),
                sent: 0,
                given_up: 0,
                refusals: Refusals::default(),
            },
        }
    }

    /// Looks whether the kernel has dropped frames; tells how many, all in all.
    pub(super) fn check_drops(&mut self) -> u64 {
        let dropped = self.out.link.counters().dropped;
        let before = std::mem::replace(&mut self.dropped, dropped);
        self.crowded =
            if dropped > before { CROWDED_CHECKS } else { self.crowded.saturating_sub(1) };
        dropped
    }

    /// Takes in that a burst of so many frames came.
    ///
    /// While more comes in than is answered, frames are lost whatever is done: good ones with the
    /// others. Then what makes no sense is hardly answered any more, so that there is time for what does.
    pub(super) fn received(&mut self, count: usize) {
        let crowded = self.crowded > 0 && count == BATCH_FRAMES;
        self.out.refusals.left = crowded.then_some(REFUSALS);
    }

    /// Whether frames of the last burst are still to be served.
    pub(super) fn has_backlog(&self) -> bool {
        self.next < self.receive.len()
    }

    /// Keeps the cursor when the target `id` is taken out of the list and later ones move up.
    pub(super) fn target_removed(&mut self, id: TargetId) {
        if let Some(done) = self.resume.filter(|done| *done >= id) {
            self.resume = done.0.checked_sub(1).map(TargetId);
        }
    }

    /// Whether frames can be moved.
    pub(super) fn is_up(&self) -> bool {
        !self.ended && self.out.link.info().up
    }

    /// Looks after the link; tells whether the targets should be announced on it again.
    pub(super) fn check(&mut self) -> bool {
        let event = self.out.link.check();
        let LinkInfo { mac, mtu, .. } = self.out.link.info();
        match event {
            Some(LinkEvent::Up) => log::info!("{}: up, {mac}, MTU {mtu}", self.name),
            Some(LinkEvent::Down) => log::warn!("{}: down", self.name),
            Some(LinkEvent::Changed) => log::info!("{}: now {mac}, MTU {mtu}", self.name),
            None => return false,
        }
        event != Some(LinkEvent::Down)
    }
}

impl<L: Link> Outgoing<L> {
    /// What replies on this link depend on.
    pub(super) fn facts(&self) -> Port {
        let LinkInfo { mac, mtu, .. } = self.link.info();
        Port { mac, mtu }
    }

    /// Sends what waits; `true` when there is room for another frame afterwards.
    pub(super) fn flush(&mut self) -> bool {
        let mut batch = self.transmit.batch();
        while self.sent < batch.len() {
            match self.link.send(&batch, self.sent) {
                Ok(0) => return batch.room() > 0,
                Ok(count) => self.sent += count,
                Err(_) => {
                    self.given_up += (batch.len() - self.sent) as u64;
                    self.sent = batch.len();
                }
            }
        }
        batch.clear();
        self.sent = 0;
        true
    }

    /// Refusals that were not sent, since more came in than was answered.
    pub(super) fn shed(&self) -> u64 {
        self.refusals.shed
    }

    /// How many frames wait for the wire.
    pub(super) fn waiting(&self) -> usize {
        self.transmit.len() - self.sent
    }

    /// Whether there is a buffer for another frame, after sending if need be.
    #[inline]
    pub(super) fn has_room(&mut self) -> bool {
        self.transmit.len() < TRANSMIT_FRAMES || self.flush()
    }

    /// Lets `write` build a frame in the next free buffer; what it returns besides is passed on.
    /// `None` from it means no frame. There has to be room.
    pub(super) fn build<T>(
        &mut self,
        write: impl FnOnce(&mut [u8; FRAME_CAPACITY]) -> (Option<usize>, T),
    ) -> Option<T> {
        let mut batch = self.transmit.batch();
        let buffer = batch.next_buffer()?;
        let (len, rest) = write(buffer);
        if let Some(len) = len.filter(|len| !self.refusals.shed(&buffer[..*len])) {
            batch.commit(len);
        }
        Some(rest)
    }

    /// Queues a finished frame; `false` when the wire is full.
    pub(super) fn push(&mut self, frame: &[u8]) -> bool {
        self.has_room() && self.transmit.batch().push(frame)
    }
}

/// Whether a reply says that a request was not carried out.
fn refuses(reply: &[u8]) -> bool {
    let Ok(Frame { header, .. }) = Frame::parse(reply) else { return false };
    let has_failed = |arg| AtaArg::parse(arg).is_ok_and(|arg| arg.status() & status::ERR != 0);
    header.flags().is_error() || (header.command() == Command::ATA && has_failed(header.arg()))
}
