//! Fuzzes `tests/fuzz_bodies/node.rs`.
#![no_main]

#[path = "../../tests/fuzz_bodies/node.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| body::run(octets));
