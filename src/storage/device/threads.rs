//! Reading by threads that block: for machines that refuse `io_uring`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rtrb::{Consumer, Producer, RingBuffer};

use super::super::aligned::AlignedBuf;
use super::super::writer::SLOT_BYTES;
use super::disk::{Geometry, SCRATCH, read_blocks};
use super::reads::{Complaints, Way};
use crate::wake::Waker;

/// Threads that read, which is how many reads the device sees at once. By feel: who wants more has
/// `io_uring`.
pub(super) const READERS: usize = 4;

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
pub(super) struct Threads {
    readers: Vec<Reader>,
    /// One for each place; away while a thread fills it.
    buffers: Vec<Option<AlignedBuf>>,
    closing: Arc<AtomicBool>,
}

impl Threads {
    /// Starts the threads.
    pub(super) fn start(
        file: &Arc<File>,
        geometry: Geometry,
        places: usize,
        name: &str,
        waker: Option<&Waker>,
    ) -> io::Result<Self> {
        let closing = Arc::new(AtomicBool::new(false));
        let buffer = || Some(AlignedBuf::new(geometry.room(SLOT_BYTES)));
        // Filled one by one: what was started is stopped by `drop` if a later one fails.
        let mut threads = Self {
            readers: Vec::with_capacity(READERS),
            buffers: (0..places).map(|_| buffer()).collect(),
            closing: Arc::clone(&closing),
        };
        for _ in 0..READERS {
            let (jobs, queue) = RingBuffer::new(places);
            let (results, finished) = RingBuffer::new(places);
            let worker = Worker {
                file: Arc::clone(file),
                geometry,
                waker: waker.cloned(),
                queue,
                results,
                closing: Arc::clone(&closing),
                complaints: Complaints::new(name),
            };
            let thread = thread::Builder::new().name("reader".into()).spawn(|| worker.run())?;
            threads.readers.push(Reader { jobs, finished, flying: 0, thread: Some(thread) });
        }
        Ok(threads)
    }
}

impl Way for Threads {
    fn begin(&mut self, place: usize, span: &Range<u64>, verify: bool) {
        let Some(reader) = self.readers.iter_mut().min_by_key(|reader| reader.flying) else {
            return;
        };
        let buffer = if verify { None } else { self.buffers[place].take() };
        let pushed = reader.jobs.push(Job { place, span: span.clone(), buffer });
        debug_assert!(pushed.is_ok(), "a ring has room for all places");
        reader.flying += 1;
        if let Some(thread) = &reader.thread {
            thread.thread().unpark();
        }
    }

    fn submit(&mut self) {
        // Threads start at once.
    }

    fn ended(&mut self) -> Option<(usize, bool)> {
        for reader in &mut self.readers {
            if let Ok(finished) = reader.finished.pop() {
                reader.flying -= 1;
                if finished.buffer.is_some() {
                    self.buffers[finished.place] = finished.buffer;
                }
                return Some((finished.place, finished.good));
            }
        }
        None
    }

    fn blocks(&self, place: usize) -> &[u8] {
        self.buffers[place].as_deref().unwrap_or_default()
    }

    fn depth(&self) -> usize {
        // All of them would let a read that somebody waits for wait for one that nobody does.
        READERS - 1
    }
}

impl Drop for Threads {
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
    waker: Option<Waker>,
    queue: Consumer<Job>,
    results: Producer<Finished>,
    closing: Arc<AtomicBool>,
    complaints: Complaints,
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
            self.complaints.read_failed(span.start, error);
        }
        Finished { place, buffer, good: read.is_ok() }
    }

    #[allow(clippy::cast_possible_truncation, reason = "the length of a buffer")]
    fn read(&self, span: &Range<u64>, buffer: &mut AlignedBuf) -> io::Result<()> {
        let blocks = self.geometry.around(span);
        let len = (blocks.end - blocks.start) as usize;
        read_blocks(&self.file, &mut buffer[..len], blocks.start)
    }

    fn verify(&self, span: &Range<u64>) -> io::Result<()> {
        // Rare enough to allocate for.
        let mut scratch = AlignedBuf::new(SCRATCH.next_multiple_of(self.geometry.block));
        let blocks = self.geometry.around(span);
        let mut at = blocks.start;
        while at < blocks.end {
            let left = usize::try_from(blocks.end - at).unwrap_or(usize::MAX);
            let some = scratch.len().min(left);
            read_blocks(&self.file, &mut scratch[..some], at)?;
            at += some as u64;
        }
        Ok(())
    }
}
