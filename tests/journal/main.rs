//! A server with a journal, as a process of its own over a virtual cable, and what becomes of the
//! journal and its images when it is killed, stopped, reloaded and started in another way.
//!
//! A process that is killed leaves what it wrote in the page cache, and the images would be right
//! without any journal. So before the journal is replayed here, sectors of the images are put back
//! to what they were when the server started: that is the worst that a power cut may do to an image
//! which was not synced since.

#![cfg(all(feature = "cli", feature = "af-packet", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::print_stderr, reason = "what is skipped is said aloud")]

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod disks;
mod images;
mod lives;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aoe_server::client::{Client, Disk, Range};
use aoe_server::protocol::Address;
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};
use common::net::TestNet;
use common::server::{Home, PROGRAM, client, ended, program, run};

const MTU: usize = 1500;
/// The attribute that marks an image.
const MARK: &str = "user.aoe-server.journal";
/// Where the first record of a journal is.
const FIRST_RECORD: u64 = 8192;
/// What records start on a multiple of.
const PAGE: usize = 4096;

const fn e1(slot: u8) -> Address {
    Address { shelf: 1, slot }
}

/// A configuration with a journal, up to its targets.
fn journalled(home: &Home, net: &TestNet, size: &str) -> String {
    let journal = home.path("journal");
    home.server(net.a, "af-packet")
        + &format!("journal = \"{}\"\njournal_size = \"{size}\"\n", journal.display())
}

/// `image recover` with these arguments.
fn recover(args: impl IntoIterator<Item: AsRef<OsStr>>) -> Output {
    let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
    run(["image".into(), "recover".into()].into_iter().chain(args))
}

/// Runs the command that a message tells to run, as a shell takes it.
fn as_told(message: &str) -> Output {
    let at = message.rfind("aoe-server image recover").unwrap_or_else(|| panic!("{message}"));
    // Causes and further lines are none of the command's.
    let command = message[at..].lines().next().unwrap();
    let command = command.split(": ").next().unwrap();
    let directory = Path::new(PROGRAM).parent().unwrap().to_str().unwrap();
    let path = format!("{directory}:{}", std::env::var("PATH").unwrap());
    Command::new("sh").args(["-c", command]).env("PATH", path).output().unwrap()
}

/// Serves a configuration that cannot be served; tells why.
fn refused(home: &Home, config: &str) -> String {
    let file = home.path("refused.toml");
    fs::write(&file, config).unwrap();
    let output = program(["serve".as_ref(), "--config".as_ref(), file.as_os_str()]).output();
    ended(&output.unwrap(), 2).1
}

/// Whether an image is marked as one that needs a journal.
fn is_marked(image: &Path) -> bool {
    rustix::fs::getxattr(image, MARK, &mut [0; 512][..]).is_ok_and(|len| len > 0)
}

/// Whether files here can be marked at all.
fn marks_are_possible(home: &Home) -> bool {
    let file = home.path("markable");
    fs::write(&file, "").unwrap();
    rustix::fs::setxattr(&file, MARK, b"x", rustix::fs::XattrFlags::empty()).is_ok()
}

fn range(disk: &Disk, lba: u64, count: u64) -> Range<'_> {
    Range { disk, lba: Lba(lba), count: Sectors(count), depth: 16 }
}

fn write(client: &mut Client, slot: u8, lba: u64, octets: &[u8]) {
    let disk = client.open(e1(slot)).unwrap();
    let range = range(&disk, lba, (octets.len() / SECTOR_SIZE) as u64);
    client.write(&range, &mut &octets[..], &mut |_| ()).unwrap();
}

/// All of a target, as a server gives it.
fn read_all(net: &TestNet, slot: u8) -> Vec<u8> {
    let mut client = client(net.b);
    let disk = client.open(e1(slot)).unwrap();
    let mut octets = Vec::new();
    client.read(&range(&disk, 0, disk.size().0), &mut octets, &mut |_| ()).unwrap();
    octets
}

/// Changes an image in place, so that it stays the same file.
fn overwrite(image: &Path, octets: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    file.write_all_at(octets, 0).unwrap();
}

/// Flips bits of a journal, one octet of each place.
fn flip(journal: &Path, places: &[u64]) {
    let file = fs::OpenOptions::new().read(true).write(true).open(journal).unwrap();
    for place in places {
        let mut octet = [0];
        file.read_exact_at(&mut octet, *place).unwrap();
        file.write_all_at(&[octet[0] ^ 0x10], *place).unwrap();
    }
}

/// Where the records of the first segment are: they follow each other from its start.
fn records(journal: &Path) -> Vec<u64> {
    let octets = fs::read(journal).unwrap();
    let mut at = usize::try_from(FIRST_RECORD).unwrap();
    let mut places = Vec::new();
    while octets.get(at..at + 4) == Some(b"AoEj") {
        places.push(at as u64);
        let body = u32::from_le_bytes(octets[at + 24..at + 28].try_into().unwrap());
        at += (32 + body as usize).next_multiple_of(PAGE);
    }
    places
}

/// How often a journal's head was written: it is when room was made, at start and at the end.
fn turn(journal: &Path) -> u64 {
    let octets = fs::read(journal).unwrap();
    let turn = |at: usize| u64::from_le_bytes(octets[at + 48..at + 56].try_into().unwrap());
    turn(0).max(turn(PAGE))
}

/// A file of this directory that is full of one octet.
fn filled(home: &Home, name: &str, octet: u8, bytes: usize) -> PathBuf {
    let path = home.path(name);
    fs::write(&path, vec![octet; bytes]).unwrap();
    path
}
