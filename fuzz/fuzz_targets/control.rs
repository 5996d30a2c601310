//! Fuzzes `tests/fuzz_bodies/control.rs`.
#![no_main]

#[path = "../../tests/fuzz_bodies/control.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| body::run(octets));
