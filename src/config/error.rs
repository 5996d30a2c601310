//! What is wrong with a configuration, where, and what would be right.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::size::{BadSize, Size};
use super::text::{Choices, Quoted};
use crate::engine::MAX_TARGETS;
use crate::protocol::Address;

/// A place in a configuration file. Lines and columns count from one, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One thing that is wrong with a configuration. What it displays is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is longer than any configuration.
    #[error("{}: longer than {limit} bytes: this is no configuration", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The most bytes one may have.
        limit: u64,
    },
    /// The file is not TOML.
    #[error("{place}: not TOML{}: {}", At(found), Quoted::plain(message))]
    Syntax {
        /// Where it stops being TOML.
        place: Place,
        /// What stands there; may be empty.
        found: String,
        /// What the parser says.
        message: String,
    },
    /// The file is not text.
    #[error("{place}: not UTF-8, which TOML is written in")]
    NotUtf8 {
        /// The first byte that is not.
        place: Place,
    },
    /// The file is TOML, but not a configuration.
    #[error("{place}: {problem}")]
    Invalid {
        /// Where.
        place: Place,
        /// What is wrong.
        problem: Problem,
    },
}

impl ConfigError {
    /// Where in the file it is; `None` when the file as a whole is meant.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Syntax { place, .. } | Self::NotUtf8 { place } | Self::Invalid { place, .. } => {
                Some(place)
            }
            Self::Unreadable { .. } | Self::TooLong { .. } => None,
        }
    }
}

/// All that is wrong with a configuration, in the order of the file, one line each.
#[derive(Debug)]
pub struct ConfigErrors(pub(super) Vec<ConfigError>);

impl ConfigErrors {
    /// The errors; there is at least one.
    pub fn as_slice(&self) -> &[ConfigError] {
        &self.0
    }

    /// Whether the file could not be read, so that nothing is known of what is in it.
    pub fn is_unreadable(&self) -> bool {
        self.0.iter().any(|error| matches!(error, ConfigError::Unreadable { .. }))
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
            // A list has no one source that a caller could print, so each line carries its own.
            if let Some(source) = std::error::Error::source(error) {
                write!(f, ": {source}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// What is wrong with a key or a table, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// There is no such table.
    #[error(
        "unknown {}; a configuration has one [server] and a [[target]] for each disk{}",
        Quoted::key(key), Suggestion(*suggestion)
    )]
    UnknownTable {
        /// What stands there.
        key: String,
        /// The one that is probably meant.
        suggestion: Option<&'static str>,
    },
    /// There is no such key in this table, but maybe in the other one.
    #[error("unknown key {} in {table}{}", Quoted::key(key), Remedy(*suggestion, keys))]
    UnknownKey {
        /// The key.
        key: String,
        /// The table it stands in.
        table: &'static str,
        /// The one that is probably meant.
        suggestion: Option<&'static str>,
        /// The keys of the table.
        keys: &'static [&'static str],
    },
    /// The key belongs elsewhere.
    #[error("`{key}` belongs under {right}, not {wrong}")]
    Misplaced {
        /// The key.
        key: &'static str,
        /// Where it belongs.
        right: &'static str,
        /// Where it stands.
        wrong: &'static str,
    },
    /// `[target]` where `[[target]]` is needed, or the reverse.
    #[error("`{key}` must be written as {right}")]
    WrongBrackets {
        /// The table.
        key: &'static str,
        /// As it must be written.
        right: &'static str,
    },
    /// The table lacks a key that it needs.
    #[error("{table} has no `{key}`: add {remedy}")]
    Missing {
        /// The key.
        key: &'static str,
        /// The table.
        table: &'static str,
        /// What to add.
        remedy: &'static str,
    },
    /// The value is of another type.
    #[error("`{key}` must be {wanted}, not {} {found}", article(found))]
    WrongType {
        /// The key.
        key: &'static str,
        /// The type it has.
        found: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// The value is none of those there are.
    #[error(
        "`{key}` cannot be {}: there {} {}{}",
        Quoted::text(value),
        if choices.len() == 1 { "is" } else { "are" },
        Choices(choices),
        Suggestion(*suggestion)
    )]
    NotAChoice {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// The values there are.
        choices: &'static [&'static str],
        /// The one that is probably meant.
        suggestion: Option<&'static str>,
    },
    /// A back end that this version does not have.
    #[error(
        "backend {} is not part of this version; there are: file, device, mem, cas{}",
        Quoted::text(value), Suggestion(*suggestion)
    )]
    NoSuchBackend {
        /// The back end.
        value: String,
        /// The one that is probably meant.
        suggestion: Option<&'static str>,
    },
    /// A value that a later version will have.
    #[error("`{key}` cannot be \"{value}\" in this version yet: {remedy}")]
    NotYet {
        /// The key.
        key: &'static str,
        /// Its value.
        value: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// The number is too small or too large.
    #[error("`{key}` is {value}, but must be from {min} to {max}{}", Because(*reason))]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// The least it may be.
        min: i64,
        /// The most it may be.
        max: i64,
        /// Why, where that is not plain.
        reason: Option<&'static str>,
    },
    /// A shelf that Linux does not take.
    #[error(
        "`shelf` cannot be {shelf}: Linux takes it for a switch left unset and ignores the \
         target; use another from 0 to 65534"
    )]
    ReservedShelf {
        /// The shelf.
        shelf: u16,
    },
    /// The text is not a size.
    #[error("`{key}` is {}, {reason}", Quoted::text(value))]
    BadSize {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: BadSize,
    },
    /// A bare number where bytes and sectors are both likely.
    #[error("`{key}` is {value}, of what? Write \"{value} sectors\" or \"{value} B\"")]
    NoUnit {
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
    },
    /// The size is not a multiple of 512 bytes.
    #[error(
        "`{key}` is {bytes} bytes, but must be a multiple of the 512 of a sector; {} and {} bytes \
         are",
        bytes / 512 * 512, (bytes / 512).saturating_add(1).saturating_mul(512)
    )]
    NotWholeSectors {
        /// The key.
        key: &'static str,
        /// Its value.
        bytes: u64,
    },
    /// The size is none that a block of an archive can have.
    #[error(
        "`{key}` is {}, but a block has 4, 8, 16, 32 or 64 KiB, as in {key} = 4096",
        Size(*bytes)
    )]
    BlockSize {
        /// The key.
        key: &'static str,
        /// Its value, in bytes.
        bytes: u64,
    },
    /// So many blocks are more than a disk can have.
    #[error(
        "`total_sectors` is {count}, of {} each, but {max} are the most: \
         it counts blocks of `block_size`",
        Size(*block)
    )]
    TooManyBlocks {
        /// How many.
        count: u64,
        /// The size of each, in bytes.
        block: u64,
        /// The most there may be.
        max: u64,
    },
    /// The size is too small or too large.
    #[error("`{key}` is {}, but must be from {} to {}", Size(*bytes), Size(*min), Size(*max))]
    SizeOutOfRange {
        /// The key.
        key: &'static str,
        /// Its value, in bytes.
        bytes: u64,
        /// The least it may be, in bytes.
        min: u64,
        /// The most it may be, in bytes.
        max: u64,
    },
    /// The window starts where the image ends, or after it.
    #[error(
        "`offset` is {}, but `size` is {}: nothing is left to serve",
        Size(*offset), Size(*size)
    )]
    OffsetPastEnd {
        /// Where the window starts, in bytes.
        offset: u64,
        /// What the image has, in bytes.
        size: u64,
    },
    /// The window ends after the image.
    #[error(
        "`offset` and `length` together reach to {}, but `size` is {}: \
         make the window smaller or the image larger",
        Size(*end), Size(*size)
    )]
    WindowPastEnd {
        /// Where the window ends, in bytes.
        end: u64,
        /// What the image has, in bytes.
        size: u64,
    },
    /// The text is not an Ethernet address.
    #[error(
        "`{key}` holds {}, but an Ethernet address is six pairs of hexadecimal \
         digits, as in \"52:54:00:12:34:56\"",
        Quoted::text(value)
    )]
    BadMac {
        /// The key.
        key: &'static str,
        /// The text.
        value: String,
    },
    /// A group address, which no initiator sends from.
    #[error(
        "`{key}` holds {value}, a group address: no initiator sends from one; \
         name the address of its interface"
    )]
    GroupMac {
        /// The key.
        key: &'static str,
        /// The address.
        value: crate::protocol::MacAddr,
    },
    /// The list is longer than it may be.
    #[error("`{key}` lists {count}, but {max} are the most{remedy}")]
    TooMany {
        /// The key.
        key: &'static str,
        /// How many are listed.
        count: usize,
        /// The most there may be.
        max: usize,
        /// What to do instead, after a semicolon, where there is something.
        remedy: &'static str,
    },
    /// The serial number has too many characters, or ones that ATA cannot tell.
    #[error(
        "`serial` is {}, but must be 1 to 20 printable ASCII characters, no space first or last",
        Quoted::text(value)
    )]
    BadSerial {
        /// The serial number.
        value: String,
    },
    /// The text is no path on any system.
    #[error("`{key}` is {}, which is no path", Quoted::text(value))]
    BadPath {
        /// The key.
        key: &'static str,
        /// The text.
        value: String,
    },
    /// The path is too long for a socket.
    #[error("`{key}` has {len} bytes, but the path of a socket has {max} at most")]
    LongSocket {
        /// The key.
        key: &'static str,
        /// How many bytes its value has.
        len: usize,
        /// The most it may have.
        max: usize,
    },
    /// The text is no name of a volume.
    #[error(
        "`{key}` is {}, but a name has 1 to 64 letters, digits, dots, dashes and underscores, and \
         starts with neither a dot nor a dash, as in \"e1.0\"",
        Quoted::text(value)
    )]
    BadName {
        /// The key.
        key: &'static str,
        /// The text.
        value: String,
    },
    /// The text names no snapshot.
    #[error(
        "`{key}` is {}, but it must be the name of a volume, an @, and the name of a snapshot, as in \
         \"e1.0@monday\"",
        Quoted::text(value)
    )]
    BadSnapshot {
        /// The key.
        key: &'static str,
        /// The text.
        value: String,
    },
    /// The text is no interface's name on any system.
    #[error(
        "`{key}` holds {}, but the name of an interface has 1 to 15 \
         bytes, none of them a space or a slash, as in \"eth0\"",
        Quoted::text(value)
    )]
    BadInterface {
        /// The key.
        key: &'static str,
        /// The text.
        value: String,
    },
    /// The same is listed twice.
    #[error("`{key}` lists {} twice; once is enough", Quoted::text(value))]
    ListedTwice {
        /// The key.
        key: &'static str,
        /// What is listed.
        value: String,
    },
    /// The list is empty.
    #[error("`{key}` is empty: {remedy}")]
    Empty {
        /// The key.
        key: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The server does not serve on this interface.
    #[error(
        "`interfaces` of a target holds {}, which [server] does not serve on: it has {}",
        Quoted::text(value),
        Choices(served)
    )]
    ForeignInterface {
        /// The interface.
        value: String,
        /// The interfaces of the server.
        served: Vec<String>,
    },
    /// Two keys that say the same thing.
    #[error("`{key}` and `{other}` cannot both be there: keep one")]
    Both {
        /// The key.
        key: &'static str,
        /// The other one.
        other: &'static str,
    },
    /// The back end has no such setting.
    #[error("backend \"{backend}\" has no `{key}`: {reason}")]
    NotOfBackend {
        /// The key.
        key: &'static str,
        /// The back end.
        backend: &'static str,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// Two targets share an address.
    #[error(
        "{address} is taken by the target of line {first_line}: \
         give one of them another `shelf` or `slot`"
    )]
    AddressTaken {
        /// The address.
        address: Address,
        /// Where the first target with it is.
        first_line: usize,
    },
    /// Two targets share an image, and one of them could write to it.
    #[error(
        "`path` is {}, which the target of line {first_line} uses too: \
         two targets may share an image only if both have read_only = true",
        Quoted::text(path)
    )]
    SharedPath {
        /// The image.
        path: String,
        /// Where the first target with it is.
        first_line: usize,
    },
    /// A target in the file that is the journal.
    #[error(
        "`path` is {}, where the `journal` of [server] is, or is made before it gets its name: \
         give one of them another path",
        Quoted::text(path)
    )]
    JournalPath {
        /// The image.
        path: String,
    },
    /// Two targets serve one volume.
    #[error(
        "volume {} of this store is served by the target of line {first_line} already: give one of \
         them another `volume`, or serve a `snapshot` of it",
        Quoted::text(name)
    )]
    SharedVolume {
        /// The volume.
        name: String,
        /// Where the first target with it is.
        first_line: usize,
    },
    /// Two targets say different things of one store.
    #[error(
        "`{key}` is {}, but line {first_line} says {} for the same store: say it once, or the same",
        Quoted::plain(value),
        Quoted::plain(first)
    )]
    StoreDiffers {
        /// The key.
        key: &'static str,
        /// What it says here.
        value: String,
        /// What it says there.
        first: String,
        /// Where the first target says it.
        first_line: usize,
    },
    /// There are more targets than one server serves.
    #[error("{count} targets, but {MAX_TARGETS} are the most: run another server for the rest")]
    TooManyTargets {
        /// How many there are.
        count: usize,
    },
}

/// ` at ...`, or nothing.
struct At<'t>(&'t str);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " at {}", Quoted::key(self.0)) }
    }
}

/// `; did you mean ...?`, or nothing.
struct Suggestion(Option<&'static str>);

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(table) if table.starts_with('[') => write!(f, "; did you mean {table}?"),
            Some(value) => write!(f, "; did you mean \"{value}\"?"),
            None => Ok(()),
        }
    }
}

/// The key that is probably meant, or all of them.
struct Remedy(Option<&'static str>, &'static [&'static str]);

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(suggestion) = self.0 {
            return write!(f, "; did you mean `{suggestion}`?");
        }
        for (index, key) in self.1.iter().enumerate() {
            f.write_str(if index == 0 { "; there are " } else { ", " })?;
            f.write_str(key)?;
        }
        Ok(())
    }
}

/// `: reason`, or nothing.
struct Because(Option<&'static str>);

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}
