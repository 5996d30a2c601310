//! The file that a journal is in: opened and locked, or made.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FlockOperation, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::super::lock::Lock;
use super::error::JournalError;
use super::format::{Geometry, HEADS, Head, JournalId, SEGMENTS_START, Sequence, UNIT};
use super::medium::Medium;
use crate::holder::Holder;

/// A journal's file, which nobody else uses.
#[derive(Debug)]
pub(in super::super) struct JournalFile {
    pub(in super::super) path: PathBuf,
    pub(in super::super) file: Arc<File>,
    pub(in super::super) lock: Lock,
}

impl JournalFile {
    /// Opens and locks the journal at `path`. What is in it is not looked at.
    pub(in super::super) fn open(path: &Path) -> Result<Self, JournalError> {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let file = opened.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => JournalError::NotFound { path: path.into() },
            io::ErrorKind::IsADirectory => JournalError::NotAFile { path: path.into() },
            _ => JournalError::Io { op: "open", path: path.into(), source },
        })?;
        lock_journal(path, &file, FlockOperation::NonBlockingLockExclusive)?;
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(JournalError::NotAFile { path: path.into() });
        }
        Ok(Self::locked(path, file))
    }

    /// Opens the journal at `path` to be read only. Others may read it meanwhile, and none may use it.
    #[cfg(feature = "cas")]
    pub(in super::super) fn examine(path: &Path) -> Result<Self, JournalError> {
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => JournalError::NotFound { path: path.into() },
            _ => JournalError::Io { op: "open", path: path.into(), source },
        })?;
        lock_journal(path, &file, FlockOperation::NonBlockingLockShared)?;
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(JournalError::NotAFile { path: path.into() });
        }
        Ok(Self::locked(path, file))
    }

    /// Makes an empty journal whose entries follow on `last`, in place of whatever is at `path`.
    pub(in super::super) fn create(
        path: &Path,
        geometry: Geometry,
        id: JournalId,
        last: Sequence,
    ) -> Result<Self, JournalError> {
        let new = made_at(path);
        let failed = |op, path: &Path| {
            let path = path.to_path_buf();
            move |source| JournalError::Io { op, path, source }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&new)
            .map_err(failed("create", &new))?;
        lock_journal(&new, &file, FlockOperation::NonBlockingLockExclusive)?;
        let written = format(&file, id, geometry, last)
            .and_then(|()| file.set_len(geometry.bytes()))
            .and_then(|()| file.sync_all());
        if let Err(error) = written {
            // Not to fill a disk that is full. Nobody else can have it: it is locked.
            let _ = fs::remove_file(&new);
            return Err(failed("write", &new)(error));
        }
        rename(&new, path, last == Sequence(0))?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(failed("sync", directory))?;
        // The lock goes with the file, not with its name.
        Ok(Self::locked(path, file))
    }

    fn locked(path: &Path, file: File) -> Self {
        let (path, file) = (path.to_path_buf(), Arc::new(file));
        let lock = Lock::of(&file);
        Self { path, file, lock }
    }
}

/// Where a journal that is to be at `path` is before it is whole.
pub(super) fn made_at(path: &Path) -> PathBuf {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    PathBuf::from(new)
}

/// A name that no other journal has.
pub(in super::super) fn random_id(path: &Path) -> Result<JournalId, JournalError> {
    let mut octets = [0; 16];
    let drawn = rustix::rand::getrandom(&mut octets, rustix::rand::GetRandomFlags::empty());
    drawn.map_err(|error| JournalError::Io {
        op: "draw a name for",
        path: path.into(),
        source: error.into(),
    })?;
    Ok(JournalId(octets))
}

/// Keeps others from using a journal.
fn lock_journal(path: &Path, file: &File, lock: FlockOperation) -> Result<(), JournalError> {
    let failed = |op, source| JournalError::Io { op, path: path.into(), source };
    match rustix::fs::flock(file, lock) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let holder = Holder::of_lock_on(file);
            return Err(JournalError::InUse { path: path.into(), holder });
        }
        Err(error) => return Err(failed("lock", error.into())),
    }
    // Whoever had it may have put another in its place, and be using that.
    let identity = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    let locked = file.metadata().map_err(|source| failed("examine", source))?;
    match fs::metadata(path) {
        Ok(there) if identity(&there) == identity(&locked) => Ok(()),
        _ => Err(JournalError::InUse { path: path.into(), holder: None }),
    }
}

/// Gives a new journal its name. The `first` one at its place must not push out one that somebody
/// else has just made.
fn rename(new: &Path, path: &Path, first: bool) -> Result<(), JournalError> {
    let flags = if first { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
    match renameat_with(CWD, new, CWD, path, flags) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => {
            let _ = fs::remove_file(new);
            Err(JournalError::InUse { path: path.into(), holder: None })
        }
        // A file system without that flag.
        Err(Errno::INVAL) if first => rename(new, path, false),
        Err(error) => {
            Err(JournalError::Io { op: "rename", path: new.into(), source: error.into() })
        }
    }
}

/// Writes an empty journal to `medium`, every octet of it: what was written before is written
/// faster, and its place on the disk is sure. Its first entry comes after `last`.
pub(in super::super) fn format(
    medium: &impl Medium,
    id: JournalId,
    geometry: Geometry,
    last: Sequence,
) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = SEGMENTS_START;
    while at < geometry.bytes() {
        let some = usize::try_from(geometry.bytes() - at).unwrap_or(zeros.len()).min(zeros.len());
        medium.write_at(at, &zeros[..some])?;
        at += some as u64;
    }
    for turn in 0..HEADS {
        let head = Head { id, geometry, mark: 0, turn, released: last, clean: true };
        debug_assert_eq!(head.place(), turn * UNIT as u64, "each has its place");
        medium.write_at(head.place(), &head.emit())?;
    }
    medium.sync()
}
