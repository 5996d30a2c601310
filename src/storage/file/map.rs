//! The map of an image: reading it, asking what of it is in memory, bringing it there.

#![allow(unsafe_code, reason = "memory maps, and advice about them")]

use std::fs::File;
use std::io;
use std::ptr;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fd::AsFd;
use rustix::mm::{self, Advice, MapFlags, ProtFlags};

use super::residency::CHUNK;
use super::sigbus::{self, Registration};

/// A read-only map of a file from its start, shared with whoever writes to the file.
#[derive(Debug)]
pub(super) struct Map {
    // Dropped first: the handler must not touch addresses that are unmapped.
    registration: Registration,
    raw: MmapRaw,
    file: Arc<File>,
    page: usize,
}

/// A page of the map could not be had while it was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Faulted;

impl Map {
    /// Maps the first `len` bytes of `file`.
    pub(super) fn new(file: Arc<File>, len: usize) -> io::Result<Self> {
        // Without a Rust reference into the map, it may change at any time: it is only ever read
        // through pointers.
        let raw = MmapOptions::new().len(len).map_raw_read_only(&*file)?;
        let registration = Registration::new(raw.as_ptr(), len)?;
        Ok(Self { registration, raw, file, page: sigbus::page_size() })
    }

    /// Mapped bytes.
    pub(super) fn len(&self) -> usize {
        self.raw.len()
    }

    /// Bytes of a page.
    pub(super) fn page(&self) -> usize {
        self.page
    }

    /// Copies from `offset` on. Only the poll loop's thread may call this: the marks that the
    /// signal handler leaves are for one reader.
    ///
    /// # Errors
    /// [`Faulted`] when a page was not to be had; `into` then holds rubbish, and the pages are
    /// those of the file again.
    #[inline]
    pub(super) fn copy(&self, offset: usize, into: &mut [u8]) -> Result<(), Faulted> {
        assert!(
            offset.checked_add(into.len()).is_some_and(|end| end <= self.len()),
            "the copy lies in the map"
        );
        // SAFETY: the offset lies in the map, by the assertion.
        let from = unsafe { self.raw.as_ptr().add(offset) };
        // SAFETY: the source is mapped as long as `self` lives, and a page behind it that cannot
        // be had is replaced by the SIGBUS handler; the two cannot overlap, since nothing mutable
        // is ever made from the map. What other processes and the writer's system calls change
        // meanwhile may or may not be in the copy, as on any disk.
        unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        if self.registration.take_fault() {
            self.restore(offset, into.len());
            return Err(Faulted);
        }
        Ok(())
    }

    /// Puts pages of the file back where the signal handler has put zeros.
    #[cold]
    fn restore(&self, offset: usize, len: usize) {
        let (start, len) = self.pages(offset, len);
        // SAFETY: the range lies in our own map, of which nobody holds a reference; it is replaced
        // by the same pages of the same file.
        let restored = unsafe {
            mm::mmap(
                self.address(start),
                len,
                ProtFlags::READ,
                MapFlags::SHARED | MapFlags::FIXED,
                self.file.as_fd(),
                start as u64,
            )
        };
        if let Err(error) = restored {
            // Zeros would be served as data from now on.
            log::error!("a damaged part of a map cannot be restored, stopping: {error}");
            std::process::abort();
        }
    }

    /// Which pages of a range are in memory: one bit each, from the lowest on.
    pub(super) fn resident(&self, offset: usize, len: usize) -> io::Result<u64> {
        let (start, len) = self.pages(offset, len);
        let mut pages = [0_u8; 64];
        let count = len.div_ceil(self.page);
        assert!(count <= pages.len(), "a chunk has 64 pages at most");
        let status = pages.as_mut_ptr();
        // SAFETY: the range is mapped and starts on a page, and there is an octet for each page.
        if unsafe { libc::mincore(self.address(start), len, status.cast()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let bits = pages.iter().take(count).enumerate();
        Ok(bits.fold(0, |mask, (page, status)| mask | u64::from(status & 1) << page))
    }

    /// Starts reading a range ahead, without waiting for it.
    pub(super) fn will_need(&self, offset: usize, len: usize) {
        let (start, len) = self.pages(offset, len);
        // SAFETY: the range is mapped, and the advice changes nothing that a program can see. It
        // is no more than advice: errors do not matter.
        let _ = unsafe { mm::madvise(self.address(start), len, Advice::WillNeed) };
    }

    /// Brings a range into memory and waits for it. Blocks: not for the poll loop.
    pub(super) fn populate(&self, offset: usize, len: usize) -> io::Result<()> {
        let (start, len) = self.pages(offset, len);
        loop {
            // SAFETY: the range is mapped, and nothing that a program can see is changed. Pages
            // that cannot be had are an error here and no signal.
            let populated =
                unsafe { mm::madvise(self.address(start), len, Advice::LinuxPopulateRead) };
            match populated.map_err(io::Error::from) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Before Linux 5.14.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    return self.read_through(start, len);
                }
                other => return other,
            }
        }
    }

    /// Brings a range into the page cache by reading it.
    fn read_through(&self, start: usize, len: usize) -> io::Result<()> {
        let mut scratch = [0; 4096];
        let mut at = start;
        while at < start + len {
            let want = scratch.len().min(start + len - at);
            match rustix::io::pread(&*self.file, &mut scratch[..want], at as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(got) => at += got,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The whole pages that a range touches, cut to the map: start and length.
    fn pages(&self, offset: usize, len: usize) -> (usize, usize) {
        let start = offset & !(self.page - 1);
        let end = offset.saturating_add(len).min(self.len());
        assert!(start < end, "the range touches the map");
        (start, end - start)
    }

    fn address(&self, start: usize) -> *mut libc::c_void {
        debug_assert!(start < self.len(), "the address lies in the map");
        self.raw.as_ptr().wrapping_add(start).cast_mut().cast()
    }
}

const _: () = assert!(CHUNK / 4096 <= 64, "the pages of a chunk fit the bits of a u64");

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::vec;

    use super::*;

    const LEN: usize = 4 * CHUNK;

    fn image() -> (Arc<File>, Map) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![0x5a; LEN]).unwrap();
        let file = Arc::new(file);
        let map = Map::new(Arc::clone(&file), LEN).unwrap();
        (file, map)
    }

    #[test]
    fn a_page_that_went_away_is_an_error_and_comes_back() {
        let (file, map) = image();
        let mut octets = [0xa5; 8192];
        for _ in 0..3 {
            assert_eq!(map.copy(3 * CHUNK, &mut octets), Ok(()));
            assert_eq!(octets, [0x5a; 8192]);
            file.set_len(2 * CHUNK as u64).unwrap();
            assert_eq!(map.copy(3 * CHUNK + 100, &mut octets), Err(Faulted));
            // Again: the zeros that the handler has put there are gone.
            assert_eq!(map.copy(3 * CHUNK + 100, &mut octets), Err(Faulted));
            assert_eq!(map.copy(2 * CHUNK - 4096, &mut octets), Err(Faulted));
            assert_eq!(map.copy(2 * CHUNK - 8192, &mut octets), Ok(()));
            assert_eq!(octets, [0x5a; 8192]);
            assert!(map.populate(3 * CHUNK, CHUNK).is_err());
            file.set_len(LEN as u64).unwrap();
            rustix::io::pwrite(&*file, &vec![0x5a; 2 * CHUNK], 2 * CHUNK as u64).unwrap();
        }
        map.populate(3 * CHUNK, CHUNK).unwrap();
        assert_eq!(map.resident(3 * CHUNK, CHUNK).unwrap().count_ones() as usize, CHUNK / map.page);
        drop(map);
        // A place in the registry is free again; many more than it has.
        for _ in 0..5000 {
            Map::new(Arc::clone(&file), LEN).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_populated_is_read_through() {
        let (file, map) = image();
        map.read_through(CHUNK, CHUNK).unwrap();
        file.set_len(CHUNK as u64).unwrap();
        assert!(map.read_through(CHUNK, CHUNK).is_err());
    }

    /// A signal about memory that has failed and that nobody is reading: what the kernel sends to
    /// processes that asked for it early. It once put zeros into the map that were served later.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_failure_that_nobody_has_met_yet_changes_nothing() {
        /// What the kernel has in a `siginfo_t` for SIGBUS.
        #[repr(C)]
        struct Info {
            signo: libc::c_int,
            errno: libc::c_int,
            code: libc::c_int,
            address: *const u8,
            rest: [usize; 13],
        }
        let (_file, map) = image();
        let info = Info {
            signo: libc::SIGBUS,
            errno: 0,
            code: libc::BUS_MCEERR_AO,
            address: map.raw.as_ptr().wrapping_add(CHUNK),
            rest: [0; 13],
        };
        // SAFETY: both take no arguments and cannot fail.
        let [process, thread] =
            [libc::SYS_getpid, libc::SYS_gettid].map(|call| unsafe { libc::syscall(call) });
        // SAFETY: the kernel reads 128 bytes at `info`, which is as long.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_rt_tgsigqueueinfo,
                process,
                thread,
                libc::SIGBUS,
                &raw const info,
            )
        };
        assert_eq!(sent, 0, "{}", io::Error::last_os_error());
        let mut octets = [0xa5; 4096];
        for offset in [0, CHUNK] {
            assert_eq!(map.copy(offset, &mut octets), Ok(()));
            assert_eq!(octets, [0x5a; 4096]);
        }
    }

    /// The handler must not swallow faults of others: those end the process as ever.
    #[test]
    fn a_fault_outside_every_map_ends_the_process() {
        const CHILD: &str = "AOE_SERVER_TEST_FOREIGN_SIGBUS";
        if std::env::var_os(CHILD).is_some() {
            let (_file, _map) = image();
            let foreign = tempfile::tempfile().unwrap();
            foreign.set_len(4096).unwrap();
            let raw = MmapOptions::new().len(4096).map_raw_read_only(&foreign).unwrap();
            foreign.set_len(0).unwrap();
            // SAFETY: the address is mapped; that the page behind it is gone is what is tested,
            // and the process ends here.
            let octet = unsafe { ptr::read_volatile(raw.as_ptr()) };
            panic!("read {octet} from nowhere");
        }
        let name = "storage::file::map::tests::a_fault_outside_every_map_ends_the_process";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let status = child.args(["--exact", name]).env(CHILD, "1").output().unwrap().status;
        assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
    }
}
