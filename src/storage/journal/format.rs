//! The octets of a journal; `docs/formats.md` has them as tables.
//!
//! A journal is a file of fixed length: two places for its head, then segments, which hold records
//! one behind the other; a record is a header and entries. All of these start on a multiple of
//! [`UNIT`]. What an entry says is the user's business.
//!
//! A segment has no header: its records say by their sequence numbers whether they are still needed,
//! and so the ones of an earlier use of the segment do not count.
//!
//! Everything here is pure: octets in, values out, and no input panics.

use std::fmt;

/// What heads and records start on a multiple of: a page, which is what disks and
/// kernels write at once.
pub const UNIT: usize = 4096;
/// Places for the head, written in turn, so that one torn write never loses both.
pub(super) const HEADS: u64 = 2;
/// Where the first segment starts.
pub(super) const SEGMENTS_START: u64 = HEADS * UNIT as u64;
/// Octets of a record before its entries.
pub(super) const RECORD_HEADER: usize = 32;
/// Octets of an entry before its content: how long that is.
pub(super) const ENTRY_HEADER: usize = 4;

const HEAD_MAGIC: [u8; 8] = *b"AoEjourn";
const RECORD_MAGIC: [u8; 4] = *b"AoEj";
/// The version that is written, and the only one that is read.
const VERSION: u16 = 1;
/// More heads and entries than any journal will ever have: counting on from less never overflows.
const NUMBER_MAX: u64 = 1 << 63;
/// Octets of a head that are not reserved, the checksum included.
const HEAD_LEN: usize = 68;
/// Octets of the mark in a head.
const MARK: usize = 6;
const IN_USE: u32 = 1;
const CLEAN: u32 = 2;

/// Tells journals apart: 16 random octets, drawn when one is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JournalId(pub [u8; 16]);

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// The place of an entry in the order of everything that was ever journalled; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// `count` further on.
    #[must_use]
    pub(super) const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a journal is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a segment, a multiple of [`UNIT`].
    pub segment_bytes: u64,
    /// Segments.
    pub segments: u32,
}

impl Geometry {
    /// Segments of a new journal: enough that emptying one does not wait for the others, few enough
    /// that each is worth a sync of everything.
    const SEGMENTS: u32 = 8;
    /// The smallest journal, in bytes: each of its segments has room for a dozen full frames.
    pub const LEAST_BYTES: u64 = 1 << 20;
    /// The longest record, in bytes. A longer one would delay its first entry for the sake of its
    /// last.
    const RECORD_MAX: u64 = 1 << 20;

    /// The geometry of a new journal that takes `bytes`, or a little less.
    pub const fn of(bytes: u64) -> Self {
        let room = bytes.saturating_sub(SEGMENTS_START) / Self::SEGMENTS as u64;
        Self { segment_bytes: room - room % UNIT as u64, segments: Self::SEGMENTS }
    }

    /// Bytes of the whole journal.
    pub const fn bytes(self) -> u64 {
        SEGMENTS_START + self.segment_bytes * self.segments as u64
    }

    /// Where segment `index` starts, in bytes.
    pub(super) fn start(self, index: u32) -> u64 {
        SEGMENTS_START + self.segment_bytes * u64::from(index)
    }

    /// The most bytes of a record, its padding included.
    pub const fn record_max(self) -> usize {
        let quarter = self.segment_bytes / 4;
        let most = if quarter < Self::RECORD_MAX { quarter } else { Self::RECORD_MAX };
        let most = most - most % UNIT as u64;
        #[allow(clippy::cast_possible_truncation, reason = "a megabyte at most")]
        let most = most as usize;
        if most < UNIT { UNIT } else { most }
    }

    /// Whether a journal can be divided so: at least two segments, and an end that a file can have.
    pub const fn is_sound(self) -> bool {
        let end = self.segment_bytes.checked_mul(self.segments as u64);
        self.segments >= 2
            && self.segments <= 1 << 16
            && self.segment_bytes.is_multiple_of(UNIT as u64)
            && self.segment_bytes >= UNIT as u64
            && matches!(end, Some(end) if end < 1 << 62)
    }
}

/// What a journal says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) id: JournalId,
    pub(super) geometry: Geometry,
    /// A number below 2^48, which means something to whoever uses the journal.
    pub(super) mark: u64,
    /// Counts the heads that were written: the higher one holds.
    pub(super) turn: u64,
    /// Entries up to here are needed no more.
    pub(super) released: Sequence,
    /// The journal was closed, and nothing was left in it.
    pub(super) clean: bool,
}

/// Why octets are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Something else, or torn, or damaged.
    Invalid,
    /// Sound, and of a version that this program does not know.
    Version(u16),
}

impl Head {
    /// The place for this head, in bytes.
    pub(super) fn place(&self) -> u64 {
        self.turn % HEADS * UNIT as u64
    }

    pub(super) fn emit(&self) -> [u8; UNIT] {
        let mut octets = [0; UNIT];
        let mut writer = Writer(&mut octets);
        writer.put(&HEAD_MAGIC);
        writer.put(&VERSION.to_le_bytes());
        writer.put(&self.mark.to_le_bytes()[..MARK]);
        writer.put(&self.id.0);
        writer.put(&self.geometry.segment_bytes.to_le_bytes());
        writer.put(&self.geometry.segments.to_le_bytes());
        writer.put(&(if self.clean { CLEAN } else { IN_USE }).to_le_bytes());
        writer.put(&self.turn.to_le_bytes());
        writer.put(&self.released.0.to_le_bytes());
        seal(&mut octets, HEAD_LEN);
        octets
    }

    pub(super) fn parse(octets: &[u8; UNIT]) -> Result<Self, Unreadable> {
        let mut reader = sealed(octets, HEAD_MAGIC, HEAD_LEN)?;
        let mut mark = [0; 8];
        mark[..MARK].copy_from_slice(&reader.array::<MARK>());
        let head = Self {
            mark: u64::from_le_bytes(mark),
            id: JournalId(reader.array()),
            geometry: Geometry {
                segment_bytes: u64::from_le_bytes(reader.array()),
                segments: u32::from_le_bytes(reader.array()),
            },
            clean: u32::from_le_bytes(reader.array()) == CLEAN,
            turn: u64::from_le_bytes(reader.array()),
            released: Sequence(u64::from_le_bytes(reader.array())),
        };
        let possible = head.turn < NUMBER_MAX && head.released.0 < NUMBER_MAX;
        // The one form that a head has: a state that is neither does not come back the same.
        if possible && head.geometry.is_sound() && head.emit() == *octets {
            Ok(head)
        } else {
            Err(Unreadable::Invalid)
        }
    }
}

/// What a record says before its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    /// The place of its first entry.
    pub(super) first: Sequence,
    /// The checksum of the record before, or 0 for the very first.
    pub(super) previous: u32,
    /// How many entries it has; at least one.
    pub(super) entries: u32,
    /// Octets of its entries together.
    pub(super) body: u32,
    /// Over everything behind it, to the end of the last entry.
    pub(super) checksum: u32,
}

impl RecordHeader {
    /// The place of its last entry.
    pub(super) fn last(&self) -> Sequence {
        Sequence(self.first.0 + u64::from(self.entries) - 1)
    }

    /// Octets of the record, without padding.
    pub(super) fn len(&self) -> usize {
        RECORD_HEADER + self.body as usize
    }

    /// Writes the header in front of the entries that `record` holds, and their checksum, and
    /// returns that.
    pub(super) fn seal(&self, id: JournalId, record: &mut [u8]) -> u32 {
        let mut writer = Writer(record);
        writer.put(&RECORD_MAGIC);
        writer.put(&[0; 4]);
        writer.put(&self.first.0.to_le_bytes());
        writer.put(&self.previous.to_le_bytes());
        writer.put(&self.entries.to_le_bytes());
        writer.put(&self.body.to_le_bytes());
        writer.put(&[0; 4]);
        let checksum = checksum(id, &record[8..self.len()]);
        record[4..8].copy_from_slice(&checksum.to_le_bytes());
        checksum
    }

    /// What the first octets of a record say; nothing of it is sure before [`Self::check`].
    pub(super) fn parse(octets: &[u8; RECORD_HEADER]) -> Option<Self> {
        let mut reader = Reader(octets);
        if reader.array() != RECORD_MAGIC {
            return None;
        }
        let header = Self {
            checksum: u32::from_le_bytes(reader.array()),
            first: Sequence(u64::from_le_bytes(reader.array())),
            previous: u32::from_le_bytes(reader.array()),
            entries: u32::from_le_bytes(reader.array()),
            body: u32::from_le_bytes(reader.array()),
        };
        let reserved: [u8; 4] = reader.array();
        let sound = reserved == [0; 4]
            && header.first.0 != 0
            && header.entries != 0
            && u64::from(header.body) <= Geometry::RECORD_MAX
            && header.first.0 < NUMBER_MAX;
        sound.then_some(header)
    }

    /// Whether `record`, of [`Self::len`] octets, is what was written.
    pub(super) fn check(&self, id: JournalId, record: &[u8]) -> bool {
        checksum(id, &record[8..]) == self.checksum && {
            let mut entries = Entries::new(&record[RECORD_HEADER..]);
            let count = entries.by_ref().count();
            count as u64 == u64::from(self.entries) && entries.is_whole()
        }
    }
}

/// The entries of a record, one by one.
#[derive(Debug, Clone)]
pub(super) struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Entries<'a> {
    /// Of what follows a record's header.
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// Whether nothing is left.
    fn is_whole(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.rest.split_first_chunk::<ENTRY_HEADER>()?;
        let (entry, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        self.rest = rest;
        Some(entry)
    }
}

/// Also over the journal's name, so that a record of another journal is none of this one.
fn checksum(id: JournalId, octets: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&id.0), octets)
}

/// Puts the checksum at the end of the first `len` octets.
fn seal(octets: &mut [u8; UNIT], len: usize) {
    let checksum = crc32c::crc32c(&octets[..len - 4]);
    octets[len - 4..len].copy_from_slice(&checksum.to_le_bytes());
}

/// What follows magic and version in a structure of `len` octets, whose checksum has to be right.
fn sealed(octets: &[u8; UNIT], magic: [u8; 8], len: usize) -> Result<Reader<'_>, Unreadable> {
    let mut reader = Reader(octets);
    if reader.array() != magic {
        return Err(Unreadable::Invalid);
    }
    let version = u16::from_le_bytes(reader.array());
    if version != VERSION {
        // Another version may have its checksum anywhere, so that this cannot be looked at more
        // closely; a damaged number is as unknown as a new one.
        return Err(Unreadable::Version(version));
    }
    let checksum = crc32c::crc32c(&octets[..len - 4]).to_le_bytes();
    if octets[len - 4..len] == checksum { Ok(reader) } else { Err(Unreadable::Invalid) }
}

/// Puts fields one behind the other.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    fn put(&mut self, field: &[u8]) {
        let (here, rest) = std::mem::take(&mut self.0).split_at_mut(field.len());
        here.copy_from_slice(field);
        self.0 = rest;
    }
}

/// Takes fields one behind the other, of octets that were counted before.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        if let Some((octets, rest)) = self.0.split_first_chunk() {
            field = *octets;
            self.0 = rest;
        }
        field
    }
}
