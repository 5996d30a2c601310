//! Root slots: the two places that say which manifest holds. What they name is the store; all else is
//! not yet in it, or no more.
//!
//! # Invariants
//! * A slot is written in turn with the other, so that one torn write never loses both.
//! * A slot that is not sound in every octet, or not in its place, is none.

use std::io;

use super::id::StoreId;
use super::manifest::FrameRef;
use super::octets::{Reader, Writer, is_sealed, seal};
use crate::blob::BLOB_MAX;
use crate::storage::journal::{JournalId, Medium};

/// Octets of a slot: what disks and kernels write at once.
pub(super) const SLOT: usize = 4096;
/// How many slots there are.
const SLOTS: u64 = 2;
/// Octets of both slots.
pub(super) const ROOTS: u64 = SLOTS * SLOT as u64;

const MAGIC: [u8; 8] = *b"AoEroots";
/// The version that is written, and the only one that is read.
const VERSION: u16 = 1;
/// Octets of a slot that are not reserved, the checksum included.
const LEN: usize = 140;
/// More commits than any store will ever have: counting on from less never overflows.
const COMMIT_MAX: u64 = 1 << 63;

/// What a root slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RootSlot {
    pub(super) store: StoreId,
    /// The journal that has the writes after this commit.
    pub(super) journal: JournalId,
    /// Counts the commits of the store: the higher one holds. Less than 2^63.
    pub(super) commit: u64,
    /// Where the manifest is.
    pub(super) manifest: FrameRef,
    /// The number of the pack that it is in.
    pub(super) pack_number: u32,
    /// Octets of that pack.
    pub(super) pack_bytes: u32,
}

/// Why octets are no root slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum RootError {
    /// Something else, or torn, or damaged.
    #[error("it is no root slot, or damaged")]
    Invalid,
    /// A later program wrote it.
    #[error("it has format {0}, and this program knows format 1 only")]
    Version(u16),
}

impl RootSlot {
    /// Where the slot of a commit is, in bytes.
    pub(super) const fn place(commit: u64) -> u64 {
        commit % SLOTS * SLOT as u64
    }

    pub(super) fn emit(&self) -> [u8; SLOT] {
        let mut octets = [0; SLOT];
        let mut writer = Writer::new(&mut octets);
        writer.put(&MAGIC);
        writer.put(&VERSION.to_le_bytes());
        writer.put(&[0; 6]);
        writer.put(&self.store.0);
        writer.put(&self.journal.0);
        writer.put(&self.commit.to_le_bytes());
        writer.put(&self.manifest.emit());
        writer.put(&self.pack_number.to_le_bytes());
        writer.put(&self.pack_bytes.to_le_bytes());
        seal(&mut octets[..LEN]);
        octets
    }

    pub(super) fn parse(octets: &[u8; SLOT]) -> Result<Self, RootError> {
        let mut reader = Reader::new(octets);
        if reader.array() != Some(MAGIC) {
            return Err(RootError::Invalid);
        }
        match reader.u16() {
            Some(VERSION) => {}
            // Another version may have its checksum anywhere; a damaged number is as unknown as a
            // new one.
            found => return Err(RootError::Version(found.unwrap_or_default())),
        }
        let (slot, reserved) = octets.split_at(LEN);
        let sound = is_sealed(slot) && reserved.iter().all(|octet| *octet == 0);
        let root = sound.then(|| Self::parse_rest(reader)).flatten();
        root.ok_or(RootError::Invalid)
    }

    fn parse_rest(mut reader: Reader<'_>) -> Option<Self> {
        reader.reserved::<6>()?;
        let root = Self {
            store: StoreId(reader.array()?),
            journal: JournalId(reader.array()?),
            commit: reader.u64()?,
            manifest: FrameRef::parse(&mut reader)?,
            pack_number: reader.u32()?,
            pack_bytes: reader.u32()?,
        };
        let possible = root.commit < COMMIT_MAX
            && root.pack_bytes as usize <= BLOB_MAX
            && root.manifest.place.is_within(u64::from(root.pack_bytes));
        possible.then_some(root)
    }
}

/// Why no root can be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum RootsError {
    /// Neither slot is sound.
    #[error("it has no root: it is something else, or both copies are damaged")]
    Neither,
    /// A later program wrote one of them.
    #[error("it has format {found}, and this program knows format 1 only")]
    Version {
        /// The format.
        found: u16,
    },
    /// The two are of different stores.
    #[error("its two roots are of different stores, {newer} and {older}")]
    Stores {
        /// The one with the higher commit.
        newer: StoreId,
        /// The other one.
        older: StoreId,
    },
    /// They cannot be read.
    #[error("cannot {op} it")]
    Io {
        /// What was tried.
        op: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// The roots of a store, the newest first: two as a rule. There is one when the other has not been
/// written yet, was torn in writing, or is damaged; whether something newer is lost then shows in the
/// journal, whose entries have to go on where the root's manifest ends.
pub(super) fn read_roots(medium: &impl Medium) -> Result<Vec<RootSlot>, RootsError> {
    // What is found must not vanish after it was acted upon: a process that died may have left it in
    // the page cache only.
    medium.sync().map_err(|source| RootsError::Io { op: "sync", source })?;
    let mut roots = Vec::new();
    let mut trouble = None;
    for place in (0..SLOTS).map(RootSlot::place) {
        let mut octets = [0; SLOT];
        match medium.read_at(place, &mut octets) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            Err(source) => {
                trouble = Some(RootsError::Io { op: "read", source });
                continue;
            }
        }
        match RootSlot::parse(&octets) {
            Ok(root) if RootSlot::place(root.commit) == place => roots.push(root),
            // A copy of the other one.
            Ok(_) | Err(RootError::Invalid) => {}
            // It may name things that this program would overwrite.
            Err(RootError::Version(found)) => return Err(RootsError::Version { found }),
        }
    }
    roots.sort_unstable_by_key(|root| std::cmp::Reverse(root.commit));
    match roots[..] {
        [] => Err(trouble.unwrap_or(RootsError::Neither)),
        [newer, older] if newer.store != older.store => {
            Err(RootsError::Stores { newer: newer.store, older: older.store })
        }
        _ => Ok(roots),
    }
}
