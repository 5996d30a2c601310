//! Trees beside a map that does the same.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{ControlFlow, Range};
use std::slice::from_ref;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::storage::cas::id::FrameKind;

const ON: ControlFlow<()> = ControlFlow::Continue(());

/// Why a node cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Absent(ContentId),
    Tree(TreeError),
}

impl From<TreeError> for Fault {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

/// Nodes in memory; counts how often one is asked for.
#[derive(Default)]
struct Nodes {
    known: RefCell<HashMap<ContentId, Arc<Node>>>,
    asked: Cell<usize>,
    /// How many were put.
    put: Cell<usize>,
}

impl NodeSource for Nodes {
    type Error = Fault;

    fn node(&self, id: ContentId, level: u8) -> Result<Arc<Node>, Fault> {
        self.cached(id, level).ok_or(Fault::Absent(id))
    }
}

impl NodeMemory for Nodes {
    fn cached(&self, id: ContentId, _: u8) -> Option<Arc<Node>> {
        self.asked.set(self.asked.get() + 1);
        self.known.borrow().get(&id).cloned()
    }
}

impl Nodes {
    fn take(&self, id: ContentId, octets: &[u8]) {
        assert_eq!(ContentId::of(FrameKind::Node, octets), id);
        self.put.set(self.put.get() + 1);
        let node = Node::parse(octets).unwrap();
        if node.level() > 0 {
            // Those below it came first.
            let nodes = self.known.borrow();
            let below = |(_, child)| nodes.get(&child).map(|node: &Arc<Node>| node.level());
            assert!(node.children().all(|child| below(child) == Some(node.level() - 1)));
        }
        self.known.borrow_mut().insert(id, Arc::new(node));
    }

    fn update(&self, root: TreeRoot, cleared: &[Range<u64>], changes: &[Change]) -> TreeRoot {
        let mut emit = |id, octets: Vec<u8>| self.take(id, &octets);
        root.update(cleared, changes, self, &mut emit).unwrap()
    }

    fn truncate(&self, root: TreeRoot, blocks: u64) -> TreeRoot {
        root.truncate(blocks, self, &mut |id, octets| self.take(id, &octets)).unwrap()
    }

    fn deepen(&self, root: TreeRoot, depth: u8) -> TreeRoot {
        root.deepen(depth, &mut |id, octets| self.take(id, &octets))
    }

    fn walk(&self, root: TreeRoot, blocks: Range<u64>) -> Vec<(u64, ContentId)> {
        let mut found = Vec::new();
        let mut visit = |block: BlockNumber, id| {
            found.push((block.0, id));
            ON
        };
        assert_eq!(root.walk(blocks, self, &mut visit), Ok(ON));
        found
    }

    fn diff(&self, one: TreeRoot, other: TreeRoot) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut visit = |block: BlockNumber, here, there| {
            found.push((block.0, here, there));
            ON
        };
        assert_eq!(one.diff(other, self, &mut visit), Ok(ON));
        found
    }

    /// How many nodes are asked for in `work`, and how many put.
    fn cost<T>(&self, work: impl FnOnce() -> T) -> (T, usize, usize) {
        let (asked, put) = (self.asked.get(), self.put.get());
        let done = work();
        (done, self.asked.get() - asked, self.put.get() - put)
    }
}

type Change = (BlockNumber, Option<ContentId>);
type Difference = (u64, Option<ContentId>, Option<ContentId>);
type Model = BTreeMap<u64, ContentId>;

/// One of few contents, so that equal nodes come up.
fn content(number: u64) -> ContentId {
    ContentId::of(FrameKind::Block, &number.to_le_bytes())
}

fn differences(one: &Model, other: &Model) -> Vec<Difference> {
    let mut blocks: Vec<_> = one.keys().chain(other.keys()).copied().collect();
    blocks.sort_unstable();
    blocks.dedup();
    let both = |block| (block, one.get(&block).copied(), other.get(&block).copied());
    blocks.into_iter().map(both).filter(|(_, here, there)| here != there).collect()
}

/// The tree of `model`, made at once.
fn grown(nodes: &Nodes, model: &Model, depth: u8) -> TreeRoot {
    let changes: Vec<_> =
        model.iter().map(|(block, id)| (BlockNumber(*block), Some(*id))).collect();
    nodes.update(TreeRoot::empty(depth), &[], &changes)
}

/// What is done to a disk.
#[derive(Debug, Clone)]
enum Step {
    Update { cleared: Vec<Range<u64>>, changes: BTreeMap<u64, Option<u64>> },
    Resize(u64),
}

/// Blocks near each other, and near the edges of nodes of every level.
fn block() -> impl Strategy<Value = u64> {
    let edge = |level: u8| {
        let size = 1_u64 << (7 * level);
        (0..4_u64, -3_i64..3).prop_map(move |(count, off)| {
            (count * size).saturating_add_signed(off).min((1 << 63) - 1)
        })
    };
    prop_oneof![4 => 0..600_u64, 2 => edge(1), 2 => edge(2), 1 => edge(3), 1 => edge(4)]
}

fn step() -> impl Strategy<Value = Step> {
    let cleared = prop::collection::vec((block(), block()), 0..4).prop_map(|pairs| {
        let mut ends: Vec<_> = pairs.into_iter().flat_map(|(one, other)| [one, other]).collect();
        ends.sort_unstable();
        ends.chunks(2).map(|ends| ends[0]..ends[1]).collect::<Vec<_>>()
    });
    let change = prop_oneof![1 => Just(None), 4 => (0..5_u64).prop_map(Some)];
    let changes = prop::collection::btree_map(block(), change, 0..40);
    prop_oneof![
        5 => (cleared, changes).prop_map(|(cleared, changes)| Step::Update { cleared, changes }),
        1 => block().prop_map(|blocks| Step::Resize(blocks + 1)),
    ]
}

/// A tree, the map beside it, and how many blocks both have.
struct Disk {
    nodes: Nodes,
    root: TreeRoot,
    model: Model,
    blocks: u64,
    cursor: Cursor,
}

impl Disk {
    fn new(blocks: u64) -> Self {
        Self {
            nodes: Nodes::default(),
            root: TreeRoot::empty(TreeRoot::depth_for(blocks)),
            model: Model::new(),
            blocks,
            cursor: Cursor::default(),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Update { cleared, changes } => {
                self.model.retain(|block, _| !cleared.iter().any(|range| range.contains(block)));
                let changes: Vec<_> = changes
                    .into_iter()
                    .filter(|(block, _)| *block < self.blocks)
                    .map(|(block, number)| (BlockNumber(block), number.map(content)))
                    .collect();
                for (block, id) in &changes {
                    match id {
                        Some(id) => self.model.insert(block.0, *id),
                        None => self.model.remove(&block.0),
                    };
                }
                self.root = self.nodes.update(self.root, &cleared, &changes);
            }
            Step::Resize(blocks) => {
                self.model.retain(|block, _| *block < blocks);
                self.root = self.nodes.truncate(self.root, blocks);
                self.root = self.nodes.deepen(self.root, TreeRoot::depth_for(blocks));
                assert_eq!(self.root.depth, TreeRoot::depth_for(blocks));
                self.blocks = blocks;
            }
        }
    }

    fn check(&mut self) {
        let all: Vec<_> = self.model.iter().map(|(block, id)| (*block, *id)).collect();
        assert_eq!(self.nodes.walk(self.root, 0..u64::MAX), all);
        assert_eq!(grown(&self.nodes, &self.model, self.root.depth), self.root, "not canonical");
        let near = |block: &u64| [block.saturating_sub(1), *block, block + 1];
        let room = self.root.capacity().unwrap();
        for block in self.model.keys().flat_map(near).filter(|block| *block < room) {
            let wanted = self.model.get(&block).copied();
            let block = BlockNumber(block);
            assert_eq!(self.root.lookup(block, &self.nodes), Ok(wanted));
            assert_eq!(self.cursor.lookup(self.root, block, &self.nodes), Ok(wanted));
            assert_eq!(self.cursor.peek(self.root, block, &self.nodes), Ok(Peek::Found(wanted)));
        }
    }
}

proptest! {
    #[test]
    fn a_tree_does_what_a_map_does(
        blocks in block(),
        steps in prop::collection::vec(step(), 1..12),
        range in (block(), block()),
    ) {
        let mut disk = Disk::new(blocks + 1);
        let mut past = vec![(disk.root, disk.model.clone())];
        for step in steps {
            disk.take(step);
            disk.check();
            past.push((disk.root, disk.model.clone()));
        }
        for (root, model) in &past {
            let found = disk.nodes.diff(*root, disk.root);
            prop_assert_eq!(found, differences(model, &disk.model));
            let found = disk.nodes.diff(disk.root, *root);
            prop_assert_eq!(found, differences(&disk.model, model));
            let all: Vec<_> = model.iter().map(|(block, id)| (*block, *id)).collect();
            prop_assert_eq!(disk.nodes.walk(*root, 0..u64::MAX), all, "an old root changed");
        }
        let range = range.0.min(range.1)..range.0.max(range.1);
        let part: Vec<_> = disk.model.range(range.clone()).map(|(at, id)| (*at, *id)).collect();
        prop_assert_eq!(disk.nodes.walk(disk.root, range), part);
    }
}

/// Blocks of 16 KiB: 4 TiB, which is a full tree of four levels.
const HUGE: u64 = 1 << 28;

/// A disk of [`HUGE`] with a block in every node of level 1, and some of the leaves next to the ends
/// of what will be cleared.
fn scattered() -> (Nodes, TreeRoot) {
    let nodes = Nodes::default();
    let mut model: Model = (0..1 << 14).map(|n| ((n << 14) + 77, content(n))).collect();
    model.extend([(HUGE / 4 - 1, content(1)), (HUGE / 4 * 3 + 6, content(2))]);
    let root = grown(&nodes, &model, 4);
    (nodes, root)
}

#[test]
fn clearing_two_tebibytes_takes_the_nodes_on_the_edges() {
    let (nodes, root) = scattered();
    assert!(nodes.put.get() > 32_000);
    let middle = HUGE / 4 + 5..HUGE / 4 * 3 + 5;
    let clear = || nodes.update(root, from_ref(&middle), &[]);
    let (cleared, asked, put) = nodes.cost(clear);
    assert!(asked <= 2 * 4 && put <= 2 * 4, "{asked} read, {put} written");
    let left = nodes.walk(cleared, 0..HUGE);
    assert!(left.iter().all(|(block, _)| !middle.contains(block)));
    assert_eq!(left.len(), nodes.walk(root, 0..HUGE).len() - (1 << 13));

    // Where there is nothing, clearing reads no more and writes nothing.
    let (again, asked, put) = nodes.cost(|| nodes.update(cleared, from_ref(&middle), &[]));
    assert_eq!((again, put), (cleared, 0));
    assert!(asked <= 2 * 4, "{asked} read");
    // Ranges that touch are as good as one.
    let parts: Vec<_> = (0..HUGE / 4).map(|at| at * 2..at * 2 + 2).collect();
    let (_, asked, _) = nodes.cost(|| nodes.update(root, &parts, &[]));
    assert!(asked <= 4, "{asked} read");
    let (_, asked, put) =
        nodes.cost(|| nodes.update(TreeRoot::empty(9), from_ref(&(0..u64::MAX)), &[]));
    assert_eq!((asked, put), (0, 0));
    // As a whole, it is not even looked at.
    let (empty, asked, put) = nodes.cost(|| nodes.update(root, from_ref(&(0..HUGE)), &[]));
    assert_eq!((empty, asked, put), (TreeRoot::empty(4), 0, 0));
}

#[test]
fn what_is_cleared_and_changed_ends_as_changed() {
    let (nodes, root) = scattered();
    let change = (BlockNumber(HUGE / 2), Some(content(3)));
    let (changed, asked, put) = nodes.cost(|| nodes.update(root, from_ref(&(0..HUGE)), &[change]));
    assert_eq!((asked, put), (0, 4));
    assert_eq!(nodes.walk(changed, 0..HUGE), [(HUGE / 2, content(3))]);
    let none = (BlockNumber(HUGE / 2), None);
    assert_eq!(nodes.update(changed, &[], &[none]), TreeRoot::empty(4));
}

#[test]
fn a_smaller_disk_has_nothing_left_of_the_larger_one() {
    let (nodes, root) = scattered();
    let (small, asked, put) = nodes.cost(|| nodes.truncate(root, 100));
    assert_eq!((small.depth, asked, put), (1, 4, 0));
    assert_eq!(nodes.walk(small, 0..u64::MAX), [(77, content(0))]);
    assert_eq!(nodes.truncate(root, 77), TreeRoot::empty(1));
    let grown = nodes.deepen(nodes.truncate(root, 78), 4);
    assert_eq!(nodes.walk(grown, 0..u64::MAX), [(77, content(0))]);
    // To grow is not to be truncated.
    let (same, asked, put) = nodes.cost(|| nodes.truncate(root, HUGE + 1));
    assert_eq!((same, asked, put), (root, 0, 0));
    assert_eq!(nodes.deepen(root, 2), root);
}

#[test]
fn what_is_shared_is_not_read_to_be_compared() {
    let (nodes, root) = scattered();
    let (found, asked, _) = nodes.cost(|| nodes.diff(root, root));
    assert_eq!((found.len(), asked), (0, 0));
    let change = (BlockNumber(HUGE / 2), Some(content(9)));
    let changed = nodes.update(root, &[], &[change]);
    let (found, asked, _) = nodes.cost(|| nodes.diff(root, changed));
    assert_eq!(found, [(HUGE / 2, None, Some(content(9)))]);
    assert!(asked <= 2 * 4, "{asked} read");
    // At another depth only the new top is read.
    let deeper = nodes.deepen(root, 6);
    let (found, asked, _) = nodes.cost(|| nodes.diff(deeper, root));
    assert_eq!((found.len(), asked), (0, 2));
}

#[test]
fn every_node_that_changed_is_written_once() {
    let nodes = Nodes::default();
    let all: Vec<_> = (0..4096).map(|n| (BlockNumber(n + 128), Some(content(n)))).collect();
    let (root, asked, put) = nodes.cost(|| nodes.update(TreeRoot::empty(4), &[], &all));
    assert_eq!((asked, put), (0, 32 + 3)); // the leaves, and the nodes above them
    let (same, asked, put) = nodes.cost(|| nodes.update(root, &[], &all));
    // Leaves are made anew, and nobody looks whether they are there.
    assert_eq!((same, asked, put), (root, 3, 32));
    let (same, asked, put) = nodes.cost(|| nodes.update(root, &[], &all[1..]));
    assert_eq!((same, asked, put), (root, 3 + 1, 31)); // but when something of one stays
    let (same, asked, put) = nodes.cost(|| nodes.update(root, from_ref(&(128..256)), &all[..128]));
    assert_eq!((same, asked, put), (root, 3, 1));
    let (other, asked, put) =
        nodes.cost(|| nodes.update(root, &[], &[(BlockNumber(1), Some(content(1)))]));
    assert_eq!((asked, put), (3, 4)); // its leaf is new
    assert_ne!(other, root);
}

#[test]
fn depths_are_as_small_as_the_disk_allows() {
    for (blocks, depth) in
        [(0, 1), (1, 1), (128, 1), (129, 2), (1 << 14, 2), (HUGE, 4), (HUGE + 1, 5)]
    {
        assert_eq!(TreeRoot::depth_for(blocks), depth);
    }
    assert_eq!([1 << 63, u64::MAX].map(TreeRoot::depth_for), [9, 9]);
    assert_eq!(TreeRoot::empty(9).capacity(), Ok(1 << 63));
}

#[test]
fn blocks_without_a_place_are_errors() {
    let nodes = Nodes::default();
    let root = TreeRoot::empty(1);
    let beyond = Err(Fault::Tree(TreeError::Beyond { block: BlockNumber(128), room: 128 }));
    assert_eq!(root.lookup(BlockNumber(128), &nodes), beyond);
    assert_eq!(Cursor::default().lookup(root, BlockNumber(128), &nodes), beyond);
    let change = [(BlockNumber(128), None)];
    let updated = root.update(&[], &change, &nodes, &mut |_, _| {});
    assert_eq!(updated.map(|root| root.node), beyond);
    for depth in [0, 10, 255] {
        let root = TreeRoot::empty(depth);
        let error = TreeError::Depth(depth);
        assert_eq!(root.lookup(BlockNumber(0), &nodes), Err(error.into()));
        assert_eq!(root.capacity(), Err(error));
        assert_eq!(root.truncate(1, &nodes, &mut |_, _| {}), Err(error.into()));
        assert_eq!(root.update(&[], &[], &nodes, &mut |_, _| {}), Err(error.into()));
        assert_eq!(root.walk(0..1, &nodes, &mut |_, _| ON), Err(error.into()));
        assert_eq!(root.walk_nodes(&nodes, &mut Seen::default()), Err(error.into()));
        assert_eq!(root.diff(root, &nodes, &mut |_, _, _| ON), Err(error.into()));
    }
}

#[test]
#[should_panic(expected = "changes out of order")]
fn changes_out_of_order_are_not_carried_out() {
    let change = (BlockNumber(1), Some(content(1)));
    Nodes::default().update(TreeRoot::empty(1), &[], &[change, change]);
}

#[test]
#[should_panic(expected = "ranges out of order")]
fn ranges_out_of_order_are_not_cleared() {
    Nodes::default().update(TreeRoot::empty(1), &[3..5, 4..6], &[]);
}

/// What there was to see of nodes.
#[derive(Default)]
struct Seen {
    known: HashSet<ContentId>,
    nodes: Vec<NodePlace>,
    unreadable: Vec<(NodePlace, Fault)>,
    /// Enough after so many.
    most: Option<usize>,
}

impl NodeVisitor<Fault> for Seen {
    fn enter(&mut self, place: &NodePlace) -> bool {
        self.known.insert(place.id)
    }

    fn node(&mut self, place: &NodePlace, node: &Node) -> ControlFlow<()> {
        assert_eq!(node.level(), place.level);
        self.nodes.push(place.clone());
        if self.most.is_some_and(|most| self.nodes.len() >= most) {
            return ControlFlow::Break(());
        }
        ON
    }

    fn unreadable(&mut self, place: &NodePlace, error: Fault) -> ControlFlow<()> {
        self.unreadable.push((place.clone(), error));
        ON
    }
}

/// Three leaves, two of them in one node of level 1.
fn three_leaves(nodes: &Nodes) -> TreeRoot {
    let model = Model::from([(1, content(1)), (130, content(2)), (1 << 14, content(3))]);
    grown(nodes, &model, 3)
}

#[test]
fn nodes_are_visited_from_above_with_what_they_cover() {
    let nodes = Nodes::default();
    let root = three_leaves(&nodes);
    let mut seen = Seen::default();
    assert_eq!(root.walk_nodes(&nodes, &mut seen), Ok(ON));
    let places: Vec<_> = seen.nodes.iter().map(|at| (at.level, at.blocks.clone())).collect();
    let leaf = |leaf: u64| (0, leaf * 128..leaf * 128 + 128);
    let (low, high) = ((1, 0..1 << 14), (1, 1 << 14..1 << 15));
    assert_eq!(places, [(2, 0..1 << 21), low, leaf(0), leaf(1), high, leaf(128)]);
    // What was seen is not read again.
    let (_, asked, _) = nodes.cost(|| root.walk_nodes(&nodes, &mut seen));
    assert_eq!((seen.nodes.len(), asked), (6, 0));
    let mut two = Seen { most: Some(2), ..Seen::default() };
    assert_eq!(root.walk_nodes(&nodes, &mut two), Ok(ControlFlow::Break(())));
    assert_eq!(two.nodes.len(), 2);
}

#[test]
fn a_missing_node_is_told_and_passed_over() {
    let nodes = Nodes::default();
    let root = three_leaves(&nodes);
    let mut seen = Seen::default();
    assert_eq!(root.walk_nodes(&nodes, &mut seen), Ok(ON));
    for lost in &seen.nodes {
        let node = nodes.known.borrow_mut().remove(&lost.id).unwrap();
        let mut left = Seen::default();
        assert_eq!(root.walk_nodes(&nodes, &mut left), Ok(ON));
        assert_eq!(left.unreadable, [(lost.clone(), Fault::Absent(lost.id))]);
        let is_below = |at: &&NodePlace| {
            lost.blocks.start <= at.blocks.start && at.blocks.end <= lost.blocks.end
        };
        assert_eq!(left.nodes.len(), 6 - seen.nodes.iter().filter(is_below).count());
        // Nor is it taken for zeros by anything else.
        for block in [1, 130, 1 << 14] {
            let found = root.lookup(BlockNumber(block), &nodes);
            assert_eq!(found.is_err(), lost.blocks.contains(&block), "{block}");
            let peeked = Cursor::default().peek(root, BlockNumber(block), &nodes);
            let missing = Peek::Missing { id: lost.id, level: lost.level };
            assert_eq!(peeked == Ok(missing), lost.blocks.contains(&block));
        }
        let absent = Err(Fault::Absent(lost.id));
        assert_eq!(root.walk(0..u64::MAX, &nodes, &mut |_, _| ON), absent);
        assert_eq!(root.diff(TreeRoot::empty(1), &nodes, &mut |_, _, _| ON), absent);
        let change = [(BlockNumber(lost.blocks.start), None)];
        assert!(root.update(&[], &change, &nodes, &mut |_, _| {}).is_err());
        nodes.known.borrow_mut().insert(lost.id, node);
    }
}

#[test]
fn a_node_of_another_level_is_damage() {
    let nodes = Nodes::default();
    let leaf = grown(&nodes, &Model::from([(1, content(1))]), 1);
    let id = leaf.node.unwrap();
    let root = TreeRoot { depth: 2, ..leaf };
    let error = TreeError::Level { id, wanted: 1, found: 0 };
    let found = Err(Fault::Tree(error));
    assert_eq!(root.lookup(BlockNumber(1), &nodes), found);
    assert_eq!(Cursor::default().peek(root, BlockNumber(1), &nodes), Err(error));
    assert_eq!(root.walk(0..9, &nodes, &mut |_, _| ON), Err(error.into()));
    assert_eq!(root.diff(leaf, &nodes, &mut |_, _, _| ON), Err(error.into()));
    assert_eq!(root.truncate(1, &nodes, &mut |_, _| {}), Err(error.into()));
    let change = [(BlockNumber(1), None)];
    assert_eq!(root.update(&[], &change, &nodes, &mut |_, _| {}), Err(error.into()));
    let mut seen = Seen::default();
    assert_eq!(root.walk_nodes(&nodes, &mut seen), Ok(ON));
    assert_eq!(seen.unreadable, [(NodePlace { id, level: 1, blocks: 0..1 << 14 }, error.into())]);
}

#[test]
fn visitors_may_have_enough() {
    let nodes = Nodes::default();
    let root = three_leaves(&nodes);
    let enough = Ok(ControlFlow::Break(()));
    let mut count = 0;
    let mut visit = |_, _| {
        count += 1;
        if count == 2 { ControlFlow::Break(()) } else { ON }
    };
    assert_eq!(root.walk(0..u64::MAX, &nodes, &mut visit), enough);
    assert_eq!(count, 2);
    let stop = &mut |_, _, _| ControlFlow::Break(());
    assert_eq!(root.diff(TreeRoot::empty(3), &nodes, stop), enough);
}

#[test]
fn a_cursor_asks_for_no_node_twice_in_a_row() {
    let nodes = Nodes::default();
    let all: Vec<_> = (0..1 << 15).map(|n| (BlockNumber(n), Some(content(n)))).collect();
    let root = nodes.update(TreeRoot::empty(3), &[], &all);
    let mut cursor = Cursor::default();
    let ((), asked, _) = nodes.cost(|| {
        for (block, id) in &all {
            assert_eq!(cursor.lookup(root, *block, &nodes), Ok(*id));
        }
    });
    assert_eq!(asked, 256 + 2 + 1); // each leaf, each node above, the root
    // Another root shares most of it; the old one is still right.
    let other = nodes.update(root, &[], &[(BlockNumber(0), None)]);
    let ((), asked, _) = nodes.cost(|| {
        assert_eq!(cursor.lookup(other, all[32_767].0, &nodes), Ok(all[32_767].1));
        assert_eq!(cursor.lookup(other, BlockNumber(0), &nodes), Ok(None));
        assert_eq!(cursor.lookup(root, BlockNumber(0), &nodes), Ok(all[0].1));
    });
    assert_eq!(asked, 1 + 2 + 3);
    cursor = Cursor::default();
    let (_, asked, _) = nodes.cost(|| cursor.lookup(root, BlockNumber(0), &nodes));
    assert_eq!(asked, 3);
}

#[test]
fn a_peek_names_what_is_missing_from_above() {
    let full = Nodes::default();
    let root = three_leaves(&full);
    let memory = Nodes::default();
    let mut cursor = Cursor::default();
    let mut missing = Vec::new();
    let found = loop {
        match cursor.peek(root, BlockNumber(130), &memory).unwrap() {
            Peek::Found(found) => break found,
            Peek::Missing { id, level } => {
                missing.push(level);
                let node = full.node(id, level).unwrap();
                memory.known.borrow_mut().insert(id, node);
            }
        }
    };
    assert_eq!((found, missing), (Some(content(2)), vec![2, 1, 0]));
    assert_eq!(cursor.peek(TreeRoot::empty(3), BlockNumber(130), &memory), Ok(Peek::Found(None)));
}
