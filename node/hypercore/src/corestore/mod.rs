//! Many cores in one directory, opened by key or on a peer's request by discovery key.
//!
//! A [`Corestore`] holds each open core once, behind one lock, with the state of its replication; [`CoreHandle`]s share it.
//! It starts no tasks but those that [`crate::driver::replicate`] runs inside its own future.

mod handle;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::crypto::{Hash, Key, KeyPair};
use crate::manifest::Manifest;

pub use handle::{CoreHandle, CoreState, CoreStats, Download};

/// How a store behaves.
#[derive(Debug, Clone, Copy)]
pub struct CorestoreConfig {
    /// How long a read waits for peers before [`crate::blocks::BlocksError::NotAvailable`].
    pub read_timeout: Duration,
    /// How long received blocks may wait to be made durable, together with others.
    pub commit_interval: Duration,
}

impl Default for CorestoreConfig {
    fn default() -> Self {
        Self {
            read_timeout: Duration::from_secs(30),
            commit_interval: Duration::from_millis(50),
        }
    }
}

/// Why a store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CorestoreError {
    /// This part of the store is not built yet.
    #[error("the store can not {0} yet")]
    NotBuilt(&'static str),
}

/// Where cores are kept.
#[derive(Debug, Clone)]
enum Place {
    Memory,
    Directory(PathBuf),
}

#[derive(Debug)]
struct Inner {
    place: Place,
    config: CorestoreConfig,
}

/// Many cores; clones share them.
#[derive(Debug, Clone)]
pub struct Corestore {
    inner: Arc<Inner>,
}

impl Corestore {
    /// The store in `directory`, which is made if it is missing. One process at a time.
    pub fn open(directory: &Path, config: CorestoreConfig) -> Result<Self, CorestoreError> {
        Ok(Self {
            inner: Arc::new(Inner {
                place: Place::Directory(directory.to_owned()),
                config,
            }),
        })
    }

    /// A store that is gone with the process.
    pub fn in_memory(config: CorestoreConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                place: Place::Memory,
                config,
            }),
        }
    }

    /// How the store behaves.
    pub fn config(&self) -> &CorestoreConfig {
        &self.inner.config
    }

    /// The core of `key`, made as an empty replica if the store does not hold it.
    pub async fn get(&self, _key: Key) -> Result<CoreHandle, CorestoreError> {
        Err(CorestoreError::NotBuilt("open cores"))
    }

    /// The writable core of `manifest` (its only signer is `key_pair`), made if the store does not hold it.
    pub async fn create(
        &self,
        _manifest: Manifest,
        _key_pair: KeyPair,
    ) -> Result<CoreHandle, CorestoreError> {
        Err(CorestoreError::NotBuilt("create cores"))
    }

    /// The core of this discovery key, if the store holds it, open or not.
    pub async fn find(&self, _discovery_key: &Hash) -> Result<Option<CoreHandle>, CorestoreError> {
        Err(CorestoreError::NotBuilt("find cores"))
    }

    /// Discovery keys of all cores that the store holds.
    pub async fn list(&self) -> Result<Vec<Hash>, CorestoreError> {
        Err(CorestoreError::NotBuilt("list cores"))
    }

    /// Deletes a core; its handles are closed. Returns whether it was there.
    pub async fn remove(&self, _discovery_key: &Hash) -> Result<bool, CorestoreError> {
        Err(CorestoreError::NotBuilt("remove cores"))
    }

    /// Makes everything durable and closes all handles.
    pub async fn close(&self) -> Result<(), CorestoreError> {
        Err(CorestoreError::NotBuilt("close"))
    }
}
