//! Machines without a disk that boot from a target, by iPXE: from its command line, or by a card's ROM
//! that DHCP tells where its disk is.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aoe_server::link::LinkKind;

use crate::backend::{ARCHIVED, FILE, JOURNALLED, own};
use crate::common::net::ip;
use crate::common::server::of_this_thread;
use crate::machine::{Card, Machine, boot_file};
use crate::scene::{Case, Scene};
use crate::steps::Steps;

/// How long a machine may take to boot.
const BOOT: Duration = Duration::from_secs(90);
/// Octets of what the boot sector copies, from sector 2 to sector 10.
const COPIED: usize = 3 * 512;

/// A way to boot.
struct Way {
    card: &'static str,
    /// By the card's ROM, which asks DHCP; if not, by iPXE's command line.
    rom: bool,
    case: Case,
}

const WAYS: [Way; 4] = [
    Way {
        card: "virtio-net-pci",
        rom: false,
        case: Case { backend: &FILE, link: LinkKind::AfPacket, mtu: 1500 },
    },
    Way {
        card: "e1000",
        rom: false,
        case: Case { backend: &ARCHIVED, link: LinkKind::Pcap, mtu: 1500 },
    },
    Way {
        card: "virtio-net-pci",
        rom: true,
        case: Case { backend: &ARCHIVED, link: LinkKind::Pcap, mtu: 9000 },
    },
    Way {
        card: "e1000",
        rom: true,
        case: Case { backend: &JOURNALLED, link: LinkKind::AfPacket, mtu: 1500 },
    },
];

/// A DHCP server on an interface of the thread's namespace.
struct Dhcp(Child);

impl Dhcp {
    /// Gives out addresses and the disk e1.0 on the interface called `name`.
    fn start(name: &str, directory: &Path) -> Self {
        ip(&format!("addr add 192.0.2.1/24 dev {name}"));
        let leases = format!("--dhcp-leasefile={}", directory.join("leases").display());
        let interface = format!("--interface={name}");
        let args = [
            "--no-daemon",
            "--conf-file=/dev/null",
            "--user=root",
            "--port=0",
            "--bind-interfaces",
            "--no-ping",
            "--log-facility=-",
            "--dhcp-authoritative",
            "--dhcp-range=192.0.2.10,192.0.2.20",
            "--dhcp-option=option:root-path,aoe:e1.0",
            // Without an answer to its question for a router of IPv6 iPXE waits for 15 s.
            "--enable-ra",
            "--dhcp-range=fd00:ae::,ra-only",
        ];
        ip(&format!("addr add fd00:ae::1/64 dev {name} nodad"));
        let mut command = of_this_thread(Command::new("dnsmasq"), args);
        command.args([interface, leases]).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("dnsmasq is installed: scripts/setup --clients"))
    }
}

impl Drop for Dhcp {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Copies between the disk and a file.
fn copy(verb: &str, station: &str, file: &Path, more: &[&str]) {
    let file = file.to_str().unwrap();
    own(&[&[verb, "-i", station, "e1.0", file], more].concat());
}

fn start(way: &Way, tap: &str) -> Machine {
    let card = Card { model: way.card, rom: way.rom, tap };
    if way.rom {
        return Machine::start(card, &["-m", "64", "-boot", "n", "-serial", "stdio"]);
    }
    let (ipxe, line) = (boot_file("ipxe.lkrn"), "ifopen net0 && sanboot aoe:e1.0");
    let ipxe = ipxe.to_str().unwrap();
    Machine::start(card, &["-m", "64", "-kernel", ipxe, "-append", line, "-serial", "stdio"])
}

fn boots(way: &Way) {
    let Some(mut scene) = Scene::new(way.case, 1) else { return };
    let tap = scene.switch.add_tap(way.case.mtu);
    let station = scene.switch.stations[0].0.clone();
    let by = if way.rom { "ROM, DHCP" } else { "command line" };
    let steps = Steps::of(way.case.title("ipxe"));
    steps.step(&format!("boot by {by}, {}", way.card), || {
        let mut disk = fs::read(boot_file("boot")).unwrap();
        disk.resize(2 * 512, 0);
        disk.extend((0..=250).cycle().step_by(7).take(COPIED));
        let (there, back) = (scene.path("there"), scene.path("back"));
        fs::write(&there, &disk).unwrap();
        copy("write", &station, &there, &[]);
        let dhcp = way.rom.then(|| Dhcp::start(&station, &scene.path("")));
        let mut machine = start(way, tap);
        for said in ["boot sector runs", "read, written, compared"] {
            let heard = machine.hear(said, BOOT);
            assert!(heard.is_some(), "not heard: {said}; but:\n{}", machine.rest());
        }
        drop(machine);
        drop(dhcp);
        copy("read", &station, &back, &["--sectors", "13"]);
        let now_there = fs::read(&back).unwrap();
        assert!(now_there[10 * 512..] == disk[2 * 512..], "sectors 10 to 12 are no copy");
        assert!(now_there[..disk.len()] == disk[..], "the rest has changed");
        "its boot sector reads, writes, compares".into()
    });
    scene.end();
}

#[test]
#[ignore = "takes minutes: make test-clients"]
fn machines_boot_by_ipxe() {
    for way in &WAYS {
        boots(way);
    }
}
