//! What reading a bee yields, and how it fails.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::BlocksError;
use crate::message::{ChildPointer, Level, Parts};
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
            BlocksError::NotAvailable { .. }
            | BlocksError::OutOfRange { .. }
            | BlocksError::Replaced { .. } => Self::Unavailable,
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
    pub(crate) parts: Parts,
    /// Bytes of the block, for the cache's account.
    pub(crate) size: usize,
}

impl Block {
    pub(crate) fn decode(seq: u64, block: &Bytes) -> Result<Self, BeeError> {
        let parts = Parts::decode(block).map_err(|source| BeeError::Decode { seq, source })?;
        Ok(Self {
            seq,
            parts,
            size: block.len(),
        })
    }

    pub(crate) fn key(&self) -> &Bytes {
        &self.parts.key
    }

    pub(crate) fn entry(&self) -> Entry {
        Entry {
            seq: self.seq,
            key: self.parts.key.clone(),
            value: self.parts.value.clone(),
        }
    }
}

/// Longest key that a node keeps a copy of, so that its size is bounded when it is made.
const MAX_INLINE_KEY: usize = 64;

/// A key of a tree node: where it is, and its bytes once it was compared.
#[derive(Debug)]
pub(crate) struct KeySlot {
    pub(crate) seq: u64,
    bytes: OnceLock<Box<[u8]>>,
}

impl KeySlot {
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        self.bytes.get().map(AsRef::as_ref)
    }

    /// Keeps the key, unless it is long: those are found through their blocks.
    pub(crate) fn learn(&self, key: &[u8]) {
        if key.len() <= MAX_INLINE_KEY {
            self.bytes.get_or_init(|| key.into());
        }
    }
}

/// A node of the B-tree: one level of a block's index, checked.
#[derive(Debug)]
pub(crate) struct TreeNode {
    keys: Box<[KeySlot]>,
    children: Box<[ChildPointer]>,
}

impl TreeNode {
    /// Level `offset` of `block`, checked: its counts are those of a B-tree, and it points backwards or to its
    /// own block. Only levels in use are checked, since batches of the JS package leave levels behind that nothing
    /// points to, with references that were changed after them. None if there are fewer levels.
    pub(crate) fn new(block: &Block, offset: u64) -> Result<Option<Self>, BeeError> {
        let seq = block.seq;
        let damaged = |what| Err(BeeError::Damaged { seq, what });
        let level = block
            .parts
            .level(offset)
            .map_err(|source| BeeError::Decode { seq, source })?;
        let Some(Level { keys, children }) = level else {
            return Ok(None);
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
        let slot = |seq| KeySlot {
            seq,
            bytes: OnceLock::new(),
        };
        Ok(Some(Self {
            keys: keys.into_iter().map(slot).collect(),
            children: children.into(),
        }))
    }

    pub(crate) fn keys(&self) -> &[KeySlot] {
        &self.keys
    }

    pub(crate) fn children(&self) -> &[ChildPointer] {
        &self.children
    }

    /// Most bytes it can come to take.
    pub(crate) fn bytes(&self) -> usize {
        self.keys.len() * (size_of::<KeySlot>() + MAX_INLINE_KEY) + size_of_val(self.children.as_ref())
    }
}
