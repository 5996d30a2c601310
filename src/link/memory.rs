//! A pair of links joined in memory: for tests, benches and clients in the same process.
//!
//! Either end may be used by another thread than the other. Nothing allocates or locks once the
//! pair is made: frames are copied into buffers that go round between the two ends.
//!
//! With [`MemoryOptions::descriptors`] each end has a descriptor to sleep on. It becomes readable
//! when frames come after the last call of [`Link::receive`] took all there were; frames that a
//! full batch had no room for do not show. A burst to an end that has emptied the cable then costs
//! a system call at either end; to one that has not, none.

use core::mem;
use core::sync::atomic::{AtomicBool, Ordering, fence};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};
use rustix::event::{EventfdFlags, eventfd};

use super::{Batch, Link, LinkCounters, LinkError, LinkEvent, LinkInfo, MAX_MTU};
use crate::protocol::{ETHERNET_LEN, MacAddr};

/// How to make a pair of [`MemoryLink`]s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Octets that a frame may have after its Ethernet header; [`MAX_MTU`] at most.
    pub mtu: usize,
    /// Frames that may be on their way in one direction.
    pub depth: usize,
    /// The addresses of the two ends.
    pub macs: [MacAddr; 2],
    /// Give both ends a descriptor that is readable when frames wait.
    pub descriptors: bool,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            mtu: 1500,
            depth: 256,
            macs: [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])],
            descriptors: false,
        }
    }
}

/// One end of a cable in memory. When the other end is dropped the link goes down, and ends when
/// what was on its way has been received.
#[derive(Debug)]
pub struct MemoryLink {
    info: LinkInfo,
    counters: LinkCounters,
    outgoing: Outgoing,
    incoming: Incoming,
    /// The other end, or this one, is gone.
    cut: Arc<AtomicBool>,
    /// The last event said so.
    reported_down: bool,
}

/// A buffer that goes round, with a frame or empty.
#[derive(Debug)]
struct Buffer {
    octets: Box<[u8]>,
    len: usize,
}

/// The sending side of one direction.
#[derive(Debug)]
struct Outgoing {
    empty: Consumer<Buffer>,
    filled: Producer<Buffer>,
    bell: Option<Arc<Bell>>,
}

/// The receiving side of one direction.
#[derive(Debug)]
struct Incoming {
    filled: Consumer<Buffer>,
    empty: Producer<Buffer>,
    bell: Option<Arc<Bell>>,
    /// We asked for the bell when we last looked, and have not looked since.
    armed: bool,
    /// The bell was rung, or is just being, and is not silent again yet.
    ringing: bool,
}

/// What wakes a receiver that sleeps: it is rung only when the receiver asked for it.
#[derive(Debug)]
struct Bell {
    event: OwnedFd,
    wanted: AtomicBool,
}

impl Bell {
    fn new() -> io::Result<Arc<Self>> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Arc::new(Self { event, wanted: AtomicBool::new(false) }))
    }

    /// Tells the receiver of what was put into the ring before.
    fn ring(&self) {
        // Pairs with the fence in `Incoming::arm`: either this sees that the bell is wanted, or
        // the receiver's second look sees the frames.
        fence(Ordering::SeqCst);
        if self.wanted.load(Ordering::Relaxed) && self.wanted.swap(false, Ordering::Relaxed) {
            // Any number but zero does, in whatever byte order. It could fail only when the counter is full, and then the descriptor is readable.
            let _ = rustix::io::write(&self.event, &1_u64.to_le_bytes());
        }
    }

    /// Silences it; `false` when it has not rung yet.
    fn silence(&self) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&self.event, &mut count).is_ok()
    }
}

impl Outgoing {
    /// Puts a copy of `frame` on its way; `false` when there is no room.
    fn put(&mut self, frame: &[u8]) -> bool {
        let Ok(mut buffer) = self.empty.pop() else { return false };
        if let Some(octets) = buffer.octets.get_mut(..frame.len()) {
            octets.copy_from_slice(frame);
            buffer.len = frame.len();
        }
        // There are as many places as buffers.
        self.filled.push(buffer).is_ok()
    }
}

impl Incoming {
    /// Moves frames into `batch`, and tells how many.
    fn take(&mut self, batch: &mut Batch<'_>) -> usize {
        let mut count = 0;
        while batch.room() > 0 {
            let Ok(buffer) = self.filled.pop() else { break };
            batch.push(buffer.octets.get(..buffer.len).unwrap_or_default());
            // There are as many places as buffers.
            let _ = self.empty.push(buffer);
            count += 1;
        }
        count
    }

    /// Takes what there is. When that was all, the bell is rung for the next frame.
    fn look(&mut self, batch: &mut Batch<'_>) -> usize {
        self.disarm();
        let count = self.take(batch);
        if batch.room() > 0 { count + self.arm(batch) } else { count }
    }

    /// Withdraws the wish for the bell, or silences it if it came too late.
    fn disarm(&mut self) {
        let Some(bell) = &self.bell else { return };
        if mem::take(&mut self.armed) {
            // Whoever took the wish away has rung, or is about to.
            self.ringing |= !bell.wanted.swap(false, Ordering::Relaxed);
        }
        if self.ringing {
            self.ringing = !bell.silence();
        }
    }

    /// Asks for the bell, and looks once more for what came before the wish was heard.
    fn arm(&mut self, batch: &mut Batch<'_>) -> usize {
        let Some(bell) = &self.bell else { return 0 };
        bell.wanted.store(true, Ordering::Relaxed);
        self.armed = true;
        fence(Ordering::SeqCst);
        self.take(batch)
    }
}

/// One direction of a cable.
fn direction(options: &MemoryOptions) -> io::Result<(Outgoing, Incoming)> {
    let (mut to_empty, empty) = RingBuffer::new(options.depth);
    let (filled, from_filled) = RingBuffer::new(options.depth);
    for _ in 0..options.depth {
        let octets = vec![0; options.mtu.min(MAX_MTU) + ETHERNET_LEN].into_boxed_slice();
        // There are as many places as buffers.
        let _ = to_empty.push(Buffer { octets, len: 0 });
    }
    let bell = if options.descriptors { Some(Bell::new()?) } else { None };
    let incoming = Incoming {
        filled: from_filled,
        empty: to_empty,
        bell: bell.clone(),
        armed: false,
        ringing: false,
    };
    Ok((Outgoing { empty, filled, bell }, incoming))
}

impl MemoryLink {
    /// The two ends of a cable.
    ///
    /// # Errors
    /// With descriptors, when the process may not have any more.
    pub fn pair(options: &MemoryOptions) -> io::Result<(Self, Self)> {
        let (a_to_b, b_from_a) = direction(options)?;
        let (b_to_a, a_from_b) = direction(options)?;
        let cut = Arc::new(AtomicBool::new(false));
        let end = |mac, outgoing, incoming, cut| Self {
            info: LinkInfo { mac, mtu: options.mtu.min(MAX_MTU), up: true },
            counters: LinkCounters::default(),
            outgoing,
            incoming,
            cut,
            reported_down: false,
        };
        let [mac_a, mac_b] = options.macs;
        Ok((end(mac_a, a_to_b, a_from_b, Arc::clone(&cut)), end(mac_b, b_to_a, b_from_a, cut)))
    }

    /// Whether the other end is gone.
    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        self.cut.store(true, Ordering::Release);
        if let Some(bell) = &self.outgoing.bell {
            bell.ring();
        }
    }
}

impl Link for MemoryLink {
    fn info(&self) -> LinkInfo {
        self.info
    }

    fn receive(&mut self, batch: &mut Batch<'_>) -> Result<usize, LinkError> {
        // Asked first: what the other end sent before it went must not be missed.
        let cut = self.is_cut();
        let received = self.incoming.look(batch);
        if received == 0 && cut && batch.room() > 0 {
            self.info.up = false;
            return Err(LinkError::Ended);
        }
        self.counters.received += received as u64;
        Ok(received)
    }

    fn send(&mut self, batch: &Batch<'_>, first: usize) -> Result<usize, LinkError> {
        if self.is_cut() {
            return Err(LinkError::Down);
        }
        let mut next = first;
        let mut sent = 0;
        while next < batch.len() {
            let frame = batch.frame(next);
            if !(ETHERNET_LEN..=self.info.mtu + ETHERNET_LEN).contains(&frame.len()) {
                self.counters.unsendable += 1;
            } else if self.outgoing.put(frame) {
                sent += 1;
            } else {
                break;
            }
            next += 1;
        }
        if sent > 0 {
            self.counters.sent += sent;
            if let Some(bell) = &self.outgoing.bell {
                bell.ring();
            }
        }
        Ok(next.saturating_sub(first))
    }

    fn check(&mut self) -> Option<LinkEvent> {
        if !self.reported_down && self.is_cut() {
            self.info.up = false;
            self.reported_down = true;
            return Some(LinkEvent::Down);
        }
        None
    }

    fn counters(&mut self) -> LinkCounters {
        self.counters
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.incoming.bell.as_ref().map(|bell| bell.event.as_fd())
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;
    use crate::link::FramePool;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::thread;

    fn frame(len: usize, number: u32) -> Vec<u8> {
        let mut frame = vec![0xa5; len];
        frame[14..18].copy_from_slice(&number.to_be_bytes());
        frame
    }

    fn readable(link: &MemoryLink, millis: i64) -> bool {
        let mut polled = [PollFd::from_borrowed_fd(link.descriptor().unwrap(), PollFlags::IN)];
        let limit = Timespec { tv_sec: 0, tv_nsec: millis * 1_000_000 };
        poll(&mut polled, Some(&limit)).unwrap() > 0
    }

    #[test]
    fn frames_cross_unchanged_and_in_order_both_ways() {
        let (mut a, mut b) = MemoryLink::pair(&MemoryOptions::default()).unwrap();
        for _ in 0..1_000 {
            let mut sent = FramePool::new(3);
            let mut batch = sent.batch();
            for len in [18, 60, 1514] {
                assert!(batch.push(&frame(len, len as u32)));
            }
            for (from, to) in [(&mut a, true), (&mut b, false)] {
                assert_eq!(from.send(&batch, 0), Ok(3), "{to}");
            }
            for link in [&mut a, &mut b] {
                let mut received = FramePool::new(4);
                let mut got = received.batch();
                assert_eq!(link.receive(&mut got), Ok(3));
                assert!(got.frames().eq(batch.frames()));
            }
        }
        assert_eq!((a.counters().sent, a.counters().received), (3_000, 3_000));
    }

    #[test]
    fn a_full_cable_takes_no_more() {
        let options = MemoryOptions { depth: 3, ..MemoryOptions::default() };
        let (mut a, mut b) = MemoryLink::pair(&options).unwrap();
        let mut pool = FramePool::new(5);
        let mut batch = pool.batch();
        while batch.push(&frame(60, batch.len() as u32)) {}
        assert_eq!(a.send(&batch, 0), Ok(3));
        assert_eq!(a.send(&batch, 3), Ok(0));
        let mut received = FramePool::new(2);
        let mut got = received.batch();
        assert_eq!(b.receive(&mut got), Ok(2));
        assert_eq!(b.receive(&mut got), Ok(0));
        assert_eq!(a.send(&batch, 3), Ok(2));
        got.clear();
        assert_eq!(b.receive(&mut got), Ok(2));
        assert_eq!(got.frame(1), frame(60, 3));
    }

    #[test]
    fn unsendable_frames_are_taken_and_counted() {
        let (mut a, mut b) = MemoryLink::pair(&MemoryOptions::default()).unwrap();
        let mut pool = FramePool::new(3);
        let mut batch = pool.batch();
        assert!(batch.push(&[0xa5; 13]) && batch.push(&[0xa5; 14]) && batch.push(&[0xa5; 1515]));
        assert_eq!(a.send(&batch, 0), Ok(3));
        assert_eq!((a.counters().sent, a.counters().unsendable), (1, 2));
        let mut received = FramePool::new(3);
        assert_eq!(b.receive(&mut received.batch()), Ok(1));
    }

    #[test]
    fn the_link_ends_with_its_other_end() {
        let (mut a, mut b) = MemoryLink::pair(&MemoryOptions::default()).unwrap();
        let mut pool = FramePool::new(1);
        let mut batch = pool.batch();
        assert!(batch.push(&frame(60, 1)));
        assert_eq!(a.send(&batch, 0), Ok(1));
        assert_eq!(b.check(), None);
        drop(a);
        assert_eq!((b.check(), b.check(), b.info().up), (Some(LinkEvent::Down), None, false));
        assert_eq!(b.send(&batch, 0), Err(LinkError::Down));
        batch.clear();
        assert_eq!(b.receive(&mut batch), Ok(1));
        batch.clear();
        assert_eq!(b.receive(&mut batch), Err(LinkError::Ended));
    }

    #[test]
    fn the_descriptor_tells_of_frames_and_of_the_end() {
        let options = MemoryOptions { descriptors: true, ..MemoryOptions::default() };
        let (mut a, mut b) = MemoryLink::pair(&options).unwrap();
        let mut pool = FramePool::new(1);
        let mut batch = pool.batch();
        assert!(batch.push(&frame(60, 1)));
        let mut received = FramePool::new(8);
        for _ in 0..3 {
            let mut got = received.batch();
            got.clear();
            assert_eq!(b.receive(&mut got), Ok(0));
            assert!(!readable(&b, 5));
            assert_eq!(a.send(&batch, 0), Ok(1));
            assert_eq!(a.send(&batch, 0), Ok(1));
            assert!(readable(&b, 900));
            assert_eq!(b.receive(&mut got), Ok(2));
            assert!(!readable(&b, 5), "silenced");
            // It has emptied the cable, so that it need not look again before it sleeps.
            assert_eq!(a.send(&batch, 0), Ok(1));
            assert!(readable(&b, 900));
            assert_eq!(b.receive(&mut got), Ok(1));
        }
        drop(a);
        assert!(readable(&b, 900));
    }

    /// Sends back whatever comes, asleep in between, until the other end is gone.
    fn echo(mut link: MemoryLink) {
        let mut pool = FramePool::new(7);
        let mut batch = pool.batch();
        loop {
            batch.clear();
            match link.receive(&mut batch) {
                Ok(0) => assert!(readable(&link, 900), "nobody rings"),
                Ok(_) => {
                    let mut sent = 0;
                    while sent < batch.len() {
                        match link.send(&batch, sent) {
                            Ok(count) => sent += count,
                            Err(_) => return,
                        }
                    }
                }
                Err(_) => return,
            }
        }
    }

    #[test]
    fn two_threads_lose_no_frame_and_no_wake_up() {
        let options = MemoryOptions { depth: 8, descriptors: true, ..MemoryOptions::default() };
        let (mut a, b) = MemoryLink::pair(&options).unwrap();
        let echo = thread::spawn(move || echo(b));
        let (mut sent, mut seen) = (0, 0);
        let mut pool = FramePool::new(4);
        while seen < 20_000 {
            let mut batch = pool.batch();
            batch.clear();
            // Bursts of changing size, so that every order of sleeping and sending comes up.
            for number in sent..sent + 1 + seen % 4 {
                batch.push(&frame(60, number));
            }
            sent += a.send(&batch, 0).unwrap() as u32;
            batch.clear();
            if a.receive(&mut batch).unwrap() == 0 && sent > seen {
                assert!(readable(&a, 900), "nobody rings at {seen} of {sent}");
            }
            for got in batch.frames() {
                assert_eq!(got, frame(60, seen));
                seen += 1;
            }
        }
        drop(a);
        echo.join().unwrap();
    }
}
