//! Any octets as a pack of an archive, and as blocks that are packed: what is found is what was put in.

pub(crate) fn run(octets: &[u8]) {
    aoe_server::storage::cas::internals::fuzz_pack(octets);
}
