//! From a target's configuration to an export that a loop can serve.

use super::listener::Backend;
use super::state::{StateDirectory, StateError};
use super::stores::{ArchiveError, DiskOptions, Stores};
use crate::config::{StorageConfig, TargetConfig};
use crate::engine::{Durability, Export, Target, TargetProfile};
use crate::protocol::Address;
use crate::storage::SyncPolicy;
use crate::storage::device::{DeviceError, DeviceOptions, DeviceStorage, ReadMethod};
use crate::storage::file::{FileError, FileOptions, FileStorage};
use crate::storage::journal::FileJournal;
use crate::storage::mem::MemStorage;
use crate::storage::readonly::ReadOnly;
use crate::storage::window::{OutsideDisk, Window};
use crate::units::Sectors;
use crate::wake::Waker;

/// Why a target cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Its image cannot be.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its device cannot be.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Its device does not hold the part that is to be served.
    #[error(transparent)]
    Window(#[from] OutsideDisk),
    /// This machine cannot hold it in memory.
    #[error("{sectors} sectors are more than fits in memory")]
    Memory {
        /// Its size.
        sectors: Sectors,
    },
    /// Its archive has no such disk, or cannot be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// What initiators set on it cannot be read back.
    #[error(transparent)]
    State(#[from] StateError),
    /// It is to be served on an interface that the server was not started with.
    #[error("interface {interface} is not one of those that the server was started with")]
    Interface {
        /// The interface.
        interface: String,
    },
}

/// What storage is given by the server it works for.
#[derive(Debug, Clone)]
pub struct StorageMeans {
    /// Wakes the loop.
    pub waker: Waker,
    /// Used by files that acknowledge what is durable.
    pub journal: Option<FileJournal>,
    /// The real-time priority of threads that make writes durable, from 1 to 99.
    pub sync_priority: Option<u8>,
    /// The archives that are open, to which those are added that a target needs.
    pub stores: Stores,
}

impl StorageMeans {
    /// The loop's waker alone: no journal, no priority, no archive that is open yet.
    pub fn new(waker: Waker) -> Self {
        Self { waker, journal: None, sync_priority: None, stores: Stores::new() }
    }
}

/// Opens what a target is stored in, and puts the target on top with what initiators had set, or,
/// without a state directory, with nothing set.
///
/// # Errors
/// [`TargetError`].
pub fn open_target(
    config: &TargetConfig,
    means: StorageMeans,
    state: Option<&StateDirectory>,
) -> Result<Export<Backend>, TargetError> {
    // Settings first: opening an image may create it.
    let settings = match state {
        Some(state) => state.load(config.address)?,
        None => crate::engine::Settings::default(),
    };
    let storage = storage(config, means)?;
    let profile = TargetProfile {
        address: config.address,
        buffer_count: config.buffer_count,
        durability: config.durability,
        allow: config.allow.clone(),
    };
    Ok(Export { target: Target::new(profile, settings), storage })
}

fn storage(config: &TargetConfig, means: StorageMeans) -> Result<Backend, TargetError> {
    let sync = match config.durability {
        Durability::Durable => SyncPolicy::EveryGroup,
        Durability::Volatile => SyncPolicy::OnFlush,
    };
    let serial = config.serial.map(|serial| serial.to_string());
    let StorageMeans { waker, journal, sync_priority: priority, stores } = means;
    let read_only = config.read_only;
    if let StorageConfig::Cas(cas) = &config.storage {
        return Ok(stores.disk(cas, DiskOptions { read_only, serial, waker, priority })?);
    }
    let waker = Some(waker);
    match &config.storage {
        StorageConfig::File { path, size, window } => {
            let (offset, length) = (window.offset, window.length);
            let size = *size;
            let options = FileOptions {
                size,
                read_only,
                offset,
                length,
                serial,
                sync,
                journal,
                priority,
                waker,
            };
            Ok(Box::new(FileStorage::open(path, options)?))
        }
        StorageConfig::Device { path, window } => {
            let reads = ReadMethod::Auto;
            let options = DeviceOptions { read_only, serial, sync, reads, priority, waker };
            let device = DeviceStorage::open(path, options)?;
            if *window == crate::config::Window::default() {
                return Ok(Box::new(device));
            }
            Ok(Box::new(Window::new(device, window.offset, window.length)?))
        }
        StorageConfig::Memory { size } => {
            let serial = serial.unwrap_or_else(|| default_serial(config.address));
            let disk = MemStorage::new(memory(*size)?, &serial);
            Ok(if read_only { Box::new(ReadOnly::new(disk)) } else { Box::new(disk) })
        }
        StorageConfig::Cas(_) => unreachable!("archives were seen to above"),
    }
}

/// Octets that stand for sectors; an error, not an abort, when there are too many.
fn memory(sectors: Sectors) -> Result<Vec<u8>, TargetError> {
    let error = TargetError::Memory { sectors };
    let Some(len) = sectors.bytes().and_then(|bytes| usize::try_from(bytes).ok()) else {
        return Err(error);
    };
    let mut octets = Vec::new();
    if octets.try_reserve_exact(len).is_err() {
        return Err(error);
    }
    octets.resize(len, 0);
    Ok(octets)
}

/// A disk in memory has nothing that outlives it but its address.
fn default_serial(address: Address) -> String {
    format!("{address}-memory")
}
