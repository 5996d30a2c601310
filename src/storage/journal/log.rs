//! Writing records, and giving up those that are needed no more: the two ends of a journal, which
//! two threads may hold.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};

use super::super::aligned::AlignedBuf;
use super::format::{
    ENTRY_HEADER, Geometry, Head, JournalId, RECORD_HEADER, RecordHeader, Sequence, UNIT,
};
use super::medium::Medium;

/// A segment that nothing is written to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retired {
    /// Its number.
    pub(super) segment: u32,
    /// Its last entry, or that of an earlier segment when it has none that counts.
    pub last: Sequence,
}

/// Where a journal goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tip {
    /// The last entry there is.
    pub(super) last: Sequence,
    /// The checksum of its record.
    pub(super) checksum: u32,
}

/// Whether a record can be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Room {
    /// Behind the last one.
    Here,
    /// As the first one of another segment.
    NewSegment,
    /// Not now: no segment is free before [`Reclaimer::release`].
    None,
}

/// The end that writes. Entries are gathered and then committed as one record.
pub struct Appender<M> {
    medium: M,
    id: JournalId,
    geometry: Geometry,
    /// The record that is being gathered.
    staging: AlignedBuf,
    used: usize,
    entries: u32,
    tip: Tip,
    /// The segment that is written to, and where in it the next record starts.
    segment: Option<(u32, u64)>,
    /// The segment that was written to before, until somebody asks.
    retired: Option<Retired>,
    free: Receiver<u32>,
}

/// The end that gives up what is needed no more, and so makes room.
pub struct Reclaimer<M> {
    medium: M,
    head: Head,
    /// In the order of their entries.
    waiting: VecDeque<Retired>,
    free: Sender<u32>,
}

/// The two ends of a journal whose segments `retired` are still needed; all others are free.
pub(super) fn ends<M: Medium + Clone>(
    medium: M,
    head: Head,
    tip: Tip,
    retired: Vec<Retired>,
) -> (Appender<M>, Reclaimer<M>) {
    let (free, free_segments) = mpsc::channel();
    for segment in 0..head.geometry.segments {
        if !retired.iter().any(|needed| needed.segment == segment) {
            // The other end is right here.
            let _ = free.send(segment);
        }
    }
    let appender = Appender {
        medium: medium.clone(),
        id: head.id,
        geometry: head.geometry,
        staging: AlignedBuf::new(head.geometry.record_max()),
        used: RECORD_HEADER,
        entries: 0,
        tip,
        segment: None,
        retired: None,
        free: free_segments,
    };
    (appender, Reclaimer { medium, head, waiting: retired.into(), free })
}

impl<M: Medium> Appender<M> {
    /// Sees to it that the longest record there is fits behind the last one, by going on to another
    /// segment if need be. Asked before the first entry of a record is staged.
    pub fn begin(&mut self) -> Room {
        debug_assert_eq!(self.entries, 0, "a record that is being gathered is not begun");
        if let Some((segment, at)) = self.segment {
            if at + self.staging.len() as u64 <= self.geometry.segment_bytes {
                return Room::Here;
            }
            self.segment = None;
            self.retired = Some(Retired { segment, last: self.tip.last });
        }
        match self.free.try_recv() {
            Ok(segment) => {
                self.segment = Some((segment, 0));
                Room::NewSegment
            }
            Err(_) => Room::None,
        }
    }

    /// The segment that the last [`Self::begin`] has left, to be told to [`Reclaimer::retire`].
    pub fn take_retired(&mut self) -> Option<Retired> {
        self.retired.take()
    }

    /// Whether an entry of `len` octets fits into the record.
    pub fn has_room(&self, len: usize) -> bool {
        self.staging.len() - self.used >= ENTRY_HEADER + len
    }

    /// The longest entry that fits into an empty record, in octets.
    pub fn entry_max(&self) -> usize {
        self.staging.len() - RECORD_HEADER - ENTRY_HEADER
    }

    /// Adds an entry that consists of `parts`, one behind the other.
    ///
    /// # Panics
    /// Without room for it; [`Self::has_room`] tells.
    pub fn stage(&mut self, parts: &[&[u8]]) -> Sequence {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        assert!(self.has_room(len), "the room for an entry is looked at before");
        #[allow(clippy::cast_possible_truncation, reason = "a record has a megabyte at most")]
        let header = (len as u32).to_le_bytes();
        for part in std::iter::once(&header[..]).chain(parts.iter().copied()) {
            self.staging[self.used..self.used + part.len()].copy_from_slice(part);
            self.used += part.len();
        }
        self.entries += 1;
        self.tip.last.plus(self.entries.into())
    }

    /// Whether there are entries that are not committed.
    pub fn is_staged(&self) -> bool {
        self.entries > 0
    }

    /// The last entry that was committed, or found when the journal was opened.
    pub fn last(&self) -> Sequence {
        self.tip.last
    }

    /// Writes the entries that were staged as one record, and makes them durable.
    ///
    /// # Errors
    /// After which this end must not be used any more: whether the record is there is not known.
    ///
    /// # Panics
    /// Unless [`Self::begin`] has found room.
    pub fn commit(&mut self) -> io::Result<()> {
        if self.entries == 0 {
            return Ok(());
        }
        let Some((segment, at)) = self.segment else { panic!("a record is begun before") };
        #[allow(clippy::cast_possible_truncation, reason = "a record has a megabyte at most")]
        let header = RecordHeader {
            first: self.tip.last.next(),
            previous: self.tip.checksum,
            entries: self.entries,
            body: (self.used - RECORD_HEADER) as u32,
            checksum: 0,
        };
        let checksum = header.seal(self.id, &mut self.staging);
        let padded = self.used.next_multiple_of(UNIT);
        self.staging[self.used..padded].fill(0);
        self.medium.write_at(self.geometry.start(segment) + at, &self.staging[..padded])?;
        self.medium.sync()?;
        self.segment = Some((segment, at + padded as u64));
        self.tip = Tip { last: header.last(), checksum };
        self.entries = 0;
        self.used = RECORD_HEADER;
        Ok(())
    }
}

impl<M: Medium> Reclaimer<M> {
    /// Takes in that nothing is written to a segment any more; in the order they were written.
    pub fn retire(&mut self, segment: Retired) {
        self.waiting.push_back(segment);
    }

    /// The segments that wait to be released, the oldest first.
    pub fn waiting(&self) -> &VecDeque<Retired> {
        &self.waiting
    }

    /// How the journal is divided.
    pub fn geometry(&self) -> Geometry {
        self.head.geometry
    }

    /// The journal's name.
    pub fn id(&self) -> JournalId {
        self.head.id
    }

    /// From the next time on that something is released, or the journal closed, it has this mark, of
    /// which the lower 48 bits count: what is known to be durable elsewhere.
    #[cfg(feature = "cas")]
    pub fn set_mark(&mut self, mark: u64) {
        self.head.mark = mark & ((1 << 48) - 1);
    }

    /// Gives up all entries up to `through`: they will not be replayed. Segments that have no
    /// others become free. Tells how many.
    ///
    /// # Errors
    /// After which this end must not be used any more.
    pub fn release(&mut self, through: Sequence) -> io::Result<usize> {
        self.write_head(through, false)?;
        let mut freed = 0;
        // Only now: what is overwritten must not be missed after a crash.
        while let Some(oldest) = self.waiting.front().filter(|oldest| oldest.last <= through) {
            let segment = oldest.segment;
            self.waiting.pop_front();
            // Nobody listens when the journal is being closed.
            let _ = self.free.send(segment);
            freed += 1;
        }
        Ok(freed)
    }

    /// Notes that the journal was closed, and that nothing up to `last`, its last entry, is needed.
    ///
    /// # Errors
    /// When that could not be written; everything since the last release is then replayed.
    pub fn close(&mut self, last: Sequence) -> io::Result<()> {
        self.write_head(last, true)
    }

    fn write_head(&mut self, released: Sequence, clean: bool) -> io::Result<()> {
        let head = Head { turn: self.head.turn + 1, released, clean, ..self.head };
        self.medium.write_at(head.place(), &head.emit())?;
        self.medium.sync()?;
        self.head = head;
        Ok(())
    }
}
