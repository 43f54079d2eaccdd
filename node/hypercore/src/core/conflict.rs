//! Two signed trees of one fork and length: the writer forked without saying so.

use super::verify::Walk;
use super::{Core, VerifyError};
use crate::crypto::tree_hash;
use crate::flat_tree;
use crate::messages::{Request, RequestUpgrade};
use crate::proof::Proof;
use crate::roots::Roots;
use crate::storage::Storage;

/// The evidence: both proofs are validly signed, and at `length` their trees differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Fork at which both are signed.
    pub fork: u64,
    /// Length at which the trees differ.
    pub length: u64,
    /// Our side, an upgrade from nothing.
    pub ours: Proof,
    /// The other side.
    pub theirs: Proof,
}

impl<S: Storage> Core<S> {
    /// Whether a proof of an upgrade from nothing contradicts what we hold. A proof that says nothing about us (longer
    /// than we are, another fork, or while our manifest is unknown) is no conflict; one that is not validly signed is an
    /// error. What to do about a conflict is the caller's decision: stop reading and writing the core, tell its peers.
    pub fn check_conflict(&self, proof: &Proof) -> Result<Option<Conflict>, VerifyError> {
        let Some(upgrade) = &proof.upgrade else {
            return Ok(None);
        };
        let Some(verifier) = &self.verifier else {
            return Ok(None);
        };
        let length = upgrade.length;
        if upgrade.start != 0 || length == 0 || length > self.length() || proof.fork != self.fork() {
            return Ok(None);
        }
        let walk = Walk::run(&Roots::new(), proof, self.manifest())?;
        verifier.verify(&walk.roots, proof.fork, upgrade.signature.as_deref())?;
        let mut own_roots = Vec::new();
        for index in flat_tree::roots(length) {
            own_roots.push(
                self.storage
                    .node(index)?
                    .ok_or(VerifyError::NotConnected { index })?,
            );
        }
        if tree_hash(&own_roots) == tree_hash(&upgrade.nodes) {
            return Ok(None);
        }
        let request = Request {
            fork: self.fork(),
            upgrade: Some(RequestUpgrade { start: 0, length }),
            ..Request::default()
        };
        let ours = self
            .create_proof(&request)
            .map_err(|_| VerifyError::NotConnected { index: 0 })?;
        Ok(Some(Conflict {
            fork: proof.fork,
            length,
            ours,
            theirs: proof.clone(),
        }))
    }
}
