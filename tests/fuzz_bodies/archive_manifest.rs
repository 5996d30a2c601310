//! Any octets as a manifest or a list of packs: refused, or the only form of what they mean.

pub(crate) fn run(octets: &[u8]) {
    aoe_server::storage::cas::internals::fuzz_manifest(octets);
}
