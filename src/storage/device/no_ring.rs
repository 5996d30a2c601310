//! In place of `ring.rs` where the bindings to `io_uring` know nothing of the processor: every
//! attempt to have a ring fails.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::disk::Geometry;
use super::reads::Way;
use crate::wake::Waker;

/// A ring that there is not.
#[derive(Debug)]
pub(super) enum Ring {}

impl Ring {
    pub(super) fn new(
        _: &Arc<File>,
        _: Geometry,
        _: usize,
        _: &str,
        _: Option<&Waker>,
    ) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "not known for this kind of processor"))
    }
}

impl Way for Ring {
    fn begin(&mut self, _: usize, _: &Range<u64>, _: bool) {
        match *self {}
    }

    fn submit(&mut self) {
        match *self {}
    }

    fn ended(&mut self) -> Option<(usize, bool)> {
        match *self {}
    }

    fn blocks(&self, _: usize) -> &[u8] {
        match *self {}
    }

    fn depth(&self) -> usize {
        match *self {}
    }
}
