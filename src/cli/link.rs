//! Opening the link that a command asks for.

use anyhow::Context as _;
use clap::builder::PossibleValue;

use crate::link::LinkKind;
use crate::server::{LiveLink, LiveOptions};

impl clap::ValueEnum for LinkKind {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Pcap, Self::AfPacket]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Pcap => PossibleValue::new("pcap").help("libpcap: on every system"),
            Self::AfPacket => PossibleValue::new("af-packet").help("Linux packet sockets: faster"),
        })
    }
}

/// The fastest kind of link that this build has.
pub(super) const fn fastest() -> LinkKind {
    if cfg!(all(feature = "af-packet", target_os = "linux")) {
        LinkKind::AfPacket
    } else {
        LinkKind::Pcap
    }
}

/// Opens a link of `kind` on `interface`, for an initiator.
pub(super) fn open_link(interface: &str, kind: LinkKind) -> anyhow::Result<LiveLink> {
    crate::server::open_link(kind, interface, &LiveOptions::default())
        .with_context(|| format!("cannot use interface {interface}"))
}
