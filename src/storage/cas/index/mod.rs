//! The index: which pack a frame is in, and where.
//!
//! New entries go into a table in memory; now and then it is written down as a *run*, sorted by key
//! and never changed. A lookup asks the table and then the runs, from the newest to the oldest. Runs
//! are merged, so that there are few.
//!
//! All of this can also be read from the directories of the packs. So the index promises little: it
//! may be lost or thrown away as a whole or in part, and is not synced when something is inserted. A
//! run says which packs it covers; what those without a gap from pack 0 on cover need not be read from
//! the packs again, and all the rest has to be.
//!
//! # Invariants
//! * A lookup tells a place that was inserted for that key, or that there is none, or that it cannot
//!   tell. Damage is never taken for absence, nor for another place.
//! * A run has its name only once all of it is durable, and everything that its packs have was
//!   inserted before.
//! * Runs that another one replaces are removed after that one is durable. So of two runs that cover
//!   one pack, the one that covers more has everything that the other has.
//! * A run that is not used is removed before the next one is written: none comes to be used by
//!   what is written next to it.
//! * Of a run that is found damaged while it is used, what its packs have is inserted again. Until all
//!   of it is, the run is asked as well, and so are those that are newer.
//! * No lock is held while something is read or written that may be on a disk, but for the one that
//!   keeps a second thread from writing runs.
//!
//! Whoever uses it must see to it that a pack number never means two packs. After the store has gone
//! back to an older state, [`Index::covered`] may be beyond the packs that there are: then the index
//! has to be made anew.

mod builder;
mod error;
mod format;
mod fuzz;
mod map;
mod memtable;
mod mend;
mod merge;
mod run;
mod store;

#[cfg(test)]
mod figures;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::id::FramePlace;
use super::{ContentId, StoreId};
use builder::RunBuilder;
use format::Entry;
use memtable::Tables;
use merge::{MergeError, due, merge};
use run::{Run, parse_name, run_name};

pub(super) use error::IndexError;
pub use fuzz::fuzz;
#[cfg(test)]
pub(super) use memory::MemRuns;
pub(super) use mend::SetAside;
pub(super) use store::{FileRuns, RunFile, RunStore, RunWriter};

/// Entries that are inserted while the table is locked.
const INSERTED: usize = 256;

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Location {
    /// The number of the pack.
    pub(super) pack: u32,
    pub(super) place: FramePlace,
}

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunInfo {
    /// The first pack that it covers.
    pub(super) first: u32,
    /// The last one.
    pub(super) last: u32,
    pub(super) entries: u64,
    /// Its length.
    pub(super) bytes: u64,
}

/// An index, and what was found wrong with its runs.
#[derive(Debug)]
pub(super) struct Opened<R: RunStore> {
    pub(super) index: Index<R>,
    /// Why runs are not used, each error with the file's name. If packs are not covered because of
    /// them, they have to be read. The files stay until the next run is written.
    pub(super) unusable: Vec<IndexError>,
}

/// Runs, from the oldest to the newest.
type Runs<F> = Vec<Arc<Run<F>>>;

/// All runs that are asked for keys.
#[derive(Debug)]
struct Asked<F> {
    /// Those that are used. Each covers the packs after those of the one before it.
    used: Runs<F>,
    /// Those that were set aside: what their packs have is being inserted again.
    aside: Runs<F>,
    /// Everything is inserted that could be read of those packs.
    is_mended: bool,
}

/// Where frames are, by their names. Threads share it.
#[derive(Debug)]
pub(super) struct Index<R: RunStore> {
    store: StoreId,
    files: R,
    tables: RwLock<Tables>,
    runs: RwLock<Arc<Asked<R::File>>>,
    /// How often runs were set aside or let go: odd while there are any.
    asides: AtomicU32,
    /// Held by whoever writes or removes runs.
    upkeep: Mutex<Upkeep>,
}

/// What the one who writes and removes runs has to know.
#[derive(Debug)]
struct Upkeep {
    /// Files that are not used, to be removed before another one is written.
    unused: BTreeSet<String>,
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// The packs that a run covers if this is its name, finished or not.
fn covered_by_name(name: &str) -> Option<(u32, u32)> {
    parse_name(name.strip_suffix(store::UNFINISHED).unwrap_or(name))
}

impl<R: RunStore> Index<R> {
    /// Opens what there is. Packs after [`Self::covered`] are to be inserted from their directories.
    ///
    /// # Errors
    /// When runs cannot be listed, or one was written by a program that knows more or for another
    /// store. Damaged ones are no error.
    pub(super) fn open(files: R, store: StoreId) -> Result<Opened<R>, IndexError> {
        let names = Self::names(&files)?;
        let mut unused: BTreeSet<String> = names.iter().cloned().collect();
        let mut sound = Vec::new();
        let mut unusable = Vec::new();
        for name in names {
            let Some(packs) = parse_name(&name) else { continue };
            match Self::open_run(&files, store, packs) {
                Ok(run) => sound.push(run),
                Err(error) if error.is_refusal() => return Err(error),
                Err(error) => unusable.push(error),
            }
        }
        // Of those that start with one pack, the one that has the others in it comes first.
        sound.sort_by_key(|run| (run.info().first, u32::MAX - run.info().last));
        let mut runs = Runs::new();
        for run in sound {
            let next =
                runs.last().map_or(Some(0), |run: &Arc<Run<_>>| run.info().last.checked_add(1));
            if next == Some(run.info().first) {
                unused.remove(&run.info().name());
                runs.push(Arc::new(run));
            }
        }
        let index = Self::new(files, store, runs, unused);
        Ok(Opened { index, unusable })
    }

    /// Makes an empty index. Whatever runs there were are removed, even those of other stores and
    /// of other versions. Indexes that have opened them can go on reading them.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub(super) fn create(files: R, store: StoreId) -> Result<Self, IndexError> {
        let index = Self::new(files, store, Runs::new(), BTreeSet::new());
        index.clear()?;
        Ok(index)
    }

    fn new(files: R, store: StoreId, runs: Runs<R::File>, unused: BTreeSet<String>) -> Self {
        Self {
            store,
            files,
            tables: RwLock::default(),
            runs: RwLock::new(Arc::new(Asked::of(runs))),
            asides: AtomicU32::new(0),
            upkeep: Mutex::new(Upkeep { unused }),
        }
    }

    /// Names of runs, finished or not. Others are none of ours.
    fn names(files: &R) -> Result<Vec<String>, IndexError> {
        let mut names = files.list().map_err(|source| {
            let path = files.path("");
            IndexError::Io { op: "list", path, source }
        })?;
        names.retain(|name| covered_by_name(name).is_some());
        Ok(names)
    }

    fn open_run(files: &R, store: StoreId, packs: (u32, u32)) -> Result<Run<R::File>, IndexError> {
        let name = run_name(packs);
        let path = files.path(&name);
        match files.open(&name) {
            Ok(file) => Run::open(file, path, store, packs),
            Err(source) => Err(IndexError::Io { op: "open", path, source }),
        }
    }

    fn failed(&self, op: &'static str, name: &str, source: io::Error) -> IndexError {
        IndexError::Io { op, path: self.files.path(name), source }
    }

    fn upkeep(&self) -> MutexGuard<'_, Upkeep> {
        self.upkeep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runs as they are now.
    fn current(&self) -> Arc<Asked<R::File>> {
        Arc::clone(&read(&self.runs))
    }

    /// Where the frame of this name is; `None` when no pack that was inserted has it. Of several
    /// places it is the one in the newest pack.
    ///
    /// # Errors
    /// When a run is damaged or cannot be read, so that there is no telling.
    pub(super) fn get(&self, id: ContentId) -> Result<Option<Location>, IndexError> {
        loop {
            let asides = self.asides.load(Ordering::Acquire);
            // In this order: what leaves the table is in a run before.
            let in_table = read(&self.tables).get(id);
            let found = if in_table.is_some() && asides.is_multiple_of(2) {
                Ok(in_table)
            } else {
                self.current().get(id, in_table)
            };
            // What is let go with a run that was set aside has come into the table before, but perhaps
            // after this has looked there; and what is in the table may be older than what was set aside.
            if self.asides.load(Ordering::Acquire) == asides {
                return found;
            }
        }
    }

    /// Takes entries into the table. They are not durable. Entries of packs that are covered already
    /// are taken as well, as if they belonged to the packs that are covered next.
    pub(super) fn insert_many(&self, entries: impl IntoIterator<Item = (ContentId, Location)>) {
        let entries = entries.into_iter().map(|(id, location)| Entry { id, location });
        let mut entries = entries.fuse();
        let mut some = Vec::with_capacity(INSERTED);
        loop {
            // What the caller's iterator does takes no lock.
            some.extend(entries.by_ref().take(INSERTED));
            if some.is_empty() {
                return;
            }
            let mut tables = write(&self.tables);
            some.drain(..).for_each(|entry| tables.insert(entry));
        }
    }

    /// Keys that are in memory only.
    pub(super) fn memtable_len(&self) -> usize {
        read(&self.tables).len()
    }

    /// Bytes of memory that the index takes, without what the system keeps of its files.
    pub(super) fn bytes(&self) -> usize {
        let runs = self.current();
        let runs: usize = runs.used.iter().chain(&runs.aside).map(|run| run.memory_bytes()).sum();
        read(&self.tables).bytes() + runs
    }

    /// The last pack that runs cover: they have everything that is in it and in those before it.
    pub(super) fn covered(&self) -> Option<u32> {
        read(&self.runs).used.last().map(|run| run.info().last)
    }

    /// The runs, from the oldest to the newest.
    pub(super) fn runs(&self) -> Vec<RunInfo> {
        self.current().used.iter().map(|run| run.info()).collect()
    }

    /// Writes down what there is of packs up to `through`, of which everything has to be inserted, and
    /// which have to be durable; then merges runs where that is due, which may take as long as copying
    /// all of them does. Meanwhile entries can be looked up and inserted. Does nothing when the packs
    /// are covered.
    ///
    /// # Errors
    /// When a run cannot be written, or one that is to be merged is damaged. Nothing is lost from
    /// memory then, and [`Self::covered`] tells how far it has come.
    pub(super) fn flush(&self, through: u32) -> Result<(), IndexError> {
        let mut upkeep = self.upkeep();
        let first = self.covered().map_or(Some(0), |covered| covered.checked_add(1));
        let Some(first) = first.filter(|first| *first <= through) else { return Ok(()) };
        self.sweep(&mut upkeep)?;
        let frozen = write(&self.tables).freeze(through);
        let written = self.write_run(&mut upkeep, (first, through), frozen.len() as u64, |into| {
            let mut entries = frozen.sorted().into_iter();
            entries.try_for_each(|entry| into.push(&entry)).map_err(MergeError::Write)
        });
        // Nobody else has the table then, and putting it back takes no time.
        drop(frozen);
        match written {
            Ok(run) => {
                self.replace(self.current().used.len(), run);
                let written = write(&self.tables).drop_frozen();
                drop(written);
            }
            Err(error) => {
                write(&self.tables).thaw();
                return Err(error);
            }
        }
        let entries: Vec<u64> = self.runs().iter().map(|run| run.entries).collect();
        match due(&entries) {
            Some(from) => self.merge(&mut upkeep, from, &|_| true),
            None => Ok(()),
        }
    }

    /// Makes all runs one, and leaves out what is in packs that are not to be kept. What is in memory
    /// only stays as it is.
    ///
    /// # Errors
    /// When the run cannot be written, or one of them is damaged; then they are as they were.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is for the collection of garbage"))]
    pub(super) fn compact(&self, keep: &dyn Fn(u32) -> bool) -> Result<(), IndexError> {
        let mut upkeep = self.upkeep();
        if self.covered().is_none() {
            return Ok(());
        }
        self.sweep(&mut upkeep)?;
        self.merge(&mut upkeep, 0, keep)
    }

    /// Forgets everything, and removes all runs. While it is filled again, frames that are there are
    /// not found: who serves meanwhile has [`Self::create`] make another one.
    ///
    /// # Errors
    /// When runs cannot be removed. Those that are left are not used, and removed before the next one
    /// is written.
    pub(super) fn clear(&self) -> Result<(), IndexError> {
        let mut upkeep = self.upkeep();
        let tables = mem::take(&mut *write(&self.tables));
        let runs = mem::replace(&mut *write(&self.runs), Arc::new(Asked::of(Runs::new())));
        if !runs.aside.is_empty() {
            self.asides.fetch_add(1, Ordering::AcqRel);
        }
        drop((tables, runs));
        upkeep.unused.extend(Self::names(&self.files)?);
        self.sweep(&mut upkeep)
    }

    /// Reads everything that runs have, and tells what is wrong with each that is damaged.
    pub(super) fn verify(&self) -> Vec<IndexError> {
        self.current().used.iter().filter_map(|run| run.verify().err()).collect()
    }

    /// Shows every entry of every run to `visit`, those that a newer run overrides as well; tells
    /// what is wrong with runs that are damaged, of which it shows what comes before the damage.
    pub(super) fn for_each(&self, visit: &mut dyn FnMut(ContentId, Location)) -> Vec<IndexError> {
        let read = |run: &Arc<Run<R::File>>| {
            let mut cursor = run.cursor();
            while let Some(Entry { id, location }) = cursor.next()? {
                visit(id, location);
            }
            Ok(())
        };
        self.current().used.iter().map(read).filter_map(Result::err).collect()
    }

    /// Removes files that are not used.
    fn sweep(&self, upkeep: &mut Upkeep) -> Result<(), IndexError> {
        // First those without which no other would be used, so that no part of what is removed is
        // taken for something after power loss.
        for is_start in [true, false] {
            let starts = |name: &&String| {
                covered_by_name(name).is_some_and(|(first, _)| (first == 0) == is_start)
            };
            let names: Vec<String> = upkeep.unused.iter().filter(starts).cloned().collect();
            if names.is_empty() {
                continue;
            }
            for name in &names {
                let removed = self.files.remove(name);
                removed.map_err(|source| self.failed("remove", name, source))?;
            }
            self.files.sync_names().map_err(|source| self.failed("sync", "", source))?;
            upkeep.unused.retain(|name| !names.contains(name));
        }
        Ok(())
    }

    /// Writes a run that covers `packs`, of at most `entries_max` entries, with `fill`.
    fn write_run(
        &self,
        upkeep: &mut Upkeep,
        packs: (u32, u32),
        entries_max: u64,
        fill: impl FnOnce(&mut RunBuilder<R::Writer>) -> Result<(), MergeError>,
    ) -> Result<Run<R::File>, IndexError> {
        let name = run_name(packs);
        let failed = |source| self.failed("write", &name, source);
        let writer = self.files.create(&name).map_err(failed)?;
        let mut builder =
            RunBuilder::new(writer, self.store, packs, entries_max).map_err(failed)?;
        fill(&mut builder).map_err(|error| match error {
            MergeError::Read(error) => error,
            MergeError::Write(source) => failed(source),
        })?;
        let published = builder.publish().map_err(failed);
        let written = published.and_then(|()| Self::open_run(&self.files, self.store, packs));
        // It may have its name, and is not used; unless it has the name of one that is.
        if written.is_err() && !self.runs().iter().any(|run| run.name() == name) {
            upkeep.unused.insert(name);
        }
        written
    }

    /// Puts `run` in the place of all runs from the one at `from` on.
    fn replace(&self, from: usize, run: Run<R::File>) {
        let current = self.current();
        let mut used = current.used[..from].to_vec();
        used.push(Arc::new(run));
        self.ask(Asked { used, aside: current.aside.clone(), ..*current });
    }

    /// Has these runs asked from now on.
    fn ask(&self, asked: Asked<R::File>) {
        let replaced = mem::replace(&mut *write(&self.runs), Arc::new(asked));
        drop(replaced);
    }

    /// Merges all runs from the one at `from` on.
    fn merge(
        &self,
        upkeep: &mut Upkeep,
        from: usize,
        keep: &dyn Fn(u32) -> bool,
    ) -> Result<(), IndexError> {
        let current = self.current();
        let merged: Vec<&Run<R::File>> = current.used[from..].iter().map(|run| &**run).collect();
        let infos: Vec<RunInfo> = merged.iter().map(|run| run.info()).collect();
        let (Some(first), Some(last)) = (infos.first(), infos.last()) else { return Ok(()) };
        let entries_max = infos.iter().map(|info| info.entries).sum();
        let packs = (first.first, last.last);
        let run = self.write_run(upkeep, packs, entries_max, |into| merge(&merged, into, keep))?;
        let name = run.info().name();
        self.replace(from, run);
        // Those that power loss brings back are seen to be replaced.
        for replaced in infos.iter().map(RunInfo::name).filter(|replaced| *replaced != name) {
            if self.files.remove(&replaced).is_err() {
                upkeep.unused.insert(replaced);
            }
        }
        Ok(())
    }
}

impl RunInfo {
    fn name(&self) -> String {
        run_name((self.first, self.last))
    }
}
