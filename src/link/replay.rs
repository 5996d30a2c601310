//! A capture as a link, on virtual time.
//!
//! The requests of a capture arrive when the caller's time has come to them; what is sent goes into
//! another capture. Time starts at [`Instant::ZERO`] with the first frame that is replayed, which
//! arrives when the caller first lets time go on, so that everything can be made ready before it.
//! Replies in the capture are some other server's, and left out unless wanted, and so are frames
//! that were cut, are too long, or are not AoE.
//!
//! Reading and writing files may wait for a disk, which on virtual time nobody notices.

use core::fmt;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use super::savefile::{Reader, Record, Resolution, SavefileError, Writer};
use super::{Batch, FRAME_CAPACITY, Link, LinkCounters, LinkError, LinkInfo, MAX_MTU};
use crate::clock::Instant;
use crate::protocol::{ETHERNET_LEN, ETHERTYPE, Flags, MacAddr};

/// How to replay a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayOptions {
    /// The address of the replaying station; [`infer_mac`] tells the one in a capture.
    pub mac: MacAddr,
    /// Octets that a frame may have after its Ethernet header; [`MAX_MTU`] at most.
    pub mtu: usize,
    /// Replay replies too.
    pub keep_replies: bool,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self { mac: MacAddr([2, 0, 0, 0, 0, 1]), mtu: 1500, keep_replies: false }
    }
}

/// Frames of a capture that were not replayed, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Skipped {
    /// Replies.
    pub replies: u64,
    /// Of another protocol, or of another network by their VLAN tag.
    pub not_aoe: u64,
    /// Longer than was captured, or than [`FRAME_CAPACITY`].
    pub incomplete: u64,
}

/// The station that a capture's requests were sent to: the most common destination of AoE requests
/// that is not a group, or else the most common source of AoE replies. `None` when there is neither.
///
/// # Errors
/// [`SavefileError`] when the capture cannot be read to its end.
pub fn infer_mac<R: Read>(reader: &mut Reader<R>) -> Result<Option<MacAddr>, SavefileError> {
    let (mut asked, mut answering) = (BTreeMap::new(), BTreeMap::new());
    while let Some(record) = reader.next()? {
        let Some(kind) = AoeFrame::look_at(record.octets) else { continue };
        if kind.is_reply {
            *answering.entry(kind.source).or_insert(0_u64) += 1;
        } else if !kind.destination.is_group() {
            *asked.entry(kind.destination).or_insert(0_u64) += 1;
        }
    }
    let most_common = |counts: BTreeMap<MacAddr, u64>| {
        counts.into_iter().max_by_key(|&(_, count)| count).map(|(mac, _)| mac)
    };
    Ok(most_common(asked).or_else(|| most_common(answering)))
}

/// As much of an AoE frame as decides on replaying it. A malformed frame is one too: it is replayed
/// to see what is made of it.
struct AoeFrame {
    destination: MacAddr,
    source: MacAddr,
    is_reply: bool,
}

impl AoeFrame {
    /// The frame in `octets`; `None` when it is something else.
    fn look_at(octets: &[u8]) -> Option<Self> {
        let (header, payload) = octets.split_first_chunk::<ETHERNET_LEN>()?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, high, low] = *header;
        (u16::from_be_bytes([high, low]) == ETHERTYPE).then(|| Self {
            destination: MacAddr([d0, d1, d2, d3, d4, d5]),
            source: MacAddr([s0, s1, s2, s3, s4, s5]),
            is_reply: payload.first().is_some_and(|&first| Flags(first & 0x0f).is_response()),
        })
    }
}

/// A capture that is received, and perhaps another one that is sent to.
pub struct ReplayLink<R, W = io::Sink> {
    reader: Reader<R>,
    replies: Option<Writer<W>>,
    options: ReplayOptions,
    counters: LinkCounters,
    skipped: Skipped,
    now: Instant,
    /// Time was let go on.
    started: bool,
    /// When the first frame was captured, in nanoseconds since 1970.
    origin: Option<u64>,
    /// The frame that comes next, read ahead.
    next: Next,
}

/// What there is of a capture.
struct Next {
    octets: Box<[u8]>,
    len: usize,
    /// When the frame arrives; or why there is none.
    when: Result<Instant, LinkError>,
}

impl<R: Read> ReplayLink<R> {
    /// Replays `reader`'s capture; what is sent goes nowhere.
    pub fn new(reader: Reader<R>, options: ReplayOptions) -> Self {
        Self::start(reader, None, options)
    }
}

impl<R: Read, W: Write> ReplayLink<R, W> {
    /// Replays `reader`'s capture; what is sent makes a capture on `replies`, stamped with the time
    /// of the replay.
    ///
    /// # Errors
    /// When the header of that capture cannot be written.
    pub fn with_replies(reader: Reader<R>, replies: W, options: ReplayOptions) -> io::Result<Self> {
        let replies = Writer::new(replies, Resolution::Nanos)?;
        Ok(Self::start(reader, Some(replies), options))
    }

    fn start(reader: Reader<R>, replies: Option<Writer<W>>, options: ReplayOptions) -> Self {
        let octets = vec![0; FRAME_CAPACITY].into_boxed_slice();
        let mut link = Self {
            reader,
            replies,
            options,
            counters: LinkCounters::default(),
            skipped: Skipped::default(),
            now: Instant::ZERO,
            started: false,
            origin: None,
            next: Next { octets, len: 0, when: Ok(Instant::ZERO) },
        };
        link.read_ahead();
        link
    }

    /// When the next frame arrives, possibly in the past; `None` when there is none.
    pub fn next_time(&self) -> Option<Instant> {
        self.next.when.ok()
    }

    /// Lets time go on to `now`; it never goes back.
    pub fn advance_to(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.started = true;
    }

    /// Lets time go on to the next frame, and tells when that is; `None` when there is none.
    pub fn step(&mut self) -> Option<Instant> {
        let next = self.next_time()?;
        self.advance_to(next);
        Some(self.now)
    }

    /// The time of the replay.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Frames left out so far.
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// Ends the replay; the output is flushed first.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn finish(mut self) -> io::Result<Option<W>> {
        if let Some(writer) = &mut self.replies {
            writer.flush()?;
        }
        Ok(self.replies.map(Writer::into_inner))
    }

    /// Reads on to the next frame that is replayed.
    fn read_ahead(&mut self) {
        let previous = self.next.when.unwrap_or(self.now);
        self.next.when = loop {
            let record = match self.reader.next() {
                Ok(Some(record)) => record,
                Ok(None) => break Err(LinkError::Ended),
                Err(error) => {
                    log::error!("the replay stops: {error}");
                    break Err(LinkError::Capture);
                }
            };
            if !self.skipped.admits(&record, self.options.keep_replies) {
                continue;
            }
            let Some(octets) = self.next.octets.get_mut(..record.octets.len()) else { continue };
            octets.copy_from_slice(record.octets);
            self.next.len = record.octets.len();
            let origin = *self.origin.get_or_insert(record.unix_nanos);
            // Captures do go back in time; their order is what counts.
            let when = Instant::from_nanos(record.unix_nanos.saturating_sub(origin));
            break Ok(previous.max(when));
        };
    }
}

impl Skipped {
    /// Whether a frame is to be replayed; if not it is counted.
    fn admits(&mut self, record: &Record<'_>, keep_replies: bool) -> bool {
        let Some(frame) = AoeFrame::look_at(record.octets) else {
            self.not_aoe += 1;
            return false;
        };
        if frame.is_reply && !keep_replies {
            self.replies += 1;
            return false;
        }
        if record.is_cut() || record.octets.len() > FRAME_CAPACITY {
            self.incomplete += 1;
            return false;
        }
        true
    }
}

impl<R: Read, W: Write> Link for ReplayLink<R, W> {
    fn info(&self) -> LinkInfo {
        LinkInfo { mac: self.options.mac, mtu: self.options.mtu.min(MAX_MTU), up: true }
    }

    fn receive(&mut self, batch: &mut Batch<'_>) -> Result<usize, LinkError> {
        let before = batch.len();
        while batch.room() > 0 {
            match self.next.when {
                Ok(when) if self.started && when <= self.now => {}
                Err(error) if batch.len() == before => return Err(error),
                _ => break,
            }
            batch.push(self.next.octets.get(..self.next.len).unwrap_or_default());
            self.read_ahead();
        }
        let received = batch.len() - before;
        self.counters.received += received as u64;
        Ok(received)
    }

    fn send(&mut self, batch: &Batch<'_>, first: usize) -> Result<usize, LinkError> {
        let mut taken = 0;
        for frame in batch.frames().skip(first) {
            taken += 1;
            if frame.len() > self.info().mtu + ETHERNET_LEN {
                self.counters.unsendable += 1;
                continue;
            }
            self.counters.sent += 1;
            let time = self.origin.unwrap_or_default().saturating_add(self.now.nanos());
            if let Some(writer) = &mut self.replies
                && let Err(error) = writer.write(time, frame)
            {
                log::error!("the replies cannot be written: {error}");
                return Err(LinkError::Capture);
            }
        }
        Ok(taken)
    }

    fn counters(&mut self) -> LinkCounters {
        self.counters
    }
}

impl<R, W> fmt::Debug for ReplayLink<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayLink")
            .field("options", &self.options)
            .field("now", &self.now)
            .field("next", &self.next.when)
            .field("skipped", &self.skipped)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::FramePool;
    use core::time::Duration;
    use std::vec::Vec;

    const SERVER: MacAddr = MacAddr([2, 0xae, 0, 0, 0, 0x0a]);
    const CLIENT: MacAddr = MacAddr([2, 0xae, 0, 0, 0, 0x0b]);
    /// When the captures here begin, in seconds since 1970.
    const START: u64 = 1_700_000_000;

    /// An AoE frame with a first octet of its header.
    fn aoe(to: MacAddr, from: MacAddr, first: u8, mark: u8) -> Vec<u8> {
        let mut frame = vec![0xa5; 60];
        frame[..6].copy_from_slice(&to.0);
        frame[6..12].copy_from_slice(&from.0);
        frame[12..16].copy_from_slice(&[0x88, 0xa2, first, 0]);
        frame[59] = mark;
        frame
    }

    /// A capture of frames at so many milliseconds.
    fn capture(frames: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), Resolution::Nanos).unwrap();
        for (millis, frame) in frames {
            writer.write(START * 1_000_000_000 + millis * 1_000_000, frame).unwrap();
        }
        writer.into_inner()
    }

    fn millis(millis: u64) -> Instant {
        Instant::ZERO.after(Duration::from_millis(millis))
    }

    fn replay(capture: &[u8]) -> ReplayLink<&[u8]> {
        ReplayLink::new(Reader::new(capture).unwrap(), ReplayOptions::default())
    }

    /// What is received now.
    fn received(link: &mut dyn Link) -> Vec<Vec<u8>> {
        let mut pool = FramePool::new(8);
        let mut batch = pool.batch();
        link.receive(&mut batch).unwrap();
        batch.frames().map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn frames_arrive_when_their_time_has_come() {
        let frames = [1, 2, 3, 4].map(|mark| aoe(SERVER, CLIENT, 0x10, mark));
        let [one, two, three, four] = frames.clone();
        // The third goes back in time: it arrives with the one before it.
        let file = capture(&[(5, one), (7, two), (6, three), (900, four)]);
        let mut link = replay(&file);
        assert_eq!(link.next_time(), Some(Instant::ZERO));
        assert!(received(&mut link).is_empty(), "time has not been let go on");
        assert_eq!(link.step(), Some(Instant::ZERO));
        assert_eq!(received(&mut link), frames[..1]);
        assert!(received(&mut link).is_empty());
        assert_eq!(link.next_time(), Some(millis(2)));
        link.advance_to(Instant::from_nanos(1_999_999));
        assert!(received(&mut link).is_empty());
        link.advance_to(millis(2));
        link.advance_to(millis(1));
        assert_eq!(link.now(), millis(2));
        assert_eq!(received(&mut link), frames[1..3]);
        assert_eq!(link.step(), Some(millis(895)));
        assert_eq!(received(&mut link), frames[3..]);
        assert_eq!((link.next_time(), link.step()), (None, None));
        let mut pool = FramePool::new(1);
        assert_eq!(link.receive(&mut pool.batch()), Err(LinkError::Ended));
        assert_eq!(link.counters().received, 4);
    }

    #[test]
    fn only_whole_requests_are_replayed_malformed_ones_among_them() {
        let request = aoe(SERVER, CLIENT, 0x10, 1);
        let reply = aoe(CLIENT, SERVER, 0x18, 2);
        let mut other = request.clone();
        other[12] = 0x08;
        let mut tagged = request.clone();
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        let mut long = request.clone();
        long.resize(FRAME_CAPACITY + 1, 0xa5);
        let (cut, short) = (request[..23].to_vec(), request[..14].to_vec());
        let frames =
            [reply.clone(), request.clone(), other, tagged, long, cut.clone(), short.clone()];
        let mut file = capture(&frames.map(|frame| (0, frame)));
        // And one that was longer than it was captured.
        let mut writer = Writer::new(Vec::new(), Resolution::Nanos).unwrap();
        writer.write(START * 1_000_000_000, &request).unwrap();
        let mut record = writer.into_inner().split_off(24);
        record[12] = 61;
        file.extend(record);
        let mut link = replay(&file);
        link.step().unwrap();
        assert_eq!(received(&mut link), [request.clone(), cut.clone(), short.clone()]);
        assert_eq!(link.skipped(), Skipped { replies: 1, not_aoe: 2, incomplete: 2 });
        let options = ReplayOptions { keep_replies: true, ..ReplayOptions::default() };
        let mut link = ReplayLink::new(Reader::new(&file[..]).unwrap(), options);
        link.step().unwrap();
        assert_eq!(received(&mut link), [reply, request, cut, short]);
    }

    #[test]
    fn what_is_sent_makes_a_capture_on_the_replays_time() {
        let request = aoe(SERVER, CLIENT, 0x10, 1);
        let file = capture(&[(0, request.clone()), (1_500, request)]);
        let reader = Reader::new(&file[..]).unwrap();
        let mut link =
            ReplayLink::with_replies(reader, Vec::new(), ReplayOptions::default()).unwrap();
        let reply = aoe(CLIENT, SERVER, 0x18, 2);
        let mut pool = FramePool::new(2);
        let mut batch = pool.batch();
        assert!(batch.push(&reply) && batch.push(&[0xa5; 1515]));
        assert_eq!(link.send(&batch, 0), Ok(2));
        link.step().unwrap();
        received(&mut link);
        link.step().unwrap();
        assert_eq!(link.send(&batch, 0), Ok(2));
        assert_eq!((link.counters().sent, link.counters().unsendable), (2, 2));
        let written = link.finish().unwrap().unwrap();
        assert_eq!(written, capture(&[(0, reply.clone()), (1_500, reply)]));
    }

    #[test]
    fn damage_is_told_after_what_came_before_it() {
        let mut file = capture(&[(0, aoe(SERVER, CLIENT, 0x10, 1))]);
        file.extend([0xa5; 5]);
        let mut link = replay(&file);
        link.step().unwrap();
        assert_eq!(received(&mut link).len(), 1);
        let mut pool = FramePool::new(1);
        assert_eq!(link.receive(&mut pool.batch()), Err(LinkError::Capture));
        assert_eq!(link.receive(&mut pool.batch()), Err(LinkError::Capture));
    }

    #[test]
    fn the_server_of_a_capture_is_the_one_that_is_asked_most() {
        let third = MacAddr([2, 0xae, 0, 0, 0, 0x0c]);
        let mac = |frames: &[Vec<u8>]| {
            let frames: Vec<_> = frames.iter().map(|frame| (0, frame.clone())).collect();
            let file = capture(&frames);
            infer_mac(&mut Reader::new(&file[..]).unwrap()).unwrap()
        };
        let broadcast = aoe(MacAddr::BROADCAST, CLIENT, 0x10, 0);
        let to_server = aoe(SERVER, CLIENT, 0x10, 0);
        let to_third = aoe(third, CLIENT, 0x10, 0);
        let reply = aoe(CLIENT, third, 0x18, 0);
        let seen = [&to_third, &to_server, &to_server, &broadcast, &reply, &reply, &reply];
        assert_eq!(mac(&seen.map(Clone::clone)), Some(SERVER));
        assert_eq!(mac(&[broadcast.clone(), reply]), Some(third));
        assert_eq!(mac(&[broadcast]), None);
        assert_eq!(mac(&[]), None);
    }
}
