//! Writing blobs to the end of the blob core.
//!
//! Where a blob lies follows from what is before it, so the blocks of several blobs can wait in memory and be appended
//! together: an append costs a signature and a wait for the disk, whatever its size.

use bytes::{Bytes, BytesMut};
use cumulet_hyperbee::{AppendBlocks, BeeError};

use crate::blobs::BlobPointer;
use crate::drive::DriveError;

/// Bytes that wait before they are appended: bounds the memory of a writer, and makes waits for the disk rare.
const APPEND_BYTES: usize = 8 << 20;
/// Blocks that wait before they are appended, for blobs of small blocks.
const APPEND_BLOCKS: usize = 4096;

/// Large blocks are appended up to a multiple of this number: 8 MiB of blocks of 64 KiB are a subtree of the core then, which a storage
/// may keep as it comes.
const ALIGNED_BLOCKS: u64 = 128;
/// What a large block has.
const LARGE_BYTES: usize = 32 << 10;

/// The end of the blob core, with blocks that are not appended yet.
#[derive(Debug)]
pub(crate) struct Tail {
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    /// Ends of the core as they will be.
    length: u64,
    byte_length: u64,
    /// Whether an append failed: what waited is gone, and what was counted never came.
    broken: bool,
}

impl Tail {
    pub(crate) fn of<B: AppendBlocks>(core: &B) -> Self {
        Self {
            waiting: Vec::new(),
            waiting_bytes: 0,
            length: core.length(),
            byte_length: core.byte_length(),
            broken: false,
        }
    }

    async fn push<B: AppendBlocks>(&mut self, core: &B, block: Bytes) -> Result<(), DriveError> {
        self.length += 1;
        self.byte_length += block.len() as u64;
        self.waiting_bytes += block.len();
        self.waiting.push(block);
        let is_full = self.waiting_bytes >= APPEND_BYTES || self.waiting.len() >= APPEND_BLOCKS;
        if is_full || self.ends_in_place() {
            self.append(core).await?;
        }
        Ok(())
    }

    /// Whether what waits are large blocks that did not begin at a subtree's start, up to where one starts.
    fn ends_in_place(&self) -> bool {
        let start = self.length - self.waiting.len() as u64;
        self.length.is_multiple_of(ALIGNED_BLOCKS)
            && !start.is_multiple_of(ALIGNED_BLOCKS)
            && self.waiting_bytes >= self.waiting.len() * LARGE_BYTES
    }

    /// Appends what waits.
    pub(crate) async fn append<B: AppendBlocks>(&mut self, core: &B) -> Result<(), DriveError> {
        if self.broken {
            return Err(DriveError::Bee(BeeError::BrokenBatch));
        }
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.broken = true;
        self.waiting_bytes = 0;
        let appended = core.append(std::mem::take(&mut self.waiting)).await;
        appended.map_err(|source| DriveError::Bee(BeeError::Append(source)))?;
        self.broken = false;
        Ok(())
    }
}

#[derive(Debug)]
enum Place<'a> {
    Own(Tail),
    Batch(&'a mut Tail),
}

/// Writes one blob to the end of the blob core, cutting what it is given into blocks.
///
/// Holds at most 8 MiB and a block. A writer that is dropped leaves the blocks it has appended, which nothing names.
#[derive(Debug)]
pub struct BlobWriter<'a, B> {
    core: &'a B,
    tail: Place<'a>,
    block_size: usize,
    block_offset: u64,
    byte_offset: u64,
    partial: BytesMut,
}

impl<'a, B: AppendBlocks> BlobWriter<'a, B> {
    /// A writer of a blob in this core, which nobody else may append to meanwhile. `block_size` is at least 1.
    pub fn new(core: &'a B, block_size: usize) -> Self {
        Self::at(core, Place::Own(Tail::of(core)), block_size)
    }

    pub(crate) fn in_batch(core: &'a B, tail: &'a mut Tail, block_size: usize) -> Self {
        Self::at(core, Place::Batch(tail), block_size)
    }

    fn at(core: &'a B, mut tail: Place<'a>, block_size: usize) -> Self {
        let (block_offset, byte_offset) = {
            let tail = tail.get();
            (tail.length, tail.byte_length)
        };
        Self {
            core,
            tail,
            block_size: block_size.max(1),
            block_offset,
            byte_offset,
            partial: BytesMut::new(),
        }
    }

    /// Appends bytes to the blob.
    pub async fn write(&mut self, mut data: &[u8]) -> Result<(), DriveError> {
        while !data.is_empty() {
            let space = self.block_size - self.partial.len();
            let (now, later) = data.split_at(data.len().min(space));
            data = later;
            if self.partial.is_empty() && now.len() == self.block_size {
                self.push(Bytes::copy_from_slice(now)).await?;
                continue;
            }
            self.partial.extend_from_slice(now);
            if now.len() == space {
                let block = std::mem::take(&mut self.partial).freeze();
                self.push(block).await?;
            }
        }
        Ok(())
    }

    /// Appends bytes to the blob; whole blocks are kept without a copy.
    pub async fn write_bytes(&mut self, mut data: Bytes) -> Result<(), DriveError> {
        while self.partial.is_empty() && data.len() >= self.block_size {
            let block = data.split_to(self.block_size);
            self.push(block).await?;
        }
        self.write(&data).await
    }

    async fn push(&mut self, block: Bytes) -> Result<(), DriveError> {
        self.tail.get().push(self.core, block).await
    }

    /// Ends the blob. Returns where it is. What is left is appended, in a batch not before the batch is.
    pub async fn finish(mut self) -> Result<BlobPointer, DriveError> {
        if !self.partial.is_empty() {
            let block = std::mem::take(&mut self.partial).freeze();
            self.push(block).await?;
        }
        if let Place::Own(tail) = &mut self.tail {
            tail.append(self.core).await?;
        }
        let tail = self.tail.get();
        Ok(BlobPointer {
            block_offset: self.block_offset,
            byte_offset: self.byte_offset,
            block_length: tail.length.saturating_sub(self.block_offset),
            byte_length: tail.byte_length.saturating_sub(self.byte_offset),
            block_map: false,
        })
    }
}

impl Place<'_> {
    fn get(&mut self) -> &mut Tail {
        match self {
            Self::Own(tail) => tail,
            Self::Batch(tail) => tail,
        }
    }
}
