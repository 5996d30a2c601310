//! The live links, on real sockets over a virtual cable in a network namespace of the test's own.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::sync::Mutex;

use aoe_server::link::af_packet::{AfPacketLink, AfPacketOptions};
use aoe_server::link::interface::OpenError;
use aoe_server::link::pcap::{PcapLink, PcapOptions};
use aoe_server::link::{FRAME_CAPACITY, FramePool, Link, LinkError, LinkEvent};
use aoe_server::protocol::{ETHERTYPE, MacAddr};
use common::net::{
    MAC_A, MAC_B, PATIENCE, TestNet, ip, next_event, receive_nothing, receive_until, send_all,
    wait_readable, within,
};

/// A station that is on none of the cables here.
const ELSEWHERE: MacAddr = MacAddr([0x02, 0xae, 0, 0, 0, 0xee]);

/// What differs from test to test.
#[derive(Clone, Copy)]
struct Opts {
    promiscuous: bool,
    receive_buffer_bytes: usize,
}

const PLAIN: Opts = Opts { promiscuous: false, receive_buffer_bytes: 4 << 20 };

/// A kind of live link.
type Open = fn(&str, Opts) -> Result<Box<dyn Link>, OpenError>;

fn af_packet(name: &str, opts: Opts) -> Result<Box<dyn Link>, OpenError> {
    let Opts { promiscuous, receive_buffer_bytes } = opts;
    let options =
        AfPacketOptions { promiscuous, receive_buffer_bytes, ..AfPacketOptions::default() };
    Ok(Box::new(AfPacketLink::open(name, &options)?))
}

/// Without a ring, as when one would take too much memory.
fn socket_queue(name: &str, opts: Opts) -> Result<Box<dyn Link>, OpenError> {
    let Opts { promiscuous, receive_buffer_bytes } = opts;
    let options = AfPacketOptions {
        promiscuous,
        receive_buffer_bytes,
        ring: false,
        ..AfPacketOptions::default()
    };
    Ok(Box::new(AfPacketLink::open(name, &options)?))
}

fn pcap(name: &str, opts: Opts) -> Result<Box<dyn Link>, OpenError> {
    let Opts { promiscuous, receive_buffer_bytes } = opts;
    let options = PcapOptions { promiscuous, receive_buffer_bytes, ..PcapOptions::default() };
    Ok(Box::new(PcapLink::open(name, &options)?))
}

/// A frame of `len` octets that carries its `number`.
fn frame(to: MacAddr, from: MacAddr, ethertype: u16, len: usize, number: u16) -> Vec<u8> {
    let mut frame = vec![0xa5; len];
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&from.0);
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
    frame[14..16].copy_from_slice(&[0x10, 0]);
    frame[20..22].copy_from_slice(&number.to_be_bytes());
    frame
}

fn aoe(to: MacAddr, from: MacAddr, len: usize, number: u16) -> Vec<u8> {
    frame(to, from, ETHERTYPE, len, number)
}

fn send_one(link: &mut dyn Link, frame: &[u8]) {
    let mut pool = FramePool::new(1);
    let mut batch = pool.batch();
    assert!(batch.push(frame));
    send_all(link, &batch);
}

/// Sends `sent` through one link, and asserts that exactly it arrives at the other.
fn assert_arrives(from: &mut dyn Link, to: &mut dyn Link, sent: &[u8]) {
    send_one(from, sent);
    let mut pool = FramePool::new(4);
    let mut batch = pool.batch();
    receive_until(to, &mut batch, 1);
    assert_eq!(batch.len(), 1);
    assert_eq!(batch.frame(0), sent);
}

/// Asserts that `sent` is not received by `to`, though what follows it is.
fn assert_left_out(from: &mut dyn Link, to: &mut dyn Link, sent: &[u8]) {
    send_one(from, sent);
    assert_arrives(from, to, &aoe(MacAddr::BROADCAST, MAC_B, 60, 0x7777));
}

fn frames_of_32_and_9014_octets_cross_unchanged(open: Open) {
    let Some(net) = TestNet::new(9000) else { return };
    let mut a = open(net.a, PLAIN).unwrap();
    let mut b = open(net.b, PLAIN).unwrap();
    assert_eq!((a.info().mac, a.info().mtu, a.info().up), (MAC_A, 9000, true));
    for len in [24, 32, 60, 1514, 9014] {
        assert_arrives(&mut b, &mut a, &aoe(MAC_A, MAC_B, len, 1));
        assert_arrives(&mut a, &mut b, &aoe(MAC_B, MAC_A, len, 2));
    }
    let counters = a.counters();
    assert_eq!((counters.received, counters.sent), (5, 5));
    assert_eq!((counters.dropped, counters.unsendable), (0, 0));
}

fn what_a_link_sends_it_does_not_receive(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let mut a = open(net.a, Opts { promiscuous: true, ..PLAIN }).unwrap();
    for to in [MacAddr::BROADCAST, MAC_A, MAC_B] {
        send_one(&mut a, &aoe(to, MAC_A, 60, 1));
    }
    receive_nothing(&mut a, &mut FramePool::new(4).batch());
}

/// `frame` as it is on a cable that many networks share.
fn tagged(vlan: u16, frame: &[u8]) -> Vec<u8> {
    let mut tagged = frame.to_vec();
    let [high, low] = vlan.to_be_bytes();
    tagged.splice(12..12, [0x81, 0x00, high, low]);
    tagged
}

fn foreign_frames_are_left_out(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let mut a = open(net.a, Opts { promiscuous: true, ..PLAIN }).unwrap();
    let mut b = open(net.b, PLAIN).unwrap();
    for ethertype in [0x0800, 0x88a3, 0x86dd, 0x8100] {
        assert_left_out(&mut b, &mut a, &frame(MAC_A, MAC_B, ethertype, 60, 1));
    }
}

fn tagged_frames_are_left_out(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let mut b = open(net.b, PLAIN).unwrap();
    for promiscuous in [false, true] {
        let mut a = open(net.a, Opts { promiscuous, ..PLAIN }).unwrap();
        for to in [MAC_A, MacAddr::BROADCAST] {
            assert_left_out(&mut b, &mut a, &tagged(7, &aoe(to, MAC_B, 60, 1)));
        }
        // The filter knows our address: it must follow when that changes.
        ip(&format!("link set {} address {ELSEWHERE}", net.a));
        assert_eq!(a.check(), Some(LinkEvent::Changed));
        assert_left_out(&mut b, &mut a, &tagged(7, &aoe(ELSEWHERE, MAC_B, 60, 2)));
        ip(&format!("link set {} address {MAC_A}", net.a));
    }
}

fn a_vlan_is_served_on_its_own_interface_only(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let Some(vlan) = net.add_vlan(net.a, 7) else { return };
    let mut outer = open(net.a, Opts { promiscuous: true, ..PLAIN }).unwrap();
    let mut inner = open(&vlan, PLAIN).unwrap();
    let mut b = open(net.b, PLAIN).unwrap();
    let sent = aoe(MAC_A, MAC_B, 60, 1);
    send_one(&mut b, &tagged(7, &sent));
    let mut pool = FramePool::new(4);
    let mut batch = pool.batch();
    receive_until(&mut inner, &mut batch, 1);
    assert_eq!(batch.frame(0), sent);
    receive_nothing(&mut outer, &mut batch);
    send_one(&mut b, &sent);
    receive_nothing(&mut inner, &mut batch);
}

fn two_hundred_frames_arrive_in_order(open: Open) {
    let Some(net) = TestNet::new(9000) else { return };
    let mut a = open(net.a, PLAIN).unwrap();
    let mut b = open(net.b, PLAIN).unwrap();
    for len in [60, 8228] {
        let mut sent = FramePool::new(200);
        let mut batch = sent.batch();
        for number in 0..200 {
            assert!(batch.push(&aoe(MAC_A, MAC_B, len, number)));
        }
        send_all(&mut b, &batch);
        let mut received = FramePool::new(201);
        let mut got = received.batch();
        receive_until(&mut a, &mut got, 200);
        receive_nothing(&mut a, &mut got);
        assert!(batch.frames().eq(got.frames()), "another order, or other octets");
    }
    assert_eq!(a.counters().dropped, 0);
}

fn a_full_batch_takes_no_more(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let mut a = open(net.a, PLAIN).unwrap();
    let mut b = open(net.b, PLAIN).unwrap();
    for number in 0..5 {
        send_one(&mut b, &aoe(MAC_A, MAC_B, 60, number));
    }
    let mut pool = FramePool::new(3);
    let mut batch = pool.batch();
    receive_until(&mut a, &mut batch, 3);
    assert_eq!(a.receive(&mut batch), Ok(0));
    batch.clear();
    receive_until(&mut a, &mut batch, 2);
    assert_eq!(batch.frame(1), aoe(MAC_A, MAC_B, 60, 4));
}

fn unsendable_frames_are_passed_over(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let mut a = open(net.a, PLAIN).unwrap();
    let mut b = open(net.b, PLAIN).unwrap();
    let mut pool = FramePool::new(5);
    let mut batch = pool.batch();
    for (len, number) in [(60, 0), (1600, 1), (60, 2), (9014, 3), (60, 4)] {
        assert!(batch.push(&aoe(MAC_A, MAC_B, len, number)));
    }
    send_all(&mut b, &batch);
    let mut received = FramePool::new(5);
    let mut got = received.batch();
    receive_until(&mut a, &mut got, 3);
    for (index, number) in [0, 2, 4].into_iter().enumerate() {
        assert_eq!(got.frame(index), aoe(MAC_A, MAC_B, 60, number));
    }
    let counters = b.counters();
    assert_eq!((counters.sent, counters.unsendable), (3, 2));
}

fn an_interface_that_goes_down_comes_back(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let mut a = open(net.a, PLAIN).unwrap();
    let mut b = open(net.b, PLAIN).unwrap();
    assert_arrives(&mut b, &mut a, &aoe(MAC_A, MAC_B, 60, 1));
    assert_eq!(a.check(), None);
    for _ in 0..3 {
        net.down(net.a);
        let mut pool = FramePool::new(4);
        let mut batch = pool.batch();
        for _ in 0..3 {
            match a.receive(&mut batch) {
                Ok(0) | Err(LinkError::Down) => {}
                other => panic!("receiving while down: {other:?}"),
            }
        }
        assert!(batch.push(&aoe(MAC_B, MAC_A, 60, 2)));
        assert_eq!(a.send(&batch, 0), Err(LinkError::Down));
        assert_eq!((a.check(), a.check()), (Some(LinkEvent::Down), None));
        assert!(!a.info().up);
        // The other end has lost its carrier.
        assert_eq!(next_event(&mut b), LinkEvent::Down);
        net.up(net.a);
        assert_eq!(next_event(&mut a), LinkEvent::Up);
        assert_eq!(next_event(&mut b), LinkEvent::Up);
        assert_eq!((a.check(), b.check(), a.info().up), (None, None, true));
        assert_arrives(&mut b, &mut a, &aoe(MAC_A, MAC_B, 60, 3));
        assert_arrives(&mut a, &mut b, &aoe(MAC_B, MAC_A, 60, 4));
    }
}

fn an_interface_down_and_up_between_checks_is_noticed(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let mut a = open(net.a, PLAIN).unwrap();
    net.down(net.a);
    let mut pool = FramePool::new(4);
    let mut batch = pool.batch();
    assert!(batch.push(&aoe(MAC_B, MAC_A, 60, 1)));
    assert_eq!(a.send(&batch, 0), Err(LinkError::Down));
    assert!(!a.info().up);
    net.up(net.a);
    assert_eq!(next_event(&mut a), LinkEvent::Up);
    assert!(a.info().up);
    assert_eq!(a.check(), None);
    let mut b = open(net.b, PLAIN).unwrap();
    assert_arrives(&mut b, &mut a, &aoe(MAC_A, MAC_B, 60, 2));
}

fn an_interface_that_is_down_can_be_opened(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    net.down(net.a);
    let mut a = open(net.a, PLAIN).unwrap();
    assert!(!a.info().up);
    assert_eq!(a.check(), None, "it was down when it was opened");
    assert!(matches!(a.receive(&mut FramePool::new(1).batch()), Ok(0) | Err(LinkError::Down)));
    net.up(net.a);
    assert_eq!(next_event(&mut a), LinkEvent::Up);
    let mut b = open(net.b, PLAIN).unwrap();
    assert_arrives(&mut b, &mut a, &aoe(MAC_A, MAC_B, 60, 1));
}

fn an_interface_that_is_made_again_is_served_again(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let mut a = open(net.a, Opts { promiscuous: true, ..PLAIN }).unwrap();
    let mut b = open(net.b, PLAIN).unwrap();
    assert_arrives(&mut b, &mut a, &aoe(MAC_A, MAC_B, 60, 1));
    net.delete();
    assert_eq!((a.check(), a.check()), (Some(LinkEvent::Down), None));
    assert_eq!((b.check(), b.check()), (Some(LinkEvent::Down), None));
    let mut pool = FramePool::new(4);
    let mut batch = pool.batch();
    assert!(batch.push(&aoe(MAC_B, MAC_A, 60, 2)));
    assert_eq!(a.send(&batch, 0), Err(LinkError::Down));
    for _ in 0..3 {
        assert!(matches!(a.receive(&mut batch), Ok(0) | Err(LinkError::Down)));
    }
    net.create(9000);
    assert_eq!(next_event(&mut a), LinkEvent::Up);
    assert_eq!(next_event(&mut b), LinkEvent::Up);
    assert_eq!((a.check(), b.check(), a.info().mtu), (None, None, 9000));
    assert_arrives(&mut b, &mut a, &aoe(MAC_A, MAC_B, 9014, 3));
    assert_arrives(&mut a, &mut b, &aoe(MAC_B, MAC_A, 60, 4));
    assert_arrives(&mut b, &mut a, &aoe(ELSEWHERE, MAC_B, 60, 5));
    // So quickly that no look falls into the gap.
    net.delete();
    net.create(1500);
    assert_eq!(next_event(&mut a), LinkEvent::Up);
    assert_eq!(next_event(&mut b), LinkEvent::Up);
    assert_eq!((a.check(), b.check(), a.info().mtu), (None, None, 1500));
    assert_arrives(&mut b, &mut a, &aoe(MAC_A, MAC_B, 60, 6));
}

fn a_new_mtu_or_address_is_told_once(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let mut a = open(net.a, PLAIN).unwrap();
    let mut b = open(net.b, PLAIN).unwrap();
    net.set_mtu(9000);
    assert_eq!((a.check(), a.check()), (Some(LinkEvent::Changed), None));
    assert_eq!(a.info().mtu, 9000);
    assert_arrives(&mut b, &mut a, &aoe(MAC_A, MAC_B, 9014, 1));
    net.set_mtu(65_535);
    assert_eq!((a.check(), a.info().mtu), (Some(LinkEvent::Changed), 9216));
    let address = MacAddr([0x02, 0xae, 0, 0, 0, 0x77]);
    ip(&format!("link set {} address {address}", net.a));
    assert_eq!((a.check(), a.check()), (Some(LinkEvent::Changed), None));
    assert_eq!(a.info().mac, address);
    assert_arrives(&mut b, &mut a, &aoe(address, MAC_B, 60, 2));
}

fn only_a_promiscuous_link_receives_what_is_for_others(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let mut b = open(net.b, PLAIN).unwrap();
    let mut plain = open(net.a, PLAIN).unwrap();
    assert_left_out(&mut b, &mut plain, &aoe(ELSEWHERE, MAC_B, 60, 1));
    drop(plain);
    let mut promiscuous = open(net.a, Opts { promiscuous: true, ..PLAIN }).unwrap();
    assert_arrives(&mut b, &mut promiscuous, &aoe(ELSEWHERE, MAC_B, 60, 2));
    assert_arrives(&mut b, &mut promiscuous, &aoe(MAC_A, MAC_B, 60, 3));
}

fn promiscuous_mode_ends_with_the_link(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let promiscuity = || {
        let output =
            std::process::Command::new("ip").args(["-d", "link", "show", net.a]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut words = text.split_whitespace().skip_while(|word| *word != "promiscuity");
        words.nth(1).unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(promiscuity(), 0);
    let link = open(net.a, Opts { promiscuous: true, ..PLAIN }).unwrap();
    assert_eq!(promiscuity(), 1);
    drop(link);
    // Programs that other tests are just starting have the socket for a moment, too.
    assert!(within(PATIENCE, || promiscuity() == 0));
}

fn what_the_kernel_drops_is_counted(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let mut a = open(net.a, Opts { receive_buffer_bytes: 16 << 10, ..PLAIN }).unwrap();
    let mut b = open(net.b, PLAIN).unwrap();
    let mut pool = FramePool::new(32);
    let mut batch = pool.batch();
    while batch.push(&aoe(MAC_A, MAC_B, 60, 1)) {}
    for _ in 0..64 {
        send_all(&mut b, &batch);
    }
    let mut received = FramePool::new(2048);
    let mut got = received.batch();
    assert!(
        within(PATIENCE, || {
            a.receive(&mut got).unwrap();
            let counters = a.counters();
            counters.received + counters.dropped == 2048
        }),
        "{:?}",
        a.counters()
    );
    let dropped = a.counters().dropped;
    assert!(dropped > 0, "the buffer held everything");
    assert_eq!(a.counters().dropped, dropped, "asking changes nothing");
}

fn frames_that_are_too_long_are_counted_and_disturb_no_others(open: Open) {
    let Some(net) = TestNet::new(16_000) else { return };
    let mut a = open(net.a, PLAIN).unwrap();
    let mut raw = ::pcap::Capture::from_device(net.b).unwrap().open().unwrap();
    for (number, len) in [60, FRAME_CAPACITY + 1, FRAME_CAPACITY, 15_000, 61].iter().enumerate() {
        let number = u16::try_from(number).unwrap();
        raw.sendpacket(aoe(MAC_A, MAC_B, *len, number)).unwrap();
    }
    let mut pool = FramePool::new(5);
    let mut batch = pool.batch();
    receive_until(&mut a, &mut batch, 3);
    assert_eq!(batch.frame(0), aoe(MAC_A, MAC_B, 60, 0));
    assert_eq!(batch.frame(1), aoe(MAC_A, MAC_B, FRAME_CAPACITY, 2));
    assert_eq!(batch.frame(2), aoe(MAC_A, MAC_B, 61, 4));
    let counters = a.counters();
    assert_eq!((counters.received, counters.dropped), (3, 2));
}

fn what_a_neighbour_on_the_same_interface_sends_is_left_out(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let mut a = open(net.a, Opts { promiscuous: true, ..PLAIN }).unwrap();
    for neighbour in [af_packet, pcap] {
        let mut neighbour = neighbour(net.a, PLAIN).unwrap();
        send_one(&mut neighbour, &aoe(MacAddr::BROADCAST, MAC_A, 60, 1));
        receive_nothing(&mut a, &mut FramePool::new(4).batch());
    }
}

fn the_descriptor_tells_of_frames(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let mut a = open(net.a, PLAIN).unwrap();
    let mut b = open(net.b, PLAIN).unwrap();
    assert!(!wait_readable(&*a, common::net::QUIET));
    send_one(&mut b, &aoe(MAC_A, MAC_B, 60, 1));
    assert!(wait_readable(&*a, PATIENCE));
    receive_until(&mut a, &mut FramePool::new(1).batch(), 1);
    assert!(!wait_readable(&*a, common::net::QUIET));
}

fn a_missing_interface_is_named_with_those_there_are(open: Open) {
    let Some(_net) = TestNet::new(1500) else { return };
    let error = open("aoe-c", PLAIN).err().unwrap().to_string();
    for part in ["no interface \"aoe-c\"; there are: ", "lo", "aoe-a", "aoe-b", "did you mean"] {
        assert!(error.contains(part), "{error}");
    }
    for name in ["", "much-too-long-for-an-interface", "a\0b"] {
        assert!(open(name, PLAIN).err().unwrap().to_string().starts_with("no interface"));
    }
}

fn what_is_not_ethernet_is_refused(open: Open) {
    let Some(net) = TestNet::new(1500) else { return };
    let Some(tun) = net.add_tun() else { return };
    let error = open(tun, PLAIN).err().unwrap();
    assert_eq!(error.to_string(), "interface aoe-tun does not carry Ethernet frames");
}

fn without_permission_the_setcap_line_is_given(open: Open) {
    use rustix::thread::CapabilitySet;
    let Some(net) = TestNet::new(1500) else { return };
    give_up(CapabilitySet::NET_RAW | CapabilitySet::NET_ADMIN);
    let error = open(net.a, PLAIN).err().unwrap();
    assert!(matches!(error, OpenError::NotPermitted { .. }), "{error}");
    let executable = std::env::current_exe().unwrap();
    let line = format!("sudo setcap cap_net_raw+ep {}", executable.display());
    assert!(error.to_string().ends_with(&line), "{error}");
    take_back(CapabilitySet::NET_RAW);
    assert!(open(net.a, PLAIN).is_ok(), "NET_RAW alone is enough");
}

#[test]
fn a_watching_pcap_link_receives_what_others_on_the_machine_send() {
    let Some(net) = TestNet::new(1500) else { return };
    let options = PcapOptions { outgoing: true, ..PcapOptions::default() };
    let mut watching = PcapLink::open(net.a, &options).unwrap();
    let mut a = pcap(net.a, PLAIN).unwrap();
    let mut b = pcap(net.b, PLAIN).unwrap();
    assert_arrives(&mut a, &mut watching, &aoe(MAC_B, MAC_A, 60, 1));
    assert_arrives(&mut b, &mut watching, &aoe(MAC_A, MAC_B, 60, 2));
}

/// Takes capabilities from the calling thread only. Programs that it starts have them again.
fn give_up(unwanted: rustix::thread::CapabilitySet) {
    use rustix::thread::{capabilities, set_capabilities};
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(unwanted);
    set_capabilities(None, sets).unwrap();
}

/// Gives the calling thread back what it gave up.
fn take_back(wanted: rustix::thread::CapabilitySet) {
    use rustix::thread::{capabilities, set_capabilities};
    let mut sets = capabilities(None).unwrap();
    sets.effective.insert(wanted);
    set_capabilities(None, sets).unwrap();
}

#[test]
fn a_packet_socket_moves_to_a_new_interface_without_privileges() {
    let Some(net) = TestNet::new(1500) else { return };
    let options = AfPacketOptions { promiscuous: true, ..AfPacketOptions::default() };
    let mut a = AfPacketLink::open(net.a, &options).unwrap();
    give_up(rustix::thread::CapabilitySet::all());
    net.delete();
    assert_eq!(a.check(), Some(LinkEvent::Down));
    net.create(1500);
    assert_eq!(next_event(&mut a), LinkEvent::Up);
    take_back(rustix::thread::CapabilitySet::NET_RAW);
    send_one(&mut af_packet(net.b, PLAIN).unwrap(), &aoe(ELSEWHERE, MAC_B, 60, 1));
    let mut pool = FramePool::new(1);
    let mut batch = pool.batch();
    receive_until(&mut a, &mut batch, 1);
    assert_eq!(batch.frame(0), aoe(ELSEWHERE, MAC_B, 60, 1), "promiscuous as before");
}

/// What the log was told.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        LOG.lock().unwrap().push(record.args().to_string());
    }
    fn flush(&self) {}
}

#[test]
fn a_receive_buffer_that_is_not_granted_is_told_with_the_remedy() {
    let Some(net) = TestNet::new(1500) else { return };
    log::set_logger(&Logger).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    give_up(rustix::thread::CapabilitySet::NET_ADMIN);
    let wanted = 1_234_567_890;
    let options = AfPacketOptions {
        receive_buffer_bytes: wanted,
        send_buffer_bytes: wanted,
        ..AfPacketOptions::default()
    };
    AfPacketLink::open(net.a, &options).unwrap();
    let log = LOG.lock().unwrap();
    for remedy in
        ["sysctl -w net.core.rmem_max=1234567890", "sysctl -w net.core.wmem_max=1234567890"]
    {
        assert!(
            log.iter().any(|line| line.starts_with(net.a) && line.ends_with(remedy)),
            "{log:?}"
        );
    }
}

/// A buffer of so many bytes a frame holds as many frames as it is sized for, whatever they are.
fn holds(open: Open, bytes_of_one: usize) {
    const FRAMES: usize = 256;
    for (mtu, len) in [(1500, 1514), (1500, 60), (9000, 9014), (9000, 60)] {
        let Some(net) = TestNet::new(mtu) else { return };
        let receive_buffer_bytes = FRAMES * bytes_of_one;
        let mut a = open(net.a, Opts { receive_buffer_bytes, ..PLAIN }).unwrap();
        let mut b = open(net.b, PLAIN).unwrap();
        let mut pool = FramePool::new(FRAMES);
        let mut batch = pool.batch();
        while batch.push(&aoe(MAC_A, MAC_B, len, 0)) {}
        // Nobody fetches any of them before all are there.
        send_all(&mut *b, &batch);
        batch.clear();
        receive_until(&mut *a, &mut batch, FRAMES);
        assert_eq!(a.counters().dropped, 0, "frames of {len} octets");
    }
}

#[test]
fn a_packet_socket_holds_as_many_frames_as_it_is_sized_for() {
    holds(af_packet, AfPacketOptions::FRAME_BYTES);
    holds(socket_queue, AfPacketOptions::FRAME_BYTES);
}

#[test]
fn a_ring_of_libpcap_holds_as_many_frames_as_it_is_sized_for() {
    holds(pcap, PcapOptions::FRAME_BYTES);
}

macro_rules! for_each_live_link {
    ($($test:ident,)*) => {
        mod af_packet {
            $(#[test] fn $test() { super::$test(super::af_packet); })*
        }
        mod socket_queue {
            $(#[test] fn $test() { super::$test(super::socket_queue); })*
        }
        mod pcap {
            $(#[test] fn $test() { super::$test(super::pcap); })*
        }
    };
}

for_each_live_link! {
    frames_of_32_and_9014_octets_cross_unchanged,
    what_a_link_sends_it_does_not_receive,
    foreign_frames_are_left_out,
    tagged_frames_are_left_out,
    a_vlan_is_served_on_its_own_interface_only,
    two_hundred_frames_arrive_in_order,
    a_full_batch_takes_no_more,
    unsendable_frames_are_passed_over,
    an_interface_that_goes_down_comes_back,
    an_interface_down_and_up_between_checks_is_noticed,
    an_interface_that_is_down_can_be_opened,
    an_interface_that_is_made_again_is_served_again,
    a_new_mtu_or_address_is_told_once,
    only_a_promiscuous_link_receives_what_is_for_others,
    promiscuous_mode_ends_with_the_link,
    what_the_kernel_drops_is_counted,
    frames_that_are_too_long_are_counted_and_disturb_no_others,
    what_a_neighbour_on_the_same_interface_sends_is_left_out,
    the_descriptor_tells_of_frames,
    a_missing_interface_is_named_with_those_there_are,
    what_is_not_ethernet_is_refused,
    without_permission_the_setcap_line_is_given,
}
