//! Opening live links by the name of their kind.

use crate::link::interface::OpenError;
use crate::link::{Link, LinkKind};

/// How to open a live link, of whatever kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveOptions {
    /// Receive frames to other stations too.
    pub promiscuous: bool,
    /// Bytes that the kernel may hold of frames that nobody has fetched.
    pub receive_buffer_bytes: usize,
}

impl Default for LiveOptions {
    /// Not promiscuous; eight MiB, 512 of the longest frames at least.
    fn default() -> Self {
        Self { promiscuous: false, receive_buffer_bytes: LEAST_BYTES }
    }
}

/// Initiators that may have all in flight that they may, at every target, while nothing is fetched.
const INITIATORS: usize = 4;
/// Smaller receive buffers are not worth the risk.
const LEAST_BYTES: usize = 8 << 20;

/// The receive buffer, in bytes, of a link of this kind to targets with these buffer counts: no
/// frame of four initiators is dropped while the loop does not fetch any, up to a limit.
///
/// A packet socket takes as much memory for a ring, up to a limit of its own, and above that as
/// much as frames wait for. A ring of libpcap is always memory that is gone for good, so that the
/// limit is lower.
pub(super) fn receive_buffer_bytes(
    kind: LinkKind,
    buffer_counts: impl Iterator<Item = u16>,
) -> usize {
    let frames = INITIATORS * buffer_counts.map(usize::from).sum::<usize>();
    let (of_one, most) = match kind {
        #[cfg(feature = "pcap")]
        LinkKind::Pcap => (crate::link::pcap::PcapOptions::FRAME_BYTES, 64 << 20),
        #[cfg(all(feature = "af-packet", target_os = "linux"))]
        LinkKind::AfPacket => (crate::link::af_packet::AfPacketOptions::FRAME_BYTES, 256 << 20),
        #[allow(unreachable_patterns, reason = "a build may have every kind")]
        _ => (0, LEAST_BYTES), // it cannot be opened
    };
    frames.saturating_mul(of_one).clamp(LEAST_BYTES, most)
}

/// A live link of any kind.
pub type LiveLink = Box<dyn Link + Send>;

/// Opens the interface called `name`.
///
/// # Errors
/// [`OpenError`] when it is missing, the process may not, or this build has no links of that kind.
pub fn open_link(kind: LinkKind, name: &str, options: &LiveOptions) -> Result<LiveLink, OpenError> {
    let LiveOptions { promiscuous, receive_buffer_bytes } = *options;
    match kind {
        #[cfg(feature = "pcap")]
        LinkKind::Pcap => {
            use crate::link::pcap::{PcapLink, PcapOptions};
            let options =
                PcapOptions { promiscuous, receive_buffer_bytes, ..PcapOptions::default() };
            Ok(Box::new(PcapLink::open(name, &options)?))
        }
        #[cfg(all(feature = "af-packet", target_os = "linux"))]
        LinkKind::AfPacket => {
            use crate::link::af_packet::{AfPacketLink, AfPacketOptions};
            let options =
                AfPacketOptions { promiscuous, receive_buffer_bytes, ..AfPacketOptions::default() };
            Ok(Box::new(AfPacketLink::open(name, &options)?))
        }
        #[allow(unreachable_patterns, reason = "a build may have every kind")]
        _ => {
            let _ = (name, promiscuous, receive_buffer_bytes);
            Err(OpenError::KindMissing { kind })
        }
    }
}

#[cfg(all(test, feature = "pcap", feature = "af-packet", target_os = "linux"))]
mod tests {
    use super::*;
    use crate::link::FRAME_CAPACITY;

    fn bytes(kind: LinkKind, targets: usize, buffer_count: u16) -> usize {
        receive_buffer_bytes(kind, std::iter::repeat_n(buffer_count, targets))
    }

    #[test]
    fn a_receive_buffer_holds_four_windows_of_each_target_within_limits() {
        let (fast, slow) = (LinkKind::AfPacket, LinkKind::Pcap);
        // A server without targets yet, and few of them.
        for (targets, buffer_count) in [(0, 64), (1, 2), (1, 64)] {
            assert_eq!(bytes(fast, targets, buffer_count), 8 << 20);
            assert_eq!(bytes(slow, targets, buffer_count), 8 << 20);
        }
        // 16 KiB a frame, of which the kernel makes 32, and exactly the limit with 64 targets.
        assert_eq!(bytes(fast, 8, 64), 4 * 8 * 64 * (16 << 10));
        assert_eq!(bytes(fast, 64, 64), 256 << 20);
        assert_eq!(bytes(fast, 65, 64), 256 << 20);
        assert_eq!(bytes(fast, 1024, 1024), 256 << 20);
        // A place in the ring, and memory that is taken: a lower limit.
        let place = FRAME_CAPACITY + 128;
        assert_eq!(bytes(slow, 8, 64), 4 * 8 * 64 * place);
        assert_eq!(bytes(slow, 64, 64), 64 << 20);
        assert_eq!(bytes(slow, 1024, 1024), 64 << 20);
    }
}
