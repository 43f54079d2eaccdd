//! A [`Core`] as the replicator sees it.

use std::ops::Range;

use super::{Applied, ApplyError, ProveError, Reorganized, Replica};
use crate::core::{Conflict, Core, ProveError as CoreProveError, Reorg, SeekResult, VerifyError};
use crate::messages::Request;
use crate::proof::Proof;
use crate::storage::Storage;

/// A core with the higher fork that is being looked at, if any.
#[derive(Debug)]
pub struct CoreReplica<S> {
    core: Core<S>,
    reorg: Option<Reorg>,
}

impl<S: Storage> CoreReplica<S> {
    /// Lends `core` to a replicator.
    pub fn new(core: Core<S>) -> Self {
        Self { core, reorg: None }
    }

    /// The core.
    pub fn core(&self) -> &Core<S> {
        &self.core
    }

    /// The core, for its owner to change.
    pub fn core_mut(&mut self) -> &mut Core<S> {
        &mut self.core
    }
}

impl<S: Storage> Replica for CoreReplica<S> {
    fn fork(&self) -> u64 {
        self.core.fork()
    }

    fn length(&self) -> u64 {
        self.core.length()
    }

    fn has(&self, block: u64) -> bool {
        self.core.has(block)
    }

    fn next_missing(&self, from: u64) -> u64 {
        self.core.bitfield().first_unset(from)
    }

    fn first_held(&self, from: u64) -> Option<u64> {
        self.core.bitfield().first_set(from)
    }

    fn words(&self, start: u64, words: usize) -> Vec<u32> {
        self.core.bitfield().words(start, words)
    }

    fn has_manifest(&self) -> bool {
        self.core.public_manifest().is_some()
    }

    fn missing_nodes(&self, block: u64) -> u64 {
        // A storage that cannot be read fails again, and is reported, when the answer is stored.
        self.core.missing_nodes(block).unwrap_or(0)
    }

    fn can_prove_from(&self, length: u64) -> bool {
        self.core.can_upgrade_from(length).unwrap_or(false)
    }

    fn prove(&mut self, request: &Request) -> Result<Proof, ProveError> {
        self.core.create_proof(request).map_err(|error| match error {
            CoreProveError::OtherFork { .. }
            | CoreProveError::NotHeld { .. }
            | CoreProveError::MissingNode { .. } => ProveError::NotHere,
            CoreProveError::Invalid(reason) => ProveError::Invalid(reason.to_owned()),
            CoreProveError::Storage(error) => ProveError::Storage(error.to_string()),
        })
    }

    fn apply(&mut self, proof: Proof) -> Result<Applied, ApplyError> {
        let bytes = proof.block.as_ref().map_or(0, |block| block.value.len() as u64);
        let new = proof
            .block
            .as_ref()
            .is_some_and(|block| !self.core.has(block.index));
        let applied = self.core.verify_and_apply(proof).map_err(apply_error)?;
        if applied.other_fork {
            return Err(ApplyError::Stale);
        }
        Ok(Applied {
            block: applied.block.filter(|_| new).map(|index| (index, bytes)),
            upgraded_from: applied.upgraded().then_some(applied.old_length),
            reorganized_from: None,
        })
    }

    fn apply_blocks(&mut self, proofs: Vec<Proof>) -> Vec<Result<Applied, ApplyError>> {
        let of = |proof: &Proof| {
            let block = proof.block.as_ref();
            block.map(|block| (block.index, block.value.len() as u64, self.core.has(block.index)))
        };
        let blocks: Vec<_> = proofs.iter().map(of).collect();
        let applied = match self.core.verify_and_apply_blocks(proofs) {
            Ok(applied) => applied,
            Err(error) => {
                let failed = |_| Err(ApplyError::Storage(error.to_string()));
                return blocks.into_iter().map(failed).collect();
            }
        };
        let result = |(applied, block): (Result<crate::core::Applied, VerifyError>, _)| {
            let applied = applied.map_err(apply_error)?;
            if applied.other_fork {
                return Err(ApplyError::Stale);
            }
            let new = |(index, bytes, held): (u64, u64, bool)| (!held).then_some((index, bytes));
            Ok(Applied {
                block: Option::and_then(block, new),
                ..Applied::default()
            })
        };
        applied.into_iter().zip(blocks).map(result).collect()
    }

    fn conflict(&mut self, proof: &Proof) -> Result<Option<Conflict>, ApplyError> {
        self.core.check_conflict(proof).map_err(apply_error)
    }

    fn reorganize(&mut self, proof: Proof) -> Result<Reorganized, ApplyError> {
        let open = self.reorg.take().filter(|_| proof.upgrade.is_none());
        let reorg = match open {
            Some(mut reorg) => {
                self.core
                    .continue_reorg(&mut reorg, &proof)
                    .map_err(apply_error)?;
                reorg
            }
            None => self.core.begin_reorg(&proof).map_err(apply_error)?,
        };
        if let Some(want) = reorg.want() {
            let (blocks, nodes) = (want.blocks.clone(), want.nodes);
            self.reorg = Some(reorg);
            return Ok(Reorganized::Wants { blocks, nodes });
        }
        let dropped = self.core.apply_reorg(reorg).map_err(apply_error)?;
        Ok(Reorganized::Done(Applied {
            block: None,
            upgraded_from: Some(dropped.end),
            reorganized_from: Some(dropped.start),
        }))
    }

    fn seek_range(&self, bytes: u64, padding: u64) -> Option<Range<u64>> {
        match self.core.seek(bytes, padding) {
            Ok(SeekResult::Within { start, end }) => Some(start..end),
            Ok(SeekResult::Found { .. } | SeekResult::Beyond) | Err(_) => None,
        }
    }
}

fn apply_error(error: VerifyError) -> ApplyError {
    match error {
        VerifyError::Storage(error) => ApplyError::Storage(error.to_string()),
        error if error.is_misfit() => ApplyError::Stale,
        error => ApplyError::Invalid(error.to_string()),
    }
}
