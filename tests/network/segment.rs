//! Items 89 to 92: floods of garbage, several interfaces, several servers, VLANs. And interfaces
//! that vanish.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aoe_server::link::LinkKind;
use aoe_server::protocol::MacAddr;

use super::report::{Check, Item, Report, ensure, item};
use super::station::{Ask, GUARD, NOBODY, Station, pattern};
use super::{PEER, SERVED};
use crate::common::net::{MAC_A, MAC_B, PATIENCE, TestNet, ip, wait_until_up, within};
use crate::common::server::{Home, ServerProcess};

/// Each item has a network and servers of its own here.
pub(crate) const ITEMS: &[Item<Scene>] = &[
    item(89, "garbage does not disturb who behaves well, and no response is answered", garbage),
    item(89, "frames of 65000 octets do no harm", giants),
    item(90, "a reply leaves by the link, and with the address, that was asked", two_links),
    item(91, "a server does not start on an address that is taken", address_taken),
    item(91, "a server that comes later at the same address is reported", late_comer),
    item(92, "a tagged frame is not answered", tagged),
];

/// What a check starts from.
pub(crate) struct Scene {
    kind: LinkKind,
    net: TestNet,
}

/// The configuration of a server for `interfaces` with e7.3 and a guard, in memory; `more` goes to
/// the table of the server.
fn config(kind: LinkKind, interfaces: &str, more: &str) -> String {
    let (shelf, slot) = GUARD;
    format!(
        r#"
        [server]
        interfaces = [{interfaces}]
        link = "{kind}"
        state_dir = "{{dir}}/state"
        probe_ms = 60
        {more}

        [[target]]
        shelf = 7
        slot = 3
        backend = "file"
        path = "{{dir}}/disk.img"
        size = "4 MiB"

        [[target]]
        shelf = {shelf}
        slot = {slot}
        backend = "mem"
        size = "64 KiB"
        durability = "volatile"
        allow = ["{MAC_B}", "{MAC_D}"]
        "#
    )
}

fn scene_config(scene: &Scene) -> String {
    config(scene.kind, &format!("\"{SERVED}\""), "")
}

/// Ends a server in good order.
fn end(mut server: ServerProcess) -> Check {
    let log = server.log();
    ensure!(!log.contains("panicked"), "{log}");
    let status = server.terminate();
    ensure!(status.success(), "the server ended with {status}:\n{log}");
    Ok(())
}

/// Numbers as if by chance, the same for the same seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn octet(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    /// One of `choices`.
    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.next() >> 33).expect("31 bits") % choices.len()]
    }
}

/// Whence garbage comes that may be answered.
const NOISY: MacAddr = MacAddr([0x02, 0xae, 0, 0, 0, 0x66]);
/// Whence garbage comes that must not be: responses.
const RESPONDING: MacAddr = MacAddr([0x02, 0xae, 0, 0, 0, 0x99]);

/// A frame that is AoE in part, from `RESPONDING` if it is a response.
fn nonsense(chance: &mut Chance) -> Vec<u8> {
    let (anything, whatever) = (chance.octet(), chance.octet());
    let first = chance.one_of(&[0x10, 0x10, 0x10, 0x18, 0x1c, 0x08, anything]);
    let from = if first & 0x08 == 0 { NOISY } else { RESPONDING };
    let len = chance.one_of(&[0, 1, 2, 4, 7, 8, 11, 12, 36, 100, 524, 1036, 4108, 8976]);
    let mut arg: Vec<u8> = (0..len).map(|_| chance.octet()).collect();
    if len >= 12 && chance.octet() < 128 {
        // An opcode and a count that come far.
        arg[2] = chance.one_of(&[0, 1, 2, 8, 16, 17, 255]);
        arg[3] = chance.one_of(&[0x24, 0x34, 0x20, 0x30, 0xec, 0xe7, 0xea, 0x06, 0x42]);
        arg[5..10].fill(0);
    }
    let ask = Ask {
        to: chance.one_of(&[MAC_A, MAC_A, MacAddr::BROADCAST, NOBODY]),
        from,
        first,
        error: chance.octet(),
        shelf: chance.one_of(&[7, 7, 0xffff, 65, 8]),
        slot: chance.one_of(&[3, 3, 0xff, 1]),
        command: chance.one_of(&[0, 0, 0, 1, 2, 3, whatever]),
        tag: 0x6600_0000 | u32::from(chance.octet()),
        arg,
    };
    let mut octets = ask.octets();
    if chance.octet() < 8 {
        octets.truncate(14 + usize::from(chance.octet()) % 11);
    }
    octets
}

/// Sends 20000 frames of nonsense; complains if one that is a response is answered.
fn flood(seed: u64) -> Check {
    const FRAMES: usize = 20_000;
    let mut chance = Chance(seed);
    let mut station = Station::open();
    let mut heard = 0;
    for _ in 0..FRAMES / 50 {
        let frames: Vec<_> = (0..50).map(|_| nonsense(&mut chance)).collect();
        station.send(&frames)?;
        for reply in station.receive() {
            heard += 1;
            ensure!(reply.destination() != RESPONDING.0, "a response is answered: {reply:?}");
            ensure!(reply.0.len() >= 60, "{reply:?}");
        }
    }
    // Some of the replies, at least, must have been seen for this to mean anything.
    ensure!(heard > 0, "nothing was answered at all");
    Ok(())
}

fn garbage(scene: &mut Scene) -> Check {
    const SEED: u64 = 0x0a0e_5eed_0000_0089;
    let server = ServerProcess::start(&scene_config(scene));
    let flooded = AtomicBool::new(false);
    // It hears what is for its own address only.
    let mut reader = Station::open_on(PEER, MAC_B, MAC_A, false);
    let data = pattern(89, 8);
    let write = reader.write(16, &data).at(GUARD.0, GUARD.1);
    ensure!(reader.ask(&write)?.succeeded(), "cannot write");
    let (flooding, reading) = std::thread::scope(|scope| {
        // Threads are in the network namespace of the thread that starts them.
        let flooder = scope.spawn(|| {
            let result = flood(SEED);
            flooded.store(true, Ordering::Relaxed);
            result
        });
        let mut reads = 0;
        let mut read = || -> Check {
            while reads < 200 || !flooded.load(Ordering::Relaxed) {
                let ask = reader.read(16, 8).at(GUARD.0, GUARD.1);
                let reply = answered(&mut reader, &ask)?;
                ensure!(reply.succeeded() && reply.data() == data, "read {reads}: {reply:?}");
                reads += 1;
            }
            Ok(())
        };
        let reading = read();
        (flooder.join(), reading)
    });
    let seed = format!("seed {SEED:016x}:\n{}", server.log());
    flooding.map_err(|_| format!("panicked, {seed}"))?.map_err(|why| format!("{why}, {seed}"))?;
    reading.map_err(|why| format!("{why}, {seed}"))?;
    end(server)
}

/// Asks as initiators do: again, when a flood has swept a frame away.
fn answered(station: &mut Station, ask: &Ask) -> Result<super::station::Reply, String> {
    let mut found = None;
    let came = within(PATIENCE, || {
        let _ = station.send(&[ask.octets()]);
        within(Duration::from_millis(200), || {
            found = station.receive().into_iter().find(|reply| reply.tag() == ask.tag);
            found.is_some()
        })
    });
    ensure!(came, "no answer to {ask:02x?}");
    found.ok_or_else(|| "no answer".into())
}

fn giants(scene: &mut Scene) -> Check {
    scene.net.set_mtu(65_535);
    let server = ServerProcess::start(&scene_config(scene));
    let mut station = Station::open();
    // The links of this package send no such frames.
    let capture = pcap::Capture::from_device(PEER).and_then(pcap::Capture::open);
    let mut capture = capture.map_err(|error| error.to_string())?;
    let asks = [
        station.config(4, b"giant"),
        station.write(0, &[0x77; 512]),
        station.read(0, 1),
        station.mask(1, &[(1, NOBODY)]),
        station.request(0x44, Vec::new()),
    ];
    for ask in asks {
        for len in [9_300, 65_000] {
            let mut frame = ask.octets();
            frame.resize(len, 0xa5);
            capture.sendpacket(&frame[..]).map_err(|error| error.to_string())?;
        }
    }
    let ask = station.config(0, b"");
    let reply = station.persist(&ask)?;
    // No frame that long is taken, and the sector count does not promise any.
    ensure!(reply.string().is_empty() && reply.offer().1 == 16, "{reply:?}");
    end(server)
}

/// The addresses of the second cable.
const MAC_C: MacAddr = MacAddr([0x02, 0xae, 0, 0, 1, 0x0c]);
const MAC_D: MacAddr = MacAddr([0x02, 0xae, 0, 0, 1, 0x0d]);

fn two_links(scene: &mut Scene) -> Check {
    ip(&format!(
        "link add aoe-c mtu 9000 address {MAC_C} type veth peer name aoe-d mtu 9000 address {MAC_D}"
    ));
    for name in ["aoe-c", "aoe-d"] {
        ip(&format!("link set {name} up"));
    }
    for name in ["aoe-c", "aoe-d"] {
        wait_until_up(name);
    }
    let server = ServerProcess::start(&config(scene.kind, "\"aoe-a\", \"aoe-c\"", ""));
    let mut one = Station::open();
    let mut two = Station::open_on("aoe-d", MAC_D, MAC_C, true);
    for round in 0..20 {
        both_ways(&mut one, &mut two, round)?;
    }
    // Neither has heard an answer to the other's questions.
    for station in [&mut one, &mut two] {
        let strays = station.exchange(&[], 0)?;
        ensure!(strays.is_empty(), "{strays:?}");
    }
    let strays = one.asides.iter().chain(&two.asides);
    let strays: Vec<_> = strays.filter(|frame| !frame.is_announcement()).collect();
    ensure!(strays.is_empty(), "{strays:?}");
    end(server)
}

/// Asks on both links, in turn and for one disk: replies are checked for their source.
fn both_ways(one: &mut Station, two: &mut Station, round: u32) -> Check {
    let data = pattern(round, 16);
    let write = one.write(0, &data);
    let frames = one.exchange(&[write.octets()], 1)?;
    ensure!(frames.len() == 1 && frames[0].source() == MAC_A.0, "{frames:?}");
    for broadcast in [false, true] {
        let mut read = two.read(0, 16);
        if broadcast {
            read = read.broadcast();
        }
        let frames = two.exchange(&[read.octets()], 1)?;
        let [reply] = &frames[..] else { return Err(format!("{frames:?}")) };
        ensure!(reply.source() == MAC_C.0 && reply.destination() == MAC_D.0, "{reply:?}");
        ensure!(reply.data() == data, "the links lead to different disks");
    }
    Ok(())
}

fn address_taken(scene: &mut Scene) -> Check {
    let server = ServerProcess::start(&scene_config(scene));
    let home = Home::new();
    let second = config(scene.kind, &format!("\"{PEER}\""), "");
    let mut refused = ServerProcess::spawn(&home, ServerProcess::serving(&home, &second));
    let (status, log) = (refused.wait(), refused.log());
    ensure!(status.code() == Some(2), "the second server ended with {status}:\n{log}");
    let says = format!("target e7.3 is served already by {MAC_A} on {PEER}");
    ensure!(log.contains(&says), "the second server lacks \"{says}\":\n{log}");
    // The first one goes on.
    let mut station = Station::open();
    let ask = station.read(0, 1);
    ensure!(station.ask(&ask)?.succeeded(), "the first server does not serve");
    end(server)
}

fn late_comer(scene: &mut Scene) -> Check {
    let server = ServerProcess::start(&scene_config(scene));
    // One that does not look before it serves.
    let careless = config(scene.kind, &format!("\"{PEER}\""), "probe = false");
    let careless = ServerProcess::start(&careless);
    let log = server.wait_for_log(&format!("{MAC_B} serves e7.3 too"));
    let line = log.lines().find(|line| line.contains("serves e7.3 too")).unwrap_or_default();
    ensure!(line.contains("ERROR") && line.contains(SERVED), "{line}");
    end(careless)?;
    end(server)
}

fn tagged(scene: &mut Scene) -> Check {
    let server = ServerProcess::start(&scene_config(scene));
    let mut station = Station::open();
    let asks = [
        station.config(0, b""),
        station.config(0, b"").broadcast().at(0xffff, 0xff),
        station.identify(),
        station.write(0, &[0x77; 512]),
    ];
    for ask in asks {
        for tag in [[0x81, 0x00, 0x00, 0x05], [0x88, 0xa8, 0x60, 0x05]] {
            let mut frame = ask.octets();
            frame.splice(12..12, tag);
            station.silence_to(&frame)?;
        }
    }
    let ask = station.read(0, 1);
    ensure!(station.ask(&ask)?.data() == [0; 512], "a tagged write was done");
    end(server)
}

/// Tries the items with `number`, each on a cable of its own.
fn try_items(kind: LinkKind, number: u8) {
    let mut report = Report::new(kind);
    for item in ITEMS.iter().filter(|item| item.number == number) {
        let Some(net) = TestNet::new(9000) else { return };
        report.run(item, &mut Scene { kind, net });
    }
    report.conclude("");
}

/// A test for both kinds of links.
macro_rules! on_both_links {
    ($($pcap:ident, $af_packet:ident, $number:literal;)+) => {
        $(
            #[test]
            fn $pcap() {
                try_items(LinkKind::Pcap, $number);
            }

            #[test]
            fn $af_packet() {
                try_items(LinkKind::AfPacket, $number);
            }
        )+
    };
}

on_both_links! {
    garbage_does_no_harm_over_pcap, garbage_does_no_harm_over_af_packet, 89;
    replies_leave_by_the_link_that_was_asked_over_pcap,
    replies_leave_by_the_link_that_was_asked_over_af_packet, 90;
    two_servers_at_one_address_are_noticed_over_pcap,
    two_servers_at_one_address_are_noticed_over_af_packet, 91;
    tagged_frames_are_not_answered_over_pcap, tagged_frames_are_not_answered_over_af_packet, 92;
}

/// Takes the cable away under a running server, and lays another of the same name.
fn recreate(kind: LinkKind) {
    let Some(net) = TestNet::new(9000) else { return };
    let scene = Scene { kind, net };
    let mut server = ServerProcess::start(&scene_config(&scene));
    let data = pattern(1, 16);
    let mut station = Station::open();
    let write = station.write(8, &data);
    assert!(station.ask(&write).unwrap().succeeded());
    for mtu in [9000, 1500] {
        drop(station);
        scene.net.delete();
        scene.net.create(mtu);
        station = Station::open();
        let read = station.read(8, 2);
        let reply = answered(&mut station, &read).unwrap();
        assert!(reply.succeeded() && reply.data() == &data[..1024], "{reply:?}");
        let query = station.config(0, b"");
        let sectors = answered(&mut station, &query).unwrap().offer().1;
        assert_eq!(sectors, if mtu == 9000 { 16 } else { 2 });
        assert!(server.is_running());
    }
    end(server).unwrap();
}

#[test]
fn an_interface_that_was_deleted_and_made_anew_is_served_again_over_pcap() {
    recreate(LinkKind::Pcap);
}

#[test]
fn an_interface_that_was_deleted_and_made_anew_is_served_again_over_af_packet() {
    recreate(LinkKind::AfPacket);
}
