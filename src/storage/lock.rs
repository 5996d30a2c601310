//! Locks on files that are in use.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::FlockOperation;

/// Gives the lock on a file up when it is dropped. Closing the file would not do while a child
/// process that was just forked holds a copy of the descriptor.
#[derive(Debug)]
pub(super) struct Lock {
    file: Arc<File>,
}

impl Lock {
    /// The lock that was taken on `file`.
    pub(super) fn of(file: &Arc<File>) -> Self {
        Self { file: Arc::clone(file) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // If it fails, closing the file does it soon.
        let _ = rustix::fs::flock(&*self.file, FlockOperation::Unlock);
    }
}
