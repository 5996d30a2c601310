//! A blocking initiator over any [`Link`].
//!
//! A [`Client`] does one thing at a time, each with as many requests in flight as the target can
//! hold: it asks, pings, copies disks, generates load. Nothing but the waiting is done here; tags,
//! round trips and repetitions are the [`Initiator`]'s.
//!
//! # Invariants
//! * Every request is answered, or reported, before a method returns; nothing stays in flight.
//! * A method that fails names the first failure, and what was in flight is given up.

mod discover;
mod error;
mod load;
mod ping;
mod settings;
mod transfer;
mod wait;

use Box;
use std::fmt;
use std::time::Duration;

pub use discover::{Disk, DiskFacts, Found};
pub use error::ClientError;
pub use load::{Kind, Load, LoadReport, Order, Recorder};
pub use ping::{PingKind, PingReport, Pong};
pub use settings::{MaskChange, Stat};
pub use transfer::{Range, SparseWriter, Written};

use crate::clock::{self, Instant};
use crate::engine::initiator::{
    Answers, Ask, Initiator, InitiatorCounters, Reply, RequestId, Timing, Unanswered,
};
use crate::link::{BATCH_FRAMES, FramePool, Link, LinkCounters, LinkError, LinkInfo};
use crate::protocol::ata::status;
use crate::protocol::{Address, AtaArg, AtaFields, Command, FrameWriter, MacAddr, Opcode};
use crate::units::{Lba, Sectors};

/// The most requests that a client can have in flight.
pub const IN_FLIGHT: usize = 256;

/// How long a full wire, or one that only polling tells about, is left alone.
const SHORT_WAIT: Duration = Duration::from_millis(1);

/// A piece of work: what its requests carry, and what becomes of their answers.
trait Job {
    /// Submits what the window has room for; `ask` is a request with the client's patience, whose
    /// addressee and command are to be replaced. Called every turn between receiving and sending.
    fn refill(&mut self, initiator: &mut Initiator<IN_FLIGHT>, ask: Ask, now: Instant) {
        let _ = (initiator, ask, now);
    }
    /// Writes the argument of a request, the same at every transmission.
    fn argument(&mut self, id: RequestId, writer: &mut FrameWriter<'_>);
    /// Takes an answer.
    fn reply(&mut self, reply: &Reply<'_>);
    /// Takes the end of a request's patience.
    fn unanswered(&mut self, unanswered: &Unanswered);
}

/// A blocking initiator.
pub struct Client {
    link: Box<dyn Link>,
    initiator: Initiator<IN_FLIGHT>,
    received: FramePool,
    /// Frames to send, and how many of them the link has taken.
    sending: FramePool,
    taken: usize,
    patience: Duration,
    transmissions: u32,
    spin: Duration,
    idle_since: Option<Instant>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("link", &self.link.info())
            .field("initiator", &self.initiator.counters())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// An initiator on `link`. It waits five seconds for an answer and asks up to eight times.
    pub fn new(link: Box<dyn Link>) -> Self {
        // Tags that differ from those of the last process on this station, as good as always.
        let micros = clock::unix_micros();
        let [a, b, c, d, ..] = micros.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let seed = u32::from_be_bytes([a, b, c, d]) ^ std::process::id();
        Self {
            link,
            initiator: Initiator::new(seed, Timing::default()),
            received: FramePool::new(BATCH_FRAMES),
            sending: FramePool::new(BATCH_FRAMES),
            taken: 0,
            patience: Duration::from_secs(5),
            transmissions: 8,
            spin: Duration::ZERO,
            idle_since: None,
        }
    }

    /// How long to wait for the answer to one request, repetitions included.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// When requests are sent again.
    pub fn set_timing(&mut self, timing: Timing) {
        self.initiator.set_timing(timing);
    }

    /// How long to look for frames again and again before waiting for them. Waiting costs some
    /// microseconds of latency, looking costs a core.
    pub fn set_spin(&mut self, spin: Duration) {
        self.spin = spin;
    }

    /// What the link is like at the moment.
    pub fn link_info(&self) -> LinkInfo {
        self.link.info()
    }

    /// What the link moved and lost.
    pub fn link_counters(&mut self) -> LinkCounters {
        self.link.counters()
    }

    /// What was asked and answered so far.
    pub fn counters(&self) -> &InitiatorCounters {
        self.initiator.counters()
    }

    /// A request to one target with this client's patience.
    fn ask(&self, destination: MacAddr, address: Address, command: Command) -> Ask {
        Ask {
            destination,
            address,
            command,
            answers: Answers::One,
            patience: self.patience,
            transmissions: self.transmissions,
        }
    }

    /// Prepares for a new piece of work with up to `window` requests in flight: nothing is left over
    /// from one that failed, and the interface is usable.
    fn begin(&mut self, window: usize) -> Result<(), ClientError> {
        self.initiator.abandon();
        self.initiator.set_window(window);
        self.sending.batch().clear();
        self.taken = 0;
        self.idle_since = None;
        let _ = self.link.check();
        if self.link.info().up {
            return Ok(());
        }
        Err(ClientError::Link { doing: "send or receive", source: LinkError::Down })
    }

    /// Goes on with `job` for a moment: takes what has arrived, gives up what is overdue, sends what
    /// is due. When there was none of it, waits until there is, or until `wake`.
    fn turn<J: Job>(&mut self, job: &mut J, wake: Option<Instant>) -> Result<(), ClientError> {
        let now = clock::now();
        let received = self.take_in(job, now)?;
        // Answers that wait to be fetched are not overdue.
        if received < BATCH_FRAMES {
            while let Some(unanswered) = self.initiator.tick(now) {
                job.unanswered(&unanswered);
            }
        }
        let ask = self.ask(MacAddr::BROADCAST, Address::EVERYONE, Command::ATA);
        job.refill(&mut self.initiator, ask, now);
        let sent = self.give_out(job, now)?;
        if received + sent > 0 {
            self.idle_since = None;
            return Ok(());
        }
        self.rest(now, wake)
    }

    fn take_in<J: Job>(&mut self, job: &mut J, now: Instant) -> Result<usize, ClientError> {
        let mac = self.link.info().mac;
        let mut batch = self.received.batch();
        batch.clear();
        let received = self
            .link
            .receive(&mut batch)
            .map_err(|source| ClientError::Link { doing: "receive", source })?;
        for frame in batch.frames() {
            if let Some(reply) = self.initiator.receive(frame, mac, now) {
                job.reply(&reply);
            }
        }
        Ok(received)
    }

    /// Sends what is due, and tells how many frames the link took.
    fn give_out<J: Job>(&mut self, job: &mut J, now: Instant) -> Result<usize, ClientError> {
        let mac = self.link.info().mac;
        let mut batch = self.sending.batch();
        if self.taken >= batch.len() {
            batch.clear();
            self.taken = 0;
        }
        while let Some(buffer) = batch.next_buffer() {
            let argument = |id, writer: &mut FrameWriter<'_>| job.argument(id, writer);
            let Some(len) = self.initiator.next_frame(now, mac, argument, buffer) else { break };
            batch.commit(len);
        }
        if batch.is_empty() {
            return Ok(0);
        }
        let sent = self
            .link
            .send(&batch, self.taken)
            .map_err(|source| ClientError::Link { doing: "send", source })?;
        self.taken += sent;
        Ok(sent)
    }

    fn rest(&mut self, now: Instant, wake: Option<Instant>) -> Result<(), ClientError> {
        let idle_since = *self.idle_since.get_or_insert(now);
        if now.since(idle_since) < self.spin {
            std::hint::spin_loop();
            return Ok(());
        }
        let stuck = self.taken < self.sending.batch().len();
        let until = [self.initiator.deadline(), wake].into_iter().flatten().min();
        let mut at_most = until.map_or(SHORT_WAIT, |until| until.since(now));
        if stuck {
            at_most = at_most.min(SHORT_WAIT);
        }
        wait::for_frames(&*self.link, stuck, at_most)
            .map_err(|source| ClientError::Link { doing: "wait for", source })
    }

    /// Does one request to one target, and hands its answer to `read`.
    fn exchange<T>(
        &mut self,
        ask: Ask,
        write: impl FnMut(&mut FrameWriter<'_>),
        read: impl FnMut(&Reply<'_>) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        self.begin(1)?;
        let mut job = Exchange { ask, write, read, result: None };
        // The window is empty, so that there is room.
        let _ = self.initiator.submit(ask, clock::now());
        loop {
            self.turn(&mut job, None)?;
            if let Some(result) = job.result.take() {
                return result;
            }
        }
    }

    /// Does one ATA command with `data` for the target, of which `expected` octets come back.
    fn ata<T>(
        &mut self,
        disk: &Disk,
        command: &AtaCommand,
        data: &[u8],
        expected: usize,
        mut read: impl FnMut(&[u8]) -> T,
    ) -> Result<T, ClientError> {
        let ask = self.ask(disk.mac, disk.address, Command::ATA);
        self.exchange(
            ask,
            |writer| {
                writer.ata(&command.fields).octets(data);
            },
            |reply| command.check(reply, expected).map(&mut read),
        )
    }
}

/// The job of one request.
struct Exchange<T, W, R> {
    ask: Ask,
    write: W,
    read: R,
    result: Option<Result<T, ClientError>>,
}

impl<T, W, R> Job for Exchange<T, W, R>
where
    W: FnMut(&mut FrameWriter<'_>),
    R: FnMut(&Reply<'_>) -> Result<T, ClientError>,
{
    fn argument(&mut self, _: RequestId, writer: &mut FrameWriter<'_>) {
        (self.write)(writer);
    }

    fn reply(&mut self, reply: &Reply<'_>) {
        let result = match reply.refused {
            Some(error) => {
                let Ask { address, command, .. } = self.ask;
                Err(ClientError::Refused { address, command, error })
            }
            None => (self.read)(reply),
        };
        self.result = Some(result);
    }

    fn unanswered(&mut self, unanswered: &Unanswered) {
        self.result = Some(Err(no_answer(unanswered)));
    }
}

fn no_answer(unanswered: &Unanswered) -> ClientError {
    let Unanswered { address, waited, transmissions, .. } = *unanswered;
    ClientError::NoAnswer { address, waited, transmissions }
}

/// An ATA command, as its registers and as what it means.
#[derive(Debug, Clone, Copy)]
struct AtaCommand {
    address: Address,
    fields: AtaFields,
    lba: Lba,
}

impl AtaCommand {
    /// The data of a successful answer, `expected` octets.
    fn check<'f>(&self, reply: &Reply<'f>, expected: usize) -> Result<&'f [u8], ClientError> {
        let (address, command) = (self.address, Command::ATA);
        if let Some(error) = reply.refused {
            return Err(ClientError::Refused { address, command, error });
        }
        let ata = AtaArg::parse(reply.frame.header.arg())
            .map_err(|_| ClientError::Malformed { address, command })?;
        if ata.status() & status::FAILURE != 0 {
            return Err(ClientError::Ata {
                address,
                opcode: Opcode(self.fields.command),
                lba: self.lba,
                count: Sectors(self.fields.sector_count.into()),
                status: ata.status(),
                error: ata.feature(),
            });
        }
        let have = ata.data().len();
        ata.data().get(..expected).ok_or(ClientError::ShortReply { address, expected, have })
    }
}
