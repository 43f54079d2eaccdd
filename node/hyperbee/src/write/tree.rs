//! The part of the B-tree that a batch has loaded and changed.
//!
//! Nodes and references to children live in two arenas and are never removed. A reference keeps its identity while it
//! moves between nodes, since a batch's earlier entries list the references they wrote and must see when a later entry
//! takes one over (see [`Tree::prune`]).
//!
//! The algorithm is that of `hyperbee` 2 (T = 5), step by step: which of two equal choices is taken decides bytes.

use bytes::Bytes;

use crate::entry::BeeError;
use crate::message::{ChildPointer, LevelSource, encode_entry};
use crate::{Bee, Blocks};

/// Fewest keys of a node, the root exempt.
const MIN_KEYS: usize = 4;
/// A node that reaches so many keys is split.
const SPLIT_KEYS: usize = MIN_KEYS * 2 + 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(usize);
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChildId(usize);

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) seq: u64,
    /// The key's bytes, once known.
    pub(super) bytes: Option<Bytes>,
}

#[derive(Debug)]
struct Child {
    pointer: ChildPointer,
    node: Option<NodeId>,
}

#[derive(Debug, Default)]
struct TreeNode {
    keys: Vec<Key>,
    children: Vec<ChildId>,
    /// Whether the next entry must write this node.
    changed: bool,
}

/// Whether a key was found, or where it belongs.
pub(super) enum Place {
    Found(usize),
    Between(usize),
}

#[derive(Debug)]
pub(super) struct Tree<B> {
    bee: Bee<B>,
    nodes: Vec<TreeNode>,
    children: Vec<Child>,
}

// The ids are made by `add_*` alone, so they are in bounds.
#[allow(clippy::indexing_slicing)]
impl<B: Blocks> Tree<B> {
    pub(super) fn new(bee: Bee<B>) -> Self {
        Self {
            bee,
            nodes: Vec::new(),
            children: Vec::new(),
        }
    }

    pub(super) fn add_node(&mut self) -> NodeId {
        self.nodes.push(TreeNode {
            changed: true,
            ..TreeNode::default()
        });
        NodeId(self.nodes.len() - 1)
    }

    fn add_child(&mut self, pointer: ChildPointer, node: Option<NodeId>) -> ChildId {
        self.children.push(Child { pointer, node });
        ChildId(self.children.len() - 1)
    }

    fn add_stored(&mut self, stored: &crate::entry::TreeNode) -> NodeId {
        let keys = stored
            .keys()
            .iter()
            .map(|slot| Key {
                seq: slot.seq,
                bytes: slot.bytes().map(Bytes::copy_from_slice),
            })
            .collect();
        let children = stored
            .children()
            .iter()
            .map(|&pointer| self.add_child(pointer, None))
            .collect();
        self.nodes.push(TreeNode {
            keys,
            children,
            changed: false,
        });
        NodeId(self.nodes.len() - 1)
    }

    /// The root as stored, none for an empty tree.
    pub(super) async fn load_root(&mut self) -> Result<Option<NodeId>, BeeError> {
        let root = self.bee.root(self.bee.version()).await?;
        Ok(root.map(|root| self.add_stored(&root)))
    }

    /// Child `index` of a node, loaded if it is not yet.
    pub(super) async fn child(&mut self, node: NodeId, index: usize) -> Result<NodeId, BeeError> {
        let child = self.nodes[node.0].children[index];
        if let Some(node) = self.children[child.0].node {
            return Ok(node);
        }
        let stored = self.bee.child(self.children[child.0].pointer).await?;
        let node = self.add_stored(&stored);
        self.children[child.0].node = Some(node);
        Ok(node)
    }

    async fn learn_key(&mut self, node: NodeId, index: usize) -> Result<(), BeeError> {
        let key = &self.nodes[node.0].keys[index];
        if key.bytes.is_none() {
            let block = self.bee.block(key.seq).await?;
            self.nodes[node.0].keys[index].bytes = Some(block.key().clone());
        }
        Ok(())
    }

    pub(super) async fn search(&mut self, node: NodeId, key: &[u8]) -> Result<Place, BeeError> {
        let (mut start, mut end) = (0, self.nodes[node.0].keys.len());
        while start < end {
            let middle = usize::midpoint(start, end);
            self.learn_key(node, middle).await?;
            let bytes = self.nodes[node.0].keys[middle].bytes.as_deref();
            match key.cmp(bytes.unwrap_or_default()) {
                std::cmp::Ordering::Equal => return Ok(Place::Found(middle)),
                std::cmp::Ordering::Less => end = middle,
                std::cmp::Ordering::Greater => start = middle + 1,
            }
        }
        Ok(Place::Between(start))
    }

    pub(super) fn is_leaf(&self, node: NodeId) -> bool {
        self.nodes[node.0].children.is_empty()
    }

    pub(super) fn mark_changed(&mut self, node: NodeId) {
        self.nodes[node.0].changed = true;
    }

    /// Takes marks back that no entry was written for.
    pub(super) fn unmark(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        for node in nodes {
            self.nodes[node.0].changed = false;
        }
    }

    /// Number of nodes loaded and made, also of those no longer in the tree.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn key_seq(&self, node: NodeId, index: usize) -> u64 {
        self.nodes[node.0].keys[index].seq
    }

    pub(super) fn set_key(&mut self, node: NodeId, index: usize, key: Key) {
        self.nodes[node.0].keys[index] = key;
        self.mark_changed(node);
    }

    /// Inserts a key into a leaf and splits upwards along `path` (the root first). Returns the root.
    pub(super) async fn insert(
        &mut self,
        mut path: Vec<NodeId>,
        leaf: NodeId,
        index: usize,
        key: Key,
    ) -> Result<NodeId, BeeError> {
        let root = path.first().copied().unwrap_or(leaf);
        let mut node = leaf;
        self.nodes[node.0].keys.insert(index, key);
        self.mark_changed(node);
        while self.nodes[node.0].keys.len() >= SPLIT_KEYS {
            let (median, right) = self.split(node).await?;
            let right = self.add_child(ChildPointer { seq: 0, offset: 0 }, Some(right));
            let Some(parent) = path.pop() else {
                let root = self.add_node();
                let left = self.add_child(ChildPointer { seq: 0, offset: 0 }, Some(node));
                self.nodes[root.0].keys.push(median);
                self.nodes[root.0].children.extend([left, right]);
                return Ok(root);
            };
            let median_bytes = median.bytes.clone().unwrap_or_default();
            let (Place::Found(index) | Place::Between(index)) = self.search(parent, &median_bytes).await?;
            self.nodes[parent.0].keys.insert(index, median);
            self.nodes[parent.0].children.insert(index + 1, right);
            self.mark_changed(parent);
            node = parent;
        }
        Ok(root)
    }

    /// Cuts the last keys and children off a full node. Returns the key between and the new right node.
    async fn split(&mut self, node: NodeId) -> Result<(Key, NodeId), BeeError> {
        let right_keys = self.nodes[node.0].keys.len() / 2;
        let median = self.nodes[node.0].keys.len() - right_keys - 1;
        self.learn_key(node, median).await?;
        let right = self.add_node();
        let keys = self.nodes[node.0].keys.split_off(median + 1);
        let mut last = self.nodes[node.0].keys.split_off(median);
        let children = if self.is_leaf(node) {
            Vec::new()
        } else {
            self.nodes[node.0].children.split_off(median + 1)
        };
        self.nodes[right.0].keys = keys;
        self.nodes[right.0].children = children;
        self.mark_changed(node);
        Ok((last.remove(0), right))
    }

    /// Removes key `index` of the last node of `path`. Returns the root.
    pub(super) async fn remove(
        &mut self,
        mut path: Vec<NodeId>,
        index: usize,
    ) -> Result<Option<NodeId>, BeeError> {
        let Some(&node) = path.last() else { return Ok(None) };
        if self.is_leaf(node) {
            self.nodes[node.0].keys.remove(index);
        } else {
            self.replace_from_nearest_leaf(node, index, &mut path).await?;
        }
        for &node in &path {
            self.mark_changed(node);
        }
        self.rebalance(path).await
    }

    /// Puts the next smaller or the next greater key in the place of key `index` of an inner node. It comes from the
    /// larger of the two leaves next to it, on equal sizes from the left one.
    async fn replace_from_nearest_leaf(
        &mut self,
        node: NodeId,
        index: usize,
        path: &mut Vec<NodeId>,
    ) -> Result<(), BeeError> {
        let left = self.descend(node, index, true).await?;
        let right = self.descend(node, index + 1, false).await?;
        let leaf_keys = |path: &[NodeId]| path.last().map_or(0, |leaf| self.nodes[leaf.0].keys.len());
        let from_right = leaf_keys(&left) < leaf_keys(&right);
        let walked = if from_right { right } else { left };
        if let Some(&leaf) = walked.last() {
            let keys = &mut self.nodes[leaf.0].keys;
            let key = if from_right {
                Some(keys.remove(0))
            } else {
                keys.pop()
            };
            if let Some(key) = key {
                self.nodes[node.0].keys[index] = key;
            }
        }
        path.extend(walked);
        Ok(())
    }

    /// The nodes from child `index` of `node` down to the outermost leaf: the rightmost or the leftmost.
    async fn descend(
        &mut self,
        node: NodeId,
        index: usize,
        rightmost: bool,
    ) -> Result<Vec<NodeId>, BeeError> {
        let mut path = vec![self.child(node, index).await?];
        while let Some(&last) = path.last() {
            let Some(end) = self.nodes[last.0].children.len().checked_sub(1) else {
                break;
            };
            if path.len() > crate::MAX_DEPTH {
                return Err(BeeError::Damaged {
                    seq: self.bee.version() - 1,
                    what: "lies deeper than a tree can be",
                });
            }
            path.push(self.child(last, if rightmost { end } else { 0 }).await?);
        }
        Ok(path)
    }

    /// Fills nodes with too few keys from the bottom of `path` up. Returns the root.
    async fn rebalance(&mut self, mut path: Vec<NodeId>) -> Result<Option<NodeId>, BeeError> {
        let Some(&root) = path.first() else {
            return Ok(None);
        };
        while path.len() > 1 {
            let (Some(node), Some(&parent)) = (path.pop(), path.last()) else {
                break;
            };
            if self.nodes[node.0].keys.len() >= MIN_KEYS {
                return Ok(Some(root));
            }
            let index = self.index_in(parent, node)?;
            let left = if index > 0 {
                Some(self.child(parent, index - 1).await?)
            } else {
                None
            };
            let has_right = index + 1 < self.nodes[parent.0].children.len();
            let right = if has_right {
                Some(self.child(parent, index + 1).await?)
            } else {
                None
            };
            if let Some(left) = left.filter(|left| self.nodes[left.0].keys.len() > MIN_KEYS) {
                self.borrow_from_left(parent, index, left, node);
                return Ok(Some(root));
            }
            if let Some(right) = right.filter(|right| self.nodes[right.0].keys.len() > MIN_KEYS) {
                self.borrow_from_right(parent, index, node, right);
                return Ok(Some(root));
            }
            match (left, right) {
                (Some(left), _) => self.merge(parent, index - 1, left, node),
                (None, Some(right)) => self.merge(parent, index, node, right),
                (None, None) => {}
            }
        }
        if self.nodes[root.0].keys.is_empty() && !self.is_leaf(root) {
            return self.child(root, 0).await.map(Some);
        }
        Ok(Some(root))
    }

    fn index_in(&self, parent: NodeId, node: NodeId) -> Result<usize, BeeError> {
        let children = &self.nodes[parent.0].children;
        let index = children
            .iter()
            .position(|child| self.children[child.0].node == Some(node));
        index.ok_or(BeeError::Damaged {
            seq: self.bee.version() - 1,
            what: "has a node that its parent does not know",
        })
    }

    fn borrow_from_left(&mut self, parent: NodeId, index: usize, left: NodeId, node: NodeId) {
        self.mark_changed(left);
        if let Some(up) = self.nodes[left.0].keys.pop() {
            let down = std::mem::replace(&mut self.nodes[parent.0].keys[index - 1], up);
            self.nodes[node.0].keys.insert(0, down);
        }
        if let Some(child) = self.nodes[left.0].children.pop() {
            self.nodes[node.0].children.insert(0, child);
        }
    }

    fn borrow_from_right(&mut self, parent: NodeId, index: usize, node: NodeId, right: NodeId) {
        self.mark_changed(right);
        let up = self.nodes[right.0].keys.remove(0);
        let down = std::mem::replace(&mut self.nodes[parent.0].keys[index], up);
        self.nodes[node.0].keys.push(down);
        if !self.is_leaf(right) {
            let child = self.nodes[right.0].children.remove(0);
            self.nodes[node.0].children.push(child);
        }
    }

    /// Moves the key between and all of `right` into `left`.
    fn merge(&mut self, parent: NodeId, index: usize, left: NodeId, right: NodeId) {
        let median = self.nodes[parent.0].keys.remove(index);
        let freed = self.nodes[parent.0].children.remove(index + 1);
        // Block 0 holds no node: an earlier entry of the batch that wrote this reference sees that it is gone.
        self.children[freed.0].pointer.seq = 0;
        self.mark_changed(parent);
        let (keys, children) = (
            self.nodes[right.0].keys.clone(),
            self.nodes[right.0].children.clone(),
        );
        let left = &mut self.nodes[left.0];
        left.keys.push(median);
        left.keys.extend(keys);
        left.children.extend(children);
        left.changed = true;
    }

    /// Gives every changed node a place in block `seq`, the parent before its children, and returns their references in
    /// that order. The first is the root's.
    pub(super) fn place_changes(&mut self, root: NodeId, seq: u64) -> Vec<ChildId> {
        let own = self.add_child(ChildPointer { seq, offset: 0 }, Some(root));
        let mut placed = vec![own];
        self.nodes[root.0].changed = false;
        self.place_below(root, seq, &mut placed);
        placed
    }

    fn place_below(&mut self, node: NodeId, seq: u64, placed: &mut Vec<ChildId>) {
        for index in 0..self.nodes[node.0].children.len() {
            let child = self.nodes[node.0].children[index];
            let Some(below) = self.children[child.0]
                .node
                .filter(|below| self.nodes[below.0].changed)
            else {
                continue;
            };
            self.children[child.0].pointer = ChildPointer {
                seq,
                offset: placed.len() as u64,
            };
            placed.push(child);
            self.nodes[below.0].changed = false;
            self.place_below(below, seq, placed);
        }
    }

    /// Drops from the list of an inner batch entry `seq` its root and what later entries wrote again; the last ones fill
    /// the holes, and their references learn their new places.
    pub(super) fn prune(&mut self, placed: &mut Vec<ChildId>, seq: u64) {
        let root = placed.first().copied();
        let mut index = 0;
        while index < placed.len() {
            let child = placed[index];
            let pointer = &mut self.children[child.0].pointer;
            if Some(child) != root && pointer.seq == seq {
                pointer.offset = index as u64;
                index += 1;
            } else {
                placed.swap_remove(index);
            }
        }
    }

    /// The block of an entry whose nodes are `placed`, as they are now.
    pub(super) fn encode(&self, placed: &[ChildId], key: &[u8], value: Option<&[u8]>) -> Bytes {
        let levels = placed.iter().map(|child| Placed {
            tree: self,
            node: self.children[child.0].node.map(|node| &self.nodes[node.0]),
        });
        encode_entry(levels, key, value)
    }
}

/// A node as a block will hold it.
struct Placed<'a, B> {
    tree: &'a Tree<B>,
    node: Option<&'a TreeNode>,
}

#[allow(clippy::indexing_slicing)] // as above
impl<B> LevelSource for Placed<'_, B> {
    fn keys(&self) -> impl Iterator<Item = u64> {
        self.node
            .iter()
            .flat_map(|node| node.keys.iter().map(|key| key.seq))
    }

    fn children(&self) -> impl Iterator<Item = u64> {
        let children = self.node.iter().flat_map(|node| node.children.iter());
        children.flat_map(|child| {
            let pointer = self.tree.children[child.0].pointer;
            [pointer.seq, pointer.offset]
        })
    }
}
