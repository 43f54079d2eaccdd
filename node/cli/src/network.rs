//! Peers: those that were named, and those that the network knows.
//!
//! Every connection replicates the whole store, as JS peers do: a peer gets what it can name and proves to know. All tasks end
//! with [`Network::close`]. Nothing is announced unless the store is served.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cumulet_hypercore::corestore::Corestore;
use cumulet_hypercore::crypto::Hash;
use cumulet_hypercore::driver::{Session, replicate};
use cumulet_hyperdht::{Dht, DhtConfig};
use cumulet_hyperswarm::{Join, Mode, Swarm, SwarmConfig, SwarmLimits};
use cumulet_secret_stream::Seeds;
use cumulet_secret_stream::noise::KeyPair;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::failure::{Context, Failure, Kind, Result};
use crate::secrets;

/// How long the goodbyes may take: what is not withdrawn expires by itself.
const GOODBYE: Duration = Duration::from_secs(5);
/// Connections at a time that others open over TCP; as many as the swarm takes by default.
const MAX_TCP_PEERS: usize = 64;

/// Open connections and where more come from.
pub(crate) struct Network {
    store: Corestore,
    seed: [u8; 32],
    /// Connections that are open now.
    open: Arc<AtomicUsize>,
    swarm: Option<(Dht, Swarm)>,
    joins: Mutex<Vec<Join>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Network {
    /// No peers yet. `seed` is that of our key pair on the network.
    pub(crate) fn new(store: Corestore, seed: [u8; 32]) -> Self {
        Self {
            store,
            seed,
            open: Arc::default(),
            swarm: None,
            joins: Mutex::default(),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        }
    }

    /// The public key that peers know us by.
    pub(crate) fn public_key(&self) -> [u8; 32] {
        *KeyPair::from_seed(self.seed).public_key()
    }

    /// Connections that are open now.
    pub(crate) fn peers(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connects to a peer over TCP.
    pub(crate) async fn dial(&self, address: &str, timeout: Duration) -> Result {
        let unreachable = |why: String| {
            Failure::new(
                Kind::Unavailable,
                format!("failed to connect to the peer {address}: {why}"),
            )
            .hint("is it running, and is HOST:PORT right?")
        };
        let stream = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable("no answer in time".to_owned())),
        };
        stream.set_nodelay(true)?;
        self.run_tcp(stream, true)
    }

    fn run_tcp(&self, stream: TcpStream, is_initiator: bool) -> Result {
        let session = Session::Xx {
            is_initiator,
            key_pair: KeyPair::from_seed(self.seed),
            seeds: Seeds {
                ephemeral: secrets::random()?,
                header: secrets::random()?,
            },
        };
        self.run(stream, session);
        Ok(())
    }

    fn run<Io>(&self, io: Io, session: Session)
    where
        Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (store, cancel, open) = (
            self.store.clone(),
            self.cancel.child_token(),
            Arc::clone(&self.open),
        );
        open.fetch_add(1, Ordering::Relaxed);
        self.tasks.spawn(async move {
            if let Err(error) = replicate(store, io, session, cancel).await {
                debug!(%error, "disconnected");
            }
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Takes peers on a TCP address until closed. Returns the address, with the port that was chosen.
    pub(crate) async fn listen(self: &Arc<Self>, address: SocketAddr) -> Result<SocketAddr> {
        let listener = TcpListener::bind(address)
            .await
            .context(format!("failed to listen on {address}"))?;
        let bound = listener.local_addr()?;
        let network = Arc::clone(self);
        self.tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = network.cancel.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((stream, peer)) = accepted else {
                    // Out of descriptors, mostly: connections that end make room.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                if network.peers() >= MAX_TCP_PEERS {
                    debug!(%peer, "refused: too many peers");
                    continue;
                }
                let _ = stream.set_nodelay(true);
                if let Err(failure) = network.run_tcp(stream, false) {
                    debug!(%peer, error = failure.text, "refused");
                }
            }
        });
        Ok(bound)
    }

    /// Joins the DHT through these nodes, the public ones if there are none. Once.
    pub(crate) async fn join_dht(&mut self, bootstrap: &[String]) -> Result {
        if self.swarm.is_some() {
            return Ok(());
        }
        let named = || bootstrap.iter().filter(|node| !node.is_empty());
        let config = DhtConfig {
            bind: Ipv4Addr::UNSPECIFIED,
            bootstrap: if named().next().is_none() {
                DhtConfig::public_bootstrap()
            } else {
                named().cloned().collect()
            },
            ephemeral: Some(true),
            ..DhtConfig::default()
        };
        let dht = Dht::spawn(config, &self.tasks, self.cancel.clone()).await?;
        let config = SwarmConfig {
            key_pair: KeyPair::from_seed(self.seed),
            limits: SwarmLimits::default(),
            firewall: None,
        };
        let swarm = Swarm::spawn(dht.clone(), config, &self.tasks, self.cancel.clone());
        self.swarm = Some((dht, swarm));
        Ok(())
    }

    /// Replicates with everybody that the swarm connects us with.
    pub(crate) fn accept_swarm(self: &Arc<Self>) {
        let network = Arc::clone(self);
        self.tasks.spawn(async move {
            let Some((_, swarm)) = &network.swarm else { return };
            loop {
                let connection = tokio::select! {
                    () = network.cancel.cancelled() => return,
                    connection = swarm.next_connection() => connection,
                };
                let Some(connection) = connection else { return };
                let Ok(header_seed) = secrets::random() else {
                    return;
                };
                let session = Session::Established {
                    handshake: connection.handshake,
                    header_seed,
                };
                network.run(connection.stream, session);
            }
        });
    }

    /// Looks for peers under a topic, and with `announce` lets them find us.
    pub(crate) async fn join(&self, topic: Hash, announce: bool) -> Result {
        let Some((_, swarm)) = &self.swarm else {
            return Ok(());
        };
        let mode = if announce { Mode::BOTH } else { Mode::CLIENT };
        let join = swarm.join(topic, mode).await?;
        self.joins
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(join);
        Ok(())
    }

    /// Waits until every joined topic was looked up, and announced, once.
    pub(crate) async fn flushed(&self) {
        let joins = std::mem::take(&mut *self.joins.lock().unwrap_or_else(PoisonError::into_inner));
        for join in &joins {
            join.flushed().await;
        }
        self.joins
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(joins);
    }

    /// Says goodbye and ends all connections. Bounded.
    pub(crate) async fn close(&self) {
        let goodbyes = async {
            if let Some((dht, swarm)) = &self.swarm {
                swarm.shutdown().await;
                dht.close().await;
            }
        };
        let _ = tokio::time::timeout(GOODBYE, goodbyes).await;
        self.cancel.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(GOODBYE, self.tasks.wait()).await;
    }
}
