//! Open files of a store, shared by its cores: at most a fixed number of descriptors, the least recently used closed first.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::storage::StorageError;

/// Descriptors kept open when nothing else is said: a quarter of the usual soft limit of 1024, so that sockets have room.
pub const DEFAULT_OPEN_FILES: usize = 192;

/// The open files of a store. Clones share them.
#[derive(Debug, Clone)]
pub struct Files {
    limit: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    files: HashMap<PathBuf, (Arc<File>, u64)>,
    clock: u64,
}

impl Default for Files {
    fn default() -> Self {
        Self::new(DEFAULT_OPEN_FILES)
    }
}

impl Files {
    /// Keeps at most `limit` files open (more while they are in use).
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            open: Arc::default(),
        }
    }

    /// An existing file, to read and to append.
    pub(super) fn get(&self, path: &Path) -> Result<Arc<File>, StorageError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.clock += 1;
        let now = open.clock;
        if let Some((file, used)) = open.files.get_mut(path) {
            *used = now;
            return Ok(Arc::clone(file));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(io_error("open", path))?;
        let file = Arc::new(file);
        if open.files.len() >= self.limit
            && let Some(oldest) = open
                .files
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(path, _)| path.clone())
        {
            open.files.remove(&oldest);
        }
        open.files.insert(path.to_owned(), (Arc::clone(&file), now));
        Ok(file)
    }

    /// Forgets a file that is replaced or deleted.
    pub(super) fn forget(&self, path: &Path) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .files
            .remove(path);
    }
}

/// Names what was tried and on which file.
pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError::Io { action, path, source }
}

/// Makes a rename or a deletion in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    File::open(dir)
        .and_then(|file| file.sync_all())
        .map_err(io_error("sync", dir))
}

/// Writes a whole file so that it is either there, complete and durable, or not there.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let partial = path.with_extension("partial");
    let write = || -> io::Result<()> {
        let mut file = File::create(&partial)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_data()
    };
    write().map_err(io_error("write", &partial))?;
    std::fs::rename(&partial, path).map_err(io_error("rename", path))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}
