//! A raw block device, past the page cache.
//!
//! What is in memory of a device cannot be known, so that every read waits as [`Ready::Later`]
//! while the device works, and is handed over when it is asked for again. Reads go through `io_uring`,
//! all that begin in a turn with one system call, or, where the kernel or a sandbox refuses that,
//! through a few threads; see [`ReadMethod`]. For who reads from front to back and waits for each
//! read, some more are begun before they are asked for.
//!
//! Writes are applied in order and synced in groups by one thread, as for files; see [`SyncPolicy`].
//! Sectors that are less than a block of the device are read, changed and written back by that
//! thread.
//!
//! # Invariants
//! * A read starts only when no earlier write to its sectors is still to be applied.
//! * What was read is not handed over once a write to its sectors has been taken after it began.
//! * Nothing is read ahead from a device that was not claimed: others may write to it.
//! * A read that began is on its way to the device after the next progress.

mod ahead;
mod disk;
mod reads;
// As in Cargo.toml.
#[cfg_attr(
    not(any(
        target_arch = "aarch64",
        target_arch = "loongarch64",
        target_arch = "powerpc64",
        target_arch = "riscv64",
        target_arch = "x86_64",
    )),
    path = "no_ring.rs"
)]
mod ring;
mod threads;

pub use super::writer::SyncPolicy;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::sync::Arc;

use self::disk::{DeviceDisk, Geometry};
use self::reads::{Reads, Sought};
use super::writer::{SLOT_BYTES, Writer, WriterOptions};
use super::{Accepted, BlockStorage, DeviceInfo, Fault, Ready, Ticket};
use crate::protocol::ata::AtaText;
use crate::units::{Lba, SECTOR_SIZE, Sectors};
use crate::wake::Waker;

/// Pieces that a read may consist of, so that a long one does not take all buffers: 136 KiB.
const MAX_PIECES: usize = 16;
/// Writes and discards that can be taken and not applied: more than the writer has room for.
const UNAPPLIED: usize = 1024;

/// How a device is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadMethod {
    /// By `io_uring`, or by threads where that cannot be used. The log tells which, and why.
    #[default]
    Auto,
    /// By `io_uring`, or not at all.
    Ring,
    /// By threads.
    Threads,
}

/// How a device is to be opened.
#[derive(Debug, Clone, Default)]
pub struct DeviceOptions {
    /// Take no writes. The device is then not claimed for this process alone.
    pub read_only: bool,
    /// What IDENTIFY tells as the serial number, cut to 20 characters; `None` for the device's
    /// number, which is not sure to stay the same.
    pub serial: Option<String>,
    /// When writes are made durable.
    pub sync: SyncPolicy,
    /// How it is read.
    pub reads: ReadMethod,
    /// The real-time priority, from 1 to 99, of the thread that writes; none without the right to it.
    pub priority: Option<u8>,
    /// Wakes the poll loop when something it may wait for is done.
    pub waker: Option<Waker>,
}

/// Why a device cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no such device.
    #[error("device {path} does not exist")]
    NotFound {
        /// The device.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{path} is not a block device; use the file backend for an image")]
    NotADevice {
        /// What was named.
        path: PathBuf,
    },
    /// Somebody has claimed it.
    #[error(
        "device {path} is in use: unmount it, or stop the RAID, volume group or swap it is \
             part of (lsblk {path} shows it)"
    )]
    Busy {
        /// The device.
        path: PathBuf,
    },
    /// The user may not.
    #[error("no permission to {} device {path}; be root or in its group",
            if *.write { "write to" } else { "read" })]
    NoPermission {
        /// The device.
        path: PathBuf,
        /// Whether it was to be written to.
        write: bool,
        /// The refusal.
        source: io::Error,
    },
    /// It takes no writes.
    #[error("device {path} is write-protected; export it read-only")]
    WriteProtected {
        /// The device.
        path: PathBuf,
    },
    /// It has not a single sector, as an empty drive.
    #[error("device {path} has no medium")]
    Empty {
        /// The device.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {op} {path}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// The device.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Writes that were taken and are not applied yet, in order.
#[derive(Debug, Default)]
struct Unapplied {
    list: heapless::Deque<(Ticket, Range<u64>), UNAPPLIED>,
}

impl Unapplied {
    /// Forgets what has been applied.
    fn advance(&mut self, applied: Ticket) {
        while self.list.front().is_some_and(|(ticket, _)| *ticket <= applied) {
            self.list.pop_front();
        }
    }

    fn overlap(&self, span: &Range<u64>) -> bool {
        self.list.iter().any(|(_, write)| write.start < span.end && span.start < write.end)
    }
}

/// A disk that is a block device.
#[derive(Debug)]
pub struct DeviceStorage {
    info: DeviceInfo,
    path: PathBuf,
    file: Arc<File>,
    /// Not there on a read-only disk.
    writer: Option<Writer>,
    reads: Reads,
    unapplied: Unapplied,
    /// What has been applied as of the last progress.
    applied: Ticket,
    /// Something waits for writes to be applied.
    blocked: bool,
}

impl DeviceStorage {
    /// Opens the device at `path`, for this process alone unless it is opened read-only.
    ///
    /// Starts one thread that writes, and a few that read unless `io_uring` does.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn open(path: impl AsRef<Path>, options: DeviceOptions) -> Result<Self, DeviceError> {
        let path = path.as_ref();
        let failed = |op| move |source| DeviceError::Io { op, path: path.into(), source };
        let number = check_kind(path)?;
        let file = Arc::new(open_device(path, number, options.read_only)?);
        let size = measure(&file).map_err(failed("measure"))?;
        if size.0 == 0 {
            return Err(DeviceError::Empty { path: path.into() });
        }
        let block = rustix::fs::ioctl_blksszget(&*file).map_err(io::Error::from);
        let block = usize::try_from(block.map_err(failed("ask for the block size of"))?)
            .unwrap_or(SECTOR_SIZE)
            .max(SECTOR_SIZE);
        let geometry = Geometry { block };
        let name = path.display().to_string();
        let writer = if options.read_only {
            None
        } else {
            let disk = DeviceDisk::new(Arc::clone(&file), geometry);
            let writer = Writer::start(
                disk,
                WriterOptions {
                    name: name.clone(),
                    policy: options.sync,
                    priority: options.priority,
                    waker: options.waker.clone(),
                },
            );
            Some(writer.map_err(failed("start a thread for"))?)
        };
        let reads = Reads::start(&file, geometry, options.reads, &name, options.waker.as_ref())
            .map_err(|(op, source)| failed(op)(source))?;
        let default_serial = || format!("AOEDEV{number:X}");
        let info = DeviceInfo {
            size,
            serial: AtaText::new(&options.serial.unwrap_or_else(default_serial)),
            model: AtaText::new("aoe-server device"),
            read_only: options.read_only,
            discard: !options.read_only && zeroes_ranges(number),
        };
        Ok(Self {
            info,
            path: path.into(),
            file,
            writer,
            reads,
            unapplied: Unapplied::default(),
            applied: Ticket::NONE,
            blocked: false,
        })
    }

    /// Takes over the size of a device that was resized; tells whether it has changed. For when an
    /// operator asks.
    ///
    /// # Errors
    /// [`DeviceError::Io`] when the device does not tell, [`DeviceError::Empty`] when it has gone;
    /// the size then stays as it was.
    pub fn measure_again(&mut self) -> Result<bool, DeviceError> {
        let size = measure(&self.file).map_err(|source| DeviceError::Io {
            op: "measure",
            path: self.path.clone(),
            source,
        })?;
        if size.0 == 0 {
            return Err(DeviceError::Empty { path: self.path.clone() });
        }
        let changed = size != self.info.size;
        self.info.size = size;
        Ok(changed)
    }

    /// Makes everything that was accepted durable, and closes the device. Dropping does the same,
    /// but cannot tell how it went.
    ///
    /// # Errors
    /// [`Fault::Media`] when not everything is durable.
    pub fn close(mut self) -> Result<(), Fault> {
        self.finish()
    }

    /// Where sectors lie on the device, in bytes.
    fn span(&self, lba: Lba, count: Sectors) -> Result<Range<u64>, Fault> {
        if !lba.fits(count, self.info.size) {
            return Err(Fault::OutOfRange);
        }
        match (lba.offset(), count.bytes()) {
            (Some(start), Some(bytes)) => Ok(start.0..start.0 + bytes),
            _ => Err(Fault::OutOfRange),
        }
    }

    /// Whether what `span` holds has been read, and starts reading it if not.
    fn seek(&mut self, span: &Range<u64>, verify: bool) -> Result<Ready, Fault> {
        match self.reads.find(span, verify) {
            Sought::Done => return Ok(Ready::Done),
            Sought::Failed => return Err(Fault::Media),
            Sought::Flying => return Ok(Ready::Later),
            Sought::Unknown => {}
        }
        self.unapplied.advance(self.applied());
        if self.unapplied.overlap(span) {
            self.blocked = true;
        } else {
            self.reads.begin(span, verify);
        }
        Ok(Ready::Later)
    }

    /// Begins to read what will be asked for after `span`, if its reader goes on as before.
    fn read_ahead(&mut self, span: &Range<u64>) {
        if self.info.read_only {
            return; // it is not claimed
        }
        let Some(more) = self.reads.follow(span) else { return };
        let end = self.info.size.bytes().map_or(more.end, |size| size.min(more.end));
        self.unapplied.advance(self.applied());
        if self.unapplied.overlap(&more) {
            return;
        }
        let len = span.end - span.start;
        let mut at = more.start;
        while at + len <= end && self.reads.begin_ahead(&(at..at + len)) {
            at += len;
        }
        self.reads.submit();
    }

    /// Notes a write or a discard that was taken.
    fn note(&mut self, accepted: Accepted, span: Range<u64>) -> Accepted {
        if let Accepted::Done(ticket) = accepted
            && !span.is_empty()
        {
            self.reads.spoil(&span);
            let noted = self.unapplied.list.push_back((ticket, span));
            debug_assert!(noted.is_ok(), "the room was looked at before");
        }
        accepted
    }

    /// Whether one more write can be noted.
    fn has_room(&mut self) -> bool {
        self.unapplied.advance(self.applied());
        self.blocked |= self.unapplied.list.is_full();
        !self.unapplied.list.is_full()
    }

    fn writer(&mut self) -> Result<&mut Writer, Fault> {
        self.writer.as_mut().ok_or(Fault::WriteProtected)
    }
}

impl BlockStorage for DeviceStorage {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Reads longer than 16 times what a frame holds are [`Fault::Aborted`].
    fn read(&mut self, lba: Lba, into: &mut [u8]) -> Result<Ready, Fault> {
        let span = self.span(lba, Sectors((into.len() / SECTOR_SIZE) as u64))?;
        if into.len().div_ceil(SLOT_BYTES) > MAX_PIECES {
            return Err(Fault::Aborted);
        }
        let mut answer = Ready::Done;
        for piece in pieces(&span) {
            if self.seek(&piece, false)? == Ready::Later {
                answer = Ready::Later;
            }
        }
        if answer == Ready::Done {
            for (piece, part) in pieces(&span).zip(into.chunks_mut(SLOT_BYTES)) {
                self.reads.collect(&piece, part);
            }
            if into.len() <= SLOT_BYTES && !into.is_empty() {
                self.read_ahead(&span);
            }
        }
        Ok(answer)
    }

    fn write(&mut self, lba: Lba, data: &[u8]) -> Result<Accepted, Fault> {
        let span = self.span(lba, Sectors((data.len() / SECTOR_SIZE) as u64))?;
        self.writer()?;
        if !self.has_room() {
            return Ok(Accepted::Later);
        }
        let accepted = self.writer()?.write(span.start, data)?;
        Ok(self.note(accepted, span))
    }

    fn flush(&mut self) -> Result<Accepted, Fault> {
        match &mut self.writer {
            Some(writer) => writer.flush(),
            None => Ok(Accepted::Done(Ticket::NONE)),
        }
    }

    fn discard(&mut self, lba: Lba, count: Sectors) -> Result<Accepted, Fault> {
        let span = self.span(lba, count)?;
        let discard = self.info.discard;
        self.writer()?;
        if !discard {
            return Err(Fault::Aborted);
        }
        if span.is_empty() {
            return Ok(Accepted::Done(Ticket::NONE));
        }
        if !self.has_room() {
            return Ok(Accepted::Later);
        }
        let accepted = self.writer()?.discard(span.start, span.end - span.start)?;
        Ok(self.note(accepted, span))
    }

    fn verify(&mut self, lba: Lba, count: Sectors) -> Result<Ready, Fault> {
        let span = self.span(lba, count)?;
        if span.is_empty() {
            return Ok(Ready::Done);
        }
        let answer = self.seek(&span, true)?;
        if answer == Ready::Done {
            self.reads.release(&span, true);
        }
        Ok(answer)
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
        let mut news = self.reads.progress();
        if let Some(writer) = &mut self.writer {
            news |= writer.progress();
        }
        let applied = self.applied();
        if applied != self.applied {
            self.applied = applied;
            news |= std::mem::take(&mut self.blocked);
        }
        news
    }
}

/// The parts of a span that are read one by one.
fn pieces(span: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let end = span.end;
    let starts = (span.start..end).step_by(SLOT_BYTES);
    starts.map(move |start| start..end.min(start + SLOT_BYTES as u64))
}

/// The number of the device at `path`.
fn check_kind(path: &Path) -> Result<u64, DeviceError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_block_device() => Ok(metadata.rdev()),
        Ok(_) => Err(DeviceError::NotADevice { path: path.into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(DeviceError::NotFound { path: path.into() })
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(DeviceError::NoPermission { path: path.into(), write: false, source: error })
        }
        Err(source) => Err(DeviceError::Io { op: "examine", path: path.into(), source }),
    }
}

fn open_device(path: &Path, number: u64, read_only: bool) -> Result<File, DeviceError> {
    // On a device, O_EXCL claims it: not mounted, and nobody else's in this manner.
    let claim = if read_only { 0 } else { libc::O_EXCL };
    let opened = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .custom_flags(libc::O_DIRECT | claim)
        .open(path);
    let path = path.to_path_buf();
    // Linux lets a protected device be opened for writing, and fails the writes.
    if !read_only && opened.is_ok() && attribute(number, "ro") == Some(1) {
        return Err(DeviceError::WriteProtected { path });
    }
    opened.map_err(|source| match source.kind() {
        io::ErrorKind::ResourceBusy => DeviceError::Busy { path },
        io::ErrorKind::NotFound => DeviceError::NotFound { path },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            DeviceError::NoPermission { path, write: !read_only, source }
        }
        _ if source.raw_os_error() == Some(libc::ENOMEDIUM) => DeviceError::Empty { path },
        _ => DeviceError::Io { op: "open", path, source },
    })
}

fn measure(mut file: &File) -> io::Result<Sectors> {
    file.seek(SeekFrom::End(0)).map(Sectors::from_bytes)
}

/// Whether the device zeroes ranges by itself: a discard alone promises nothing of what is read
/// afterwards.
fn zeroes_ranges(number: u64) -> bool {
    // A partition has no queue of its own, but that of the disk one step up.
    let whole = attribute(number, "queue/write_zeroes_max_bytes");
    whole
        .or_else(|| attribute(number, "../queue/write_zeroes_max_bytes"))
        .is_some_and(|max| max > 0)
}

/// A number that the kernel tells about a device.
fn attribute(number: u64, name: &str) -> Option<u64> {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/{name}")).ok()?;
    text.trim().parse().ok()
}
