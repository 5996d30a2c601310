//! A server that is used for long: by several clients at once, while it is reloaded, restarted, killed
//! and cut off, with every sector verified and an eye on what it takes from its machine.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use aoe_server::client::Client;
use aoe_server::clock::{Instant, now};
use aoe_server::link::LinkKind;
use aoe_server::protocol::Address;

use crate::backend::JOURNALLED;
use crate::common::net::{MAC_A, PATIENCE, within};
use crate::common::server::{ServerProcess, client, mem_target, packet_link};
use crate::common::stamper::{Chance, Stamper, check_stamps};
use crate::scene::{Case, Scene, read_units};
use crate::sender::process_number;

/// The targets that are written to, each by a client of its own.
const SLOTS: [u8; 4] = [0, 2, 3, ARCHIVED];
/// How many of a hundred requests of each read.
const READ_PERCENT: [u64; 4] = [20, 60, 80, 40];
/// The one that is kept in an archive; the others are in files.
const ARCHIVED: u8 = 4;
/// Units that each client writes again and again: two MiB.
const UNITS: usize = 2048;
/// How many servers live one after the other; every other one is killed.
const LIVES: u32 = 4;
/// How long the cable is cut off.
const CUT: Duration = Duration::from_millis(300);
/// Memory that the second half of a life may take beyond what the first half took, in KiB: some of the
/// tables of fixed size, and caches, are first used when many requests wait, and an index that is written
/// down is there twice.
const GROWTH_KIB: u64 = 24 << 10;
/// Files that an archive has open at most: twelve runs of its index, and packs that are written or read.
const ARCHIVE_FILES: usize = 24;

/// What a server takes from its machine.
#[derive(Debug, Clone, Copy)]
struct Takes {
    /// Without the index of its archive, which grows with every block until it is written down.
    memory_kib: u64,
    /// Without those that work for its archive: a commit makes some, and ends them.
    threads: usize,
    /// Without the files of its archive.
    descriptors: usize,
    archive_files: usize,
}

impl Takes {
    /// What it takes with nobody at its control socket: the least of some looks in a row, since who was
    /// there last goes in his own time.
    #[allow(clippy::disallowed_methods, reason = "time for whoever goes")]
    fn of(scene: &mut Scene) -> Self {
        let info: serde_json::Value =
            serde_json::from_str(&scene.control("store info --json")).unwrap();
        let index_kib = info["index"]["bytes"].as_u64().unwrap() >> 10;
        let looks = (0..5).map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            Self::look(scene.server(), index_kib)
        });
        let least = |one: Self, other: Self| Self {
            memory_kib: one.memory_kib.min(other.memory_kib),
            threads: one.threads.min(other.threads),
            descriptors: one.descriptors.min(other.descriptors),
            archive_files: one.archive_files.min(other.archive_files),
        };
        looks.reduce(least).unwrap()
    }

    fn look(server: &ServerProcess, index_kib: u64) -> Self {
        let files = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
        // One that was closed meanwhile leads nowhere.
        let files: Vec<_> =
            files.filter_map(|file| fs::read_link(file.unwrap().path()).ok()).collect();
        let of_archive = |file: &&PathBuf| file.iter().any(|part| part == "archive");
        let archive_files = files.iter().filter(of_archive).count();
        let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        // One that has ended meanwhile has no name.
        let names =
            tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
        Self {
            memory_kib: process_number(server, "RssAnon").saturating_sub(index_kib),
            threads: names.filter(|name| !name.starts_with("archive-")).count(),
            descriptors: files.len() - archive_files,
            archive_files,
        }
    }

    /// The most of each.
    fn most(of: &[Self]) -> Self {
        let most = |number: fn(&Self) -> usize| of.iter().map(number).max().unwrap_or(0);
        Self {
            memory_kib: of.iter().map(|takes| takes.memory_kib).max().unwrap_or(0),
            threads: most(|takes| takes.threads),
            descriptors: most(|takes| takes.descriptors),
            archive_files: most(|takes| takes.archive_files),
        }
    }
}

/// Prints what a life took, and makes sure that it did not take more and more.
fn judge(life: u32, takes: &[Takes]) {
    let (early, late) = takes.split_at(takes.len().div_ceil(2));
    let (early, late) = (Takes::most(early), Takes::most(late));
    let memory: Vec<_> = takes.iter().map(|takes| takes.memory_kib).collect();
    println!(
        "life {life}: {} threads, {} descriptors, {} files of the archive, memory in KiB {memory:?}",
        early.threads, early.descriptors, early.archive_files
    );
    assert!(late.memory_kib <= early.memory_kib + GROWTH_KIB, "memory grows");
    assert!(late.threads <= early.threads, "{} threads", late.threads);
    assert!(late.descriptors <= early.descriptors, "{} descriptors", late.descriptors);
    assert!(late.archive_files <= ARCHIVE_FILES, "{} files of the archive", late.archive_files);
}

/// How often what was done to the server.
#[derive(Debug, Default)]
struct Done {
    reloads: u32,
    cuts: u32,
    settings: u32,
    snapshots: u32,
    restarts: u32,
    kills: u32,
}

/// A client that writes and reads until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Stamper>>,
}

impl Load {
    fn start(scene: &Scene) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut chance = Chance::new();
        let threads = SLOTS.into_iter().zip(READ_PERCENT).zip(&scene.switch.stations);
        let threads = threads.map(|((slot, read_percent), station)| {
            let address = Address { shelf: 1, slot };
            chance.next();
            let link = packet_link(&station.0);
            let mut stamper = Stamper::new(link, MAC_A, address, UNITS, chance.clone());
            stamper.read_percent = read_percent;
            let stopped = Arc::clone(&stop);
            std::thread::spawn(move || work(stamper, &stopped))
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    /// Stops all clients; hands out what they know of their disks.
    fn end(self) -> Vec<Stamper> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

#[allow(clippy::disallowed_methods, reason = "others want the processor, too")]
fn work(mut stamper: Stamper, stop: &AtomicBool) -> Stamper {
    while !stop.load(Ordering::Relaxed) {
        stamper.turn();
        std::thread::sleep(Duration::from_micros(50));
    }
    stamper.finish();
    stamper
}

/// The further targets that are always there.
fn lasting() -> String {
    let archive = format!(
        "[[target]]\nshelf = 1\nslot = {ARCHIVED}\nbackend = \"cas\"\n[target.cas]\nsize = \"8 MiB\"\n\
         [target.cas.blob_store]\ntype = \"file\"\npath = \"{{dir}}/archive\"\njournal_size = \"8 MiB\"\n\
         commit_size = \"1 MiB\"\noverlay_size = \"4 MiB\"\ncache_size = \"1 MiB\"\n"
    );
    let files = SLOTS[1..].iter().filter(|slot| **slot != ARCHIVED);
    files.fold(archive, |text, slot| {
        text + &format!(
            "[[target]]\nshelf = 1\nslot = {slot}\nbackend = \"file\"\n\
             path = \"{{dir}}/disk-{slot}\"\nsize = \"8 MiB\"\n"
        )
    })
}

/// Makes a snapshot of the disk in the archive, reads it at another address while the disk changes, and
/// deletes it.
fn snapshot(scene: &Scene, station: &str) {
    let export = Address { shelf: 1, slot: 8 };
    scene.control("snapshot create e1.4@soak");
    scene.control("snapshot export e1.4@soak e1.8");
    let first = read_units(station, export, UNITS);
    check_stamps(&first).unwrap();
    assert!(read_units(station, export, UNITS) == first, "a snapshot has changed");
    scene.control("snapshot unexport e1.8");
    scene.control("snapshot delete e1.4@soak");
}

/// One of the things that are done to a server all the time.
#[allow(clippy::disallowed_methods, reason = "a cable is cut off for a while")]
fn disturb(scene: &mut Scene, watcher: &mut Client, round: u32, done: &mut Done) {
    let passing = Address { shelf: 1, slot: 9 };
    match round {
        0 | 1 => {
            let there = round == 0;
            let more = if there { mem_target(passing.slot, "1 MiB", "") } else { String::new() };
            scene.reload(lasting() + &more);
            let short = Duration::from_millis(100);
            let seen = within(PATIENCE, || {
                watcher.discover(passing, short, false).unwrap().is_empty() != there
            });
            assert!(seen, "the reload has no effect:\n{}", scene.server().log());
            done.reloads += 1;
        }
        2 => {
            let net = &scene.switch.net;
            net.down(net.b);
            std::thread::sleep(CUT);
            net.up(net.b);
            done.cuts += 1;
        }
        3 => {
            snapshot(scene, &scene.switch.stations[SLOTS.len()].0);
            done.snapshots += 1;
        }
        _ => {
            let text = format!("setting {}", done.settings);
            let e1_0 = Address { shelf: 1, slot: 0 };
            watcher.set_config_string(e1_0, text.as_bytes(), true).unwrap();
            assert_eq!(watcher.config_string(e1_0).unwrap().as_slice(), text.as_bytes());
            done.settings += 1;
        }
    }
}

/// One life of a server, until `end`; what it took at times, always with the same targets there.
#[allow(clippy::disallowed_methods, reason = "most of the time nothing is done to it")]
fn live(scene: &mut Scene, watcher: &mut Client, end: Instant, done: &mut Done) -> Vec<Takes> {
    let mut takes = Vec::new();
    while now() < end {
        for round in 0..5 {
            disturb(scene, watcher, round, done);
            std::thread::sleep(Duration::from_millis(500));
        }
        takes.push(Takes::of(scene));
    }
    takes
}

fn soak(case: Case, whole: Duration) {
    let stations = u8::try_from(SLOTS.len() + 1).unwrap();
    let Some(mut scene) = Scene::with(case, stations, |_| lasting()) else { return };
    println!("soak: {} s over {}, MTU {}, {SLOTS:?}", whole.as_secs(), case.link, case.mtu);
    let mut watcher = client(&scene.switch.stations[SLOTS.len()].0);
    let load = Load::start(&scene);
    let (mut done, start) = (Done::default(), now());
    for life in 1..=LIVES {
        let end = start.after(whole * life / LIVES);
        judge(life, &live(&mut scene, &mut watcher, end, &mut done));
        if life.is_multiple_of(2) {
            scene.crash(Duration::from_millis(100));
            done.kills += 1;
        } else {
            scene.restart();
            done.restarts += 1;
        }
    }
    let stampers = load.end();
    println!("{done:?}");
    for (slot, mut stamper) in SLOTS.into_iter().zip(stampers) {
        let address = Address { shelf: 1, slot };
        let Stamper { acknowledged, confirmed, longest_gap, .. } = stamper;
        println!(
            "{address}: {acknowledged} writes acknowledged, {confirmed} reads verified, longest wait \
             {longest_gap:.1?}"
        );
        assert_eq!(stamper.failures, []);
        assert!(acknowledged > 0 && confirmed > 0, "{address} was not used");
        let faults = stamper.check(&read_units(&scene.switch.stations[0].0, address, UNITS));
        assert!(faults.is_empty(), "{address}: {faults:#?}");
    }
    scene.end();
    println!("every sector is as it was acknowledged; nothing has grown");
}

#[test]
#[ignore = "takes as long as it is told: make soak-server MINUTES=10"]
fn soak_server() {
    let minutes = std::env::var("MINUTES").unwrap_or_default();
    let minutes: f64 = minutes.parse().expect("MINUTES is a number");
    let case = Case { backend: &JOURNALLED, link: LinkKind::AfPacket, mtu: 9000 };
    soak(case, Duration::from_secs_f64(minutes * 60.0));
}
