//! Any octets as a frame of an archive: refused, or the only form of what it says, holding what it is called.

pub(crate) fn run(octets: &[u8]) {
    aoe_server::storage::cas::internals::fuzz_frame(octets);
}
