//! Why a journal cannot be used.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::images::ImageNumber;
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
         do without them: aoe-server image recover --accept-loss {}", ranges(.lost), Word(.path)
    )]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// What is missing.
        lost: Vec<RangeInclusive<u64>>,
    },
    /// What says which image some writes are for is missing.
    #[error(
        "journal {path} has {writes} writes for image number {number}, whose name is damaged; to do \
         without them: aoe-server image recover --accept-loss {}", Word(.path)
    )]
    Nameless {
        /// The journal.
        path: PathBuf,
        /// The image.
        number: ImageNumber,
        /// Writes that are waiting for it.
        writes: u64,
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
        "journal {journal} has {writes} writes for image {image}, which cannot be opened ({why}); \
         bring it back, or give them up: aoe-server image recover --forget {} {}", Word(.image), Word(.journal)
    )]
    Image {
        /// The journal.
        journal: PathBuf,
        /// The image.
        image: PathBuf,
        /// Writes that are waiting for it.
        writes: u64,
        /// Why not.
        why: io::Error,
    },
    /// An image that it has writes for is in use.
    #[error("image {image}, of journal {journal}, is in use{}", by(.holder.as_ref()))]
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
         file: put the right one back, or give them up: aoe-server image recover --forget {} {}",
        Word(.image), Word(.journal)
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
         {len}: it was cut short; make it as long as it was (truncate -s), or give its writes up: \
         aoe-server image recover --forget {} {}", Word(.image), Word(.journal)
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
    /// An image carries the mark of a journal, and it is not the one that was named.
    #[error(
        "image {image} lacks what the journal has that was at {other}; journal {journal} is another \
         one"
    )]
    MarkOfAnother {
        /// The journal that was named.
        journal: PathBuf,
        /// The image.
        image: PathBuf,
        /// Where the image's journal was.
        other: PathBuf,
    },
    /// The journal that an image carries the mark of is not where it was.
    #[error(
        "image {image} lacks what the journal has that was at {journal}, and it is not there any \
         more: put it back, or give up what it had: aoe-server image recover --forget {} {}",
        Word(.image), Word(.journal)
    )]
    JournalReplaced {
        /// The journal that was named, where another one was.
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

/// A path as a shell takes it, in a command that a message tells to run.
pub(in super::super) struct Word<'p>(pub(in super::super) &'p Path);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string_lossy();
        let plain = |char: char| char.is_ascii_alphanumeric() || "/._-+,:@%=".contains(char);
        if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
            return f.write_str(&text);
        }
        let start = if text.starts_with('-') { "./" } else { "" };
        write!(f, "'{start}{}'", text.replace('\'', r"'\''"))
    }
}

fn by(holder: Option<&Holder>) -> String {
    holder.map_or_else(String::new, |holder| format!(" by {holder}"))
}

fn ranges(lost: &[RangeInclusive<u64>]) -> String {
    let ranges: Vec<_> =
        lost.iter().map(|range| format!("{} to {}", range.start(), range.end())).collect();
    ranges.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_words_of_a_shell() {
        let word = |path: &str| format!("{}", Word(Path::new(path)));
        assert_eq!(word("/data/disk-1.img"), "/data/disk-1.img");
        assert_eq!(word("/my data/$x"), "'/my data/$x'");
        assert_eq!(word("it's"), r"'it'\''s'");
        assert_eq!(word("-n"), "'./-n'");
        assert_eq!(word(""), "''");
    }
}
