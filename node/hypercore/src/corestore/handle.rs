//! A handle on one open core.

use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;

use super::cell::{Abandoned, BoxedCore, Changed, Guard, Shared};
use super::snapshot::Snapshot;
use super::{Corestore, CorestoreError, Inner};
use crate::blocks::{Blocks, BlocksError};
use crate::core::{Draft, SeekResult, WriteError};
use crate::crypto::{Hash, Key};
use crate::manifest::Manifest;
use crate::storage::{Located, StorageError};

/// A core at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CoreState {
    /// Fork number.
    pub fork: u64,
    /// Number of blocks that exist.
    pub length: u64,
    /// Bytes of all blocks, as stored.
    pub byte_length: u64,
    /// Blocks held from the first on without a gap.
    pub contiguous_length: u64,
    /// Blocks held at all.
    pub held_blocks: u64,
    /// Grows with every change, also of blocks that leave the numbers above alone.
    pub generation: u64,
}

/// Traffic of one core since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CoreStats {
    /// Peers that replicate this core now.
    pub peers: usize,
    /// Blocks sent.
    pub uploaded_blocks: u64,
    /// Bytes of these blocks.
    pub uploaded_bytes: u64,
    /// Blocks received and verified.
    pub downloaded_blocks: u64,
    /// Bytes of these blocks.
    pub downloaded_bytes: u64,
}

/// A wish for a range of blocks; it ends when this is dropped.
#[derive(Debug)]
pub struct Download {
    core: CoreHandle,
    id: u64,
    blocks: Range<u64>,
    durable: watch::Receiver<CoreState>,
}

impl Download {
    /// Waits until all blocks of the range that exist are held and durable. For an empty core whose length is not known
    /// yet that is at once: [`CoreHandle::update`] first.
    ///
    /// # Errors
    /// [`BlocksError::Closed`] if the core is closed first.
    pub async fn done(&mut self) -> Result<(), BlocksError> {
        loop {
            let state = *self.durable.borrow_and_update();
            let end = self.blocks.end.min(self.core.state().length);
            if state.contiguous_length >= end {
                return Ok(());
            }
            let held = self
                .core
                .with_core(|core| core.bitfield().contains_range(self.blocks.start..end))
                .await;
            if held && self.core.state().generation == state.generation {
                return Ok(());
            }
            tokio::select! {
                changed = self.durable.changed() => changed.map_err(|_| BlocksError::Closed)?,
                () = self.core.shared.closed.cancelled() => return Err(BlocksError::Closed),
            }
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.core.shared.abandon(Abandoned::Download(self.id));
    }
}

/// Notes that a block is not waited for any more, however the waiting ends.
struct Waiting<'a> {
    shared: &'a Shared,
    index: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.abandon(Abandoned::Block(self.index));
    }
}

/// One open core; clones share it.
#[derive(Clone)]
pub struct CoreHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) store: Weak<Inner>,
}

impl CoreHandle {
    /// The core's key.
    pub fn key(&self) -> &Key {
        &self.shared.key
    }

    /// The core's discovery key.
    pub fn discovery_key(&self) -> &Hash {
        &self.shared.discovery_key
    }

    /// The core now.
    pub fn state(&self) -> CoreState {
        *self.shared.state.borrow()
    }

    /// Follows the core's state, durable or not.
    pub fn watch(&self) -> watch::Receiver<CoreState> {
        self.shared.state.subscribe()
    }

    /// Follows what would survive a loss of power: what a backup may ship.
    pub fn watch_durable(&self) -> watch::Receiver<CoreState> {
        self.shared.durable.subscribe()
    }

    /// Whether the store has closed or removed the core.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled()
    }

    /// Waits until the store has closed or removed the core.
    pub async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }

    /// Traffic so far.
    pub async fn stats(&self) -> CoreStats {
        self.shared.lock().await.stats
    }

    /// The manifest, if it is known yet.
    pub async fn manifest(&self) -> Option<Manifest> {
        self.with_core(|core| core.manifest().cloned()).await
    }

    /// Looks at the core itself: nodes, roots, proofs, bitfield. `look` must be quick: replication waits for it.
    pub async fn with_core<R>(&self, look: impl FnOnce(&BoxedCore) -> R) -> R {
        look(self.shared.lock().await.replica.core())
    }

    /// Changes the core itself, as a restore does with verified proofs: durable when it returns, and peers are told.
    ///
    /// # Errors
    /// Those of `change`; [`CorestoreError::Storage`] if it can't be made durable.
    pub async fn change<R, E: Into<CorestoreError>>(
        &self,
        change: impl FnOnce(&mut BoxedCore) -> Result<R, E>,
    ) -> Result<R, CorestoreError> {
        let changed = |core: &mut BoxedCore| {
            let result = change(core)?;
            let (added, dropped) = (0..core.length(), 0..0);
            Ok::<_, E>((Changed { added, dropped }, result))
        };
        self.shared.change(changed).await
    }

    /// A block that is held here; no peer is asked.
    ///
    /// # Errors
    /// [`CorestoreError::Storage`].
    pub async fn get_local(&self, index: u64) -> Result<Option<Bytes>, CorestoreError> {
        Ok(self.held(index, self.shared.lock().await).await?.break_value())
    }

    /// A block that is held, or else the core as it is without it. It is read when the core is free for others again; only
    /// where that fails the core reads it, which may mend something.
    async fn held<'a>(
        &'a self,
        index: u64,
        cell: Guard<'a>,
    ) -> Result<ControlFlow<Bytes, Guard<'a>>, StorageError> {
        let located = match cell.replica.core().locate(index) {
            Ok(Some(located)) => Some(located),
            Ok(None) => return Ok(ControlFlow::Continue(cell)),
            Err(_) => None,
        };
        drop(cell);
        let read = match located {
            Some(Located::InMemory(block)) => Some(block),
            Some(Located::OnDisk(stored)) => stored.read().ok(),
            None => None,
        };
        if let Some(block) = read {
            return Ok(ControlFlow::Break(block));
        }
        let cell = self.shared.lock().await;
        let block = cell.replica.core().get(index)?;
        Ok(block.map_or(ControlFlow::Continue(cell), ControlFlow::Break))
    }

    /// Whether a block is held here.
    pub async fn has(&self, index: u64) -> bool {
        self.with_core(|core| core.has(index)).await
    }

    /// Appends blocks to a writable core, under one signature; durable when it returns, unless the store is
    /// [unsynced](crate::storage::Durability). Many may append at once: they share a sync. Returns the length behind
    /// these blocks.
    ///
    /// # Errors
    /// [`CorestoreError::Write`] if the core is not writable or a block is too large, or [`CorestoreError::Storage`].
    pub async fn append(&self, blocks: Vec<Bytes>) -> Result<u64, CorestoreError> {
        let append = |core: &mut BoxedCore| {
            let added = core.append_batch(blocks)?;
            let length = added.end;
            Ok::<_, WriteError>((Changed { added, dropped: 0..0 }, length))
        };
        self.shared.change(append).await
    }

    /// Appends a draft (made with [`with_core`](Self::with_core)) under a signature from elsewhere, as [`crate::multisig`]
    /// assembles it; durable as [`append`](Self::append). Returns the length behind the new blocks.
    ///
    /// # Errors
    /// [`CorestoreError::Write`] if the core moved on since the draft was made or the signature does not prove it, or
    /// [`CorestoreError::Storage`].
    pub async fn append_signed(&self, draft: Draft, signature: Bytes) -> Result<u64, CorestoreError> {
        let append = |core: &mut BoxedCore| {
            let added = core.append_signed(draft, signature)?;
            let length = added.end;
            Ok::<_, WriteError>((Changed { added, dropped: 0..0 }, length))
        };
        self.shared.change(append).await
    }

    /// What was kept beside the core under this name. No peer sees it.
    pub async fn user_data(&self, name: &str) -> Option<Bytes> {
        self.with_core(|core| core.user_data(name)).await
    }

    /// Keeps a value under a name beside the core, or forgets it; durable as [`append`](Self::append).
    ///
    /// # Errors
    /// [`CorestoreError::Write`] if it is too large, or [`CorestoreError::Storage`].
    pub async fn set_user_data(&self, name: &str, value: Option<Bytes>) -> Result<(), CorestoreError> {
        let keep = |core: &mut BoxedCore| {
            core.set_user_data(name, value)?;
            let (added, dropped) = (0..0, 0..0);
            Ok::<_, WriteError>((Changed { added, dropped }, ()))
        };
        self.shared.change(keep).await
    }

    /// The core as it is now, unmoved by what comes. It can be read as long as it lasts; see [`Snapshot`].
    pub async fn snapshot(&self) -> Snapshot {
        let mut cell = self.shared.lock().await;
        let length = cell.replica.core().length();
        Snapshot::new(self, &mut cell, length)
    }

    /// The core as it was with `length` blocks, at the fork that it has now.
    ///
    /// # Errors
    /// [`BlocksError::OutOfRange`] for a length that the core does not have.
    pub async fn checkout(&self, length: u64) -> Result<Snapshot, BlocksError> {
        let mut cell = self.shared.lock().await;
        let newest = cell.replica.core().length();
        if length > newest {
            return Err(BlocksError::OutOfRange {
                index: length,
                length: newest,
            });
        }
        Ok(Snapshot::new(self, &mut cell, length))
    }

    /// Gives this handle back: what was changed is durable when it returns, and the core itself is closed if no other handle
    /// and no connection uses it (cores in memory stay). Dropping a handle does neither.
    ///
    /// # Errors
    /// [`CorestoreError::Storage`] if something can't be made durable.
    pub async fn close(self) -> Result<(), CorestoreError> {
        let Self { shared, store } = self;
        match store.upgrade() {
            Some(inner) => Ok(Corestore { inner }.release(shared).await?),
            None => Ok(shared.commit().await?),
        }
    }

    /// Makes everything durable that was changed or received so far, also where the store does not do so by itself.
    ///
    /// # Errors
    /// [`CorestoreError::Storage`].
    pub async fn flush(&self) -> Result<(), CorestoreError> {
        Ok(self.shared.commit().await?)
    }

    /// Cuts a writable core to `length` blocks, as its next fork.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn truncate(&self, length: u64) -> Result<(), CorestoreError> {
        self.cut(length, |core| core.truncate(length, None)).await
    }

    /// Cuts a writable core to `length` blocks, as a fork that is higher than the one it has.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn truncate_to_fork(&self, length: u64, fork: u64) -> Result<(), CorestoreError> {
        self.cut(length, |core| core.truncate(length, Some(fork))).await
    }

    /// Cuts a core to `length` blocks at this fork, under a signature of that tree from elsewhere.
    ///
    /// # Errors
    /// As [`append_signed`](Self::append_signed).
    pub async fn truncate_signed(
        &self,
        length: u64,
        fork: u64,
        signature: Bytes,
    ) -> Result<(), CorestoreError> {
        self.cut(length, |core| core.truncate_signed(length, fork, signature))
            .await
    }

    async fn cut(
        &self,
        length: u64,
        cut: impl FnOnce(&mut BoxedCore) -> Result<(), WriteError>,
    ) -> Result<(), CorestoreError> {
        let truncate = |core: &mut BoxedCore| {
            let dropped = length..core.length();
            cut(core)?;
            Ok::<_, WriteError>((Changed { added: 0..0, dropped }, ()))
        };
        self.shared.change(truncate).await
    }

    /// Forgets blocks but keeps their place in the tree.
    ///
    /// # Errors
    /// [`CorestoreError::Storage`].
    pub async fn clear(&self, blocks: Range<u64>) -> Result<(), CorestoreError> {
        let clear = |core: &mut BoxedCore| {
            core.clear(blocks.clone())?;
            let (added, dropped) = (0..0, blocks.clone());
            Ok::<_, crate::storage::StorageError>((Changed { added, dropped }, ()))
        };
        self.shared.change(clear).await
    }

    /// Waits until the core is as long as the longest that a peer claims, up to the store's read timeout. Without peers it
    /// waits for one. Returns whether the core grew.
    ///
    /// # Errors
    /// [`CorestoreError::Closed`] if the core is closed meanwhile.
    pub async fn update(&self) -> Result<bool, CorestoreError> {
        let mut state = self.watch();
        let before = state.borrow().length;
        let grown = async {
            loop {
                let activity = self.shared.activity.notified();
                let claimed = {
                    let cell = self.shared.lock().await;
                    state.borrow_and_update();
                    cell.replicator.claimed_length(&cell.replica)
                };
                if claimed.is_some_and(|claimed| claimed <= self.state().length) {
                    return;
                }
                tokio::select! {
                    _ = state.changed() => {}
                    () = activity => {}
                    () = self.shared.closed.cancelled() => return,
                }
            }
        };
        // Too late is an answer too: the core did not grow.
        let _ = timeout(self.shared.config.read_timeout, grown).await;
        if self.is_closed() {
            Err(CorestoreError::Closed)
        } else {
            Ok(self.state().length > before)
        }
    }

    /// Wants a range of blocks, now and as the core grows (`0..u64::MAX` follows it), until the returned value is dropped.
    pub async fn download(&self, blocks: Range<u64>) -> Download {
        let mut cell = self.shared.lock().await;
        let id = cell.add_download(blocks.clone(), Instant::now());
        cell.pump(&self.shared);
        Download {
            core: self.clone(),
            id,
            blocks,
            durable: self.watch_durable(),
        }
    }

    /// Reads a block, or waits for one that peers send. It is asked for, unless the core asks for nothing and it is not `forced`.
    pub(super) async fn read(&self, index: u64, forced: bool) -> Result<Bytes, BlocksError> {
        let cell = self.shared.lock().await;
        let length = cell.replica.core().length();
        if index >= length {
            return Err(BlocksError::OutOfRange { index, length });
        }
        let mut cell = match self.held(index, cell).await {
            Ok(ControlFlow::Break(block)) => return Ok(block),
            Ok(ControlFlow::Continue(cell)) => cell,
            Err(error) => return Err(failed(index, error)),
        };
        if self.is_closed() {
            return Err(BlocksError::Closed);
        }
        let stored = cell.wait_for_block(index, forced, Instant::now());
        cell.pump(&self.shared);
        drop(cell);
        let waiting = Waiting {
            shared: &self.shared,
            index,
        };
        tokio::select! {
            stored = timeout(self.shared.config.read_timeout, stored) => {
                if !matches!(stored, Ok(Ok(()))) {
                    return Err(BlocksError::NotAvailable { index });
                }
            }
            () = self.shared.closed.cancelled() => return Err(BlocksError::Closed),
        }
        drop(waiting);
        let block = self
            .with_core(|core| core.get(index))
            .await
            .map_err(|error| failed(index, error))?;
        // Gone again if a reorganisation came between.
        block.ok_or(BlocksError::NotAvailable { index })
    }

    /// As [`Blocks::seek`], for blocks with `padding` bytes in front that are not counted (8 on encrypted cores).
    ///
    /// # Errors
    /// Those of [`Blocks::seek`].
    pub async fn seek_padded(&self, byte_offset: u64, padding: u64) -> Result<(u64, u64), BlocksError> {
        let found = async {
            loop {
                let activity = self.shared.activity.notified();
                let mut cell = self.shared.lock().await;
                let result = cell.replica.core().seek(byte_offset, padding);
                match result.map_err(|source| failed(byte_offset, source))? {
                    SeekResult::Found { block, offset } => {
                        cell.replicator.cancel_seek(byte_offset, padding);
                        return Ok((block, offset));
                    }
                    SeekResult::Beyond => {
                        cell.replicator.cancel_seek(byte_offset, padding);
                        let length = cell.replica.core().length();
                        return Err(BlocksError::OutOfRange {
                            index: byte_offset,
                            length,
                        });
                    }
                    SeekResult::Within { .. } => {
                        let crate::corestore::cell::Cell {
                            replicator, replica, ..
                        } = &mut *cell;
                        replicator.want_seek(byte_offset, padding, replica, Instant::now());
                        cell.pump(&self.shared);
                    }
                }
                drop(cell);
                tokio::select! {
                    () = activity => {}
                    () = self.shared.closed.cancelled() => return Err(BlocksError::Closed),
                }
            }
        };
        let result = timeout(self.shared.config.read_timeout, found).await;
        result.unwrap_or(Err(BlocksError::NotAvailable { index: byte_offset }))
    }
}

impl std::fmt::Debug for CoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CoreHandle")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

pub(super) fn failed(index: u64, source: impl std::error::Error + Send + Sync + 'static) -> BlocksError {
    BlocksError::Failed {
        index,
        source: Box::new(source),
    }
}

impl Blocks for CoreHandle {
    fn length(&self) -> u64 {
        self.state().length
    }

    fn fork(&self) -> u64 {
        self.state().fork
    }

    async fn get(&self, index: u64) -> Result<Bytes, BlocksError> {
        self.read(index, false).await
    }

    async fn seek(&self, byte_offset: u64) -> Result<(u64, u64), BlocksError> {
        self.seek_padded(byte_offset, 0).await
    }
}
