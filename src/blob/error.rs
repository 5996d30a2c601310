//! Why a blob cannot be stored or had.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::{BLOB_MAX, BlobId};
use crate::holder::Holder;

/// Why a store of blobs cannot do what it was asked. Paths are those of files, or the keys of
/// objects.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// There is no such blob.
    #[error("blob {id} is not there")]
    NotFound {
        /// The blob.
        id: BlobId,
    },
    /// Its octets are not those that were put.
    #[error("blob {wanted} is damaged: its content hashes to {found}")]
    Damaged {
        /// The blob.
        wanted: BlobId,
        /// What its octets are called now.
        found: BlobId,
    },
    /// It is longer than any blob that was put, and was therefore not read.
    #[error("blob {id} is damaged: it has {len} octets, more than the {BLOB_MAX} of the longest")]
    Overlong {
        /// The blob.
        id: BlobId,
        /// How many octets it has.
        len: u64,
    },
    /// It is too long to be put.
    #[error("blob {id} has {len} octets, more than the {BLOB_MAX} that can be stored as one")]
    TooLong {
        /// The blob.
        id: BlobId,
        /// How many octets it has.
        len: u64,
    },
    /// It ends before the octets that were asked for.
    #[error("blob {id} has {len} octets, but {wanted} from offset {offset} were asked for")]
    Range {
        /// The blob.
        id: BlobId,
        /// The first octet asked for.
        offset: u64,
        /// How many were asked for.
        wanted: u64,
        /// How many the blob has.
        len: u64,
    },
    /// Something that is not a file has the place of a blob.
    #[error("{path} is in the place of a blob, but is not a regular file; take it away")]
    NotABlob {
        /// What it is.
        path: PathBuf,
    },
    /// The medium is full, or what the user may have of it.
    #[error("no space left to {op} {path}")]
    NoSpace {
        /// What was tried.
        op: &'static str,
        /// With what.
        path: PathBuf,
    },
    /// The store was opened to be read only, or lies on a file system that is.
    #[error("{path} can only be read")]
    ReadOnly {
        /// The store, or the file.
        path: PathBuf,
    },
    /// The user may not.
    #[error("no permission to {op} {path}")]
    NoPermission {
        /// What was tried.
        op: &'static str,
        /// With what.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// A sync failed before, so that nobody knows which names are durable. It has to be opened
    /// again.
    #[error("the blob store {path} has failed to sync and takes nothing any more; open it again")]
    Stopped {
        /// The store.
        path: PathBuf,
    },
    /// Another process, or another part of this one, uses the store.
    #[error(
        "the blob store {path} is in use{}",
        .holder.as_ref().map_or_else(String::new, |holder| format!(" by {holder}"))
    )]
    InUse {
        /// The store.
        path: PathBuf,
        /// Who uses it, when that can be found out.
        holder: Option<Holder>,
    },
    /// A directory that has something else in it, or is empty and can only be read.
    #[error("{path} is not a blob store: it has no file {}", super::file::MARKER)]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// What says that a directory is a store, says something else.
    #[error("{path} does not mark a blob store: it is damaged, or something else")]
    BadMarker {
        /// The file.
        path: PathBuf,
    },
    /// The store is of a version that this program does not know.
    #[error(
        "{path} marks a blob store of version {version}, but this program knows only version \
         {}; use the program that made it",
        super::file::VERSION
    )]
    UnknownVersion {
        /// The file that says so.
        path: PathBuf,
        /// The version.
        version: u16,
    },
    /// The system refused.
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

impl BlobError {
    /// What the system's refusal of `op` means.
    pub(super) fn refused(op: &'static str, path: PathBuf, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::NoSpace { op, path },
            Some(Errno::ROFS) => Self::ReadOnly { path },
            Some(Errno::ACCESS | Errno::PERM) => Self::NoPermission { op, path, source },
            _ => Self::Io { op, path, source },
        }
    }
}
