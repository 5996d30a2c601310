//! One line of text about a frame, as tcpdump would print it.
//!
//! ```
//! use aoe_server::protocol::print::FrameLine;
//!
//! let frame = [
//!     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0x00, 0xaa, 0xbb, 0x01, 0x88, 0xa2, //
//!     0x10, 0x00, 0xff, 0xff, 0xff, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
//! ];
//! assert_eq!(
//!     FrameLine::new(&frame).to_string(),
//!     "52:54:00:aa:bb:01 > ff:ff:ff:ff:ff:ff e*.* tag 00000000 config request: read, length 32"
//! );
//! ```
//!
//! # Invariants
//! * Any octets give a line: printable ASCII without line breaks, of a bounded length.
//! * A count or length that the frame claims and does not hold is shown as such, never followed.

use core::fmt::{self, Write};

use super::ata::{error, status};
use super::{
    ATA_LEN, AoeError, AtaArg, AtaFlags, CONFIG_LEN, Command, ConfigArg, ConfigCommand, Directive,
    DirectiveCommand, ETHERNET_LEN, Flags, Frame, MASK_LEN, MIN_FRAME_LEN, MacAddr, MaskArg,
    MaskCommand, MaskError, Opcode, ParseError, RESERVE_LEN, ReserveArg, ReserveCommand, VERSION,
};
use crate::units::SECTOR_SIZE;

/// Octets of a config string that are shown: enough for a name, and a line stays a line.
const STRING_SHOWN: usize = 64;
/// Addresses of a list that are shown, chosen by the same measure.
const MACS_SHOWN: usize = 8;

/// Shows a frame in one line.
///
/// In a reply the opcode is gone, since its register holds the status: only the request tells what
/// was done.
#[derive(Debug, Clone, Copy)]
pub struct FrameLine<'a>(&'a [u8]);

impl<'a> FrameLine<'a> {
    /// Shows `octets`, which start at the destination address.
    pub const fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }
}

impl fmt::Display for FrameLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Frame::parse(self.0) {
            Ok(frame) => {
                stations(f, frame.source, frame.destination)?;
                headline(f, &frame)?;
                argument(f, &frame)?;
            }
            Err(reason) => match self.0.first_chunk::<ETHERNET_LEN>() {
                Some([destination @ .., s0, s1, s2, s3, s4, s5, _, _]) => {
                    let source = MacAddr([*s0, *s1, *s2, *s3, *s4, *s5]);
                    stations(f, source, MacAddr(*destination))?;
                    match reason {
                        ParseError::NotAoe { ethertype } => {
                            write!(f, " not AoE: EtherType {ethertype:#06x}")?;
                        }
                        ParseError::Truncated { .. } => f.write_str(" truncated AoE header")?,
                    }
                }
                None => f.write_str("truncated Ethernet header")?,
            },
        }
        write!(f, ", length {}", self.0.len())
    }
}

fn stations(f: &mut fmt::Formatter<'_>, source: MacAddr, destination: MacAddr) -> fmt::Result {
    write!(f, "{source} > {destination}")
}

/// What every AoE frame has: address, tag, command, direction, and what is odd about the header.
fn headline(f: &mut fmt::Formatter<'_>, frame: &Frame<'_>) -> fmt::Result {
    let header = &frame.header;
    let (command, flags) = (header.command(), header.flags());
    write!(f, " {} tag {} ", header.address(), header.tag())?;
    match command.name() {
        Some(name) => f.write_str(name)?,
        None if command.is_vendor() => write!(f, "vendor command {:#04x}", command.0)?,
        None => write!(f, "unknown command {:#04x}", command.0)?,
    }
    f.write_str(match (flags.is_response(), flags.is_error()) {
        (false, _) => " request",
        (true, false) => " reply",
        (true, true) => " error",
    })?;
    if header.version() != VERSION {
        write!(f, " version {}", header.version())?;
    }
    if ![Flags::REQUEST, Flags::RESPONSE, Flags::ERROR_RESPONSE].contains(&flags) {
        write!(f, " flags {:#x}", flags.0)?;
    }
    if flags.is_response() && flags.is_error() {
        write!(f, ": {}", header.error())?;
    }
    Ok(())
}

fn argument(f: &mut fmt::Formatter<'_>, frame: &Frame<'_>) -> fmt::Result {
    let (flags, arg) = (frame.header.flags(), frame.header.arg());
    if flags.is_response() && flags.is_error() {
        return refusal(f, frame);
    }
    let (parsed, wanted) = match frame.header.command() {
        Command::ATA if flags.is_response() => (AtaArg::parse(arg).map(Arg::AtaReply), ATA_LEN),
        Command::ATA => (AtaArg::parse(arg).map(Arg::AtaRequest), ATA_LEN),
        Command::CONFIG => (ConfigArg::parse(arg).map(Arg::Config), CONFIG_LEN),
        Command::MASK => (MaskArg::parse(arg).map(Arg::Mask), MASK_LEN),
        Command::RESERVE => (ReserveArg::parse(arg).map(Arg::Reserve), RESERVE_LEN),
        _ => (Ok(Arg::Unknown(arg)), 0),
    };
    f.write_str(": ")?;
    match parsed {
        Ok(Arg::AtaRequest(ata)) => ata_request(f, &ata),
        Ok(Arg::AtaReply(ata)) => ata_reply(f, &ata),
        Ok(Arg::Config(config)) => config_line(f, &config, flags.is_response()),
        Ok(Arg::Mask(mask)) => mask_line(f, &mask, flags.is_response()),
        Ok(Arg::Reserve(reserve)) => reserve_line(f, &reserve, flags.is_response()),
        Ok(Arg::Unknown(arg)) => write!(f, "{} octets", arg.len()),
        Err(truncated) => write!(f, "truncated argument, {} of {wanted} octets", truncated.have),
    }
}

/// An argument, told apart.
enum Arg<'a> {
    AtaRequest(AtaArg<'a>),
    AtaReply(AtaArg<'a>),
    Config(ConfigArg<'a>),
    Mask(MaskArg<'a>),
    Reserve(ReserveArg<'a>),
    Unknown(&'a [u8]),
}

/// A refusal echoes as much of the request as its target likes, or nothing, and padding follows;
/// only the state that two of them tell of is worth showing.
fn refusal(f: &mut fmt::Formatter<'_>, frame: &Frame<'_>) -> fmt::Result {
    let arg = frame.header.arg();
    match (frame.header.command(), frame.header.error()) {
        (Command::CONFIG, AoeError::CONFIG_STRING_PRESENT) => {
            if let Some(string) = ConfigArg::parse(arg).ok().and_then(|config| config.string()) {
                f.write_str(", string ")?;
                config_string(f, string)?;
            }
        }
        (Command::RESERVE, AoeError::TARGET_RESERVED) => {
            if let Some(macs) = ReserveArg::parse(arg).ok().and_then(|reserve| reserve.macs()) {
                f.write_str(", held by ")?;
                list(f, macs, |f, mac| write!(f, "{mac}"))?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn ata_request(f: &mut fmt::Formatter<'_>, ata: &AtaArg<'_>) -> fmt::Result {
    let (flags, opcode) = (ata.flags(), ata.opcode());
    match opcode.name() {
        Some(name) => f.write_str(name)?,
        None => write!(f, "opcode {:#04x}", opcode.0)?,
    }
    // The opcode says how the address is to be read; where it does not, the flag does.
    let extended = match opcode {
        Opcode::READ | Opcode::WRITE | Opcode::READ_VERIFY => false,
        Opcode::READ_EXT | Opcode::WRITE_EXT | Opcode::READ_VERIFY_EXT => true,
        _ => flags.contains(AtaFlags::EXTENDED),
    };
    let lba = if extended { ata.lba48() } else { ata.lba28() };
    write!(f, ", lba {lba}, sectors {}", ata.sector_count())?;
    if ata.feature() != 0 {
        write!(f, ", feature {:#04x}", ata.feature())?;
    }
    ata_flags(f, flags)?;
    let have = ata.data().len();
    if flags.contains(AtaFlags::WRITE) {
        let wanted = usize::from(ata.sector_count()).saturating_mul(SECTOR_SIZE);
        if have < wanted {
            return write!(f, ", data {have} of {wanted}");
        }
    }
    data(f, have)
}

fn ata_reply(f: &mut fmt::Formatter<'_>, ata: &AtaArg<'_>) -> fmt::Result {
    outcome(f, ata.status(), ata.feature())?;
    let extended = ata.flags().contains(AtaFlags::EXTENDED);
    let lba = if extended { ata.lba48() } else { ata.lba28() };
    write!(f, ", lba {lba}")?;
    if ata.sector_count() != 0 {
        write!(f, ", count {}", ata.sector_count())?;
    }
    ata_flags(f, ata.flags())?;
    data(f, ata.data().len())
}

/// The data of an ATA frame, where there is any: what only fills a short frame up is padding.
fn data(f: &mut fmt::Formatter<'_>, have: usize) -> fmt::Result {
    let padding = MIN_FRAME_LEN.saturating_sub(super::ATA_DATA_OFFSET);
    if have > padding { write!(f, ", data {have}") } else { Ok(()) }
}

fn ata_flags(f: &mut fmt::Formatter<'_>, flags: AtaFlags) -> fmt::Result {
    const NAMED: [(AtaFlags, char); 4] = [
        (AtaFlags::EXTENDED, 'E'),
        (AtaFlags::DEVICE, 'D'),
        (AtaFlags::ASYNCHRONOUS, 'A'),
        (AtaFlags::WRITE, 'W'),
    ];
    if flags == AtaFlags::default() {
        return Ok(());
    }
    f.write_str(", flags ")?;
    let mut rest = flags.0;
    for (flag, letter) in NAMED {
        if flags.contains(flag) {
            f.write_char(letter)?;
            rest &= !flag.0;
        }
    }
    if rest == 0 { Ok(()) } else { write!(f, "+{rest:#04x}") }
}

/// What the status and error registers of a reply say: `ok`, or why not.
fn outcome(f: &mut fmt::Formatter<'_>, status: u8, error: u8) -> fmt::Result {
    const STATUS: [(u8, &str); 3] =
        [(status::BSY, "BSY"), (status::DF, "DF"), (status::DRQ, "DRQ")];
    const ERROR: [(u8, &str); 7] = [
        (error::ICRC, "ICRC"),
        (error::UNC, "UNC"),
        (error::MC, "MC"),
        (error::IDNF, "IDNF"),
        (error::MCR, "MCR"),
        (error::ABRT, "ABRT"),
        (error::NM, "NM"),
    ];
    if status & status::FAILURE == 0 {
        return f.write_str("ok");
    }
    let failed = STATUS.iter().filter(|(bit, _)| status & bit != 0);
    // The error register means nothing without ERR.
    let reasons = ERROR.iter().filter(|(bit, _)| status & status::ERR != 0 && error & bit != 0);
    let mut separator = "";
    for (_, name) in failed.chain(reasons) {
        write!(f, "{separator}{name}")?;
        separator = "+";
    }
    if separator.is_empty() {
        f.write_str("ERR")?;
    }
    write!(f, " (status {status:#04x}, error {error:#04x})")
}

fn config_line(f: &mut fmt::Formatter<'_>, config: &ConfigArg<'_>, reply: bool) -> fmt::Result {
    write!(f, "{}", config.command())?;
    // A request has nothing to say here, and most leave zeros.
    let (buffers, firmware) = (config.buffer_count(), config.firmware());
    if reply || buffers != 0 || firmware != 0 || config.sector_count() != 0 {
        let sectors = config.sector_count();
        write!(f, ", buffers {buffers}, firmware {firmware:#06x}, sectors {sectors}")?;
    }
    let claimed = config.claimed_len();
    if !reply && config.command() == ConfigCommand::READ {
        // A read has no string, whatever its length says; aoeping sends a kilobyte of filler.
        return if claimed == 0 { Ok(()) } else { write!(f, ", {claimed} octets ignored") };
    }
    f.write_str(", string ")?;
    match config.string() {
        Some(string) => config_string(f, string),
        None => write!(f, "of {claimed} octets truncated"),
    }
}

/// A config string in quotes, escaped, and cut when it is long.
fn config_string(f: &mut fmt::Formatter<'_>, string: &[u8]) -> fmt::Result {
    let shown = string.get(..STRING_SHOWN).unwrap_or(string);
    write!(f, "\"{}\"", shown.escape_ascii())?;
    if shown.len() < string.len() { write!(f, "... of {}", string.len()) } else { Ok(()) }
}

fn mask_line(f: &mut fmt::Formatter<'_>, mask: &MaskArg<'_>, reply: bool) -> fmt::Result {
    write!(f, "{}", mask.command())?;
    if mask.error() != MaskError::NONE {
        if reply {
            // The count is the place of the directive that failed, and no list follows.
            return write!(f, ", stopped at {}: {}", mask.directive_count(), mask.error());
        }
        write!(f, ", error {}", mask.error())?;
    }
    if !reply && mask.command() == MaskCommand::READ && mask.directive_count() == 0 {
        return Ok(());
    }
    f.write_char(' ')?;
    match mask.directives() {
        Some(directives) => list(f, directives, directive),
        None => write!(f, "of {} directives truncated", mask.directive_count()),
    }
}

fn directive(f: &mut fmt::Formatter<'_>, Directive { command, mac }: Directive) -> fmt::Result {
    match command {
        DirectiveCommand::NONE => write!(f, "{mac}"),
        DirectiveCommand::ADD => write!(f, "+{mac}"),
        DirectiveCommand::DELETE => write!(f, "-{mac}"),
        unknown => write!(f, "{unknown}:{mac}"),
    }
}

fn reserve_line(f: &mut fmt::Formatter<'_>, reserve: &ReserveArg<'_>, reply: bool) -> fmt::Result {
    write!(f, "{}", reserve.command())?;
    if !reply && reserve.command() == ReserveCommand::READ && reserve.mac_count() == 0 {
        return Ok(());
    }
    f.write_char(' ')?;
    match reserve.macs() {
        Some(macs) => list(f, macs, |f, mac| write!(f, "{mac}")),
        None => write!(f, "of {} addresses truncated", reserve.mac_count()),
    }
}

/// The first few of `items` in brackets, and how many there are when that is more.
fn list<T>(
    f: &mut fmt::Formatter<'_>,
    items: impl ExactSizeIterator<Item = T>,
    show: impl Fn(&mut fmt::Formatter<'_>, T) -> fmt::Result,
) -> fmt::Result {
    let count = items.len();
    f.write_char('[')?;
    for (index, item) in items.take(MACS_SHOWN).enumerate() {
        if index > 0 {
            f.write_char(' ')?;
        }
        show(f, item)?;
    }
    f.write_char(']')?;
    if count > MACS_SHOWN { write!(f, " of {count}") } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "sums of small constants in tests")]
mod tests {
    extern crate std;
    use super::*;
    use hex_literal::hex;
    use std::string::{String, ToString};
    use std::vec::Vec;

    /// The line of a frame from the target to the initiator or back, without the stations.
    fn line(aoe: &[u8]) -> String {
        let mut frame = Vec::from(hex!("76eabbfcf324 525400aabb01 88a2"));
        frame.extend_from_slice(aoe);
        let line = FrameLine::new(&frame).to_string();
        let rest = line.strip_prefix("52:54:00:aa:bb:01 > 76:ea:bb:fc:f3:24 ").unwrap();
        String::from(rest)
    }

    /// `head` and `data` octets after it.
    fn with_data(head: &[u8], data: usize) -> Vec<u8> {
        let mut octets = Vec::from(head);
        octets.resize(head.len() + data, 0);
        octets
    }

    #[test]
    fn discovery_by_linux_and_the_answer_of_vblade() {
        let query = hex!("ffffffffffff 525400aabb01 88a2 10 00 ffff ff 01 00000000"
            "0000 0000 00 00 0000");
        assert_eq!(
            FrameLine::new(&query).to_string(),
            "52:54:00:aa:bb:01 > ff:ff:ff:ff:ff:ff e*.* tag 00000000 config request: read, \
             length 32"
        );
        let reply = hex!("525400aabb01 76eabbfcf324 88a2 18 00 0001 01 01 00000000"
            "0010 4019 11 10 0000");
        assert_eq!(
            FrameLine::new(&reply).to_string(),
            "76:ea:bb:fc:f3:24 > 52:54:00:aa:bb:01 e1.1 tag 00000000 config reply: read, \
             buffers 16, firmware 0x4019, sectors 17, string \"\", length 32"
        );
        // vblade announces itself with version 0.
        let advert = hex!("ffffffffffff 76eabbfcf324 88a2 08 00 0009 03 01 00000000"
            "0010 4019 02 10 0000");
        assert_eq!(
            FrameLine::new(&advert).to_string(),
            "76:ea:bb:fc:f3:24 > ff:ff:ff:ff:ff:ff e9.3 tag 00000000 config reply version 0: \
             read, buffers 16, firmware 0x4019, sectors 2, string \"\", length 32"
        );
    }

    #[test]
    fn ata_requests_of_linux_and_ipxe() {
        let identify = hex!("10 00 0001 01 00 0001dfdc 00 00 01 ec 000000a00000 0000");
        assert_eq!(
            line(&identify),
            "e1.1 tag 0001dfdc ata request: IDENTIFY DEVICE, lba 0, sectors 1, length 36"
        );
        let identify = hex!("10 00 0001 01 00 18ae0002 00 00 01 ec 000000e00000 0000");
        assert_eq!(
            line(&identify),
            "e1.1 tag 18ae0002 ata request: IDENTIFY DEVICE, lba 0, sectors 1, length 36"
        );
        let write = hex!("10 00 0001 01 00 0006e5a6 41 00 08 34 000000000000 0000");
        assert_eq!(
            line(&with_data(&write, 4096)),
            "e1.1 tag 0006e5a6 ata request: WRITE SECTORS EXT, lba 0, sectors 8, flags EW, \
             data 4096, length 4132"
        );
        assert_eq!(
            line(&with_data(&write, 4095)),
            "e1.1 tag 0006e5a6 ata request: WRITE SECTORS EXT, lba 0, sectors 8, flags EW, \
             data 4095 of 4096, length 4131"
        );
        // The high nibble of the fourth register is not part of a 28-bit address.
        let read = hex!("10 00 0001 06 00 0003df93 00 00 08 20 080000e00000 0000");
        assert_eq!(
            line(&read),
            "e1.6 tag 0003df93 ata request: READ SECTORS, lba 8, sectors 8, length 36"
        );
        let features = hex!("10 00 0001 06 00 0003df93 90 82 00 ef 000000a00000 0000");
        assert_eq!(
            line(&features),
            "e1.6 tag 0003df93 ata request: SET FEATURES, lba 0, sectors 0, feature 0x82, \
             flags D+0x80, length 36"
        );
        let dma = hex!("10 00 0001 06 00 0003df93 40 00 08 25 0100000000ff 0000");
        assert_eq!(
            line(&dma),
            "e1.6 tag 0003df93 ata request: opcode 0x25, lba 280375465082881, sectors 8, \
             flags E, length 36"
        );
    }

    #[test]
    fn ata_replies_say_what_the_registers_say() {
        let reply = |status: u8, error: u8, count: u8, pad: usize| {
            let mut head = hex!("18 00 0001 01 00 0001dfdc 40 00 00 00 020000000000 0000");
            (head[11], head[12], head[13]) = (error, count, status);
            let line = line(&with_data(&head, pad));
            String::from(line.strip_prefix("e1.1 tag 0001dfdc ata reply: ").unwrap())
        };
        assert_eq!(reply(0x40, 0, 0, 512), "ok, lba 2, flags E, data 512, length 548");
        assert_eq!(reply(0x50, 0, 0, 24), "ok, lba 2, flags E, length 60");
        assert_eq!(reply(0x40, 0, 255, 24), "ok, lba 2, count 255, flags E, length 60");
        let failed = [
            (0x41, 0x10, "IDNF (status 0x41, error 0x10)"),
            (0x41, 0x04, "ABRT (status 0x41, error 0x04)"),
            (0x41, 0x40, "UNC (status 0x41, error 0x40)"),
            (0x61, 0x04, "DF+ABRT (status 0x61, error 0x04)"),
            (0x61, 0x44, "DF+UNC+ABRT (status 0x61, error 0x44)"),
            (0x01, 0x00, "ERR (status 0x01, error 0x00)"),
            // What ggaoed answers to a flush: the opcode in place of the status.
            (0xea, 0xff, "BSY+DF+DRQ (status 0xea, error 0xff)"),
        ];
        for (status, error, said) in failed {
            let whole = std::format!("{said}, lba 2, count 8, flags E, length 60");
            assert_eq!(reply(status, error, 8, 24), whole);
        }
    }

    #[test]
    fn config_strings_are_escaped_and_bounded() {
        let set = hex!("10 00 0007 03 01 80000001 0000 0000 00 13 0006 22 00 68 c3 0a 7e");
        assert_eq!(
            line(&set),
            r#"e7.3 tag 80000001 config request: set, string "\"\x00h\xc3\n~", length 38"#
        );
        let mut long = Vec::from(hex!("18 00 0007 03 01 80000001 0010 0001 10 10 0400"));
        long.extend([b'a'; 1024]);
        let shown = "a".repeat(STRING_SHOWN);
        assert_eq!(
            line(&long),
            std::format!(
                "e7.3 tag 80000001 config reply: read, buffers 16, firmware 0x0001, sectors 16, \
                 string \"{shown}\"... of 1024, length 1056"
            )
        );
        long.pop();
        assert!(line(&long).ends_with("string of 1024 octets truncated, length 1055"));
        // aoeping's read: a length, and filler.
        let filler = with_data(&hex!("10 00 0007 03 01 80000001 0000 0000 00 10 0400"), 1024);
        assert_eq!(
            line(&filler),
            "e7.3 tag 80000001 config request: read, 1024 octets ignored, length 1056"
        );
    }

    #[test]
    fn masks_and_reservations_list_their_addresses() {
        let edit = hex!("10 00 0007 03 02 00000009 00 01 00 04"
            "00 01 525400aabb01 00 02 525400aabb02 00 00 525400aabb03 00 07 525400aabb04");
        assert_eq!(
            line(&edit),
            "e7.3 tag 00000009 mask request: edit [+52:54:00:aa:bb:01 -52:54:00:aa:bb:02 \
             52:54:00:aa:bb:03 0x07:52:54:00:aa:bb:04], length 60"
        );
        assert!(line(&edit[..45]).ends_with("edit of 4 directives truncated, length 59"));
        // The answer of vblade to a no-operation and a bad directive.
        let stopped = with_data(&hex!("18 00 0007 03 02 00000009 00 01 02 01"), 32);
        assert_eq!(
            line(&stopped),
            "e7.3 tag 00000009 mask reply: edit, stopped at 1: bad directive, length 60"
        );
        let read = hex!("10 00 0007 03 02 00000009 00 00 00 00");
        assert_eq!(line(&read), "e7.3 tag 00000009 mask request: read, length 28");
        let mut set = Vec::from(hex!("10 00 0007 03 03 00000009 01 09"));
        set.extend(hex!("525400aabb01").repeat(9));
        let shown = ["52:54:00:aa:bb:01"; 8].join(" ");
        assert_eq!(
            line(&set),
            std::format!(
                "e7.3 tag 00000009 reserve request: set [{shown}] of 9, length {}",
                set.len() + 14
            )
        );
        set.pop();
        assert!(line(&set).contains("reserve request: set of 9 addresses truncated"));
        let free = with_data(&hex!("18 00 0007 03 03 00000009 00 00"), 34);
        assert_eq!(line(&free), "e7.3 tag 00000009 reserve reply: read [], length 60");
    }

    #[test]
    fn refusals_show_their_reason() {
        let ata = with_data(&hex!("1c 06 0007 03 00 00000009 40 00 01 24 000000000000 0000"), 24);
        assert_eq!(line(&ata), "e7.3 tag 00000009 ata error: target is reserved, length 60");
        let config = hex!("1c 04 0007 03 01 00000009 0010 0001 10 13 0002 6f6b");
        assert_eq!(
            line(&config),
            "e7.3 tag 00000009 config error: config string present, string \"ok\", length 34"
        );
        let reserve = hex!("1c 06 0007 03 03 00000009 01 01 525400aabb01");
        assert_eq!(
            line(&reserve),
            "e7.3 tag 00000009 reserve error: target is reserved, held by [52:54:00:aa:bb:01], \
             length 32"
        );
        // ggaoed sends no argument with an error.
        let bare = hex!("1c 01 0007 03 44 00000009");
        assert_eq!(
            line(&bare),
            "e7.3 tag 00000009 unknown command 0x44 error: unrecognized command code, length 24"
        );
    }

    #[test]
    fn odd_headers_are_pointed_out() {
        let vendor = hex!("23 00 ffff 03 f0 00000009 00 00 00 00");
        assert_eq!(
            line(&vendor),
            "e*.3 tag 00000009 vendor command 0xf0 request version 2 flags 0x3: 4 octets, \
             length 28"
        );
    }

    #[test]
    fn what_is_cut_short_or_foreign_gets_a_line_too() {
        let frame = hex!("76eabbfcf324 525400aabb01 88a2 10 00 0001 01 00 0001dfdc"
            "00 00 01 ec 000000a00000 0000");
        let line = |octets: &[u8]| FrameLine::new(octets).to_string();
        assert_eq!(line(&[]), "truncated Ethernet header, length 0");
        assert_eq!(line(&frame[..13]), "truncated Ethernet header, length 13");
        let stations = "52:54:00:aa:bb:01 > 76:ea:bb:fc:f3:24";
        assert_eq!(line(&frame[..23]), std::format!("{stations} truncated AoE header, length 23"));
        assert_eq!(
            line(&frame[..35]),
            std::format!(
                "{stations} e1.1 tag 0001dfdc ata request: truncated argument, 11 of 12 octets, \
                 length 35"
            )
        );
        let mut tagged = frame;
        tagged[12..14].copy_from_slice(&hex!("8100"));
        assert_eq!(line(&tagged), std::format!("{stations} not AoE: EtherType 0x8100, length 36"));
    }
}
