//! A core: verified blocks under a signed tree, over a [`Storage`].
//!
//! Invariants: nothing from a remote is stored before its signature or its hash path was checked; a message is stored
//! whole or not at all; no length that a remote claims sizes anything. Every method is synchronous; nothing is durable,
//! and so nothing may be acknowledged to anyone, before [`Core::flush`] returned.
//!
//! What it does not do: it asks nobody for blocks (the replicator does), and it encrypts nothing
//! ([`crate::encryption`]): blocks here are as stored and as sent.
//!
//! ```
//! use bytes::Bytes;
//! use cumulet_hypercore::core::Core;
//! use cumulet_hypercore::crypto::KeyPair;
//! use cumulet_hypercore::manifest::Manifest;
//! use cumulet_hypercore::messages::{Request, RequestBlock, RequestUpgrade};
//! use cumulet_hypercore::storage::MemoryStorage;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // In a program the seed comes from a source of randomness.
//! let pair = KeyPair::from_seed(&[7; 32]);
//! let manifest = Manifest::single(pair.public_key());
//! let mut core = Core::create(MemoryStorage::new(), manifest, Some(pair))?;
//! core.append_batch(vec![Bytes::from("one"), Bytes::from("two"), Bytes::from("three")])?;
//! assert_eq!(core.get(1)?, Some(Bytes::from("two")));
//! assert_eq!((core.length(), core.byte_length()), (3, 11));
//!
//! // Another copy knows the key alone. It learns the length, then gets a block; each proof is checked.
//! let mut copy = Core::open(MemoryStorage::new(), *core.key())?;
//! let upgrade = Some(RequestUpgrade { start: 0, length: core.length() });
//! let request = Request { upgrade, manifest: true, ..Request::default() };
//! copy.verify_and_apply(core.create_proof(&request)?)?;
//! let block = Some(RequestBlock { index: 2, nodes: copy.missing_nodes(2)? });
//! copy.verify_and_apply(core.create_proof(&Request { block, ..Request::default() })?)?;
//! assert_eq!(copy.get(2)?, Some(Bytes::from("three")));
//! assert_eq!(copy.get(1)?, None);
//!
//! // Clearing forgets the bytes, truncating the blocks: that is a new fork.
//! core.clear(0..1)?;
//! assert_eq!(core.get(0)?, None);
//! core.truncate(1, None)?;
//! assert_eq!((core.length(), core.fork()), (1, 1));
//! # Ok(())
//! # }
//! ```

mod checkout;
mod conflict;
mod head_state;
mod prove;
mod reorg;
mod seek;
mod signing;
mod user_data;
mod verify;
mod verify_blocks;

use std::ops::Range;

use bytes::Bytes;

use crate::bitfield::Bitfield;
use crate::crypto::{Hash, Key, KeyPair, discovery_key};
use crate::flat_tree;
use crate::manifest::Manifest;
use crate::node::Node;
use crate::roots::{Roots, TreeError};
use crate::storage::{Changes, Located, Storage, StorageError};
use crate::verifier::{SignError, SignatureError, Verifier};

pub use checkout::Checkout;
pub use conflict::Conflict;
pub use head_state::{AdoptError, HeadState, HeadStateError};
pub use prove::ProveError;
pub use reorg::{Reorg, ReorgWant};
pub use seek::SeekResult;
#[cfg(feature = "tokio")]
pub(crate) use seek::seek_below;
pub use signing::Draft;
pub use user_data::{MAX_USER_DATA_BYTES, MAX_USER_DATA_NAME_BYTES};
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
    /// A signature from elsewhere that does not prove the tree.
    #[error("failed to change the core: the signature is refused")]
    Refused(#[from] SignatureError),
    /// A draft of another state of the core, or a length that the core does not have.
    #[error("failed to change the core: it is not the one that the change was made for")]
    Moved,
    /// More user data than [`MAX_USER_DATA_BYTES`], or a longer name than [`MAX_USER_DATA_NAME_BYTES`].
    #[error(
        "failed to keep user data: at most {MAX_USER_DATA_BYTES} bytes, in names of at most {MAX_USER_DATA_NAME_BYTES}"
    )]
    UserData,
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

    /// Reads and signs the core as the first compat cores were: its signatures have no namespace. Storage does not remember
    /// that; it is said each time the core is opened.
    #[must_use]
    pub fn with_legacy_signatures(mut self) -> Self {
        self.verifier = Some(Verifier::legacy(self.key));
        self
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

    /// Where a block is, if it is held: to read it without keeping others from the core.
    pub fn locate(&self, index: u64) -> Result<Option<Located>, StorageError> {
        if !self.has(index) {
            return Ok(None);
        }
        self.storage.locate(index)
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
