//! What initiators set on targets, kept where it survives a restart and power loss: a directory
//! with one small file for each target.
//!
//! # Invariants
//! * One server at a time uses a directory: it is locked as long as it is open.
//! * A file is replaced as a whole: at any moment, a crash leaves the old one or the new one.
//! * [`StateDirectory::save`] returns `Ok` only when the settings survive power loss.
//! * A damaged file is an error that a person has to settle, never an empty one: an empty mask
//!   would let everybody in.
//!
//! # The file
//! `e7.3.settings` for shelf 7, slot 3. All numbers are little-endian.
//!
//! | octets | what |
//! | --- | --- |
//! | 0..8 | the magic, `AoEstate` in ASCII |
//! | 8..10 | the version of the format, 1 |
//! | 10..12 | zero |
//! | 12..16 | how many octets the payload has: *n* |
//! | 16..16+*n* | the payload, below |
//! | 16+*n*..20+*n* | CRC-32C (Castagnoli) of all octets before; the file ends here |
//!
//! The payload is three fields, one after the other:
//!
//! | octets | what |
//! | --- | --- |
//! | 2 | how many octets the config string has, 1024 at most: *c* |
//! | *c* | the config string |
//! | 1 | how many addresses the MAC mask list has: *m* |
//! | 6 x *m* | the addresses, no two the same, in the order they were added |
//! | 1 | how many addresses the reservation list has: *r* |
//! | 6 x *r* | the addresses, no two the same, in the order they were given |
//!
//! `docs/formats.md` says how versions change.

#![forbid(unsafe_code)]

mod format;
mod saver;

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

pub use format::{Damage, MAGIC, VERSION};
use format::{FILE_MAX, FileBuffer};
pub use saver::{SaveFailed, SaverBusy, SettingsSaver};

use crate::engine::Settings;
use crate::holder::Holder;
use crate::protocol::Address;

/// What the name of every file of settings ends with.
const SUFFIX: &str = ".settings";
/// What is added to it for a file that is being written.
const UNFINISHED: &str = ".new";

/// Why settings cannot be kept or had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The operating system refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The directory cannot be made or opened.
    #[error(
        "cannot {operation} the state directory {}; `state_dir` in [server] can name another",
        path.display()
    )]
    Directory {
        /// What was attempted, as a verb.
        operation: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another server uses the directory.
    #[error(
        "the state directory {} is in use by {}; each server needs its own",
        path.display(), holder_text(holder.as_ref())
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who uses it, if that can be found.
        holder: Option<Holder>,
    },
    /// A file is not what was saved there.
    #[error(
        "the settings in {} are damaged: {damage}; restore the file, or remove it to start without \
         config string, mask and reservation",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A file has a format of another version of this program.
    #[error(
        "the settings in {} have format version {version}, but this program knows only version \
         {VERSION}; use the program that wrote them",
        path.display()
    )]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// The version it tells.
        version: u16,
    },
}

fn holder_text(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "another process".into(), |holder| std::format!("{holder}"))
}

/// A directory of settings, locked for this process.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    /// Every file is named relative to it, and it carries the lock.
    directory: OwnedFd,
}

impl StateDirectory {
    /// Opens the directory at `path` and locks it; makes it first, for its owner only, when there
    /// is none. Files that a crash left unfinished are removed.
    ///
    /// # Errors
    /// [`StateError::InUse`] when another process has it open; [`StateError::Directory`] or
    /// [`StateError::Io`] when it cannot be made, opened, locked or cleared.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        let fail = |operation, errno: Errno| StateError::Directory {
            operation,
            path: path.clone(),
            source: errno.into(),
        };
        let directory = match open_directory(&path) {
            Err(Errno::NOENT) => {
                make_directory(&path).map_err(|source| StateError::Directory {
                    operation: "create",
                    path: path.clone(),
                    source,
                })?;
                open_directory(&path)
            }
            opened => opened,
        }
        .map_err(|errno| fail("open", errno))?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let holder = Holder::of_lock_on(&directory);
                return Err(StateError::InUse { path, holder });
            }
            Err(errno) => return Err(fail("lock", errno)),
        }
        let state = Self { path, directory };
        state.sweep()?;
        Ok(state)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The settings of the target at `address`; none, when none were ever saved.
    ///
    /// # Errors
    /// [`StateError::Damaged`] or [`StateError::UnknownVersion`] when the file is not one that can
    /// be trusted, [`StateError::Io`] when it cannot be read.
    pub fn load(&self, address: Address) -> Result<Settings, StateError> {
        let name = file_name(address);
        // Neither a link that leads elsewhere nor a pipe that makes us wait.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&self.directory, &*name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(Settings::default()),
            Err(errno) => return Err(self.error("open", &name, errno.into())),
        };
        // One more than a file can have, to see that it is too long.
        let mut octets = [0; FILE_MAX + 1];
        let len =
            read_up_to(&file, &mut octets).map_err(|source| self.error("read", &name, source))?;
        format::decode(octets.get(..len).unwrap_or_default()).map_err(|refusal| {
            let path = self.path.join(&*name);
            match refusal {
                format::Refusal::Damaged(damage) => StateError::Damaged { path, damage },
                format::Refusal::UnknownVersion(version) => {
                    StateError::UnknownVersion { path, version }
                }
            }
        })
    }

    /// Replaces the settings of the target at `address`. Returns when they survive power loss; it
    /// waits for the disk.
    ///
    /// # Errors
    /// [`StateError::Io`]. The settings before are then still there, unless it says that the
    /// directory could not be synced: then either may be.
    pub fn save(&self, address: Address, settings: &Settings) -> Result<(), StateError> {
        let name = file_name(address);
        let unfinished = std::format!("{name}{UNFINISHED}");
        let written = self.write_file(&unfinished, format::encode(settings).as_octets());
        let renamed = written.and_then(|()| {
            rustix::fs::renameat(&self.directory, &*unfinished, &self.directory, &*name)
                .map_err(|errno| self.error("replace", &name, errno.into()))
        });
        if let Err(error) = renamed {
            // It takes up space that may be what is missing. If it stays, the next start sweeps it.
            let _ = rustix::fs::unlinkat(&self.directory, &*unfinished, AtFlags::empty());
            return Err(error);
        }
        rustix::fs::fsync(&self.directory).map_err(|errno| StateError::Io {
            operation: "sync",
            path: self.path.clone(),
            source: errno.into(),
        })
    }

    fn write_file(&self, name: &str, octets: &[u8]) -> Result<(), StateError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.directory, name, flags | OFlags::NOFOLLOW, mode)
            .map_err(|errno| self.error("create", name, errno.into()))?;
        let mut file = File::from(file);
        file.write_all(octets).map_err(|source| self.error("write", name, source))?;
        file.sync_all().map_err(|source| self.error("sync", name, source))
    }

    /// Removes what saves that were cut short have left.
    fn sweep(&self) -> Result<(), StateError> {
        let failed = |errno: Errno| StateError::Directory {
            operation: "list",
            path: self.path.clone(),
            source: errno.into(),
        };
        for entry in Dir::read_from(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if !is_unfinished(name) {
                continue;
            }
            match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
                Ok(()) => log::info!(
                    "removed {}, which a crash left unfinished",
                    self.path.join(name).display()
                ),
                Err(errno) => return Err(self.error("remove", name, errno.into())),
            }
        }
        Ok(())
    }

    fn error(
        &self,
        operation: &'static str,
        name: impl AsRef<Path>,
        source: io::Error,
    ) -> StateError {
        StateError::Io { operation, path: self.path.join(name), source }
    }
}

/// The body of the fuzz target `settings`: any octets are either refused, or exactly the octets
/// that would be written for the settings they are read as.
///
/// # Panics
/// When they are not: that is the finding.
#[doc(hidden)]
pub fn fuzz(octets: &[u8]) {
    if let Ok(settings) = format::decode(octets) {
        let again: FileBuffer = format::encode(&settings);
        assert_eq!(again.as_octets(), octets, "two files mean {settings:?}");
    }
}

/// Makes the directory, and those above it that are missing, and their names durable: what is saved
/// in a directory that power loss takes away did not survive it.
fn make_directory(path: &Path) -> io::Result<()> {
    let named = path.ancestors().take_while(|path| !path.as_os_str().is_empty());
    let missing: Vec<_> = named.take_while(|path| !path.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for made in missing {
        let above = made.parent().filter(|above| !above.as_os_str().is_empty());
        File::open(above.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn file_name(address: Address) -> String {
    std::format!("{address}{SUFFIX}")
}

/// Whether a file of this name is one of ours, half written: nobody else's is ever removed.
fn is_unfinished(name: &OsStr) -> bool {
    let address = name
        .to_str()
        .and_then(|name| name.strip_suffix(UNFINISHED))
        .and_then(|name| name.strip_suffix(SUFFIX))
        .and_then(|text| Some((text, text.parse::<Address>().ok()?)));
    address.is_some_and(|(text, address)| std::format!("{address}") == text)
}

fn read_up_to(mut file: &File, into: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while let Some(rest) = into.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}
