//! 64 targets in one process, on two interfaces: each is found, has its own data, and goes on while
//! others come and go.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use aoe_server::link::LinkKind;
use aoe_server::protocol::MacAddr;

use super::report::{Check, ensure};
use super::station::{Ask, GUARD, Reply, Station, pattern};
use crate::common::net::{MAC_A, PATIENCE, Switch, within};
use crate::common::server::{Home, ServerProcess};

const MTU: usize = 1500;
const STATIONS: u8 = 4;
const TARGETS: u8 = 64;
/// Sectors of a request, and requests of a station for each target in a round.
const SECTORS: u8 = 2;
const PLACES: u8 = 4;
/// Rounds at least, of which every other one writes.
const ROUNDS: u32 = 8;
/// Times that targets are added and removed meanwhile.
const RELOADS: usize = 4;

/// A configuration with the guard and targets e3.0 to e3.63, and `more` after them: files and
/// memory by turns, and files of both durabilities.
fn config(kind: LinkKind, more: u8) -> String {
    let (shelf, slot) = GUARD;
    let mut text = format!(
        r#"
        [server]
        interfaces = ["aoe-a", "aoe-c"]
        link = "{kind}"
        state_dir = "{{dir}}/state"
        probe_ms = 30

        [[target]]
        shelf = {shelf}
        slot = {slot}
        backend = "mem"
        size = "64 KiB"
        "#
    );
    for slot in 0..TARGETS + more {
        let storage = match slot % 4 {
            0 => format!("backend = \"file\"\npath = \"{{dir}}/{slot}.img\""),
            1 => format!(
                "backend = \"file\"\npath = \"{{dir}}/{slot}.img\"\ndurability = \"volatile\""
            ),
            _ => "backend = \"mem\"".to_string(),
        };
        let _ =
            write!(text, "[[target]]\nshelf = 3\nslot = {slot}\nsize = \"64 KiB\"\n{storage}\n\n");
    }
    text
}

/// How often each target has answered from each of the server's stations.
fn counted(answers: &[Reply]) -> HashMap<((u16, u8), MacAddr), usize> {
    let mut counts = HashMap::new();
    for reply in answers.iter().filter(|reply| reply.target() != GUARD) {
        let source = MacAddr(reply.source().try_into().expect("six octets"));
        *counts.entry((reply.target(), source)).or_default() += 1;
    }
    counts
}

/// Asks everybody, and checks that every target answers once on each link.
fn everybody_answers(station: &mut Station, other: MacAddr) -> Check {
    let query = station.config(0, b"").at(0xffff, 0xff).broadcast();
    let expected = 2 * (usize::from(TARGETS) + 1);
    let answers = station.exchange(&[query.octets()], expected)?;
    ensure!(answers.len() == expected, "{} answers", answers.len());
    let counts = counted(&answers);
    for slot in 0..TARGETS {
        for mac in [MAC_A, other] {
            let count = counts.get(&((3, slot), mac)).copied().unwrap_or(0);
            ensure!(count == 1, "e3.{slot} has answered {count} times from {mac}");
        }
    }
    Ok(())
}

/// What a station writes to one of its places on a target in a round.
fn content(station: u8, slot: u8, place: u8, round: u32) -> Vec<u8> {
    let seed = u32::from_be_bytes([0, station, slot, place]) ^ round << 24;
    pattern(seed, SECTORS.into())
}

/// A request of a round: a write, or a read of what the round before has written.
fn ask(station: &mut Station, index: u8, slot: u8, place: u8, round: u32) -> Ask {
    let lba = u64::from(SECTORS) * u64::from(index * PLACES + place);
    let ask = if round.is_multiple_of(2) {
        station.write(lba, &content(index, slot, place, round))
    } else {
        station.read(lba, SECTORS)
    };
    ask.at(3, slot)
}

/// One round of a station: all its places on all targets at once.
fn round(station: &mut Station, index: u8, round: u32) -> Check {
    let mut asks = Vec::new();
    for place in 0..PLACES {
        for slot in 0..TARGETS {
            asks.push((slot, place, ask(station, index, slot, place, round)));
        }
    }
    let frames: Vec<_> = asks.iter().map(|(.., ask)| ask.octets()).collect();
    let answers = station.exchange(&frames, frames.len())?;
    ensure!(answers.len() == frames.len(), "{} answers", answers.len());
    let by_tag: HashMap<u32, &Reply> = answers.iter().map(|reply| (reply.tag(), reply)).collect();
    for (slot, place, ask) in asks {
        let Some(reply) = by_tag.get(&ask.tag) else { return Err(format!("no answer to {ask:?}")) };
        ensure!(reply.succeeded() && reply.target() == (3, slot), "{reply:?}");
        let right =
            round.is_multiple_of(2) || reply.data() == content(index, slot, place, round - 1);
        ensure!(right, "e3.{slot} has other data for station {index}");
    }
    Ok(())
}

/// Adds targets and takes them away again, each time waited for.
fn come_and_go(server: &ServerProcess, home: &Home, kind: LinkKind, rounds: &AtomicUsize) {
    let place = home.path("");
    let place = place.to_str().expect("a path of text").trim_end_matches('/');
    for _ in 0..RELOADS {
        for more in [4, 0] {
            let told =
                |more: u8| format!("{} targets on ", u32::from(TARGETS) + 1 + u32::from(more));
            let before = server.log().matches(&told(more)).count();
            server.reload(&config(kind, more).replace("{dir}", place));
            server.wait_for_log_again(&told(more), before + 1);
            // And that somebody gets on while it is so.
            let seen = rounds.load(Ordering::Relaxed);
            let on = within(PATIENCE, || rounds.load(Ordering::Relaxed) > seen);
            assert!(on, "nobody gets on\n{}", server.log());
        }
    }
}

fn many(kind: LinkKind) {
    let Some(switch) = Switch::new(MTU, STATIONS) else { return };
    let (_, other) = switch.add_interface(MTU);
    let home = Home::new();
    let mut server = ServerProcess::start_in(&home, &config(kind, 0));
    let open = |(name, mac): &(String, MacAddr)| Station::open_on(name, *mac, MAC_A, false);
    let mut stations: Vec<_> = switch.stations.iter().map(open).collect();
    everybody_answers(&mut stations[0], other).unwrap();
    let (done, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let load = |(station, index): (&mut Station, u8)| -> Check {
            // By turns through one interface of the server and the other.
            station.server = if index.is_multiple_of(2) { MAC_A } else { other };
            for number in 0.. {
                let enough = number >= ROUNDS && number.is_multiple_of(2);
                if enough && done.load(Ordering::Relaxed) {
                    break;
                }
                round(station, index, number).map_err(|why| format!("round {number}: {why}"))?;
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let loads: Vec<_> =
            stations.iter_mut().zip(0..).map(|one| scope.spawn(move || load(one))).collect();
        let end = Done(&done);
        come_and_go(&server, &home, kind, &rounds);
        drop(end);
        for load in loads {
            load.join().unwrap().unwrap();
        }
    });
    everybody_answers(&mut stations[1], other).unwrap();
    let log = server.log();
    assert!(!log.contains("ERROR") && !log.contains("dropped"), "{log}");
    assert!(server.terminate().success(), "{}", server.log());
}

/// Says that it is done, even when what was to be done has failed.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn sixty_four_targets_are_served_at_once_while_others_come_and_go_over_pcap() {
    many(LinkKind::Pcap);
}

#[test]
fn sixty_four_targets_are_served_at_once_while_others_come_and_go_over_af_packet() {
    many(LinkKind::AfPacket);
}
