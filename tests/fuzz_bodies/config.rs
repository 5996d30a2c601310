//! Any octets as a configuration: taken, or refused with messages that name a line there is.

pub(crate) fn run(octets: &[u8]) {
    aoe_server::config::fuzz(octets);
}
