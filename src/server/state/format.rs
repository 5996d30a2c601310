//! The file of settings as octets. The table of them is in the module above.

use crate::engine::{ConfigString, MacList, Settings};
use crate::protocol::{CONFIG_STRING_MAX, MacAddr};

/// What a file of settings starts with.
pub const MAGIC: [u8; 8] = *b"AoEstate";
/// The one version of the format there is.
pub const VERSION: u16 = 1;

/// Octets before the payload.
const HEADER_LEN: usize = 16;
/// Octets of the checksum at the end.
const CRC_LEN: usize = 4;
/// The most octets of a list of addresses, with its count.
const LIST_MAX: usize = 1 + 6 * 255;
/// The most octets of a file.
pub(super) const FILE_MAX: usize = HEADER_LEN + 2 + CONFIG_STRING_MAX + 2 * LIST_MAX + CRC_LEN;

/// In which way a file is not what was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// It ends before its payload does.
    #[error("it is cut short: {have} bytes")]
    Short {
        /// The bytes there are.
        have: usize,
    },
    /// It does not start as such a file does.
    #[error("it is no file of settings")]
    Magic,
    /// Its length is not the one it tells.
    #[error("it has {have} bytes, but tells of {told}")]
    Length {
        /// The bytes there are.
        have: usize,
        /// The bytes there should be.
        told: usize,
    },
    /// Some of its octets have changed.
    #[error("its checksum is {found:08x}, but its content's is {computed:08x}")]
    Checksum {
        /// The checksum in the file.
        found: u32,
        /// The checksum of what is there.
        computed: u32,
    },
    /// Whole as it is, it holds what is never written.
    #[error("its checksum is right, but its content is none that is ever saved")]
    Content,
}

/// Why octets are not taken for settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Damaged(Damage),
    UnknownVersion(u16),
}

impl From<Damage> for Refusal {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

/// A file in memory, without the heap.
#[derive(Debug)]
pub(super) struct FileBuffer(heapless::Vec<u8, FILE_MAX>);

impl FileBuffer {
    pub(super) fn as_octets(&self) -> &[u8] {
        &self.0
    }

    fn put(&mut self, octets: &[u8]) {
        let fits = self.0.extend_from_slice(octets);
        debug_assert!(fits.is_ok(), "FILE_MAX is too small");
    }

    fn put_list(&mut self, list: &MacList) {
        self.put(&[list.len()]);
        for address in list.as_slice() {
            self.put(&address.0);
        }
    }

    /// Writes how long the payload is, now that it is known.
    fn put_payload_len(&mut self) {
        let len = u32::try_from(self.0.len() - HEADER_LEN).unwrap_or(u32::MAX);
        if let Some(field) = self.0.get_mut(12..HEADER_LEN) {
            field.copy_from_slice(&len.to_le_bytes());
        }
    }
}

pub(super) fn encode(settings: &Settings) -> FileBuffer {
    let mut file = FileBuffer(heapless::Vec::new());
    file.put(&MAGIC);
    file.put(&VERSION.to_le_bytes());
    file.put(&[0; 6]); // reserved; the length of the payload comes later
    let string = settings.config_string.as_slice();
    file.put(&u16::try_from(string.len()).unwrap_or(u16::MAX).to_le_bytes());
    file.put(string);
    file.put_list(&settings.mask);
    file.put_list(&settings.reservation);
    file.put_payload_len();
    let crc = crc32c::crc32c(&file.0);
    file.put(&crc.to_le_bytes());
    file
}

/// The settings that `octets` are, if they are exactly what [`encode`] makes of some.
pub(super) fn decode(octets: &[u8]) -> Result<Settings, Refusal> {
    let have = octets.len();
    let short = Damage::Short { have };
    let mut header = Fields(octets);
    // A cut file is told from a foreign one by what there is of the magic.
    let magic = octets.get(..MAGIC.len()).unwrap_or(octets);
    if !MAGIC.starts_with(magic) {
        return Err(Damage::Magic.into());
    }
    header.array::<8>().ok_or(short)?;
    // Magic and version come first in every version, so that this holds for all to come.
    let version = u16::from_le_bytes(header.array().ok_or(short)?);
    if version != VERSION {
        return Err(Refusal::UnknownVersion(version));
    }
    let reserved = header.array::<2>().ok_or(short)?;
    let payload_len = u32::from_le_bytes(header.array().ok_or(short)?);
    let told = usize::try_from(payload_len)
        .ok()
        .and_then(|len| len.checked_add(HEADER_LEN + CRC_LEN))
        .unwrap_or(usize::MAX);
    if have != told {
        return Err(Damage::Length { have, told }.into());
    }
    let (covered, crc) = octets.split_last_chunk::<CRC_LEN>().ok_or(short)?;
    let (found, computed) = (u32::from_le_bytes(*crc), crc32c::crc32c(covered));
    if found != computed {
        return Err(Damage::Checksum { found, computed }.into());
    }
    let payload = covered.get(HEADER_LEN..).filter(|_| reserved == [0; 2]);
    payload.and_then(decode_payload).ok_or(Damage::Content.into())
}

fn decode_payload(payload: &[u8]) -> Option<Settings> {
    let mut fields = Fields(payload);
    let string_len = u16::from_le_bytes(fields.array()?);
    let config_string = ConfigString::from_octets(fields.take(string_len.into())?)?;
    let settings = Settings { config_string, mask: fields.list()?, reservation: fields.list()? };
    fields.0.is_empty().then_some(settings)
}

/// Octets that have not been read yet.
struct Fields<'o>(&'o [u8]);

impl<'o> Fields<'o> {
    fn take(&mut self, len: usize) -> Option<&'o [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    /// A list without repetitions: one with them would not be written again as it was read.
    fn list(&mut self) -> Option<MacList> {
        let [count] = self.array()?;
        let mut list = MacList::new();
        for _ in 0..count {
            list.add(MacAddr(self.array()?)).ok()?;
        }
        (list.len() == count).then_some(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn full() -> Settings {
        let mut settings = Settings {
            config_string: ConfigString::from_octets(&[0xa5; CONFIG_STRING_MAX]).unwrap(),
            ..Settings::default()
        };
        for last in 0..255 {
            settings.mask.add(MacAddr([0x52, 0x54, 0, 0, 0, last])).unwrap();
            settings.reservation.add(MacAddr([0x52, 0x54, 0, 0, 1, last])).unwrap();
        }
        settings
    }

    /// Seals octets whose content is not what [`encode`] would write.
    fn sealed(mut octets: Vec<u8>) -> Vec<u8> {
        octets.extend(crc32c::crc32c(&octets).to_le_bytes());
        octets
    }

    #[test]
    fn known_settings_have_known_octets() {
        let mut settings = Settings {
            config_string: ConfigString::from_octets(b"label").unwrap(),
            ..Settings::default()
        };
        settings.mask.add(MacAddr([0x52, 0x54, 0, 0xaa, 0xbb, 1])).unwrap();
        let expected = sealed(Vec::from(
            *b"AoEstate\
               \x01\x00\x00\x00\
               \x0f\x00\x00\x00\
               \x05\x00label\
               \x01\x52\x54\x00\xaa\xbb\x01\
               \x00",
        ));
        assert_eq!(encode(&settings).as_octets(), expected);
        // Computed by another implementation of CRC-32C.
        assert_eq!(expected[31..], KNOWN_CRC.to_le_bytes());
        assert_eq!(decode(&expected), Ok(settings));
    }

    /// Of the 31 octets above, by the bitwise definition of the polynomial 0x1edc6f41.
    const KNOWN_CRC: u32 = 0xedde_dbc6;

    #[test]
    fn the_largest_settings_fill_the_largest_file() {
        let file = encode(&full());
        assert_eq!(file.as_octets().len(), FILE_MAX);
        assert_eq!(decode(file.as_octets()), Ok(full()));
    }

    #[test]
    fn content_that_is_never_written_is_refused_though_its_checksum_is_right() {
        let header = |len: u8, reserved: u8| {
            let mut octets = Vec::from(MAGIC);
            octets.extend([1, 0, reserved, 0, len, 0, 0, 0]);
            octets
        };
        let cases: [(&str, u8, &[u8]); 6] = [
            ("nothing", 0, &[]),
            ("a string past the end", 0, &[9, 0, b'x', 0, 0]),
            ("a list past the end", 0, &[0, 0, 1, 2, 2]),
            ("a repeated address", 0, &[0, 0, 2, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0]),
            ("something after the end", 0, &[0, 0, 0, 0, 0]),
            ("a reserved octet", 1, &[0, 0, 0, 0]),
        ];
        for (what, reserved, payload) in cases {
            let mut octets = header(u8::try_from(payload.len()).unwrap(), reserved);
            octets.extend(payload);
            assert_eq!(decode(&sealed(octets)), Err(Damage::Content.into()), "{what}");
        }
        let mut long = header(0, 0);
        long[12..14].copy_from_slice(&1029_u16.to_le_bytes());
        long.extend([1, 4]);
        long.extend([b'x'; 1025]);
        long.extend([0, 0]);
        assert_eq!(decode(&sealed(long)), Err(Damage::Content.into()), "a string too long");
    }

    #[test]
    fn another_version_is_named() {
        let mut octets = Vec::from(encode(&full()).as_octets());
        octets[8..10].copy_from_slice(&0x0102_u16.to_le_bytes());
        assert_eq!(decode(&octets), Err(Refusal::UnknownVersion(0x0102)));
    }
}
