//! Reads `[target.cas]` and the table of its store, and looks whether targets of one store agree.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::check::normalized;
use super::error::Problem;
use super::read::{Meanings, Section, bytes, choice, number, path, sectors, string, wrong_type};
use super::size::Size;
use super::target::{Draft, SIZE_MAX};
use super::text::Report;
use super::{CasConfig, CasContent, StorageConfig, StoreConfig, StoreLayout};
use crate::protocol::Address;
use crate::storage::journal::Geometry;
use crate::units::{SECTOR_SIZE, Sectors};

/// The keys of `[target.cas]`.
pub const CAS_KEYS: &[&str] =
    &["volume", "block_size", "total_sectors", "size", "snapshot", "blob_store"];

/// The keys of `[target.cas.blob_store]`.
pub const BLOB_STORE_KEYS: &[&str] = &[
    "type",
    "path",
    "layout",
    "journal",
    "journal_size",
    "overlay_size",
    "cache_size",
    "commit_size",
    "commit_seconds",
];

pub(super) const CAS_TABLE: &str = "[target.cas]";
pub(super) const STORE_TABLE: &str = "[target.cas.blob_store]";

const LAYOUTS: Meanings<StoreLayout> = Meanings {
    all: "\"packed\" or \"loose\"",
    names: &["packed", "loose"],
    values: &[StoreLayout::Packed, StoreLayout::Loose],
};

/// The sizes of blocks that a store can have.
const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 4 << 10..=64 << 10;

/// The longest name of a volume or a snapshot, in characters.
const NAME_MAX: usize = 64;

/// Whether a volume or a snapshot can have this name: it is to be a word of a command line, and a
/// part of a file's name.
pub fn is_name(text: &str) -> bool {
    let of_a_name = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
    (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(of_a_name)
        && !text.starts_with(['-', '.'])
}

/// The volume and the snapshot that a text like `e1.0@monday` names.
pub fn snapshot_of_volume(text: &str) -> Option<(&str, &str)> {
    text.split_once('@').filter(|(volume, snapshot)| is_name(volume) && is_name(snapshot))
}

/// The name of the volume that a target has when none is given.
pub fn default_volume(address: Address) -> String {
    format!("{address}")
}

/// What a target says of its archive.
#[derive(Clone)]
pub(super) struct CasDraft {
    /// Where the table is.
    at: usize,
    /// Where the volume is named; the table, if it is not.
    volume_at: usize,
    content: CasContent,
    path: PathBuf,
    /// What is said of the store, each with where it is said.
    settings: Vec<(usize, Setting)>,
}

/// What holds for a whole store.
#[derive(Clone, PartialEq, Eq)]
enum Setting {
    BlockSize(u32),
    Layout(StoreLayout),
    Journal(PathBuf),
    JournalSize(u64),
    OverlaySize(u64),
    CacheSize(u64),
    CommitSize(u64),
    CommitSeconds(u64),
}

impl Setting {
    const fn key(&self) -> &'static str {
        match self {
            Self::BlockSize(_) => "block_size",
            Self::Layout(_) => "layout",
            Self::Journal(_) => "journal",
            Self::JournalSize(_) => "journal_size",
            Self::OverlaySize(_) => "overlay_size",
            Self::CacheSize(_) => "cache_size",
            Self::CommitSize(_) => "commit_size",
            Self::CommitSeconds(_) => "commit_seconds",
        }
    }

    fn apply(&self, store: &mut StoreConfig) {
        match self {
            Self::BlockSize(bytes) => store.block_bytes = Some(*bytes),
            Self::Layout(layout) => store.layout = Some(*layout),
            Self::Journal(path) => store.journal = Some(path.clone()),
            Self::JournalSize(bytes) => store.journal_bytes = Some(*bytes),
            Self::OverlaySize(bytes) => store.overlay_bytes = Some(*bytes),
            Self::CacheSize(bytes) => store.cache_bytes = Some(*bytes),
            Self::CommitSize(bytes) => store.commit_bytes = Some(*bytes),
            Self::CommitSeconds(seconds) => {
                store.commit_interval = Some(Duration::from_secs(*seconds));
            }
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlockSize(bytes) => Size((*bytes).into()).fmt(f),
            Self::Layout(StoreLayout::Packed) => f.write_str("packed"),
            Self::Layout(StoreLayout::Loose) => f.write_str("loose"),
            Self::Journal(path) => path.display().fmt(f),
            Self::JournalSize(bytes)
            | Self::OverlaySize(bytes)
            | Self::CacheSize(bytes)
            | Self::CommitSize(bytes) => Size(*bytes).fmt(f),
            Self::CommitSeconds(seconds) => seconds.fmt(f),
        }
    }
}

/// `[target.cas]` of the target at `address`; `None` when something of it was wrong and has been
/// reported.
pub(super) fn cas(
    report: &mut Report<'_>,
    target: Section<'_>,
    address: Option<Address>,
) -> Option<CasDraft> {
    const WANTED: &str = "a table, as in [target.cas]";
    const REMEDY: &str = "a table [target.cas.blob_store] with type = \"file\" and the `path` of \
                          its store";
    target.require(report, "cas", REMEDY);
    let section = target.table(report, "cas", CAS_TABLE, WANTED)?;
    let elsewhere =
        [(STORE_TABLE, BLOB_STORE_KEYS), super::target::ELSEWHERE, super::read::ELSEWHERE];
    section.check_keys(report, CAS_KEYS, &elsewhere, &[]);
    let block_bytes = section.value(report, "block_size", block_size);
    let content = content(report, section, address, block_bytes);
    section.require(report, "blob_store", REMEDY);
    let table = section.table(report, "blob_store", STORE_TABLE, WANTED_STORE)?;
    let (path, mut settings) = store(report, table)?;
    if let Some(bytes) = block_bytes {
        settings.push((section.key_at("block_size"), Setting::BlockSize(bytes)));
    }
    let volume_at = section.key_at(if section.has("snapshot") { "snapshot" } else { "volume" });
    Some(CasDraft { at: section.at, volume_at, content: content?, path, settings })
}

const WANTED_STORE: &str = "a table, as in [target.cas.blob_store]";

/// What is served of the store.
fn content(
    report: &mut Report<'_>,
    section: Section<'_>,
    address: Option<Address>,
    block_bytes: Option<u32>,
) -> Option<CasContent> {
    let volume = section.value(report, "volume", |key, value| {
        let text = string(key, value, "a name in quotes, as in \"e1.0\"")?;
        if is_name(text) {
            Ok(String::from(text))
        } else {
            Err(Problem::BadName { key, value: text.into() })
        }
    });
    let snapshot = section.value(report, "snapshot", |key, value| {
        let text = string(key, value, "a volume and a snapshot in quotes, as in \"e1.0@monday\"")?;
        let names = snapshot_of_volume(text);
        names
            .map(|(volume, name)| (String::from(volume), String::from(name)))
            .ok_or_else(|| Problem::BadSnapshot { key, value: text.into() })
    });
    let size = size(report, section, block_bytes);
    if section.has("snapshot") {
        // It names its volume, and has the size it has.
        for key in ["volume", "size", "total_sectors"] {
            if section.has(key) {
                let problem = Problem::Both { key, other: "snapshot" };
                report.invalid(section.key_at(key), problem);
            }
        }
        let (volume, name) = snapshot?;
        return Some(CasContent::Snapshot { volume, name });
    }
    let given_and_wrong = |key, is_none: bool| section.has(key) && is_none;
    if given_and_wrong("volume", volume.is_none())
        || given_and_wrong("size", size.is_none())
        || given_and_wrong("total_sectors", size.is_none())
    {
        return None;
    }
    let name = volume.or_else(|| address.map(default_volume))?;
    Some(CasContent::Volume { name, size })
}

/// The size of the volume, said in one of two ways.
fn size(
    report: &mut Report<'_>,
    section: Section<'_>,
    block_bytes: Option<u32>,
) -> Option<Sectors> {
    const MIN: u64 = SECTOR_SIZE as u64;
    let size = section.value(report, "size", sectors(MIN, SIZE_MAX));
    if !section.has("total_sectors") {
        return size;
    }
    if section.has("size") {
        let problem = Problem::Both { key: "total_sectors", other: "size" };
        report.invalid(section.key_at("total_sectors"), problem);
    }
    if !section.has("block_size") {
        // As the store's default it could change what a configuration means.
        let (key, table) = ("block_size", CAS_TABLE);
        let remedy = "how many bytes each of the `total_sectors` has, as in block_size = 4096, or \
                      say `size` instead";
        report.invalid(section.key_at("total_sectors"), Problem::Missing { key, table, remedy });
    }
    section.value(report, "total_sectors", |key, value| {
        let count: u64 = number(1, i64::MAX, None)(key, value)?;
        let Some(block) = block_bytes.map(u64::from) else { return Ok(None) };
        let bytes = count.saturating_mul(block);
        if bytes > SIZE_MAX {
            return Err(Problem::TooManyBlocks { count, block, max: SIZE_MAX / block });
        }
        Ok(Some(Sectors::from_bytes(bytes)))
    })?
}

fn block_size(key: &'static str, value: &DeValue<'_>) -> Result<u32, Problem> {
    let bytes = bytes(0, u64::MAX)(key, value)?;
    let good = BLOCK_SIZES.contains(&bytes) && bytes.is_power_of_two();
    u32::try_from(bytes).ok().filter(|_| good).ok_or(Problem::BlockSize { key, bytes })
}

/// `[target.cas.blob_store]`: where the store is, and what holds for all targets in it.
fn store(
    report: &mut Report<'_>,
    section: Section<'_>,
) -> Option<(PathBuf, Vec<(usize, Setting)>)> {
    // By feel: a terabyte of anything is more than machines have to spare.
    const MOST: u64 = 1 << 40;
    section.require(report, "type", "what keeps its blobs, as in type = \"file\"");
    let kind = section.value(report, "type", |key, value| match string(key, value, "\"file\"")? {
        "file" => Ok(()),
        "s3" => Err(Problem::NotYet { key, value: "s3", remedy: REMEDY_S3 }),
        other => Err(Problem::NotAChoice {
            key,
            value: other.into(),
            choices: &["file"],
            suggestion: super::text::closest(other, &["file"]),
        }),
    });
    if section.has("type") && kind.is_none() {
        // Its keys are as unknown as it is, and that has been said.
        return None;
    }
    let elsewhere = [(CAS_TABLE, CAS_KEYS), super::target::ELSEWHERE, super::read::ELSEWHERE];
    section.check_keys(report, BLOB_STORE_KEYS, &elsewhere, &[]);
    section.require(report, "path", "the directory of the store, as in path = \"/data/aoe/blobs\"");
    let place = section.value(report, "path", path);
    let mut settings = Vec::new();
    macro_rules! setting {
        ($key:literal, $kind:ident, $read:expr) => {
            if let Some(value) = section.value(report, $key, $read) {
                settings.push((section.key_at($key), Setting::$kind(value)));
            }
        };
    }
    setting!("layout", Layout, choice(LAYOUTS));
    setting!("journal", Journal, path);
    setting!("journal_size", JournalSize, bytes(Geometry::LEAST_BYTES, MOST));
    setting!("overlay_size", OverlaySize, bytes(4 << 20, MOST));
    setting!("cache_size", CacheSize, bytes(1 << 20, MOST));
    setting!("commit_size", CommitSize, bytes(1 << 20, MOST));
    setting!("commit_seconds", CommitSeconds, number::<u64>(1, 86_400, None));
    Some((place?, settings))
}

const REMEDY_S3: &str = "keep it in a directory, with type = \"file\" and a `path`";

/// What a target is stored in, as far as it says so itself.
pub(super) fn storage(draft: &CasDraft) -> StorageConfig {
    let mut store = StoreConfig::new(draft.path.clone());
    for (_, setting) in &draft.settings {
        setting.apply(&mut store);
    }
    StorageConfig::Cas(CasConfig { store, content: draft.content.clone() })
}

/// Refuses two targets of one volume, and targets that say different things of one store; gives each
/// target what all of them say.
pub(super) fn stores_agree(report: &mut Report<'_>, drafts: &mut [Draft]) {
    let mut stores: HashMap<PathBuf, Vec<usize>> = HashMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        if let Some(cas) = &draft.cas {
            stores.entry(normalized(&cas.path)).or_default().push(index);
        }
    }
    for users in stores.into_values() {
        let of = |index: &usize| drafts.get(*index).and_then(|draft| draft.cas.as_ref());
        let users_drafts: Vec<&CasDraft> = users.iter().filter_map(of).collect();
        volumes_differ(report, &users_drafts);
        let Some(store) = agreed(report, &users_drafts) else { continue };
        for index in users {
            let target = drafts.get_mut(index).and_then(|draft| draft.target.as_mut());
            if let Some(StorageConfig::Cas(cas)) = target.map(|target| &mut target.storage) {
                cas.store.clone_from(&store);
            }
        }
    }
}

fn volumes_differ(report: &mut Report<'_>, users: &[&CasDraft]) {
    let mut served: HashMap<&str, &CasDraft> = HashMap::new();
    for draft in users {
        // A snapshot does not change: any number of targets may serve it.
        let CasContent::Volume { name, .. } = &draft.content else { continue };
        if let Some(first) = served.get(name.as_str()) {
            let first_line = report.line(first.at);
            report
                .invalid(draft.volume_at, Problem::SharedVolume { name: name.clone(), first_line });
        } else {
            served.insert(name, draft);
        }
    }
}

/// What the users of a store say of it.
fn agreed(report: &mut Report<'_>, users: &[&CasDraft]) -> Option<StoreConfig> {
    let mut store = StoreConfig::new(users.first()?.path.clone());
    let mut said: HashMap<&'static str, &(usize, Setting)> = HashMap::new();
    for here in users.iter().flat_map(|draft| &draft.settings) {
        let (at, setting) = here;
        let first = said.entry(setting.key()).or_insert(here);
        if first.1 == *setting {
            setting.apply(&mut store);
        } else {
            let (key, first_line) = (setting.key(), report.line(first.0));
            let (value, first) = (format!("{setting}"), format!("{}", first.1));
            report.invalid(*at, Problem::StoreDiffers { key, value, first, first_line });
        }
    }
    Some(store)
}

impl Section<'_> {
    /// The table that is the value of `key`, called `name`; `None` when it is missing, or no table,
    /// which is reported.
    fn table(
        &self,
        report: &mut Report<'_>,
        key: &'static str,
        name: &'static str,
        wanted: &'static str,
    ) -> Option<Self> {
        let table = self.value(report, key, |key, value| {
            value.as_table().ok_or_else(|| wrong_type(key, value, wanted))
        })?;
        Some(Section::new(name, self.key_at(key), table))
    }
}
