//! Checking the proofs of many blocks at once: their leaves are hashed side by side, and they are stored by one change.

use std::collections::HashSet;

use super::Core;
use super::verify::{Applied, VerifyError, hash_up};
use crate::crypto::leaf_hashes;
use crate::node::Node;
use crate::proof::{BlockProof, Proof};
use crate::roots::{NodeQueue, TreeError};
use crate::storage::{Changes, Storage, StorageError};

/// What became of each proof, in their order.
pub type BlockResults = Vec<Result<Applied, VerifyError>>;

impl<S: Storage> Core<S> {
    /// As [`Core::verify_and_apply`] of each of these proofs, for proofs of one block and nothing else; others are refused. Those
    /// that hold are stored together, all or none of them, whatever becomes of the others.
    ///
    /// # Errors
    /// The storage's; nothing is stored then.
    pub fn verify_and_apply_blocks(&mut self, proofs: Vec<Proof>) -> Result<BlockResults, StorageError> {
        let values = proofs.iter().filter_map(|proof| proof.block.as_ref());
        let mut hashes = leaf_hashes(values.map(|block| &block.value[..])).into_iter();
        let mut changes = Changes::default();
        let mut taken = HashSet::new();
        let mut results = Vec::with_capacity(proofs.len());
        for proof in proofs {
            let whole = proof.upgrade.is_some() || proof.hash.is_some() || proof.seek.is_some();
            let (fork, manifest) = (proof.fork, proof.manifest.is_some());
            let hash = proof.block.as_ref().and_then(|_| hashes.next());
            let result = match (proof.block, hash) {
                (Some(block), Some(hash)) if !whole && !manifest => {
                    let leaf = Node {
                        index: block.index.saturating_mul(2),
                        size: block.value.len() as u64,
                        hash,
                    };
                    self.check_block(fork, &block, leaf, &mut changes.nodes)
                        .map(|applied| (applied, block))
                }
                _ => Err(VerifyError::NotAsked),
            };
            results.push(match result {
                Err(VerifyError::Storage(error)) => return Err(error),
                Err(error) => Err(error),
                Ok((applied, block)) => {
                    if applied.block.is_some() && !self.has(block.index) && taken.insert(block.index) {
                        changes.blocks.push((block.index, block.value));
                    }
                    Ok(applied)
                }
            });
        }
        // Neighbours share the upper part of their paths, and both were proven.
        changes.nodes.sort_unstable_by_key(|node| node.index);
        changes.nodes.dedup_by_key(|node| node.index);
        self.storage.apply(changes)?;
        Ok(results)
    }

    /// Checks the proof of one block and adds its nodes to `nodes`, if they hold.
    fn check_block(
        &self,
        fork: u64,
        block: &BlockProof,
        leaf: Node,
        nodes: &mut Vec<Node>,
    ) -> Result<Applied, VerifyError> {
        let length = self.length();
        let applied = Applied {
            other_fork: fork != self.fork(),
            old_length: length,
            length,
            ..Applied::default()
        };
        if applied.other_fork {
            return Ok(applied);
        }
        if block.index >= length {
            // Its leaf would be compared with nothing.
            return Err(VerifyError::NotConnected {
                index: block.index.checked_mul(2).ok_or(TreeError::TooLarge)?,
            });
        }
        let start = nodes.len();
        let top =
            hash_up(leaf, NodeQueue::new(&block.nodes, None), nodes).and_then(|top| self.check_held(&top));
        if let Err(error) = top {
            nodes.truncate(start);
            return Err(error);
        }
        Ok(Applied {
            block: Some(block.index),
            ..applied
        })
    }
}
