//! Fuzzes `tests/fuzz_bodies/archive_frame.rs`.
#![no_main]

#[path = "../../tests/fuzz_bodies/archive_frame.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| body::run(octets));
