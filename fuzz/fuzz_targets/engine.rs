//! Fuzzes `tests/fuzz_bodies/engine.rs`.
#![no_main]

#[path = "../../tests/fuzz_bodies/engine.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| body::run(octets));
