//! Backup and restore of [`Core`]s that are open.
//!
//! A core into which is restored knows the whole signed length from the start and gets its blocks one segment after the
//! other, like one that is downloaded: what it serves meanwhile is proven, and a restore that was broken off is simply
//! started again.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cumulet_hypercore::bitfield::Bitfield;
use cumulet_hypercore::core::{AdoptError, Core, HeadState};
use cumulet_hypercore::crypto::Key;
use cumulet_hypercore::node::Node;
use cumulet_hypercore::segment::{ContentCipher, Decoded, Held, Place, decode, encode};
use cumulet_hypercore::storage::{Changes, ImportedSegment, Storage};
use futures::future::BoxFuture;

use crate::head::{ProvenHead, SignedHead};
use crate::held::{Tree, cut};
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
    /// See [`BackupSource::changed`].
    fn changed(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }
    /// Looks at the core.
    fn read<R>(&self, look: impl FnOnce(&Core<Self::Storage>) -> R) -> R;
    /// Returns when this length would survive a crash here: a backup must not know a longer core than its writer after a
    /// crash, or the writer would sign another history.
    fn until_durable(&self, fork: u64, length: u64) -> Result<(), CoreError>;
    /// Changes the core.
    fn change<R>(
        &self,
        change: impl FnOnce(&mut Core<Self::Storage>) -> Result<R, CoreError>,
    ) -> Result<R, CoreError>;
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

    fn changed(&self) -> Option<BoxFuture<'static, ()>> {
        self.0.changed()
    }

    fn held(&self) -> Result<Option<HeldCore>, CoreError> {
        // Taken first: what changes in between is then looked at again.
        let mark = self.mark();
        let held = self.0.read(|core| held(core, mark))?;
        if let Some(held) = &held {
            self.0.until_durable(held.signed.fork, held.signed.length())?;
        }
        Ok(held)
    }

    fn segment(&self, place: &Place, cipher: &ContentCipher) -> Result<Option<Bytes>, CoreError> {
        // Only reading is done under the core's lock; hashing and encrypting 8 MiB takes much longer.
        let Some((top, stored)) = self.0.read(|core| read_stored(core, place, cipher))? else {
            return Ok(None);
        };
        let (root, bytes) = match stored {
            Stored::Sealed(bytes) => (decode(&bytes, place, Some(cipher))?.root, bytes),
            Stored::Blocks(blocks) => {
                let encoded = encode(place, Some(cipher), &blocks)?;
                (encoded.root, encoded.bytes)
            }
        };
        // What the disk damaged must not reach the store under a name that promises good bytes.
        if root == top {
            Ok(Some(bytes))
        } else {
            Err(ImportError::Conflict { index: top.index }.into())
        }
    }
}

enum Stored {
    Sealed(Bytes),
    Blocks(Vec<Bytes>),
}

/// A segment as it is stored, and the node that it must hash to. A file that was sealed at an earlier fork, or otherwise
/// encrypted, is not what other replicas would make, so its blocks are read instead.
fn read_stored<S: Storage>(
    core: &Core<S>,
    place: &Place,
    cipher: &ContentCipher,
) -> Result<Option<(Node, Stored)>, CoreError> {
    let range = place.id.blocks();
    if core.fork() != place.fork || !core.bitfield().contains_range(range.clone()) {
        return Ok(None);
    }
    let Some(top) = core.node(place.id.node())? else {
        return Ok(None);
    };
    if core.storage().content_cipher() == Some(cipher)
        && let Some((fork, bytes)) = core.storage().sealed_segment(place.id)?
        && fork == place.fork
    {
        return Ok(Some((top, Stored::Sealed(bytes))));
    }
    let blocks: Result<Option<Vec<Bytes>>, _> = range.map(|index| core.get(index)).collect();
    Ok(blocks?.map(|blocks| (top, Stored::Blocks(blocks))))
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

    /// The core again.
    pub fn into_core(self) -> Core<S> {
        self.core.into_inner().unwrap_or_else(PoisonError::into_inner)
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

    fn change<R>(&self, change: impl FnOnce(&mut Core<S>) -> Result<R, CoreError>) -> Result<R, CoreError> {
        change(&mut self.lock())
    }

    fn until_durable(&self, _fork: u64, _length: u64) -> Result<(), CoreError> {
        Ok(self.lock().flush()?)
    }
}

/// A [`SharedCore`] as the target of a restore, with the cipher of the backup: a storage that uses the same keeps segments as
/// the files that they are.
pub struct CoreTarget<C>(pub C, pub ContentCipher);

impl<C: SharedCore> RestoreTarget for CoreTarget<C> {
    fn import_head(&self, head: &ProvenHead) -> Result<(), CoreError> {
        self.0.change(|core| import_head(core, head))
    }

    fn holds(&self, blocks: Range<u64>) -> bool {
        self.0.read(|core| core.bitfield().contains_range(blocks))
    }

    fn import_segment(&self, place: &Place, object: &Bytes, segment: Decoded) -> Result<(), CoreError> {
        self.0
            .change(|core| import_segment(core, place, segment, (object, &self.1)))
    }

    fn flush(&self) -> Result<(), CoreError> {
        self.0.change(|core| Ok(core.flush()?))
    }
}

/// What a core is and what is to be restored exclude each other.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The backup is of another core.
    #[error("the backup is of another core")]
    OtherCore,
    /// The core is at another fork.
    #[error(
        "the core is at fork {here} here, the backup at fork {backup}: remove the core here, or get the rest from peers"
    )]
    OtherFork {
        /// Fork of the core.
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
        /// Length of the core.
        here: u64,
        /// Length of the backup.
        backup: u64,
    },
    /// A segment was given before the head that it belongs to.
    #[error("the head that proves the segment was not imported")]
    NoHead,
}

/// Takes over a head and the nodes that it proves. The core checks the signature once more, as it does for a peer.
pub fn import_head<S: Storage>(core: &mut Core<S>, head: &ProvenHead) -> Result<(), CoreError> {
    let signed = &head.head.signed;
    if signed.key != *core.key() {
        return Err(ImportError::OtherCore.into());
    }
    let (here, backup) = (core.length(), signed.length());
    if signed.fork != core.fork() && (here > 0 || signed.fork < core.fork()) {
        return Err(ImportError::OtherFork {
            here: core.fork(),
            backup: signed.fork,
        }
        .into());
    }
    let nodes = lacking(core, &head.nodes)?;
    if backup < here {
        return Ok(core.storage_mut().apply(Changes {
            nodes,
            ..Changes::default()
        })?);
    }
    let roots = signed.roots.nodes();
    let state = HeadState {
        manifest: signed.manifest.clone(),
        fork: signed.fork,
        length: backup,
        signature: (!signed.signature.is_empty()).then(|| Bytes::copy_from_slice(&signed.signature)),
        roots: roots.to_vec(),
        nodes: head
            .nodes
            .iter()
            .filter(|node| !roots.contains(node))
            .copied()
            .collect(),
    };
    match core.adopt_head(state) {
        Ok(_) => Ok(()),
        Err(AdoptError::NotConnected) => Err(ImportError::NotJoined { here, backup }.into()),
        Err(error) => Err(error.into()),
    }
}

/// Stores a segment's blocks and the nodes below its top, which the imported head must have. `object` is the segment as
/// encrypted by the cipher.
pub fn import_segment<S: Storage>(
    core: &mut Core<S>,
    place: &Place,
    decoded: Decoded,
    (object, cipher): (&Bytes, &ContentCipher),
) -> Result<(), CoreError> {
    if core.fork() != place.fork || core.node(decoded.root.index)? != Some(decoded.root) {
        return Err(ImportError::NoHead.into());
    }
    lacking(core, &decoded.nodes)?;
    let same = core.storage().content_cipher() == Some(cipher);
    let bytes = same.then(|| object.clone());
    Ok(core.storage_mut().import(ImportedSegment {
        place: *place,
        bytes,
        decoded,
    })?)
}

/// The nodes that the core lacks; one that it has must be the same.
fn lacking<S: Storage>(core: &Core<S>, nodes: &[Node]) -> Result<Vec<Node>, CoreError> {
    let mut lacking = Vec::new();
    for node in nodes {
        match core.node(node.index)? {
            None => lacking.push(*node),
            Some(known) if known == *node => {}
            Some(known) => return Err(ImportError::Conflict { index: known.index }.into()),
        }
    }
    Ok(lacking)
}
