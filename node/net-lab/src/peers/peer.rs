//! One peer: a node that comes and goes, and what a simulated one does meanwhile.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cumulet_hyperdht::{Dht, DhtConfig, SpawnError, hash};
use cumulet_hyperswarm::{Connection, Swarm, SwarmConfig, SwarmError, SwarmLimits};
use cumulet_secret_stream::noise::KeyPair;
use cumulet_secret_stream::{KEEP_ALIVE, SecretStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::tally::{Met, Tally};
use super::{Behaviour, PeersError};
use crate::impairment::mix;

/// A peer looks its topic up this often: far more often than apps do, so that a short run has answers to count.
const LOOK_UP_EVERY: Duration = Duration::from_secs(10);
/// A lookup that takes longer counts as not answered.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes read from a connection at a time: peers say little.
const READ: usize = 2_048;

/// A DHT node, with a swarm if it was given one's configuration, that can leave like a program that is ended or like a machine that
/// loses its power. Dropping it is the latter.
#[derive(Debug)]
pub struct Peer {
    dht: Dht,
    swarm: Option<Swarm>,
    tasks: TaskTracker,
    end: CancellationToken,
    _dropped: DropGuard,
}

impl Peer {
    /// Starts one. It joins the DHT by itself.
    ///
    /// # Errors
    /// Those of [`Dht::spawn`].
    pub async fn start(config: DhtConfig, swarm: Option<SwarmConfig>) -> Result<Self, SpawnError> {
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        let dropped = end.clone().drop_guard();
        let dht = Dht::spawn(config, &tasks, end.clone()).await?;
        let swarm = swarm.map(|config| Swarm::spawn(dht.clone(), config, &tasks, end.clone()));
        Ok(Self {
            dht,
            swarm,
            tasks,
            end,
            _dropped: dropped,
        })
    }

    /// Its node.
    pub fn dht(&self) -> &Dht {
        &self.dht
    }

    /// Leaves: with a goodbye it withdraws what it announced and ends its connections, which takes up to 6 s; without one it is
    /// gone at once, and says nothing.
    pub async fn leave(self, goodbye: bool) {
        if goodbye {
            if let Some(swarm) = &self.swarm {
                swarm.shutdown().await;
            }
            self.dht.close().await;
        }
        self.end.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The life of one simulated peer.
#[derive(Debug, Clone)]
pub(super) struct Life {
    pub(super) behaviour: Arc<Behaviour>,
    /// Of all peers of a run another one.
    pub(super) number: u64,
    /// A public address of its own, if it has one.
    pub(super) address: Option<Ipv4Addr>,
    pub(super) tally: Arc<watch::Sender<Tally>>,
    /// How many may arrive at a time.
    pub(super) arriving: Arc<Semaphore>,
}

impl Life {
    fn key_pair(&self) -> KeyPair {
        let seed = self.behaviour.seed.to_le_bytes();
        KeyPair::from_seed(hash(&[b"simulated peer", &seed, &self.number.to_le_bytes()]))
    }

    fn dht(&self) -> DhtConfig {
        DhtConfig {
            bind: self.address.unwrap_or(Ipv4Addr::UNSPECIFIED),
            bootstrap: self.behaviour.bootstrap.clone(),
            // Who has a public address serves the DHT, so that it grows with its peers.
            ephemeral: self.address.is_some().then_some(false),
            ..DhtConfig::default()
        }
    }

    /// Comes, stays until `leave` says that it goes and whether with a goodbye, and goes.
    pub(super) async fn live(self, leave: oneshot::Receiver<bool>) -> Result<(), PeersError> {
        // None is ever closed.
        let permit = Arc::clone(&self.arriving).acquire_owned().await.ok();
        let key_pair = self.key_pair();
        let own = *key_pair.public_key();
        let links = self.behaviour.links;
        let swarm = SwarmConfig {
            key_pair,
            limits: SwarmLimits {
                max_peers: links,
                max_server_connections: links,
                ..SwarmLimits::default()
            },
            firewall: None,
        };
        let begun = Instant::now();
        let peer = Peer::start(self.dht(), Some(swarm)).await?;
        self.tally.send_modify(|tally| tally.came(own));
        let goodbye = tokio::select! {
            // Whoever would say when is gone: so is the run.
            goodbye = leave => goodbye.unwrap_or(false),
            stayed = self.stay(&peer, own, (begun, permit)) => {
                stayed?;
                false
            }
        };
        self.tally.send_modify(|tally| tally.left(goodbye));
        peer.leave(goodbye).await;
        Ok(())
    }

    /// Never ends by itself.
    async fn stay(
        &self,
        peer: &Peer,
        own: [u8; 32],
        (begun, mut permit): (Instant, Option<OwnedSemaphorePermit>),
    ) -> Result<(), SwarmError> {
        let Some(swarm) = &peer.swarm else {
            return Ok(());
        };
        peer.dht.bootstrapped().await;
        swarm.set_relays(self.behaviour.relays.clone())?;
        let join = swarm.join(self.behaviour.topic, self.behaviour.mode).await?;
        let arrived = join.flushed();
        tokio::pin!(arrived);
        let mut is_first = true;
        let mut held = JoinSet::new();
        let mut asking = JoinSet::new();
        let mut lookups = tokio::time::interval_at(self.first_lookup(), LOOK_UP_EVERY);
        lookups.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut arrived, if permit.is_some() => {
                    permit = None;
                    self.tally.send_modify(|tally| tally.arrived(Instant::now()));
                }
                Some(connection) = swarm.next_connection() => {
                    let met = Met {
                        key: connection.remote_public_key,
                        dialled: connection.is_initiator,
                        relayed: connection.relay.is_some(),
                    };
                    let first = std::mem::take(&mut is_first).then(|| begun.elapsed());
                    self.tally.send_modify(|tally| tally.connected(&met, first));
                    // Its end is its peer's affair.
                    held.spawn(async move {
                        let _ = hold(connection).await;
                    });
                }
                _ = lookups.tick(), if asking.is_empty() => {
                    let (dht, topic) = (peer.dht.clone(), self.behaviour.topic);
                    asking.spawn(async move {
                        let begun = Instant::now();
                        let answer = tokio::time::timeout(PATIENCE, dht.lookup(topic)).await;
                        (answer.ok().and_then(Result::ok), begun.elapsed())
                    });
                }
                Some(ended) = asking.join_next(), if !asking.is_empty() => {
                    if let Ok((peers, took)) = ended {
                        self.tally.send_modify(|tally| tally.looked_up(took, peers.as_deref(), &own));
                    }
                }
                Some(_) = held.join_next(), if !held.is_empty() => {}
            }
        }
    }

    /// Not all at once.
    fn first_lookup(&self) -> tokio::time::Instant {
        let share = mix(self.behaviour.seed ^ mix(self.number)) % 1_000;
        let wait = LOOK_UP_EVERY.mul_f64(0.001 * f64::from(u16::try_from(share).unwrap_or(0)));
        tokio::time::Instant::now() + wait
    }
}

/// Keeps a connection alive and takes what the peer says, until it ends.
async fn hold(connection: Connection) -> io::Result<()> {
    let mut header = [0; 24];
    getrandom::fill(&mut header).map_err(|error| io::Error::other(error.to_string()))?;
    let mut stream = connection.stream;
    let mut secret = SecretStream::from_handshake(connection.handshake, header);
    secret.set_keep_alive(KEEP_ALIVE);
    secret.handle_timeout(Instant::now()).map_err(io::Error::other)?;
    let mut buffer = vec![0; READ];
    loop {
        let output = secret.take_output();
        if !output.is_empty() {
            stream.write_all(&output).await?;
        }
        let quiet_at = secret.poll_timeout().map(tokio::time::Instant::from);
        let quiet = async {
            match quiet_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = stream.read(&mut buffer) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                secret.receive(&buffer[..read]);
                while secret.poll_event().map_err(io::Error::other)?.is_some() {}
            }
            () = quiet => secret.handle_timeout(Instant::now()).map_err(io::Error::other)?,
        }
    }
}
