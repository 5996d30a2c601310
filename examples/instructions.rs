//! Serves a number of frames of one kind and does nothing else, so that its instructions can be
//! counted: twice as many frames take twice as many, and the difference is what the frames cost.
//! `scripts/instructions` does that, under callgrind.
//!
//! `instructions` lists the kinds; `instructions KIND FRAMES` serves, in bursts of 32.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

#[path = "../benches/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::process::ExitCode;

use aoe_server::clock::Instant;
use aoe_server::engine::{Action, Engine, Export, Port};
use aoe_server::link::{BATCH_FRAMES, FRAME_CAPACITY, Link as _};
use aoe_server::protocol::{Address, Command, ConfigFields};
use aoe_server::server::Backend;
use aoe_server::storage::file::{FileOptions, FileStorage};
use aoe_server::storage::{BlockStorage as _, Ready};
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};
use common::{
    DATA_LEN, DISK_SECTORS, MTU, SERVER, TARGET, disk, read, request, serving, target, write,
};

/// What a kind of frame is served by.
#[derive(Clone, Copy)]
enum Server {
    /// Whole turns of the loop, over a link in memory, to a disk in memory.
    Loop,
    /// The same to an image whose sectors are in the page cache.
    LoopAndFile,
    /// The engine alone.
    Engine,
}

/// Each kind of frame: its name, what serves it, the frame, octets of the reply (0 for none).
fn kinds() -> [(&'static str, Server, Vec<u8>, usize); 8] {
    let config = request(TARGET, Command::CONFIG, |writer| {
        writer.config(&ConfigFields::default(), &[]);
    });
    let reply_len = 36 + DATA_LEN;
    [
        ("loop-read", Server::Loop, read(TARGET), reply_len),
        ("loop-read-file", Server::LoopAndFile, read(TARGET), reply_len),
        ("loop-write", Server::Loop, write(), 60),
        ("loop-config", Server::Loop, config, 60),
        ("loop-ignored", Server::Loop, read(Address::new(9, 9)), 0),
        ("engine-read", Server::Engine, read(TARGET), reply_len),
        ("engine-write", Server::Engine, write(), 60),
        ("engine-ignored", Server::Engine, read(Address::new(9, 9)), 0),
    ]
}

/// A disk in a file that nobody else sees, all of it known to be in memory.
fn image() -> Backend {
    let dir = tempfile::tempdir().expect("a directory");
    let size = Some(Sectors(u64::from(DISK_SECTORS)));
    let options = FileOptions { size, ..FileOptions::default() };
    let mut disk = FileStorage::open(dir.path().join("image"), options).expect("an image");
    let mut octets = vec![0; usize::from(DISK_SECTORS) * SECTOR_SIZE];
    disk.write(Lba(0), &octets).and_then(|_| disk.flush()).map(drop).expect("it takes a write");
    while disk.read(Lba(0), &mut octets).expect("it can be read") == Ready::Later {
        disk.progress();
        std::thread::yield_now();
    }
    Box::new(disk)
}

fn serve_with_loop(frame: Vec<u8>, reply_len: usize, storage: Backend, frames: u64) {
    let mut listener = serving(frame, reply_len, storage);
    let before = listener.link_mut(0).expect("the only link").counters();
    for _ in 0..frames / BATCH_FRAMES as u64 {
        // Long before the next look around, which is a matter of tenths of seconds.
        listener.turn(black_box(Instant::from_nanos(2)));
    }
    let after = listener.link_mut(0).expect("the only link").counters();
    let owed = if reply_len == 0 { 0 } else { after.received - before.received };
    assert_eq!(after.sent - before.sent, owed, "every request was answered as it should be");
}

fn serve_with_engine(frame: &[u8], reply_len: usize, frames: u64) {
    let exports = vec![Export { target: target(TARGET), storage: Box::new(disk()) as Backend }];
    let mut engine = Engine::new(exports).expect("one target");
    let port = Port { mac: SERVER, mtu: MTU };
    let mut reply = vec![0; FRAME_CAPACITY];
    for _ in 0..frames {
        let Some(request) = engine.accept(black_box(frame), port) else { continue };
        let addressee = engine.first_addressee(&request);
        let action = addressee.map(|id| engine.handle(id, &request, black_box(&mut reply)));
        match action {
            Some(Action::Reply { len, .. }) => assert_eq!(len, reply_len),
            _ => assert_eq!(reply_len, 0),
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (wanted, frames) = match &arguments[..] {
        [] => {
            for (name, ..) in kinds() {
                println!("{name}");
            }
            return ExitCode::SUCCESS;
        }
        [wanted, frames] => (wanted, frames.parse()),
        _ => {
            eprintln!("usage: instructions [KIND FRAMES]");
            return ExitCode::from(2);
        }
    };
    let kind = kinds().into_iter().find(|(name, ..)| name == wanted);
    let (Some((_, server, frame, reply_len)), Ok(frames)) = (kind, frames) else {
        eprintln!("there is no kind {wanted}, or the number of frames is none");
        return ExitCode::from(2);
    };
    match server {
        Server::Loop => serve_with_loop(frame, reply_len, Box::new(disk()), frames),
        Server::LoopAndFile => serve_with_loop(frame, reply_len, image(), frames),
        Server::Engine => serve_with_engine(&frame, reply_len, frames),
    }
    ExitCode::SUCCESS
}
