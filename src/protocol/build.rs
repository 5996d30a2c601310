//! Writers of frames into a caller's buffer, for requests and replies alike.
//!
//! A frame is written front to back: [`FrameWriter::new`] puts the Ethernet and AoE headers, one of
//! the argument methods follows, and [`FrameWriter::finish`] pads with zeros and tells the length.
//! A buffer that is too small shows there, as `None`; nothing panics and nothing is half-checked.

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol};

use super::parse::{AtaArg, ConfigArg, Directive, Frame, Header, MaskArg, ReserveArg};
use super::types::{
    ATA_LEN, Address, AoeError, CONFIG_LEN, Command, ConfigCommand, ETHERNET_LEN, ETHERTYPE,
    HEADER_LEN, MASK_LEN, MIN_FRAME_LEN, MacAddr, MaskCommand, MaskError, RESERVE_LEN,
    ReserveCommand, Tag, VERSION,
};
use super::{AtaFlags, Flags};

/// The Ethernet and AoE headers of one frame, as values. The version is always ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameFields {
    /// Who is to receive it.
    pub destination: MacAddr,
    /// Who sends it.
    pub source: MacAddr,
    /// Response and error bits.
    pub flags: Flags,
    /// Why the target refuses; zero where the flags do not say error.
    pub error: AoeError,
    /// The target, or a wildcard.
    pub address: Address,
    /// What is asked or answered.
    pub command: Command,
    /// The initiator's tag.
    pub tag: Tag,
}

impl FrameFields {
    /// The headers of `frame`, which may be emitted again.
    pub const fn of(frame: &Frame<'_>) -> Self {
        Self {
            destination: frame.destination,
            source: frame.source,
            flags: frame.header.flags(),
            error: frame.header.error(),
            address: frame.header.address(),
            command: frame.header.command(),
            tag: frame.header.tag(),
        }
    }

    /// A request to the target at `address`.
    pub const fn request(
        source: MacAddr,
        destination: MacAddr,
        address: Address,
        command: Command,
        tag: Tag,
    ) -> Self {
        let (flags, error) = (Flags::REQUEST, AoeError::NONE);
        Self { destination, source, flags, error, address, command, tag }
    }

    /// The reply to a request with `header` that came from `requester`, from the target at
    /// `address` (its own, even where the request had a wildcard) on the link with `source`.
    #[inline]
    pub const fn reply(
        header: &Header<'_>,
        requester: MacAddr,
        source: MacAddr,
        address: Address,
    ) -> Self {
        Self {
            destination: requester,
            source,
            flags: Flags::RESPONSE,
            error: AoeError::NONE,
            address,
            command: header.command(),
            tag: header.tag(),
        }
    }

    /// The same, refusing with `error`.
    #[must_use]
    pub const fn refusing(self, error: AoeError) -> Self {
        Self { flags: Flags::ERROR_RESPONSE, error, ..self }
    }
}

/// Writes one frame into a buffer.
#[derive(Debug)]
pub struct FrameWriter<'b> {
    octets: &'b mut [u8],
    len: usize,
    overflow: bool,
}

impl<'b> FrameWriter<'b> {
    /// Starts a frame in `octets` with its Ethernet and AoE headers.
    #[inline]
    pub fn new(octets: &'b mut [u8], fields: &FrameFields) -> Self {
        let mut writer = Self { octets, len: 0, overflow: false };
        if let Some(head) = writer.claim::<{ ETHERNET_LEN + HEADER_LEN }>() {
            let mut ethernet = EthernetFrame::new_unchecked(&mut head[..]);
            ethernet.set_dst_addr(EthernetAddress(fields.destination.0));
            ethernet.set_src_addr(EthernetAddress(fields.source.0));
            ethernet.set_ethertype(EthernetProtocol::Unknown(ETHERTYPE));
            if let Some(header) = ethernet.payload_mut().first_chunk_mut::<HEADER_LEN>() {
                let [shelf_high, shelf_low] = fields.address.shelf.to_be_bytes();
                let [t0, t1, t2, t3] = fields.tag.0;
                *header = [
                    VERSION << 4 | fields.flags.0 & 0x0f,
                    fields.error.0,
                    shelf_high,
                    shelf_low,
                    fields.address.slot,
                    fields.command.0,
                    t0,
                    t1,
                    t2,
                    t3,
                ];
            }
        }
        writer
    }

    /// The next `N` octets of the frame; `None` when the buffer has no room for them.
    #[inline]
    fn claim<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        let rest = self.octets.get_mut(self.len..)?;
        let Some(chunk) = rest.first_chunk_mut::<N>() else {
            self.overflow = true;
            return None;
        };
        self.len = self.len.saturating_add(N);
        Some(chunk)
    }

    /// Appends octets that were laid out elsewhere.
    #[inline]
    pub fn octets(&mut self, octets: &[u8]) -> &mut Self {
        if let Some(out) = self.space(octets.len()) {
            out.copy_from_slice(octets);
        }
        self
    }

    /// The next `len` octets of the frame, for the caller to fill; they hold whatever they held.
    /// `None`, and a frame that will not finish, when the buffer has no room for them.
    #[inline]
    pub fn space(&mut self, len: usize) -> Option<&mut [u8]> {
        let end = self.len.saturating_add(len);
        let Some(out) = self.octets.get_mut(self.len..end) else {
            self.overflow = true;
            return None;
        };
        self.len = end;
        Some(out)
    }

    /// Appends the registers of an ATA command or of its result.
    #[inline]
    pub fn ata(&mut self, ata: &AtaFields) -> &mut Self {
        if let Some(out) = self.claim::<ATA_LEN>() {
            let [lba0, lba1, lba2, lba3, lba4, lba5] = ata.lba;
            *out = [
                ata.flags.0,
                ata.feature,
                ata.sector_count,
                ata.command,
                lba0,
                lba1,
                lba2,
                lba3,
                lba4,
                lba5,
                0, // reserved
                0,
            ];
        }
        self
    }

    /// Appends the fixed part of a config query and the config string. One that is too long for
    /// its length field spoils the frame.
    pub fn config(&mut self, config: &ConfigFields, string: &[u8]) -> &mut Self {
        let Ok(len) = u16::try_from(string.len()) else {
            self.overflow = true;
            return self;
        };
        if let Some(out) = self.claim::<CONFIG_LEN>() {
            let [buffers_high, buffers_low] = config.buffer_count.to_be_bytes();
            let [firmware_high, firmware_low] = config.firmware.to_be_bytes();
            let [len_high, len_low] = len.to_be_bytes();
            *out = [
                buffers_high,
                buffers_low,
                firmware_high,
                firmware_low,
                config.sector_count,
                VERSION << 4 | config.command.0 & 0x0f,
                len_high,
                len_low,
            ];
        }
        self.octets(string)
    }

    /// Appends the fixed part of a MAC mask list.
    pub fn mask(&mut self, mask: &MaskFields) -> &mut Self {
        if let Some(out) = self.claim::<MASK_LEN>() {
            *out = [0, mask.command.0, mask.error.0, mask.directive_count];
        }
        self
    }

    /// Appends one directive of a MAC mask list.
    pub fn directive(&mut self, directive: Directive) -> &mut Self {
        self.octets(&[0, directive.command.0]).mac(directive.mac)
    }

    /// Appends the fixed part of a reservation.
    pub fn reserve(&mut self, command: ReserveCommand, mac_count: u8) -> &mut Self {
        if let Some(out) = self.claim::<RESERVE_LEN>() {
            *out = [command.0, mac_count];
        }
        self
    }

    /// Appends one holder of a reservation.
    pub fn mac(&mut self, mac: MacAddr) -> &mut Self {
        self.octets(&mac.0)
    }

    /// Ends the frame: pads it with zeros to the shortest that Ethernet carries, so that no octet
    /// of an earlier frame leaks, and tells its length.
    ///
    /// `None` when the buffer was too small for any part of it.
    #[inline]
    pub fn finish(&mut self) -> Option<usize> {
        if self.overflow {
            return None;
        }
        if self.len < MIN_FRAME_LEN {
            let padding = self.octets.get_mut(self.len..MIN_FRAME_LEN)?;
            padding.fill(0);
            self.len = MIN_FRAME_LEN;
        }
        Some(self.len)
    }

    /// Ends the frame without padding, as initiators send their requests.
    #[inline]
    pub fn finish_unpadded(&mut self) -> Option<usize> {
        if self.overflow { None } else { Some(self.len) }
    }
}

/// The registers of an ATA command, or of its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AtaFields {
    /// AoE's flags.
    pub flags: AtaFlags,
    /// Features of a request, error of a reply.
    pub feature: u8,
    /// Sectors to transfer, or not transferred.
    pub sector_count: u8,
    /// Opcode of a request, status of a reply.
    pub command: u8,
    /// The six address registers, lowest first.
    pub lba: [u8; 6],
}

impl AtaFields {
    /// The registers in `ata`, which may be emitted again.
    #[inline]
    pub const fn of(ata: &AtaArg<'_>) -> Self {
        Self {
            flags: ata.flags(),
            feature: ata.feature(),
            sector_count: ata.sector_count(),
            command: ata.opcode().0,
            lba: ata.lba_registers(),
        }
    }
}

/// The fixed part of a config query, as values. The string's length comes with the string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConfigFields {
    /// How many frames the target can hold.
    pub buffer_count: u16,
    /// The target's firmware version.
    pub firmware: u16,
    /// The most sectors of one ATA command.
    pub sector_count: u8,
    /// What to do with the config string.
    pub command: ConfigCommand,
}

impl ConfigFields {
    /// The values in `config`, which may be emitted again.
    pub const fn of(config: &ConfigArg<'_>) -> Self {
        Self {
            buffer_count: config.buffer_count(),
            firmware: config.firmware(),
            sector_count: config.sector_count(),
            command: config.command(),
        }
    }
}

/// The fixed part of a MAC mask list, as values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MaskFields {
    /// What to do with the list.
    pub command: MaskCommand,
    /// Why an edit stopped.
    pub error: MaskError,
    /// How many directives follow, or which one stopped the edit.
    pub directive_count: u8,
}

impl MaskFields {
    /// The values in `mask`, which may be emitted again.
    pub const fn of(mask: &MaskArg<'_>) -> Self {
        Self {
            command: mask.command(),
            error: mask.error(),
            directive_count: mask.directive_count(),
        }
    }
}

/// Writes `frame` again, field by field, with its argument; the inverse of parsing. What no field
/// covers (reserved octets, what follows a list or a config string) is written as the specification
/// has it: zero, or not at all. What follows ATA registers is data, all of it. The arguments of
/// unknown commands, and of refusals, which echo as much as the target sees fit, are copied.
///
/// `None` when the argument is malformed or `out` too small.
pub fn emit(frame: &Frame<'_>, out: &mut [u8]) -> Option<usize> {
    let (flags, arg) = (frame.header.flags(), frame.header.arg());
    let mut writer = FrameWriter::new(out, &FrameFields::of(frame));
    match frame.header.command() {
        _ if flags.is_response() && flags.is_error() => {
            writer.octets(arg);
        }
        Command::ATA => {
            let ata = AtaArg::parse(arg).ok()?;
            writer.ata(&AtaFields::of(&ata)).octets(ata.data());
        }
        Command::CONFIG => {
            let config = ConfigArg::parse(arg).ok()?;
            writer.config(&ConfigFields::of(&config), config.string()?);
        }
        Command::MASK => {
            let mask = MaskArg::parse(arg).ok()?;
            writer.mask(&MaskFields::of(&mask));
            // The count of an edit that stopped is the place of a directive; there is no list.
            if !(flags.is_response() && mask.error() != MaskError::NONE) {
                for directive in mask.directives()? {
                    writer.directive(directive);
                }
            }
        }
        Command::RESERVE => {
            let reserve = ReserveArg::parse(arg).ok()?;
            writer.reserve(reserve.command(), reserve.mac_count());
            for mac in reserve.macs()? {
                writer.mac(mac);
            }
        }
        _ => {
            writer.octets(arg);
        }
    }
    writer.finish_unpadded()
}
