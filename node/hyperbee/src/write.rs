//! The write side: puts and deletes, alone or in batches, as the same bytes that the JS package writes.

mod batch;
mod tree;

use bytes::Bytes;

pub use batch::Batch;
use batch::Opened;

use crate::entry::BeeError;
use crate::message::{Header, Metadata};
use crate::{Bee, Blocks, BlocksError, Entry};

/// Most nodes that a writer keeps loaded between two batches: some 8 MiB. A larger tree is loaded again as far as it is
/// needed.
const MAX_KEPT_NODES: usize = 1 << 14;

/// A core that blocks can be appended to.
pub trait AppendBlocks: Blocks {
    /// Bytes of all blocks, without encryption padding.
    fn byte_length(&self) -> u64;

    /// Appends all blocks at once, or none.
    fn append(&self, blocks: Vec<Bytes>) -> impl Future<Output = Result<(), BlocksError>> + Send;
}

/// How a bee is written.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Metadata of the header, written with the first entry of an empty core.
    pub metadata: Option<Metadata>,
    /// Leave out a put of a value that the key has already. The JS default is to write it again.
    pub skip_equal: bool,
}

/// Writes one bee. It must be the core's only writer while it lives; the exclusive borrows see to the rest.
///
/// Every single put or delete is one append; a [`Batch`] is one append for all of its changes. The tree nodes that were
/// written last stay loaded.
///
/// ```
/// # futures::executor::block_on(async {
/// use cumulet_hyperbee::{BeeWriter, MemoryBlocks, WriteOptions};
///
/// let mut writer = BeeWriter::new(MemoryBlocks::default(), WriteOptions::default());
/// let mut batch = writer.batch();
/// for number in 0..100_u32 {
///     batch.put(number.to_be_bytes(), Some(b"value")).await?;
/// }
/// batch.flush().await?;
/// // Compare and swap: written only if the entry is still the one expected.
/// let seq = writer.put_if(7_u32.to_be_bytes(), Some(b"new"), |old| old.value.as_deref() == Some(b"other")).await?;
/// assert_eq!(seq, None);
/// # Ok::<(), cumulet_hyperbee::BeeError>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct BeeWriter<B> {
    bee: Bee<B>,
    options: WriteOptions,
    /// The tree as of the core's end, if it is loaded.
    opened: Option<Opened<B>>,
}

impl<B: AppendBlocks> BeeWriter<B> {
    /// A writer of the bee stored, or to be stored, in `blocks`.
    pub fn new(blocks: B, options: WriteOptions) -> Self {
        Self {
            bee: Bee::new(blocks),
            options,
            opened: None,
        }
    }

    /// The bee to read, which follows what is written.
    pub fn bee(&self) -> &Bee<B> {
        &self.bee
    }

    /// The core it appends to.
    pub fn blocks(&self) -> &B {
        self.bee.blocks()
    }

    /// Sets a key. Returns the block written, or none if nothing was (see [`WriteOptions::skip_equal`]).
    pub async fn put(
        &mut self,
        key: impl AsRef<[u8]>,
        value: Option<&[u8]>,
    ) -> Result<Option<u64>, BeeError> {
        let mut batch = self.batch();
        let seq = batch.put(key, value).await?;
        batch.flush().await?;
        Ok(seq)
    }

    /// Sets a key if it is new, or if `replace` agrees to replace the entry it has.
    pub async fn put_if(
        &mut self,
        key: impl AsRef<[u8]>,
        value: Option<&[u8]>,
        replace: impl FnOnce(&Entry) -> bool + Send,
    ) -> Result<Option<u64>, BeeError> {
        let mut batch = self.batch();
        let seq = batch.put_if(key, value, replace).await?;
        batch.flush().await?;
        Ok(seq)
    }

    /// Removes a key. Returns the block written, or none if the key was not there.
    pub async fn del(&mut self, key: impl AsRef<[u8]>) -> Result<Option<u64>, BeeError> {
        let mut batch = self.batch();
        let seq = batch.del(key).await?;
        batch.flush().await?;
        Ok(seq)
    }

    /// Removes a key if `remove` agrees to remove the entry it has.
    pub async fn del_if(
        &mut self,
        key: impl AsRef<[u8]>,
        remove: impl FnOnce(&Entry) -> bool + Send,
    ) -> Result<Option<u64>, BeeError> {
        let mut batch = self.batch();
        let seq = batch.del_if(key, remove).await?;
        batch.flush().await?;
        Ok(seq)
    }

    /// Several changes appended as one; readers see all of them or none. Dropping the batch drops them.
    pub fn batch(&mut self) -> Batch<'_, B> {
        Batch::new(self)
    }

    /// Writes the header if the core is empty.
    async fn ensure_header(&self) -> Result<(), BeeError> {
        if self.bee.blocks().length() > 0 {
            return Ok(());
        }
        self.append(vec![Header::new(self.options.metadata.clone()).encode()])
            .await
    }

    async fn append(&self, blocks: Vec<Bytes>) -> Result<(), BeeError> {
        self.bee.blocks().append(blocks).await.map_err(BeeError::Append)
    }
}
