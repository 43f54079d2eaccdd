//! Blocks in memory: trees that are built before they are stored, and tests.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Poll, Waker};

use bytes::Bytes;

use crate::{AppendBlocks, Blocks, BlocksError, Seen, WatchBlocks};

/// A growing list of blocks. Clones share it. Nothing is verified or stored.
#[derive(Debug, Clone, Default)]
pub struct MemoryBlocks(Arc<RwLock<State>>);

#[derive(Debug, Default)]
struct State {
    blocks: Vec<Bytes>,
    /// For each block the bytes up to its end.
    ends: Vec<u64>,
    fork: u64,
    wakers: Vec<Waker>,
}

impl State {
    fn extend(&mut self, blocks: impl IntoIterator<Item = Bytes>) {
        let mut end = self.ends.last().copied().unwrap_or_default();
        for block in blocks {
            end += block.len() as u64;
            self.ends.push(end);
            self.blocks.push(block);
        }
        self.wake();
    }

    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

impl MemoryBlocks {
    /// These blocks.
    pub fn new(blocks: impl IntoIterator<Item = Bytes>) -> Self {
        let mut state = State::default();
        state.extend(blocks);
        Self(Arc::new(RwLock::new(state)))
    }

    /// All blocks.
    pub fn to_vec(&self) -> Vec<Bytes> {
        self.read().blocks.clone()
    }

    /// Forgets the blocks from `length` on, as the next fork.
    pub fn truncate(&self, length: u64) {
        let mut state = self.write();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        state.blocks.truncate(length);
        state.ends.truncate(length);
        state.fork += 1;
        state.wake();
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // Nothing in here panics half way but for lack of memory, so a poisoned lock still holds a whole list.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blocks for MemoryBlocks {
    fn length(&self) -> u64 {
        self.read().blocks.len() as u64
    }

    fn fork(&self) -> u64 {
        self.read().fork
    }

    async fn get(&self, index: u64) -> Result<Bytes, BlocksError> {
        let position = usize::try_from(index).unwrap_or(usize::MAX);
        let state = self.read();
        let block = state.blocks.get(position).cloned();
        block.ok_or(BlocksError::OutOfRange {
            index,
            length: state.blocks.len() as u64,
        })
    }

    async fn seek(&self, byte_offset: u64) -> Result<(u64, u64), BlocksError> {
        let state = self.read();
        let block = state.ends.partition_point(|&end| end <= byte_offset);
        let start = block
            .checked_sub(1)
            .and_then(|before| state.ends.get(before))
            .copied()
            .unwrap_or_default();
        let length = state.blocks.len() as u64;
        if block as u64 == length && byte_offset > start {
            return Err(BlocksError::OutOfRange {
                index: byte_offset,
                length,
            });
        }
        Ok((block as u64, byte_offset - start))
    }
}

impl WatchBlocks for MemoryBlocks {
    async fn changed(&self, seen: Seen) -> Result<(), BlocksError> {
        std::future::poll_fn(|context| {
            let mut state = self.write();
            let now = Seen {
                fork: state.fork,
                length: state.blocks.len() as u64,
            };
            if now != seen {
                return Poll::Ready(Ok(()));
            }
            // One waker per waiting task; those of tasks that gave up go with the next change.
            if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                state.wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

impl AppendBlocks for MemoryBlocks {
    fn byte_length(&self) -> u64 {
        self.read().ends.last().copied().unwrap_or_default()
    }

    async fn append(&self, blocks: Vec<Bytes>) -> Result<(), BlocksError> {
        self.write().extend(blocks);
        Ok(())
    }
}
