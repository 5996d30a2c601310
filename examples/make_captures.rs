//! Makes the captures in `tests/data/captures`, and the replies that are expected to them:
//!
//! ```text
//! cargo build && cargo run --example make_captures              # as root, or under unshare -rn
//! cargo run --example make_captures -- replies                  # the expected replies alone
//! ```
//!
//! Sessions are recorded from the real program over a virtual cable, with aoetools and with its own
//! commands; two are frames laid out by hand. The expected replies hold this package's version, so
//! that they are made again with each release; look at what has changed before you commit it.

#![allow(clippy::unwrap_used, reason = "a generator that cannot go on has failed")]

#[path = "../tests/common/net.rs"]
mod net;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aoe_server::client::Client;
use aoe_server::link::FramePool;
use aoe_server::link::af_packet::{AfPacketLink, AfPacketOptions};
use aoe_server::link::savefile::{Reader, Resolution, Writer};
use aoe_server::protocol::Address;
use net::{MAC_A, MAC_B, PATIENCE, TestNet, send_all, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sessions that are recorded, with the commands that make them.
const RECORDED: &[(&str, &[&str])] = &[
    (
        "aoetools",
        &[
            "aoeping 7 3 aoe-b",
            "aoeping -v -I 7 3 aoe-b",
            "aoeping -i 7 4 aoe-b",
            "aoecfg -t 1 aoe-b",
            "aoecfg -c set -s hello 7 3 aoe-b",
            "aoecfg -c read 7 3 aoe-b",
            "aoecfg -c test -s hello 7 3 aoe-b",
            "aoecfg -c test -s hell -t 1 7 3 aoe-b",
            "aoecfg -c prefix -s hell 7 3 aoe-b",
            "aoecfg -c set -s other -t 1 7 3 aoe-b",
            "aoecfg -c fset -s other 7 3 aoe-b",
        ],
    ),
    (
        "client",
        &[
            "discover -i aoe-b",
            "stat -i aoe-b e1.0",
            "write -i aoe-b e1.0 DATA --verify --offset 3",
            "read -i aoe-b e1.0 /dev/null --offset 2 --sectors 4",
            "write -i aoe-b e1.1 DATA",
            "config set -i aoe-b e1.0 a-string",
            "config test -i aoe-b e1.0 a- --prefix",
            "config mask -i aoe-b e1.0 --add 02:ae:00:00:00:0b --add 02:ae:00:00:00:77",
            "config mask -i aoe-b e1.0 --remove 02:ae:00:00:00:77",
            "config reserve -i aoe-b e1.0 --set 02:ae:00:00:00:77",
            "read -i aoe-b e1.0 /dev/null --sectors 1",
            "config reserve -i aoe-b e1.0 --own --force",
            "config reserve -i aoe-b e1.0 --release",
            "ping -i aoe-b e1.0 --ata --count 2 --interval-ms 10",
            "bench -i aoe-b e1.0 --count 12 --sectors 1 --sequential --depth 4",
        ],
    ),
    ("malformed", &[]),
];

/// Frames to which a target must not give way, without their Ethernet header: what is wrong, and the
/// octets. What is right is asked after each, and has to be answered.
const MALFORMED: &[(&str, &str)] = &[
    ("nothing at all", ""),
    ("one octet short of a header", "10 00 0001 00 01 000000"),
    ("a header alone, of a config query", "10 00 0001 00 01 80000001"),
    ("a header alone, of an ATA command", "10 00 0001 00 00 80000002"),
    ("an ATA argument one octet short", "10 00 0001 00 00 80000003 40 00 01 24 0000000000 00 00"),
    ("version 2", "20 00 0001 00 01 80000004 0000 0000 00 00 0000"),
    ("version 0", "00 00 0001 00 01 80000005 0000 0000 00 00 0000"),
    ("a response", "18 00 0001 00 01 80000006 0000 0000 00 10 0000"),
    ("an error response", "1c 02 0001 00 00 80000007 0000 01 24 000000000000 0000"),
    ("reserved flags and an error in a request", "13 06 0001 00 01 80000008 0000 0000 00 00 0000"),
    ("command 4, of which nothing is known", "10 00 0001 00 04 80000009"),
    ("a vendor's command", "10 00 0001 00 f0 8000000a deadbeef"),
    ("another shelf", "10 00 0002 00 01 8000000b 0000 0000 00 00 0000"),
    ("every shelf, and this slot", "10 00 ffff 00 01 8000000c 0000 0000 00 00 0000"),
    ("a config string that is not there", "10 00 0001 00 01 8000000d 0000 0000 00 13 0400 6162"),
    ("config command 9", "10 00 0001 00 01 8000000e 0000 0000 00 19 0000"),
    ("a config string of 1025", "10 00 0001 00 01 8000000f 0000 0000 00 14 0401"),
    ("mask command 7", "10 00 0001 00 02 80000010 00 07 00 00"),
    ("a mask edit that is not there", "10 00 0001 00 02 80000011 00 01 00 ff 00 01 0202"),
    ("a mask directive 5", "10 00 0001 00 02 80000012 00 01 00 01 00 05 020000000077"),
    ("a reservation that is not there", "10 00 0001 00 03 80000013 01 ff 0200"),
    ("reserve command 8", "10 00 0001 00 03 80000014 08 00"),
    ("an LBA that overflows", "10 00 0001 00 00 80000015 40 00 ff 24 ffffffffffff 0000"),
    ("a read past the end", "10 00 0001 00 00 80000016 40 00 02 24 7f0000000000 0000"),
    ("a read of no sector", "10 00 0001 00 00 80000017 40 00 00 24 000000000000 0000"),
    ("a read that fits no frame", "10 00 0001 00 00 80000018 40 00 11 24 000000000000 0000"),
    ("a write without its data", "10 00 0001 00 00 80000019 41 00 01 34 000000000000 0000"),
    ("a write past the end", "10 00 0001 00 00 8000001a 41 00 01 34 800000000000 0000 DATA"),
    ("a write that says it reads", "10 00 0001 00 00 8000001b 40 00 01 34 000000000000 0000 DATA"),
    ("an opcode that nobody has", "10 00 0001 00 00 8000001c 00 00 01 99 000000a00000 0000"),
    ("PACKET IDENTIFY", "10 00 0001 00 00 8000001d 00 00 01 a1 000000a00000 0000"),
    ("octets after the argument", "10 00 0001 00 00 8000001e 40 00 01 24 000000000000 0000 DATA"),
];

/// A Linux initiator, iPXE and vblade on one segment, as they were seen, with the station of vblade
/// as the one that is replayed. Whole frames.
const LINUX: &[&str] = &[
    // vblade starts: version 0 is its own.
    "ffffffffffff 76eabbfcf324 88a2 08 00 0001 01 01 00000000 0010 4019 02 10 0000",
    // Linux looks for everybody.
    "ffffffffffff 525400aabb01 88a2 10 00 ffff ff 01 00000000 0000 0000 00 00 0000",
    "525400aabb01 76eabbfcf324 88a2 18 00 0001 01 01 00000000 0010 4019 11 10 0000",
    "76eabbfcf324 525400aabb01 88a2 10 00 0001 01 00 0001dfdc 00 00 01 ec 000000a00000 0000",
    "76eabbfcf324 525400aabb01 88a2 10 00 0001 06 00 0001dfdd 00 00 01 ec 000000a00000 0000",
    // 4 KiB with a 48-bit address, and back.
    "76eabbfcf324 525400aabb01 88a2 10 00 0001 01 00 0006e5a6 41 00 08 34 000000000000 0000 DATA8",
    "76eabbfcf324 525400aabb01 88a2 10 00 0001 01 00 0006e5a7 40 00 08 24 000000000000 0000",
    // The same again, under another tag, as Linux asks again.
    "76eabbfcf324 525400aabb01 88a2 10 00 0001 01 00 0007e5a7 40 00 08 24 000000000000 0000",
    // A disk without 48-bit addresses is spoken to like this.
    "76eabbfcf324 525400aabb01 88a2 10 00 0001 06 00 0003df92 01 00 08 30 080000e00000 0000 DATA8",
    "76eabbfcf324 525400aabb01 88a2 10 00 0001 06 00 0003df93 00 00 08 20 080000e00000 0000",
    "76eabbfcf324 525400aabb01 88a2 10 00 0001 01 00 0006e5a8 00 00 00 ea 000000a00000 0000",
    // iPXE boots: its query names the target, and goes to everybody.
    "ffffffffffff 525400aabb02 88a2 10 00 0001 01 01 18ae0001 0000 0000 00 00 0000",
    "76eabbfcf324 525400aabb02 88a2 10 00 0001 01 00 18ae0002 00 00 01 ec 000000e00000 0000",
    "76eabbfcf324 525400aabb02 88a2 10 00 0001 01 00 18ae0003 40 00 02 24 000000000000 0000",
];

fn main() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures");
    if std::env::args().nth(1).as_deref() != Some("replies") {
        for (name, commands) in RECORDED {
            record(&directory, name, commands);
        }
        let frames: Vec<_> = LINUX.iter().map(|text| octets(text)).collect();
        write_capture(&directory.join("linux.pcap"), &frames);
    }
    for name in ["aoetools", "client", "malformed", "linux"] {
        let path = |ending: &str| directory.join(format!("{name}.{ending}"));
        let mut command = program();
        command.arg("replay").arg(path("pcap")).arg("--config").arg(path("toml"));
        assert!(command.arg("--write").arg(path("replies.pcap")).status().unwrap().success());
    }
}

/// Whitespace between pairs of hexadecimal digits does not count; `DATA` is a sector, `DATA8` are
/// eight.
fn octets(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    for word in text.split_whitespace() {
        if let Some(sectors) = word.strip_prefix("DATA") {
            let sectors = sectors.parse().unwrap_or(1);
            octets.extend((0..251).cycle().take(512 * sectors));
            continue;
        }
        for pair in word.as_bytes().chunks(2) {
            octets.push(u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
        }
    }
    octets
}

/// Writes frames a millisecond apart.
fn write_capture(path: &Path, frames: &[Vec<u8>]) {
    let mut writer = Writer::new(File::create(path).unwrap(), Resolution::Micros).unwrap();
    for (number, frame) in (0..).zip(frames) {
        writer.write(1_700_000_000_000_000_000 + number * 1_000_000, frame).unwrap();
    }
    writer.flush().unwrap();
}

/// The program, as it was built with this.
fn program() -> Command {
    let here = std::env::current_exe().unwrap();
    Command::new(here.parent().unwrap().with_file_name("aoe-server"))
}

/// A child process that is ended by a signal.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn end(mut self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

/// Records what `commands` make of a server.
fn record(directory: &Path, name: &str, commands: &[&str]) {
    let net = TestNet::new(9000).expect("a network namespace can be made");
    let home = tempfile::tempdir().unwrap();
    let config = fs::read_to_string(directory.join(format!("{name}.toml"))).unwrap();
    let server = format!("[server]\nprobe = false\nstate_dir = \"{}\"", home.path().display());
    let config_path = home.path().join("config.toml");
    fs::write(&config_path, config.replace("[server]", &server)).unwrap();
    let server = Running::start(program().args(["serve", "--config"]).arg(&config_path));
    let mut client = Client::new(Box::new(link(&net)));
    assert!(within(PATIENCE, || {
        let found = client.discover(Address::EVERYONE, Duration::from_millis(50), false).unwrap();
        found.len() == config.matches("[[target]]").count()
    }));

    let capture = directory.join(format!("{name}.pcap"));
    let _ = fs::remove_file(&capture); // it shows when recording has begun
    let recorder = Running::start(program().args(["record", net.a]).arg(&capture));
    assert!(within(PATIENCE, || capture.exists()));
    let data = home.path().join("data");
    fs::write(&data, octets("DATA8 1234")).unwrap();
    for command in commands {
        run(command, &data);
    }
    if commands.is_empty() {
        send_malformed(&net);
    }
    recorder.end(Signal::SIGINT);
    server.end(Signal::SIGTERM);
    let len = fs::metadata(&capture).unwrap().len();
    assert!(len < 60 << 10, "{name}: {len} bytes are too much to keep");
    check(&capture);
}

/// Runs one command. Some of them are refused: that is recorded, too.
fn run(command: &str, data: &PathBuf) {
    let mut words = command.split(' ').peekable();
    let mut child = match words.peek() {
        Some(&tool) if tool.starts_with("aoe") => {
            words.next();
            Command::new(tool)
        }
        _ => program(),
    };
    for word in words {
        if word == "DATA" {
            child.arg(data)
        } else {
            child.arg(word)
        };
    }
    child.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
}

fn link(net: &TestNet) -> AfPacketLink {
    AfPacketLink::open(net.b, &AfPacketOptions::default()).unwrap()
}

/// Sends frames that are wrong, and after each one that is right, which is waited for.
fn send_malformed(net: &TestNet) {
    let mut link = link(net);
    let mut client = Client::new(Box::new(self::link(net)));
    let mut pool = FramePool::new(1);
    for (what, text) in MALFORMED {
        let mut frame = [MAC_A.0, MAC_B.0].concat();
        frame.extend(octets("88a2"));
        frame.extend(octets(text));
        let mut batch = pool.batch();
        batch.clear();
        assert!(batch.push(&frame), "{what}");
        send_all(&mut link, &batch);
        client
            .identify(MAC_A, Address::new(1, 0))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

/// Makes sure that a capture can be read to its end.
fn check(path: &Path) {
    let mut reader = Reader::new(File::open(path).unwrap()).unwrap();
    while reader.next().unwrap().is_some() {}
}
