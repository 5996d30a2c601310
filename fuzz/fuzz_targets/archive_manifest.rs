//! Fuzzes `tests/fuzz_bodies/archive_manifest.rs`.
#![no_main]

#[path = "../../tests/fuzz_bodies/archive_manifest.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| body::run(octets));
