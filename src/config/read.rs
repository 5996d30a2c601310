//! Reads the table `[server]`, and single values of any table.

use std::collections::HashSet;
use std::path::PathBuf;
use std::string::{String, ToString};
use std::time::Duration;

use log::LevelFilter;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::cas::{BLOB_STORE_KEYS, CAS_KEYS, CAS_TABLE, STORE_TABLE};
use super::error::Problem;
use super::size::parse_size;
use super::text::{Report, closest};
use super::{JournalConfig, LinkKind, PollPolicy, ServerConfig};
use crate::storage::journal::{FileJournal, Geometry};
use crate::units::{SECTOR_SIZE, Sectors};

/// The keys of `[server]`.
pub const SERVER_KEYS: &[&str] = &[
    "interface",
    "interfaces",
    "link",
    "promiscuous",
    "poll",
    "spin_us",
    "log_level",
    "state_dir",
    "cpu",
    "receive_buffer",
    "journal",
    "journal_size",
    "sync_priority",
    "probe",
    "probe_ms",
    "control_socket",
];

/// `[server]`, for tables where its keys stand by mistake.
pub(super) const ELSEWHERE: (&str, &[&str]) = ("[server]", SERVER_KEYS);

/// The most bytes of an interface's name, on Linux and the BSDs.
const INTERFACE_MAX: usize = 15;

/// The most bytes of a socket's path: 107, less the four that its name has more while it is made.
const SOCKET_MAX: usize = 103;

/// The most interfaces of one server, by feel: more than a machine has slots for.
const INTERFACES_MAX: usize = 64;

/// The values of a key that has only a few: all of them as a sentence has it, the name of each, and
/// what each means.
pub(super) struct Meanings<T: 'static> {
    pub(super) all: &'static str,
    pub(super) names: &'static [&'static str],
    pub(super) values: &'static [T],
}

const LINKS: Meanings<LinkKind> = Meanings {
    all: "\"pcap\" or \"af-packet\"",
    names: &["pcap", "af-packet"],
    values: &[LinkKind::Pcap, LinkKind::AfPacket],
};
const POLICIES: Meanings<PollPolicy> = Meanings {
    all: "\"spin\", \"adaptive\" or \"block\"",
    names: &["spin", "adaptive", "block"],
    values: &[PollPolicy::Spin, PollPolicy::Adaptive, PollPolicy::Block],
};
const LEVELS: Meanings<LevelFilter> = Meanings {
    all: "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
    names: &["error", "warn", "info", "debug", "trace"],
    values: &[
        LevelFilter::Error,
        LevelFilter::Warn,
        LevelFilter::Info,
        LevelFilter::Debug,
        LevelFilter::Trace,
    ],
};

/// One table of the file.
#[derive(Clone, Copy)]
pub(super) struct Section<'t> {
    /// As it is written.
    pub(super) name: &'static str,
    /// Where its header is, in bytes from the start of the file.
    pub(super) at: usize,
    table: &'t DeTable<'t>,
}

impl<'t> Section<'t> {
    pub(super) fn new(name: &'static str, at: usize, table: &'t DeTable<'t>) -> Self {
        Self { name, at, table }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Where `key` itself is written; the header, if it is not.
    pub(super) fn key_at(&self, key: &str) -> usize {
        self.table.get_key_value(key).map_or(self.at, |(key, _)| key.span().start)
    }

    /// Reports every key that is not one of `known`, save those in `ignored`.
    pub(super) fn check_keys(
        &self,
        report: &mut Report<'_>,
        known: &'static [&'static str],
        elsewhere: &[(&'static str, &'static [&'static str])],
        ignored: &[&str],
    ) {
        for key in self.table.keys() {
            let (at, name) = (key.span().start, key.get_ref().as_ref());
            if known.contains(&name) || ignored.contains(&name) {
                continue;
            }
            let right = elsewhere.iter().find_map(|(table, keys)| {
                keys.iter().find(|key| **key == name).map(|key| (*table, *key))
            });
            let problem = match right {
                Some((right, key)) => Problem::Misplaced { key, right, wrong: self.name },
                None => Problem::UnknownKey {
                    key: name.into(),
                    table: self.name,
                    suggestion: closest(name, known),
                    keys: known,
                },
            };
            report.invalid(at, problem);
        }
    }

    /// Reports that `key` is missing, if it is.
    pub(super) fn require(
        &self,
        report: &mut Report<'_>,
        key: &'static str,
        remedy: &'static str,
    ) -> bool {
        if !self.has(key) {
            report.invalid(self.at, Problem::Missing { key, table: self.name, remedy });
        }
        self.has(key)
    }

    /// The value of `key` as `read` makes it out; `None` when it is missing, or wrong and reported.
    pub(super) fn value<T>(
        &self,
        report: &mut Report<'_>,
        key: &'static str,
        read: impl FnOnce(&'static str, &'t DeValue<'t>) -> Result<T, Problem>,
    ) -> Option<T> {
        let value = self.table.get(key)?;
        match read(key, value.get_ref()) {
            Ok(value) => Some(value),
            Err(problem) => {
                report.invalid(value.span().start, problem);
                None
            }
        }
    }

    /// The elements of the array `key`, each read by `read`; those that are wrong are reported and
    /// left out.
    pub(super) fn list<T>(
        &self,
        report: &mut Report<'_>,
        key: &'static str,
        wanted: &'static str,
        read: impl Fn(&'static str, &'t str) -> Result<T, Problem>,
    ) -> Option<Vec<(usize, T)>> {
        let array = self.value(report, key, |key, value| {
            value.as_array().ok_or_else(|| wrong_type(key, value, wanted))
        })?;
        let mut elements = Vec::with_capacity(array.len());
        for element in array {
            let text = element
                .get_ref()
                .as_str()
                .ok_or_else(|| wrong_type(key, element.get_ref(), wanted));
            match text.and_then(|text| read(key, text)) {
                Ok(value) => elements.push((element.span().start, value)),
                Err(problem) => report.invalid(element.span().start, problem),
            }
        }
        Some(elements)
    }

    /// A list of different interfaces, not an empty one.
    pub(super) fn interfaces(
        &self,
        report: &mut Report<'_>,
        remedy: &'static str,
    ) -> Option<Vec<(usize, String)>> {
        const WANTED: &str = "a list of names, as in [\"eth0\", \"eth1\"]";
        let key = "interfaces";
        let empty =
            |value: &Spanned<DeValue<'_>>| value.get_ref().as_array().is_some_and(|a| a.is_empty());
        if self.table.get(key).is_some_and(empty) {
            report.invalid(self.key_at(key), Problem::Empty { key, remedy });
        }
        let mut names = self.list(report, key, WANTED, interface_name)?;
        if let Some((at, _)) = names.get(INTERFACES_MAX) {
            let (count, max) = (names.len(), INTERFACES_MAX);
            report.invalid(*at, Problem::TooMany { key, count, max, remedy: "" });
            names.truncate(INTERFACES_MAX);
        }
        let mut known = HashSet::new();
        for (at, name) in &names {
            if !known.insert(name) {
                report.invalid(*at, Problem::ListedTwice { key, value: name.clone() });
            }
        }
        Some(names)
    }
}

pub(super) fn wrong_type(key: &'static str, value: &DeValue<'_>, wanted: &'static str) -> Problem {
    Problem::WrongType { key, found: value.type_str(), wanted }
}

pub(super) fn string<'t>(
    key: &'static str,
    value: &'t DeValue<'t>,
    wanted: &'static str,
) -> Result<&'t str, Problem> {
    value.as_str().ok_or_else(|| wrong_type(key, value, wanted))
}

pub(super) fn boolean(key: &'static str, value: &DeValue<'_>) -> Result<bool, Problem> {
    value.as_bool().ok_or_else(|| wrong_type(key, value, "true or false"))
}

/// One of the values there are, told by its name.
pub(super) fn choice<T: Copy>(
    Meanings { all, names, values }: Meanings<T>,
) -> impl FnOnce(&'static str, &DeValue<'_>) -> Result<T, Problem> {
    move |key, value| {
        let name = value.as_str().ok_or_else(|| wrong_type(key, value, all))?;
        let found = names.iter().zip(values).find(|(known, _)| **known == name);
        found.map(|(_, value)| *value).ok_or_else(|| Problem::NotAChoice {
            key,
            value: name.into(),
            choices: names,
            suggestion: closest(name, names),
        })
    }
}

/// A number from `min` to `max`; `reason` says why no other.
pub(super) fn number<T: TryFrom<i128>>(
    min: i64,
    max: i64,
    reason: Option<&'static str>,
) -> impl FnOnce(&'static str, &DeValue<'_>) -> Result<T, Problem> {
    move |key, value| {
        let number = value
            .as_integer()
            .ok_or_else(|| wrong_type(key, value, "a whole number without quotes"))?;
        integer(number)
            .filter(|number| (i128::from(min)..=i128::from(max)).contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| Problem::OutOfRange { key, value: shown(number), min, max, reason })
    }
}

/// `None` when it has more digits than 128 bits take: out of every range.
fn integer(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A number as it was written, short of the digits that nobody reads.
fn shown(number: &DeInteger<'_>) -> String {
    let text = number.to_string();
    if text.len() > 40 { format!("a number of {} digits", text.len()) } else { text }
}

/// A size of `min` to `max` bytes, as an integer or as a text with its unit.
pub(super) fn bytes(
    min: u64,
    max: u64,
) -> impl FnOnce(&'static str, &DeValue<'_>) -> Result<u64, Problem> {
    const WANTED: &str = "a size, as in \"512 MiB\", or a whole number of bytes";
    move |key, value| {
        let bytes = match value {
            DeValue::String(text) => parse_size(text).map_err(|reason| Problem::BadSize {
                key,
                value: text.as_ref().into(),
                reason,
            })?,
            // Below zero, or with more digits than a size has, it can be told only as a number.
            DeValue::Integer(number) => {
                let bytes = integer(number).and_then(|number| u64::try_from(number).ok());
                bytes.ok_or_else(|| Problem::OutOfRange {
                    key,
                    value: shown(number),
                    min: i64::try_from(min).unwrap_or(i64::MAX),
                    max: i64::try_from(max).unwrap_or(i64::MAX),
                    reason: Some("a number of bytes"),
                })?
            }
            _ => return Err(wrong_type(key, value, WANTED)),
        };
        if (min..=max).contains(&bytes) {
            Ok(bytes)
        } else {
            Err(Problem::SizeOutOfRange { key, bytes, min, max })
        }
    }
}

/// A size of whole sectors, of `min` to `max` bytes.
pub(super) fn sectors(
    min: u64,
    max: u64,
) -> impl FnOnce(&'static str, &DeValue<'_>) -> Result<Sectors, Problem> {
    move |key, value| {
        let bytes = bytes(min, max)(key, value)?;
        if !bytes.is_multiple_of(SECTOR_SIZE as u64) {
            return Err(Problem::NotWholeSectors { key, bytes });
        }
        Ok(Sectors::from_bytes(bytes))
    }
}

pub(super) fn path(key: &'static str, value: &DeValue<'_>) -> Result<PathBuf, Problem> {
    let text = value.as_str().ok_or_else(|| wrong_type(key, value, "a path in quotes"))?;
    // The system takes no path with a zero in it.
    if text.is_empty() || text.contains('\0') {
        return Err(Problem::BadPath { key, value: text.into() });
    }
    Ok(PathBuf::from(text))
}

/// The path of a socket, which is shorter than others may be.
fn socket(key: &'static str, value: &DeValue<'_>) -> Result<PathBuf, Problem> {
    let path = path(key, value)?;
    let (len, max) = (path.as_os_str().len(), SOCKET_MAX);
    if len > max { Err(Problem::LongSocket { key, len, max }) } else { Ok(path) }
}

fn interface_name(key: &'static str, name: &str) -> Result<String, Problem> {
    let good = (1..=INTERFACE_MAX).contains(&name.len())
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/');
    if good { Ok(name.into()) } else { Err(Problem::BadInterface { key, value: name.into() }) }
}

/// `[server]`. What is missing or wrong has been reported, and is as if it were not given.
pub(super) fn server(report: &mut Report<'_>, section: Section<'_>) -> ServerConfig {
    let elsewhere =
        [super::target::ELSEWHERE, (CAS_TABLE, CAS_KEYS), (STORE_TABLE, BLOB_STORE_KEYS)];
    section.check_keys(report, SERVER_KEYS, &elsewhere, &[]);
    let mut server = ServerConfig::new(server_interfaces(report, section));
    macro_rules! set {
        ($field:ident, $key:literal, $read:expr) => {
            if let Some(value) = section.value(report, $key, $read) {
                server.$field = value.into();
            }
        };
    }
    set!(link, "link", choice(LINKS));
    set!(promiscuous, "promiscuous", boolean);
    set!(poll, "poll", choice(POLICIES));
    set!(log_level, "log_level", choice(LEVELS));
    set!(state_dir, "state_dir", path);
    set!(cpu, "cpu", number::<usize>(0, 1023, Some("CPUs are counted from zero")));
    if let Some(micros) = section.value(report, "spin_us", number(0, 1_000_000, None)) {
        server.spin = Duration::from_micros(micros);
    }
    set!(receive_buffer, "receive_buffer", receive_buffer);
    server.journal = journal(report, section);
    set!(sync_priority, "sync_priority", number::<u8>(1, 99, Some("99 is the highest")));
    let probe = section.value(report, "probe", boolean).unwrap_or(true);
    let wait = section.value(report, "probe_ms", number(1, 60_000, None));
    if let Some(millis) = wait {
        server.probe = Some(Duration::from_millis(millis));
    }
    if !probe {
        server.probe = None;
    }
    set!(control_socket, "control_socket", socket);
    server
}

fn journal(report: &mut Report<'_>, section: Section<'_>) -> Option<JournalConfig> {
    const MOST: u64 = 1 << 40;
    let place = section.value(report, "journal", path);
    let size = section.value(report, "journal_size", bytes(Geometry::LEAST_BYTES, MOST));
    if section.has("journal_size") {
        section.require(report, "journal", "where it is, as in journal = \"/fast/disk/journal\"");
    }
    let bytes = size.unwrap_or(FileJournal::DEFAULT_BYTES);
    place.map(|path| JournalConfig { path, bytes })
}

fn receive_buffer(key: &'static str, value: &DeValue<'_>) -> Result<u32, Problem> {
    // Less holds no burst of jumbo frames; more is what the kernel's `int`, doubled, cannot take.
    const MIN: u64 = 64 << 10;
    const MAX: u32 = 1 << 30;
    let bytes = bytes(MIN, MAX.into())(key, value)?;
    Ok(u32::try_from(bytes).unwrap_or(MAX))
}

fn server_interfaces(report: &mut Report<'_>, section: Section<'_>) -> Vec<String> {
    const REMEDY: &str = "name one interface at least, as in [\"eth0\"]";
    let single = section.value(report, "interface", |key, value| {
        interface_name(key, string(key, value, "a name in quotes, as in \"eth0\"")?)
    });
    let many = section.interfaces(report, REMEDY);
    if section.has("interface") && section.has("interfaces") {
        let other = "interface";
        let problem = Problem::Both { key: "interfaces", other };
        report.invalid(section.key_at("interfaces"), problem);
    } else if !section.has("interfaces") {
        section.require(
            report,
            "interface",
            "the network interface to serve on, as in interface = \"eth0\"",
        );
    }
    many.map_or_else(
        || single.into_iter().collect(),
        |many| many.into_iter().map(|(_, name)| name).collect(),
    )
}
