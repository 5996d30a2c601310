//! Captures replayed to the real program: `tests/data/captures` says what they are.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::print_stderr, reason = "what is skipped is said aloud")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aoe_server::link::savefile::{Reader, Resolution, Writer};
use aoe_server::protocol::{Frame, MacAddr};
use common::server::{Home, ended, run};

/// All captures that there are.
const NAMES: [&str; 4] = ["aoetools", "client", "linux", "malformed"];
/// Those that were recorded with this program as the server, with how many frames it sent.
const RECORDED: [(&str, usize); 3] = [("aoetools", 13), ("client", 54), ("malformed", 56)];

fn path(name: &str, ending: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures");
    directory.join(format!("{name}.{ending}"))
}

/// The frames of a capture, with their times in nanoseconds since 1970.
fn frames(path: &Path) -> Vec<(u64, Vec<u8>)> {
    let file = fs::read(path).unwrap();
    let mut reader = Reader::new(&file[..]).unwrap();
    let mut frames = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        frames.push((record.unix_nanos, record.octets.to_vec()));
    }
    frames
}

fn write_capture(path: &Path, frames: &[(u64, Vec<u8>)]) {
    let mut writer = Writer::new(Vec::new(), Resolution::Nanos).unwrap();
    for (nanos, frame) in frames {
        writer.write(*nanos, frame).unwrap();
    }
    fs::write(path, writer.into_inner()).unwrap();
}

fn replay(name: &str, capture: &Path, expected: &Path) -> Output {
    let config = path(name, "toml");
    let paths = [capture, &config, expected].map(Path::as_os_str);
    let [capture, config, expected] = paths;
    run(["replay".as_ref(), capture, "--config".as_ref(), config, "--expect".as_ref(), expected])
}

#[test]
fn every_capture_gets_the_replies_that_are_expected() {
    for name in NAMES {
        let output = replay(name, &path(name, "pcap"), &path(name, "replies.pcap"));
        let (stdout, _) = ended(&output, 0);
        assert!(stdout.ends_with("as expected\n"), "{name}: {stdout}");
    }
}

#[test]
fn no_capture_is_forgotten() {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(path("x", "pcap").parent().unwrap()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        found.extend(name.strip_suffix(".toml").map(str::to_owned));
    }
    assert_eq!(found, NAMES.map(str::to_owned).into());
}

#[test]
fn a_replay_gives_what_the_live_server_gave() {
    for (name, count) in RECORDED {
        let config = fs::read_to_string(path(name, "toml")).unwrap();
        let replayed = frames(&path(name, "replies.pcap"));
        // The first ones announce the targets; of the live server that was before the recording.
        let announced = config.matches("[[target]]").count();
        let (announcements, replies) = replayed.split_at(announced);
        let broadcast = |octets: &[u8]| Frame::parse(octets).unwrap().destination.is_group();
        assert!(announcements.iter().all(|(_, octets)| broadcast(octets)), "{name}");
        let server = Frame::parse(&replies[0].1).unwrap().source;
        let live = frames(&path(name, "pcap"));
        let live = live.iter().filter(|(_, octets)| source(octets) == server);
        let live: Vec<_> = live.map(|(_, octets)| octets).collect();
        let replies: Vec<_> = replies.iter().map(|(_, octets)| octets).collect();
        assert_eq!(live.len(), count, "{name}");
        assert!(live == replies, "{name}: live {live:02x?}, replayed {replies:02x?}");
    }
}

fn source(octets: &[u8]) -> MacAddr {
    MacAddr(octets[6..12].try_into().unwrap())
}

#[test]
fn other_replies_than_expected_are_told_with_their_first_difference() {
    let home = Home::new();
    let tampered = home.path("tampered.pcap");
    let good = frames(&path("client", "replies.pcap"));
    let against = |expected: &[(u64, Vec<u8>)]| {
        write_capture(&tampered, expected);
        ended(&replay("client", &path("client", "pcap"), &tampered), 1).0
    };

    let mut changed = good.clone();
    changed[9].1[17] ^= 1; // the low octet of the shelf
    changed[20].1[30] ^= 1; // not the first difference
    let stdout = against(&changed);
    assert!(stdout.contains("frame 10 differs, from octet 17 on"), "{stdout}");
    let line = |what: &str| stdout.lines().find(|line| line.trim_start().starts_with(what));
    assert!(line("expected:").unwrap().contains(" e0.1 "), "{stdout}");
    assert!(line("found:").unwrap().contains(" e1.1 "), "{stdout}");
    assert!(!stdout.contains("as expected"), "{stdout}");

    let mut shorter = good.clone();
    shorter[2].1.truncate(59);
    assert!(against(&shorter).contains("frame 3 differs, from octet 59 on"));

    let stdout = against(&good[..good.len() - 1]);
    assert!(stdout.contains(&format!("frame {} differs", good.len())), "{stdout}");
    assert!(stdout.contains("expected: no frame"), "{stdout}");
    let mut more = good.clone();
    more.push(good[0].clone());
    let stdout = against(&more);
    assert!(stdout.contains(&format!("frame {} differs", good.len() + 1)), "{stdout}");
    assert!(stdout.contains("found:    no frame"), "{stdout}");

    // The times of an expected capture are not looked at.
    let late: Vec<_> = good.iter().map(|(nanos, frame)| (nanos + 77, frame.clone())).collect();
    write_capture(&tampered, &late);
    ended(&replay("client", &path("client", "pcap"), &tampered), 0);
}

#[test]
fn a_replay_that_cannot_tell_ends_with_2() {
    let home = Home::new();
    let (capture, golden) = (path("linux", "pcap"), path("linux", "replies.pcap"));
    let missing = home.path("missing");
    let (_, stderr) = ended(&replay("linux", &missing, &golden), 2);
    assert!(stderr.contains("missing"), "{stderr}");
    ended(&replay("linux", &capture, &missing), 2);
    // A capture that was cut off is not replayed as if it were whole.
    let cut = home.path("cut.pcap");
    let whole = fs::read(&capture).unwrap();
    fs::write(&cut, &whole[..whole.len() - 5]).unwrap();
    let (stdout, stderr) = ended(&replay("linux", &cut, &golden), 2);
    assert!(stderr.contains("cut short"), "{stdout}{stderr}");
}

#[test]
fn tshark_decodes_every_frame_that_is_not_meant_to_be_malformed() {
    for name in NAMES {
        for ending in ["pcap", "replies.pcap"] {
            let path = path(name, ending);
            let shark = |filter: &str| {
                Command::new("tshark").arg("-r").arg(&path).args(["-Y", filter]).output()
            };
            let Ok(output) = shark("_ws.malformed") else {
                let why = "there is no tshark";
                assert!(std::env::var_os("CI").is_none(), "{why}");
                eprintln!("SKIPPED: {why}");
                return;
            };
            let (malformed, _) = ended(&output, 0);
            // What is wrong with requests is wrong on purpose there; their replies are right.
            if (name, ending) != ("malformed", "pcap") {
                assert_eq!(malformed, "", "{}", path.display());
            }
            let (decoded, _) = ended(&shark("aoe").unwrap(), 0);
            assert_eq!(decoded.lines().count(), frames(&path).len(), "{}", path.display());
        }
    }
}

#[test]
fn captures_are_small_enough_to_keep() {
    for name in NAMES {
        for ending in ["pcap", "replies.pcap"] {
            let len = fs::metadata(path(name, ending)).unwrap().len();
            assert!(len < 60 << 10, "{name}.{ending}: {len} bytes");
        }
    }
}
