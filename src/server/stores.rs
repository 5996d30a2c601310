//! The archives that are open: each once, however many targets are in it.
//!
//! # Invariants
//! * An archive is told by where its directory really is, so that two names of it are one archive.
//! * It is closed when no disk of it is left open, and never before.
//! * The list is locked for no longer than it takes to look at it: opening and closing, which may
//!   take seconds, are done by one thread, without the lock.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::listener::Backend;
use crate::config::{CasConfig, CasContent, Size, StoreConfig, StoreLayout};
use crate::storage::cas::{
    CasError, CasStore, Layout, SnapshotOptions, StoreOptions, VolumeOptions,
};
use crate::units::Sectors;
use crate::wake::Waker;

/// Why a target in an archive cannot be served, or an archive not be closed as it should.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The archive cannot do it. All targets of one that cannot be opened are told the same.
    #[error(transparent)]
    Archive(#[from] Arc<CasError>),
    /// A volume has outgrown what the configuration says of it: it was made larger while it was served.
    #[error(
        "`size` in the configuration is {}, but volume {volume} has {}: write that, or leave `size` out \
         to take the volume as it is. Only to give up what lies beyond: aoe-server volume resize \
         {volume} {} --shrink --store {}",
        size_in_file(*configured),
        size_in_file(*size),
        size_in_command(*configured),
        path.display()
    )]
    Outgrown {
        /// The volume.
        volume: String,
        /// Its size.
        size: Sectors,
        /// What the configuration says.
        configured: Sectors,
        /// The archive's directory.
        path: PathBuf,
    },
    /// It is open already, as somebody else has said that it should be.
    #[error(
        "archive {} is open with other settings, maybe by another name; all its targets must say the \
         same of it",
        path.display()
    )]
    OtherSettings {
        /// Its directory.
        path: PathBuf,
    },
}

/// A size as the configuration has it, and in bytes.
fn size_in_file(size: Sectors) -> String {
    let size = Size::from(size);
    format!("\"{size}\" ({} bytes)", size.0)
}

/// A size as an argument of a command.
fn size_in_command(size: Sectors) -> String {
    format!("{}", Size::from(size)).replace(' ', "")
}

impl From<CasError> for ArchiveError {
    fn from(error: CasError) -> Self {
        Self::Archive(Arc::new(error))
    }
}

/// How a disk in an archive is to be opened.
#[derive(Debug, Clone)]
pub(super) struct DiskOptions {
    pub(super) read_only: bool,
    pub(super) serial: Option<String>,
    pub(super) waker: Waker,
    /// The real-time priority of the thread that makes the archive's writes durable.
    pub(super) priority: Option<u8>,
}

/// An archive that is open.
struct Open {
    /// Where it really is.
    place: PathBuf,
    config: StoreConfig,
    store: CasStore,
}

#[derive(Default)]
struct List {
    open: Vec<Open>,
    /// Those that could not be opened: another try would take as long and say the same.
    failed: Vec<(PathBuf, Arc<CasError>)>,
}

/// The archives that are open. Clones are one list.
#[derive(Clone, Default)]
pub struct Stores(Arc<Mutex<List>>);

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = self.lock();
        f.debug_list().entries(list.open.iter().map(|open| &open.config.path)).finish()
    }
}

impl Stores {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The archives that are open, each with its directory as the configuration has it.
    pub fn list(&self) -> Vec<(PathBuf, CasStore)> {
        let stores = self.lock();
        stores.open.iter().map(|open| (open.config.path.clone(), open.store.clone())).collect()
    }

    /// Closes all of them. Their disks have to be closed already.
    ///
    /// Returns why any could not be closed as it should.
    pub fn close(&self) -> Vec<ArchiveError> {
        self.close_others(&[])
    }

    /// Opens a disk, and before it the archive, unless that is open.
    pub(super) fn disk(
        &self,
        cas: &CasConfig,
        options: DiskOptions,
    ) -> Result<Backend, ArchiveError> {
        let DiskOptions { read_only, serial, waker, priority } = options;
        let (store, waker) = (self.store(&cas.store, priority)?, Some(waker));
        let disk = match &cas.content {
            CasContent::Volume { name, size } => {
                store.attach(name, VolumeOptions { size: *size, read_only, serial, waker })
            }
            CasContent::Snapshot { volume, name } => {
                store.attach_snapshot(volume, name, SnapshotOptions { serial, waker })
            }
        };
        match disk {
            Ok(disk) => Ok(Box::new(disk)),
            Err(CasError::WouldShrink { name: volume, size, wanted: configured }) => {
                let path = cas.store.path.clone();
                Err(ArchiveError::Outgrown { volume, size, configured, path })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Tries those again that could not be opened.
    pub(super) fn forget_failures(&self) {
        self.lock().failed.clear();
    }

    /// How the archive at `path` is open.
    pub(super) fn config(&self, path: &Path) -> Option<StoreConfig> {
        let place = place(path);
        self.lock().open.iter().find(|open| open.place == place).map(|open| open.config.clone())
    }

    /// Closes the archives that are not `wanted`, or not as they are. Their disks have to be closed
    /// already.
    pub(super) fn close_others(&self, wanted: &[&StoreConfig]) -> Vec<ArchiveError> {
        let wanted: Vec<_> = wanted.iter().map(|config| (place(&config.path), *config)).collect();
        let stays = |open: &Open| {
            wanted.iter().any(|(place, config)| *place == open.place && open.is_as(config))
        };
        let mut stores = self.lock();
        let (stay, go): (Vec<_>, Vec<_>) = stores.open.drain(..).partition(stays);
        stores.open = stay;
        drop(stores);
        let closed = go.into_iter().map(|open| {
            log::info!("closing archive {}", open.config.path.display());
            // It may be opened again at once, with other settings.
            open.store.close_and_let_go()
        });
        closed.filter_map(|closed| closed.err().map(ArchiveError::from)).collect()
    }

    /// The archive of `config`, which is opened unless it is open.
    fn store(&self, config: &StoreConfig, priority: Option<u8>) -> Result<CasStore, ArchiveError> {
        let place_before = place(&config.path);
        {
            let stores = self.lock();
            if let Some(open) = stores.open.iter().find(|open| open.place == place_before) {
                if open.is_as(config) {
                    return Ok(open.store.clone());
                }
                return Err(ArchiveError::OtherSettings { path: config.path.clone() });
            }
            if let Some((_, error)) = stores.failed.iter().find(|(path, _)| *path == config.path) {
                return Err(ArchiveError::Archive(Arc::clone(error)));
            }
        }
        let (store, recovered) = match CasStore::open(&config.path, &options(config, priority)) {
            Ok(opened) => opened,
            Err(error) => {
                let error = Arc::new(error);
                self.lock().failed.push((config.path.clone(), Arc::clone(&error)));
                return Err(ArchiveError::Archive(error));
            }
        };
        if recovered.writes > 0 {
            log::warn!(
                "the last server did not come to its end: {} writes, {} bytes, were taken from the \
                 journal of archive {} for {} volumes",
                recovered.writes,
                recovered.bytes,
                config.path.display(),
                recovered.volumes
            );
        }
        // Only now is it known where it is, when it was made just now.
        let place = place(&config.path);
        self.lock().open.push(Open { place, config: config.clone(), store: store.clone() });
        Ok(store)
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        // Nothing is done under the lock that could stop half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Whether it is open as `config` says, by whatever name.
    fn is_as(&self, config: &StoreConfig) -> bool {
        let path = self.config.path.clone();
        self.config == StoreConfig { path, ..config.clone() }
    }
}

/// Where the directory at `path` really is; the path itself when it is not there.
fn place(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.into())
}

fn options(config: &StoreConfig, priority: Option<u8>) -> StoreOptions {
    // Taken apart, so that a key that is added cannot be forgotten here.
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
    } = config;
    let default = StoreOptions::default();
    StoreOptions {
        block_bytes: *block_bytes,
        layout: layout.map(|layout| match layout {
            StoreLayout::Packed => Layout::Packed,
            StoreLayout::Loose => Layout::Loose,
        }),
        journal: journal.clone(),
        journal_bytes: journal_bytes.unwrap_or(default.journal_bytes),
        overlay_bytes: overlay_bytes.unwrap_or(default.overlay_bytes),
        cache_bytes: cache_bytes.unwrap_or(default.cache_bytes),
        commit_bytes: commit_bytes.unwrap_or(default.commit_bytes),
        commit_interval: commit_interval.unwrap_or(default.commit_interval),
        priority,
        ..default
    }
}
