//! Why the index cannot tell where something is.

use std::io;
use std::path::PathBuf;

use super::super::StoreId;
use super::format::{HeaderError, VERSION};

/// Why the index cannot do what it was asked. Whatever it is, the index can be built anew.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(in super::super) enum IndexError {
    /// A run is not what was written.
    #[error("the index run {path} is damaged: {what}")]
    Damaged {
        /// Its file.
        path: PathBuf,
        /// What of it.
        what: Damage,
    },
    /// A run is of a version that this program does not know.
    #[error(
        "the index run {path} is of version {version}, but this program knows only version \
         {VERSION}; use the program that wrote it, or have the index built anew"
    )]
    UnknownVersion {
        /// Its file.
        path: PathBuf,
        /// The version.
        version: u16,
    },
    /// A run needs something that this program does not know.
    #[error(
        "the index run {path} needs the features {features:#010x}, which this program does not \
         know; use the program that wrote it, or have the index built anew"
    )]
    UnknownFeatures {
        /// Its file.
        path: PathBuf,
        /// Those that are not known, a bit each.
        features: u32,
    },
    /// A run tells of the packs of another store.
    #[error(
        "the index run {path} is of the store {found}, not of {wanted}; take it away, or have the \
         index built anew"
    )]
    OtherStore {
        /// Its file.
        path: PathBuf,
        /// The store that it is of.
        found: StoreId,
        /// The store that it should be of.
        wanted: StoreId,
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

/// Which part of a run is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(in super::super) enum Damage {
    /// The header, or what it says.
    #[error("its header is not sound")]
    Header,
    /// It says that it covers other packs than its name does.
    #[error("it covers the packs {first} to {last}, which is not what its name says")]
    Renamed {
        /// The first pack that it covers.
        first: u32,
        /// The last one.
        last: u32,
    },
    /// The file is too short or too long.
    #[error("it has {found} octets in place of {wanted}")]
    Length {
        /// Octets that there are.
        found: u64,
        /// Octets that the header tells of.
        wanted: u64,
    },
    /// The first keys of its pages.
    #[error("its directory of pages is not sound")]
    Directory,
    /// A block of the filter.
    #[error("block {0} of its filter is not sound")]
    Filter(u64),
    /// A page of entries.
    #[error("page {0} is not sound")]
    Page(u64),
}

impl IndexError {
    pub(super) fn from_header(error: HeaderError, path: PathBuf) -> Self {
        match error {
            HeaderError::Unsound => Self::Damaged { path, what: Damage::Header },
            HeaderError::Version(version) => Self::UnknownVersion { path, version },
            HeaderError::Features(features) => Self::UnknownFeatures { path, features },
        }
    }

    /// The run was written by a program that knows more, or for another store: it is nothing that
    /// may be thrown away unasked.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::UnknownVersion { .. }
            | Self::UnknownFeatures { .. }
            | Self::OtherStore { .. } => true,
            Self::Damaged { .. } | Self::Io { .. } => false,
        }
    }
}
