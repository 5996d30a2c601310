//! The wire layer from outside: known-good octets of every kind of frame, and properties.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "fuzz_bodies/frame.rs"]
mod frame_body;
#[path = "fuzz_bodies/identify.rs"]
mod identify_body;
#[path = "fuzz_bodies/print.rs"]
mod print_body;

use aoe_server::protocol::ata::{
    AtaText, IDENTIFY_LEN, IdentifyPage, Identity, LBA28_SECTORS, LBA48_SECTORS, WriteCache,
    trim_ranges,
};
use aoe_server::protocol::{
    Address, AoeError, AtaArg, AtaFields, AtaFlags, Command, ConfigArg, ConfigCommand,
    ConfigFields, Directive, DirectiveCommand, Flags, Frame, FrameFields, FrameWriter, Header,
    MacAddr, MaskArg, MaskCommand, MaskError, MaskFields, Opcode, ParseError, ReserveArg,
    ReserveCommand, Tag, Truncated, advertised_sectors, emit, sectors_per_frame,
};
use aoe_server::units::{Lba, Sectors};
use hex_literal::hex;
use proptest::prelude::*;

/// The station that asked in the captures: a guest running Linux or iPXE.
const INITIATOR: MacAddr = MacAddr(hex!("525400aabb01"));
/// The station that answered: a host running vblade.
const TARGET: MacAddr = MacAddr(hex!("76eabbfcf324"));

/// Captured: Linux looks for targets.
const DISCOVERY: [u8; 32] = hex!(
    "ffffffffffff 525400aabb01 88a2" // to everybody, from the initiator; AoE
    "10 00"                          // version 1, a request; no error
    "ffff ff 01 00000000"            // every shelf, every slot; query config; tag
    "0000 0000 00 00 0000"           // no buffers, firmware or sectors; read; no string
);

/// Captured: vblade answers.
const CONFIG_REPLY: [u8; 32] = hex!(
    "525400aabb01 76eabbfcf324 88a2" // back to the sender
    "18 00"                          // version 1, a response
    "0001 01 01 00000000"            // shelf 1, slot 1; query config; the tag as it was
    "0010 4019 11"                   // 16 buffers; firmware; 17 sectors (MTU 9000)
    "10 0000"                        // version 1, read; an empty string
);

/// Captured: vblade announces itself at start, with version 0 for once.
const ADVERT: [u8; 32] = hex!(
    "ffffffffffff 76eabbfcf324 88a2"
    "08 00"                          // version 0 (a bug of vblade's), a response
    "0009 03 01 00000000"            // shelf 9, slot 3; query config; tag 0
    "0010 4019 02 10 0000"           // 2 sectors (MTU 1500); read; an empty string
);

/// Captured: iPXE asks one target, by broadcast.
const IPXE_CONFIG: [u8; 32] = hex!(
    "ffffffffffff 525400aabb01 88a2"
    "10 00 0001 01 01 18ae0001"      // shelf 1, slot 1; its tags start so
    "0000 0000 00 00 0000"
);

/// Captured: Linux asks for the IDENTIFY page.
const IDENTIFY: [u8; 36] = hex!(
    "76eabbfcf324 525400aabb01 88a2"
    "10 00 0001 01 00 0001dfdc"      // shelf 1, slot 1; ATA; tag
    "00 00 01 ec"                    // no flags; no feature; 1 sector; IDENTIFY DEVICE
    "000000a00000 0000"              // address registers, the fourth being the device's; reserved
);

/// Captured: iPXE asks for it, with the LBA bit of the device register set.
const IPXE_IDENTIFY: [u8; 36] = hex!(
    "76eabbfcf324 525400aabb01 88a2"
    "10 00 0001 01 00 18ae0002"
    "00 00 01 ec 000000e00000 0000"
);

/// Captured, the first 36 of 548 octets: vblade's answer to Linux.
const IDENTIFY_REPLY: [u8; 36] = hex!(
    "525400aabb01 76eabbfcf324 88a2"
    "18 00 0001 01 00 0001dfdc"
    "00 00 00 40"                    // no flags; no error; nothing left; ready
    "000000a00000 0000"              // the address registers as they came
);

/// Captured, the first 36 of 4132 octets: Linux writes eight sectors.
const WRITE48: [u8; 36] = hex!(
    "76eabbfcf324 525400aabb01 88a2"
    "10 00 0001 01 00 0006e5a6"
    "41 00 08 34"                    // extended, write; no feature; 8 sectors; WRITE SECTORS EXT
    "000000000000 0000"
);

/// Captured: Linux reads from a disk without 48-bit addresses.
const READ28: [u8; 36] = hex!(
    "76eabbfcf324 525400aabb01 88a2"
    "10 00 0001 06 00 0003df93"
    "00 00 08 20"                    // no flags; no feature; 8 sectors; READ SECTORS
    "080000e00000 0000"              // sector 8; device register: LBA mode
);

/// By hand from `AoEr11` 3.3: adds one station to the mask and deletes another.
const MASK_EDIT: [u8; 44] = hex!(
    "76eabbfcf324 525400aabb01 88a2"
    "10 00 0007 03 02 80000009"      // shelf 7, slot 3; MAC mask list; tag
    "00 01 00 02"                    // reserved; edit; no error; two directives
    "00 01 525400aabb01"             // reserved; add
    "00 02 525400aabb02"             // reserved; delete
);

/// What vblade answered to an edit of a no-operation and an unknown directive.
const MASK_STOPPED: [u8; 28] = hex!(
    "525400aabb01 76eabbfcf324 88a2"
    "18 00 0007 03 02 80000009"      // not an error of AoE
    "00 01 02 01"                    // edit; bad directive; directive number 1; no list
);

/// By hand from `AoEr11` 3.4: reserves for two stations.
const RESERVE_SET: [u8; 38] = hex!(
    "76eabbfcf324 525400aabb01 88a2"
    "10 00 0007 03 03 80000009"
    "01 02"                          // set; two addresses
    "525400aabb01 525400aabb02"
);

/// By hand: a target that others have reserved, and by whom.
const RESERVED: [u8; 32] = hex!(
    "525400aabb01 76eabbfcf324 88a2"
    "1c 06 0007 03 03 80000009"      // a response, an error: target is reserved
    "01 01 525400aabb02"
);

fn parse(octets: &[u8]) -> Frame<'_> {
    Frame::parse(octets).unwrap()
}

/// What `fill` writes after the headers of `fields`, in a buffer that is dirty.
fn written(
    fields: &FrameFields,
    fill: impl for<'w, 'b> FnOnce(&'w mut FrameWriter<'b>) -> &'w mut FrameWriter<'b>,
) -> Vec<u8> {
    let mut octets = [0xa5; 4096];
    let mut writer = FrameWriter::new(&mut octets, fields);
    let len = fill(&mut writer).finish_unpadded().unwrap();
    octets[..len].to_vec()
}

fn request(slot: u8, command: Command, tag: [u8; 4]) -> FrameFields {
    FrameFields::request(INITIATOR, TARGET, Address::new(1, slot), command, Tag(tag))
}

#[test]
fn a_discovery_is_read_field_by_field() {
    let frame = parse(&DISCOVERY);
    assert_eq!((frame.destination, frame.source), (MacAddr::BROADCAST, INITIATOR));
    let header = frame.header;
    assert_eq!((header.version(), header.flags()), (1, Flags::REQUEST));
    assert_eq!(header.error(), AoeError::NONE);
    assert_eq!(header.address(), Address::EVERYONE);
    assert_eq!((header.command(), header.tag()), (Command::CONFIG, Tag([0; 4])));
    let config = ConfigArg::parse(header.arg()).unwrap();
    assert_eq!((config.command(), config.string()), (ConfigCommand::READ, Some(&[][..])));
    assert_eq!(parse(&IPXE_CONFIG).header.address(), Address::new(1, 1));
    assert_eq!(parse(&IPXE_CONFIG).header.tag(), Tag(hex!("18ae0001")));
}

#[test]
fn a_config_reply_is_read_and_written() {
    let frame = parse(&CONFIG_REPLY);
    assert!(frame.header.flags().is_response() && !frame.header.flags().is_error());
    let config = ConfigArg::parse(frame.header.arg()).unwrap();
    let fields = ConfigFields {
        buffer_count: 16,
        firmware: 0x4019,
        sector_count: 17,
        command: ConfigCommand::READ,
    };
    assert_eq!(ConfigFields::of(&config), fields);
    let query = parse(&DISCOVERY);
    let reply = FrameFields::reply(&query.header, query.source, TARGET, Address::new(1, 1));
    assert_eq!(written(&reply, |writer| writer.config(&fields, b"")), CONFIG_REPLY);
}

#[test]
fn an_advertisement_is_read_whatever_its_version_says() {
    let frame = parse(&ADVERT);
    assert_eq!((frame.header.version(), frame.header.flags()), (0, Flags::RESPONSE));
    assert_eq!(frame.header.address(), Address::new(9, 3));
    assert_eq!(ConfigArg::parse(frame.header.arg()).unwrap().sector_count(), 2);
}

#[test]
fn ata_requests_are_read_and_written() {
    let cases = [
        // Frame, slot, tag, flags, opcode, sectors, 28-bit address, address registers.
        (&IDENTIFY, 1, hex!("0001dfdc"), 0, Opcode::IDENTIFY_DEVICE, 1, 0, hex!("000000a00000")),
        (&IPXE_IDENTIFY, 1, hex!("18ae0002"), 0, Opcode(0xec), 1, 0, hex!("000000e00000")),
        (&WRITE48, 1, hex!("0006e5a6"), 0x41, Opcode::WRITE_EXT, 8, 0, hex!("000000000000")),
        (&READ28, 6, hex!("0003df93"), 0, Opcode::READ, 8, 8, hex!("080000e00000")),
    ];
    for (octets, slot, tag, flags, opcode, sectors, lba28, lba) in cases {
        let frame = parse(octets);
        let fields = request(slot, Command::ATA, tag);
        assert_eq!(FrameFields::of(&frame), fields);
        let ata = AtaArg::parse(frame.header.arg()).unwrap();
        assert_eq!((ata.flags(), ata.feature()), (AtaFlags(flags), 0));
        assert_eq!((ata.opcode(), ata.sector_count()), (opcode, sectors));
        assert_eq!((ata.lba28(), ata.lba_registers()), (Lba(lba28), lba));
        assert_eq!(ata.data(), b"");
        let registers = AtaFields {
            flags: AtaFlags(flags),
            feature: 0,
            sector_count: sectors,
            command: opcode.0,
            lba,
        };
        assert_eq!(written(&fields, |writer| writer.ata(&registers)), octets);
    }
}

#[test]
fn an_identify_reply_is_read_and_written_with_its_data() {
    let mut octets = IDENTIFY_REPLY.to_vec();
    octets.extend((0..512).map(|place| u8::try_from(place % 251).unwrap()));
    let frame = parse(&octets);
    let ata = AtaArg::parse(frame.header.arg()).unwrap();
    assert_eq!((ata.status(), ata.feature(), ata.sector_count()), (0x40, 0, 0));
    assert_eq!(ata.data(), &octets[36..]);
    let query = parse(&IDENTIFY);
    let fields = FrameFields::reply(&query.header, query.source, TARGET, Address::new(1, 1));
    let registers = AtaFields { command: 0x40, lba: hex!("000000a00000"), ..AtaFields::default() };
    let reply = written(&fields, |writer| writer.ata(&registers).octets(&octets[36..]));
    assert_eq!(reply, octets);
}

#[test]
fn forty_eight_bit_addresses_have_their_lowest_octet_first() {
    let mut octets = READ28;
    octets[28..34].copy_from_slice(&hex!("010203 f4 0506"));
    let frame = parse(&octets);
    let ata = AtaArg::parse(frame.header.arg()).unwrap();
    assert_eq!(ata.lba48(), Lba(0x0605_f403_0201));
    assert_eq!(ata.lba28(), Lba(0x0403_0201));
}

#[test]
fn a_mask_edit_is_read_and_written() {
    let frame = parse(&MASK_EDIT);
    let mask = MaskArg::parse(frame.header.arg()).unwrap();
    assert_eq!((mask.command(), mask.error()), (MaskCommand::EDIT, MaskError::NONE));
    let directives = [
        Directive { command: DirectiveCommand::ADD, mac: INITIATOR },
        Directive { command: DirectiveCommand::DELETE, mac: MacAddr(hex!("525400aabb02")) },
    ];
    assert!(mask.directives().unwrap().eq(directives));
    let again = written(&FrameFields::of(&frame), |writer| {
        writer.mask(&MaskFields::of(&mask)).directive(directives[0]).directive(directives[1])
    });
    assert_eq!(again, MASK_EDIT);
}

#[test]
fn the_reply_to_a_stopped_edit_has_no_list() {
    let frame = parse(&MASK_STOPPED);
    let mask = MaskArg::parse(frame.header.arg()).unwrap();
    assert_eq!((mask.error(), mask.directive_count()), (MaskError::BAD_DIRECTIVE, 1));
    // Padding must not be taken for the one directive that the count seems to speak of.
    let mut padded = MASK_STOPPED.to_vec();
    padded.resize(60, 0);
    for octets in [&MASK_STOPPED[..], &padded] {
        let mut again = [0xa5; 60];
        assert_eq!(emit(&parse(octets), &mut again), Some(28));
        assert_eq!(again[..28], MASK_STOPPED);
    }
}

#[test]
fn a_reservation_is_read_and_written() {
    let frame = parse(&RESERVE_SET);
    let reserve = ReserveArg::parse(frame.header.arg()).unwrap();
    assert_eq!((reserve.command(), reserve.mac_count()), (ReserveCommand::SET, 2));
    let macs = [INITIATOR, MacAddr(hex!("525400aabb02"))];
    assert!(reserve.macs().unwrap().eq(macs));
    let again = written(&FrameFields::of(&frame), |writer| {
        writer.reserve(ReserveCommand::SET, 2).mac(macs[0]).mac(macs[1])
    });
    assert_eq!(again, RESERVE_SET);
}

#[test]
fn a_refusal_is_read_and_written() {
    let frame = parse(&RESERVED);
    assert!(frame.header.flags().is_response() && frame.header.flags().is_error());
    assert_eq!(frame.header.error(), AoeError::TARGET_RESERVED);
    let asked = parse(&RESERVE_SET);
    let fields = FrameFields::reply(&asked.header, asked.source, TARGET, Address::new(7, 3))
        .refusing(AoeError::TARGET_RESERVED);
    let again = written(&fields, |writer| {
        writer.reserve(ReserveCommand::SET, 1).mac(MacAddr(hex!("525400aabb02")))
    });
    assert_eq!(again, RESERVED);
}

#[test]
fn every_shorter_prefix_is_refused() {
    // Each frame, and how many octets its headers and the fixed part of its argument have.
    let cases = [
        (&DISCOVERY[..], 32),
        (&CONFIG_REPLY, 32),
        (&IDENTIFY, 36),
        (&READ28, 36),
        (&MASK_EDIT, 28),
        (&RESERVE_SET, 26),
    ];
    for (frame, fixed) in cases {
        for have in 0..24 {
            let error = Frame::parse(&frame[..have]).unwrap_err();
            assert_eq!(error, ParseError::Truncated { have });
        }
        for have in 24..frame.len() {
            let cut = parse(&frame[..have]);
            let arg = cut.header.arg();
            let refusal = match cut.header.command() {
                Command::ATA => AtaArg::parse(arg).err(),
                Command::CONFIG => ConfigArg::parse(arg).err(),
                Command::MASK => MaskArg::parse(arg).err(),
                _ => ReserveArg::parse(arg).err(),
            };
            assert_eq!(refusal, (have < fixed).then(|| Truncated { have: have - 24 }));
            // A list that is cut short is not written again, nor is a short fixed part.
            assert_eq!(emit(&cut, &mut [0xa5; 64]), None);
        }
    }
    for have in 0..10 {
        assert_eq!(Header::parse(&DISCOVERY[14..14 + have]).unwrap_err(), Truncated { have });
    }
}

#[test]
fn lists_and_strings_that_claim_too_much_are_refused() {
    let mut mask = MASK_EDIT;
    mask[27] = 3;
    assert!(MaskArg::parse(parse(&mask).header.arg()).unwrap().directives().is_none());
    let mut reserve = RESERVE_SET;
    reserve[25] = 255;
    assert!(ReserveArg::parse(parse(&reserve).header.arg()).unwrap().macs().is_none());
    let mut config = DISCOVERY;
    config[31] = 1;
    assert!(ConfigArg::parse(parse(&config).header.arg()).unwrap().string().is_none());
}

#[test]
fn frames_of_other_protocols_are_told_apart() {
    for ethertype in [0x0800_u16, 0x8100, 0x88a3, 0xa288, 0x0000, 0x05dc] {
        let mut octets = DISCOVERY;
        octets[12..14].copy_from_slice(&ethertype.to_be_bytes());
        assert_eq!(Frame::parse(&octets).unwrap_err(), ParseError::NotAoe { ethertype });
    }
}

#[test]
fn replies_are_padded_with_zeros_to_sixty_octets() {
    let query = parse(&DISCOVERY);
    let fields = FrameFields::reply(&query.header, query.source, TARGET, Address::new(1, 1));
    let config =
        ConfigFields { buffer_count: 16, firmware: 0x4019, sector_count: 17, ..Default::default() };
    let mut octets = [0xa5; 64];
    let len = FrameWriter::new(&mut octets, &fields).config(&config, b"").finish();
    assert_eq!(len, Some(60));
    assert_eq!(octets[..32], CONFIG_REPLY);
    assert_eq!(octets[32..60], [0; 28]);
    assert_eq!(octets[60..], [0xa5; 4]); // and nothing behind it is touched
    // Longer replies keep their exact length: Plan 9 insists on it.
    let mut octets = [0xa5; 2048];
    for (data, len) in [(23, 60), (24, 60), (25, 61), (512, 548), (1024, 1060)] {
        let mut writer = FrameWriter::new(&mut octets, &fields);
        writer.ata(&AtaFields::default()).space(data).unwrap().fill(0x5a);
        assert_eq!(writer.finish(), Some(len));
    }
}

#[test]
fn a_buffer_that_is_too_small_shows_at_the_end() {
    let fields = request(1, Command::CONFIG, [0; 4]);
    for room in 0..64 {
        let mut octets = [0xa5; 64];
        let mut writer = FrameWriter::new(&mut octets[..room], &fields);
        writer.config(&ConfigFields::default(), b"string");
        assert_eq!(writer.finish_unpadded(), (room >= 38).then_some(38), "{room}");
        assert_eq!(writer.finish(), (room >= 60).then_some(60), "{room}");
        assert!(octets[room..].iter().all(|octet| *octet == 0xa5), "{room}");
    }
    let mut octets = vec![0xa5; 1 << 17];
    let long = vec![b'x'; 1 << 16];
    let mut writer = FrameWriter::new(&mut octets, &fields);
    assert_eq!(writer.config(&ConfigFields::default(), &long).finish(), None);
}

#[test]
fn sector_counts_follow_the_mtu() {
    let known = [
        // MTU, sectors that fit, sectors advertised.
        (0, 0, 0),
        (547, 0, 0),
        (548, 1, 1),
        (1500, 2, 2),
        (4131, 7, 7),
        (4132, 8, 8),
        (4643, 8, 8),
        (8227, 15, 8),
        (8228, 16, 16),
        (9000, 17, 16),
        (65_536, 127, 120),
        (usize::MAX, 255, 248),
    ];
    for (mtu, fit, advertised) in known {
        assert_eq!((sectors_per_frame(mtu), advertised_sectors(mtu)), (fit, advertised), "{mtu}");
    }
}

fn identity(size: u64) -> Identity {
    Identity {
        serial: AtaText::new("e7.3-0123456789"),
        firmware: AtaText::new("0.1.0"),
        model: AtaText::new("aoe-server file"),
        size: Sectors(size),
        write_cache: WriteCache::None,
        trim: false,
    }
}

#[test]
fn the_identify_page_has_known_words() {
    let mut octets = [0xa5; IDENTIFY_LEN];
    identity(0x0000_0a98_7654_3210).emit(&mut octets);
    let page = IdentifyPage::parse(&octets).unwrap();
    let known = [
        (0, 0x0040),  // an ATA device, fixed
        (1, 16_383),  // cylinders
        (3, 16),      // heads
        (6, 63),      // sectors per track
        (47, 0x8000), // no READ MULTIPLE
        (49, 0x0200), // LBA
        (50, 0x4000), // valid
        (60, 0xffff), // 28-bit size, which saturates
        (61, 0x0fff),
        (80, 0x01f0),  // ATA-4 to ATA8-ACS
        (83, 0x7400),  // valid; FLUSH EXT, FLUSH, 48-bit addresses
        (84, 0x4000),  // valid
        (86, 0x3400),  // the same three, enabled
        (87, 0x4000),  // valid
        (93, 0x400b),  // result of a reset
        (100, 0x3210), // 48-bit size
        (101, 0x7654),
        (102, 0x0a98),
        (106, 0x6003), // valid; eight logical sectors to a physical one
        (209, 0x4000), // valid; aligned at zero
        (217, 0x0001), // does not rotate
    ];
    for (word, value) in known {
        assert_eq!(page.word(word), value, "word {word}");
    }
    // Text has the first character of a pair in the high octet.
    assert_eq!(octets[20..40], *b"7e3.0-21436587 9    ");
    assert_eq!(octets[46..54], *b".0.1 0  ");
    assert_eq!(octets[54..70], *b"oa-eesvrref li e");
    // All other words, but the last, are zero.
    let text = (10..20).chain(23..47);
    let set: Vec<usize> = known.iter().map(|(word, _)| *word).chain(text).collect();
    for word in (0..255).filter(|word| !set.contains(word)) {
        assert_eq!(page.word(word), 0, "word {word}");
    }
    assert_eq!(octets[510], 0xa5);
    assert_eq!(octets.iter().fold(0_u8, |sum, octet| sum.wrapping_add(*octet)), 0);
}

#[test]
fn abilities_show_in_the_identify_page() {
    let mut octets = [0xa5; IDENTIFY_LEN];
    Identity { write_cache: WriteCache::On, trim: true, ..identity(8) }.emit(&mut octets);
    let page = IdentifyPage::parse(&octets).unwrap();
    assert_eq!((page.word(82), page.word(85)), (0x0020, 0x0020)); // write cache there, and on
    assert_eq!((page.word(105), page.word(169)), (1, 1)); // TRIM, of one block of ranges
    assert_eq!(page.write_cache(), WriteCache::On);
    assert!(page.trim() && page.checksum_holds());
}

#[test]
fn the_sizes_of_disks_saturate() {
    let sizes = [
        // Sectors, what words 60-61 say, what words 100-103 say.
        (0, 0, 0),
        (1, 1, 1),
        (LBA28_SECTORS - 1, LBA28_SECTORS - 1, LBA28_SECTORS - 1),
        (LBA28_SECTORS, LBA28_SECTORS, LBA28_SECTORS),
        (LBA28_SECTORS + 1, LBA28_SECTORS, LBA28_SECTORS + 1),
        (LBA48_SECTORS, LBA28_SECTORS, LBA48_SECTORS),
        // Initiators that read three words must not find a disk of no sectors.
        (LBA48_SECTORS + 1, LBA28_SECTORS, LBA48_SECTORS),
        (u64::MAX, LBA28_SECTORS, LBA48_SECTORS),
    ];
    for (size, short, long) in sizes {
        let mut octets = [0xa5; IDENTIFY_LEN];
        identity(size).emit(&mut octets);
        let page = IdentifyPage::parse(&octets).unwrap();
        assert_eq!(u64::from(page.word(60)) | u64::from(page.word(61)) << 16, short);
        assert_eq!(page.size(), Sectors(long));
        assert_eq!(page.word(103), 0);
    }
}

#[test]
fn either_of_two_words_makes_a_disk_one_of_48_bits() {
    let mut octets = [0xa5; IDENTIFY_LEN];
    identity(LBA28_SECTORS + 1).emit(&mut octets);
    let size_without = |words: &[usize]| {
        let mut octets = octets;
        for word in words {
            octets[2 * word + 1] &= !0x04; // bit 10
        }
        let page = IdentifyPage::parse(&octets).unwrap();
        (page.lba48(), page.size())
    };
    assert_eq!(size_without(&[]), (true, Sectors(LBA28_SECTORS + 1)));
    assert_eq!(size_without(&[83]), (true, Sectors(LBA28_SECTORS + 1)));
    assert_eq!(size_without(&[86]), (true, Sectors(LBA28_SECTORS + 1)));
    assert_eq!(size_without(&[83, 86]), (false, Sectors(LBA28_SECTORS)));
}

#[test]
fn trim_ranges_have_six_octets_of_address_and_two_of_count() {
    let data = hex!("100000000000 0800" "ffffffffffff ffff" "000000000000 0000" "0102030405");
    let ranges: Vec<_> = trim_ranges(&data).collect();
    assert_eq!(ranges, [(Lba(16), Sectors(8)), (Lba((1 << 48) - 1), Sectors(0xffff))]);
}

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(MacAddr)
}

fn address() -> impl Strategy<Value = Address> {
    // Wildcards often: they are written and matched in another way.
    let shelf = prop_oneof![3 => any::<u16>(), 1 => Just(Address::EVERY_SHELF)];
    let slot = prop_oneof![3 => any::<u8>(), 1 => Just(Address::EVERY_SLOT)];
    (shelf, slot).prop_map(|(shelf, slot)| Address::new(shelf, slot))
}

prop_compose! {
    /// Headers of a frame that is not a refusal.
    fn fields(command: Command)(
        destination in mac(),
        source in mac(),
        flags in prop_oneof![Just(Flags::REQUEST), Just(Flags::RESPONSE)],
        error in any::<u8>(),
        address in address(),
        tag in any::<[u8; 4]>(),
    ) -> FrameFields {
        let (error, tag) = (AoeError(error), Tag(tag));
        FrameFields { destination, source, flags, error, address, command, tag }
    }
}

prop_compose! {
    fn registers()(
        octets in any::<[u8; 4]>(),
        lba in any::<[u8; 6]>(),
    ) -> AtaFields {
        let [flags, feature, sector_count, command] = octets;
        AtaFields { flags: AtaFlags(flags), feature, sector_count, command, lba }
    }
}

/// Checks that `octets` has the headers `fields`, and that writing it again changes nothing.
fn is_stable(octets: &[u8], fields: &FrameFields) -> Result<(), TestCaseError> {
    let frame = Frame::parse(octets).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(&FrameFields::of(&frame), fields);
    prop_assert_eq!(frame.header.version(), 1);
    let mut again = vec![0xa5; octets.len()];
    prop_assert_eq!(emit(&frame, &mut again), Some(octets.len()));
    prop_assert_eq!(again, octets);
    Ok(())
}

proptest! {
    #[test]
    fn ata_frames_read_as_they_were_written(
        fields in fields(Command::ATA),
        registers in registers(),
        data in prop::collection::vec(any::<u8>(), 0..2048),
    ) {
        let octets = written(&fields, |writer| writer.ata(&registers).octets(&data));
        is_stable(&octets, &fields)?;
        let ata = AtaArg::parse(parse(&octets).header.arg()).unwrap();
        prop_assert_eq!(AtaFields::of(&ata), registers);
        prop_assert_eq!(ata.data(), &data[..]);
    }

    #[test]
    fn config_frames_read_as_they_were_written(
        fields in fields(Command::CONFIG),
        (buffer_count, firmware, sector_count) in any::<(u16, u16, u8)>(),
        command in (0_u8..16).prop_map(ConfigCommand),
        string in prop::collection::vec(any::<u8>(), 0..1100),
    ) {
        let config = ConfigFields { buffer_count, firmware, sector_count, command };
        let octets = written(&fields, |writer| writer.config(&config, &string));
        is_stable(&octets, &fields)?;
        let view = ConfigArg::parse(parse(&octets).header.arg()).unwrap();
        prop_assert_eq!(ConfigFields::of(&view), config);
        prop_assert_eq!(view.string(), Some(&string[..]));
    }

    #[test]
    fn mask_frames_read_as_they_were_written(
        fields in fields(Command::MASK),
        command in any::<u8>().prop_map(MaskCommand),
        directives in prop::collection::vec((any::<u8>(), mac()), 0..256),
    ) {
        let directives: Vec<_> = directives
            .into_iter()
            .map(|(command, mac)| Directive { command: DirectiveCommand(command), mac })
            .collect();
        let directive_count = u8::try_from(directives.len()).unwrap();
        let mask = MaskFields { command, error: MaskError::NONE, directive_count };
        let octets = written(&fields, |writer| {
            writer.mask(&mask);
            for directive in &directives {
                writer.directive(*directive);
            }
            writer
        });
        is_stable(&octets, &fields)?;
        let view = MaskArg::parse(parse(&octets).header.arg()).unwrap();
        prop_assert_eq!(MaskFields::of(&view), mask);
        prop_assert!(view.directives().unwrap().eq(directives));
    }

    #[test]
    fn reserve_frames_read_as_they_were_written(
        fields in fields(Command::RESERVE),
        command in any::<u8>().prop_map(ReserveCommand),
        macs in prop::collection::vec(mac(), 0..256),
    ) {
        let count = u8::try_from(macs.len()).unwrap();
        let octets = written(&fields, |writer| {
            writer.reserve(command, count);
            for mac in &macs {
                writer.mac(*mac);
            }
            writer
        });
        is_stable(&octets, &fields)?;
        let view = ReserveArg::parse(parse(&octets).header.arg()).unwrap();
        prop_assert_eq!((view.command(), view.mac_count()), (command, count));
        prop_assert!(view.macs().unwrap().eq(macs));
    }

    #[test]
    fn frames_of_unknown_commands_and_refusals_read_as_they_were_written(
        fields in (4..=255_u8).prop_flat_map(|command| fields(Command(command))),
        refused in any::<u8>(),
        arg in prop::collection::vec(any::<u8>(), 0..512),
    ) {
        let octets = written(&fields, |writer| writer.octets(&arg));
        is_stable(&octets, &fields)?;
        let fields =
            FrameFields { command: Command(refused % 8), ..fields }.refusing(AoeError(refused));
        let octets = written(&fields, |writer| writer.octets(&arg));
        is_stable(&octets, &fields)?;
        prop_assert_eq!(parse(&octets).header.arg(), &arg[..]);
    }

    #[test]
    fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 0..700)) {
        frame_body::run(&octets);
        identify_body::run(&octets);
        print_body::run(&octets);
    }

    #[test]
    fn no_aoe_frame_panics(
        command in prop_oneof![4 => 0_u8..4, 1 => any::<u8>()],
        arg in prop::collection::vec(any::<u8>(), 0..700),
        (version_flags, error) in any::<(u8, u8)>(),
    ) {
        let mut octets = DISCOVERY[..24].to_vec();
        (octets[14], octets[15], octets[19]) = (version_flags, error, command);
        octets.extend(arg);
        frame_body::run(&octets);
        print_body::run(&octets);
    }

    #[test]
    fn addresses_read_as_they_are_written(address in address()) {
        prop_assert_eq!(address.to_string().parse(), Ok(address));
        prop_assert_eq!(address.to_string()[1..].parse(), Ok(address));
    }

    #[test]
    fn an_address_matches_itself_and_wildcards(target in address(), request in address()) {
        prop_assert!(target.matches(target) && Address::EVERYONE.matches(target));
        let shelf = request.shelf == target.shelf || request.shelf == 0xffff;
        let slot = request.slot == target.slot || request.slot == 0xff;
        prop_assert_eq!(request.matches(target), shelf && slot);
    }

    #[test]
    fn ethernet_addresses_read_as_they_are_written(mac in mac()) {
        prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        prop_assert_eq!(mac.to_string().to_uppercase().replace(':', "-").parse(), Ok(mac));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,24}") {
        // What is taken has the meaning that it is printed with.
        if let Ok(address) = text.parse::<Address>() {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }
        if let Ok(mac) = text.parse::<MacAddr>() {
            prop_assert_eq!(mac.to_string(), text.to_lowercase().replace('-', ":"));
        }
        let shown = AtaText::<20>::new(&text);
        prop_assert!(shown.as_str().len() <= 20);
    }

    #[test]
    fn identify_pages_read_as_they_were_written(
        serial in "[!-~][ -~]{0,18}[!-~]",
        firmware in "[!-~]{0,8}",
        model in "[!-~]{0,40}",
        size in 0..=LBA48_SECTORS,
        trim: bool,
        write_cache in prop::sample::select(vec![WriteCache::None, WriteCache::Off, WriteCache::On]),
    ) {
        let identity = Identity {
            serial: AtaText::new(&serial),
            firmware: AtaText::new(&firmware),
            model: AtaText::new(&model),
            size: Sectors(size),
            write_cache,
            trim,
        };
        let mut octets = [0xa5; IDENTIFY_LEN];
        identity.emit(&mut octets);
        let page = IdentifyPage::parse(&octets).unwrap();
        prop_assert_eq!(page.serial(), identity.serial);
        prop_assert_eq!(page.firmware(), identity.firmware);
        prop_assert_eq!(page.model(), identity.model);
        prop_assert_eq!(page.size(), identity.size);
        prop_assert_eq!((page.write_cache(), page.trim()), (write_cache, trim));
        prop_assert!(page.checksum_holds());
        // And text of printable characters is taken as it is, its padding aside.
        prop_assert_eq!(identity.serial.as_str(), serial);
        prop_assert_eq!(identity.model.as_str(), model);
    }
}
