//! Who a target says it is.

use super::Durability;
use crate::protocol::ata::{AtaText, Identity, WriteCache};
use crate::storage::DeviceInfo;

/// What the IDENTIFY page of a disk says, and of its write cache, which only a volatile one has.
pub(super) fn identity(info: &DeviceInfo, durability: Durability, cache_on: bool) -> Identity {
    Identity {
        serial: info.serial,
        firmware: AtaText::new(env!("CARGO_PKG_VERSION")),
        model: info.model,
        size: info.size,
        write_cache: match durability {
            Durability::Durable => WriteCache::None,
            Durability::Volatile if cache_on => WriteCache::On,
            Durability::Volatile => WriteCache::Off,
        },
        trim: info.discard && !info.read_only,
    }
}
