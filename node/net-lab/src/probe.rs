//! Two programs to connect: one that echoes, and one that dials it and measures.
//!
//! Both are to be run in a host's namespace ([`Namespace::spawn`](crate::Namespace::spawn)).

use std::io;
use std::time::{Duration, Instant};

use cumulet_hyperdht::{
    ConnectError, ConnectOptions, Dht, DhtConfig, ListenError, ListenOptions, SpawnError,
};
use cumulet_hyperswarm::{Connection, Join, Mode, Swarm, SwarmConfig, SwarmError, SwarmLimits, Transport};
use cumulet_secret_stream::noise::KeyPair;
use cumulet_secret_stream::{Event, SecretStream};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bytes of one message of a transfer.
const MESSAGE: usize = 32_768;
/// Bytes on their way at a time: what is not echoed yet.
const WINDOW: usize = 256 << 10;
/// Connections that an echo server has at a time.
const MAX_CONNECTIONS: usize = 64;

/// How to be in the network.
#[derive(Debug, Clone, Default)]
pub struct Joining {
    /// Nodes to join through, `host:port`.
    pub bootstrap: Vec<String>,
    /// Blind relays to offer, by public key.
    pub relays: Vec<[u8; 32]>,
    /// Punch no holes. A swarm does in any case.
    pub never_punch: bool,
    /// Meet under this topic, by a swarm that dials through `relays` where there is no other way, as the product does. Without it
    /// the DHT node dials the server's key, and offers the relays at once.
    pub topic: Option<[u8; 32]>,
}

/// What the dialling side saw.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dialled {
    /// Joining the DHT took this long.
    pub joined_ms: u64,
    /// From the order to connect until the first byte was echoed.
    pub connected_ms: u64,
    /// Whether the connection began through a blind relay.
    pub relayed: bool,
    /// And whether it had moved to a direct way when the transfer was over.
    pub moved: bool,
    /// The smallest time in which a message came back, of those tried.
    pub round_trip_ms: f64,
    /// What was sent and came back, bytes.
    pub bytes: u64,
    /// How long that took.
    pub transfer_ms: u64,
}

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// No node.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// No server.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No swarm.
    #[error(transparent)]
    Swarm(#[from] SwarmError),
    /// A connection that carries nothing.
    #[error("failed to exchange bytes over the connection")]
    Exchange(#[source] io::Error),
    /// It took too long.
    #[error("failed to connect and exchange bytes in {} s", .0.as_secs())]
    TimedOut(Duration),
    /// No randomness.
    #[error("failed to get random bytes")]
    Randomness,
}

fn random<const N: usize>() -> Result<[u8; N], ProbeError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| ProbeError::Randomness)?;
    Ok(bytes)
}

async fn node(joining: &Joining, tasks: &TaskTracker, cancel: &CancellationToken) -> Result<Dht, ProbeError> {
    let config = DhtConfig {
        bootstrap: joining.bootstrap.clone(),
        ..DhtConfig::default()
    };
    let dht = Dht::spawn(config, tasks, cancel.clone()).await?;
    dht.bootstrapped().await;
    Ok(dht)
}

/// Echoes whatever peers send, under a fresh key that `ready` gets once it is announced. Runs until it is dropped.
pub async fn serve(joining: Joining, ready: oneshot::Sender<[u8; 32]>) -> Result<(), ProbeError> {
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let _end = cancel.clone().drop_guard();
    let dht = node(&joining, &tasks, &cancel).await?;
    let key_pair = KeyPair::from_seed(random()?);
    let public_key = *key_pair.public_key();
    let mut echoes = Echoes(JoinSet::new());
    if let Some(topic) = joining.topic {
        let swarm = swarm(&dht, (key_pair, joining.relays), &tasks, &cancel)?;
        let join = swarm.join(topic, Mode::SERVER).await?;
        join.flushed().await;
        let _ = ready.send(public_key);
        while let Some(connection) = swarm.next_connection().await {
            echoes.add(connection)?;
        }
        return Ok(());
    }
    let options = ListenOptions {
        relay_through: joining.relays,
        never_punch: joining.never_punch,
        ..ListenOptions::default()
    };
    let mut server = dht.listen(key_pair, options).await?;
    server.announced().await;
    // Whoever started it may have gone already; then it is dropped soon.
    let _ = ready.send(public_key);
    while let Some(connection) = server.accept().await {
        echoes.add(connection.into())?;
    }
    Ok(())
}

fn swarm(
    dht: &Dht,
    (key_pair, relays): (KeyPair, Vec<[u8; 32]>),
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<Swarm, ProbeError> {
    let config = SwarmConfig {
        key_pair,
        limits: SwarmLimits::default(),
        firewall: None,
    };
    let swarm = Swarm::spawn(dht.clone(), config, tasks, cancel.clone());
    swarm.set_relays(relays)?;
    Ok(swarm)
}

/// Connections of an echo server.
struct Echoes(JoinSet<()>);

impl Echoes {
    fn add(&mut self, connection: Connection) -> Result<(), ProbeError> {
        while self.0.try_join_next().is_some() {}
        if self.0.len() < MAX_CONNECTIONS {
            let seed = random()?;
            // A connection's end is its peer's affair.
            self.0.spawn(async move {
                let _ = echo(connection, seed).await;
            });
        }
        Ok(())
    }
}

async fn echo(connection: Connection, seed: [u8; 24]) -> io::Result<()> {
    let mut wire = Wire::new(connection, seed);
    loop {
        let message = wire.receive().await?;
        wire.send(&message).await?;
    }
}

/// Dials `server`, waits for the first echo, and then sends `bytes` and gets them back. `timeout` is for all after joining.
pub async fn dial(
    joining: Joining,
    server: [u8; 32],
    bytes: u64,
    timeout: Duration,
) -> Result<Dialled, ProbeError> {
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let _end = cancel.clone().drop_guard();
    let begun = Instant::now();
    let dht = node(&joining, &tasks, &cancel).await?;
    let joined_ms = millis(begun.elapsed());
    let work = async {
        let begun = Instant::now();
        let around = (&tasks, &cancel);
        let (connection, _swarm) = meet(&dht, joining, server, around).await?;
        let relayed = connection.relay.is_some();
        let mut wire = Wire::new(connection, random()?);
        let mut round_trip = wire.round_trip().await?;
        let connected_ms = millis(begun.elapsed());
        for _ in 0..4 {
            round_trip = round_trip.min(wire.round_trip().await?);
        }
        let begun = Instant::now();
        wire.transfer(bytes).await?;
        let transfer_ms = millis(begun.elapsed());
        let moved = dht.counters().await.relayed_upgraded > 0;
        Ok(Dialled {
            joined_ms,
            connected_ms,
            relayed,
            moved,
            round_trip_ms: (round_trip.as_secs_f64() * 10_000.0).round() / 10.0,
            bytes,
            transfer_ms,
        })
    };
    let outcome = tokio::time::timeout(timeout, work)
        .await
        .unwrap_or(Err(ProbeError::TimedOut(timeout)));
    dht.close().await;
    outcome
}

/// A connection to `server`, and the swarm that made it, if one did.
async fn meet(
    dht: &Dht,
    joining: Joining,
    server: [u8; 32],
    (tasks, cancel): (&TaskTracker, &CancellationToken),
) -> Result<(Connection, Option<(Swarm, Join)>), ProbeError> {
    let key_pair = KeyPair::from_seed(random()?);
    let Some(topic) = joining.topic else {
        let options = ConnectOptions {
            relay_through: joining.relays,
            never_punch: joining.never_punch,
            ..ConnectOptions::new(key_pair)
        };
        return Ok((dht.connect(server, options).await?.into(), None));
    };
    let swarm = swarm(dht, (key_pair, joining.relays), tasks, cancel)?;
    let join = swarm.join(topic, Mode::CLIENT).await?;
    loop {
        let connection = swarm.next_connection().await.ok_or(SwarmError::Closed)?;
        // Others may have joined the topic.
        if connection.remote_public_key == server {
            return Ok((connection, Some((swarm, join))));
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Messages over a connection.
struct Wire {
    stream: Transport,
    secret: SecretStream,
    buffer: Vec<u8>,
}

impl Wire {
    fn new(connection: Connection, seed: [u8; 24]) -> Self {
        Self {
            stream: connection.stream,
            secret: SecretStream::from_handshake(connection.handshake, seed),
            buffer: vec![0; 65_536],
        }
    }

    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.secret.send(message).map_err(io::Error::other)?;
        let output = self.secret.take_output();
        self.stream.write_all(&output).await
    }

    async fn receive(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.secret.poll_event().map_err(io::Error::other)? {
                Some(Event::Message(message)) if !message.is_empty() => return Ok(message.to_vec()),
                Some(_) => continue,
                None => {}
            }
            let output = self.secret.take_output();
            self.stream.write_all(&output).await?;
            let read = self.stream.read(&mut self.buffer).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.secret.receive(&self.buffer[..read]);
        }
    }

    async fn round_trip(&mut self) -> Result<Duration, ProbeError> {
        let begun = Instant::now();
        let exchange = async {
            self.send(b"hello").await?;
            let answer = self.receive().await?;
            if answer == b"hello" {
                Ok(begun.elapsed())
            } else {
                Err(io::Error::other("the echo differs"))
            }
        };
        exchange.await.map_err(ProbeError::Exchange)
    }

    async fn transfer(&mut self, bytes: u64) -> Result<(), ProbeError> {
        let exchange = async {
            let pattern: Vec<u8> = (0..MESSAGE).map(|index| (index % 251) as u8).collect();
            let (mut sent, mut returned) = (0_u64, 0_u64);
            while returned < bytes {
                while sent < bytes && sent - returned < WINDOW as u64 {
                    let length = usize::try_from(bytes - sent).map_or(MESSAGE, |left| left.min(MESSAGE));
                    self.send(&pattern[..length]).await?;
                    sent += length as u64;
                }
                let answer = self.receive().await?;
                if pattern.get(..answer.len()) != Some(&answer[..]) {
                    return Err(io::Error::other("the echo differs"));
                }
                returned += answer.len() as u64;
            }
            Ok(())
        };
        exchange.await.map_err(ProbeError::Exchange)
    }
}
