//! A handle on one open core.

use std::ops::Range;

use bytes::Bytes;
use tokio::sync::watch;

use crate::blocks::{Blocks, BlocksError};
use crate::corestore::CorestoreError;
use crate::crypto::{Hash, Key};
use crate::manifest::Manifest;

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

#[derive(Debug)]
pub(crate) struct Shared {
    key: Key,
    discovery_key: Hash,
    state: watch::Sender<CoreState>,
    durable: watch::Sender<CoreState>,
}

/// A wish for a range of blocks; it ends when this is dropped.
#[derive(Debug)]
pub struct Download {
    _core: CoreHandle,
}

impl Download {
    /// Waits until all blocks of the range are held and durable.
    ///
    /// # Errors
    /// [`BlocksError::Closed`] if the core is closed first.
    pub async fn done(&mut self) -> Result<(), BlocksError> {
        Err(BlocksError::Closed)
    }
}

/// One open core; clones share it.
#[derive(Debug, Clone)]
pub struct CoreHandle {
    shared: std::sync::Arc<Shared>,
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

    /// Traffic so far.
    pub async fn stats(&self) -> CoreStats {
        CoreStats::default()
    }

    /// The manifest, if it is known yet.
    pub async fn manifest(&self) -> Option<Manifest> {
        None
    }

    /// A block that is held here; no peer is asked.
    pub async fn get_local(&self, _index: u64) -> Result<Option<Bytes>, CorestoreError> {
        Err(CorestoreError::NotBuilt("read blocks"))
    }

    /// Whether a block is held here.
    pub async fn has(&self, _index: u64) -> bool {
        false
    }

    /// Appends blocks to a writable core; durable when it returns. Returns the new length.
    pub async fn append(&self, _blocks: Vec<Bytes>) -> Result<u64, CorestoreError> {
        Err(CorestoreError::NotBuilt("append blocks"))
    }

    /// Cuts a writable core to `length` blocks, as its next fork.
    pub async fn truncate(&self, _length: u64) -> Result<(), CorestoreError> {
        Err(CorestoreError::NotBuilt("truncate cores"))
    }

    /// Forgets blocks but keeps their place in the tree.
    pub async fn clear(&self, _blocks: Range<u64>) -> Result<(), CorestoreError> {
        Err(CorestoreError::NotBuilt("clear blocks"))
    }

    /// Asks the peers for a longer core, and waits for their answers up to the store's read timeout.
    /// Returns whether the core grew.
    pub async fn update(&self) -> Result<bool, CorestoreError> {
        Err(CorestoreError::NotBuilt("ask peers"))
    }

    /// Wants a range of blocks, now and as the core grows (`0..u64::MAX` follows it), until the returned value is dropped.
    pub async fn download(&self, _blocks: Range<u64>) -> Download {
        Download { _core: self.clone() }
    }
}

impl Blocks for CoreHandle {
    fn length(&self) -> u64 {
        self.state().length
    }

    async fn get(&self, _index: u64) -> Result<Bytes, BlocksError> {
        Err(BlocksError::Closed)
    }

    async fn seek(&self, _byte_offset: u64) -> Result<(u64, u64), BlocksError> {
        Err(BlocksError::Closed)
    }
}
