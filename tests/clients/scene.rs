//! What clients meet: a switch with a server on it, whose targets may be kept in several ways.

use std::fs;
use std::path::Path;
use std::time::Duration;

use aoe_server::client::Range;
use aoe_server::link::LinkKind;
use aoe_server::protocol::Address;
use aoe_server::units::{Lba, Sectors};

use crate::backend::{ARCHIVED, Backend, FILE, JOURNALLED, control};
use crate::common::capture::run;
use crate::common::net::Switch;
use crate::common::server::{Home, ServerProcess, client};
use crate::common::stamper::{UNIT, UNIT_SECTORS};

/// Sectors of e1.0: an odd number of them.
pub(crate) const SECTORS: u64 = (64 << 11) + 3;
/// The disk of e1.1, which is read-only.
const READ_ONLY: &str = "read-only";
/// What a file on e1.1 says.
pub(crate) const GREETING: &str = "written before it was exported";

/// What a scenario varies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// How disks are kept.
    pub(crate) backend: &'static Backend,
    /// The kind of link that the server uses.
    pub(crate) link: LinkKind,
    /// The MTU of the segment.
    pub(crate) mtu: usize,
}

/// Both links, both MTUs, every way to keep disks: each pair of them at least once.
pub(crate) const CASES: [Case; 6] = [
    Case { backend: &FILE, link: LinkKind::AfPacket, mtu: 9000 },
    Case { backend: &FILE, link: LinkKind::Pcap, mtu: 1500 },
    Case { backend: &JOURNALLED, link: LinkKind::AfPacket, mtu: 1500 },
    Case { backend: &JOURNALLED, link: LinkKind::Pcap, mtu: 9000 },
    Case { backend: &ARCHIVED, link: LinkKind::AfPacket, mtu: 9000 },
    Case { backend: &ARCHIVED, link: LinkKind::Pcap, mtu: 1500 },
];

impl Case {
    /// What results are printed under.
    pub(crate) fn title(&self, scenario: &str) -> String {
        format!("{scenario} {} {} {}", self.backend.name, self.link, self.mtu)
    }

    /// The most octets of data in a frame.
    pub(crate) fn payload(&self) -> usize {
        if self.mtu == 9000 { 8192 } else { 1024 }
    }
}

/// A server on a switch of its own.
pub(crate) struct Scene {
    /// What it varies.
    pub(crate) case: Case,
    /// The switch; the server is on the interface `net.a`.
    pub(crate) switch: Switch,
    home: Home,
    server: Option<ServerProcess>,
    /// Further targets.
    more: String,
}

impl Scene {
    /// Starts a server that exports a disk of zeros as e1.0, and a read-only one as e1.1.
    pub(crate) fn new(case: Case, stations: u8) -> Option<Self> {
        Self::with(case, stations, |_| String::new())
    }

    /// The same, with what else `more` makes of the switch.
    pub(crate) fn with(
        case: Case,
        stations: u8,
        more: impl FnOnce(&Switch) -> String,
    ) -> Option<Self> {
        let switch = Switch::new(case.mtu, stations)?;
        let home = Home::new();
        case.backend.make(&home, SECTORS);
        make_read_only_image(&home);
        let more = more(&switch);
        let mut scene = Self { case, switch, home, server: None, more };
        scene.start();
        Some(scene)
    }

    fn config(&self) -> String {
        let Case { backend, link, .. } = self.case;
        let text = format!(
            "[server]\ninterface = \"{}\"\nlink = \"{link}\"\nstate_dir = \"{{dir}}/state\"\n\
             probe_ms = 50\n{}\n\
             [[target]]\nshelf = 1\nslot = 0\n{}\n\
             [[target]]\nshelf = 1\nslot = 1\nbackend = \"file\"\npath = \"{{dir}}/{READ_ONLY}\"\n\
             read_only = true\n{}",
            self.switch.net.a, backend.server, backend.target, self.more
        );
        text.replace("{dir}", self.path("").to_str().expect("a path of text"))
    }

    /// Starts the server, which was ended or killed.
    pub(crate) fn start(&mut self) {
        self.server = Some(ServerProcess::start_in(&self.home, &self.config()));
    }

    /// The server, which runs.
    pub(crate) fn server(&mut self) -> &mut ServerProcess {
        self.server.as_mut().expect("it was started")
    }

    /// Ends the server in good order, with no error in its log.
    pub(crate) fn end(&mut self) {
        let mut server = self.server.take().expect("it was started");
        let status = server.terminate();
        let log = server.log();
        assert!(status.success() && !log.contains(" ERROR "), "it ended with {status}:\n{log}");
    }

    /// Kills the server, and has another one take its place after a while.
    #[allow(clippy::disallowed_methods, reason = "an outage takes its time")]
    pub(crate) fn crash(&mut self, outage: Duration) {
        self.server.take().expect("it was started").kill();
        std::thread::sleep(outage);
        self.start();
    }

    /// Ends the server in good order, and starts it again.
    pub(crate) fn restart(&mut self) {
        self.end();
        self.start();
    }

    /// Changes the further targets while all are served.
    pub(crate) fn reload(&mut self, more: String) {
        self.more = more;
        let config = self.config();
        self.server().reload(&config);
    }

    /// Makes e1.0 so many sectors long while it is served.
    pub(crate) fn resize(&mut self, sectors: u64) {
        let server = self.server.as_ref().expect("it was started");
        self.case.backend.resize(&self.home, server, sectors);
    }

    /// Has the server do something by its control socket.
    #[track_caller]
    pub(crate) fn control(&self, line: &str) -> String {
        control(&self.home, &line.split(' ').collect::<Vec<_>>())
    }

    /// The checksum of octets of the disk, as `sha256sum` prints it; `None` where the disk is no
    /// file.
    pub(crate) fn checksum(&self, from: u64, count: u64) -> Option<String> {
        let image = self.case.backend.live_image(&self.home)?;
        Some(shell(&format!(
            "dd if={} iflag=skip_bytes,count_bytes bs=64k skip={from} count={count} status=none \
             | sha256sum",
            image.display()
        )))
    }

    /// Has the file system on the disk checked, which the server must have let go of.
    pub(crate) fn check_file_system(&self) {
        let image = self.case.backend.image(&self.home);
        shell(&format!("e2fsck -fn {} 2>&1", image.display()));
    }

    /// A place for something in the server's directory.
    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path(name)
    }
}

/// Runs a line of shell that has to succeed, and hands out what it wrote.
#[track_caller]
pub(crate) fn shell(line: &str) -> String {
    let ran = run("sh", &["-c", &format!("PATH=$PATH:/usr/sbin:/sbin; {line}")]);
    assert_eq!(ran.code, Some(0), "{line}: {}{}", ran.out, ran.error);
    ran.out.trim_end().to_owned()
}

fn make_read_only_image(home: &Home) {
    let content = home.path("content");
    fs::create_dir(&content).unwrap();
    fs::write(content.join("greeting"), GREETING).unwrap();
    let make = |image: &Path| {
        let (content, image) = (content.display(), image.display());
        shell(&format!("mke2fs -q -t ext4 -d {content} {image} 4M 2>&1"));
    };
    make(&home.path(READ_ONLY));
}

/// What the first `units` of a target hold, as the station called `station` reads them.
pub(crate) fn read_units(station: &str, address: Address, units: usize) -> Vec<u8> {
    let mut client = client(station);
    let disk = client.open(address).unwrap();
    let count = Sectors((units * UNIT_SECTORS) as u64);
    let mut octets = Vec::new();
    let range = Range { disk: &disk, lba: Lba(0), count, depth: 16 };
    client.read(&range, &mut octets, &mut |_| ()).unwrap();
    assert_eq!(octets.len(), units * UNIT);
    octets
}
