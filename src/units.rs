//! Quantities that must not be mixed: sector addresses, sector counts, byte offsets.
//!
//! ATA over Ethernet counts in sectors of 512 octets, files count in bytes, and a bare `u64` would
//! let one pass for the other. No bare `u64` of these kinds crosses a module.

use core::fmt;

/// Octets in one sector. AoE knows no other size (ATA-8 logical sectors of 256 words).
pub const SECTOR_SIZE: usize = 512;

/// `SECTOR_SIZE` where a 64-bit count is being computed.
const SECTOR_BYTES: u64 = SECTOR_SIZE as u64;

/// The address of one sector of a disk, from zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lba(pub u64);

/// A number of sectors of 512 octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sectors(pub u64);

/// A place in a file or device, in bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteOffset(pub u64);

impl Lba {
    /// Where this sector starts, in bytes; `None` past the end of what 64 bits can address.
    pub const fn offset(self) -> Option<ByteOffset> {
        match self.0.checked_mul(SECTOR_BYTES) {
            Some(offset) => Some(ByteOffset(offset)),
            None => None,
        }
    }

    /// The sector `count` sectors further on; `None` on overflow.
    pub const fn checked_add(self, count: Sectors) -> Option<Self> {
        match self.0.checked_add(count.0) {
            Some(lba) => Some(Self(lba)),
            None => None,
        }
    }

    /// Whether `count` sectors from here all lie on a disk of `size` sectors.
    pub const fn fits(self, count: Sectors, size: Sectors) -> bool {
        match self.0.checked_add(count.0) {
            Some(end) => end <= size.0,
            None => false,
        }
    }
}

impl Sectors {
    /// The whole sectors that fit in `bytes`; an incomplete last sector is not counted.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes / SECTOR_BYTES)
    }

    /// How many bytes these sectors hold; `None` when that is more than 64 bits can say.
    pub const fn bytes(self) -> Option<u64> {
        self.0.checked_mul(SECTOR_BYTES)
    }

    /// Shows itself for people too: `9 GiB (18874368 sectors)`.
    pub const fn readable(self) -> ReadableSize {
        ReadableSize(self)
    }
}

/// What [`Sectors::readable`] shows: exactly, in the largest unit that it is whole in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadableSize(Sectors);

impl fmt::Display for ReadableSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut number = u128::from(self.0.0) * u128::from(SECTOR_BYTES);
        let mut unit = UNITS[0];
        for larger in &UNITS[1..] {
            if number == 0 || !number.is_multiple_of(1024) {
                break;
            }
            (number, unit) = (number / 1024, larger);
        }
        write!(f, "{number} {unit} ({} sectors)", self.0)
    }
}

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_overflows_fits_no_disk() {
        assert!(!Lba(u64::MAX).fits(Sectors(1), Sectors(u64::MAX)));
        assert!(Lba(7).fits(Sectors(1), Sectors(8)));
        assert!(!Lba(7).fits(Sectors(2), Sectors(8)));
        assert!(!Lba(8).fits(Sectors(1), Sectors(8)));
    }

    #[test]
    fn a_size_is_shown_in_the_largest_unit_it_is_whole_in() {
        extern crate std;
        for (sectors, shown) in [
            (0, "0 B (0 sectors)"),
            (1, "512 B (1 sectors)"),
            (3, "1536 B (3 sectors)"),
            (18_874_368, "9 GiB (18874368 sectors)"),
            (18_874_370, "9437185 KiB (18874370 sectors)"),
            (u64::MAX - 1, "9223372036854775807 KiB (18446744073709551614 sectors)"),
        ] {
            assert_eq!(std::format!("{}", Sectors(sectors).readable()), shown);
        }
    }

    #[test]
    fn an_incomplete_last_sector_is_not_exported() {
        assert_eq!(Sectors::from_bytes(1_535), Sectors(2));
    }
}
