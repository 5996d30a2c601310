//! The thread that waits for pages so that the poll loop does not.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};

use super::map::Map;
use super::residency::{CHUNK, PENDING};
use crate::clock::{self, Instant};
use crate::wake::Waker;

/// How often the tick advances and the file's length is looked at.
const TICK: Duration = Duration::from_secs(1);

/// What the thread publishes.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Advances once a second, more or less; the measure of how old knowledge is.
    pub(super) tick: AtomicU32,
    /// The length of the file in bytes, as last seen.
    pub(super) len: AtomicU64,
    closing: AtomicBool,
}

#[derive(Debug)]
struct Request {
    chunk: u64,
    map: Arc<Map>,
}

/// A chunk that was tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fetched {
    pub(super) chunk: u64,
    /// The pages that cannot be had, one bit each; 0 when the chunk is in memory.
    pub(super) bad: u64,
}

/// The loop's end.
#[derive(Debug)]
pub(super) struct Populator {
    requests: Producer<Request>,
    fetched: Consumer<Fetched>,
    pulse: Arc<Pulse>,
    thread: Option<JoinHandle<()>>,
}

impl Populator {
    /// Starts the thread. `len` is the length of `file`, `name` is for the log.
    pub(super) fn start(
        file: Arc<File>,
        len: u64,
        name: String,
        waker: Option<Waker>,
    ) -> io::Result<Self> {
        let (requests, queue) = RingBuffer::new(PENDING);
        let (results, fetched) = RingBuffer::new(PENDING);
        let pulse = Arc::new(Pulse {
            tick: AtomicU32::new(0),
            len: AtomicU64::new(len),
            closing: AtomicBool::new(false),
        });
        let worker = Worker {
            file,
            name,
            waker,
            queue,
            results,
            pulse: Arc::clone(&pulse),
            last_tick: clock::now(),
            complained: None,
        };
        let thread = thread::Builder::new().name("populate".into()).spawn(move || worker.run())?;
        Ok(Self { requests, fetched, pulse, thread: Some(thread) })
    }

    /// What the thread publishes.
    #[inline]
    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Asks for a chunk. No more than [`PENDING`] may be asked for and not yet taken back.
    pub(super) fn request(&mut self, chunk: u64, map: &Arc<Map>) {
        let pushed = self.requests.push(Request { chunk, map: Arc::clone(map) });
        debug_assert!(pushed.is_ok(), "there is room for all that can be pending");
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// The next chunk that was tried.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Fetched> {
        self.fetched.pop().ok()
    }
}

impl Drop for Populator {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.pulse.closing.store(true, Ordering::Release);
            thread.thread().unpark();
            if thread.join().is_err() {
                log::error!("a populate thread panicked");
            }
        }
    }
}

struct Worker {
    file: Arc<File>,
    name: String,
    waker: Option<Waker>,
    queue: Consumer<Request>,
    results: Producer<Fetched>,
    pulse: Arc<Pulse>,
    last_tick: Instant,
    complained: Option<Instant>,
}

impl Worker {
    /// Bringing pages in takes the processor, too, for tens of microseconds a chunk. Where that is
    /// the loop's, it is given back after each: otherwise requests for what is in memory would wait
    /// until a scheduler's slice is over, more than a millisecond.
    fn run(mut self) {
        while !self.pulse.closing.load(Ordering::Acquire) {
            let mut batch: heapless::Vec<Request, PENDING> = heapless::Vec::new();
            while !batch.is_full()
                && let Ok(request) = self.queue.pop()
            {
                let (offset, len) = place(&request);
                // All are started before the first is waited for, so that the disk sees them
                // together.
                request.map.will_need(offset, len);
                let _ = batch.push(request);
                thread::yield_now();
            }
            if batch.is_empty() {
                thread::park_timeout(TICK);
            }
            for request in batch {
                let bad = self.fetch(&request);
                let _ = self.results.push(Fetched { chunk: request.chunk, bad });
                fence(Ordering::SeqCst);
                if let Some(waker) = &self.waker {
                    waker.wake();
                }
                thread::yield_now();
            }
            self.tick();
        }
    }

    /// Brings a chunk into memory, and tells which pages of it cannot be had.
    fn fetch(&mut self, request: &Request) -> u64 {
        let (offset, len) = place(request);
        let Err(error) = request.map.populate(offset, len) else { return 0 };
        let page = request.map.page();
        let pages = (0..len.div_ceil(page)).filter(|index| {
            let part = page.min(len - index * page);
            request.map.populate(offset + index * page, part).is_err()
        });
        let bad = pages.fold(0_u64, |mask, page| mask | 1 << page);
        let now = clock::now();
        if bad != 0 && self.complained.is_none_or(|last| now.since(last) >= TICK) {
            self.complained = Some(now);
            let count = bad.count_ones();
            log::error!(
                "{}: {count} pages cannot be read at byte {offset} and after: {error}",
                self.name
            );
        }
        bad
    }

    fn tick(&mut self) {
        let now = clock::now();
        // A little less than the time that is slept, or every other one would be missed.
        if now.since(self.last_tick) < TICK * 9 / 10 {
            return;
        }
        self.last_tick = now;
        match self.file.metadata() {
            Ok(metadata) => self.pulse.len.store(metadata.len(), Ordering::Relaxed),
            Err(error) => log::warn!("{}: its length cannot be told: {error}", self.name),
        }
        self.pulse.tick.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where the chunk lies in the map: offset and length.
fn place(request: &Request) -> (usize, usize) {
    // A chunk of a map has an offset that fits.
    let offset = usize::try_from(request.chunk).unwrap_or(usize::MAX / CHUNK) * CHUNK;
    (offset, CHUNK.min(request.map.len().saturating_sub(offset)))
}
