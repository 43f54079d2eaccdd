//! Protomux: many channels over one stream of messages, without IO.
//!
//! A channel is named by a protocol and an optional id; when both sides open the same name the two are paired. [`Mux`] takes the
//! messages of the transport (one is one frame) and gives out events and frames. The format is that of npm `protomux` 3.12.
//!
//! What a hostile peer can make us hold is bounded: frames are decoded item by item as events are polled, and decoding stops while
//! [`MAX_UNCLAIMED_OPENS`] opens or [`MAX_BUFFERED_BYTES`] wait for an answer. There is no flow control per channel.

mod mux;
mod output;
mod table;

pub use mux::{ChannelId, Event, Mux, MuxError, OpenError, Request};
pub use output::{FRAME_LIMIT_BYTES, SendError};

/// Bytes of messages kept for channels that the remote opened and we have not answered: as in JavaScript.
pub const MAX_BUFFERED_BYTES: usize = 32_768;
/// Opens of the remote that wait for an answer. A store opens one channel per core, all at once; more than this wait in the transport.
pub const MAX_UNCLAIMED_OPENS: usize = 1024;
/// Longest protocol name and longest id that are looked at; longer ones are rejected. Real ones have 15 and 32 bytes.
pub const MAX_NAME_BYTES: usize = 1024;
