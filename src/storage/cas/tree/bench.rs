//! What `benches/cas_tree.rs` measures: a tree with all its nodes in memory.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::{Cursor, NodeMemory, NodeSource, Peek, TreeError};
use crate::storage::cas::id::{BlockNumber, ContentId, TreeRoot};
use crate::storage::cas::node::Node;

/// A tree in which no block is zeros.
#[doc(hidden)]
#[derive(Debug)]
pub struct TreeBench {
    nodes: Nodes,
    root: TreeRoot,
    cursor: Cursor,
}

/// Names are hashes already.
#[derive(Default)]
struct FirstOctets(u64);

impl Hasher for FirstOctets {
    fn write(&mut self, octets: &[u8]) {
        // The length comes first, as eight octets; then the name.
        if let Some(octets) = octets.first_chunk() {
            self.0 = u64::from_le_bytes(*octets);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Debug)]
struct Nodes(HashMap<ContentId, Arc<Node>, BuildHasherDefault<FirstOctets>>);

impl NodeMemory for Nodes {
    fn cached(&self, id: ContentId, _: u8) -> Option<Arc<Node>> {
        self.0.get(&id).cloned()
    }
}

/// A node is not there, or something is wrong with the tree.
#[derive(Debug)]
struct Lost;

impl From<TreeError> for Lost {
    fn from(_: TreeError) -> Self {
        Self
    }
}

impl NodeSource for Nodes {
    type Error = Lost;

    fn node(&self, id: ContentId, level: u8) -> Result<Arc<Node>, Lost> {
        self.cached(id, level).ok_or(Lost)
    }
}

/// A name for whatever is written: not a hash, which is not what is measured.
fn content(number: u64) -> ContentId {
    let mut id = [0x5a; 32];
    id[..8].copy_from_slice(&number.to_le_bytes());
    ContentId(id)
}

impl TreeBench {
    /// A tree of so many `blocks`.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(blocks: u64) -> Self {
        let changes: Vec<_> = (0..blocks).map(|n| (BlockNumber(n), Some(content(n)))).collect();
        let mut nodes = HashMap::default();
        let emit = &mut |id, octets: Vec<u8>| {
            nodes.insert(id, Arc::new(Node::parse(&octets).expect("it was just emitted")));
        };
        let empty = TreeRoot::empty(TreeRoot::depth_for(blocks));
        let root = empty.update(&[], &changes, &Nodes(HashMap::default()), emit);
        let root = root.expect("nothing had to be read");
        assert!(root.node.is_some(), "a tree of nothing");
        Self { nodes: Nodes(nodes), root, cursor: Cursor::default() }
    }

    /// The name of `block`, as the poll loop looks it up; `None` if it is not what was written.
    pub fn peek(&mut self, block: u64) -> Option<ContentId> {
        match self.cursor.peek(self.root, BlockNumber(block), &self.nodes) {
            Ok(Peek::Found(found)) => found,
            _ => None,
        }
    }

    /// The same without remembering the last way.
    pub fn lookup(&self, block: u64) -> Option<ContentId> {
        self.root.lookup(BlockNumber(block), &self.nodes).ok().flatten()
    }

    /// Writes something new to `blocks`, which are in order, and leaves the tree as it is. How many
    /// nodes, and octets of nodes, have to be stored for that.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn update(&self, blocks: &[u64], salt: u64) -> (u64, u64) {
        let new = |block: &u64| (BlockNumber(*block), Some(content(block ^ salt << 32)));
        let changes: Vec<_> = blocks.iter().map(new).collect();
        let (mut nodes, mut octets) = (0, 0);
        let emit = &mut |_, node: Vec<u8>| {
            nodes += 1;
            octets += node.len() as u64;
        };
        let root = self.root.update(&[], &changes, &self.nodes, emit);
        assert_ne!(root.expect("all nodes are there"), self.root);
        (nodes, octets)
    }

    /// Compares it with the tree of zeros: how many blocks differ.
    ///
    /// # Panics
    /// If a node is not there.
    pub fn differing(&self) -> u64 {
        let mut count = 0;
        let visit = &mut |_, _, _| {
            count += 1;
            std::ops::ControlFlow::Continue(())
        };
        let flow = self.root.diff(TreeRoot::empty(1), &self.nodes, visit);
        assert!(flow.expect("all nodes are there").is_continue());
        count
    }
}
