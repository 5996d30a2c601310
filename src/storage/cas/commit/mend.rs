//! Mending the index of a store that is open: what a damaged run had is read from the packs again.
//!
//! # Invariants
//! * Every place is found all the time that was found before: runs are let go when all of their packs were
//!   read.
//! * The index never says that it covers a pack that was not read.
//! * Commits wait meanwhile, and nobody else: not the loop, nor threads that read.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;

use super::super::error::chain;
use super::super::fsck::frames_of;
use super::super::index::SetAside;
use super::super::manifest::PackEntry;
use super::super::recover::tell_unread;
#[cfg(test)]
use super::super::simulation::{Bug, is_planted};
use super::publish::INDEX_ENTRIES;
use super::{Committer, Phase, RETRY, Trouble};
use crate::clock::Instant;
use crate::storage::journal::Medium;

/// Packs that are read in one step.
const SLICE: usize = if cfg!(test) { 2 } else { 64 };
/// How often a pack is tried that cannot be read just now, before the others are read without it.
const TRIES: u32 = 6;

/// What there is to know of the index beside what is in it.
pub(super) struct Mender {
    /// The first pack of which not everything may be in the index. The index must not say that it covers
    /// it: the next to open the store may have better luck.
    unread: Option<u32>,
    mending: Option<Mending>,
    /// How often the index was mended.
    times: u32,
    /// A disk may damage what was just mended: then it must not be all that is done.
    not_before: Instant,
    /// A commit cannot be made without it.
    wanted: bool,
    /// Some pack could not be read, and may be some day: what was set aside may know what is in it.
    given_up: bool,
}

/// The mending of runs that were set aside.
struct Mending {
    /// Packs that are still to be read, in order.
    packs: VecDeque<PackEntry>,
    /// The last pack that the runs cover.
    last: u32,
    /// Entries that may be in memory only.
    entries: usize,
    /// How often in a row something did not succeed.
    failures: u32,
}

impl Mender {
    pub(super) fn new(unread: Option<u32>) -> Self {
        let not_before = Instant::ZERO;
        Self { unread, mending: None, times: 0, not_before, wanted: false, given_up: false }
    }
}

impl<M: Medium> Committer<M> {
    /// Does a piece of what there is to mend; `false` when that is nothing for now.
    pub(super) fn mend(&mut self, now: Instant) -> bool {
        if !self.can_mend(now) {
            return false;
        }
        if self.shared.reader.index.is_harmed() {
            self.begin_to_mend(now);
        } else {
            self.mend_some(now);
        }
        true
    }

    fn can_mend(&self, now: Instant) -> bool {
        #[cfg(test)]
        if is_planted(Bug::IndexNotMended) {
            return false;
        }
        // A stop waits for no more than what has to be committed: whoever opens it next goes on.
        let is_time = !self.shared.is_closing() || self.mender.wanted;
        let any = self.mender.mending.is_some() || self.shared.reader.index.is_harmed();
        any && is_time && now >= self.mender.not_before
    }

    /// A commit has failed. If that may be for the index, which can be mended, nobody need hear of it: it
    /// is made again at once when that is done.
    pub(super) fn fail_or_mend(&mut self, trouble: &Trouble, now: Instant) {
        self.mender.wanted = trouble.is_of_index();
        if !(self.mender.wanted && self.can_mend(now)) {
            return self.fail(trouble, now);
        }
        self.packs.abandon();
        self.phase = Phase::Idle;
        // They are asked for once more, before those that came later.
        self.edits.0.append(&mut self.edits.1);
        self.waiting.0.append(&mut self.waiting.1);
        std::mem::swap(&mut self.edits.0, &mut self.edits.1);
        std::mem::swap(&mut self.waiting.0, &mut self.waiting.1);
    }

    fn begin_to_mend(&mut self, now: Instant) {
        let set_aside = self.shared.reader.index.set_aside();
        let Some(SetAside { first, last, why }) = set_aside else { return };
        // What comes after those that were set aside at first is in memory.
        let before = self.mender.mending.take();
        if before.is_some() {
            self.rest(now);
        }
        let last = before.map_or(last, |mending| mending.last);
        // Commits wait while it is read.
        self.shared.set_barren(true);
        let reader = &self.shared.reader;
        let table = reader.packs.read().unwrap_or_else(PoisonError::into_inner);
        let covered = |pack: &PackEntry| (first..=last).contains(&pack.number);
        let packs: VecDeque<PackEntry> = table.iter().filter(covered).collect();
        drop(table);
        log::error!(
            "archive {}: ITS INDEX IS DAMAGED and is made anew of {} packs, commits wait for that: {why}",
            self.shared.name,
            packs.len()
        );
        self.mender.mending = Some(Mending { packs, last, entries: 0, failures: 0 });
    }

    /// Reads some packs, and writes the index when enough has come together.
    fn mend_some(&mut self, now: Instant) {
        for _ in 0..SLICE {
            let Some(mending) = &mut self.mender.mending else { return };
            if mending.entries >= INDEX_ENTRIES {
                // What it is merged with may be damaged, too.
                if self.write_index() || self.shared.reader.index.is_harmed() {
                    self.note_written();
                } else {
                    // There need not be room for all of it in memory.
                    self.put_off(now);
                }
                return;
            }
            let Some(pack) = mending.packs.front().copied() else { return self.end_to_mend(now) };
            let (frames, damage) = frames_of(&*self.shared.reader.blobs, &pack);
            if let Some(error) = damage {
                let is_lost = error.is_loss();
                if !is_lost && mending.failures + 1 < TRIES {
                    log::warn!(
                        "archive {}: pack {} cannot be read for its index, which is tried again: {}",
                        self.shared.name,
                        pack.id,
                        chain(&error)
                    );
                    return self.put_off(now);
                }
                self.mender.given_up |= !is_lost;
                let unread = &mut self.mender.unread;
                *unread = Some(unread.map_or(pack.number, |unread| unread.min(pack.number)));
                tell_unread(&self.shared.name, &pack, frames.len(), error);
            }
            mending.packs.pop_front();
            mending.entries += frames.len();
            mending.failures = 0;
            self.shared.reader.index.insert_many(frames);
        }
    }

    fn note_written(&mut self) {
        if let Some(mending) = &mut self.mender.mending {
            (mending.entries, mending.failures) = (0, 0);
        }
    }

    /// Goes on later.
    fn put_off(&mut self, now: Instant) {
        let Some(mending) = &mut self.mender.mending else { return };
        mending.failures += 1;
        let wait = RETRY.0 * (1 << mending.failures.min(8)) / 2;
        self.mender.not_before = now.after(wait.min(RETRY.1));
    }

    fn end_to_mend(&mut self, now: Instant) {
        self.mender.mending = None;
        self.shared.reader.index.let_go(!self.mender.given_up);
        self.write_index();
        self.rest(now);
        self.mender.wanted = false;
        // A commit that has failed for this may succeed.
        self.retry = None;
        log::warn!("archive {}: its index was made anew", self.shared.name);
    }

    /// Does not mend for a while. The first few times that is none: it may be that several runs were
    /// damaged.
    fn rest(&mut self, now: Instant) {
        let seconds = (1 << self.mender.times.min(14)) >> 4;
        self.mender.not_before = now.after(Duration::from_secs(seconds));
        self.mender.times += 1;
    }

    /// Whether the index is known to be damaged, and not mended yet.
    #[cfg(test)]
    pub(in super::super) fn is_to_be_mended(&self) -> bool {
        self.mender.mending.is_some() || self.shared.reader.index.is_harmed()
    }

    /// Writes as much of the index as may be; tells whether that went well.
    pub(super) fn write_index(&self) -> bool {
        let Mender { unread, mending, .. } = &self.mender;
        let mending = mending.as_ref();
        let next =
            mending.map(|mending| mending.packs.front().map_or(mending.last + 1, |p| p.number));
        let end = unread.iter().chain(&next).fold(self.manifest.next_pack, |a, b| a.min(*b));
        let Some(through) = end.checked_sub(1) else { return true };
        let written = self.shared.reader.index.flush(through);
        if let Err(error) = &written {
            log::warn!(
                "archive {}: its index cannot be written, it stays in memory: {}",
                self.shared.name,
                chain(error)
            );
        }
        written.is_ok()
    }
}
