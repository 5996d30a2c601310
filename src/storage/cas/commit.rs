//! The thread that commits: it brings what was written from the overlays of volumes into their trees.
//!
//! # Invariants
//! * A root slot is written when everything that it names is durable, and never over the newest one.
//! * The journal gives up a write when a root slot is durable whose tree has it.
//! * A commit that fails changes nothing but for packs that are of use to the next one: what it took
//!   over stays an overlay, is read from there, and is still in the journal.
//! * After a root slot could not be written nobody knows which one holds: the store stops.

mod blocks;
mod edit;
mod mend;
mod nodes;
mod packs;
mod publish;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rtrb::{Consumer, Producer};

use self::blocks::{Chunk, Prepared, VolumeJob, prepare};
use self::edit::blocks_of;
use self::mend::Mender;
use self::packs::Packs;
pub(super) use self::packs::{OWN_PACK, PackSizes};
pub(super) use self::publish::LIST_LEN;
use super::error::{CasError, ReadError, chain};
use super::group::{GroupRequest, SegmentUse, Step};
use super::index::IndexError;
use super::manifest::Manifest;
use super::overlay::Generation;
use super::request::{Edit, Edited, Reply, Request};
use super::shared::{HandedOver, News, StoreShared, View, VolumeShared};
#[cfg(test)]
use super::simulation::{Bug, is_planted};
use super::tree::TreeError;
use super::{CommitSplit as Split, ContentId, VolumeNumber};
use crate::blob::BlobError;
use crate::clock::Instant;
use crate::storage::journal::{Medium, Reclaimer, Sequence};

/// How long after a commit that failed the next one is tried, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A front end that has not answered within this time may have nobody who drives it.
const ANSWERED_SOON: Duration = Duration::from_secs(1);
/// Somebody who has used a volume within this time is taken to be using it.
const ACTIVE_SECONDS: u64 = 10;
/// How often it is looked whether somebody does.
const SAMPLE: Duration = Duration::from_secs(1);

/// Why a commit cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("a frame or a list is too long")]
    TooLong,
    #[error("a thread cannot be started")]
    Thread(#[source] io::Error),
    #[error("a thread has panicked")]
    Panicked,
    /// Which root slot holds is not known: nothing can be done but to open the store again.
    #[error("a root slot cannot be written")]
    Root(#[source] io::Error),
}

impl Trouble {
    /// Whether it is the index that cannot tell.
    fn is_of_index(&self) -> bool {
        matches!(self, Self::Index(_) | Self::Read(ReadError::Index(_)))
    }
}

impl From<TreeError> for Trouble {
    fn from(error: TreeError) -> Self {
        Self::Read(error.into())
    }
}

/// The other end of a front end.
pub(super) struct Front {
    pub(super) handed_over: Consumer<HandedOver>,
    pub(super) news: Producer<News>,
    /// What the ring had no room for.
    backlog: VecDeque<News>,
    /// The last request that was answered.
    answered: u64,
}

/// A volume as this thread sees it.
pub(super) struct VolumeState {
    pub(super) shared: Arc<VolumeShared>,
    /// What was handed over and is not in the tree, the newest first.
    pub(super) pending: VecDeque<Arc<Generation>>,
    /// The last write that is in there or in the tree.
    pub(super) through: u64,
    pub(super) front: Option<Front>,
    /// The accesses that were counted last, and when they changed.
    seen: (u64, Option<Instant>),
}

impl VolumeState {
    pub(super) fn new(
        number: VolumeNumber,
        through: u64,
        pending: VecDeque<Arc<Generation>>,
    ) -> Self {
        let shared = Arc::new(VolumeShared::new(number, through, None));
        Self { shared, pending, through, front: None, seen: (0, None) }
    }

    /// Whether there is anything that its tree does not have.
    fn is_dirty(&self) -> bool {
        !self.pending.is_empty() || self.shared.written() > self.through
    }

    fn take_handed_over(&mut self) {
        while let Some(front) = &mut self.front
            && let Ok(handed) = front.handed_over.pop()
        {
            front.answered = handed.request;
            self.take(handed);
        }
    }

    fn take(&mut self, handed: HandedOver) {
        if let Some(generation) = handed.generation {
            self.pending.push_front(generation);
        }
        self.through = self.through.max(handed.through);
    }

    fn tell(&mut self, news: News) {
        if let Some(front) = &mut self.front {
            front.backlog.push_back(news);
        }
    }

    fn flush_news(&mut self) {
        let Some(front) = &mut self.front else { return };
        let mut any = false;
        while !front.news.is_full()
            && let Some(news) = front.backlog.pop_front()
        {
            any |= front.news.push(news).is_ok();
        }
        if any {
            self.shared.call();
        }
    }
}

/// A change that was asked for, and where its outcome goes.
type Asked = (Edit, Reply<Edited>);

/// What is being done.
enum Phase {
    Idle,
    /// Front ends were asked for their generations, each with the request that it has to answer.
    Freezing {
        asked: Vec<(VolumeNumber, u64)>,
        since: Instant,
    },
    /// Blocks are prepared and stored.
    Blocks(Vec<VolumeJob>),
    /// Trees, manifest and root slot are next.
    Finish(Vec<VolumeJob>),
}

/// What there is to know of what a store does, for whoever asks.
#[derive(Debug, Clone, Default)]
pub(super) struct CommitStatus {
    pub(super) manifest: Option<Arc<Manifest>>,
    pub(super) attached: Vec<VolumeNumber>,
    pub(super) commits: u64,
    pub(super) split: Split,
    pub(super) packs_put: u64,
    pub(super) octets_put: u64,
    /// Why the last commit failed, until one succeeds.
    pub(super) failing: Option<String>,
}

/// What the thread is made of.
pub(super) struct CommitParts<M> {
    pub(super) shared: Arc<StoreShared>,
    pub(super) manifest: Manifest,
    /// The manifest's own pack, which no list names yet, and others of that kind.
    pub(super) unlisted: Vec<super::manifest::PackEntry>,
    /// The first lists of packs of the manifest, which are full.
    pub(super) full_lists: usize,
    /// The first pack whose directory could not be read.
    pub(super) unread: Option<u32>,
    pub(super) manifest_id: ContentId,
    /// What the root slot says of the journal.
    pub(super) released: Sequence,
    pub(super) roots: M,
    pub(super) journal: JournalParts<M>,
    pub(super) volumes: BTreeMap<VolumeNumber, VolumeState>,
    pub(super) requests: Receiver<Request>,
    pub(super) requests_sender: Sender<Request>,
    pub(super) interval: Duration,
    pub(super) pack_sizes: PackSizes,
    /// Threads that prepare blocks; packs are put by threads of their own if this is not 0.
    pub(super) threads: usize,
    pub(super) status: Arc<Mutex<CommitStatus>>,
}

/// The journal, as the thread that makes room in it has it.
pub(super) struct JournalParts<M> {
    pub(super) reclaimer: Reclaimer<M>,
    pub(super) uses: Receiver<SegmentUse>,
    /// Of the segments that wait, the last write of each volume.
    pub(super) numbers: VecDeque<BTreeMap<VolumeNumber, u64>>,
    pub(super) id: crate::storage::journal::JournalId,
    pub(super) group: Sender<GroupRequest>,
}

/// Does all the commits of a store.
pub(super) struct Committer<M> {
    shared: Arc<StoreShared>,
    manifest: Manifest,
    manifest_id: ContentId,
    roots: M,
    journal: JournalParts<M>,
    volumes: BTreeMap<VolumeNumber, VolumeState>,
    requests: Receiver<Request>,
    requests_sender: Sender<Request>,
    packs: Packs,
    mender: Mender,
    interval: Duration,
    threads: usize,
    phase: Phase,
    /// Changes that were asked for: those that the present commit makes, and those that came later. It
    /// may lack what was acknowledged before these came.
    edits: (Vec<Asked>, Vec<Asked>),
    /// Who waits for a commit: those that the present one is for, and those that came later.
    waiting: (Vec<Reply<()>>, Vec<Reply<()>>),
    /// Generations that front ends may still be reading, to be used again.
    retiring: Vec<(VolumeNumber, Arc<Generation>)>,
    /// Snapshots that have front ends.
    exports: Vec<(VolumeNumber, String, Weak<()>)>,
    last_commit: Instant,
    last_sample: Instant,
    /// When a commit is tried again after one has failed.
    retry: Option<Instant>,
    /// How long to wait after the next one that fails.
    retry_wait: Duration,
    /// It is to end, and nothing comes into the journal after this.
    closing: Option<Sequence>,
    /// What the root slot says of the journal.
    released: Sequence,
    status: Arc<Mutex<CommitStatus>>,
    split: Split,
    commits: u64,
    failing: Option<String>,
}

impl<M: Medium> Committer<M> {
    pub(super) fn new(parts: CommitParts<M>, now: Instant) -> Self {
        let CommitParts { shared, manifest, unlisted, manifest_id, roots, journal, .. } = parts;
        let next_pack =
            unlisted.iter().map(|pack| pack.number + 1).fold(manifest.next_pack, u32::max);
        let mut packs = Packs::new(
            Arc::clone(&shared),
            manifest.store,
            manifest.layout,
            parts.pack_sizes,
            next_pack,
            parts.threads > 0,
        );
        packs.unlisted = unlisted;
        packs.full_lists = parts.full_lists;
        let committer = Self {
            shared,
            manifest,
            manifest_id,
            roots,
            journal,
            volumes: parts.volumes,
            requests: parts.requests,
            requests_sender: parts.requests_sender,
            packs,
            mender: Mender::new(parts.unread),
            interval: parts.interval,
            threads: parts.threads,
            phase: Phase::Idle,
            edits: (Vec::new(), Vec::new()),
            waiting: (Vec::new(), Vec::new()),
            retiring: Vec::new(),
            exports: Vec::new(),
            last_commit: now,
            last_sample: now,
            retry: None,
            retry_wait: RETRY.0,
            closing: None,
            released: parts.released,
            status: parts.status,
            split: Split::default(),
            commits: 0,
            failing: None,
        };
        committer.report();
        committer
    }

    /// Does what there is to do, a piece of a commit at a time.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        let mut busy = self.take_requests(now);
        for volume in self.volumes.values_mut() {
            volume.take_handed_over();
            volume.flush_news();
        }
        busy |= self.recycle();
        self.take_uses();
        self.sample(now);
        if self.shared.is_stopped() {
            self.give_up();
            return if self.closing.is_some() { Step::Ended } else { Step::Idle };
        }
        if self.mend(now) {
            return Step::Done;
        }
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle if self.wants_commit(now) => self.begin(now),
            Phase::Idle if self.closing.is_some() => return Step::Ended,
            Phase::Idle => {
                if self.shared.is_closing() {
                    self.shared.set_barren(true);
                    // It may have waited for whether what it passed on makes room.
                    self.shared.journal_bell.ring();
                }
                return if busy { Step::Done } else { Step::Idle };
            }
            Phase::Freezing { asked, since } => {
                if !self.is_frozen(&asked) {
                    if !self.shared.is_closing() {
                        if now.since(since) >= ANSWERED_SOON {
                            self.shared.set_barren(true);
                        }
                        self.phase = Phase::Freezing { asked, since };
                        return if busy { Step::Done } else { Step::Idle };
                    }
                    // Whoever drove them may be the one who waits for the end.
                    self.refuse();
                }
                self.shared.set_barren(false);
                self.phase = Phase::Blocks(self.jobs());
            }
            Phase::Blocks(mut jobs) => match self.store_some(&mut jobs) {
                Ok(true) => self.phase = Phase::Blocks(jobs),
                Ok(false) => self.phase = Phase::Finish(jobs),
                Err(trouble) => self.fail_or_mend(&trouble, now),
            },
            Phase::Finish(jobs) => match self.finish(&jobs, now) {
                Ok(()) => self.succeed(now),
                Err(trouble) => self.fail_or_mend(&trouble, now),
            },
        }
        Step::Done
    }

    /// When there is something to do at the latest, if nobody rings.
    pub(super) fn wake_at(&self, now: Instant) -> Instant {
        let soon = now.after(SAMPLE);
        let retries = !self.shared.is_stopped() && !self.shared.is_closing();
        match self.retry.filter(|_| retries) {
            Some(at) => at.min(soon),
            None if self.retiring.is_empty() => soon,
            None => now.after(Duration::from_millis(5)),
        }
    }

    /// Notes that the journal is not needed, when it is not, after [`Step::Ended`].
    ///
    /// # Errors
    /// When that could not be written.
    pub(super) fn close(mut self) -> io::Result<()> {
        match self.closing {
            Some(last) if self.is_clean() && self.released >= last => {
                self.journal.reclaimer.set_mark(self.manifest.commit);
                self.journal.reclaimer.close(last)
            }
            _ => Ok(()),
        }
    }

    /// Whether everything that was taken is in the trees.
    fn is_clean(&self) -> bool {
        !self.shared.is_stopped() && self.volumes.values().all(|volume| !volume.is_dirty())
    }

    /// Why the last commit failed, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        self.failing.clone()
    }

    /// Lets front ends that are still there know that nothing of theirs will be durable any more.
    pub(super) fn fail_fronts(&self) {
        for volume in self.volumes.values().filter(|volume| volume.front.is_some()) {
            volume.shared.fail();
        }
    }

    pub(super) fn shared(&self) -> &Arc<StoreShared> {
        &self.shared
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Of each volume, the last write that is in its tree or was taken over.
    pub(super) fn taken(&self) -> impl Iterator<Item = (VolumeNumber, u64)> {
        self.volumes.iter().map(|(number, volume)| (*number, volume.through))
    }

    /// The last write to a volume that was taken.
    #[cfg(test)]
    pub(super) fn last_write(&self, volume: VolumeNumber) -> Option<u64> {
        Some(self.volumes.get(&volume)?.shared.written())
    }

    /// Takes more of what was in the journal when the store was opened.
    pub(super) fn take_pending(&mut self, volumes: BTreeMap<VolumeNumber, VolumeState>) {
        for (number, more) in volumes {
            let Some(volume) = self.volumes.get_mut(&number) else { continue };
            for generation in more.pending.into_iter().rev() {
                volume.pending.push_front(generation);
            }
            volume.through = volume.through.max(more.through);
            volume.shared.set_written(volume.through);
        }
    }

    fn wants_commit(&self, now: Instant) -> bool {
        if self.retry.is_some_and(|at| now < at || self.shared.is_closing()) {
            return false;
        }
        let asked = !self.edits.1.is_empty() || !self.waiting.1.is_empty();
        let left_over = self.volumes.values().any(|volume| !volume.pending.is_empty());
        if asked || left_over {
            return true;
        }
        if let Some(last) = self.closing {
            // What a front end still has stays in the journal.
            return self.is_clean() && self.released < last;
        }
        if self.shared.is_closing() {
            return self.releasable(&self.manifest).0 > 0;
        }
        let reclaimer = &self.journal.reclaimer;
        let is_filling = reclaimer.waiting().len() * 2 >= reclaimer.geometry().segments as usize;
        if !self.volumes.values().any(VolumeState::is_dirty) {
            // Trees may have writes that the journal still has no room for, in segments that were
            // filled after the last commit: only another root lets it give those up.
            return is_filling && self.releasable(&self.manifest).0 > 0;
        }
        let budget = &self.shared.budget;
        self.shared.dirty.load(Ordering::Relaxed) >= self.shared.commit_bytes
            || is_filling
            || budget.used() * 2 > budget.limit()
            || now.since(self.last_commit) >= self.interval
    }

    /// Begins a commit: asks front ends for what they have.
    fn begin(&mut self, now: Instant) {
        self.retry = None;
        self.shared.set_barren(false);
        self.edits.0.append(&mut self.edits.1);
        self.waiting.0.append(&mut self.waiting.1);
        let mut asked = Vec::new();
        for (number, volume) in &self.volumes {
            // One that has nothing new need not be asked, nor waited for.
            let is_new = volume.shared.written() > volume.through;
            #[cfg(test)]
            let is_new = is_new && !is_planted(Bug::FrontsNotAsked);
            if volume.front.is_some() && is_new {
                asked.push((*number, volume.shared.ask()));
            }
        }
        self.phase = Phase::Freezing { asked, since: now };
    }

    fn is_frozen(&self, asked: &[(VolumeNumber, u64)]) -> bool {
        asked.iter().all(|(number, request)| {
            let front = self.volumes.get(number).and_then(|volume| volume.front.as_ref());
            // One that has gone has left everything here.
            front.is_none_or(|front| front.answered >= *request)
        })
    }

    fn jobs(&self) -> Vec<VolumeJob> {
        let job = |entry: &super::manifest::VolumeEntry| {
            let volume = self.volumes.get(&entry.number)?;
            #[allow(unused_mut, reason = "only the simulation makes the mistake")]
            let mut layers: Vec<_> = volume.pending.iter().cloned().collect();
            #[cfg(test)]
            if is_planted(Bug::CommittedOutOfOrder) {
                layers.reverse();
            }
            let base = View { root: entry.root, size: entry.size };
            let blocks = blocks_of(entry.size, self.manifest.block_bytes);
            (!layers.is_empty() || volume.through > entry.through)
                .then(|| VolumeJob::new(entry.number, layers, volume.through, base, blocks))
        };
        self.manifest.volumes.iter().filter_map(job).collect()
    }

    /// Stores some blocks; `false` when there are no more.
    fn store_some(&mut self, jobs: &mut [VolumeJob]) -> Result<bool, Trouble> {
        let block_bytes = self.shared.block_bytes;
        let Some(job) = jobs.iter_mut().find(|job| job.done < job.blocks.len()) else {
            return Ok(false);
        };
        let chunk = job.chunk(block_bytes);
        let (how, with_io) = ((block_bytes, self.threads), self.is_retry());
        let prepared = prepare(&self.shared.reader, job, chunk, how, with_io)?;
        let Chunk { prepared, orphans, split } = prepared;
        self.split.add(&split);
        job.orphans.extend(orphans);
        let started = crate::clock::now();
        for prepared in prepared {
            let id = match prepared {
                Prepared::Zeros => None,
                Prepared::Stored(id) => Some(id),
                Prepared::New { kind, id, codec, raw_len, payload } => {
                    self.packs.push_block(kind, id, codec, raw_len, &payload)?;
                    Some(id)
                }
            };
            job.changes.push((job.blocks[job.done], id));
            job.done += 1;
        }
        self.split.put += nanos_since(started);
        Ok(true)
    }

    /// Whether the last commit has failed. The next one does without what a disk fails to read: that it is
    /// not for a moment only is known by then.
    fn is_retry(&self) -> bool {
        self.failing.is_some()
    }

    /// Lets whoever waits for a commit know that there is none with all that was acknowledged.
    fn refuse(&mut self) {
        let path = || std::path::PathBuf::from(&self.shared.name);
        for (_, reply) in self.edits.0.drain(..).chain(self.edits.1.drain(..)) {
            let _ = reply.send(Err(CasError::Stopped { path: path() }));
        }
        for reply in self.waiting.0.drain(..).chain(self.waiting.1.drain(..)) {
            let _ = reply.send(Err(CasError::Stopped { path: path() }));
        }
    }

    /// Lets everything that waits know that it will not be.
    fn give_up(&mut self) {
        self.phase = Phase::Idle;
        self.refuse();
        for volume in self.volumes.values() {
            volume.shared.fail();
        }
    }

    fn fail(&mut self, trouble: &Trouble, now: Instant) {
        self.packs.abandon();
        let why = chain(trouble);
        let stopped = matches!(trouble, Trouble::Root(_))
            || matches!(trouble, Trouble::Blob(BlobError::Stopped { .. }));
        if stopped {
            self.shared.stop(&why);
            self.give_up();
            return;
        }
        self.shared.set_barren(true);
        self.retry = Some(now.after(self.retry_wait));
        self.retry_wait = (self.retry_wait * 2).min(RETRY.1);
        if self.failing.as_ref() != Some(&why) {
            log::error!(
                "archive {}: A COMMIT FAILED; what was acknowledged is in the journal, and it is tried \
                 again: {why}",
                self.shared.name
            );
        }
        let path = std::path::PathBuf::from(&self.shared.name);
        let error = || match trouble {
            Trouble::Blob(BlobError::NoSpace { .. }) => CasError::NoSpace { path: path.clone() },
            _ => CasError::CommitFailed { path: path.clone(), why: why.clone() },
        };
        for (_, reply) in self.edits.0.drain(..) {
            let _ = reply.send(Err(error()));
        }
        for reply in self.waiting.0.drain(..) {
            let _ = reply.send(Err(error()));
        }
        self.failing = Some(why);
        self.report();
    }

    fn succeed(&mut self, now: Instant) {
        self.shared.note_commit();
        self.last_commit = now;
        self.retry_wait = RETRY.0;
        self.commits += 1;
        if self.failing.take().is_some() {
            log::info!("archive {}: commits succeed again", self.shared.name);
        }
        // First: whoever hears of the commit may look at once.
        self.report();
        for reply in self.waiting.0.drain(..) {
            let _ = reply.send(Ok(()));
        }
    }

    /// Takes back generations that nobody reads any more, and their room.
    fn recycle(&mut self) -> bool {
        let mut any = false;
        let mut index = 0;
        while index < self.retiring.len() {
            if Arc::strong_count(&self.retiring[index].1) > 1 {
                index += 1;
                continue;
            }
            let (number, generation) = self.retiring.swap_remove(index);
            // Nobody can have taken another in between: only this one is left.
            let Ok(mut generation) = Arc::try_unwrap(generation) else { continue };
            generation.clear();
            any = true;
            if let Some(volume) = self.volumes.get_mut(&number) {
                volume.tell(News::Spare(Box::new(generation)));
                volume.flush_news();
            }
        }
        if any {
            // Others may have waited for that room, too.
            self.volumes.values().for_each(|volume| volume.shared.wake());
        }
        any
    }

    fn take_uses(&mut self) {
        for SegmentUse { segment, numbers } in self.journal.uses.try_iter() {
            self.journal.reclaimer.retire(segment);
            self.journal.numbers.push_back(numbers);
        }
    }

    /// Notes which volumes are being used.
    fn sample(&mut self, now: Instant) {
        if now.since(self.last_sample) < SAMPLE {
            return;
        }
        self.last_sample = now;
        for volume in self.volumes.values_mut() {
            let accesses = volume.shared.accesses();
            if accesses != volume.seen.0 {
                volume.seen = (accesses, Some(now));
            }
        }
    }

    /// Tells others how things are.
    fn report(&self) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let attached = self.volumes.iter().filter(|(_, volume)| volume.front.is_some());
        *status = CommitStatus {
            manifest: Some(Arc::new(self.manifest.clone())),
            attached: attached.map(|(number, _)| *number).collect(),
            commits: self.commits,
            split: self.split,
            packs_put: self.packs.counters.packs,
            octets_put: self.packs.counters.octets,
            failing: self.failing.clone(),
        };
    }
}

/// Nanoseconds since `start`.
fn nanos_since(start: Instant) -> u64 {
    u64::try_from(crate::clock::now().since(start).as_nanos()).unwrap_or(u64::MAX)
}
