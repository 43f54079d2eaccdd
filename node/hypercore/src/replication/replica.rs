//! What the replicator needs of a core.

use std::ops::Range;

use crate::core::Conflict;
use crate::messages::Request;
use crate::proof::Proof;

/// Why a request gets no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The block or node isn't here.
    #[error("not stored here")]
    NotHere,
    /// No proof of this shape exists.
    #[error("the request makes no sense: {0}")]
    Invalid(String),
    /// The storage failed.
    #[error("failed to read the core: {0}")]
    Storage(String),
}

/// Why a proof was not applied. Nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It was made for a tree that ours has outgrown; ask again.
    #[error("the proof is for another state of the core")]
    Stale,
    /// It is false.
    #[error("{0}")]
    Invalid(String),
    /// The storage failed.
    #[error("failed to write the core: {0}")]
    Storage(String),
}

/// What applying a proof changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// The block that is held now and was not before, and its bytes.
    pub block: Option<(u64, u64)>,
    /// The length before, if the tree grew or was rewritten.
    pub upgraded_from: Option<u64>,
    /// The first block that changed, if the tree was rewritten.
    pub reorganized_from: Option<u64>,
}

/// What became of a proof of a higher fork.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reorganized {
    /// The core has moved to the new fork.
    Done(Applied),
    /// The fork point is not known yet: the hash of the leaf of any of these blocks is needed, with this many levels.
    Wants {
        /// Blocks of which one will do.
        blocks: Range<u64>,
        /// Levels above the leaf.
        nodes: u64,
    },
}

/// A core as the replicator sees it. Everything it is given is verified before it is stored, whole or not at all.
pub trait Replica {
    /// How often the core was truncated.
    fn fork(&self) -> u64;
    /// Blocks that the writer signed.
    fn length(&self) -> u64;
    /// The first block that isn't held.
    fn contiguous_length(&self) -> u64 {
        self.next_missing(0).min(self.length())
    }
    /// Whether a block is held.
    fn has(&self, block: u64) -> bool;
    /// The first block from `from` on that isn't held; may lie beyond the length.
    fn next_missing(&self, from: u64) -> u64;
    /// The first block from `from` on that is held.
    fn first_held(&self, from: u64) -> Option<u64>;
    /// Whether a manifest is known that travels on the wire (not a compat core's).
    fn has_manifest(&self) -> bool;
    /// Levels between a block's leaf and the nearest stored node, the leaf included; 0 beyond the length.
    fn missing_nodes(&self, block: u64) -> u64;
    /// Whether an upgrade from that length to ours can be proven.
    fn can_prove_from(&self, length: u64) -> bool;
    /// The proof that a request asks for; the request's fork is ours.
    fn prove(&mut self, request: &Request) -> Result<Proof, ProveError>;
    /// Verifies and stores a proof of our fork.
    fn apply(&mut self, proof: Proof) -> Result<Applied, ApplyError>;
    /// As [`Replica::apply`] for each of several proofs of one block and nothing else, in their order.
    fn apply_blocks(&mut self, proofs: Vec<Proof>) -> Vec<Result<Applied, ApplyError>> {
        proofs.into_iter().map(|proof| self.apply(proof)).collect()
    }
    /// Verifies a whole tree of a higher fork (a proof with an upgrade), or goes on with what the last such proof left
    /// open; replaces our tree by it once the blocks that both share are known, and keeps those.
    fn reorganize(&mut self, proof: Proof) -> Result<Reorganized, ApplyError>;
    /// The evidence, if a validly signed upgrade from nothing contradicts the tree that is held.
    fn conflict(&mut self, _proof: &Proof) -> Result<Option<Conflict>, ApplyError> {
        Ok(None)
    }
    /// The blocks among which a byte position lies, while the tree nodes that tell more are not held.
    fn seek_range(&self, bytes: u64, padding: u64) -> Option<Range<u64>>;
    /// The bits of `32 * words` blocks from `start` (a multiple of 32) on, lowest first.
    fn words(&self, start: u64, words: usize) -> Vec<u32>;
}
