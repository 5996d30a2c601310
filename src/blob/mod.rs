//! Blobs: immutable strings of octets, each named by the BLAKE3 of its octets.
//!
//! A store of blobs is all that the archive keeps its data in. What a blob holds (a pack of many
//! blocks, or one block) is not known here.
//!
//! # Invariants every store keeps
//! * A name belongs to one string of octets for ever. Two puts of the same octets are one blob.
//! * When a put returns `Ok`, the blob survives power loss and the end of the process.
//! * A reader finds a blob whole or not at all; one that is being put is not there yet.
//! * [`BlobStore::get`] returns the octets that the name belongs to, or an error. A part cannot be
//!   checked by the name of the whole: see [`BlobStore::get_range`].
//! * Damage never passes for absence, and absence never for damage.
//!
//! What a put that failed leaves is open, and so is what a power cut leaves of one that had not
//! returned: the whole blob or none. A deletion is not promised to survive: after power loss a blob
//! may be back.

// Not forbidden: writing out a part of a file is lifted out by name.
#![deny(unsafe_code)]

mod error;
pub mod fault;
pub mod file;
mod id;
pub mod mem;

use std::ops::ControlFlow;

pub use error::BlobError;
pub use id::{BlobId, BlobPrefix, InvalidBlobId};

/// The longest blob, in octets: packs are a quarter of it. A length beyond it, found on disk, is not
/// worth the memory.
pub const BLOB_MAX: usize = 64 << 20;

/// Octets with their name: what is put. Hashed once, when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob<'a> {
    id: BlobId,
    octets: &'a [u8],
}

impl<'a> Blob<'a> {
    /// Names `octets`.
    pub fn new(octets: &'a [u8]) -> Self {
        Self { id: BlobId::of(octets), octets }
    }

    /// The name.
    pub const fn id(&self) -> BlobId {
        self.id
    }

    /// What it is the name of.
    pub const fn octets(&self) -> &'a [u8] {
        self.octets
    }

    /// How many octets there are.
    fn len(&self) -> u64 {
        self.octets.len() as u64
    }
}

/// What a put came to. The blob is there and durable in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was not there, and has been stored.
    Written,
    /// It was there already; its octets were compared.
    Present,
    /// What was there was damaged, and has been replaced.
    Repaired,
}

/// What a store tells of a blob without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// The name.
    pub id: BlobId,
    /// How many octets it has; of a damaged blob, how many are left.
    pub len: u64,
    /// When it was stored, in seconds since 1970 by the clock of whoever keeps it; 0 if unknown.
    pub stored_unix_seconds: u64,
}

/// A place for blobs. Every method may wait for a disk or a network, so that it is called on worker
/// threads, any number at a time.
pub trait BlobStore: Send + Sync {
    /// Stores a blob. When this returns `Ok`, the blob survives power loss.
    ///
    /// A blob that is there already is compared with the one given: a damaged one is replaced.
    ///
    /// # Errors
    /// [`BlobError::TooLong`] for one that no store takes; [`BlobError::NoSpace`],
    /// [`BlobError::ReadOnly`], [`BlobError::NoPermission`] or [`BlobError::Io`] when it cannot be
    /// stored; [`BlobError::NotABlob`] when something else has its place. After an error the blob
    /// may be there all the same.
    fn put(&self, blob: &Blob<'_>) -> Result<Put, BlobError>;

    /// Stores several blobs, in less time than one by one where the store has a way. They become
    /// durable in no particular order; when this returns `Ok`, all of them are.
    ///
    /// # Errors
    /// As [`BlobStore::put`]; any of the blobs may then be there.
    fn put_many(&self, blobs: &[Blob<'_>]) -> Result<Vec<Put>, BlobError> {
        blobs.iter().map(|blob| self.put(blob)).collect()
    }

    /// The octets of a blob, checked by their name.
    ///
    /// # Errors
    /// [`BlobError::NotFound`]; [`BlobError::Damaged`] or [`BlobError::Overlong`] when its octets
    /// are not the ones that were put; [`BlobError::NotABlob`]; [`BlobError::Io`].
    fn get(&self, id: BlobId) -> Result<Vec<u8>, BlobError>;

    /// Fills `into` with the octets of a blob from `offset` on. **They are not checked**: the name
    /// is that of the whole blob, so that whoever asks for a part has to have a checksum or a name
    /// for it.
    ///
    /// # Errors
    /// [`BlobError::NotFound`]; [`BlobError::Range`] when the blob ends before `into` is full, which
    /// is how a cut-off blob shows; [`BlobError::NotABlob`]; [`BlobError::Io`]. `into` may have been
    /// scribbled on.
    fn get_range(&self, id: BlobId, offset: u64, into: &mut [u8]) -> Result<(), BlobError>;

    /// Fills `into` with the last octets of a blob, and tells how many it has in all. They are not
    /// checked, as in [`BlobStore::get_range`].
    ///
    /// # Errors
    /// As [`BlobStore::get_range`].
    fn get_tail(&self, id: BlobId, into: &mut [u8]) -> Result<u64, BlobError> {
        let BlobInfo { len, .. } = self.info(id)?;
        let wanted = into.len() as u64;
        let offset =
            len.checked_sub(wanted).ok_or(BlobError::Range { id, offset: 0, wanted, len })?;
        self.get_range(id, offset, into).map(|()| len)
    }

    /// What there is to say of a blob without reading it.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], [`BlobError::NotABlob`], [`BlobError::Io`].
    fn info(&self, id: BlobId) -> Result<BlobInfo, BlobError>;

    /// Whether there is a blob of this name. Its octets are not looked at.
    ///
    /// # Errors
    /// [`BlobError::NotABlob`], [`BlobError::Io`].
    fn contains(&self, id: BlobId) -> Result<bool, BlobError> {
        match self.info(id) {
            Ok(_) => Ok(true),
            Err(BlobError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Calls `each` with every blob whose name starts with `prefix`, in the order of their names,
    /// until it breaks. Blobs that come or go meanwhile may be among them or not; those that are
    /// there all the time are.
    ///
    /// # Errors
    /// [`BlobError::NotABlob`], [`BlobError::Io`]: the list is then incomplete.
    fn list(
        &self,
        prefix: &BlobPrefix,
        each: &mut dyn FnMut(BlobInfo) -> ControlFlow<()>,
    ) -> Result<(), BlobError>;

    /// Removes a blob. Whoever does that has to know that nobody needs it: a put of the same octets
    /// that runs meanwhile may find it there and rely on it.
    ///
    /// # Errors
    /// [`BlobError::NotFound`]; [`BlobError::ReadOnly`], [`BlobError::NoPermission`],
    /// [`BlobError::NotABlob`] or [`BlobError::Io`] when it cannot be removed.
    fn delete(&self, id: BlobId) -> Result<(), BlobError>;
}

/// A blob of so many octets can be put.
fn check_len(blob: &Blob<'_>) -> Result<(), BlobError> {
    if blob.octets.len() > BLOB_MAX {
        return Err(BlobError::TooLong { id: blob.id, len: blob.len() });
    }
    Ok(())
}

/// Where the octets from `offset` on start in a blob of `len`, if `wanted` of them are there.
fn check_range(id: BlobId, offset: u64, wanted: usize, len: u64) -> Result<(), BlobError> {
    let wanted = wanted as u64;
    match offset.checked_add(wanted) {
        Some(end) if end <= len => Ok(()),
        _ => Err(BlobError::Range { id, offset, wanted, len }),
    }
}

/// Hands `octets` on if they are the ones that `wanted` is the name of.
fn verified(wanted: BlobId, octets: Vec<u8>) -> Result<Vec<u8>, BlobError> {
    let found = BlobId::of(&octets);
    if found == wanted { Ok(octets) } else { Err(BlobError::Damaged { wanted, found }) }
}
