//! Following a writer to a higher fork.
//!
//! A higher fork always wins, but nothing says where it left the old one. So the signed roots of the new tree are
//! compared with what is held, and the subtree that differs is asked for, level by level, until the first block that
//! differs is known. Until [`Core::apply_reorg`] nothing is stored. Source: npm hypercore 11.37 `lib/merkle-tree.js`.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;

use super::verify::Walk;
use super::{Core, VerifyError};
use crate::flat_tree;
use crate::node::Node;
use crate::proof::Proof;
use crate::roots::Roots;
use crate::storage::{Changes, Head, Storage, StorageError};
use crate::verifier::Verifier;

/// What to ask the peer for next: the hash of the leaf of any block in `blocks`, with this many levels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReorgWant {
    /// Blocks below the subtree that differs; any of them that the peer has will do.
    pub blocks: Range<u64>,
    /// The `nodes` of the hash request.
    pub nodes: u64,
}

/// A higher fork whose signature was checked, while its fork point is looked for.
#[derive(Debug, Clone)]
pub struct Reorg {
    fork: u64,
    roots: Roots,
    signature: Option<Bytes>,
    learned: Option<Verifier>,
    nodes: HashMap<u64, Node>,
    /// The top of the leftmost subtree known to differ.
    differs: Option<Node>,
    want: Option<ReorgWant>,
    ancestors: u64,
}

impl Reorg {
    /// The fork it leads to.
    pub fn fork(&self) -> u64 {
        self.fork
    }

    /// Length of the new tree.
    pub fn length(&self) -> u64 {
        self.roots.length()
    }

    /// Number of blocks that both forks share, as far as is known; final when nothing is wanted any more.
    pub fn ancestors(&self) -> u64 {
        self.ancestors
    }

    /// What has to be asked for; none when it can be applied.
    pub fn want(&self) -> Option<&ReorgWant> {
        self.want.as_ref()
    }
}

impl<S: Storage> Core<S> {
    /// Starts a reorganisation with a peer's proof of its whole tree at a higher fork.
    pub fn begin_reorg(&self, proof: &Proof) -> Result<Reorg, VerifyError> {
        let upgrade = proof
            .upgrade
            .as_ref()
            .filter(|upgrade| upgrade.start == 0)
            .ok_or(VerifyError::NotAsked)?;
        if proof.fork <= self.fork() {
            return Err(VerifyError::NotAsked);
        }
        let walk = Walk::run(&Roots::new(), proof, self.manifest())?;
        if let Some(top) = walk.top {
            return Err(VerifyError::NotConnected { index: top.index });
        }
        let learned = self.learn_manifest(proof.manifest.as_ref(), true)?;
        let verifier = learned
            .as_ref()
            .or(self.verifier.as_ref())
            .ok_or(VerifyError::Manifest)?;
        verifier.verify(&walk.roots, proof.fork, upgrade.signature.as_deref())?;
        let mut reorg = Reorg {
            fork: proof.fork,
            ancestors: walk.roots.length(),
            signature: upgrade.signature.clone(),
            learned,
            nodes: walk.nodes.into_iter().map(|node| (node.index, node)).collect(),
            roots: walk.roots,
            differs: None,
            want: None,
        };
        for root in reorg.roots.nodes() {
            if self
                .storage
                .node(root.index)?
                .is_none_or(|held| held.hash != root.hash)
            {
                reorg.differs = Some(*root);
                break;
            }
        }
        self.narrow(&mut reorg)?;
        Ok(reorg)
    }

    /// Goes on with the peer's answer to what was wanted.
    pub fn continue_reorg(&self, reorg: &mut Reorg, proof: &Proof) -> Result<(), VerifyError> {
        if proof.fork != reorg.fork || proof.upgrade.is_some() {
            return Err(VerifyError::NotAsked);
        }
        let walk = Walk::run(&Roots::new(), proof, None)?;
        match (walk.top, reorg.differs) {
            (Some(top), Some(differs)) if top == differs => {}
            (Some(top), Some(differs)) if top.index == differs.index => {
                return Err(VerifyError::Checksum { index: top.index });
            }
            _ => return Err(VerifyError::NotAsked),
        }
        reorg
            .nodes
            .extend(walk.nodes.into_iter().map(|node| (node.index, node)));
        self.narrow(reorg)?;
        Ok(())
    }

    /// Descends to the lowest known node that differs, and says what is wanted below it.
    fn narrow(&self, reorg: &mut Reorg) -> Result<(), StorageError> {
        reorg.want = None;
        let Some(mut differs) = reorg.differs else {
            return Ok(());
        };
        while let Some((left, right)) = flat_tree::children(differs.index) {
            let (Some(left), Some(right)) = (reorg.nodes.get(&left), reorg.nodes.get(&right)) else {
                break;
            };
            let same = self
                .storage
                .node(left.index)?
                .is_some_and(|held| held.hash == left.hash);
            differs = if same { *right } else { *left };
        }
        reorg.differs = Some(differs);
        let start = flat_tree::first_block(differs.index);
        let end = self.length().min(flat_tree::end_block(differs.index));
        reorg.ancestors = start;
        let depth = flat_tree::depth(differs.index);
        if depth > 0 && start < end {
            reorg.want = Some(ReorgWant {
                blocks: start..end,
                nodes: u64::from(depth),
            });
        }
        Ok(())
    }

    /// Moves to the new fork: blocks and nodes after the fork point are dropped, the new tree takes their place.
    /// Returns the blocks that were dropped from the old length.
    pub fn apply_reorg(&mut self, reorg: Reorg) -> Result<Range<u64>, VerifyError> {
        if reorg.want.is_some() || reorg.fork <= self.fork() {
            return Err(VerifyError::NotAsked);
        }
        let old_length = self.length();
        let ancestors = reorg.ancestors.min(old_length);
        let head = Head {
            fork: reorg.fork,
            length: reorg.roots.length(),
            signature: reorg.signature,
        };
        self.storage.apply(Changes {
            manifest: reorg.learned.as_ref().map(|verifier| verifier.manifest().clone()),
            truncate: Some(ancestors),
            nodes: reorg.nodes.into_values().collect(),
            head: Some(head),
            ..Changes::default()
        })?;
        self.roots = reorg.roots;
        self.verifier = reorg.learned.or(self.verifier.take());
        Ok(ancestors..old_length)
    }
}
