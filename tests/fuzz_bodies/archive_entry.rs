//! Any octets as an entry of an archive's journal: refused, or the only form of what it means.

pub(crate) fn run(octets: &[u8]) {
    aoe_server::storage::cas::internals::fuzz_entry(octets);
}
