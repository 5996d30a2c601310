//! The server as it runs for real, the binary on a virtual cable, seen from the other end: with
//! frames laid out by hand, with aoetools, with tshark, and with its own commands.
//!
//! `cargo test --test network -- --nocapture` prints a line for each item of the conformance
//! checklist that can be seen on a wire, for both kinds of links.

#![cfg(all(feature = "cli", feature = "pcap", feature = "af-packet", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod ata;
#[path = "../common/mod.rs"]
mod common;
mod config;
mod lifecycle;
mod lossless;
mod many;
mod paths;
mod receive;
mod report;
mod segment;
mod sharing;
mod stale;
mod station;
mod tools;
mod transfer;

use aoe_server::link::LinkKind;

use common::net::TestNet;
use common::server::{Home, ServerProcess};
use report::{Check, Report, ensure};
use station::{Reply, Station};

/// The interface that servers are on.
const SERVED: &str = "aoe-a";
/// The other end of the cable.
const PEER: &str = "aoe-b";
/// The size of e7.3: more than 24 bits count, so that all registers of an address matter.
const SECTORS: u64 = (1 << 24) + 1000;
/// The serial number of e7.3.
const SERIAL: &str = "ON-THE-WIRE";

/// Items that take more than one machine can show from outside: a medium that fails, a kill in
/// mid-write, an initiator that resumes, a disk that grows. Other tests have them.
const NOT_ON_THE_WIRE: [u8; 5] = [61, 62, 70, 72, 74];

/// A server with four targets, and a station at the other end of its cable.
struct Bench {
    kind: LinkKind,
    net: TestNet,
    home: Home,
    server: Option<ServerProcess>,
    station: Station,
    /// What the station heard while the server started.
    heard_at_start: Vec<Reply>,
}

impl Bench {
    fn new(kind: LinkKind) -> Option<Self> {
        let net = TestNet::new(9000)?;
        let home = Home::new();
        std::fs::write(home.path("read-only.img"), [0x5a; 16 * 512]).unwrap();
        let station = Station::open();
        let heard_at_start = Vec::new();
        let mut bench = Self { kind, net, home, server: None, station, heard_at_start };
        bench.restart().unwrap();
        Some(bench)
    }

    fn config(&self) -> String {
        let (kind, size) = (self.kind, SECTORS * 512);
        format!(
            r#"
            [server]
            interface = "{SERVED}"
            link = "{kind}"
            promiscuous = true # so that it is the program that leaves out what is not for it
            state_dir = "{{dir}}/state"
            probe_ms = 30

            [[target]]
            shelf = 7
            slot = 3
            backend = "file"
            path = "{{dir}}/disk.img"
            size = {size}
            serial = "{SERIAL}"

            [[target]]
            shelf = 7
            slot = 5
            backend = "file"
            path = "{{dir}}/read-only.img"
            read_only = true

            [[target]]
            shelf = 9
            slot = 3
            backend = "mem"
            size = "64 KiB"
            durability = "volatile"

            [[target]]
            shelf = 65
            slot = 1
            backend = "mem"
            size = "64 KiB"
            durability = "volatile"
            "#
        )
    }

    /// Everything anew, when the server is not to be had any more.
    fn start_anew(self) -> Self {
        let kind = self.kind;
        drop(self);
        Self::new(kind).expect("there was a network before")
    }

    /// What the server has logged, but for counters.
    fn events(&self) -> String {
        let log = self.server().log();
        let events = log.lines().filter(|line| !line.contains("Counters {"));
        events.collect::<Vec<_>>().join("\n")
    }

    fn server(&self) -> &ServerProcess {
        self.server.as_ref().expect("it was started")
    }

    /// Ends the server, if it runs, and starts it again on the same files.
    fn restart(&mut self) -> Check {
        if let Some(mut server) = self.server.take() {
            let status = server.terminate();
            ensure!(status.success(), "the server ended with {status}");
        }
        self.station.drain();
        (self.station.frames_sent, self.station.responses_sent) = (0, 0);
        self.server = Some(ServerProcess::start_in(&self.home, &self.config()));
        self.station.exchange(&[], 0)?;
        self.heard_at_start = std::mem::take(&mut self.station.asides);
        Ok(())
    }
}

fn conformance(kind: LinkKind) {
    let Some(mut bench) = Bench::new(kind) else { return };
    let mut report = Report::new(kind);
    // First, as it is about the start.
    report.run(&lifecycle::ITEMS[0], &mut bench);
    let tables = [
        receive::ITEMS,
        config::ITEMS,
        ata::ITEMS,
        transfer::ITEMS,
        sharing::ITEMS,
        &lifecycle::ITEMS[1..],
    ];
    for item in tables.into_iter().flatten() {
        if let Err(reason) = bench.station.reset() {
            report.fail(&format!("before #{:02}: {reason}\n{}", item.number, bench.events()));
            bench = bench.start_anew();
        }
        report.run(item, &mut bench);
    }
    let log = bench.events();
    let status = bench.server.take().unwrap().terminate();
    assert!(status.success(), "the server ended with {status}:\n{log}");
    report.conclude(&log);
}

#[test]
fn the_server_conforms_on_the_wire_over_pcap() {
    conformance(LinkKind::Pcap);
}

#[test]
fn the_server_conforms_on_the_wire_over_af_packet() {
    conformance(LinkKind::AfPacket);
}

#[test]
fn every_item_that_shows_on_the_wire_is_tried() {
    let mut numbers: Vec<u8> = NOT_ON_THE_WIRE.to_vec();
    let tables = [
        receive::ITEMS,
        config::ITEMS,
        ata::ITEMS,
        transfer::ITEMS,
        sharing::ITEMS,
        lifecycle::ITEMS,
    ];
    numbers.extend(tables.into_iter().flatten().map(|item| item.number));
    numbers.extend(segment::ITEMS.iter().map(|item| item.number));
    numbers.sort_unstable();
    numbers.dedup(); // some are tried in several ways
    assert_eq!(numbers, (1..=93).collect::<Vec<u8>>());
}
