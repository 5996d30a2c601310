//! Every tree of every volume and snapshot, down to the names of blocks.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::super::frame::open_frame;
use super::super::index::{Index, Location};
use super::super::manifest::Manifest;
use super::super::node::{Node, blocks_below};
use super::super::orphan::Orphan;
use super::super::overlay::{SectorMask, mask, runs};
use super::super::reader::PackTable;
use super::super::runs::Runs;
use super::super::{ContentId, FrameKind};
use super::packs::PackStates;
use super::report::LostRange;
use crate::blob::{BlobId, BlobStore};
use crate::units::{Lba, SECTOR_SIZE, Sectors};

/// What tells where frames are.
pub(super) enum Places<'a> {
    Index(&'a Index<Runs>),
    /// By the packs themselves.
    Map(HashMap<ContentId, Location>),
}

/// What can be read of a store.
pub(super) struct Frames<'a> {
    pub(super) blobs: &'a dyn BlobStore,
    pub(super) packs: &'a PackTable,
    pub(super) states: &'a PackStates,
    pub(super) places: Places<'a>,
}

/// A frame that cannot be had, and the pack that it should be in.
struct Absent(Option<BlobId>);

impl Frames<'_> {
    /// Where a frame is that can be had.
    fn find(&self, id: ContentId) -> Result<(BlobId, Location), Absent> {
        let at = match &self.places {
            Places::Index(index) => index.get(id).ok().flatten(),
            Places::Map(places) => places.get(&id).copied(),
        };
        let at = at.ok_or(Absent(None))?;
        let pack = self.packs.get(at.pack).ok_or(Absent(None))?.id;
        if self.states.has(id, at) { Ok((pack, at)) } else { Err(Absent(Some(pack))) }
    }

    /// A node, or the one that an orphan stands for.
    fn node(&self, id: ContentId, level: u8) -> Result<Node, Absent> {
        let (pack, Location { place, .. }) = self.find(id)?;
        if let Some(orphan) = self.states.orphan(id) {
            return match self.parted(&orphan)? {
                Some(child) => self.node(child, level),
                None => Ok(Node::nothing(level)),
            };
        }
        let absent = || Absent(Some(pack));
        let mut octets = vec![0; place.len as usize];
        let read = self.blobs.get_range(pack, place.offset.into(), &mut octets);
        read.map_err(|_| absent())?;
        let octets = open_frame(&octets, FrameKind::Node, id).map_err(|_| absent())?;
        // Each is what was written; one that does not belong there was written wrongly.
        Node::parse(&octets).ok().filter(|node| node.level() == level).ok_or_else(absent)
    }

    /// Follows a block to all that it is in. If something of that is lost: which sectors it has all the
    /// same, and what is lost of the others.
    #[allow(clippy::type_complexity, reason = "what there is, and what there is not")]
    fn block(&self, id: ContentId) -> Result<(), (SectorMask, FrameKind, Option<BlobId>)> {
        let (mut valid, mut id) = (0, id);
        loop {
            self.find(id).map_err(|Absent(pack)| (valid, FrameKind::Block, pack))?;
            if let Some((more, base)) = self.states.patch(id) {
                (valid, id) = (valid | more, base);
                continue;
            }
            let Some(orphan) = self.states.orphan(id) else { return Ok(()) };
            let parted = self.parted(&orphan);
            match parted.map_err(|Absent(pack)| (valid, FrameKind::Node, pack))? {
                Some(child) => id = child,
                None => return Ok(()),
            }
        }
    }

    /// What an orphan stands for; `None` for zeros.
    fn parted(&self, orphan: &Orphan) -> Result<Option<ContentId>, Absent> {
        Ok(orphan.of(&self.node(orphan.parent, orphan.level)?))
    }
}

/// Sectors that are lost, what of them is, and in which pack.
type Lost = (Range<u64>, FrameKind, Option<BlobId>);

/// Goes through trees. What several of them share is read once, unless there is damage in it.
pub(super) struct TreeCheck<'a> {
    frames: Frames<'a>,
    /// Nodes below which everything can be had.
    whole: HashSet<ContentId>,
    /// Nodes below which something cannot.
    broken: HashSet<ContentId>,
    lost: Vec<Lost>,
    /// Sectors of a block.
    per_block: u64,
}

impl<'a> TreeCheck<'a> {
    pub(super) fn new(frames: Frames<'a>, block_bytes: u32) -> Self {
        let (whole, broken, lost) = (HashSet::new(), HashSet::new(), Vec::new());
        let per_block = u64::from(block_bytes) / SECTOR_SIZE as u64;
        Self { frames, whole, broken, lost, per_block }
    }

    /// Notes that blocks are lost.
    fn lose(&mut self, blocks: Range<u64>, kind: FrameKind, pack: Option<BlobId>) {
        let [start, end] =
            [blocks.start, blocks.end].map(|block| block.saturating_mul(self.per_block));
        self.lost.push((start..end, kind, pack));
    }

    /// Nodes that were read.
    pub(super) fn nodes(&self) -> u64 {
        (self.whole.len() + self.broken.len()) as u64
    }

    /// Looks at all trees of a manifest; `done` is told after each.
    pub(super) fn run(&mut self, manifest: &Manifest, done: &mut dyn FnMut()) -> Vec<LostRange> {
        let mut lost = Vec::new();
        let name = |number| {
            let volume = manifest.volumes.iter().find(|volume| volume.number == number);
            volume.map_or_else(String::new, |volume| volume.name.clone())
        };
        for volume in &manifest.volumes {
            let snapshots = manifest.snapshots.iter().filter(|s| s.volume == volume.number);
            let disks = std::iter::once((None, volume.root, volume.size))
                .chain(snapshots.map(|s| (Some(s.name.clone()), s.root, s.size)));
            for (snapshot, root, size) in disks {
                if let (Some(id), Some(level)) = (root.node, root.depth.checked_sub(1)) {
                    self.node(id, level, 0);
                }
                let found = std::mem::take(&mut self.lost);
                let ranges = merged(found, size);
                lost.extend(ranges.into_iter().map(|(lba, sectors, kind, pack)| LostRange {
                    volume: name(volume.number),
                    snapshot: snapshot.clone(),
                    lba,
                    sectors,
                    kind,
                    pack,
                }));
                done();
            }
        }
        lost
    }

    /// Looks at a node and what is below it, from block `first` on. Whether all of it can be had.
    fn node(&mut self, id: ContentId, level: u8, first: u64) -> bool {
        if self.whole.contains(&id) {
            return true;
        }
        let node = match self.frames.node(id, level) {
            Ok(node) => node,
            Err(Absent(pack)) => {
                let end = first.saturating_add(blocks_below(level));
                self.lose(first..end, FrameKind::Node, pack);
                return false;
            }
        };
        let mut whole = true;
        for (place, child) in node.children() {
            let place = place as u64;
            whole &= match level.checked_sub(1) {
                Some(below) => self.node(child, below, first + place * blocks_below(below)),
                None => self.block(child, first + place),
            };
        }
        let seen = if whole { &mut self.whole } else { &mut self.broken };
        seen.insert(id);
        whole
    }

    fn block(&mut self, id: ContentId, block: u64) -> bool {
        let all = mask(0, usize::try_from(self.per_block).unwrap_or(0));
        let Err((valid, kind, pack)) = self.frames.block(id) else { return true };
        let first = block * self.per_block;
        for run in runs(all & !valid) {
            let sectors = first + run.start as u64..first + run.end as u64;
            self.lost.push((sectors, kind, pack));
        }
        all & !valid == 0
    }
}

/// Those sectors that a disk has, those that touch and are lost alike as one range.
fn merged(lost: Vec<Lost>, size: Sectors) -> Vec<(Lba, Sectors, FrameKind, Option<BlobId>)> {
    let mut ranges: Vec<(Lba, Sectors, FrameKind, Option<BlobId>)> = Vec::new();
    for (sectors, kind, pack) in lost {
        let (start, end) = (sectors.start.min(size.0), sectors.end.min(size.0));
        if start == end {
            continue;
        }
        match ranges.last_mut() {
            Some((lba, sectors, last_kind, last_pack))
                if lba.0 + sectors.0 == start && (*last_kind, *last_pack) == (kind, pack) =>
            {
                sectors.0 = end - lba.0;
            }
            _ => ranges.push((Lba(start), Sectors(end - start), kind, pack)),
        }
    }
    ranges
}
