//! In place of the archives, in a build that has none.

#![allow(clippy::unused_self, reason = "it stands in for what does use itself")]

use std::path::Path;

use super::listener::Backend;
use crate::config::{CasConfig, StoreConfig};
use crate::wake::Waker;

/// Why a target in an archive cannot be served.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// There are none in this build.
    #[error("backend = \"cas\" is not part of this build: build it with the feature cas")]
    Missing,
}

/// How a disk in an archive is to be opened.
#[derive(Debug, Clone)]
pub(super) struct DiskOptions {
    pub(super) read_only: bool,
    pub(super) serial: Option<String>,
    pub(super) waker: Waker,
    pub(super) priority: Option<u8>,
}

/// The archives that are open: none, ever.
#[derive(Debug, Clone, Default)]
pub struct Stores;

impl Stores {
    /// None.
    pub fn new() -> Self {
        Self
    }

    /// Closes all of them.
    pub fn close(&self) -> Vec<ArchiveError> {
        Vec::new()
    }

    pub(super) fn disk(
        &self,
        _: &CasConfig,
        options: DiskOptions,
    ) -> Result<Backend, ArchiveError> {
        let DiskOptions { read_only, serial, waker, priority } = options;
        let _ = (read_only, serial, waker, priority);
        Err(ArchiveError::Missing)
    }

    pub(super) fn forget_failures(&self) {}

    pub(super) fn config(&self, _: &Path) -> Option<StoreConfig> {
        None
    }

    pub(super) fn close_others(&self, _: &[&StoreConfig]) -> Vec<ArchiveError> {
        Vec::new()
    }
}
