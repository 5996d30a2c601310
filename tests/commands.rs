//! The commands that documents tell people to run are ones that there are.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test helper has nobody to report to")]

use std::fs;
use std::process::Command;

const DOCUMENTS: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "config/README.md",
    "config/aoe-server.service",
    "docs/architecture.md",
    "docs/control.md",
    "docs/durability.md",
    "docs/formats.md",
    "docs/operations.md",
    "docs/protocol.md",
];

/// The arguments of each command in `text`: what follows the program's name up to the end of the
/// line, a comment, or the end of a piece of code.
fn commands(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let after_name = text.lines().flat_map(|line| line.split("aoe-server ").skip(1));
    after_name.filter_map(|rest| {
        let command = rest.split(['`', '#', ';']).next().unwrap_or_default();
        let words: Vec<_> = command.split_whitespace().collect();
        let is_command = words.first().is_some_and(|word| {
            ["serve", "check", "discover", "ping", "stat", "read", "write", "bench", "config"]
                .iter()
                .chain(&["image", "record", "replay", "dump", "demo", "completions", "man"])
                .chain(&["status", "volume", "snapshot", "store"])
                .any(|command| command == word)
        });
        is_command.then_some(words)
    })
}

/// The README once told to run `discover eth1`, and the systemd unit could never start.
#[test]
fn what_documents_tell_to_run_is_taken() {
    let mut found = 0;
    for document in DOCUMENTS {
        let text = fs::read_to_string(document).unwrap();
        for words in commands(&text) {
            found += 1;
            // Asked for help last, it complains first of anything before that it does not take.
            let mut program = Command::new(env!("CARGO_BIN_EXE_aoe-server"));
            let output = program.args(&words).arg("--help").output().unwrap();
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{document}: {words:?}: {complaint}");
        }
    }
    assert!(found >= 8, "only {found} commands were recognized");
}
