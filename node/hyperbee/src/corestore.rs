//! Bees in the cores of a corestore.

use bytes::Bytes;
use cumulet_hypercore::corestore::CoreHandle;

use crate::{AppendBlocks, Blocks, BlocksError};

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
