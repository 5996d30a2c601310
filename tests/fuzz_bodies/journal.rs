//! Any octets as a journal after a crash: refused, or read as what is sound in it and nothing else;
//! and what is appended then comes back.
//!
//! The data is a sequence of pages of the journal: a control octet, the number of the octets that
//! follow in two octets (little-endian), the octets.
//!
//! | bits of the control octet | meaning |
//! | --- | --- |
//! | 0-2 | the page, of eight |
//! | 4 | the checksum of a head is put in |
//! | 5 | the checksum of a record is put in |

#[path = "../common/journal_octets.rs"]
mod journal_octets;

use std::collections::BTreeMap;
use std::sync::Arc;

use aoe_server::storage::journal::{Room, Scan, fuzz};
use journal_octets::{Memory, PAGE, RECORD_HEADER, SEGMENTS, Sound, crc32c, seal, sound_record};

/// Pages of the journal.
const PAGES: usize = 8;
/// Octets of each image.
const IMAGE: usize = 4096;
/// Octets of a head that are not reserved, without the checksum.
const HEAD: usize = 64;

pub(crate) fn run(data: &[u8]) {
    let medium = Arc::new(Memory::new(lay_out(data)));
    let Ok(scan) = Scan::of(&medium) else { return };
    let octets = medium.octets();
    let sound: Vec<Sound> = octets[SEGMENTS..]
        .chunks(PAGE)
        .enumerate()
        .filter_map(|(page, _)| sound_record(scan.id().0, &octets[SEGMENTS + page * PAGE..]))
        .collect();
    let entries = entries(&scan, &medium);
    for (sequence, entry) in &entries {
        let is_there = |record: &Sound| {
            let index = sequence.checked_sub(record.first).and_then(|at| usize::try_from(at).ok());
            index.and_then(|index| record.entries.get(index)) == Some(entry)
        };
        assert!(sound.iter().any(is_there), "entry {sequence} is of no sound record");
    }
    let is_whole = entries.is_sorted_by(|one, next| one.0 + 1 == next.0);
    assert!(is_whole || !scan.lost().is_empty(), "something is missing, and nothing is said");
    assert_eq!(fuzz(&scan, &medium, IMAGE), model(&entries), "replayed otherwise than written");
    append(&scan, &medium, entries);
}

/// The journal that `data` describes.
fn lay_out(mut data: &[u8]) -> Vec<u8> {
    let mut journal = vec![0; PAGES * PAGE];
    while let Some(([control, low, high], rest)) = data.split_first_chunk() {
        let page = usize::from(control & 7) * PAGE;
        let len = usize::from(u16::from_le_bytes([*low, *high]));
        let len = len.min(rest.len()).min(journal.len() - page);
        let (octets, rest) = rest.split_at(len);
        journal[page..page + len].copy_from_slice(octets);
        if control & 0x10 != 0 {
            let checksum = crc32c(0, &journal[page..page + HEAD]).to_le_bytes();
            journal[page + HEAD..page + HEAD + 4].copy_from_slice(&checksum);
        }
        if control & 0x20 != 0 {
            // By the name that the first head gives.
            let id = *journal[16..].first_chunk().expect("it is long enough");
            let body = journal[page + 24..].first_chunk().map(|len| u32::from_le_bytes(*len));
            let record = body.and_then(|body| {
                journal[page..].get_mut(..RECORD_HEADER + usize::try_from(body).ok()?)
            });
            record.map(|record| seal(id, record));
        }
        data = rest;
    }
    journal
}

fn entries(scan: &Scan, medium: &Memory) -> Vec<(u64, Vec<u8>)> {
    let mut entries = Vec::new();
    let read = scan.entries(medium, |sequence, entry| {
        entries.push((sequence.0, entry.to_vec()));
        true
    });
    read.expect("what was just found is there");
    entries
}

/// What an entry means: its kind, its image, and where it writes what.
fn parse(entry: &[u8]) -> Option<(u8, u64, u64, u64, &[u8])> {
    let (header, rest) = entry.split_first_chunk::<32>()?;
    let number = |at: usize| u64::from_le_bytes(*header[at..].first_chunk().expect("eight"));
    let [kind, flags, reserved @ ..] = *header.first_chunk::<8>()?;
    let (offset, len) = (number(16), number(24));
    let possible = reserved == [0; 6]
        && match kind {
            1 => flags <= 1 && (offset, len) == (0, 0),
            2 => flags == 0 && len == 0,
            3 => flags == 0 && rest.is_empty(),
            4 => flags == 0 && (offset, len) == (0, 0) && rest.is_empty(),
            _ => false,
        };
    possible.then_some((kind, number(8), offset, len, rest))
}

/// What images hold when everything was written to them, in order; `None` when something cannot be.
fn model(entries: &[(u64, Vec<u8>)]) -> Option<BTreeMap<u64, Vec<u8>>> {
    let entries: Option<Vec<_>> = entries.iter().map(|(_, entry)| parse(entry)).collect();
    let entries = entries?;
    let mut images = BTreeMap::new();
    for (kind, image, ..) in &entries {
        if *kind == 4 {
            images.remove(image);
        } else {
            images.insert(*image, vec![0xff; IMAGE]);
        }
    }
    for (kind, image, offset, len, data) in entries {
        let Some(octets) = images.get_mut(&image).filter(|_| matches!(kind, 2 | 3)) else {
            continue;
        };
        let len = if kind == 2 { data.len() as u64 } else { len };
        let end = usize::try_from(offset.checked_add(len)?).ok()?;
        let place = octets.get_mut(usize::try_from(offset).ok()?..end)?;
        if kind == 2 { place.copy_from_slice(data) } else { place.fill(0) }
    }
    Some(images)
}

/// Appends as long as there is room; all of it is there afterwards, behind what was.
fn append(scan: &Scan, medium: &Arc<Memory>, mut wanted: Vec<(u64, Vec<u8>)>) {
    let (mut appender, _) = scan.ends(Arc::clone(medium));
    if appender.last().0 > 1 << 62 {
        return; // as far as no journal comes, and then nothing is taken for a record
    }
    for n in 0_u8.. {
        if appender.begin() == Room::None {
            break;
        }
        let entry = vec![n; usize::from(n).min(appender.entry_max())];
        let sequence = appender.stage(&[&entry]);
        appender.commit().expect("memory takes everything");
        wanted.push((sequence.0, entry));
    }
    let again = Scan::of(medium).expect("the heads are as they were");
    let found = entries(&again, medium);
    // A journal that was closed has to be opened before its records count.
    let closed = scan.is_empty() && found.is_empty();
    assert!(closed || found == wanted, "not what was appended comes back");
}
