//! Blocks from anywhere behind one type, so that sources of different kinds go into one list.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{Blocks, BlocksError};

/// The blocks of some core: on disk, in memory, of a peer. Clones share them. Costs an allocation for each read.
///
/// ```
/// use cumulet_hyperbee::{AnyBlocks, Bee, MemoryBlocks};
///
/// let bee: Bee<AnyBlocks> = Bee::new(AnyBlocks::new(MemoryBlocks::default()));
/// assert_eq!(bee.version(), 1);
/// ```
#[derive(Clone)]
pub struct AnyBlocks(Arc<dyn Boxed>);

trait Boxed: Send + Sync {
    fn boxed_length(&self) -> u64;
    fn boxed_fork(&self) -> u64;
    fn boxed_get(&self, index: u64) -> BoxFuture<'_, Result<Bytes, BlocksError>>;
    fn boxed_seek(&self, byte_offset: u64) -> BoxFuture<'_, Result<(u64, u64), BlocksError>>;
    fn boxed_prefetch(&self, blocks: Range<u64>);
}

impl<B: Blocks> Boxed for B {
    fn boxed_length(&self) -> u64 {
        self.length()
    }
    fn boxed_fork(&self) -> u64 {
        self.fork()
    }
    fn boxed_get(&self, index: u64) -> BoxFuture<'_, Result<Bytes, BlocksError>> {
        Box::pin(self.get(index))
    }
    fn boxed_seek(&self, byte_offset: u64) -> BoxFuture<'_, Result<(u64, u64), BlocksError>> {
        Box::pin(self.seek(byte_offset))
    }
    fn boxed_prefetch(&self, blocks: Range<u64>) {
        self.prefetch(blocks);
    }
}

impl AnyBlocks {
    /// These blocks.
    pub fn new(blocks: impl Blocks + 'static) -> Self {
        Self(Arc::new(blocks))
    }
}

impl fmt::Debug for AnyBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyBlocks")
            .field("length", &self.0.boxed_length())
            .finish_non_exhaustive()
    }
}

impl Blocks for AnyBlocks {
    fn length(&self) -> u64 {
        self.0.boxed_length()
    }
    fn fork(&self) -> u64 {
        self.0.boxed_fork()
    }
    async fn get(&self, index: u64) -> Result<Bytes, BlocksError> {
        self.0.boxed_get(index).await
    }
    async fn seek(&self, byte_offset: u64) -> Result<(u64, u64), BlocksError> {
        self.0.boxed_seek(byte_offset).await
    }
    fn prefetch(&self, blocks: Range<u64>) {
        self.0.boxed_prefetch(blocks);
    }
}
