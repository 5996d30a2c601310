//! Writes keep their order, whatever storage makes them wait for; reads need not.

use aoe_server::link::memory::MemoryOptions;
use aoe_server::protocol::MacAddr;
use proptest::prelude::{Strategy, any, prop, prop_oneof};
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::harness::{
    Disk, Loop, TARGET, assert_once, flush_from, read, read_from, write, write_from,
};

#[test]
fn a_parked_read_is_overtaken_by_whatever_can_be_done() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    disk.script().hold_reads = true;
    server.send(&read(TARGET, 1, 1));
    server.send(&write(TARGET, 2, 2));
    server.turns(3);
    assert_once(&server.replies(), [2]);
    disk.script().release();
    server.turns(3);
    assert_once(&server.replies(), [1]);
}

/// Storage may pass reads on only in its progress, and the loop may sleep after any turn.
#[test]
fn a_turn_that_began_reads_asks_for_progress_after_that() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    disk.script().hold_reads = true;
    for tag in 1..4 {
        server.send(&read(TARGET, tag.into(), tag));
    }
    server.turns(1);
    assert!(disk.script().reads >= 3 && !disk.script().begun, "when they came");
    for _ in 0..3 {
        disk.script().news = true;
        let before = disk.script().reads;
        server.turns(1);
        assert!(disk.script().reads > before && !disk.script().begun, "when tried again");
    }
    disk.script().release();
    server.turns(2);
    assert_once(&server.replies(), [1, 2, 3]);
}

#[test]
fn parked_writes_keep_their_order_and_later_ones_queue_behind_them() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    disk.script().hold_writes = true;
    server.send(&write(TARGET, 5, 1));
    server.send(&write(TARGET, 5, 2));
    server.turns(3);
    // There is room again, but nobody has said so: what comes now must not go first.
    disk.script().hold_writes = false;
    server.send(&write(TARGET, 5, 3));
    server.turns(3);
    assert!(disk.script().taken.is_empty());
    disk.script().news = true;
    server.turns(3);
    assert_eq!(disk.script().taken, [1, 2, 3]);
    assert_once(&server.replies(), [1, 2, 3]);
}

#[test]
fn a_write_that_could_be_taken_waits_for_an_earlier_one_that_cannot() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    disk.script().hold_writes = true;
    for tag in 1..=3 {
        server.send(&write(TARGET, 5, tag));
    }
    server.turns(3);
    for refused in [1, 1, 0] {
        let mut script = disk.script();
        (script.hold_writes, script.refuse_writes, script.news) = (false, refused, true);
        drop(script);
        server.turns(3);
        assert!(refused == 0 || disk.script().taken.is_empty());
    }
    assert_eq!(disk.script().taken, [1, 2, 3]);
    assert_once(&server.replies(), 1..=3);
}

/// What happens to the loop and its disk.
#[derive(Debug, Clone)]
enum Event {
    Write { port: usize, initiator: u8, lba: u64 },
    Read { port: usize, initiator: u8, lba: u64 },
    Flush { port: usize, initiator: u8 },
    HoldReads(bool),
    HoldWrites(bool),
    HoldTickets(bool),
    RefuseWrites(usize),
    News,
    Applied,
    Durable(u64),
    Wire { port: usize, takes: usize },
    Turn,
}

fn event() -> impl Strategy<Value = Event> {
    let who = || (0..2_usize, 1..5_u8);
    prop_oneof![
        6 => (who(), 0..8_u64).prop_map(|((port, initiator), lba)| {
            Event::Write { port, initiator, lba }
        }),
        3 => (who(), 0..8_u64).prop_map(|((port, initiator), lba)| {
            Event::Read { port, initiator, lba }
        }),
        1 => who().prop_map(|(port, initiator)| Event::Flush { port, initiator }),
        1 => any::<bool>().prop_map(Event::HoldReads),
        1 => any::<bool>().prop_map(Event::HoldWrites),
        1 => any::<bool>().prop_map(Event::HoldTickets),
        2 => (1..4_usize).prop_map(Event::RefuseWrites),
        2 => proptest::strategy::Just(Event::News),
        1 => proptest::strategy::Just(Event::Applied),
        1 => (0..4_u64).prop_map(Event::Durable),
        1 => (0..2_usize, 0..6_usize).prop_map(|(port, takes)| Event::Wire { port, takes }),
        6 => proptest::strategy::Just(Event::Turn),
    ]
}

struct Model {
    server: Loop,
    disk: Disk,
    tag: u32,
    /// By port: the tags of writes, and 0 for flushes, in the order they were sent.
    ordered: [Vec<u32>; 2],
    sent: Vec<u32>,
    replies: Vec<crate::harness::Got>,
}

impl Model {
    fn new() -> Self {
        let mut server = Loop::with(2, &MemoryOptions::default(), |_| None);
        let disk = Disk::new();
        server.serve(TARGET, &disk);
        let (ordered, sent, replies) = ([Vec::new(), Vec::new()], Vec::new(), Vec::new());
        Self { server, disk, tag: 0, ordered, sent, replies }
    }

    /// The next tag; its lowest bit is the port, so that what was taken tells where it came from.
    fn next(&mut self, port: usize) -> u32 {
        self.tag += 1;
        let tag = self.tag << 1 | port as u32;
        self.sent.push(tag);
        tag
    }

    fn happens(&mut self, event: &Event) {
        let mac = |initiator| MacAddr([2, 0, 0, 1, 0, initiator]);
        match *event {
            Event::Write { port, initiator, lba } => {
                let tag = self.next(port);
                self.ordered[port].push(tag);
                self.server.send_on(port, &write_from(mac(initiator), TARGET, lba, tag));
            }
            Event::Read { port, initiator, lba } => {
                let tag = self.next(port);
                self.server.send_on(port, &read_from(mac(initiator), TARGET, lba, tag));
            }
            Event::Flush { port, initiator } => {
                let tag = self.next(port);
                self.server.send_on(port, &flush_from(mac(initiator), TARGET, tag));
            }
            Event::HoldReads(hold) => self.disk.script().hold_reads = hold,
            Event::HoldWrites(hold) => self.disk.script().hold_writes = hold,
            Event::HoldTickets(hold) => self.disk.script().hold_tickets = hold,
            Event::RefuseWrites(count) => self.disk.script().refuse_writes = count,
            Event::News => self.disk.script().news = true,
            Event::Applied => {
                let mut script = self.disk.script();
                script.applied = script.last;
            }
            Event::Durable(count) => {
                let mut script = self.disk.script();
                let durable = script.last.min(script.durable + count);
                script.set_durable(durable);
            }
            Event::Wire { port, takes } => {
                self.server.valves[port].lock().unwrap().takes = Some(takes);
            }
            Event::Turn => {
                self.server.turn();
            }
        }
        self.collect();
    }

    /// Takes in what has arrived; a write that is answered has to be durable.
    fn collect(&mut self) {
        for port in 0..2 {
            for reply in self.server.replies_on(port) {
                let tag = reply.tag();
                assert!(reply.is_good());
                assert_eq!(tag & 1, port as u32, "a reply leaves by the port of its request");
                let script = self.disk.script();
                let taken = script.taken.iter().position(|taken| *taken == tag);
                if self.ordered[port].contains(&tag) {
                    let ticket = taken.expect("what is answered was taken") as u64 + 1;
                    assert!(ticket <= script.durable, "{ticket} is answered before it is durable");
                }
                drop(script);
                self.replies.push(reply);
            }
        }
    }

    /// Lets everything go on, and looks at what came of it.
    fn end(mut self) {
        for valve in &self.server.valves {
            valve.lock().unwrap().takes = None;
        }
        self.disk.script().release();
        for _ in 0..40 {
            self.server.turn();
            self.collect();
        }
        assert!(self.server.listener.is_idle());
        assert_once(&self.replies, self.sent);
        let taken = self.disk.script().taken.clone();
        for port in 0..2 {
            let from_here: Vec<_> =
                taken.iter().copied().filter(|tag| *tag != 0 && *tag & 1 == port).collect();
            assert_eq!(from_here, self.ordered[port as usize], "the order of port {port}");
        }
    }
}

#[test]
fn any_mix_of_waiting_answers_everything_once_and_keeps_writes_in_order() {
    let mut runner =
        TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&prop::collection::vec(event(), 1..250), |events| {
        let mut model = Model::new();
        for event in &events {
            model.happens(event);
        }
        model.end();
        Ok::<_, TestCaseError>(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
