//! Opening an image: finding, creating, locking and measuring it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};

use super::super::journal::{FileJournal, Mark, Word, is_left_over};
use super::super::writer::{SyncPolicy, WriterOptions};
use crate::holder::Holder;
use crate::units::{SECTOR_SIZE, Sectors};
use crate::wake::Waker;

/// How an image is to be opened.
#[derive(Debug, Clone, Default)]
pub struct FileOptions {
    /// The size of the whole image. A missing image is created with it, sparse; an existing one
    /// must have it, unless it is empty, as one is whose creation was cut off.
    pub size: Option<Sectors>,
    /// Take no writes. The image is then never created, and several readers can share it.
    pub read_only: bool,
    /// Sectors at the start of the image that are not part of the disk.
    pub offset: Sectors,
    /// Sectors of the disk; `None` for all that follow `offset`.
    pub length: Option<Sectors>,
    /// What IDENTIFY tells as the serial number, cut to 20 characters; `None` for one made from
    /// the image's device and inode.
    pub serial: Option<String>,
    /// When writes are made durable.
    pub sync: SyncPolicy,
    /// With [`SyncPolicy::EveryGroup`], has writes made durable by a journal, and the image itself
    /// once in a while.
    pub journal: Option<FileJournal>,
    /// The real-time priority, from 1 to 99, of the thread that writes; none without the right to it.
    pub priority: Option<u8>,
    /// Wakes the poll loop when something it may wait for is done.
    pub waker: Option<Waker>,
}

impl FileOptions {
    /// How the image's writer is to work.
    pub(super) fn writer(&self, name: String) -> WriterOptions {
        let Self { sync: policy, priority, ref waker, .. } = *self;
        WriterOptions { name, policy, priority, waker: waker.clone() }
    }
}

/// Why an image cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// There is no such file, and none was to be made.
    #[error("image {path} does not exist; give a size to have it created")]
    NotFound {
        /// The image.
        path: PathBuf,
    },
    /// It is a directory.
    #[error("image {path} is a directory; name a file in it")]
    IsDirectory {
        /// The image.
        path: PathBuf,
    },
    /// It is a block device.
    #[error("image {path} is a block device; use the device backend for it")]
    IsDevice {
        /// The image.
        path: PathBuf,
    },
    /// It is something else that is no file, a socket perhaps.
    #[error("image {path} is not a regular file")]
    NotAFile {
        /// The image.
        path: PathBuf,
    },
    /// The user may not.
    #[error("no permission to {} image {path}", if *.write { "write to" } else { "read" })]
    NoPermission {
        /// The image.
        path: PathBuf,
        /// Whether it was to be written to.
        write: bool,
        /// The refusal.
        source: io::Error,
    },
    /// Another process, or another target of this one, has locked it.
    #[error("image {path} is in use{}", by(.holder.as_ref()))]
    InUse {
        /// The image.
        path: PathBuf,
        /// Who has it, when that can be found out.
        holder: Option<Holder>,
    },
    /// Some of what was acknowledged is not in it, but in a journal that is not the one to be used.
    #[error(
        "image {path} was not closed, and journal {journal} has writes that it lacks: name that \
         journal in the configuration, or bring them into the image: aoe-server image recover {} {}",
        Word(.journal), Word(.path)
    )]
    Journalled {
        /// The image.
        path: PathBuf,
        /// The journal.
        journal: PathBuf,
    },
    /// It has not a single whole sector.
    #[error(
        "image {path} has {bytes} bytes, less than one sector; give a size to have an empty \
             one grown"
    )]
    Empty {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
    },
    /// It has another size than was asked for. It is left as it is.
    #[error(
        "image {path} has {found} bytes, but {wanted} were asked for; change the size asked \
             for, or that of the image (truncate -s {wanted})"
    )]
    SizeDiffers {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// The size asked for, in bytes.
        wanted: u64,
    },
    /// The window does not lie in the image.
    #[error("sectors {offset} to {end} were asked for, but image {path} has {size} sectors")]
    Window {
        /// The image.
        path: PathBuf,
        /// The first sector.
        offset: Sectors,
        /// The sector after the last one; the greatest number on overflow.
        end: Sectors,
        /// Sectors of the image.
        size: Sectors,
    },
    /// It is larger than this machine can map.
    #[error("image {path} has {bytes} bytes, more than this machine can map")]
    TooLarge {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
    },
    /// A system call failed.
    #[error("cannot {op} {path}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// The image, or its directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn by(holder: Option<&Holder>) -> String {
    match holder {
        Some(holder) => format!(" by {holder}"),
        None => String::new(),
    }
}

/// The part of an image that is the disk, in bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// Where it starts.
    pub(super) start: u64,
    /// Its sectors.
    pub(super) size: Sectors,
}

impl Window {
    /// The window that `options` ask for in a file of `bytes`.
    pub(super) fn new(path: &Path, bytes: u64, options: &FileOptions) -> Result<Self, FileError> {
        let whole = Sectors::from_bytes(bytes);
        if whole.0 == 0 {
            return Err(FileError::Empty { path: path.into(), bytes });
        }
        let rest = whole.0.saturating_sub(options.offset.0);
        let size = options.length.map_or(rest, |length| length.0);
        let end = options.offset.0.saturating_add(size);
        match (options.offset.bytes(), Sectors(end).bytes()) {
            (Some(start), Some(_)) if size > 0 && end <= whole.0 => {
                Ok(Self { start, size: Sectors(size) })
            }
            _ => Err(FileError::Window {
                path: path.into(),
                offset: options.offset,
                end: Sectors(end),
                size: whole,
            }),
        }
    }

    /// Where it ends, in bytes of the file. It was checked that this can be said.
    pub(super) fn end(&self) -> u64 {
        self.start + self.size.0 * SECTOR_SIZE as u64
    }
}

/// Opens and locks the image, and creates it when that was asked for; tells its length in bytes.
pub(super) fn open_image(path: &Path, options: &FileOptions) -> Result<(File, u64), FileError> {
    let (file, created) = match plain_open(path, options, false) {
        Ok(file) => (file, false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if options.size.is_none() || options.read_only {
                return Err(FileError::NotFound { path: path.into() });
            }
            match plain_open(path, options, true) {
                Ok(file) => (file, true),
                // Somebody was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let file = plain_open(path, options, false);
                    (file.map_err(|source| refused(path, options, "open", source))?, false)
                }
                Err(source) => return Err(refused(path, options, "create", source)),
            }
        }
        Err(source) => return Err(refused(path, options, "open", source)),
    };
    let failed = |op| move |source| FileError::Io { op, path: path.into(), source };
    let metadata = file.metadata().map_err(failed("examine"))?;
    check_kind(path, &metadata)?;
    lock(path, &file, options.read_only)?;
    check_mark(path, &file, options)?;
    // Only now: whoever held the lock may have changed it.
    let bytes = file.metadata().map_err(failed("examine"))?.len();
    let wanted = match options.size {
        Some(size) => {
            size.bytes().ok_or(FileError::TooLarge { path: path.into(), bytes: u64::MAX })?
        }
        None => bytes,
    };
    if bytes == wanted {
        return Ok((file, bytes));
    }
    if bytes != 0 || options.read_only {
        return Err(FileError::SizeDiffers { path: path.into(), found: bytes, wanted });
    }
    let grown = grow(path, &file, wanted);
    if grown.is_err() && created {
        // Not to leave half an image; if that fails too, an empty one is taken up again.
        let _ = fs::remove_file(path);
    }
    grown.map(|()| (file, wanted))
}

fn plain_open(path: &Path, options: &FileOptions, create: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(!options.read_only)
        .create_new(create)
        .mode(0o600)
        // A FIFO must not stop the program until somebody writes to it.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

fn refused(path: &Path, options: &FileOptions, op: &'static str, source: io::Error) -> FileError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::NotFound => FileError::NotFound { path },
        io::ErrorKind::IsADirectory => FileError::IsDirectory { path },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            FileError::NoPermission { path, write: !options.read_only, source }
        }
        _ => FileError::Io { op, path, source },
    }
}

fn check_kind(path: &Path, metadata: &fs::Metadata) -> Result<(), FileError> {
    let path = path.to_path_buf();
    let kind = metadata.file_type();
    if kind.is_file() {
        Ok(())
    } else if kind.is_dir() {
        Err(FileError::IsDirectory { path })
    } else if kind.is_block_device() {
        Err(FileError::IsDevice { path })
    } else {
        Err(FileError::NotAFile { path })
    }
}

/// An image that lacks what a journal has is none of ours without that journal. One that has the mark
/// of the journal that is to be used has been replayed onto when the journal was opened.
fn check_mark(path: &Path, file: &File, options: &FileOptions) -> Result<(), FileError> {
    let failed = |op| move |source| FileError::Io { op, path: path.into(), source };
    let Some(mark) = Mark::of(file).map_err(failed("read the mark of"))? else { return Ok(()) };
    if options.journal.as_ref().is_some_and(|journal| mark.is_of(journal)) {
        return Ok(());
    }
    if !is_left_over(&mark) {
        return Err(FileError::Journalled { path: path.into(), journal: mark.path });
    }
    if options.read_only {
        return Ok(());
    }
    Mark::remove(file).map_err(failed("take the mark from"))
}

/// Readers share the image, a writer has it alone.
fn lock(path: &Path, file: &File, read_only: bool) -> Result<(), FileError> {
    let operation = if read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(FileError::InUse { path: path.into(), holder: Holder::of_lock_on(file) })
        }
        Err(error) => Err(FileError::Io { op: "lock", path: path.into(), source: error.into() }),
    }
}

/// Makes an empty image `bytes` long, and the image with its name durable.
fn grow(path: &Path, file: &File, bytes: u64) -> Result<(), FileError> {
    let failed = |op| move |source| FileError::Io { op, path: path.into(), source };
    file.set_len(bytes).map_err(failed("set the size of"))?;
    file.sync_all().map_err(failed("sync"))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| FileError::Io { op: "sync", path: directory.into(), source })
}

/// Whether holes can be punched: tried far behind the end, where there is nothing to lose.
pub(super) fn can_punch(file: &File, bytes: u64) -> bool {
    const FAR: u64 = 1 << 20;
    let Some(offset) = bytes.checked_next_multiple_of(FAR).and_then(|end| end.checked_add(FAR))
    else {
        return false;
    };
    rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, FAR)
        .is_ok()
}

/// Whether the kernel tells this process which pages of the file are in memory. To those who could
/// neither write to it nor own it, it says that all of them are.
pub(super) fn can_tell_residency(file: &File, options: &FileOptions) -> bool {
    let owner = || {
        file.metadata().is_ok_and(|metadata| metadata.uid() == rustix::process::geteuid().as_raw())
    };
    !options.read_only || owner()
}

/// A serial number that lasts as long as the image stays the same file.
pub(super) fn default_serial(file: &File) -> String {
    // FNV-1a over device and inode: any hash that stays the same in all versions would do.
    let fnv = |hash: u64, octet: u8| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
    let id = file.metadata().map_or([0; 2], |metadata| [metadata.dev(), metadata.ino()]);
    let octets = id.iter().flat_map(|number| number.to_le_bytes());
    format!("AOE{:016X}", octets.fold(0xcbf2_9ce4_8422_2325, fnv))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_must_lie_in_the_image() {
        let window = |offset, length| {
            let options = FileOptions { offset: Sectors(offset), length, ..FileOptions::default() };
            Window::new(Path::new("image"), 10 * 512 + 100, &options).ok()
        };
        let sectors = |n| Some(Sectors(n));
        assert_eq!(window(0, None), Some(Window { start: 0, size: Sectors(10) }));
        assert_eq!(window(3, None), Some(Window { start: 1536, size: Sectors(7) }));
        assert_eq!(window(3, sectors(7)), window(3, None));
        assert_eq!(window(3, sectors(8)), None);
        assert_eq!(window(3, sectors(0)), None);
        assert_eq!(window(10, None), None);
        assert_eq!(window(u64::MAX, None), None);
        assert_eq!(window(1, sectors(u64::MAX)), None);
    }
}
