//! What readers of a core (Hyperbee, Hyperdrive) need of it, whatever fetches the blocks.

use std::future::Future;
use std::ops::Range;

use bytes::Bytes;

/// Why a block could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BlocksError {
    /// The index or byte offset lies at or beyond the core's length.
    #[error("block {index} is beyond the length {length}")]
    OutOfRange {
        /// What was asked for.
        index: u64,
        /// The core's length when it was asked.
        length: u64,
    },
    /// Nobody reachable has the block, or not within the reader's patience.
    #[error("block {index} is not available here nor from any peer")]
    NotAvailable {
        /// What was asked for.
        index: u64,
    },
    /// The core was truncated since the version that is read, and this block went with it: it was not held then, or what was
    /// kept of it was given up.
    #[error("block {index} of this version is gone: the core was truncated")]
    Replaced {
        /// What was asked for.
        index: u64,
    },
    /// The core was closed while the read waited.
    #[error("the core was closed")]
    Closed,
    /// The storage or the network failed.
    #[error("failed to read block {index}")]
    Failed {
        /// What was asked for.
        index: u64,
        /// The reason below.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A core as its readers see it. Implementations verify every block before they return it.
pub trait Blocks: Send + Sync {
    /// Number of blocks known to exist now.
    fn length(&self) -> u64;

    /// How often the core was truncated or replaced: what was read under a lower number may be wrong now.
    fn fork(&self) -> u64 {
        0
    }

    /// The bytes of a block (decrypted, if the core is encrypted), waiting for peers if it is not here.
    fn get(&self, index: u64) -> impl Future<Output = Result<Bytes, BlocksError>> + Send;

    /// The block that holds byte `byte_offset` (counted without encryption padding) and the offset in it. The
    /// core's exact byte length gives (length, 0).
    fn seek(&self, byte_offset: u64) -> impl Future<Output = Result<(u64, u64), BlocksError>> + Send;

    /// Says that these blocks will be read soon. May do nothing.
    fn prefetch(&self, _blocks: Range<u64>) {}
}
