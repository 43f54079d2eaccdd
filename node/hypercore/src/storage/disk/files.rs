//! The few file operations of the disk storage, with a bounded set of open descriptors.
//!
//! One [`Files`] is shared by all cores of a store. It opens files when they are needed and closes the ones that were
//! not used for longest, so that ten thousand cores do not need ten thousand descriptors. Every changing operation goes
//! through here, so that tests can stop the world at any of them ([`Faults`]).

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::faults::{Faults, FileOperation, Step};
use super::places::Places;
use crate::storage::StorageError;

/// Descriptors kept open: with the 48 logs that may be held besides and those of a process's own well below 256, enough for the cores that are
/// busy at once.
pub const DEFAULT_OPEN_FILES: usize = 160;
/// Logs held open because they have bytes that are not synced. Beyond that they are opened again to be synced; the kernel
/// then still tells of a failed write-back that nobody was told of, as long as it has the file in memory.
const MOST_HELD: usize = 48;

/// Buffers kept for writing, and the largest that is kept.
const BUFFERS: usize = 2;
const BUFFER_BYTES: usize = 4 << 20;
/// Tells apart what is being written under one name at the same time.
static UNFINISHED: AtomicU64 = AtomicU64::new(0);

struct Open {
    file: Arc<File>,
    used: u64,
}

#[derive(Default)]
struct Cache {
    /// By the bytes of the path: hashing its components costs several times as much.
    open: HashMap<OsString, Open>,
    clock: u64,
}

/// Opens, reads and changes files. Clones share the open ones.
#[derive(Clone)]
pub struct Files {
    cache: Arc<Mutex<Cache>>,
    places: Arc<Places>,
    buffers: Arc<Mutex<Vec<Vec<u8>>>>,
    held: Arc<AtomicUsize>,
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
            places: Arc::default(),
            buffers: Arc::default(),
            held: Arc::default(),
            capacity: capacity.max(1),
            faults: None,
        }
    }

    /// As [`Files::new`], and fails when the faults say so.
    pub fn with_faults(capacity: usize, faults: Arc<Faults>) -> Self {
        Self {
            cache: Arc::default(),
            places: Arc::default(),
            buffers: Arc::default(),
            held: Arc::default(),
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

    /// Where blocks lie in segments.
    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// An empty buffer to write from, whose memory was used before if possible: a fresh megabyte costs a page fault for
    /// every 4 KiB.
    pub(super) fn buffer(&self) -> Vec<u8> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.pop().unwrap_or_default()
    }

    /// Keeps a buffer for the next one who needs one.
    pub(super) fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.capacity() <= BUFFER_BYTES && buffers.len() < BUFFERS {
            buffers.push(buffer);
        }
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
        if let Some(open) = cache.open.get_mut(path.as_os_str()) {
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
            path.as_os_str().to_owned(),
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
            .remove(path.as_os_str());
    }

    /// An open file to hold on to.
    pub(super) fn hold(&self, path: &Path) -> Result<Arc<File>, StorageError> {
        self.file(path).map_err(failed("open", path))
    }

    /// An open file to hold on to until it is synced: the kernel reports a failed write-back to descriptors that were open
    /// then. It is not held open if too many are already.
    pub(super) fn hold_unsynced(&self, path: &Path) -> Result<Held, StorageError> {
        let before = self.held.fetch_add(1, Ordering::SeqCst);
        let mut held = Held {
            count: self.held.clone(),
            file: None,
        };
        if before < MOST_HELD {
            held.file = Some(self.hold(path)?);
        }
        Ok(held)
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
        let write = || self.write_held(&*self.file(path)?, path, offset, bytes);
        write().map_err(failed("write", path))
    }

    fn write_held(&self, file: &File, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
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
        let mut unfinished = self.begin_whole(path)?;
        for part in parts {
            unfinished.write(part)?;
        }
        unfinished.finish()
    }

    /// Begins a file that will appear whole under its name.
    pub(super) fn begin_whole(&self, path: &Path) -> Result<Unfinished<'_>, StorageError> {
        let mut temporary = path.as_os_str().to_owned();
        // Work on a segment may outlive the storage that it is for, while another storage opens the same directory;
        // what is left over there is removed at the next opening. A log has one writer.
        if path
            .extension()
            .is_some_and(|kind| kind == "log" || kind == "torn")
        {
            temporary.push(".tmp");
        } else {
            temporary.push(format!(".{}.tmp", UNFINISHED.fetch_add(1, Ordering::Relaxed)));
        }
        let temporary = PathBuf::from(temporary);
        let operation = || FileOperation::Create {
            path: temporary.clone(),
        };
        let created = self.change(operation).and_then(|()| File::create(&temporary));
        Ok(Unfinished {
            file: created.map_err(failed("create", &temporary))?,
            files: self,
            temporary,
            path: path.to_path_buf(),
            written: 0,
            is_named: false,
        })
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

/// A file that has bytes that are not synced, held open unless too many are.
#[derive(Debug)]
pub(super) struct Held {
    count: Arc<AtomicUsize>,
    pub(super) file: Option<Arc<File>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A file that has no name yet. It is gone when it is dropped before it got one.
pub(super) struct Unfinished<'a> {
    files: &'a Files,
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    written: u64,
    is_named: bool,
}

impl Unfinished<'_> {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.files
            .write_held(&self.file, &self.temporary, self.written, bytes)
            .map_err(failed("write", &self.temporary))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Makes the bytes durable and gives them their name.
    pub(super) fn finish(self) -> Result<(), StorageError> {
        self.files.sync_held(&self.file, &self.temporary)?;
        self.put_in_place()
    }

    /// Gives the bytes their name; neither is durable then.
    pub(super) fn put_in_place(mut self) -> Result<(), StorageError> {
        self.files.rename(&self.temporary, &self.path)?;
        self.is_named = true;
        Ok(())
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // What a write that failed left behind takes room, which may be just what was missing. Where it can't be removed
        // either, the next opening does it.
        if !self.is_named {
            let _ = self.files.remove(&self.temporary);
        }
    }
}

/// Wraps an I/O error with what was tried on which file.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_path_buf();
    move |source| StorageError::Io { action, path, source }
}
