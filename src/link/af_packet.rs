//! Linux packet sockets: the fast link.
//!
//! Received frames lie in a ring in memory that is shared with the kernel (`ring`), from where a burst
//! is copied to the caller's buffers without a system call. Where there is none, `recvmmsg` fetches
//! a burst. One is sent by `sendmmsg`. The kernel filters: other protocols, frames with a VLAN tag, and unless the
//! link is promiscuous frames to other stations never reach the process. (A tagged frame is
//! another network's: the kernel takes the tag off, so that without the filter we would see it as
//! an untagged one, and answer into the wrong network. A tag for VLAN 0 says only how urgent a
//! frame is, and does not count.)
//!
//! Frames that arrive longer than [`FRAME_CAPACITY`] are discarded and counted as dropped.
//! On `lo`, and only there, a link receives what it sends itself.
//!
//! Sending bypasses the queueing discipline, and with it whatever listens on the same machine: a
//! `tcpdump` beside a server sees what it receives, not what it sends. Listen at the other end.

#![allow(unsafe_code, reason = "packet sockets, recvmmsg and sendmmsg exist only in libc")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "small counts, sizes and constants, for which C has narrower types than Rust"
)]

mod ring;

use core::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::string::ToString;

use rustix::net::sockopt::{
    set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_send_buffer_size,
    set_socket_send_buffer_size_force, socket_error, socket_recv_buffer_size,
    socket_send_buffer_size,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use self::ring::{Fetched, Ring};
use super::interface::{OpenError, State, set_option};
use super::watch::Watch;
use super::{
    BATCH_FRAMES, Batch, FRAME_CAPACITY, Link, LinkCounters, LinkError, LinkEvent, LinkInfo,
};
use crate::protocol::{ETHERTYPE, MacAddr};

/// How to open an [`AfPacketLink`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AfPacketOptions {
    /// Receive frames to other stations too.
    pub promiscuous: bool,
    /// Have the kernel put what it receives in a ring in shared memory, if that is to be had and takes
    /// 64 MiB at most. It is faster, and the memory is taken when the link is opened.
    pub ring: bool,
    /// Bytes that the kernel may hold for us: by `SO_RCVBUF`, of which it sets aside twice as much,
    /// and counts its own overhead, up to several KiB for a frame of 60 octets. A ring has a place
    /// for each [`Self::FRAME_BYTES`] of this.
    pub receive_buffer_bytes: usize,
    /// Bytes that may wait to leave, by `SO_SNDBUF`.
    pub send_buffer_bytes: usize,
}

impl AfPacketOptions {
    /// Bytes of receive buffer to ask for to have the longest frame held. The kernel grants twice
    /// that, and charges what its driver allocated: 13 KiB for a frame of 9014 octets from a veth.
    /// Network cards may take more, so that there is room for 32 KiB.
    pub const FRAME_BYTES: usize = 16 << 10;
}

impl Default for AfPacketOptions {
    /// A ring. Eight MiB to receive, 512 of the longest frames; two to send, enough for some
    /// batches of the longest frames.
    fn default() -> Self {
        Self {
            promiscuous: false,
            ring: true,
            receive_buffer_bytes: 8 << 20,
            send_buffer_bytes: 2 << 20,
        }
    }
}

/// A packet socket on one interface.
///
/// A socket that outlives its interface is bound to the next one of the same name by
/// [`Link::check`], which takes no privileges; its descriptor stays the same.
pub struct AfPacketLink {
    socket: OwnedFd,
    watch: Watch,
    /// The interface that the socket is bound to.
    index: u32,
    promiscuous: bool,
    vectors: Box<Vectors>,
    /// Where received frames are; without it they wait in the socket's queue.
    ring: Option<Ring>,
    counters: LinkCounters,
    /// Binding to a new interface failed, and the log says so.
    complained: bool,
}

impl AfPacketLink {
    /// Opens a socket on the interface called `name`, which need not be up.
    ///
    /// # Errors
    /// [`OpenError`] when there is no such interface, it is not Ethernet, or the process may not.
    pub fn open(name: &str, options: &AfPacketOptions) -> Result<Self, OpenError> {
        let (watch, state) = Watch::open(name)?;
        let failed = |action| {
            move |source: io::Error| match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => OpenError::not_permitted(name),
                _ => OpenError::Os { action, interface: name.to_string(), source },
            }
        };
        // Protocol zero: nothing is received before the filter is in place.
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)
            .map_err(io::Error::from)
            .map_err(failed("open a packet socket"))?;
        let one: libc::c_int = 1;
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &one)
            .map_err(failed("bypass the queueing discipline"))?;
        if let Err(error) =
            set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &one)
        {
            // Linux before 4.20. A socket bound to one protocol sees no outgoing frames anyhow.
            log::debug!("{name}: the kernel cannot hide outgoing frames: {error}");
        }
        attach_filter(&socket, options.promiscuous, state.mac)
            .map_err(failed("attach a filter"))?;
        let ring = if options.ring { ring(&socket, name, options) } else { None };
        size_buffers(&socket, name, options, ring.is_none());
        bind(&socket, state.index).map_err(failed("bind a packet socket"))?;
        if options.promiscuous {
            set_membership(&socket, libc::PACKET_ADD_MEMBERSHIP, state.index)
                .map_err(failed("receive promiscuously"))?;
        }
        Ok(Self {
            socket,
            watch,
            index: state.index,
            promiscuous: options.promiscuous,
            vectors: Box::new(Vectors::new()),
            ring,
            counters: LinkCounters::default(),
            complained: false,
        })
    }

    /// Makes the socket one of the interface `state`, if it is not yet. Whether it is then.
    fn attach(&mut self, state: State) -> bool {
        if self.promiscuous
            && state.mac != self.watch.info().mac
            && let Err(error) = attach_filter(&self.socket, true, state.mac)
        {
            // The old one lets too much through rather than too little.
            log::warn!("{}: cannot adapt the filter: {error}", self.watch.name());
        }
        if state.index == self.index {
            return true;
        }
        let mut result = bind(&self.socket, state.index);
        if result.is_ok() && self.promiscuous {
            // It fails where the old interface is gone, which took the membership with it; one
            // that was renamed should not stay promiscuous.
            let _ = set_membership(&self.socket, libc::PACKET_DROP_MEMBERSHIP, self.index);
            result = set_membership(&self.socket, libc::PACKET_ADD_MEMBERSHIP, state.index);
        }
        match result {
            Ok(()) => {
                log::info!("{}: moved to the new interface of this name", self.watch.name());
                self.index = state.index;
                self.complained = false;
                // Frames were lost, even if the gap was too short to be seen.
                self.watch.interrupt();
                true
            }
            Err(error) => {
                if !mem::replace(&mut self.complained, true) {
                    log::warn!("{}: cannot move to the new interface: {error}", self.watch.name());
                }
                false
            }
        }
    }

    /// The error for `errno`, remembered when it means that the interface is down.
    fn failure(&mut self, errno: i32) -> LinkError {
        match errno {
            libc::ENETDOWN | libc::ENXIO | libc::ENODEV => {
                self.watch.interrupt();
                LinkError::Down
            }
            errno => LinkError::Os { errno },
        }
    }
}

impl Link for AfPacketLink {
    fn info(&self) -> LinkInfo {
        self.watch.info()
    }

    fn receive(&mut self, batch: &mut Batch<'_>) -> Result<usize, LinkError> {
        if let Some(ring) = &mut self.ring {
            let Fetched { kept, too_long } = ring.receive(batch);
            self.counters.received += kept as u64;
            self.counters.dropped += too_long as u64;
            return Ok(kept);
        }
        let before = batch.len();
        loop {
            let (buffers, lens) = batch.free_buffers();
            let offered = buffers.len().min(BATCH_FRAMES);
            if offered == 0 {
                break;
            }
            let Burst { fetched, kept } = match self.vectors.receive(&self.socket, buffers, lens) {
                Ok(burst) => burst,
                Err(libc::EAGAIN | libc::EINTR) => break,
                Err(errno) => {
                    let error = self.failure(errno);
                    if batch.len() == before {
                        return Err(error);
                    }
                    break;
                }
            };
            self.counters.dropped += (fetched - kept) as u64;
            batch.commit_filled(kept);
            if fetched < offered {
                break;
            }
        }
        let received = batch.len() - before;
        self.counters.received += received as u64;
        Ok(received)
    }

    fn send(&mut self, batch: &Batch<'_>, first: usize) -> Result<usize, LinkError> {
        let mut next = first;
        while next < batch.len() {
            match self.vectors.send(&self.socket, batch, next) {
                Ok(sent) => {
                    self.counters.sent += sent as u64;
                    next += sent;
                }
                // The device's queue or our share of memory is full.
                Err(libc::EAGAIN | libc::EINTR | libc::ENOBUFS) => break,
                // Too long for the MTU; too short for an Ethernet header.
                Err(libc::EMSGSIZE | libc::EINVAL) => {
                    self.counters.unsendable += 1;
                    next += 1;
                }
                Err(errno) => {
                    let error = self.failure(errno);
                    if next == first {
                        return Err(error);
                    }
                    break;
                }
            }
        }
        Ok(next.saturating_sub(first))
    }

    fn check(&mut self) -> Option<LinkEvent> {
        // Whoever fetches from a ring is not told that the interface went down; and as long as nobody
        // is, the socket stays readable.
        if self.ring.is_some() && socket_error(&self.socket).is_ok_and(|error| error.is_err()) {
            self.watch.interrupt();
        }
        let seen = self.watch.look();
        let attached = seen.is_some_and(|state| self.attach(state));
        self.watch.settle(seen, attached)
    }

    fn counters(&mut self) -> LinkCounters {
        // SAFETY: the structure is two integers, for which all zeros are valid.
        let mut statistics: libc::tpacket_stats = unsafe { mem::zeroed() };
        let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to `statistics`, which is as long.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut len,
            )
        };
        if result == 0 {
            // Reading them resets them.
            self.counters.dropped += u64::from(statistics.tp_drops);
        }
        self.counters
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

impl fmt::Debug for AfPacketLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AfPacketLink")
            .field("interface", &self.watch.name())
            .field("index", &self.index)
            .field("info", &self.watch.info())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// What one `recvmmsg` brought.
struct Burst {
    /// Frames taken from the kernel.
    fetched: usize,
    /// Frames that were not too long; they come first.
    kept: usize,
}

/// What `recvmmsg` and `sendmmsg` take. It is kept from call to call, since clearing it costs more
/// than setting the pointers, which are those of the call that is under way or stale.
struct Vectors {
    headers: [libc::mmsghdr; BATCH_FRAMES],
    parts: [libc::iovec; BATCH_FRAMES],
}

// SAFETY: the pointers inside are written before each call that has the kernel follow them, and
// are never followed by anybody else, so that no thread can reach through them what is not its own.
unsafe impl Send for Vectors {}

impl Vectors {
    fn new() -> Self {
        // SAFETY: a C structure of integers and pointers, for which all zeros are valid.
        let header: libc::mmsghdr = unsafe { mem::zeroed() };
        let part = libc::iovec { iov_base: core::ptr::null_mut(), iov_len: 0 };
        Self { headers: [header; BATCH_FRAMES], parts: [part; BATCH_FRAMES] }
    }

    /// Points header number `index` at `len` octets at `base`.
    fn aim(&mut self, index: usize, base: *mut u8, len: usize) {
        self.parts[index] = libc::iovec { iov_base: base.cast(), iov_len: len };
        let header = &mut self.headers[index].msg_hdr;
        header.msg_iov = &raw mut self.parts[index];
        header.msg_iovlen = 1;
    }

    /// Fetches frames into `buffers`, at most [`BATCH_FRAMES`]; the error is an `errno`.
    fn receive(
        &mut self,
        socket: &OwnedFd,
        buffers: &mut [[u8; FRAME_CAPACITY]],
        lens: &mut [usize],
    ) -> Result<Burst, i32> {
        let offered = buffers.len().min(BATCH_FRAMES);
        for (index, buffer) in buffers.iter_mut().take(offered).enumerate() {
            self.aim(index, buffer.as_mut_ptr(), buffer.len());
        }
        // SAFETY: the first `offered` headers each name one part, and that part one buffer of
        // `buffers` with its length; headers, parts and buffers are borrowed mutably meanwhile.
        // Names and control data are null and of length zero, as `new` made them.
        let result = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                offered as libc::c_uint,
                libc::MSG_DONTWAIT,
                core::ptr::null_mut(),
            )
        };
        let Ok(fetched) = usize::try_from(result) else { return Err(last_errno()) };
        let mut kept = 0;
        for (index, header) in self.headers.iter().enumerate().take(fetched) {
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                continue;
            }
            if index != kept {
                buffers.swap(index, kept);
            }
            if let Some(len) = lens.get_mut(kept) {
                *len = header.msg_len as usize;
            }
            kept += 1;
        }
        Ok(Burst { fetched, kept })
    }

    /// Sends frames of `batch` from `first` on, at most [`BATCH_FRAMES`], and tells how many it
    /// did; the error is the `errno` for the first of them.
    fn send(&mut self, socket: &OwnedFd, batch: &Batch<'_>, first: usize) -> Result<usize, i32> {
        let offered = batch.len().saturating_sub(first).min(BATCH_FRAMES);
        for index in 0..offered {
            let frame = batch.frame(first + index);
            // The kernel only reads what is sent.
            self.aim(index, frame.as_ptr().cast_mut(), frame.len());
        }
        // SAFETY: the first `offered` headers each name one part, and that part one frame of
        // `batch` with its length; `batch` is borrowed meanwhile and only read from. Names and
        // control data are null and of length zero, as `new` made them.
        let result = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                offered as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(result).map_err(|_| last_errno())
    }
}

/// Why the last call failed.
fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Has the socket receive AoE frames of the interface with number `index`.
fn bind(socket: &OwnedFd, index: u32) -> io::Result<()> {
    // SAFETY: a C structure of integers, for which all zeros are valid.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = ETHERTYPE.to_be();
    address.sll_ifindex = index.cast_signed();
    // SAFETY: the kernel reads one `sockaddr_ll` at the address of one, alive through the call.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // Binding to an interface that is down leaves an error behind, which is no news.
    let _ = socket_error(socket)?;
    Ok(())
}

/// Has the interface with number `index` receive all frames, for as long as the socket is open at
/// most, or no longer; `change` is the socket option that says which.
fn set_membership(socket: &OwnedFd, change: libc::c_int, index: u32) -> io::Result<()> {
    let membership = libc::packet_mreq {
        mr_ifindex: index.cast_signed(),
        mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(socket, libc::SOL_PACKET, change, &membership)
}

/// Keeps from the socket what is not AoE, what had a VLAN tag, and unless `promiscuous` what is for
/// another station than `mac`.
///
/// The kernel not only takes a tag off, it also forgets it before a socket that is bound to one
/// protocol sees the frame: neither `SKF_AD_VLAN_TAG_PRESENT` nor `PACKET_AUXDATA` tell of it then
/// (Linux 6.18). But it marks such a frame as another host's, and only that is left to go by. Of
/// frames to other stations a promiscuous socket therefore cannot know whether they had a tag.
fn attach_filter(socket: &OwnedFd, promiscuous: bool, mac: MacAddr) -> io::Result<()> {
    const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
    const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const JUMP_SET: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned();
    const OTHER_HOST: u32 = libc::PACKET_OTHERHOST as u32;
    const fn op(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt, jf, k }
    }
    let [m0, m1, m2, m3, m4, m5] = mac.0;
    let (high, low) = (u32::from_be_bytes([m0, m1, m2, m3]), u16::from_be_bytes([m4, m5]));
    let mut program = [
        op(LOAD_HALF, 0, 0, 12),
        op(JUMP_EQUAL, 0, 9, u32::from(ETHERTYPE)),
        op(LOAD_WORD, 0, 0, PACKET_TYPE),
        op(JUMP_EQUAL, if promiscuous { 0 } else { 7 }, 6, OTHER_HOST),
        op(LOAD_BYTE, 0, 0, 0), // another host's, though to a group:
        op(JUMP_SET, 5, 0, 1),  // it had a tag
        op(LOAD_WORD, 0, 0, 0), // another host's, though to us: the same
        op(JUMP_EQUAL, 0, 2, high),
        op(LOAD_HALF, 0, 0, 4),
        op(JUMP_EQUAL, 1, 0, u32::from(low)),
        op(RETURN, 0, 0, u32::MAX), // the whole frame
        op(RETURN, 0, 0, 0),        // nothing
    ];
    let filter =
        libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

/// A ring with as many places as wanted, unless that is too much, or refused.
fn ring(socket: &OwnedFd, name: &str, options: &AfPacketOptions) -> Option<Ring> {
    let frames = options.receive_buffer_bytes / AfPacketOptions::FRAME_BYTES;
    match Ring::open(socket, frames) {
        Ok(ring) => Some(ring),
        Err(error) => {
            log::debug!("{name}: received frames are fetched by system calls: {error}");
            None
        }
    }
}

/// Makes the kernel's buffers as large as wanted, or says in the log how to; the one for what is
/// received only if there is a `queue` for that.
fn size_buffers(socket: &OwnedFd, name: &str, options: &AfPacketOptions, queue: bool) {
    if queue {
        size_receive_buffer(socket, name, options.receive_buffer_bytes);
    }
    size_send_buffer(socket, name, options.send_buffer_bytes);
}

fn size_receive_buffer(socket: &OwnedFd, name: &str, wanted: usize) {
    let mut result = set_socket_recv_buffer_size_force(socket, wanted);
    if result.is_err() {
        result = set_socket_recv_buffer_size(socket, wanted);
    }
    let granted = result.and_then(|()| socket_recv_buffer_size(socket)).map_or(0, halved);
    if granted < wanted {
        log::warn!(
            "{name}: the kernel grants {granted} bytes of receive buffer where {wanted} are \
             wanted, and may drop frames; allow them with: sysctl -w net.core.rmem_max={wanted}"
        );
    }
}

fn size_send_buffer(socket: &OwnedFd, name: &str, wanted: usize) {
    let mut result = set_socket_send_buffer_size_force(socket, wanted);
    if result.is_err() {
        result = set_socket_send_buffer_size(socket, wanted);
    }
    let granted = result.and_then(|()| socket_send_buffer_size(socket)).map_or(0, halved);
    if granted < wanted {
        log::warn!(
            "{name}: the kernel grants {granted} bytes of send buffer where {wanted} are wanted; \
             allow them with: sysctl -w net.core.wmem_max={wanted}"
        );
    }
}

/// What was asked for, where the kernel tells the double that it made of it.
const fn halved(granted: usize) -> usize {
    granted / 2
}
