//! The mark on an image whose latest writes are in a journal.
//!
//! An image that was not closed after a crash lacks what only the journal has. The mark, an extended
//! attribute, keeps it from being served or replayed onto without its journal.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

use super::file_journal::FileJournal;
use super::format::JournalId;
use super::images::ImageNumber;

const NAME: &str = "user.aoe-server.journal";
/// More than any mark has: a path and two numbers.
const LONGEST: usize = 8192;

/// What an image says about its journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Mark {
    pub(super) journal: JournalId,
    pub(super) image: ImageNumber,
    /// Where the journal is.
    pub(in super::super) path: PathBuf,
}

impl Mark {
    /// The mark of an image, if it has one. One that cannot be read is one of nobody's journal.
    ///
    /// # Errors
    /// When that cannot be told.
    pub(in super::super) fn of(file: &File) -> io::Result<Option<Self>> {
        let mut octets = vec![0; LONGEST];
        match fgetxattr(file, NAME, octets.as_mut_slice()) {
            Ok(len) => Ok(Some(Self::parse(&octets[..len]).unwrap_or_else(|| Self {
                journal: JournalId([0; 16]),
                image: ImageNumber(0),
                path: PathBuf::from("unknown"),
            }))),
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it tells of `journal`.
    pub(in super::super) fn is_of(&self, journal: &FileJournal) -> bool {
        self.journal == journal.id()
    }

    /// Whether it tells of a journal at `path`, by whatever name. That there is none does not matter.
    pub(super) fn names(&self, path: &Path) -> bool {
        full_name(path) == self.path
    }

    /// Marks an image, durably. `false` when its file system has no place for marks.
    ///
    /// # Errors
    /// When there is a place, but it could not be written to.
    pub(super) fn put(&self, file: &File) -> io::Result<bool> {
        let mut octets = format!("{} {} ", self.journal, self.image).into_bytes();
        octets.extend_from_slice(self.path.as_os_str().as_bytes());
        match fsetxattr(file, NAME, &octets, XattrFlags::empty()) {
            Ok(()) => file.sync_all().map(|()| true),
            Err(Errno::NOTSUP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the mark from an image, durably.
    ///
    /// # Errors
    /// When it is still there, or may be after a crash.
    pub(in super::super) fn remove(file: &File) -> io::Result<()> {
        match fremovexattr(file, NAME) {
            Ok(()) => file.sync_all(),
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn parse(octets: &[u8]) -> Option<Self> {
        let mut words = octets.splitn(3, |octet| *octet == b' ');
        let (id, image, path) = (words.next()?, words.next()?, words.next()?);
        let (id, image) = (std::str::from_utf8(id).ok()?, std::str::from_utf8(image).ok()?);
        let mut journal = [0; 16];
        if id.len() != 2 * journal.len() || !id.is_ascii() {
            return None;
        }
        for (n, octet) in journal.iter_mut().enumerate() {
            *octet = u8::from_str_radix(&id[2 * n..2 * n + 2], 16).ok()?;
        }
        Some(Self {
            journal: JournalId(journal),
            image: ImageNumber(image.parse().ok()?),
            path: Path::new(OsStr::from_bytes(path)).into(),
        })
    }
}

/// The path of what is at `path`, or may have been, without links on the way there.
pub(super) fn full_name(path: &Path) -> PathBuf {
    let parts = || {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?;
        Some(directory.join(path.file_name()?))
    };
    fs::canonicalize(path).ok().or_else(parts).unwrap_or_else(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_put() {
        let directory = tempfile::tempdir_in(".").unwrap();
        let file = File::create(directory.path().join("image")).unwrap();
        assert_eq!(Mark::of(&file).unwrap(), None);
        let mark = Mark {
            journal: JournalId(*b"0123456789abcdef"),
            image: ImageNumber(77),
            path: PathBuf::from("/a journal/with spaces"),
        };
        if !mark.put(&file).unwrap() {
            return; // the file system of the tests has no extended attributes
        }
        assert_eq!(Mark::of(&file).unwrap(), Some(mark));
        Mark::remove(&file).unwrap();
        Mark::remove(&file).unwrap();
        assert_eq!(Mark::of(&file).unwrap(), None);
    }
}
