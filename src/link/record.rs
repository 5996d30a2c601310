//! A link that writes down what passes through it, as a capture file.
//!
//! The frames are written on the thread that moves them, each with one call of
//! [`Write::write_all`]. Where that thread may not wait for a disk, hand [`RecordLink`] a
//! [`BackgroundWriter`]: it only copies into a bounded ring, which another thread empties. Trouble
//! with the recording, a disk that is too slow included, ends the recording, never the traffic.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::{self, ErrorKind, Write};
use std::os::fd::BorrowedFd;
use std::string::ToString;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use rtrb::{Consumer, Producer, RingBuffer};

use super::savefile::{Resolution, Writer};
use super::{Batch, Link, LinkCounters, LinkError, LinkEvent, LinkInfo};
use crate::clock;

/// How often a [`BackgroundWriter`]'s thread looks into a ring that does not fill up.
const WRITE_EVERY: Duration = Duration::from_millis(50);

/// A link whose frames, received and sent, are written to a capture.
#[derive(Debug)]
pub struct RecordLink<L, W: Write> {
    link: L,
    recorder: Recorder<W>,
}

impl<L: Link, W: Write> RecordLink<L, W> {
    /// Starts a capture on `output` of what passes through `link`.
    ///
    /// # Errors
    /// When the capture's header cannot be written.
    pub fn new(link: L, output: W) -> io::Result<Self> {
        let writer = Some(Writer::new(output, Resolution::Nanos)?);
        let recorder = Recorder { writer, failed: false, unix_nanos: None, frames: 0 };
        Ok(Self { link, recorder })
    }

    /// Has all frames from now on stamped with this time, in nanoseconds since 1970, instead of
    /// that of the wall clock.
    pub fn set_time(&mut self, unix_nanos: u64) {
        self.recorder.unix_nanos = Some(unix_nanos);
    }

    /// Whether frames are still written down: they are until that fails.
    pub fn is_recording(&self) -> bool {
        !self.recorder.failed
    }

    /// Frames written down.
    pub fn recorded(&self) -> u64 {
        self.recorder.frames
    }

    /// The link beneath.
    pub fn link(&self) -> &L {
        &self.link
    }

    /// Ends the recording: the link, and the output after it was flushed. The output is `None` when
    /// the recording had failed before.
    ///
    /// # Errors
    /// When the output cannot be flushed.
    pub fn finish(self) -> io::Result<(L, Option<W>)> {
        let Self { link, mut recorder } = self;
        let Some(mut writer) = recorder.writer.take().filter(|_| !recorder.failed) else {
            return Ok((link, None));
        };
        writer.flush()?;
        Ok((link, Some(writer.into_inner())))
    }
}

impl<L: Link, W: Write> Link for RecordLink<L, W> {
    fn info(&self) -> LinkInfo {
        self.link.info()
    }

    fn receive(&mut self, batch: &mut Batch<'_>) -> Result<usize, LinkError> {
        let before = batch.len();
        let received = self.link.receive(batch)?;
        self.recorder.record(batch, before, received);
        Ok(received)
    }

    fn send(&mut self, batch: &Batch<'_>, first: usize) -> Result<usize, LinkError> {
        let sent = self.link.send(batch, first)?;
        self.recorder.record(batch, first, sent);
        Ok(sent)
    }

    fn check(&mut self) -> Option<LinkEvent> {
        self.link.check()
    }

    fn counters(&mut self) -> LinkCounters {
        self.link.counters()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.link.descriptor()
    }
}

/// The capture being written; flushed when dropped.
#[derive(Debug)]
struct Recorder<W: Write> {
    /// None only when the recording was finished.
    writer: Option<Writer<W>>,
    /// After a failure nothing is written any more. The output is kept all the same: dropping it
    /// may wait for a disk, which must not happen between two frames.
    failed: bool,
    unix_nanos: Option<u64>,
    frames: u64,
}

impl<W: Write> Recorder<W> {
    /// Writes `count` frames of `batch` down, from the one with number `first` on.
    fn record(&mut self, batch: &Batch<'_>, first: usize, count: usize) {
        let Some(writer) = self.writer.as_mut().filter(|_| !self.failed && count > 0) else {
            return;
        };
        let time = self.unix_nanos.unwrap_or_else(|| clock::unix_micros().saturating_mul(1_000));
        for frame in batch.frames().skip(first).take(count) {
            if let Err(error) = writer.write(time, frame) {
                log::error!("recording stops after {} frames: {error}", self.frames);
                self.failed = true;
                return;
            }
            self.frames += 1;
        }
    }
}

impl<W: Write> Drop for Recorder<W> {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.as_mut().filter(|_| !self.failed)
            && let Err(error) = writer.flush()
        {
            log::error!("the end of the recording is lost: {error}");
        }
    }
}

/// A writer that never waits: a thread of its own writes what it is given.
///
/// What does not fit into its ring fails with [`ErrorKind::WouldBlock`], whole: nothing of it is
/// written. A failure of the output is told by a later write. [`Write::flush`] and dropping do wait,
/// until all is written.
pub struct BackgroundWriter {
    ring: Producer<u8>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What a [`BackgroundWriter`] and its thread tell each other.
#[derive(Debug, Default)]
struct Shared {
    /// There will be no more.
    closed: AtomicBool,
    flushes: Mutex<Flushes>,
    /// A flush is done, or will never be.
    flushed: Condvar,
    /// Why the thread has given up.
    failure: OnceLock<io::Error>,
}

/// How often flushing was asked for, and how often it was done.
#[derive(Debug, Clone, Copy, Default)]
struct Flushes {
    asked: u64,
    done: u64,
}

impl Shared {
    fn flushes(&self) -> MutexGuard<'_, Flushes> {
        // Two numbers cannot be left half changed.
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BackgroundWriter {
    /// Starts a thread that writes to `output`, with a ring of `capacity` bytes, which must hold the
    /// longest single write.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn new(output: impl Write + Send + 'static, capacity: usize) -> io::Result<Self> {
        let (ring, source) = RingBuffer::new(capacity);
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("recorder".to_string()).spawn(move || {
            if let Err(error) = write_out(source, output, &theirs) {
                let _ = theirs.failure.set(error);
            }
            // Under the lock, or a flush could miss it between looking and waiting.
            let _flushes = theirs.flushes();
            theirs.flushed.notify_all();
        })?;
        Ok(Self { ring, shared, thread: Some(thread) })
    }

    /// The failure of the thread, if there is one.
    fn failure(&self) -> io::Result<()> {
        match self.shared.failure.get() {
            Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
            None => Ok(()),
        }
    }

    /// Wakes the thread.
    fn nudge(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

/// Writes what comes through the ring to `output` until there will be no more.
fn write_out(mut ring: Consumer<u8>, mut output: impl Write, shared: &Shared) -> io::Result<()> {
    loop {
        // Asked first: what was put into the ring before is then seen below.
        let closed = shared.closed.load(Ordering::Acquire);
        let asked = shared.flushes().asked;
        while let Ok(chunk) = ring.read_chunk(ring.slots())
            && !chunk.is_empty()
        {
            let (first, second) = chunk.as_slices();
            output.write_all(first)?;
            output.write_all(second)?;
            chunk.commit_all();
        }
        let done = shared.flushes().done;
        if closed || done < asked {
            output.flush()?;
            shared.flushes().done = asked;
            shared.flushed.notify_all();
        }
        if closed {
            return Ok(());
        }
        thread::park_timeout(WRITE_EVERY);
    }
}

impl Write for BackgroundWriter {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.failure()?;
        if self.ring.push_entire_slice(octets).is_err() {
            return Err(io::Error::new(ErrorKind::WouldBlock, "the disk is too slow"));
        }
        // As long as there is room the thread comes by itself: most writes cost no system call.
        if self.ring.slots() < self.ring.buffer().capacity() / 2 {
            self.nudge();
        }
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut flushes = self.shared.flushes();
        flushes.asked += 1;
        let asked = flushes.asked;
        self.nudge();
        while flushes.done < asked && self.shared.failure.get().is_none() {
            flushes = self.shared.flushed.wait(flushes).unwrap_or_else(PoisonError::into_inner);
        }
        drop(flushes);
        self.failure()
    }
}

impl Drop for BackgroundWriter {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.nudge();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the recording's thread has panicked");
        }
    }
}

impl fmt::Debug for BackgroundWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackgroundWriter").field("shared", &self.shared).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::FramePool;
    use crate::link::memory::{MemoryLink, MemoryOptions};
    use crate::link::savefile::Reader;
    use std::vec;
    use std::vec::Vec;

    fn pair() -> (MemoryLink, MemoryLink) {
        MemoryLink::pair(&MemoryOptions::default()).unwrap()
    }

    #[test]
    fn all_frames_are_written_down_with_their_times() {
        let (a, mut b) = pair();
        let mut link = RecordLink::new(a, Vec::new()).unwrap();
        let mut pool = FramePool::new(4);
        let mut batch = pool.batch();
        assert!(batch.push(&[1; 60]) && batch.push(&[2; 61]) && batch.push(&[3; 62]));
        link.set_time(1_000_000_001);
        assert_eq!(link.send(&batch, 1), Ok(2));
        assert_eq!(b.send(&batch, 0), Ok(3));
        // What the batch held before is not received again.
        batch.clear();
        assert!(batch.push(&[9; 60]));
        link.set_time(2_000_000_002);
        assert_eq!(link.receive(&mut batch), Ok(3));
        assert_eq!(link.recorded(), 5);
        let (_, capture) = link.finish().unwrap();
        let capture = capture.unwrap();
        let mut reader = Reader::new(&capture[..]).unwrap();
        for (time, octet, len) in [
            (1_000_000_001, 2, 61),
            (1_000_000_001, 3, 62),
            (2_000_000_002, 1, 60),
            (2_000_000_002, 2, 61),
            (2_000_000_002, 3, 62),
        ] {
            let record = reader.next().unwrap().unwrap();
            assert_eq!((record.unix_nanos, record.octets), (time, &vec![octet; len][..]));
        }
        assert!(reader.next().unwrap().is_none());
    }

    /// Takes so many octets and no more.
    #[derive(Debug)]
    struct Small(usize);

    impl Write for Small {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            match self.0.checked_sub(octets.len()) {
                Some(left) => {
                    self.0 = left;
                    Ok(octets.len())
                }
                None => Err(io::Error::from(ErrorKind::StorageFull)),
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_ends_the_recording_and_not_the_traffic() {
        let (a, mut b) = pair();
        let mut link = RecordLink::new(a, Small(24 + 2 * 76)).unwrap();
        let mut pool = FramePool::new(4);
        let mut batch = pool.batch();
        while batch.push(&[0xa5; 60]) {}
        assert!(link.is_recording());
        assert_eq!(link.send(&batch, 0), Ok(4));
        assert_eq!((link.is_recording(), link.recorded()), (false, 2));
        assert_eq!(link.send(&batch, 0), Ok(4));
        let mut received = FramePool::new(9);
        assert_eq!(b.receive(&mut received.batch()), Ok(8));
        assert_eq!(link.recorded(), 2);
        assert!(link.finish().unwrap().1.is_none());
        assert!(RecordLink::new(pair().0, Small(23)).is_err());
    }

    /// Where the test can look while the writer is somebody else's.
    #[derive(Debug, Clone, Default)]
    struct Open(Arc<Mutex<Vec<u8>>>);

    impl Write for Open {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_background_writer_writes_everything_in_order() {
        let open = Open::default();
        let mut writer = BackgroundWriter::new(open.clone(), 64).unwrap();
        let expected: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        for part in expected.chunks(7) {
            while let Err(error) = writer.write_all(part) {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                writer.flush().unwrap();
            }
        }
        writer.flush().unwrap();
        assert_eq!(*open.0.lock().unwrap(), expected);
        writer.write_all(b"the end").unwrap();
        drop(writer);
        assert!(open.0.lock().unwrap().ends_with(b"the end"));
    }

    #[test]
    fn what_a_background_writer_has_no_room_for_is_refused_whole() {
        let open = Open::default();
        let mut writer = BackgroundWriter::new(open.clone(), 8).unwrap();
        writer.write_all(b"12345678").unwrap();
        writer.flush().unwrap();
        assert_eq!(writer.write(b"too long!").unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(writer);
        assert_eq!(*open.0.lock().unwrap(), b"12345678");
    }

    #[test]
    fn a_background_writer_tells_that_its_output_failed() {
        let mut writer = BackgroundWriter::new(Small(3), 64).unwrap();
        writer.write_all(b"four").unwrap();
        assert_eq!(writer.flush().unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(writer.write(b"more").unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(writer.flush().unwrap_err().kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn a_dropped_link_leaves_a_whole_capture() {
        let open = Open::default();
        let (a, _b) = pair();
        let background = BackgroundWriter::new(io::BufWriter::new(open.clone()), 1 << 16).unwrap();
        let mut link = RecordLink::new(a, background).unwrap();
        let mut pool = FramePool::new(4);
        let mut batch = pool.batch();
        while batch.push(&[0xa5; 60]) {}
        assert_eq!(link.send(&batch, 0), Ok(4));
        drop(link);
        let capture = open.0.lock().unwrap();
        let mut reader = Reader::new(&capture[..]).unwrap();
        let mut count = 0;
        while let Some(record) = reader.next().unwrap() {
            assert!(record.unix_nanos > 1_600_000_000_000_000_000, "the wall clock's");
            count += 1;
        }
        assert_eq!(count, 4);
    }
}
