//! Items 67 to 93: duplicates, order and durability; MAC masks and reservations; robustness.

use crate::common::{
    ABRT, Ask, CLIENT, FAILED, OTHER, RamDisk, Reply, Rig, check_reply, sector_content, target,
};
use crate::{Item, item, part};
use aoe_server::engine::{
    Action, AddressTaken, After, Durability, Engine, Export, Port, Target, TargetId,
};
use aoe_server::protocol::{Address, AoeError, MacAddr};
use aoe_server::storage::BlockStorage;
use aoe_server::units::Sectors;

pub(crate) const ITEMS: &[Item] = &[
    item(67, "a write that comes twice: two replies, one result", duplicate),
    item(68, "writes A and B to one LBA: B stays", order),
    part(69, "replies may overtake each other", "tests/network.rs, with a kernel", reordered),
    part(70, "an acknowledged write is durable", "tests/network.rs, by SIGKILL", acknowledged),
    part(71, "buffers from two initiators: none lost", "tests/network.rs, with real rings", window),
    part(72, "restart between two retransmissions", "tests/network.rs, with a kernel", restart),
    part(73, "the interface changes under it", "tests/network.rs, down and up", interface),
    part(74, "a resized disk shows its size", "tests/network.rs, with a kernel", resize),
    item(75, "mask: read of an empty list", mask_read),
    item(76, "mask: add, and add again", mask_add),
    item(77, "mask: bad directive, MError 2 and its index", mask_bad_directive),
    item(78, "mask: unknown MCmd, error 2", mask_unknown),
    item(79, "mask: full, MError 3, earlier adds stay", mask_full),
    item(80, "mask: the unlisted hear nothing", mask_silence),
    item(81, "mask: delete first, middle, last", mask_delete),
    item(82, "mask: more claimed than there, error 2", mask_claims),
    item(83, "reserve: read of none; set", reserve_set),
    item(84, "reserve: others get error 6 for I/O only", reserve_enforced),
    item(85, "reserve: set by others error 6, release", reserve_release),
    item(86, "reserve: force set by anybody", reserve_force),
    item(87, "reserve: bad count or RCmd, error 2", reserve_bad),
    part(88, "mask and reservation survive a restart", "tests/network.rs, of the process", survive),
    item(89, "random and huge frames: no crash, no answer to R", robust),
    part(90, "replies leave where requests came in", "tests/network.rs, two interfaces", ports),
    part(91, "a second target at an address", "tests/network.rs, on the wire", second_target),
    part(92, "802.1Q tagged: silence", "tests/network.rs, on an interface", tagged),
    item(93, "sectors a multiple of 8 where 8 fit", multiple_of_eight),
];

fn duplicate() {
    let mut rig = Rig::new();
    let ask = Ask::write(5, 1, &[0xee; 512]);
    let first = rig.succeeds(&ask);
    let again = rig.succeeds(&ask);
    assert_eq!(first, again);
    rig.succeeds(&Ask { tag: [9, 9, 9, 9], ..ask }); // as Linux sends it again
    assert_eq!(rig.disk().sectors(5, 1), [0xee; 512]);
}

fn order() {
    let mut rig = Rig::new();
    rig.disk().delayed = true;
    let (a, b) = (Ask::write(5, 1, &[0xaa; 512]), Ask::write(5, 1, &[0xbb; 512]));
    let port = rig.port;
    for ask in [&a, &b, &Ask::bare_ata(0xe7), &Ask::bare_ata(0xea)] {
        let frame = ask.octets();
        let request = rig.engine.accept(&frame, port).unwrap();
        assert!(request.is_ordered(), "the caller has to keep its place");
    }
    let read = Ask::read(5, 1).octets();
    assert!(!rig.engine.accept(&read, port).unwrap().is_ordered());
    let mut tickets = Vec::new();
    for ask in [&a, &b] {
        let actions = rig.offer(&ask.octets());
        let [(_, Action::Reply { after: After::Durable(ticket), .. })] = actions[..] else {
            panic!("{actions:?}");
        };
        tickets.push(ticket);
    }
    assert!(tickets[0] < tickets[1]);
    rig.disk().settle(u64::MAX);
    assert_eq!(rig.succeeds(&Ask::read(5, 1)).data(), [0xbb; 512]);
}

fn reordered() {
    let mut rig = Rig::new();
    // A parked read is answered after a later one, with its own tag and its own sectors.
    rig.disk().later = 1;
    let early = Ask { tag: [0, 0, 0, 1], ..Ask::read(1, 1) };
    assert!(matches!(rig.offer(&early.octets())[..], [(_, Action::Park)]));
    let late = rig.succeeds(&Ask { tag: [0, 0, 0, 2], ..Ask::read(2, 1) });
    assert_eq!(late.data(), sector_content(2).collect::<Vec<_>>());
    let reply = rig.succeeds(&early);
    assert_eq!(reply.0[20..24], [0, 0, 0, 1]);
    assert_eq!(reply.data(), sector_content(1).collect::<Vec<_>>());
    assert_eq!(rig.export(0).target.counters().parked, 1);
}

fn acknowledged() {
    for (durability, cached) in [(Durability::Durable, false), (Durability::Volatile, true)] {
        let mut rig = Rig::with_disks(&[(7, 3)], durability, || RamDisk::new(16));
        rig.disk().delayed = true;
        let actions = rig.offer(&Ask::write(5, 1, &[0xee; 512]).octets());
        let [(_, Action::Reply { after, .. })] = actions[..] else { panic!("{actions:?}") };
        match after {
            After::Durable(ticket) if !cached => assert!(rig.disk().durable() < ticket),
            After::Applied(ticket) if cached => assert!(rig.disk().applied() < ticket),
            other => panic!("{durability:?} waits for {other:?}"),
        }
    }
}

fn window() {
    let mut rig = Rig::new();
    rig.disk().later = 32;
    let mut parked = Vec::new();
    for index in 0..16 {
        for source in [CLIENT, OTHER] {
            let tag = [0, 0, source.0[5], index];
            let ask = Ask { tag, ..Ask::read(u64::from(index), 2) }.from(source);
            assert!(matches!(rig.offer(&ask.octets())[..], [(_, Action::Park)]));
            parked.push(ask);
        }
    }
    for (ask, lba) in parked.iter().zip((0..16).flat_map(|lba| [lba, lba])) {
        let reply = rig.succeeds(ask);
        assert_eq!(reply.data(), (lba..lba + 2).flat_map(sector_content).collect::<Vec<_>>());
    }
}

fn restart() {
    let mut rig = Rig::new();
    rig.succeeds(&Ask::write(5, 1, &[0xee; 512]));
    // No answer depends on what an earlier process has seen.
    let mut next = Rig::new();
    next.disk().octets.clone_from(&rig.disk().octets);
    let again = Ask { tag: [0, 2, 0, 0], ..Ask::write(5, 1, &[0xee; 512]) };
    next.succeeds(&again);
    assert_eq!(next.succeeds(&Ask::read(5, 1)).data(), [0xee; 512]);
}

fn interface() {
    let mut rig = Rig::new();
    rig.succeeds(&Ask::read(0, 2));
    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    rig.port = Port { mac, mtu: 9_000 };
    let mut out = [0xa5; 1_514];
    let port = rig.port;
    let len = rig.export(0).target.advertise(port, MacAddr::BROADCAST, &mut out);
    assert_eq!((len, &out[6..12], out[28]), (Some(60), &mac.0[..], 16));
    rig.silent(&Ask::read(0, 2).octets()); // to the address it had
    rig.succeeds(&Ask { destination: mac, ..Ask::read(0, 16) });
}

fn resize() {
    let mut rig = Rig::new();
    rig.fails(&Ask::read(1_024, 1), FAILED, 0x10);
    let disk = rig.disk();
    disk.octets.extend(sector_content(1_024));
    disk.info.size = Sectors(1_025);
    let reply = rig.succeeds(&Ask::identify());
    assert_eq!(reply.data()[200..208], 1_025_u64.to_le_bytes());
    rig.succeeds(&Ask::read(1_024, 1));
}

fn mask_read() {
    let mut rig = Rig::new();
    let reply = rig.ask(&Ask::mask(0, &[]));
    assert_eq!(reply.0[24..], [0; 36]);
    // The count of a read means nothing.
    let mut ask = Ask::mask(0, &[]);
    ask.arg[3] = 9;
    assert_eq!(rig.ask(&ask).0[24..28], [0; 4]);
}

/// Adds to the mask list, and checks that it worked.
fn add(rig: &mut Rig, macs: &[MacAddr]) -> Reply {
    let directives: Vec<_> = macs.iter().map(|mac| (1, *mac)).collect();
    let reply = rig.ask(&Ask::mask(1, &directives));
    assert_eq!((reply.error(), reply.0[26]), (0, 0));
    reply
}

fn mask_add() {
    let mut rig = Rig::new();
    for _ in 0..2 {
        let reply = add(&mut rig, &[CLIENT]);
        let mut expected = vec![0, 1, 0, 1, 0, 0];
        expected.extend_from_slice(&CLIENT.0);
        expected.resize(36, 0);
        assert_eq!(reply.0[24..], expected);
    }
    assert_eq!(add(&mut rig, &[OTHER, CLIENT]).masked(), [CLIENT, OTHER]);
    let reply = rig.ask(&Ask::mask(0, &[]));
    assert_eq!((reply.0[25], reply.masked()), (0, vec![CLIENT, OTHER]));
}

fn mask_bad_directive() {
    let mut rig = Rig::new();
    let reply = rig.ask(&Ask::mask(1, &[(0, OTHER), (7, OTHER), (1, OTHER)]));
    assert_eq!(reply.0[14], 0x18, "not an AoE error");
    assert_eq!(reply.0[24..28], [0, 1, 2, 1]);
    assert_eq!(reply.0[28..], [0; 32], "no list");
    assert!(rig.ask(&Ask::mask(0, &[])).masked().is_empty());
    // What came before it stays.
    let reply = rig.ask(&Ask::mask(1, &[(1, CLIENT), (3, OTHER)]));
    assert_eq!(reply.0[24..28], [0, 1, 2, 1]);
    assert_eq!(rig.ask(&Ask::mask(0, &[])).masked(), [CLIENT]);
}

fn mask_unknown() {
    let mut rig = Rig::new();
    for mcmd in [2, 3, 255] {
        let ask = Ask::mask(mcmd, &[(1, OTHER)]);
        let reply = rig.refuses(&ask, AoeError::BAD_ARGUMENT);
        assert_eq!(reply.0[24..28], ask.arg[..4]);
    }
    assert!(rig.ask(&Ask::mask(0, &[])).masked().is_empty());
}

/// Different stations.
fn stations(count: u8) -> Vec<MacAddr> {
    (0..count).map(|n| MacAddr([2, 0, 0, 0, 1, n])).collect()
}

fn mask_full() {
    // As many as a reply can list: 185 at MTU 1500, all that the count can say at 9000.
    for (mtu, capacity) in [(1_500, 185), (9_000, 255)] {
        let mut rig = Rig::with_mtu(mtu);
        add(&mut rig, &[CLIENT]);
        let others = stations(capacity - 2);
        let (some, rest) = others.split_at(100);
        add(&mut rig, some);
        let reply = add(&mut rig, rest);
        assert_eq!(usize::from(reply.0[27]), usize::from(capacity) - 1);
        let (last, none) = (MacAddr([2, 0, 0, 0, 2, 1]), MacAddr([2, 0, 0, 0, 2, 2]));
        let edit = [(0, none), (1, last), (1, CLIENT), (1, none), (2, CLIENT)];
        let reply = rig.ask(&Ask::mask(1, &edit));
        assert_eq!((reply.0[14], &reply.0[24..28]), (0x18, &[0, 1, 3, 3][..]));
        let listed = rig.ask(&Ask::mask(0, &[])).masked();
        assert_eq!(listed.len(), usize::from(capacity));
        assert_eq!((listed[0], listed.last()), (CLIENT, Some(&last)));
    }
}

fn mask_silence() {
    let mut rig = Rig::new();
    add(&mut rig, &[CLIENT]);
    let asks = [
        Ask::identify(),
        Ask::read(0, 1),
        Ask::config(0, b""),
        Ask::config(4, b"mine"),
        Ask::mask(1, &[(1, OTHER)]),
        Ask::reserve(2, &[OTHER]),
        Ask::new(0x44, Vec::new()),
        Ask { version_flags: 0x20, ..Ask::config(0, b"") },
    ];
    for ask in &asks {
        rig.silent(&ask.clone().from(OTHER).octets());
        rig.silent(&ask.clone().from(OTHER).to(0xffff, 0xff).octets());
    }
    assert_eq!(rig.export(0).target.counters().unheard, 2 * asks.len() as u64);
    assert!(rig.ask(&Ask::reserve(0, &[])).holders().is_empty());
    assert!(rig.ask(&Ask::config(0, b"")).string().is_empty());
}

fn mask_delete() {
    let [a, b, c] = [1, 2, 3].map(|n| MacAddr([2, 0, 0, 0, 3, n]));
    for (gone, left) in [(a, [CLIENT, b, c]), (b, [CLIENT, a, c]), (c, [CLIENT, a, b])] {
        let mut rig = Rig::new();
        add(&mut rig, &[CLIENT, a, b, c]);
        for _ in 0..2 {
            assert_eq!(rig.ask(&Ask::mask(1, &[(2, gone)])).masked(), left);
        }
        assert_eq!(rig.ask(&Ask::mask(0, &[])).masked(), left);
    }
    // Whoever takes itself off hears that, and nothing more.
    let mut rig = Rig::new();
    add(&mut rig, &[a, CLIENT]);
    assert_eq!(rig.ask(&Ask::mask(1, &[(2, CLIENT)])).masked(), [a]);
    rig.silent(&Ask::mask(0, &[]).octets());
    let reply = rig.ask(&Ask::mask(1, &[(2, a)]).from(a));
    assert!(reply.masked().is_empty());
    rig.ask(&Ask::mask(0, &[]));
}

fn mask_claims() {
    let mut rig = Rig::new();
    for (claimed, there) in [(2, 1), (255, 3), (1, 0)] {
        let mut ask = Ask::mask(1, &vec![(1, CLIENT); there]);
        ask.arg[3] = claimed;
        rig.refuses(&ask, AoeError::BAD_ARGUMENT);
        ask.arg.extend_from_slice(&[0; 7]); // not a whole directive
        rig.refuses(&ask, AoeError::BAD_ARGUMENT);
    }
    assert!(rig.ask(&Ask::mask(0, &[])).masked().is_empty());
}

/// Takes the target for these, and checks that it worked.
fn reserve(rig: &mut Rig, macs: &[MacAddr]) -> Reply {
    let reply = rig.ask(&Ask::reserve(1, macs));
    assert_eq!((reply.0[14], reply.holders()), (0x18, macs.to_vec()));
    reply
}

fn reserve_set() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&Ask::reserve(0, &[])).0[24..], [0; 36]);
    let reply = reserve(&mut rig, &[CLIENT]);
    let mut expected = vec![1, 1];
    expected.extend_from_slice(&CLIENT.0);
    expected.resize(36, 0);
    assert_eq!(reply.0[24..], expected);
    let reply = rig.ask(&Ask::reserve(0, &[]).from(OTHER));
    assert_eq!((reply.0[24], reply.holders()), (0, vec![CLIENT]));
}

fn reserve_enforced() {
    let mut rig = Rig::new();
    reserve(&mut rig, &[CLIENT]);
    let before = rig.disk().octets.clone();
    let barred = [
        Ask::read(0, 1),
        Ask::write(0, 1, &[0xee; 512]),
        Ask::bare_ata(0xe7),
        Ask::bare_ata(0xea),
        Ask::bare_ata(0xe5),
        Ask::bare_ata(0x99),
    ];
    for ask in barred {
        let reply = rig.refuses(&ask.clone().from(OTHER), AoeError::TARGET_RESERVED);
        assert_eq!(reply.0[24..36], ask.arg[..12]);
        assert_eq!(reply.0.len(), 60);
    }
    assert_eq!(rig.disk().octets, before);
    assert_eq!(rig.export(0).target.counters().refused_reserved, 6);
    rig.succeeds(&Ask::identify().from(OTHER));
    assert_eq!(rig.ask(&Ask::config(4, b"s").from(OTHER)).error(), 0);
    assert_eq!(rig.ask(&Ask::mask(0, &[]).from(OTHER)).error(), 0);
    assert_eq!(rig.ask(&Ask::reserve(0, &[]).from(OTHER)).error(), 0);
    rig.succeeds(&Ask::write(0, 1, &[0xee; 512]));
}

fn reserve_release() {
    let mut rig = Rig::new();
    reserve(&mut rig, &[CLIENT]);
    for macs in [&[OTHER][..], &[], &[CLIENT, OTHER]] {
        let reply = rig.refuses(&Ask::reserve(1, macs).from(OTHER), AoeError::TARGET_RESERVED);
        assert_eq!((reply.0[24], reply.holders()), (1, vec![CLIENT]));
    }
    reserve(&mut rig, &[OTHER, CLIENT]);
    reserve(&mut rig, &[CLIENT]);
    reserve(&mut rig, &[]);
    rig.succeeds(&Ask::read(0, 1).from(OTHER));
    assert!(rig.ask(&Ask::reserve(0, &[])).holders().is_empty());
}

fn reserve_force() {
    let mut rig = Rig::new();
    reserve(&mut rig, &[CLIENT]);
    let reply = rig.ask(&Ask::reserve(2, &[OTHER]).from(OTHER));
    assert_eq!((reply.0[14], reply.0[24], reply.holders()), (0x18, 2, vec![OTHER]));
    rig.refuses(&Ask::read(0, 1), AoeError::TARGET_RESERVED);
    assert!(rig.ask(&Ask::reserve(2, &[])).holders().is_empty());
    rig.succeeds(&Ask::read(0, 1));
    // The ceiling of a frame at MTU 1500.
    let many = stations(248);
    assert_eq!(rig.ask(&Ask::reserve(2, &many)).holders(), many);
}

fn reserve_bad() {
    let mut rig = Rig::new();
    reserve(&mut rig, &[CLIENT]);
    for rcmd in [1, 2] {
        let mut ask = Ask::reserve(rcmd, &[CLIENT]);
        ask.arg[1] = 5;
        let reply = rig.refuses(&ask, AoeError::BAD_ARGUMENT);
        assert_eq!(reply.0[24..26], [rcmd, 5]);
    }
    for rcmd in [3, 4, 255] {
        rig.refuses(&Ask::reserve(rcmd, &[OTHER]), AoeError::BAD_ARGUMENT);
    }
    assert_eq!(rig.ask(&Ask::reserve(0, &[])).holders(), [CLIENT]);
}

fn survive() {
    let mut rig = Rig::new();
    add(&mut rig, &[CLIENT, OTHER]);
    reserve(&mut rig, &[CLIENT]);
    let export = rig.export(0);
    let (profile, settings) = (export.target.profile().clone(), export.target.settings().clone());
    export.target = Target::new(profile, settings);
    assert_eq!(rig.ask(&Ask::mask(0, &[])).masked(), [CLIENT, OTHER]);
    rig.refuses(&Ask::read(0, 1).from(OTHER), AoeError::TARGET_RESERVED);
    rig.silent(&Ask::read(0, 1).from(MacAddr([2, 0, 0, 0, 9, 9])).octets());
    // What could not be made durable is not in force.
    let reply = rig.fails_to_save(&Ask::reserve(1, &[]), AoeError::DEVICE_UNAVAILABLE);
    assert_eq!(reply.0[14..16], [0x1c, 3]);
    assert_eq!(rig.ask(&Ask::reserve(0, &[])).holders(), [CLIENT]);
}

fn robust() {
    let mut rig = Rig::new();
    let huge = vec![0xee; 65_000];
    for ask in [Ask::identify(), Ask::config(0, b""), Ask::mask(0, &[]), Ask::reserve(0, &[])] {
        rig.ask(&ask.trailing(&huge));
    }
    rig.fails(&Ask::write(0, 126, &huge), FAILED, ABRT);
    // A million frames that are ours as far as the address, and random after it.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut reply = vec![0xa5; 1_514];
    let address = Address::new(7, 3);
    for _ in 0..1_000_000 {
        let mut frame = [0; 72];
        frame[..24].copy_from_slice(&Ask::config(0, b"").octets()[..24]);
        for octets in frame[24..].as_chunks_mut().0 {
            *octets = random();
        }
        let [version_flags, error, command, len, ..] = random();
        frame[14] = 0x10 | version_flags & 0x0f;
        frame[15] = error;
        frame[19] = command & 0x83;
        let frame = &frame[..24 + usize::from(len) % 49];
        let Some(request) = rig.engine.accept(frame, rig.port) else {
            assert_ne!(frame[14] & 0x08, 0, "only responses are not heard");
            continue;
        };
        match rig.engine.handle(TargetId(0), &request, &mut reply) {
            Action::Reply { len, after } => {
                check_reply(frame, &reply[..len], rig.port, address);
                if after == After::Saved {
                    rig.export(0).target.abandon_staged();
                }
            }
            Action::Ignore => {}
            Action::Park => panic!("there is nothing to wait for"),
        }
    }
}

fn ports() {
    let mut rig = Rig::new();
    let ports = [(1, 1_500, 2), (2, 9_000, 16), (3, 1_500, 2)];
    for (octet, mtu, sectors) in ports {
        rig.port = Port { mac: MacAddr([2, 0, 0, 0, 7, octet]), mtu };
        let reply = rig.ask(&Ask::config(0, b"").to(0xffff, 0xff));
        assert_eq!(reply.0[6..12], [2, 0, 0, 0, 7, octet]);
        assert_eq!(reply.0[28], sectors);
    }
}

fn second_target() {
    let export = || Export {
        target: target(Address::new(7, 3), Durability::Durable),
        storage: RamDisk::new(1),
    };
    let address = Address::new(7, 3);
    let refused = Engine::new(vec![export(), export()]).unwrap_err();
    assert_eq!(refused, AddressTaken::Twice { address });
}

fn tagged() {
    let mut rig = Rig::new();
    for protocol in [[0x81, 0x00], [0x88, 0xa8]] {
        for ask in [Ask::config(0, b""), Ask::read(0, 1)] {
            let mut frame = ask.octets();
            frame.splice(12..12, [protocol[0], protocol[1], 0x00, 0x05]);
            rig.silent(&frame);
        }
    }
    assert_eq!(rig.engine.counters().not_aoe, 4);
}

fn multiple_of_eight() {
    for mtu in 1_060..10_000 {
        let mut rig = Rig::with_targets(&[]);
        rig.port.mtu = mtu;
        let (sectors, fit) = (usize::from(rig.advertised()), (mtu - 36) / 512);
        assert!(sectors <= fit && (fit < 8 || sectors.is_multiple_of(8)));
        assert!(sectors + 8 > fit, "no smaller than it has to be");
    }
    let mut rig = Rig::with_mtu(9_000);
    assert_eq!(rig.ask(&Ask::config(0, b"")).0[28], 16);
}
