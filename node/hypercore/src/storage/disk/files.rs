//! The few file operations of the disk storage, with a bounded set of open descriptors.
//!
//! One [`Files`] is shared by all cores of a store. It opens files when they are needed and closes the ones that were
//! not used for longest, so that ten thousand cores do not need ten thousand descriptors. Every changing operation goes
//! through here, so that tests can stop the world at any of them ([`Faults`]).

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::faults::{Faults, FileOperation, Step};
use crate::storage::StorageError;

/// Descriptors kept open: far below the usual limit of 1024 per process, enough for the cores that are busy at once.
pub const DEFAULT_OPEN_FILES: usize = 256;

struct Open {
    file: Arc<File>,
    used: u64,
}

#[derive(Default)]
struct Cache {
    open: HashMap<PathBuf, Open>,
    clock: u64,
}

/// Opens, reads and changes files. Clones share the open ones.
#[derive(Clone)]
pub struct Files {
    cache: Arc<Mutex<Cache>>,
    capacity: usize,
    faults: Option<Arc<Faults>>,
}

impl Default for Files {
    fn default() -> Self {
        Self::new(DEFAULT_OPEN_FILES)
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl Files {
    /// Keeps at most `capacity` files open (at least one), and each log while it has bytes that are not synced.
    pub fn new(capacity: usize) -> Self {
        Self {
            cache: Arc::default(),
            capacity: capacity.max(1),
            faults: None,
        }
    }

    /// As [`Files::new`], and fails when the faults say so.
    pub fn with_faults(capacity: usize, faults: Arc<Faults>) -> Self {
        Self {
            cache: Arc::default(),
            capacity: capacity.max(1),
            faults: Some(faults),
        }
    }

    /// Number of files open now.
    pub fn open_count(&self) -> usize {
        self.cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .open
            .len()
    }

    fn step(&self, operation: impl FnOnce() -> FileOperation) -> Step {
        self.faults
            .as_ref()
            .map_or(Step::Run, |faults| faults.next(operation()))
    }

    fn change(&self, operation: impl FnOnce() -> FileOperation) -> io::Result<()> {
        match self.step(operation) {
            Step::Run => Ok(()),
            Step::Half(error) | Step::Fail(error) => Err(error),
        }
    }

    fn file(&self, path: &Path) -> io::Result<Arc<File>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.clock += 1;
        let now = cache.clock;
        if let Some(open) = cache.open.get_mut(path) {
            open.used = now;
            return Ok(open.file.clone());
        }
        // Segments are read-only by contract, not by mode: only the head log is ever written in place.
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(path)?);
        if cache.open.len() >= self.capacity {
            let oldest = cache
                .open
                .iter()
                .min_by_key(|(_, open)| open.used)
                .map(|(path, _)| path.clone());
            if let Some(oldest) = oldest {
                cache.open.remove(&oldest);
            }
        }
        cache.open.insert(
            path.to_path_buf(),
            Open {
                file: file.clone(),
                used: now,
            },
        );
        Ok(file)
    }

    /// Closes a file, so that the next use opens what lies under its name then.
    pub(super) fn forget(&self, path: &Path) {
        self.cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .open
            .remove(path);
    }

    /// An open file to hold on to: the kernel reports a failed write-back to descriptors that were open then.
    pub(super) fn hold(&self, path: &Path) -> Result<Arc<File>, StorageError> {
        self.file(path).map_err(failed("open", path))
    }

    pub(super) fn length(&self, path: &Path) -> Result<u64, StorageError> {
        let length = self
            .file(path)
            .and_then(|file| file.metadata())
            .map(|metadata| metadata.len());
        length.map_err(failed("read the length of", path))
    }

    /// Fills the buffer from `offset`; a file that ends earlier is an error of kind `UnexpectedEof`.
    pub(super) fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.file(path)
            .and_then(|file| file.read_exact_at(buffer, offset))
            .map_err(failed("read", path))
    }

    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, StorageError> {
        let mut bytes = vec![0; self.length(path)? as usize];
        self.read_at(path, 0, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let write = || {
            let file = self.file(path)?;
            let operation = || FileOperation::Write {
                path: path.to_path_buf(),
                offset,
                bytes: Bytes::copy_from_slice(bytes),
            };
            match self.step(operation) {
                Step::Run => file.write_all_at(bytes, offset),
                Step::Half(error) => {
                    file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
                    Err(error)
                }
                Step::Fail(error) => Err(error),
            }
        };
        write().map_err(failed("write", path))
    }

    pub(super) fn cut(&self, path: &Path, length: u64) -> Result<(), StorageError> {
        let cut = || {
            self.change(|| FileOperation::Cut {
                path: path.into(),
                length,
            })?;
            self.file(path)?.set_len(length)
        };
        cut().map_err(failed("cut", path))
    }

    /// Writes the file's data through to the disk (`fdatasync`).
    pub(super) fn sync(&self, path: &Path) -> Result<(), StorageError> {
        self.sync_held(&*self.hold(path)?, path)
    }

    pub(super) fn sync_held(&self, file: &File, path: &Path) -> Result<(), StorageError> {
        let operation = || FileOperation::Sync { path: path.into() };
        self.change(operation)
            .and_then(|()| file.sync_data())
            .map_err(failed("sync", path))
    }

    /// Makes a whole file appear under its name at once, durable but for its directory entry.
    pub(super) fn write_whole(&self, path: &Path, parts: &[&[u8]]) -> Result<(), StorageError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        self.forget(&temporary);
        let operation = || FileOperation::Create {
            path: temporary.clone(),
        };
        self.change(operation)
            .and_then(|()| File::create(&temporary))
            .map_err(failed("create", &temporary))?;
        let mut offset = 0;
        for part in parts {
            self.write_at(&temporary, offset, part)?;
            offset += part.len() as u64;
        }
        self.sync(&temporary)?;
        self.rename(&temporary, path)
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        let operation = || FileOperation::Rename {
            from: from.into(),
            to: to.into(),
        };
        self.change(operation)
            .and_then(|()| fs::rename(from, to))
            .map_err(failed("rename", from))?;
        self.forget(from);
        self.forget(to);
        Ok(())
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), StorageError> {
        self.forget(path);
        let operation = || FileOperation::Remove { path: path.into() };
        match self.change(operation).and_then(|()| fs::remove_file(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(failed("remove", path)),
        }
    }

    /// Writes the directory's entries through to the disk.
    pub(super) fn sync_dir(&self, dir: &Path) -> Result<(), StorageError> {
        let operation = || FileOperation::SyncDirectory { path: dir.into() };
        self.change(operation)
            .and_then(|()| File::open(dir)?.sync_all())
            .map_err(failed("sync the directory", dir))
    }
}

/// Wraps an I/O error with what was tried on which file.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_path_buf();
    move |source| StorageError::Io { action, path, source }
}
