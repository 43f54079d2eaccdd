//! The write side: files and links, as the same bytes that the JS packages write.

use bytes::{Bytes, BytesMut};
use cumulet_hyperbee::message::Metadata;
use cumulet_hyperbee::{AppendBlocks, Batch, BeeError, BeeWriter, WriteOptions};
use serde_json::value::RawValue;

use crate::blobs::{BLOCK_SIZE, BlobPointer};
use crate::drive::{Drive, DriveError};
use crate::entry::FileEntry;
use crate::path;

/// Blocks appended to the blob core at once, as in JS: bounds the memory of a write to 1 MiB.
const APPEND_BLOCKS: usize = 16;

/// What a file has beside its bytes.
#[derive(Debug, Clone, Default)]
pub struct FileOptions {
    /// Whether it is meant to be run.
    pub executable: bool,
    /// Anything, as JSON.
    pub metadata: Option<Box<RawValue>>,
}

/// Writes one drive. It must be the only writer of both cores while it lives.
#[derive(Debug)]
pub struct DriveWriter<D, B> {
    bee: BeeWriter<D>,
    blobs: B,
    block_size: usize,
}

impl<D: AppendBlocks, B: AppendBlocks> DriveWriter<D, B> {
    /// A writer of the drive stored, or to be stored, in these cores. `blobs` must be the core that [`crate::content`]
    /// names for `db`, or no reader will find it.
    pub fn new(db: D, blobs: B) -> Self {
        Self::with_block_size(db, blobs, BLOCK_SIZE)
    }

    /// [`DriveWriter::new`] with blobs cut into blocks of `block_size` bytes (at least 1).
    pub fn with_block_size(db: D, blobs: B, block_size: usize) -> Self {
        // JS writes the field `contentFeed` as null, which leaves the empty metadata that marks a drive.
        let options = WriteOptions {
            metadata: Some(Metadata::default()),
            skip_equal: false,
        };
        Self {
            bee: BeeWriter::new(db, options),
            blobs,
            block_size: block_size.max(1),
        }
    }

    /// The drive to read, which follows what is written.
    pub fn drive(&self) -> Drive<D, B>
    where
        B: Clone,
    {
        Drive::new(self.bee.bee(), self.blobs.clone())
    }

    /// The version: the length of the bee's core.
    pub fn version(&self) -> u64 {
        self.bee.bee().version()
    }

    /// Writes a file. Returns the block of its entry.
    pub async fn put(&mut self, name: &str, data: &[u8], options: FileOptions) -> Result<u64, DriveError> {
        let path = path::normalize(name)?;
        let mut writer = self.blob();
        writer.write(data).await?;
        let blob = writer.finish().await?;
        self.put_entry(&path, &file_entry(blob, options)).await
    }

    /// A writer of a blob piece by piece, to be named by [`DriveWriter::put_entry`].
    pub fn blob(&mut self) -> BlobWriter<'_, B> {
        BlobWriter::new(&self.blobs, self.block_size)
    }

    /// Writes a link. The target is kept as given.
    pub async fn symlink(&mut self, name: &str, target: &str) -> Result<u64, DriveError> {
        self.put_entry(name, &link_entry(target)).await
    }

    /// Writes an entry. Returns its block.
    pub async fn put_entry(&mut self, name: &str, entry: &FileEntry) -> Result<u64, DriveError> {
        let (key, value) = encode(name, entry)?;
        Ok(self.bee.put(key, Some(&value)).await?.unwrap_or_default())
    }

    /// Removes a name. Its blob stays. Returns the block of the delete, none if there was nothing.
    pub async fn del(&mut self, name: &str) -> Result<Option<u64>, DriveError> {
        Ok(self.bee.del(key(&path::normalize(name)?)).await?)
    }

    /// Several changes that appear as one. Their blobs are appended at once, their entries by [`DriveBatch::flush`].
    pub fn batch(&mut self) -> DriveBatch<'_, D, B> {
        DriveBatch {
            batch: self.bee.batch(),
            blobs: &self.blobs,
            block_size: self.block_size,
        }
    }
}

/// Changes that appear together.
#[derive(Debug)]
pub struct DriveBatch<'a, D, B> {
    batch: Batch<'a, D>,
    blobs: &'a B,
    block_size: usize,
}

impl<D: AppendBlocks, B: AppendBlocks> DriveBatch<'_, D, B> {
    /// Writes a file.
    pub async fn put(&mut self, name: &str, data: &[u8], options: FileOptions) -> Result<(), DriveError> {
        let path = path::normalize(name)?;
        let mut writer = BlobWriter::new(self.blobs, self.block_size);
        writer.write(data).await?;
        let blob = writer.finish().await?;
        self.put_entry(&path, &file_entry(blob, options)).await
    }

    /// Writes a link.
    pub async fn symlink(&mut self, name: &str, target: &str) -> Result<(), DriveError> {
        self.put_entry(name, &link_entry(target)).await
    }

    /// Writes an entry.
    pub async fn put_entry(&mut self, name: &str, entry: &FileEntry) -> Result<(), DriveError> {
        let (key, value) = encode(name, entry)?;
        self.batch.put(key, Some(&value)).await?;
        Ok(())
    }

    /// Removes a name.
    pub async fn del(&mut self, name: &str) -> Result<(), DriveError> {
        self.batch.del(key(&path::normalize(name)?)).await?;
        Ok(())
    }

    /// Appends the entries.
    pub async fn flush(self) -> Result<(), DriveError> {
        Ok(self.batch.flush().await?)
    }
}

fn file_entry(blob: BlobPointer, options: FileOptions) -> FileEntry {
    FileEntry {
        executable: options.executable,
        linkname: None,
        blob: Some(blob),
        metadata: options.metadata,
    }
}

fn link_entry(target: &str) -> FileEntry {
    FileEntry {
        linkname: Some(target.to_owned()),
        ..FileEntry::default()
    }
}

fn key(path: &str) -> Vec<u8> {
    [b"files\0", path.as_bytes()].concat()
}

fn encode(name: &str, entry: &FileEntry) -> Result<(Vec<u8>, Vec<u8>), DriveError> {
    let path = path::normalize(name)?;
    let value = entry.encode().map_err(|source| DriveError::Entry {
        path: path.clone(),
        source,
    })?;
    Ok((key(&path), value))
}

/// Writes one blob to the end of the blob core, cutting what it is given into blocks.
///
/// Holds at most sixteen blocks. A writer that is dropped leaves the blocks it has appended, which nothing names.
#[derive(Debug)]
pub struct BlobWriter<'a, B> {
    core: &'a B,
    block_size: usize,
    block_offset: u64,
    byte_offset: u64,
    full: Vec<Bytes>,
    partial: BytesMut,
}

impl<'a, B: AppendBlocks> BlobWriter<'a, B> {
    /// A writer of a blob in this core, which nobody else may append to meanwhile. `block_size` is at least 1.
    pub fn new(core: &'a B, block_size: usize) -> Self {
        Self {
            core,
            block_size: block_size.max(1),
            block_offset: core.length(),
            byte_offset: core.byte_length(),
            full: Vec::new(),
            partial: BytesMut::new(),
        }
    }

    /// Appends bytes to the blob.
    pub async fn write(&mut self, mut data: &[u8]) -> Result<(), DriveError> {
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(self.block_size - self.partial.len()));
            self.partial.extend_from_slice(now);
            data = later;
            if self.partial.len() == self.block_size {
                self.full.push(std::mem::take(&mut self.partial).freeze());
            }
            if self.full.len() == APPEND_BLOCKS {
                self.append().await?;
            }
        }
        Ok(())
    }

    /// Appends what is left. Returns where the blob is.
    pub async fn finish(mut self) -> Result<BlobPointer, DriveError> {
        if !self.partial.is_empty() {
            self.full.push(std::mem::take(&mut self.partial).freeze());
        }
        self.append().await?;
        Ok(BlobPointer {
            block_offset: self.block_offset,
            byte_offset: self.byte_offset,
            block_length: self.core.length().saturating_sub(self.block_offset),
            byte_length: self.core.byte_length().saturating_sub(self.byte_offset),
            block_map: false,
        })
    }

    async fn append(&mut self) -> Result<(), DriveError> {
        if self.full.is_empty() {
            return Ok(());
        }
        let blocks = std::mem::take(&mut self.full);
        self.core
            .append(blocks)
            .await
            .map_err(|source| DriveError::Bee(BeeError::Append(source)))
    }
}
