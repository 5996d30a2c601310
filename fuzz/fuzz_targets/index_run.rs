//! Fuzzes `tests/fuzz_bodies/index_run.rs`.
#![no_main]

#[path = "../../tests/fuzz_bodies/index_run.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| body::run(octets));
