//! A running server under control: its socket, what it answers there, and the commands that ask it; and
//! archives, in a server and by themselves.

#![cfg(all(feature = "cli", feature = "cas", feature = "af-packet", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests")]

mod archives;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/octets.rs"]
#[allow(dead_code, reason = "another test uses the rest of it")]
mod octets;
mod offline;
mod reload;
mod socket;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;

use common::server::{Home, run};

/// Runs a command line, its words separated by spaces, and the socket of the server in `home` after it.
fn ask(home: &Home, line: &str) -> Output {
    let socket = socket(home);
    run(line.split(' ').map(OsStr::new).chain(["--socket".as_ref(), socket.as_os_str()]))
}

/// The same with `--json`, for an object.
fn ask_json(home: &Home, line: &str) -> Value {
    let output = ask(home, &format!("{line} --json"));
    let (stdout, _) = common::server::ended(&output, 0);
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{line}: {error}: {stdout}"))
}

/// Where the server in `home` listens.
fn socket(home: &Home) -> PathBuf {
    home.path("state").join("control.sock")
}

/// One JSON object from each line.
fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// A target in the archive in `home`; more keys of `[target.cas]`.
fn archive_target(home: &Home, slot: u8, cas: &str) -> String {
    let path = home.path("archive");
    format!(
        "[[target]]\nshelf = 1\nslot = {slot}\nbackend = \"cas\"\n[target.cas]\n{cas}\n\
         [target.cas.blob_store]\ntype = \"file\"\npath = \"{}\"\njournal_size = \"4 MiB\"\n",
        path.display()
    )
}
