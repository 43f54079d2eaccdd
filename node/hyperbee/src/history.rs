//! Puts and deletes in the order in which they were written.

use bytes::Bytes;

use crate::entry::BeeError;
use crate::{Bee, Blocks};

/// What an entry did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Set a key. A put of null inside a batch can't be told from a delete, and counts as one.
    Put,
    /// Removed a key.
    Delete,
}

/// One put or delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Which.
    pub operation: Operation,
    /// Its block.
    pub seq: u64,
    /// The key as stored (sub-bees do not shorten it).
    pub key: Bytes,
    /// The value put.
    pub value: Option<Bytes>,
}

/// Reads a bee's history entry by entry.
#[derive(Debug)]
pub struct History<B> {
    bee: Bee<B>,
    from: u64,
    to: u64,
    reverse: bool,
}

impl<B: Blocks> History<B> {
    pub(crate) fn forward(bee: Bee<B>, from: u64, to: u64) -> Self {
        Self {
            bee,
            from,
            to,
            reverse: false,
        }
    }

    pub(crate) fn reverse(bee: Bee<B>, from: u64, to: u64) -> Self {
        Self {
            bee,
            from,
            to,
            reverse: true,
        }
    }

    /// The next entry, none at the end. After an error the same step can be tried again.
    pub async fn next(&mut self) -> Result<Option<HistoryEntry>, BeeError> {
        if self.from >= self.to {
            return Ok(None);
        }
        let seq = if self.reverse { self.to - 1 } else { self.from };
        let block = self.bee.block(seq).await?;
        if self.reverse {
            self.to -= 1;
        } else {
            self.from += 1;
        }
        let operation = if block.node.is_deletion(seq) {
            Operation::Delete
        } else {
            Operation::Put
        };
        Ok(Some(HistoryEntry {
            operation,
            seq,
            key: block.node.key.clone(),
            value: block.node.value.clone(),
        }))
    }
}
