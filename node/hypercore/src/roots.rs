//! The roots of a tree and how they grow, by blocks or by proven nodes.
//!
//! Invariant: the roots are exactly those of [`flat_tree::roots`] for the length; every node that is pushed lies
//! directly after the last block. Source: npm hypercore 11.37 `lib/merkle-tree.js`.

use std::collections::VecDeque;

use cumulet_encoding::MAX_UINT;

use crate::crypto::{Hash, tree_hash};
use crate::flat_tree;
use crate::node::Node;

/// Most blocks a core can have: leaf indexes stay within the protocol's integers.
pub const MAX_LENGTH: u64 = 1 << 52;

/// Nodes that do not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A proof does not contain the node that its place asks for.
    #[error("expected tree node {expected}, got {got:?}")]
    UnexpectedNode {
        /// Index that had to come.
        expected: u64,
        /// Index that came; none at the end of the list.
        got: Option<u64>,
    },
    /// Length or size beyond the protocol's integers.
    #[error("the tree grows beyond the protocol's numbers")]
    TooLarge,
}

/// The roots of a tree, left to right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    nodes: Vec<Node>,
    length: u64,
    byte_length: u64,
}

impl Roots {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// The roots of a tree of `length` blocks, given left to right.
    pub fn from_nodes(length: u64, nodes: Vec<Node>) -> Result<Self, TreeError> {
        let mut given = nodes.iter();
        for expected in flat_tree::roots(length) {
            let got = given.next().map(|node| node.index);
            if got != Some(expected) {
                return Err(TreeError::UnexpectedNode { expected, got });
            }
        }
        let byte_length = nodes
            .iter()
            .try_fold(0u64, |sum, node| sum.checked_add(node.size));
        let byte_length = byte_length
            .filter(|sum| *sum <= MAX_UINT)
            .ok_or(TreeError::TooLarge)?;
        Ok(Self {
            nodes,
            length,
            byte_length,
        })
    }

    /// The roots, left to right.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Number of blocks.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of all blocks, as stored.
    pub fn byte_length(&self) -> u64 {
        self.byte_length
    }

    /// The hash that signatures bind.
    pub fn tree_hash(&self) -> Hash {
        tree_hash(&self.nodes)
    }

    /// Adds a subtree directly after the last block, and joins siblings into parents. The node and the parents
    /// made are appended to `produced`.
    pub fn push(&mut self, node: Node, produced: &mut Vec<Node>) -> Result<(), TreeError> {
        let fits = flat_tree::left_span(node.index) == 2 * self.length
            && self
                .nodes
                .last()
                .is_none_or(|last| flat_tree::depth(node.index) <= flat_tree::depth(last.index));
        if !fits {
            let expected = self.nodes.last().map_or(0, |last| flat_tree::sibling(last.index));
            return Err(TreeError::UnexpectedNode {
                expected,
                got: Some(node.index),
            });
        }
        let length = self.length + flat_tree::leaf_count(node.index);
        let byte_length = self
            .byte_length
            .checked_add(node.size)
            .filter(|sum| *sum <= MAX_UINT);
        let byte_length = byte_length
            .filter(|_| length <= MAX_LENGTH)
            .ok_or(TreeError::TooLarge)?;
        (self.length, self.byte_length) = (length, byte_length);
        produced.push(node);
        let mut top = node;
        while let Some(last) = self
            .nodes
            .last()
            .filter(|last| last.index == flat_tree::sibling(top.index))
        {
            top = Node::parent(last, &top);
            produced.push(top);
            self.nodes.pop();
        }
        self.nodes.push(top);
        Ok(())
    }

    /// Grows the tree to the roots of `length` blocks by nodes taken from the queue: roots that are already there
    /// stay; from the last of them the walk climbs by right siblings; the rest are whole roots. Returns whether
    /// anything was added.
    pub fn upgrade(
        &mut self,
        length: u64,
        queue: &mut NodeQueue,
        produced: &mut Vec<Node>,
    ) -> Result<bool, TreeError> {
        if length > MAX_LENGTH {
            return Err(TreeError::TooLarge);
        }
        let before = produced.len();
        let (mut kept, mut may_climb) = (0, !self.nodes.is_empty());
        for root in flat_tree::roots(length) {
            if self.nodes.get(kept).is_some_and(|known| known.index == root) {
                kept += 1;
                continue;
            }
            if std::mem::take(&mut may_climb) && kept < self.nodes.len() {
                while let Some(last) = self.nodes.last().filter(|last| last.index != root) {
                    let node = queue.take(flat_tree::sibling(last.index))?;
                    self.push(node, produced)?;
                }
                continue;
            }
            let node = queue.take(root)?;
            self.push(node, produced)?;
        }
        Ok(produced.len() > before)
    }

    /// Grows the tree further, by nodes that follow one another below the sibling of the last root.
    pub fn extend(&mut self, nodes: &[Node], produced: &mut Vec<Node>) -> Result<(), TreeError> {
        for node in nodes {
            if self.nodes.is_empty() {
                return Err(TreeError::UnexpectedNode {
                    expected: 0,
                    got: Some(node.index),
                });
            }
            self.push(*node, produced)?;
        }
        Ok(())
    }
}

/// The nodes of a proof, to be taken in exactly the order in which the walk needs them, and one computed node that
/// may stand in once for the node of its index.
#[derive(Debug)]
pub struct NodeQueue {
    nodes: VecDeque<Node>,
    computed: Option<Node>,
}

impl NodeQueue {
    /// A queue of a proof's nodes and the node that was computed from the rest of the proof.
    pub fn new(nodes: &[Node], computed: Option<Node>) -> Self {
        Self {
            nodes: nodes.iter().copied().collect(),
            computed,
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.computed.is_none()
    }

    /// The computed node, if it was not taken.
    pub fn into_computed(self) -> Option<Node> {
        self.computed
    }

    /// Takes the node of that index.
    pub fn take(&mut self, index: u64) -> Result<Node, TreeError> {
        if self.computed.is_some_and(|node| node.index == index)
            && let Some(node) = self.computed.take()
        {
            return Ok(node);
        }
        match self.nodes.pop_front() {
            Some(node) if node.index == index => Ok(node),
            other => Err(TreeError::UnexpectedNode {
                expected: index,
                got: other.map(|node| node.index),
            }),
        }
    }
}

/// The indexes of the nodes that grow a tree of `from` blocks into one of `to` blocks, in the order in which
/// [`Roots::upgrade`] takes them.
pub fn upgrade_path(from: u64, to: u64) -> Vec<u64> {
    let mut path = Vec::new();
    for root in flat_tree::roots(to) {
        if flat_tree::end_block(root) <= from {
            continue;
        }
        let last_leaf = from.checked_sub(1).map(|block| 2 * block);
        match last_leaf.filter(|leaf| flat_tree::contains(root, *leaf)) {
            Some(leaf) => {
                let mut node = leaf;
                while node != root {
                    let sibling = flat_tree::sibling(node);
                    if sibling > leaf {
                        path.push(sibling);
                    }
                    node = flat_tree::parent(node);
                }
            }
            None => path.push(root),
        }
    }
    path
}
