//! A core as commands read and write it: blocks in plain, whether or not they are stored encrypted.
//!
//! With an encryption key every block is sealed on its way in and opened on its way out, as the JS packages do it
//! (`cumulet_hypercore::encryption`); positions in bytes count plain bytes.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cumulet_hyperbee::{AppendBlocks, Blocks, BlocksError, Seen, WatchBlocks};
use cumulet_hypercore::corestore::{CoreHandle, CorestoreError};
use cumulet_hypercore::encryption::{BlockCipher, PADDING};

use crate::secrets::Secret;

/// An open core, with its cipher if its blocks are encrypted.
#[derive(Debug, Clone)]
pub(crate) struct PlainCore {
    handle: CoreHandle,
    cipher: Option<Arc<BlockCipher>>,
}

impl PlainCore {
    /// The core under an encryption key, or without. The core's manifest must be known if it is not empty.
    pub(crate) async fn new(handle: CoreHandle, encryption_key: Option<Secret>) -> Self {
        let cipher = match encryption_key {
            Some(secret) => {
                let compat = handle.with_core(cumulet_hypercore::core::Core::is_compat).await;
                Some(Arc::new(BlockCipher::new(handle.key(), &secret, compat)))
            }
            None => None,
        };
        Self { handle, cipher }
    }

    /// The core as it is stored.
    pub(crate) fn handle(&self) -> &CoreHandle {
        &self.handle
    }

    /// Bytes of all blocks in plain.
    pub(crate) fn plain_bytes(&self) -> u64 {
        let state = self.handle.state();
        let padding = if self.cipher.is_some() { PADDING as u64 } else { 0 };
        state.byte_length.saturating_sub(padding * state.length)
    }

    /// Appends blocks; durable when it returns. Returns the new length.
    pub(crate) async fn append_blocks(&self, blocks: Vec<Bytes>) -> Result<u64, CorestoreError> {
        let Some(cipher) = &self.cipher else {
            return self.handle.append(blocks).await;
        };
        let state = self.handle.state();
        let encrypt = |(index, block): (u64, Bytes)| Bytes::from(cipher.encrypt(index, state.fork, &block));
        self.handle
            .append((state.length..).zip(blocks).map(encrypt).collect())
            .await
    }

    fn open(&self, index: u64, block: Bytes) -> Result<Bytes, BlocksError> {
        match &self.cipher {
            None => Ok(block),
            Some(cipher) => match cipher.decrypt(index, &block) {
                Ok(plain) => Ok(plain.into()),
                Err(source) => Err(BlocksError::Failed {
                    index,
                    source: Box::new(source),
                }),
            },
        }
    }
}

impl Blocks for PlainCore {
    fn length(&self) -> u64 {
        self.handle.length()
    }

    fn fork(&self) -> u64 {
        self.handle.fork()
    }

    async fn get(&self, index: u64) -> Result<Bytes, BlocksError> {
        let block = Blocks::get(&self.handle, index).await?;
        self.open(index, block)
    }

    async fn seek(&self, byte_offset: u64) -> Result<(u64, u64), BlocksError> {
        let padding = if self.cipher.is_some() { PADDING as u64 } else { 0 };
        self.handle.seek_padded(byte_offset, padding).await
    }

    fn prefetch(&self, blocks: Range<u64>) {
        self.handle.prefetch(blocks);
    }
}

impl AppendBlocks for PlainCore {
    fn byte_length(&self) -> u64 {
        self.plain_bytes()
    }

    async fn append(&self, blocks: Vec<Bytes>) -> Result<(), BlocksError> {
        let index = self.length();
        match self.append_blocks(blocks).await {
            Ok(_) => Ok(()),
            Err(error) => Err(BlocksError::Failed {
                index,
                source: Box::new(error),
            }),
        }
    }
}

impl WatchBlocks for PlainCore {
    async fn changed(&self, seen: Seen) -> Result<(), BlocksError> {
        self.handle.changed(seen).await
    }
}
