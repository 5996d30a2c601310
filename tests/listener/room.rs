//! Room that runs out: tables, buffers and the wire. Nothing is lost, everything is answered once.

use std::collections::HashMap;

use aoe_server::protocol::Address;

use crate::harness::{Disk, Got, Loop, TARGET, assert_once, query, read, within, write};

/// As many targets as need several bursts of replies, on 25 shelves.
const MANY: u16 = 200;

fn number(index: u16) -> Address {
    Address::new(index / 8, (index % 8) as u8)
}

fn serve_many(server: &mut Loop) -> Disk {
    let disk = Disk::new();
    for index in 0..MANY {
        server.serve(number(index), &disk);
    }
    disk
}

/// How many replies there are from each target.
fn by_target(replies: &[Got]) -> HashMap<Address, usize> {
    let mut counts = HashMap::new();
    for reply in replies {
        *counts.entry(reply.address()).or_default() += 1;
    }
    counts
}

#[test]
fn more_requests_than_can_be_parked_wait_on_the_wire_and_none_is_lost() {
    let (mut server, cold, hot) = (Loop::new(), Disk::new(), Disk::new());
    server.serve(TARGET, &cold);
    server.serve(Address::new(7, 4), &hot);
    cold.script().hold_reads = true;
    for tag in 0..1_400 {
        server.send(&read(TARGET, u64::from(tag), tag));
    }
    server.send(&read(Address::new(7, 4), 0, 2_000));
    server.turns(60);
    assert_once(&server.replies(), []);
    let asked = cold.script().reads;
    assert_eq!(asked, 1_024, "sixteen windows are parked");
    server.turns(10);
    assert_eq!(cold.script().reads, asked, "nobody asks again without news");
    cold.script().release();
    server.turns(60);
    assert_once(&server.replies(), (0..1_400).chain([2_000]));
    assert!(server.listener.is_idle());
}

#[test]
fn more_writes_than_can_be_held_wait_on_the_wire_and_none_is_lost() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    disk.script().hold_tickets = true;
    for tag in 1..=1_500 {
        server.send(&write(TARGET, u64::from(tag), tag));
    }
    server.turns(100);
    let taken = disk.script().taken.len();
    assert!((1_024..1_500).contains(&taken), "{taken}");
    assert_once(&server.replies(), []);
    let first = disk.script().last / 2;
    disk.script().set_durable(first);
    server.turns(20);
    assert_once(&server.replies(), 1..=first as u32);
    disk.script().release();
    server.turns(100);
    assert_once(&server.replies(), first as u32 + 1..=1_500);
    assert_eq!(disk.script().taken, (1..=1_500).collect::<Vec<_>>());
}

#[test]
fn a_full_wire_delays_replies_and_loses_none() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    for tag in 0..500 {
        server.send(&read(TARGET, u64::from(tag), tag));
    }
    let mut replies = Vec::new();
    for round in 0..1_000 {
        server.valves[0].lock().unwrap().takes = Some(round % 3);
        server.turn();
        replies.extend(server.replies());
    }
    assert_once(&replies, 0..500);
}

#[test]
fn parked_requests_are_tried_again_when_only_the_wire_was_in_their_way() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    disk.script().hold_reads = true;
    for tag in 0..200 {
        server.send(&read(TARGET, u64::from(tag), tag));
    }
    server.turns(20);
    // Storage is ready, and says so once, while the wire takes nothing.
    server.valves[0].lock().unwrap().takes = Some(0);
    disk.script().release();
    server.turns(20);
    assert_once(&server.replies(), []);
    server.valves[0].lock().unwrap().takes = None;
    server.turns(20);
    assert_once(&server.replies(), 0..200);
    assert!(server.listener.is_idle());
}

#[test]
fn parked_writes_are_tried_again_when_only_the_held_queue_was_in_their_way() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    {
        let mut script = disk.script();
        (script.hold_tickets, script.hold_writes) = (true, true);
    }
    for tag in 1..=200 {
        server.send(&write(TARGET, u64::from(tag), tag));
    }
    server.turns(20);
    // 200 are parked; now the queue of held replies is filled to where they do not fit.
    disk.script().hold_writes = false;
    disk.script().news = true;
    server.turns(3);
    for tag in 201..=1_300 {
        server.send(&write(TARGET, u64::from(tag), tag));
    }
    server.turns(100);
    assert_once(&server.replies(), []);
    disk.script().release();
    server.turns(100);
    assert_once(&server.replies(), 1..=1_300);
    assert_eq!(disk.script().taken, (1..=1_300).collect::<Vec<_>>());
}

#[test]
fn a_turn_does_nothing_for_targets_that_nothing_waits_for() {
    const TURNS: u64 = 5_000;
    let (mut server, busy, idle) = (Loop::new(), Disk::new(), Disk::new());
    server.serve(TARGET, &busy);
    for index in 100..100 + MANY {
        server.serve(number(index), &idle);
    }
    // Something waits at the one, turn after turn.
    busy.script().hold_reads = true;
    server.send(&read(TARGET, 0, 1));
    let (before, others) = (busy.script().looks, idle.script().looks);
    for tag in 0..TURNS as u32 {
        server.send(&write(TARGET, 1, tag));
        server.turn();
        server.replies();
    }
    assert!(busy.script().looks - before >= TURNS);
    // Half a second has passed: they are looked after a few times, and not every turn.
    let looks = idle.script().looks - others;
    assert!(looks <= 6 * u64::from(MANY), "{looks} looks at {MANY} targets in {TURNS} turns");
}

#[test]
fn a_wildcard_to_200_targets_is_answered_200_times() {
    let mut server = Loop::new();
    serve_many(&mut server);
    server.send(&query(Address::EVERYONE, 1));
    server.turns(3);
    let replies = server.replies();
    let counts = by_target(&replies);
    assert_eq!((replies.len(), counts.len()), (usize::from(MANY), usize::from(MANY)));
    // The same, with a wire that takes a few at a time.
    server.send(&query(Address::EVERYONE, 2));
    server.send(&query(Address::new(3, Address::EVERY_SLOT), 3));
    let mut replies = Vec::new();
    for _ in 0..100 {
        server.valves[0].lock().unwrap().takes = Some(7);
        server.turn();
        replies.extend(server.replies());
    }
    let (everyone, shelf): (Vec<_>, Vec<_>) = replies.into_iter().partition(|got| got.tag() == 2);
    assert_eq!((everyone.len(), by_target(&everyone).len()), (200, 200));
    assert_eq!((shelf.len(), by_target(&shelf).len()), (8, 8));
    assert!(shelf.iter().all(|got| got.address().shelf == 3));
}

#[test]
fn targets_that_go_while_a_wildcard_is_answered_keep_nobody_elses_reply_back() {
    // Before the place where the wire ran full, at it, behind it, and the last.
    for gone in [10, 63, 64, 65, 150, 199] {
        let mut server = Loop::new();
        serve_many(&mut server);
        server.valves[0].lock().unwrap().takes = Some(0);
        server.send(&query(Address::EVERYONE, 1));
        server.send(&query(Address::EVERYONE, 2));
        server.turns(3);
        let answer = server.control.remove(number(gone)).unwrap();
        server.turn();
        assert_eq!(answer.try_recv().unwrap().unwrap().target.address(), number(gone));
        server.valves[0].lock().unwrap().takes = None;
        server.turns(20);
        let replies = server.replies();
        for tag in [1, 2] {
            let replies: Vec<_> = replies.iter().filter(|got| got.tag() == tag).cloned().collect();
            let counts = by_target(&replies);
            for index in (0..MANY).filter(|index| *index != gone) {
                assert_eq!(counts.get(&number(index)), Some(&1), "{index} when {gone} has gone");
            }
            let expected = usize::from(tag == 1 && gone < 64);
            assert_eq!(counts.get(&number(gone)).copied().unwrap_or(0), expected, "{gone}");
        }
        // Nor does anybody now answer for another.
        server.send(&query(number(gone), 3));
        server.send(&query(number(120), 4));
        server.turns(2);
        assert_once(&server.replies(), [4]);
    }
}

#[test]
fn a_slow_port_keeps_no_other_port_waiting() {
    let mut server = Loop::with(2, &aoe_server::link::memory::MemoryOptions::default(), |_| None);
    let disk = Disk::new();
    server.serve(TARGET, &disk);
    server.valves[0].lock().unwrap().takes = Some(0);
    for tag in 0..300 {
        server.send_on(0, &read(TARGET, u64::from(tag), tag));
    }
    server.turns(20);
    for tag in 0..300 {
        server.send_on(1, &read(TARGET, u64::from(tag), tag));
    }
    server.turns(20);
    assert_once(&server.replies_on(1), 0..300);
    server.valves[0].lock().unwrap().takes = None;
    let mut slow = Vec::new();
    assert!(within(|| {
        server.turn();
        slow.extend(server.replies_on(0));
        slow.len() >= 300
    }));
    assert_once(&slow, 0..300);
}

#[test]
fn what_makes_no_sense_is_hardly_answered_while_frames_are_lost() {
    const BURST: u32 = 32;
    const BURSTS: u32 = 8;
    /// Turns until the loop looks at the kernel's counters again.
    const CHECK: usize = 1_000;
    const PAST_THE_END: u64 = 1 << 40;
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    // The last request of each burst is a good one.
    let crowd = |server: &mut Loop| {
        for tag in 0..BURST * BURSTS {
            let lba = if tag % BURST == BURST - 1 { 0 } else { PAST_THE_END };
            server.send(&read(TARGET, lba, tag));
        }
        server.turns(20);
        server.replies()
    };
    let all = 0..BURST * BURSTS;
    assert_once(&crowd(&mut server), all.clone());

    server.valves[0].lock().unwrap().dropped = 7;
    server.turns(CHECK);
    let replies = crowd(&mut server);
    let (good, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.is_good());
    let of_each_burst = |at: u32| (0..BURSTS).map(move |burst| burst * BURST + at);
    assert!(good.iter().map(|reply| reply.tag()).eq(of_each_burst(BURST - 1)));
    assert!(refused.iter().map(|reply| reply.tag()).eq(of_each_burst(0)), "one of each burst");
    // A burst that is not full leaves time enough.
    (0..BURST - 1).for_each(|tag| server.send(&read(TARGET, PAST_THE_END, tag)));
    server.turns(2);
    assert_once(&server.replies(), 0..BURST - 1);

    // A second without a loss, and everybody is told again.
    server.turns(11 * CHECK);
    assert_once(&crowd(&mut server), all);
}
