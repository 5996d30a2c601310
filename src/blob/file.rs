//! Blobs as files of a directory: `XX/XXYYYY...`, where the whole of `XXYYYY...` is the name.
//!
//! ```text
//! blobs/
//!   aoe-blobs                        marks the directory as a store, and carries its lock
//!   9f/                              a shard: the blobs whose names start with 9f
//!     9f3c...51                      a blob, and nothing else
//!     9f3c...51.7.new                one that is being put
//! ```
//!
//! # Invariants
//! * A blob appears by a rename, after its octets were synced: nobody ever sees half of one.
//! * A put returns when the directory is synced that has the name, and the one that has that
//!   directory, whoever it was that brought the name there.
//! * One process writes to a store, or any number read it: it is locked as long as it is open.
//! * Only files that are named as unfinished ones are ever swept, and only under the lock.
//! * After a sync of a directory, or of the whole file system, has failed, nothing is put any more: a
//!   second sync would succeed without having done what the first one could not. A file that cannot
//!   be synced is thrown away.
//!
//! Many blobs at once ([`BlobStore::put_many`]) are made durable by two syncs of the whole file
//! system, where it is known to do that. They also write what others have left unwritten there, which
//! may take its time; packs are put one by one, and never wait for that.

mod marker;
mod shard;
mod writeback;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use marker::{Lock, open_root};
pub use marker::{MARKER, VERSION};
use shard::{Existing, OpenShard, ShardState, Temp, names_in};

use super::{
    BLOB_MAX, Blob, BlobError, BlobId, BlobInfo, BlobPrefix, BlobStore, Put, check_len,
    check_range, verified,
};

/// How many blobs of one `put_many` are in flight at a time. Each takes an open file, and a directory
/// as well if it is alone in its shard; a process may as a rule have 1024.
const GROUP: usize = 128;
/// The fewest blobs for which two syncs of the file system take less time than one of each file and
/// directory. On ext4, 128 take a third of the time; a dozen are about even.
const SYNCED_AS_ONE: usize = 16;
/// The file systems whose sync as a whole is known to make names and octets durable: ext4, XFS,
/// Btrfs. Others may pass it over, as FUSE does.
const SYNCED_WHOLE: [u64; 3] = [0xef53, 0x5846_5342, 0x9123_683e];

/// Blobs as files of a directory, locked for this process.
#[derive(Debug)]
pub struct FileBlobStore {
    path: PathBuf,
    /// Every file is named relative to it, so that the store stays the same if it is moved.
    root: OwnedFd,
    read_only: bool,
    /// The file system can be synced as a whole.
    syncs_whole: bool,
    shards: Box<[ShardState; 256]>,
    /// Numbers the unfinished files.
    temps: AtomicU64,
    /// A directory could not be synced.
    stopped: AtomicBool,
    _lock: Lock,
}

impl FileBlobStore {
    /// Opens the store at `path` to put and get. A directory that is missing or empty becomes a
    /// store, for its owner only. What puts that were cut short have left is removed, for which
    /// every name in the store is read once.
    ///
    /// # Errors
    /// [`BlobError::InUse`] when another process, or another part of this one, has it open;
    /// [`BlobError::NotAStore`], [`BlobError::BadMarker`] or [`BlobError::UnknownVersion`] when the
    /// directory is something else; [`BlobError::NoSpace`], [`BlobError::ReadOnly`],
    /// [`BlobError::NoPermission`] or [`BlobError::Io`] when it cannot be made, opened, locked or
    /// cleared.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, BlobError> {
        let store = Self::new(path.into(), false)?;
        store.sweep()?;
        Ok(store)
    }

    /// Opens the store at `path` to get only. Several processes can share it like this, and nothing
    /// in it is changed.
    ///
    /// # Errors
    /// As [`Self::open`]; a directory that is missing is [`BlobError::Io`], an empty one
    /// [`BlobError::NotAStore`].
    pub fn open_read_only(path: impl Into<PathBuf>) -> Result<Self, BlobError> {
        Self::new(path.into(), true)
    }

    fn new(path: PathBuf, read_only: bool) -> Result<Self, BlobError> {
        let (root, lock) = open_root(&path, read_only)?;
        Ok(Self {
            path,
            read_only,
            syncs_whole: can_sync_whole(&root),
            root,
            shards: Box::new(std::array::from_fn(|_| ShardState::default())),
            temps: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes unfinished files.
    fn sweep(&self) -> Result<(), BlobError> {
        let mut removed = 0;
        let mut found = Vec::new();
        for first in 0..=0xff {
            let Some(directory) = self.shard_directory(first)? else { continue };
            found.push(first);
            let path = self.path.join(shard_name(first));
            for name in names_in(&directory, &path)? {
                if !shard::is_unfinished(&name, first) {
                    continue;
                }
                rustix::fs::unlinkat(&directory, &name, AtFlags::empty())
                    .map_err(|errno| BlobError::refused("remove", path.join(&name), errno))?;
                removed += 1;
            }
        }
        // Whoever made them may have been killed before they were durable.
        self.sync_root()?;
        for first in found {
            self.shards[usize::from(first)].set_named();
        }
        if removed > 0 {
            log::info!("removed {removed} unfinished blobs from {}", self.path.display());
        }
        Ok(())
    }

    fn sync_root(&self) -> Result<(), BlobError> {
        self.synced(rustix::fs::fsync(&self.root), &self.path)
    }

    /// What a sync of the directory at `path` has come to; a failed one is the last.
    fn synced(&self, result: Result<(), Errno>, path: &Path) -> Result<(), BlobError> {
        result.map_err(|errno| {
            self.stopped.store(true, Ordering::SeqCst);
            BlobError::refused("sync", path.into(), errno)
        })
    }

    fn check_writable(&self) -> Result<(), BlobError> {
        if self.read_only {
            return Err(BlobError::ReadOnly { path: self.path.clone() });
        }
        if self.stopped.load(Ordering::SeqCst) {
            return Err(BlobError::Stopped { path: self.path.clone() });
        }
        Ok(())
    }

    /// The directory of a shard, if there is one.
    fn shard_directory(&self, first: u8) -> Result<Option<OwnedFd>, BlobError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::openat(&self.root, shard_name(first), flags, Mode::empty()) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(BlobError::refused("open", self.path.join(shard_name(first)), errno)),
        }
    }

    /// The directory of a shard to put into, made if need be; its own name is then durable.
    fn open_shard(&self, first: u8) -> Result<OpenShard<'_>, BlobError> {
        let state = &self.shards[usize::from(first)];
        let path = self.path.join(shard_name(first));
        if !state.is_named() {
            match rustix::fs::mkdirat(&self.root, shard_name(first), Mode::RWXU) {
                // Made before, or by another thread that may not have synced it yet.
                Ok(()) | Err(Errno::EXIST) => self.sync_root()?,
                Err(errno) => return Err(BlobError::refused("create", path, errno)),
            }
            state.set_named();
        }
        match self.shard_directory(first)? {
            Some(directory) => Ok(OpenShard::new(self, state, directory, path)),
            None => Err(BlobError::refused("open", path, Errno::NOENT)),
        }
    }

    /// Puts up to [`GROUP`] blobs.
    fn put_group(&self, blobs: &[Blob<'_>]) -> Result<Vec<Put>, BlobError> {
        self.check_writable()?;
        blobs.iter().try_for_each(check_len)?;
        let mut shards = BTreeMap::new();
        for blob in blobs {
            let [first, ..] = blob.id().0;
            if let Entry::Vacant(vacant) = shards.entry(first) {
                vacant.insert(self.open_shard(first)?);
            }
        }
        let mut begun = Vec::with_capacity(blobs.len());
        for blob in blobs {
            let shard = &shards[&blob.id().0[0]];
            begun.push(match shard.compare(blob)? {
                Existing::Same => None,
                existing => Some(Temp::write(shard, blob, existing)?),
            });
        }
        let as_one = self.syncs_whole && begun.iter().flatten().count() >= SYNCED_AS_ONE;
        if as_one {
            self.sync_whole()?;
        } else {
            begun.iter().flatten().try_for_each(Temp::sync)?;
        }
        let mut puts = Vec::with_capacity(blobs.len());
        for (blob, temp) in blobs.iter().zip(begun) {
            puts.push(temp.map_or(Ok(Put::Present), |temp| temp.publish(blob))?);
        }
        if as_one {
            self.sync_whole()?;
            shards.values().for_each(OpenShard::set_settled);
        } else {
            shards.values().try_for_each(OpenShard::settle)?;
        }
        Ok(puts)
    }

    /// Makes everything durable that is on the file system of the store, whoever wrote it.
    fn sync_whole(&self) -> Result<(), BlobError> {
        self.synced(rustix::fs::syncfs(&self.root), &self.path)
    }

    fn blob_path(&self, id: BlobId) -> PathBuf {
        self.path.join(blob_name(id))
    }

    /// What the system's refusal of `op` means for a blob.
    fn refused(&self, id: BlobId, op: &'static str, errno: Errno) -> BlobError {
        match errno {
            Errno::NOENT => BlobError::NotFound { id },
            // A link, which is never followed, and a directory.
            Errno::LOOP | Errno::ISDIR => BlobError::NotABlob { path: self.blob_path(id) },
            errno => BlobError::refused(op, self.blob_path(id), errno),
        }
    }

    fn open_blob(&self, id: BlobId) -> Result<(File, BlobInfo), BlobError> {
        let file = open_to_read(&self.root, &blob_name(id))
            .map_err(|errno| self.refused(id, "open", errno))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| self.refused(id, "examine", errno))?;
        let info =
            info_of(id, &stat).ok_or_else(|| BlobError::NotABlob { path: self.blob_path(id) })?;
        Ok((file, info))
    }

    /// The blobs of a shard that start with `prefix`, in the order of their names.
    fn blobs_in_shard(&self, first: u8, prefix: &BlobPrefix) -> Result<Vec<BlobId>, BlobError> {
        let Some(directory) = self.shard_directory(first)? else { return Ok(Vec::new()) };
        let names = names_in(&directory, &self.path.join(shard_name(first)))?;
        let ids = names.iter().filter_map(|name| name.to_str()?.parse().ok());
        let mut ids: Vec<BlobId> =
            ids.filter(|id: &BlobId| id.0[0] == first && prefix.matches(*id)).collect();
        ids.sort_unstable();
        Ok(ids)
    }
}

impl BlobStore for FileBlobStore {
    fn put(&self, blob: &Blob<'_>) -> Result<Put, BlobError> {
        let puts = self.put_group(std::slice::from_ref(blob))?;
        Ok(puts.first().copied().unwrap_or(Put::Present))
    }

    fn put_many(&self, blobs: &[Blob<'_>]) -> Result<Vec<Put>, BlobError> {
        let mut puts = Vec::with_capacity(blobs.len());
        for group in blobs.chunks(GROUP) {
            puts.extend(self.put_group(group)?);
        }
        Ok(puts)
    }

    fn get(&self, id: BlobId) -> Result<Vec<u8>, BlobError> {
        let (file, BlobInfo { len, .. }) = self.open_blob(id)?;
        let Some(capacity) = usize::try_from(len).ok().filter(|len| *len <= BLOB_MAX) else {
            return Err(BlobError::Overlong { id, len });
        };
        let mut octets = Vec::with_capacity(capacity);
        // What is more than that is damage, and hashes to something else.
        let read = file.take(BLOB_MAX as u64).read_to_end(&mut octets);
        read.map_err(|source| BlobError::refused("read", self.blob_path(id), source))?;
        verified(id, octets)
    }

    fn get_range(&self, id: BlobId, offset: u64, into: &mut [u8]) -> Result<(), BlobError> {
        let (file, BlobInfo { len, .. }) = self.open_blob(id)?;
        check_range(id, offset, into.len(), len)?;
        file.read_exact_at(into, offset)
            .map_err(|source| BlobError::refused("read", self.blob_path(id), source))
    }

    fn get_tail(&self, id: BlobId, into: &mut [u8]) -> Result<u64, BlobError> {
        let (file, BlobInfo { len, .. }) = self.open_blob(id)?;
        let offset = len.saturating_sub(into.len() as u64);
        check_range(id, offset, into.len(), len)?;
        file.read_exact_at(into, offset)
            .map_err(|source| BlobError::refused("read", self.blob_path(id), source))?;
        Ok(len)
    }

    fn info(&self, id: BlobId) -> Result<BlobInfo, BlobError> {
        let stat = rustix::fs::statat(&self.root, blob_name(id), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.refused(id, "examine", errno))?;
        info_of(id, &stat).ok_or_else(|| BlobError::NotABlob { path: self.blob_path(id) })
    }

    fn list(
        &self,
        prefix: &BlobPrefix,
        each: &mut dyn FnMut(BlobInfo) -> ControlFlow<()>,
    ) -> Result<(), BlobError> {
        for first in prefix.first_octets() {
            for id in self.blobs_in_shard(first, prefix)? {
                match self.info(id) {
                    Ok(info) if each(info).is_break() => return Ok(()),
                    // Deleted just now.
                    Ok(_) | Err(BlobError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn delete(&self, id: BlobId) -> Result<(), BlobError> {
        self.check_writable()?;
        rustix::fs::unlinkat(&self.root, blob_name(id), AtFlags::empty())
            .map_err(|errno| self.refused(id, "delete", errno))
    }
}

/// Whether `syncfs` does for files below `root` what `fsync` does for each, and tells of errors.
fn can_sync_whole(root: &OwnedFd) -> bool {
    let kind = rustix::fs::fstatfs(root).ok().and_then(|stat| u64::try_from(stat.f_type).ok());
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    kind.is_some_and(|kind| SYNCED_WHOLE.contains(&kind)) && tells_of_errors(&release)
}

/// Whether a kernel of this release has `syncfs` fail when octets could not be written: Linux 5.8 is
/// the first.
fn tells_of_errors(release: &str) -> bool {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (5, 8),
        _ => false,
    }
}

/// What a shard's directory is called.
fn shard_name(first: u8) -> String {
    format!("{first:02x}")
}

/// What a blob's file is called, from the root of the store.
fn blob_name(id: BlobId) -> String {
    format!("{:02x}/{id}", id.0[0])
}

/// Opens what may be a blob, without following a link out of the store or waiting for whoever writes
/// to a pipe.
fn open_to_read(directory: impl AsFd, name: &str) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    rustix::fs::openat(directory, name, flags, Mode::empty()).map(File::from)
}

/// What the system says of a blob's file; `None` when it is not a file.
fn info_of(id: BlobId, stat: &Stat) -> Option<BlobInfo> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    Some(BlobInfo {
        id,
        len: u64::try_from(stat.st_size).unwrap_or(0),
        stored_unix_seconds: u64::try_from(stat.st_mtime).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_not_trusted_to_tell_of_errors() {
        for release in ["5.8.0", "5.10.0-21-amd64", "6.18.5", "10.0", "5.8-rc1"] {
            assert!(tells_of_errors(release), "{release}");
        }
        for release in ["5.7.19", "4.19.0-27-amd64", "2.6.32", "", "5", "linux", "5.x"] {
            assert!(!tells_of_errors(release), "{release}");
        }
    }
}
