//! A journal laid out by hand, after the tables of `docs/formats.md` and nothing else.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::io;
use std::sync::{Mutex, PoisonError};

use aoe_server::storage::journal::Medium;

/// What heads and records start on a multiple of.
pub(crate) const PAGE: usize = 4096;
/// Where the first segment starts.
pub(crate) const SEGMENTS: usize = 2 * PAGE;
/// Octets of a record before its entries.
pub(crate) const RECORD_HEADER: usize = 32;

/// CRC-32C, bit by bit, that goes on from `before`.
pub(crate) fn crc32c(before: u32, octets: &[u8]) -> u32 {
    !octets.iter().fold(!before, |crc, octet| {
        (0..8).fold(crc ^ u32::from(*octet), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

/// What a head says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) id: [u8; 16],
    pub(crate) segment_bytes: u64,
    pub(crate) segments: u32,
    pub(crate) clean: bool,
    pub(crate) turn: u64,
    pub(crate) released: u64,
}

impl Head {
    /// The page that it fills.
    pub(crate) fn octets(&self) -> Vec<u8> {
        let mut octets = b"AoEjourn\x01\0\0\0\0\0\0\0".to_vec();
        octets.extend_from_slice(&self.id);
        octets.extend_from_slice(&self.segment_bytes.to_le_bytes());
        octets.extend_from_slice(&self.segments.to_le_bytes());
        octets.extend_from_slice(&[if self.clean { 2 } else { 1 }, 0, 0, 0]);
        octets.extend_from_slice(&self.turn.to_le_bytes());
        octets.extend_from_slice(&self.released.to_le_bytes());
        octets.extend_from_slice(&crc32c(0, &octets).to_le_bytes());
        octets.resize(PAGE, 0);
        octets
    }
}

/// A record without padding, and its checksum.
pub(crate) fn record(id: [u8; 16], first: u64, previous: u32, entries: &[&[u8]]) -> (Vec<u8>, u32) {
    let mut octets = b"AoEj\0\0\0\0".to_vec();
    octets.extend_from_slice(&first.to_le_bytes());
    octets.extend_from_slice(&previous.to_le_bytes());
    octets.extend_from_slice(&len(entries.len()));
    octets.extend_from_slice(&len(entries.iter().map(|entry| 4 + entry.len()).sum()));
    octets.extend_from_slice(&[0; 4]);
    for entry in entries {
        octets.extend_from_slice(&len(entry.len()));
        octets.extend_from_slice(entry);
    }
    let checksum = seal(id, &mut octets);
    (octets, checksum)
}

fn len(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("short").to_le_bytes()
}

/// Puts its checksum into a record, whatever else is in it.
pub(crate) fn seal(id: [u8; 16], record: &mut [u8]) -> u32 {
    let checksum = crc32c(crc32c(0, &id), &record[8..]);
    record[4..8].copy_from_slice(&checksum.to_le_bytes());
    checksum
}

/// An entry of an image: kind, flags, the image's number, offset, length, and what follows.
pub(crate) fn entry(kind: u8, flags: u8, image: u64, place: [u64; 2], rest: &[u8]) -> Vec<u8> {
    let mut octets = vec![kind, flags, 0, 0, 0, 0, 0, 0];
    for number in [image, place[0], place[1]] {
        octets.extend_from_slice(&number.to_le_bytes());
    }
    octets.extend_from_slice(rest);
    octets
}

/// A record that is what it was when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sound {
    pub(crate) first: u64,
    pub(crate) entries: Vec<Vec<u8>>,
}

/// The record that starts with `octets`, if there is a sound one of the journal called `id`.
pub(crate) fn sound_record(id: [u8; 16], octets: &[u8]) -> Option<Sound> {
    let number = |at: usize| Some(u32::from_le_bytes(*octets.get(at..)?.first_chunk()?));
    let first = u64::from_le_bytes(*octets.get(8..)?.first_chunk()?);
    let body = octets.get(RECORD_HEADER..)?.get(..usize::try_from(number(24)?).ok()?)?;
    let record = &octets[8..RECORD_HEADER + body.len()];
    if !octets.starts_with(b"AoEj") || crc32c(crc32c(0, &id), record) != number(4)? {
        return None;
    }
    let (mut entries, mut rest) = (Vec::new(), body);
    while let Some((len, more)) = rest.split_first_chunk() {
        let (entry, more) =
            more.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
        entries.push(entry.to_vec());
        rest = more;
    }
    let whole = rest.is_empty() && number(20)? == u32::try_from(entries.len()).ok()?;
    whole.then_some(Sound { first, entries })
}

/// A journal in memory.
#[derive(Debug, Default)]
pub(crate) struct Memory(pub(crate) Mutex<Vec<u8>>);

impl Memory {
    pub(crate) fn new(octets: Vec<u8>) -> Self {
        Self(Mutex::new(octets))
    }

    pub(crate) fn octets(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Medium for Memory {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.octets().len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let octets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(into.len() <= octets.len().max(PAGE), "more is asked for than there can be");
        let found = usize::try_from(offset).ok().and_then(|start| octets.get(start..));
        let found = found.and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, written: &[u8]) -> io::Result<()> {
        let mut octets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset).expect("small");
        octets[start..start + written.len()].copy_from_slice(written);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
