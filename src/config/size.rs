//! Sizes as people write them: `"512 MiB"`, `"10 GB"`, `"2048 sectors"`.

use std::fmt;

use crate::units::{SECTOR_SIZE, Sectors};

/// The units, as they are shown.
const UNITS: [(&str, u64); 11] = [
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadSize {
    /// It does not start with a whole number.
    #[error("not a whole number and a unit, as in \"512 MiB\" or \"10 GB\"")]
    NoNumber,
    /// A number that nothing follows.
    #[error("a number without a unit: say which, as in \"{number} MiB\" or \"{number} B\"")]
    NoUnit {
        /// The number.
        number: u64,
    },
    /// `K`, `M` and so on, which some read as 1000 and some as 1024.
    #[error("in \"{letter}\", which is ambiguous: write {letter}iB ({binary}) or {decimal}")]
    Ambiguous {
        /// The letter.
        letter: char,
        /// What its binary unit stands for.
        binary: &'static str,
        /// Its decimal unit, and what it stands for.
        decimal: &'static str,
    },
    /// The unit is none we know.
    #[error(
        "in an unknown unit: there are B, kB, MB, GB, TB, PB, KiB, MiB, GiB, TiB, PiB and sectors"
    )]
    UnknownUnit {
        /// What stands where the unit should.
        unit: String,
    },
    /// It is more than 64 bits can count.
    #[error("more bytes than 64 bits can count")]
    TooLarge,
}

/// The number of bytes that `text` says: a whole number and a unit, in upper or lower case, with or
/// without a space between.
///
/// # Errors
/// [`BadSize`] says what is wrong with the text.
pub fn parse_size(text: &str) -> Result<u64, BadSize> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(BadSize::NoNumber);
    }
    let number: u64 = number.parse().map_err(|_| BadSize::TooLarge)?;
    let unit = unit.trim_start();
    if unit.is_empty() {
        return Err(BadSize::NoUnit { number });
    }
    number.checked_mul(bytes_of(unit)?).ok_or(BadSize::TooLarge)
}

/// What one `unit` is, in bytes.
fn bytes_of(unit: &str) -> Result<u64, BadSize> {
    if unit.eq_ignore_ascii_case("sectors") || unit.eq_ignore_ascii_case("sector") {
        return Ok(SECTOR_SIZE as u64);
    }
    if let Some((_, bytes)) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        return Ok(*bytes);
    }
    let (letter, binary, decimal) = match unit {
        "k" | "K" => ('K', "2^10 bytes", "kB (10^3)"),
        "m" | "M" => ('M', "2^20 bytes", "MB (10^6)"),
        "g" | "G" => ('G', "2^30 bytes", "GB (10^9)"),
        "t" | "T" => ('T', "2^40 bytes", "TB (10^12)"),
        "p" | "P" => ('P', "2^50 bytes", "PB (10^15)"),
        // A fraction: what follows the digits is not a unit at all.
        _ if unit.starts_with(['.', ',', '_']) => return Err(BadSize::NoNumber),
        _ => return Err(BadSize::UnknownUnit { unit: unit.into() }),
    };
    Err(BadSize::Ambiguous { letter, binary, decimal })
}

/// A number of bytes that shows itself, exactly, in the largest unit that it is whole in.
/// [`parse_size`] reads what this writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl From<Sectors> for Size {
    /// As many bytes as can be counted: no disk has more.
    fn from(sectors: Sectors) -> Self {
        Self(sectors.bytes().unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().filter(|(_, bytes)| self.0 != 0 && self.0.is_multiple_of(*bytes));
        let (name, bytes) = whole.max_by_key(|(_, bytes)| *bytes).unwrap_or(&("B", 1));
        write!(f, "{} {name}", self.0 / bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn every_unit_is_read_in_any_case_and_with_or_without_a_space() {
        for (name, bytes) in UNITS {
            for text in [
                format!("3 {name}"),
                format!("3{name}"),
                format!(" 3  {} ", name.to_uppercase()),
                format!("3 {}", name.to_lowercase()),
            ] {
                assert_eq!(parse_size(&text), Ok(3 * bytes), "{text}");
            }
        }
        assert_eq!(parse_size("1 sector"), Ok(512));
        assert_eq!(parse_size("2048 sectors"), Ok(1 << 20));
        assert_eq!(parse_size("1 GiB"), Ok(1_073_741_824));
        assert_eq!(parse_size("10 GB"), Ok(10_000_000_000));
    }

    #[test]
    fn what_is_not_a_size_is_told_apart() {
        for text in ["", " ", "MiB", "-1 MiB", "+1 MiB", "1.5 GiB", "1_000 B", "0x10 B x"] {
            let error = parse_size(text).unwrap_err();
            assert!(
                matches!(error, BadSize::NoNumber | BadSize::UnknownUnit { .. }),
                "{text}: {error}"
            );
        }
        assert_eq!(parse_size("512"), Err(BadSize::NoUnit { number: 512 }));
        assert!(matches!(parse_size("1 G"), Err(BadSize::Ambiguous { letter: 'G', .. })));
        assert_eq!(parse_size("1 GiBi"), Err(BadSize::UnknownUnit { unit: "GiBi".to_string() }));
        assert_eq!(parse_size("16384 PiB"), Err(BadSize::TooLarge));
        assert_eq!(parse_size("99999999999999999999 B"), Err(BadSize::TooLarge));
    }

    #[test]
    fn a_size_shows_the_largest_unit_it_is_whole_in() {
        for (bytes, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (512, "512 B"),
            (1536, "1536 B"),
            (4096, "4 KiB"),
            (1_000_000, "1 MB"),
            (1 << 30, "1 GiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn a_size_is_read_as_it_is_shown(bytes: u64) {
            prop_assert_eq!(parse_size(&Size(bytes).to_string()), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse_size(&text);
        }
    }
}
