//! Targets that come, change and go, other servers on the segment, and the end.

use std::sync::{Mutex, Once};
use std::time::Duration;

use aoe_server::engine::{Durability, MacList};
use aoe_server::link::memory::MemoryOptions;
use aoe_server::link::{Link as _, LinkEvent, LinkInfo};
use aoe_server::protocol::{Address, ConfigArg, MacAddr, Tag};
use aoe_server::server::{Admission, Idle, PortSet};
use aoe_server::units::Sectors;

use crate::harness::{Disk, Got, Loop, TARGET, assert_once, claim, query, read, within, write};

const PROBE: Duration = Duration::from_millis(300);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0xee, 0, 1]);

/// Errors and warnings that were logged, by whichever test.
static ERRORS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Log;

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            ERRORS.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

fn listen_to_the_log() {
    static START: Once = Once::new();
    START.call_once(|| {
        log::set_logger(&Log).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
}

fn logged(text: &str) -> usize {
    ERRORS.lock().unwrap().iter().filter(|line| line.contains(text)).count()
}

fn sector_count(got: &Got) -> u8 {
    ConfigArg::parse(got.frame().header.arg()).unwrap().sector_count()
}

fn is_announcement(got: &Got) -> bool {
    let frame = got.frame();
    frame.header.tag() == Tag([0; 4])
        && frame.header.flags().is_response()
        && frame.destination == MacAddr::BROADCAST
}

#[test]
fn an_address_is_asked_for_three_times_and_then_served_and_announced() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    let answer = server.add(TARGET, &disk, Durability::Durable, PROBE);
    let mut questions = Vec::new();
    for _ in 0..2_990 {
        server.turn();
        questions.extend(server.replies());
    }
    assert_eq!(questions.len(), 3, "asked while it is not decided");
    for question in &questions {
        assert!(!question.frame().header.flags().is_response());
        assert_eq!(question.address(), TARGET);
        assert_eq!(question.frame().destination, MacAddr::BROADCAST);
    }
    server.send(&query(TARGET, 1));
    server.turn();
    assert_once(&server.replies(), []);
    assert!(answer.try_recv().is_err(), "nothing is said before it is known");
    server.turns(100);
    assert_eq!(answer.try_recv().unwrap().0, Admission::Served);
    let announced = server.replies();
    assert_eq!(announced.len(), 1);
    assert!(is_announcement(&announced[0]));
    assert_eq!((announced[0].address(), sector_count(&announced[0])), (TARGET, 2));
    server.send(&query(TARGET, 1));
    server.turns(2);
    assert_once(&server.replies(), [1]);
}

#[test]
fn every_question_leaves_in_the_turn_that_asks() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    let _answer = server.add(TARGET, &disk, Durability::Durable, PROBE);
    for _ in 0..2_990 {
        let before = server.wires[0].counters().received;
        let busy = server.turn();
        let asked = !server.replies().is_empty();
        assert!(busy || !asked, "whoever asks was busy, after {before}");
    }
    assert_eq!(server.wires[0].counters().received, 3);
}

#[test]
fn an_address_that_another_station_has_is_refused() {
    let mut server = Loop::with(2, &MemoryOptions::default(), |_| None);
    let disk = Disk::new();
    let answer = server.add(TARGET, &disk, Durability::Durable, PROBE);
    server.turns(50);
    server.send_on(1, &claim(Address::new(7, 4), OTHER));
    server.turns(5);
    assert!(answer.try_recv().is_err(), "that was another address");
    server.send_on(1, &claim(TARGET, OTHER));
    server.turns(5);
    let (admission, export) = answer.try_recv().unwrap();
    assert_eq!(admission, Admission::Claimed { mac: OTHER, link: "port1".into() });
    assert_eq!(export.unwrap().target.address(), TARGET);
    let _ = server.replies();
    server.send(&query(TARGET, 1));
    server.turns(3);
    assert_once(&server.replies(), []);
}

#[test]
fn our_own_other_port_is_no_other_station() {
    let mut server = Loop::with(2, &MemoryOptions::default(), |_| None);
    let answer = server.add(TARGET, &Disk::new(), Durability::Durable, PROBE);
    server.turns(5);
    server.send_on(1, &claim(TARGET, MacAddr([2, 0, 0, 0, 0, 2])));
    server.turns(3_100);
    assert_eq!(answer.try_recv().unwrap().0, Admission::Served);
}

#[test]
fn frames_that_the_kernel_dropped_are_told_once_each_and_not_every_turn() {
    listen_to_the_log();
    let mut server = Loop::new();
    let told = |lost: u32| logged(&format!("the kernel dropped {lost} frames"));
    server.turns(2);
    server.valves[0].lock().unwrap().dropped = 77_001;
    server.turns(30_000); // three seconds, thirty looks at the counter
    assert_eq!(told(77_001), 1);
    server.valves[0].lock().unwrap().dropped += 77_002;
    server.turns(30_000);
    assert_eq!((told(77_001), told(77_002)), (1, 1), "only what is new");
}

#[test]
fn a_claim_that_comes_later_is_logged_and_not_fatal() {
    listen_to_the_log();
    let mine = Address::new(99, 9);
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(mine, &disk);
    let before = logged("e99.9");
    for _ in 0..50 {
        server.send(&claim(mine, OTHER));
    }
    server.turns(5);
    assert_eq!(logged("e99.9"), before + 1, "once a second, not for every frame");
    server.send(&read(mine, 0, 1));
    server.turns(2);
    assert_once(&server.replies(), [1]);
}

#[test]
fn an_address_is_served_once() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    let answer = server.add(TARGET, &Disk::new(), Durability::Durable, Duration::ZERO);
    server.turns(3);
    let (admission, export) = answer.try_recv().unwrap();
    assert!(matches!(admission, Admission::AddressTaken(_)), "{admission:?}");
    assert!(export.is_some());
    server.send(&read(TARGET, 0, 1));
    server.turns(2);
    assert_once(&server.replies(), [1]);
}

#[test]
fn a_changed_mtu_or_size_or_profile_is_announced() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    {
        let mut valve = server.valves[0].lock().unwrap();
        valve.info = Some(LinkInfo { mac: MacAddr([2, 0, 0, 0, 0, 2]), mtu: 9000, up: true });
        valve.event = Some(LinkEvent::Changed);
    }
    server.turns(1_100);
    let got = server.replies();
    let announced: Vec<_> = got.iter().filter(|got| is_announcement(got)).collect();
    assert_eq!(announced.len(), 1);
    assert_eq!(sector_count(announced[0]), 16);
    // And the address is asked for: somebody may have taken it while the link was away.
    assert_eq!(got.len(), 2);

    disk.script().new_size = Some(Sectors(64));
    server.control.refresh(TARGET).unwrap();
    server.turns(2);
    let got = server.replies();
    assert!(got.len() == 1 && is_announcement(&got[0]));
    server.control.refresh(TARGET).unwrap();
    server.turns(2);
    assert_once(&server.replies(), []);

    server.control.adjust(TARGET, 42, MacList::new(), PortSet::ALL).unwrap();
    server.turns(2);
    let got = server.replies();
    assert!(got.len() == 1 && is_announcement(&got[0]));
    let arg = ConfigArg::parse(got[0].frame().header.arg()).unwrap().buffer_count();
    assert_eq!(arg, 42);
}

#[test]
fn a_link_that_goes_down_loses_what_was_to_leave_and_serves_again_when_it_is_back() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    let up = server.wires[0].info();
    {
        let mut valve = server.valves[0].lock().unwrap();
        valve.info = Some(LinkInfo { up: false, ..up });
        valve.event = Some(LinkEvent::Down);
    }
    server.send(&read(TARGET, 0, 1));
    let before = server.valves[0].lock().unwrap().receives;
    server.turns(1_100);
    assert_eq!(server.valves[0].lock().unwrap().receives, before, "a link that is down is left");
    {
        let mut valve = server.valves[0].lock().unwrap();
        (valve.info, valve.event) = (None, Some(LinkEvent::Up));
    }
    server.turns(1_100);
    let got = server.replies();
    assert!(got.iter().any(is_announcement));
    assert!(got.iter().any(|got| got.tag() == 1));
}

#[test]
fn a_target_that_is_removed_answers_what_it_took_and_nothing_more() {
    let (mut server, disk, other) = (Loop::new(), Disk::new(), Disk::new());
    server.serve(TARGET, &disk);
    server.serve(Address::new(7, 4), &other);
    {
        let mut script = disk.script();
        (script.hold_tickets, script.hold_reads) = (true, true);
    }
    server.send(&write(TARGET, 1, 1));
    server.send(&read(TARGET, 1, 2));
    server.turns(3);
    let handed_back = server.control.remove(TARGET).unwrap();
    let second = server.control.remove(TARGET).unwrap();
    server.send(&read(TARGET, 1, 3));
    server.turns(20);
    assert!(handed_back.try_recv().is_err(), "it still owes replies");
    assert!(second.try_recv().unwrap().is_none(), "it goes to who asked first");
    server.send(&read(TARGET, 1, 4));
    server.send(&read(Address::new(7, 4), 1, 5));
    server.turns(3);
    // The one that came together with the order was taken before it.
    assert_once(&server.replies(), [5]);
    disk.script().release();
    server.turns(5);
    assert_once(&server.replies(), [1, 2, 3]);
    assert_eq!(handed_back.try_recv().unwrap().unwrap().target.address(), TARGET);
    assert!(server.control.remove(TARGET).unwrap().try_recv().is_err());
    server.turns(2);
    server.send(&read(Address::new(7, 4), 1, 6));
    server.send(&read(TARGET, 1, 7));
    server.turns(3);
    assert_once(&server.replies(), [6]);
}

#[test]
fn removals_leave_the_pending_requests_of_others_alone() {
    let mut server = Loop::new();
    let disks: Vec<_> = (0..6).map(|_| Disk::new()).collect();
    for (slot, disk) in (0..).zip(&disks) {
        server.serve(Address::new(7, slot), disk);
        disk.script().hold_reads = true;
        server.send(&read(Address::new(7, slot), 0, u32::from(slot)));
    }
    server.turns(3);
    // Two that are pending, in one turn with two that are ready to go.
    let answers: Vec<_> =
        [0, 3, 1].map(|slot| server.control.remove(Address::new(7, slot)).unwrap()).into();
    server.turns(2);
    for slot in [0, 3, 4] {
        disks[slot].script().release();
    }
    server.turns(3);
    assert_once(&server.replies(), [0, 3, 4]);
    assert!(answers[0].try_recv().unwrap().is_some());
    assert!(answers[1].try_recv().unwrap().is_some());
    assert!(answers[2].try_recv().is_err());
    for slot in [1, 2, 5] {
        disks[slot].script().release();
    }
    server.turns(3);
    assert_once(&server.replies(), [1, 2, 5]);
    assert_eq!(answers[2].try_recv().unwrap().unwrap().target.address(), Address::new(7, 1));
}

#[test]
fn a_stop_answers_what_was_taken_and_hands_candidates_back() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    {
        let mut script = disk.script();
        (script.hold_tickets, script.hold_writes) = (true, true);
    }
    server.send(&write(TARGET, 1, 1));
    server.send(&write(TARGET, 2, 2));
    server.turns(3);
    let candidate = server.add(Address::new(7, 9), &disk, Durability::Durable, PROBE);
    server.turns(2);
    server.control.stop().unwrap();
    server.turns(2);
    let (admission, export) = candidate.try_recv().unwrap();
    assert!(admission == Admission::Stopping && export.is_some());
    let late = server.add(Address::new(7, 8), &disk, Durability::Durable, PROBE);
    let _ = server.replies();
    server.send(&write(TARGET, 3, 3));
    server.turns(5);
    assert_eq!(late.try_recv().unwrap().0, Admission::Stopping);
    assert!(!server.listener.is_idle());
    disk.script().release();
    server.listener.run(Idle::Block);
    assert_once(&server.replies(), [1, 2]);
    assert_eq!(disk.script().taken, [1, 2]);
    let (exports, _links) = server.listener.into_parts();
    assert_eq!(exports.len(), 1);
}

#[test]
fn the_published_state_tells_what_waits() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    {
        let mut script = disk.script();
        (script.hold_tickets, script.hold_reads) = (true, true);
    }
    server.send(&write(TARGET, 1, 1));
    server.send(&read(TARGET, 1, 2));
    server.send(&read(TARGET, 1, 3));
    assert!(within(|| {
        server.turns(1_100);
        let status = server.control.status();
        status.targets.first().is_some_and(|target| (target.held, target.parked) == (1, 2))
    }));
    let status = server.control.status();
    assert_eq!(&*status.links[0].name, "port0");
    assert_eq!(status.targets[0].address, TARGET);
}

#[test]
fn a_disk_that_does_not_answer_is_logged_once_a_second_at_most_and_by_its_name() {
    listen_to_the_log();
    // An address that no other test here has.
    let address = Address::new(77, 7);
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(address, &disk);
    disk.script().hold_writes = true;
    for tag in 0..300 {
        server.send(&write(address, u64::from(tag), tag));
    }
    server.turns(9_000);
    assert_eq!(logged("e77.7: its disk"), 0, "it still has a moment");
    server.turns(4_000);
    let told =
        "e77.7: its disk does not answer: 256 requests wait for it, and 44 more were dropped";
    assert_eq!(logged(told), 1);
    server.turns(20_000);
    assert_eq!(logged("e77.7: its disk"), 1, "nothing more was dropped");
    for tag in 300..310 {
        server.send(&write(address, u64::from(tag), tag));
        server.turns(1_000);
    }
    assert_eq!(logged("e77.7: its disk"), 2);
}
