//! An image file: read through a memory map, written with system calls, synced in groups.
//!
//! # Reads
//! A read copies from the map when the pages are known to be in memory: no system call. What is
//! not known is asked of the kernel, and what is not in memory is fetched by a thread while the
//! read waits as [`Ready::Later`]; other reads go on meanwhile. A reader that goes forward is read
//! ahead for.
//!
//! # Writes
//! Writes go through the page cache, which the map shows, and not through the map: that would
//! dirty whole folios. One thread applies them in order and syncs them in groups; see
//! [`SyncPolicy`]. After a failed sync the disk takes no writes until it is opened again. A write
//! that failed for want of space is never acknowledged, but some of its sectors may have been
//! written.
//!
//! # Size
//! An existing image is never grown or cut. When somebody else cuts it short, sectors behind the
//! new end are [`Fault::Media`], and writes there fail rather than bring the file back with zeros
//! in between; when it has its length again, they are served again. Shorter than a page, the lost
//! tail may read as zeros for up to a second, until the length has been looked at.
//! [`FileStorage::refresh`] takes a new size over.

mod map;
mod open;
mod populate;
mod residency;
pub(super) mod sigbus;

pub use super::writer::SyncPolicy;
pub use open::{FileError, FileOptions};

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::string::ToString;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::FallocateFlags;

use self::map::Map;
use self::open::Window;
use self::populate::Populator;
use self::residency::{CHUNK, Damages, PENDING, Pending, Reader, Table};
use super::lock::Lock;
use super::writer::{Disk, Writer, write_all_at};
use super::{Accepted, BlockStorage, DeviceInfo, Fault, Ready, Ticket};
use crate::clock::{self, Instant};
use crate::protocol::ata::AtaText;
use crate::units::{Lba, SECTOR_SIZE, Sectors};

/// `CHUNK` where a place in a file is being computed.
const CHUNK_BYTES: u64 = CHUNK as u64;
/// Chunks that are read ahead of a reader that goes forward: half a megabyte, a few round trips of
/// a fast disk.
const READ_AHEAD: u64 = 8;
/// Places among those pending that reading ahead leaves to reads that wait.
const RESERVED: usize = PENDING / 4;
/// Bytes of one system call that writes. The kernel keeps what is written at once as one folio, and
/// Linux 6.18 looks at all blocks of a folio whenever one of them is written: 25 us where a folio has
/// two megabytes.
const WRITE_MAX: usize = 64 * 1024;
/// Chunks that one call may ask the kernel about, so that the work of a turn stays bounded.
const ASK_LIMIT: u32 = 32;

/// A disk that is a file, or a window of one.
#[derive(Debug)]
pub struct FileStorage {
    info: DeviceInfo,
    path: PathBuf,
    options: FileOptions,
    window: Window,
    map: Arc<Map>,
    table: Table,
    damages: Damages,
    pending: Pending,
    reader: Reader,
    /// The kernel tells which pages are in memory.
    residency_known: bool,
    /// Something that answered later waits for nothing but to be asked again.
    ask_again: bool,
    complained: Option<Instant>,
    populator: Populator,
    /// Not there on a read-only disk.
    writer: Option<Writer>,
    file: Arc<File>,
    // Dropped last: by then everything is written.
    _lock: Lock,
}

impl FileStorage {
    /// Opens the image at `path`, and creates it when it is missing and a size is given.
    ///
    /// Starts two threads, one that writes and one that waits for pages. The image is locked
    /// against other writers until the storage is dropped.
    ///
    /// # Errors
    /// [`FileError`]; the image is then as it was.
    pub fn open(path: impl AsRef<Path>, options: FileOptions) -> Result<Self, FileError> {
        let path = path.as_ref();
        let failed = |op| move |source| FileError::Io { op, path: path.into(), source };
        let (file, bytes) = open::open_image(path, &options)?;
        let file = Arc::new(file);
        let lock = Lock::of(&file);
        let window = Window::new(path, bytes, &options)?;
        warn_of_tail(path, bytes);
        let map = Arc::new(
            Map::new(Arc::clone(&file), addressable(path, &window)?).map_err(failed("map"))?,
        );
        let name = path.display().to_string();
        let waker = options.waker.clone();
        let populator = Populator::start(Arc::clone(&file), bytes, name.clone(), waker)
            .map_err(failed("start a thread for"))?;
        let writer = if options.read_only {
            None
        } else {
            let disk = FileDisk::new(Arc::clone(&file));
            let writer = options.writer(name);
            let journal =
                options.journal.as_ref().filter(|_| options.sync == SyncPolicy::EveryGroup);
            let started = match journal {
                Some(journal) => journal
                    .mark(path, &file)
                    .and_then(|image| Writer::start_journalled(disk, image, journal, writer)),
                None => Writer::start(disk, writer),
            };
            Some(started.map_err(failed("start to write to"))?)
        };
        let serial = match &options.serial {
            Some(serial) => AtaText::new(serial),
            None => AtaText::new(&open::default_serial(&file)),
        };
        let info = DeviceInfo {
            size: window.size,
            serial,
            model: AtaText::new("aoe-server file"),
            read_only: options.read_only,
            discard: !options.read_only && open::can_punch(&file, bytes),
        };
        Ok(Self {
            info,
            path: path.into(),
            window,
            table: Table::new(chunks(&window)),
            damages: Damages::default(),
            pending: Pending::default(),
            reader: Reader::default(),
            residency_known: open::can_tell_residency(&file, &options),
            ask_again: false,
            complained: None,
            options,
            map,
            populator,
            writer,
            file,
            _lock: lock,
        })
    }

    /// Looks whether the image has been grown or cut, and takes its new size over; tells whether
    /// the size of the disk has changed. A window of fixed length stays as it is. Some system
    /// calls: for when an operator asks.
    ///
    /// # Errors
    /// [`FileError`] when the window no longer lies in the image, or it cannot be mapped; the disk
    /// then stays as it was, and what it no longer has is [`Fault::Media`].
    pub fn measure_again(&mut self) -> Result<bool, FileError> {
        let failed = |op, source| FileError::Io { op, path: self.path.clone(), source };
        let metadata = self.file.metadata().map_err(|source| failed("examine", source))?;
        let bytes = metadata.len();
        let window = Window::new(&self.path, bytes, &self.options)?;
        self.populator.pulse().len.store(bytes, Ordering::Relaxed);
        if window == self.window {
            return Ok(false);
        }
        let len = addressable(&self.path, &window)?;
        let map = Map::new(Arc::clone(&self.file), len).map_err(|source| failed("map", source))?;
        self.map = Arc::new(map);
        self.window = window;
        self.table = Table::new(chunks(&window));
        self.damages = Damages::default();
        self.info.size = window.size;
        Ok(true)
    }

    /// Makes everything that was accepted durable, and closes the image. Dropping does the same,
    /// but cannot tell how it went.
    ///
    /// # Errors
    /// [`Fault::Media`] when not everything is durable.
    pub fn close(mut self) -> Result<(), Fault> {
        self.finish()
    }

    /// Where sectors lie in the file.
    #[inline]
    fn span(&self, lba: Lba, bytes: u64) -> Result<Range<u64>, Fault> {
        let count = Sectors(bytes / SECTOR_SIZE as u64);
        debug_assert_eq!(bytes % SECTOR_SIZE as u64, 0, "whole sectors are asked for");
        if !lba.fits(count, self.window.size) {
            return Err(Fault::OutOfRange);
        }
        // It lies in the window, whose end can be said in bytes.
        let start = self.window.start + lba.0 * SECTOR_SIZE as u64;
        Ok(start..start + bytes)
    }

    /// Whether the sectors can be copied now: they are in memory, or were a moment ago.
    #[inline]
    fn ready(&mut self, span: &Range<u64>) -> Result<Ready, Fault> {
        if span.is_empty() {
            return Ok(Ready::Done);
        }
        if self.writer.as_ref().is_some_and(Writer::has_lost_track) {
            return Err(Fault::Media);
        }
        let pulse = self.populator.pulse();
        if span.end > pulse.len.load(Ordering::Relaxed) {
            self.check_len(span.end)?;
        }
        let tick = self.populator.pulse().tick.load(Ordering::Relaxed);
        let (first, last) = (span.start / CHUNK_BYTES, (span.end - 1) / CHUNK_BYTES);
        if !self.reader.is_at(last) && self.reader.moves_to(last) {
            self.read_ahead(last, tick);
        }
        for chunk in first..=last {
            if !self.table.is_fresh(chunk, tick) {
                return self.fetch(span, chunk..=last, tick);
            }
        }
        Ok(Ready::Done)
    }

    /// The slow path of [`Self::ready`]: finds out about `chunks`, and has fetched what is missing.
    #[cold]
    fn fetch(
        &mut self,
        span: &Range<u64>,
        chunks: std::ops::RangeInclusive<u64>,
        tick: u32,
    ) -> Result<Ready, Fault> {
        let mut answer = Ready::Done;
        let mut asked = 0;
        for chunk in chunks {
            if self.table.is_fresh(chunk, tick) {
                continue;
            }
            if asked == ASK_LIMIT {
                self.ask_again = true;
                return Ok(Ready::Later);
            }
            asked += 1;
            let wanted = self.pages_of(chunk, span);
            let applied = self.applied();
            let damage = self.damages.look(chunk, tick, applied);
            if damage.is_some_and(|pages| pages & wanted != 0) {
                return Err(Fault::Media);
            }
            if self.pending.contains(chunk, true) {
                answer = Ready::Later;
            } else if !self.is_resident(chunk, wanted, damage.is_some(), tick) {
                answer = Ready::Later;
                if self.pending.room() > 0 {
                    self.request(chunk, true);
                }
            }
        }
        Ok(answer)
    }

    /// Whether the `wanted` pages of a chunk are in memory, by what the kernel says.
    fn is_resident(&mut self, chunk: u64, wanted: u64, damaged: bool, tick: u32) -> bool {
        if !self.residency_known {
            // Of a chunk that was just fetched and found damaged, the other pages are there.
            return damaged;
        }
        let (offset, len) = self.place(chunk);
        let Ok(resident) = self.map.resident(offset, len) else {
            // A sandbox may forbid the question. Asked on, sound pages of a damaged chunk would be
            // fetched again and again and never be served.
            self.residency_known = false;
            return damaged;
        };
        let all = mask(len.div_ceil(self.map.page()));
        if resident == all {
            self.table.note(chunk, tick);
        }
        resident & wanted == wanted
    }

    fn request(&mut self, chunk: u64, wanted: bool) {
        self.pending.add(chunk, wanted);
        self.populator.request(chunk, &self.map);
    }

    /// Has chunks after `chunk` fetched before they are asked for.
    fn read_ahead(&mut self, chunk: u64, tick: u32) {
        let end = chunks(&self.window).min(chunk + 1 + READ_AHEAD);
        for next in chunk + 1..end {
            if self.pending.room() <= RESERVED {
                return;
            }
            let applied = self.applied();
            if !self.table.is_fresh(next, tick)
                && !self.pending.contains(next, false)
                && self.damages.look(next, tick, applied).is_none()
                && !self.is_resident(next, u64::MAX, false, tick)
                && !self.table.is_fresh(next, tick)
            {
                self.request(next, false);
            }
        }
    }

    /// Offset and length of a chunk in the map.
    #[allow(clippy::cast_possible_truncation, reason = "the chunk lies in the map")]
    fn place(&self, chunk: u64) -> (usize, usize) {
        let offset = (chunk * CHUNK_BYTES) as usize;
        (offset, CHUNK.min(self.map.len() - offset))
    }

    /// The pages of `chunk` that `span` touches, one bit each.
    #[allow(clippy::cast_possible_truncation, reason = "offsets in a chunk")]
    fn pages_of(&self, chunk: u64, span: &Range<u64>) -> u64 {
        let base = chunk * CHUNK_BYTES;
        let start = (span.start.max(base) - base) as usize / self.map.page();
        let end = (span.end.min(base + CHUNK_BYTES) - base) as usize;
        mask(end.div_ceil(self.map.page())) & !mask(start)
    }

    /// Looks whether the file reaches `end`.
    #[cold]
    fn check_len(&mut self, end: u64) -> Result<(), Fault> {
        let len = self.file.metadata().map_err(|_| Fault::Media)?.len();
        self.populator.pulse().len.store(len, Ordering::Relaxed);
        if end <= len {
            return Ok(());
        }
        self.complain("was cut short, sectors past its end cannot be read");
        Err(Fault::Media)
    }

    /// Notes that pages could not be had when they were copied.
    #[cold]
    fn note_damage(&mut self, span: &Range<u64>) {
        // Which page it was is not known; the populator finds out when it is asked for next.
        for chunk in span.start / CHUNK_BYTES..=(span.end - 1) / CHUNK_BYTES {
            self.table.forget(chunk);
        }
        self.complain("has sectors that cannot be read: an I/O error, or it was cut short");
    }

    /// Logs, at most once a second.
    fn complain(&mut self, what: &str) {
        let now = clock::now();
        if self.complained.is_none_or(|last| now.since(last) >= Duration::from_secs(1)) {
            self.complained = Some(now);
            log::error!("image {} {what}", self.path.display());
        }
    }

    fn writer(&mut self) -> Result<&mut Writer, Fault> {
        self.writer.as_mut().ok_or(Fault::WriteProtected)
    }
}

impl BlockStorage for FileStorage {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "the span lies in the map")]
    fn read(&mut self, lba: Lba, into: &mut [u8]) -> Result<Ready, Fault> {
        let span = self.span(lba, into.len() as u64)?;
        if self.ready(&span)? == Ready::Later {
            return Ok(Ready::Later);
        }
        if self.map.copy(span.start as usize, into).is_err() {
            self.note_damage(&span);
            return Err(Fault::Media);
        }
        Ok(Ready::Done)
    }

    fn write(&mut self, lba: Lba, data: &[u8]) -> Result<Accepted, Fault> {
        let span = self.span(lba, data.len() as u64)?;
        let accepted = self.writer()?.write(span.start, data)?;
        if let Accepted::Done(ticket) = accepted
            && !span.is_empty()
        {
            for chunk in span.start / CHUNK_BYTES..=(span.end - 1) / CHUNK_BYTES {
                self.damages.heal(chunk, ticket);
            }
        }
        Ok(accepted)
    }

    fn flush(&mut self) -> Result<Accepted, Fault> {
        match &mut self.writer {
            Some(writer) => writer.flush(),
            None => Ok(Accepted::Done(Ticket::NONE)),
        }
    }

    fn discard(&mut self, lba: Lba, count: Sectors) -> Result<Accepted, Fault> {
        let span = self.span(lba, count.bytes().ok_or(Fault::OutOfRange)?)?;
        let discard = self.info.discard;
        let writer = self.writer()?;
        if !discard {
            return Err(Fault::Aborted);
        }
        if span.is_empty() {
            return Ok(Accepted::Done(Ticket::NONE));
        }
        // The table may go on calling the chunks resident: a hole is filled without reading.
        writer.discard(span.start, span.end - span.start)
    }

    fn verify(&mut self, lba: Lba, count: Sectors) -> Result<Ready, Fault> {
        let span = self.span(lba, count.bytes().ok_or(Fault::OutOfRange)?)?;
        // Nothing is touched here, so that only the length tells of pages that went away.
        self.check_len(span.end)?;
        self.ready(&span)
    }

    fn applied(&self) -> Ticket {
        self.writer.as_ref().map_or(Ticket::NONE, Writer::applied)
    }

    fn durable(&self) -> Ticket {
        self.writer.as_ref().map_or(Ticket::NONE, Writer::durable)
    }

    fn outcome(&mut self, ticket: Ticket) -> Result<(), Fault> {
        self.writer.as_ref().map_or(Ok(()), |writer| writer.outcome(ticket))
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.writer.as_mut().map_or(Ok(()), Writer::close)
    }

    fn refresh(&mut self) -> bool {
        self.measure_again().unwrap_or_else(|error| {
            log::error!("{error}; its size stays as it was");
            false
        })
    }

    fn progress(&mut self) -> bool {
        let mut news = std::mem::take(&mut self.ask_again);
        if let Some(writer) = &mut self.writer {
            news |= writer.progress();
        }
        while let Some(fetched) = self.populator.take() {
            let tick = self.populator.pulse().tick.load(Ordering::Relaxed);
            // A chunk behind the end of a disk that was cut meanwhile is nobody's.
            if fetched.chunk < chunks(&self.window) {
                if fetched.bad == 0 {
                    self.table.note(fetched.chunk, tick);
                } else {
                    self.damages.note(fetched.chunk, fetched.bad, tick);
                }
            }
            news |= self.pending.remove(fetched.chunk);
        }
        news
    }
}

/// `count` ones, from the lowest bit on.
const fn mask(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// Chunks of the file up to the end of the window.
fn chunks(window: &Window) -> u64 {
    window.end().div_ceil(CHUNK_BYTES)
}

/// The length of the map: from the start of the file, so that chunks are whole pages.
fn addressable(path: &Path, window: &Window) -> Result<usize, FileError> {
    let bytes = window.end();
    match isize::try_from(bytes) {
        Ok(len) => Ok(len.unsigned_abs()),
        Err(_) => Err(FileError::TooLarge { path: path.into(), bytes }),
    }
}

fn warn_of_tail(path: &Path, bytes: u64) {
    let tail = bytes % SECTOR_SIZE as u64;
    if tail != 0 {
        log::warn!(
            "image {}: its last {tail} bytes are less than a sector and not served",
            path.display()
        );
    }
}

/// The file, as the writer sees it.
#[derive(Debug, Clone)]
pub(super) struct FileDisk {
    file: Arc<File>,
}

impl FileDisk {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self { file }
    }

    /// The file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Syncs, and has the kernel read from the disk again: after a sync that failed, it may hold what
    /// never got there and call it clean. For a file that somebody did not close.
    pub(super) fn distrust_cache(&self) -> io::Result<()> {
        self.file.sync_all()?;
        // It keeps what it must; where it does not know the advice, there is nothing to be done.
        let _ = rustix::fs::fadvise(&*self.file, 0, None, rustix::fs::Advice::DontNeed);
        Ok(())
    }
}

impl Disk for FileDisk {
    fn len(&mut self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn write(&mut self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let (mut at, mut rest) = (offset, parts);
        while !rest.is_empty() {
            let mut len = 0;
            let fits = |part: &&IoSlice<'_>| {
                len += part.len();
                len <= WRITE_MAX
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (some, others) = rest.split_at_mut(count);
            let bytes: usize = some.iter().map(|part| part.len()).sum();
            write_all_at(at, some, |at, parts| Ok(rustix::io::pwritev(&*self.file, parts, at)?))?;
            (at, rest) = (at + bytes as u64, others);
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn punch(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&*self.file, flags, offset, len)?)
    }
}
