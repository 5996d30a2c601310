//! Why a store cannot do what it was asked.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::ContentId;
use super::frame::FrameError;
use super::index::IndexError;
use super::manifest::ManifestError;
use super::node::NodeError;
use super::pack::PackError;
use super::root::RootsError;
use super::tree::TreeError;
use crate::blob::{BlobError, BlobId};
use crate::storage::journal::{JournalError, JournalId, ScanError, Sequence};
use crate::units::Sectors;

/// Why a block, a node or a manifest cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum ReadError {
    /// The index does not have it.
    #[error("{id} is in no pack that the index knows of")]
    Unknown { id: ContentId },
    /// The index cannot tell.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The index names a pack that the manifest does not.
    #[error("the index names pack number {number}, which the store does not have")]
    UnknownPack { number: u32 },
    /// The pack cannot be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The pack does not tell what is in it.
    #[error(transparent)]
    Directory(#[from] PackError),
    /// What is in the pack is not what was put there.
    #[error("{id} in pack {pack} is damaged")]
    Frame { pack: BlobId, id: ContentId, source: FrameError },
    /// A block that is none of this store.
    #[error("block {id} has {len} octets, which no block of this archive has")]
    Block { id: ContentId, len: usize },
    /// A block of which only some sectors are there.
    #[error("block {id} is there in part: other sectors are in {base}, which cannot be read")]
    InPart { id: ContentId, base: ContentId },
    /// A node that is none.
    #[error("node {id} makes no sense")]
    Node { id: ContentId, source: NodeError },
    /// A tree that does not fit together.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl ReadError {
    /// Whether it is what is stored that cannot be had: asking again, or for it to be found again, may
    /// help, but nothing can be relied upon.
    pub(super) fn is_loss(&self) -> bool {
        match self {
            Self::Unknown { .. }
            | Self::UnknownPack { .. }
            | Self::Directory(_)
            | Self::Frame { .. }
            | Self::Block { .. }
            | Self::InPart { .. } => true,
            Self::Blob(error) => matches!(
                error,
                BlobError::NotFound { .. }
                    | BlobError::Damaged { .. }
                    | BlobError::Overlong { .. }
                    | BlobError::Range { .. }
                    | BlobError::NotABlob { .. }
            ),
            // A disk that fails may not fail the next time: then nothing is missing.
            Self::Index(_) | Self::Node { .. } | Self::Tree(_) => false,
        }
    }

    /// Whether it is a disk that has failed to read what may still be there.
    pub(super) fn is_io(&self) -> bool {
        matches!(self, Self::Blob(BlobError::Io { .. }))
    }
}

/// Why a store cannot be opened, read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CasError {
    /// Its blobs cannot be reached.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Its journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// There is no store there.
    #[error("{path} is not an archive; to make one: aoe-server store init {path}")]
    NotAnArchive {
        /// The directory.
        path: PathBuf,
    },
    /// There are blobs, but nothing that says what they are for.
    #[error(
        "{path} has blobs, but its root slots ({path}/archive/roots) are missing: put them back, or: \
         aoe-server store repair --roots {path}"
    )]
    NoRoots {
        /// The directory.
        path: PathBuf,
    },
    /// There is an archive, but for the file by which its blobs are known.
    #[error(
        "{path} has an archive, but the file that marks its blobs ({path}/aoe-blobs) is missing: put it back; \
         that of any other archive is the same"
    )]
    NoMarker {
        /// The directory.
        path: PathBuf,
    },
    /// One is there already.
    #[error("{path} is an archive already")]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// Neither of its root slots can be read.
    #[error("the root slots of archive {path} cannot be used")]
    Roots {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: RootsError,
    },
    /// There is no state that root slots could be made for.
    #[error("no state of archive {path} is there in full; {tried} were looked at")]
    NoState {
        /// The directory.
        path: PathBuf,
        /// How many manifests there are.
        tried: usize,
    },
    /// Root slots need not be made anew.
    #[error(
        "a root slot of archive {path} is sound, that of commit {commit}, and there is no later state; to \
         go back to an earlier one on purpose: --force"
    )]
    RootsSound {
        /// The directory.
        path: PathBuf,
        /// The commit.
        commit: u64,
    },
    /// The newest root slot is damaged, and the journal relies on it.
    #[error(
        "the newest root slot of archive {path} is lost: the one before it, of commit {commit}, lacks what \
         was acknowledged since; to find the newest state that there is: aoe-server store repair --roots \
         {path}; to go back to that of commit {commit}: aoe-server store recover --accept-loss {path}"
    )]
    RootLost {
        /// The directory.
        path: PathBuf,
        /// The commit of the slot that is sound.
        commit: u64,
    },
    /// What the newest root slot names cannot be read.
    #[error("the manifest of archive {path}, of commit {commit}, cannot be read: {why}")]
    Manifest {
        /// The directory.
        path: PathBuf,
        /// The commit.
        commit: u64,
        /// Why not.
        why: String,
    },
    /// A later program wrote it.
    #[error(
        "archive {path} has features (bits {bits:#x}) that this program does not know; use the one \
         that wrote it"
    )]
    UnknownFeatures {
        /// The directory.
        path: PathBuf,
        /// The bits.
        bits: u64,
    },
    /// The journal that is there is not the one that was.
    #[error(
        "the journal of archive {path} has the name {found} where {wanted} is expected: acknowledged \
         writes may be missing; put the right one back, or move this one away and do without: aoe-server \
         store recover --accept-loss --new-journal {path}"
    )]
    OtherJournal {
        /// The directory.
        path: PathBuf,
        /// The name of the one that is there.
        found: JournalId,
        /// The name of the one that belongs there.
        wanted: JournalId,
    },
    /// The journal is as it was some time ago.
    #[error(
        "the journal of archive {path} is an older copy: it ends with number {last}, and the archive \
         has given up writes up to {released}; acknowledged writes may be missing; put the right one back, or do \
         without: aoe-server store recover --accept-loss {path}"
    )]
    JournalOlder {
        /// The directory.
        path: PathBuf,
        /// The last entry that there is.
        last: Sequence,
        /// The last entry that is needed no more.
        released: Sequence,
    },
    /// There is no journal.
    #[error(
        "the journal {journal} of archive {path} is missing: acknowledged writes may be lost; if it is \
         elsewhere, name it (`journal` in the configuration, --journal of commands); put it back; or do \
         without: aoe-server store recover --accept-loss --new-journal {path}"
    )]
    NoJournal {
        /// The directory.
        path: PathBuf,
        /// Where it should be.
        journal: PathBuf,
    },
    /// The journal cannot be read.
    #[error("the journal of archive {path} cannot be read{}", without_journal(.path, .source))]
    JournalUnreadable {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: ScanError,
    },
    /// Part of the journal is damaged, and later parts are not: it is no torn write.
    #[error(
        "the journal of archive {path} is damaged: acknowledged writes with the sequence numbers {} \
         are lost; to do without them and what depends on them: aoe-server store recover --accept-loss \
         {path}",
        ranges(.lost)
    )]
    JournalDamaged {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        lost: Vec<RangeInclusive<u64>>,
    },
    /// The journal has something that no version of this program that we know of writes.
    #[error("the journal of archive {path} has an entry, number {sequence}, that makes no sense")]
    UnknownEntry {
        /// The directory.
        path: PathBuf,
        /// The entry's number.
        sequence: u64,
    },
    /// It was made with something else.
    #[error(
        "archive {path} has {what} {found}, and {wanted} was asked for: that cannot be changed"
    )]
    Differs {
        /// The directory.
        path: PathBuf,
        /// What.
        what: &'static str,
        /// What it has.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// A size that cannot be.
    #[error("{what} of {bytes} bytes cannot be; {least} are needed at least")]
    TooSmall {
        /// What.
        what: &'static str,
        /// Bytes asked for.
        bytes: u64,
        /// The fewest.
        least: u64,
    },
    /// Blocks have one of a few sizes.
    #[error("blocks of {bytes} bytes cannot be; it takes 4, 8, 16, 32 or 64 KiB")]
    BlockBytes {
        /// Bytes asked for.
        bytes: u32,
    },
    /// A name that nothing can have.
    #[error(
        "{name:?} is no name for a volume or snapshot: those have 1 to 64 of the characters A-Z a-z \
         0-9 . _ -, and start with a letter or digit"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// There is no such volume.
    #[error("there is no volume {name} in the archive")]
    NoVolume {
        /// The name.
        name: String,
    },
    /// There is one already.
    #[error("there is a volume {name} in the archive already")]
    VolumeExists {
        /// The name.
        name: String,
    },
    /// It is being served, or used otherwise.
    #[error("volume {name} is in use")]
    VolumeInUse {
        /// The name.
        name: String,
    },
    /// It has snapshots.
    #[error("volume {name} has {snapshots} snapshots, which have to go first, or with it")]
    HasSnapshots {
        /// The name.
        name: String,
        /// How many.
        snapshots: usize,
    },
    /// A volume of no size, or of more than a tree can have.
    #[error("a volume of {} cannot be", size.readable())]
    Size {
        /// The size.
        size: Sectors,
    },
    /// What is past the new end would be lost.
    #[error(
        "volume {name} has {}, and {} were asked for: what lies beyond would be lost; shrink it on \
         purpose: aoe-server volume resize --shrink",
        size.readable(),
        wanted.readable()
    )]
    WouldShrink {
        /// The name.
        name: String,
        /// Its size.
        size: Sectors,
        /// The size asked for.
        wanted: Sectors,
    },
    /// A volume that is to be made needs a size.
    #[error("there is no volume {name} in the archive; to have it made, give it a size")]
    NoSize {
        /// The name.
        name: String,
    },
    /// There is no such snapshot.
    #[error("there is no snapshot {volume}@{name} in the archive")]
    NoSnapshot {
        /// The volume.
        volume: String,
        /// The snapshot.
        name: String,
    },
    /// There is one already.
    #[error("there is a snapshot {volume}@{name} in the archive already")]
    SnapshotExists {
        /// The volume.
        volume: String,
        /// The snapshot.
        name: String,
    },
    /// It is being served.
    #[error("snapshot {volume}@{name} is in use")]
    SnapshotInUse {
        /// The volume.
        volume: String,
        /// The snapshot.
        name: String,
    },
    /// Somebody is using the disk whose content is to be exchanged, or cut off.
    #[error(
        "an initiator has used volume {name} in the last {seconds} seconds, and would go on with what \
         it remembers of it; unmount it there first, or insist: --force"
    )]
    Active {
        /// The volume.
        name: String,
        /// Within so many seconds.
        seconds: u64,
    },
    /// There is no room for what has to be written.
    #[error("archive {path} has no space left; make some and try again")]
    NoSpace {
        /// The directory.
        path: PathBuf,
    },
    /// A commit has failed.
    #[error("archive {path} could not be written to: {why}")]
    CommitFailed {
        /// The directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Something failed before, and nothing is taken any more.
    #[error("archive {path} has stopped after a failure that the log tells of; open it again")]
    Stopped {
        /// The directory.
        path: PathBuf,
    },
    /// Something of it cannot be read.
    #[error("archive {path}: {why}")]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// What, and why not.
        why: String,
    },
    /// A system call failed.
    #[error("cannot {op} {path}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

pub(super) fn ranges(lost: &[RangeInclusive<u64>]) -> String {
    let range = |range: &RangeInclusive<u64>| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first} to {last}"),
    };
    lost.iter().map(range).collect::<Vec<_>>().join(", ")
}

/// What to do without a journal, if that is all that is left.
fn without_journal(path: &std::path::Path, source: &ScanError) -> String {
    let path = path.display();
    match source {
        ScanError::NotAJournal | ScanError::Length { .. } => format!(
            " (put the right one back, or move it away and do without: aoe-server store recover \
             --accept-loss --new-journal {path})"
        ),
        ScanError::Io { .. } => {
            " (if that stays so, copy what can be read of it, and put that in its place)".into()
        }
        _ => String::new(),
    }
}

/// An error and what is behind it, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// What may go wrong with packs and manifests, told in a message.
macro_rules! why {
    ($($error:ty),*) => {
        $(impl From<$error> for Why {
            fn from(error: $error) -> Self {
                Self(chain(&error))
            }
        })*
    };
}

/// Why something of a store cannot be read, as text.
#[derive(Debug)]
pub(super) struct Why(pub(super) String);

why!(ReadError, BlobError, FrameError, ManifestError, PackError, IndexError, TreeError, NodeError);
