//! The map of a run.

#![allow(unsafe_code, reason = "memory maps, and advice about them")]

use std::fs::File;
use std::io;
use std::ptr;

use memmap2::{Advice, MmapOptions, MmapRaw};

use super::super::super::file::sigbus::Registration;

/// A read-only map of a file. It is read by any number of threads, and a page that cannot be had is
/// zeros from then on: runs have checksums that zeros do not fit.
#[derive(Debug)]
pub(super) struct Map {
    // Dropped first: the handler must not touch addresses that are unmapped.
    _registration: Option<Registration>,
    /// `None` when the file is empty, of which there can be no map.
    raw: Option<MmapRaw>,
}

impl Map {
    /// Maps the first `len` bytes of `file`.
    pub(super) fn new(file: &File, len: u64) -> io::Result<Self> {
        if len == 0 {
            return Ok(Self { _registration: None, raw: None });
        }
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // Without a Rust reference into the map, it may change at any time: it is only ever read
        // through pointers.
        let raw = MmapOptions::new().len(len).map_raw_read_only(file)?;
        let registration = Registration::new(raw.as_ptr(), len)?;
        // Keys are spread evenly: what is next to the page that was asked for is of no use. It is no
        // more than advice, so that errors do not matter.
        let _ = raw.advise(Advice::Random);
        Ok(Self { _registration: Some(registration), raw: Some(raw) })
    }

    /// Mapped bytes.
    pub(super) fn len(&self) -> usize {
        self.raw.as_ref().map_or(0, MmapRaw::len)
    }

    /// Copies from `offset` on, and tells whether that lies in the map.
    #[inline]
    pub(super) fn copy(&self, offset: u64, into: &mut [u8]) -> bool {
        let Some(raw) = &self.raw else { return into.is_empty() };
        let Ok(start) = usize::try_from(offset) else { return false };
        if start.checked_add(into.len()).is_none_or(|end| end > raw.len()) {
            return false;
        }
        // SAFETY: the offset lies in the map, as was just seen.
        let from = unsafe { raw.as_ptr().add(start) };
        // SAFETY: the source is mapped as long as `self` lives, and a page behind it that cannot be
        // had is replaced by the SIGBUS handler; the two cannot overlap, since nothing mutable is
        // ever made from the map. Nobody writes to a run once it has its name; if somebody does, the
        // copy is what it is, and no checksum fits it.
        unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        true
    }
}
