//! What several integration tests share.

#[cfg(feature = "cli")]
pub(crate) mod capture;
pub(crate) mod net;
#[cfg(feature = "cli")]
pub(crate) mod server;
pub(crate) mod small_disk;
#[cfg(feature = "cli")]
pub(crate) mod stamper;
