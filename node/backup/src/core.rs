//! Backup of [`Core`]s: what is held of an open one, and a closed one's storage as the target of a restore.
//!
//! A restore writes into a [`Storage`] that no core is open on: open the core afterwards, with [`Core::open`]. So no one
//! serves a core of which a restore is half done, and a restore that was broken off is simply started again.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cumulet_hypercore::bitfield::Bitfield;
use cumulet_hypercore::core::Core;
use cumulet_hypercore::crypto::Key;
use cumulet_hypercore::flat_tree;
use cumulet_hypercore::node::Node;
use cumulet_hypercore::segment::{ContentCipher, Decoded, Held, Place, encode};
use cumulet_hypercore::storage::{Changes, Head, Storage};

use crate::head::{ProvenHead, SignedHead};
use crate::held::{Tree, blocks, cut};
use crate::plan::ChangeMark;
use crate::source::{BackupSource, CoreError, HeldCore, RestoreTarget};

/// A core that is open somewhere, behind a lock of its owner.
pub trait SharedCore: Send + Sync + 'static {
    /// Where the core's state lives.
    type Storage: Storage;
    /// The core's key.
    fn key(&self) -> Key;
    /// See [`BackupSource::mark`].
    fn mark(&self) -> ChangeMark;
    /// Looks at the core. What is in it should be durable already: a backup must not know more than a crash leaves.
    fn read<R>(&self, look: impl FnOnce(&Core<Self::Storage>) -> R) -> R;
}

/// A [`SharedCore`] as a source of backups.
pub struct CoreSource<C>(pub C);

impl<C: SharedCore> BackupSource for CoreSource<C> {
    fn key(&self) -> Key {
        self.0.key()
    }

    fn mark(&self) -> ChangeMark {
        self.0.mark()
    }

    fn held(&self) -> Result<Option<HeldCore>, CoreError> {
        // Taken first: what changes in between is then looked at again.
        let mark = self.mark();
        self.0.read(|core| held(core, mark))
    }

    fn segment(&self, place: &Place, cipher: &ContentCipher) -> Result<Option<Bytes>, CoreError> {
        let blocks = self.0.read(|core| read_blocks(core, place))?;
        Ok(match blocks {
            Some(blocks) => Some(encode(place, Some(cipher), &blocks)?.bytes),
            None => None,
        })
    }
}

/// What is held of a core; `None` while it has no signed blocks.
pub fn held<S: Storage>(core: &Core<S>, mark: ChangeMark) -> Result<Option<HeldCore>, CoreError> {
    let Some(manifest) = core.manifest().filter(|_| core.length() > 0) else {
        return Ok(None);
    };
    let signed = SignedHead {
        key: *core.key(),
        manifest: manifest.clone(),
        fork: core.fork(),
        roots: core.roots().clone(),
        signature: core
            .signature()
            .map(|signature| signature.to_vec())
            .unwrap_or_default(),
    };
    let cut = cut(core.roots(), &CoreTree(core))?;
    Ok(Some(HeldCore { mark, signed, cut }))
}

struct CoreTree<'a, S>(&'a Core<S>);

impl<S: Storage> Tree for CoreTree<'_, S> {
    fn node(&self, index: u64) -> Result<Option<Node>, CoreError> {
        Ok(self.0.node(index)?)
    }

    fn held(&self, blocks: Range<u64>) -> Held {
        held_of(self.0.bitfield(), blocks)
    }
}

fn held_of(bitfield: &Bitfield, blocks: Range<u64>) -> Held {
    if bitfield.contains_range(blocks.clone()) {
        Held::All
    } else if bitfield.intersects(blocks) {
        Held::Some
    } else {
        Held::None
    }
}

fn read_blocks<S: Storage>(core: &Core<S>, place: &Place) -> Result<Option<Vec<Bytes>>, CoreError> {
    let range = place.id.blocks();
    if core.fork() != place.fork || !core.bitfield().contains_range(range.clone()) {
        return Ok(None);
    }
    let blocks: Result<Option<Vec<Bytes>>, _> = range.map(|index| core.get(index)).collect();
    Ok(blocks?)
}

/// A core behind a mutex.
pub struct LockedCore<S> {
    key: Key,
    core: Mutex<Core<S>>,
    seen: Mutex<ChangeMark>,
}

impl<S: Storage> LockedCore<S> {
    /// Takes a core.
    pub fn new(core: Core<S>) -> Self {
        Self {
            key: *core.key(),
            core: Mutex::new(core),
            seen: Mutex::default(),
        }
    }

    /// The core, for as long as the guard lives.
    pub fn lock(&self) -> MutexGuard<'_, Core<S>> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Storage + 'static> SharedCore for std::sync::Arc<LockedCore<S>> {
    type Storage = S;

    fn key(&self) -> Key {
        self.key
    }

    fn mark(&self) -> ChangeMark {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // While somebody works on the core its last state stands: this must not block.
        if let Ok(core) = self.core.try_lock() {
            *seen = ChangeMark {
                fork: core.fork(),
                length: core.length(),
                changes: core.bitfield().count(),
            };
        }
        *seen
    }

    fn read<R>(&self, look: impl FnOnce(&Core<S>) -> R) -> R {
        look(&self.lock())
    }
}

/// What is in the storage and what is to be restored exclude each other.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The storage knows a newer fork than the backup.
    #[error("the core is at fork {here} here, the backup at fork {backup}")]
    NewerFork {
        /// Fork of the storage.
        here: u64,
        /// Fork of the backup.
        backup: u64,
    },
    /// Two signed trees of one fork differ.
    #[error(
        "node {index} of the core's tree differs between here and the backup: the writer signed two histories"
    )]
    Conflict {
        /// Flat-tree index.
        index: u64,
    },
    /// The backup is longer, and what is held here has no known place in its tree.
    #[error(
        "the core is {here} blocks long here, which the backup of {backup} blocks can't be joined to: remove the core here, or get the rest from peers"
    )]
    NotJoined {
        /// Length of the storage.
        here: u64,
        /// Length of the backup.
        backup: u64,
    },
    /// A segment was given before the head that it belongs to.
    #[error("the head that proves the segment was not imported")]
    NoHead,
    /// The storage has the manifest of another key.
    #[error("the storage belongs to another core")]
    OtherCore,
}

/// The storage of a core that is restored. Nothing else may use it until it is taken back.
pub struct StorageTarget<S> {
    storage: Mutex<S>,
}

impl<S: Storage> StorageTarget<S> {
    /// Takes the storage of a core that is not open.
    pub fn new(storage: S) -> Self {
        Self {
            storage: Mutex::new(storage),
        }
    }

    /// Gives the storage back.
    pub fn into_storage(self) -> S {
        self.storage.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn storage(&self) -> MutexGuard<'_, S> {
        self.storage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The nodes that the storage lacks; one that it has must be the same.
fn lacking<S: Storage>(storage: &S, nodes: &[Node]) -> Result<Vec<Node>, CoreError> {
    let mut lacking = Vec::new();
    for node in nodes {
        match storage.node(node.index)? {
            None => lacking.push(*node),
            Some(known) if known == *node => {}
            Some(known) => return Err(ImportError::Conflict { index: known.index }.into()),
        }
    }
    Ok(lacking)
}

impl<S: Storage + 'static> RestoreTarget for StorageTarget<S> {
    fn import_head(&self, head: &ProvenHead) -> Result<(), CoreError> {
        let mut storage = self.storage();
        let signed = &head.head.signed;
        if storage
            .manifest()
            .is_some_and(|manifest| !manifest.belongs_to(&signed.key))
        {
            return Err(ImportError::OtherCore.into());
        }
        let (fork, length) = (storage.head().fork, storage.head().length);
        if fork > signed.fork && length > 0 {
            return Err(ImportError::NewerFork {
                here: fork,
                backup: signed.fork,
            }
            .into());
        }
        let new_head = Head {
            fork: signed.fork,
            length: signed.length(),
            signature: (!signed.signature.is_empty()).then(|| Bytes::copy_from_slice(&signed.signature)),
        };
        if fork < signed.fork || length == 0 {
            // Nothing is kept of an older fork: all that is still true of it is in the backup too.
            return Ok(storage.apply(Changes {
                manifest: Some(signed.manifest.clone()),
                truncate: (length > 0).then_some(0),
                nodes: head.nodes.clone(),
                head: Some(new_head),
                ..Changes::default()
            })?);
        }
        let nodes = lacking(&*storage, &head.nodes)?;
        let longer = signed.length() > length;
        if longer {
            // A root of here that the head's tree has comes with its whole way up.
            let known = |index| head.nodes.iter().any(|node| node.index == index);
            if !flat_tree::roots(length).all(known) {
                return Err(ImportError::NotJoined {
                    here: length,
                    backup: signed.length(),
                }
                .into());
            }
        }
        let head = longer.then_some(new_head);
        Ok(storage.apply(Changes {
            nodes,
            head,
            ..Changes::default()
        })?)
    }

    fn holds(&self, blocks: Range<u64>) -> bool {
        self.storage().bitfield().contains_range(blocks)
    }

    fn import_segment(&self, place: &Place, _object: &Bytes, segment: Decoded) -> Result<(), CoreError> {
        let mut storage = self.storage();
        let same_fork = storage.head().fork == place.fork;
        if !same_fork || storage.node(segment.root.index)? != Some(segment.root) {
            return Err(ImportError::NoHead.into());
        }
        let nodes = lacking(&*storage, &segment.nodes)?;
        let held = storage.bitfield();
        let new = blocks(&segment.root)
            .zip(segment.blocks)
            .filter(|(index, _)| !held.get(*index))
            .collect();
        Ok(storage.apply(Changes {
            nodes,
            blocks: new,
            ..Changes::default()
        })?)
    }

    fn flush(&self) -> Result<(), CoreError> {
        Ok(self.storage().flush()?)
    }
}
