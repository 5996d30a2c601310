//! What several integration tests share.

pub(crate) mod net;
#[cfg(feature = "cli")]
pub(crate) mod server;
pub(crate) mod small_disk;
#[cfg(feature = "cli")]
pub(crate) mod stamper;
