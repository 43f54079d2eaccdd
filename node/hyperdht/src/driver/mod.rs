//! The tokio half: sockets, timers, name resolution and UDX streams around one node.

mod actor;
mod api;
mod relays;
mod resolve;
mod saved_nodes;

pub use self::api::{
    Announcement, ConnectError, ConnectOptions, Connection, DhtConfig, DhtStatus, FirewallHook, ListenError,
    ListenOptions, LookupError, SeenAs, SpawnError,
};

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Instant;

use bytes::Bytes;
use cumulet_secret_stream::noise::KeyPair;
use cumulet_udx::{Datagrams, Endpoint, Socket};
use ed25519_dalek::SigningKey;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::actor::{Actor, Command, Listening, Sockets};
use self::resolve::local_addresses;
use crate::node::{ConnectRequest, Goal, Node, NodeConfig, NodeCounters, Outcome, ServerId, ServerOptions};
use crate::rpc::RpcConfig;
use crate::{Entropy, Hash, MutableRecord, PeerRecord};

/// Commands waiting for the task. Callers beyond wait.
const COMMAND_QUEUE: usize = 256;
/// Batches of found peers waiting for their reader. Beyond, batches are dropped; the next lookup finds them again.
const PEER_QUEUE: usize = 64;
/// Largest value that fits a request together with its headers and signature, bytes.
const MAX_VALUE: usize = 1_000;

/// A node of the DHT. Clones share it.
#[derive(Clone)]
pub struct Dht {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<DhtStatus>,
    local_address: SocketAddrV4,
    endpoint: Endpoint,
    relay_key: Hash,
}

impl fmt::Debug for Dht {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dht")
            .field("local_address", &self.local_address)
            .finish_non_exhaustive()
    }
}

fn system_entropy() -> Entropy {
    Entropy::new(|target| {
        // Without randomness there is nothing safe to go on with, and it can only fail before the kernel is up.
        while getrandom::fill(target).is_err() {
            std::thread::yield_now();
        }
    })
}

fn bind(endpoint: &Endpoint, address: SocketAddrV4) -> Result<(Socket, Datagrams), SpawnError> {
    endpoint
        .bind(SocketAddr::V4(address))
        .map_err(|source| SpawnError::Bind { address, source })
}

fn bound(socket: &Socket, asked: SocketAddrV4) -> SocketAddrV4 {
    if let SocketAddr::V4(address) = socket.local_addr() {
        address
    } else {
        asked
    }
}

impl Dht {
    /// Binds both sockets and starts joining the network. All its tasks run on `tasks` and end when `cancel` is cancelled,
    /// after [`Dht::close`] (which also unannounces), or when the last handle is dropped.
    #[expect(
        clippy::unused_async,
        reason = "starting may come to wait; callers then need no change"
    )]
    pub async fn spawn(
        config: DhtConfig,
        tasks: &TaskTracker,
        cancel: CancellationToken,
    ) -> Result<Self, SpawnError> {
        let endpoint = Endpoint::with_system_entropy();
        let asked = SocketAddrV4::new(config.bind, config.port);
        let server = bind(&endpoint, asked)?;
        let client = bind(&endpoint, SocketAddrV4::new(config.bind, 0))?;
        let local_address = bound(&server.0, asked);
        let local = if config.share_local_addresses {
            local_addresses(local_address)
        } else {
            Vec::new()
        };
        let mut entropy = system_entropy();
        let key_pair = config
            .key_pair
            .unwrap_or_else(|| KeyPair::from_seed(entropy.array()));
        let relay_key = *key_pair.public_key();
        let node_config = NodeConfig {
            key_pair,
            rpc: RpcConfig {
                server_port: local_address.port(),
                firewalled: if config.public_address.is_some() {
                    Some(false)
                } else {
                    config.firewalled
                },
                ephemeral: config.ephemeral,
                public_address: config.public_address,
            },
            local_addresses: local,
            unix_ms: u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0),
        };
        let node = Node::new(node_config, entropy, Instant::now());
        let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
        let sockets = Sockets { server, client };
        let mut known = config.known_nodes;
        known.extend(
            config
                .nodes_file
                .as_deref()
                .map(saved_nodes::load)
                .unwrap_or_default(),
        );
        let saver = config
            .nodes_file
            .map(|path| saved_nodes::Saver::new(path, Instant::now()));
        let names = (config.bootstrap, known);
        let (actor, status) = Actor::new(node, endpoint.clone(), &sockets, queue, names);
        let actor = actor.saving(saver);
        tasks.spawn(actor.run(sockets, cancel));
        Ok(Self {
            commands,
            status,
            local_address,
            endpoint,
            relay_key,
        })
    }

    /// The UDX streams of this node: for who runs a blind relay on it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Our public key towards blind relays ([`DhtConfig::key_pair`]).
    pub fn relay_key(&self) -> Hash {
        self.relay_key
    }

    /// The local address of the server socket. The host is `0.0.0.0` when bound to all interfaces.
    pub fn local_address(&self) -> SocketAddrV4 {
        self.local_address
    }

    /// Our public address, if it is proven (or configured) that everybody can reach us there.
    pub fn remote_address(&self) -> Option<SocketAddrV4> {
        self.status.borrow().remote_address
    }

    /// What the node knows about itself now.
    pub fn status(&self) -> DhtStatus {
        *self.status.borrow()
    }

    /// Counters since the start.
    pub async fn counters(&self) -> NodeCounters {
        let (done, counters) = oneshot::channel();
        let _ = self.commands.send(Command::Counters(done)).await;
        counters.await.unwrap_or_default()
    }

    /// Up to 64 nodes heard from lately, for [`DhtConfig::known_nodes`] of the next start.
    pub async fn known_nodes(&self) -> Vec<SocketAddrV4> {
        let (done, nodes) = oneshot::channel();
        let _ = self.commands.send(Command::KnownNodes(done)).await;
        nodes.await.unwrap_or_default()
    }

    /// Waits until the first attempt to join the network is over (also when nobody answered).
    pub async fn bootstrapped(&self) {
        let _ = self.status.clone().wait_for(|status| status.bootstrapped).await;
    }

    /// Waits until the node stores records for others, as one with `ephemeral: Some(false)` does once others saw it.
    pub async fn persistent(&self) {
        let _ = self.status.clone().wait_for(|status| status.persistent).await;
    }

    /// Looks for nodes anew: after a network change.
    pub async fn refresh(&self) {
        let _ = self.commands.send(Command::Refresh).await;
    }

    async fn operate(&self, goal: Goal) -> Result<(Vec<PeerRecord>, Outcome), LookupError> {
        let mut search = self.start(goal).await?;
        let mut peers = Vec::new();
        while let Some(found) = search.next().await {
            peers.extend(found);
        }
        let outcome = search.outcome().await?;
        Ok((peers, outcome))
    }

    async fn start(&self, goal: Goal) -> Result<Search, LookupError> {
        let (queue, peers) = mpsc::channel(PEER_QUEUE);
        let (done, outcome) = oneshot::channel();
        let command = Command::Operate {
            goal,
            peers: Some(queue),
            done,
        };
        self.commands
            .send(command)
            .await
            .map_err(|_| LookupError::Closed)?;
        Ok(Search { peers, outcome })
    }

    /// Looks up a topic; peers come as nodes name them.
    pub async fn search(&self, topic: Hash) -> Result<Search, LookupError> {
        self.start(Goal::Lookup { topic }).await
    }

    /// Looks up a topic and collects every peer that the nodes near it name, without duplicates.
    pub async fn lookup(&self, topic: Hash) -> Result<Vec<PeerRecord>, LookupError> {
        Ok(self.operate(Goal::Lookup { topic }).await?.0)
    }

    /// Announces `key_pair` under `topic` on the up to 20 closest nodes; peers come as those nodes name them.
    /// `relay_addresses`: nodes that know the key ([`Server::relay_addresses`]), at most 3 are kept.
    pub async fn announce_and_search(
        &self,
        topic: Hash,
        key_pair: &KeyPair,
        relay_addresses: Vec<SocketAddrV4>,
    ) -> Result<Search, LookupError> {
        let key = SigningKey::from_bytes(key_pair.seed());
        self.start(Goal::Announce {
            topic,
            key,
            relay_addresses,
        })
        .await
    }

    /// Announces `key_pair` under `topic` on the up to 20 closest nodes, and returns the peers seen on the way.
    pub async fn announce(
        &self,
        topic: Hash,
        key_pair: &KeyPair,
        relay_addresses: Vec<SocketAddrV4>,
    ) -> Result<Announcement, LookupError> {
        let key = SigningKey::from_bytes(key_pair.seed());
        let (peers, outcome) = self
            .operate(Goal::Announce {
                topic,
                key,
                relay_addresses,
            })
            .await?;
        stored(&outcome)?;
        Ok(Announcement {
            peers,
            stored: outcome.stored,
        })
    }

    /// Withdraws an announcement from the nodes that keep it.
    pub async fn unannounce(&self, topic: Hash, key_pair: &KeyPair) -> Result<(), LookupError> {
        let key = SigningKey::from_bytes(key_pair.seed());
        self.operate(Goal::Unannounce { topic, key }).await.map(|_| ())
    }

    /// Stores a signed value under the key pair's public key; `seq` must be higher than that of the value it replaces.
    pub async fn mutable_put(
        &self,
        key_pair: &KeyPair,
        seq: u64,
        value: &[u8],
    ) -> Result<usize, LookupError> {
        let value = fitting(value)?;
        let key = SigningKey::from_bytes(key_pair.seed());
        let (_, outcome) = self.operate(Goal::MutablePut { key, seq, value }).await?;
        stored(&outcome)
    }

    /// The newest value stored under a public key, of at least sequence number `seq`. Its signature is verified.
    pub async fn mutable_get(
        &self,
        public_key: Hash,
        seq: u64,
    ) -> Result<Option<MutableRecord>, LookupError> {
        Ok(self
            .operate(Goal::MutableGet { public_key, seq })
            .await?
            .1
            .mutable)
    }

    /// Stores a value under its hash, which is returned.
    pub async fn immutable_put(&self, value: &[u8]) -> Result<Hash, LookupError> {
        let value = fitting(value)?;
        let target = crate::hash(&[&value]);
        let (_, outcome) = self.operate(Goal::ImmutablePut { value }).await?;
        stored(&outcome).map(|_| target)
    }

    /// The value with this hash.
    pub async fn immutable_get(&self, target: Hash) -> Result<Option<Bytes>, LookupError> {
        Ok(self.operate(Goal::ImmutableGet { target }).await?.1.immutable)
    }

    /// Connects to the owner of `public_key`. The relay addresses are tried first and at once; one of them may be
    /// the server itself, so two nodes that know each other's address need no DHT. Dropping the future gives the attempt up.
    pub async fn connect(
        &self,
        public_key: Hash,
        options: ConnectOptions,
    ) -> Result<Connection, ConnectError> {
        let (done, connection) = oneshot::channel();
        let ConnectOptions {
            key_pair,
            relay_addresses,
            relay_through,
            never_punch,
        } = options;
        let request = ConnectRequest {
            public_key,
            key_pair,
            relay_addresses,
            relay_through,
            never_punch,
        };
        let given_up = CancellationToken::new();
        let _given_up = given_up.clone().drop_guard();
        let command = Command::Connect {
            request,
            done,
            given_up,
        };
        self.commands
            .send(command)
            .await
            .map_err(|_| ConnectError::Closed)?;
        connection.await.unwrap_or(Err(ConnectError::Closed))
    }

    /// Accepts connections to `key_pair`. Returns at once: direct handshakes work from now on, the announcement of the key
    /// runs in the background ([`Server::announced`]).
    pub async fn listen(&self, key_pair: KeyPair, options: ListenOptions) -> Result<Server, ListenError> {
        let (done, listening) = oneshot::channel();
        let ListenOptions {
            firewall,
            private,
            relay_through,
            never_punch,
        } = options;
        let command = Command::Listen {
            key_pair,
            options: ServerOptions {
                firewall,
                private,
                relay_through,
                never_punch,
            },
            done,
        };
        self.commands
            .send(command)
            .await
            .map_err(|_| ListenError::Closed)?;
        let Listening {
            id,
            connections,
            announced,
        } = listening.await.map_err(|_| ListenError::Closed)??;
        Ok(Server {
            id,
            connections,
            announced,
            commands: self.commands.clone(),
        })
    }

    /// Withdraws all announcements (for at most 3 s), closes all sockets and streams, and ends all tasks.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

fn fitting(value: &[u8]) -> Result<Bytes, LookupError> {
    if value.len() > MAX_VALUE {
        return Err(LookupError::ValueTooLong {
            length: value.len(),
            limit: MAX_VALUE,
        });
    }
    Ok(Bytes::copy_from_slice(value))
}

fn stored(outcome: &Outcome) -> Result<usize, LookupError> {
    match (outcome.replies, outcome.stored) {
        (0, _) => Err(LookupError::NoNodes),
        (_, 0) => Err(LookupError::NotStored),
        (_, stored) => Ok(stored),
    }
}

/// A lookup under way.
#[derive(Debug)]
pub struct Search {
    peers: mpsc::Receiver<Vec<PeerRecord>>,
    outcome: oneshot::Receiver<Outcome>,
}

impl Search {
    /// More peers; `None` at the end. No peer comes twice. Cancel safe.
    pub async fn next(&mut self) -> Option<Vec<PeerRecord>> {
        self.peers.recv().await
    }

    async fn outcome(self) -> Result<Outcome, LookupError> {
        self.outcome.await.map_err(|_| LookupError::Closed)
    }

    /// How many nodes confirmed the announcement, once [`Search::next`] has ended. 0 for a plain lookup.
    pub async fn stored(self) -> Result<usize, LookupError> {
        Ok(self.outcome().await?.stored)
    }
}

/// A key pair that accepts connections. Dropping it stops accepting and withdraws the announcement in the background.
pub struct Server {
    id: ServerId,
    connections: mpsc::Receiver<Connection>,
    announced: watch::Receiver<Option<Vec<SocketAddrV4>>>,
    commands: mpsc::Sender<Command>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("relay_addresses", &self.relay_addresses())
            .finish_non_exhaustive()
    }
}

impl Server {
    /// The next connection; `None` once the server or its node is closed. Cancel safe.
    pub async fn accept(&mut self) -> Option<Connection> {
        self.connections.recv().await
    }

    /// Announces the key of a server that was opened `private`.
    pub async fn announce(&self) {
        let _ = self.commands.send(Command::Announce { server: self.id }).await;
    }

    /// Waits until the first attempt to announce the key is over. Never, for a private server.
    pub async fn announced(&self) {
        let _ = self.announced.clone().wait_for(Option::is_some).await;
    }

    /// Nodes through which the key can be reached now, own address first; at most 3. Empty while not announced.
    pub fn relay_addresses(&self) -> Vec<SocketAddrV4> {
        self.announced.borrow().clone().unwrap_or_default()
    }

    /// A view of [`Server::relay_addresses`] that outlives borrowing the server; `None` before the first announcement.
    pub fn watch_relay_addresses(&self) -> watch::Receiver<Option<Vec<SocketAddrV4>>> {
        self.announced.clone()
    }

    /// Stops accepting and withdraws the announcement (for at most a few seconds).
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self
            .commands
            .send(Command::CloseServer {
                server: self.id,
                done: Some(done),
            })
            .await
            .is_ok()
        {
            let _ = closed.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A full queue leaves the announcement to expire; the connections' receiver is gone in any case.
        let _ = self.commands.try_send(Command::CloseServer {
            server: self.id,
            done: None,
        });
    }
}
