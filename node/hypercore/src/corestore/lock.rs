//! Keeps a store's directory to one process: two would write over each other's logs.
//!
//! The lock is the system's advisory lock on the file `lock`, so it ends with the process however that ends.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::{CorestoreError, failed};

/// Locks a store's directory until the file is dropped.
///
/// # Errors
/// [`CorestoreError::InUse`] if it is locked; [`CorestoreError::Directory`] if the file can't be made.
pub(super) fn lock(directory: &Path) -> Result<File, CorestoreError> {
    let path = directory.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CorestoreError::InUse {
            path: directory.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use crate::corestore::{Corestore, CorestoreConfig, CorestoreError};

    #[tokio::test]
    async fn a_directory_belongs_to_one_store_until_it_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Corestore::open(directory.path(), CorestoreConfig::default());
        let first = open().unwrap();
        let copy = first.clone();
        assert!(matches!(open(), Err(CorestoreError::InUse { path }) if path == directory.path()));
        first.close().await.unwrap();
        let second = open().unwrap();
        drop(second);
        open().unwrap();
        drop(copy);
    }
}
