//! The initiator against scripted targets: the engine's half on virtual time, the client over a
//! segment that loses, doubles and reorders frames.

#![allow(
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "helpers of tests may panic, print their seeds, and count to few"
)]

#[path = "common/scripted_target.rs"]
mod scripted_target;

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use aoe_server::client::{
    Client, ClientError, Kind, Load, MaskChange, Order, PingKind, Range, Recorder,
};
use aoe_server::clock::Instant;
use aoe_server::engine::initiator::{Answers, Ask, Initiator, RequestId, Timing};
use aoe_server::link::LinkError;
use aoe_server::protocol::{
    Address, AoeError, AtaArg, AtaFields, AtaFlags, Command, ConfigFields, Flags, Frame,
    FrameFields, FrameWriter, MacAddr, MaskError, Opcode, Tag,
};
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};
use scripted_target::{Chance, INITIATOR, ScriptedTarget, Segment, segment};

const TARGET: Address = Address::new(7, 3);
const TIMING: Timing = Timing {
    initial: Duration::from_millis(100),
    min: Duration::from_millis(50),
    max: Duration::from_secs(1),
};

fn millis(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

fn query(answers: Answers) -> Ask {
    Ask {
        destination: MacAddr::BROADCAST,
        address: TARGET,
        command: Command::CONFIG,
        answers,
        patience: Duration::from_secs(2),
        transmissions: 8,
    }
}

fn config(_: RequestId, writer: &mut FrameWriter<'_>) {
    writer.config(&ConfigFields::default(), &[]);
}

/// The frame that is due, if one is.
fn sent<const N: usize>(initiator: &mut Initiator<N>, now: Instant) -> Option<Vec<u8>> {
    let mut out = vec![0xa5; 2_000];
    let len = initiator.next_frame(now, INITIATOR, config, &mut out)?;
    out.truncate(len);
    Some(out)
}

fn target() -> ScriptedTarget {
    ScriptedTarget::new(TARGET, 64)
}

#[test]
fn a_request_has_the_octets_that_every_target_knows() {
    let mut initiator = Initiator::<4>::new(0x1c, TIMING);
    let id = initiator.submit(query(Answers::One), millis(0)).unwrap();
    let frame = sent(&mut initiator, millis(0)).unwrap();
    assert_eq!(frame[..12], *b"\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01");
    assert_eq!(frame[12..20], [0x88, 0xa2, 0x10, 0, 0, 7, 3, 1]);
    assert_eq!(frame[20..24], [0x80, 0, 0, 0x1d << 2]); // generation 0x1d, place 0
    assert_eq!(frame[20..24], id.tag().0);
    assert_eq!(frame[24..], [0, 0, 0, 0, 0, 0x10, 0, 0]);
}

#[test]
fn an_answer_ends_its_request_and_a_second_one_is_a_duplicate() {
    let mut initiator = Initiator::<4>::new(0, TIMING);
    let id = initiator.submit(query(Answers::One), millis(0)).unwrap();
    let answer = target().answer(&sent(&mut initiator, millis(0)).unwrap()).unwrap();
    let reply = initiator.receive(&answer, INITIATOR, millis(7)).unwrap();
    assert_eq!((reply.id, reply.refused, reply.transmissions), (id, None, 1));
    assert_eq!(reply.waited, Duration::from_millis(7));
    assert!(initiator.receive(&answer, INITIATOR, millis(8)).is_none());
    assert_eq!((initiator.counters().duplicates, initiator.in_flight()), (1, 0));
    // Another request in the same place has another tag.
    let next = initiator.submit(query(Answers::One), millis(9)).unwrap();
    assert_eq!(next.index(), id.index());
    sent(&mut initiator, millis(9)).unwrap();
    assert!(initiator.receive(&answer, INITIATOR, millis(10)).is_none());
    assert_eq!((initiator.counters().duplicates, initiator.in_flight()), (2, 1));
    assert_eq!(initiator.counters().strays, 0);
}

#[test]
fn what_differs_in_any_field_is_no_answer() {
    let mut initiator = Initiator::<4>::new(0, TIMING);
    let station = target().mac;
    let ask = Ask { destination: station, ..query(Answers::One) };
    initiator.submit(ask, millis(0)).unwrap();
    let request = sent(&mut initiator, millis(0)).unwrap();
    let answer = target().answer(&request).unwrap();
    let right = FrameFields::of(&Frame::parse(&answer).unwrap());
    let wrong = [
        FrameFields { destination: MacAddr([2; 6]), ..right },
        FrameFields { source: MacAddr([2; 6]), ..right },
        FrameFields { flags: Flags::REQUEST, ..right },
        FrameFields { address: Address::new(7, 4), ..right },
        FrameFields { address: Address::EVERYONE, ..right },
        FrameFields { command: Command::ATA, ..right },
        FrameFields { tag: Tag([0, 0, 0, 4]), ..right },
        FrameFields { tag: Tag([0x80, 0, 0, 5]), ..right },
    ];
    for fields in wrong {
        let mut out = [0xa5; 60];
        let mut writer = FrameWriter::new(&mut out, &fields);
        let len = writer.config(&ConfigFields::default(), &[]).finish().unwrap();
        assert!(initiator.receive(&out[..len], INITIATOR, millis(1)).is_none(), "{fields:?}");
    }
    let mut other_version = answer.clone();
    other_version[14] = 0x28;
    assert!(initiator.receive(&other_version, INITIATOR, millis(1)).is_none());
    for have in 0..24 {
        assert!(initiator.receive(&answer[..have], INITIATOR, millis(1)).is_none());
    }
    assert!(initiator.receive(&answer, INITIATOR, millis(1)).is_some());
}

#[test]
fn an_error_frame_is_an_answer_that_tells_why() {
    let mut initiator = Initiator::<4>::new(0, TIMING);
    initiator.submit(query(Answers::One), millis(0)).unwrap();
    let mut target = target();
    target.refuses = Some((Command::CONFIG, AoeError::DEVICE_UNAVAILABLE));
    let answer = target.answer(&sent(&mut initiator, millis(0)).unwrap()).unwrap();
    let reply = initiator.receive(&answer, INITIATOR, millis(1)).unwrap();
    assert_eq!(reply.refused, Some(AoeError::DEVICE_UNAVAILABLE));
}

#[test]
fn a_lost_request_is_sent_again_under_its_tag_at_doubling_intervals_until_patience_ends() {
    let mut initiator = Initiator::<4>::new(0, TIMING);
    let id = initiator.submit(query(Answers::One), millis(0)).unwrap();
    let first = sent(&mut initiator, millis(0)).unwrap();
    for due in [100, 300, 700, 1_500] {
        assert_eq!(initiator.deadline(), Some(millis(due)));
        assert_eq!(initiator.tick(millis(due - 1)), None);
        assert_eq!(sent(&mut initiator, millis(due - 1)), None, "too early");
        assert_eq!(initiator.tick(millis(due)), None);
        assert_eq!(sent(&mut initiator, millis(due)), Some(first.clone()));
    }
    assert_eq!(initiator.tick(millis(1_999)), None);
    let unanswered = initiator.tick(millis(2_000)).unwrap();
    assert_eq!((unanswered.id, unanswered.address, unanswered.transmissions), (id, TARGET, 5));
    assert_eq!(unanswered.waited, Duration::from_secs(2));
    assert_eq!((initiator.tick(millis(9_000)), initiator.deadline()), (None, None));
    assert_eq!(initiator.counters().retransmissions, 4);
}

#[test]
fn no_request_is_sent_more_often_than_allowed() {
    let mut initiator = Initiator::<4>::new(0, TIMING);
    let ask = Ask { transmissions: 2, ..query(Answers::One) };
    initiator.submit(ask, millis(0)).unwrap();
    let mut frames = 0;
    for now in 0..2_000 {
        assert_eq!(initiator.tick(millis(now)), None);
        frames += u32::from(sent(&mut initiator, millis(now)).is_some());
    }
    assert_eq!(frames, 2);
    assert_eq!(initiator.tick(millis(2_000)).unwrap().transmissions, 2);
}

#[test]
fn a_late_answer_to_the_first_transmission_counts_but_measures_nothing() {
    let mut initiator = Initiator::<4>::new(0, TIMING);
    initiator.submit(query(Answers::One), millis(0)).unwrap();
    let request = sent(&mut initiator, millis(0)).unwrap();
    let answer = target().answer(&request).unwrap();
    assert_eq!(initiator.tick(millis(100)), None);
    sent(&mut initiator, millis(100)).unwrap();
    let reply = initiator.receive(&answer, INITIATOR, millis(101)).unwrap();
    assert_eq!((reply.transmissions, reply.waited), (2, Duration::from_millis(101)));
    assert_eq!(initiator.smoothed_round_trip(), None);
    // The answer to the second is a duplicate; the time-out stays doubled until a request is
    // answered at once.
    assert!(initiator.receive(&answer, INITIATOR, millis(102)).is_none());
    initiator.submit(query(Answers::One), millis(200)).unwrap();
    let request = sent(&mut initiator, millis(200)).unwrap();
    let answer = target().answer(&request).unwrap();
    assert_eq!(initiator.tick(millis(399)), None);
    assert_eq!(sent(&mut initiator, millis(399)), None);
    initiator.receive(&answer, INITIATOR, millis(400)).unwrap();
    assert_eq!(initiator.smoothed_round_trip(), Some(Duration::from_millis(200)));
}

#[test]
fn an_answer_between_time_out_and_retransmission_saves_the_retransmission() {
    let mut initiator = Initiator::<1>::new(0, TIMING);
    initiator.submit(query(Answers::One), millis(0)).unwrap();
    let answer = target().answer(&sent(&mut initiator, millis(0)).unwrap()).unwrap();
    assert_eq!(initiator.tick(millis(100)), None);
    assert!(initiator.receive(&answer, INITIATOR, millis(100)).is_some());
    assert_eq!(sent(&mut initiator, millis(100)), None);
    // Its place is taken by another at a moment when it is still listed: sent once, not twice.
    initiator.submit(query(Answers::One), millis(200)).unwrap();
    let answer = target().answer(&sent(&mut initiator, millis(200)).unwrap()).unwrap();
    assert_eq!(initiator.tick(millis(1_000)), None);
    assert!(initiator.receive(&answer, INITIATOR, millis(1_000)).is_some());
    initiator.submit(query(Answers::One), millis(1_000)).unwrap();
    assert!(sent(&mut initiator, millis(1_000)).is_some());
    assert_eq!(sent(&mut initiator, millis(1_000)), None);
}

#[test]
fn the_window_bounds_what_is_in_flight() {
    let mut initiator = Initiator::<4>::new(0, TIMING);
    initiator.set_window(2);
    assert!(initiator.submit(query(Answers::One), millis(0)).is_some());
    assert!(initiator.submit(query(Answers::One), millis(0)).is_some());
    assert_eq!(initiator.submit(query(Answers::One), millis(0)), None);
    initiator.set_window(99);
    assert!(initiator.submit(query(Answers::One), millis(0)).is_some());
    assert!(initiator.submit(query(Answers::One), millis(0)).is_some());
    assert_eq!(initiator.submit(query(Answers::One), millis(0)), None);
    initiator.abandon();
    assert_eq!((initiator.in_flight(), initiator.deadline()), (0, None));
    assert_eq!(sent(&mut initiator, millis(0)), None);
}

#[test]
fn a_query_to_everyone_takes_answers_until_its_patience_ends() {
    let mut initiator = Initiator::<4>::new(0, TIMING);
    let ask = Ask { address: Address::EVERYONE, ..query(Answers::Many) };
    initiator.submit(ask, millis(0)).unwrap();
    let request = sent(&mut initiator, millis(0)).unwrap();
    for slot in 0..3 {
        let address = Address::new(1, slot);
        let answer = ScriptedTarget::new(address, 1).answer(&request).unwrap();
        let reply = initiator.receive(&answer, INITIATOR, millis(1)).unwrap();
        assert_eq!(reply.frame.header.address(), address);
    }
    assert_eq!(initiator.in_flight(), 1);
    assert!(initiator.tick(millis(2_000)).is_some());
    assert_eq!(initiator.in_flight(), 0);
}

#[test]
fn a_frame_that_does_not_fit_is_not_sent() {
    let mut initiator = Initiator::<4>::new(0, TIMING);
    initiator.submit(query(Answers::One), millis(0)).unwrap();
    let mut out = [0xa5; 31];
    assert_eq!(initiator.next_frame(millis(0), INITIATOR, config, &mut out), None);
    let unanswered = initiator.tick(millis(2_000)).unwrap();
    assert_eq!(unanswered.transmissions, 0);
}

/// A frame on the way.
struct OnTheWay {
    due: Instant,
    to_target: bool,
    frame: Vec<u8>,
}

/// A network that loses, doubles and holds back a fifth of everything.
struct Network {
    chance: Chance,
    on_the_way: Vec<OnTheWay>,
}

impl Network {
    fn carry(&mut self, now: Instant, to_target: bool, frame: &[u8]) {
        for _ in 0..=u32::from(self.chance.percent(20)) {
            if self.chance.percent(20) {
                continue;
            }
            let slow = if self.chance.percent(20) { 500 } else { 5 };
            let due = now.after(Duration::from_micros(self.chance.next() % (slow * 1_000)));
            self.on_the_way.push(OnTheWay { due, to_target, frame: frame.to_vec() });
        }
    }

    fn take_due(&mut self, now: Instant) -> Option<OnTheWay> {
        let at = self.on_the_way.iter().position(|event| event.due <= now)?;
        Some(self.on_the_way.swap_remove(at))
    }
}

const SECTORS: usize = 200;

/// The argument of request number `number`: first each sector is written, then each read.
fn write_or_read(number: usize, writer: &mut FrameWriter<'_>) {
    let (lba, write) = ((number % SECTORS) as u8, number < SECTORS);
    let command = if write { Opcode::WRITE_EXT.0 } else { Opcode::READ_EXT.0 };
    let flags = AtaFlags(0x40 | u8::from(write));
    let lba = [lba, 0, 0, 0, 0, 0];
    writer.ata(&AtaFields { flags, feature: 0, sector_count: 1, command, lba });
    if write {
        writer.octets(&[lba[0] ^ 0x5a; SECTOR_SIZE]);
    }
}

/// Sectors written and read back through such a network, on virtual time.
fn survives(seed: u64) {
    let mut network = Network { chance: Chance(seed), on_the_way: Vec::new() };
    let mut target = ScriptedTarget::new(TARGET, SECTORS);
    let mut initiator = Initiator::<16>::new(seed as u32, TIMING);
    let ask = Ask {
        destination: target.mac,
        command: Command::ATA,
        patience: Duration::from_hours(1),
        transmissions: u32::MAX,
        ..query(Answers::One)
    };
    let mut number_of = [0_usize; 16];
    let mut ends = vec![0_u32; 2 * SECTORS];
    let (mut now, mut next) = (millis(0), 0);
    while ends.contains(&0) {
        // Nothing is read before all is written.
        while next < 2 * SECTORS && (next != SECTORS || initiator.in_flight() == 0) {
            let Some(id) = initiator.submit(ask, now) else { break };
            number_of[id.index()] = next;
            next += 1;
        }
        let argument = |id: RequestId, writer: &mut FrameWriter<'_>| {
            write_or_read(number_of[id.index()], writer);
        };
        let mut out = [0xa5; 600];
        while let Some(len) = initiator.next_frame(now, INITIATOR, argument, &mut out) {
            network.carry(now, true, &out[..len]);
        }
        let events = network.on_the_way.iter().map(|event| event.due).chain(initiator.deadline());
        now = events.min().expect("something is to come").max(now);
        while let Some(event) = network.take_due(now) {
            if event.to_target {
                let answer = target.answer(&event.frame).unwrap();
                network.carry(now, false, &answer);
            } else if let Some(reply) = initiator.receive(&event.frame, INITIATOR, now) {
                let number = number_of[reply.id.index()];
                ends[number] += 1;
                if number >= SECTORS {
                    let data = AtaArg::parse(reply.frame.header.arg()).unwrap().data();
                    assert_eq!(data, [(number - SECTORS) as u8 ^ 0x5a; SECTOR_SIZE]);
                }
            }
        }
        assert_eq!(initiator.tick(now), None, "nothing is given up in an hour");
    }
    assert!(ends.iter().all(|ends| *ends == 1), "each request ends once");
    let counters = initiator.counters();
    assert!(counters.retransmissions > 20 && counters.duplicates > 20, "{counters:?}");
    assert_eq!(counters.replies, 2 * SECTORS as u64);
}

#[test]
fn every_request_ends_once_and_rightly_over_a_faulty_network() {
    for seed in 1..=50_u64 {
        println!("seed {seed}");
        survives(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
}

// The client.

fn client_at(targets: Vec<ScriptedTarget>, mtu: usize) -> (Rc<RefCell<Segment>>, Client) {
    let (segment, link) = segment(targets, mtu);
    let mut client = Client::new(Box::new(link));
    client.set_timing(Timing {
        initial: Duration::from_millis(5),
        min: Duration::from_millis(2),
        max: Duration::from_millis(20),
    });
    (segment, client)
}

fn client(targets: Vec<ScriptedTarget>) -> (Rc<RefCell<Segment>>, Client) {
    client_at(targets, 1_500)
}

fn make_faulty(segment: &Rc<RefCell<Segment>>, seed: u64) {
    println!("seed {seed}");
    segment.borrow_mut().faults = [5, 10, 20];
    segment.borrow_mut().chance = Chance(seed);
}

#[test]
fn discovery_lists_every_target_once_and_shows_two_servers_on_one_address() {
    let mut second = ScriptedTarget::new(Address::new(1, 0), 8);
    second.mac = MacAddr([2, 0, 0, 0, 0, 9]);
    second.config_string = b"second".to_vec();
    let targets = vec![
        ScriptedTarget::new(Address::new(9, 1), 16),
        ScriptedTarget::new(Address::new(1, 0), 8),
        second,
    ];
    let (segment, mut client) = client(targets);
    make_faulty(&segment, 77);
    let timeout = Duration::from_millis(200);
    let found = client.discover(Address::EVERYONE, timeout, true).unwrap();
    let places: Vec<_> = found.iter().map(|found| (found.address, found.mac.0[5])).collect();
    let one = Address::new(1, 0);
    assert_eq!(places, [(one, 9), (one, 0), (Address::new(9, 1), 1)]);
    assert_eq!(found[0].config_string.as_slice(), b"second");
    assert_eq!((found[2].buffer_count, found[2].firmware, found[2].sector_count), (16, 0x4019, 2));
    let disk = found[2].disk.unwrap();
    assert_eq!((disk.size, disk.model.as_str()), (Sectors(16), "scripted target"));
    assert_ne!(found[0].disk.unwrap().serial, found[1].disk.unwrap().serial);
    let shelf = client.discover(Address::new(9, 0xff), timeout, false).unwrap();
    assert_eq!(shelf.len(), 1);
    assert_eq!(client.open(one).unwrap().stations.len(), 2);
    assert!(client.discover(Address::new(5, 5), timeout, true).unwrap().is_empty());
}

#[test]
fn a_silent_target_a_wildcard_and_a_dead_link_are_told_apart() {
    let (segment, mut client) = client(vec![target()]);
    client.set_patience(Duration::from_millis(60));
    let error = client.open(Address::new(7, 4)).unwrap_err();
    assert!(matches!(error, ClientError::NoAnswer { transmissions: 2.., .. }), "{error}");
    assert!(error.to_string().starts_with("no answer from e7.4 within 60 ms"), "{error}");
    let error = client.open(Address::EVERYONE).unwrap_err();
    assert!(matches!(error, ClientError::Wildcard { .. }), "{error}");
    segment.borrow_mut().up = false;
    let error = client.open(TARGET).unwrap_err();
    assert!(matches!(error, ClientError::Link { source: LinkError::Down, .. }), "{error}");
}

#[test]
fn noise_on_the_segment_disturbs_nothing() {
    let (segment, mut client) = client(vec![target()]);
    let mut noise: Vec<Vec<u8>> = (0..20).map(|len| vec![0xa5; len * 3]).collect();
    noise.push(vec![0xff; 60]);
    segment.borrow_mut().noise = noise;
    assert_eq!(client.open(TARGET).unwrap().size(), Sectors(64));
}

#[test]
fn ping_counts_what_is_answered_and_what_is_lost() {
    let (segment, mut client) = client(vec![target()]);
    client.set_patience(Duration::from_millis(30));
    segment.borrow_mut().faults = [20, 0, 0];
    for kind in [PingKind::Config, PingKind::Identify] {
        let mut seen = Vec::new();
        let report = client
            .ping(TARGET, kind, 200, Duration::from_micros(100), &mut |pong| {
                seen.push(pong.sequence);
                true
            })
            .unwrap();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..200), "each is told of once");
        assert_eq!(report.sent, 200);
        // 36 of a hundred are lost on the way there or back.
        assert!((20..150).contains(&report.lost()), "{report:?}");
        let [min, p50, max] = [0, 50, 100].map(|percent| report.percentile(percent).unwrap());
        assert!(min <= p50 && p50 <= max && max < Duration::from_millis(31));
    }
    let report = client
        .ping(TARGET, PingKind::Config, u64::MAX, Duration::ZERO, &mut |pong| pong.sequence < 5)
        .unwrap();
    assert!(report.sent < 1_000, "it ends early when told to");
}

/// Reads `count` sectors at `lba`, and tells the octets and what progress said last.
fn read(client: &mut Client, lba: u64, count: u64) -> Result<(Vec<u8>, u64), ClientError> {
    let disk = client.open(TARGET)?;
    let range = Range { disk: &disk, lba: Lba(lba), count: Sectors(count), depth: 16 };
    let (mut octets, mut last) = (Vec::new(), 0);
    client.read(&range, &mut octets, &mut |done| last = done)?;
    Ok((octets, last))
}

#[test]
fn a_disk_reads_in_order_over_a_faulty_network() {
    for (mtu, seed, lba48) in [(1_500, 1, true), (9_000, 2, true), (1_500, 3, false)] {
        let mut target = ScriptedTarget::new(TARGET, 1_001);
        (target.sector_count, target.lba48) = (if mtu == 9_000 { 16 } else { 2 }, lba48);
        let expected = target.disk.clone();
        let (segment, mut client) = client_at(vec![target], mtu);
        make_faulty(&segment, seed);
        let (octets, done) = read(&mut client, 0, 1_001).unwrap();
        assert!(octets == expected, "the whole disk");
        assert_eq!(done, 1_001 * 512);
        let (octets, _) = read(&mut client, 7, 30).unwrap();
        assert!(octets == expected[7 * 512..37 * 512], "a part that is not aligned");
        assert!(read(&mut client, 5, 0).unwrap().0.is_empty());
        assert!(client.counters().retransmissions > 0);
    }
}

#[test]
fn what_cannot_be_read_says_why() {
    let (segment, mut client) = client(vec![target()]);
    let error = read(&mut client, 60, 5).unwrap_err();
    assert!(matches!(error, ClientError::OutOfRange { size: Sectors(64), .. }), "{error}");
    segment.borrow_mut().targets[0].bad_sector = Some(33);
    let error = read(&mut client, 0, 64).unwrap_err();
    assert!(matches!(error, ClientError::Ata { lba: Lba(32), status: 0x41, error: 0x40, .. }));
    assert_eq!(
        error.to_string(),
        "e7.3 fails READ SECTORS EXT at LBA 32, 2 sectors: uncorrectable data (status 0x41, error 0x40)"
    );
    segment.borrow_mut().targets[0].bad_sector = None;
    segment.borrow_mut().targets[0].cut = 512;
    let error = read(&mut client, 0, 2).unwrap_err();
    let short = ClientError::ShortReply { address: TARGET, expected: 1_024, have: 512 };
    assert_eq!(error.to_string(), short.to_string());
    segment.borrow_mut().targets[0].refuses = Some((Command::ATA, AoeError::TARGET_RESERVED));
    let error = read(&mut client, 0, 2).unwrap_err();
    assert!(matches!(error, ClientError::Refused { error: AoeError::TARGET_RESERVED, .. }));
}

#[test]
fn what_is_written_is_on_the_disk_and_nothing_else_changes() {
    for (len, seed) in [(0_usize, 1), (512, 2), (100_000, 3), (100_000 - 160, 4), (3, 5)] {
        let original = ScriptedTarget::new(TARGET, 1_001);
        let mut expected = original.disk.clone();
        let (segment, mut client) = client(vec![original]);
        // Nothing is held back for long here: a copy of a write that comes late may undo another.
        println!("seed {seed}");
        segment.borrow_mut().faults = [5, 10, 0];
        segment.borrow_mut().chance = Chance(seed);
        let data: Vec<u8> = (0..len).map(|n| (n * 7 % 253) as u8).collect();
        expected[3 * 512..3 * 512 + len].copy_from_slice(&data);
        let disk = client.open(TARGET).unwrap();
        let range = Range { disk: &disk, lba: Lba(3), count: Sectors(998), depth: 16 };
        let mut last = 0;
        let written = client.write(&range, &mut &data[..], &mut |done| last = done).unwrap();
        assert_eq!((written.octets, last), (len as u64, len as u64));
        assert!(segment.borrow().targets[0].disk == expected, "{len} octets");
        client.verify(&range, &written, &mut |_| ()).unwrap();
    }
}

#[test]
fn data_that_does_not_fit_is_refused_and_a_lost_write_is_found() {
    let (segment, mut client) = client(vec![ScriptedTarget::new(TARGET, 8_192)]);
    let disk = client.open(TARGET).unwrap();
    let range = Range { disk: &disk, lba: Lba(1), count: Sectors(9), depth: 4 };
    let error = client.write(&range, &mut &[1; 9 * 512 + 1][..], &mut |_| ()).unwrap_err();
    assert!(matches!(error, ClientError::SourceTooLong { .. }), "{error}");
    let whole = Range { disk: &disk, lba: Lba(0), count: Sectors(8_192), depth: 16 };
    segment.borrow_mut().targets[0].forgets = Some(5_000);
    let data = vec![0x77; 8_192 * 512];
    let written = client.write(&whole, &mut &data[..], &mut |_| ()).unwrap();
    let error = client.verify(&whole, &written, &mut |_| ()).unwrap_err();
    let differs = ClientError::Differs { address: TARGET, lba: Lba(4_096), count: Sectors(2_048) };
    assert_eq!(error.to_string(), differs.to_string());
    assert!(error.is_answer());
}

#[test]
fn a_full_sink_ends_a_copy() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (_segment, mut client) = client(vec![target()]);
    let disk = client.open(TARGET).unwrap();
    let range = Range { disk: &disk, lba: Lba(0), count: Sectors(64), depth: 4 };
    let error = client.read(&range, &mut Full, &mut |_| ()).unwrap_err();
    assert!(matches!(error, ClientError::Io { .. }), "{error}");
    // And the client is as good as before.
    assert_eq!(read(&mut client, 0, 64).unwrap().1, 64 * 512);
}

/// Counts what it is told.
#[derive(Default)]
struct Tally([u64; 2]);

impl Recorder for Tally {
    fn completed(&mut self, kind: Kind, _: Duration) {
        self.0[usize::from(kind == Kind::Write)] += 1;
    }
}

#[test]
fn load_does_what_it_is_asked_and_verifies() {
    let (_segment, mut client) = client(vec![ScriptedTarget::new(TARGET, 256)]);
    let disk = client.open(TARGET).unwrap();
    for order in [Order::Sequential, Order::Random] {
        let load = Load {
            disk: &disk,
            depth: 8,
            sectors: 2,
            write_percent: 40,
            order,
            lba: Lba(16),
            count: Sectors(101),
            duration: Duration::from_mins(10),
            requests: 20_000,
            seed: 5,
            verify: true,
        };
        let mut tally = Tally::default();
        let report = client.load(&load, &mut tally).unwrap();
        assert_eq!([report.reads, report.writes], tally.0);
        assert_eq!(report.reads + report.writes, 20_000);
        assert!((7_500..8_500).contains(&report.writes), "{report:?}");
        assert!(report.verified > 10_000, "{report:?}");
        assert_eq!((report.errors, report.unanswered, report.mismatches), (0, 0, 0));
        assert_eq!(report.octets_read, report.reads * 1_024);
        assert!(report.per_second() > 0.0 && report.first_error.is_none());
    }
}

#[test]
fn load_is_spread_over_several_targets_alike() {
    let addresses = [TARGET, Address::new(7, 4), Address::new(8, 0)];
    let targets = addresses.map(|address| ScriptedTarget::new(address, 256));
    let (segment, mut client) = client(targets.into());
    segment.borrow_mut().targets[1].buffer_count = 3;
    let disks = addresses.map(|address| client.open(address).unwrap());
    for order in [Order::Sequential, Order::Random] {
        let before: Vec<u64> =
            segment.borrow().targets.iter().map(|target| target.answered).collect();
        let load = Load {
            disk: &disks[0],
            depth: 8,
            sectors: 2,
            write_percent: 50,
            order,
            lba: Lba(16),
            count: Sectors(101),
            duration: Duration::from_mins(10),
            requests: 9_000,
            seed: 3,
            verify: true,
        };
        let report = client.load_over(&load, &disks[1..], &mut Tally::default()).unwrap();
        assert_eq!((report.reads + report.writes, report.window), (9_000, 3));
        assert!(report.verified > 3_000, "{report:?}");
        assert_eq!((report.errors, report.unanswered, report.mismatches), (0, 0, 0));
        for (target, before) in segment.borrow().targets.iter().zip(before) {
            let answered = target.answered - before;
            assert!((2_800..3_200).contains(&answered), "{}: {answered}", target.address);
        }
    }
}

#[test]
fn load_notices_a_write_that_was_acknowledged_and_lost() {
    let (segment, mut client) = client(vec![ScriptedTarget::new(TARGET, 64)]);
    segment.borrow_mut().targets[0].forgets = Some(40);
    segment.borrow_mut().targets[0].bad_sector = Some(2);
    let disk = client.open(TARGET).unwrap();
    let load = Load {
        disk: &disk,
        depth: 64,
        sectors: 1,
        write_percent: 50,
        order: Order::Random,
        lba: Lba(0),
        count: Sectors(64),
        duration: Duration::from_mins(10),
        requests: 5_000,
        seed: 1,
        verify: true,
    };
    let report = client.load(&load, &mut Tally::default()).unwrap();
    assert!(report.mismatches > 0 && report.errors > 0, "{report:?}");
    let none = Load { count: Sectors(0), ..load };
    let error = client.load(&none, &mut Tally::default()).unwrap_err();
    assert!(matches!(error, ClientError::OutOfRange { .. }), "{error}");
    // Time, too, ends it; and so does a target that is gone.
    client.set_patience(Duration::from_millis(30));
    segment.borrow_mut().faults = [100, 0, 0];
    let timed = Load { duration: Duration::from_millis(50), requests: u64::MAX, ..load };
    let report = client.load(&timed, &mut Tally::default()).unwrap();
    assert!(report.unanswered > 0 && report.reads + report.writes == 0, "{report:?}");
    assert!(matches!(report.first_error, Some(ClientError::NoAnswer { .. })));
}

#[test]
fn the_config_string_is_read_tested_set_and_forced() {
    let (segment, mut client) = client(vec![target()]);
    client.set_patience(Duration::from_millis(30));
    assert_eq!(client.config_string(TARGET).unwrap().as_slice(), b"");
    assert_eq!(client.set_config_string(TARGET, b"hello", false).unwrap().as_slice(), b"hello");
    assert!(client.test_config_string(TARGET, b"hello", false).unwrap());
    assert!(!client.test_config_string(TARGET, b"hell", false).unwrap());
    assert!(client.test_config_string(TARGET, b"hell", true).unwrap());
    assert!(!client.test_config_string(TARGET, b"hellox", true).unwrap());
    let error = client.set_config_string(TARGET, b"other", false).unwrap_err();
    assert_eq!(error.to_string(), "e7.3 refuses the config command: config string present");
    client.set_config_string(TARGET, b"other", true).unwrap();
    assert_eq!(segment.borrow().targets[0].config_string, b"other");
    let error = client.set_config_string(TARGET, &[0; 1_025], true).unwrap_err();
    assert!(matches!(error, ClientError::StringTooLong { len: 1_025 }), "{error}");
    assert!(client.set_config_string(TARGET, &[0; 1_024], true).is_ok());
}

#[test]
fn the_mask_and_the_reservation_are_read_and_changed() {
    let (segment, mut client) = client(vec![target()]);
    let [a, b, c] = [1, 2, 3].map(|last| MacAddr([2, 0, 0, 0, 0, last]));
    assert!(client.mask(TARGET).unwrap().is_empty());
    let list = client.change_mask(TARGET, &[MaskChange::Add(a), MaskChange::Add(b)]).unwrap();
    assert_eq!(list.as_slice(), [a, b]);
    let changes = [MaskChange::Remove(a), MaskChange::Add(a), MaskChange::Add(c)];
    let error = client.change_mask(TARGET, &changes).unwrap_err();
    let full = MaskError::LIST_FULL;
    assert!(matches!(error, ClientError::MaskEdit { index: 2, error, .. } if error == full));
    let error = client.change_mask(TARGET, &[MaskChange::Add(a); 186]).unwrap_err();
    assert!(matches!(error, ClientError::ListTooLong { count: 186, most: 185 }), "{error}");

    assert!(client.reservation(TARGET).unwrap().is_empty());
    assert_eq!(client.reserve(TARGET, &[a], false).unwrap().as_slice(), [a]);
    let error = client.reserve(TARGET, &[INITIATOR], false).unwrap_err();
    assert!(matches!(error, ClientError::Refused { error: AoeError::TARGET_RESERVED, .. }));
    assert_eq!(client.reserve(TARGET, &[INITIATOR], true).unwrap().as_slice(), [INITIATOR]);
    assert!(client.reserve(TARGET, &[], false).unwrap().is_empty());

    client.reserve(TARGET, &[b], false).unwrap();
    let stat = client.stat(TARGET).unwrap();
    assert_eq!(stat.mask.unwrap().as_slice(), [b, a]);
    assert_eq!(stat.reservation.unwrap().as_slice(), [b]);
    assert_eq!(stat.disk.size, Sectors(64));
    // A target from before there were these commands.
    let unknown = AoeError::UNRECOGNIZED_COMMAND;
    segment.borrow_mut().targets[0].refuses = Some((Command::RESERVE, unknown));
    assert!(client.stat(TARGET).unwrap().reservation.is_none());
}
