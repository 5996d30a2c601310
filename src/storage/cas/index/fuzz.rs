//! The body of the fuzz target `index_run`.

use std::path::PathBuf;

use super::super::id::FramePlace;
use super::super::{ContentId, FrameKind, StoreId};
use super::Location;
use super::builder::RunBuilder;
use super::format::{BLOCK, Block, Entry, FIRST, HEADER, Header, PAGE, seal, seal_page};
use super::run::Run;
use super::store::RunWriter;

const STORE: StoreId = StoreId(*b"a store of noise");
/// The packs that the run covers.
const PACKS: (u32, u32) = (3, 260);
/// Keys that are looked up and are not there.
const ABSENT: u16 = 20;

/// Damages a run, and looks up what it has and what it has not: each lookup tells the truth, or that
/// the run is damaged. When checksums are put right afterwards, so that anything at all may be found
/// in it, nothing panics, and an entry that the run tells of is the one that is found by its key.
///
/// The first octet is the number of entries, in threes. What follows are changes: a control octet,
/// where, in two octets (little-endian), how many, and as many octets that are put there. Octets from
/// 32768 on are counted from the end of the run. Bits 0 to 3 of the control octet put right, after
/// all changes, the checksums of header, directory, filter and pages; bit 4 cuts the run there, in
/// place of a change.
///
/// # Panics
/// When something else is told: that is the finding.
#[doc(hidden)]
pub fn fuzz(octets: &[u8]) {
    let Some((count, mut changes)) = octets.split_first() else { return };
    let mut entries: Vec<Entry> = (0..3 * u16::from(*count)).map(entry).collect();
    entries.sort_unstable_by_key(|entry| entry.id);
    let mut run = write(&entries);
    let mut repairs = 0;
    while let Some(([control, low, high, len], rest)) = changes.split_first_chunk() {
        let at = usize::from(u16::from_le_bytes([*low, *high]));
        let at = if at < 1 << 15 { at } else { run.len().saturating_sub((1 << 16) - at) };
        let at = at.min(run.len());
        let len = usize::from(*len).min(rest.len());
        let (change, rest) = rest.split_at(len);
        if control & 0x10 == 0 {
            let len = len.min(run.len() - at);
            run[at..at + len].copy_from_slice(&change[..len]);
        } else {
            run.truncate(at);
        }
        repairs |= control & 0xf;
        changes = rest;
    }
    repair(&mut run, repairs);
    let Ok(run) = Run::open(run, PathBuf::from("run"), STORE, PACKS) else { return };
    if repairs == 0 {
        look_up(&run, &entries);
    } else {
        walk(&run);
    }
}

fn key(number: u16) -> ContentId {
    ContentId::of(FrameKind::Block, &number.to_le_bytes())
}

fn entry(number: u16) -> Entry {
    let place = FramePlace { offset: u32::from(number) << 12, len: u32::from(!number) };
    Entry { id: key(number), location: Location { pack: 3 + u32::from(number) % 258, place } }
}

/// A run in memory.
#[derive(Debug)]
struct Written<'a>(&'a mut Vec<u8>);

impl RunWriter for Written<'_> {
    fn write_at(&mut self, offset: u64, octets: &[u8]) -> std::io::Result<()> {
        let start = usize::try_from(offset).map_err(std::io::Error::other)?;
        self.0.resize(self.0.len().max(start + octets.len()), 0);
        self.0[start..start + octets.len()].copy_from_slice(octets);
        Ok(())
    }

    fn publish(self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write(entries: &[Entry]) -> Vec<u8> {
    let mut octets = Vec::new();
    let count = entries.len() as u64;
    let written = RunBuilder::new(Written(&mut octets), STORE, PACKS, count).and_then(|mut run| {
        entries.iter().try_for_each(|entry| run.push(entry))?;
        run.publish()
    });
    written.expect("memory takes everything");
    octets
}

/// Puts right the checksums that `repairs` tells, as far as the header says where they are.
fn repair(run: &mut [u8], repairs: u8) {
    let Some(mut header) = run.first_chunk::<HEADER>().copied() else { return };
    seal(&mut header);
    let Ok(declared) = Header::parse(&header) else { return };
    let Some(layout) = declared.layout().filter(|layout| layout.len == run.len() as u64) else {
        return;
    };
    let as_index = |at: u64| usize::try_from(at).expect("it is in the run");
    let (pages_at, directory_at) = (as_index(layout.pages_at), as_index(layout.directory_at));
    if repairs & 4 != 0 {
        let blocks = run[HEADER..pages_at].chunks_exact_mut(BLOCK);
        for (number, octets) in (0..declared.blocks).zip(blocks) {
            let mut block = Block::EMPTY;
            block.0.copy_from_slice(octets);
            block.seal(declared.salt(), number);
            octets.copy_from_slice(&block.0);
        }
    }
    if repairs & 8 != 0 {
        let (pages, _) = run[pages_at..directory_at].as_chunks_mut::<PAGE>();
        for (number, page) in (0..).zip(pages) {
            seal_page(page, declared.salt(), number);
        }
        // What a page starts with is in the directory as well.
        if repairs & 2 != 0 {
            for page in 0..(directory_at - pages_at) / PAGE {
                let from = pages_at + page * PAGE;
                run.copy_within(from..from + FIRST, directory_at + page * FIRST);
            }
        }
    }
    if repairs & 2 != 0 {
        let directory_checksum = crc32c::crc32c(&run[directory_at..]);
        header = Header { directory_checksum, ..declared }.emit();
    }
    if repairs & 3 != 0 {
        run[..HEADER].copy_from_slice(&header);
    }
}

fn look_up(run: &Run<Vec<u8>>, entries: &[Entry]) {
    for entry in entries {
        if let Ok(found) = run.get(entry.id) {
            assert_eq!(found, Some(entry.location), "{} leads elsewhere", entry.id);
        }
    }
    let count = u16::try_from(entries.len()).expect("there are few");
    for id in (count..count + ABSENT).map(key) {
        assert!(!matches!(run.get(id), Ok(Some(_))), "{id} was never inserted");
    }
    let mut cursor = run.cursor();
    for entry in entries {
        match cursor.next() {
            Ok(found) => assert_eq!(found, Some(*entry)),
            Err(_) => return,
        }
    }
    assert!(matches!(cursor.next(), Ok(None)), "there are more entries than were written");
}

fn walk(run: &Run<Vec<u8>>) {
    let mut entries = Vec::new();
    let mut cursor = run.cursor();
    let is_whole = loop {
        match cursor.next() {
            Ok(Some(entry)) => entries.push(entry),
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    for Entry { id, location } in entries {
        // There may be none, by the filter that was put right. In pages that are not in order, there
        // may be others.
        let found = run.get(id);
        assert!(!is_whole || !matches!(found, Ok(Some(found)) if found != location), "{id}");
    }
    for id in (0..ABSENT).map(key) {
        let _ = run.get(id);
    }
}
