//! A core at one moment, read while the core goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::cell::{BoxedCore, Cell};
use super::handle::{CoreHandle, failed};
use crate::blocks::{Blocks, BlocksError};
use crate::core::{SeekResult, seek_below};
use crate::flat_tree;
use crate::node::Node;
use crate::storage::{Remains, StorageError};

/// A core's first blocks, as they were when the snapshot was made. Blocks that are not held are fetched from peers.
///
/// What a truncation takes stays readable as long as the snapshot lasts, if it was held when the core was truncated: it is kept
/// on disk where it lies. What was not held is [`BlocksError::Replaced`], never another block; so is everything of a truncation
/// that sixteen others have followed, all of them below snapshots that last.
#[derive(Debug, Clone)]
pub struct Snapshot {
    core: CoreHandle,
    fork: u64,
    length: u64,
    kept: Arc<Kept>,
}

/// What truncations left of a snapshot.
#[derive(Debug)]
pub(super) struct Kept {
    /// Shortest length that the core had since.
    length: AtomicU64,
    /// For each truncation below that, where what it took ends, the last the lowest.
    taken: Mutex<Vec<(u64, Arc<dyn Remains>)>>,
}

impl Kept {
    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::SeqCst)
    }

    /// The core was cut to a length; `remains` is what that took.
    pub(super) fn cut(&self, length: u64, remains: Option<&Arc<dyn Remains>>) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let end = self.length();
        if length >= end {
            return;
        }
        if let Some(remains) = remains {
            taken.push((end, remains.clone()));
        }
        self.length.store(length, Ordering::SeqCst);
    }

    /// What holds a block that a truncation took. If nothing was left of that truncation, an earlier one's is given, which
    /// lacks the block.
    fn remains(&self, block: u64) -> Option<Arc<dyn Remains>> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of = taken.iter().rev().find(|(end, _)| block < *end);
        of.map(|(_, remains)| remains.clone())
    }
}

impl Snapshot {
    pub(super) fn new(core: &CoreHandle, cell: &mut Cell, length: u64) -> Self {
        let kept = Arc::new(Kept {
            length: AtomicU64::new(length),
            taken: Mutex::default(),
        });
        cell.watch_cuts(&kept);
        Self {
            core: core.clone(),
            fork: cell.replica.core().fork(),
            length,
            kept,
        }
    }

    /// Blocks that the core itself still has: as many as the snapshot while the core is not truncated below its length.
    pub fn kept_length(&self) -> u64 {
        self.kept.length()
    }

    /// A node of the tree that the snapshot has.
    fn node(&self, core: &BoxedCore, index: u64) -> Result<Option<Node>, StorageError> {
        let end = flat_tree::end_block(index);
        if end <= self.kept.length() {
            return core.node(index);
        }
        let remains = self.kept.remains(end - 1);
        remains.map_or(Ok(None), |remains| remains.node(index))
    }

    /// Where a byte lies, as far as it is known here.
    fn seek_here(&self, core: &BoxedCore, byte_offset: u64) -> Result<Option<SeekResult>, StorageError> {
        let mut roots = Vec::new();
        for root in flat_tree::roots(self.length) {
            let Some(node) = self.node(core, root)? else {
                return Ok(None);
            };
            roots.push(node);
        }
        seek_below(&roots, byte_offset, 0, |index| self.node(core, index)).map(Some)
    }
}

impl Blocks for Snapshot {
    fn length(&self) -> u64 {
        self.length
    }

    fn fork(&self) -> u64 {
        self.fork
    }

    async fn get(&self, index: u64) -> Result<Bytes, BlocksError> {
        let length = self.length;
        if index >= length {
            return Err(BlocksError::OutOfRange { index, length });
        }
        if index < self.kept_length() {
            let block = self.core.get(index).await;
            // It may have been replaced while it was waited for.
            if index < self.kept_length() {
                return block;
            }
        }
        if self.core.is_closed() {
            return Err(BlocksError::Closed);
        }
        let remains = self.kept.remains(index);
        let block = remains.map_or(Ok(None), |remains| remains.block(index));
        let block = block.map_err(|error| failed(index, error))?;
        block.ok_or(BlocksError::Replaced { index })
    }

    async fn seek(&self, byte_offset: u64) -> Result<(u64, u64), BlocksError> {
        let found = self.core.with_core(|core| self.seek_here(core, byte_offset));
        let found = found.await.map_err(|error| failed(byte_offset, error))?;
        let (index, length) = (byte_offset, self.length);
        match found {
            Some(SeekResult::Found { block, offset }) => return Ok((block, offset)),
            Some(SeekResult::Beyond) => return Err(BlocksError::OutOfRange { index, length }),
            // What the core still has is learnt from peers; what was taken from it is not.
            Some(SeekResult::Within { start, .. }) if start >= self.kept_length() => {
                return Err(BlocksError::Replaced { index });
            }
            Some(SeekResult::Within { .. }) | None => {}
        }
        match self.core.seek(byte_offset).await {
            // The core may be shorter by now.
            Err(BlocksError::OutOfRange { .. }) if self.kept_length() < length => {
                Err(BlocksError::Replaced { index })
            }
            Ok((block, offset)) if block > length || (block == length && offset > 0) => {
                Err(BlocksError::OutOfRange { index, length })
            }
            // The core may have other blocks there.
            Ok((block, _)) if block >= self.kept_length() && self.kept_length() < length => {
                Err(BlocksError::Replaced { index })
            }
            found => found,
        }
    }
}
