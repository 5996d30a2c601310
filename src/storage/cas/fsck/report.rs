//! What is found when a store is read through.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::super::{FrameKind, StoreId};
use crate::blob::BlobId;
use crate::storage::journal::{JournalId, Sequence};
use crate::units::{Lba, Sectors};

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Nothing is wrong; worth knowing all the same.
    Note,
    /// Something is not as it was written. By itself no sector is lost with it, or it is told by
    /// [`FsckReport::lost`] which ones are.
    Flaw,
    /// Acknowledged writes are lost, or the whole store cannot be used as it is.
    Loss,
}

/// A part of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackPart {
    /// Its first octets.
    Header,
    /// The list of its frames.
    Directory,
    /// Its last octets.
    Footer,
}

impl PackPart {
    const fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Directory => "directory",
            Self::Footer => "footer",
        }
    }
}

/// Something that is not as it should be, or worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Finding {
    /// A root slot that is not sound.
    #[error(
        "root slot {slot} is damaged, or was torn by a crash; the next commit but one at most writes it again"
    )]
    RootSlot {
        /// 0 or 1.
        slot: u8,
    },
    /// A root slot that was never written, though there were commits enough.
    #[error("root slot {slot} is empty, as it is after a repair; the next commits write it")]
    RootSlotEmpty {
        /// 0 or 1.
        slot: u8,
    },
    /// There is no root slot.
    #[error(
        "no root slot can be used: aoe-server store repair --roots finds the newest state there is"
    )]
    NoRoot,
    /// The newest root slot is gone.
    #[error(
        "the newest root slot is lost: commit {commit}, which is left, lacks what was acknowledged since"
    )]
    RootLost {
        /// The commit of the slot that is left.
        commit: u64,
    },
    /// What a root slot names cannot be read.
    #[error("the state of commit {commit} cannot be read: {why}")]
    Manifest {
        /// The commit.
        commit: u64,
        /// The pack that its manifest is in.
        pack: BlobId,
        /// Why not.
        why: String,
    },
    /// A pack is not there.
    #[error("pack {pack}, number {number}, is missing")]
    PackMissing {
        /// The pack.
        pack: BlobId,
        /// Its number.
        number: u32,
    },
    /// A pack, or a part of it, cannot be read.
    #[error("pack {pack}, number {number}, cannot be read in full: {why}")]
    PackUnreadable {
        /// The pack.
        pack: BlobId,
        /// Its number.
        number: u32,
        /// Why not.
        why: String,
    },
    /// A pack was cut short, or is too long.
    #[error("pack {pack}, number {number}, has {found} octets in place of {wanted}")]
    PackLength {
        /// The pack.
        pack: BlobId,
        /// Its number.
        number: u32,
        /// Octets that there are.
        found: u64,
        /// Octets that there were.
        wanted: u64,
    },
    /// The octets of a pack are not those that it is named after.
    #[error("pack {pack}, number {number}, is not what was written")]
    PackContent {
        /// The pack.
        pack: BlobId,
        /// Its number.
        number: u32,
    },
    /// A part of a pack that tells of its frames is damaged.
    #[error("the {} of pack {pack}, number {number}, is damaged: {why}", .part.name())]
    PackPart {
        /// The pack.
        pack: BlobId,
        /// Its number.
        number: u32,
        /// The part.
        part: PackPart,
        /// What is wrong with it.
        why: String,
    },
    /// A frame is damaged.
    #[error("the {} {id} at octet {offset} of pack {pack}, number {number}, is damaged: {why}", .kind.name())]
    Frame {
        /// The pack.
        pack: BlobId,
        /// Its number.
        number: u32,
        /// Where the frame starts, in octets from the start of the pack.
        offset: u32,
        /// What is in it.
        kind: FrameKind,
        /// The name of what is in it.
        id: super::super::ContentId,
        /// What is wrong with it.
        why: String,
    },
    /// The index is not there, or of no use.
    #[error("the index is made anew when the archive is opened: {why}")]
    IndexUnused {
        /// Why.
        why: String,
    },
    /// The index is damaged.
    #[error("{why}: aoe-server store repair --index makes it anew")]
    IndexDamaged {
        /// What of it.
        why: String,
    },
    /// The index is not what the packs say.
    #[error(
        "the index lacks {missing} places and is wrong about {wrong}: aoe-server store repair --index \
         makes it anew"
    )]
    IndexWrong {
        /// Entries that it should have.
        missing: u64,
        /// Entries that lead elsewhere.
        wrong: u64,
    },
    /// There is no journal.
    #[error("the journal {path} is missing: acknowledged writes may be lost")]
    JournalMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The journal is that of something else.
    #[error(
        "the journal has the name {found} in place of {wanted}: acknowledged writes may be lost"
    )]
    JournalOther {
        /// Its name.
        found: JournalId,
        /// The name that belongs there.
        wanted: JournalId,
    },
    /// The journal is as it was some time ago.
    #[error(
        "the journal is an older copy: it ends with number {last}, and writes up to {released} were given up: \
         acknowledged writes may be lost"
    )]
    JournalOlder {
        /// The last entry that there is.
        last: Sequence,
        /// The last entry that is needed no more.
        released: Sequence,
    },
    /// The journal cannot be read.
    #[error("the journal cannot be read: {why}")]
    JournalUnreadable {
        /// Why not.
        why: String,
    },
    /// Parts of the journal are damaged.
    #[error(
        "the journal is damaged: acknowledged writes with the sequence numbers {} are lost",
        super::super::error::ranges(.lost)
    )]
    JournalDamaged {
        /// What is missing.
        lost: Vec<RangeInclusive<u64>>,
    },
    /// The journal has something that makes no sense.
    #[error("the journal has an entry, number {sequence}, that makes no sense")]
    JournalEntry {
        /// The entry's number.
        sequence: u64,
    },
    /// A blob that no list names, while both root slots and all lists could be read.
    #[error(
        "blob {blob}, of {bytes} octets, belongs to no commit: a crash has left it, and it does no harm"
    )]
    Unlisted {
        /// The blob.
        blob: BlobId,
        /// Its length.
        bytes: u64,
    },
}

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::RootSlotEmpty { .. } | Self::IndexUnused { .. } | Self::Unlisted { .. } => {
                Severity::Note
            }
            Self::RootSlot { .. }
            | Self::PackMissing { .. }
            | Self::PackUnreadable { .. }
            | Self::PackLength { .. }
            | Self::PackContent { .. }
            | Self::PackPart { .. }
            | Self::Frame { .. }
            | Self::IndexDamaged { .. }
            | Self::IndexWrong { .. } => Severity::Flaw,
            Self::NoRoot
            | Self::RootLost { .. }
            | Self::Manifest { .. }
            | Self::JournalMissing { .. }
            | Self::JournalOther { .. }
            | Self::JournalOlder { .. }
            | Self::JournalUnreadable { .. }
            | Self::JournalDamaged { .. }
            | Self::JournalEntry { .. } => Severity::Loss,
        }
    }

    /// Whether there may be, or have been, a state that nothing is known of.
    pub(super) fn hides_a_state(&self) -> bool {
        matches!(
            self,
            Self::RootSlot { .. }
                | Self::RootSlotEmpty { .. }
                | Self::RootLost { .. }
                | Self::Manifest { .. }
                | Self::NoRoot
        )
    }

    /// What kind of finding it is, as a word that never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RootSlot { .. } => "root-slot",
            Self::RootSlotEmpty { .. } => "root-slot-empty",
            Self::NoRoot => "no-root",
            Self::RootLost { .. } => "root-lost",
            Self::Manifest { .. } => "manifest",
            Self::PackMissing { .. } => "pack-missing",
            Self::PackUnreadable { .. } => "pack-unreadable",
            Self::PackLength { .. } => "pack-length",
            Self::PackContent { .. } => "pack-content",
            Self::PackPart { part: PackPart::Header, .. } => "pack-header",
            Self::PackPart { part: PackPart::Directory, .. } => "pack-directory",
            Self::PackPart { part: PackPart::Footer, .. } => "pack-footer",
            Self::Frame { .. } => "frame",
            Self::IndexUnused { .. } => "index-unused",
            Self::IndexDamaged { .. } => "index-damaged",
            Self::IndexWrong { .. } => "index-wrong",
            Self::JournalMissing { .. } => "journal-missing",
            Self::JournalOther { .. } => "journal-other",
            Self::JournalOlder { .. } => "journal-older",
            Self::JournalUnreadable { .. } => "journal-unreadable",
            Self::JournalDamaged { .. } => "journal-damaged",
            Self::JournalEntry { .. } => "journal-entry",
            Self::Unlisted { .. } => "unlisted",
        }
    }

    /// The pack, or other blob, that it is about.
    pub fn blob(&self) -> Option<BlobId> {
        match self {
            Self::Manifest { pack, .. }
            | Self::PackMissing { pack, .. }
            | Self::PackUnreadable { pack, .. }
            | Self::PackLength { pack, .. }
            | Self::PackContent { pack, .. }
            | Self::PackPart { pack, .. }
            | Self::Frame { pack, .. } => Some(*pack),
            Self::Unlisted { blob, .. } => Some(*blob),
            _ => None,
        }
    }
}

/// Sectors that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRange {
    /// The volume.
    pub volume: String,
    /// The snapshot of it; `None` for the volume as it is now.
    pub snapshot: Option<String>,
    /// The first sector.
    pub lba: Lba,
    /// How many.
    pub sectors: Sectors,
    /// What is lost: the blocks themselves, or a node of the tree. Below a node there may have been
    /// zeros as well.
    pub kind: FrameKind,
    /// The pack that it should be in, if that is known.
    pub pack: Option<BlobId>,
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsckCounts {
    /// Packs that are listed.
    pub packs: u64,
    /// Their octets, as they are.
    pub pack_bytes: u64,
    /// Blobs that no list names, and their octets; all, if no state can be read. They are counted even where
    /// [`Finding::Unlisted`] does not tell them: as long as root slots are damaged, none is known to be of no use.
    pub unlisted: (u64, u64),
    /// Frames in those packs.
    pub frames: u64,
    /// Volumes.
    pub volumes: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Nodes that the trees of those have, each counted once.
    pub nodes: u64,
    /// Entries of the index.
    pub index_entries: u64,
    /// Entries of the journal that are not in the trees, and the octets of what they write.
    pub journal: (u64, u64),
}

/// What there is to say of a store that was read through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsckReport {
    /// Where it is.
    pub path: PathBuf,
    /// Its name; `None` if nothing tells it.
    pub store: Option<StoreId>,
    /// The commit that was looked at; `None` if none can be read.
    pub commit: Option<u64>,
    /// How much was looked at.
    pub counts: FsckCounts,
    /// What was found, in the order it was.
    pub findings: Vec<Finding>,
    /// Sectors that cannot be read: by volume, snapshot and place, ranges that touch made one.
    pub lost: Vec<LostRange>,
}

impl FsckReport {
    /// Whether anything is wrong.
    pub fn is_damaged(&self) -> bool {
        !self.lost.is_empty()
            || self.findings.iter().any(|finding| finding.severity() > Severity::Note)
    }
}

/// What is being looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsckPhase {
    /// Packs, by their octets.
    Packs,
    /// The entries of the index.
    Index,
    /// Trees of volumes and snapshots.
    Trees,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsckProgress {
    /// With what.
    pub phase: FsckPhase,
    /// Packs, entries or trees that are done.
    pub done: u64,
    /// Of how many.
    pub of: u64,
    /// Octets that are done; 0 but for packs.
    pub bytes: u64,
    /// Of how many.
    pub of_bytes: u64,
}
