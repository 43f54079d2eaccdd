//! Puts and deletes in the order in which they were written.

use bytes::Bytes;

use crate::entry::BeeError;
use crate::{Bee, Blocks, WatchBlocks};

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
    left: Option<u64>,
}

/// Blocks fetched at once ahead of the one read: hides a round trip behind some entries.
const AHEAD: u64 = 32;

impl<B: Blocks> History<B> {
    pub(crate) fn new(bee: Bee<B>, from: u64, to: u64, reverse: bool) -> Self {
        Self {
            bee,
            from,
            to,
            reverse,
            left: None,
        }
    }

    /// At most so many entries.
    #[must_use]
    pub fn limit(self, entries: u64) -> Self {
        Self {
            left: Some(entries),
            ..self
        }
    }

    /// The next entry, none at the end. After an error the same step can be tried again.
    pub async fn next(&mut self) -> Result<Option<HistoryEntry>, BeeError> {
        if self.from >= self.to || self.left == Some(0) {
            return Ok(None);
        }
        let seq = if self.reverse { self.to - 1 } else { self.from };
        if seq % AHEAD == 0 {
            let ahead = if self.reverse {
                seq.saturating_sub(AHEAD).max(self.from)..seq + 1
            } else {
                seq..self.to.min(seq + AHEAD)
            };
            self.bee.fetch(ahead.collect()).await;
        }
        let block = self.bee.block(seq).await?;
        let deleted = block
            .parts
            .is_deletion(seq)
            .map_err(|source| BeeError::Decode { seq, source })?;
        if self.reverse {
            self.to -= 1;
        } else {
            self.from += 1;
        }
        self.left = self.left.map(|left| left - 1);
        let entry = block.entry();
        Ok(Some(HistoryEntry {
            operation: if deleted {
                Operation::Delete
            } else {
                Operation::Put
            },
            seq,
            key: entry.key,
            value: entry.value,
        }))
    }
}

impl<B: WatchBlocks> History<B> {
    /// The next entry, waiting for one to be appended when there is none yet. None only after the limit. For histories that
    /// go forward; one that goes back ends as [`History::next`] does.
    ///
    /// A truncation of the core below what was read goes unnoticed until the core is longer again: watch the fork.
    pub async fn next_live(&mut self) -> Result<Option<HistoryEntry>, BeeError> {
        loop {
            if self.reverse || self.left == Some(0) || self.from < self.to {
                return self.next().await;
            }
            let seen = self.bee.seen();
            let length = self.bee.blocks().length();
            if length > self.to {
                self.to = length;
                continue;
            }
            self.bee.changed(seen).await?;
        }
    }
}
