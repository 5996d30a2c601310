//! What AoE carries of ATA: opcodes, registers and the IDENTIFY page (ATA8-ACS).

use core::fmt;

use super::codes;
use crate::units::{SECTOR_SIZE, Sectors};

codes! {
    /// An ATA opcode, as the command register takes it.
    Opcode {
        /// DATA SET MANAGEMENT, which with feature bit 0 is TRIM.
        DATA_SET_MANAGEMENT = 0x06 "DATA SET MANAGEMENT",
        /// READ SECTORS, 28-bit.
        READ = 0x20 "READ SECTORS",
        /// READ SECTORS EXT, 48-bit.
        READ_EXT = 0x24 "READ SECTORS EXT",
        /// WRITE SECTORS, 28-bit.
        WRITE = 0x30 "WRITE SECTORS",
        /// WRITE SECTORS EXT, 48-bit.
        WRITE_EXT = 0x34 "WRITE SECTORS EXT",
        /// READ VERIFY SECTORS, 28-bit.
        READ_VERIFY = 0x40 "READ VERIFY SECTORS",
        /// READ VERIFY SECTORS EXT, 48-bit.
        READ_VERIFY_EXT = 0x42 "READ VERIFY SECTORS EXT",
        /// SMART.
        SMART = 0xb0 "SMART",
        /// CHECK POWER MODE.
        CHECK_POWER_MODE = 0xe5 "CHECK POWER MODE",
        /// FLUSH CACHE.
        FLUSH_CACHE = 0xe7 "FLUSH CACHE",
        /// FLUSH CACHE EXT.
        FLUSH_CACHE_EXT = 0xea "FLUSH CACHE EXT",
        /// IDENTIFY DEVICE.
        IDENTIFY_DEVICE = 0xec "IDENTIFY DEVICE",
        /// SET FEATURES.
        SET_FEATURES = 0xef "SET FEATURES",
    }
}

/// The flags of an AoE ATA argument (`AoEr11` 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AtaFlags(pub u8);

impl AtaFlags {
    /// The address has 48 bits.
    pub const EXTENDED: Self = Self(0x40);
    /// The device bit of the device/head register. AoE has no second device: ignored.
    pub const DEVICE: Self = Self(0x10);
    /// The write may be acknowledged early. Nobody sets it, and we never do so.
    pub const ASYNCHRONOUS: Self = Self(0x02);
    /// Data flows to the target.
    pub const WRITE: Self = Self(0x01);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Bits of the status register.
pub mod status {
    /// Busy.
    pub const BSY: u8 = 0x80;
    /// Ready.
    pub const DRDY: u8 = 0x40;
    /// Device fault.
    pub const DF: u8 = 0x20;
    /// Seek complete: some targets set it beside ready.
    pub const DSC: u8 = 0x10;
    /// Data request.
    pub const DRQ: u8 = 0x08;
    /// Something went wrong; the error register says what.
    pub const ERR: u8 = 0x01;
    /// What Linux, Plan 9 and illumos take for failure.
    pub const FAILURE: u8 = BSY | DF | DRQ | ERR;
}

/// Bits of the error register.
pub mod error {
    /// The data was damaged on the drive's interface.
    pub const ICRC: u8 = 0x80;
    /// Uncorrectable data.
    pub const UNC: u8 = 0x40;
    /// The medium was changed.
    pub const MC: u8 = 0x20;
    /// No such address.
    pub const IDNF: u8 = 0x10;
    /// Somebody asked for the medium to be changed.
    pub const MCR: u8 = 0x08;
    /// The command was aborted.
    pub const ABRT: u8 = 0x04;
    /// No medium.
    pub const NM: u8 = 0x02;
}

/// SET FEATURES subcommands that initiators send.
pub mod features {
    /// Turn the volatile write cache on.
    pub const ENABLE_WRITE_CACHE: u8 = 0x02;
    /// Set the transfer mode, which over AoE means nothing.
    pub const SET_TRANSFER_MODE: u8 = 0x03;
    /// Turn read look-ahead off.
    pub const DISABLE_LOOK_AHEAD: u8 = 0x55;
    /// Turn the volatile write cache off.
    pub const DISABLE_WRITE_CACHE: u8 = 0x82;
    /// Turn read look-ahead on.
    pub const ENABLE_LOOK_AHEAD: u8 = 0xaa;
}

/// CHECK POWER MODE's answer in the count register: active or idle.
pub const POWER_ACTIVE: u8 = 0xff;
/// The DATA SET MANAGEMENT feature bit that makes it a TRIM.
pub const DSM_TRIM: u8 = 0x01;

/// Octets of the IDENTIFY page.
pub const IDENTIFY_LEN: usize = SECTOR_SIZE;
/// The largest disk that words 60-61 of the IDENTIFY page may tell of, in sectors.
pub const LBA28_SECTORS: u64 = (1 << 28) - 1;
/// The largest disk that words 100-103 of the IDENTIFY page may tell of, in sectors. One more would
/// need a forty-ninth bit, and initiators that read 48 would find a disk of no sectors.
pub const LBA48_SECTORS: u64 = (1 << 48) - 1;

/// Text of fixed length as ATA keeps it: ASCII, padded with spaces on the right.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AtaText<const N: usize>([u8; N]);

impl<const N: usize> AtaText<N> {
    /// `text` cut to `N` characters; what is not printable ASCII becomes `?`.
    pub fn new(text: &str) -> Self {
        let mut octets = [b' '; N];
        for (octet, char) in octets.iter_mut().zip(text.chars()) {
            let ascii = u8::try_from(char).ok().filter(|octet| matches!(octet, b' '..=b'~'));
            *octet = ascii.unwrap_or(b'?');
        }
        Self(octets)
    }

    /// The text without its padding.
    pub fn as_str(&self) -> &str {
        // Only ASCII gets in, so that this never falls back.
        core::str::from_utf8(&self.0).unwrap_or_default().trim_end()
    }
}

impl<const N: usize> fmt::Display for AtaText<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for AtaText<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What a target says of itself in its IDENTIFY page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Twenty characters that stay the same as long as the disk does.
    pub serial: AtaText<20>,
    /// Firmware revision.
    pub firmware: AtaText<8>,
    /// Model.
    pub model: AtaText<40>,
    /// Size of the disk.
    pub size: Sectors,
    /// Whether writes are acknowledged before they are durable.
    pub write_cache: WriteCache,
    /// Whether DATA SET MANAGEMENT discards sectors.
    pub trim: bool,
}

/// A disk's volatile write cache, which SET FEATURES turns on and off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriteCache {
    /// There is none: writes are acknowledged when they are durable.
    #[default]
    None,
    /// There is one, and it is off.
    Off,
    /// There is one, and it is on.
    On,
}

impl Identity {
    /// Writes the page: every word that some initiator or tool reads, zero elsewhere, and the
    /// integrity word.
    pub fn emit(&self, page: &mut [u8; IDENTIFY_LEN]) {
        *page = [0; IDENTIFY_LEN];
        let mut words = Words(page);
        words.put(0, 0x0040); // fixed disk
        words.put(1, 16_383); // the cylinders, heads and sectors that every large disk tells
        words.put(3, 16);
        words.put(6, 63);
        words.put_text(10, &self.serial.0);
        words.put_text(23, &self.firmware.0);
        words.put_text(27, &self.model.0);
        words.put(47, 0x8000);
        words.put(49, 0x0200); // LBA
        words.put(50, 0x4000);
        let lba28 = self.size.0.min(LBA28_SECTORS);
        words.put_all(60, lba28.to_le_bytes(), 2);
        words.put(80, 0x01f0); // ATA-4 to ATA8-ACS
        let bit = |set| if set { WRITE_CACHE } else { 0 };
        words.put(82, bit(self.write_cache != WriteCache::None));
        words.put(83, 0x4000 | FLUSH_EXT | FLUSH | LBA48);
        words.put(84, 0x4000);
        words.put(85, bit(self.write_cache == WriteCache::On));
        words.put(86, FLUSH_EXT | FLUSH | LBA48);
        words.put(87, 0x4000);
        words.put(93, 0x400b);
        let lba48 = self.size.0.min(LBA48_SECTORS);
        words.put_all(100, lba48.to_le_bytes(), 4);
        if self.trim {
            words.put(105, 1); // one block of ranges a command
            words.put(169, 1);
        }
        words.put(106, 0x6003); // eight logical sectors to a physical one
        words.put(209, 0x4000); // and the first logical sector starts one
        words.put(217, 1); // does not rotate
        seal(page);
    }
}

/// Word 82/85 bit 5: volatile write cache.
const WRITE_CACHE: u16 = 1 << 5;
/// Word 83/86 bit 13: FLUSH CACHE EXT.
const FLUSH_EXT: u16 = 1 << 13;
/// Word 83/86 bit 12: FLUSH CACHE.
const FLUSH: u16 = 1 << 12;
/// Word 83/86 bit 10: 48-bit addresses.
const LBA48: u16 = 1 << 10;

/// Writes word 255: a signature, and what makes all octets sum to zero.
fn seal(page: &mut [u8; IDENTIFY_LEN]) {
    let [rest @ .., signature, checksum] = page;
    *signature = 0xa5;
    let sum = rest.iter().fold(0xa5_u8, |sum, octet| sum.wrapping_add(*octet));
    *checksum = sum.wrapping_neg();
}

/// The page as 256 little-endian words.
struct Words<'a>(&'a mut [u8; IDENTIFY_LEN]);

impl Words<'_> {
    fn put(&mut self, word: usize, value: u16) {
        if let Some(octets) = self.0.as_chunks_mut::<2>().0.get_mut(word) {
            *octets = value.to_le_bytes();
        }
    }

    /// Puts the first `count` words of a little-endian number.
    fn put_all(&mut self, word: usize, number: [u8; 8], count: usize) {
        let target = self.0.as_chunks_mut::<2>().0.iter_mut().skip(word);
        for (octets, value) in target.zip(number.as_chunks::<2>().0).take(count) {
            *octets = *value;
        }
    }

    /// Puts text, whose characters ATA swaps in pairs.
    fn put_text(&mut self, word: usize, text: &[u8]) {
        let target = self.0.as_chunks_mut::<2>().0.iter_mut().skip(word);
        for (octets, [first, second]) in target.zip(text.as_chunks::<2>().0) {
            *octets = [*second, *first];
        }
    }
}

/// A view of an IDENTIFY page, as initiators read it.
#[derive(Debug, Clone, Copy)]
pub struct IdentifyPage<'a>(&'a [u8; IDENTIFY_LEN]);

impl<'a> IdentifyPage<'a> {
    /// Borrows the page at the start of `data`; `None` when there are fewer than 512 octets.
    pub const fn parse(data: &'a [u8]) -> Option<Self> {
        match data.first_chunk() {
            Some(page) => Some(Self(page)),
            None => None,
        }
    }

    /// One of the 256 words; zero past the last.
    pub fn word(&self, index: usize) -> u16 {
        self.0.as_chunks::<2>().0.get(index).map_or(0, |octets| u16::from_le_bytes(*octets))
    }

    fn text<const N: usize>(self, word: usize) -> AtaText<N> {
        let mut text = [b' '; N];
        let source = self.0.as_chunks::<2>().0.iter().skip(word);
        for (out, [second, first]) in text.as_chunks_mut::<2>().0.iter_mut().zip(source) {
            *out = [*first, *second];
        }
        for octet in &mut text {
            if !matches!(octet, b' '..=b'~') {
                *octet = if *octet == 0 { b' ' } else { b'?' };
            }
        }
        AtaText(text)
    }

    /// Twenty characters that tell this disk from others.
    pub fn serial(&self) -> AtaText<20> {
        self.text(10)
    }

    /// Firmware revision.
    pub fn firmware(&self) -> AtaText<8> {
        self.text(23)
    }

    /// Model.
    pub fn model(&self) -> AtaText<40> {
        self.text(27)
    }

    /// Whether 48-bit commands are taken; Linux, too, looks at both words.
    pub fn lba48(&self) -> bool {
        (self.word(83) | self.word(86)) & LBA48 != 0
    }

    /// The size of the disk by the widest addresses it takes.
    pub fn size(&self) -> Sectors {
        let [low, high, a, b] = if self.lba48() {
            [self.word(100), self.word(101), self.word(102), self.word(103)]
        } else {
            [self.word(60), self.word(61), 0, 0]
        };
        Sectors(u64::from(low) | u64::from(high) << 16 | u64::from(a) << 32 | u64::from(b) << 48)
    }

    /// Its volatile write cache.
    pub fn write_cache(&self) -> WriteCache {
        match (self.word(82) & WRITE_CACHE, self.word(85) & WRITE_CACHE) {
            (0, 0) => WriteCache::None,
            (_, 0) => WriteCache::Off,
            _ => WriteCache::On,
        }
    }

    /// Whether DATA SET MANAGEMENT discards sectors.
    pub fn trim(&self) -> bool {
        self.word(169) & 1 != 0
    }

    /// Whether the integrity word holds; a page without the signature has none to fail.
    pub fn checksum_holds(&self) -> bool {
        let [.., signature, _] = self.0;
        *signature != 0xa5 || self.0.iter().fold(0_u8, |sum, octet| sum.wrapping_add(*octet)) == 0
    }
}

/// One range of a TRIM: where it starts and how many sectors it has. Eight octets in the data,
/// 48 bits of address and 16 of count, little-endian; 64 ranges to a block.
pub fn trim_ranges(data: &[u8]) -> impl Iterator<Item = (crate::units::Lba, Sectors)> + '_ {
    data.as_chunks::<8>().0.iter().filter_map(|octets| {
        let entry = u64::from_le_bytes(*octets);
        let count = entry >> 48;
        (count != 0).then_some((crate::units::Lba(entry & 0xffff_ffff_ffff), Sectors(count)))
    })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    fn identity() -> Identity {
        Identity {
            serial: AtaText::new("e7.3-0123456789"),
            firmware: AtaText::new("0.1.0"),
            model: AtaText::new("aoe-server file"),
            size: Sectors(0x1_2345_6789),
            write_cache: WriteCache::Off,
            trim: true,
        }
    }

    #[test]
    fn the_page_reads_as_it_was_written() {
        let mut page = [0xa5; IDENTIFY_LEN];
        identity().emit(&mut page);
        let view = IdentifyPage::parse(&page).unwrap();
        assert_eq!(view.serial().as_str(), "e7.3-0123456789");
        assert_eq!(view.firmware().as_str(), "0.1.0");
        assert_eq!(view.model().as_str(), "aoe-server file");
        assert_eq!(view.size(), Sectors(0x1_2345_6789));
        assert_eq!(view.write_cache(), WriteCache::Off);
        assert!(view.lba48() && view.trim() && view.checksum_holds());
    }

    #[test]
    fn the_page_has_the_octets_that_initiators_look_for() {
        let mut page = [0xa5; IDENTIFY_LEN];
        identity().emit(&mut page);
        assert_eq!(page[20..24], *b"7e3."); // pairs of characters are swapped
        assert_eq!(page[120..124], [0xff, 0xff, 0xff, 0x0f]); // words 60-61 saturate at 28 bits
        assert_eq!(page[167], 0x74); // word 83: LBA48, FLUSH, FLUSH EXT
        assert_eq!(page[200..208], [0x89, 0x67, 0x45, 0x23, 0x01, 0, 0, 0]); // words 100-103
        assert_eq!((page[164], page[170]), (0x20, 0)); // words 82, 85: a write cache, but off
        assert_eq!(page[510], 0xa5);
        assert_eq!(page.iter().fold(0_u8, |sum, octet| sum.wrapping_add(*octet)), 0);
    }

    #[test]
    fn unprintable_text_is_made_printable() {
        assert_eq!(AtaText::<8>::new("d\u{fc}rr\n12345").as_str(), "d?rr?123");
    }

    #[test]
    fn empty_trim_ranges_are_padding() {
        let mut data = [0; SECTOR_SIZE];
        data[..8].copy_from_slice(&[0x10, 0, 0, 0, 0, 0, 0x08, 0]);
        let ranges: Vec<_> = trim_ranges(&data).collect();
        assert_eq!(ranges, [(crate::units::Lba(16), Sectors(8))]);
    }
}
