//! A station that means it ill: floods of every kind of frame that nobody should send, as fast as they
//! can be sent, beside a client that only wants its disk.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use aoe_server::client::MaskChange;
use aoe_server::clock::now;
use aoe_server::link::{BATCH_FRAMES, FramePool, Link, LinkKind};
use aoe_server::protocol::{Address, MacAddr};
use serde_json::Value;

use crate::backend::FILE;
use crate::common::capture::run;
use crate::common::net::{MAC_A, Switch, within};
use crate::common::server::{PROGRAM, ServerProcess, client, mem_target, packet_link};
use crate::common::stamper::Chance;
use crate::scene::{Case, Scene};
use crate::steps::Steps;

/// The target of the client, which nobody else may use by `allow`.
const ALLOWED: Address = Address { shelf: 1, slot: 2 };
/// A target that nobody else may use by its MAC mask.
const MASKED: Address = Address { shelf: 1, slot: 3 };
/// Frames that are made of each kind, to be sent again and again.
const FRAMES: usize = 1024;
/// How long each flood lasts, in seconds.
const SECONDS: &str = "3";
/// How long the client waits for an answer before it gives up: much shorter than Linux does.
const PATIENCE_MS: &str = "12000";
/// How long a flood may take to touch all memory that there is for it, tables of fixed size.
const WARM_UP: Duration = Duration::from_millis(700);
/// Memory that it may make the server take after that, in KiB: nothing, but for what chance has not
/// touched before.
const GROWTH_KIB: u64 = 1024;
/// Bytes that a flood may make the server log: some lines a second.
const LOGGED: usize = 8 << 10;
/// All but one percent of the client's requests take less. Where the flood overflows the kernel's queue
/// frames of the client are lost with the rest, and sent again after a fifth of a second, two fifths,
/// and so on.
const P99_US: f64 = 5e6;

/// What is sent.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Octets by chance, with the right protocol.
    Random,
    /// Requests that end too early.
    Truncated,
    /// Requests that are longer than they say, or ask for more than there is.
    Oversize,
    /// Requests in the name of others, and of stations that cannot be. (Who sends in the name of the
    /// server, or of a client, has the switch send him what is theirs: no server can help that.)
    Spoofed,
    /// Requests to every target at once, by broadcast.
    Wildcard,
    /// What servers answer: the server's own replies, and replies of servers that are none.
    Reflected,
}

const KINDS: [(Kind, &str, &str); 6] = [
    (Kind::Random, "random octets", "other_target"),
    (Kind::Truncated, "truncated", "malformed"),
    (Kind::Oversize, "oversize", "ata_errors"),
    (Kind::Spoofed, "spoofed sources", "unheard"),
    (Kind::Wildcard, "wildcards", "unheard"),
    (Kind::Reflected, "reflected replies", "responses"),
];

/// Everybody.
const BROADCAST: MacAddr = MacAddr([0xff; 6]);

/// A frame: its addresses, and 16 octets of header and registers, written by hand.
fn request(to: MacAddr, from: MacAddr, address: (u16, u8), command: u8, tag: u64) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    frame.extend([0x88, 0xa2, 0x10, 0]);
    frame.extend(address.0.to_be_bytes());
    frame.extend([address.1, command]);
    frame.extend(&tag.to_be_bytes()[4..]);
    frame
}

/// A read (24h) or write (34h) of `count` sectors at `lba`, with `data` octets behind it.
fn ata(mut frame: Vec<u8>, opcode: u8, lba: u64, count: u8, data: usize) -> Vec<u8> {
    let flags = if opcode == 0x34 { 0x41 } else { 0x40 };
    frame.extend([flags, 0, count, opcode]);
    frame.extend(&lba.to_le_bytes()[..6]);
    frame.extend([0, 0]);
    frame.resize(frame.len() + data, 0xbd);
    frame
}

/// One frame of a kind, from the station `own`, on a segment of `mtu`.
fn frame(kind: Kind, chance: &mut Chance, own: MacAddr, mtu: usize) -> Vec<u8> {
    let tag = chance.next();
    let slot = u8::try_from(chance.below(4)).expect("small");
    let lba = chance.below(2048);
    let [_, _, m2, m3, m4, m5, ..] = chance.next().to_be_bytes();
    let other = MacAddr([0x02, 0xbd, m2, m3, m4, m5]);
    let to = |from, slot, command| request(MAC_A, from, (1, slot), command, tag);
    let write = |from, slot| ata(to(from, slot, 0), 0x34, lba, 2, 1024);
    match kind {
        Kind::Random => {
            let mut frame = [MAC_A.0, own.0].concat();
            frame.extend([0x88, 0xa2]);
            let len = chance.below(1500);
            frame.extend((0..len).map(|_| chance.next().to_be_bytes()[0]));
            frame
        }
        Kind::Truncated => {
            let mut frame = write(own, slot);
            frame.truncate(14 + usize::try_from(chance.below(22)).expect("small"));
            frame
        }
        Kind::Oversize => match chance.below(3) {
            // More sectors than fit a frame, more than the disk has, more data than was told.
            0 => ata(to(own, slot % 2, 0), 0x24, lba, 255, 0),
            1 => ata(to(own, slot % 2, 0), 0x34, 1 << 47, 2, mtu - 22),
            _ => ata(to(own, 1, 0), 0x34, lba, 1, mtu - 22),
        },
        Kind::Spoofed => {
            let group = MacAddr([0x01, 0, 0x5e, m3, m4, m5]);
            let from = [other, other, group, BROADCAST][usize::from(slot)];
            write(from, ALLOWED.slot + (m5 & 1))
        }
        Kind::Wildcard => {
            let address =
                [(0xffff, 0xff), (1, 0xff), (0xffff, ALLOWED.slot)][usize::from(slot % 3)];
            match chance.below(3) {
                0 => {
                    let mut query = request(BROADCAST, own, address, 1, tag);
                    query.extend([0; 8]);
                    query
                }
                1 => ata(request(BROADCAST, own, address, 0, tag), 0x24, lba, 2, 0),
                _ => ata(request(BROADCAST, own, (1, MASKED.slot), 0, tag), 0x34, lba, 2, 1024),
            }
        }
        Kind::Reflected => {
            let from = [own, other][usize::from(slot % 2)];
            let mut frame = if chance.below(2) == 0 {
                let mut claim = request(BROADCAST, from, (1, ALLOWED.slot), 1, tag);
                claim.extend([0, 16, 0, 1, 2, 0x10, 0, 0]);
                claim
            } else {
                write(from, ALLOWED.slot)
            };
            frame[14] = 0x18;
            frame
        }
    }
}

/// A thread that sends frames of one kind until it is ended.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Duration)>,
}

impl Flood {
    fn start(kind: Kind, station: &(String, MacAddr), mtu: usize) -> Self {
        let mut chance = Chance::new();
        let frames: Vec<_> =
            (0..FRAMES).map(|_| frame(kind, &mut chance, station.1, mtu)).collect();
        let mut link = packet_link(&station.0);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut sent, start) = (0, now());
            let mut frames = frames.iter().cycle();
            let mut pool = FramePool::new(BATCH_FRAMES);
            while !stopped.load(Ordering::Relaxed) {
                let mut batch = pool.batch();
                batch.clear();
                while batch.room() > 0 && batch.push(frames.next().expect("there are some")) {}
                // What is not taken is not sent: there is more where it came from.
                sent += link.send(&batch, 0).expect("the link sends") as u64;
            }
            (sent, now().since(start))
        });
        Self { stop, thread }
    }

    /// Ends it; tells how many frames it has sent, and how many in a second.
    fn end(self) -> (u64, f64) {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, took) = self.thread.join().expect("the flood does not panic");
        #[expect(clippy::cast_precision_loss, reason = "a rate is approximate")]
        let rate = sent as f64 / took.as_secs_f64();
        (sent, rate)
    }
}

/// A number of the server's process: `RssAnon` is what it has in memory by itself, in KiB.
pub(crate) fn process_number(server: &ServerProcess, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The sum of a counter over targets and links, as the server logs them.
fn counter(server: &ServerProcess, name: &str) -> u64 {
    let counters = server.counters();
    let label = format!(" {name}: ");
    let values = counters.match_indices(&label).map(|(at, found)| {
        let digits = counters[at + found.len()..].chars().take_while(char::is_ascii_digit);
        digits.collect::<String>().parse::<u64>().unwrap()
    });
    values.sum()
}

/// Reads and writes of the client, all verified: how fast, how slow at worst.
fn well_behaved(station: &str) -> (f64, f64, String) {
    let line = format!(
        "bench -i {station} e1.2 --json --verify --destroy --write-percent 30 --depth 4 --sectors 2 \
         --length 2048 --seconds {SECONDS} --timeout-ms {PATIENCE_MS}"
    );
    let ran = run(PROGRAM, &line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.error);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let p99 = |kind: &str| number(&report[kind]["p99"]);
    let worst = p99("read_latency_us").max(p99("write_latency_us"));
    let rate = (number(&report["reads"]) + number(&report["writes"])) / number(&report["seconds"]);
    (rate, worst, report["retransmissions"].to_string())
}

/// A flood of one kind beside the client.
#[allow(clippy::disallowed_methods, reason = "a flood needs time to rise")]
fn flood(scene: &mut Scene, kind: Kind, name: &str, told_by: &str) -> String {
    let (station, enemy) = (scene.switch.stations[0].0.clone(), scene.switch.stations[1].clone());
    let mtu = scene.case.mtu;
    let server = scene.server();
    let before = (counter(server, told_by), server.log().len());
    let flood = Flood::start(kind, &enemy, mtu);
    std::thread::sleep(WARM_UP);
    let memory = process_number(server, "RssAnon");
    let (rate, p99, again) = well_behaved(&station);
    let (sent, flood_rate) = flood.end();
    // It has taken what waited.
    let settled =
        within(Duration::from_secs(5), || !client(&station).locate(ALLOWED).unwrap().is_empty());
    assert!(settled, "it does not answer any more");
    let after = (server.log().len(), process_number(server, "RssAnon"), counter(server, told_by));
    let (told, grown) = (after.2 - before.0, after.1.saturating_sub(memory));
    let logged = after.0 - before.1;
    assert!(told > sent / 100, "{name}: of {sent} frames {told_by} tells {told}");
    assert!(grown <= GROWTH_KIB, "{name}: {grown} KiB more memory");
    assert!(logged <= LOGGED, "{name}: {logged} bytes logged:\n{}", server.log());
    assert!(p99 < P99_US, "{name}: the slowest percent takes {p99} us");
    format!(
        "{flood_rate:.0} frames/s; the client {rate:.0} I/O/s, p99 {p99:.0} us, {again} sent again; \
         {told_by} +{told}, memory +{grown} KiB, log +{logged} B"
    )
}

/// The client's two targets.
fn targets(switch: &Switch) -> String {
    let allow = format!("durability = \"volatile\"\nallow = [\"{}\"]", switch.stations[0].1);
    mem_target(ALLOWED.slot, "4 MiB", &allow)
        + &mem_target(MASKED.slot, "4 MiB", "durability = \"volatile\"")
}

fn floods(case: Case) {
    let Some(mut scene) = Scene::with(case, 2, targets) else { return };
    let steps = Steps::of(case.title("sender"));
    let (station, mac) = scene.switch.stations[0].clone();
    steps.step("nobody else", || {
        let masked = client(&station).change_mask(MASKED, &[MaskChange::Add(mac)]);
        assert!(masked.is_ok(), "{masked:?}");
        let (rate, p99, again) = well_behaved(&station);
        format!("the client {rate:.0} I/O/s, p99 {p99:.0} us, {again} sent again")
    });
    for (kind, name, told_by) in KINDS {
        steps.step(name, || flood(&mut scene, kind, name, told_by));
    }
    steps.step("mask and `allow` hold", || {
        // What the client has written was verified all along. Here nothing was ever written.
        let image = scene.path("masked");
        let read = format!("read -i {station} e1.3 {}", image.display());
        let ran = run(PROGRAM, &read.split(' ').collect::<Vec<_>>());
        assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.error);
        let octets = fs::read(&image).unwrap();
        assert!(octets.len() == 4 << 20 && octets.iter().all(|octet| *octet == 0), "written to");
        let unheard = counter(scene.server(), "unheard");
        format!("{unheard} requests of others were not heard, none has written")
    });
    let status = scene.server().terminate();
    assert!(status.success(), "it ended with {status}");
}

#[test]
#[ignore = "takes minutes: make test-clients"]
fn hostile_senders_stop_nobody_over_af_packet() {
    floods(Case { backend: &FILE, link: LinkKind::AfPacket, mtu: 9000 });
}

#[test]
#[ignore = "takes minutes: make test-clients"]
fn hostile_senders_stop_nobody_over_pcap() {
    floods(Case { backend: &FILE, link: LinkKind::Pcap, mtu: 1500 });
}
