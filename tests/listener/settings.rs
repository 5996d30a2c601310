//! Settings that initiators change: in force, and announced, when they survive power loss.
//!
//! A save is held up by a pipe in the place of the file that it is written to: opening that waits
//! for a reader, and syncing it fails.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aoe_server::link::memory::MemoryOptions;
use aoe_server::protocol::{Address, AoeError, ConfigCommand};
use aoe_server::server::state::{SettingsSaver, StateDirectory};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use tempfile::TempDir;

use crate::harness::{Disk, Got, Loop, TARGET, assert_once, config, query, read, within};

const OTHER: Address = Address::new(7, 4);

struct Kept {
    server: Loop,
    state: Arc<StateDirectory>,
    dir: TempDir,
}

impl Kept {
    fn new() -> Self {
        let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let state = Arc::new(StateDirectory::open(dir.path()).unwrap());
        let saved = Arc::clone(&state);
        let server = Loop::with(1, &MemoryOptions::default(), |waker| {
            Some(SettingsSaver::start(saved, waker, 1).unwrap())
        });
        Self { server, state, dir }
    }

    fn serving(addresses: &[Address]) -> Self {
        let mut kept = Self::new();
        for address in addresses {
            kept.server.serve(*address, &Disk::new());
        }
        kept
    }

    fn path(&self, address: Address) -> PathBuf {
        self.dir.path().join(format!("{address}.settings"))
    }

    /// Holds up the next save of a target's settings, which then fails.
    fn jam(&self, address: Address) -> PathBuf {
        let path = self.path(address).with_extension("settings.new");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    }

    fn saved(&self, address: Address) -> Vec<u8> {
        self.state.load(address).unwrap().config_string.as_slice().to_vec()
    }

    fn string(&mut self, address: Address) -> Vec<u8> {
        self.server.send(&query(address, 77));
        self.server.turns(2);
        let got = self.server.replies();
        assert_once(&got, [77]);
        got[0].string()
    }
}

impl Drop for Kept {
    /// A test that fails must not wait for ever for a save that it has held up.
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.dir.path()).unwrap().flatten() {
            let _ = rustix::fs::open(
                entry.path(),
                OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
                Mode::empty(),
            );
        }
    }
}

fn set(address: Address, string: &str, tag: u32) -> Vec<u8> {
    config(address, ConfigCommand::FORCE_SET, string.as_bytes(), tag)
}

/// Lets a save go on that was held up.
fn unjam(pipe: &Path) -> File {
    File::open(pipe).unwrap()
}

fn refusal(got: &Got) -> Option<AoeError> {
    let frame = got.frame();
    frame.header.flags().is_error().then(|| frame.header.error())
}

#[test]
fn the_reply_leaves_when_the_file_is_in_its_place() {
    let mut kept = Kept::serving(&[TARGET]);
    for round in 0..30 {
        let string = format!("round {round}");
        kept.server.send(&set(TARGET, &string, round));
        let got = kept.server.wait_for_reply();
        // At this very moment, whatever happens to this process.
        assert_eq!(kept.saved(TARGET), string.as_bytes());
        assert_eq!((got.tag(), refusal(&got), got.string()), (round, None, string.into()));
        assert!(!kept.path(TARGET).with_extension("settings.new").exists());
    }
}

#[test]
fn while_a_save_goes_on_nothing_is_announced_and_everything_else_is_served() {
    let mut kept = Kept::serving(&[TARGET, OTHER]);
    let pipe = kept.jam(TARGET);
    kept.server.send(&set(TARGET, "new", 1));
    kept.server.send(&set(TARGET, "newer", 2));
    kept.server.send(&set(OTHER, "other", 3));
    kept.server.send(&set(OTHER, "another", 4));
    for tag in 100..300 {
        kept.server.send(&read(if tag % 2 == 0 { TARGET } else { OTHER }, 0, tag));
    }
    kept.server.turns(50);
    assert_once(&kept.server.replies(), 100..300);
    assert_eq!(kept.string(TARGET), b"");
    assert!(!kept.server.listener.is_idle());
    // This save fails, but those that waited for it do not.
    let _reader = unjam(&pipe);
    let mut got = Vec::new();
    assert!(within(|| {
        kept.server.turn();
        got.extend(kept.server.replies());
        got.len() >= 4
    }));
    assert_once(&got, 1..=4);
    for got in &got {
        let expected = (got.tag() == 1).then_some(AoeError::DEVICE_UNAVAILABLE);
        assert_eq!(refusal(got), expected, "{}", got.tag());
    }
    let order: Vec<_> = got.iter().filter(|got| got.address() == OTHER).map(Got::tag).collect();
    assert_eq!(order, [3, 4]);
    assert_eq!((kept.string(TARGET), kept.saved(TARGET)), (b"newer".into(), b"newer".into()));
    assert_eq!((kept.string(OTHER), kept.saved(OTHER)), (b"another".into(), b"another".into()));
    assert!(kept.server.listener.is_idle());
}

#[test]
fn settings_that_cannot_be_saved_are_refused_and_the_old_ones_stay_in_force() {
    let mut kept = Kept::serving(&[TARGET]);
    kept.server.send(&set(TARGET, "old", 1));
    assert_eq!(refusal(&kept.server.wait_for_reply()), None);
    let pipe = kept.jam(TARGET);
    kept.server.send(&set(TARGET, "new", 2));
    kept.server.turns(3);
    let _reader = unjam(&pipe);
    let got = kept.server.wait_for_reply();
    assert_eq!((got.tag(), refusal(&got)), (2, Some(AoeError::DEVICE_UNAVAILABLE)));
    assert_eq!(got.0.len(), 60);
    assert_eq!((kept.string(TARGET), kept.saved(TARGET)), (b"old".into(), b"old".into()));
    // What hindered it has gone with the attempt.
    kept.server.send(&set(TARGET, "new", 3));
    assert_eq!(refusal(&kept.server.wait_for_reply()), None);
    assert_eq!((kept.string(TARGET), kept.saved(TARGET)), (b"new".into(), b"new".into()));
}

#[test]
fn a_target_is_handed_back_only_after_its_save() {
    let mut kept = Kept::serving(&[TARGET, OTHER]);
    let pipe = kept.jam(TARGET);
    kept.server.send(&set(TARGET, "new", 1));
    kept.server.turns(3);
    let handed_back = kept.server.control.remove(TARGET).unwrap();
    let other = kept.server.control.remove(OTHER).unwrap();
    kept.server.turns(20);
    assert!(other.try_recv().unwrap().is_some());
    assert!(handed_back.try_recv().is_err(), "its reply is not sent yet");
    let _reader = unjam(&pipe);
    let got = kept.server.wait_for_reply();
    assert_eq!((got.tag(), refusal(&got)), (1, Some(AoeError::DEVICE_UNAVAILABLE)));
    kept.server.turns(2);
    let export = handed_back.try_recv().unwrap().unwrap();
    assert!(export.target.staged().is_none());
    assert!(kept.server.listener.is_idle());
}

#[test]
fn the_reply_waits_for_room_on_the_wire() {
    let mut kept = Kept::serving(&[TARGET]);
    kept.server.valves[0].lock().unwrap().takes = Some(0);
    kept.server.send(&set(TARGET, "new", 1));
    for tag in 100..200 {
        kept.server.send(&read(TARGET, 0, tag));
    }
    assert!(within(|| {
        kept.server.turn();
        kept.path(TARGET).exists()
    }));
    kept.server.turns(20);
    kept.server.valves[0].lock().unwrap().takes = None;
    let mut got = Vec::new();
    assert!(within(|| {
        kept.server.turn();
        got.extend(kept.server.replies());
        got.len() >= 101
    }));
    assert_once(&got, (100..200).chain([1]));
}

#[test]
fn without_a_state_directory_settings_are_kept_in_memory() {
    let mut server = Loop::new();
    server.serve(TARGET, &Disk::new());
    server.send(&set(TARGET, "new", 1));
    server.send(&query(TARGET, 2));
    server.turns(2);
    let got = server.replies();
    assert_once(&got, [1, 2]);
    assert!(got.iter().all(|got| got.string() == b"new"));
}
