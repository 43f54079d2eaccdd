//! A core as it was when it was shorter.

use bytes::Bytes;

use super::{Core, WriteError};
use crate::crypto::Hash;
use crate::roots::Roots;
use crate::storage::{Storage, StorageError};

/// A read-only view of a core's first blocks, at the fork that it has now.
#[derive(Debug)]
pub struct Checkout<'a, S> {
    core: &'a Core<S>,
    roots: Roots,
}

impl<S: Storage> Core<S> {
    /// The core as it was with `length` blocks.
    ///
    /// # Errors
    /// [`WriteError::Moved`] for a length that the core does not have, [`WriteError::MissingNode`] if a root of that tree is
    /// not held (of a core that was fetched in parts).
    pub fn checkout(&self, length: u64) -> Result<Checkout<'_, S>, WriteError> {
        let roots = self.roots_at(length)?;
        Ok(Checkout { core: self, roots })
    }
}

impl<S: Storage> Checkout<'_, S> {
    /// Number of blocks.
    pub fn length(&self) -> u64 {
        self.roots.length()
    }

    /// Bytes of these blocks, as stored.
    pub fn byte_length(&self) -> u64 {
        self.roots.byte_length()
    }

    /// The fork that it is a part of.
    pub fn fork(&self) -> u64 {
        self.core.fork()
    }

    /// The hash that a signature of this length binds.
    pub fn tree_hash(&self) -> Hash {
        self.roots.tree_hash()
    }

    /// A block of the view, if it is held; none beyond the view.
    ///
    /// # Errors
    /// [`StorageError`] if it can't be read.
    pub fn get(&self, index: u64) -> Result<Option<Bytes>, StorageError> {
        if index >= self.length() {
            return Ok(None);
        }
        self.core.get(index)
    }
}
