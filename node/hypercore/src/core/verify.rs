//! Checking proofs and storing what they prove (npm hypercore 11.37 `lib/merkle-tree.js`, `lib/core.js`).

use super::Core;
use crate::flat_tree;
use crate::manifest::Manifest;
use crate::node::Node;
use crate::proof::{Proof, UpgradeProof};
use crate::roots::{MAX_LENGTH, NodeQueue, Roots, TreeError};
use crate::storage::{Changes, Head, Storage, StorageError};
use crate::verifier::{SignatureError, Verifier};

/// Why a proof was refused. Nothing of it was stored.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Its nodes are not those that the walk needs.
    #[error("the proof does not fit the tree")]
    Tree(#[from] TreeError),
    /// It leads up to a node that is not held, so there is nothing to compare it with.
    #[error("the proof leads to tree node {index}, which is not held")]
    NotConnected {
        /// Flat-tree index.
        index: u64,
    },
    /// It leads to a node that is held with another hash or size.
    #[error("the proof leads to another hash for tree node {index}")]
    Checksum {
        /// Flat-tree index.
        index: u64,
    },
    /// Its manifest does not belong to the core, or none is known and the core is no compat core.
    #[error("the proof's manifest does not belong to the core")]
    Manifest,
    /// The signature does not prove the longer tree.
    #[error("the proof's signature is refused")]
    Signature(#[from] SignatureError),
    /// The upgrade goes into the prologue without covering it.
    #[error("the proof does not cover the core's prologue")]
    Prologue,
    /// A reorg proof that is not about the fork, or not about the node, that was asked for.
    #[error("the proof does not belong to the reorganisation")]
    NotAsked,
    /// The storage failed.
    #[error("failed to apply a proof")]
    Storage(#[from] StorageError),
}

impl VerifyError {
    /// Whether the proof merely does not fit our state, which happens to honest peers too. Anything else but a storage
    /// failure is a reason to look for a conflict.
    pub fn is_misfit(&self) -> bool {
        matches!(self, Self::Tree(_) | Self::NotConnected { .. } | Self::NotAsked)
    }
}

/// What a proof changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// The proof is about another fork, so it was not even checked.
    pub other_fork: bool,
    /// The length before.
    pub old_length: u64,
    /// The length now.
    pub length: u64,
    /// The block that was proven, and is held now.
    pub block: Option<u64>,
    /// Whether the manifest became known.
    pub manifest: bool,
}

impl Applied {
    /// Whether the core became longer.
    pub fn upgraded(&self) -> bool {
        self.length > self.old_length
    }
}

/// A proof's tree, before its signature was looked at.
pub(super) struct Walk {
    pub(super) roots: Roots,
    pub(super) upgraded: bool,
    /// Every node met or computed.
    pub(super) nodes: Vec<Node>,
    /// The node that the block, hash or seek part leads to, unless the upgrade took it.
    pub(super) top: Option<Node>,
}

impl Walk {
    /// Walks a proof from the given roots. `prologue` is the one of a manifest known before the proof.
    pub(super) fn run(
        roots: &Roots,
        proof: &Proof,
        manifest: Option<&Manifest>,
    ) -> Result<Self, VerifyError> {
        let mut nodes = Vec::new();
        let top = climb(proof, &mut nodes)?;
        let mut walk = Self {
            roots: roots.clone(),
            upgraded: false,
            nodes,
            top,
        };
        if let Some(upgrade) = &proof.upgrade {
            walk.upgrade(upgrade, manifest)?;
        }
        Ok(walk)
    }

    fn upgrade(&mut self, upgrade: &UpgradeProof, manifest: Option<&Manifest>) -> Result<(), VerifyError> {
        let end = upgrade
            .start
            .checked_add(upgrade.length)
            .ok_or(TreeError::TooLarge)?;
        let prologue = manifest
            .filter(|manifest| manifest.version > 0)
            .and_then(|manifest| manifest.prologue);
        if prologue.is_some_and(|prologue| {
            upgrade.start < prologue.length && (upgrade.start != 0 || upgrade.length < prologue.length)
        }) {
            return Err(VerifyError::Prologue);
        }
        let mut queue = NodeQueue::new(&upgrade.nodes, self.top);
        self.upgraded = self.roots.upgrade(end, &mut queue, &mut self.nodes)?;
        if prologue.is_some_and(|prologue| {
            prologue.length == self.roots.length() && prologue.hash != self.roots.tree_hash()
        }) {
            return Err(VerifyError::Prologue);
        }
        self.roots.extend(&upgrade.additional_nodes, &mut self.nodes)?;
        self.upgraded |= !upgrade.additional_nodes.is_empty();
        self.top = queue.into_computed();
        Ok(())
    }
}

/// Hashes the seek list, then the block or hash list, upwards. Returns the node they lead to.
fn climb(proof: &Proof, nodes: &mut Vec<Node>) -> Result<Option<Node>, VerifyError> {
    let mut top = None;
    if let Some((first, rest)) = proof.seek.as_ref().and_then(|seek| seek.nodes.split_first()) {
        check_index(first.index)?;
        top = Some(hash_up(*first, NodeQueue::new(rest, None), nodes)?);
    }
    if let Some(block) = &proof.block {
        if block.index >= MAX_LENGTH {
            return Err(TreeError::TooLarge.into());
        }
        let leaf = Node::leaf(block.index, &block.value);
        top = Some(hash_up(leaf, NodeQueue::new(&block.nodes, top), nodes)?);
    } else if let Some(hash) = &proof.hash {
        check_index(hash.index)?;
        let mut queue = NodeQueue::new(&hash.nodes, top);
        let start = queue.take(hash.index)?;
        top = Some(hash_up(start, queue, nodes)?);
    }
    Ok(top)
}

pub(super) fn check_index(index: u64) -> Result<(), TreeError> {
    if index < 2 * MAX_LENGTH {
        Ok(())
    } else {
        Err(TreeError::TooLarge)
    }
}

pub(super) fn hash_up(start: Node, mut queue: NodeQueue, nodes: &mut Vec<Node>) -> Result<Node, VerifyError> {
    let mut top = start;
    nodes.push(top);
    while !queue.is_empty() {
        let sibling = queue.take(flat_tree::sibling(top.index))?;
        top = Node::parent(&top, &sibling);
        check_index(top.index)?;
        nodes.extend([sibling, top]);
    }
    Ok(top)
}

impl<S: Storage> Core<S> {
    /// Checks a proof and stores what it proves: all of it, or nothing.
    pub fn verify_and_apply(&mut self, proof: Proof) -> Result<Applied, VerifyError> {
        let old_length = self.length();
        if proof.fork != self.fork() {
            return Ok(Applied {
                other_fork: true,
                old_length,
                length: old_length,
                ..Applied::default()
            });
        }
        let walk = Walk::run(&self.roots, &proof, self.manifest())?;
        if let Some(top) = &walk.top {
            self.check_held(top)?;
        }
        let learned = self.learn_manifest(proof.manifest.as_ref(), walk.upgraded)?;
        let mut changes = Changes {
            nodes: walk.nodes,
            ..Changes::default()
        };
        if walk.upgraded {
            let verifier = learned
                .as_ref()
                .or(self.verifier.as_ref())
                .ok_or(VerifyError::Manifest)?;
            let signature = proof.upgrade.and_then(|upgrade| upgrade.signature);
            verifier.verify(&walk.roots, proof.fork, signature.as_deref())?;
            changes.head = Some(Head {
                fork: proof.fork,
                length: walk.roots.length(),
                signature,
            });
        }
        let block = proof.block.as_ref().map(|block| block.index);
        if let Some(block) = proof.block {
            if block.index >= walk.roots.length() {
                return Err(VerifyError::NotConnected {
                    index: 2 * block.index,
                });
            }
            if !self.has(block.index) {
                changes.blocks.push((block.index, block.value));
            }
        }
        changes.manifest = learned.as_ref().map(|verifier| verifier.manifest().clone());
        self.storage.apply(changes)?;
        self.roots = walk.roots;
        let manifest = learned.is_some();
        self.verifier = learned.or(self.verifier.take());
        Ok(Applied {
            other_fork: false,
            old_length,
            length: self.length(),
            block,
            manifest,
        })
    }

    /// The held node of this index must be the same.
    pub(super) fn check_held(&self, top: &Node) -> Result<(), VerifyError> {
        let held = self
            .storage
            .node(top.index)?
            .ok_or(VerifyError::NotConnected { index: top.index })?;
        if held == *top {
            Ok(())
        } else {
            Err(VerifyError::Checksum { index: top.index })
        }
    }

    /// The verifier that a proof brings, when none is known yet: of its manifest, or for an upgrade without one the
    /// compat reading, in which the key is the signer.
    pub(super) fn learn_manifest(
        &self,
        given: Option<&Manifest>,
        upgraded: bool,
    ) -> Result<Option<Verifier>, VerifyError> {
        if self.verifier.is_some() {
            return Ok(None);
        }
        let manifest = match given {
            Some(manifest) => manifest.clone(),
            None if upgraded => Manifest::compat(self.key),
            None => return Ok(None),
        };
        Verifier::new(self.key, manifest)
            .map(Some)
            .ok_or(VerifyError::Manifest)
    }
}
