//! Where a journal keeps its octets.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

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
pub(super) struct Guarded<M> {
    medium: M,
    guard: Arc<SyncGuard>,
}

impl<M> Guarded<M> {
    pub(super) fn new(medium: M) -> Self {
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
}
