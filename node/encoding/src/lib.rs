//! compact-encoding: the integer, buffer and array codecs of the Hypercore protocols.
//!
//! A [`Reader`] walks a byte slice that may come from a hostile peer; a [`Writer`] appends to a vector.
//! Both speak the little-endian layouts of the npm package compact-encoding 3.x.
//!
//! Invariants:
//! - No read allocates by a number that was read, and none panics: running short is [`DecodeError::OutOfBounds`].
//! - No integer above [`MAX_UINT`] (2^53 - 1) is accepted; the JS side cannot represent it.
//! - Integers longer than needed are accepted and never written. Where encoded bytes are hashed,
//!   decode and encode again.
//!
//! What it does not do: no derive, no schema, no I/O. Messages are written by hand with these two types, so
//! that flags and optional tails stay visible at the place that owns them. Bytes left over after a message are
//! ignored by the protocols; ask [`Reader::is_empty`] where they must not be.

mod reader;
mod writer;

pub use reader::{DecodeError, Reader};
pub use writer::{Writer, buffer_len, uint_len};

/// Largest unsigned integer of the protocols, 2^53 - 1: what a JS number holds exactly.
pub const MAX_UINT: u64 = (1 << 53) - 1;

/// Most items an array may announce (compact-encoding's own bound; [`Reader::array_len`] also bounds by the
/// bytes that are left).
pub const MAX_ARRAY_LEN: u64 = 1_048_576;
