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
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::storage::StorageError;

/// Descriptors kept open: far below the usual limit of 1024 per process, enough for the cores that are busy at once.
pub const DEFAULT_OPEN_FILES: usize = 256;

/// Stops a storage after a number of changing file operations, as a crash would: the operation that hits the end
/// writes half of its bytes, every later one fails.
#[derive(Debug)]
pub struct Faults {
    left: AtomicI64,
    syncs: AtomicU64,
    fail_syncs: AtomicBool,
}

impl Faults {
    /// Allows `operations` changes.
    pub fn after(operations: i64) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicI64::new(operations),
            syncs: AtomicU64::new(0),
            fail_syncs: AtomicBool::new(false),
        })
    }

    /// How many times a file was synced.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::SeqCst)
    }

    /// From now on no sync succeeds, as on a disk that lost its connection.
    pub fn fail_syncs(&self) {
        self.fail_syncs.store(true, Ordering::SeqCst);
    }

    /// Whether the end was hit.
    pub fn hit(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    /// Whether the next operation may run; the first that may not is told apart, so that it can do half of its work.
    fn next(&self) -> Step {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            1.. => Step::Run,
            0 => Step::Half,
            _ => Step::Fail,
        }
    }
}

enum Step {
    Run,
    Half,
    Fail,
}

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

    /// As [`Files::new`], and stops when the faults say so.
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

    fn step(&self) -> Step {
        self.faults.as_ref().map_or(Step::Run, |faults| faults.next())
    }

    fn change(&self) -> io::Result<()> {
        match self.step() {
            Step::Run => Ok(()),
            Step::Half | Step::Fail => Err(io::Error::other("stopped by a test")),
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
            match self.step() {
                Step::Run => file.write_all_at(bytes, offset),
                Step::Half => {
                    file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
                    Err(io::Error::other("stopped by a test"))
                }
                Step::Fail => Err(io::Error::other("stopped by a test")),
            }
        };
        write().map_err(failed("write", path))
    }

    pub(super) fn cut(&self, path: &Path, length: u64) -> Result<(), StorageError> {
        let cut = || {
            self.change()?;
            self.file(path)?.set_len(length)
        };
        cut().map_err(failed("cut", path))
    }

    /// Writes the file's data through to the disk (`fdatasync`).
    pub(super) fn sync(&self, path: &Path) -> Result<(), StorageError> {
        self.sync_held(&*self.hold(path)?, path)
    }

    pub(super) fn sync_held(&self, file: &File, path: &Path) -> Result<(), StorageError> {
        self.change()
            .and_then(|()| match &self.faults {
                Some(faults) if faults.fail_syncs.load(Ordering::SeqCst) => {
                    Err(io::Error::other("stopped by a test"))
                }
                Some(faults) => {
                    faults.syncs.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                }
                None => Ok(()),
            })
            .and_then(|()| file.sync_data())
            .map_err(failed("sync", path))
    }

    /// Makes a whole file appear under its name at once, durable but for its directory entry.
    pub(super) fn write_whole(&self, path: &Path, parts: &[&[u8]]) -> Result<(), StorageError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        self.forget(&temporary);
        self.change()
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
        self.change()
            .and_then(|()| fs::rename(from, to))
            .map_err(failed("rename", from))?;
        self.forget(from);
        self.forget(to);
        Ok(())
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), StorageError> {
        self.forget(path);
        match self.change().and_then(|()| fs::remove_file(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(failed("remove", path)),
        }
    }

    /// Writes the directory's entries through to the disk.
    pub(super) fn sync_dir(&self, dir: &Path) -> Result<(), StorageError> {
        self.change()
            .and_then(|()| File::open(dir)?.sync_all())
            .map_err(failed("sync the directory", dir))
    }
}

/// Wraps an I/O error with what was tried on which file.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_path_buf();
    move |source| StorageError::Io { action, path, source }
}
