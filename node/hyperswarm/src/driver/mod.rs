//! The tokio half of the swarm.

use std::net::SocketAddrV4;

pub use cumulet_hyperdht::Connection;
use cumulet_hyperdht::{Dht, FirewallHook, ListenError};
use cumulet_secret_stream::noise::KeyPair;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// 32 bytes that peers meet under; for a Hypercore its discovery key.
pub type Topic = [u8; 32];

/// What a join does. At least one must be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Announce ourselves under the topic and accept connections.
    pub server: bool,
    /// Look for others and dial them.
    pub client: bool,
}

impl Mode {
    /// Look only: nothing becomes public.
    pub const CLIENT: Self = Self {
        server: false,
        client: true,
    };
    /// Announce only.
    pub const SERVER: Self = Self {
        server: true,
        client: false,
    };
    /// Both.
    pub const BOTH: Self = Self {
        server: true,
        client: true,
    };
}

/// Bounds of a swarm, with the defaults of the JS one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwarmLimits {
    /// Connections in all.
    pub max_peers: usize,
    /// Dials at a time.
    pub max_parallel: usize,
    /// Connections that others opened.
    pub max_server_connections: usize,
    /// Peers remembered.
    pub max_known_peers: usize,
}

impl Default for SwarmLimits {
    fn default() -> Self {
        Self {
            max_peers: 64,
            max_parallel: 3,
            max_server_connections: 64,
            max_known_peers: 4_096,
        }
    }
}

/// How to run a swarm.
#[derive(Clone)]
pub struct SwarmConfig {
    /// Who we are, on every topic.
    pub key_pair: KeyPair,
    /// Bounds.
    pub limits: SwarmLimits,
    /// Who may connect; everybody if absent. Banned peers and our own key are refused anyway.
    pub firewall: Option<FirewallHook>,
}

/// Why the swarm refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwarmError {
    /// The swarm is shut down.
    #[error("failed to reach the swarm: it is shut down")]
    Closed,
    /// Neither client nor server.
    #[error("failed to join topic: mode has neither client nor server")]
    EmptyMode,
    /// The key pair can not listen.
    #[error("failed to start listening")]
    Listen(#[from] ListenError),
    /// Not built yet.
    #[error("failed to start the swarm: not built yet")]
    NotBuilt,
}

/// A joined topic. Joins of the same topic add up; dropping one takes its modes back, and the last one leaves the topic.
#[derive(Debug)]
pub struct Join {}

impl Join {
    /// Waits until the topic was looked up (and announced, as server) once since the join.
    pub async fn flushed(&self) {}

    /// Looks again now.
    pub fn refresh(&self) {}
}

/// Counters and gauges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwarmStats {
    /// Open connections that we dialled.
    pub client_connections: usize,
    /// Open connections that others dialled.
    pub server_connections: usize,
    /// Dials under way.
    pub connecting: usize,
    /// Peers remembered.
    pub known_peers: usize,
    /// Topics joined.
    pub topics: usize,
    /// Dials that succeeded, ever.
    pub dialled: u64,
    /// Dials that failed, ever.
    pub dial_failures: u64,
    /// Connections accepted, ever.
    pub accepted: u64,
    /// Double connections resolved, ever.
    pub duplicates: u64,
}

/// One known peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its public key.
    pub public_key: [u8; 32],
    /// Whether a connection is open.
    pub connected: bool,
    /// Failures and short connections since the last long one.
    pub attempts: u32,
    /// Never dialled, never accepted.
    pub banned: bool,
    /// Topics it was found under.
    pub topics: Vec<Topic>,
}

/// The swarm. Clones share it.
#[derive(Debug, Clone)]
pub struct Swarm {}

impl Swarm {
    /// Starts a swarm on a DHT node. Its tasks run on `tasks` and end when `cancel` is cancelled or after
    /// [`Swarm::shutdown`].
    pub async fn spawn(
        dht: Dht,
        config: SwarmConfig,
        tasks: &TaskTracker,
        cancel: CancellationToken,
    ) -> Result<Self, SwarmError> {
        let _ = (dht, config, tasks, cancel);
        Err(SwarmError::NotBuilt)
    }

    /// Our public key.
    pub fn public_key(&self) -> &[u8; 32] {
        &[0; 32]
    }

    /// Accepts connections from now on. Without `announce` only those find us who know our address; a join as server
    /// announces anyway. Idempotent.
    pub async fn listen(&self, announce: bool) -> Result<(), SwarmError> {
        let _ = announce;
        Err(SwarmError::Closed)
    }

    /// Joins a topic; it stays joined while the returned [`Join`] lives.
    pub async fn join(&self, topic: Topic, mode: Mode) -> Result<Join, SwarmError> {
        let _ = (topic, mode);
        Err(SwarmError::Closed)
    }

    /// Leaves a topic, whatever joins exist.
    pub async fn leave(&self, topic: Topic) -> Result<(), SwarmError> {
        let _ = topic;
        Err(SwarmError::Closed)
    }

    /// Keeps a connection to this peer, for ever, without any topic. `addresses`: the peer's own, or nodes that know it;
    /// with the peer's own address no DHT is needed.
    pub async fn join_peer(
        &self,
        public_key: [u8; 32],
        addresses: Vec<SocketAddrV4>,
    ) -> Result<(), SwarmError> {
        let _ = (public_key, addresses);
        Err(SwarmError::Closed)
    }

    /// Takes [`Swarm::join_peer`] back; an open connection stays.
    pub async fn leave_peer(&self, public_key: [u8; 32]) -> Result<(), SwarmError> {
        let _ = public_key;
        Err(SwarmError::Closed)
    }

    /// Never again connect with this peer (or again, with `banned` false). Closes an open connection.
    pub async fn ban(&self, public_key: [u8; 32], banned: bool) -> Result<(), SwarmError> {
        let _ = (public_key, banned);
        Err(SwarmError::Closed)
    }

    /// The next connection, dialled or accepted; `None` once the swarm is shut down. At most one per peer is alive: a double
    /// is resolved inside, and the loser's stream is destroyed. Several callers share the connections. Cancel safe.
    pub async fn next_connection(&self) -> Option<Connection> {
        None
    }

    /// Gauges and counters.
    pub fn stats(&self) -> SwarmStats {
        SwarmStats::default()
    }

    /// Known peers.
    pub async fn peers(&self) -> Vec<PeerStatus> {
        Vec::new()
    }

    /// The DHT node under it.
    pub fn dht(&self) -> Option<&Dht> {
        None
    }

    /// Leaves all topics (withdrawing announcements, for at most a few seconds) and closes all connections. The DHT node
    /// stays open.
    pub async fn shutdown(&self) {}
}
