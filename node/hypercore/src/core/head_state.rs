//! A signed head without its blocks, and taking one over: how a restored core knows its whole length before its blocks
//! are there. How it is kept meanwhile is the keeper's matter.

use std::collections::HashMap;

use bytes::Bytes;

use super::Core;
use crate::crypto::Key;
use crate::flat_tree;
use crate::manifest::Manifest;
use crate::node::Node;
use crate::roots::{Roots, TreeError};
use crate::segment::SegmentId;
use crate::storage::{Changes, Head, Storage, StorageError};
use crate::verifier::{SignatureError, Verifier};

/// Why a head is worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadStateError {
    /// Its manifest belongs to another core.
    #[error("the head's manifest belongs to another core")]
    Manifest,
    /// Its roots do not fit its length.
    #[error("the head's roots do not fit its length")]
    Roots(#[from] TreeError),
    /// Its signature does not prove its roots.
    #[error("the head's signature is refused")]
    Signature(#[from] SignatureError),
    /// A node in it does not lead to its roots.
    #[error("tree node {index} of the head does not lead to its roots")]
    Disconnected {
        /// Flat-tree index.
        index: u64,
    },
}

/// Why a core cannot take a head over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The head is not valid.
    #[error(transparent)]
    Invalid(#[from] HeadStateError),
    /// It has the fork and length of the core, but another tree: the writer signed both.
    #[error("the head contradicts the core: two trees are signed for fork {fork} and length {length}")]
    Conflict {
        /// The fork of both.
        fork: u64,
        /// The length of both.
        length: u64,
    },
    /// The core has other content, and nothing shows that the head continues it.
    #[error("the head does not continue what the core holds")]
    NotConnected,
    /// A tree node that a head should carry is not held.
    #[error("tree node {index} is not held")]
    MissingNode {
        /// Flat-tree index.
        index: u64,
    },
    /// The storage failed.
    #[error("failed to take the head over")]
    Storage(#[from] StorageError),
}

/// A signed head, and the nodes that connect subtrees to its roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadState {
    /// The manifest; for a compat core the inferred one.
    pub manifest: Manifest,
    /// Fork number.
    pub fork: u64,
    /// Number of blocks.
    pub length: u64,
    /// Signature in the form peers send; none within a prologue.
    pub signature: Option<Bytes>,
    /// The roots, left to right.
    pub roots: Vec<Node>,
    /// Pairs of siblings on the way from the roots down to the subtrees it was made for.
    pub nodes: Vec<Node>,
}

impl HeadState {
    /// Checks everything: manifest, signature, and that every node leads to a root.
    pub fn verify(&self, key: &Key) -> Result<Roots, HeadStateError> {
        let verifier = Verifier::new(*key, self.manifest.clone()).ok_or(HeadStateError::Manifest)?;
        let roots = Roots::from_nodes(self.length, self.roots.clone())?;
        if self.length > 0 {
            verifier.verify(&roots, self.fork, self.signature.as_deref())?;
        }
        let given: HashMap<u64, Node> = self.nodes.iter().map(|node| (node.index, *node)).collect();
        let mut known = self.roots.clone();
        let mut reached = 0;
        while let Some(parent) = known.pop() {
            let Some((left, right)) = flat_tree::children(parent.index) else {
                continue;
            };
            if let (Some(left), Some(right)) = (given.get(&left), given.get(&right)) {
                if Node::parent(left, right) != parent {
                    return Err(HeadStateError::Disconnected { index: left.index });
                }
                known.extend([*left, *right]);
                reached += 2;
            }
        }
        if reached != self.nodes.len() {
            return Err(HeadStateError::Disconnected {
                index: self.nodes.first().map_or(0, |node| node.index),
            });
        }
        Ok(roots)
    }
}

impl<S: Storage> Core<S> {
    /// The core's head, with the nodes that connect these segments to its roots. None while the manifest is unknown.
    pub fn head_state(&self, segments: &[SegmentId]) -> Result<Option<HeadState>, AdoptError> {
        let Some(manifest) = self.manifest() else {
            return Ok(None);
        };
        let mut nodes: HashMap<u64, Node> = HashMap::new();
        for id in segments.iter().filter(|id| id.blocks().end <= self.length()) {
            let Some(root) = flat_tree::root_of(id.blocks().start, self.length()) else {
                continue;
            };
            let mut at = id.node();
            while at != root && flat_tree::contains(root, at) && !nodes.contains_key(&at) {
                for index in [at, flat_tree::sibling(at)] {
                    let node = self
                        .storage
                        .node(index)?
                        .ok_or(AdoptError::MissingNode { index })?;
                    nodes.insert(index, node);
                }
                at = flat_tree::parent(at);
            }
        }
        let mut nodes: Vec<Node> = nodes.into_values().collect();
        nodes.sort_unstable_by_key(|node| node.index);
        Ok(Some(HeadState {
            manifest: manifest.clone(),
            fork: self.fork(),
            length: self.length(),
            signature: self.signature().cloned(),
            roots: self.roots.nodes().to_vec(),
            nodes,
        }))
    }

    /// Takes a head over, after checking all of it. An empty core takes any; another one takes nodes of the tree it has,
    /// and a longer tree of its fork that contains its own roots. A shorter tree of its fork, or a lower fork, changes
    /// nothing. Returns whether the core is longer now.
    pub fn adopt_head(&mut self, state: HeadState) -> Result<bool, AdoptError> {
        let roots = state.verify(&self.key)?;
        let (fork, length) = (self.fork(), self.length());
        if state.fork < fork || (state.fork == fork && state.length < length) {
            return Ok(false);
        }
        let proven: HashMap<u64, Node> = state
            .nodes
            .iter()
            .chain(&state.roots)
            .map(|node| (node.index, *node))
            .collect();
        if length > 0 {
            if state.fork > fork {
                return Err(AdoptError::NotConnected);
            }
            if state.length == length && roots != self.roots {
                return Err(AdoptError::Conflict { fork, length });
            }
            if self
                .roots
                .nodes()
                .iter()
                .any(|root| proven.get(&root.index) != Some(root))
            {
                return Err(AdoptError::NotConnected);
            }
        }
        let head = Head {
            fork: state.fork,
            length: state.length,
            signature: state.signature,
        };
        let manifest = self.verifier.is_none().then(|| state.manifest.clone());
        let nodes = proven.into_values().collect();
        self.storage.apply(Changes {
            manifest,
            nodes,
            head: Some(head),
            ..Changes::default()
        })?;
        self.roots = roots;
        if self.verifier.is_none() {
            self.verifier = Verifier::new(self.key, state.manifest);
        }
        Ok(self.length() > length)
    }
}
