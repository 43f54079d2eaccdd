//! Noise (XX, IK) over Ed25519 and the framed secret stream, without IO.
//!
//! [`noise`] makes the keys of a session; [`SecretStream`] turns messages into bytes and back with libsodium's secretstream cipher.
//! Everything is sans-IO: bytes, time and random seeds are passed in. The formats are those of the npm packages
//! `noise-handshake`, `noise-curve-ed` and `@hyperswarm/secret-stream`, whose outputs are this crate's test vectors.
//!
//! [`datagrams`] seals the unordered messages beside a stream, which Hypercore does not use.

mod cipher;
pub mod datagrams;
mod frame;
pub mod noise;
mod stream;

pub use cipher::{HEADER_BYTES, OVERHEAD_BYTES};
pub use frame::MAX_FRAME_BYTES;
pub use stream::{
    Event, IDLE_TIMEOUT, KEEP_ALIVE, MAX_KEEP_ALIVES, MAX_PLAINTEXT_BYTES, PROGRESS_BYTES, SecretStream,
    Seeds, SendError, StreamError,
};
