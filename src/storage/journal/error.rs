//! Why a journal cannot be used.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::scan::ScanError;
use crate::holder::Holder;

/// Why a journal cannot be opened, or not be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// There is none.
    #[error("journal {path} does not exist")]
    NotFound {
        /// The journal.
        path: PathBuf,
    },
    /// It is a directory or a device.
    #[error("journal {path} is not a regular file")]
    NotAFile {
        /// The journal.
        path: PathBuf,
    },
    /// Another process uses it.
    #[error("journal {path} is in use{}", by(.holder.as_ref()))]
    InUse {
        /// The journal.
        path: PathBuf,
        /// Who uses it, when that can be found out.
        holder: Option<Holder>,
    },
    /// It is too small, or larger than a file can be.
    #[error("a journal of {bytes} bytes cannot be made; at least {least} are needed")]
    Size {
        /// Bytes asked for.
        bytes: u64,
        /// The fewest there can be.
        least: u64,
    },
    /// It cannot be read, or is none.
    #[error("journal {path} cannot be read")]
    Unreadable {
        /// The journal.
        path: PathBuf,
        /// Why not.
        source: ScanError,
    },
    /// Part of it is damaged, and later parts are not: it is no torn write.
    #[error(
        "journal {path} is damaged: acknowledged writes with the sequence numbers {} are lost; to \
         do without them: aoe-server image recover --accept-loss {path}", ranges(.lost)
    )]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// What is missing.
        lost: Vec<RangeInclusive<u64>>,
    },
    /// A sound entry that this program cannot make sense of.
    #[error("journal {path} has an entry, number {sequence}, that is not of an image")]
    UnknownEntry {
        /// The journal.
        path: PathBuf,
        /// The entry's number.
        sequence: u64,
    },
    /// An image that it has writes for cannot be opened.
    #[error(
        "journal {journal} has {writes} writes for image {image}, which cannot be opened; bring it \
         back, or give them up: aoe-server image recover --forget {image} {journal}"
    )]
    Image {
        /// The journal.
        journal: PathBuf,
        /// The image.
        image: PathBuf,
        /// Writes that are waiting for it.
        writes: u64,
        /// Why not.
        source: io::Error,
    },
    /// An image that it has writes for is in use.
    #[error("journal {journal} has writes for image {image}, which is in use{}", by(.holder.as_ref()))]
    ImageInUse {
        /// The journal.
        journal: PathBuf,
        /// The image.
        image: PathBuf,
        /// Who uses it, when that can be found out.
        holder: Option<Holder>,
    },
    /// What is there under the image's name is not what was written to.
    #[error(
        "journal {journal} has {writes} writes for image {image}, but what is there now is another \
         file: put the right one back, or give them up: aoe-server image recover --forget {image} \
         {journal}"
    )]
    ImageReplaced {
        /// The journal.
        journal: PathBuf,
        /// The image.
        image: PathBuf,
        /// Writes that are waiting for it.
        writes: u64,
    },
    /// An image was cut short.
    #[error(
        "journal {journal} has a write for image {image} that ends at byte {end}, but the image has \
         {len}: it was cut short; make it as long as it was (truncate -s) and try again"
    )]
    ImageShort {
        /// The journal.
        journal: PathBuf,
        /// The image.
        image: PathBuf,
        /// Where the write ends, in bytes.
        end: u64,
        /// Bytes of the image.
        len: u64,
    },
    /// There is no room for what was written to an image.
    #[error(
        "journal {journal} has writes for image {image}, and there is no space left for them: make \
         some and try again"
    )]
    NoSpace {
        /// The journal.
        journal: PathBuf,
        /// The image.
        image: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {op} {path}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// The journal, an image, or a directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// When it was closed, not everything in it was in the images.
    #[error(
        "journal {path} still has writes that are needed; it is replayed when it is opened next"
    )]
    StillNeeded {
        /// The journal.
        path: PathBuf,
    },
}

fn by(holder: Option<&Holder>) -> String {
    holder.map_or_else(String::new, |holder| format!(" by {holder}"))
}

fn ranges(lost: &[RangeInclusive<u64>]) -> String {
    let ranges: Vec<_> =
        lost.iter().map(|range| format!("{} to {}", range.start(), range.end())).collect();
    ranges.join(", ")
}
