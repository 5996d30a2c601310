//! Writing a run from its start to its end, with little memory.

use std::io;

use super::super::ContentId;
use super::super::StoreId;
use super::format::{
    BLOCK, Block, ENTRIES, ENTRY, Entry, FIRST, HEADER, Header, PAGE, block_of, filter_blocks,
    leading, seal_page,
};
use super::store::RunWriter;

/// Octets that are written at a time.
const WRITTEN: usize = 256 << 10;

/// A part of a run that grows at its end.
#[derive(Debug)]
struct Part {
    at: u64,
    octets: Vec<u8>,
}

impl Part {
    fn new(at: u64) -> Self {
        Self { at, octets: Vec::new() }
    }

    fn push(&mut self, octets: &[u8], writer: &mut impl RunWriter) -> io::Result<()> {
        self.octets.extend_from_slice(octets);
        if self.octets.len() < WRITTEN { Ok(()) } else { self.write(writer) }
    }

    fn write(&mut self, writer: &mut impl RunWriter) -> io::Result<()> {
        if !self.octets.is_empty() {
            writer.write_at(self.at, &self.octets)?;
        }
        self.at += self.octets.len() as u64;
        self.octets.clear();
        Ok(())
    }
}

/// A run that is being written, key by key.
#[derive(Debug)]
pub(super) struct RunBuilder<W> {
    writer: W,
    /// `entries` counts up.
    header: Header,
    salt: u32,
    filter: Part,
    /// The block of the filter that the last key belongs to, and its number.
    block: Block,
    block_number: u64,
    pages: Part,
    page: [u8; PAGE],
    /// Entries of the page.
    in_page: usize,
    page_number: u64,
    directory: Vec<u8>,
    last: Option<ContentId>,
}

impl<W: RunWriter> RunBuilder<W> {
    /// Begins a run that covers the packs `first` to `last` of a store. It may get up to
    /// `entries_max` keys, for which the filter is made.
    pub(super) fn new(
        writer: W,
        store: StoreId,
        (first, last): (u32, u32),
        entries_max: u64,
    ) -> io::Result<Self> {
        let blocks = filter_blocks(entries_max);
        let header = Header { store, first, last, entries: 0, blocks, directory_checksum: 0 };
        let layout = header.layout().ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(Self {
            writer,
            header,
            salt: header.salt(),
            filter: Part::new(HEADER as u64),
            block: Block::EMPTY,
            block_number: 0,
            pages: Part::new(layout.pages_at),
            page: [0; PAGE],
            in_page: 0,
            page_number: 0,
            directory: Vec::new(),
            last: None,
        })
    }

    /// Adds the next key, which comes after those that were added before.
    pub(super) fn push(&mut self, entry: &Entry) -> io::Result<()> {
        assert!(self.last.is_none_or(|last| last < entry.id), "keys come in their order");
        self.last = Some(entry.id);
        let block = block_of(leading(entry.id), self.header.blocks);
        while self.block_number < block {
            self.write_block()?;
        }
        self.block.insert(entry.id);
        if self.in_page == 0 {
            self.directory.extend_from_slice(&entry.id.0[..FIRST]);
        }
        self.page[self.in_page * ENTRY..][..ENTRY].copy_from_slice(&entry.emit());
        self.in_page += 1;
        self.header.entries += 1;
        if self.in_page == ENTRIES { self.write_page() } else { Ok(()) }
    }

    fn write_block(&mut self) -> io::Result<()> {
        self.block.seal(self.salt, self.block_number);
        let Block(octets) = std::mem::replace(&mut self.block, Block::EMPTY);
        self.block_number += 1;
        self.filter.push(&octets, &mut self.writer)
    }

    fn write_page(&mut self) -> io::Result<()> {
        seal_page(&mut self.page, self.salt, self.page_number);
        self.pages.push(&self.page, &mut self.writer)?;
        self.page = [0; PAGE];
        self.in_page = 0;
        self.page_number += 1;
        Ok(())
    }

    /// Writes what is missing, makes the run durable and gives it its name.
    pub(super) fn publish(mut self) -> io::Result<()> {
        while self.block_number < self.header.blocks {
            self.write_block()?;
        }
        if self.in_page > 0 {
            self.write_page()?;
        }
        // Up to the first page, which starts on a multiple of its length.
        let filter_end = HEADER as u64 + self.header.blocks * BLOCK as u64;
        let gap = usize::try_from(filter_end.next_multiple_of(PAGE as u64) - filter_end);
        self.filter.push(&vec![0; gap.unwrap_or(0)], &mut self.writer)?;
        self.filter.write(&mut self.writer)?;
        self.pages.push(&self.directory, &mut self.writer)?;
        self.pages.write(&mut self.writer)?;
        self.header.directory_checksum = crc32c::crc32c(&self.directory);
        self.writer.write_at(0, &self.header.emit())?;
        self.writer.publish()
    }
}
