//! The answerer: as little as a server on a packet socket can do, and so the limit of wire, kernel
//! and load generator together.
//!
//! One loop of `recvmmsg` and `sendmmsg`, 32 frames at a time, that never sleeps, checks nothing,
//! has no disk, and sends canned octets back. A server cannot be faster than this without another
//! way into the kernel; how near it comes is what the server itself costs.

#![allow(unsafe_code, reason = "packet sockets, recvmmsg and sendmmsg exist only in libc")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::Context as _;
use aoe_server::link::{BATCH_FRAMES, interface};
use aoe_server::protocol::{Address, ETHERTYPE};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::canned::{Canned, HEAD};

/// The kernel's buffer for what arrives, as large as the server's.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Answers at `address` on the interface called `name` until the process is killed.
///
/// # Errors
/// When the interface cannot be used, or goes down.
pub(crate) fn run(name: &str, address: Address) -> anyhow::Result<()> {
    let interface = interface::lookup(name)?;
    let socket = open(interface.index).with_context(|| format!("cannot answer on {name}"))?;
    let canned = Canned::new(interface.mac, address, interface.mtu);
    let mut requests = vec![[0; HEAD]; BATCH_FRAMES];
    let mut replies = vec![canned.buffer(); BATCH_FRAMES];
    let mut incoming = Vectors::new(&mut requests);
    let mut outgoing = Vectors::new(&mut replies);
    loop {
        let received = incoming.receive(&socket)?;
        for index in 0..received {
            let reply = &mut outgoing.buffers[index];
            outgoing.lens[index] = canned.turn_round(&incoming.buffers[index], reply);
        }
        let mut sent = 0;
        while sent < received {
            sent += outgoing.send(&socket, sent, received)?;
        }
    }
}

/// A socket for the AoE frames of the interface with number `index`.
fn open(index: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    for option in [libc::PACKET_QDISC_BYPASS, libc::PACKET_IGNORE_OUTGOING] {
        switch_on(&socket, option)?;
    }
    set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)
        .or_else(|_| set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER))?;
    // SAFETY: a C structure of integers, for which all zeros are valid.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = ETHERTYPE.to_be();
    address.sll_ifindex = index.cast_signed();
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel reads one `sockaddr_ll` at the address of one, alive through the call.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if result == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

fn switch_on(socket: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    let (level, value) = (libc::SOL_PACKET, &raw const one);
    // SAFETY: the kernel reads `len` octets at the address of an integer of that size.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Buffers, and what `recvmmsg` and `sendmmsg` take to find them. It is kept from call to call,
/// since clearing it costs more than setting the pointers.
struct Vectors<'b, const LEN: usize> {
    buffers: &'b mut [[u8; LEN]],
    lens: [usize; BATCH_FRAMES],
    parts: [libc::iovec; BATCH_FRAMES],
    headers: [libc::mmsghdr; BATCH_FRAMES],
}

impl<'b, const LEN: usize> Vectors<'b, LEN> {
    fn new(buffers: &'b mut [[u8; LEN]]) -> Self {
        // SAFETY: a C structure of integers and pointers, for which all zeros are valid.
        let header: libc::mmsghdr = unsafe { mem::zeroed() };
        let part = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self {
            buffers,
            lens: [LEN; BATCH_FRAMES],
            parts: [part; BATCH_FRAMES],
            headers: [header; BATCH_FRAMES],
        }
    }

    /// Points the headers from number `first` up to `end` at their buffers, and tells how many
    /// these are.
    fn aim(&mut self, first: usize, end: usize) -> libc::c_uint {
        let buffers = self.buffers.iter_mut().zip(self.lens);
        let places = buffers.zip(&mut self.parts).zip(&mut self.headers);
        let mut aimed = 0;
        for (((buffer, len), part), header) in places.take(end).skip(first) {
            *part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: len.min(LEN) };
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            aimed += 1;
        }
        aimed
    }

    /// Fetches the heads of frames, and tells of how many; what does not fit a buffer is cut off.
    fn receive(&mut self, socket: &OwnedFd) -> io::Result<usize> {
        let (flags, forever) = (libc::MSG_DONTWAIT, std::ptr::null_mut());
        let count = self.aim(0, BATCH_FRAMES);
        let headers = self.headers.as_mut_ptr();
        // SAFETY: the first `count` headers were just pointed at one part each, and that part at
        // one buffer with no more than its length; all of them are borrowed mutably meanwhile.
        // Names and control data are null and of length zero, as `new` made them.
        let result = unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, count, flags, forever) };
        taken(result)
    }

    /// Sends frames from number `first` up to `end`, and tells how many it did.
    fn send(&mut self, socket: &OwnedFd, first: usize, end: usize) -> io::Result<usize> {
        let count = self.aim(first, end);
        let headers = self.headers[first..].as_mut_ptr();
        // SAFETY: as in `receive`; these are the `count` headers from number `first` on.
        let result =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT) };
        taken(result)
    }
}

/// How many frames a call moved; none when it has to be tried again.
fn taken(result: libc::c_int) -> io::Result<usize> {
    if let Ok(count) = usize::try_from(result) {
        return Ok(count);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS) => Ok(0),
        _ => Err(error),
    }
}
