//! Blobs in memory: for tests, simulations and caches. Nothing in it survives the process.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Blob, BlobError, BlobId, BlobInfo, BlobPrefix, BlobStore, Put, check_len, check_range, verified,
};

#[derive(Debug, Clone)]
struct Stored {
    octets: Arc<[u8]>,
    unix_seconds: u64,
}

/// Blobs in memory. It has no clock: the time it stores blobs at is what it was last told.
#[derive(Debug, Default)]
pub struct MemBlobStore {
    blobs: Mutex<BTreeMap<BlobId, Stored>>,
    unix_seconds: AtomicU64,
}

impl MemBlobStore {
    /// An empty store, in 1970.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells what time it is: seconds since 1970.
    pub fn set_time(&self, unix_seconds: u64) {
        self.unix_seconds.store(unix_seconds, Ordering::Relaxed);
    }

    fn blobs(&self) -> MutexGuard<'_, BTreeMap<BlobId, Stored>> {
        // Nothing is left half done by a panic: each change is one call of the map.
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: BlobId) -> Result<Stored, BlobError> {
        self.blobs().get(&id).cloned().ok_or(BlobError::NotFound { id })
    }
}

impl BlobStore for MemBlobStore {
    fn put(&self, blob: &Blob<'_>) -> Result<Put, BlobError> {
        check_len(blob)?;
        let mut blobs = self.blobs();
        if blobs.contains_key(&blob.id()) {
            return Ok(Put::Present);
        }
        let unix_seconds = self.unix_seconds.load(Ordering::Relaxed);
        blobs.insert(blob.id(), Stored { octets: blob.octets().into(), unix_seconds });
        Ok(Put::Written)
    }

    fn get(&self, id: BlobId) -> Result<Vec<u8>, BlobError> {
        verified(id, self.find(id)?.octets.to_vec())
    }

    fn get_range(&self, id: BlobId, offset: u64, into: &mut [u8]) -> Result<(), BlobError> {
        let octets = self.find(id)?.octets;
        check_range(id, offset, into.len(), octets.len() as u64)?;
        // The range was found to lie in the blob.
        let rest = usize::try_from(offset).ok().and_then(|offset| octets.get(offset..));
        for (into, octet) in into.iter_mut().zip(rest.unwrap_or_default()) {
            *into = *octet;
        }
        Ok(())
    }

    fn info(&self, id: BlobId) -> Result<BlobInfo, BlobError> {
        self.find(id).map(|stored| info(id, &stored))
    }

    fn list(
        &self,
        prefix: &BlobPrefix,
        each: &mut dyn FnMut(BlobInfo) -> ControlFlow<()>,
    ) -> Result<(), BlobError> {
        // Not under the lock: `each` may well ask this store for something.
        let listed: Vec<_> = self
            .blobs()
            .range(prefix.first()..)
            .take_while(|(id, _)| prefix.matches(**id))
            .map(|(id, stored)| info(*id, stored))
            .collect();
        // It broke, or came to the end: both are fine.
        let _ = listed.into_iter().try_for_each(each);
        Ok(())
    }

    fn delete(&self, id: BlobId) -> Result<(), BlobError> {
        self.blobs().remove(&id).map(drop).ok_or(BlobError::NotFound { id })
    }
}

fn info(id: BlobId, stored: &Stored) -> BlobInfo {
    let Stored { octets, unix_seconds } = stored;
    BlobInfo { id, len: octets.len() as u64, stored_unix_seconds: *unix_seconds }
}
