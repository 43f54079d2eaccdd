//! Bees in the cores of a corestore.

use std::ops::Range;

use bytes::Bytes;
use cumulet_hypercore::corestore::CoreHandle;

use crate::{AppendBlocks, Blocks, BlocksError, LocalBlocks, Seen, WatchBlocks};

/// For cores without block encryption: the handle counts bytes as they are stored.
impl AppendBlocks for CoreHandle {
    fn byte_length(&self) -> u64 {
        self.state().byte_length
    }

    async fn append(&self, blocks: Vec<Bytes>) -> Result<(), BlocksError> {
        let index = self.length();
        match Self::append(self, blocks).await {
            Ok(_) => Ok(()),
            Err(error) => Err(BlocksError::Failed {
                index,
                source: Box::new(error),
            }),
        }
    }
}

impl WatchBlocks for CoreHandle {
    async fn changed(&self, seen: Seen) -> Result<(), BlocksError> {
        let mut state = self.watch();
        let differs = state.wait_for(|state| (state.fork, state.length) != (seen.fork, seen.length));
        let closed = self.closed();
        let (differs, closed) = (std::pin::pin!(differs), std::pin::pin!(closed));
        match futures::future::select(differs, closed).await {
            futures::future::Either::Left((Ok(_), _)) => Ok(()),
            _ => Err(BlocksError::Closed),
        }
    }
}

impl LocalBlocks for CoreHandle {
    async fn has(&self, blocks: Range<u64>) -> bool {
        self.with_core(|core| core.bitfield().contains_range(blocks))
            .await
    }

    async fn clear(&self, blocks: Range<u64>) -> Result<(), BlocksError> {
        let index = blocks.start;
        let cleared = Self::clear(self, blocks).await;
        cleared.map_err(|source| BlocksError::Failed {
            index,
            source: Box::new(source),
        })
    }
}
