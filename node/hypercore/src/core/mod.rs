//! A core: verified blocks under a signed tree, over a [`Storage`].
//!
//! Invariants: nothing from a remote is stored before its signature or its hash path was checked; a message is stored
//! whole or not at all; no length that a remote claims sizes anything. Every method is synchronous; nothing is durable,
//! and so nothing may be acknowledged to anyone, before [`Core::flush`] returned.
//!
//! What it does not do: it asks nobody for blocks (the replicator does), and it encrypts nothing
//! ([`crate::encryption`]): blocks here are as stored and as sent.

mod conflict;
mod head_state;
mod prove;
mod reorg;
mod seek;
mod verify;
mod verify_blocks;

use std::ops::Range;

use bytes::Bytes;

use crate::bitfield::Bitfield;
use crate::crypto::{Hash, Key, KeyPair, discovery_key, leaf_hashes};
use crate::flat_tree;
use crate::manifest::Manifest;
use crate::node::Node;
use crate::roots::{MAX_LENGTH, Roots, TreeError};
use crate::storage::{Changes, Head, Storage, StorageError};
use crate::verifier::{SignError, Verifier};

pub use conflict::Conflict;
pub use head_state::{AdoptError, HeadState, HeadStateError};
pub use prove::ProveError;
pub use reorg::{Reorg, ReorgWant};
pub use seek::SeekResult;
pub use verify::{Applied, VerifyError};
pub use verify_blocks::BlockResults;

/// Largest block that is appended here, as in JS; what peers send is not held to it.
pub const MAX_BLOCK_BYTES: usize = 15 * 1024 * 1024;

/// Why a core could not be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The manifest is not the one of this key.
    #[error("failed to open the core: its manifest belongs to another key")]
    WrongManifest,
    /// The storage already holds a core.
    #[error("failed to create the core: the storage already holds one")]
    Exists,
    /// The stored tree lacks a root, or its roots do not fit its length.
    #[error("failed to open the core: its stored tree has no valid root {index}")]
    DamagedTree {
        /// Flat-tree index of the root.
        index: u64,
    },
    /// The storage failed.
    #[error("failed to open the core")]
    Storage(#[from] StorageError),
}

/// Why a core could not be changed by its owner.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is no key pair, or no manifest that it fits.
    #[error("the core is read-only: this node has no key that may sign it")]
    ReadOnly,
    /// The key pair alone cannot sign the core.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A block above [`MAX_BLOCK_BYTES`].
    #[error("failed to append a block of {length} bytes: at most {MAX_BLOCK_BYTES} are allowed")]
    BlockTooLarge {
        /// Its size.
        length: usize,
    },
    /// A truncation to a length that the core does not have, or into its prologue, or to a fork that is not higher.
    #[error("failed to truncate the core to {length} blocks at fork {fork}")]
    Truncate {
        /// Length asked for.
        length: u64,
        /// Fork asked for.
        fork: u64,
    },
    /// A tree node that the change needs is not held.
    #[error("failed to change the core: tree node {index} is not held")]
    MissingNode {
        /// Flat-tree index.
        index: u64,
    },
    /// The tree would leave the protocol's numbers.
    #[error("failed to change the core")]
    Tree(#[from] TreeError),
    /// The storage failed.
    #[error("failed to change the core")]
    Storage(#[from] StorageError),
}

/// An open core.
#[derive(Debug)]
pub struct Core<S> {
    storage: S,
    key: Key,
    discovery_key: Hash,
    verifier: Option<Verifier>,
    key_pair: Option<KeyPair>,
    roots: Roots,
}

impl<S: Storage> Core<S> {
    /// Opens the core with this key, or starts an empty one that learns its manifest from peers.
    pub fn open(storage: S, key: Key) -> Result<Self, OpenError> {
        let verifier = match storage.manifest() {
            Some(manifest) => Some(Verifier::new(key, manifest.clone()).ok_or(OpenError::WrongManifest)?),
            None => None,
        };
        let length = storage.head().length;
        let mut nodes = Vec::new();
        for index in flat_tree::roots(length) {
            nodes.push(storage.node(index)?.ok_or(OpenError::DamagedTree { index })?);
        }
        let roots = Roots::from_nodes(length, nodes).map_err(|_| OpenError::DamagedTree { index: length })?;
        Ok(Self {
            storage,
            key,
            discovery_key: discovery_key(&key),
            verifier,
            key_pair: None,
            roots,
        })
    }

    /// Makes a new core with this manifest. Its key is the manifest's hash.
    pub fn create(storage: S, manifest: Manifest, key_pair: Option<KeyPair>) -> Result<Self, OpenError> {
        let key = manifest.key();
        Self::create_with_key(storage, key, manifest, key_pair)
    }

    /// Makes a new compat core, whose key is its signer's public key.
    pub fn create_compat(storage: S, key_pair: KeyPair) -> Result<Self, OpenError> {
        let key = key_pair.public_key();
        Self::create_with_key(storage, key, Manifest::compat(key), Some(key_pair))
    }

    fn create_with_key(
        mut storage: S,
        key: Key,
        manifest: Manifest,
        key_pair: Option<KeyPair>,
    ) -> Result<Self, OpenError> {
        if storage.manifest().is_some() || storage.head().length > 0 {
            return Err(OpenError::Exists);
        }
        storage.apply(Changes {
            manifest: Some(manifest),
            ..Changes::default()
        })?;
        let mut core = Self::open(storage, key)?;
        core.key_pair = key_pair;
        Ok(core)
    }

    /// Gives the core the key pair that signs what is appended. The storage never holds it.
    pub fn set_key_pair(&mut self, key_pair: KeyPair) {
        self.key_pair = Some(key_pair);
    }

    /// Whether [`Core::append`] can sign.
    pub fn is_writable(&self) -> bool {
        self.key_pair.is_some() && self.verifier.is_some()
    }

    /// The core's name.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The name under which peers find it.
    pub fn discovery_key(&self) -> &Hash {
        &self.discovery_key
    }

    /// The manifest, if known; for a compat core the one that was inferred.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.verifier.as_ref().map(Verifier::manifest)
    }

    /// The manifest that may be sent: none while it is unknown, and never that of a compat core.
    pub fn public_manifest(&self) -> Option<&Manifest> {
        self.verifier
            .as_ref()
            .filter(|verifier| !verifier.is_compat())
            .map(Verifier::manifest)
    }

    /// Whether the core is known to be a compat core.
    pub fn is_compat(&self) -> bool {
        self.verifier.as_ref().is_some_and(Verifier::is_compat)
    }

    /// Number of blocks, signed.
    pub fn length(&self) -> u64 {
        self.roots.length()
    }

    /// Bytes of all blocks, as stored.
    pub fn byte_length(&self) -> u64 {
        self.roots.byte_length()
    }

    /// How often the core was truncated.
    pub fn fork(&self) -> u64 {
        self.storage.head().fork
    }

    /// Signature of the tree; none for an empty core and within a prologue.
    pub fn signature(&self) -> Option<&Bytes> {
        self.storage.head().signature.as_ref()
    }

    /// The roots of the tree.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Number of the first block that is not held.
    pub fn contiguous_length(&self) -> u64 {
        self.bitfield().first_unset(0)
    }

    /// Which blocks are held.
    pub fn bitfield(&self) -> &Bitfield {
        self.storage.bitfield()
    }

    /// Whether the block is held.
    pub fn has(&self, index: u64) -> bool {
        self.bitfield().get(index)
    }

    /// A block, if it is held.
    pub fn get(&self, index: u64) -> Result<Option<Bytes>, StorageError> {
        if !self.has(index) {
            return Ok(None);
        }
        self.storage.block(index)
    }

    /// A tree node, if it is held.
    pub fn node(&self, index: u64) -> Result<Option<Node>, StorageError> {
        self.storage.node(index)
    }

    /// The storage.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// The storage, for work that does not change what the core holds.
    pub fn storage_mut(&mut self) -> &mut S {
        &mut self.storage
    }

    /// Closes the core and gives its storage back.
    pub fn into_storage(self) -> S {
        self.storage
    }

    /// Levels of the tree that are missing above (and with) a block's leaf: the `nodes` of a request for it.
    pub fn missing_nodes(&self, block: u64) -> Result<u64, StorageError> {
        if block >= self.length() {
            return Ok(0);
        }
        self.missing_nodes_above(2 * block)
    }

    /// As [`Core::missing_nodes`], from any node of the tree upwards.
    pub fn missing_nodes_above(&self, node: u64) -> Result<u64, StorageError> {
        let Some(root) = flat_tree::root_of(flat_tree::first_block(node), self.length()) else {
            return Ok(0);
        };
        let (mut at, mut missing) = (node, 0);
        while at != root && flat_tree::contains(root, at) && self.storage.node(at)?.is_none() {
            missing += 1;
            at = flat_tree::parent(at);
        }
        Ok(missing)
    }

    /// Whether an upgrade from `length` blocks at this fork can be proven: Sync's `canUpgrade`.
    pub fn can_upgrade_from(&self, length: u64) -> Result<bool, StorageError> {
        if length >= self.length() {
            return Ok(false);
        }
        for root in flat_tree::roots(length) {
            if self.storage.node(root)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Appends one block. Returns its number.
    pub fn append(&mut self, block: Bytes) -> Result<u64, WriteError> {
        self.append_batch(vec![block]).map(|blocks| blocks.start)
    }

    /// Appends blocks under one signature. Returns their numbers.
    pub fn append_batch(&mut self, blocks: Vec<Bytes>) -> Result<Range<u64>, WriteError> {
        let start = self.length();
        if let Some(block) = blocks.iter().find(|block| block.len() > MAX_BLOCK_BYTES) {
            return Err(WriteError::BlockTooLarge { length: block.len() });
        }
        if blocks.is_empty() {
            return Ok(start..start);
        }
        let mut roots = self.roots.clone();
        let mut nodes = Vec::with_capacity(2 * blocks.len());
        let hashes = leaf_hashes(blocks.iter().map(|block| &block[..]));
        for ((index, block), hash) in (start..).zip(&blocks).zip(hashes) {
            let leaf = Node {
                index: 2 * index,
                size: block.len() as u64,
                hash,
            };
            roots.push(leaf, &mut nodes)?;
        }
        let head = self.signed_head(&roots, self.fork())?;
        let blocks = (start..).zip(blocks).collect();
        self.storage.apply(Changes {
            nodes,
            blocks,
            head: Some(head),
            ..Changes::default()
        })?;
        self.roots = roots;
        Ok(start..self.length())
    }

    fn signed_head(&self, roots: &Roots, fork: u64) -> Result<Head, WriteError> {
        let (Some(verifier), Some(key_pair)) = (&self.verifier, &self.key_pair) else {
            return Err(WriteError::ReadOnly);
        };
        let signature = verifier.sign(roots, fork, key_pair)?;
        Ok(Head {
            fork,
            length: roots.length(),
            signature: Some(signature.into()),
        })
    }

    /// Forgets everything from block `length` on and signs the shorter tree at the next fork, or at a given higher one.
    pub fn truncate(&mut self, length: u64, fork: Option<u64>) -> Result<(), WriteError> {
        let fork = fork.unwrap_or(self.fork() + 1);
        let prologue = self
            .manifest()
            .and_then(|manifest| manifest.prologue)
            .map_or(0, |prologue| prologue.length);
        if length > self.length() || length < prologue || fork <= self.fork() || fork > MAX_LENGTH {
            return Err(WriteError::Truncate { length, fork });
        }
        let mut nodes = Vec::new();
        for index in flat_tree::roots(length) {
            nodes.push(
                self.storage
                    .node(index)?
                    .ok_or(WriteError::MissingNode { index })?,
            );
        }
        let roots = Roots::from_nodes(length, nodes)?;
        let head = self.signed_head(&roots, fork)?;
        self.storage.apply(Changes {
            truncate: Some(length),
            head: Some(head),
            ..Changes::default()
        })?;
        self.roots = roots;
        Ok(())
    }

    /// Forgets the bytes of blocks. Their tree nodes stay, so that they can be fetched and proven again, and so that no
    /// held neighbour loses its proof.
    pub fn clear(&mut self, blocks: Range<u64>) -> Result<(), StorageError> {
        let blocks = blocks.start..blocks.end.min(self.length());
        if !self.bitfield().intersects(blocks.clone()) {
            return Ok(());
        }
        self.storage.apply(Changes {
            clear: vec![blocks],
            ..Changes::default()
        })
    }

    /// Returns when everything changed so far would survive a loss of power.
    pub fn flush(&mut self) -> Result<(), StorageError> {
        self.storage.flush()
    }
}
