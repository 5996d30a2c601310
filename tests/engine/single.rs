//! Single claims about the engine, some of them the story of a fault that was found in it.

use crate::common::{
    ABRT, Ask, CLIENT, DEVICE_FAULT, FAILED, FILLER, IDNF, OTHER, RamDisk, Rig, sector_content,
    target,
};
use aoe_server::engine::{
    Action, AddressTaken, After, Durability, MacList, Port, TargetId, fail_reply, refuse_reply,
};
use aoe_server::protocol::{Address, AoeError};
use aoe_server::storage::{BlockStorage, Fault, Ticket};

/// The one action about a frame.
#[track_caller]
fn action(rig: &mut Rig, ask: &Ask) -> Action {
    let actions = rig.offer(&ask.octets());
    assert_eq!(actions.len(), 1);
    actions[0].1
}

fn volatile() -> Rig {
    let mut rig = Rig::with_disks(&[(7, 3)], Durability::Volatile, || RamDisk::new(64));
    rig.disk().delayed = true;
    rig.disk().durable_by_flush = true;
    rig
}

/// A staged change whose reply did not fit was once never saved, and all later ones waited for it.
#[test]
fn a_change_whose_reply_cannot_be_sent_is_not_made() {
    let mut rig = Rig::with_mtu(500);
    assert_eq!(action(&mut rig, &Ask::config(4, &[0x55; 1_024])), Action::Ignore);
    assert_eq!(rig.export(0).target.staged(), None);
    assert_eq!(rig.ask(&Ask::config(3, b"short")).string(), b"short");
}

/// IDENTIFY was once answered with 548 octets on links that carry fewer.
#[test]
fn no_reply_is_longer_than_the_link_can_send() {
    let mut rig = Rig::with_mtu(533);
    rig.fails(&Ask::identify(), FAILED, ABRT);
    rig.port.mtu = 534;
    assert_eq!(rig.succeeds(&Ask::identify()).0.len(), 548);
    // The longest config string fills 1056 octets.
    let longest = Ask::config(4, &[0x55; 1_024]);
    rig.port.mtu = 1_041;
    rig.silent(&longest.octets());
    rig.port.mtu = 1_042;
    assert_eq!(rig.ask(&longest).0.len(), 1_056);
    let (port, mut out) = (rig.port, [FILLER; 2_000]);
    let target = &rig.export(0).target;
    assert_eq!(target.advertise(port, CLIENT, &mut out), Some(1_056));
    assert_eq!(target.advertise(Port { mtu: 1_041, ..port }, CLIENT, &mut out), None);
}

/// Two exports at one address once left the others reachable under each other's addresses.
#[test]
fn a_change_that_is_refused_leaves_nobody_at_a_foreign_address() {
    let mut rig = Rig::with_targets(&[(7, 1), (7, 2), (7, 3)]);
    let twice = Address::new(7, 2);
    let refused = rig.engine.change(|exports| {
        exports.remove(0);
        exports[1].target = target(twice, Durability::Durable);
    });
    assert_eq!(refused, Err(AddressTaken::Twice { address: twice }));
    for slot in [1, 3] {
        rig.silent(&Ask { slot, ..Ask::write(0, 1, &[0xee; 512]) }.octets());
    }
    assert_eq!(rig.ask(&Ask { slot: 2, ..Ask::config(0, b"") }).0[18], 2);
    let undone = rig.engine.change(|exports| exports.truncate(1));
    assert_eq!(undone, Ok(()));
    rig.ask(&Ask { slot: 2, ..Ask::config(0, b"") });
}

/// Turning the write cache off was once answered while it still held writes.
#[test]
fn turning_the_write_cache_off_makes_what_it_holds_durable_first() {
    let mut rig = volatile();
    let off = Ask::ata(0, 0x82, 0, 0xef, [0; 6], &[]);
    let Action::Reply { after: After::Applied(written), .. } =
        action(&mut rig, &Ask::write(1, 1, &[0xee; 512]))
    else {
        panic!("a volatile write waits to be applied");
    };
    rig.disk().settle(u64::MAX);
    assert!(rig.disk().applied() >= written && rig.disk().durable() < written);
    rig.disk().later = 1;
    assert_eq!(action(&mut rig, &off), Action::Park);
    for _ in 0..2 {
        // Said twice, it is no truer the second time than the first.
        let Action::Reply { after: After::Durable(ticket), .. } = action(&mut rig, &off) else {
            panic!("it has to be waited for");
        };
        assert!(ticket > written && rig.disk().durable() < ticket);
    }
    let frame = off.octets();
    let port = rig.port;
    assert!(rig.engine.accept(&frame, port).unwrap().is_ordered());
    rig.disk().flush_fault = Some(Fault::Media);
    rig.fails(&off, DEVICE_FAULT, ABRT);
}

/// It once waited for the ticket of the flush, whose outcome does not tell that the write failed.
#[test]
fn a_write_past_a_cache_that_is_off_waits_for_its_own_ticket_to_be_durable() {
    let mut rig = volatile();
    rig.succeeds(&Ask::ata(0, 0x82, 0, 0xef, [0; 6], &[]));
    let flushes = rig.disk().flushes;
    let ask = Ask::write(1, 1, &[0xee; 512]);
    let Action::Reply { after: After::Durable(ticket), .. } = action(&mut rig, &ask) else {
        panic!("it is not durable yet");
    };
    assert_eq!(ticket, Ticket(2), "1 was the flush that came with turning it off, 3 is its own");
    assert_eq!(rig.disk().flushes, flushes + 1, "a volatile disk syncs only when told to");
    assert!(rig.disk().durable() < ticket);
    rig.disk().settle(u64::MAX);
    assert!(rig.disk().durable() >= ticket);
    // The next write's ticket is 4; it fails, and the flush behind it does not.
    rig.disk().outcomes.insert(4, Fault::NoSpace);
    let reply = rig.ask(&ask);
    assert_eq!(reply.registers(), (DEVICE_FAULT, ABRT));
    // A flush that has to wait parks the write as well; it is then done again in its place.
    rig.disk().later = 0;
    let frame = ask.octets();
    let writes = rig.disk().writes;
    rig.disk().flush_fault = Some(Fault::Media);
    assert!(matches!(rig.offer(&frame)[..], [(_, Action::Reply { len: 60, after: After::Now })]));
    assert_eq!(rig.buffer[27], DEVICE_FAULT);
    assert_eq!(rig.disk().writes, writes + 1);
}

#[test]
fn a_second_change_of_settings_waits_for_the_first() {
    let mut rig = Rig::new();
    let asks =
        [Ask::config(4, b"second"), Ask::mask(1, &[(1, CLIENT)]), Ask::reserve(1, &[CLIENT])];
    for ask in &asks {
        let first = action(&mut rig, &Ask::config(4, b"first"));
        assert!(matches!(first, Action::Reply { after: After::Saved, .. }));
        assert_eq!(action(&mut rig, ask), Action::Park);
        // What changes nothing goes on.
        assert!(rig.ask(&Ask::config(0, b"")).string() != b"first");
        rig.succeeds(&Ask::read(0, 1));
        rig.export(0).target.apply_staged();
        let second = action(&mut rig, ask);
        assert!(matches!(second, Action::Reply { after: After::Saved, .. }), "{second:?}");
        let staged = rig.export(0).target.staged().unwrap();
        assert!(!staged.config_string.as_slice().is_empty(), "built on the first");
        rig.export(0).target.abandon_staged();
        rig.ask(&Ask::config(4, b""));
    }
}

#[test]
fn settings_that_could_not_be_saved_are_refused_and_forgotten() {
    let mut rig = Rig::new();
    let asks = [
        (Ask::config(3, &[0x55; 200]), 8),
        (Ask::mask(1, &[(1, CLIENT), (1, OTHER)]), 4),
        (Ask::reserve(1, &[OTHER]), 2),
    ];
    for (ask, fixed) in asks {
        let reply = rig.fails_to_save(&ask, AoeError::DEVICE_UNAVAILABLE).0;
        assert_eq!(reply[..6], CLIENT.0);
        assert_eq!(reply[14..24], [0x1c, 3, 0, 7, 3, ask.command, 0x00, 0x01, 0xdf, 0xdc]);
        assert_eq!((reply.len(), &reply[24 + fixed..]), (60, &vec![0; 36 - fixed][..]));
        let settings = rig.export(0).target.settings();
        assert!(settings.config_string.as_slice().is_empty());
        assert!(settings.mask.is_empty() && settings.reservation.is_empty());
    }
    assert_eq!(refuse_reply(&mut [FILLER; 13], AoeError::DEVICE_UNAVAILABLE), 0);
}

#[test]
fn a_reply_that_was_held_back_is_turned_into_a_failure() {
    let mut rig = Rig::new();
    let cases = [
        (Fault::Media, DEVICE_FAULT, ABRT),
        (Fault::NoSpace, DEVICE_FAULT, ABRT),
        (Fault::WriteProtected, FAILED, ABRT),
        (Fault::Aborted, FAILED, ABRT),
        (Fault::OutOfRange, FAILED, IDNF),
    ];
    for (fault, status, error) in cases {
        let before = rig.succeeds(&Ask::write(5, 1, &[0xee; 512])).0;
        let mut reply = before.clone();
        assert_eq!(fail_reply(&mut reply, fault), 60);
        let mut expected = before;
        (expected[25], expected[27]) = (error, status);
        assert_eq!(reply, expected);
    }
}

#[test]
fn trim_discards_whole_blocks_of_ranges_or_nothing() {
    let ranges = |ranges: &[(u64, u64)]| {
        let mut block: Vec<u8> =
            ranges.iter().flat_map(|(lba, count)| (count << 48 | lba).to_le_bytes()).collect();
        block.resize(512, 0);
        block
    };
    let mut rig = Rig::new();
    let good = Ask::ata(0x41, 1, 1, 0x06, [0; 6], &ranges(&[(1, 2), (10, 1), (1_023, 1)]));
    rig.fails(&good, FAILED, ABRT); // the disk cannot
    rig.disk().info.discard = true;
    let before = rig.disk().octets.clone();
    let past = ranges(&[(1, 2), (1_023, 2)]);
    rig.fails(&Ask::ata(0x41, 1, 1, 0x06, [0; 6], &past), FAILED, IDNF);
    let block = ranges(&[(1, 2)]);
    for (flags, feature, count) in [(0x41, 0, 1), (0x41, 1, 2), (0x41, 1, 0), (0x40, 1, 1)] {
        rig.fails(&Ask::ata(flags, feature, count, 0x06, [0; 6], &block), FAILED, ABRT);
    }
    rig.fails(&Ask::ata(0x41, 1, 1, 0x06, [0; 6], &block[..511]), FAILED, ABRT);
    rig.disk().info.read_only = true;
    rig.fails(&good, FAILED, ABRT);
    rig.disk().info.read_only = false;
    assert_eq!(rig.disk().octets, before);
    rig.disk().later = 2; // the second range, and then the first again
    rig.succeeds(&good);
    for lba in [1, 2, 10, 1_023] {
        assert_eq!(rig.disk().sectors(lba, 1), [0; 512]);
    }
    assert_eq!(rig.disk().sectors(3, 1), sector_content(3).collect::<Vec<_>>());
    let empty = Ask::ata(0x41, 1, 1, 0x06, [0; 6], &[0; 512]);
    let nothing = action(&mut rig, &empty);
    assert_eq!(nothing, Action::Reply { len: 60, after: After::Durable(Ticket::NONE) });
}

#[test]
fn verify_reads_more_than_a_frame_carries_and_sends_nothing() {
    let mut rig = Rig::new();
    for opcode in [0x40, 0x42] {
        let verify = |lba: u8, count| Ask::ata(0, 0, count, opcode, [lba, 0, 0, 0, 0, 0], &[]);
        assert_eq!(rig.succeeds(&verify(0, 255)).0.len(), 60);
        rig.fails(&verify(0, 0), FAILED, ABRT);
        rig.disk().later = 1;
        assert_eq!(action(&mut rig, &verify(0, 1)), Action::Park);
    }
    rig.fails(&Ask::ata(0, 0, 2, 0x42, [0xff, 3, 0, 0, 0, 0], &[]), FAILED, IDNF);
}

#[test]
fn only_those_whom_the_configuration_allows_are_heard() {
    let mut rig = Rig::new();
    let mut allow = MacList::new();
    allow.add(OTHER).unwrap();
    rig.export(0).target.adjust(16, allow);
    for ask in [Ask::identify(), Ask::config(0, b""), Ask::mask(1, &[]), Ask::reserve(2, &[])] {
        rig.silent(&ask.octets());
        rig.ask(&ask.from(OTHER));
    }
    assert_eq!(rig.export(0).target.counters().unheard, 4);
    // No initiator can change that, but only narrow it.
    rig.ask(&Ask::mask(1, &[(1, CLIENT), (1, OTHER)]).from(OTHER));
    rig.silent(&Ask::identify().octets());
}

#[test]
fn counters_tell_what_was_done() {
    let mut rig = Rig::new();
    rig.succeeds(&Ask::read(0, 2));
    rig.succeeds(&Ask::write(0, 1, &[0xee; 512]));
    rig.succeeds(&Ask::bare_ata(0xe7));
    rig.fails(&Ask::read(5_000, 1), FAILED, IDNF);
    rig.ask(&Ask::config(0, b""));
    rig.ask(&Ask::new(0x44, Vec::new()));
    rig.disk().later = 1;
    rig.succeeds(&Ask::read(0, 1));
    let counters = *rig.export(0).target.counters();
    assert_eq!((counters.reads, counters.sectors_read), (2, 3));
    assert_eq!((counters.writes, counters.sectors_written, counters.flushes), (1, 1, 1));
    assert_eq!((counters.ata_errors, counters.aoe_errors, counters.config_queries), (1, 1, 1));
    assert_eq!((counters.answered, counters.parked), (7, 1));
    assert_eq!(rig.engine.counters().frames, 7);
    assert_eq!(rig.offer(&Ask::read(0, 1).octets())[0].0, TargetId(0));
}
