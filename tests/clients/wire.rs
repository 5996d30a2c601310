//! Wires that lose, double, swap and damage frames: what a file system survives, and what comes of
//! every single sector.
//!
//! Nothing is held back here for as long as an initiator waits before it sends something again: why
//! that matters is told in `docs/threat-model.md`, and shown by `tests/network/stale.rs`.

use std::time::Duration;

use aoe_server::link::LinkKind;
use aoe_server::link::fault::{FaultCounters, Faults};
use aoe_server::protocol::Address;

use crate::backend::{ARCHIVED, FILE, JOURNALLED};
use crate::common::net::{MAC_A, PATIENCE};
use crate::common::server::packet_link;
use crate::common::stamper::{Chance, Stamper};
use crate::guest::Guest;
use crate::linux::{DISK, checksums_hold, make_file_system, verify_by_fio};
use crate::relay::{Relay, Wire};
use crate::scene::{Case, Scene, read_units};
use crate::steps::Steps;

const E1_0: Address = Address { shelf: 1, slot: 0 };
/// Where chance starts, so that every run meets the same.
const SEED: u64 = 0x616f_6535;
/// One frame in a hundred is lost, and every third is overtaken.
const LOSSY: Faults =
    Faults { drop: 0.01, duplicate: 0.0, corrupt: 0.0, reorder: 0.33, delay: 0.0, delay_turns: 0 };
/// The same, and frames come twice, or late by some milliseconds.
const WILD: Faults = Faults { duplicate: 0.1, delay: 0.05, delay_turns: 10, ..LOSSY };
/// Every tenth frame is damaged, as none is that has come through a network card.
const DAMAGED: Faults = Faults { corrupt: 0.1, ..WILD };
/// Units that are written again and again: one MiB.
const UNITS: usize = 1024;
/// Writes that have to be acknowledged.
const WRITES: u64 = 10_000;

fn counted(counters: [FaultCounters; 2]) -> String {
    let [requests, replies] = counters;
    let sum = |count: fn(&FaultCounters) -> u64| count(&requests) + count(&replies);
    format!(
        "of {} frames {} lost, {} overtaken, {} twice, {} late, {} damaged",
        sum(|counters| counters.frames),
        sum(|counters| counters.dropped),
        sum(|counters| counters.reordered),
        sum(|counters| counters.duplicated),
        sum(|counters| counters.delayed),
        sum(|counters| counters.corrupted)
    )
}

/// Writes and reads over a wire with `faults`, each read verified, and at the end every sector.
fn every_sector_holds(case: Case) {
    let Some(mut scene) = Scene::new(case, 1) else { return };
    let steps = Steps::of(case.title("wire"));
    let station = scene.switch.stations[0].0.clone();
    let relay = Relay::start(&scene.switch, case.mtu, SEED);
    let mut stamper = Stamper::new(packet_link(&station), MAC_A, E1_0, UNITS, Chance::new());
    stamper.read_percent = 30;
    steps.step("loss, doubles, delay: each sector", || {
        relay.change(Wire::both(WILD));
        let enough = |stamper: &Stamper| stamper.acknowledged >= WRITES;
        let done = stamper.run(PATIENCE * 6, enough);
        assert!(done, "only {} writes were acknowledged", stamper.acknowledged);
        stamper.finish();
        relay.change(Wire::default());
        assert_eq!(stamper.failures, []);
        let faults = stamper.check(&read_units(&station, E1_0, UNITS));
        assert!(faults.is_empty(), "{faults:#?}");
        let Stamper { acknowledged, confirmed, .. } = stamper;
        format!("{acknowledged} writes, {confirmed} reads, none wrong; {}", counted(relay.end()))
    });
    scene.end();
}

/// Frames that are damaged although they arrive: nothing that AoE could notice. The server has to
/// go on, whatever they say.
fn damage_does_not_stop_it(case: Case) {
    let Some(mut scene) = Scene::new(case, 1) else { return };
    let steps = Steps::of(case.title("wire"));
    let station = scene.switch.stations[0].0.clone();
    let relay = Relay::start(&scene.switch, case.mtu, SEED);
    let mut stamper = Stamper::new(packet_link(&station), MAC_A, E1_0, UNITS, Chance::new());
    stamper.read_percent = 30;
    steps.step("damage: it goes on", || {
        relay.change(Wire::both(DAMAGED));
        stamper.run(PATIENCE, |stamper| stamper.acknowledged >= WRITES);
        relay.change(Wire::default());
        stamper.finish();
        read_units(&station, E1_0, UNITS);
        assert!(scene.server().is_running());
        let wrong = stamper.failures.len();
        let counters = counted(relay.end());
        format!(
            "{} writes, {wrong} requests with another outcome; {counters}",
            stamper.acknowledged
        )
    });
    scene.end();
}

/// A file system is made, filled and verified over a wire that loses frames and swaps them.
fn a_file_system_survives(case: Case) {
    let Some(mut scene) = Scene::new(case, 0) else { return };
    let steps = Steps::of(case.title("wire"));
    let tap = scene.switch.add_tap(case.mtu);
    let relay = Relay::start(&scene.switch, case.mtu, SEED);
    let mut guest = Guest::boot(tap, case.mtu);
    guest.patience = Duration::from_mins(3);
    steps.step("discovery", || {
        guest.discover("e1.0");
        // As long as the disk is open the driver remembers how long answers take, and waits no
        // longer than that for lost ones; at first it waits for a quarter of a minute.
        guest.run(&format!("sleep 9999 <{DISK} &"));
        guest.run(&format!("dd if={DISK} of=/dev/null bs=4k count=3000 iflag=direct status=none"));
        "3000 reads, after which the driver knows how long answers take".into()
    });
    relay.change(Wire::both(LOSSY));
    steps.step("fio verifies crc32c", || verify_by_fio(&mut guest));
    steps.step("mkfs.ext4, files, fsck, remount", || make_file_system(&mut guest));
    relay.change(Wire::default());
    steps.step("checksums hold", || {
        checksums_hold(&mut guest);
        guest.run(&format!("umount /mnt && e2fsck -fn {DISK}"));
        guest.power_off();
        counted(relay.end())
    });
    scene.end();
    scene.check_file_system();
}

#[test]
#[ignore = "takes minutes: make test-clients"]
fn a_file_system_survives_a_lossy_wire() {
    a_file_system_survives(Case { backend: &FILE, link: LinkKind::AfPacket, mtu: 9000 });
}

#[test]
#[ignore = "takes minutes: make test-clients"]
fn every_sector_holds_over_a_lossy_wire() {
    every_sector_holds(Case { backend: &FILE, link: LinkKind::Pcap, mtu: 1500 });
    every_sector_holds(Case { backend: &JOURNALLED, link: LinkKind::AfPacket, mtu: 9000 });
    every_sector_holds(Case { backend: &ARCHIVED, link: LinkKind::AfPacket, mtu: 1500 });
}

#[test]
#[ignore = "takes minutes: make test-clients"]
fn damaged_frames_stop_nothing() {
    damage_does_not_stop_it(Case { backend: &FILE, link: LinkKind::AfPacket, mtu: 1500 });
    damage_does_not_stop_it(Case { backend: &JOURNALLED, link: LinkKind::Pcap, mtu: 1500 });
}
