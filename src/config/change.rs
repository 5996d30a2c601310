//! What changes from one configuration to the next, for a reload.

use std::collections::HashMap;

use super::{
    CasContent, Config, JournalConfig, ServerConfig, StorageConfig, StoreConfig, TargetConfig,
    Window,
};
use crate::protocol::Address;

/// What is to be done to go from one configuration to another without a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConfigChange {
    /// Targets that are new.
    pub added: Vec<TargetConfig>,
    /// Targets that are there no more.
    pub removed: Vec<Address>,
    /// Targets that stay, but not as they were.
    pub changed: Vec<TargetChange>,
    /// Keys of `[server]` that changed and can take effect at once: `log_level`, `poll`, `spin_us`,
    /// `probe`, `probe_ms`.
    pub server: Vec<&'static str>,
    /// Keys of `[server]` that changed and take effect only when the server is started again.
    pub restart: Vec<&'static str>,
}

impl ConfigChange {
    /// Whether the configurations are the same.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How a target changes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TargetChange {
    /// The target as it shall be.
    pub target: TargetConfig,
    /// The keys that changed.
    pub keys: Vec<&'static str>,
    /// Whether what it is stored in must be closed and opened again. If not, the target goes on
    /// serving while it changes.
    pub reopen: bool,
}

pub(super) fn between(old: &Config, new: &Config) -> ConfigChange {
    let mut change = ConfigChange::default();
    compare_servers(&old.server, &new.server, &mut change);
    let before: HashMap<_, _> = old.targets.iter().map(|each| (each.address, each)).collect();
    let after: HashMap<_, _> = new.targets.iter().map(|each| (each.address, each)).collect();
    for target in &new.targets {
        match before.get(&target.address) {
            None => change.added.push(target.clone()),
            Some(old) => change.changed.extend(compare_targets(old, target)),
        }
    }
    let removed = old.targets.iter().map(|target| target.address);
    change.removed = removed.filter(|address| !after.contains_key(address)).collect();
    change
}

fn compare_servers(old: &ServerConfig, new: &ServerConfig, change: &mut ConfigChange) {
    // Taken apart, so that a key that is added cannot be forgotten here.
    let ServerConfig {
        interfaces,
        link,
        promiscuous,
        poll,
        spin,
        log_level,
        state_dir,
        cpu,
        receive_buffer,
        journal,
        sync_priority,
        probe,
        control_socket,
    } = old;
    // `probe` and `probe_ms` are one setting.
    let probe_switched = probe.is_some() != new.probe.is_some();
    let place =
        |journal: &Option<JournalConfig>| journal.as_ref().map(|journal| journal.path.clone());
    let size = |journal: &Option<JournalConfig>| journal.as_ref().map(|journal| journal.bytes);
    let live = [
        ("log_level", *log_level != new.log_level),
        ("poll", *poll != new.poll),
        ("spin_us", *spin != new.spin),
        ("probe", probe_switched),
        ("probe_ms", !probe_switched && *probe != new.probe),
    ];
    let fixed = [
        ("interfaces", *interfaces != new.interfaces),
        ("link", *link != new.link),
        ("promiscuous", *promiscuous != new.promiscuous),
        ("state_dir", *state_dir != new.state_dir),
        ("cpu", *cpu != new.cpu),
        ("receive_buffer", *receive_buffer != new.receive_buffer),
        ("journal", place(journal) != place(&new.journal)),
        ("journal_size", size(journal) != size(&new.journal)),
        ("sync_priority", *sync_priority != new.sync_priority),
        ("control_socket", *control_socket != new.control_socket),
    ];
    change.server = differing(&live).collect();
    change.restart = differing(&fixed).collect();
}

fn compare_targets(old: &TargetConfig, new: &TargetConfig) -> Option<TargetChange> {
    let TargetConfig {
        address: _,
        storage,
        buffer_count,
        read_only,
        durability,
        allow,
        serial,
        interfaces,
    } = old;
    let (old_parts, new_parts) = (Parts::of(storage), Parts::of(&new.storage));
    let stored = [
        ("backend", old_parts.backend != new_parts.backend),
        ("path", storage.path() != new.storage.path()),
        ("size", old_parts.size != new_parts.size),
        ("offset", old_parts.window.offset != new_parts.window.offset),
        ("length", old_parts.window.length != new_parts.window.length),
        ("read_only", *read_only != new.read_only),
        // Whether groups of writes are synced is decided when the disk is opened.
        ("durability", *durability != new.durability),
        ("serial", *serial != new.serial),
    ];
    let told = [
        ("buffer_count", *buffer_count != new.buffer_count),
        ("allow", *allow != new.allow),
        ("interfaces", *interfaces != new.interfaces),
    ];
    let archived = compare_archives(storage, &new.storage);
    let reopened = || differing(&stored).chain(differing(&archived));
    let keys: Vec<_> = reopened().chain(differing(&told)).collect();
    let reopen = reopened().next().is_some();
    if keys.is_empty() { None } else { Some(TargetChange { target: new.clone(), keys, reopen }) }
}

/// What differs between two archives. Whatever holds for all targets of one changes for all of them,
/// so that it is closed in between.
fn compare_archives(old: &StorageConfig, new: &StorageConfig) -> Vec<(&'static str, bool)> {
    let (StorageConfig::Cas(old), StorageConfig::Cas(new)) = (old, new) else {
        return Vec::new();
    };
    let StoreConfig {
        path: _,
        block_bytes,
        layout,
        journal,
        journal_bytes,
        overlay_bytes,
        cache_bytes,
        commit_bytes,
        commit_interval,
    } = &old.store;
    let store = &new.store;
    let kinds_differ = old.is_snapshot() != new.is_snapshot();
    let contents_differ = match (&old.content, &new.content) {
        (CasContent::Volume { name, .. }, CasContent::Volume { name: new, .. }) => name != new,
        (old, new) => !kinds_differ && old != new,
    };
    Vec::from([
        ("volume", contents_differ && !old.is_snapshot()),
        ("snapshot", kinds_differ || contents_differ && old.is_snapshot()),
        ("block_size", *block_bytes != store.block_bytes),
        ("layout", *layout != store.layout),
        ("journal", *journal != store.journal),
        ("journal_size", *journal_bytes != store.journal_bytes),
        ("overlay_size", *overlay_bytes != store.overlay_bytes),
        ("cache_size", *cache_bytes != store.cache_bytes),
        ("commit_size", *commit_bytes != store.commit_bytes),
        ("commit_seconds", *commit_interval != store.commit_interval),
    ])
}

fn differing<'k>(keys: &'k [(&'static str, bool)]) -> impl Iterator<Item = &'static str> + 'k {
    keys.iter().filter(|(_, differs)| *differs).map(|(key, _)| *key)
}

/// The keys that a storage was configured by.
struct Parts {
    backend: u8,
    size: Option<crate::units::Sectors>,
    window: Window,
}

impl Parts {
    fn of(storage: &StorageConfig) -> Self {
        match storage {
            StorageConfig::File { size, window, .. } => {
                Self { backend: 0, size: *size, window: *window }
            }
            StorageConfig::Device { window, .. } => {
                Self { backend: 1, size: None, window: *window }
            }
            StorageConfig::Memory { size } => {
                Self { backend: 2, size: Some(*size), window: Window::default() }
            }
            StorageConfig::Cas(cas) => {
                let size = match cas.content {
                    CasContent::Volume { size, .. } => size,
                    CasContent::Snapshot { .. } => None,
                };
                Self { backend: 3, size, window: Window::default() }
            }
        }
    }
}
