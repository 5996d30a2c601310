//! Reading and writing a device in whole blocks, from aligned memory.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use super::super::aligned::AlignedBuf;
use super::super::writer::{Disk, write_all_at};
use super::measure;
use crate::units::SECTOR_SIZE;

/// Bytes that are written or verified with one system call at most: enough that the call does not
/// matter.
pub(super) const SCRATCH: usize = 128 * 1024;

/// What a device demands of offsets and lengths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    /// Bytes of a block, a power of two; at least a sector.
    pub(super) block: usize,
}

impl Geometry {
    /// The start of the block that `offset` lies in.
    pub(super) fn down(self, offset: u64) -> u64 {
        offset - offset % self.block as u64
    }

    /// The end of the block that `offset` lies in, or `offset` where a block starts.
    pub(super) fn up(self, offset: u64) -> u64 {
        offset.next_multiple_of(self.block as u64)
    }

    /// The blocks that `span` lies in.
    pub(super) fn around(self, span: &Range<u64>) -> Range<u64> {
        self.down(span.start)..self.up(span.end)
    }

    /// Bytes of a buffer that some blocks of at least `len` bytes fit in, wherever they start.
    pub(super) fn room(self, len: usize) -> usize {
        len.next_multiple_of(self.block) + self.block
    }
}

/// Reads whole blocks. A device that ends early is an error.
pub(super) fn read_blocks(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(buffer, offset)
}

/// The device, as the writer sees it.
#[derive(Debug)]
pub(super) struct DeviceDisk {
    file: Arc<File>,
    geometry: Geometry,
    scratch: AlignedBuf,
}

impl DeviceDisk {
    pub(super) fn new(file: Arc<File>, geometry: Geometry) -> Self {
        let scratch = AlignedBuf::new(geometry.room(SCRATCH));
        Self { file, geometry, scratch }
    }

    /// Writes `len` bytes that `fill` puts into the buffer it is given. They may start and end in
    /// the middle of blocks.
    #[allow(clippy::cast_possible_truncation, reason = "places in the scratch buffer")]
    fn write_part(
        &mut self,
        offset: u64,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> io::Result<()> {
        let Self { file, geometry, scratch } = self;
        let (start, end) = (geometry.down(offset), offset + len as u64);
        let whole = &mut scratch[..(geometry.up(end) - start) as usize];
        let head = (offset - start) as usize;
        if head != 0 {
            read_blocks(file, &mut whole[..geometry.block], start)?;
        }
        let last = geometry.down(end);
        if last != end && !(last == start && head != 0) {
            read_blocks(file, &mut whole[(last - start) as usize..], last)?;
        }
        fill(&mut whole[head..head + len]);
        write_all_at(start, &mut [IoSlice::new(whole)], |at, parts| {
            parts.first().map_or(Ok(0), |part| file.write_at(part, at))
        })
    }

    fn write_zeros(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let zeros = vec![0; usize::try_from(len).unwrap_or(0)];
        self.write(offset, &mut [IoSlice::new(&zeros)])
    }
}

impl Disk for DeviceDisk {
    fn len(&mut self) -> io::Result<u64> {
        Ok(measure(&self.file)?.0 * SECTOR_SIZE as u64)
    }

    fn write(&mut self, offset: u64, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut at = offset;
        let mut left: usize = parts.iter().map(|part| part.len()).sum();
        while left > 0 {
            // A whole scratch buffer ends where a block does.
            let head = usize::try_from(at - self.geometry.down(at)).unwrap_or(0);
            let take = left.min(SCRATCH.next_multiple_of(self.geometry.block) - head);
            self.write_part(at, take, |mut into| {
                while !into.is_empty() {
                    let Some(part) = parts.first() else { return };
                    let some = part.len().min(into.len());
                    into[..some].copy_from_slice(&part[..some]);
                    into = &mut into[some..];
                    IoSlice::advance_slices(&mut parts, some);
                }
            })?;
            at += take as u64;
            left -= take;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn punch(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset + len;
        let (start, stop) = (self.geometry.up(offset), self.geometry.down(end));
        if start >= stop {
            return self.write_zeros(offset, len);
        }
        self.write_zeros(offset, start - offset)?;
        self.write_zeros(stop, end - stop)?;
        // On a device this asks for zeros, by whatever means it has, and fails if it has none.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&*self.file, flags, start, stop - start)?)
    }
}
