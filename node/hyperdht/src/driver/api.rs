//! Plain types of the driver's interface.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;

use cumulet_secret_stream::noise::{HandshakeResult, KeyPair};
use cumulet_udx::UdxStream;

use crate::{Hash, NoisePayload, PeerRecord};

/// How to run a node.
#[derive(Debug, Clone)]
pub struct DhtConfig {
    /// Interface to bind, `0.0.0.0` for all.
    pub bind: Ipv4Addr,
    /// UDP port of the server socket; 0: any free one. It is tried once, then binding fails.
    pub port: u16,
    /// Nodes to join through, `host:port`; names are resolved (IPv4), and again while nobody answers. Empty: no DHT;
    /// direct connections still work. See [`DhtConfig::public_bootstrap`].
    pub bootstrap: Vec<String>,
    /// Nodes known from an earlier run, used beside `bootstrap`.
    pub known_nodes: Vec<SocketAddrV4>,
    /// A file of such nodes, `address:port` per line: read at the start, written every ten minutes and at the end. With
    /// it a node finds back into the network also while no bootstrap node answers.
    pub nodes_file: Option<PathBuf>,
    /// `Some(false)`: serve the DHT for others as soon as our address is known. `Some(true)`: never. `None`: once
    /// reachable and stable for 20 minutes.
    pub ephemeral: Option<bool>,
    /// `Some(false)`: strangers can reach the server port. `Some(true)`: they can not. `None`: find out.
    pub firewalled: Option<bool>,
    /// Our address as strangers reach it, where it is known (a fixed port mapping, the first node of a network). Implies
    /// `firewalled: Some(false)`.
    pub public_address: Option<SocketAddrV4>,
    /// Who we are towards blind relays, which may serve known identities only. A fresh key pair if absent.
    pub key_pair: Option<KeyPair>,
    /// Tell peers our interface addresses, so that those in the same network find the short way.
    pub share_local_addresses: bool,
}

impl Default for DhtConfig {
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::UNSPECIFIED,
            port: 0,
            bootstrap: Vec::new(),
            known_nodes: Vec::new(),
            nodes_file: None,
            ephemeral: None,
            firewalled: None,
            public_address: None,
            key_pair: None,
            share_local_addresses: true,
        }
    }
}

impl DhtConfig {
    /// The bootstrap nodes of the public network.
    pub fn public_bootstrap() -> Vec<String> {
        [
            "node1.hyperdht.org:49737",
            "node2.hyperdht.org:49737",
            "node3.hyperdht.org:49737",
        ]
        .map(String::from)
        .to_vec()
    }
}

/// How to connect.
#[derive(Clone)]
pub struct ConnectOptions {
    /// Who we are.
    pub key_pair: KeyPair,
    /// Nodes that may know the way, or the peer's own address.
    pub relay_addresses: Vec<SocketAddrV4>,
    /// Public keys of blind relays, of which one is offered: the connection begins through it if no direct way opens
    /// before, and moves to a direct way when one opens later. A relay that the server names is used instead.
    pub relay_through: Vec<Hash>,
    /// Punch no holes, and take no short way through the local network. Open servers are met directly all the same.
    pub never_punch: bool,
}

impl ConnectOptions {
    /// Connects as `key_pair`, by whatever way the DHT finds.
    pub fn new(key_pair: KeyPair) -> Self {
        Self {
            key_pair,
            relay_addresses: Vec::new(),
            relay_through: Vec::new(),
            never_punch: false,
        }
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("relay_addresses", &self.relay_addresses)
            .finish_non_exhaustive()
    }
}

/// Asked for each new client: its public key, what it says of itself, and its address as far as it is known. `false`
/// refuses it silently. Must return at once.
pub type FirewallHook = Arc<dyn Fn(&Hash, &NoisePayload, SocketAddrV4) -> bool + Send + Sync>;

/// How to listen.
#[derive(Clone, Default)]
pub struct ListenOptions {
    /// Who may connect; everybody if absent.
    pub firewall: Option<FirewallHook>,
    /// Do not announce the key: only those who know our address find us.
    pub private: bool,
    /// Public keys of blind relays, of which one is offered to each client; see [`ConnectOptions::relay_through`].
    /// Independent of it a relay that the client names is used.
    pub relay_through: Vec<Hash>,
    /// Punch no holes. Clients that are open, or reach us directly, are met all the same.
    pub never_punch: bool,
}

impl fmt::Debug for ListenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenOptions")
            .field("private", &self.private)
            .finish_non_exhaustive()
    }
}

/// A connected peer: the handshake is done, the stream carries the secret stream's bytes (its header first).
#[derive(Debug)]
pub struct Connection {
    /// The peer's Ed25519 public key, authenticated.
    pub remote_public_key: Hash,
    /// Keys for the secret stream over `stream`.
    pub handshake: HandshakeResult,
    /// The raw byte stream. Nothing has been written to it or read from it.
    pub stream: UdxStream,
    /// Whether we dialled.
    pub is_initiator: bool,
    /// The blind relay through which the stream began; it may have moved to a direct way since.
    pub relay: Option<Hash>,
}

/// What a node knows about itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DhtStatus {
    /// The first attempt to join the network is over.
    pub bootstrapped: bool,
    /// Where everybody can reach us, if that is known.
    pub remote_address: Option<SocketAddrV4>,
    /// We believe that strangers can not reach the server port.
    pub firewalled: bool,
    /// We store records for others.
    pub persistent: bool,
    /// Nodes in the routing table.
    pub nodes: usize,
    /// Records and values stored for others.
    pub stored: usize,
    /// How others see us, once enough of them agree.
    pub seen_as: Option<SeenAs>,
}

/// How others see the socket that our requests leave from: one vote of their last answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenAs {
    /// Our public host.
    pub host: Ipv4Addr,
    /// Our public port; `None` if each sees another one, as behind a NAT that draws a port per destination.
    pub port: Option<u16>,
    /// Answers that voted, at most 16. The first already counts as agreement.
    pub samples: u8,
}

/// What an announcement met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Announcement {
    /// Peers that announced the same topic before.
    pub peers: Vec<PeerRecord>,
    /// Nodes that now keep the record.
    pub stored: usize,
}

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// A socket could not be bound.
    #[error("failed to bind UDP socket to {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddrV4,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Why a lookup or an announcement brought nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// The node is closed.
    #[error("failed to query the DHT: the node is closed")]
    Closed,
    /// Nobody answered.
    #[error("failed to query the DHT: no node answered")]
    NoNodes,
    /// Nodes answered, but none kept the record.
    #[error("failed to announce: no node kept the record")]
    NotStored,
    /// The value does not fit one datagram.
    #[error("failed to store value: {length} bytes, at most {limit} fit")]
    ValueTooLong {
        /// Its length, bytes.
        length: usize,
        /// The most that fits, bytes.
        limit: usize,
    },
}

/// Why a connection did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The node is closed.
    #[error("failed to connect: the node is closed")]
    Closed,
    /// Nobody in the DHT knows the peer, and no given address answered.
    #[error("failed to connect: peer not found")]
    PeerNotFound,
    /// The peer is announced, but it (or its relays) did not answer.
    #[error("failed to connect: the peer did not answer")]
    PeerUnreachable,
    /// The peer refused, or its answer made no sense.
    #[error("failed to connect: the peer answered with error {code}")]
    Refused {
        /// Its error code.
        code: u64,
    },
    /// The peer speaks another version.
    #[error("failed to connect: the peer speaks handshake version {version}")]
    Incompatible {
        /// Its version.
        version: u64,
    },
    /// Neither side can be reached from outside, and the peer offers nothing to punch at.
    #[error("failed to connect: the peer can not be hole-punched")]
    CannotHolepunch,
    /// Hole punching was tried and did not get through.
    #[error("failed to connect: hole punching failed: {reason}")]
    HolepunchFailed {
        /// In words.
        reason: &'static str,
    },
    /// We say to be reachable, but the peer's packets did not arrive.
    #[error("failed to connect: the peer did not come to our open address in time")]
    PassiveTimeout,
    /// No direct way, and the blind relay could not be reached or did not pair us in time.
    #[error("failed to connect: the relay could not be used")]
    RelayFailed,
    /// Too many connections are being opened.
    #[error("failed to connect: too many attempts at a time")]
    Busy,
}

/// Why a key pair can not listen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The node is closed.
    #[error("failed to listen: the node is closed")]
    Closed,
    /// The key pair listens already on this node.
    #[error("failed to listen: the key pair is in use")]
    KeyInUse,
}
