//! The wire: ATA over Ethernet as octets.
//!
//! # The contract of views and writers
//! * A view borrows the octets it was parsed from and copies nothing. Parsing checks only that the
//!   fixed part is there; whatever an accessor can be asked for then exists, so none can panic.
//! * Lengths and counts found in a frame are claims. Accessors that depend on one return an
//!   `Option`.
//! * Views hold no policy: unknown codes are kept, reserved bits ignored, trailing octets allowed.
//!   What to do about them is for the engine to say.
//! * Writers fill a caller's buffer, and a buffer that is too small shows when the frame is
//!   finished.
//! * AoE fields are big-endian; the LBA and everything inside ATA data little-endian.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::std_instead_of_core)]

pub mod ata;
mod build;
mod parse;
pub mod print;
mod types;

pub use ata::{AtaFlags, Opcode};
pub use build::{AtaFields, ConfigFields, FrameFields, FrameWriter, MaskFields, emit};
pub use parse::{
    AtaArg, ConfigArg, Directive, Frame, Header, MaskArg, ParseError, ReserveArg, Truncated,
};
pub(crate) use types::codes;
pub use types::{
    ATA_DATA_OFFSET, ATA_LEN, Address, AoeError, BadAddress, BadMacAddr, CONFIG_LEN,
    CONFIG_STRING_MAX, Command, ConfigCommand, DIRECTIVE_LEN, DirectiveCommand, ETHERNET_LEN,
    ETHERTYPE, HEADER_LEN, MASK_LEN, MAX_MTU, MIN_FRAME_LEN, MacAddr, MaskCommand, MaskError,
    RESERVE_LEN, ReserveCommand, Tag, VERSION,
};

use crate::units::SECTOR_SIZE;

/// The four flag bits of an AoE header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No flags: a request.
    pub const REQUEST: Self = Self(0);
    /// The R bit.
    pub const RESPONSE: Self = Self(0x08);
    /// The R and E bits.
    pub const ERROR_RESPONSE: Self = Self(0x0c);

    /// Whether the R bit is set. A target never answers such a frame: it is the only thing that
    /// keeps two targets from answering each other for ever.
    pub const fn is_response(self) -> bool {
        self.0 & 0x08 != 0
    }

    /// Whether the E bit is set.
    pub const fn is_error(self) -> bool {
        self.0 & 0x04 != 0
    }
}

/// The most sectors that an ATA frame can carry on a link with `mtu`: every implementation counts
/// the Ethernet header into the MTU here, and so do we.
#[allow(clippy::cast_possible_truncation, reason = "255 at most where it is cast")]
pub const fn sectors_per_frame(mtu: usize) -> u8 {
    let sectors = mtu.saturating_sub(ATA_DATA_OFFSET) / SECTOR_SIZE;
    if sectors > 255 { 255 } else { sectors as u8 }
}

/// The sector count to advertise on a link with `mtu`: a multiple of 8 when 8 fit, since 17 sectors
/// (MTU 9000) would leave seven of eight transfers unaligned to 4 KiB.
pub const fn advertised_sectors(mtu: usize) -> u8 {
    let sectors = sectors_per_frame(mtu);
    if sectors >= 8 { sectors & !7 } else { sectors }
}
