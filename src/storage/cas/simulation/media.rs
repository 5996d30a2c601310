//! What a simulated store is kept in, all of which loses power at once.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use super::super::StoreId;
use super::super::index::MemRuns;
use super::super::manifest::Layout;
use super::super::recover::{NewStore, StoreMedia, found};
use super::super::root::{ROOTS, RootSlot};
use super::super::runs::Runs;
use crate::blob::fault::FaultBlobStore;
use crate::blob::mem::MemBlobStore;
use crate::blob::{Blob, BlobError, BlobId, BlobInfo, BlobPrefix, BlobStore, Put};
use crate::storage::journal::simulation::disk::{Chance, Power, SimulatedDisk};
use crate::storage::journal::{Geometry, JournalId, Medium as _, Sequence, format};

pub(super) const STORE: StoreId = StoreId(*b"simulated store!");
pub(super) const JOURNAL: JournalId = JournalId(*b"simulated writes");
pub(super) const BLOCK_BYTES: u32 = 4096;

/// Blobs on a machine whose power is cut.
pub(super) struct Blobs {
    pub(super) inner: FaultBlobStore<MemBlobStore>,
    power: Arc<Mutex<Power>>,
    /// The disk with the roots, when blobs are only durable some time after it was synced: a mistake.
    late: bool,
    volatile: Mutex<Vec<BlobId>>,
}

impl Blobs {
    fn is_cut(&self) -> bool {
        self.power.lock().unwrap().cut
    }

    fn dead(&self, id: BlobId) -> Result<(), BlobError> {
        if !self.is_cut() {
            return Ok(());
        }
        let (op, path) = ("reach", id.to_string().into());
        Err(BlobError::Io { op, path, source: std::io::ErrorKind::HostUnreachable.into() })
    }

    /// The power comes back.
    pub(super) fn restore_power(&self) {
        self.inner.restore_power().unwrap();
        for id in self.volatile.lock().unwrap().drain(..) {
            let _ = self.inner.inner().delete(id);
        }
    }
}

impl BlobStore for Blobs {
    fn put(&self, blob: &Blob<'_>) -> Result<Put, BlobError> {
        self.dead(blob.id())?;
        {
            let mut power = self.power.lock().unwrap();
            if let Some(fuse) = &mut power.fuse {
                *fuse = fuse.saturating_sub(1);
                if *fuse == 0 {
                    power.cut = true;
                    // The blob is there afterwards, or not.
                    self.inner.cut_power_after(0);
                }
            }
        }
        let put = self.inner.put(blob)?;
        if self.late {
            // The one before is durable by now.
            let mut volatile = self.volatile.lock().unwrap();
            volatile.clear();
            if put == Put::Written {
                volatile.push(blob.id());
            }
        }
        Ok(put)
    }

    fn get(&self, id: BlobId) -> Result<Vec<u8>, BlobError> {
        self.dead(id)?;
        self.inner.get(id)
    }

    fn get_range(&self, id: BlobId, offset: u64, into: &mut [u8]) -> Result<(), BlobError> {
        self.dead(id)?;
        self.inner.get_range(id, offset, into)
    }

    fn info(&self, id: BlobId) -> Result<BlobInfo, BlobError> {
        self.dead(id)?;
        self.inner.info(id)
    }

    fn list(
        &self,
        prefix: &BlobPrefix,
        each: &mut dyn FnMut(BlobInfo) -> ControlFlow<()>,
    ) -> Result<(), BlobError> {
        self.inner.list(prefix, each)
    }

    fn delete(&self, id: BlobId) -> Result<(), BlobError> {
        self.dead(id)?;
        self.inner.delete(id)
    }
}

/// How the medium lies, for the tests of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Puts {
    Durable,
    /// A power cut may undo any of them.
    Lost,
    /// A power cut undoes the last one.
    Late,
}

/// Everything that survives a crash.
pub(super) struct Media {
    pub(super) power: Arc<Mutex<Power>>,
    pub(super) journal: SimulatedDisk,
    pub(super) roots: SimulatedDisk,
    pub(super) blobs: Arc<Blobs>,
    pub(super) runs: MemRuns,
}

impl Media {
    /// A new store.
    pub(super) fn new(seed: u64, geometry: Geometry, layout: Layout, puts: Puts) -> Self {
        let power = Arc::new(Mutex::new(Power::new(seed)));
        let journal = SimulatedDisk::new(usize::try_from(geometry.bytes()).unwrap(), &power);
        let roots = SimulatedDisk::new(usize::try_from(ROOTS).unwrap(), &power);
        format(&journal, JOURNAL, geometry, Sequence(0)).unwrap();
        let inner = match puts {
            Puts::Lost => FaultBlobStore::with_lost_puts(MemBlobStore::new(), seed),
            _ => FaultBlobStore::new(MemBlobStore::new(), seed),
        };
        let new = NewStore { id: STORE, journal: JOURNAL, block_bytes: BLOCK_BYTES, layout };
        let slot = found(&inner, &new).unwrap();
        inner.settle();
        roots.write_at(RootSlot::place(slot.commit), &slot.emit()).unwrap();
        roots.sync().unwrap();
        let late = puts == Puts::Late;
        let (blobs, volatile) = (Arc::clone(&power), Mutex::default());
        let blobs = Arc::new(Blobs { inner, power: blobs, late, volatile });
        Self { power, journal, roots, blobs, runs: MemRuns::new() }
    }

    /// What a store is opened from.
    pub(super) fn handed_out(&self) -> StoreMedia {
        StoreMedia {
            path: "simulated".into(),
            blobs: Arc::<Blobs>::clone(&self.blobs),
            roots: Arc::new(self.roots.clone()),
            journal: Arc::new(self.journal.clone()),
            runs: Runs::Memory(self.runs.clone()),
        }
    }

    /// What a power cut leaves.
    pub(super) fn lose_power(&self, chance: &mut Chance) {
        self.journal.lose_power();
        self.roots.lose_power();
        self.blobs.restore_power();
        #[allow(clippy::cast_possible_truncation, reason = "it is below 256")]
        self.runs.crash(&mut || chance.below(256) as u8);
    }
}
