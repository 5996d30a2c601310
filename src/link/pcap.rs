//! libpcap: the link that works wherever libpcap does.
//!
//! One handle in immediate mode both receives and sends: a handle never sees what it sent itself.
//! libpcap fills no caller's buffers and sends one frame at a time, so every frame is copied once
//! and every reply is a system call.
//!
//! Frames that are longer than [`FRAME_CAPACITY`] are discarded and counted as dropped. Frames with
//! a VLAN tag, which libpcap puts back where the kernel took it off, are left out. On `lo`, and
//! only there, a link receives what it sends itself.

use core::fmt;
use core::mem;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::string::ToString;

use ::pcap::{Active, Capture, Direction, Error, Linktype};

use super::interface::{OpenError, State, set_option};
use super::watch::Watch;
use super::{Batch, FRAME_CAPACITY, Link, LinkCounters, LinkError, LinkEvent, LinkInfo};
use crate::protocol::{ETHERNET_LEN, ETHERTYPE, MacAddr};

/// AoE without a VLAN tag. Not `inbound and ...`: libpcap itself runs the filter over the first
/// frame after it was set, and there it knows no directions and throws that frame away (1.10.3).
const FILTER: &str = "ether proto 0x88a2 and not vlan";
/// For systems that know no tags of captured frames; tags are then seen when copying.
const FALLBACK: &str = "ether proto 0x88a2";

/// How to open a [`PcapLink`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcapOptions {
    /// Receive frames to other stations too.
    pub promiscuous: bool,
    /// Receive what other programs on this machine send too, to whomever: for watching, as a
    /// target would only see its neighbour's replies. What an `AfPacketLink` sends shows nowhere
    /// on its own machine.
    pub outgoing: bool,
    /// Bytes of the ring that the kernel puts frames in. A frame of whatever length takes a place
    /// for the longest there. The memory is taken when the link is opened, and stays: nearly twice
    /// as much as this says, since libpcap gives each place a block of 16 KiB.
    pub receive_buffer_bytes: usize,
}

impl PcapOptions {
    /// Bytes of the ring that one place takes: the longest frame and what the kernel says of it.
    pub const FRAME_BYTES: usize = FRAME_CAPACITY + 128;
}

impl Default for PcapOptions {
    /// Eight MiB, some 900 frames.
    fn default() -> Self {
        Self { promiscuous: false, outgoing: false, receive_buffer_bytes: 8 << 20 }
    }
}

/// A libpcap handle on one interface.
///
/// libpcap cannot open an interface that is down, nor move to a new one of the same name: a new
/// handle is then opened by [`Link::check`], which takes the same permission as the first, and the
/// descriptor changes.
pub struct PcapLink {
    /// None as long as the interface is not to be had.
    capture: Option<Capture<Active>>,
    watch: Watch,
    /// The interface that the handle is on.
    index: u32,
    options: PcapOptions,
    counters: LinkCounters,
    /// What the handle has told of drops so far; it counts in 32 bits, from zero.
    dropped: u32,
    /// Opening a new handle failed, and the log says so.
    complained: bool,
}

impl PcapLink {
    /// Opens the interface called `name`, which need not be up.
    ///
    /// # Errors
    /// [`OpenError`] when there is no such interface, it is not Ethernet, or the process may not.
    pub fn open(name: &str, options: &PcapOptions) -> Result<Self, OpenError> {
        let (watch, state) = Watch::open(name)?;
        let capture = match capture(name, options) {
            Ok(capture) => Some(capture),
            Err(error @ OpenError::NotPermitted { .. }) => return Err(error),
            Err(error) if state.up => return Err(error),
            Err(error) => {
                log::debug!("{name}: {error}; it is tried again when the interface is up");
                None
            }
        };
        Ok(Self {
            capture,
            watch,
            index: state.index,
            options: options.clone(),
            counters: LinkCounters::default(),
            dropped: 0,
            complained: false,
        })
    }

    /// Makes the handle one of the interface `state`, if it is not yet. Whether it is then.
    fn attach(&mut self, state: State) -> bool {
        if state.index == self.index && self.capture.is_some() {
            return true;
        }
        if !state.up {
            return false;
        }
        self.count_drops();
        self.capture = None;
        match capture(self.watch.name(), &self.options) {
            Ok(capture) => {
                log::info!("{}: opened again", self.watch.name());
                self.capture = Some(capture);
                self.index = state.index;
                self.dropped = 0;
                self.complained = false;
                // Frames were lost, even if the gap was too short to be seen.
                self.watch.interrupt();
                true
            }
            Err(error) => {
                if !mem::replace(&mut self.complained, true) {
                    let name = self.watch.name();
                    log::warn!("{name}: cannot be opened again, it is tried further: {error}");
                }
                false
            }
        }
    }

    /// Adds what the handle has dropped since it was last asked.
    fn count_drops(&mut self) {
        if let Some(Ok(statistics)) = self.capture.as_mut().map(Capture::stats) {
            self.counters.dropped += u64::from(statistics.dropped.wrapping_sub(self.dropped));
            self.dropped = statistics.dropped;
        }
    }

    /// Finds out why receiving failed, which libpcap tells in words only.
    fn receive_failure(&mut self, error: &Error) -> LinkError {
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        let up = self.watch.look().is_some_and(|state| state.index == self.index && state.up);
        // A handle that has failed is of no further use; `check` opens another.
        self.count_drops();
        self.capture = None;
        self.watch.interrupt();
        if up {
            log::warn!("{}: cannot receive, opening it again: {error}", self.watch.name());
            LinkError::Os { errno }
        } else {
            LinkError::Down
        }
    }
}

impl Link for PcapLink {
    fn info(&self) -> LinkInfo {
        self.watch.info()
    }

    fn receive(&mut self, batch: &mut Batch<'_>) -> Result<usize, LinkError> {
        let Some(capture) = self.capture.as_mut() else { return Err(LinkError::Down) };
        let before = batch.len();
        if batch.room() == 0 {
            return Ok(0);
        }
        let everybody = self.options.promiscuous || self.options.outgoing;
        let address = (!everybody).then(|| self.watch.info().mac);
        let mut too_long = 0;
        let result = capture.dispatch(Some(batch.room()), |packet| {
            let whole = packet.header.len as usize == packet.data.len();
            if !whole || packet.data.len() > FRAME_CAPACITY {
                too_long += 1;
            } else if is_ours(packet.data, address) {
                batch.push(packet.data);
            }
        });
        let received = batch.len() - before;
        self.counters.dropped += too_long;
        self.counters.received += received as u64;
        match result {
            Ok(_) | Err(Error::TimeoutExpired) => Ok(received),
            Err(error) => match self.receive_failure(&error) {
                error if received == 0 => Err(error),
                _ => Ok(received),
            },
        }
    }

    fn send(&mut self, batch: &Batch<'_>, first: usize) -> Result<usize, LinkError> {
        let Some(capture) = self.capture.as_mut() else { return Err(LinkError::Down) };
        let mut next = first;
        while next < batch.len() {
            if capture.sendpacket(batch.frame(next)).is_ok() {
                self.counters.sent += 1;
                next += 1;
                continue;
            }
            // libpcap puts the reason into words, but its last system call was the one that failed.
            match io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) {
                libc::EAGAIN | libc::EINTR | libc::ENOBUFS => break,
                libc::EMSGSIZE | libc::EINVAL => {
                    self.counters.unsendable += 1;
                    next += 1;
                }
                libc::ENETDOWN | libc::ENXIO | libc::ENODEV => {
                    self.watch.interrupt();
                    return if next == first { Err(LinkError::Down) } else { Ok(next - first) };
                }
                errno if next == first => return Err(LinkError::Os { errno }),
                _ => break,
            }
        }
        Ok(next.saturating_sub(first))
    }

    fn check(&mut self) -> Option<LinkEvent> {
        let seen = self.watch.look();
        let attached = seen.is_some_and(|state| self.attach(state));
        self.watch.settle(seen, attached)
    }

    fn counters(&mut self) -> LinkCounters {
        self.count_drops();
        self.counters
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.capture.as_ref().map(AsFd::as_fd)
    }
}

impl fmt::Debug for PcapLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PcapLink")
            .field("interface", &self.watch.name())
            .field("index", &self.index)
            .field("info", &self.watch.info())
            .field("options", &self.options)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// Whether a captured frame is untagged AoE, and for us: for `address` or a group, unless that is
/// `None`.
fn is_ours(frame: &[u8], address: Option<MacAddr>) -> bool {
    let Some((header, _)) = frame.split_first_chunk::<ETHERNET_LEN>() else { return false };
    let [d0, d1, d2, d3, d4, d5, .., high, low] = *header;
    let destination = MacAddr([d0, d1, d2, d3, d4, d5]);
    u16::from_be_bytes([high, low]) == ETHERTYPE
        && (destination.is_group() || address.is_none_or(|address| address == destination))
}

/// A new handle, ready to be used.
fn capture(name: &str, options: &PcapOptions) -> Result<Capture<Active>, OpenError> {
    let failed =
        |action| move |source| OpenError::Pcap { action, interface: name.to_string(), source };
    let capture = Capture::from_device(name)
        .map_err(failed("prepare a capture"))?
        .promisc(options.promiscuous)
        .immediate_mode(true)
        // A tag that is put back needs four octets, which are reckoned in.
        .snaplen(i32::try_from(FRAME_CAPACITY).unwrap_or(i32::MAX))
        .buffer_size(i32::try_from(options.receive_buffer_bytes).unwrap_or(i32::MAX))
        .open()
        .map_err(|error| match io::Error::last_os_error().raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => OpenError::not_permitted(name),
            _ => failed("start a capture")(error),
        })?;
    if capture.get_datalink() != Linktype::ETHERNET {
        return Err(OpenError::NotEthernet { interface: name.to_string() });
    }
    let mut capture = capture.setnonblock().map_err(failed("make a capture non-blocking"))?;
    if let Err(error) = capture.filter(FILTER, true) {
        log::debug!("{name}: filter \"{FILTER}\" is not to be had: {error}");
        capture.filter(FALLBACK, true).map_err(failed("set a filter"))?;
    }
    if !options.outgoing {
        // Those that slip in before the second line, and all on Linux before 4.20, are left out by
        // the first: in this process, after having taken a place in the ring.
        capture.direction(Direction::In).map_err(failed("leave out outgoing frames"))?;
        let one: libc::c_int = 1;
        let result = set_option(&capture, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &one);
        if let Err(error) = result {
            log::debug!("{name}: the kernel cannot hide outgoing frames: {error}");
        }
    }
    Ok(capture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_untagged_aoe_for_us_or_a_group_is_ours() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let mut frame = [0xa5; 24];
        frame[..6].copy_from_slice(&mac.0);
        frame[12..14].copy_from_slice(&[0x88, 0xa2]);
        assert!(is_ours(&frame, Some(mac)));
        assert!(is_ours(&frame, None));
        assert!(!is_ours(&frame, Some(MacAddr([2, 0, 0, 0, 0, 2]))));
        assert!(!is_ours(&frame[..13], None));
        assert!(is_ours(&frame[..14], None), "what is malformed is for the engine to count");
        frame[..6].copy_from_slice(&MacAddr::BROADCAST.0);
        assert!(is_ours(&frame, Some(mac)));
        frame[12..14].copy_from_slice(&[0x81, 0x00]);
        assert!(!is_ours(&frame, None));
    }

    #[test]
    fn the_filters_take_aoe_and_nothing_else() {
        let capture = Capture::dead(Linktype::ETHERNET).unwrap();
        let mut frame = [0xa5; 60];
        for (ethertype, taken) in [([0x88, 0xa2], true), ([0x08, 0x00], false), ([0x81, 0], false)]
        {
            frame[12..14].copy_from_slice(&ethertype);
            for filter in [FILTER, FALLBACK] {
                let program = capture.compile(filter, true).unwrap();
                assert_eq!(program.filter(&frame), taken, "{filter} {ethertype:02x?}");
            }
        }
    }
}
