//! UDX: reliable, ordered, congestion-controlled streams over UDP, wire-compatible with libudx.
//!
//! Two layers:
//! - the state machines are sans-IO: packets and time in; packets, timers and
//!   delivered bytes out. They never look at a clock, a socket or a source of randomness.
//! - [`driver`] is the thin tokio half: [`Endpoint`] (one table of streams), [`Socket`] (one bound UDP
//!   socket, shared with the DHT), [`UdxStream`] (`AsyncRead + AsyncWrite`).
//!
//! Invariants:
//! - A stream id belongs to the endpoint, not to a socket: a packet for a stream is accepted on every
//!   socket of its endpoint, subject to the stream's [`Firewall`].
//! - What a stream buffers is bounded: received bytes by the window it advertised, bytes to send by the
//!   congestion window and a fixed backlog.
//! - No input from the network can panic or allocate by a length that a peer claims.
//!
//! What it does not do: encryption and authentication (the secret stream above does), finding peers
//! (the DHT does), IPv6 MTU differences beyond the header size.

mod bbr;
pub mod clock;
pub mod driver;
mod mtu;
mod pacer;
pub mod packet;
mod ranges;
mod receive;
mod send;
pub mod stream;

pub use driver::{
    ConnectError, CreateStreamError, Datagram, Datagrams, Endpoint, Entropy, Firewall, MessageError, Socket,
    Source, StreamControl, StreamOptions, StreamStats, UdxStream,
};
