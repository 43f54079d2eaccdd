//! What a backup needs of a core: to read what is held ([`BackupSource`]), and to put back what was restored
//! ([`RestoreTarget`]).
//!
//! Both are synchronous and may touch the disk: the drivers call them on threads that may block, except for the calls
//! that say otherwise.

use std::ops::Range;

use bytes::Bytes;
use cumulet_hypercore::crypto::Key;
use cumulet_hypercore::segment::{ContentCipher, Decoded, Place};
use futures::future::BoxFuture;

use crate::head::{ProvenHead, SignedHead};
use crate::held::Cut;
use crate::plan::ChangeMark;

/// Why a core could not be read or written.
pub type CoreError = Box<dyn std::error::Error + Send + Sync>;

/// A core at one moment.
#[derive(Debug, Clone)]
pub struct HeldCore {
    /// The state that the rest was taken from.
    pub mark: ChangeMark,
    /// The newest signed length.
    pub signed: SignedHead,
    /// What is held of it, see [`crate::held::cut`].
    pub cut: Cut,
}

/// A core that is backed up.
pub trait BackupSource: Send + Sync + 'static {
    /// The core's key.
    fn key(&self) -> Key;

    /// Changes whenever there may be something new to ship. Called often and on threads that must not block.
    fn mark(&self) -> ChangeMark;

    /// Ends when [`Self::mark`] is another than it was when this was called. None of a source that can't tell: it is looked at twice in
    /// the allowed lag, where others cost nothing while nothing happens.
    fn changed(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// What is held now; `None` while nothing is signed.
    fn held(&self) -> Result<Option<HeldCore>, CoreError>;

    /// The segment in the form of [`cumulet_hypercore::segment`], encrypted by this cipher: a copy of the file, if it lies
    /// on disk like that. `None` if the blocks are no longer held at this fork.
    fn segment(&self, place: &Place, cipher: &ContentCipher) -> Result<Option<Bytes>, CoreError>;
}

/// A core that is restored. It gets proven bytes only: heads whose signature was checked, then segments whose blocks
/// have the hash that the head's tree says.
pub trait RestoreTarget: Send + Sync + 'static {
    /// Takes over the signed length and the tree nodes, unless the core is as long or longer already. Importing the same
    /// head again changes nothing.
    ///
    /// # Errors
    /// Among others, when the core is at the same fork and has other content: that is a conflict and must not be
    /// papered over.
    fn import_head(&self, head: &ProvenHead) -> Result<(), CoreError>;

    /// Whether all of these blocks are held, so that they need not be fetched.
    fn holds(&self, blocks: Range<u64>) -> bool;

    /// Stores the segment's blocks. `object` are its bytes as they may lie on disk.
    fn import_segment(&self, place: &Place, object: &Bytes, segment: Decoded) -> Result<(), CoreError>;

    /// Makes all that was imported survive a crash.
    fn flush(&self) -> Result<(), CoreError>;
}
