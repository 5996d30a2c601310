//! Packs on their way to where they are kept.
//!
//! # Invariants
//! * A frame is in the index only when its pack is durable.
//! * Every pack that is durable is on the list of those that the next manifest has to name, even if
//!   the commit that it was written for fails.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};

use super::super::compress::{Codec, compress};
use super::super::index::Location;
use super::super::manifest::{FrameRef, Layout, PackEntry, emit_pack_list};
use super::super::pack::{FramePlace, PackBuilder, PackKind};
use super::super::reader::Reader;
use super::super::shared::StoreShared;
use super::super::{ContentId, FrameKind, StoreId};
use super::Trouble;
use crate::blob::{Blob, BlobError, BlobId, BlobStore};

/// Octets of a pack of blocks: what restic takes, and what one request to an object store brings well.
/// In tests packs are small, so that commits fill several.
const DATA_PACK: usize = if cfg!(test) { 48 << 10 } else { 16 << 20 };
/// Octets of a pack of nodes.
const META_PACK: usize = if cfg!(test) { 8 << 10 } else { 4 << 20 };
/// Packs that are being put while others are filled.
const UNDER_WAY: usize = 2;
/// The most octets that packs take together: those that are being put, and one of each kind that is
/// being filled.
const PACKS_BYTES: u64 = (UNDER_WAY as u64 + 1) * (DATA_PACK + META_PACK) as u64;

/// The longest packs that a store makes, in octets.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct PackSizes {
    data: usize,
    meta: usize,
}

impl PackSizes {
    /// Of packs that take no more than half of `bytes` of memory, and what they leave of those.
    pub(in super::super) fn within(bytes: u64) -> (Self, u64) {
        let packs = PACKS_BYTES.min(bytes / 2);
        let part = |most: usize| {
            // No longer than `most`.
            #[allow(clippy::cast_possible_truncation)]
            let part = (most as u64 * packs / PACKS_BYTES) as usize;
            part
        };
        (Self { data: part(DATA_PACK), meta: part(META_PACK) }, bytes - packs)
    }
}

/// Packs of one block each that are put together, unless they have as many octets as a pack of many.
const LOOSE_GROUP: usize = if cfg!(test) { 4 } else { 128 };

/// In a manifest, the name of the pack that it is in itself, which nobody can know before.
pub(in super::super) const OWN_PACK: BlobId = BlobId([0; 32]);

/// A pack that is finished.
struct Sealed {
    octets: Vec<u8>,
    kind: PackKind,
    frames: Vec<(ContentId, FramePlace)>,
}

/// Packs of one kind: one that is being filled, and memory for those to come.
struct Filling {
    kind: PackKind,
    builder: PackBuilder,
    frames: Vec<(ContentId, FramePlace)>,
    /// Of packs that are durable. It is kept, since what large buffers leave behind in the allocator
    /// others do not fill.
    spare: Vec<Vec<u8>>,
}

impl Filling {
    /// `capacity` octets are what a pack usually has.
    fn new(store: StoreId, kind: PackKind, capacity: usize) -> Self {
        let builder = PackBuilder::new(store, kind, capacity);
        Self { kind, builder, frames: Vec::new(), spare: Vec::new() }
    }

    fn push(
        &mut self,
        kind: FrameKind,
        id: ContentId,
        codec: Codec,
        raw_len: u32,
        payload: &[u8],
    ) -> FramePlace {
        let place = self.builder.push(kind, id, codec, raw_len, payload);
        self.frames.push((id, place));
        place
    }

    fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// Octets of the pack with one more frame, with `payload` octets.
    fn len_with(&self, payload: usize) -> usize {
        self.builder.len_with(payload)
    }

    /// Finishes the pack and begins another.
    fn seal(&mut self) -> Sealed {
        let octets = self.builder.finish(self.spare.pop().unwrap_or_default());
        Sealed { octets, kind: self.kind, frames: std::mem::take(&mut self.frames) }
    }

    /// Keeps the memory of a pack for another.
    fn recycle(&mut self, octets: Vec<u8>) {
        if self.spare.len() < UNDER_WAY {
            self.spare.push(octets);
        }
    }

    /// Begins anew.
    fn abandon(&mut self) {
        if !self.is_empty() {
            let sealed = self.seal();
            self.recycle(sealed.octets);
        }
    }
}

/// What became of packs that were put: their names, or why not, and they themselves.
type PutResult = (Result<Vec<BlobId>, BlobError>, Vec<Sealed>);

/// What putting took, for the figures of a commit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PutCounters {
    pub(super) packs: u64,
    pub(super) octets: u64,
}

/// Fills packs and puts them.
pub(super) struct Packs {
    shared: Arc<StoreShared>,
    layout: Layout,
    sizes: PackSizes,
    /// Threads put, rather than this one.
    threaded: bool,
    data: Filling,
    meta: Filling,
    /// Names that are in packs which are not in the index yet.
    fresh: HashSet<ContentId>,
    loose: Vec<Sealed>,
    under_way: Vec<JoinHandle<PutResult>>,
    /// The number of the next pack.
    pub(super) next_pack: u32,
    /// Packs that are durable, and that no manifest names yet.
    pub(super) unlisted: Vec<PackEntry>,
    /// Lists that are full, and are never written again: the first ones of the manifest.
    pub(super) full_lists: usize,
    pub(super) counters: PutCounters,
}

impl Packs {
    pub(super) fn new(
        shared: Arc<StoreShared>,
        store: StoreId,
        layout: Layout,
        sizes: PackSizes,
        next_pack: u32,
        threaded: bool,
    ) -> Self {
        // All of a pack's memory at once: what grows leaves holes behind. Pages count when they are
        // written to.
        let data = if layout == Layout::Packed { sizes.data } else { 0 };
        Self {
            shared,
            layout,
            sizes,
            threaded,
            data: Filling::new(store, PackKind::Data, data),
            meta: Filling::new(store, PackKind::Meta, sizes.meta),
            fresh: HashSet::new(),
            loose: Vec::new(),
            under_way: Vec::new(),
            next_pack,
            unlisted: Vec::new(),
            full_lists: 0,
            counters: PutCounters::default(),
        }
    }

    fn reader(&self) -> &Reader {
        &self.shared.reader
    }

    /// Whether a frame is stored, or on its way.
    pub(super) fn has(&self, id: ContentId) -> Result<bool, Trouble> {
        Ok(self.fresh.contains(&id) || self.reader().is_stored(id)?)
    }

    /// Adds a block, or a patch, unless it is stored.
    pub(super) fn push_block(
        &mut self,
        kind: FrameKind,
        id: ContentId,
        codec: Codec,
        raw_len: u32,
        payload: &[u8],
    ) -> Result<(), Trouble> {
        // Since it was prepared one just like it may have become durable.
        if self.has(id)? {
            return Ok(());
        }
        self.fresh.insert(id);
        let full = match self.layout {
            Layout::Packed => self.data.len_with(payload.len()) > self.sizes.data,
            Layout::Loose => true,
        };
        if full && !self.data.is_empty() {
            self.seal_data()?;
        }
        self.data.push(kind, id, codec, raw_len, payload);
        Ok(())
    }

    /// Adds a node, or an orphan, unless it is stored.
    pub(super) fn push_node(
        &mut self,
        kind: FrameKind,
        id: ContentId,
        octets: &[u8],
    ) -> Result<(), Trouble> {
        if self.has(id)? {
            return Ok(());
        }
        self.fresh.insert(id);
        self.push_meta(kind, id, octets)?;
        Ok(())
    }

    /// Adds a frame to the present pack of nodes and the like, or begins another if that is full.
    fn push_meta(&mut self, kind: FrameKind, id: ContentId, octets: &[u8]) -> Result<(), Trouble> {
        if !self.meta.is_empty() && self.meta.len_with(octets.len()) > self.sizes.meta {
            self.seal_meta()?;
        }
        self.push_here(kind, id, octets)?;
        Ok(())
    }

    /// Adds a frame to the present pack, however long that gets.
    fn push_here(
        &mut self,
        kind: FrameKind,
        id: ContentId,
        octets: &[u8],
    ) -> Result<FramePlace, Trouble> {
        let mut payload = Vec::new();
        let codec = compress(octets, &mut payload);
        let raw_len = u32::try_from(octets.len()).map_err(|_| Trouble::TooLong)?;
        Ok(self.meta.push(kind, id, codec, raw_len, &payload))
    }

    /// Makes all blocks durable.
    pub(super) fn finish_data(&mut self) -> Result<(), Trouble> {
        if !self.data.is_empty() {
            self.seal_data()?;
        }
        let loose = std::mem::take(&mut self.loose);
        if !loose.is_empty() {
            self.put(loose)?;
        }
        self.wait(0)
    }

    /// Makes everything durable but the nodes in the present pack, which the manifest shares with
    /// them. From here on all packs but that one are known.
    pub(super) fn finish_all_but_last(&mut self) -> Result<(), Trouble> {
        if self.meta.len_with(0) > self.sizes.meta / 2 {
            self.seal_meta()?;
        }
        self.wait(0)
    }

    /// Adds a part of the list of packs to the pack that the manifest will be in.
    pub(super) fn push_list(&mut self, packs: &[PackEntry]) -> Result<FrameRef, Trouble> {
        let octets = emit_pack_list(packs);
        let id = ContentId::of(FrameKind::PackList, &octets);
        let place = self.push_here(FrameKind::PackList, id, &octets)?;
        Ok(FrameRef { pack: OWN_PACK, place, id })
    }

    /// Stores the manifest and the nodes that share its pack, and tells where it is.
    pub(super) fn put_manifest(&mut self, octets: &[u8]) -> Result<(FrameRef, PackEntry), Trouble> {
        let id = ContentId::of(FrameKind::Manifest, octets);
        let place = self.push_here(FrameKind::Manifest, id, octets)?;
        self.seal_meta()?;
        self.wait(0)?;
        let entry = *self.unlisted.last().ok_or(Trouble::TooLong)?;
        Ok((FrameRef { pack: entry.id, place, id }, entry))
    }

    fn seal_data(&mut self) -> Result<(), Trouble> {
        if self.layout == Layout::Packed {
            // The next one is filled in the memory of one that is durable.
            self.wait(UNDER_WAY - 1)?;
            let sealed = self.data.seal();
            return self.put(vec![sealed]);
        }
        self.loose.push(self.data.seal());
        let octets: usize = self.loose.iter().map(|sealed| sealed.octets.len()).sum();
        if self.loose.len() < LOOSE_GROUP && octets < self.sizes.data {
            return Ok(());
        }
        let loose = std::mem::take(&mut self.loose);
        self.put(loose)
    }

    fn seal_meta(&mut self) -> Result<(), Trouble> {
        self.wait(UNDER_WAY - 1)?;
        let sealed = self.meta.seal();
        self.put(vec![sealed])
    }

    fn put(&mut self, sealed: Vec<Sealed>) -> Result<(), Trouble> {
        let blobs = Arc::clone(&self.reader().blobs);
        if !self.threaded {
            let result = put_all(&*blobs, sealed);
            return self.take_in(result);
        }
        self.wait(UNDER_WAY - 1)?;
        let put = thread::Builder::new()
            .name("archive-put".into())
            .spawn(move || put_all(&*blobs, sealed))
            .map_err(Trouble::Thread)?;
        self.under_way.push(put);
        Ok(())
    }

    /// Waits until no more than `left` puts are under way.
    fn wait(&mut self, left: usize) -> Result<(), Trouble> {
        let mut trouble = None;
        while self.under_way.len() > left || (trouble.is_some() && !self.under_way.is_empty()) {
            let put = self.under_way.remove(0);
            let result = put.join().map_err(|_| Trouble::Panicked);
            if let Err(error) = result.and_then(|result| self.take_in(result)) {
                trouble.get_or_insert(error);
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    /// Takes in that packs are durable, or why they are not.
    fn take_in(&mut self, (result, sealed): PutResult) -> Result<(), Trouble> {
        let ids = result?;
        for (id, Sealed { octets, kind, frames }) in ids.into_iter().zip(sealed) {
            let bytes = u32::try_from(octets.len()).map_err(|_| Trouble::TooLong)?;
            let entry = PackEntry { number: self.next_pack, id, bytes, kind };
            self.next_pack += 1;
            self.counters.packs += 1;
            self.counters.octets += u64::from(bytes);
            // The index must not name a pack that nobody knows.
            let reader = &self.shared.reader;
            reader.packs.write().unwrap_or_else(PoisonError::into_inner).insert(entry);
            reader.trust.rely_on(entry.number);
            let located = |(id, place): &(ContentId, FramePlace)| {
                (*id, Location { pack: entry.number, place: *place })
            };
            reader.index.insert_many(frames.iter().map(located));
            for (id, _) in &frames {
                self.fresh.remove(id);
            }
            self.unlisted.push(entry);
            match kind {
                PackKind::Data => self.data.recycle(octets),
                PackKind::Meta => self.meta.recycle(octets),
            }
        }
        Ok(())
    }

    /// Forgets what is not durable, after a commit has failed.
    pub(super) fn abandon(&mut self) {
        // What was under way may have become durable; it is good for the next try then.
        let _ = self.wait(0);
        self.data.abandon();
        self.meta.abandon();
        self.loose.clear();
        self.fresh.clear();
    }
}

fn put_all(blobs: &dyn BlobStore, sealed: Vec<Sealed>) -> PutResult {
    let named: Vec<Blob<'_>> = sealed.iter().map(|sealed| Blob::new(&sealed.octets)).collect();
    let ids = named.iter().map(Blob::id).collect();
    let put = match named.as_slice() {
        [one] => blobs.put(one).map(drop),
        several => blobs.put_many(several).map(drop),
    };
    (put.map(|()| ids), sealed)
}
