//! Reading by `io_uring`: all reads that begin in a turn of the poll loop go to the kernel with
//! one system call, and come back without any.
//!
//! # Memory
//! From the moment that the kernel has taken an entry until it has answered, it may write to the
//! memory that the entry names, whatever becomes of the descriptor, the thread or this structure.
//! So the buffers are one allocation that the ring owns and nobody else points to; a place is given
//! to the kernel only when the kernel has given it back; and `drop` waits for all answers before
//! the allocation goes. If it cannot wait, the allocation stays, for ever.
//!
//! # Waking
//! The kernel writes to the event of the [`Waker`] after each answer. It does not know whether the
//! loop sleeps, which is no harm: the event is not a system call for anybody, and stays readable
//! until the loop next sleeps, which is then cut short, once. No answer is missed either: one that
//! came before the loop's last look is found by that look, and one that came after it has made the
//! event readable; the loop clears the event before it looks again, never after.
//!
//! An answer is written in the context of the thread that submitted, when it next enters the kernel
//! for whatever reason, as the loop does in each turn; else the kernel would interrupt it.

#![allow(unsafe_code, reason = "memory that the kernel writes to")]

use std::alloc::{self, Layout};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::slice;
use std::string::ToString;
use std::sync::Arc;

use io_uring::{EnterFlags, IoUring, Probe, opcode, squeue, types};

use super::super::aligned::ALIGNMENT;
use super::super::writer::SLOT_BYTES;
use super::disk::{Geometry, SCRATCH};
use super::reads::{Complaints, Way};
use crate::wake::Waker;

/// How often in a row a part of a read is begun again that the kernel did not get to.
const TRIES: u8 = 16;
/// Reads on their way for one reader: more than a fast disk needs to be busy.
const DEPTH: usize = 16;

/// The buffers, each on a boundary that direct I/O demands, and behind them the one for verifying.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
    /// Bytes from one buffer to the next.
    stride: usize,
    /// Bytes of the one for verifying.
    scratch: usize,
    /// The kernel may still write to it: it is never freed.
    lost: bool,
}

// SAFETY: it owns the allocation, which is bound to no thread.
unsafe impl Send for Memory {}

impl Memory {
    fn new(buffers: usize, len: usize, scratch: usize) -> io::Result<Self> {
        let stride = len.next_multiple_of(ALIGNMENT);
        let layout = Layout::from_size_align(buffers * stride + scratch, ALIGNMENT)
            .map_err(io::Error::other)?;
        assert!(layout.size() > 0, "there are buffers");
        // SAFETY: the size is not zero.
        let start = unsafe { alloc::alloc_zeroed(layout) };
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, layout, stride, scratch, lost: false })
    }

    /// `len` bytes of it that start `offset` bytes into buffer `index`; the last index is that of
    /// the one for verifying.
    fn part(&self, index: usize, offset: usize, len: usize) -> NonNull<u8> {
        let start = index * self.stride + offset;
        assert!(start <= self.layout.size() && len <= self.layout.size() - start);
        // SAFETY: it is within the allocation, as was just seen, or at its end.
        unsafe { self.start.add(start) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if !self.lost {
            // SAFETY: it was allocated with this layout, and `Ring` has seen to it that the kernel
            // is done with it.
            unsafe { alloc::dealloc(self.start.as_ptr(), self.layout) };
        }
    }
}

/// What is read for a place.
#[derive(Debug, Clone, Copy, Default)]
struct Job {
    /// The part of the device that is not read yet, in bytes: whole blocks.
    at: u64,
    end: u64,
    /// Bytes at the front of the buffer that were read.
    filled: usize,
    verify: bool,
    /// There is an entry for it, submitted or not, that was not answered.
    flying: bool,
    tries: u8,
}

/// How a read goes on after an answer.
enum Next {
    More,
    Done,
    Failed(io::Error),
}

impl Job {
    /// Takes in an answer: how many bytes were read, or what went wrong.
    fn answer(&mut self, result: i32, geometry: Geometry) -> Next {
        self.flying = false;
        let Ok(read) = u32::try_from(result) else {
            let error = io::Error::from_raw_os_error(-result);
            let again =
                matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock);
            self.tries += 1;
            return if again && self.tries < TRIES { Next::More } else { Next::Failed(error) };
        };
        self.tries = 0;
        self.at += u64::from(read);
        if !self.verify {
            self.filled += read as usize;
        }
        if self.at >= self.end {
            Next::Done
        } else if read == 0 || geometry.down(self.at) != self.at {
            // The device has become shorter.
            Next::Failed(io::ErrorKind::UnexpectedEof.into())
        } else {
            Next::More
        }
    }
}

/// A ring, and the buffers that it reads into.
pub(super) struct Ring {
    uring: IoUring,
    // Behind the ring: dropped after it.
    memory: Memory,
    /// The kernel knows the memory, and need not look for its pages each time.
    registered: bool,
    jobs: Vec<Job>,
    /// Entries that were not answered.
    flying: usize,
    file: Arc<File>,
    geometry: Geometry,
    waker: Option<Waker>,
    complaints: Complaints,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("flying", &self.flying).finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring with room for a read at each of `places`, if the kernel lets us have one and it works.
    pub(super) fn new(
        file: &Arc<File>,
        geometry: Geometry,
        places: usize,
        name: &str,
        waker: Option<&Waker>,
    ) -> io::Result<Self> {
        let said = |call: &'static str| {
            move |error: io::Error| io::Error::new(error.kind(), format!("{call}: {error}"))
        };
        let entries = u32::try_from(places.next_power_of_two()).map_err(io::Error::other)?;
        let mut uring = set_up(entries).map_err(said("io_uring_setup"))?;
        try_out(&mut uring).map_err(said("io_uring_enter"))?;
        let mut probe = Probe::new();
        let submitter = uring.submitter();
        submitter.register_probe(&mut probe).map_err(said("probing io_uring"))?;
        if !probe.is_supported(opcode::Read::CODE) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's has no read"));
        }
        if let Some(waker) = waker {
            let event = waker.descriptor().as_raw_fd();
            submitter.register_eventfd(event).map_err(said("registering an event"))?;
        }
        let scratch = SCRATCH.next_multiple_of(geometry.block);
        let memory = Memory::new(places, geometry.room(SLOT_BYTES), scratch)?;
        let whole =
            libc::iovec { iov_base: memory.start.as_ptr().cast(), iov_len: memory.layout.size() };
        // SAFETY: the memory is dropped after the ring.
        let registered = unsafe { submitter.register_buffers(&[whole]) };
        match &registered {
            Ok(()) => log::info!("{name}: reads by io_uring"),
            // The limit of locked memory, as a rule.
            Err(error) => log::info!("{name}: reads by io_uring, buffers not registered: {error}"),
        }
        Ok(Self {
            uring,
            memory,
            registered: registered.is_ok(),
            jobs: vec![Job::default(); places],
            flying: 0,
            file: Arc::clone(file),
            geometry,
            waker: waker.cloned(),
            complaints: Complaints::new(name),
        })
    }

    /// Fills in an entry for the next part of a read.
    #[allow(clippy::cast_possible_truncation, reason = "no more than a buffer holds")]
    fn push(&mut self, place: usize) {
        let index = if self.jobs[place].verify { self.jobs.len() } else { place };
        let job = &mut self.jobs[place];
        assert!(!job.flying, "the kernel still has this place");
        let room = if job.verify { self.memory.scratch } else { self.memory.stride - job.filled };
        let len = (job.end - job.at).min(room as u64) as u32;
        let part = self.memory.part(index, job.filled, len as usize).as_ptr();
        let file = types::Fd(self.file.as_raw_fd());
        let entry = if self.registered {
            opcode::ReadFixed::new(file, part, len, 0).offset(job.at).build()
        } else {
            opcode::Read::new(file, part, len).offset(job.at).build()
        };
        let entry = entry.user_data(place as u64);
        // SAFETY: `file` stays open as long as the ring. The part lies in the memory, which lives
        // until the answer is there, see the module. Nothing else of ours refers to the part until
        // then: a place has one entry at a time, its octets are shown only while it has none, and
        // those of the verified are never looked at.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        assert!(pushed.is_ok(), "there is an entry for each place");
        job.flying = true;
        self.flying += 1;
    }

    /// Waits for the kernel to answer all that it has taken; `false` when that is not possible.
    fn wait_for_all(&mut self) -> bool {
        loop {
            self.flying -= self.uring.completion().count();
            // What it has not taken it never will.
            if self.flying <= self.uring.submission().len() {
                return true;
            }
            let flags = EnterFlags::GETEVENTS.bits();
            // SAFETY: there is no argument that could be wrong.
            let waited = unsafe { self.uring.submitter().enter::<()>(0, 1, flags, None) };
            match waited {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    self.complaints.log(format_args!("cannot wait for reads"), &error);
                    return false;
                }
                _ => {}
            }
        }
    }
}

impl Way for Ring {
    fn begin(&mut self, place: usize, span: &Range<u64>, verify: bool) {
        let blocks = self.geometry.around(span);
        assert!(!self.jobs[place].flying, "the kernel still has this place");
        self.jobs[place] = Job { at: blocks.start, end: blocks.end, verify, ..Job::default() };
        self.push(place);
    }

    fn submit(&mut self) {
        // More than once only where a kernel stops at an entry that it does not like.
        for _ in 0..self.jobs.len() {
            let queue = self.uring.submission();
            if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
                return;
            }
            drop(queue);
            if let Err(error) = self.uring.submit() {
                self.complaints.log(format_args!("reads cannot begin"), &error);
                break;
            }
        }
        // What is left has to be tried in the next turn, so there has to be one.
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "it was a place")]
    fn ended(&mut self) -> Option<(usize, bool)> {
        loop {
            let answer = self.uring.completion().next()?;
            let place = answer.user_data() as usize;
            self.flying -= 1;
            match self.jobs[place].answer(answer.result(), self.geometry) {
                Next::More => self.push(place),
                Next::Done => return Some((place, true)),
                Next::Failed(error) => {
                    self.complaints.read_failed(self.jobs[place].at, &error);
                    return Some((place, false));
                }
            }
        }
    }

    fn blocks(&self, place: usize) -> &[u8] {
        let Job { filled, flying, .. } = self.jobs[place];
        assert!(!flying, "the kernel still has this place");
        let start = self.memory.part(place, 0, filled);
        // SAFETY: these octets are in the allocation, were zero at first, and nobody writes to them
        // while the kernel does not have the place: it cannot get it while `self` is borrowed.
        unsafe { slice::from_raw_parts(start.as_ptr(), filled) }
    }

    fn depth(&self) -> usize {
        DEPTH
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.memory.lost = !self.wait_for_all();
    }
}

/// A ring whose answers wait until we enter the kernel anyway, where it can do that (Linux 5.19).
fn set_up(entries: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
    match builder.build(entries) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => IoUring::new(entries),
        built => built,
    }
}

/// Whether the ring does anything: sandboxes may allow to set it up, and not to use it.
fn try_out(uring: &mut IoUring) -> io::Result<()> {
    let nothing: squeue::Entry = opcode::Nop::new().build();
    // SAFETY: it names no memory.
    let pushed = unsafe { uring.submission().push(&nothing) };
    pushed.map_err(|error| io::Error::other(error.to_string()))?;
    while let Err(error) = uring.submit_and_wait(1) {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    match uring.completion().next() {
        Some(answer) if answer.result() < 0 => Err(io::Error::from_raw_os_error(-answer.result())),
        Some(_) => Ok(()),
        None => Err(io::Error::other("there was no answer")),
    }
}
