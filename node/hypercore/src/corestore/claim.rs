//! The storage of a core that nobody has open, for a restore: while it is claimed the core can't be opened, so no peer and no
//! reader ever sees half of it.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::bitfield::Bitfield;
use crate::crypto::Hash;
use crate::manifest::Manifest;
use crate::node::Node;
use crate::segment::{ContentCipher, SegmentId};
use crate::storage::{Changes, Head, ImportedSegment, Located, PendingFlush, Storage, StorageError};

/// Discovery keys of claimed cores.
pub(super) type Claims = Arc<Mutex<HashSet<Hash>>>;

/// A core's storage, until it is dropped.
pub struct Claim {
    storage: Box<dyn Storage>,
    discovery_key: Hash,
    claims: Claims,
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").finish_non_exhaustive()
    }
}

impl Claim {
    /// A claim on a core that is in `claims` already.
    pub(super) fn new(storage: Box<dyn Storage>, discovery_key: Hash, claims: Claims) -> Self {
        Self {
            storage,
            discovery_key,
            claims,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.discovery_key);
    }
}

impl Storage for Claim {
    fn manifest(&self) -> Option<&Manifest> {
        self.storage.manifest()
    }
    fn head(&self) -> &Head {
        self.storage.head()
    }
    fn bitfield(&self) -> &Bitfield {
        self.storage.bitfield()
    }
    fn user_data(&self) -> &BTreeMap<String, Bytes> {
        self.storage.user_data()
    }
    fn node(&self, index: u64) -> Result<Option<Node>, StorageError> {
        self.storage.node(index)
    }
    fn block(&self, index: u64) -> Result<Option<Bytes>, StorageError> {
        self.storage.block(index)
    }
    fn locate(&self, index: u64) -> Result<Option<Located>, StorageError> {
        self.storage.locate(index)
    }
    fn apply(&mut self, changes: Changes) -> Result<(), StorageError> {
        self.storage.apply(changes)
    }
    fn flush(&mut self) -> Result<(), StorageError> {
        self.storage.flush()
    }
    fn begin_flush(&mut self) -> Result<Option<PendingFlush>, StorageError> {
        self.storage.begin_flush()
    }
    fn end_flush(&mut self, ran: PendingFlush) -> Result<(), StorageError> {
        self.storage.end_flush(ran)
    }
    fn content_cipher(&self) -> Option<&ContentCipher> {
        self.storage.content_cipher()
    }
    fn sealed_segment(&self, id: SegmentId) -> Result<Option<(u64, Bytes)>, StorageError> {
        self.storage.sealed_segment(id)
    }
    fn import(&mut self, segment: ImportedSegment) -> Result<(), StorageError> {
        self.storage.import(segment)
    }
}
