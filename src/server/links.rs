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
    /// Not promiscuous; eight MiB, with which no drop was seen at full speed.
    fn default() -> Self {
        Self { promiscuous: false, receive_buffer_bytes: 8 << 20 }
    }
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
