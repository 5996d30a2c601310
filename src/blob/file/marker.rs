//! The file that marks a directory as a store of blobs, and carries its lock.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::super::BlobError;
use super::shard::names_in;
use crate::holder::Holder;

/// What the file is called that makes a directory a store.
pub const MARKER: &str = "aoe-blobs";
/// The version of the directory's format that is written, and the only one that is read.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"AoEblobs";
/// Magic, version, two reserved octets, checksum.
const MARKER_LEN: usize = 16;
/// What the file systems of Unix put into a fresh directory themselves.
const LOST_AND_FOUND: &str = "lost+found";

/// Opens the directory at `path` as a store and locks it; makes it a store if it is missing or empty
/// and may be written to.
pub(super) fn open_root(path: &Path, read_only: bool) -> Result<(OwnedFd, Lock), BlobError> {
    let opened = match open_directory(path) {
        Err(Errno::NOENT) if !read_only => {
            make_directory(path)
                .map_err(|source| BlobError::refused("create", path.into(), source))?;
            open_directory(path)
        }
        opened => opened,
    };
    let root = opened.map_err(|errno| BlobError::refused("open", path.into(), errno))?;
    let marker_path = path.join(MARKER);
    let refused = |op| {
        let path = marker_path.clone();
        move |errno: Errno| BlobError::refused(op, path, errno)
    };
    let mut flags = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    flags |= if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let marker = match rustix::fs::openat(&root, MARKER, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            if read_only || !is_vacant(&root, path)? {
                return Err(BlobError::NotAStore { path: path.into() });
            }
            // Without EXCL: of two who do this at once, the lock decides.
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::openat(&root, MARKER, flags | OFlags::CREATE, mode)
                .map_err(refused("create"))?
        }
        opened => opened.map_err(refused("open"))?,
    };
    let lock = Lock::take(File::from(marker), path, read_only)?;
    check(&lock.0, &root, path, read_only)?;
    Ok((root, lock))
}

/// Finds the marker sound, or completes it where its creation was cut short.
fn check(marker: &File, root: &OwnedFd, path: &Path, read_only: bool) -> Result<(), BlobError> {
    let marker_path = path.join(MARKER);
    let refused = |op| {
        let path = marker_path.clone();
        move |source: io::Error| BlobError::refused(op, path, source)
    };
    // One more than it has, to see that it is longer.
    let mut octets = [0; MARKER_LEN + 1];
    let len = read_up_to(marker, &mut octets).map_err(refused("read"))?;
    let octets = &octets[..len];
    match parse(octets) {
        Ok(()) if read_only => Ok(()),
        // Whoever wrote it may have been killed before it was durable.
        Ok(()) => marker.sync_all().map_err(refused("sync")),
        Err(Unreadable::Unfinished) if !read_only && is_vacant(root, path)? => {
            marker.write_all_at(&emit(), 0).map_err(refused("write"))?;
            marker.sync_all().map_err(refused("sync"))?;
            rustix::fs::fsync(root).map_err(|errno| BlobError::refused("sync", path.into(), errno))
        }
        Err(Unreadable::Version(version)) => {
            Err(BlobError::UnknownVersion { path: marker_path, version })
        }
        Err(Unreadable::Unfinished | Unreadable::Invalid) => {
            Err(BlobError::BadMarker { path: marker_path })
        }
    }
}

/// Why octets are no marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unreadable {
    /// What power loss may leave of a marker that was being written: parts of it, and zeros.
    Unfinished,
    /// Something else, or damaged.
    Invalid,
    /// One of a version that this program does not know.
    Version(u16),
}

/// The marker of a store.
fn emit() -> [u8; MARKER_LEN] {
    let mut octets = [0; MARKER_LEN];
    octets[..8].copy_from_slice(&MAGIC);
    octets[8..10].copy_from_slice(&VERSION.to_le_bytes());
    let checksum = crc32c::crc32c(&octets[..12]);
    octets[12..].copy_from_slice(&checksum.to_le_bytes());
    octets
}

fn parse(octets: &[u8]) -> Result<(), Unreadable> {
    let wanted = emit();
    if octets == wanted {
        return Ok(());
    }
    let is_part = octets.iter().zip(wanted).all(|(octet, wanted)| [0, wanted].contains(octet));
    match octets {
        _ if is_part && octets.len() <= MARKER_LEN => Err(Unreadable::Unfinished),
        [magic @ .., low, high, _, _, _, _, _, _] if *magic == MAGIC => {
            let version = u16::from_le_bytes([*low, *high]);
            let known = version == VERSION;
            Err(if known { Unreadable::Invalid } else { Unreadable::Version(version) })
        }
        _ => Err(Unreadable::Invalid),
    }
}

/// Whether nothing is in the directory but what belongs to an empty store.
fn is_vacant(root: &OwnedFd, path: &Path) -> Result<bool, BlobError> {
    let names = names_in(root.as_fd(), path)?;
    Ok(names
        .iter()
        .all(|name| [MARKER, LOST_AND_FOUND].map(OsStr::new).contains(&name.as_os_str())))
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Makes the directory, and those above it that are missing, and their names durable.
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

fn read_up_to(file: &File, into: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while let Some(rest) = into.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, len as u64) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// The lock of a store. It is given up when this is dropped: closing the file would not do while a
/// child process that was just forked holds a copy of the descriptor.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Readers share the store at `path`, a writer has it alone.
    fn take(marker: File, path: &Path, read_only: bool) -> Result<Self, BlobError> {
        let operation = if read_only {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        match rustix::fs::flock(&marker, operation) {
            Ok(()) => Ok(Self(marker)),
            Err(Errno::WOULDBLOCK) => {
                Err(BlobError::InUse { path: path.into(), holder: Holder::of_lock_on(&marker) })
            }
            Err(errno) => Err(BlobError::refused("lock", path.join(MARKER), errno)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // If it fails, closing the file does it soon.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Laid out by hand from `docs/formats.md`.
    const KNOWN: [u8; MARKER_LEN] = [
        0x41, 0x6f, 0x45, 0x62, 0x6c, 0x6f, 0x62, 0x73, // AoEblobs
        0x01, 0x00, 0x00, 0x00, // version 1, reserved
        0x1e, 0x16, 0xc5, 0xf5, // checksum
    ];

    #[test]
    fn the_marker_is_the_known_one() {
        assert_eq!(emit(), KNOWN);
        assert_eq!(parse(&KNOWN), Ok(()));
    }

    #[test]
    fn every_flipped_bit_is_detected() {
        for bit in 0..KNOWN.len() * 8 {
            let mut bad = KNOWN;
            bad[bit / 8] ^= 1 << (bit % 8);
            let why = parse(&bad).unwrap_err();
            let in_version = (64..80).contains(&bit);
            assert_eq!(matches!(why, Unreadable::Version(_)), in_version && bad[8..10] != [0, 0]);
        }
        let longer = [&KNOWN[..], &[0]].concat();
        assert_eq!(parse(&longer), Err(Unreadable::Invalid));
    }

    #[test]
    fn what_power_loss_leaves_of_a_marker_is_recognized() {
        for len in 0..MARKER_LEN {
            assert_eq!(parse(&KNOWN[..len]), Err(Unreadable::Unfinished));
            assert_eq!(parse(&[0; MARKER_LEN][..len]), Err(Unreadable::Unfinished));
        }
        assert_eq!(parse(b"notes"), Err(Unreadable::Invalid));
    }
}
