//! What of a drive's bytes lies on this machine: asking, fetching what changed, and giving space back.

use cumulet_hyperbee::{Blocks, LocalBlocks, WatchBlocks, Watcher};

use crate::blobs::{BlobError, BlobPointer, Blobs};
use crate::drive::{Drive, DriveError, Files, below};
use crate::plan::{Plan, Selection, add_blob};

impl<B: LocalBlocks> Blobs<B> {
    /// Whether all blocks of a blob are stored here; of a mapped one, those of its map too. Asks no peer.
    pub async fn has(&self, pointer: &BlobPointer) -> Result<bool, BlobError> {
        if !self.core().has(pointer.blocks()).await {
            return Ok(false);
        }
        if !pointer.block_map {
            return Ok(true);
        }
        for entry in self.map(pointer).await? {
            if !self.core().has(entry.index..entry.index.saturating_add(1)).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Forgets the bytes of a blob on this machine; peers may still have them. Of a mapped one the mapped blocks go too, if
    /// the map is stored, **also those that other blobs share**, as in JS.
    pub async fn clear(&self, pointer: &BlobPointer) -> Result<(), BlobError> {
        let mut blocks = vec![pointer.blocks()];
        if pointer.block_map && self.core().has(pointer.blocks()).await {
            let map = self.map(pointer).await?;
            let mapped = map.iter().map(|entry| entry.index..entry.index.saturating_add(1));
            blocks.splice(0..0, mapped);
        }
        for range in blocks {
            let index = range.start;
            let cleared = self.core().clear(range).await;
            cleared.map_err(|source| BlobError::Block { index, source })?;
        }
        Ok(())
    }
}

impl<D: Blocks, B: LocalBlocks> Drive<D, B> {
    /// Whether all bytes of a file, or of all files below a folder, are stored here. False if neither exists.
    pub async fn has(&self, name: &str) -> Result<bool, DriveError> {
        if !name.is_empty()
            && !name.ends_with('/')
            && let Some(file) = self.files.entry(name).await?
        {
            return match &file.entry.blob {
                Some(blob) => Ok(self.blobs.has(blob).await?),
                None => Ok(false),
            };
        }
        let (mut list, mut exists) = (self.files.list(name)?, false);
        while let Some(file) = list.next().await? {
            exists = true;
            if let Some(blob) = &file.entry.blob
                && !self.blobs.has(blob).await?
            {
                return Ok(false);
            }
        }
        Ok(exists)
    }

    /// Forgets the bytes of a file on this machine. Nothing if there is no such file. The entry stays.
    pub async fn clear(&self, name: &str) -> Result<(), DriveError> {
        let file = self.files.entry(name).await?;
        if let Some(blob) = file.and_then(|file| file.entry.blob) {
            self.blobs.clear(&blob).await?;
        }
        Ok(())
    }

    /// Forgets the bytes of all files, of all versions, on this machine.
    pub async fn clear_all(&self) -> Result<(), DriveError> {
        let core = self.blobs.core();
        let cleared = core.clear(0..core.length()).await;
        cleared.map_err(|source| BlobError::Block { index: 0, source }.into())
    }
}

impl<D: Blocks, B: Blocks> Drive<D, B> {
    /// What to fetch for the selected files that were added or changed since an older version.
    pub async fn plan_diff(
        &self,
        older: u64,
        folder: &str,
        selection: &Selection,
    ) -> Result<Plan, DriveError> {
        let mut plan = Plan::default();
        let mut diff = self.files.diff(older, folder)?;
        while let Some(change) = diff.next().await? {
            let Some((_, entry)) = change.left.filter(|_| selection.contains(&change.path)) else {
                continue;
            };
            match entry {
                None => plan.unreadable += 1,
                Some(entry) => {
                    if let Some(blob) = entry.blob {
                        add_blob(&mut plan, &self.blobs, &blob).await?;
                    }
                }
            }
        }
        plan.join();
        Ok(plan)
    }

    /// Length that the blob core has at least at this version: the end of the last blob that a file names.
    pub async fn blobs_length(&self) -> Result<u64, DriveError> {
        let (mut list, mut length) = (self.files.list("/")?, 0);
        while let Some(file) = list.next().await? {
            let end = file.entry.blob.map_or(0, |blob| blob.blocks().end);
            length = length.max(end);
        }
        Ok(length)
    }
}

impl<D: WatchBlocks> Files<D> {
    /// Waits for changes below a folder, from now on.
    pub fn watch(&self, folder: &str) -> Result<DriveWatcher<D>, DriveError> {
        Ok(DriveWatcher {
            watcher: self.bee().watch(below(folder)?),
        })
    }
}

/// Waits for changes below a folder.
#[derive(Debug)]
pub struct DriveWatcher<D> {
    watcher: Watcher<D>,
}

impl<D: WatchBlocks> DriveWatcher<D> {
    /// Waits for the next change. Returns the files as they are now and as they were when last looked at: `current.diff(
    /// previous.version(), …)` tells what changed. After a truncation of the core the second may not be readable.
    pub async fn next(&mut self) -> Result<(Files<D>, Files<D>), DriveError> {
        let change = self.watcher.next().await?;
        Ok((Files::of_sub(change.current), Files::of_sub(change.previous)))
    }
}
