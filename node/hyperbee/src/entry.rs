//! What reading a bee yields, and how it fails.

use std::sync::Arc;

use bytes::Bytes;

use crate::BlocksError;
use crate::message::{ChildPointer, Level, Node};
use crate::protobuf::DecodeError;

/// Most keys of a stored node: one that reaches nine is split (the format's T is 5, its nodes have 2T - 2 keys).
pub(crate) const MAX_KEYS: usize = 8;

/// One key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Block of the core that holds it; a newer entry has a higher one.
    pub seq: u64,
    /// The key; inside a sub-bee without the sub-bee's prefix.
    pub key: Bytes,
    /// The value; none if null was put.
    pub value: Option<Bytes>,
}

/// Why a bee can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BeeError {
    /// The core did not give a block.
    #[error("failed to read block {seq}")]
    Block {
        /// Number of the block.
        seq: u64,
        /// What the core said.
        #[source]
        source: BlocksError,
    },
    /// A block is not a message of a bee.
    #[error("failed to decode block {seq}")]
    Decode {
        /// Number of the block.
        seq: u64,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// A block's index does not describe a B-tree: a damaged or hostile writer.
    #[error("failed to walk the tree: block {seq} {what}")]
    Damaged {
        /// Number of the block.
        seq: u64,
        /// What it breaks.
        what: &'static str,
    },
    /// The version lies inside a batch, where blocks hold no root.
    #[error("version {version} lies inside a batch and has no tree of its own")]
    InsideBatch {
        /// The version asked for.
        version: u64,
    },
    /// The core would not append.
    #[error("failed to append")]
    Append(#[source] BlocksError),
    /// An earlier operation of this batch failed half way: its tree is not to be trusted.
    #[error("the batch failed earlier and can't go on")]
    BrokenBatch,
}

/// What can be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Blocks are not here and nobody who has them is reachable: try again later.
    Unavailable,
    /// What was asked for can't be: ask for something else.
    Invalid,
    /// The archive's own data is wrong: its writer is broken or hostile.
    Damaged,
    /// Storage or network below failed.
    Failed,
}

impl ErrorKind {
    /// The kind of a failed read of blocks.
    pub fn of_blocks(error: &BlocksError) -> Self {
        match error {
            BlocksError::NotAvailable { .. } | BlocksError::OutOfRange { .. } => Self::Unavailable,
            BlocksError::Closed | BlocksError::Failed { .. } => Self::Failed,
        }
    }
}

impl BeeError {
    /// What can be done about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Block { source, .. } | Self::Append(source) => ErrorKind::of_blocks(source),
            Self::Decode { .. } | Self::Damaged { .. } => ErrorKind::Damaged,
            Self::InsideBatch { .. } | Self::BrokenBatch => ErrorKind::Invalid,
        }
    }
}

/// A decoded block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) seq: u64,
    pub(crate) node: Node,
    /// Bytes of the block, for the cache's account.
    pub(crate) size: usize,
}

impl Block {
    pub(crate) fn decode(seq: u64, block: &Bytes) -> Result<Self, BeeError> {
        let node = Node::decode(block).map_err(|source| BeeError::Decode { seq, source })?;
        Ok(Self {
            seq,
            node,
            size: block.len(),
        })
    }

    pub(crate) fn entry(&self) -> Entry {
        Entry {
            seq: self.seq,
            key: self.node.key.clone(),
            value: self.node.value.clone(),
        }
    }
}

/// A node of the B-tree: one level of a block's index, checked.
#[derive(Debug, Clone)]
pub(crate) struct TreeNode {
    pub(crate) block: Arc<Block>,
    offset: usize,
}

impl TreeNode {
    /// Level `pointer.offset` of `block`, checked: its counts are those of a B-tree, and it points backwards or to its
    /// own block. Only levels in use are checked, since batches of the JS package leave levels behind that nothing
    /// points to, with references that were changed after them.
    pub(crate) fn new(block: Arc<Block>, pointer: ChildPointer) -> Result<Self, BeeError> {
        let seq = block.seq;
        let damaged = |what| Err(BeeError::Damaged { seq, what });
        let offset = usize::try_from(pointer.offset).unwrap_or(usize::MAX);
        let Some(Level { keys, children }) = block.node.levels.get(offset) else {
            return damaged("has fewer nodes than a pointer to it says");
        };
        if keys.len() > MAX_KEYS {
            return damaged("has a node with more keys than the format allows");
        }
        if !children.is_empty() && children.len() != keys.len() + 1 {
            return damaged("has a node whose children don't fit its keys");
        }
        let mut seqs = keys.iter().copied().chain(children.iter().map(|child| child.seq));
        if seqs.any(|other| other == 0 || other > seq) {
            return damaged("points outside of the blocks before it");
        }
        Ok(Self { block, offset })
    }

    pub(crate) fn keys(&self) -> &[u64] {
        self.block
            .node
            .levels
            .get(self.offset)
            .map_or(&[], |level| &level.keys)
    }

    pub(crate) fn children(&self) -> &[ChildPointer] {
        self.block
            .node
            .levels
            .get(self.offset)
            .map_or(&[], |level| &level.children)
    }
}
