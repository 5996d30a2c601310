//! What the journal of an archive holds: writes to volumes that are in no committed tree yet.
//!
//! Entries name volumes by their numbers, which the newest manifest knows. Their kinds are others than
//! those of a journal of images, so that neither takes the other's for its own.

use super::id::VolumeNumber;
use super::octets::{Reader, Writer};
use crate::units::{Lba, SECTOR_SIZE, Sectors};

const WRITE: u8 = 0x11;
const ZEROS: u8 = 0x12;
/// Octets of an entry before what is written.
pub(super) const HEADER: usize = 32;

/// An entry of the journal of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArchiveEntry<'a> {
    /// Sectors were written.
    Write {
        volume: VolumeNumber,
        /// The place of the write in the order of all writes to its volume.
        number: u64,
        lba: Lba,
        /// A whole number of sectors, at least one.
        data: &'a [u8],
    },
    /// Sectors were made zeros.
    Zeros {
        volume: VolumeNumber,
        /// The place of the write in the order of all writes to its volume.
        number: u64,
        lba: Lba,
        /// At least one.
        count: Sectors,
    },
}

impl<'a> ArchiveEntry<'a> {
    /// The volume that it is about.
    pub(super) fn volume(&self) -> VolumeNumber {
        let (Self::Write { volume, .. } | Self::Zeros { volume, .. }) = *self;
        volume
    }

    /// Its place in the order of all writes to its volume.
    pub(super) fn number(&self) -> u64 {
        let (Self::Write { number, .. } | Self::Zeros { number, .. }) = *self;
        number
    }

    /// The first sector, and how many there are.
    pub(super) fn range(&self) -> (Lba, Sectors) {
        match *self {
            Self::Write { lba, data, .. } => (lba, Sectors((data.len() / SECTOR_SIZE) as u64)),
            Self::Zeros { lba, count, .. } => (lba, count),
        }
    }

    /// The entry, in two parts. `header` is room for the first.
    pub(super) fn emit<'b>(&self, header: &'b mut [u8; HEADER]) -> [&'b [u8]; 2]
    where
        'a: 'b,
    {
        let (kind, count, data): (_, _, &[u8]) = match *self {
            // How many they are shows in the entry's length.
            Self::Write { data, .. } => (WRITE, Sectors(0), data),
            Self::Zeros { count, .. } => (ZEROS, count, &[]),
        };
        let (lba, _) = self.range();
        let mut writer = Writer::new(header);
        writer.put(&[kind, 0, 0, 0]);
        writer.put(&self.volume().0.to_le_bytes());
        writer.put(&self.number().to_le_bytes());
        writer.put(&lba.0.to_le_bytes());
        writer.put(&count.0.to_le_bytes());
        [header, data]
    }

    /// `None` when it is not an entry of this kind of journal.
    pub(super) fn parse(entry: &'a [u8]) -> Option<Self> {
        let (header, data) = entry.split_first_chunk::<HEADER>()?;
        let mut reader = Reader::new(header);
        let kind = reader.u8()?;
        reader.reserved::<3>()?;
        let volume = VolumeNumber(reader.u32()?);
        let (number, lba) = (reader.u64()?, Lba(reader.u64()?));
        let count = Sectors(reader.u64()?);
        let parsed = match kind {
            WRITE if count == Sectors(0) && data.len().is_multiple_of(SECTOR_SIZE) => {
                Self::Write { volume, number, lba, data }
            }
            ZEROS if data.is_empty() => Self::Zeros { volume, number, lba, count },
            _ => return None,
        };
        let (lba, count) = parsed.range();
        let is_somewhere = count != Sectors(0) && lba.checked_add(count).is_some();
        is_somewhere.then_some(parsed)
    }
}
