//! The write side: files and links, as the same bytes that the JS packages write.

use cumulet_hyperbee::message::Metadata;
use cumulet_hyperbee::{AppendBlocks, Batch, BeeWriter, WriteOptions};
use serde_json::value::RawValue;

use crate::blob_writer::{BlobWriter, Tail};
use crate::blobs::{BLOCK_SIZE, BlobPointer};
use crate::drive::{Drive, DriveError};
use crate::entry::FileEntry;
use crate::path;

/// What a file has beside its bytes.
#[derive(Debug, Clone, Default)]
pub struct FileOptions {
    /// Whether it is meant to be run.
    pub executable: bool,
    /// Anything, as JSON.
    pub metadata: Option<Box<RawValue>>,
}

/// Writes one drive. It must be the only writer of both cores while it lives.
///
/// ```
/// # futures::executor::block_on(async {
/// use cumulet_hyperbee::MemoryBlocks;
/// use cumulet_hyperdrive::{DriveWriter, FileOptions};
///
/// let mut writer = DriveWriter::new(MemoryBlocks::default(), MemoryBlocks::default());
/// writer.put("/notes/today.txt", b"hello", FileOptions::default()).await?;
/// writer.symlink("/latest", "/notes/today.txt").await?;
/// let drive = writer.drive();
/// assert_eq!(drive.get("/latest", 1024).await?.as_deref(), Some(&b"hello"[..]));
/// let mut list = drive.files.list("/notes")?;
/// assert_eq!(list.next().await?.unwrap().path, "/notes/today.txt");
/// # Ok::<(), cumulet_hyperdrive::DriveError>(())
/// # }).unwrap();
/// ```
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

    /// The core of the blobs.
    pub fn blobs(&self) -> &B {
        &self.blobs
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

    /// Several changes that appear as one. Blobs of several files are appended together as they add up, entries by
    /// [`DriveBatch::flush`].
    pub fn batch(&mut self) -> DriveBatch<'_, D, B> {
        DriveBatch {
            batch: self.bee.batch(),
            tail: Tail::of(&self.blobs),
            blobs: &self.blobs,
            block_size: self.block_size,
        }
    }
}

/// Changes that appear together.
#[derive(Debug)]
pub struct DriveBatch<'a, D, B> {
    batch: Batch<'a, D>,
    tail: Tail,
    blobs: &'a B,
    block_size: usize,
}

impl<D: AppendBlocks, B: AppendBlocks> DriveBatch<'_, D, B> {
    /// Writes a file.
    pub async fn put(&mut self, name: &str, data: &[u8], options: FileOptions) -> Result<(), DriveError> {
        let path = path::normalize(name)?;
        let mut writer = self.blob();
        writer.write(data).await?;
        let blob = writer.finish().await?;
        self.put_entry(&path, &file_entry(blob, options)).await
    }

    /// A writer of a blob piece by piece, to be named by [`DriveBatch::put_entry`].
    pub fn blob(&mut self) -> BlobWriter<'_, B> {
        BlobWriter::in_batch(self.blobs, &mut self.tail, self.block_size)
    }

    /// Number of changes so far.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
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

    /// Appends the blobs that are still waiting, then the entries: a reader never sees an entry whose blob is not there.
    pub async fn flush(mut self) -> Result<(), DriveError> {
        self.tail.append(self.blobs).await?;
        Ok(self.batch.flush().await?)
    }
}

pub(crate) fn file_entry(blob: BlobPointer, options: FileOptions) -> FileEntry {
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
