//! Reading a run.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::super::error::chain;
use super::super::{ContentId, StoreId};
use super::error::{Damage, IndexError};
use super::format::{
    BLOCK, Block, ENTRIES, ENTRY, Entry, FIRST, HEADER, Header, Layout, PAGE, block_of,
    is_page_sound, leading, scaled,
};
use super::store::RunFile;
use super::{Location, RunInfo};

/// Pages that a [`Cursor`] reads at a time.
const AHEAD: u64 = 64;

/// What a run is called that covers these packs.
pub(super) fn run_name((first, last): (u32, u32)) -> String {
    format!("{first:08x}-{last:08x}.run")
}

/// The packs that a run of this name covers; `None` when it is no name of a run.
pub(super) fn parse_name(name: &str) -> Option<(u32, u32)> {
    let (first, last) = name.strip_suffix(".run")?.split_once('-')?;
    let number = |digits| u32::from_str_radix(digits, 16).ok();
    let packs = (number(first)?, number(last)?);
    (run_name(packs) == name).then_some(packs)
}

/// A run. What decides where to look was checked when it was opened and is in memory; what is looked
/// at is checked each time.
#[derive(Debug)]
pub(super) struct Run<F> {
    path: PathBuf,
    file: F,
    header: Header,
    layout: Layout,
    salt: u32,
    /// The leading octets of each page's first key.
    firsts: Box<[u64]>,
    /// What was wrong with it first.
    harm: OnceLock<String>,
}

impl<F: RunFile> Run<F> {
    /// Reads the header and the directory of a run that is called after `packs`.
    pub(super) fn open(
        file: F,
        path: PathBuf,
        store: StoreId,
        packs: (u32, u32),
    ) -> Result<Self, IndexError> {
        let damaged = |what| IndexError::Damaged { path: path.clone(), what };
        if file.bytes() < HEADER as u64 {
            return Err(damaged(Damage::Header));
        }
        let failed = |source| IndexError::Io { op: "read", path: path.clone(), source };
        let mut octets = [0; HEADER];
        file.read_at(0, &mut octets).map_err(failed)?;
        let header =
            Header::parse(&octets).map_err(|error| IndexError::from_header(error, path.clone()))?;
        if header.store != store {
            let (found, wanted) = (header.store, store);
            return Err(IndexError::OtherStore { path, found, wanted });
        }
        let Header { first, last, .. } = header;
        if (first, last) != packs {
            return Err(damaged(Damage::Renamed { first, last }));
        }
        let layout = header.layout().ok_or_else(|| damaged(Damage::Header))?;
        if file.bytes() != layout.len {
            return Err(damaged(Damage::Length { found: file.bytes(), wanted: layout.len }));
        }
        // The file is as long, so that a count that is too large takes no memory.
        let directory_len = layout.pages * FIRST as u64;
        let len = usize::try_from(directory_len).map_err(|_| damaged(Damage::Directory))?;
        let mut directory = vec![0; len];
        file.read_at(layout.directory_at, &mut directory).map_err(failed)?;
        let (keys, _) = directory.as_chunks();
        let firsts: Box<[u64]> = keys.iter().map(|key| u64::from_be_bytes(*key)).collect();
        if crc32c::crc32c(&directory) != header.directory_checksum || !firsts.is_sorted() {
            return Err(damaged(Damage::Directory));
        }
        let (salt, harm) = (header.salt(), OnceLock::new());
        Ok(Self { path, file, header, layout, salt, firsts, harm })
    }

    pub(super) fn info(&self) -> RunInfo {
        let Header { first, last, entries, .. } = self.header;
        RunInfo { first, last, entries, bytes: self.layout.len }
    }

    /// Bytes of memory that it takes, without what the system keeps of the file.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.firsts)
    }

    /// What was wrong with it, if anybody has come upon something.
    pub(super) fn harm(&self) -> Option<&str> {
        self.harm.get().map(String::as_str)
    }

    #[cold]
    fn damaged(&self, what: Damage) -> IndexError {
        self.harmed(IndexError::Damaged { path: self.path.clone(), what })
    }

    #[cold]
    fn failed(&self, source: io::Error) -> IndexError {
        self.harmed(IndexError::Io { op: "read", path: self.path.clone(), source })
    }

    fn harmed(&self, error: IndexError) -> IndexError {
        self.harm.get_or_init(|| chain(&error));
        error
    }

    /// Where `id` leads, if it is there.
    pub(super) fn get(&self, id: ContentId) -> Result<Option<Location>, IndexError> {
        if !self.may_have(id)? {
            return Ok(None);
        }
        let leading = leading(id);
        let end = self.pages_up_to(leading);
        let equal = self.firsts[..end].iter().rev().take_while(|first| **first == leading).count();
        // Almost always one page. More only when keys share their leading octets.
        for page in (end - equal).saturating_sub(1)..end {
            if let Some(location) = self.get_in_page(id, page)? {
                return Ok(Some(location));
            }
        }
        Ok(None)
    }

    /// Whether the filter lets `id` through.
    #[inline]
    fn may_have(&self, id: ContentId) -> Result<bool, IndexError> {
        let number = block_of(leading(id), self.header.blocks);
        let mut block = Block::EMPTY;
        let at = HEADER as u64 + number * BLOCK as u64;
        self.file.read_at(at, &mut block.0).map_err(|source| self.failed(source))?;
        if !block.is_sound(self.salt, number) {
            return Err(self.damaged(Damage::Filter(number)));
        }
        Ok(block.may_have(id))
    }

    /// How many pages start with a key that is not above `leading`.
    ///
    /// Keys are spread evenly, so that it is known about where to look: within some dozens of pages
    /// even in the largest run, a few cache lines in place of a dozen.
    #[inline]
    fn pages_up_to(&self, leading: u64) -> usize {
        let firsts = &*self.firsts;
        let guess = usize::try_from(scaled(leading, firsts.len() as u64)).unwrap_or(0);
        let is_before = |at: usize| firsts.get(at).is_some_and(|first| *first <= leading);
        let (mut start, mut end, mut step) = (guess, guess, 1);
        if is_before(guess) {
            while is_before(end) {
                start = end + 1;
                end += step;
                step *= 2;
            }
        } else {
            while start > 0 && !is_before(start) {
                end = start;
                start = start.saturating_sub(step);
                step *= 2;
            }
        }
        let end = end.min(firsts.len());
        start + firsts[start..end].partition_point(|first| *first <= leading)
    }

    fn get_in_page(&self, id: ContentId, page: usize) -> Result<Option<Location>, IndexError> {
        let number = page as u64;
        let mut octets = [0; PAGE];
        let at = self.layout.pages_at + number * PAGE as u64;
        self.file.read_at(at, &mut octets).map_err(|source| self.failed(source))?;
        let entries = self.entries(&octets, number)?;
        let found = entries.binary_search_by(|entry| entry[..32].cmp(&id.0));
        found.ok().map(|place| Ok(self.parse(&entries[place], number)?.location)).transpose()
    }

    /// The entries of a page.
    #[inline]
    fn entries<'a>(
        &self,
        page: &'a [u8; PAGE],
        number: u64,
    ) -> Result<&'a [[u8; ENTRY]], IndexError> {
        let count = self.header.entries - number * ENTRIES as u64;
        let count = usize::try_from(count).unwrap_or(ENTRIES).min(ENTRIES);
        let (entries, _) = page[..count * ENTRY].as_chunks();
        let first = usize::try_from(number).ok().and_then(|number| self.firsts.get(number));
        // The first key is compared as well, for the page that stood here before it was written.
        let is_this = entries.first().is_some_and(|entry: &[u8; ENTRY]| {
            entry.first_chunk().map(|leading| u64::from_be_bytes(*leading)).as_ref() == first
        });
        if is_this && is_page_sound(page, self.salt, number) {
            Ok(entries)
        } else {
            Err(self.damaged(Damage::Page(number)))
        }
    }

    fn parse(&self, entry: &[u8; ENTRY], page: u64) -> Result<Entry, IndexError> {
        Entry::parse(entry)
            .filter(|entry| entry.location.pack <= self.header.last)
            .ok_or_else(|| self.damaged(Damage::Page(page)))
    }

    /// Reads everything, and finds each key.
    pub(super) fn verify(&self) -> Result<(), IndexError> {
        let mut cursor = self.cursor();
        while let Some(Entry { id, .. }) = cursor.next()? {
            if !self.may_have(id)? {
                return Err(self.damaged(Damage::Filter(block_of(leading(id), self.header.blocks))));
            }
        }
        Ok(())
    }

    /// Everything from the start on.
    pub(super) fn cursor(&self) -> Cursor<'_, F> {
        Cursor { run: self, octets: Vec::new(), first_page: 0, place: 0, last: None }
    }
}

/// Reads a run in the order of its keys.
#[derive(Debug)]
pub(super) struct Cursor<'a, F> {
    run: &'a Run<F>,
    /// Pages that were read.
    octets: Vec<u8>,
    /// The number of the first of them.
    first_page: u64,
    /// The number of the next entry.
    place: u64,
    last: Option<ContentId>,
}

impl<F: RunFile> Cursor<'_, F> {
    /// The next entry; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, IndexError> {
        if self.place == self.run.header.entries {
            return Ok(None);
        }
        let number = self.place / ENTRIES as u64;
        if number >= self.first_page + (self.octets.len() / PAGE) as u64 {
            self.read(number)?;
        }
        let in_page = usize::try_from(self.place % ENTRIES as u64).unwrap_or(0);
        let (pages, _) = self.octets.as_chunks();
        let page = usize::try_from(number - self.first_page).ok().and_then(|at| pages.get(at));
        let Some(page) = page else { return Err(self.run.damaged(Damage::Page(number))) };
        // Checked with its first entry, and in memory since.
        let (entries, _) = page.as_chunks();
        if in_page == 0 {
            self.run.entries(page, number)?;
        }
        let entry = self.run.parse(&entries[in_page], number)?;
        if self.last.is_some_and(|last| last >= entry.id) {
            return Err(self.run.damaged(Damage::Page(number)));
        }
        self.last = Some(entry.id);
        self.place += 1;
        Ok(Some(entry))
    }

    /// Reads pages from the one of this number on.
    fn read(&mut self, number: u64) -> Result<(), IndexError> {
        let count = (self.run.layout.pages - number).min(AHEAD);
        self.octets.resize(usize::try_from(count).unwrap_or(1) * PAGE, 0);
        self.first_page = number;
        let at = self.run.layout.pages_at + number * PAGE as u64;
        self.run.file.read_at(at, &mut self.octets).map_err(|source| self.run.failed(source))
    }
}
