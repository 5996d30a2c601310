//! The writer: one thread for each disk that applies writes in order and makes them durable in
//! groups.
//!
//! The poll loop copies a write into a buffer that was allocated at start and passes it on through
//! a ring. Nothing is allocated or locked, and the loop makes a system call only to wake a writer
//! that sleeps. Groups grow by themselves: whatever arrives while one is being synced is the next.
//!
//! With a journal the same buffer goes to that, too, and the writer does not sync: a write is
//! durable when it is journalled and applied, whichever comes last.
//!
//! # Invariants
//! * Jobs are carried out in the order of their tickets.
//! * A failure is on record before `applied`, `journalled` or `durable` reaches its ticket.
//! * After a sync has failed nothing is written any more and nothing is called durable: what the
//!   kernel has dropped then cannot be known, and a second sync would claim success.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};

use super::journal::{FileJournal, ImageFacts, JournalLink, Order, SyncGuard};
use super::slots::Slots;
use super::{Accepted, Fault, Ticket};
use crate::clock::{self, Instant};
use crate::protocol::{MAX_MTU, sectors_per_frame};
use crate::scheduling;
use crate::units::SECTOR_SIZE;
use crate::wake::Waker;

/// Octets of one buffer: what the longest frame carries. A longer write takes several.
pub(super) const SLOT_BYTES: usize = sectors_per_frame(MAX_MTU) as usize * SECTOR_SIZE;
/// Buffers, which is how many frames can be waiting to be written: 2.2 MiB for each disk, and four
/// times the buffer count that targets advertise.
pub(super) const SLOTS: usize = 256;
/// Jobs that can be waiting: writes, and some flushes and discards, which take no buffer.
pub(super) const JOBS: usize = SLOTS + 64;
/// Writes that lie one behind the other and are merged into one system call, at most.
const RUN: usize = 64;
/// Failures that are remembered until they are asked for. More than jobs can be waiting.
const FAILURES: usize = 4096;
/// How long data may stay volatile on a disk that syncs only on flush, for lack of a flush.
const VOLATILE_FOR: Duration = Duration::from_secs(5);

/// When data is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncPolicy {
    /// After every group of writes: for targets that acknowledge a write when it is durable.
    #[default]
    EveryGroup,
    /// On flush, on close, and five seconds after a write at the latest: for targets that
    /// acknowledge a write when it is applied.
    OnFlush,
}

/// How a writer is to work.
#[derive(Debug, Clone)]
pub(super) struct WriterOptions {
    /// For the log.
    pub(super) name: String,
    /// When data is made durable, unless a journal sees to it.
    pub(super) policy: SyncPolicy,
    /// The real-time priority of its thread, if it is to have one.
    pub(super) priority: Option<u8>,
    /// Wakes the loop.
    pub(super) waker: Option<Waker>,
}

/// What the writer writes to.
pub(super) trait Disk: Send + 'static {
    /// The end of what may be written, in bytes. Writes past it fail rather than make the disk
    /// longer.
    fn len(&mut self) -> io::Result<u64>;
    /// Writes all of `parts`, one behind the other, from `offset` on.
    fn write(&mut self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Makes durable what was written.
    fn sync(&mut self) -> io::Result<()>;
    /// Makes a range read as zeros.
    fn punch(&mut self, offset: u64, len: u64) -> io::Result<()>;
}

#[derive(Debug)]
enum Job {
    Write(WriteJob),
    Discard { ticket: Ticket, offset: u64, len: u64 },
    Flush { ticket: Ticket },
}

#[derive(Debug)]
struct WriteJob {
    ticket: Ticket,
    offset: u64,
    buffer: Arc<[u8]>,
    len: usize,
    /// The last piece of its ticket.
    last: bool,
}

impl WriteJob {
    fn data(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    fn end(&self) -> u64 {
        self.offset + self.len as u64
    }
}

/// What all threads see that have to do with a disk: the loop, the writer and, with a journal, the
/// journal's.
#[derive(Debug)]
pub(super) struct WriterState {
    applied: AtomicU64,
    /// What the writer has synced; without a journal.
    synced: AtomicU64,
    /// What is in the journal, if there is one.
    journalled: AtomicU64,
    /// The first ticket that a failed sync took down; `u64::MAX` while all is well.
    failed_from: AtomicU64,
    failures: Failures,
    /// The loop waits for room.
    starved: AtomicBool,
    closing: AtomicBool,
    waker: Option<Waker>,
    /// The writer and the journal both sync the disk.
    guard: SyncGuard,
}

impl WriterState {
    fn new(waker: Option<Waker>) -> Self {
        Self {
            applied: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            journalled: AtomicU64::new(0),
            failed_from: AtomicU64::new(u64::MAX),
            failures: Failures::new(),
            starved: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            waker,
            guard: SyncGuard::default(),
        }
    }

    /// Makes durable what was written to `disk`. After a failure no sync succeeds any more.
    pub(super) fn sync(&self, disk: &mut dyn Disk) -> io::Result<()> {
        self.guard.sync(|| disk.sync())
    }

    /// Up to where everything is carried out.
    pub(super) fn applied(&self) -> Ticket {
        Ticket(self.applied.load(Ordering::Acquire))
    }

    /// Whether a sync or a commit has failed.
    #[inline]
    pub(super) fn has_failed(&self) -> bool {
        self.failed_from.load(Ordering::Acquire) != u64::MAX
    }

    fn fail_from(&self, first: Ticket) {
        self.failed_from.fetch_min(first.0, Ordering::AcqRel);
    }

    /// By the journal: everything up to `ticket` is in it. Wakes the loop when that is news.
    pub(super) fn journalled(&self, ticket: Ticket) {
        if self.journalled.swap(ticket.0, Ordering::AcqRel) != ticket.0 {
            self.make_room();
            self.wake();
        }
    }

    /// By the journal: what is not in it fails, and everything from now on.
    pub(super) fn fail_unjournalled(&self) {
        self.fail_from(Ticket(self.journalled.load(Ordering::Acquire).saturating_add(1)));
        self.wake();
    }

    /// Tells the loop that there may be room, if it waits for some.
    pub(super) fn make_room(&self) {
        fence(Ordering::SeqCst);
        if self.starved.swap(false, Ordering::Relaxed) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }
}

/// Tickets that failed, until somebody asks; each in the place that its number says.
struct Failures {
    /// A ticket and its fault, 3 bits; 0 when there is none.
    places: Box<[AtomicU64]>,
    /// The highest ticket that was pushed out of its place unasked.
    forgotten: AtomicU64,
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the thousands of places.
        f.debug_struct("Failures").field("forgotten", &self.forgotten).finish_non_exhaustive()
    }
}

impl Failures {
    fn new() -> Self {
        Self {
            places: (0..FAILURES).map(|_| AtomicU64::new(0)).collect(),
            forgotten: AtomicU64::new(0),
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "the remainder is below FAILURES")]
    fn place(&self, ticket: Ticket) -> &AtomicU64 {
        &self.places[(ticket.0 % FAILURES as u64) as usize]
    }

    /// By the writer, before the ticket is published.
    fn record(&self, ticket: Ticket, fault: Fault) {
        let code = match fault {
            Fault::OutOfRange => 1,
            Fault::Media => 2,
            Fault::NoSpace => 3,
            Fault::WriteProtected => 4,
            Fault::Aborted => 5,
        };
        let old = self.place(ticket).swap(ticket.0 << 3 | code, Ordering::AcqRel) >> 3;
        if old != 0 && old != ticket.0 {
            self.forgotten.fetch_max(old, Ordering::AcqRel);
        }
    }

    /// By the loop, after the ticket was published.
    fn take(&self, ticket: Ticket) -> Result<(), Fault> {
        let place = self.place(ticket);
        let entry = place.load(Ordering::Acquire);
        if entry >> 3 == ticket.0 && entry != 0 {
            // The writer may have put a later failure here meanwhile, which must stay.
            let _ = place.compare_exchange(entry, 0, Ordering::AcqRel, Ordering::Acquire);
            return Err(match entry & 7 {
                1 => Fault::OutOfRange,
                3 => Fault::NoSpace,
                4 => Fault::WriteProtected,
                5 => Fault::Aborted,
                _ => Fault::Media,
            });
        }
        // Rather one error too many than a failure taken for success.
        if ticket.0 <= self.forgotten.load(Ordering::Acquire) { Err(Fault::Media) } else { Ok(()) }
    }
}

/// The loop's end of a writer.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Producer<Job>,
    slots: Slots,
    state: Arc<WriterState>,
    journal: Option<JournalLink>,
    thread: Option<JoinHandle<()>>,
    last: Ticket,
    starved: bool,
}

impl Writer {
    /// Starts the thread that writes to `disk`.
    pub(super) fn start(disk: impl Disk, options: WriterOptions) -> io::Result<Self> {
        let WriterOptions { name, policy, priority, waker } = options;
        let syncs = match policy {
            SyncPolicy::EveryGroup => Syncs::EveryGroup,
            SyncPolicy::OnFlush => Syncs::OnFlush,
        };
        let (mut writer, worker) = Self::with_worker(disk, name, syncs, waker);
        writer.thread = Some(spawn(worker, priority)?);
        Ok(writer)
    }

    /// Starts the thread that writes to `disk`, and has `journal` make durable what it is told. The
    /// journal syncs the disk, too, by another handle.
    pub(super) fn start_journalled(
        disk: impl Disk + Clone,
        image: ImageFacts,
        journal: &FileJournal,
        options: WriterOptions,
    ) -> io::Result<Self> {
        let WriterOptions { name, priority, waker, .. } = options;
        let (mut writer, worker) = Self::with_worker(disk.clone(), name, Syncs::AtTheEnd, waker);
        let state = Arc::clone(&writer.state);
        writer.use_journal(journal.attach(image, Box::new(disk), state)?);
        // If this fails the image is taken out of the journal again when the link is dropped.
        writer.thread = Some(spawn(worker, priority)?);
        Ok(writer)
    }

    /// Both ends, of which the worker is still to be run.
    pub(super) fn with_worker<D: Disk>(
        disk: D,
        name: String,
        syncs: Syncs,
        waker: Option<Waker>,
    ) -> (Self, Worker<D>) {
        let (jobs, job_queue) = RingBuffer::new(JOBS);
        let state = Arc::new(WriterState::new(waker));
        let worker = Worker {
            disk,
            name,
            syncs,
            jobs: job_queue,
            state: Arc::clone(&state),
            run: Vec::with_capacity(RUN),
            limit: 0,
            done: Ticket::NONE,
            // What somebody else wrote before this was opened may not be durable yet.
            dirty: true,
            dirty_since: clock::now(),
            flush: false,
            complained: None,
        };
        let writer = Self {
            jobs,
            slots: Slots::new(SLOTS),
            state,
            journal: None,
            thread: None,
            last: Ticket::NONE,
            starved: false,
        };
        (writer, worker)
    }

    /// Has everything journalled from now on.
    pub(super) fn use_journal(&mut self, journal: JournalLink) {
        self.journal = Some(journal);
    }

    /// Leaves the journal, out of which this was taken by hand.
    #[cfg(test)]
    pub(super) fn leave_journal(&mut self) {
        self.journal = None;
    }

    /// What the journal's threads see of this.
    #[cfg(test)]
    pub(super) fn state(&self) -> &Arc<WriterState> {
        &self.state
    }

    /// Takes `data` for the disk from byte `offset` on.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<Accepted, Fault> {
        self.check_health()?;
        let pieces = data.len().div_ceil(SLOT_BYTES);
        if pieces == 0 {
            return Ok(Accepted::Done(Ticket::NONE));
        }
        if pieces > SLOTS {
            return Err(Fault::Aborted);
        }
        if !self.has_room(pieces, pieces) {
            return Ok(Accepted::Later);
        }
        let ticket = self.next_ticket();
        let mut at = offset;
        for (piece, part) in data.chunks(SLOT_BYTES).enumerate() {
            let (buffer, len, last) = (self.slots.fill(part), part.len(), piece + 1 == pieces);
            if let Some(journal) = &mut self.journal {
                let buffer = Arc::clone(&buffer);
                journal.order(Order::Write { ticket, offset: at, buffer, len, last });
            }
            self.submit(Job::Write(WriteJob { ticket, offset: at, buffer, len, last }));
            at += part.len() as u64;
        }
        self.kick();
        Ok(Accepted::Done(ticket))
    }

    /// Takes a range to be zeroed.
    pub(super) fn discard(&mut self, offset: u64, len: u64) -> Result<Accepted, Fault> {
        self.check_health()?;
        if !self.has_room(1, 0) {
            return Ok(Accepted::Later);
        }
        let ticket = self.next_ticket();
        if let Some(journal) = &mut self.journal {
            journal.order(Order::Zeros { ticket, offset, len });
        }
        self.submit(Job::Discard { ticket, offset, len });
        self.kick();
        Ok(Accepted::Done(ticket))
    }

    /// Asks for a sync.
    pub(super) fn flush(&mut self) -> Result<Accepted, Fault> {
        self.check_health()?;
        if self.journal.is_some() {
            // Everything is being made durable as it is.
            return Ok(Accepted::Done(self.last));
        }
        if !self.has_room(1, 0) {
            return Ok(Accepted::Later);
        }
        let ticket = self.next_ticket();
        self.submit(Job::Flush { ticket });
        self.kick();
        Ok(Accepted::Done(ticket))
    }

    fn check_health(&self) -> Result<(), Fault> {
        let gone = self.jobs.is_abandoned()
            || self.journal.as_ref().is_some_and(JournalLink::is_abandoned);
        if self.state.has_failed() || gone { Err(Fault::Media) } else { Ok(()) }
    }

    fn next_ticket(&mut self) -> Ticket {
        self.last = Ticket(self.last.0 + 1);
        self.last
    }

    /// Whether jobs and buffers are to be had. If not, the loop will be woken.
    fn has_room(&mut self, jobs: usize, buffers: usize) -> bool {
        if self.finds_room(jobs, buffers) {
            return true;
        }
        self.starved = true;
        self.state.starved.store(true, Ordering::Relaxed);
        // Pairs with the fence in `WriterState::make_room`: either the other side sees the flag, or
        // this sees the room that it made.
        fence(Ordering::SeqCst);
        self.finds_room(jobs, buffers)
    }

    fn finds_room(&mut self, jobs: usize, buffers: usize) -> bool {
        self.jobs.slots() >= jobs
            && self.journal.as_ref().is_none_or(|journal| journal.room() >= jobs)
            && self.slots.has(buffers)
    }

    fn submit(&mut self, job: Job) {
        // There is room: `has_room` said so, and only this thread takes it away.
        let pushed = self.jobs.push(job);
        debug_assert!(pushed.is_ok(), "room for the job was counted");
    }

    /// A system call only when the writer sleeps.
    fn kick(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
        if let Some(journal) = &self.journal {
            journal.kick();
        }
    }

    pub(super) fn applied(&self) -> Ticket {
        self.state.applied()
    }

    pub(super) fn durable(&self) -> Ticket {
        if self.journal.is_some() {
            let journalled = Ticket(self.state.journalled.load(Ordering::Acquire));
            return journalled.min(self.state.applied());
        }
        Ticket(self.state.synced.load(Ordering::Acquire))
    }

    pub(super) fn outcome(&self, ticket: Ticket) -> Result<(), Fault> {
        if ticket == Ticket::NONE {
            return Ok(());
        }
        if ticket.0 >= self.state.failed_from.load(Ordering::Acquire) {
            return Err(Fault::Media);
        }
        self.state.failures.take(ticket)
    }

    /// Whether there is room again after there was none.
    pub(super) fn progress(&mut self) -> bool {
        if !self.starved {
            return false;
        }
        // A write of several pieces may have to wait on: then it will say so again. A writer that
        // is gone makes no room, but a reason to hear of it.
        self.starved = false;
        self.check_health().is_err() || self.has_room(1, 1)
    }

    /// Whether the page cache may have lost what was acknowledged, so that nothing is to be read: a
    /// sync has failed, and the journal has the only sure copy.
    #[inline]
    pub(super) fn has_lost_track(&self) -> bool {
        self.journal.is_some() && self.state.has_failed()
    }

    /// Carries out what was taken, makes it durable and ends the thread.
    pub(super) fn close(&mut self) -> Result<(), Fault> {
        if let Some(thread) = self.thread.take() {
            self.state.closing.store(true, Ordering::Release);
            thread.thread().unpark();
            if thread.join().is_err() {
                self.state.fail_from(Ticket(self.state.applied().0 + 1));
            }
        }
        if let Some(mut journal) = self.journal.take() {
            // What is not in the image for sure has to stay in the journal.
            if !journal.close(!self.state.has_failed()) {
                self.state.fail_unjournalled();
            }
        }
        if self.state.has_failed() { Err(Fault::Media) } else { Ok(()) }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Failures have been logged, and there is nobody left to tell.
        let _ = self.close();
    }
}

fn spawn<D: Disk>(worker: Worker<D>, priority: Option<u8>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("writer".into()).spawn(move || {
        scheduling::raise(priority, &worker.name);
        worker.run();
    })
}

/// When a worker syncs its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syncs {
    /// As [`SyncPolicy::EveryGroup`].
    EveryGroup,
    /// As [`SyncPolicy::OnFlush`].
    OnFlush,
    /// When it is closed: until then a journal sees to it.
    AtTheEnd,
}

/// The thread's end.
pub(super) struct Worker<D> {
    disk: D,
    name: String,
    syncs: Syncs,
    jobs: Consumer<Job>,
    state: Arc<WriterState>,
    /// Writes that lie one behind the other and are not written yet.
    run: Vec<WriteJob>,
    /// The end of the disk, in bytes, as of the start of the group.
    limit: u64,
    /// Everything up to here is carried out.
    done: Ticket,
    /// Something was written since the last sync.
    dirty: bool,
    dirty_since: Instant,
    /// The group has a flush.
    flush: bool,
    complained: Option<Instant>,
}

impl<D: Disk> Worker<D> {
    fn run(mut self) {
        loop {
            // Looked at first: jobs that were pushed before closing are then seen below.
            let closing = self.state.closing.load(Ordering::Acquire);
            if self.step() {
                continue;
            }
            if closing {
                return self.end();
            }
            if self.syncs == Syncs::OnFlush && self.dirty {
                // From the oldest write on: a later one, which was no reason to sync, is none to wait.
                let volatile_for = clock::now().since(self.dirty_since);
                thread::park_timeout(VOLATILE_FOR.saturating_sub(volatile_for));
                self.sync_overdue();
            } else {
                thread::park();
            }
        }
    }

    /// Carries out a group of jobs; `false` when there is none.
    pub(super) fn step(&mut self) -> bool {
        let any = !self.jobs.is_empty();
        if any {
            self.group();
        }
        any
    }

    /// Makes durable what is not, for the end.
    pub(super) fn end(&mut self) {
        if self.dirty {
            self.sync();
        }
    }

    /// Carries out all jobs that there are, and those that arrive meanwhile up to a limit, so that
    /// what one burst of frames brings shares one sync.
    fn group(&mut self) {
        self.limit = self.disk.len().unwrap_or_else(|error| {
            log::error!("{}: its size cannot be told, writes fail: {error}", self.name);
            0
        });
        let mut taken = 0;
        while taken < JOBS {
            let Ok(job) = self.jobs.pop() else { break };
            taken += 1;
            match job {
                Job::Write(write) => self.gather(write),
                Job::Discard { ticket, offset, len } => {
                    self.write_run();
                    self.punch(ticket, offset, len);
                    self.publish(ticket);
                }
                Job::Flush { ticket } => {
                    self.write_run();
                    self.flush = true;
                    self.publish(ticket);
                }
            }
        }
        self.write_run();
        match self.syncs {
            Syncs::EveryGroup => self.sync(),
            Syncs::OnFlush if self.flush => self.sync(),
            Syncs::OnFlush => self.sync_overdue(),
            Syncs::AtTheEnd => {}
        }
        self.flush = false;
        self.state.wake();
    }

    fn gather(&mut self, write: WriteJob) {
        let adjacent = self.run.last().is_none_or(|last| last.end() == write.offset);
        if !adjacent || self.run.len() == RUN {
            self.write_run();
        }
        self.run.push(write);
    }

    fn write_run(&mut self) {
        let Some(first) = self.run.first() else { return };
        if self.state.has_failed() {
            self.refuse_run();
        } else {
            let offset = first.offset;
            let mut parts: heapless::Vec<IoSlice<'_>, RUN> =
                self.run.iter().map(|write| IoSlice::new(write.data())).collect();
            let fits = self.run.last().is_some_and(|last| last.end() <= self.limit);
            let whole = fits && self.disk.write(offset, &mut parts).is_ok();
            drop(parts);
            if !whole {
                self.write_singly();
            }
            self.mark_dirty();
        }
        let mut done = self.done;
        for write in self.run.drain(..) {
            if write.last {
                done = write.ticket;
            }
        }
        self.publish(done);
    }

    /// Fail-stop: nothing is written. Some of it may be in the journal, and still not be read here, so
    /// that it must not be acknowledged either.
    fn refuse_run(&self) {
        for write in &self.run {
            self.state.failures.record(write.ticket, Fault::Media);
        }
    }

    /// Finds out which write of a run failed, and why. The others are written twice, with the same
    /// octets.
    fn write_singly(&mut self) {
        let run = std::mem::take(&mut self.run);
        for write in &run {
            if write.end() > self.limit {
                self.complain("it was cut short, writes past its end are refused", None);
                self.state.failures.record(write.ticket, Fault::Media);
            } else if let Err(error) =
                self.disk.write(write.offset, &mut [IoSlice::new(write.data())])
            {
                self.complain("a write failed", Some(&error));
                self.state.failures.record(write.ticket, fault_of(&error));
            }
        }
        self.run = run;
    }

    fn punch(&mut self, ticket: Ticket, offset: u64, len: u64) {
        if self.state.has_failed() {
            self.state.failures.record(ticket, Fault::Media);
        } else if offset.saturating_add(len) > self.limit {
            self.complain("it was cut short, discards past its end are refused", None);
            self.state.failures.record(ticket, Fault::Media);
        } else if let Err(error) = self.disk.punch(offset, len) {
            self.complain("a discard failed", Some(&error));
            self.state.failures.record(ticket, fault_of(&error));
        }
        self.mark_dirty();
    }

    fn mark_dirty(&mut self) {
        if !self.dirty {
            self.dirty = true;
            self.dirty_since = clock::now();
        }
    }

    fn publish(&mut self, done: Ticket) {
        self.done = done;
        self.state.applied.store(done.0, Ordering::Release);
        self.state.make_room();
    }

    fn sync_overdue(&mut self) {
        if self.dirty && clock::now().since(self.dirty_since) >= VOLATILE_FOR {
            self.sync();
        }
    }

    fn sync(&mut self) {
        if self.dirty
            && !self.state.has_failed()
            && let Err(error) = self.state.sync(&mut self.disk)
        {
            log::error!(
                "{}: SYNC FAILED, writes since the last one may be lost; the disk takes no more \
                 writes until it is opened again: {error}",
                self.name
            );
            self.state.fail_from(Ticket(self.state.synced.load(Ordering::Relaxed) + 1));
        }
        self.dirty = false;
        // Also after a failure: these tickets are done with, and their outcome is bad.
        self.state.synced.store(self.done.0, Ordering::Release);
    }

    /// Logs, at most once a second.
    fn complain(&mut self, what: &str, error: Option<&io::Error>) {
        let now = clock::now();
        if self.complained.is_some_and(|last| now.since(last) < Duration::from_secs(1)) {
            return;
        }
        self.complained = Some(now);
        match error {
            Some(error) => log::error!("{}: {what}: {error}", self.name),
            None => log::error!("{}: {what}", self.name),
        }
    }
}

/// What ATA can say of `error`.
pub(super) fn fault_of(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::NoSpace,
        io::ErrorKind::ReadOnlyFilesystem => Fault::WriteProtected,
        io::ErrorKind::Unsupported => Fault::Aborted,
        _ => Fault::Media,
    }
}

/// Writes all of `parts` from `offset` on with `write`, which takes what it can at once.
pub(super) fn write_all_at(
    mut offset: u64,
    mut parts: &mut [IoSlice<'_>],
    mut write: impl FnMut(u64, &[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    while !parts.is_empty() {
        match write(offset, parts) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut parts, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
