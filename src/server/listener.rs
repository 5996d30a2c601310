//! The poll loop: one thread that owns its links, its targets and their disks.
//!
//! # Invariants
//! * Nothing in a turn blocks, allocates, takes a contended lock or reads the clock; the work of
//!   one is bounded by the size of a burst and of the tables. Adding and removing targets may
//!   allocate.
//! * A request is answered, ignored by rule, held or parked. When there is no room for what could
//!   come of it, it stays in the burst and nothing more is received: no frame is dropped here. There
//!   are two exceptions. A target that is full and whose storage has been stuck for a second: others
//!   are not made to wait for it any longer ([`Room::Never`]). And while the kernel drops frames,
//!   since more come in than are answered, few refusals are sent ([`PortState::received`]).
//! * A reply that acknowledges a write leaves when storage says that the write is durable.
//! * Ordered requests of a target take effect in the order they came, parked or not.

use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::control::{Control, Mailbox, Status};
use super::idle::Idle;
use super::pending::{Held, ParkedPool, Pending, Room};
use super::port::{Outgoing, PortState};
use super::probe::{Candidate, PortSet};
use super::state::SettingsSaver;
use crate::clock::Instant;
use crate::engine::{Action, After, Claim, Engine, Export, Request, Target, TargetId};
use crate::link::{FRAME_CAPACITY, Link, LinkError};
use crate::protocol::{Address, MIN_FRAME_LEN};
use crate::scheduling::Yielder;
use crate::storage::{BlockStorage, Ticket};
use crate::wake::Waker;

/// A disk that a loop drives.
pub type Backend = Box<dyn BlockStorage + Send>;

/// How often links are looked after and the state is published.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Trouble that repeats is logged this often at most.
pub(super) const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What the loop keeps of a target, beside its place in the engine.
pub(super) struct Served {
    pub(super) ports: PortSet,
    pub(super) pending: Pending,
    /// What is parked of it; apart, as it is read while replies are held.
    pub(super) pool: ParkedPool,
    /// It is on the list of targets that have something pending.
    pub(super) active: bool,
    /// Somebody waits to get it back: it takes no more requests.
    pub(super) leaving: Option<SyncSender<Option<Export<Backend>>>>,
}

impl Served {
    fn takes_requests(&self, port: usize) -> bool {
        self.leaving.is_none() && self.ports.contains(port)
    }

    /// Whether a request has to be parked before storage is even asked: behind another that keeps
    /// its place, or since a reply to it could not be held.
    fn must_wait(&mut self, request: &Request<'_>) -> bool {
        if !self.pending.can_hold() {
            self.pending.retry = true;
            return true;
        }
        self.pending.ordered > 0 && request.is_ordered()
    }

    fn holding<'a>(&'a mut self, saving: Option<&'a mut Saving>) -> Holding<'a> {
        Holding { pending: &mut self.pending, saving }
    }

    /// Parks a request; there has to be room for it.
    fn park(&mut self, request: &Request<'_>, frame: &[u8], port: usize) {
        if let Some(place) = self.pool.park(request, frame, port) {
            self.pending.ordered += usize::from(place.ordered);
            self.pending.parked.push_back(place);
        }
    }
}

/// The change of settings that is being made durable, with the reply that announces it.
pub(super) struct Saving {
    pub(super) saver: SettingsSaver,
    /// Whose settings; `None` when nothing is being saved.
    pub(super) address: Option<Address>,
    pub(super) port: usize,
    pub(super) len: usize,
    pub(super) reply: Box<[u8; FRAME_CAPACITY]>,
}

impl Saving {
    fn begin(&mut self, target: &Target, port: usize, reply: &[u8]) -> bool {
        let Some(settings) = target.staged().filter(|_| self.address.is_none()) else {
            return false;
        };
        // One save at a time, so that the token tells nothing.
        if self.saver.save(0, target.address(), settings).is_err() {
            return false;
        }
        self.address = Some(target.address());
        self.port = port;
        self.len = reply.len();
        self.reply[..reply.len()].copy_from_slice(reply);
        true
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handled {
    /// It is done with: answered, ignored or held.
    Done,
    /// It has to be tried again.
    Park,
}

/// Where replies go that cannot leave yet.
pub(super) struct Holding<'a> {
    pub(super) pending: &'a mut Pending,
    pub(super) saving: Option<&'a mut Saving>,
}

/// One poll loop. `L` is the kind of its links: `Box<dyn Link>` for several kinds.
pub struct Listener<L> {
    pub(super) engine: Engine<Vec<Export<Backend>>>,
    /// Parallel to the engine's exports.
    pub(super) served: Vec<Served>,
    /// Targets with something pending. Others need no attention.
    pub(super) active: Vec<TargetId>,
    pub(super) ports: Vec<PortState<L>>,
    pub(super) saving: Option<Saving>,
    pub(super) candidates: Vec<Candidate>,
    pub(super) mailbox: Mailbox,
    pub(super) published: Arc<Mutex<Status>>,
    pub(super) waker: Waker,
    pub(super) next_check: Instant,
    pub(super) next_log: Instant,
    pub(super) idle: Idle,
    pub(super) yielder: Yielder,
    pub(super) stopping: bool,
}

impl<L: Link> Listener<L> {
    /// A loop over `links`, each with its name, that serves nothing yet. With a `saver`, settings
    /// that initiators change are made durable; without one they are only kept in memory.
    ///
    /// # Errors
    /// When the process may not have another file descriptor.
    ///
    /// # Panics
    /// With more than [`PortSet::MAX`] links.
    pub fn new(
        links: impl IntoIterator<Item = (String, L)>,
        saver: impl FnOnce(Waker) -> Option<SettingsSaver>,
    ) -> std::io::Result<(Self, Control)> {
        let ports: Vec<_> =
            links.into_iter().map(|(name, link)| PortState::new(&name, link)).collect();
        assert!(ports.len() <= PortSet::MAX, "a loop has {} links at most", PortSet::MAX);
        let waker = Waker::new()?;
        let (control, mailbox) = Control::new(waker.clone());
        let saving = saver(waker.clone()).map(|saver| Saving {
            saver,
            address: None,
            port: 0,
            len: 0,
            reply: Box::new([0; FRAME_CAPACITY]),
        });
        let Ok(engine) = Engine::new(Vec::new()) else {
            unreachable!("an empty list has no address twice")
        };
        let listener = Self {
            engine,
            served: Vec::new(),
            active: Vec::new(),
            ports,
            saving,
            candidates: Vec::new(),
            mailbox,
            published: control.published(),
            waker,
            next_check: Instant::ZERO,
            next_log: Instant::ZERO,
            idle: Idle::Block,
            yielder: Yielder::default(),
            stopping: false,
        };
        Ok((listener, control))
    }

    /// One turn: receives a burst from every link, serves it, settles what waited, sends what there
    /// is to send. Tells whether anything was done.
    pub fn turn(&mut self, now: Instant) -> bool {
        let mut busy = false;
        for port in 0..self.ports.len() {
            busy |= self.receive(port, now);
        }
        if self.waker.take_call() {
            self.attend();
        }
        busy |= self.settle();
        while let Some(order) = self.mailbox.take() {
            self.obey(order);
            busy = true;
        }
        if !self.candidates.is_empty() {
            self.probe(now);
        }
        if now >= self.next_check {
            self.next_check = now.after(CHECK_INTERVAL);
            self.look_around(now);
        }
        // Last, since all of the above has something to send.
        for port in &mut self.ports {
            let waiting = port.out.waiting();
            if waiting > 0 {
                port.out.flush();
                busy |= port.out.waiting() < waiting;
            }
        }
        busy
    }

    /// Whether nothing waits: no request, no reply, no candidate, no frame.
    pub fn is_idle(&self) -> bool {
        self.active.is_empty()
            && self.candidates.is_empty()
            && self.ports.iter().all(|port| !port.has_backlog() && port.out.waiting() == 0)
    }

    /// Whether every link has come to its end, as captures do.
    pub fn has_ended(&self) -> bool {
        self.ports.iter().all(|port| port.ended)
    }

    /// The link with number `index`.
    pub fn link_mut(&mut self, index: usize) -> Option<&mut L> {
        self.ports.get_mut(index).map(|port| &mut port.out.link)
    }

    /// Ends the loop's hold on its targets and links, to be closed where blocking does no harm.
    pub fn into_parts(mut self) -> (Vec<Export<Backend>>, Vec<L>) {
        // The list that is left empty has no address twice.
        let exports = self.engine.change(std::mem::take).unwrap_or_default();
        (exports, self.ports.into_iter().map(|port| port.out.link).collect())
    }

    /// Receives a burst, unless the last one is not done with, and serves it. Tells whether it got
    /// on: a burst that waits for room is no reason to keep the processor busy.
    fn receive(&mut self, index: usize, now: Instant) -> bool {
        let port = &mut self.ports[index];
        let mut before = Some((port.next, port.resume));
        if !port.has_backlog() {
            before = None;
            if self.stopping || !port.is_up() {
                return false;
            }
            port.next = 0;
            let mut batch = port.receive.batch();
            batch.clear();
            let received = port.out.link.receive(&mut batch);
            port.troubled = false;
            match received {
                Ok(0) | Err(LinkError::Down) => return false,
                Ok(count) => port.received(count),
                Err(LinkError::Ended) => {
                    port.ended = true;
                    return false;
                }
                Err(error) => {
                    port.troubled = true;
                    self.log_rarely(
                        now,
                        |name| log::warn!("{name}: cannot receive: {error}"),
                        index,
                    );
                    return false;
                }
            }
        }
        while let Some(claim) = self.serve(index, now) {
            self.hear(claim, index, now);
        }
        let port = &self.ports[index];
        before != Some((port.next, port.resume))
    }

    /// Serves a port's burst: up to a frame that says who else has a target, which it tells, or up
    /// to one that there is no room for, which stays.
    fn serve(&mut self, index: usize, now: Instant) -> Option<Claim> {
        let Self { engine, served, active, ports, saving, .. } = self;
        let PortState { receive, next, resume, out, .. } = &mut ports[index];
        let batch = receive.batch();
        let facts = out.facts(); // of the whole burst: they change only between turns
        while *next < batch.len() {
            let frame = batch.frame(*next);
            let Some(request) = engine.accept(frame, facts) else {
                *next += 1;
                *resume = None;
                match Claim::parse(frame) {
                    None => continue,
                    claim => return claim,
                }
            };
            let mut addressee = match *resume {
                Some(done) => engine.next_addressee(&request, done),
                None => engine.first_addressee(&request),
            };
            while let Some(id) = addressee {
                let Some(entry) = served.get_mut(id.0) else { break };
                if entry.takes_requests(index) {
                    if !out.has_room() {
                        return None;
                    }
                    match entry.pool.room(&request, frame.len(), now) {
                        Room::Later => return None,
                        Room::Never => {}
                        Room::Present => {
                            let saving = saving.as_mut();
                            if entry.must_wait(&request)
                                || answer(engine, id, &request, index, out, entry.holding(saving))
                                    == Handled::Park
                            {
                                entry.park(&request, frame, index);
                            }
                            if !entry.active && !entry.pending.is_idle() {
                                entry.active = true;
                                active.push(id);
                            }
                        }
                    }
                }
                *resume = Some(id);
                addressee = engine.next_addressee(&request, id);
            }
            *next += 1;
            *resume = None;
        }
        None
    }

    /// Takes in that somebody says to have a target at some address.
    fn hear(&mut self, claim: Claim, port: usize, now: Instant) {
        if self.ports.iter().any(|port| port.out.link.info().mac == claim.mac) {
            return; // that is us, on another link of the same segment
        }
        for candidate in &mut self.candidates {
            candidate.hear(claim, port);
        }
        let ours = self.engine.find(claim.address);
        if ours.is_some_and(|id| self.served[id.0].takes_requests(port)) {
            let Claim { address, mac } = claim;
            self.log_rarely(
                now,
                |name| {
                    log::error!(
                        "{name}: {mac} serves {address} too: initiators will spread their writes \
                         over both and destroy the data; stop one of the two servers now"
                    );
                },
                port,
            );
        }
    }

    /// Logs trouble that a flood of frames could repeat without end; tells whether it did.
    pub(super) fn log_rarely(&mut self, now: Instant, log: impl FnOnce(&str), port: usize) -> bool {
        if now >= self.next_log {
            self.next_log = now.after(LOG_INTERVAL);
            log(&self.ports[port].name);
            return true;
        }
        false
    }
}

/// Lets the engine answer a request for one target, and sees to the reply. There has to be room in
/// `out` and in the pending tables.
pub(super) fn answer<L: Link>(
    engine: &mut Engine<Vec<Export<Backend>>>,
    id: TargetId,
    request: &Request<'_>,
    port: usize,
    out: &mut Outgoing<L>,
    holding: Holding<'_>,
) -> Handled {
    let Holding { pending, saving } = holding;
    let built = out.build(|buffer| match engine.handle(id, request, buffer) {
        Action::Ignore => (None, Handled::Done),
        Action::Park => (None, Handled::Park),
        Action::Reply { len, after } => match after {
            After::Now => (Some(len), Handled::Done),
            After::Applied(ticket) => {
                pending.applied.push(held(ticket, port, buffer));
                (None, Handled::Done)
            }
            After::Durable(ticket) => {
                pending.durable.push(held(ticket, port, buffer));
                (None, Handled::Done)
            }
            After::Saved => {
                let Some(Export { target, .. }) = engine.export_mut(id) else {
                    return (None, Handled::Done);
                };
                let Some(saving) = saving else {
                    target.apply_staged(); // there is no place to save them
                    return (Some(len), Handled::Done);
                };
                if saving.begin(target, port, &buffer[..len]) {
                    pending.saving = true;
                    (None, Handled::Done)
                } else {
                    target.abandon_staged(); // another target's are being saved: try again then
                    (None, Handled::Park)
                }
            }
        },
    });
    built.unwrap_or(Handled::Park)
}

/// Keeps a reply that acknowledges something; those have the shortest length.
fn held(ticket: Ticket, port: usize, buffer: &[u8; FRAME_CAPACITY]) -> Held {
    let mut reply = [0; MIN_FRAME_LEN];
    reply.copy_from_slice(&buffer[..MIN_FRAME_LEN]);
    Held { ticket, port, reply }
}
