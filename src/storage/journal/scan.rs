//! Reading a journal after a crash: what is in it, and whether anything is missing.

use std::io;
use std::ops::RangeInclusive;

use super::format::{
    Entries, Geometry, HEADS, Head, JournalId, RECORD_HEADER, RecordHeader, Sequence, UNIT,
    Unreadable,
};
use super::log::{Appender, Reclaimer, Retired, Tip};
use super::medium::Medium;

/// Why a journal cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// It does not start as a journal does.
    #[error("it is not a journal, or both copies of its head are damaged")]
    NotAJournal,
    /// A later program wrote it.
    #[error("it has format {found}, and this program knows format 1 only")]
    Version {
        /// The format.
        found: u16,
    },
    /// It was cut short.
    #[error("it has {found} bytes instead of {wanted}: it was cut short")]
    Length {
        /// Its length in bytes.
        found: u64,
        /// What its head says.
        wanted: u64,
    },
    /// It cannot be read.
    #[error("cannot {op} it")]
    Io {
        /// What was tried.
        op: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// A record that is still needed.
#[derive(Debug, Clone, Copy)]
struct Found {
    header: RecordHeader,
    segment: u32,
    /// Where it is, in bytes of the journal.
    at: u64,
}

/// What is in a journal.
#[derive(Debug)]
pub struct Scan {
    pub(super) head: Head,
    /// In the order of their entries.
    records: Vec<Found>,
    /// Entries that were there once and are not now, though later ones are.
    lost: Vec<RangeInclusive<u64>>,
}

impl Scan {
    /// Looks for everything that is still needed in `medium`.
    ///
    /// # Errors
    /// [`ScanError`]. Damage in the middle is none: [`Self::lost`] tells of it.
    pub fn of(medium: &impl Medium) -> Result<Self, ScanError> {
        let failed = |op| move |source| ScanError::Io { op, source };
        // What is found must not vanish after it was acted upon: a process that died may have left
        // it in the page cache only.
        medium.distrust().map_err(failed("sync"))?;
        let (mut head, newest) = read_head(medium)?;
        // One that says "clean" may be the one before the one that said "in use" and was damaged.
        head.clean &= newest;
        let (found, wanted) = (medium.bytes().map_err(failed("measure"))?, head.geometry.bytes());
        if found < wanted {
            return Err(ScanError::Length { found, wanted });
        }
        let mut records = Vec::new();
        if !head.clean {
            for segment in 0..head.geometry.segments {
                read_segment(medium, &head, segment, &mut records).map_err(failed("read"))?;
            }
        }
        records.sort_unstable_by_key(|record| record.header.first);
        let lost = gaps(head.released, &records);
        Ok(Self { head, records, lost })
    }

    /// The journal's name.
    pub fn id(&self) -> JournalId {
        self.head.id
    }

    /// How the journal is divided.
    pub fn geometry(&self) -> Geometry {
        self.head.geometry
    }

    /// The mark that it was given last, or 0.
    #[cfg(feature = "cas")]
    pub fn mark(&self) -> u64 {
        self.head.mark
    }

    /// The last entry that there is, or that was given up.
    #[cfg(feature = "cas")]
    pub fn last(&self) -> Sequence {
        self.tip().last
    }

    /// Entries up to here were given up.
    pub fn released(&self) -> Sequence {
        self.head.released
    }

    /// The last entry of each segment that still has something, the oldest first.
    #[cfg(feature = "cas")]
    pub(in super::super) fn retired_lasts(&self) -> Vec<Sequence> {
        self.retired().iter().map(|retired| retired.last).collect()
    }

    /// Whether nothing is left to replay.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Ranges of sequence numbers of entries that were damaged: they are missing, but later ones
    /// are there. A record is written when the one before it is durable, so that this is no torn
    /// write.
    pub fn lost(&self) -> &[RangeInclusive<u64>] {
        &self.lost
    }

    /// Shows every entry that is still needed to `visit`, in order, until it returns `false`.
    ///
    /// # Errors
    /// [`ScanError::Io`]; also when a record is not what it was a moment ago.
    pub fn entries(
        &self,
        medium: &impl Medium,
        mut visit: impl FnMut(Sequence, &[u8]) -> bool,
    ) -> Result<(), ScanError> {
        let mut record = vec![0; self.head.geometry.record_max()];
        for Found { header, at, .. } in &self.records {
            let record = &mut record[..header.len()];
            let read = medium.read_at(*at, record).and_then(|()| {
                let same = header.check(self.head.id, record);
                if same { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
            });
            read.map_err(|source| ScanError::Io { op: "read again what was in", source })?;
            for (index, entry) in (0..).zip(Entries::new(&record[RECORD_HEADER..])) {
                let sequence = header.first.plus(index);
                if sequence > self.head.released && !visit(sequence, entry) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The two ends of the journal, to go on behind what was found. What is still needed stays until
    /// it is released.
    pub fn ends<M: Medium + Clone>(&self, medium: M) -> (Appender<M>, Reclaimer<M>) {
        super::log::ends(medium, self.head, self.tip(), self.retired())
    }

    /// Where the journal goes on.
    pub(super) fn tip(&self) -> Tip {
        match self.records.last() {
            Some(Found { header, .. }) => Tip { last: header.last(), checksum: header.checksum },
            None => Tip { last: self.head.released, checksum: 0 },
        }
    }

    /// First and last entry, place and length of each record, for tests that damage it.
    #[cfg(test)]
    pub(super) fn places(&self) -> Vec<(Sequence, Sequence, u64, usize)> {
        let place =
            |Found { header, at, .. }: &Found| (header.first, header.last(), *at, header.len());
        self.records.iter().map(place).collect()
    }

    /// The segments that still have something, the oldest first.
    fn retired(&self) -> Vec<Retired> {
        let mut retired: Vec<Retired> = Vec::new();
        for Found { header, segment, .. } in &self.records {
            let last = header.last();
            match retired.iter_mut().find(|known| known.segment == *segment) {
                Some(known) => known.last = last,
                None => retired.push(Retired { segment: *segment, last }),
            }
        }
        retired
    }
}

/// The newest head that is sound, and whether it is sure that there was none after it.
fn read_head(medium: &impl Medium) -> Result<(Head, bool), ScanError> {
    let mut newest: Option<Head> = None;
    let mut both = false;
    for place in 0..HEADS {
        let mut octets = [0; UNIT];
        match medium.read_at(place * UNIT as u64, &mut octets) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            // It may be the newer one: the other one would make damage of what was overwritten since.
            Err(source) => return Err(ScanError::Io { op: "read the head of", source }),
        }
        match Head::parse(&octets) {
            Ok(head) => {
                both = newest.is_some_and(|other| head.turn.abs_diff(other.turn) == 1);
                newest = newest.filter(|newest| newest.turn > head.turn).or(Some(head));
            }
            Err(Unreadable::Invalid) => {}
            // It may hold things that this program would overwrite.
            Err(Unreadable::Version(found)) => return Err(ScanError::Version { found }),
        }
    }
    Ok((newest.ok_or(ScanError::NotAJournal)?, both))
}

/// Finds the records of a segment that are still needed. What is no record is stepped over: it may
/// be torn, damaged, or the middle of an old one.
fn read_segment(
    medium: &impl Medium,
    head: &Head,
    segment: u32,
    records: &mut Vec<Found>,
) -> io::Result<()> {
    let geometry = head.geometry;
    let mut record = vec![0; geometry.record_max()];
    let mut at = 0;
    while at < geometry.segment_bytes {
        let place = geometry.start(segment) + at;
        let header = read_record(medium, head, place, geometry.segment_bytes - at, &mut record)?;
        at += match header {
            Some(header) => {
                if header.last() > head.released {
                    records.push(Found { header, segment, at: place });
                }
                header.len().next_multiple_of(UNIT) as u64
            }
            None => UNIT as u64,
        };
    }
    Ok(())
}

/// The header of the record at `place`, if there is a sound one. `record` is as long as the longest.
fn read_record(
    medium: &impl Medium,
    head: &Head,
    place: u64,
    room: u64,
    record: &mut [u8],
) -> io::Result<Option<RecordHeader>> {
    let (start, rest) = record.split_at_mut(UNIT);
    medium.read_at(place, start)?;
    let header = start.first_chunk().and_then(RecordHeader::parse);
    let Some(header) = header.filter(|header| {
        let len = header.len();
        len <= UNIT + rest.len() && len as u64 <= room
    }) else {
        return Ok(None);
    };
    if let Some(more) = header.len().checked_sub(UNIT) {
        medium.read_at(place + UNIT as u64, &mut rest[..more])?;
    }
    Ok(Some(header).filter(|header| header.check(head.id, &record[..header.len()])))
}

/// What is missing between `released` and the last of `records`.
fn gaps(released: Sequence, records: &[Found]) -> Vec<RangeInclusive<u64>> {
    let mut lost = Vec::new();
    let mut last = released;
    let mut previous = None;
    for Found { header, .. } in records {
        let wanted = last.next();
        if header.first > wanted {
            lost.push(wanted.0..=header.first.0 - 1);
        } else if previous
            .is_some_and(|checksum| checksum != header.previous || header.first < wanted)
        {
            // It follows a record that is no longer there: what stands in its place is older.
            lost.push(last.0..=last.0);
        }
        last = last.max(header.last());
        previous = Some(header.checksum);
    }
    lost
}
