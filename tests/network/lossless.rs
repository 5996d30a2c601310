//! Four initiators with all in flight that they may: no frame is lost anywhere, and nobody has to
//! ask twice.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use aoe_server::client::{Client, Kind, Load, LoadReport, Order, Recorder};
use aoe_server::engine::initiator::Timing;
use aoe_server::link::LinkKind;
use aoe_server::link::af_packet::{AfPacketLink, AfPacketOptions};
use aoe_server::protocol::{Address, MacAddr};
use aoe_server::units::{Lba, Sectors};
use nix::sys::signal::Signal;

use super::report::{Check, ensure};
use super::station::{Ask, GUARD, Reply, Station, pattern};
use crate::common::net::{MAC_A, PATIENCE, Switch, interface_counters, within};
use crate::common::server::{ServerProcess, packet_link};

const INITIATORS: u8 = 4;
const WINDOW: u16 = 64;
/// Requests of each initiator.
const REQUESTS: u64 = 3_000;
/// Places that an initiator reads and writes, each a frame's worth: a few windows.
const PLACES: u64 = 256;
/// Targets that are asked while the server stands still. One alone would fit the smallest buffer.
const TARGETS: u8 = 4;

/// A server on the switch. Its targets are e7.0 and on, images of 8 MiB, and the guard.
fn serve(switch: &Switch, kind: LinkKind) -> ServerProcess {
    let (shelf, slot) = GUARD;
    let mut config = format!(
        r#"
        [server]
        interface = "{}"
        link = "{kind}"
        state_dir = "{{dir}}/state"
        probe = false

        [[target]]
        shelf = {shelf}
        slot = {slot}
        backend = "mem"
        size = "64 KiB"
        "#,
        switch.net.a
    );
    for slot in 0..TARGETS {
        let _ = write!(
            config,
            r#"
            [[target]]
            shelf = 7
            slot = {slot}
            backend = "file"
            path = "{{dir}}/{slot}.img"
            size = "8 MiB"
            buffer_count = {WINDOW}
            "#
        );
    }
    ServerProcess::start(&config)
}

/// What must not change: frames dropped on the way into or out of any interface.
fn drops(switch: &Switch) -> Vec<(u64, u64)> {
    let names = switch.stations.iter().map(|(name, _)| name.as_str());
    let names = names.chain([switch.net.a, switch.net.b]);
    names.map(interface_counters).map(|(_, into, out)| (into, out)).collect()
}

/// Somebody who listens at every station, or else the kernel counts what others are told there as
/// dropped.
fn ears(switch: &Switch) -> Vec<AfPacketLink> {
    let small = AfPacketOptions { receive_buffer_bytes: 64 << 10, ..AfPacketOptions::default() };
    let names = switch.stations.iter().map(|(name, _)| name);
    names.map(|name| AfPacketLink::open(name, &small).expect("a packet socket")).collect()
}

/// Whether the server has lost nothing, by its own counters.
fn lost_nothing(server: &ServerProcess) -> Check {
    let counters = server.counters();
    ensure!(counters.contains("dropped: 0,"), "{counters}");
    ensure!(counters.contains("unsendable: 0"), "{counters}");
    let targets = counters.lines().filter(|line| line.contains(" parked, "));
    let lost = targets.filter(|line| !line.ends_with(", 0 dropped")).count();
    ensure!(lost == 0, "{counters}");
    Ok(())
}

/// Whether the server's receive buffer may not be as large as it should be here, which is said aloud.
fn is_short_of_memory(server: &ServerProcess) -> bool {
    let short = server.log().contains("the kernel grants");
    let why = "it takes larger socket buffers than this user may have";
    assert!(!short || std::env::var_os("CI").is_none(), "{why}");
    if short {
        println!("SKIPPED: {why}");
    }
    short
}

struct Ignore;

impl Recorder for Ignore {
    fn completed(&mut self, _: Kind, _: Duration) {}
}

/// The load of one initiator on its own part of e7.0.
fn load(name: &str, index: u8) -> LoadReport {
    let mut client = Client::new(Box::new(packet_link(name)));
    // So patient that slowness alone makes nobody ask twice.
    let patience = PATIENCE * 12;
    client.set_patience(patience);
    client.set_timing(Timing { initial: patience, min: patience, max: patience });
    let disk = client.open(Address::new(7, 0)).expect("the target answers");
    let sectors = disk.sectors_per_frame;
    let count = PLACES * u64::from(sectors);
    let load = Load {
        disk: &disk,
        depth: WINDOW.into(),
        sectors,
        write_percent: 50,
        order: Order::Random,
        lba: Lba(u64::from(index) * count),
        count: Sectors(count),
        duration: patience,
        requests: REQUESTS,
        seed: index.into(),
        verify: true,
    };
    let report = client.load(&load, &mut Ignore).expect("the load runs");
    assert_eq!(client.link_counters().dropped, 0, "replies were lost here");
    report
}

/// All initiators at once, reading and writing full frames.
fn under_load(kind: LinkKind, mtu: usize) {
    let Some(switch) = Switch::new(mtu, INITIATORS) else { return };
    let mut server = serve(&switch, kind);
    if is_short_of_memory(&server) {
        return;
    }
    let _ears = ears(&switch);
    let before = drops(&switch);
    let reports: Vec<LoadReport> = std::thread::scope(|scope| {
        let stations = switch.stations.iter().zip(0..);
        let loads: Vec<_> =
            stations.map(|((name, _), index)| scope.spawn(move || load(name, index))).collect();
        loads.into_iter().map(|load| load.join().unwrap()).collect()
    });
    for report in reports {
        assert_eq!(report.reads + report.writes, REQUESTS, "{report:?}");
        let bad = (report.errors, report.unanswered, report.retransmissions, report.mismatches);
        assert_eq!(bad, (0, 0, 0, 0), "{report:?}");
        // All but those of places that were not written to yet.
        assert!(report.verified + 2 * PLACES > report.reads, "{report:?}");
    }
    assert_eq!(drops(&switch), before, "frames into, out of interfaces");
    lost_nothing(&server).unwrap();
    assert!(server.terminate().success(), "{}", server.log());
}

/// The sector of an initiator's place, and a seed for what it writes there.
fn place_of(station: u8, slot: u8, place: u16, sectors: u8) -> (u64, u32) {
    let place = u64::from(station) * u64::from(WINDOW) + u64::from(place);
    let seed = u64::from(slot) << 16 | place;
    (place * u64::from(sectors), u32::try_from(seed).expect("small"))
}

/// All that the station with number `index` may have in flight, at all targets.
fn windows(station: &mut Station, index: u8, sectors: u8, write: bool) -> Vec<Ask> {
    let mut asks = Vec::new();
    for slot in 0..TARGETS {
        for place in 0..WINDOW {
            let (lba, seed) = place_of(index, slot, place, sectors);
            let ask = if write {
                station.write(lba, &pattern(seed, sectors.into()))
            } else {
                station.read(lba, sectors)
            };
            asks.push(ask.at(7, slot));
        }
    }
    asks
}

/// Checks that each was answered once, and read what was written.
fn check(asks: &[Ask], answers: &[Reply], index: u8, sectors: u8, write: bool) -> Check {
    ensure!(answers.len() == asks.len(), "{} answers to {}", answers.len(), asks.len());
    let by_tag: HashMap<u32, &Reply> = answers.iter().map(|reply| (reply.tag(), reply)).collect();
    for (ask, place) in asks.iter().zip((0..WINDOW).cycle()) {
        let Some(reply) = by_tag.get(&ask.tag) else { return Err(format!("no answer to {ask:?}")) };
        ensure!(reply.succeeded() && reply.target() == (7, ask.slot), "{reply:?}");
        let (_, seed) = place_of(index, ask.slot, place, sectors);
        let right = write || reply.data() == pattern(seed, sectors.into());
        ensure!(right, "e7.{}: place {place} of {index} has other data", ask.slot);
    }
    Ok(())
}

/// All stations send all they may to every target while the server stands still.
fn to_a_server_that_stands_still(kind: LinkKind, mtu: usize) {
    let Some(switch) = Switch::new(mtu, INITIATORS) else { return };
    let mut server = serve(&switch, kind);
    if is_short_of_memory(&server) {
        return;
    }
    let sectors = if mtu == 9000 { 16 } else { 2 };
    let open = |(name, mac): &(String, MacAddr)| Station::open_on(name, *mac, MAC_A, false);
    let mut stations: Vec<_> = switch.stations.iter().map(open).collect();
    let before = drops(&switch);
    for write in [true, false] {
        server.signal(Signal::SIGSTOP);
        let (arrived, ..) = interface_counters(switch.net.a);
        let mut asked = Vec::new();
        for (station, index) in stations.iter_mut().zip(0..) {
            let asks = windows(station, index, sectors, write);
            station.send(&asks.iter().map(Ask::octets).collect::<Vec<_>>()).unwrap();
            asked.push(asks);
        }
        let all = asked.iter().map(Vec::len).sum::<usize>() as u64;
        let have_all = within(PATIENCE, || interface_counters(switch.net.a).0 >= arrived + all);
        assert!(have_all, "not all frames have arrived");
        server.signal(Signal::SIGCONT);
        for ((station, asks), index) in stations.iter_mut().zip(&asked).zip(0..) {
            let answers = station.exchange(&[], asks.len()).unwrap();
            check(asks, &answers, index, sectors, write).unwrap();
            assert_eq!(station.dropped(), 0, "replies were lost here");
        }
    }
    assert_eq!(drops(&switch), before, "frames into, out of interfaces");
    lost_nothing(&server).unwrap();
    assert!(server.terminate().success(), "{}", server.log());
}

/// Tests for both kinds of links and both sizes of frames.
macro_rules! on_both_links {
    ($($test:ident,)*) => {
        mod over_pcap {
            use aoe_server::link::LinkKind;
            $(mod $test {
                use super::LinkKind;
                #[test] fn at_mtu_1500() { super::super::$test(LinkKind::Pcap, 1500); }
                #[test] fn at_mtu_9000() { super::super::$test(LinkKind::Pcap, 9000); }
            })*
        }
        mod over_af_packet {
            use aoe_server::link::LinkKind;
            $(mod $test {
                use super::LinkKind;
                #[test] fn at_mtu_1500() { super::super::$test(LinkKind::AfPacket, 1500); }
                #[test] fn at_mtu_9000() { super::super::$test(LinkKind::AfPacket, 9000); }
            })*
        }
    };
}

on_both_links! {
    under_load,
    to_a_server_that_stands_still,
}
