//! Frames in and out.
//!
//! A [`Link`] moves whole Ethernet frames, in bursts, between the wire and a [`Batch`] of the
//! caller's: a small pool of buffers that is used again every turn and so stays in the cache. The
//! trait is `no_std`, and no method blocks.

#[cfg(all(feature = "af-packet", target_os = "linux"))]
pub mod af_packet;
#[cfg(feature = "std")]
pub mod fault;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod interface;
#[cfg(feature = "std")]
pub mod memory;
#[cfg(feature = "pcap")]
pub mod pcap;
#[cfg(feature = "std")]
pub mod record;
#[cfg(feature = "std")]
pub mod replay;
#[cfg(feature = "std")]
pub mod savefile;
#[cfg(feature = "smoltcp")]
pub mod smoltcp;
#[cfg(all(any(feature = "af-packet", feature = "pcap"), target_os = "linux"))]
mod watch;

#[cfg(feature = "std")]
use crate::protocol::ATA_DATA_OFFSET;
pub use crate::protocol::MAX_MTU;
use crate::protocol::{ETHERNET_LEN, MacAddr};
#[cfg(feature = "std")]
use std::os::fd::BorrowedFd;

/// Octets of one frame buffer: the largest frame with a VLAN tag, rounded up to whole cache lines.
pub const FRAME_CAPACITY: usize = (MAX_MTU + ETHERNET_LEN + 4).next_multiple_of(CACHE_LINE);
/// Octets of a cache line, on what runs this for the most part.
const CACHE_LINE: usize = 64;
/// Frames moved at once: 16 to 32 measured best over veth, larger batches fall out of the cache.
pub const BATCH_FRAMES: usize = 32;

/// The kinds of live links.
#[cfg(feature = "std")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkKind {
    /// By libpcap: works on every system that has it.
    Pcap,
    /// By Linux packet sockets, many frames at a time.
    AfPacket,
}

#[cfg(feature = "std")]
impl core::fmt::Display for LinkKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Pcap => "pcap",
            Self::AfPacket => "af-packet",
        })
    }
}

/// What a link is like at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkInfo {
    /// The address that replies leave with.
    pub mac: MacAddr,
    /// Octets that a frame may have after its Ethernet header, [`MAX_MTU`] at most.
    pub mtu: usize,
    /// Whether frames can be moved.
    pub up: bool,
}

/// Frames that a link lost or could not take, from when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounters {
    /// Frames handed over by the wire.
    pub received: u64,
    /// Frames handed to the wire.
    pub sent: u64,
    /// Frames that the kernel had to drop since nobody fetched them: each stalls a Linux initiator
    /// for seconds.
    pub dropped: u64,
    /// Frames that the link refused to send, too long for it or of a kind it does not send.
    pub unsendable: u64,
}

/// What happened to a link, other than frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEvent {
    /// It came up, or back: announce the targets.
    Up,
    /// It went down, or away. Frames are not moved until it is up.
    Down,
    /// It is up as before, but its MTU or its address has changed: announce the targets.
    Changed,
}

/// Why frames could not be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The interface is down or gone; [`Link::check`] will tell when it is back.
    #[error("the interface is down")]
    Down,
    /// The source of frames has ended, as a capture does; there will be no more.
    #[error("no more frames")]
    Ended,
    /// The operating system refused, for another reason.
    #[error("the operating system refused: error {errno}")]
    Os {
        /// Its number for the reason.
        errno: i32,
    },
    /// A capture that is being read or written is damaged or could not be accessed; the log says
    /// how.
    #[error("the capture cannot be used")]
    Capture,
}

/// A way to move frames.
///
/// # Invariants
/// * No method blocks.
/// * A frame that was sent through a link is never received from it.
/// * Frames of other protocols than AoE, or longer than [`FRAME_CAPACITY`], may be left out.
pub trait Link {
    /// Address, MTU and state, as known without asking the system.
    fn info(&self) -> LinkInfo;

    /// Appends frames that have arrived to `batch`, as many as there are and as it has room for,
    /// and tells how many.
    ///
    /// # Errors
    /// [`LinkError`] when there is nothing to be had now; the batch then holds what it held.
    fn receive(&mut self, batch: &mut Batch<'_>) -> Result<usize, LinkError>;

    /// Sends the frames of `batch` from the one with number `first` on, in order, and tells how
    /// many it took. Fewer than offered means that the wire is full: the rest is to be offered
    /// again. A frame that can never be sent counts as taken and is counted as unsendable.
    ///
    /// # Errors
    /// [`LinkError`] when nothing can be sent now.
    fn send(&mut self, batch: &Batch<'_>, first: usize) -> Result<usize, LinkError>;

    /// Asks the system for state, MTU and address, recovers the link where it can be, and tells
    /// what has changed since it was last asked. A few system calls: called a few times a second.
    fn check(&mut self) -> Option<LinkEvent> {
        None
    }

    /// What was moved and lost so far.
    fn counters(&mut self) -> LinkCounters;

    /// The file descriptor that is readable when frames wait; `None` when only polling tells.
    #[cfg(feature = "std")]
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[cfg(feature = "std")]
impl<L: Link + ?Sized> Link for Box<L> {
    fn info(&self) -> LinkInfo {
        (**self).info()
    }
    fn receive(&mut self, batch: &mut Batch<'_>) -> Result<usize, LinkError> {
        (**self).receive(batch)
    }
    fn send(&mut self, batch: &Batch<'_>, first: usize) -> Result<usize, LinkError> {
        (**self).send(batch, first)
    }
    fn check(&mut self) -> Option<LinkEvent> {
        (**self).check()
    }
    fn counters(&mut self) -> LinkCounters {
        (**self).counters()
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        (**self).descriptor()
    }
}

/// A pool of frame buffers, the first [`Self::len`] of which hold frames.
///
/// The memory is the caller's, so that it works without an allocator; with `std`, `FramePool`
/// owns it.
#[derive(Debug)]
pub struct Batch<'a> {
    octets: &'a mut [[u8; FRAME_CAPACITY]],
    lens: &'a mut [usize],
    len: &'a mut usize,
}

impl<'a> Batch<'a> {
    /// A pool over `octets`, one frame each, and as many `lens`; `len` of them hold frames.
    pub fn new(
        octets: &'a mut [[u8; FRAME_CAPACITY]],
        lens: &'a mut [usize],
        len: &'a mut usize,
    ) -> Self {
        let capacity = octets.len().min(lens.len());
        *len = capacity.min(*len);
        Self { octets, lens, len }
    }

    /// How many frames it holds.
    pub fn len(&self) -> usize {
        *self.len
    }

    /// Whether it holds no frame.
    pub fn is_empty(&self) -> bool {
        *self.len == 0
    }

    /// How many more frames it has room for.
    pub fn room(&self) -> usize {
        self.octets.len().min(self.lens.len()) - *self.len
    }

    /// Frame number `index`; empty when there is none.
    pub fn frame(&self, index: usize) -> &[u8] {
        match (self.octets.get(index), self.lens.get(index)) {
            (Some(octets), Some(len)) if index < *self.len => {
                octets.get(..*len).unwrap_or_default()
            }
            _ => &[],
        }
    }

    /// The frames, in order.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..*self.len).map(|index| self.frame(index))
    }

    /// The next free buffer, to be filled and then made a frame by [`Self::commit`]. What it holds
    /// is left over from earlier frames. `None` when there is no room.
    pub fn next_buffer(&mut self) -> Option<&mut [u8; FRAME_CAPACITY]> {
        let index = *self.len;
        if index < self.lens.len() { self.octets.get_mut(index) } else { None }
    }

    /// Makes the first `len` octets of the next free buffer a frame.
    pub fn commit(&mut self, len: usize) {
        if let Some(slot) = self.lens.get_mut(*self.len)
            && *self.len < self.octets.len()
        {
            *slot = len.min(FRAME_CAPACITY);
            *self.len += 1;
        }
    }

    /// Appends a copy of `frame`; `false` when there is no room or it is too long.
    pub fn push(&mut self, frame: &[u8]) -> bool {
        let Some(out) = self.next_buffer().and_then(|buffer| buffer.get_mut(..frame.len())) else {
            return false;
        };
        out.copy_from_slice(frame);
        self.commit(frame.len());
        true
    }

    /// All free buffers and their lengths, for a link that fills many at once; it calls
    /// [`Self::commit_filled`] when it has.
    pub fn free_buffers(&mut self) -> (&mut [[u8; FRAME_CAPACITY]], &mut [usize]) {
        let capacity = self.octets.len().min(self.lens.len());
        let len = *self.len;
        (
            self.octets.get_mut(len..capacity).unwrap_or_default(),
            self.lens.get_mut(len..capacity).unwrap_or_default(),
        )
    }

    /// Makes the first `count` free buffers frames, of the lengths that were put there.
    pub fn commit_filled(&mut self, count: usize) {
        *self.len += count.min(self.room());
    }

    /// Forgets all frames.
    pub fn clear(&mut self) {
        *self.len = 0;
    }
}

/// A [`Batch`] with memory of its own.
///
/// Sectors lie at the start of a cache line in it, as they do in the page cache, so that no part of
/// their copy straddles two lines: the frames around them start 36 octets before.
#[cfg(feature = "std")]
#[derive(Debug)]
pub struct FramePool {
    octets: Vec<u8>,
    /// Where the first buffer starts.
    start: usize,
    lens: Vec<usize>,
    len: usize,
}

#[cfg(feature = "std")]
impl FramePool {
    /// Room for `frames` frames.
    pub fn new(frames: usize) -> Self {
        let octets = vec![0; frames * FRAME_CAPACITY + 2 * CACHE_LINE];
        let line = octets.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE);
        let start = line + CACHE_LINE - ATA_DATA_OFFSET;
        Self { octets, start, lens: vec![0; frames], len: 0 }
    }

    /// How many frames it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no frame.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pool, to be filled or emptied.
    pub fn batch(&mut self) -> Batch<'_> {
        let (octets, _) = self.octets[self.start..].as_chunks_mut::<FRAME_CAPACITY>();
        Batch::new(octets, &mut self.lens, &mut self.len)
    }
}
