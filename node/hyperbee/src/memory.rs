//! Blocks in memory: trees that are built before they are stored, and tests.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;

use crate::{AppendBlocks, Blocks, BlocksError};

/// A growing list of blocks. Clones share it. Nothing is verified or stored.
#[derive(Debug, Clone, Default)]
pub struct MemoryBlocks(Arc<RwLock<Vec<Bytes>>>);

impl MemoryBlocks {
    /// These blocks.
    pub fn new(blocks: impl IntoIterator<Item = Bytes>) -> Self {
        Self(Arc::new(RwLock::new(blocks.into_iter().collect())))
    }

    /// All blocks.
    pub fn to_vec(&self) -> Vec<Bytes> {
        self.read().clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Bytes>> {
        // An append is one statement, so a poisoned lock still holds a whole list.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blocks for MemoryBlocks {
    fn length(&self) -> u64 {
        self.read().len() as u64
    }

    async fn get(&self, index: u64) -> Result<Bytes, BlocksError> {
        let position = usize::try_from(index).unwrap_or(usize::MAX);
        self.read().get(position).cloned().ok_or(BlocksError::OutOfRange {
            index,
            length: self.length(),
        })
    }

    async fn seek(&self, byte_offset: u64) -> Result<(u64, u64), BlocksError> {
        let mut left = byte_offset;
        for (index, block) in self.read().iter().enumerate() {
            let length = block.len() as u64;
            if left < length {
                return Ok((index as u64, left));
            }
            left -= length;
        }
        let length = self.length();
        if left == 0 {
            Ok((length, 0))
        } else {
            Err(BlocksError::OutOfRange {
                index: byte_offset,
                length,
            })
        }
    }
}

impl AppendBlocks for MemoryBlocks {
    fn byte_length(&self) -> u64 {
        self.read().iter().map(|block| block.len() as u64).sum()
    }

    async fn append(&self, blocks: Vec<Bytes>) -> Result<(), BlocksError> {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(blocks);
        Ok(())
    }
}
