//! The tokio half: sockets, timers, name resolution and UDX streams around one [`Node`](crate::node).

mod api;

pub use self::api::{
    Announcement, ConnectError, ConnectOptions, Connection, DhtConfig, FirewallHook, ListenError, ListenOptions,
    LookupError, SpawnError,
};

use std::net::SocketAddrV4;

use cumulet_secret_stream::noise::KeyPair;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Hash, PeerRecord};

/// A node of the DHT. Clones share it.
#[derive(Debug, Clone)]
pub struct Dht {}

impl Dht {
    /// Binds both sockets and starts joining the network. All its tasks run on `tasks` and end when `cancel` is cancelled,
    /// or after [`Dht::close`], which also unannounces.
    pub async fn spawn(config: DhtConfig, tasks: &TaskTracker, cancel: CancellationToken) -> Result<Self, SpawnError> {
        let _ = (config, tasks, cancel);
        Err(SpawnError::NotBuilt)
    }

    /// The local address of the server socket.
    pub fn local_address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0)
    }

    /// Our public address, if it is proven (or configured) that everybody can reach us there.
    pub fn remote_address(&self) -> Option<SocketAddrV4> {
        None
    }

    /// Waits until the first attempt to join the network is over (also when nobody answered).
    pub async fn bootstrapped(&self) {}

    /// Looks up a topic and collects every peer that the nodes near it name, without duplicates.
    pub async fn lookup(&self, topic: Hash) -> Result<Vec<PeerRecord>, LookupError> {
        let _ = topic;
        Err(LookupError::Closed)
    }

    /// Announces `key_pair` under `topic` on the up to 20 closest nodes, and returns the peers seen on the way.
    pub async fn announce(
        &self,
        topic: Hash,
        key_pair: &KeyPair,
        relay_addresses: Vec<SocketAddrV4>,
    ) -> Result<Announcement, LookupError> {
        let _ = (topic, key_pair, relay_addresses);
        Err(LookupError::Closed)
    }

    /// Withdraws an announcement from the nodes that keep it.
    pub async fn unannounce(&self, topic: Hash, key_pair: &KeyPair) -> Result<(), LookupError> {
        let _ = (topic, key_pair);
        Err(LookupError::Closed)
    }

    /// Connects to the owner of `public_key`. With `relay_addresses` these are tried first and at once; one of them may be
    /// the server itself, so two nodes that know each other's address need no DHT.
    pub async fn connect(&self, public_key: Hash, options: ConnectOptions) -> Result<Connection, ConnectError> {
        let _ = (public_key, options);
        Err(ConnectError::Closed)
    }

    /// Accepts connections to `key_pair`. Returns at once: direct handshakes work from now on, the announcement of the key
    /// runs in the background ([`Server::announced`]).
    pub async fn listen(&self, key_pair: KeyPair, options: ListenOptions) -> Result<Server, ListenError> {
        let _ = (key_pair, options);
        Err(ListenError::Closed)
    }

    /// Withdraws all announcements (for at most a few seconds), closes all sockets and streams, and ends all tasks.
    pub async fn close(&self) {}
}

/// A key pair that accepts connections. Dropping it stops accepting and withdraws the announcement in the background.
#[derive(Debug)]
pub struct Server {}

impl Server {
    /// The next connection; `None` once the server or its node is closed. Cancel safe.
    pub async fn accept(&mut self) -> Option<Connection> {
        None
    }

    /// Waits until the key is announced for the first time (or found to be not announceable now).
    pub async fn announced(&self) {}

    /// Nodes through which the key can be reached now, own address first; at most 3.
    pub fn relay_addresses(&self) -> Vec<SocketAddrV4> {
        Vec::new()
    }

    /// Stops accepting and withdraws the announcement (for at most a few seconds).
    pub async fn close(self) {}
}
