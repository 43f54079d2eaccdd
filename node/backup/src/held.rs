//! Which parts of a core are held, as aligned subtrees: what a head names, and what is shipped and restored.
//!
//! The canonical cut walks down from the roots: a subtree of at most [`MAX_SEGMENT_BYTES`] and at most [`MAX_LEVEL`] levels is one
//! segment (a single larger block is one too), a larger subtree is split. It depends on the tree alone, so every replica cuts the
//! same. Where only a part of a segment is held, the largest held subtrees below it stand in for it.
//!
//! A cut is complete: its nodes cover every root, so the roots can be computed from it. That is how a restore knows the
//! hash of each segment before it fetches one.

use std::collections::HashMap;
use std::ops::Range;

use cumulet_hypercore::flat_tree;
use cumulet_hypercore::node::Node;
use cumulet_hypercore::roots::Roots;
use cumulet_hypercore::segment::Held;
use cumulet_hypercore::segment::cut::{MAX_LEVEL, MAX_SEGMENT_BYTES};

/// Most subtrees in one cut: 8 TiB in full segments. More means blocks scattered so widely that a head would not fit
/// in an object.
pub const MAX_PIECES: usize = 1_000_000;

/// What a cut needs to know of a core. Answers must belong to one state of the core.
pub trait Tree {
    /// A node that the core knows, by its flat-tree index.
    fn node(&self, index: u64) -> Result<Option<Node>, Box<dyn std::error::Error + Send + Sync>>;
    /// Whether all of these blocks are held, or some, or none; exact for a single block.
    fn held(&self, blocks: Range<u64>) -> Held;
}

/// One subtree of a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Nothing of it is held, or too little of the tree is known to name what is.
    Absent(Node),
    /// A segment of the canonical cut, all of it held.
    Whole(Node),
    /// A segment of the canonical cut of which a part is held.
    Filling {
        /// The segment.
        segment: Node,
        /// The largest held subtrees in it.
        held: Vec<Node>,
        /// The largest subtrees in it of which nothing is held.
        absent: Vec<Node>,
    },
}

/// A core, cut into subtrees that cover all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cut {
    /// From left to right.
    pub pieces: Vec<Piece>,
}

/// A cut could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// The tree could not be read.
    #[error("failed to read node {index} of the tree")]
    Read {
        /// Flat-tree index.
        index: u64,
        /// The storage's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Blocks are held whose place in the tree is not known; storage that verifies everything never gets there.
    #[error("node {index} of the tree is missing above a held block")]
    MissingNode {
        /// Flat-tree index.
        index: u64,
    },
    /// More than [`MAX_PIECES`].
    #[error("the held blocks are scattered over more than {MAX_PIECES} places")]
    TooScattered,
}

/// Whether a subtree is small enough for one segment.
pub fn is_segment(node: &Node) -> bool {
    let level = flat_tree::depth(node.index);
    level == 0 || (level <= MAX_LEVEL && node.size <= MAX_SEGMENT_BYTES)
}

/// The blocks below a node.
pub fn blocks(node: &Node) -> Range<u64> {
    flat_tree::first_block(node.index)..flat_tree::end_block(node.index)
}

/// Cuts the tree with these roots.
pub fn cut(roots: &Roots, tree: &dyn Tree) -> Result<Cut, CutError> {
    let mut walk = Walk { tree, count: 0 };
    let mut pieces = Vec::new();
    for root in roots.nodes() {
        walk.canonical(*root, &mut pieces)?;
    }
    Ok(Cut { pieces })
}

struct Walk<'a> {
    tree: &'a dyn Tree,
    count: usize,
}

impl Walk<'_> {
    fn canonical(&mut self, node: Node, pieces: &mut Vec<Piece>) -> Result<(), CutError> {
        let held = self.tree.held(blocks(&node));
        if held == Held::None {
            self.count(1)?;
            pieces.push(Piece::Absent(node));
        } else if !is_segment(&node) {
            let (left, right) = self.children(&node)?;
            self.canonical(left, pieces)?;
            self.canonical(right, pieces)?;
        } else if held == Held::All {
            self.count(1)?;
            pieces.push(Piece::Whole(node));
        } else {
            let (mut whole, mut absent) = (Vec::new(), Vec::new());
            self.partly(node, &mut whole, &mut absent)?;
            pieces.push(Piece::Filling {
                segment: node,
                held: whole,
                absent,
            });
        }
        Ok(())
    }

    fn partly(&mut self, node: Node, whole: &mut Vec<Node>, absent: &mut Vec<Node>) -> Result<(), CutError> {
        let list = match self.tree.held(blocks(&node)) {
            Held::None => &mut *absent,
            Held::All => &mut *whole,
            Held::Some => {
                let (left, right) = self.children(&node)?;
                self.partly(left, whole, absent)?;
                return self.partly(right, whole, absent);
            }
        };
        self.count(1)?;
        list.push(node);
        Ok(())
    }

    fn children(&self, node: &Node) -> Result<(Node, Node), CutError> {
        let missing = CutError::MissingNode { index: node.index };
        let (left, right) = flat_tree::children(node.index).ok_or(missing)?;
        Ok((self.node(left)?, self.node(right)?))
    }

    fn node(&self, index: u64) -> Result<Node, CutError> {
        let found = self
            .tree
            .node(index)
            .map_err(|source| CutError::Read { index, source })?;
        found.ok_or(CutError::MissingNode { index })
    }

    fn count(&mut self, more: usize) -> Result<(), CutError> {
        self.count += more;
        if self.count > MAX_PIECES {
            Err(CutError::TooScattered)
        } else {
            Ok(())
        }
    }
}

/// The part of a cut that a head names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Segments, left to right.
    pub segments: Vec<Node>,
    /// Subtrees whose blocks are not named, left to right.
    pub absent: Vec<Node>,
    /// Some of the absent ones hold blocks that wait for their neighbours.
    pub held_back: bool,
}

impl Cut {
    /// What to name: all that is held, or only whole segments.
    pub fn select(&self, everything: bool) -> Selection {
        let mut selection = Selection::default();
        for piece in &self.pieces {
            match piece {
                Piece::Absent(node) => selection.absent.push(*node),
                Piece::Whole(node) => selection.segments.push(*node),
                Piece::Filling { held, absent, .. } if everything => {
                    selection.segments.extend(held);
                    selection.absent.extend(absent);
                }
                Piece::Filling { segment, .. } => {
                    selection.absent.push(*segment);
                    selection.held_back = true;
                }
            }
        }
        selection
    }
}

/// A selection does not make up the tree that it claims to be of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// A place of the tree is covered by nothing.
    #[error("block {block} is covered by no subtree")]
    Uncovered {
        /// First block of the place.
        block: u64,
    },
    /// Two subtrees cover one place, or a subtree lies outside of the tree.
    #[error("node {index} is named twice or lies in another subtree or outside of the tree")]
    Surplus {
        /// Flat-tree index.
        index: u64,
    },
    /// The subtrees give another root than the signed one.
    #[error("the subtrees below root {index} give another hash")]
    OtherRoot {
        /// Flat-tree index.
        index: u64,
    },
    /// A segment is larger than a segment can be.
    #[error("node {index} is too large for a segment")]
    TooLarge {
        /// Flat-tree index.
        index: u64,
    },
}

impl Selection {
    /// Checks that the subtrees make up exactly the tree with these roots. Answers all nodes that are known now: the
    /// given ones and all those between them and the roots.
    pub fn check(&self, roots: &Roots) -> Result<Vec<Node>, SelectionError> {
        if let Some(large) = self.segments.iter().find(|node| !is_segment(node)) {
            return Err(SelectionError::TooLarge { index: large.index });
        }
        let mut given = HashMap::with_capacity(self.segments.len() + self.absent.len());
        for node in self.segments.iter().chain(&self.absent) {
            if given.insert(node.index, *node).is_some() {
                return Err(SelectionError::Surplus { index: node.index });
            }
        }
        let mut nodes = Vec::with_capacity(2 * given.len());
        for root in roots.nodes() {
            if join(root.index, &mut given, &mut nodes)? != *root {
                return Err(SelectionError::OtherRoot { index: root.index });
            }
        }
        match given.keys().next() {
            Some(&index) => Err(SelectionError::Surplus { index }),
            None => Ok(nodes),
        }
    }
}

/// The node at `index`, given or computed. Stops at the first gap, so the work is bounded by what is given; the depth is
/// that of the tree, at most 53.
fn join(index: u64, given: &mut HashMap<u64, Node>, nodes: &mut Vec<Node>) -> Result<Node, SelectionError> {
    let node = if let Some(node) = given.remove(&index) {
        node
    } else {
        let (left, right) = flat_tree::children(index).ok_or(SelectionError::Uncovered {
            block: flat_tree::first_block(index),
        })?;
        let left = join(left, given, nodes)?;
        let right = join(right, given, nodes)?;
        Node::parent(&left, &right)
    };
    nodes.push(node);
    Ok(node)
}
