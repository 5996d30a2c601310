//! Where runs are kept: as files of a directory.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::format::PAGE;
use super::map::Map;

/// What the name of an unfinished file ends with.
pub(super) const UNFINISHED: &str = ".new";

/// Where runs are kept. Names are plain: letters, digits, `-` and `.`.
pub(in super::super) trait RunStore: Debug + Send + Sync {
    /// A run that can be read.
    type File: RunFile;
    /// A run that is being written.
    type Writer: RunWriter;

    /// Names of what there is, in any order, unfinished runs included.
    ///
    /// # Errors
    /// When not all of them can be told.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a run. It stays readable when it is removed or replaced.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Begins to write a run. It takes the place of one of the same name when it is published.
    ///
    /// # Errors
    /// When it cannot be made.
    fn create(&self, name: &str) -> io::Result<Self::Writer>;

    /// Removes a run, or one that was never finished. After power loss it may be back, until
    /// [`Self::sync_names`] has succeeded.
    ///
    /// # Errors
    /// When it is still there. That it was not there before is none.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes removals durable.
    ///
    /// # Errors
    /// After which nothing is known of them.
    fn sync_names(&self) -> io::Result<()>;

    /// What a run is called in messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// A run that can be read by several threads at once.
pub(in super::super) trait RunFile: Debug + Send + Sync {
    /// Its length in bytes.
    fn bytes(&self) -> u64;

    /// Fills `into` from byte `offset` on. Where octets cannot be had, there may be zeros in their
    /// place: whoever reads has checksums.
    ///
    /// # Errors
    /// When it is known that not all of them are what was written.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

/// A run that is being written. Dropped, it is removed.
pub(in super::super) trait RunWriter {
    /// Writes all of `octets` from byte `offset` on.
    ///
    /// # Errors
    /// When not all of it was written.
    fn write_at(&mut self, offset: u64, octets: &[u8]) -> io::Result<()>;

    /// Makes the run durable and gives it its name, in this order.
    ///
    /// # Errors
    /// After which it may or may not be there.
    fn publish(self) -> io::Result<()>;
}

/// Runs as files of a directory. Whoever uses it has locked the store that it belongs to.
#[derive(Debug)]
pub(in super::super) struct FileRuns {
    path: PathBuf,
    /// Files are named relative to it, so that the directory stays the same if it is moved.
    directory: Arc<OwnedFd>,
}

impl FileRuns {
    /// Opens the directory at `path`, and makes it if it is missing; the one that it is in has to be
    /// there.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub(in super::super) fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let directory = match open_directory(&path) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdir(&path, Mode::RWXU)?;
                let parent = path.parent().filter(|parent| *parent != Path::new(""));
                rustix::fs::fsync(open_directory(parent.unwrap_or(Path::new(".")))?)?;
                open_directory(&path)?
            }
            opened => opened?,
        };
        Ok(Self { path, directory: Arc::new(directory) })
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

impl RunStore for FileRuns {
    type File = MappedRun;
    type Writer = FileWriter;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&*self.directory)? {
            let entry = entry?;
            // None of ours is anything but ASCII.
            names.extend(str::from_utf8(entry.file_name().to_bytes()).map(str::to_owned));
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<MappedRun> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file: File = rustix::fs::openat(&*self.directory, name, flags, Mode::empty())?.into();
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let map = Map::new(&file, metadata.len())?;
        Ok(MappedRun { file, map })
    }

    fn create(&self, name: &str) -> io::Result<FileWriter> {
        let temp = format!("{name}{UNFINISHED}");
        // What a crash has left of an earlier one may be there.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let flags = flags | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&*self.directory, &*temp, flags, mode)?.into();
        let directory = Arc::clone(&self.directory);
        Ok(FileWriter { directory, file, temp: Some(temp), name: name.into() })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&*self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&*self.directory)?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(std::ffi::OsStr::from_bytes(name.as_bytes()))
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(in super::super) struct FileWriter {
    directory: Arc<OwnedFd>,
    file: File,
    /// Its name as long as it is unfinished.
    temp: Option<String>,
    name: String,
}

impl RunWriter for FileWriter {
    fn write_at(&mut self, offset: u64, octets: &[u8]) -> io::Result<()> {
        self.file.write_all_at(octets, offset)
    }

    fn publish(mut self) -> io::Result<()> {
        self.file.sync_data()?;
        if let Some(temp) = &self.temp {
            rustix::fs::renameat(&*self.directory, &**temp, &*self.directory, &*self.name)?;
            self.temp = None;
        }
        Ok(rustix::fs::fsync(&*self.directory)?)
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if let Some(temp) = &self.temp {
            // It takes up space that may be what is missing. If it stays, it is swept one day.
            let _ = rustix::fs::unlinkat(&*self.directory, &**temp, AtFlags::empty());
        }
    }
}

/// A file and its map: short reads are lookups, and go through the map; long ones go through the
/// system, which then reads ahead.
#[derive(Debug)]
pub(in super::super) struct MappedRun {
    file: File,
    map: Map,
}

impl RunFile for MappedRun {
    fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    #[inline]
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if into.len() <= PAGE && self.map.copy(offset, into) {
            return Ok(());
        }
        self.file.read_exact_at(into, offset)
    }
}

impl RunFile for Vec<u8> {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let octets = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(into.len())?));
        into.copy_from_slice(octets.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
