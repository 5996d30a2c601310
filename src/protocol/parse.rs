//! Borrowed views of frames. None copies, none allocates, none can panic.

use smoltcp::wire::{EthernetFrame, EthernetProtocol};

use super::types::{
    ATA_LEN, Address, AoeError, CONFIG_LEN, Command, ConfigCommand, DIRECTIVE_LEN,
    DirectiveCommand, ETHERTYPE, HEADER_LEN, MASK_LEN, MacAddr, MaskCommand, MaskError,
    RESERVE_LEN, ReserveCommand, Tag,
};
use super::{AtaFlags, Flags, Opcode};
use crate::units::Lba;

/// Offsets in the AoE header, from its first octet (the fifteenth of an untagged frame).
mod field {
    pub(super) const VERSION_FLAGS: usize = 0;
    pub(super) const ERROR: usize = 1;
    pub(super) const SHELF: usize = 2;
    pub(super) const SLOT: usize = 4;
    pub(super) const COMMAND: usize = 5;
    pub(super) const TAG: usize = 6;
}

/// A frame that ends before the part that was to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{have} octets are too few")]
pub struct Truncated {
    /// The octets there were.
    pub have: usize,
}

/// Why octets are not an AoE frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Too short for its headers.
    #[error("frame too short: {have} octets")]
    Truncated {
        /// The octets there were.
        have: usize,
    },
    /// Something other than AoE. A VLAN tag (`0x8100`) shows here: tagged frames are another
    /// network's, and an untagged reply to one would go astray.
    #[error("EtherType {ethertype:#06x} is not AoE")]
    NotAoe {
        /// What it is instead.
        ethertype: u16,
    },
}

/// An Ethernet frame that carries AoE.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Who is to receive it.
    pub destination: MacAddr,
    /// Who sent it.
    pub source: MacAddr,
    /// What it carries.
    pub header: Header<'a>,
}

impl<'a> Frame<'a> {
    /// Borrows the AoE frame in `octets`, which start at the destination address and may end in
    /// padding.
    ///
    /// # Errors
    /// [`ParseError`] when the frame is cut short or carries another protocol.
    #[inline]
    pub fn parse(octets: &'a [u8]) -> Result<Self, ParseError> {
        let have = octets.len();
        let ethernet = EthernetFrame::new_checked(octets)
            .map_err(|smoltcp::wire::Error| ParseError::Truncated { have })?;
        match ethernet.ethertype() {
            EthernetProtocol::Unknown(ETHERTYPE) => {}
            other => return Err(ParseError::NotAoe { ethertype: other.into() }),
        }
        let header =
            Header::parse(ethernet.payload()).map_err(|_| ParseError::Truncated { have })?;
        Ok(Self {
            destination: MacAddr(ethernet.dst_addr().0),
            source: MacAddr(ethernet.src_addr().0),
            header,
        })
    }
}

/// A view of one AoE header and of the argument that follows it (`AoEr11` 2).
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    octets: &'a [u8; HEADER_LEN], // an array: no accessor can index out of bounds
    arg: &'a [u8],
}

impl<'a> Header<'a> {
    /// Borrows the header at the start of `payload`, which is a frame less its Ethernet header.
    ///
    /// # Errors
    /// [`Truncated`] when there are fewer than ten octets.
    #[inline]
    pub const fn parse(payload: &'a [u8]) -> Result<Self, Truncated> {
        match payload.split_first_chunk() {
            Some((octets, arg)) => Ok(Self { octets, arg }),
            None => Err(Truncated { have: payload.len() }),
        }
    }

    /// The protocol version; only 1 exists.
    pub const fn version(&self) -> u8 {
        self.octets[field::VERSION_FLAGS] >> 4
    }

    /// The four flag bits.
    pub const fn flags(&self) -> Flags {
        Flags(self.octets[field::VERSION_FLAGS] & 0x0f)
    }

    /// Why the target refused; meaningful only where the flags say error.
    pub const fn error(&self) -> AoeError {
        AoeError(self.octets[field::ERROR])
    }

    /// The target's address, or in a request possibly a wildcard.
    pub const fn address(&self) -> Address {
        Address {
            shelf: u16::from_be_bytes([self.octets[field::SHELF], self.octets[field::SHELF + 1]]),
            slot: self.octets[field::SLOT],
        }
    }

    /// What is asked.
    pub const fn command(&self) -> Command {
        Command(self.octets[field::COMMAND])
    }

    /// The initiator's tag.
    pub const fn tag(&self) -> Tag {
        let [.., a, b, c, d] = *self.octets;
        Tag([a, b, c, d])
    }

    /// What follows the header: the argument, then perhaps data, then perhaps padding.
    pub const fn arg(&self) -> &'a [u8] {
        self.arg
    }
}

// The tag is read as the header's last four octets.
const _: () = assert!(field::TAG + 4 == HEADER_LEN);

/// Splits a fixed argument from what follows it.
macro_rules! fixed_part {
    ($view:ident, $len:ident) => {
        impl<'a> $view<'a> {
            /// Borrows the argument at the start of `arg`, the octets after the AoE header.
            ///
            /// # Errors
            /// [`Truncated`] when the fixed part is not all there.
            #[inline]
            pub const fn parse(arg: &'a [u8]) -> Result<Self, Truncated> {
                match arg.split_first_chunk::<$len>() {
                    Some((octets, rest)) => Ok(Self { octets, rest }),
                    None => Err(Truncated { have: arg.len() }),
                }
            }

            /// The fixed part as it stands, for error replies that echo it.
            pub const fn octets(&self) -> &'a [u8; $len] {
                self.octets
            }
        }
    };
}

/// The argument of an ATA command, request or reply (`AoEr11` 3.1).
#[derive(Debug, Clone, Copy)]
pub struct AtaArg<'a> {
    octets: &'a [u8; ATA_LEN],
    rest: &'a [u8],
}
fixed_part!(AtaArg, ATA_LEN);

impl<'a> AtaArg<'a> {
    /// The AoE flags of the command.
    pub const fn flags(&self) -> AtaFlags {
        AtaFlags(self.octets[0])
    }

    /// The features register of a request, the error register of a reply.
    pub const fn feature(&self) -> u8 {
        self.octets[1]
    }

    /// Sectors to transfer in a request, sectors not transferred in a reply.
    pub const fn sector_count(&self) -> u8 {
        self.octets[2]
    }

    /// The opcode of a request, as the command register takes it.
    pub const fn opcode(&self) -> Opcode {
        Opcode(self.octets[3])
    }

    /// The status register of a reply.
    pub const fn status(&self) -> u8 {
        self.octets[3]
    }

    /// The six address registers, lowest first.
    pub const fn lba_registers(&self) -> [u8; 6] {
        let [_, _, _, _, lba @ .., _, _] = *self.octets;
        lba
    }

    /// The address as 48-bit commands read it.
    pub const fn lba48(&self) -> Lba {
        let [lba0, lba1, lba2, lba3, lba4, lba5] = self.lba_registers();
        Lba(u64::from_le_bytes([lba0, lba1, lba2, lba3, lba4, lba5, 0, 0]))
    }

    /// The address as 28-bit commands read it: the high nibble of the fourth register belongs to
    /// the device register.
    pub const fn lba28(&self) -> Lba {
        let [lba0, lba1, lba2, lba3, _, _] = self.lba_registers();
        Lba(u32::from_le_bytes([lba0, lba1, lba2, lba3 & 0x0f]) as u64)
    }

    /// What follows the registers: data, and perhaps padding.
    pub const fn data(&self) -> &'a [u8] {
        self.rest
    }
}

/// The argument of a config query, request or reply (`AoEr11` 3.2).
#[derive(Debug, Clone, Copy)]
pub struct ConfigArg<'a> {
    octets: &'a [u8; CONFIG_LEN],
    rest: &'a [u8],
}
fixed_part!(ConfigArg, CONFIG_LEN);

impl<'a> ConfigArg<'a> {
    /// How many frames the target can hold.
    pub const fn buffer_count(&self) -> u16 {
        u16::from_be_bytes([self.octets[0], self.octets[1]])
    }

    /// The target's firmware version.
    pub const fn firmware(&self) -> u16 {
        u16::from_be_bytes([self.octets[2], self.octets[3]])
    }

    /// The most sectors of one ATA command; zero means two.
    pub const fn sector_count(&self) -> u8 {
        self.octets[4]
    }

    /// What to do with the config string. The other nibble, a version, is anything in the field.
    pub const fn command(&self) -> ConfigCommand {
        ConfigCommand(self.octets[5] & 0x0f)
    }

    /// The length the frame claims for its config string, unchecked.
    pub const fn claimed_len(&self) -> u16 {
        u16::from_be_bytes([self.octets[6], self.octets[7]])
    }

    /// The config string; `None` when it is longer than what the frame holds.
    pub fn string(&self) -> Option<&'a [u8]> {
        self.rest.get(..usize::from(self.claimed_len()))
    }
}

/// The argument of a MAC mask command, request or reply (`AoEr11` 3.3).
#[derive(Debug, Clone, Copy)]
pub struct MaskArg<'a> {
    octets: &'a [u8; MASK_LEN],
    rest: &'a [u8],
}
fixed_part!(MaskArg, MASK_LEN);

impl<'a> MaskArg<'a> {
    /// What to do with the list.
    pub const fn command(&self) -> MaskCommand {
        MaskCommand(self.octets[1])
    }

    /// Why an edit stopped.
    pub const fn error(&self) -> MaskError {
        MaskError(self.octets[2])
    }

    /// How many directives there are; in the reply to an edit that stopped, which one stopped it,
    /// and then no directive follows.
    pub const fn directive_count(&self) -> u8 {
        self.octets[3]
    }

    /// The directives; `None` when the frame does not hold as many as it claims. Meaningless in the
    /// reply to an edit that stopped: its count is not one, and what follows is padding.
    pub fn directives(&self) -> Option<impl ExactSizeIterator<Item = Directive> + use<'a>> {
        let len = usize::from(self.directive_count()).checked_mul(DIRECTIVE_LEN)?;
        let (directives, _) = self.rest.get(..len)?.as_chunks::<DIRECTIVE_LEN>();
        Some(directives.iter().copied().map(Directive::parse))
    }
}

/// One directive of a MAC mask list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directive {
    /// What it does.
    pub command: DirectiveCommand,
    /// With which address.
    pub mac: MacAddr,
}

impl Directive {
    const fn parse(octets: [u8; DIRECTIVE_LEN]) -> Self {
        let [_, command, mac @ ..] = octets;
        Self { command: DirectiveCommand(command), mac: MacAddr(mac) }
    }
}

/// The argument of a reserve/release command, request or reply (`AoEr11` 3.4).
#[derive(Debug, Clone, Copy)]
pub struct ReserveArg<'a> {
    octets: &'a [u8; RESERVE_LEN],
    rest: &'a [u8],
}
fixed_part!(ReserveArg, RESERVE_LEN);

impl<'a> ReserveArg<'a> {
    /// What to do with the reservation.
    pub const fn command(&self) -> ReserveCommand {
        ReserveCommand(self.octets[0])
    }

    /// How many addresses the frame claims to list.
    pub const fn mac_count(&self) -> u8 {
        self.octets[1]
    }

    /// The holders; `None` when the frame does not hold as many as it claims.
    pub fn macs(&self) -> Option<impl ExactSizeIterator<Item = MacAddr> + use<'a>> {
        let len = usize::from(self.mac_count()).checked_mul(6)?;
        let (macs, _) = self.rest.get(..len)?.as_chunks::<6>();
        Some(macs.iter().copied().map(MacAddr))
    }
}
