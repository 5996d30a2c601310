//! What several integration tests share.

#[cfg(feature = "cli")]
pub(crate) mod capture;
pub(crate) mod net;
#[cfg(feature = "cas")]
#[allow(dead_code, reason = "each test program uses a part of this")]
pub(crate) mod noise;
#[cfg(feature = "cli")]
pub(crate) mod server;
pub(crate) mod small_disk;
#[cfg(feature = "cli")]
pub(crate) mod stamper;
