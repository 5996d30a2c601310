//! What the fuzz target `node` does with a node that could be parsed.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Cursor, NodePlace, NodeSource, NodeVisitor, TreeError};
use crate::storage::cas::id::{BlockNumber, ContentId, FrameKind, TreeRoot};
use crate::storage::cas::node::{DEPTH_MAX, Node, PLACES};

/// Has one node, which it gives for every name.
struct Everywhere(Arc<Node>);

impl NodeSource for Everywhere {
    type Error = TreeError;

    fn node(&self, _: ContentId, _: u8) -> Result<Arc<Node>, TreeError> {
        Ok(Arc::clone(&self.0))
    }
}

/// Counts nodes, and those that cannot be had.
#[derive(Default)]
struct Count {
    nodes: usize,
    unreadable: usize,
}

impl NodeVisitor<TreeError> for Count {
    fn node(&mut self, _: &NodePlace, _: &Node) -> ControlFlow<()> {
        self.nodes += 1;
        ControlFlow::Continue(())
    }

    fn unreadable(&mut self, _: &NodePlace, _: TreeError) -> ControlFlow<()> {
        self.unreadable += 1;
        ControlFlow::Continue(())
    }
}

/// A tree where a node comes up at the place of every other: only a leaf at the top can be right.
pub(in crate::storage::cas) fn fuzz(node: &Node) {
    let id = ContentId::of(FrameKind::Node, &node.emit());
    let source = Everywhere(Arc::new(node.clone()));
    for depth in 0..=DEPTH_MAX + 1 {
        let root = TreeRoot { node: Some(id), depth };
        let fits = depth == node.level() + 1;
        look_up(root, fits, node, &source);
        change(root, fits, node, &source);
        visit(root, fits, node, &source);
    }
}

fn look_up(root: TreeRoot, fits: bool, node: &Node, source: &Everywhere) {
    let mut cursor = Cursor::default();
    for place in 0..PLACES {
        let block = (place as u64).checked_shl(7 * u32::from(node.level())).map(BlockNumber);
        let block = block.expect("a level that there is");
        let found = root.lookup(block, source);
        assert_eq!(cursor.lookup(root, block, source), found);
        match node.child(place) {
            child if fits && node.level() == 0 => assert_eq!(found, Ok(child)),
            None if fits => assert_eq!(found, Ok(None)),
            _ => assert!(found.is_err(), "a node of another level is taken"),
        }
    }
}

fn change(root: TreeRoot, fits: bool, node: &Node, source: &Everywhere) {
    let mut emitted = Vec::new();
    let mut emit = |id, octets: Vec<u8>| emitted.push((id, octets));
    let new = ContentId([0x5a; 32]);
    let changed = root.update(&[], &[(BlockNumber(0), Some(new))], source, &mut emit);
    // What is missing at the first place can be made anew, whatever is at the others.
    let sound = fits && (node.level() == 0 || node.child(0).is_none());
    assert_eq!(changed.is_ok(), sound, "a node of another level is changed");
    if sound && node.child(0) != Some(new) {
        let nodes = emitted.iter().map(|(_, octets)| Node::parse(octets));
        let mut below = Some(new);
        for (level, (made, (id, _))) in (0..).zip(nodes.zip(&emitted)) {
            let made = made.expect("it was emitted");
            assert_eq!((made.level(), made.child(0)), (level, below));
            below = Some(*id);
        }
        assert_eq!(changed.map(|root| root.node), Ok(below));
        assert_eq!(emitted.len(), usize::from(root.depth));
    }
    if (1..=DEPTH_MAX).contains(&root.depth) {
        let everything = 0..u64::MAX;
        let cleared = root.update(&[everything], &[], source, &mut |_, _| {});
        assert_eq!(cleared, Ok(TreeRoot::empty(root.depth)));
    }
}

fn visit(root: TreeRoot, fits: bool, node: &Node, source: &Everywhere) {
    let children = node.children().count();
    let mut count = Count::default();
    let flow = root.walk_nodes(source, &mut count);
    if fits {
        let unreadable = if node.level() == 0 { 0 } else { children };
        assert_eq!((count.nodes, count.unreadable), (1, unreadable));
    } else {
        assert!(flow.is_err() || (count.nodes, count.unreadable) == (0, 1));
    }
    let mut blocks = 0;
    let walked = root.walk(0..u64::MAX, source, &mut |_, _| {
        blocks += 1;
        ControlFlow::Continue(())
    });
    let sound = fits && node.level() == 0;
    assert_eq!((walked.is_ok(), blocks), (sound, if sound { children } else { 0 }));
    let mut differing = 0;
    let compared = root.diff(TreeRoot::empty(1), source, &mut |_, _, _| {
        differing += 1;
        ControlFlow::Continue(())
    });
    assert_eq!((compared.is_ok(), differing), (sound, blocks));
}
