//! The node's swarm: one port number for UDP and TCP, and the cloud's other replicas, wherever they are now.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use cumulet_hyperdht::{Dht, DhtConfig, SpawnError};
use cumulet_hyperswarm::direct::KnownHost;
use cumulet_hyperswarm::websocket::WebSocketUrl;
use cumulet_hyperswarm::{Swarm, SwarmConfig, SwarmLimits};
use cumulet_secret_stream::noise::KeyPair;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::bans::{Bans, Changed};
use crate::config::{Config, ReplicaPeer};
use crate::node::StartError;

/// How often the addresses of the cloud's other replicas are looked up: a pod that was made anew has another one.
const REPLICA_LOOKUP: Duration = Duration::from_secs(15);
/// Connections over TCP that the system shakes hands with before they are taken.
const BACKLOG: i32 = 128;
/// How many port numbers are tried until one is free for UDP and TCP, where any will do.
const PORT_ATTEMPTS: u32 = 16;

/// Joins the DHT and listens for peers on the configured port. With replicas it can be reached at once, otherwise from the first
/// announced archive on.
pub(crate) async fn start(
    config: &Config,
    seed: &[u8; 32],
    bans: &Bans,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<(Dht, Swarm), StartError> {
    let (dht, listener) = bind(config, seed, tasks, cancel).await?;
    let failed = |error: &dyn std::fmt::Display| StartError::Swarm {
        port: config.swarm_port,
        reason: error.to_string(),
    };
    let swarm = SwarmConfig {
        key_pair: KeyPair::from_seed(*seed),
        limits: SwarmLimits::default(),
        firewall: None,
    };
    let swarm = Swarm::spawn(dht.clone(), swarm, tasks, cancel.clone());
    change_bans(&swarm, &bans.at_start());
    swarm.listen_tcp(listener).map_err(|error| failed(&error))?;
    let mut urls = config.replicas.iter().flat_map(|replica| &replica.websockets);
    if urls.any(WebSocketUrl::is_tls) {
        swarm
            .set_tls(Arc::new(trusting_the_system()?))
            .map_err(|error| failed(&error))?;
    }
    if !config.replicas.is_empty() {
        swarm.listen(false).await.map_err(|error| failed(&error))?;
    }
    Ok((dht, swarm))
}

/// Keeps these out of a swarm from now on, or lets them in again. Their connections end.
pub(crate) fn change_bans(swarm: &Swarm, changed: &Changed) {
    let banned = changed.banned.iter().map(|key| (*key, true));
    let pardoned = changed.pardoned.iter().map(|key| (*key, false));
    for (key, is_banned) in banned.chain(pardoned) {
        if let Err(error) = swarm.ban(key, is_banned) {
            // A swarm that has ended lets nobody in.
            debug!(%error, "bans");
        }
    }
}

/// The DHT node, and a listener on the same port number.
async fn bind(
    config: &Config,
    seed: &[u8; 32],
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<(Dht, TcpListener), StartError> {
    let mut attempts = if config.swarm_port == 0 { PORT_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let listening = |source| StartError::SwarmTcp {
            port: config.swarm_port,
            source,
        };
        let listener = listen(config.swarm_port).map_err(listening)?;
        let port = listener.local_addr().map_err(listening)?.port();
        match Dht::spawn(dht_config(config, seed, port), tasks, cancel.clone()).await {
            Ok(dht) => return Ok((dht, listener)),
            // Somebody has the number for UDP.
            Err(SpawnError::Bind { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
            Err(error) => {
                return Err(StartError::Swarm {
                    port,
                    reason: error.to_string(),
                });
            }
        }
    }
}

/// Listens for IPv6 and IPv4, or for IPv4 alone where the machine has no IPv6.
fn listen(port: u16) -> io::Result<TcpListener> {
    let bind = |domain, address: SocketAddr| {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        // A restart finds connections of the life before.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket.into())
    };
    match bind(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            debug!(%error, "no IPv6");
            bind(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into())
        }
        bound => bound,
    }
}

fn dht_config(config: &Config, seed: &[u8; 32], port: u16) -> DhtConfig {
    let bootstrap = if config.bootstrap.is_empty() {
        DhtConfig::public_bootstrap()
    } else {
        config.bootstrap.clone()
    };
    DhtConfig {
        bind: Ipv4Addr::UNSPECIFIED,
        port,
        bootstrap,
        nodes_file: Some(config.data_dir.join("dht-nodes")),
        public_address: config.public_host.map(|host| SocketAddrV4::new(host, port)),
        // Towards relays we are who we are on the swarm: they may know their members.
        key_pair: Some(KeyPair::from_seed(*seed)),
        // Asked for, it is one from the first moment; otherwise never: a pod's address is not for others to remember.
        ephemeral: Some(!config.serve_dht),
        ..DhtConfig::default()
    }
}

/// Believes the authorities that the system does, or those of `SSL_CERT_FILE`.
fn trusting_the_system() -> Result<ClientConfig, StartError> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        warn!(%error, "some certificates to trust can't be read");
    }
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        warn!(
            "no certificates to trust were found; no wss:// replica will be met. Name a file of them in SSL_CERT_FILE"
        );
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(StartError::Tls)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Keeps a connection to another replica of the cloud, wherever its pod is now. Over UDP or TCP at its addresses, or in a WebSocket.
pub(crate) async fn keep_replica(swarm: Swarm, replica: ReplicaPeer, cancel: CancellationToken) {
    let mut known = None;
    loop {
        let Some(addresses) = cancel.run_until_cancelled(resolve_all(&replica.addresses)).await else {
            return;
        };
        if addresses.is_empty() && replica.websockets.is_empty() {
            debug!(replica = ?replica.addresses, "replica has no address yet");
        } else if known.as_ref() != Some(&addresses) {
            info!(replica = %hex::encode(replica.public_key), ?addresses, websockets = ?replica.websockets, "another replica");
            let v4 = addresses.iter().filter_map(|address| match address {
                SocketAddr::V4(address) => Some(*address),
                SocketAddr::V6(_) => None,
            });
            let host = KnownHost {
                public_key: replica.public_key,
                udx: v4.collect(),
                tcp: addresses.clone(),
                websocket: replica.websockets.clone(),
            };
            if let Err(error) = swarm.join_host(host) {
                warn!(%error, "replica");
            }
            known = Some(addresses);
        }
        let wait = tokio::time::sleep(REPLICA_LOOKUP);
        if cancel.run_until_cancelled(wait).await.is_none() {
            return;
        }
    }
}

async fn resolve_all(names: &[String]) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for name in names {
        match tokio::net::lookup_host(name).await {
            Ok(found) => addresses.extend(found),
            Err(error) => debug!(%name, %error, "no address"),
        }
    }
    // Name servers turn the order.
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_listener_takes_ipv4_and_a_port_that_is_taken_is_an_error() {
        let listener = listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (met, accepted) = tokio::join!(
            tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)),
            listener.accept()
        );
        met.unwrap();
        assert_eq!(accepted.unwrap().1.ip().to_canonical(), Ipv4Addr::LOCALHOST);
        let error = listen(port).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
