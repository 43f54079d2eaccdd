//! HyperDHT: find peers by key or topic, and open encrypted-handshake connections to them (npm `hyperdht` 6.34).
//!
//! Two halves. The protocol is a state machine, `node::Node`: datagrams, stream events and time go in; datagrams,
//! stream orders and events come out. It does no I/O, reads no clock and draws randomness only from the
//! [`Entropy`] it was given. The tokio driver ([`Dht`], [`Server`]) owns sockets, timers and UDX
//! streams and decides nothing.
//!
//! Invariants
//! - The same Noise message gets the same reply bytes, whichever way and however often it arrives.
//! - A stream exists before the handshake reply that advertises it leaves.
//! - We claim to be open only at an address that was proven (or that the operator configured).
//! - All that a stranger can make grow has a named bound; what costs a signature or a Diffie-Hellman is rationed per
//!   source host.
//! - Nobody can make us flood a third party by forging its address: to a host that proved nothing (no valid token) replies are
//!   at most three times as long as its requests, beyond 128 KiB and then 16 KiB/s, so that ordinary questions get whole
//!   answers. Other datagrams that a stranger can cause are no longer than what caused them, address fields aside.
//!
//! A connection may begin through a blind relay ([`ConnectOptions::relay_through`]) and move to a direct way later; running
//! one is `cumulet-relay`'s.
//!
//! IPv4 only, as the network is. Not here: suspend and resume of mobile devices.

mod address;
mod crypto;
mod driver;
mod entropy;
mod expiring;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod messages;
mod node;
mod rates;
#[cfg(test)]
mod recorded;
mod rpc;
#[cfg(feature = "vectors")]
pub mod vectors;

use std::net::SocketAddrV4;

use bytes::Bytes;

pub use self::address::node_id;
pub use self::crypto::{hash, namespace};
pub use self::driver::{
    Announcement, ConnectError, ConnectOptions, Connection, Dht, DhtConfig, DhtStatus, FirewallHook,
    ListenError, ListenOptions, LookupError, Search, SeenAs, Server, SpawnError,
};
pub use self::entropy::Entropy;
pub use self::messages::{
    Firewall, MutableRecord, NoisePayload, PeerRecord, PluginRequest, RelayThrough, SharedAddress,
};
pub use self::node::NodeCounters;
pub use self::rpc::RpcCounters;

/// 32 bytes: a public key, a hash, a topic, a token.
pub type Hash = [u8; 32];

/// A UDP socket of a node. The driver maps it to a real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u32);

impl SocketId {
    /// The socket on the configured port: others are asked to reach us here.
    pub const SERVER: Self = Self(0);
    /// The socket on a random port: our requests leave here while we believe to be firewalled.
    pub const CLIENT: Self = Self(1);
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The socket it leaves from.
    pub socket: SocketId,
    /// Where it goes.
    pub to: SocketAddrV4,
    /// Its payload.
    pub data: Bytes,
    /// IP time to live, if not the system's.
    pub ttl: Option<u8>,
}
