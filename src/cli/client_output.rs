//! How the commands of an initiator show things.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::client::DiskFacts;
use crate::engine::MacList;
use crate::units::Sectors;

/// A size for people.
pub(super) fn size(sectors: Sectors) -> String {
    octets(u128::from(sectors.0) * 512)
}

/// A number of octets for people.
pub(super) fn octets(octets: u128) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scale = 0;
    while scale + 1 < UNITS.len() && octets >> (10 * (scale + 1)) > 0 {
        scale += 1;
    }
    let unit = UNITS.get(scale).copied().unwrap_or_default();
    let tenths = (octets * 10) >> (10 * scale);
    if tenths.is_multiple_of(10) {
        return format!("{} {unit}", tenths / 10);
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// A time for people, in microseconds or milliseconds.
pub(super) fn time(time: Duration) -> String {
    let nanos = time.as_nanos();
    match nanos {
        0..10_000_000 => format!("{}.{} us", nanos / 1_000, nanos / 100 % 10),
        10_000_000..10_000_000_000 => {
            format!("{}.{} ms", nanos / 1_000_000, nanos / 100_000 % 10)
        }
        _ => format!("{}.{} s", nanos / 1_000_000_000, nanos / 100_000_000 % 10),
    }
}

/// Microseconds for programs.
pub(super) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The addresses of a list, with commas.
pub(super) fn macs(list: &MacList) -> String {
    let mut text = String::new();
    for mac in list.as_slice() {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{mac}");
    }
    text
}

/// The addresses of a list, for programs.
pub(super) fn json_macs(list: &MacList) -> serde_json::Value {
    list.as_slice().iter().map(|mac| format!("{mac}")).collect()
}

/// What a disk says of itself, for programs.
pub(super) fn json_disk(disk: &DiskFacts) -> serde_json::Value {
    serde_json::json!({
        "size_sectors": disk.size.0,
        "serial": disk.serial.as_str(),
        "model": disk.model.as_str(),
        "firmware": disk.firmware.as_str(),
        "lba48": disk.lba48,
        "write_cache": disk.write_cache,
        "trim": disk.trim,
        "checksum_holds": disk.checksum_holds,
    })
}

/// A moment, in seconds since 1970, as a date and a time of day in UTC.
#[cfg(feature = "cas")]
pub(super) fn date(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // The civil calendar by eras of 400 years, which begin in March: Howard Hinnant's
    // `civil_from_days`.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year_of_era + era * 400 + next;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// A field of an object as text; nothing when it is not there.
pub(super) fn field(object: &serde_json::Value, key: &str) -> String {
    match object.get(key) {
        None | Some(serde_json::Value::Null) => String::new(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A list in an object; an empty one when it is not there.
pub(super) fn rows<'v>(object: &'v serde_json::Value, key: &str) -> &'v [serde_json::Value] {
    object.get(key).and_then(serde_json::Value::as_array).map_or(&[], Vec::as_slice)
}

/// Octets of any kind as text: what is not printable ASCII is escaped.
pub(super) fn text(octets: &[u8]) -> String {
    format!("{}", octets.escape_ascii())
}

/// A progress bar on standard error, when that is a terminal. `total` octets, if that is known.
pub(super) fn progress(what: &'static str, total: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{msg} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left",
        ),
        None => (ProgressBar::new_spinner(), "{msg} {bytes} {binary_bytes_per_sec}"),
    };
    // The templates are sound, and a bar without a style is one all the same.
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    bar.with_style(style).with_message(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "cas")]
    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (1_709_251_200, "2024-03-01 00:00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(date(seconds), shown);
        }
    }

    #[test]
    fn sizes_and_times_read_well() {
        let sizes = [0, 1, 2, 3, 2_048, 2_097_152, 3_145_728].map(|count| size(Sectors(count)));
        assert_eq!(sizes, ["0 B", "512 B", "1 KiB", "1.5 KiB", "1 MiB", "1 GiB", "1.5 GiB"]);
        assert_eq!(size(Sectors(1 << 63)), "4194304 PiB");
        let times = [850, 12_345, 12_345_678, 12_345_678_901]
            .map(|nanos| time(Duration::from_nanos(nanos)));
        assert_eq!(times, ["0.8 us", "12.3 us", "12.3 ms", "12.3 s"]);
    }
}
