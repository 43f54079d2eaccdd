//! Making the log durable while it goes on growing.
//!
//! A flush is begun and ended under whatever lock the storage is behind, and runs without it: everybody who changed the
//! core before it began is served by it. Invariants: what was appended after it began does not count as durable when it
//! ends; a sync that failed closes the storage even when nobody waits for its end any more, because the kernel tells of
//! a failed write-back only once.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::direct::Unsynced;
use super::files::Files;
use super::log::{Batch, Sealed};
use super::{DiskStorage, StorageError};

/// A flush that was begun: run it anywhere, then give it back to its storage.
#[derive(Debug)]
pub struct PendingFlush {
    files: Files,
    file: Arc<File>,
    log: Arc<Path>,
    generation: u64,
    end: u64,
    unsynced: Unsynced,
    dropped: Vec<Sealed>,
    hollowed: Vec<Sealed>,
    seals: u64,
    sync_failed: Arc<AtomicBool>,
    result: Option<Result<(), StorageError>>,
}

impl PendingFlush {
    /// Waits for the disk. What came of it is told by the storage, when it is given back.
    pub fn run(&mut self) {
        // The log says that the segments are there.
        let segments = self.unsynced.sync(&self.files);
        let result = segments.and_then(|()| self.files.sync_held(&self.file, &self.log));
        if result.is_err() {
            self.sync_failed.store(true, Ordering::SeqCst);
        }
        self.result = Some(result);
    }
}

impl DiskStorage {
    /// Refuses what would change a storage that failed before.
    pub(super) fn check_open(&self) -> Result<(), StorageError> {
        if self.closed || self.sync_failed.load(Ordering::SeqCst) {
            Err(StorageError::Closed)
        } else {
            Ok(())
        }
    }

    pub(super) fn begin_sync(&mut self) -> Result<Option<PendingFlush>, StorageError> {
        self.check_open()?;
        let file = match &self.dirty {
            None => return Ok(None),
            Some(held) => match &held.file {
                Some(file) => file.clone(),
                None => self.files.hold(&self.log)?,
            },
        };
        Ok(Some(PendingFlush {
            files: self.files.clone(),
            file,
            log: self.log.clone(),
            generation: self.generation,
            end: self.log_bytes,
            unsynced: self.take_unsynced(),
            dropped: self.index.dropped.clone(),
            hollowed: self.index.hollowed.clone(),
            seals: self.index.seals,
            sync_failed: self.sync_failed.clone(),
            result: None,
        }))
    }

    pub(super) fn end_sync(&mut self, ran: PendingFlush) -> Result<(), StorageError> {
        match ran.result {
            // It never ran: what is dirty still is.
            None => return Ok(()),
            Some(Err(error)) => {
                // The kernel may have dropped the pages: nothing written since the last sync can be trusted.
                self.closed = true;
                return Err(error);
            }
            Some(Ok(())) => self.note_synced(&ran.unsynced),
        }
        // A log that took this one's place meanwhile was durable from its start.
        if ran.generation != self.generation {
            return Ok(());
        }
        let nothing_since = self.log_bytes == ran.end;
        self.durable_bytes = self.durable_bytes.max(ran.end);
        // Tells a later reader of the log which bytes were durable; it need not be durable itself.
        let mut batch = Batch::new(self.generation);
        batch.synced(self.durable_bytes);
        batch.finish();
        let written = self.append(&batch);
        if nothing_since {
            self.dirty = None;
        }
        // A segment that was sealed meanwhile may have the name of one that was dropped: then the next flush removes it.
        if self.index.seals == ran.seals {
            self.remove_dropped(&ran.dropped, &ran.hollowed);
        }
        written
    }
}
