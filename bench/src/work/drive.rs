//! A folder into a drive.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cumulet_hypercore::corestore::{CoreHandle, Corestore};
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hyperdrive::content::content_manifest;
use cumulet_hyperdrive::{BlobWriter, DriveWriter, FileEntry};
use serde::{Deserialize, Serialize};

use super::{amount, open};
use crate::content::Content;
use crate::measure::Measure;

/// Bytes of a block of a file.
pub(crate) const BLOCK_BYTES: usize = 64 << 10;
/// One in so many blocks is read back.
const CHECKED: usize = 64;
/// Bytes read of a file at once.
const READ_BYTES: usize = 1 << 20;

/// Mirrors `source` into an empty drive. It holds `count` files of `size` bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mirror {
    pub(crate) dir: PathBuf,
    pub(crate) source: PathBuf,
    pub(crate) count: u32,
    pub(crate) size: usize,
    pub(crate) unit: String,
    /// Whether all entries appear at once.
    pub(crate) batch: bool,
}

/// Name of a file in the folder and in the drive: a hundred to a folder.
pub(crate) fn name(file: u32) -> String {
    format!("/{}/{file}.bin", file / 100)
}

type Writer = DriveWriter<CoreHandle, CoreHandle>;

impl Mirror {
    /// Makes the folder.
    pub(crate) fn prepare(&self) -> Result<()> {
        let content = Content::new();
        let (_, per_file) = self.blocks();
        for file in 0..self.count {
            let path = self.source.join(name(file).trim_start_matches('/'));
            write_file(&content, &path, file * per_file, self.size)?;
        }
        Ok(())
    }

    /// Bytes of a block of these files, and blocks of each file.
    fn blocks(&self) -> (usize, u32) {
        let block_bytes = self.size.min(BLOCK_BYTES);
        (block_bytes, (self.size / block_bytes) as u32)
    }

    pub(super) async fn run(self, measure: &mut Measure) -> Result<()> {
        let store = open(&self.dir, false)?;
        let (mut writer, blobs) = drive(&store).await?;
        let mirror = async {
            let mut files = Vec::new();
            list(&self.source, "", &mut files)?;
            if self.batch {
                self.put_at_once(&mut writer, &blobs, &files).await
            } else {
                self.put_each(&mut writer, &files).await
            }
        };
        measure
            .time(amount(&self.unit, self.size, self.count), mirror)
            .await?;
        self.check(&writer).await?;
        Ok(store.close().await?)
    }

    async fn put_each(&self, writer: &mut Writer, files: &[String]) -> Result<()> {
        let names = writer.drive().files;
        for name in files {
            // As any mirror: what is there already is not written again.
            if names.entry(name).await?.is_some() {
                bail!("the drive is not empty");
            }
            let entry = put_blob(writer.blob(), &self.source, name).await?;
            writer.put_entry(name, &entry).await?;
        }
        Ok(())
    }

    async fn put_at_once(&self, writer: &mut Writer, blobs: &CoreHandle, files: &[String]) -> Result<()> {
        let names = writer.drive().files;
        let mut batch = writer.batch();
        for name in files {
            if names.entry(name).await?.is_some() {
                bail!("the drive is not empty");
            }
            let entry = put_blob(BlobWriter::new(blobs, BLOCK_BYTES), &self.source, name).await?;
            batch.put_entry(name, &entry).await?;
        }
        Ok(batch.flush().await?)
    }

    async fn check(&self, writer: &Writer) -> Result<()> {
        let content = Content::new();
        let drive = writer.drive();
        let mut list = drive.files.list("/")?;
        let mut files = 0;
        while list.next().await?.is_some() {
            files += 1;
        }
        if files != self.count {
            bail!("{files} files instead of {}", self.count);
        }
        let (block_bytes, per_file) = self.blocks();
        for block in (0..self.count * per_file).step_by(CHECKED) {
            let file = drive.files.entry(&name(block / per_file)).await?;
            let file = file.context("a file is not in the drive")?;
            let start = u64::from(block % per_file) * block_bytes as u64;
            let part = drive.read(&file, Some(start..start + block_bytes as u64)).await?;
            content.check(&part.to_vec(block_bytes).await?, block, block_bytes)?;
        }
        Ok(())
    }
}

/// Writes `size` bytes of content: its blocks of up to 64 KiB, from number `first` on.
pub(crate) fn write_file(content: &Content, path: &Path, first: u32, size: usize) -> Result<()> {
    fs::create_dir_all(path.parent().context("a file without a folder")?)?;
    let mut file = File::create(path).with_context(|| format!("failed to make {}", path.display()))?;
    let block_bytes = size.min(BLOCK_BYTES);
    for (index, _) in (first..).zip(0..size / block_bytes) {
        file.write_all(&content.block(index, block_bytes))?;
    }
    Ok(())
}

/// A new drive, and its blob core.
async fn drive(store: &Corestore) -> Result<(Writer, CoreHandle)> {
    let pair = || KeyPair::from_seed(&[4; 32]);
    let manifest = Manifest::single(pair().public_key());
    let db = store.create(manifest.clone(), Some(pair())).await?;
    let manifest = content_manifest(db.key(), &manifest).context("the drive has no blob core")?;
    let blobs = store.create(manifest, Some(pair())).await?;
    Ok((DriveWriter::new(db, blobs.clone()), blobs))
}

/// Names of all files below a folder, sorted.
fn list(root: &Path, folder: &str, files: &mut Vec<String>) -> Result<()> {
    let path = root.join(folder.trim_start_matches('/'));
    let entries = fs::read_dir(&path).with_context(|| format!("failed to list {}", path.display()))?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list(root, &name, files)?;
        } else {
            files.push(name);
        }
    }
    Ok(())
}

async fn put_blob(mut blob: BlobWriter<'_, CoreHandle>, source: &Path, name: &str) -> Result<FileEntry> {
    let path = source.join(name.trim_start_matches('/'));
    let mut file = File::open(&path).with_context(|| format!("failed to open {}", path.display()))?;
    let metadata = file.metadata()?;
    let mut buffer = vec![0; READ_BYTES.min(metadata.len() as usize)];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        blob.write(buffer.get(..read).unwrap_or_default()).await?;
    }
    Ok(FileEntry {
        executable: metadata.permissions().mode() & 0o100 != 0,
        blob: Some(blob.finish().await?),
        ..FileEntry::default()
    })
}
