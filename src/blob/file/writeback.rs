//! Writing a long file in pieces, each of which is on its way to the disk before the next one is written.
//!
//! Left to itself the kernel gathers all of a pack and hands the disk everything at once, when the file
//! is synced: whatever else has to be written then, a record of a journal for instance, waits behind
//! 16 MiB. In pieces it waits behind one.

#![allow(unsafe_code, reason = "sync_file_range is to be had through libc only")]

use std::fs::File;
use std::io::{self, Write};

/// Bytes of a piece: half a millisecond of a disk that writes half a gigabyte in a second.
const PIECE: usize = 256 << 10;
/// Bytes that the kernel is given at a time. While it finds pages for them and copies them, no other
/// thread gets the processor: where memory is slow to be had, a piece at once took it for more than a
/// millisecond, and a journal waits for it several times for each record.
const COPIED: usize = 16 << 10;

/// Writes all of `octets` at the start of `file`. They are durable only once the file is synced.
pub(super) fn write_all(mut file: &File, octets: &[u8]) -> io::Result<()> {
    if octets.len() <= PIECE {
        return file.write_all(octets);
    }
    let mut at = 0;
    for piece in octets.chunks(PIECE) {
        piece.chunks(COPIED).try_for_each(|part| file.write_all(part))?;
        write_out(file, at, piece.len())?;
        at += piece.len();
    }
    Ok(())
}

/// Waits until a part of a file is written, where that can be done. An error counts: the kernel tells of
/// it once, and a later sync of the file would succeed.
#[cfg(target_os = "linux")]
fn write_out(file: &File, offset: usize, len: usize) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let flags = libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else { return Ok(()) };
    // SAFETY: the call reads and writes no memory of this process, and the descriptor is that of a
    // file that is open for as long as it is borrowed.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, flags) };
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        _ if result == 0 => Ok(()),
        // A file system that cannot: a sync does it all then.
        Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE | libc::EOPNOTSUPP) => Ok(()),
        _ => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
fn write_out(_: &File, _: usize, _: usize) -> io::Result<()> {
    Ok(())
}
