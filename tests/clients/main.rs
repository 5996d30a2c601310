//! The initiators of the field against the server: the Linux driver and iPXE in virtual machines;
//! and the server on wires and beside senders that mean it ill.
//!
//! `make test-clients` installs what this needs, prepares what machines boot, and runs it; each step
//! prints a line. Without that these tests are left out: they take minutes, and what they measure
//! means something only when nothing else runs.

#![cfg(all(feature = "cli", feature = "pcap", feature = "af-packet", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod backend;
mod boot;
#[path = "../common/mod.rs"]
mod common;
mod guest;
mod linux;
mod machine;
mod relay;
mod scene;
mod sender;
mod soak;
mod steps;
mod wire;
