//! Fuzzes `tests/fuzz_bodies/archive_root.rs`.
#![no_main]

#[path = "../../tests/fuzz_bodies/archive_root.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| body::run(octets));
