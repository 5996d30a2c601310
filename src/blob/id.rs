//! Names of blobs, and what they start with.

use std::fmt;
use std::str::FromStr;

/// Digits of a name as text.
const DIGITS: usize = 64;

/// The name of a blob: the BLAKE3 of its octets. As text, 64 lower-case hexadecimal digits, which
/// is what `b3sum` prints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(pub [u8; 32]);

impl BlobId {
    /// The name of `octets`.
    pub fn of(octets: &[u8]) -> Self {
        Self(*blake3::hash(octets).as_bytes())
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobId({self})")
    }
}

impl FromStr for BlobId {
    type Err = InvalidBlobId;

    fn from_str(text: &str) -> Result<Self, InvalidBlobId> {
        let prefix: BlobPrefix = text.parse()?;
        if usize::from(prefix.digits) < DIGITS {
            return Err(InvalidBlobId::TooShort { digits: prefix.digits.into() });
        }
        Ok(Self(prefix.octets))
    }
}

/// What the names of some blobs start with: 0 to 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobPrefix {
    /// The digits, two to an octet, and then zeros.
    octets: [u8; 32],
    digits: u8,
}

impl BlobPrefix {
    /// What every name starts with: nothing.
    pub const ALL: Self = Self { octets: [0; 32], digits: 0 };

    /// Whether `id` starts with this.
    pub fn matches(&self, id: BlobId) -> bool {
        let whole = usize::from(self.digits / 2);
        let half = if self.digits % 2 == 1 { 0xf0 } else { 0 };
        id.0[..whole] == self.octets[..whole]
            && (half == 0 || id.0[whole] & half == self.octets[whole])
    }

    /// The first name that may start with this, in their order.
    pub(super) fn first(&self) -> BlobId {
        BlobId(self.octets)
    }

    /// The first octets that names with this may have.
    pub(super) fn first_octets(&self) -> std::ops::RangeInclusive<u8> {
        let first = self.octets[0];
        match self.digits {
            0 => 0..=0xff,
            1 => first..=first | 0x0f,
            _ => first..=first,
        }
    }
}

impl fmt::Display for BlobPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = usize::from(self.digits / 2);
        self.octets[..whole].iter().try_for_each(|octet| write!(f, "{octet:02x}"))?;
        if self.digits % 2 == 1 { write!(f, "{:x}", self.octets[whole] >> 4) } else { Ok(()) }
    }
}

impl fmt::Debug for BlobPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobPrefix({self})")
    }
}

impl FromStr for BlobPrefix {
    type Err = InvalidBlobId;

    fn from_str(text: &str) -> Result<Self, InvalidBlobId> {
        let mut prefix = Self::ALL;
        for (place, char) in text.chars().enumerate() {
            if place == DIGITS {
                return Err(InvalidBlobId::TooLong);
            }
            let digit = match char {
                '0'..='9' => char as u8 - b'0',
                'a'..='f' => char as u8 - b'a' + 10,
                _ => return Err(InvalidBlobId::NotADigit { char, place }),
            };
            prefix.octets[place / 2] |= if place % 2 == 0 { digit << 4 } else { digit };
            prefix.digits += 1;
        }
        Ok(prefix)
    }
}

impl From<BlobId> for BlobPrefix {
    fn from(id: BlobId) -> Self {
        Self { octets: id.0, digits: 64 }
    }
}

/// Why a text is not the name of a blob, or the start of one. Names have one form: upper-case digits
/// are refused, so that no two texts, and no two file names, are the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBlobId {
    /// It goes on after 64 digits.
    #[error("it has more than {DIGITS} digits")]
    TooLong,
    /// It ends before 64 digits.
    #[error("it has {digits} digits, not {DIGITS}")]
    TooShort {
        /// How many it has.
        digits: usize,
    },
    /// Something in it is not a digit.
    #[error("{char:?} in place {place} is not one of 0 to 9 and a to f")]
    NotADigit {
        /// What is there.
        char: char,
        /// How many characters are before it.
        place: usize,
    },
}
