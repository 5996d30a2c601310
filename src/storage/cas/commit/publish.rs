//! The end of a commit: trees, manifest and root slot; and what is asked of the thread.

use std::collections::VecDeque;
use std::sync::Arc;

use rtrb::RingBuffer;

use super::super::compress::compress;
use super::super::error::CasError;
use super::super::group::{Attached, GroupRequest};
use super::super::manifest::{FrameRef, Manifest, PackEntry, VolumeEntry};
use super::super::orphan::Orphan;
use super::super::request::{Attach, Edited, Request};
use super::super::root::RootSlot;
use super::super::shared::{News, View};
use super::super::volume::{CasVolume, FrontRings, ORDERS};
use super::super::{FrameKind, VolumeNumber};
use super::blocks::VolumeJob;
use super::edit::{EditMeans, Refused};
use super::nodes::CommitNodes;
use super::packs::OWN_PACK;
use super::{ACTIVE_SECONDS, Asked, Committer, Front, Trouble, VolumeState, nanos_since};
use crate::clock::{self, Instant};
use crate::protocol::ata::AtaText;
use crate::storage::DeviceInfo;
use crate::storage::journal::{Medium, Sequence};

/// Short lists of packs that a manifest names before they are written as one. These numbers are small in
/// tests, so that they are reached.
const LISTS: usize = if cfg!(test) { 5 } else { 64 };
/// Packs in a list that is full.
pub(in super::super) const LIST_LEN: usize = if cfg!(test) { 48 } else { 1 << 16 };
/// Packs in short lists from which on those are written anew: what that takes has to fit into a pack.
const SHORT_LISTED: usize = 4 * LIST_LEN;
/// Entries in memory from which on the index is written.
pub(super) const INDEX_ENTRIES: usize = if cfg!(test) { 100 } else { 1 << 18 };

impl<M: Medium> Committer<M> {
    /// Ends a commit whose blocks are stored.
    pub(super) fn finish(&mut self, jobs: &[VolumeJob], now: Instant) -> Result<(), Trouble> {
        let started = clock::now();
        self.packs.finish_data()?;
        self.split.put += nanos_since(started);
        let started = clock::now();
        let mut manifest = self.manifest.clone();
        manifest.commit += 1;
        manifest.parent = Some(self.manifest_id);
        let mut nodes = CommitNodes::new(Arc::clone(&self.shared), self.is_retry());
        for job in jobs {
            let mut emitted = Vec::new();
            let emit = &mut |id, octets| emitted.push((id, octets));
            let root = job.base.root.update(job.cleared.ranges(), &job.changes, &nodes, emit)?;
            nodes.take_in(emitted)?;
            if let Some(entry) = volume_mut(&mut manifest, job.number) {
                (entry.root, entry.through) = (root, job.through);
            }
        }
        let edits = std::mem::take(&mut self.edits.0);
        let outcomes = self.edit(&mut manifest, &edits, &mut nodes, now);
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(trouble) => {
                self.edits.0 = edits;
                return Err(trouble);
            }
        };
        self.split.tree += nanos_since(started);
        let started = clock::now();
        let orphans = jobs.iter().flat_map(|job| job.orphans.iter().copied());
        if let Err(trouble) = self.store(&mut manifest, &nodes, orphans) {
            self.edits.0 = edits;
            return Err(trouble);
        }
        self.split.publish += nanos_since(started);
        self.publish(manifest, jobs);
        // What was answered must not be undone by the loss of a root slot, and nobody know.
        self.trim(outcomes.iter().any(Result::is_ok));
        // Before anybody hears of it, and looks.
        self.report();
        for ((_, reply), outcome) in edits.into_iter().zip(outcomes) {
            let _ = reply.send(outcome.map_err(|error| *error)); // who asked may have gone
        }
        Ok(())
    }

    /// Makes the changes that were asked for, each if it can be.
    #[allow(clippy::type_complexity, reason = "the outcomes of edits, in their order")]
    fn edit(
        &self,
        manifest: &mut Manifest,
        edits: &[Asked],
        nodes: &mut CommitNodes,
        now: Instant,
    ) -> Result<Vec<Result<Edited, Box<CasError>>>, Trouble> {
        let state = |number: VolumeNumber| self.volumes.get(&number);
        let attached = |number| state(number).is_some_and(|volume| volume.front.is_some());
        let active = |number| {
            let volume = state(number)?;
            let (accesses, seen) = volume.seen;
            // What came since the last sample was just now.
            let recent =
                volume.shared.accesses() != accesses || now.since(seen?).as_secs() < ACTIVE_SECONDS;
            recent.then_some(ACTIVE_SECONDS)
        };
        let exported = |number, name: &str| {
            let is = |export: &&(VolumeNumber, String, std::sync::Weak<()>)| {
                (export.0, export.1.as_str()) == (number, name) && export.2.strong_count() > 0
            };
            self.exports.iter().find(is).is_some()
        };
        let mut outcomes = Vec::with_capacity(edits.len());
        for (edit, _) in edits {
            let before = manifest.clone();
            let mut means = EditMeans {
                nodes: &mut *nodes,
                attached: &attached,
                active: &active,
                exported: &exported,
            };
            match manifest.edit(edit, &mut means) {
                Ok(edited) => outcomes.push(Ok(edited)),
                Err(Refused::Edit(error)) => {
                    *manifest = before;
                    outcomes.push(Err(error));
                }
                Err(Refused::Trouble(trouble)) => return Err(trouble),
            }
        }
        Ok(outcomes)
    }

    /// Stores nodes and manifest, and at last the root slot.
    fn store(
        &mut self,
        manifest: &mut Manifest,
        nodes: &CommitNodes,
        orphans: impl Iterator<Item = Orphan>,
    ) -> Result<(), Trouble> {
        let mut payload = Vec::new();
        for block in &nodes.blocks {
            if !self.packs.has(block.id)? {
                let codec = compress(&block.raw, &mut payload);
                let raw_len = u32::try_from(block.raw.len()).map_err(|_| Trouble::TooLong)?;
                self.packs.push_block(block.kind, block.id, codec, raw_len, &payload)?;
            }
        }
        self.packs.finish_data()?;
        let tops = manifest.volumes.iter().filter_map(|volume| volume.root.node);
        for orphan in orphans.chain(nodes.orphans(tops)) {
            self.packs.push_node(FrameKind::Orphan, orphan.id(), &orphan.emit())?;
        }
        for (id, octets) in &nodes.new {
            self.packs.push_node(FrameKind::Node, *id, octets)?;
        }
        self.packs.finish_all_but_last()?;
        let full_lists = self.list_packs(manifest)?;
        manifest.next_pack = self.packs.next_pack + 1;
        let (place, own) = self.packs.put_manifest(&manifest.emit())?;
        let released = self.releasable(manifest).1;
        let slot = RootSlot {
            store: manifest.store,
            journal: self.journal.id,
            commit: manifest.commit,
            released,
            manifest: place,
            pack_number: own.number,
            pack_bytes: own.bytes,
        };
        let at = RootSlot::place(manifest.commit);
        self.roots.write_at(at, &slot.emit()).map_err(Trouble::Root)?;
        self.roots.sync().map_err(Trouble::Root)?;
        self.manifest_id = place.id;
        self.released = released;
        self.packs.unlisted = vec![own];
        self.packs.full_lists = full_lists;
        // The manifest's own pack has a name by now, for the next one to use.
        for list in &mut manifest.pack_lists {
            if list.pack == OWN_PACK {
                list.pack = own.id;
            }
        }
        Ok(())
    }

    /// Adds the packs that no manifest names yet; and when there are many short lists, all of those anew.
    /// Tells how many lists are full after that: the first ones, with the first packs.
    fn list_packs(&mut self, manifest: &mut Manifest) -> Result<usize, Trouble> {
        let full = self.packs.full_lists;
        let lists = manifest.pack_lists.len();
        let (packs, anew) = {
            let table = &self.shared.reader.packs;
            let table = table.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            // In the order of their numbers, which is the one in which they were listed.
            let short = table.iter().skip(full * LIST_LEN);
            let anew = lists - full >= LISTS || short.clone().count() >= SHORT_LISTED;
            let packs: Vec<PackEntry> =
                if anew { short.collect() } else { self.packs.unlisted.clone() };
            (packs, anew)
        };
        if anew {
            manifest.pack_lists.truncate(full);
        }
        for some in packs.chunks(LIST_LEN) {
            let list: FrameRef = self.packs.push_list(some)?;
            manifest.pack_lists.push(list);
        }
        // Or each commit would take longer than the one before.
        debug_assert!(manifest.pack_lists.len() - full <= LISTS + SHORT_LISTED / LIST_LEN);
        Ok(if anew { full + packs.len() / LIST_LEN } else { full })
    }

    /// Lets the front ends see what the root slot says now.
    fn publish(&mut self, manifest: Manifest, jobs: &[VolumeJob]) {
        self.manifest = manifest;
        for job in jobs {
            let Some(volume) = self.volumes.get_mut(&job.number) else { continue };
            let committed =
                |generation: &Arc<_>| job.layers.iter().any(|layer| Arc::ptr_eq(layer, generation));
            let (done, pending): (VecDeque<_>, VecDeque<_>) =
                volume.pending.drain(..).partition(committed);
            volume.pending = pending;
            self.retiring.extend(done.into_iter().map(|generation| (job.number, generation)));
        }
        for entry in &self.manifest.volumes {
            let volume = self
                .volumes
                .entry(entry.number)
                .or_insert_with(|| VolumeState::new(entry.number, entry.through, VecDeque::new()));
            let view = View { root: entry.root, size: entry.size };
            volume.tell(News::Published { view, through: entry.through });
            volume.flush_news();
        }
        let entries = &self.manifest.volumes;
        let gone =
            |number: &VolumeNumber, _: &mut _| entries.iter().all(|entry| entry.number != *number);
        for (number, volume) in self.volumes.extract_if(.., gone) {
            // What a front end has left meanwhile has to be given back, too.
            let left = volume.pending.into_iter();
            self.retiring.extend(left.map(|generation| (number, generation)));
        }
        self.exports.retain(|(_, _, export)| export.strong_count() > 0);
    }

    /// How many of the journal's segments are not needed beside `manifest`, and the last entry that is
    /// not.
    pub(super) fn releasable(&self, manifest: &Manifest) -> (usize, Sequence) {
        let through = |number: &VolumeNumber| {
            let entry = manifest.volumes.iter().find(|entry| entry.number == *number);
            // What was written to a volume that is gone is gone, too.
            entry.map_or(u64::MAX, |entry| entry.through)
        };
        let (journal, released) = (&self.journal, self.released);
        let done = journal
            .numbers
            .iter()
            .take_while(|numbers| numbers.iter().all(|(volume, last)| *last <= through(volume)))
            .count();
        let last = done.checked_sub(1).map(|place| journal.reclaimer.waiting()[place].last);
        let mut last = last.map_or(released, |last| last.max(released));
        // At the end, when everything has come in, and nothing is left.
        if let Some(end) = self.closing
            && self
                .volumes
                .iter()
                .all(|(number, volume)| volume.shared.written() <= through(number))
        {
            last = last.max(end);
        }
        (done, last)
    }

    /// Gives up what the journal need not have any more, and writes the index when it has grown. The
    /// journal is marked with the commit then, and also when that has `changed` what there is.
    fn trim(&mut self, changed: bool) {
        let (done, last) = self.releasable(&self.manifest);
        if done > 0 || changed {
            self.journal.reclaimer.set_mark(self.manifest.commit);
            match self.journal.reclaimer.release(last) {
                Ok(_) => {
                    self.journal.numbers.drain(..done);
                    self.shared.journal_bell.ring();
                }
                Err(error) => {
                    self.shared
                        .stop(&format!("the head of its journal cannot be written: {error}"));
                    return;
                }
            }
        }
        let in_memory = self.shared.reader.index.memtable_len();
        if in_memory >= INDEX_ENTRIES || self.closing.is_some() && in_memory > 0 {
            self.write_index();
        }
    }

    pub(super) fn take_requests(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Ok(request) = self.requests.try_recv() {
            any = true;
            match request {
                Request::Attach(attach, reply) => {
                    let attached = self.attach(attach, now);
                    let _ = reply.send(attached); // who asked may have gone
                }
                Request::AttachSnapshot { volume, snapshot, attach, reply } => {
                    let _ = reply.send(self.attach_snapshot(&volume, &snapshot, attach));
                }
                Request::Detach(number, handed) => {
                    if let Some(volume) = self.volumes.get_mut(&number) {
                        volume.take_handed_over();
                        volume.take(handed);
                        volume.front = None;
                    }
                    self.report();
                }
                Request::Edit(edit, reply) => self.edits.1.push((edit, reply)),
                Request::Commit(reply) => self.waiting.1.push(reply),
                Request::Close(last) => self.closing = Some(last),
            }
        }
        any
    }

    fn attach(&mut self, attach: Attach, now: Instant) -> Result<CasVolume, CasError> {
        let name = attach.volume;
        let entry = self.manifest.volume(&name);
        let entry = entry.ok_or_else(|| CasError::NoVolume { name: name.clone() })?;
        let view = View { root: entry.root, size: entry.size };
        let number = entry.number;
        let state = self
            .volumes
            .entry(number)
            .or_insert_with(|| VolumeState::new(number, entry.through, VecDeque::new()));
        if state.front.is_some() {
            return Err(CasError::VolumeInUse { name });
        }
        let info = DeviceInfo {
            size: view.size,
            serial: attach.serial.unwrap_or_else(|| serial(&self.manifest, &name)),
            model: AtaText::new("aoe-server archive"),
            read_only: attach.read_only,
            discard: true,
        };
        let shared = Arc::new(state.shared.succeeded(state.through, attach.waker.clone()));
        let (orders, ordered) = RingBuffer::new(ORDERS);
        let (handing_over, handed_over) = RingBuffer::new(4);
        let (news, told) = RingBuffer::new(8);
        let taken = state.through;
        let attached = Attached { shared: Arc::clone(&shared), orders: ordered, taken };
        let path = || std::path::PathBuf::from(&self.shared.name);
        let sent = self.journal.group.send(GroupRequest::Attach(attached));
        sent.map_err(|_| CasError::Stopped { path: path() })?;
        self.shared.journal_bell.ring();
        state.shared = Arc::clone(&shared);
        state.seen = (0, None);
        let answered = shared.wanted();
        state.front = Some(Front { handed_over, news, backlog: VecDeque::new(), answered });
        let pending = state.pending.clone();
        let requests = self.requests_sender.clone();
        let rings = FrontRings { orders, handed_over: handing_over, news: told, requests };
        let fetches = self.shared.reader.pool.link(&name, attach.waker);
        let store = Arc::clone(&self.shared);
        self.report();
        let _ = now;
        Ok(CasVolume::new(store, shared, info, view, pending, rings, fetches))
    }

    fn attach_snapshot(
        &mut self,
        volume: &str,
        name: &str,
        attach: Attach,
    ) -> Result<CasVolume, CasError> {
        let snapshot = self.manifest.snapshot(volume, name)?;
        let view = View { root: snapshot.root, size: snapshot.size };
        let info = DeviceInfo {
            size: view.size,
            serial: attach
                .serial
                .unwrap_or_else(|| serial(&self.manifest, &format!("{volume}@{name}"))),
            model: AtaText::new("aoe-server archive"),
            read_only: true,
            discard: false,
        };
        let used = Arc::new(());
        self.exports.push((snapshot.volume, name.to_owned(), Arc::downgrade(&used)));
        let disk = format!("{volume}@{name}");
        let fetches = self.shared.reader.pool.link(&disk, attach.waker);
        Ok(CasVolume::of_snapshot(Arc::clone(&self.shared), info, view, used, fetches))
    }
}

fn volume_mut(manifest: &mut Manifest, number: VolumeNumber) -> Option<&mut VolumeEntry> {
    manifest.volumes.iter_mut().find(|entry| entry.number == number)
}

/// A serial number that lasts as long as the disk is what it is.
fn serial(manifest: &Manifest, name: &str) -> AtaText<20> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&manifest.store.0);
    hasher.update(name.as_bytes());
    AtaText::new(&hasher.finalize().to_hex()[..16])
}
