//! The ring that the kernel puts received frames in: memory that it shares with this process
//! (`PACKET_RX_RING`, version 2).
//!
//! The kernel copies a frame there where it arrives, on the processor that took it from the wire, and
//! gives its own buffer back at once. To fetch it from there takes no system call.
//!
//! # Invariants
//! * A place is the kernel's or ours, as its status says. We touch nothing but the status of one that
//!   is the kernel's.
//! * Places are taken in the order that the kernel fills them in.

use core::ptr::{self, NonNull};
use core::slice;
use core::sync::atomic::{AtomicU32, Ordering};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::super::interface::set_option;
use super::super::{Batch, FRAME_CAPACITY};

/// Octets of a place before the part of a frame that follows its Ethernet header: what the kernel
/// says of the frame, and that header.
const HEAD: usize = 80;
/// Octets of a place: the longest frame and what the kernel says of it.
const PLACE: usize = (HEAD + FRAME_CAPACITY).next_multiple_of(libc::TPACKET_ALIGNMENT);
/// Octets of a block, which the kernel allocates in one piece if it can. No place is in two.
const BLOCK: usize = 64 << 10;
const PLACES_IN_BLOCK: usize = BLOCK / PLACE;
/// Octets that a ring takes at most.
const MOST_BYTES: usize = 64 << 20;

/// The ring of one socket, mapped.
pub(super) struct Ring {
    memory: NonNull<u8>,
    /// Octets of it.
    len: usize,
    places: usize,
    /// The place that the kernel has filled next, or is going to.
    next: usize,
}

// SAFETY: nothing else in this process refers to the memory, and the kernel does not care which
// thread looks there.
unsafe impl Send for Ring {}

/// What was in the ring.
pub(super) struct Fetched {
    /// Frames that are in the batch now.
    pub(super) kept: usize,
    /// Frames that are lost, being longer than a buffer.
    pub(super) too_long: usize,
}

impl Ring {
    /// Has the kernel put what `socket` receives in a ring with places for `frames` or a few more.
    pub(super) fn open(socket: &OwnedFd, frames: usize) -> io::Result<Self> {
        let blocks = frames.div_ceil(PLACES_IN_BLOCK).max(1);
        let (places, len) = (blocks * PLACES_IN_BLOCK, blocks * BLOCK);
        if len > MOST_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        set_option(socket, libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        let request = libc::tpacket_req {
            tp_block_size: BLOCK as libc::c_uint,
            tp_block_nr: blocks as libc::c_uint,
            tp_frame_size: PLACE as libc::c_uint,
            tp_frame_nr: places as libc::c_uint,
        };
        set_option(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        match map(socket, len) {
            Ok(memory) => Ok(Self { memory, len, places, next: 0 }),
            Err(error) => {
                // Without it the socket's own queue would get nothing.
                // SAFETY: a C structure of integers, for which all zeros are valid.
                let none: libc::tpacket_req = unsafe { core::mem::zeroed() };
                set_option(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &none)?;
                Err(error)
            }
        }
    }

    /// Appends frames that have arrived to `batch`, as many as there are and as it has room for.
    pub(super) fn receive(&mut self, batch: &mut Batch<'_>) -> Fetched {
        let mut fetched = Fetched { kept: 0, too_long: 0 };
        while batch.room() > 0 {
            let (block, place) = (self.next / PLACES_IN_BLOCK, self.next % PLACES_IN_BLOCK);
            // SAFETY: `next` is less than `places`, so that the whole place is in the mapping.
            let place = unsafe { self.memory.add(block * BLOCK + place * PLACE) };
            // SAFETY: each place starts with its status, and is aligned to 16; the kernel, too, accesses
            // the status in one piece.
            let status = unsafe { AtomicU32::from_ptr(place.as_ptr().cast()) };
            if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                break;
            }
            // SAFETY: it starts with this structure of integers, and is ours, so that nobody writes
            // there.
            let header = unsafe { place.cast::<libc::tpacket2_hdr>().read() };
            let (held, start) = (header.tp_snaplen as usize, usize::from(header.tp_mac));
            let whole = header.tp_len == header.tp_snaplen && start + held <= PLACE;
            let first = place.as_ptr().wrapping_add(start);
            // SAFETY: these octets are inside the place, the kernel has filled them, and they do
            // not change before the status does.
            let frame = whole.then(|| unsafe { slice::from_raw_parts(first, held) });
            if frame.is_some_and(|frame| batch.push(frame)) {
                fetched.kept += 1;
            } else {
                fetched.too_long += 1;
            }
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = if self.next + 1 < self.places { self.next + 1 } else { 0 };
        }
        fetched
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: it is the whole of a mapping of ours, which nothing refers to any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.len) };
    }
}

/// Maps `len` octets of the ring that `socket` has.
fn map(socket: &OwnedFd, len: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping, where the kernel finds room for it.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            socket.as_raw_fd(),
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(memory.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}
