//! One directory of a store, and the files in it that are not blobs yet.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::super::{Blob, BlobError, BlobId, Put};
use super::{FileBlobStore, info_of, open_to_read, writeback};

/// What the name of an unfinished file ends with.
const UNFINISHED: &str = ".new";
/// How much of a blob is compared at a time.
const COMPARED: usize = 1 << 18;

/// What is known of the durability of names in a shard, while the store is open.
///
/// A put that finds its blob there has to know whether the name is durable, and may not know who put
/// it there: an earlier process, which may have been killed before its sync, or another thread, which
/// may not have come to it yet. It syncs the directory itself unless both are excluded.
#[derive(Debug, Default)]
pub(super) struct ShardState {
    /// The name of the shard itself is durable.
    named: AtomicBool,
    /// The directory was synced since the store was opened.
    settled: AtomicBool,
    /// Renames into it that were begun and not synced. Counted before the rename, so that whoever
    /// sees the name sees the count.
    unsynced: AtomicU64,
}

impl ShardState {
    pub(super) fn is_named(&self) -> bool {
        self.named.load(Ordering::SeqCst)
    }

    pub(super) fn set_named(&self) {
        self.named.store(true, Ordering::SeqCst);
    }
}

/// What has the place of a blob that is to be put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Nothing,
    /// The same octets.
    Same,
    /// Other octets, or none that can be read.
    Damaged,
}

/// A shard that a put works in.
#[derive(Debug)]
pub(super) struct OpenShard<'a> {
    store: &'a FileBlobStore,
    state: &'a ShardState,
    directory: OwnedFd,
    path: PathBuf,
    /// Renames of this put, all among [`ShardState::unsynced`]. A put that fails leaves them there:
    /// the price is a sync too many for those who come later.
    renamed: Cell<u64>,
}

impl<'a> OpenShard<'a> {
    pub(super) fn new(
        store: &'a FileBlobStore,
        state: &'a ShardState,
        directory: OwnedFd,
        path: PathBuf,
    ) -> Self {
        Self { store, state, directory, path, renamed: Cell::new(0) }
    }

    fn refused(&self, op: &'static str, name: &str, errno: Errno) -> BlobError {
        BlobError::refused(op, self.path.join(name), errno)
    }

    /// What there is in the place of `blob`.
    pub(super) fn compare(&self, blob: &Blob<'_>) -> Result<Existing, BlobError> {
        let name = blob.id().to_string();
        let not_a_blob = || BlobError::NotABlob { path: self.path.join(&name) };
        let mut file = match open_to_read(&self.directory, &name) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(Existing::Nothing),
            Err(Errno::LOOP) => return Err(not_a_blob()),
            Err(errno) => return Err(self.refused("open", &name, errno)),
        };
        let stat =
            rustix::fs::fstat(&file).map_err(|errno| self.refused("examine", &name, errno))?;
        let info = info_of(blob.id(), &stat).ok_or_else(not_a_blob)?;
        let same = info.len == blob.octets().len() as u64 && has_octets(&mut file, blob.octets());
        Ok(if same { Existing::Same } else { Existing::Damaged })
    }

    /// Whether every name here is known to be durable.
    pub(super) fn is_settled(&self) -> bool {
        let ShardState { settled, unsynced, .. } = self.state;
        settled.load(Ordering::SeqCst) && unsynced.load(Ordering::SeqCst) == 0
    }

    /// Makes the names durable that were put here.
    pub(super) fn settle(&self) -> Result<(), BlobError> {
        if !self.is_settled() {
            self.store.synced(rustix::fs::fsync(&self.directory), &self.path)?;
            self.set_settled();
        }
        Ok(())
    }

    /// Notes that the directory was synced after the last rename of this put.
    pub(super) fn set_settled(&self) {
        self.state.settled.store(true, Ordering::SeqCst);
        self.state.unsynced.fetch_sub(self.renamed.take(), Ordering::SeqCst);
    }
}

/// Whether `file` has these octets. One that cannot be read has not.
fn has_octets(file: &mut File, octets: &[u8]) -> bool {
    let mut buffer = vec![0; octets.len().min(COMPARED)];
    octets.chunks(COMPARED).all(|chunk| {
        let buffer = &mut buffer[..chunk.len()];
        file.read_exact(buffer).is_ok() && buffer == chunk
    })
}

/// A blob that is being written. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Temp<'a> {
    shard: &'a OpenShard<'a>,
    name: String,
    file: File,
    replaces: bool,
    renamed: bool,
}

impl<'a> Temp<'a> {
    /// Writes `blob` in place of what is there.
    pub(super) fn write(
        shard: &'a OpenShard<'a>,
        blob: &Blob<'_>,
        existing: Existing,
    ) -> Result<Self, BlobError> {
        let number = shard.store.temps.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.{number}{UNFINISHED}", blob.id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        // Nobody ever writes to a blob.
        let file = rustix::fs::openat(&shard.directory, &name, flags, Mode::RUSR)
            .map_err(|errno| shard.refused("create", &name, errno))?;
        let replaces = existing == Existing::Damaged;
        let temp = Self { shard, name, file: file.into(), replaces, renamed: false };
        let written = writeback::write_all(&temp.file, blob.octets());
        written
            .map_err(|source| BlobError::refused("write", shard.path.join(&temp.name), source))?;
        Ok(temp)
    }

    /// Makes the octets durable.
    pub(super) fn sync(&self) -> Result<(), BlobError> {
        rustix::fs::fsync(&self.file).map_err(|errno| self.shard.refused("sync", &self.name, errno))
    }

    /// Gives the blob its name. It is durable after [`OpenShard::settle`].
    pub(super) fn publish(mut self, blob: &Blob<'_>) -> Result<Put, BlobError> {
        let name = blob.id().to_string();
        self.begin_rename();
        if !self.replaces {
            let directory = &self.shard.directory;
            let flags = RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(directory, &self.name, directory, &name, flags) {
                Ok(()) => {
                    self.renamed = true;
                    return Ok(Put::Written);
                }
                // Another put was faster.
                Err(Errno::EXIST) => match self.shard.compare(blob)? {
                    Existing::Same => return Ok(Put::Present),
                    Existing::Nothing => {}
                    Existing::Damaged => self.replaces = true,
                },
                // A file system that cannot. What the rename below may replace has the same name,
                // and so the same octets.
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
                Err(errno) => return Err(self.shard.refused("rename", &self.name, errno)),
            }
        }
        let directory = &self.shard.directory;
        rustix::fs::renameat(directory, &self.name, directory, &name)
            .map_err(|errno| self.shard.refused("rename", &self.name, errno))?;
        self.renamed = true;
        if self.replaces {
            log::warn!("{} was damaged, and is repaired", self.shard.path.join(name).display());
            return Ok(Put::Repaired);
        }
        Ok(Put::Written)
    }

    fn begin_rename(&self) {
        self.shard.state.unsynced.fetch_add(1, Ordering::SeqCst);
        self.shard.renamed.set(self.shard.renamed.get() + 1);
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // It takes up space that may be what is missing. If it stays, it is swept one day.
            let _ = rustix::fs::unlinkat(&self.shard.directory, &self.name, AtFlags::empty());
        }
    }
}

/// Whether a file of this name in the shard of `first` is one of ours, half written: nobody else's is
/// ever removed.
pub(super) fn is_unfinished(name: &OsStr, first: u8) -> bool {
    let parts = name
        .to_str()
        .and_then(|name| name.strip_suffix(UNFINISHED))
        .and_then(|name| name.split_once('.'));
    let Some((id, number)) = parts else { return false };
    let ours = id.parse().is_ok_and(|id: BlobId| id.0[0] == first);
    ours && number.parse().is_ok_and(|value: u64| value.to_string() == number)
}

/// The names in a directory, which is at `path`.
pub(super) fn names_in(directory: impl AsFd, path: &Path) -> Result<Vec<OsString>, BlobError> {
    let failed = |errno: Errno| BlobError::refused("list", path.into(), errno);
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_unfinished_files_are_recognized() {
        let id = BlobId::of(b"blob");
        let [first, ..] = id.0;
        let unfinished = |name: &str| is_unfinished(OsStr::new(name), first);
        assert!(unfinished(&format!("{id}.0.new")));
        assert!(unfinished(&format!("{id}.18446744073709551615.new")));
        assert!(!is_unfinished(OsStr::new(&format!("{id}.0.new")), !first));
        let upper = id.to_string().to_uppercase();
        for other in [
            id.to_string(),
            format!("{id}.new"),
            format!("{id}.0.new.new"),
            format!("{id}.+1.new"),
            format!("{id}.01.new"),
            format!("{id}..new"),
            format!("{id}.0"),
            format!("{upper}.0.new"),
            format!("x{id}.0.new"),
            "notes.0.new".into(),
        ] {
            assert!(!unfinished(&other), "{other}");
        }
    }
}
