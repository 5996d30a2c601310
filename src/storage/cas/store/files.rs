//! The files of a store: blobs, and beside them, in `archive`, root slots, journal and index.
//!
//! # Invariants
//! * A store is one when its root slots have their name; what was made before that is made again.
//! * As long as a store is open, its blobs and its journal are locked.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::rand::{GetRandomFlags, getrandom};

use super::super::commit::Committer;
use super::super::error::CasError;
use super::super::index::FileRuns;
use super::super::manifest::Layout;
use super::super::recover::{NewStore, StoreMedia, found};
use super::super::root::{ROOTS, RootSlot};
use super::super::runs::Runs;
use super::super::{StoreId, root};
use super::StoreOptions;
use crate::blob::BlobError;
use crate::blob::file::{FileBlobStore, MARKER};
use crate::storage::journal::{
    DirectFile, Geometry, JournalError, JournalFile, JournalId, Medium, Sequence, random_id,
};

/// The directory beside the blobs.
const DIRECTORY: &str = "archive";
/// The file with the root slots.
const ROOTS_FILE: &str = "roots";
/// What there was of root slots before they were made anew.
const DAMAGED_ROOTS: &str = "roots.damaged";
/// The journal, when it is kept in the store.
const JOURNAL: &str = "journal";
/// The directory of the index.
const INDEX: &str = "index";
/// A file that is there while the store is being made.
const UNFINISHED: &str = "unfinished";

/// What is locked as long as a store is open.
#[derive(Debug)]
pub(in super::super) struct StoreFiles {
    path: PathBuf,
    _blobs: Arc<FileBlobStore>,
    _journal: JournalFile,
}

/// Whether there is a store at `path`.
fn exists(path: &Path) -> Result<bool, CasError> {
    // What cannot be seen is not missing: whoever took it for that would make another one.
    let roots = path.join(DIRECTORY).join(ROOTS_FILE);
    match roots.try_exists() {
        // Part of the way there is a file.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        found => found.map_err(failed("look for", &roots)),
    }
}

/// Makes sure that there is a store at `path`; tells what there is instead, as far as it can be seen.
pub(in super::super) fn expect(path: &Path) -> Result<(), CasError> {
    expect_marker(path)?;
    if exists(path)? {
        return Ok(());
    }
    let blobs = FileBlobStore::open_read_only(path)?;
    let path = path.into();
    Err(if has_remains(&blobs)? {
        CasError::NoRoots { path }
    } else {
        CasError::NotAnArchive { path }
    })
}

/// Makes sure of the file without which nothing of a store can be opened.
fn expect_marker(path: &Path) -> Result<(), CasError> {
    let marker = path.join(MARKER);
    match marker.try_exists() {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        // Part of the way there is a file.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
        Err(error) => return Err(failed("look for", &marker)(error)),
    }
    let path = path.to_path_buf();
    let is_archive = path.join(DIRECTORY).is_dir();
    Err(if is_archive { CasError::NoMarker { path } } else { CasError::NotAnArchive { path } })
}

/// Whether a directory that has no root slots has anything else of a store which was there once.
fn has_remains(blobs: &FileBlobStore) -> Result<bool, CasError> {
    let directory = blobs.path().join(DIRECTORY);
    if directory.join(UNFINISHED).exists() {
        return Ok(false); // there was never more than the beginning of one
    }
    Ok(directory.exists() || has_blobs(blobs)?)
}

/// Opens the blobs; a directory that is missing or empty becomes a store of them.
fn open_blobs(path: &Path) -> Result<FileBlobStore, CasError> {
    match FileBlobStore::open(path) {
        Err(BlobError::NotAStore { .. }) if path.join(DIRECTORY).is_dir() => {
            Err(CasError::NoMarker { path: path.into() })
        }
        opened => Ok(opened?),
    }
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CasError + use<> {
    let path = path.to_path_buf();
    move |source| CasError::Io { op, path, source }
}

/// Where the journal is.
fn journal_path(path: &Path, options: &StoreOptions) -> PathBuf {
    options.journal.clone().unwrap_or_else(|| path.join(DIRECTORY).join(JOURNAL))
}

/// Makes a store.
pub(in super::super) fn create(path: &Path, options: &StoreOptions) -> Result<(), CasError> {
    let blobs = open_blobs(path)?;
    if exists(path)? {
        return Err(CasError::Exists { path: path.into() });
    }
    make(path, options, &blobs)
}

/// Makes a store of a directory that has no more than the marker of a blob store, or was left
/// unfinished.
fn make(path: &Path, options: &StoreOptions, blobs: &FileBlobStore) -> Result<(), CasError> {
    let directory = path.join(DIRECTORY);
    let unfinished = directory.join(UNFINISHED);
    if has_remains(blobs)? {
        return Err(CasError::NoRoots { path: path.into() });
    }
    let made = DirBuilder::new().mode(0o700).recursive(true).create(&directory);
    made.map_err(failed("create", &directory))?;
    let mut mark = OpenOptions::new();
    let mark = mark.write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
    mark.and_then(|file| file.sync_all()).map_err(failed("create", &unfinished))?;
    sync_directory(&directory)?;
    sync_directory(path)?;
    let journal = journal_path(path, options);
    let id = random_id(&journal)?;
    // The marker says that nothing is needed of one that is in the store; what is elsewhere may be
    // something else.
    if options.journal.is_none() {
        let _ = fs::remove_file(&journal);
    }
    drop(JournalFile::create(&journal, Geometry::of(options.journal_bytes), id, Sequence(0))?);
    let new = NewStore {
        id: draw_id(path)?,
        journal: id,
        block_bytes: options.block_bytes.unwrap_or(StoreOptions::BLOCK_BYTES),
        layout: options.layout.unwrap_or(Layout::Packed),
    };
    let slot = found(blobs, &new)?;
    write_roots(&directory, &slot)?;
    fs::remove_file(&unfinished).map_err(failed("remove", &unfinished))?;
    sync_directory(&directory)
}

fn has_blobs(blobs: &FileBlobStore) -> Result<bool, CasError> {
    use crate::blob::{BlobPrefix, BlobStore as _};
    let mut any = false;
    blobs.list(&BlobPrefix::ALL, &mut |_| {
        any = true;
        std::ops::ControlFlow::Break(())
    })?;
    Ok(any)
}

fn draw_id(path: &Path) -> Result<StoreId, CasError> {
    let mut octets = [0; 16];
    let drawn = getrandom(&mut octets, GetRandomFlags::empty());
    drawn.map_err(|error| failed("draw a name for", path)(error.into()))?;
    Ok(StoreId(octets))
}

/// Writes both slots, of which one is empty, and gives the file its name when it is durable.
pub(in super::super) fn write_roots(directory: &Path, slot: &RootSlot) -> Result<(), CasError> {
    let (new, path) = (directory.join("roots.new"), directory.join(ROOTS_FILE));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(failed("create", &new))?;
    let written = file
        .write_at(0, &vec![0; usize::try_from(ROOTS).unwrap_or(2 * root::SLOT)])
        .and_then(|()| file.write_at(RootSlot::place(slot.commit), &slot.emit()))
        .and_then(|()| file.sync_all());
    written.map_err(failed("write", &new))?;
    fs::rename(&new, &path).map_err(failed("rename", &new))?;
    sync_directory(directory)
}

fn sync_directory(path: &Path) -> Result<(), CasError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(failed("sync", path))
}

/// Opens the files of a store, and makes one if there is none.
pub(in super::super) fn open_files(
    path: &Path,
    options: &StoreOptions,
) -> Result<(StoreFiles, StoreMedia), CasError> {
    let blobs = Arc::new(open_blobs(path)?);
    if !exists(path)? {
        make(path, options, &blobs)?;
    }
    let directory = path.join(DIRECTORY);
    // A store that was being made when it was finished in all but this.
    let _ = fs::remove_file(directory.join(UNFINISHED));
    let roots_path = directory.join(ROOTS_FILE);
    let roots = OpenOptions::new().read(true).write(true).open(&roots_path);
    let roots = roots.map_err(failed("open", &roots_path))?;
    let journal = open_journal(path, options, &roots)?;
    let index = directory.join(INDEX);
    let runs = FileRuns::open(&index).map_err(failed("open", &index))?;
    let direct: Arc<dyn Medium> = Arc::new(DirectFile::new(&journal.file));
    let media = StoreMedia {
        path: path.into(),
        blobs: Arc::<FileBlobStore>::clone(&blobs),
        roots: Arc::new(roots),
        journal: direct,
        runs: Runs::File(runs),
    };
    Ok((StoreFiles { path: path.into(), _blobs: blobs, _journal: journal }, media))
}

/// Opens the journal. One that is missing is made anew if what it had may be lost, and only if that is asked
/// for: it may be elsewhere.
fn open_journal(
    path: &Path,
    options: &StoreOptions,
    roots: &File,
) -> Result<JournalFile, CasError> {
    let place = journal_path(path, options);
    match JournalFile::open(&place) {
        Err(JournalError::NotFound { .. }) if options.accept_loss && options.new_journal => {
            let slots = root::read_roots(roots)
                .map_err(|source| CasError::Roots { path: path.into(), source })?;
            let (id, last) = slots.first().map_or((JournalId([0; 16]), Sequence(0)), |slot| {
                (slot.next_journal(), slot.released)
            });
            log::error!(
                "archive {}: its journal {} is missing and is made anew: acknowledged writes that were \
                 in it are lost",
                path.display(),
                place.display()
            );
            Ok(JournalFile::create(&place, Geometry::of(options.journal_bytes), id, last)?)
        }
        Err(JournalError::NotFound { .. }) => {
            Err(CasError::NoJournal { path: path.into(), journal: place })
        }
        opened => Ok(opened?),
    }
}

/// The files of a store that is only looked at.
pub(in super::super) struct ExaminedFiles {
    pub(in super::super) blobs: FileBlobStore,
    /// `None` when they are not there.
    pub(in super::super) roots: Option<File>,
    pub(in super::super) journal: Result<ExaminedJournal, JournalError>,
    /// The directory of the index, if there is one.
    pub(in super::super) index: Option<PathBuf>,
}

/// A journal that is only looked at, and locked for that.
pub(in super::super) struct ExaminedJournal(JournalFile);

impl Medium for ExaminedJournal {
    fn bytes(&self) -> io::Result<u64> {
        self.0.file.bytes()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.file.read_at(offset, into)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.file.sync()
    }
}

/// Opens the files of a store to look at them. Nothing is made or changed.
pub(in super::super) fn examine_files(
    path: &Path,
    journal: Option<&Path>,
) -> Result<ExaminedFiles, CasError> {
    match expect(path) {
        // There is something to be looked at.
        Ok(()) | Err(CasError::NoRoots { .. }) => {}
        Err(error) => return Err(error),
    }
    let blobs = FileBlobStore::open_read_only(path)?;
    let directory = path.join(DIRECTORY);
    let roots_path = directory.join(ROOTS_FILE);
    let roots = match File::open(&roots_path) {
        Ok(roots) => Some(roots),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed("open", &roots_path)(error)),
    };
    let place = journal.map_or_else(|| directory.join(JOURNAL), Path::to_path_buf);
    let journal = JournalFile::examine(&place).map(ExaminedJournal);
    let index = Some(directory.join(INDEX)).filter(|index| index.is_dir());
    Ok(ExaminedFiles { blobs, roots, journal, index })
}

/// The files of a store that something is missing of, locked.
pub(in super::super) struct MendedFiles {
    directory: PathBuf,
    pub(in super::super) blobs: FileBlobStore,
    /// `None` when they are not there.
    pub(in super::super) roots: Option<File>,
    /// The directory of the index, which may be missing.
    pub(in super::super) index: PathBuf,
}

/// Opens the files of a store to mend it. Nothing is made yet.
pub(in super::super) fn mend_files(path: &Path) -> Result<MendedFiles, CasError> {
    // Opening would make one.
    expect_marker(path)?;
    let blobs = FileBlobStore::open(path)?;
    let directory = path.join(DIRECTORY);
    let roots_path = directory.join(ROOTS_FILE);
    let roots = match File::open(&roots_path) {
        Ok(roots) => Some(roots),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed("open", &roots_path)(error)),
    };
    let index = directory.join(INDEX);
    Ok(MendedFiles { directory, blobs, roots, index })
}

impl MendedFiles {
    /// Opens the journal to look at it.
    pub(in super::super) fn examine_journal(
        &self,
        journal: Option<&Path>,
    ) -> Result<ExaminedJournal, JournalError> {
        let place = journal.map_or_else(|| self.directory.join(JOURNAL), Path::to_path_buf);
        JournalFile::examine(&place).map(ExaminedJournal)
    }

    /// Writes root slots. What there was is kept under another name.
    pub(in super::super) fn write_roots(&self, slot: &RootSlot) -> Result<(), CasError> {
        let made = DirBuilder::new().mode(0o700).recursive(true).create(&self.directory);
        made.map_err(failed("create", &self.directory))?;
        let roots = self.directory.join(ROOTS_FILE);
        if self.roots.is_some() {
            let kept = self.directory.join(DAMAGED_ROOTS);
            fs::copy(&roots, &kept).map_err(failed("copy", &roots))?;
        }
        write_roots(&self.directory, slot)?;
        let _ = fs::remove_file(self.directory.join(UNFINISHED));
        Ok(())
    }
}

impl StoreFiles {
    /// Holds what is there against what was asked for.
    pub(in super::super) fn check<M: Medium>(
        &self,
        committer: &Committer<M>,
        options: &StoreOptions,
    ) -> Result<(), CasError> {
        let manifest = committer.manifest();
        let differs = |what, found: String, wanted: String| CasError::Differs {
            path: self.path.clone(),
            what,
            found,
            wanted,
        };
        if let Some(wanted) = options.block_bytes.filter(|wanted| *wanted != manifest.block_bytes) {
            let (found, wanted) = (manifest.block_bytes.to_string(), wanted.to_string());
            return Err(differs("blocks of as many bytes as", found, wanted));
        }
        if let Some(wanted) = options.layout.filter(|wanted| *wanted != manifest.layout) {
            let text = |layout| format!("{layout:?}").to_lowercase();
            return Err(differs("the layout", text(manifest.layout), text(wanted)));
        }
        Ok(())
    }
}
