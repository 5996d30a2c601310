//! Reads on their way or waiting to be collected: a fixed table, whichever way they are read.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::string::String;
use std::sync::Arc;
use std::time::Duration;

use super::ReadMethod;
use super::ahead::{OTHERS, Streams};
use super::disk::Geometry;
use super::ring::Ring;
use super::threads::{READERS, Threads};
use crate::clock::{self, Instant};
use crate::wake::Waker;

/// Reads that somebody waits for: the buffer count that targets advertise.
const READS: usize = 64;
/// Reads that nobody has asked for yet.
const AHEAD: usize = 16;

/// A way to read from a device without waiting for it. Each place has a buffer for a span of a
/// frame's length and the blocks around it.
pub(super) trait Way: fmt::Debug + Send {
    /// Starts to read the blocks around `span`, to verify them without keeping them. Nothing may
    /// be on its way for this place.
    fn begin(&mut self, place: usize, span: &Range<u64>, verify: bool);

    /// Passes on what has begun since the last time. Called once a turn: it may be a system call.
    fn submit(&mut self);

    /// A place whose read has ended, and whether all was read. Never a system call.
    fn ended(&mut self) -> Option<(usize, bool)>;

    /// The blocks that were read for a place.
    fn blocks(&self, place: usize) -> &[u8];

    /// How many reads it pays to have on their way for one reader.
    fn depth(&self) -> usize;
}

/// The log's protection from a disk of which nothing can be read.
#[derive(Debug)]
pub(super) struct Complaints {
    name: String,
    last: Option<Instant>,
}

impl Complaints {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), last: None }
    }

    /// Logs a failure, at most once a second.
    pub(super) fn log(&mut self, what: fmt::Arguments<'_>, error: &io::Error) {
        let now = clock::now();
        let quiet = |last| now.since(last) < Duration::from_secs(1);
        if !self.last.is_some_and(quiet) {
            self.last = Some(now);
            log::error!("{}: {what}: {error}", self.name);
        }
    }

    pub(super) fn read_failed(&mut self, offset: u64, error: &io::Error) {
        self.log(format_args!("a read at byte {offset} failed"), error);
    }
}

/// How a read stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sought {
    /// It has been read, and is to be collected.
    Done,
    /// It cannot be read. The entry is gone.
    Failed,
    /// It is being read.
    Flying,
    /// Nobody has asked for it.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Flying,
    Done,
    Failed,
}

#[derive(Debug, Clone)]
struct Entry {
    state: State,
    /// The bytes of the device that were asked for.
    span: Range<u64>,
    /// They are only to be looked at.
    verify: bool,
    /// Nobody has asked for them yet.
    ahead: bool,
    /// A write came between.
    spoilt: bool,
    /// The round in which it was done.
    round: u64,
}

impl Entry {
    const FREE: Self = Self {
        state: State::Free,
        span: 0..0,
        verify: false,
        ahead: false,
        spoilt: false,
        round: 0,
    };
}

/// All reads of a device. Entries and the places of the way that they are read are the same.
#[derive(Debug)]
pub(super) struct Reads {
    geometry: Geometry,
    entries: Vec<Entry>,
    way: Box<dyn Way>,
    streams: Streams,
    flying: usize,
    /// Counts the times that there was news.
    round: u64,
    /// Something was finished that somebody waits for, and nobody was told yet.
    news: bool,
    /// Somebody found no free entry.
    starved: bool,
}

impl Reads {
    /// Chooses the way to read, and says so in the log.
    ///
    /// # Errors
    /// With what could not be done, for the message.
    pub(super) fn start(
        file: &Arc<File>,
        geometry: Geometry,
        method: ReadMethod,
        name: &str,
        waker: Option<&Waker>,
    ) -> Result<Self, (&'static str, io::Error)> {
        let entries = vec![Entry::FREE; READS + AHEAD];
        let ring = || Ring::new(file, geometry, READS + AHEAD, name, waker);
        let threads = |why: fmt::Arguments<'_>| {
            let threads = Threads::start(file, geometry, READS + AHEAD, name, waker)
                .map_err(|error| ("start a thread for", error))?;
            log::info!("{name}: reads by {READERS} threads, {why}");
            Ok(Box::new(threads) as Box<dyn Way>)
        };
        let way = match method {
            ReadMethod::Ring => {
                Box::new(ring().map_err(|error| ("set up io_uring for", error))?) as Box<dyn Way>
            }
            ReadMethod::Threads => threads(format_args!("as it was told to"))?,
            ReadMethod::Auto => match ring() {
                Ok(ring) => Box::new(ring),
                Err(error) => threads(format_args!("since io_uring cannot be used: {error}"))?,
            },
        };
        Ok(Self {
            geometry,
            entries,
            way,
            streams: Streams::default(),
            flying: 0,
            round: 0,
            news: false,
            starved: false,
        })
    }

    fn place(&self, span: &Range<u64>, verify: bool) -> Option<usize> {
        self.entries.iter().position(|entry| {
            entry.state != State::Free
                && entry.span == *span
                && entry.verify == verify
                && !entry.spoilt
        })
    }

    /// How the read of `span` stands. From now on somebody waits for it.
    pub(super) fn find(&mut self, span: &Range<u64>, verify: bool) -> Sought {
        let Some(place) = self.place(span, verify) else { return Sought::Unknown };
        if self.entries[place].ahead && self.entries[place].state == State::Flying {
            // Nobody has looked: no progress is asked of a disk that nobody waits for.
            self.harvest();
        }
        let entry = &mut self.entries[place];
        entry.ahead = false;
        match entry.state {
            State::Done => Sought::Done,
            State::Failed => {
                entry.state = State::Free;
                Sought::Failed
            }
            State::Flying => Sought::Flying,
            State::Free => Sought::Unknown,
        }
    }

    /// Starts to read `span`, which is no longer than a frame unless it is to be verified. Without
    /// a free entry nothing happens, and there will be news when there is one.
    pub(super) fn begin(&mut self, span: &Range<u64>, verify: bool) {
        match self.free_place() {
            Some(place) => self.fly(place, span, verify, false),
            None => self.starved = true,
        }
    }

    /// Starts to read `span`, for which nobody has asked, unless it has begun. Tells whether there
    /// was room.
    pub(super) fn begin_ahead(&mut self, span: &Range<u64>) -> bool {
        if self.place(span, false).is_some() {
            return true;
        }
        let ahead = |entry: &&Entry| entry.state != State::Free && entry.ahead;
        if self.entries.iter().filter(ahead).count() >= AHEAD && !self.forget_ahead() {
            return false;
        }
        let free = self.entries.iter().position(|entry| entry.state == State::Free);
        if let Some(place) = free {
            self.fly(place, span, false, true);
        }
        free.is_some()
    }

    fn fly(&mut self, place: usize, span: &Range<u64>, verify: bool, ahead: bool) {
        self.way.begin(place, span, verify);
        self.flying += 1;
        let state = State::Flying;
        self.entries[place] =
            Entry { state, span: span.clone(), verify, ahead, spoilt: false, round: 0 };
    }

    /// A free entry, or one that nobody has asked for, or one that nobody has collected: who asked
    /// for it had a chance since.
    fn free_place(&mut self) -> Option<usize> {
        let free = |entry: &Entry| entry.state == State::Free;
        if let Some(place) = self.entries.iter().position(free) {
            return Some(place);
        }
        if self.forget_ahead() {
            return self.entries.iter().position(free);
        }
        let round = self.round;
        let old = self.entries.iter().enumerate().filter(|(_, entry)| {
            matches!(entry.state, State::Done | State::Failed) && entry.round < round
        });
        old.min_by_key(|(_, entry)| entry.round).map(|(place, _)| place)
    }

    /// Frees the oldest of what was read ahead; tells whether there was something.
    fn forget_ahead(&mut self) -> bool {
        let ahead = |entry: &&mut Entry| entry.state == State::Done && entry.ahead;
        let oldest = self.entries.iter_mut().filter(ahead).min_by_key(|entry| entry.round);
        oldest.map(|entry| entry.state = State::Free).is_some()
    }

    /// Hands over what was read of `span` and is [`Sought::Done`].
    pub(super) fn collect(&mut self, span: &Range<u64>, into: &mut [u8]) {
        let Some(place) = self.place(span, false) else {
            unreachable!("the caller has found the read to be done")
        };
        self.entries[place].state = State::Free;
        let skip = usize::try_from(span.start - self.geometry.down(span.start)).unwrap_or(0);
        into.copy_from_slice(&self.way.blocks(place)[skip..skip + into.len()]);
    }

    /// What to read ahead, in reads as long as `span`, which was handed over.
    pub(super) fn follow(&mut self, span: &Range<u64>) -> Option<Range<u64>> {
        let Self { streams, entries, way, .. } = self;
        let waited_for = |entry: &&Entry| entry.state != State::Free && !entry.ahead;
        let lone = || entries.iter().filter(waited_for).count() <= OTHERS;
        streams.follow(span, way.depth().min(AHEAD), lone)
    }

    /// Passes on what has begun, for callers that do not wait for it and so never ask for progress.
    pub(super) fn submit(&mut self) {
        self.way.submit();
    }

    /// Forgets a read that is done.
    pub(super) fn release(&mut self, span: &Range<u64>, verify: bool) {
        if let Some(place) = self.place(span, verify) {
            self.entries[place].state = State::Free;
        }
    }

    /// Makes reads of `span` that have begun be read again when they are asked for next.
    pub(super) fn spoil(&mut self, span: &Range<u64>) {
        for entry in &mut self.entries {
            if entry.span.start < span.end && span.start < entry.span.end {
                match entry.state {
                    State::Flying => entry.spoilt = true,
                    _ => entry.state = State::Free,
                }
            }
        }
    }

    /// Takes in what was read.
    fn harvest(&mut self) {
        while let Some((place, good)) = self.way.ended() {
            self.flying -= 1;
            let entry = &mut self.entries[place];
            // Who waits is told in the next round, and has that one to collect it.
            entry.round = self.round + 1;
            entry.state = match (entry.spoilt, good) {
                (true, _) => State::Free,
                (false, true) => State::Done,
                // Who asks for it later is told what it is then.
                (false, false) if entry.ahead => State::Free,
                (false, false) => State::Failed,
            };
            entry.spoilt = false;
            self.news |= !entry.ahead || self.starved;
        }
    }

    /// Passes on what has begun and takes in what was read; tells whether somebody may be waiting
    /// for that.
    pub(super) fn progress(&mut self) -> bool {
        self.way.submit();
        self.harvest();
        // Reads of several parts go on.
        self.way.submit();
        if self.starved && self.flying == 0 {
            // All is done and nobody collects it: let it be thrown away.
            self.news = true;
        }
        let news = std::mem::take(&mut self.news);
        self.round += u64::from(news);
        self.starved &= !news;
        news
    }
}
