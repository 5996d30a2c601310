//! Fields in strings of octets, one behind the other.

use super::id::ContentId;
use crate::blob::BlobId;

/// Takes fields from the front. Every length found in octets is a claim, so that each of them may turn
/// out not to be there.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// How many octets are left.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn octets(&mut self, len: usize) -> Option<&'a [u8]> {
        let (octets, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(octets)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (octets, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*octets)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn content_id(&mut self) -> Option<ContentId> {
        self.array().map(ContentId)
    }

    pub(super) fn blob_id(&mut self) -> Option<BlobId> {
        self.array().map(BlobId)
    }

    /// Skips `N` reserved octets; `None` if any of them is used.
    pub(super) fn reserved<const N: usize>(&mut self) -> Option<()> {
        (self.array()? == [0; N]).then_some(())
    }
}

/// Puts fields into octets of fixed length, which the caller has counted.
pub(super) struct Writer<'a>(&'a mut [u8]);

impl<'a> Writer<'a> {
    pub(super) const fn new(octets: &'a mut [u8]) -> Self {
        Self(octets)
    }

    pub(super) fn put(&mut self, field: &[u8]) {
        let (here, rest) = std::mem::take(&mut self.0).split_at_mut(field.len());
        here.copy_from_slice(field);
        self.0 = rest;
    }
}

/// Puts the CRC-32C of everything before it into the last four octets.
pub(super) fn seal(octets: &mut [u8]) {
    if let Some((body, checksum)) = octets.split_last_chunk_mut() {
        *checksum = crc32c::crc32c(body).to_le_bytes();
    }
}

/// Whether the last four octets are the CRC-32C of everything before.
pub(super) fn is_sealed(octets: &[u8]) -> bool {
    octets
        .split_last_chunk()
        .is_some_and(|(body, checksum)| *checksum == crc32c::crc32c(body).to_le_bytes())
}

/// A length or count in a blob as 32 bits, which have room for all that a blob has.
pub(super) fn word(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
