//! Cores whose blocks lie on this machine, or not.

use std::ops::Range;

use crate::{Blocks, BlocksError};

/// A core that knows which blocks it holds here, and can forget their bytes.
pub trait LocalBlocks: Blocks {
    /// Whether all of these blocks are held here. Asks no peer.
    fn has(&self, blocks: Range<u64>) -> impl Future<Output = bool> + Send;

    /// Forgets the bytes of these blocks here. Their place in the core stays, so that they can be fetched again.
    fn clear(&self, blocks: Range<u64>) -> impl Future<Output = Result<(), BlocksError>> + Send;
}
