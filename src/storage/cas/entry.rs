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

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::*;

    /// Four sectors of volume 7 are made zeros from sector 512 on: the ninth write to it.
    const CLEARED: [u8; HEADER] = hex!(
        "12 00 00 00"              // zeros, reserved
        "07 00 00 00"              // volume 7
        "09 00 00 00 00 00 00 00"  // number 9
        "00 02 00 00 00 00 00 00"  // sector 512
        "04 00 00 00 00 00 00 00"  // four sectors
    );
    /// The same with a sector that is written, which is not shown.
    const WRITTEN: [u8; HEADER] = hex!(
        "11 00 00 00"              // write, reserved
        "07 00 00 00"              // volume 7
        "09 00 00 00 00 00 00 00"  // number 9
        "00 02 00 00 00 00 00 00"  // sector 512
        "00 00 00 00 00 00 00 00"  // nothing: the length of the entry tells
    );
    const VOLUME: VolumeNumber = VolumeNumber(7);
    const LBA: Lba = Lba(512);

    fn octets(entry: &ArchiveEntry<'_>) -> Vec<u8> {
        entry.emit(&mut [0xa5; HEADER]).concat()
    }

    #[test]
    fn known_entries() {
        let cleared =
            ArchiveEntry::Zeros { volume: VOLUME, number: 9, lba: LBA, count: Sectors(4) };
        assert_eq!(octets(&cleared), CLEARED);
        assert_eq!(ArchiveEntry::parse(&CLEARED), Some(cleared));
        assert_eq!(cleared.range(), (LBA, Sectors(4)));

        let data = &[0x5a; 512];
        let written = ArchiveEntry::Write { volume: VOLUME, number: 9, lba: LBA, data };
        let known = [&WRITTEN[..], data].concat();
        assert_eq!(octets(&written), known);
        assert_eq!(ArchiveEntry::parse(&known), Some(written));
        assert_eq!((written.volume(), written.number()), (VOLUME, 9));
        assert_eq!(written.range(), (LBA, Sectors(1)));
    }

    #[test]
    fn refuses_what_is_not_whole_sectors_somewhere() {
        for len in 0..1200 {
            let octets = [&WRITTEN[..], &vec![0x5a; len]].concat();
            let parsed = ArchiveEntry::parse(&octets);
            assert_eq!(parsed.is_some(), matches!(len, 512 | 1024), "{len} octets of data");
            let shorter = ArchiveEntry::parse(&CLEARED[..len.min(HEADER - 1)]);
            assert_eq!(shorter, None);
        }
        let longer = [&CLEARED[..], &[0]].concat();
        assert_eq!(ArchiveEntry::parse(&longer), None);
        for count in [0, u64::MAX - 511, u64::MAX] {
            let mut octets = CLEARED;
            octets[24..].copy_from_slice(&count.to_le_bytes());
            assert_eq!(ArchiveEntry::parse(&octets), None, "{count} sectors");
        }
    }

    #[test]
    fn every_bit_means_something() {
        for bit in 0..HEADER * 8 {
            let mut flipped = CLEARED;
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The journal has checksums; here it is enough that no octet is passed over.
            if let Some(entry) = ArchiveEntry::parse(&flipped) {
                assert_ne!(entry, ArchiveEntry::parse(&CLEARED).unwrap(), "bit {bit}");
                assert_eq!(octets(&entry), flipped);
            }
        }
    }

    proptest! {
        #[test]
        fn entries_have_one_form(
            mut entry in prop::collection::vec(any::<u8>(), HEADER..HEADER + 600),
            kind in 0x10_u8..0x14,
            small in any::<bool>(),
        ) {
            entry[0] = kind;
            if small {
                entry[1..4].fill(0);
                entry[20..HEADER].fill(0);
                entry.truncate(HEADER + 512);
            }
            if let Some(parsed) = ArchiveEntry::parse(&entry) {
                prop_assert_eq!(octets(&parsed), entry);
            }
        }

        #[test]
        fn what_is_written_is_read(
            (volume, number) in any::<(u32, u64)>(),
            lba in 0_u64..1 << 48,
            count in 1_u64..9,
            data in prop::option::of(any::<u8>()),
        ) {
            let (volume, lba, count) = (VolumeNumber(volume), Lba(lba), Sectors(count));
            let data = data.map(|octet| vec![octet; usize::try_from(count.0).unwrap() * 512]);
            let entry = match &data {
                Some(data) => ArchiveEntry::Write { volume, number, lba, data },
                None => ArchiveEntry::Zeros { volume, number, lba, count },
            };
            prop_assert_eq!(entry.range(), (lba, count));
            let octets = octets(&entry);
            prop_assert_eq!(ArchiveEntry::parse(&octets), Some(entry));
        }
    }
}
