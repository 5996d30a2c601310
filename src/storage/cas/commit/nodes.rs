//! What a commit makes of trees: new nodes, and a few blocks.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::error::ReadError;
use super::super::node::Node;
use super::super::orphan::{Orphan, StandIns};
use super::super::overlay::mask;
use super::super::patch::{Patch, base_of, sectors_of};
use super::super::shared::StoreShared;
use super::super::tree::NodeSource;
use super::super::{ContentId, FrameKind};
use crate::units::SECTOR_SIZE;

/// A block that a change has made.
pub(super) struct MadeBlock {
    pub(super) kind: FrameKind,
    pub(super) id: ContentId,
    /// What is stored of it.
    pub(super) raw: Vec<u8>,
    /// What will be read, whole or in part.
    read: Vec<u8>,
    /// What other sectors are in.
    base: Option<ContentId>,
}

/// Nodes that are stored, and those that a commit has made. Where one is lost another stands in for it.
pub(super) struct CommitNodes {
    shared: Arc<StoreShared>,
    made: HashMap<ContentId, Arc<Node>>,
    /// In the order they were made, with their octets.
    pub(super) new: Vec<(ContentId, Vec<u8>)>,
    /// Blocks that changes have made.
    pub(super) blocks: Vec<MadeBlock>,
    stand_ins: StandIns,
}

impl CommitNodes {
    /// Where others stand in for nodes that a disk fails to read, too, if `with_io`.
    pub(super) fn new(shared: Arc<StoreShared>, with_io: bool) -> Self {
        let (made, new, blocks) = (HashMap::new(), Vec::new(), Vec::new());
        Self { shared, made, new, blocks, stand_ins: StandIns::new(with_io) }
    }

    /// Takes nodes that an operation on a tree has handed out.
    pub(super) fn take_in(&mut self, emitted: Vec<(ContentId, Vec<u8>)>) -> Result<(), ReadError> {
        for (id, octets) in emitted {
            if self.made.contains_key(&id) {
                continue;
            }
            let node = Node::parse(&octets).map_err(|source| ReadError::Node { id, source })?;
            self.made.insert(id, Arc::new(node));
            self.new.push((id, octets));
        }
        Ok(())
    }

    /// The orphans that the new nodes and blocks name, and those that are at the `tops` of trees.
    pub(super) fn orphans(&self, tops: impl Iterator<Item = ContentId>) -> Vec<Orphan> {
        let nodes = self.new.iter().filter_map(|(id, _)| self.made.get(id));
        let children = nodes.flat_map(|node| node.children().map(|(_, child)| child));
        let bases = self.blocks.iter().filter_map(|block| block.base);
        self.stand_ins.needed(children.chain(bases).chain(tops))
    }

    /// The name of a block of which all octets after the first `keep` are zeros; `None` if all are. What
    /// cannot be read of the others is still what it was.
    pub(super) fn cut_block(
        &mut self,
        id: ContentId,
        keep: usize,
    ) -> Result<Option<ContentId>, ReadError> {
        let block_bytes = self.shared.block_bytes;
        // It may be one that a change before this one has cut.
        let made = self.blocks.iter().find(|made| made.id == id);
        let mut octets = match made {
            Some(made) => made.read.clone(),
            None => match self.shared.reader.block(id) {
                Ok(block) => block.to_vec(),
                Err(error) if self.stand_ins.can_do_without(&error) => {
                    Patch { base: id, valid: 0, octets: vec![0; block_bytes] }.in_part()
                }
                Err(error) => return Err(error),
            },
        };
        let all = mask(0, block_bytes / SECTOR_SIZE);
        let kept = mask(0, keep / SECTOR_SIZE);
        let valid = sectors_of(&octets, block_bytes) | all & !kept;
        let base = base_of(&octets, block_bytes).filter(|_| valid != all);
        octets.truncate(block_bytes);
        octets[keep..].fill(0);
        let (kind, raw, read) = match base {
            Some(base) => {
                let patch = Patch { base, valid, octets };
                (FrameKind::Patch, patch.emit(), patch.in_part())
            }
            None if octets.iter().all(|octet| *octet == 0) => return Ok(None),
            None => (FrameKind::Block, octets.clone(), octets),
        };
        let id = ContentId::of(kind, &raw);
        self.blocks.push(MadeBlock { kind, id, raw, read, base });
        Ok(Some(id))
    }
}

impl NodeSource for CommitNodes {
    type Error = ReadError;

    fn node(&self, id: ContentId, level: u8) -> Result<Arc<Node>, ReadError> {
        match self.made.get(&id) {
            Some(node) => Ok(Arc::clone(node)),
            None => self.stand_ins.node(&self.shared.reader, id, level),
        }
    }
}
