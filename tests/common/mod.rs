//! What several integration tests share.

pub(crate) mod net;
#[cfg(feature = "cli")]
pub(crate) mod server;
#[cfg(feature = "cli")]
pub(crate) mod stamper;
