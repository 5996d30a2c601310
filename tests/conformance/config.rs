//! Items 21 to 36: the config query, its string, and advertisements.

use crate::common::{Ask, CLIENT, FILLER, OTHER, Reply, Rig, SERVER};
use crate::{Item, item, part};
use aoe_server::engine::{Action, After, MacList, Target};
use aoe_server::protocol::{AoeError, MacAddr};

const READ: u8 = 0;
const TEST: u8 = 1;
const PREFIX: u8 = 2;
const SET: u8 = 3;
const FORCE_SET: u8 = 4;

pub(crate) const ITEMS: &[Item] = &[
    item(21, "read: buffers, sectors for the MTU, 10", read),
    item(22, "read with any length and filler: answered", read_with_filler),
    item(23, "test: only the very string is answered", test),
    item(24, "prefix: only a prefix is answered", prefix),
    item(25, "test of nothing against nothing: answered", test_empty),
    item(26, "set: an empty or the same string, else error 4", set),
    item(27, "force set replaces and clears", force_set),
    item(28, "CCmd 5 and 15: error 2", unknown_ccmd),
    item(29, "1024 octets are kept, 1025 refused", longest),
    item(30, "40 claimed, 2 there: refused", claims_too_much),
    item(31, "version nibble of the argument: no matter", nibble),
    part(32, "the string survives a restart", "tests/network.rs, of the process", survives),
    item(33, "two targets, two strings", independent),
    part(34, "sectors follow the MTU", "tests/network.rs, on an interface", follows_mtu),
    part(35, "advertisement: broadcast, R, version 1, tag 0", "tests/network.rs, at start", advert),
    part(36, "advertisement only to the masked", "tests/network.rs, at start", advert_to_masked),
];

/// Sets the string, as an operator would.
fn label(rig: &mut Rig, string: &[u8]) {
    let reply = rig.ask(&Ask::config(FORCE_SET, string));
    assert_eq!((reply.error(), reply.string()), (0, string));
}

/// Checks what the string is.
#[track_caller]
fn holds(rig: &mut Rig, string: &[u8]) {
    assert_eq!(rig.ask(&Ask::config(READ, b"")).string(), string);
}

fn sector_count(reply: &Reply) -> u8 {
    reply.0[28]
}

fn read() {
    let cases = [
        (1_500, 2),
        (4_131, 7),
        (4_132, 8),
        (4_643, 8),
        (8_227, 8),
        (8_228, 16),
        (9_000, 16),
        (65_536, 120),
        (1_000_000, 248),
    ];
    for (mtu, sectors) in cases {
        let mut rig = Rig::with_mtu(mtu);
        let reply = rig.ask(&Ask::config(READ, b""));
        assert_eq!(sector_count(&reply), sectors, "MTU {mtu}");
        assert!(usize::from(sectors) <= (mtu - 36) / 512);
        let buffers = u16::from_be_bytes([reply.0[24], reply.0[25]]);
        assert!(buffers >= 2);
        assert_eq!(reply.0[29], 0x10);
    }
}

fn read_with_filler() {
    let mut rig = Rig::new();
    label(&mut rig, b"mine");
    let asks = [
        Ask::config_claiming(READ, 1_024, &[0xed; 1_024]),
        Ask::config_claiming(READ, 5_000, b""),
        Ask::config_claiming(READ, 65_535, &[0xed; 3]),
        Ask::config(READ, b"").trailing(&[0xed; 1_024]),
    ];
    for ask in asks {
        assert_eq!(rig.ask(&ask).string(), b"mine");
        assert_eq!(rig.ask(&ask.clone().to(7, 3)).string(), b"mine");
    }
}

fn test() {
    let mut rig = Rig::new();
    label(&mut rig, b"hello");
    let reply = rig.ask(&Ask::config(TEST, b"hello"));
    assert_eq!(reply.0[29], 0x11);
    assert_eq!(reply.string(), b"hello");
    for other in [&b"hellO"[..], b"hello ", b"hell", b"", b"hello\0"] {
        rig.silent(&Ask::config(TEST, other).octets());
    }
    rig.ask(&Ask::config(TEST, b"hello").trailing(b"filler"));
}

fn prefix() {
    let mut rig = Rig::new();
    label(&mut rig, b"hello");
    for start in [&b"hell"[..], b"hello", b"", b"h"] {
        let reply = rig.ask(&Ask::config(PREFIX, start));
        assert_eq!((reply.0[29], reply.string()), (0x12, &b"hello"[..]));
    }
    for other in [&b"hellox"[..], b"ello", b"H"] {
        rig.silent(&Ask::config(PREFIX, other).octets());
    }
}

fn test_empty() {
    let mut rig = Rig::new();
    let reply = rig.ask(&Ask::config(TEST, b""));
    assert_eq!((reply.0[29], reply.string()), (0x11, &b""[..]));
    let reply = rig.ask(&Ask::config(PREFIX, b""));
    assert_eq!((reply.0[29], reply.string()), (0x12, &b""[..]));
}

fn set() {
    let mut rig = Rig::new();
    let actions = rig.offer(&Ask::config(SET, b"mine").octets());
    assert!(matches!(actions[..], [(_, Action::Reply { after: After::Saved, .. })]));
    holds(&mut rig, b""); // not before it is durable
    rig.export(0).target.apply_staged();
    holds(&mut rig, b"mine");
    let reply = rig.ask(&Ask::config(SET, b"mine"));
    assert_eq!((reply.0[14], reply.0[29], reply.string()), (0x18, 0x13, &b"mine"[..]));
    for other in [&b"yours"[..], b"min", b""] {
        let reply = rig.refuses(&Ask::config(SET, other), AoeError::CONFIG_STRING_PRESENT);
        assert_eq!((reply.0[29], reply.string()), (0x13, &b"mine"[..]));
    }
    holds(&mut rig, b"mine");
}

fn force_set() {
    let mut rig = Rig::new();
    for string in [&b"one"[..], b"another", b"", b"\0\xff"] {
        let reply = rig.ask(&Ask::config(FORCE_SET, string).from(OTHER));
        assert_eq!((reply.0[14], reply.0[29], reply.string()), (0x18, 0x14, string));
        holds(&mut rig, string);
    }
}

fn unknown_ccmd() {
    let mut rig = Rig::new();
    label(&mut rig, b"mine");
    for ccmd in 5..=15 {
        let ask = Ask::config(ccmd, b"yours");
        let reply = rig.refuses(&ask, AoeError::BAD_ARGUMENT);
        assert_eq!(reply.0[24..32], ask.arg[..8], "the fixed part is echoed");
    }
    holds(&mut rig, b"mine");
}

fn longest() {
    let mut rig = Rig::new();
    let string: Vec<u8> = (0..1_024).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let reply = rig.ask(&Ask::config(SET, &string));
    assert_eq!((reply.0.len(), reply.string()), (1_056, &string[..]));
    holds(&mut rig, &string);
    for ccmd in [TEST, PREFIX, SET, FORCE_SET] {
        let ask = Ask::config(ccmd, &[0x55; 1_025]);
        rig.refuses(&ask, AoeError::BAD_ARGUMENT);
        rig.silent(&ask.to(7, 3).octets()); // each target on the segment would say so
    }
    holds(&mut rig, &string);
}

fn claims_too_much() {
    let mut rig = Rig::new();
    for ccmd in [TEST, PREFIX, SET, FORCE_SET] {
        let ask = Ask::config_claiming(ccmd, 40, b"ab");
        rig.refuses(&ask, AoeError::BAD_ARGUMENT);
        rig.silent(&ask.to(7, 3).octets());
    }
    holds(&mut rig, b"");
}

fn nibble() {
    let mut rig = Rig::new();
    for version in [0x00, 0x10, 0x20, 0xf0] {
        assert_eq!(rig.ask(&Ask::config(version | READ, b"")).0[29], 0x10);
        assert_eq!(rig.ask(&Ask::config(version | FORCE_SET, b"s")).0[29], 0x14);
        assert_eq!(rig.ask(&Ask::config(version | TEST, b"s")).0[29], 0x11);
    }
}

fn survives() {
    let mut rig = Rig::new();
    label(&mut rig, b"kept");
    let export = rig.export(0);
    let (profile, settings) = (export.target.profile().clone(), export.target.settings().clone());
    export.target = Target::new(profile, settings);
    holds(&mut rig, b"kept");
}

fn independent() {
    let mut rig = Rig::with_targets(&[(7, 3), (7, 4)]);
    label(&mut rig, b"three");
    let four = Ask { slot: 4, ..Ask::config(SET, b"four") };
    assert_eq!(rig.ask(&four).string(), b"four");
    let strings: Vec<_> = rig
        .all(&Ask::config(READ, b"").to(0xffff, 0xff).octets())
        .iter()
        .map(|reply| reply.string().to_vec())
        .collect();
    assert_eq!(strings, [b"three".to_vec(), b"four".to_vec()]);
}

fn follows_mtu() {
    let mut rig = Rig::new();
    for (mtu, sectors) in [(1_500, 2), (9_000, 16), (4_200, 8), (1_500, 2)] {
        rig.port.mtu = mtu;
        assert_eq!(sector_count(&rig.ask(&Ask::config(READ, b""))), sectors);
        rig.succeeds(&Ask::read(0, sectors));
        rig.fails(&Ask::read(0, sectors + 1), 0x41, 0x04);
    }
    rig.export(0).target.adjust(64, MacList::new());
    assert_eq!(rig.ask(&Ask::config(READ, b"")).0[24..26], [0, 64]);
}

fn advert() {
    let mut rig = Rig::new();
    label(&mut rig, b"mine");
    let port = rig.port;
    let target = &rig.export(0).target;
    let audience: Vec<_> = target.audience().collect();
    assert_eq!(audience, [MacAddr::BROADCAST]);
    let mut out = [FILLER; 1_514];
    let len = target.advertise(port, audience[0], &mut out).unwrap();
    let mut expected = vec![0xff; 6];
    expected.extend_from_slice(&SERVER.0);
    expected.extend_from_slice(&[0x88, 0xa2, 0x18, 0, 0, 7, 3, 1, 0, 0, 0, 0]);
    expected.extend_from_slice(&[0, 16, out[26], out[27], 2, 0x10, 0, 4]);
    expected.extend_from_slice(b"mine");
    expected.resize(60, 0);
    assert_eq!(out[..len], expected);
    // It says what a reply to a query says.
    let reply = rig.ask(&Ask { tag: [0; 4], ..Ask::config(READ, b"") });
    assert_eq!(reply.0[12..], out[12..len]);
    let target = &rig.export(0).target;
    assert_eq!(target.advertise(port, MacAddr::BROADCAST, &mut out[..59]), None);
}

fn advert_to_masked() {
    let mut rig = Rig::new();
    rig.ask(&Ask::mask(1, &[(1, CLIENT), (1, OTHER)]));
    let audience: Vec<_> = rig.export(0).target.audience().collect();
    assert_eq!(audience, [CLIENT, OTHER]);
    // Those whom the configuration shuts out as well are not told.
    let mut allow = MacList::new();
    allow.add(OTHER).unwrap();
    rig.export(0).target.adjust(16, allow);
    assert_eq!(rig.export(0).target.audience().collect::<Vec<_>>(), [OTHER]);
    rig.ask(&Ask::mask(1, &[(2, CLIENT), (2, OTHER)]).from(OTHER));
    assert_eq!(rig.export(0).target.audience().collect::<Vec<_>>(), [OTHER]);
}
