//! Targets whose disk does not answer: nothing of theirs is lost, and nobody else waits for them.

use aoe_server::engine::MacList;
use aoe_server::link::memory::MemoryOptions;
use aoe_server::protocol::{Address, MacAddr};
use aoe_server::server::PortSet;

use crate::harness::{
    Disk, Loop, TARGET, assert_once, flush_from, query, read, read_from, write, write_from,
};

const OTHER: Address = Address::new(7, 4);
/// What an initiator has in flight.
const WINDOW: u32 = 64;
/// Turns that take more than the second after which nobody waits for a target any longer.
const LONG: usize = 11_000;

/// A loop with two targets, the first of which does nothing it is asked to.
fn with_stuck_target() -> (Loop, Disk, Disk) {
    let (mut server, stuck, good) = (Loop::new(), Disk::new(), Disk::new());
    server.serve(TARGET, &stuck);
    server.serve(OTHER, &good);
    {
        let mut script = stuck.script();
        (script.hold_reads, script.hold_writes, script.hold_tickets) = (true, true, true);
    }
    (server, stuck, good)
}

/// Asserts that reads, writes and queries of the other target are answered at once.
fn assert_responsive(server: &mut Loop) {
    server.send(&read(OTHER, 1, 9_001));
    server.send(&write(OTHER, 2, 9_002));
    server.send(&query(OTHER, 9_003));
    server.turns(2);
    assert_once(&server.replies(), 9_001..=9_003);
}

/// The same octets with more behind them.
fn with_payload(mut frame: Vec<u8>, octets: usize) -> Vec<u8> {
    frame.resize(frame.len().max(60) + octets, 0x5a);
    frame
}

#[test]
fn four_full_windows_to_a_stuck_target_keep_nobody_waiting_and_are_all_answered_in_the_end() {
    let (mut server, stuck, _) = with_stuck_target();
    let mut tag = 0;
    for _ in 0..WINDOW {
        for initiator in 1..=4 {
            tag += 1;
            let mac = MacAddr([2, 0, 0, 0, 1, initiator]);
            let lba = u64::from(tag);
            server.send(&match tag % 3 {
                0 => read_from(mac, TARGET, lba, tag),
                _ => write_from(mac, TARGET, lba, tag),
            });
        }
        server.turn();
        assert_once(&server.replies(), []);
    }
    assert_responsive(&mut server);
    // However long it takes.
    server.turns(LONG);
    assert_responsive(&mut server);
    stuck.script().release();
    server.turns(30);
    assert_once(&server.replies(), 1..=4 * WINDOW);
    let writes: Vec<_> = (1..=4 * WINDOW).filter(|tag| tag % 3 != 0).collect();
    assert_eq!(stuck.script().taken, writes, "in the order they came");
    assert!(server.listener.is_idle());
    assert_eq!(dropped(&mut server), [0, 0]);
}

/// What each target has dropped, in the order of their addresses.
fn dropped(server: &mut Loop) -> Vec<u64> {
    // Until the state has been published.
    server.turns(2_000);
    let mut targets = server.control.status().targets;
    targets.sort_by_key(|target| target.address.slot);
    targets.iter().map(|target| target.dropped).collect()
}

#[test]
fn four_windows_of_full_writes_leave_the_room_for_sixteen_of_reads_alone() {
    let (mut server, stuck, _) = with_stuck_target();
    for tag in 0..4 * WINDOW {
        server.send(&write(TARGET, u64::from(tag), tag));
    }
    // Linux probes a path with reads that carry as much as writes do.
    for tag in 1_000..1_000 + 16 * WINDOW {
        server.send(&with_payload(read(TARGET, 7, tag), 1_024));
        server.turn();
    }
    server.turns(10);
    assert_responsive(&mut server);
    stuck.script().release();
    server.turns(60);
    assert_once(&server.replies(), (0..4 * WINDOW).chain(1_000..1_000 + 16 * WINDOW));
    assert_eq!(dropped(&mut server), [0, 0]);
}

#[test]
fn what_a_stuck_target_has_no_room_for_waits_a_second_and_is_then_dropped_and_counted() {
    const MORE: u32 = 40;
    let (mut server, stuck, _) = with_stuck_target();
    for tag in 0..4 * WINDOW + MORE {
        server.send(&write(TARGET, u64::from(tag), tag));
    }
    server.send(&read(OTHER, 1, 9_000));
    server.turns(100);
    assert_once(&server.replies(), []);
    server.turns(LONG);
    assert_once(&server.replies(), [9_000]);
    assert_eq!(dropped(&mut server), [u64::from(MORE), 0]);
    // From then on nobody waits at all.
    server.send(&write(TARGET, 0, 8_000));
    assert_responsive(&mut server);
    // A question to all is answered by those who can.
    server.send(&query(Address::EVERYONE, 9_010));
    server.turns(2);
    assert_once(&server.replies(), [9_010, 9_010]);
    // One that has room again loses nothing more.
    stuck.script().release();
    server.turns(30);
    assert_once(&server.replies(), 0..4 * WINDOW);
    stuck.script().hold_writes = true;
    for tag in 0..4 * WINDOW + MORE {
        server.send(&write(TARGET, u64::from(tag), tag));
    }
    server.turns(5_000);
    stuck.script().release();
    server.turns(30);
    assert_once(&server.replies(), 0..4 * WINDOW + MORE);
    assert_eq!(dropped(&mut server), [u64::from(MORE) + 1, 0]);
}

#[test]
fn nothing_of_a_target_that_is_slow_but_gets_on_is_dropped() {
    let (mut server, stuck, _) = with_stuck_target();
    let all = 4 * WINDOW + 40;
    for tag in 0..all {
        server.send(&write(TARGET, u64::from(tag), tag));
    }
    stuck.script().hold_tickets = false;
    let mut replies = Vec::new();
    // One write in nine tenths of a second: the first to be waited for is never the last.
    for _ in 0..60 {
        server.turns(9_000);
        let mut script = stuck.script();
        (script.hold_writes, script.news) = (false, true);
        drop(script);
        server.turn();
        stuck.script().hold_writes = true;
        replies.extend(server.replies());
        if replies.len() == all as usize {
            break;
        }
    }
    assert_once(&replies, 0..all);
    assert_eq!(dropped(&mut server), [0, 0]);
}

#[test]
fn a_disk_that_makes_nothing_durable_keeps_nobody_waiting_either() {
    let (mut server, stuck, _) = with_stuck_target();
    stuck.script().hold_writes = false;
    // Sixteen windows that are taken and not durable, and then as much as can be parked.
    let taken = 16 * WINDOW;
    for tag in 0..taken + 4 * WINDOW {
        server.send(&write(TARGET, u64::from(tag), tag));
        server.turn();
    }
    for tag in 3_000..3_000 + WINDOW {
        server.send(&read(TARGET, 1, tag));
        server.send(&flush_from(MacAddr([2, 0, 0, 0, 1, 9]), TARGET, tag + 1_000));
    }
    server.turns(20);
    assert_eq!(stuck.script().taken.len(), taken as usize);
    assert_responsive(&mut server);
    let looks = stuck.script().reads;
    server.turns(100);
    assert_eq!(stuck.script().reads, looks, "nobody is asked in vain");
    stuck.script().release();
    server.turns(100);
    let all = (0..taken + 4 * WINDOW).chain(3_000..3_000 + WINDOW).chain(4_000..4_000 + WINDOW);
    assert_once(&server.replies(), all);
}

#[test]
fn every_target_has_room_of_its_own() {
    const TARGETS: u8 = 64;
    let mut server =
        Loop::with(1, &MemoryOptions { depth: 20_000, ..Default::default() }, |_| None);
    let (stuck, good) = (Disk::new(), Disk::new());
    let address = |slot| Address::new(1, slot);
    stuck.script().hold_reads = true;
    for slot in 0..TARGETS {
        server.serve(address(slot), if slot == TARGETS - 1 { &good } else { &stuck });
    }
    // All but one of 64 targets hang with four windows each.
    for tag in 0..4 * WINDOW {
        for slot in 0..TARGETS - 1 {
            server.send(&read(address(slot), 0, tag));
        }
        server.turns(2);
    }
    server.turns(LONG);
    server.send(&read(address(TARGETS - 1), 0, 9_000));
    server.turn();
    assert_once(&server.replies(), [9_000]);
    stuck.script().hold_reads = false;
    let mut replies = Vec::new();
    for _ in 0..TARGETS - 1 {
        // The script says so to whoever looks first.
        stuck.script().news = true;
        server.turns(10);
        replies.extend(server.replies());
    }
    let mut by_target = vec![0_u32; TARGETS.into()];
    for reply in &replies {
        by_target[usize::from(reply.address().slot)] += 1;
    }
    by_target.pop();
    assert!(by_target.iter().all(|count| *count == 4 * WINDOW), "{by_target:?}");
}

#[test]
fn a_larger_buffer_count_brings_more_room_and_a_smaller_one_takes_none_away() {
    let (mut server, stuck, _) = with_stuck_target();
    for (buffer_count, fits) in [(64, 256_u32), (100, 400), (2, 400)] {
        server.control.adjust(TARGET, buffer_count, MacList::new(), PortSet::ALL).unwrap();
        server.turns(2);
        server.replies();
        for tag in 0..fits {
            server.send(&write(TARGET, u64::from(tag), tag));
        }
        server.turns(20);
        assert_responsive(&mut server);
        server.send(&write(TARGET, 0, fits));
        server.send(&read(OTHER, 0, 9_000));
        server.turns(20);
        assert_once(&server.replies(), []);
        stuck.script().release();
        server.turns(40);
        assert_once(&server.replies(), (0..=fits).chain([9_000]));
        stuck.script().hold_writes = true;
    }
}
