//! Plain types of the swarm's interface.

use std::fmt;

use cumulet_hyperdht::{FirewallHook, ListenError};
use cumulet_secret_stream::noise::KeyPair;

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
    /// Of the dialled and accepted, those over TCP.
    pub over_tcp: u64,
    /// And those in WebSockets.
    pub over_websocket: u64,
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

impl fmt::Debug for SwarmConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwarmConfig")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
