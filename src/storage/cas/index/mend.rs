//! Runs that are found damaged while they are used: what they had is inserted again, and until then
//! they go on telling what can still be had of them.

use std::sync::atomic::Ordering;

use super::super::ContentId;

use super::store::{RunFile, RunStore};
use super::{Asked, Index, IndexError, Location, Runs};

/// Runs that were set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct SetAside {
    /// The first pack that they cover.
    pub(in super::super) first: u32,
    /// The last one.
    pub(in super::super) last: u32,
    /// What is wrong with one of them.
    pub(in super::super) why: String,
}

impl<F> Asked<F> {
    /// None of which is damaged, as far as is known.
    pub(super) fn of(used: Runs<F>) -> Self {
        Self { used, aside: Runs::new(), is_mended: true }
    }
}

impl<F: RunFile> Asked<F> {
    /// Where a frame is, the table's answer included.
    pub(super) fn get(
        &self,
        id: ContentId,
        in_table: Option<Location>,
    ) -> Result<Option<Location>, IndexError> {
        let mut newest = in_table;
        for run in self.used.iter().rev() {
            if newest.is_some() {
                break;
            }
            newest = run.get(id)?;
        }
        let mut harm = None;
        // As long as not all of their packs were read again, these may know of a newer place.
        for run in &self.aside {
            match run.get(id) {
                Ok(found) => newest = newest.into_iter().chain(found).max_by_key(|at| at.pack),
                Err(error) => harm = Some(error),
            }
        }
        match harm {
            Some(error) if newest.is_none() && !self.is_mended => Err(error),
            _ => Ok(newest),
        }
    }
}

impl<R: RunStore> Index<R> {
    /// Whether a run that is used is damaged, as far as anybody has come upon it.
    pub(in super::super) fn is_harmed(&self) -> bool {
        self.current().used.iter().any(|run| run.harm().is_some())
    }

    /// Takes the oldest run that is known to be damaged out of use, and all that are newer: next to the
    /// gap they would not be used when the index is opened, either. Their files are removed. They are
    /// still asked until [`Self::let_go`]; before that, all that their packs have is to be inserted, in
    /// the order of the packs, which can be flushed like others meanwhile. `None` when there is none.
    ///
    /// The place in the newest pack counts all the time, unless it is the one that is damaged.
    pub(in super::super) fn set_aside(&self) -> Option<SetAside> {
        let mut upkeep = self.upkeep();
        let current = self.current();
        let place = current.used.iter().position(|run| run.harm().is_some())?;
        let (used, aside) = current.used.split_at(place);
        let (oldest, newest) = (aside.first()?, aside.last()?);
        let why = oldest.harm().unwrap_or_default().to_owned();
        let set_aside = SetAside { first: oldest.info().first, last: newest.info().last, why };
        upkeep.unused.extend(aside.iter().map(|run| run.info().name()));
        if current.aside.is_empty() {
            self.asides.fetch_add(1, Ordering::AcqRel);
        }
        let aside = current.aside.iter().chain(aside).cloned().collect();
        self.ask(Asked { used: used.to_vec(), aside, is_mended: false });
        // What stays is removed before another one is written, or found damaged again.
        let _ = self.sweep(&mut upkeep);
        Some(set_aside)
    }

    /// Everything is inserted that could be read of the packs of the runs that were set aside. If it was
    /// not `all`, they still tell of what could not be read, as far as they can, and what they cannot
    /// tell counts as absent.
    pub(in super::super) fn let_go(&self, all: bool) {
        let upkeep = self.upkeep();
        let current = self.current();
        if current.aside.is_empty() {
            return;
        }
        let aside = if all { Runs::new() } else { current.aside.clone() };
        if all {
            // Before: who then finds them gone looks into the table once more.
            self.asides.fetch_add(1, Ordering::AcqRel);
        }
        self.ask(Asked { used: current.used.clone(), aside, is_mended: true });
        drop(upkeep);
    }
}
