//! Items 1 to 20: what is heard at all, who answers, and the frame around every answer.

use crate::common::{Ask, CLIENT, FILLER, OK, OTHER, Rig, SERVER, check_reply};
use crate::{Item, item, part};
use aoe_server::engine::Action;
use aoe_server::protocol::{Address, AoeError, MacAddr};

pub(crate) const ITEMS: &[Item] = &[
    item(1, "23 octets and fewer: silence", cut_headers),
    item(2, "EtherType 88A3: silence", other_protocol),
    item(3, "R set, every command: silence", responses),
    item(4, "shelf 7 slot 3, exactly: answered", exact_address),
    item(5, "FFFF.FF, FFFF.03, 0007.FF: one answer a target", wildcards),
    item(6, "7.4 and 8.3: silence", other_targets),
    item(7, "own shelf and slot even to a wildcard", own_address),
    item(8, "to C from M even when asked by broadcast", stations),
    item(9, "tag comes back, octet by octet", tags),
    item(10, "version 2: error 5, never success", versions),
    item(11, "reserved flags in, 18 out", reserved_flags),
    item(12, "E or an error code in a request: no matter", error_in_request),
    item(13, "to a foreign station: silence", foreign_station),
    part(14, "32 and 36 octets without padding: answered", "tests/network.rs", unpadded),
    item(15, "60 octets at least, zero after the end", padded_replies),
    item(16, "nothing of earlier requests in the padding", no_leaks),
    item(17, "command 44: error 1", unknown_command),
    item(18, "vendor command F0: error 1", vendor_command),
    item(19, "short argument: silence", short_arguments),
    part(20, "own frames are not answered", "tests/network.rs, by capture", own_frames),
];

/// One valid request of each command.
fn each_command() -> [Ask; 4] {
    [Ask::identify(), Ask::config(0, b""), Ask::mask(0, &[]), Ask::reserve(0, &[])]
}

fn cut_headers() {
    let mut rig = Rig::new();
    let frame = Ask::config(0, b"").octets();
    for len in 0..24 {
        rig.silent(&frame[..len]);
    }
    let counters = rig.engine.counters();
    assert_eq!((counters.frames, counters.malformed), (24, 24));
}

fn other_protocol() {
    let mut rig = Rig::new();
    for ethertype in [0x88a3, 0x0800, 0xa288] {
        rig.silent(&Ask { ethertype, ..Ask::config(0, b"") }.octets());
    }
    assert_eq!(rig.engine.counters().not_aoe, 3);
}

fn responses() {
    let mut rig = Rig::new();
    for command in 0..=255 {
        for version_flags in [0x18, 0x1c, 0x1f, 0x08, 0x28] {
            let arg = vec![0; 12];
            rig.silent(&Ask { version_flags, ..Ask::new(command, arg) }.octets());
        }
    }
    assert_eq!(rig.engine.counters().responses, 5 * 256);
}

fn exact_address() {
    let mut rig = Rig::with_targets(&[(7, 2), (7, 3), (8, 3)]);
    for ask in each_command() {
        let reply = rig.ask(&ask);
        assert_eq!(reply.0[16..19], [0, 7, 3]);
    }
}

fn wildcards() {
    let mut rig = Rig::with_targets(&[(7, 2), (7, 3), (9, 3), (9, 5)]);
    let cases: [(u16, u8, &[[u8; 3]]); 4] = [
        (0xffff, 0xff, &[[0, 7, 2], [0, 7, 3], [0, 9, 3], [0, 9, 5]]),
        (0xffff, 3, &[[0, 7, 3], [0, 9, 3]]),
        (7, 0xff, &[[0, 7, 2], [0, 7, 3]]),
        (0xffff, 6, &[]),
    ];
    for (shelf, slot, expected) in cases {
        for ask in each_command() {
            let replies = rig.all(&ask.to(shelf, slot).octets());
            let from: Vec<_> = replies.iter().map(|reply| &reply.0[16..19]).collect();
            assert_eq!(from, expected);
        }
    }
}

fn other_targets() {
    let mut rig = Rig::new();
    for (shelf, slot) in [(7, 4), (8, 3), (0x0307, 0), (0, 3)] {
        for ask in each_command() {
            rig.silent(&ask.to(shelf, slot).octets());
        }
    }
    assert_eq!(rig.engine.counters().other_target, 16);
}

fn own_address() {
    let mut rig = Rig::new();
    for (shelf, slot) in [(0xffff, 0xff), (0xffff, 3), (7, 0xff)] {
        let reply = rig.ask(&Ask::config(0, b"").to(shelf, slot));
        assert_eq!(reply.0[16..19], [0x00, 0x07, 0x03]);
    }
}

fn stations() {
    let mut rig = Rig::new();
    for source in [CLIENT, OTHER] {
        let reply = rig.ask(&Ask::config(0, b"").to(7, 3).from(source));
        assert_eq!(reply.0[..6], source.0);
        assert_eq!(reply.0[6..12], SERVER.0);
    }
}

fn tags() {
    let mut rig = Rig::new();
    let tags = [[0; 4], [0x80, 0, 0, 1], [0xff; 4], [0x18, 0xae, 0, 1], [1, 2, 3, 4]];
    for tag in tags {
        for ask in each_command() {
            assert_eq!(rig.ask(&Ask { tag, ..ask }).0[20..24], tag);
        }
    }
}

fn versions() {
    let mut rig = Rig::new();
    for version_flags in [0x00, 0x20, 0x30, 0xf0, 0x24] {
        for ask in each_command() {
            let reply = rig.ask(&Ask { version_flags, ..ask });
            let mut expected = vec![0; 60];
            expected[..6].copy_from_slice(&CLIENT.0);
            expected[6..12].copy_from_slice(&SERVER.0);
            expected[12..19].copy_from_slice(&[0x88, 0xa2, 0x1c, 5, 0, 7, 3]);
            expected[19] = ask.command;
            expected[20..24].copy_from_slice(&ask.tag);
            assert_eq!(reply.0, expected, "header only");
        }
    }
}

fn reserved_flags() {
    let mut rig = Rig::new();
    for version_flags in [0x11, 0x12, 0x13] {
        for ask in each_command() {
            assert_eq!(rig.ask(&Ask { version_flags, ..ask }).0[14], 0x18);
        }
    }
}

fn error_in_request() {
    let mut rig = Rig::new();
    for (version_flags, error) in [(0x14, 0), (0x10, 7), (0x14, 7), (0x17, 0xff)] {
        for ask in each_command() {
            let reply = rig.ask(&Ask { version_flags, error, ..ask });
            assert_eq!(reply.0[14..16], [0x18, 0]);
        }
    }
}

fn foreign_station() {
    let mut rig = Rig::new();
    for ask in each_command() {
        rig.silent(&Ask { destination: OTHER, ..ask }.octets());
    }
    assert_eq!(rig.engine.counters().other_station, 4);
    // A group may include us: broadcast does, and a filter let a multicast through.
    for destination in [MacAddr::BROADCAST, MacAddr([0x01, 0, 0x5e, 0, 0, 1])] {
        rig.ask(&Ask { destination, ..Ask::config(0, b"") });
    }
}

fn unpadded() {
    let mut rig = Rig::new();
    // As Linux 6.12 sent them, but for addresses.
    let discovery = Ask { tag: [0; 4], ..Ask::config(0, b"") }.to(0xffff, 0xff).octets();
    assert_eq!(discovery.len(), 32);
    assert_eq!(rig.all(&discovery).len(), 1);
    let identify = Ask::identify().octets();
    assert_eq!(identify.len(), 36);
    assert_eq!(rig.all(&identify).len(), 1);
}

fn padded_replies() {
    let mut rig = Rig::new();
    // Every reply is checked so, here and elsewhere; these are the short ones.
    let reply = rig.ask(&Ask::config(0, b"")).0;
    let mut expected = vec![0x02, 0xc1, 0, 0, 0, 1, 0x02, 0xae, 0, 0, 0, 1, 0x88, 0xa2];
    expected.extend_from_slice(&[0x18, 0, 0, 7, 3, 1, 0x00, 0x01, 0xdf, 0xdc]);
    expected.extend_from_slice(&[0, 16]); // buffers
    expected.extend_from_slice(&[reply[26], reply[27]]); // firmware, which changes
    expected.extend_from_slice(&[2, 0x10, 0, 0]);
    expected.resize(60, 0);
    assert_eq!(reply, expected);
    let short = [
        Ask::mask(0, &[]),
        Ask::reserve(0, &[]),
        Ask::bare_ata(0xe7),
        Ask::bare_ata(0xe5),
        Ask::bare_ata(0x00),
        Ask::write(0, 1, &[0xee; 512]),
        Ask::new(0x44, vec![0xee; 36]),
    ];
    for ask in short {
        assert_eq!(rig.ask(&ask).0.len(), 60);
    }
}

fn no_leaks() {
    let mut rig = Rig::new();
    let secret = [0xee; 1_024];
    let target = Address::new(7, 3);
    let short = [
        Ask::config(0, b""),
        Ask::mask(0, &[]),
        Ask::reserve(0, &[]),
        Ask::bare_ata(0xe7),
        Ask::read(u64::MAX >> 16, 1),
        Ask::new(0x44, Vec::new()),
    ];
    for ask in short {
        assert!(matches!(
            rig.offer(&Ask::write(0, 2, &secret).octets())[..],
            [(_, Action::Reply { .. })]
        ));
        // The reply to this read fills the buffer with the secret.
        rig.offer(&Ask::read(0, 2).octets());
        assert_eq!(rig.buffer[36..36 + 1_024], secret);
        let frame = ask.from(OTHER).octets();
        let [(_, Action::Reply { len, .. })] = rig.offer(&frame)[..] else { panic!("no reply") };
        check_reply(&frame, &rig.buffer[..len], rig.port, target);
        assert!(!rig.buffer[..len].contains(&0xee));
        rig.buffer.fill(FILLER);
    }
}

fn unknown_command() {
    let mut rig = Rig::new();
    for command in 4..=255 {
        let reply = rig.refuses(&Ask::new(command, Vec::new()), AoeError::UNRECOGNIZED_COMMAND);
        assert_eq!(reply.0[19], command);
    }
    let reply = rig.refuses(&Ask::new(0x44, vec![0xee; 1_000]), AoeError::UNRECOGNIZED_COMMAND);
    assert_eq!(reply.0[24..], [0; 36]);
}

fn vendor_command() {
    let mut rig = Rig::new();
    let reply = rig.refuses(&Ask::new(0xf0, vec![1, 2, 3]), AoeError::UNRECOGNIZED_COMMAND);
    assert_eq!(reply.0[14..20], [0x1c, 1, 0, 7, 3, 0xf0]);
}

fn short_arguments() {
    let mut rig = Rig::new();
    let mut dropped = 0;
    for (ask, fixed) in each_command().into_iter().zip([12, 8, 4, 2]) {
        let frame = ask.octets();
        for len in 24..24 + fixed {
            rig.silent(&frame[..len]);
            dropped += 1;
        }
        assert_eq!(rig.all(&frame[..24 + fixed]).len(), 1, "the whole argument is there");
    }
    assert_eq!(rig.export(0).target.counters().malformed, dropped);
}

fn own_frames() {
    let mut rig = Rig::new();
    let mut own = Vec::new();
    for ask in each_command() {
        own.push(rig.ask(&ask).0);
    }
    own.push(rig.ask(&Ask::new(0x44, Vec::new())).0);
    assert_eq!(rig.ask(&Ask::identify()).registers(), (OK, 0));
    let port = rig.port;
    let mut advert = [FILLER; 1_514];
    let target = &rig.export(0).target;
    let len = target.advertise(port, MacAddr::BROADCAST, &mut advert).unwrap();
    own.push(advert[..len].to_vec());
    for mut frame in own {
        rig.silent(&frame);
        // Even when somebody reflects it to us.
        frame[..6].copy_from_slice(&SERVER.0);
        rig.silent(&frame);
    }
}
