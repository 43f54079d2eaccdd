//! Many cores in one directory, opened by key or on a peer's request by discovery key.
//!
//! A [`Corestore`] holds each open core once, behind one lock, with the state of its replication; [`CoreHandle`]s share it.
//! Cores that were asked for here are offered on every connection; those that only a peer asked for are opened for it and
//! closed when no connection and no handle needs them any more.
//!
//! ```
//! use bytes::Bytes;
//! use cumulet_hypercore::blocks::Blocks;
//! use cumulet_hypercore::corestore::{Corestore, CorestoreConfig};
//! use cumulet_hypercore::crypto::KeyPair;
//! use cumulet_hypercore::driver::{Session, replicate};
//! use cumulet_hypercore::manifest::Manifest;
//! use cumulet_secret_stream::{Seeds, noise};
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // `Corestore::open` keeps cores in a directory.
//! let (ours, theirs) = (Corestore::in_memory(CorestoreConfig::default()), Corestore::in_memory(CorestoreConfig::default()));
//! // In a program these seeds come from a source of randomness.
//! let pair = KeyPair::from_seed(&[7; 32]);
//! let core = ours.create(Manifest::single(pair.public_key()), Some(pair)).await?;
//! core.append(vec![Bytes::from("one"), Bytes::from("two"), Bytes::from("three")]).await?;
//!
//! // Two stores and a pipe between them; a socket would do.
//! let session = |is_initiator, seed| Session::Xx {
//!     is_initiator,
//!     key_pair: noise::KeyPair::from_seed([seed; 32]),
//!     seeds: Seeds { ephemeral: [seed + 1; 32], header: [seed + 2; 24] },
//! };
//! let (a, b) = tokio::io::duplex(1 << 16);
//! let stop = CancellationToken::new();
//! let us = tokio::spawn(replicate(ours.clone(), a, session(true, 10), stop.clone()));
//! let them = tokio::spawn(replicate(theirs.clone(), b, session(false, 20), stop.clone()));
//!
//! let copy = theirs.get(*core.key()).await?;
//! assert!(copy.update().await?);
//! assert_eq!(copy.get(1).await?, Bytes::from("two"));
//! assert_eq!(copy.seek(7).await?, (2, 1));
//! let before = copy.snapshot().await;
//!
//! // The bytes of cleared blocks are forgotten, truncated blocks are gone: that is a new fork.
//! copy.clear(1..2).await?;
//! assert_eq!(copy.get_local(1).await?, None);
//! core.truncate(1).await?;
//! copy.watch().wait_for(|state| state.fork == 1).await?;
//! assert_eq!((copy.length(), before.length(), before.kept_length()), (1, 3, 1));
//!
//! stop.cancel();
//! let _ = (us.await?, them.await?);
//! ours.close().await?;
//! theirs.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Its only tasks seal and compact what was written, one per core at a time; [`Corestore::close`] waits for them.
//! [`crate::driver::replicate`] does all other work inside its own future, commits included. What was
//! received on a connection and not committed when its future is dropped becomes durable with the core's next commit, or
//! with [`Corestore::close`].

pub(crate) mod cell;
mod claim;
mod conflict_file;
mod extension;
mod handle;
mod key_file;
mod lock;
pub(crate) mod outbox;
mod primary_key;
mod push;
mod snapshot;
mod turn;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Mutex;

use crate::core::{Core, OpenError, WriteError};
use crate::crypto::{Hash, Key, KeyPair, discovery_key};
use crate::driver::room::Room;
use crate::manifest::Manifest;
use crate::replication::PeerId;
use crate::storage::{DiskOptions, DiskStorage, MemoryStorage, Storage, StorageError};

use cell::Shared;
use claim::Claims;
use key_file::CorePaths;
use outbox::Outbox;

pub use cell::BoxedCore;
pub use claim::Claim;
pub use extension::Extension;
pub use handle::{CoreHandle, CoreState, CoreStats, Download};
pub use primary_key::PrimaryKey;
pub use snapshot::Snapshot;

/// How a store behaves.
#[derive(Debug, Clone)]
pub struct CorestoreConfig {
    /// How long a read waits for peers before [`crate::blocks::BlocksError::NotAvailable`].
    pub read_timeout: Duration,
    /// How long received blocks may wait to be made durable, together with others.
    pub commit_interval: Duration,
    /// How cores are kept on disk.
    pub disk: DiskOptions,
}

impl Default for CorestoreConfig {
    fn default() -> Self {
        Self {
            read_timeout: Duration::from_secs(30),
            commit_interval: Duration::from_millis(50),
            disk: DiskOptions::default(),
        }
    }
}

/// Why a store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CorestoreError {
    /// The core could not be opened or made.
    #[error("failed to open core")]
    Open(#[from] OpenError),
    /// The core refused the change.
    #[error("failed to write core")]
    Write(#[from] WriteError),
    /// The proof was refused.
    #[error("failed to take proof")]
    Verify(#[from] crate::core::VerifyError),
    /// The storage failed.
    #[error("failed to use the core's storage")]
    Storage(#[from] StorageError),
    /// The store's directory could not be read or changed.
    #[error("failed to {action} {}", path.display())]
    Directory {
        /// What was tried.
        action: &'static str,
        /// On which directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another process, or another store of this one, uses the directory.
    #[error("the store in {} is in use by another process", path.display())]
    InUse {
        /// The store's directory.
        path: PathBuf,
    },
    /// The core is being restored.
    #[error("the core is being restored")]
    Claimed,
    /// The core's writer signed two different trees: nobody can say which is the core. The evidence lies beside its directory.
    #[error("the core is frozen: its writer signed two different trees of one length")]
    Frozen,
    /// The core or the store was closed.
    #[error("the core is closed")]
    Closed,
}

/// Where cores are kept.
enum Place {
    Memory,
    /// A core lies in `<two hex digits>/<discovery key in hex>`: few enough entries per directory for any file system.
    Directory(PathBuf),
}

struct Inner {
    place: Place,
    config: CorestoreConfig,
    /// Open cores. Locked while one is opened, so that none is opened twice.
    cores: Mutex<Option<HashMap<Hash, Arc<Shared>>>>,
    /// Cores that are being restored: not to be opened.
    claims: Claims,
    connections: StdMutex<Vec<Weak<Outbox>>>,
    room: Arc<Room>,
    next_peer: AtomicU64,
    /// Keeps other processes out of the directory until the store is closed.
    lock: StdMutex<Option<std::fs::File>>,
}

/// Many cores; clones share them.
#[derive(Clone)]
pub struct Corestore {
    inner: Arc<Inner>,
}

impl Corestore {
    /// The store in `directory`, which is made if it is missing. The directory is locked until the store is closed or dropped.
    ///
    /// # Errors
    /// [`CorestoreError::Directory`] if it can't be made, [`CorestoreError::InUse`] if another store has it open.
    pub fn open(directory: &Path, config: CorestoreConfig) -> Result<Self, CorestoreError> {
        std::fs::create_dir_all(directory).map_err(failed("create", directory))?;
        let lock = lock::lock(directory)?;
        Ok(Self::new(
            Place::Directory(directory.to_owned()),
            config,
            Some(lock),
        ))
    }

    /// A store that is gone with the process. It keeps all its cores open.
    pub fn in_memory(config: CorestoreConfig) -> Self {
        Self::new(Place::Memory, config, None)
    }

    fn new(place: Place, config: CorestoreConfig, lock: Option<std::fs::File>) -> Self {
        Self {
            inner: Arc::new(Inner {
                place,
                config,
                cores: Mutex::new(Some(HashMap::new())),
                claims: Claims::default(),
                connections: StdMutex::default(),
                room: Arc::default(),
                next_peer: AtomicU64::new(1),
                lock: StdMutex::new(lock),
            }),
        }
    }

    /// How the store behaves.
    pub fn config(&self) -> &CorestoreConfig {
        &self.inner.config
    }

    /// The core of `key`, made as an empty replica if the store does not hold it. It is offered on all connections.
    ///
    /// # Errors
    /// [`CorestoreError::Open`], [`CorestoreError::Closed`].
    pub async fn get(&self, key: Key) -> Result<CoreHandle, CorestoreError> {
        self.open_core(discovery_key(&key), move |storage| Core::open(storage, key), key)
            .await
    }

    /// The core of `manifest`, writable if `key_pair` is its only signer, made if the store does not hold it. It is offered
    /// on all connections.
    ///
    /// # Errors
    /// [`CorestoreError::Open`], [`CorestoreError::Closed`].
    pub async fn create(
        &self,
        manifest: Manifest,
        key_pair: Option<KeyPair>,
    ) -> Result<CoreHandle, CorestoreError> {
        let key = manifest.key();
        self.create_with_key(key, key_pair, move |storage, key_pair| {
            Core::create(storage, manifest, key_pair)
        })
        .await
    }

    /// The compat core of `key_pair`, whose key is the public one, writable, made if the store does not hold it. It is offered
    /// on all connections.
    ///
    /// # Errors
    /// [`CorestoreError::Open`], [`CorestoreError::Closed`].
    pub async fn create_compat(&self, key_pair: KeyPair) -> Result<CoreHandle, CorestoreError> {
        let (key, own) = (key_pair.public_key(), key_pair.clone());
        self.create_with_key(key, Some(key_pair), move |storage, _| {
            Core::create_compat(storage, own)
        })
        .await
    }

    async fn create_with_key(
        &self,
        key: Key,
        key_pair: Option<KeyPair>,
        create: impl FnOnce(Box<dyn Storage>, Option<KeyPair>) -> Result<BoxedCore, OpenError> + Send + 'static,
    ) -> Result<CoreHandle, CorestoreError> {
        let make = move |storage: Box<dyn Storage>| {
            if storage.manifest().is_none() {
                return create(storage, key_pair);
            }
            let mut core = Core::open(storage, key)?;
            if let Some(key_pair) = key_pair {
                core.set_key_pair(key_pair);
            }
            Ok(core)
        };
        self.open_core(discovery_key(&key), make, key).await
    }

    /// The core of this discovery key, if the store holds it, open or not.
    ///
    /// # Errors
    /// [`CorestoreError::Open`], [`CorestoreError::Closed`].
    pub async fn find(&self, discovery_key: &Hash) -> Result<Option<CoreHandle>, CorestoreError> {
        let shared = self.find_shared(discovery_key).await?;
        Ok(shared.map(|shared| self.handle(shared)))
    }

    pub(crate) async fn find_shared(
        &self,
        discovery_key: &Hash,
    ) -> Result<Option<Arc<Shared>>, CorestoreError> {
        let mut cores = self.inner.cores.lock().await;
        let cores = cores.as_mut().ok_or(CorestoreError::Closed)?;
        if let Some(shared) = cores.get(discovery_key) {
            return Ok(Some(shared.clone()));
        }
        let Some(paths) = self
            .paths_of(discovery_key)
            .filter(|_| !self.is_claimed(discovery_key))
        else {
            return Ok(None);
        };
        let disk = self.inner.config.disk.clone();
        let opened = blocking(move || {
            let Some(key) = paths.read_key()? else {
                return Ok(None);
            };
            paths.refuse_frozen()?;
            let storage = Box::new(open_disk(&paths, key, disk)?.defer_work());
            Ok(Some(Core::open(storage as Box<dyn Storage>, key)?))
        });
        let Some(core) = opened.await? else {
            return Ok(None);
        };
        let shared = Arc::new(Shared::new(core, self.inner.config.clone()));
        cores.insert(*discovery_key, shared.clone());
        Ok(Some(shared))
    }

    async fn open_core(
        &self,
        discovery_key: Hash,
        make: impl FnOnce(Box<dyn Storage>) -> Result<BoxedCore, OpenError> + Send + 'static,
        key: Key,
    ) -> Result<CoreHandle, CorestoreError> {
        let mut cores = self.inner.cores.lock().await;
        let cores = cores.as_mut().ok_or(CorestoreError::Closed)?;
        let shared = if let Some(shared) = cores.get(&discovery_key) {
            shared.clone()
        } else if self.is_claimed(&discovery_key) {
            return Err(CorestoreError::Claimed);
        } else {
            let (paths, disk) = (self.paths_of(&discovery_key), self.inner.config.disk.clone());
            let opened = blocking(move || {
                let storage: Box<dyn Storage> = match paths {
                    Some(paths) => {
                        paths.refuse_frozen()?;
                        paths.write_key(&key)?;
                        Box::new(open_disk(&paths, key, disk)?.defer_work())
                    }
                    None => Box::new(MemoryStorage::new()),
                };
                let mut core = make(storage)?;
                core.flush()?;
                Ok(core)
            });
            let shared = Arc::new(Shared::new(opened.await?, self.inner.config.clone()));
            cores.insert(discovery_key, shared.clone());
            shared
        };
        self.offer(&shared);
        Ok(self.handle(shared))
    }

    fn handle(&self, shared: Arc<Shared>) -> CoreHandle {
        let store = Arc::downgrade(&self.inner);
        CoreHandle { shared, store }
    }

    /// The storage of a core that is not open, made if the store does not hold it; none while somebody has it open. Until it is
    /// dropped the core can't be opened.
    ///
    /// # Errors
    /// [`CorestoreError::Claimed`] if it is claimed already; those of opening a storage.
    pub async fn claim(&self, key: Key) -> Result<Option<Claim>, CorestoreError> {
        let discovery_key = discovery_key(&key);
        let cores = self.inner.cores.lock().await;
        let cores = cores.as_ref().ok_or(CorestoreError::Closed)?;
        if cores.contains_key(&discovery_key) {
            return Ok(None);
        }
        let claims = self.inner.claims.clone();
        if !claims
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(discovery_key)
        {
            return Err(CorestoreError::Claimed);
        }
        let (paths, disk) = (self.paths_of(&discovery_key), self.inner.config.disk.clone());
        let opened = blocking(move || match paths {
            Some(paths) => {
                paths.write_key(&key)?;
                Ok(Box::new(open_disk(&paths, key, disk)?) as Box<dyn Storage>)
            }
            None => Ok(Box::new(MemoryStorage::new())),
        });
        match opened.await {
            Ok(storage) => Ok(Some(Claim::new(storage, discovery_key, claims))),
            Err(error) => {
                claims
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&discovery_key);
                Err(error)
            }
        }
    }

    fn is_claimed(&self, discovery_key: &Hash) -> bool {
        self.inner
            .claims
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(discovery_key)
    }

    /// Has every connection open a channel for the core, now and in the future.
    fn offer(&self, shared: &Arc<Shared>) {
        if shared.wanted.swap(true, Ordering::SeqCst) {
            return;
        }
        for outbox in self.connections().iter().filter_map(Weak::upgrade) {
            outbox.attach(shared.clone());
        }
    }

    /// Discovery keys of all cores that the store holds, in no order.
    ///
    /// # Errors
    /// [`CorestoreError::Directory`], [`CorestoreError::Closed`].
    pub async fn list(&self) -> Result<Vec<Hash>, CorestoreError> {
        let cores = self.inner.cores.lock().await;
        let cores = cores.as_ref().ok_or(CorestoreError::Closed)?;
        match &self.inner.place {
            Place::Memory => Ok(cores.keys().copied().collect()),
            Place::Directory(root) => {
                let root = root.clone();
                blocking(move || list_directory(&root)).await
            }
        }
    }

    /// Deletes a core; its handles are closed and its peers left. Returns whether it was there.
    ///
    /// # Errors
    /// [`CorestoreError::Directory`] if its files can't be deleted, [`CorestoreError::Closed`].
    pub async fn remove(&self, discovery_key: &Hash) -> Result<bool, CorestoreError> {
        let mut cores = self.inner.cores.lock().await;
        let cores = cores.as_mut().ok_or(CorestoreError::Closed)?;
        let open = cores.remove(discovery_key);
        if let Some(shared) = &open {
            shared.closed.cancel();
            // Whoever is changing the core now ends first.
            drop(shared.lock().await);
            shared.finish_work().await;
        }
        let Some(paths) = self.paths_of(discovery_key) else {
            return Ok(open.is_some());
        };
        Ok(blocking(move || paths.remove()).await? || open.is_some())
    }

    /// Makes everything durable and closes all handles.
    ///
    /// # Errors
    /// The first [`CorestoreError::Storage`]; all cores are closed nevertheless.
    pub async fn close(&self) -> Result<(), CorestoreError> {
        let Some(cores) = self.inner.cores.lock().await.take() else {
            return Ok(());
        };
        let mut result = Ok(());
        for shared in cores.into_values() {
            let committed = shared.commit().await;
            result = result.and(committed);
            shared.closed.cancel();
            shared.finish_work().await;
        }
        drop(
            self.inner
                .lock
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        Ok(result?)
    }

    /// The cores that a new connection opens channels for; from now on it is told of others.
    pub(crate) async fn join(&self, outbox: &Arc<Outbox>) -> Result<Vec<Arc<Shared>>, CorestoreError> {
        let cores = self.inner.cores.lock().await;
        let cores = cores.as_ref().ok_or(CorestoreError::Closed)?;
        let mut connections = self.connections();
        connections.retain(|outbox| outbox.strong_count() > 0);
        connections.push(Arc::downgrade(outbox));
        Ok(cores
            .values()
            .filter(|shared| shared.wanted.load(Ordering::SeqCst))
            .cloned()
            .collect())
    }

    /// Closes a core that a connection has left or a handle gave back, if nothing else uses it.
    pub(crate) async fn release(&self, shared: Arc<Shared>) -> Result<(), StorageError> {
        let result = shared.commit().await;
        if shared.closed.is_cancelled() {
            self.keep_frozen(&shared).await;
        }
        let mut cores = self.inner.cores.lock().await;
        // The map's and ours: no handle and no connection has it, and none can get it while the map is locked.
        // One that was frozen stays, closed, so that it is not opened again.
        let unused = Arc::strong_count(&shared) <= 2
            && matches!(self.inner.place, Place::Directory(_))
            && !shared.closed.is_cancelled();
        if let (true, Some(cores)) = (unused, cores.as_mut()) {
            // Whoever opens it again must find nobody else at its files.
            shared.closed.cancel();
            shared.finish_work().await;
            cores.remove(&shared.discovery_key);
        }
        result
    }

    /// Keeps a core frozen beyond the process, if it is.
    async fn keep_frozen(&self, shared: &Shared) {
        let conflict = shared.lock().await.conflict.clone();
        if let (Some(conflict), Some(paths)) = (conflict, self.paths_of(&shared.discovery_key)) {
            let written = blocking(move || conflict_file::write(&paths.conflict, &conflict));
            if let Err(error) = written.await {
                // It is frozen until the process ends; what made it so can be found out again.
                tracing::error!(%error, "evidence not written");
            }
        }
    }

    /// What connections share.
    pub(crate) fn room(&self) -> Arc<Room> {
        self.inner.room.clone()
    }

    pub(crate) fn next_peer(&self) -> PeerId {
        PeerId(self.inner.next_peer.fetch_add(1, Ordering::Relaxed))
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Outbox>>> {
        self.inner
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn paths_of(&self, discovery_key: &Hash) -> Option<CorePaths> {
        match &self.inner.place {
            Place::Memory => None,
            Place::Directory(root) => Some(CorePaths::new(root, discovery_key)),
        }
    }
}

impl std::fmt::Debug for Corestore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Corestore")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

fn open_disk(paths: &CorePaths, key: Key, options: DiskOptions) -> Result<DiskStorage, CorestoreError> {
    let discovery_key = discovery_key(&key);
    Ok(DiskStorage::open(&paths.directory, discovery_key, options)?)
}

/// Runs work that waits for a disk off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CorestoreError> + Send + 'static,
) -> Result<T, CorestoreError> {
    // Cancelled only when the runtime ends, panicked only on a defect of ours.
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| CorestoreError::Closed)?
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> CorestoreError + 'a {
    move |source| CorestoreError::Directory {
        action,
        path: path.to_owned(),
        source,
    }
}

fn list_directory(root: &Path) -> Result<Vec<Hash>, CorestoreError> {
    let mut found = Vec::new();
    for outer in std::fs::read_dir(root).map_err(failed("list", root))? {
        let outer = outer.map_err(failed("list", root))?.path();
        if !outer.is_dir() {
            continue;
        }
        for inner in std::fs::read_dir(&outer).map_err(failed("list", &outer))? {
            let inner = inner.map_err(failed("list", &outer))?;
            // Anything else in there is not ours to judge.
            let name = inner.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".key"));
            found.extend(
                name.filter(|name| name.len() == 64)
                    .and_then(|name| crate::key::parse(name).ok()),
            );
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
