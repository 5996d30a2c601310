//! Any octets as a frame: every accessor of every view, and writing it again.

use aoe_server::protocol::{
    AtaArg, AtaFields, ConfigArg, ConfigFields, Frame, FrameFields, Header, MaskArg, MaskFields,
    ParseError, ReserveArg, ata::trim_ranges, emit,
};

/// Longer than anything that is fuzzed.
const ROOM: usize = 1 << 17;

/// Parses `octets`, reads all there is to read, and checks that writing it again loses nothing.
pub(crate) fn run(octets: &[u8]) {
    let frame = match Frame::parse(octets) {
        Ok(frame) => frame,
        Err(ParseError::Truncated { have }) => {
            assert_eq!(have, octets.len());
            assert!(have < 24, "{have} octets hold both headers");
            return;
        }
        Err(ParseError::NotAoe { ethertype }) => {
            assert_ne!(ethertype, 0x88a2);
            return;
        }
        Err(_) => unreachable!("a new reason needs a check of its own"),
    };
    read_header(&frame.header, octets);
    read_argument(&frame);
    write_again(&frame);
}

fn read_header(header: &Header<'_>, octets: &[u8]) {
    assert!(header.version() < 16 && header.flags().0 < 16);
    assert_eq!(header.version() << 4 | header.flags().0, octets[14]);
    assert_eq!(header.error().0, octets[15]);
    assert_eq!(header.address().shelf.to_be_bytes(), octets[16..18]);
    assert_eq!(header.address().slot, octets[18]);
    assert_eq!(header.command().0, octets[19]);
    assert_eq!(header.tag().0, octets[20..24]);
    assert_eq!(header.arg(), &octets[24..]);
}

/// Reads the argument in each of the four ways, whatever the command is.
fn read_argument(frame: &Frame<'_>) {
    let arg = frame.header.arg();
    assert_eq!(AtaArg::parse(arg).is_ok(), arg.len() >= 12);
    assert_eq!(ConfigArg::parse(arg).is_ok(), arg.len() >= 8);
    assert_eq!(MaskArg::parse(arg).is_ok(), arg.len() >= 4);
    assert_eq!(ReserveArg::parse(arg).is_ok(), arg.len() >= 2);
    if let Ok(ata) = AtaArg::parse(arg) {
        assert_eq!(ata.octets(), &arg[..12]);
        assert_eq!(ata.data(), &arg[12..]);
        assert_eq!(ata.opcode().0, ata.status());
        assert!(ata.lba28().0 < 1 << 28 && ata.lba48().0 < 1 << 48);
        assert_eq!(ata.lba28().0, ata.lba48().0 & 0x0fff_ffff);
        let fields = AtaFields::of(&ata);
        assert_eq!((fields.feature, fields.sector_count), (ata.feature(), ata.sector_count()));
        for (lba, count) in trim_ranges(ata.data()) {
            assert!(lba.0 < 1 << 48 && (1..1 << 16).contains(&count.0));
        }
    }
    if let Ok(config) = ConfigArg::parse(arg) {
        assert!(config.command().0 < 16);
        assert_eq!(config.octets(), &arg[..8]);
        let claimed = usize::from(config.claimed_len());
        match config.string() {
            Some(string) => assert_eq!(string, &arg[8..8 + claimed]),
            None => assert!(8 + claimed > arg.len()),
        }
    }
    if let Ok(mask) = MaskArg::parse(arg) {
        let claimed = usize::from(mask.directive_count());
        assert_eq!(mask.octets(), &arg[..4]);
        match mask.directives() {
            Some(directives) => assert_eq!(directives.count(), claimed),
            None => assert!(4 + 8 * claimed > arg.len()),
        }
    }
    if let Ok(reserve) = ReserveArg::parse(arg) {
        let claimed = usize::from(reserve.mac_count());
        assert_eq!(reserve.octets(), &arg[..2]);
        match reserve.macs() {
            Some(macs) => assert_eq!(macs.count(), claimed),
            None => assert!(2 + 6 * claimed > arg.len()),
        }
    }
}

/// What was written once is written the same way again, and reads as the same values.
fn write_again(frame: &Frame<'_>) {
    let mut first = vec![0xa5; ROOM];
    let Some(len) = emit(frame, &mut first) else { return };
    let first = &first[..len];
    let parsed = Frame::parse(first).expect("what was written is a frame");
    assert_eq!(FrameFields::of(&parsed), FrameFields::of(frame));
    assert_eq!(parsed.header.version(), 1);
    let (was, is) = (frame.header.arg(), parsed.header.arg());
    if let (Ok(was), Ok(is)) = (AtaArg::parse(was), AtaArg::parse(is)) {
        assert!(frame.header.command().0 != 0 || AtaFields::of(&was) == AtaFields::of(&is));
    }
    if let (Ok(was), Ok(is)) = (ConfigArg::parse(was), ConfigArg::parse(is)) {
        assert!(frame.header.command().0 != 1 || ConfigFields::of(&was) == ConfigFields::of(&is));
    }
    if let (Ok(was), Ok(is)) = (MaskArg::parse(was), MaskArg::parse(is)) {
        assert!(frame.header.command().0 != 2 || MaskFields::of(&was) == MaskFields::of(&is));
    }
    let mut second = vec![0x5a; len];
    assert_eq!(emit(&parsed, &mut second), Some(len));
    assert_eq!(second, first);
    // One octet less is too little, and shows.
    assert_eq!(emit(&parsed, &mut second[..len - 1]), None);
}
