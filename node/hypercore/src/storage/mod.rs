//! Where a core's state lives. [`MemoryStorage`] keeps it in memory, [`DiskStorage`] in a directory.
//!
//! A storage keeps what it is told and judges nothing: [`crate::core::Core`] verifies before it stores. Invariants:
//! [`Storage::apply`] is atomic (all of it or nothing, also across a crash), later changes never survive a crash that
//! loses earlier ones, and nothing counts as durable before [`Storage::flush`] returned.

mod disk;
mod memory;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::bitfield::Bitfield;
use crate::manifest::Manifest;
use crate::node::Node;
use crate::segment::{ContentCipher, Decoded, Place, SegmentId};

pub use disk::{
    DEFAULT_OPEN_FILES, DiskOptions, DiskStorage, Durability, Fault, Faults, FileOperation, Files, Limits,
    PendingFlush, StoredBlock, Work,
};
pub use memory::MemoryStorage;

/// How a failure should be treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The disk failed or is full; the same call may work later.
    Retry,
    /// Stored bytes are wrong; they have to be fetched or restored again.
    Damaged,
    /// The storage has failed before and takes no more changes until it is opened anew.
    Closed,
}

/// Why a storage could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The file system refused.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Bytes that were durable have changed.
    #[error("damaged: {what} in {} at offset {offset}", path.display())]
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Byte offset of the damage, or of the record it is in.
        offset: u64,
    },
    /// The file belongs to something else, or was written by a later version.
    #[error("{}: {what}", path.display())]
    Foreign {
        /// What does not fit.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// An earlier change failed half way.
    #[error("the storage is closed because an earlier write failed; open it again")]
    Closed,
}

impl StorageError {
    /// How to treat it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Retry,
            Self::Damaged { .. } | Self::Foreign { .. } => ErrorKind::Damaged,
            Self::Closed => ErrorKind::Closed,
        }
    }
}

/// The newest signed tree, less its roots, which are nodes like others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// Fork number.
    pub fork: u64,
    /// Number of blocks.
    pub length: u64,
    /// Signature in the form peers send; none for an empty core and within a prologue.
    pub signature: Option<Bytes>,
}

/// A set of changes that belong together. They take effect in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The manifest, learned or made.
    pub manifest: Option<Manifest>,
    /// Delete the blocks from this one on, and every node that covers one of them.
    pub truncate: Option<u64>,
    /// Delete blocks but keep the tree.
    pub clear: Vec<Range<u64>>,
    /// Tree nodes.
    pub nodes: Vec<Node>,
    /// Blocks as stored, by number.
    pub blocks: Vec<(u64, Bytes)>,
    /// The head from now on.
    pub head: Option<Head>,
    /// User data by name: the value from now on, or none to forget it.
    pub user_data: Vec<(String, Option<Bytes>)>,
}

/// A segment that comes from elsewhere, checked against the tree.
#[derive(Debug, Clone)]
pub struct ImportedSegment {
    /// Whose blocks, and which.
    pub place: Place,
    /// The encoded segment, if it is encrypted (or not) just as the storage's own.
    pub bytes: Option<Bytes>,
    /// What is in it.
    pub decoded: Decoded,
}

impl ImportedSegment {
    /// The blocks that a storage lacks, and the nodes, as changes.
    pub(crate) fn into_changes(self, held: &Bitfield) -> Changes {
        let blocks = self.place.id.blocks().zip(self.decoded.blocks);
        let blocks = blocks.filter(|(index, _)| !held.get(*index)).collect();
        Changes {
            nodes: self.decoded.nodes,
            blocks,
            ..Changes::default()
        }
    }
}

/// Where a block is.
#[derive(Debug)]
pub enum Located {
    /// Here.
    InMemory(Bytes),
    /// To be read, which may fail if the storage was changed since.
    OnDisk(StoredBlock),
}

/// What a truncation took from a core, as long as somebody has this.
pub trait Remains: std::fmt::Debug + Send + Sync {
    /// A block that was taken, if it was held.
    fn block(&self, index: u64) -> Result<Option<Bytes>, StorageError>;
    /// A tree node that was taken, if it was held.
    fn node(&self, index: u64) -> Result<Option<Node>, StorageError>;
}

/// What a core needs of its storage. Reads take `&self`, so that a storage may cache behind a lock of its own.
pub trait Storage: Send {
    /// The manifest, if known.
    fn manifest(&self) -> Option<&Manifest>;
    /// The head.
    fn head(&self) -> &Head;
    /// Which blocks are held.
    fn bitfield(&self) -> &Bitfield;
    /// What applications keep beside the core.
    fn user_data(&self) -> &BTreeMap<String, Bytes>;
    /// A tree node, if held.
    fn node(&self, index: u64) -> Result<Option<Node>, StorageError>;
    /// A block's bytes, if held.
    fn block(&self, index: u64) -> Result<Option<Bytes>, StorageError>;
    /// Where a block is, if held: to read it without keeping others from the storage.
    fn locate(&self, index: u64) -> Result<Option<Located>, StorageError> {
        Ok(self.block(index)?.map(Located::InMemory))
    }
    /// Makes changes, all or none of them.
    fn apply(&mut self, changes: Changes) -> Result<(), StorageError>;
    /// Returns when everything applied so far would survive a loss of power.
    fn flush(&mut self) -> Result<(), StorageError>;
    /// Begins a flush of everything applied so far, for others to change the storage while it runs: whoever gets a
    /// [`PendingFlush`] runs it without the storage and hands it to [`Storage::end_flush`]. None means that everything
    /// is durable already. One at a time; one that was begun and never ended is simply begun again.
    fn begin_flush(&mut self) -> Result<Option<PendingFlush>, StorageError> {
        self.flush()?;
        Ok(None)
    }
    /// Takes note of a flush that ran.
    fn end_flush(&mut self, _ran: PendingFlush) -> Result<(), StorageError> {
        Ok(())
    }
    /// Whether there is work that was left to the caller, to be done at a quiet moment.
    fn has_work(&self) -> bool {
        false
    }
    /// Work that is due, at a quiet moment or because it presses: run it without the storage, then hand it to
    /// [`Storage::end_work`]. None while there is none, or some is out already.
    fn take_work(&mut self, _quiet: bool) -> Option<Work> {
        None
    }
    /// Takes note of work that ran. A failure leaves everything readable, and the work is given out again later.
    fn end_work(&mut self, _ran: Work) {}
    /// Whether work that is out has fallen so far behind that owners should wait for it before they change more.
    fn is_behind(&self) -> bool {
        false
    }
    /// Says that the blocks below `end` are read as they are now: what truncations take of them is left for
    /// [`Storage::take_remains`]. Counts until it is said anew; 0 means that nobody reads.
    fn keep_remains(&mut self, _below: u64) {}
    /// What a truncation to `from` left, given out once. None if nobody read what it took, or the storage keeps nothing.
    fn take_remains(&mut self, _from: u64) -> Option<Arc<dyn Remains>> {
        None
    }
    /// What the storage's own segments are encrypted with.
    fn content_cipher(&self) -> Option<&ContentCipher> {
        None
    }
    /// The fork and bytes of a segment that is stored as such, as they lie on disk, if all its blocks are held.
    fn sealed_segment(&self, _id: SegmentId) -> Result<Option<(u64, Bytes)>, StorageError> {
        Ok(None)
    }
    /// Stores a segment's blocks and nodes, all or none of them; blocks that are held stay.
    fn import(&mut self, segment: ImportedSegment) -> Result<(), StorageError> {
        let changes = segment.into_changes(self.bitfield());
        self.apply(changes)
    }
}

impl<S: Storage + ?Sized> Storage for Box<S> {
    fn manifest(&self) -> Option<&Manifest> {
        (**self).manifest()
    }
    fn head(&self) -> &Head {
        (**self).head()
    }
    fn bitfield(&self) -> &Bitfield {
        (**self).bitfield()
    }
    fn user_data(&self) -> &BTreeMap<String, Bytes> {
        (**self).user_data()
    }
    fn node(&self, index: u64) -> Result<Option<Node>, StorageError> {
        (**self).node(index)
    }
    fn block(&self, index: u64) -> Result<Option<Bytes>, StorageError> {
        (**self).block(index)
    }
    fn locate(&self, index: u64) -> Result<Option<Located>, StorageError> {
        (**self).locate(index)
    }
    fn apply(&mut self, changes: Changes) -> Result<(), StorageError> {
        (**self).apply(changes)
    }
    fn flush(&mut self) -> Result<(), StorageError> {
        (**self).flush()
    }
    fn begin_flush(&mut self) -> Result<Option<PendingFlush>, StorageError> {
        (**self).begin_flush()
    }
    fn end_flush(&mut self, ran: PendingFlush) -> Result<(), StorageError> {
        (**self).end_flush(ran)
    }
    fn has_work(&self) -> bool {
        (**self).has_work()
    }
    fn take_work(&mut self, quiet: bool) -> Option<Work> {
        (**self).take_work(quiet)
    }
    fn end_work(&mut self, ran: Work) {
        (**self).end_work(ran);
    }
    fn is_behind(&self) -> bool {
        (**self).is_behind()
    }
    fn keep_remains(&mut self, below: u64) {
        (**self).keep_remains(below);
    }
    fn take_remains(&mut self, from: u64) -> Option<Arc<dyn Remains>> {
        (**self).take_remains(from)
    }
    fn content_cipher(&self) -> Option<&ContentCipher> {
        (**self).content_cipher()
    }
    fn sealed_segment(&self, id: SegmentId) -> Result<Option<(u64, Bytes)>, StorageError> {
        (**self).sealed_segment(id)
    }
    fn import(&mut self, segment: ImportedSegment) -> Result<(), StorageError> {
        (**self).import(segment)
    }
}
