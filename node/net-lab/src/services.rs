//! What a network has at public addresses: DHT nodes to join through and a blind relay, all ours.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use cumulet_hyperdht::{Dht, DhtConfig, ListenOptions};
use cumulet_relay::blind_relay::{Admission, MemberLimits, Peer, Relay, RelayOptions};
use cumulet_secret_stream::noise::KeyPair;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::lab::Lab;
use crate::topology::{SERVICES, Topology};

/// The UDP port of all services: that of the public bootstrap nodes.
const PORT: u16 = 49_737;
/// DHT nodes that are named for joining; the others are only there.
const BOOTSTRAP: u8 = 3;
/// How long starting may take.
const START: Duration = Duration::from_secs(20);

/// Why the services did not start.
#[derive(Debug, thiserror::Error)]
#[error("failed to start the lab's services")]
pub struct ServicesError(#[from] io::Error);

/// Running services; dropping them ends them.
#[derive(Debug)]
pub struct Services {
    relay_key: [u8; 32],
    _end: DropGuard,
}

impl Services {
    /// Starts one DHT node at each of the lab's public addresses, and a blind relay for everybody on the last.
    pub async fn start(lab: &Lab) -> Result<Self, ServicesError> {
        let cancel = CancellationToken::new();
        let end = cancel.clone().drop_guard();
        let (ready, started) = oneshot::channel();
        let running = cancel.clone();
        lab.internet().spawn(cancel, move || async move {
            let tasks = TaskTracker::new();
            let outcome = start(&tasks, &running).await;
            let (key, keep) = match outcome {
                Ok((key, keep)) => (Ok(key), Some(keep)),
                Err(error) => (Err(error), None),
            };
            let _ = ready.send(key);
            running.cancelled().await;
            drop(keep);
        })?;
        let started = tokio::time::timeout(START, started)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        let relay_key = started.map_err(|_| io::Error::other("its thread ended"))??;
        Ok(Self { relay_key, _end: end })
    }

    /// Nodes to join the lab's DHT through, `host:port`.
    pub fn bootstrap() -> Vec<String> {
        (0..BOOTSTRAP)
            .map(|service| address(service).to_string())
            .collect()
    }

    /// The public key of the blind relay.
    pub fn relay_key(&self) -> [u8; 32] {
        self.relay_key
    }
}

fn address(service: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Topology::service_address(service), PORT)
}

async fn start(tasks: &TaskTracker, cancel: &CancellationToken) -> io::Result<([u8; 32], JoinSet<()>)> {
    let mut nodes = Vec::new();
    for service in 0..SERVICES {
        let config = DhtConfig {
            bind: *address(service).ip(),
            port: PORT,
            bootstrap: if service == 0 {
                Vec::new()
            } else {
                Services::bootstrap()
            },
            ephemeral: Some(false),
            public_address: Some(address(service)),
            ..DhtConfig::default()
        };
        let node = Dht::spawn(config, tasks, cancel.clone())
            .await
            .map_err(io::Error::other)?;
        node.bootstrapped().await;
        nodes.push(node);
    }
    for node in &nodes {
        node.persistent().await;
    }
    let Some(last) = nodes.last() else {
        return Err(io::Error::other("no node"));
    };
    relay(last.clone(), nodes, tasks, cancel).await
}

/// A blind relay that serves everybody. The nodes live as long as its task.
async fn relay(
    dht: Dht,
    nodes: Vec<Dht>,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> io::Result<([u8; 32], JoinSet<()>)> {
    let everybody = |_: &[u8; 32]| Admission::Member(MemberLimits::default());
    let relay = Relay::new(
        dht.endpoint().clone(),
        Arc::new(everybody),
        RelayOptions::default(),
        tasks,
        cancel.clone(),
    );
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
    let key_pair = KeyPair::from_seed(seed);
    let mut server = dht
        .listen(key_pair.clone(), ListenOptions::default())
        .await
        .map_err(io::Error::other)?;
    server.announced().await;
    let mut running = JoinSet::new();
    running.spawn(async move {
        let _nodes = nodes;
        let mut sessions = JoinSet::new();
        while let Some(connection) = server.accept().await {
            while sessions.try_join_next().is_some() {}
            let relay = relay.clone();
            let peer = Peer {
                identity: connection.remote_public_key,
                handshake: connection.handshake,
                stream: connection.stream,
            };
            sessions.spawn(async move {
                // A session's end is its peer's affair.
                let _ = relay.serve(peer).await;
            });
        }
    });
    Ok((*key_pair.public_key(), running))
}
