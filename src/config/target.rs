//! Reads a table `[[target]]`.

use std::path::PathBuf;

use toml::de::DeValue;

use super::cas::{self, BLOB_STORE_KEYS, CAS_KEYS, CAS_TABLE, CasDraft, STORE_TABLE};
use super::error::Problem;
use super::read::{
    Meanings, Section, boolean, bytes, choice, number, path, sectors, string, wrong_type,
};
use super::text::{Report, closest};
use super::{Size, StorageConfig, TargetConfig, Window};
use crate::engine::{Durability, MacList};
use crate::protocol::ata::{AtaText, LBA48_SECTORS};
use crate::protocol::{Address, MacAddr};
use crate::units::{SECTOR_SIZE, Sectors};

/// The keys of `[[target]]`.
pub const TARGET_KEYS: &[&str] = &[
    "shelf",
    "slot",
    "backend",
    "path",
    "size",
    "offset",
    "length",
    "buffer_count",
    "read_only",
    "durability",
    "allow",
    "serial",
    "interfaces",
    "cas",
];

/// `[[target]]`, for tables where its keys stand by mistake.
pub(super) const ELSEWHERE: (&str, &[&str]) = ("[[target]]", TARGET_KEYS);

const DURABILITIES: Meanings<Durability> = Meanings {
    all: "\"durable\" or \"volatile\"",
    names: &["durable", "volatile"],
    values: &[Durability::Durable, Durability::Volatile],
};
/// The back ends there are.
const BACKENDS: &[&str] = &["file", "device", "mem", "cas"];
/// The shelf of a Coraid chassis whose switches were never set: Linux takes nobody with it.
pub const UNSET_SHELF: u16 = 0x0fff;
/// The longest disk, in bytes. 48 bits address one sector less than 128 PiB; a round limit is easier
/// to say.
pub(super) const SIZE_MAX: u64 = 127 << 50;
const _: () = assert!(SIZE_MAX / SECTOR_SIZE as u64 <= LBA48_SECTORS);
/// The most characters of a serial number in an IDENTIFY page.
const SERIAL_MAX: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Backend {
    File,
    Device,
    Memory,
    Cas,
}

/// As much of a target as could be made out, for the checks of targets against each other.
pub(super) struct Draft {
    /// Where its header is.
    pub(super) at: usize,
    /// Where its path is written.
    pub(super) path_at: usize,
    pub(super) address: Option<Address>,
    pub(super) path: Option<PathBuf>,
    /// What it says of its archive.
    pub(super) cas: Option<CasDraft>,
    pub(super) read_only: bool,
    /// The interfaces it names, and where.
    pub(super) interfaces: Vec<(usize, String)>,
    /// The target; `None` when something of it was wrong and has been reported.
    pub(super) target: Option<TargetConfig>,
}

pub(super) fn target(report: &mut Report<'_>, section: Section<'_>) -> Draft {
    let backend = backend(report, section);
    let elsewhere = [super::read::ELSEWHERE, (CAS_TABLE, CAS_KEYS), (STORE_TABLE, BLOB_STORE_KEYS)];
    section.check_keys(report, TARGET_KEYS, &elsewhere, &[]);
    let address = address(report, section);
    let image = section.value(report, "path", path);
    let archive = archive(report, section, backend, address);
    let storage = match backend {
        Some(Backend::Cas) => archive.as_ref().map(cas::storage),
        _ => storage(report, section, backend, image.clone()),
    };
    let read_only = section.value(report, "read_only", boolean).unwrap_or(false);
    let interfaces = section
        .interfaces(report, "name one interface at least, or leave it out to serve on all")
        .unwrap_or_default();
    // Nothing can be written to what was.
    let snapshot = matches!(&storage, Some(StorageConfig::Cas(cas)) if cas.is_snapshot());
    let mut target = address.zip(storage).map(|(address, storage)| TargetConfig {
        read_only: read_only || snapshot,
        interfaces: interfaces.iter().map(|(_, name)| name.clone()).collect(),
        ..TargetConfig::new(address, storage)
    });
    // Read even when there is no target to take them: all errors are to be told.
    let buffer_count = section.value(report, "buffer_count", buffer_count);
    let durability = section.value(report, "durability", choice(DURABILITIES));
    let allow = allow(report, section);
    let serial = section.value(report, "serial", serial);
    if let Some(target) = &mut target {
        target.buffer_count = buffer_count.unwrap_or(target.buffer_count);
        target.durability = durability.unwrap_or(target.durability);
        target.allow = allow;
        target.serial = serial;
    }
    Draft {
        at: section.at,
        path_at: section.key_at("path"),
        address,
        path: image.filter(|_| backend != Some(Backend::Cas)),
        cas: archive,
        read_only,
        interfaces,
        target,
    }
}

/// `[target.cas]`, which one back end has and the others have not.
fn archive(
    report: &mut Report<'_>,
    section: Section<'_>,
    backend: Option<Backend>,
    address: Option<Address>,
) -> Option<CasDraft> {
    let name = match backend {
        Some(Backend::Cas) => {
            const ELSEWHERE: &str = "an archive is a directory that [target.cas.blob_store] names";
            const SIZE: &str = "the size of a volume is in [target.cas]";
            const WHOLE: &str = "a volume is served as a whole; leave this out";
            let refused =
                [("path", ELSEWHERE), ("size", SIZE), ("offset", WHOLE), ("length", WHOLE)];
            for (key, reason) in refused {
                refuse(report, section, key, "cas", reason);
            }
            return cas::cas(report, section, address);
        }
        Some(Backend::File) => "file",
        Some(Backend::Device) => "device",
        Some(Backend::Memory) => "mem",
        None => return None, // it was probably meant to be this one
    };
    refuse(report, section, "cas", name, "this table is for backend = \"cas\"");
    None
}

fn address(report: &mut Report<'_>, section: Section<'_>) -> Option<Address> {
    const EVERY_SHELF: Option<&str> = Some("65535 addresses every shelf");
    const EVERY_SLOT: Option<&str> = Some("255 addresses every slot");
    section.require(report, "shelf", "a number from 0 to 65534, as in shelf = 1");
    section.require(report, "slot", "a number from 0 to 254, as in slot = 0");
    let shelf = section.value(report, "shelf", |key, value| {
        let shelf: u16 = number(0, 65_534, EVERY_SHELF)(key, value)?;
        if shelf == UNSET_SHELF { Err(Problem::ReservedShelf { shelf }) } else { Ok(shelf) }
    });
    let slot = section.value(report, "slot", number(0, 254, EVERY_SLOT));
    shelf.zip(slot).map(|(shelf, slot)| Address::new(shelf, slot))
}

fn backend(report: &mut Report<'_>, section: Section<'_>) -> Option<Backend> {
    section.require(
        report,
        "backend",
        "what stores its sectors: backend = \"file\", \"device\", \"mem\" or \"cas\"",
    );
    section.value(report, "backend", |key, value| {
        match string(key, value, "\"file\", \"device\", \"mem\" or \"cas\"")? {
            "file" => Ok(Backend::File),
            "device" => Ok(Backend::Device),
            "mem" => Ok(Backend::Memory),
            "cas" => Ok(Backend::Cas),
            other => Err(Problem::NoSuchBackend {
                value: other.into(),
                suggestion: closest(other, BACKENDS),
            }),
        }
    })
}

fn storage(
    report: &mut Report<'_>,
    section: Section<'_>,
    backend: Option<Backend>,
    image: Option<PathBuf>,
) -> Option<StorageConfig> {
    const MIN: u64 = SECTOR_SIZE as u64;
    let size = section.value(report, "size", sectors(MIN, SIZE_MAX));
    let window = window(report, section, size)?;
    match backend? {
        Backend::File => {
            section.require(report, "path", "the image, as in path = \"/data/disk.img\"");
            // A size that was given and wrong must not pass for one that was not given.
            if section.has("size") && size.is_none() {
                return None;
            }
            Some(StorageConfig::File { path: image?, size, window })
        }
        Backend::Device => {
            section.require(report, "path", "the device, as in path = \"/dev/sdb\"");
            refuse(
                report,
                section,
                "size",
                "device",
                "a device has the size it has; to serve a part of it use `offset` and `length`",
            );
            Some(StorageConfig::Device { path: image?, window })
        }
        Backend::Memory => {
            section.require(report, "size", "how much memory, as in size = \"64 MiB\"");
            for key in ["path", "offset", "length"] {
                refuse(
                    report,
                    section,
                    key,
                    "mem",
                    "it keeps its sectors in memory only; leave this out",
                );
            }
            Some(StorageConfig::Memory { size: size? })
        }
        Backend::Cas => None, // it has a table of its own
    }
}

fn refuse(
    report: &mut Report<'_>,
    section: Section<'_>,
    key: &'static str,
    backend: &'static str,
    reason: &'static str,
) {
    if section.has(key) {
        report.invalid(section.key_at(key), Problem::NotOfBackend { key, backend, reason });
    }
}

/// The window, checked against the size of the image where that is given.
fn window(report: &mut Report<'_>, section: Section<'_>, size: Option<Sectors>) -> Option<Window> {
    let offset = section.value(report, "offset", |key, value| in_unit(0, key, value));
    let length =
        section.value(report, "length", |key, value| in_unit(SECTOR_SIZE as u64, key, value));
    if section.has("offset") != offset.is_some() || section.has("length") != length.is_some() {
        return None;
    }
    let window = Window { offset: offset.unwrap_or_default(), length };
    let Some(size) = size else { return Some(window) };
    // Both are at most 2^48 sectors: no overflow, not even in bytes.
    let end = Sectors(window.offset.0 + window.length.unwrap_or_default().0);
    let bytes = |sectors| Size::from(sectors).0;
    let (key, problem) = if window.offset >= size {
        let problem = Problem::OffsetPastEnd { offset: bytes(window.offset), size: bytes(size) };
        ("offset", problem)
    } else if end > size {
        ("length", Problem::WindowPastEnd { end: bytes(end), size: bytes(size) })
    } else {
        return Some(window);
    };
    report.invalid(section.key_at(key), problem);
    None
}

/// A size of whole sectors that says its unit: vblade counts the same settings in sectors, and a
/// window that is off by a factor of 512 would serve somebody else's octets.
fn in_unit(min: u64, key: &'static str, value: &DeValue<'_>) -> Result<Sectors, Problem> {
    if let DeValue::Integer(_) = value {
        let number = bytes(0, SIZE_MAX)(key, value)?;
        if number != 0 {
            return Err(Problem::NoUnit { key, value: number });
        }
    }
    sectors(min, SIZE_MAX)(key, value)
}

fn buffer_count(key: &'static str, value: &DeValue<'_>) -> Result<u16, Problem> {
    const REASON: &str = "with fewer than 2, Linux ignores the target without a word, \
                          and more than 64 it uses only where aoe_maxout was raised";
    number(2, 1024, Some(REASON))(key, value)
}

fn allow(report: &mut Report<'_>, section: Section<'_>) -> MacList {
    const WANTED: &str = "a list of Ethernet addresses, as in [\"52:54:00:12:34:56\"]";
    let key = "allow";
    let addresses = section.list(report, key, WANTED, |key, text| {
        let value: MacAddr =
            text.parse().map_err(|_| Problem::BadMac { key, value: text.into() })?;
        if value.is_group() { Err(Problem::GroupMac { key, value }) } else { Ok(value) }
    });
    let addresses = addresses.unwrap_or_default();
    let count = addresses.len();
    let mut list = MacList::new();
    for (at, address) in addresses {
        if list.contains(address) {
            let value = format!("{address}");
            report.invalid(at, Problem::ListedTwice { key, value });
        } else if list.add(address).is_err() {
            let remedy = "; leave it out to admit everybody";
            report.invalid(at, Problem::TooMany { key, count, max: list.len().into(), remedy });
            break;
        }
    }
    list
}

fn serial(key: &'static str, value: &DeValue<'_>) -> Result<AtaText<SERIAL_MAX>, Problem> {
    let text = value.as_str().ok_or_else(|| wrong_type(key, value, "a text in quotes"))?;
    let good = (1..=SERIAL_MAX).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && text.trim() == text;
    if good { Ok(AtaText::new(text)) } else { Err(Problem::BadSerial { value: text.into() }) }
}
