//! A run of the archive's index, damaged in any way: what it tells is true, or it tells that it is
//! damaged. The data is described where the rest of the body is.

pub(crate) fn run(data: &[u8]) {
    aoe_server::storage::cas::fuzz_index_run(data);
}
