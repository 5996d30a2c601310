//! Reads on their way: a fixed table of buffers, and the threads that fill them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};

use super::super::aligned::AlignedBuf;
use super::super::writer::SLOT_BYTES;
use super::disk::{Geometry, SCRATCH, read_blocks};
use crate::clock::{self, Instant};
use crate::wake::Waker;

/// Reads that can be on their way or waiting to be collected: the buffer count that targets
/// advertise.
const READS: usize = 64;
/// Threads that read, which is how many reads the device sees at once. By feel: more need a better
/// interface than threads.
const READERS: usize = 4;

/// How a read stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sought {
    /// It has been read, and is to be collected.
    Done,
    /// It cannot be read. The entry is gone.
    Failed,
    /// It is being read.
    Flying,
    /// Nobody has asked for it.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Flying,
    Done,
    Failed,
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// The bytes of the device that were asked for.
    span: Range<u64>,
    /// They are only to be looked at.
    verify: bool,
    /// A write came between.
    spoilt: bool,
    /// The round in which it was done.
    round: u64,
    /// Whole blocks around the span; away while a thread fills it.
    buffer: Option<AlignedBuf>,
}

#[derive(Debug)]
struct Job {
    place: usize,
    span: Range<u64>,
    /// `None` to read for nothing but to see that it can be read.
    buffer: Option<AlignedBuf>,
}

#[derive(Debug)]
struct Finished {
    place: usize,
    buffer: Option<AlignedBuf>,
    good: bool,
}

#[derive(Debug)]
struct Reader {
    jobs: Producer<Job>,
    finished: Consumer<Finished>,
    flying: usize,
    thread: Option<JoinHandle<()>>,
}

/// The loop's end of the reading threads.
#[derive(Debug)]
pub(super) struct Reads {
    geometry: Geometry,
    entries: Vec<Entry>,
    readers: Vec<Reader>,
    closing: Arc<AtomicBool>,
    /// Counts the times that something was finished.
    round: u64,
    /// Somebody found no free entry.
    starved: bool,
}

impl Reads {
    /// Starts the threads.
    pub(super) fn start(
        file: &Arc<File>,
        geometry: Geometry,
        name: &str,
        waker: Option<&Waker>,
    ) -> io::Result<Self> {
        let entry = || Entry {
            state: State::Free,
            span: 0..0,
            verify: false,
            spoilt: false,
            round: 0,
            buffer: Some(AlignedBuf::new(geometry.room(SLOT_BYTES))),
        };
        let closing = Arc::new(AtomicBool::new(false));
        // Filled one by one: what was started is stopped by `drop` if a later one fails.
        let mut reads = Self {
            geometry,
            entries: (0..READS).map(|_| entry()).collect(),
            readers: Vec::with_capacity(READERS),
            closing: Arc::clone(&closing),
            round: 0,
            starved: false,
        };
        for _ in 0..READERS {
            let (jobs, queue) = RingBuffer::new(READS);
            let (results, finished) = RingBuffer::new(READS);
            let worker = Worker {
                file: Arc::clone(file),
                geometry,
                name: name.into(),
                waker: waker.cloned(),
                queue,
                results,
                closing: Arc::clone(&closing),
                complained: None,
            };
            let thread = thread::Builder::new().name("reader".into()).spawn(|| worker.run())?;
            reads.readers.push(Reader { jobs, finished, flying: 0, thread: Some(thread) });
        }
        Ok(reads)
    }

    fn place(&self, span: &Range<u64>, verify: bool) -> Option<usize> {
        self.entries.iter().position(|entry| {
            entry.state != State::Free
                && entry.span == *span
                && entry.verify == verify
                && !entry.spoilt
        })
    }

    /// How the read of `span` stands.
    pub(super) fn find(&mut self, span: &Range<u64>, verify: bool) -> Sought {
        let Some(place) = self.place(span, verify) else { return Sought::Unknown };
        let entry = &mut self.entries[place];
        match entry.state {
            State::Done => Sought::Done,
            State::Failed => {
                entry.state = State::Free;
                Sought::Failed
            }
            State::Flying | State::Free => Sought::Flying,
        }
    }

    /// Starts to read `span`, which is no longer than a frame unless it is to be verified. Without
    /// a free entry nothing happens, and there will be news when there is one.
    pub(super) fn begin(&mut self, span: &Range<u64>, verify: bool) {
        let Some(place) = self.free_place() else {
            self.starved = true;
            return;
        };
        let Some(reader) = self.readers.iter_mut().min_by_key(|reader| reader.flying) else {
            return;
        };
        let entry = &mut self.entries[place];
        let buffer = if verify { None } else { entry.buffer.take() };
        let job = Job { place, span: span.clone(), buffer };
        let pushed = reader.jobs.push(job);
        debug_assert!(pushed.is_ok(), "a ring has room for all entries");
        *entry = Entry {
            state: State::Flying,
            span: span.clone(),
            verify,
            spoilt: false,
            round: 0,
            buffer: entry.buffer.take(),
        };
        reader.flying += 1;
        if let Some(thread) = &reader.thread {
            thread.thread().unpark();
        }
    }

    /// A free entry, or one that nobody has collected: who asked for it had a chance since.
    fn free_place(&mut self) -> Option<usize> {
        if let Some(place) = self.entries.iter().position(|entry| entry.state == State::Free) {
            return Some(place);
        }
        let round = self.round;
        let old = self.entries.iter().enumerate().filter(|(_, entry)| {
            matches!(entry.state, State::Done | State::Failed) && entry.round < round
        });
        old.min_by_key(|(_, entry)| entry.round).map(|(place, _)| place)
    }

    /// Hands over what was read of `span` and is [`Sought::Done`].
    pub(super) fn collect(&mut self, span: &Range<u64>, into: &mut [u8]) {
        let Some(place) = self.place(span, false) else {
            unreachable!("the caller has found the read to be done")
        };
        let entry = &mut self.entries[place];
        entry.state = State::Free;
        let skip = usize::try_from(span.start - self.geometry.down(span.start)).unwrap_or(0);
        if let Some(buffer) = &entry.buffer {
            into.copy_from_slice(&buffer[skip..skip + into.len()]);
        }
    }

    /// Forgets a read that is done.
    pub(super) fn release(&mut self, span: &Range<u64>, verify: bool) {
        if let Some(place) = self.place(span, verify) {
            self.entries[place].state = State::Free;
        }
    }

    /// Makes reads of `span` that have begun be read again when they are asked for next.
    pub(super) fn spoil(&mut self, span: &Range<u64>) {
        for entry in &mut self.entries {
            if entry.span.start < span.end && span.start < entry.span.end {
                match entry.state {
                    State::Flying => entry.spoilt = true,
                    _ => entry.state = State::Free,
                }
            }
        }
    }

    /// Takes in what was read.
    pub(super) fn progress(&mut self) -> bool {
        let mut news = false;
        for reader in &mut self.readers {
            while let Ok(finished) = reader.finished.pop() {
                reader.flying -= 1;
                self.round += u64::from(!news);
                news = true;
                let entry = &mut self.entries[finished.place];
                if finished.buffer.is_some() {
                    entry.buffer = finished.buffer;
                }
                entry.round = self.round;
                entry.state = match (entry.spoilt, finished.good) {
                    (true, _) => State::Free,
                    (false, true) => State::Done,
                    (false, false) => State::Failed,
                };
                entry.spoilt = false;
            }
        }
        if self.starved && !news && self.readers.iter().all(|reader| reader.flying == 0) {
            // All is done and nobody collects it: let it be thrown away.
            self.round += 1;
            news = true;
        }
        self.starved &= !news;
        news
    }
}

impl Drop for Reads {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        for reader in &mut self.readers {
            let Some(thread) = reader.thread.take() else { continue };
            thread.thread().unpark();
            if thread.join().is_err() {
                log::error!("a reader thread panicked");
            }
        }
    }
}

struct Worker {
    file: Arc<File>,
    geometry: Geometry,
    name: String,
    waker: Option<Waker>,
    queue: Consumer<Job>,
    results: Producer<Finished>,
    closing: Arc<AtomicBool>,
    complained: Option<Instant>,
}

impl Worker {
    fn run(mut self) {
        while !self.closing.load(Ordering::Acquire) {
            let Ok(job) = self.queue.pop() else {
                thread::park();
                continue;
            };
            let finished = self.carry_out(job);
            let _ = self.results.push(finished);
            if let Some(waker) = &self.waker {
                waker.wake();
            }
        }
    }

    fn carry_out(&mut self, job: Job) -> Finished {
        let Job { place, span, mut buffer } = job;
        let read = match &mut buffer {
            Some(buffer) => self.read(&span, buffer),
            None => self.verify(&span),
        };
        if let Err(error) = &read {
            let now = clock::now();
            let quiet = |last| now.since(last) < Duration::from_secs(1);
            if !self.complained.is_some_and(quiet) {
                self.complained = Some(now);
                log::error!("{}: a read at byte {} failed: {error}", self.name, span.start);
            }
        }
        Finished { place, buffer, good: read.is_ok() }
    }

    #[allow(clippy::cast_possible_truncation, reason = "the length of a buffer")]
    fn read(&self, span: &Range<u64>, buffer: &mut AlignedBuf) -> io::Result<()> {
        let start = self.geometry.down(span.start);
        let len = (self.geometry.up(span.end) - start) as usize;
        read_blocks(&self.file, &mut buffer[..len], start)
    }

    fn verify(&self, span: &Range<u64>) -> io::Result<()> {
        // Rare enough to allocate for.
        let mut scratch = AlignedBuf::new(SCRATCH.next_multiple_of(self.geometry.block));
        let mut at = self.geometry.down(span.start);
        let end = self.geometry.up(span.end);
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let some = scratch.len().min(left);
            read_blocks(&self.file, &mut scratch[..some], at)?;
            at += some as u64;
        }
        Ok(())
    }
}
