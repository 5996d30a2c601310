//! Where a journal keeps its octets.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::aligned::ALIGNMENT;

/// Storage of fixed length that several threads may use at once. What was written survives power
/// loss only once a [`Self::sync`] that began afterwards has succeeded; until then any part of it
/// may be lost, in any order.
pub trait Medium: Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// When it cannot be told.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills `into` from byte `offset` on.
    ///
    /// # Errors
    /// When not all of it can be had.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes all of `octets` from byte `offset` on.
    ///
    /// # Errors
    /// When not all of it was written.
    fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()>;

    /// Makes durable what was written before.
    ///
    /// # Errors
    /// After which nothing is known of what was written since the last sync that succeeded, not
    /// even if another one succeeds.
    fn sync(&self) -> io::Result<()>;

    /// Syncs what others have written, too, and forgets what is remembered of it: later reads tell
    /// what is there. After a sync that failed the kernel takes what it could not write for written,
    /// shows it to whoever reads, and loses it with the power.
    ///
    /// # Errors
    /// As of [`Self::sync`].
    fn distrust(&self) -> io::Result<()> {
        self.sync()
    }
}

impl Medium for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }

    fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        self.write_all_at(octets, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn distrust(&self) -> io::Result<()> {
        self.sync_all()?;
        // It keeps what it must; where it does not know the advice, there is nothing to be done.
        let _ = rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed);
        Ok(())
    }
}

/// A file that is written past the page cache where it can be: a record is written once and read only
/// after a crash, so that a copy of it in memory is of no use.
#[derive(Debug, Clone)]
pub(in super::super) struct DirectFile {
    file: Arc<File>,
    /// The same file, opened with `O_DIRECT`; `None` where the file system does not have that.
    direct: Option<Arc<File>>,
}

impl DirectFile {
    pub(in super::super) fn new(file: &Arc<File>) -> Self {
        // By its descriptor: there may be another file of its name by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path);
        Self { file: Arc::clone(file), direct: direct.ok().map(Arc::new) }
    }
}

impl Medium for DirectFile {
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        let aligned = octets.as_ptr().addr().is_multiple_of(ALIGNMENT)
            && octets.len().is_multiple_of(ALIGNMENT)
            && offset.is_multiple_of(ALIGNMENT as u64);
        if aligned && let Some(direct) = &self.direct {
            match direct.write_all_at(octets, offset) {
                // Aligned, and still not as the file system wants it.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                written => return written,
            }
        }
        self.file.write_at(offset, octets)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn distrust(&self) -> io::Result<()> {
        self.file.distrust()
    }
}

impl<M: Medium + ?Sized> Medium for Arc<M> {
    fn bytes(&self) -> io::Result<u64> {
        (**self).bytes()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, into)
    }

    fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        (**self).write_at(offset, octets)
    }

    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }

    fn distrust(&self) -> io::Result<()> {
        (**self).distrust()
    }
}

/// Syncs of one file by several threads.
///
/// The kernel tells of an error once, to whoever syncs next, and a later sync succeeds without what
/// was lost. So syncs go one at a time, and after one that failed all fail.
#[derive(Debug, Default)]
pub(in super::super) struct SyncGuard {
    failed: Mutex<bool>,
}

impl SyncGuard {
    /// Syncs with `sync`, unless an earlier one has failed.
    pub(in super::super) fn sync(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        // Whoever panicked here has perhaps not synced.
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if *failed {
            return Err(io::Error::other("an earlier sync has failed"));
        }
        *failed = true;
        sync()?;
        *failed = false;
        Ok(())
    }
}

/// A medium that two threads sync. Clones are the same medium.
#[derive(Debug)]
pub(in super::super) struct Guarded<M> {
    medium: M,
    guard: Arc<SyncGuard>,
}

impl<M> Guarded<M> {
    pub(in super::super) fn new(medium: M) -> Self {
        Self { medium, guard: Arc::default() }
    }
}

impl<M: Clone> Clone for Guarded<M> {
    fn clone(&self) -> Self {
        Self { medium: self.medium.clone(), guard: Arc::clone(&self.guard) }
    }
}

impl<M: Medium> Medium for Guarded<M> {
    fn bytes(&self) -> io::Result<u64> {
        self.medium.bytes()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.medium.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        self.medium.write_at(offset, octets)
    }

    fn sync(&self) -> io::Result<()> {
        self.guard.sync(|| self.medium.sync())
    }

    fn distrust(&self) -> io::Result<()> {
        self.guard.sync(|| self.medium.distrust())
    }
}
