//! A core at one moment, read while the core goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::cell::Cell;
use super::handle::CoreHandle;
use crate::blocks::{Blocks, BlocksError};

/// A core's first blocks, as they were when the snapshot was made. Blocks that are not held are fetched from peers.
///
/// A truncation takes the blocks behind it from the snapshot as well: reading one is [`BlocksError::Replaced`], never another
/// block. (JavaScript differs: what was held when the snapshot was made stays readable until it is closed.)
#[derive(Debug, Clone)]
pub struct Snapshot {
    core: CoreHandle,
    fork: u64,
    length: u64,
    /// Shortest length that the core had since.
    kept: Arc<AtomicU64>,
}

impl Snapshot {
    pub(super) fn new(core: &CoreHandle, cell: &mut Cell, length: u64) -> Self {
        let kept = Arc::new(AtomicU64::new(length));
        cell.watch_cuts(&kept);
        Self {
            core: core.clone(),
            fork: cell.replica.core().fork(),
            length,
            kept,
        }
    }

    /// Blocks that were not replaced since: as many as the snapshot has while the core is not truncated below its length.
    pub fn kept_length(&self) -> u64 {
        self.kept.load(Ordering::SeqCst)
    }

    fn check(&self, index: u64) -> Result<(), BlocksError> {
        let length = self.length;
        if index >= length {
            return Err(BlocksError::OutOfRange { index, length });
        }
        if index >= self.kept_length() {
            return Err(BlocksError::Replaced { index });
        }
        Ok(())
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
        self.check(index)?;
        let block = self.core.get(index).await;
        // It may have been replaced while it was waited for.
        self.check(index)?;
        block
    }

    async fn seek(&self, byte_offset: u64) -> Result<(u64, u64), BlocksError> {
        let beyond = BlocksError::OutOfRange {
            index: byte_offset,
            length: self.length,
        };
        let (block, offset) = match self.core.seek(byte_offset).await {
            // The core may be shorter by now.
            Err(BlocksError::OutOfRange { .. }) if self.kept_length() < self.length => {
                return Err(BlocksError::Replaced { index: byte_offset });
            }
            found => found?,
        };
        // Where the blocks end is a place, too.
        if block > self.length || (block == self.length && offset > 0) {
            return Err(beyond);
        }
        match block.checked_sub(u64::from(block == self.length)) {
            Some(last) if self.length > 0 => self.check(last)?,
            _ => {}
        }
        Ok((block, offset))
    }
}
