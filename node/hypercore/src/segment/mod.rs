//! Segments: immutable, aligned runs of a core's blocks, the same bytes on disk, in S3 and in a folder.
//!
//! A segment holds the blocks [k·2^n, (k+1)·2^n), which is exactly one subtree of the Merkle tree, so that one hash
//! verifies it. [`mod@cut`] says where segments begin and end; [`mod@format`] says what their bytes are (`docs/format/segment.md`);
//! [`cipher`] hides them from whoever stores them. Invariant: every replica of a core makes the same bytes for the
//! same segment, so that uploads need no leader.
//!
//! What it does not do: it neither reads nor writes files, and it doesn't know which hash is the right one: the caller
//! compares the [`Decoded::root`] with a node that a signature covers.

pub mod cipher;
pub mod cut;
pub mod format;

pub use cipher::ContentCipher;
pub use cut::{Held, SegmentId, cut};
pub use format::{Decoded, Encoded, Header, Place, SegmentError, decode, encode, open_block};
