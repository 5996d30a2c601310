//! Any octets as the saved settings of a target: refused, or the only form of what they mean.

pub(crate) fn run(octets: &[u8]) {
    aoe_server::server::state::fuzz(octets);
}
