//! Snapshots that are served at run time, and what is served for others to read.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::control::{Control, LoopEnded, Status};
use super::stores::Stores;
use super::supervisor::{Server, ServerError};
use crate::config::{CasConfig, CasContent, Config, StorageConfig, StoreConfig, TargetConfig};
use crate::protocol::Address;

/// A snapshot that is to be served as a target, read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotExport {
    /// Where.
    pub address: Address,
    /// The directory of its archive, which has to be one that the server has open.
    pub store: PathBuf,
    /// The volume.
    pub volume: String,
    /// The snapshot.
    pub snapshot: String,
    /// The interfaces that it is served on; all of the server's, when empty.
    pub interfaces: Vec<String>,
}

/// A target that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServedTarget {
    /// How it is configured.
    pub config: TargetConfig,
    /// It is there since somebody asked for it, not by the configuration.
    pub exported: bool,
}

/// A view of a running server for other threads. It never waits for the server, which may have its
/// hands full for seconds when it reloads.
#[derive(Clone)]
pub struct Observer {
    control: Control,
    stores: Stores,
    served: Arc<Mutex<Vec<ServedTarget>>>,
}

impl Observer {
    /// The state of the loop, some tenths of a second old at most.
    pub fn status(&self) -> Status {
        self.control.status()
    }

    /// What is served, in the order of addresses.
    pub fn targets(&self) -> Vec<ServedTarget> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The archives that are open.
    pub const fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Has the loop look whether the disk of a target has changed its size, and tell initiators.
    ///
    /// # Errors
    /// [`LoopEnded`].
    pub fn refresh(&self, address: Address) -> Result<(), LoopEnded> {
        self.control.refresh(address)
    }
}

impl Server {
    /// A view of this server for other threads.
    pub fn observer(&self) -> Observer {
        let (control, stores) = (self.control.clone(), self.stores.clone());
        Observer { control, stores, served: Arc::clone(&self.served) }
    }

    /// Serves a snapshot, read-only, until [`Self::unexport`] or the end: it is in no configuration,
    /// and a reload leaves it alone, unless the new configuration has a target at its address.
    ///
    /// # Errors
    /// [`ServerError`]: the archive is not open, there is no such snapshot, or the address is taken.
    pub fn export_snapshot(&mut self, export: SnapshotExport) -> Result<(), ServerError> {
        let SnapshotExport { address, store: path, volume, snapshot: name, interfaces } = export;
        let store = self.stores.config(&path).ok_or(ServerError::NotOpen { path })?;
        let content = CasContent::Snapshot { volume, name };
        let mut target =
            TargetConfig::new(address, StorageConfig::Cas(CasConfig { store, content }));
        (target.read_only, target.interfaces) = (true, interfaces);
        self.add_exports(vec![target]).pop().map_or(Ok(()), Err)
    }

    /// Stops serving a snapshot that [`Self::export_snapshot`] has brought.
    ///
    /// # Errors
    /// [`ServerError::NotExported`], or the loop has ended.
    pub fn unexport(&mut self, address: Address) -> Result<(), ServerError> {
        let index = self.exports.iter().position(|export| export.address == address);
        let index = index.ok_or(ServerError::NotExported { address })?;
        for error in self.close_those_left() {
            log::error!("{error}");
        }
        let export = self.exports.remove(index);
        let taken = self.take_off(&export);
        self.publish();
        taken?;
        self.close_stores([]).pop().map_or(Ok(()), Err)
    }

    fn add_exports(&mut self, targets: Vec<TargetConfig>) -> Vec<ServerError> {
        let (served, failed) = self.serve(targets);
        self.exports.extend(served);
        self.publish();
        failed.into_iter().map(|(_, error)| error).collect()
    }

    /// Takes those snapshots off that cannot stay as they are under the configuration `new`. Returns
    /// those that are to come back afterwards.
    pub(super) fn withdraw_exports(
        &mut self,
        new: &Config,
        errors: &mut Vec<ServerError>,
    ) -> Vec<TargetConfig> {
        let mut back = Vec::new();
        for mut export in std::mem::take(&mut self.exports) {
            let address = export.address;
            let displaced = new.targets.iter().any(|target| target.address == address);
            let present = store_of(&export).cloned();
            let is_same = |store: &&StoreConfig| {
                present.as_ref().is_some_and(|present| present.path == store.path)
            };
            let wanted = new.targets.iter().filter_map(store_of).find(is_same).cloned();
            if !displaced && (wanted.is_none() || wanted == present) {
                self.exports.push(export);
                continue;
            }
            if let Err(error) = self.take_off(&export) {
                errors.push(error);
            } else if displaced {
                log::warn!("{address}: {} gives way to the configuration", export.storage);
            } else {
                if let (StorageConfig::Cas(cas), Some(store)) = (&mut export.storage, wanted) {
                    cas.store = store;
                }
                back.push(export);
            }
        }
        self.publish();
        back
    }

    /// Serves snapshots again that were taken off.
    pub(super) fn restore_exports(&mut self, exports: Vec<TargetConfig>) -> Vec<ServerError> {
        let exports = exports.into_iter().map(|export| self.with_open_store(export)).collect();
        self.add_exports(exports)
    }

    /// The target, with its archive as it is open, if it is.
    pub(super) fn with_open_store(&self, mut target: TargetConfig) -> TargetConfig {
        if let StorageConfig::Cas(CasConfig { store, .. }) = &mut target.storage
            && let Some(open) = self.stores.config(&store.path)
        {
            *store = open;
        }
        target
    }

    /// Closes the archives that no target is in, neither one whose disk is open nor one that is `coming`.
    pub(super) fn close_stores<'a>(
        &'a self,
        coming: impl IntoIterator<Item = &'a TargetConfig>,
    ) -> Vec<ServerError> {
        let wanted: Vec<_> = self.with_open_disks().chain(coming).filter_map(store_of).collect();
        self.stores.close_others(&wanted).into_iter().map(Into::into).collect()
    }

    /// Tells others what is served.
    pub(super) fn publish(&self) {
        let of = |exported| {
            move |config: &TargetConfig| ServedTarget { config: config.clone(), exported }
        };
        let mut served: Vec<_> = self.config.targets.iter().map(of(false)).collect();
        served.extend(self.exports.iter().map(of(true)));
        served.sort_by_key(|target| (target.config.address.shelf, target.config.address.slot));
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = served;
    }
}

/// The archive that a target is in.
const fn store_of(target: &TargetConfig) -> Option<&StoreConfig> {
    match &target.storage {
        StorageConfig::Cas(cas) => Some(&cas.store),
        _ => None,
    }
}
