//! Any octets as a node of an archive's tree: refused, or written again as they were; and a tree that
//! has the node at every place is damaged wherever it does not belong, and never panics.

use aoe_server::storage::cas::fuzz_node;

pub(crate) fn run(octets: &[u8]) {
    fuzz_node(octets);
}
