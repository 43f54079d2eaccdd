//! The tokio half: sockets, the table of streams, timers and wakers. It decides nothing about the protocol.
//!
//! One task per socket receives; one task per stream sleeps until its next timer. Packets leave from whichever of the
//! three (receiving task, timer task, the application's write) made them possible, under the stream's lock, so that a reply
//! costs no switch of tasks. Locks are held without waiting: a full socket parks the packets with the stream.

mod endpoint;
mod options;
mod shared;
mod socket;
mod stream;

pub use endpoint::{Endpoint, Entropy};
pub use options::{
    ConnectError, CreateStreamError, Firewall, MessageError, Source, StreamOptions, StreamStats,
};
pub use socket::{Datagram, Datagrams, Socket};
pub use stream::{StreamControl, UdxStream};
