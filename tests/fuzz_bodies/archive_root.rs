//! Any octets in the root slots of an archive: what is read of them is what is written there.

pub(crate) fn run(octets: &[u8]) {
    aoe_server::storage::cas::internals::fuzz_root(octets);
}
