//! Configuration: a TOML file, checked as a whole before anything of it takes effect.
//!
//! # Invariants
//! * A [`Config`] holds nothing that the server would have to refuse for its form: what remains to
//!   go wrong needs the world (no such interface, image in use).
//! * Nothing is guessed or ignored: unknown keys are errors, and so are numbers that could be meant
//!   in two units.
//! * All errors of a file are told at once, each with its line and what would be right.
//!
//! `config/README.md` is the reference of the keys.

#![forbid(unsafe_code)]

mod cas;
mod change;
mod check;
mod error;
mod read;
mod size;
mod target;
mod text;

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use toml::de::DeTable;

pub use cas::{BLOB_STORE_KEYS, CAS_KEYS, default_volume, is_name, snapshot_of_volume};
pub use change::{ConfigChange, TargetChange};
pub use error::{ConfigError, ConfigErrors, Place, Problem};
pub use read::SERVER_KEYS;
pub use size::{BadSize, Size, parse_size};
pub use target::{TARGET_KEYS, UNSET_SHELF};

use crate::engine::{Durability, MacList};
pub use crate::link::LinkKind;
use crate::protocol::Address;
use crate::protocol::ata::AtaText;
use crate::units::Sectors;
use text::Report;

/// The most bytes of a configuration: 1024 targets with every key need half of it. Whoever names a
/// disk image instead of a configuration shall hear of it at once.
const FILE_MAX: u64 = 1 << 20;

/// What one server does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// What holds for all targets.
    pub server: ServerConfig,
    /// The targets, in the order of the file. No two share an address, nor an image that one of
    /// them may write.
    pub targets: Vec<TargetConfig>,
}

/// The table `[server]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerConfig {
    /// The interfaces to serve on; at least one, no two the same.
    pub interfaces: Vec<String>,
    /// How frames are moved.
    pub link: LinkKind,
    /// Whether the interfaces are to hear frames for other stations too.
    pub promiscuous: bool,
    /// What the loop does when there is nothing to do.
    pub poll: PollPolicy,
    /// How long the adaptive policy goes on polling before it waits.
    pub spin: Duration,
    /// The most detailed messages that are logged.
    pub log_level: LevelFilter,
    /// Where what initiators set on targets is kept.
    pub state_dir: PathBuf,
    /// The CPU that the loop is bound to.
    pub cpu: Option<usize>,
    /// The kernel's buffer for frames that nobody has fetched yet, in bytes, for each interface.
    /// `None`: as much as the targets' buffer counts need.
    pub receive_buffer: Option<u32>,
    /// Where file targets journal what they acknowledge. `None`: they make it durable in their image.
    pub journal: Option<JournalConfig>,
    /// The real-time priority, from 1 to 99, of the threads that make writes durable. `None`: they
    /// have none.
    pub sync_priority: Option<u8>,
    /// How long to wait for another server that answers to a target's address. `None`: do not look.
    pub probe: Option<Duration>,
    /// The socket by which the running server is controlled. `None`: one in `state_dir`.
    pub control_socket: Option<PathBuf>,
}

impl ServerConfig {
    /// Where settings are kept when the configuration does not say.
    pub const STATE_DIR: &'static str = "/var/lib/aoe-server";
    /// What the control socket is called in there.
    pub const CONTROL_SOCKET: &'static str = "control.sock";

    /// Serves on `interfaces`, and is otherwise as if no other key were given.
    pub fn new(interfaces: Vec<String>) -> Self {
        Self {
            interfaces,
            link: LinkKind::Pcap,
            promiscuous: false,
            poll: PollPolicy::Adaptive,
            spin: Duration::from_micros(50),
            log_level: LevelFilter::Info,
            state_dir: PathBuf::from(Self::STATE_DIR),
            cpu: None,
            receive_buffer: None,
            journal: None,
            sync_priority: None,
            probe: Some(Duration::from_millis(300)),
            control_socket: None,
        }
    }

    /// The socket by which the running server is controlled.
    pub fn control_socket(&self) -> PathBuf {
        let default = || self.state_dir.join(Self::CONTROL_SOCKET);
        self.control_socket.clone().unwrap_or_else(default)
    }
}

/// The journal of file targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalConfig {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

/// What the loop does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PollPolicy {
    /// Goes on polling: the shortest latency, and a CPU of its own.
    Spin,
    /// Goes on polling for a while, then waits.
    Adaptive,
    /// Waits at once.
    Block,
}

/// A table `[[target]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TargetConfig {
    /// Shelf and slot.
    pub address: Address,
    /// What its sectors are stored in.
    pub storage: StorageConfig,
    /// How many frames each initiator may have in flight.
    pub buffer_count: u16,
    /// Whether writes are refused.
    pub read_only: bool,
    /// When writes are acknowledged.
    pub durability: Durability,
    /// The only stations it answers; everybody, when empty.
    pub allow: MacList,
    /// The serial number it tells; `None`: one made from what it is stored in.
    pub serial: Option<AtaText<20>>,
    /// The interfaces it is served on; all of the server's, when empty.
    pub interfaces: Vec<String>,
}

impl TargetConfig {
    /// As many frames as Linux, with its defaults, would ever have in flight.
    pub const BUFFER_COUNT: u16 = 64;

    /// A target as if no other key were given.
    pub fn new(address: Address, storage: StorageConfig) -> Self {
        Self {
            address,
            storage,
            buffer_count: Self::BUFFER_COUNT,
            read_only: false,
            durability: Durability::default(),
            allow: MacList::new(),
            serial: None,
            interfaces: Vec::new(),
        }
    }

    /// Whether it is served on `interface`, one of the server's.
    pub fn is_on(&self, interface: &str) -> bool {
        self.interfaces.is_empty() || self.interfaces.iter().any(|name| name == interface)
    }
}

/// What a target's sectors are stored in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageConfig {
    /// An image file.
    File {
        /// The file.
        path: PathBuf,
        /// The size of the whole image; a missing one is created with it, sparse. `None`: as the
        /// file is, and it must exist.
        size: Option<Sectors>,
        /// The part of it that is served.
        window: Window,
    },
    /// A block device.
    Device {
        /// Its node.
        path: PathBuf,
        /// The part of it that is served.
        window: Window,
    },
    /// Memory, lost when the server stops.
    Memory {
        /// How much.
        size: Sectors,
    },
    /// A volume or a snapshot in an archive.
    Cas(CasConfig),
}

impl StorageConfig {
    /// The file, the device, or the directory of the archive; `None` for memory.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } | Self::Device { path, .. } => Some(path),
            Self::Cas(cas) => Some(&cas.store.path),
            Self::Memory { .. } => None,
        }
    }

    /// What the key `backend` calls it.
    pub const fn backend(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Device { .. } => "device",
            Self::Memory { .. } => "mem",
            Self::Cas(_) => "cas",
        }
    }
}

impl fmt::Display for StorageConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } | Self::Device { path, .. } => path.display().fmt(f),
            Self::Memory { .. } => f.write_str("memory"),
            Self::Cas(CasConfig { store, content }) => {
                write!(f, "{content} of {}", store.path.display())
            }
        }
    }
}

/// What is served of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CasConfig {
    /// The archive. Targets whose archives have one path have one archive, and say the same of it.
    pub store: StoreConfig,
    /// What is served of it.
    pub content: CasContent,
}

impl CasConfig {
    /// Whether it is a snapshot that is served.
    pub const fn is_snapshot(&self) -> bool {
        matches!(self.content, CasContent::Snapshot { .. })
    }
}

/// A disk in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CasContent {
    /// A volume. No two targets have the same one.
    Volume {
        /// Its name.
        name: String,
        /// Its size: a missing volume is made with it, and a smaller one grows to it. `None`: as it
        /// is, and it must exist.
        size: Option<Sectors>,
    },
    /// A snapshot, which takes no writes.
    Snapshot {
        /// The name of its volume.
        volume: String,
        /// Its name.
        name: String,
    },
}

impl CasContent {
    /// The name of the volume that it is, or that it is a snapshot of.
    pub fn volume(&self) -> &str {
        match self {
            Self::Volume { name, .. } => name,
            Self::Snapshot { volume, .. } => volume,
        }
    }
}

impl fmt::Display for CasContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume { name, .. } => write!(f, "volume {name}"),
            Self::Snapshot { volume, name } => write!(f, "snapshot {volume}@{name}"),
        }
    }
}

/// An archive, and what holds for all targets in it. What is `None` is as the archive is, or else by
/// default.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreConfig {
    /// Its directory.
    pub path: PathBuf,
    /// The size of its blocks, in bytes.
    pub block_bytes: Option<u32>,
    /// How many blocks a blob holds.
    pub layout: Option<StoreLayout>,
    /// The file of its journal.
    pub journal: Option<PathBuf>,
    /// The size of its journal, in bytes.
    pub journal_bytes: Option<u64>,
    /// The most bytes in memory that are not committed.
    pub overlay_bytes: Option<u64>,
    /// The most bytes in memory of what was read.
    pub cache_bytes: Option<u64>,
    /// How many bytes that were written lead to a commit.
    pub commit_bytes: Option<u64>,
    /// The longest that something written waits for a commit.
    pub commit_interval: Option<Duration>,
}

impl StoreConfig {
    /// The archive at `path`, with nothing said about it.
    pub const fn new(path: PathBuf) -> Self {
        Self {
            path,
            block_bytes: None,
            layout: None,
            journal: None,
            journal_bytes: None,
            overlay_bytes: None,
            cache_bytes: None,
            commit_bytes: None,
            commit_interval: None,
        }
    }
}

/// How many blocks a blob of an archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreLayout {
    /// Many, in packs.
    Packed,
    /// One.
    Loose,
}

/// The part of an image or device that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// How many sectors come before it.
    pub offset: Sectors,
    /// How many it has; `None`: all that come after `offset`.
    pub length: Option<Sectors>,
}

impl Config {
    /// A configuration of nothing but these.
    pub fn new(server: ServerConfig, targets: Vec<TargetConfig>) -> Self {
        Self { server, targets }
    }

    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// All that is wrong with it, one [`ConfigError`] each.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigErrors> {
        let path = path.as_ref();
        let octets = match read_file(path) {
            Ok(octets) => octets,
            Err(source) => {
                let error = ConfigError::Unreadable { path: path.into(), source };
                return Err(ConfigErrors(vec![error]));
            }
        };
        // The reader stops at one more than may be there.
        if u64::try_from(octets.len()).is_ok_and(|len| len > FILE_MAX) {
            let error = ConfigError::TooLong { path: path.into(), limit: FILE_MAX };
            return Err(ConfigErrors(vec![error]));
        }
        Self::parse_octets(&octets, &path.to_string_lossy())
    }

    /// Checks `text`, which messages call `file_name`. Never panics on any text.
    ///
    /// # Errors
    /// All that is wrong with it, one [`ConfigError`] each.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ConfigErrors> {
        let mut report = Report::new(file_name, text);
        let (file, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            report.syntax(error.span().unwrap_or_default(), error.message());
        }
        // What the parser made up to go on after an error is not worth complaining about.
        report.check()?;
        let config = check::config(&mut report, file.get_ref());
        report.check()?;
        Ok(config)
    }

    /// What is to be done to go from this configuration to `new` without a restart.
    pub fn diff(&self, new: &Self) -> ConfigChange {
        change::between(self, new)
    }

    fn parse_octets(octets: &[u8], file_name: &str) -> Result<Self, ConfigErrors> {
        match std::str::from_utf8(octets) {
            Ok(text) => Self::parse(text, file_name),
            Err(error) => {
                let good = octets.get(..error.valid_up_to()).unwrap_or_default();
                let text = String::from_utf8_lossy(good);
                let place = Report::new(file_name, &text).place(good.len());
                Err(ConfigErrors(vec![ConfigError::NotUtf8 { place }]))
            }
        }
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut octets)?;
    Ok(octets)
}

/// The body of the fuzz target `config`: any octets are either a configuration or refused with
/// messages that keep to their form.
///
/// # Panics
/// When they are not: that is the finding.
#[doc(hidden)]
pub fn fuzz(octets: &[u8]) {
    match Config::parse_octets(octets, "fuzz.toml") {
        Ok(config) => {
            let change = config.diff(&config);
            assert!(change.is_empty(), "a configuration differs from itself: {change:?}");
        }
        Err(errors) => {
            let lines = octets.split(|octet| *octet == b'\n').count();
            assert!(!errors.as_slice().is_empty(), "refused for nothing");
            for error in errors.as_slice() {
                let place = error.place().expect("errors in a text have a place");
                assert!((1..=lines).contains(&place.line), "{error}");
                let message = ToString::to_string(error);
                assert!(message.starts_with("fuzz.toml:") && !message.contains('\n'), "{message}");
            }
        }
    }
}
