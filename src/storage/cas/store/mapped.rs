//! Which sectors of a volume may be other than zeros.

use std::ops::{ControlFlow, Range};

use super::CasStore;
use crate::storage::cas::DiffRange;
use crate::storage::cas::error::{CasError, ReadError, Why};
use crate::storage::cas::node::Node;
use crate::storage::cas::tree::{NodePlace, NodeVisitor};
use crate::units::{Lba, SECTOR_SIZE, Sectors};

/// Blocks that are in a tree, in order, neighbours in one.
#[derive(Default)]
struct Mapped(Vec<Range<u64>>);

impl Mapped {
    fn add(&mut self, blocks: Range<u64>) {
        match self.0.last_mut().filter(|last| last.end == blocks.start) {
            Some(last) => last.end = blocks.end,
            None => self.0.push(blocks),
        }
    }
}

impl NodeVisitor<ReadError> for Mapped {
    fn node(&mut self, place: &NodePlace, node: &Node) -> ControlFlow<()> {
        if place.level == 0 {
            for (slot, _) in node.children() {
                let block = place.blocks.start + slot as u64;
                self.add(block..block + 1);
            }
        }
        ControlFlow::Continue(())
    }

    /// Nobody knows what is below it: it is not taken for zeros.
    fn unreadable(&mut self, place: &NodePlace, _: ReadError) -> ControlFlow<()> {
        self.add(place.blocks.clone());
        ControlFlow::Continue(())
    }
}

impl CasStore {
    /// The sectors of a volume, or of a snapshot of it, that are not known to be zeros, in order: those that
    /// were written, and those of which that cannot be told for damage.
    ///
    /// # Errors
    /// [`CasError::NoVolume`], [`CasError::NoSnapshot`], [`CasError::Unreadable`], and those of a commit.
    pub fn mapped(&self, volume: &str, snapshot: Option<&str>) -> Result<Vec<DiffRange>, CasError> {
        if snapshot.is_none() {
            self.commit()?;
        }
        let manifest = self.manifest()?;
        let (root, size) = manifest.state(volume, snapshot)?;
        let mut mapped = Mapped::default();
        // The visitor always wants more.
        if let Err(error) = root.walk_nodes(&self.0.shared.reader, &mut mapped) {
            let (path, why) = (self.0.path.clone(), Why::from(error).0);
            return Err(CasError::Unreadable { path, why });
        }
        let per_block = u64::from(manifest.block_bytes) / SECTOR_SIZE as u64;
        let sectors = mapped.0.into_iter().filter_map(|blocks| {
            // A tree has room for more than the volume.
            let (first, end) = (blocks.start * per_block, blocks.end.saturating_mul(per_block));
            let sectors = Sectors(end.min(size.0).checked_sub(first)?);
            (sectors.0 > 0).then_some(DiffRange { lba: Lba(first), sectors })
        });
        Ok(sectors.collect())
    }
}
