//! The tokio half of the swarm: one task, and handles to it.

mod actor;
mod api;
mod lookup;
mod rounds;

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;

use cumulet_hyperdht::Dht;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio_rustls::rustls::ClientConfig;
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::actor::{Actor, Command};
use self::rounds::SinceJoin;
use crate::accept::{Door, Spoken};
use crate::connection::Connection;
use crate::direct::{DirectError, KnownHost};

pub use self::api::{Mode, PeerStatus, SwarmConfig, SwarmError, SwarmLimits, SwarmStats, Topic};

/// Connections opened and not taken yet. Beyond, newcomers are dropped and come again.
const CONNECTION_QUEUE: usize = 64;

/// A joined topic. Joins of the same topic add up; dropping one takes its modes back, and the last one leaves the topic.
pub struct Join {
    topic: Topic,
    mode: Mode,
    lookups: SinceJoin,
    commands: mpsc::UnboundedSender<Command>,
}

impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl Join {
    /// Waits until the topic was looked up (and announced, as server) once since the join, or left.
    pub async fn flushed(&self) {
        self.lookups.first().await;
    }

    /// Looks again now.
    pub fn refresh(&self) {
        let _ = self.commands.send(Command::Refresh { topic: self.topic });
    }
}

impl Drop for Join {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Release {
            topic: self.topic,
            mode: self.mode,
        });
    }
}

/// The swarm. Clones share it; the swarm ends when the last clone and the last [`Join`] are dropped.
#[derive(Clone)]
pub struct Swarm {
    /// Unbounded, since a [`Join`] is released from `drop`; what is in it is bounded by the callers that wait.
    commands: mpsc::UnboundedSender<Command>,
    connections: Arc<Mutex<mpsc::Receiver<Connection>>>,
    stats: watch::Receiver<SwarmStats>,
    public_key: [u8; 32],
    dht: Dht,
    door: Arc<Door>,
}

impl fmt::Debug for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swarm")
            .field("dht", &self.dht)
            .finish_non_exhaustive()
    }
}

impl Swarm {
    /// Starts a swarm on a DHT node. Its tasks run on `tasks` and end when `cancel` is cancelled or after
    /// [`Swarm::shutdown`].
    pub fn spawn(dht: Dht, config: SwarmConfig, tasks: &TaskTracker, cancel: CancellationToken) -> Self {
        let (commands, queue) = mpsc::unbounded_channel();
        let (connection_tx, connections) = mpsc::channel(CONNECTION_QUEUE);
        let public_key = *config.key_pair.public_key();
        let running = (tasks.clone(), cancel);
        let (actor, stats, door) = Actor::new(dht.clone(), config, (queue, connection_tx), running);
        tasks.spawn(actor.run());
        Self {
            commands,
            connections: Arc::new(Mutex::new(connections)),
            stats,
            public_key,
            dht,
            door: Arc::new(door),
        }
    }

    fn send(&self, command: Command) -> Result<(), SwarmError> {
        self.commands.send(command).map_err(|_| SwarmError::Closed)
    }

    /// Our public key.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// The DHT node under it.
    pub fn dht(&self) -> &Dht {
        &self.dht
    }

    /// Accepts connections from now on. Without `announce` only those find us who know our address; a join as server
    /// announces anyway. Idempotent.
    pub async fn listen(&self, announce: bool) -> Result<(), SwarmError> {
        let (done, listening) = oneshot::channel();
        self.send(Command::Listen { announce, done })?;
        Ok(listening.await.map_err(|_| SwarmError::Closed)??)
    }

    /// Joins a topic; it stays joined while the returned [`Join`] lives.
    pub async fn join(&self, topic: Topic, mode: Mode) -> Result<Join, SwarmError> {
        if !mode.server && !mode.client {
            return Err(SwarmError::EmptyMode);
        }
        let (done, joined) = oneshot::channel();
        self.send(Command::Join { topic, mode, done })?;
        let lookups = joined.await.map_err(|_| SwarmError::Closed)??;
        Ok(Join {
            topic,
            mode,
            lookups,
            commands: self.commands.clone(),
        })
    }

    /// Leaves a topic, whatever joins exist.
    pub fn leave(&self, topic: Topic) -> Result<(), SwarmError> {
        self.send(Command::Leave { topic })
    }

    /// Accepts connections over TCP while the swarm listens ([`Swarm::listen`], or a join as server); before, who connects is
    /// not answered. They come from known hosts whose networks let no UDP through. Whoever dials is asked for by the same
    /// firewall; it gets an empty payload, and of an IPv6 peer no address. At most 64 handshakes are under way, 16 of one
    /// source, each for 10 s at most; a source may begin four a second, and 16 after a rest. For several listeners too.
    pub fn listen_tcp(&self, listener: TcpListener) -> Result<(), SwarmError> {
        self.listen_on(listener, Spoken::Tcp)
    }

    /// As [`Swarm::listen_tcp`], in WebSockets without TLS that ask for [`crate::websocket::SUBPROTOCOL`].
    pub fn listen_websocket(&self, listener: TcpListener) -> Result<(), SwarmError> {
        self.listen_on(listener, Spoken::WebSocket)
    }

    fn listen_on(&self, listener: TcpListener, spoken: Spoken) -> Result<(), SwarmError> {
        if self.door.is_gone() {
            return Err(SwarmError::Closed);
        }
        self.door.listen(listener, spoken);
        Ok(())
    }

    /// Accepts a connection in a WebSocket that a web server has upgraded, as [`Swarm::listen_websocket`] does, but sources are
    /// not bounded. `from` is where it came from, as far as the web server knows. Returns when the connection is handed over.
    ///
    /// # Errors
    /// [`DirectError`]: the handshake failed, or the peer is not admitted.
    pub async fn accept_websocket<Io>(
        &self,
        socket: WebSocketStream<Io>,
        from: SocketAddr,
    ) -> Result<(), DirectError>
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.door.take_websocket(socket, from).await
    }

    /// Whom to believe that it is a `wss://` host. Without it no such host is met.
    pub fn set_tls(&self, tls: Arc<ClientConfig>) -> Result<(), SwarmError> {
        self.send(Command::SetTls(tls))
    }

    /// Keeps a connection to this peer, for ever, without any topic. `addresses`: the peer's own, or nodes that know it; with the
    /// peer's own address no DHT is needed. The same addresses are tried over TCP, where UDP does not get through in time: a
    /// host that listens by TCP uses the port of its DHT node. With others: [`Swarm::join_host`].
    pub fn join_peer(&self, public_key: [u8; 32], addresses: Vec<SocketAddrV4>) -> Result<(), SwarmError> {
        let tcp = addresses.iter().copied().map(SocketAddr::V4).collect();
        self.join_host(KnownHost {
            public_key,
            udx: addresses,
            tcp,
            websocket: Vec::new(),
        })
    }

    /// As [`Swarm::join_peer`], with addresses for UDP, for TCP (those may be IPv6), and for WebSockets. At most 8 of each are
    /// used. A kind of which there is none here stays as it was.
    pub fn join_host(&self, host: KnownHost) -> Result<(), SwarmError> {
        self.send(Command::JoinPeer(host))
    }

    /// Takes [`Swarm::join_peer`] back; an open connection stays.
    pub fn leave_peer(&self, public_key: [u8; 32]) -> Result<(), SwarmError> {
        self.send(Command::LeavePeer { public_key })
    }

    /// Never again connect with this peer (or again, with `banned` false). Closes an open connection.
    pub fn ban(&self, public_key: [u8; 32], banned: bool) -> Result<(), SwarmError> {
        self.send(Command::Ban { public_key, banned })
    }

    /// Blind relays (public keys) to dial through when a peer turned out not to be reachable by hole punching; none at first.
    /// Replaces what was set before. A relay that the peer names itself is used in any case.
    pub fn set_relays(&self, relays: Vec<[u8; 32]>) -> Result<(), SwarmError> {
        self.send(Command::SetRelays(relays))
    }

    /// The next connection, dialled or accepted; `None` once the swarm is shut down. At most one per peer is alive: a double
    /// is resolved inside, and the loser's stream is destroyed. Several callers share the connections. Cancel safe.
    pub async fn next_connection(&self) -> Option<Connection> {
        self.connections.lock().await.recv().await
    }

    /// Gauges and counters.
    pub fn stats(&self) -> SwarmStats {
        *self.stats.borrow()
    }

    /// Known peers.
    pub async fn peers(&self) -> Vec<PeerStatus> {
        let (done, peers) = oneshot::channel();
        let _ = self.commands.send(Command::Peers(done));
        peers.await.unwrap_or_default()
    }

    /// Ends all connections and attempts, withdraws announcements (for at most 3 s), and does nothing more until
    /// [`Swarm::resume`]: for devices that sleep. Topics and peers stay joined; who comes meanwhile is refused.
    pub async fn suspend(&self) {
        let (done, ended) = oneshot::channel();
        if self.commands.send(Command::Suspend(done)).is_ok() {
            let _ = ended.await;
        }
    }

    /// Goes on after [`Swarm::suspend`], in whatever network the device is now: looks up, announces and dials at once.
    pub async fn resume(&self) {
        let (done, ended) = oneshot::channel();
        if self.commands.send(Command::Resume(done)).is_ok() {
            let _ = ended.await;
        }
    }

    /// Leaves all topics (withdrawing announcements, for at most 3 s) and closes all connections. The DHT node stays open.
    pub async fn shutdown(&self) {
        let (done, ended) = oneshot::channel();
        if self.commands.send(Command::Shutdown(done)).is_ok() {
            let _ = ended.await;
        }
    }
}

/// The first bytes of a key, for logs.
fn short(public_key: &[u8; 32]) -> String {
    let [a, b, c, d, ..] = public_key;
    format!("{a:02x}{b:02x}{c:02x}{d:02x}")
}
