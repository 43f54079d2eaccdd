//! Who is banned does not get in, by whatever way; who is not does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod replicas;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cumulet_hyperdht::{Dht, DhtConfig};
use cumulet_hyperswarm::Connection;
use cumulet_hyperswarm::direct::{Dialler, KnownHost};
use cumulet_hyperswarm::websocket::WebSocketUrl;
use cumulet_node::bans::BansError;
use cumulet_node::config::Options;
use cumulet_node::node::{Node, NodeError, StartError};
use cumulet_secret_stream::noise::KeyPair;
use replicas::{prepare, public_key};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(40);
const NODE: u8 = 1;

fn key(number: u8) -> [u8; 32] {
    *KeyPair::from_seed([number; 32]).public_key()
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

fn options(data_dir: &Path, banned: &[u8], websocket: SocketAddr) -> Options {
    prepare(data_dir, NODE);
    Options {
        data_dir: Some(data_dir.to_owned()),
        swarm_port: Some(0),
        // Nobody answers: nothing is found but who is named.
        bootstrap: vec!["127.0.0.1:9".to_owned()],
        // With a replica, the node can be reached at once.
        replicas_peers: vec![format!("{}@127.0.0.1:9", public_key(9))],
        websocket_listen: Some(websocket),
        websocket_open: Some(true),
        relay: Some(true),
        relay_open: Some(true),
        blind_peer: Some(true),
        blind_peer_open: Some(true),
        ban: banned.iter().copied().map(public_key).collect(),
        ..Options::default()
    }
}

async fn dht() -> Dht {
    let config = DhtConfig {
        bind: Ipv4Addr::LOCALHOST,
        bootstrap: Vec::new(),
        firewalled: Some(false),
        ..DhtConfig::default()
    };
    Dht::spawn(config, &TaskTracker::new(), CancellationToken::new())
        .await
        .unwrap()
}

/// The ways to a node and to its services, each alone.
struct Ways {
    udp: KnownHost,
    tcp: KnownHost,
    websocket: KnownHost,
    relay: KnownHost,
    blind_peer: KnownHost,
}

impl Ways {
    async fn to(node: &Node, websocket: SocketAddr) -> Self {
        let status = node.status().await;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, node.swarm_port());
        let nowhere = |public_key| KnownHost {
            public_key,
            udx: Vec::new(),
            tcp: Vec::new(),
            websocket: Vec::new(),
        };
        let udp = |public_key| KnownHost {
            udx: vec![address],
            ..nowhere(public_key)
        };
        let service = |text: Option<String>| {
            let mut public_key = [0; 32];
            hex::decode_to_slice(text.unwrap(), &mut public_key).unwrap();
            udp(public_key)
        };
        let url: WebSocketUrl = format!("ws://localhost:{}/", websocket.port()).parse().unwrap();
        Self {
            udp: udp(key(NODE)),
            tcp: KnownHost {
                tcp: vec![address.into()],
                ..nowhere(key(NODE))
            },
            websocket: KnownHost {
                websocket: vec![url],
                ..nowhere(key(NODE))
            },
            relay: service(status.relay_public_key),
            blind_peer: service(status.blind_peer_public_key),
        }
    }

    fn all(&self) -> [(&'static str, &KnownHost); 5] {
        [
            ("UDP", &self.udp),
            ("TCP", &self.tcp),
            ("WebSocket", &self.websocket),
            ("relay", &self.relay),
            ("blind peer", &self.blind_peer),
        ]
    }
}

async fn meet(number: u8, way: &KnownHost) -> Option<Connection> {
    let dialler = Dialler {
        dht: dht().await,
        key_pair: KeyPair::from_seed([number; 32]),
        tls: None,
        tasks: TaskTracker::new(),
    };
    dialler.meet(way).await.ok()
}

/// Whether the other side says anything after the handshake, as it does to everybody whom it serves.
async fn is_served(connection: &mut Connection) -> bool {
    let spoken = async {
        // Whoever is not served may be gone by now.
        let _ = connection.stream.write_all(&[0]).await;
        matches!(connection.stream.read(&mut [0; 1]).await, Ok(1))
    };
    tokio::time::timeout(PATIENCE, spoken).await.unwrap()
}

async fn gets_in(number: u8, way: &KnownHost) -> bool {
    match meet(number, way).await {
        Some(mut connection) => is_served(&mut connection).await,
        None => false,
    }
}

/// Waits until somebody gets in: a service may still be on its way to be reached.
async fn comes_to_get_in(number: u8, way: &KnownHost) -> bool {
    let trying = async { while !gets_in(number, way).await {} };
    tokio::time::timeout(PATIENCE, trying).await.is_ok()
}

async fn start(options: Options) -> Arc<Node> {
    Node::start(&options.check().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_banned_gets_in_by_no_way_and_to_no_service_and_everybody_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let web = free_port();
    let node = start(options(folder.path(), &[2], web)).await;
    let ways = Ways::to(&node, web).await;
    // Each by a key of its own: a second connection of one peer would take the place of the first.
    for (number, (name, way)) in (3..).zip(ways.all()) {
        assert!(comes_to_get_in(number, way).await, "{name}");
        assert!(!gets_in(2, way).await, "{name}");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_ends_connections_at_once_lasts_beyond_a_restart_and_can_be_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let web = free_port();
    let node = start(options(folder.path(), &[], web)).await;
    node.set_devices([key(2)].into()).await.unwrap();
    let ways = Ways::to(&node, web).await;
    for (number, (name, way)) in (3..).zip(ways.all()) {
        assert!(comes_to_get_in(number, way).await, "{name}");
    }
    let mut open = Vec::new();
    for way in [&ways.udp, &ways.relay, &ways.blind_peer] {
        let mut connection = meet(2, way).await.unwrap();
        assert!(is_served(&mut connection).await);
        open.push(connection);
    }
    node.set_bans([key(2)].into()).await.unwrap();
    for mut connection in open {
        let ended = async { while let Ok(1..) = connection.stream.read(&mut [0; 64]).await {} };
        assert!(tokio::time::timeout(PATIENCE, ended).await.is_ok());
    }
    for (name, way) in ways.all() {
        assert!(!gets_in(2, way).await, "{name}");
    }
    node.shutdown().await;
    drop(node);

    let node = start(options(folder.path(), &[], web)).await;
    let ways = Ways::to(&node, web).await;
    assert_eq!(node.status().await.bans, [public_key(2)]);
    assert_eq!(
        node.devices(),
        [key(2)],
        "a device it stays, in case the ban ends"
    );
    for (name, way) in ways.all() {
        assert!(!gets_in(2, way).await, "{name}");
    }
    node.set_bans([].into()).await.unwrap();
    for (name, way) in [
        ("UDP", &ways.udp),
        ("relay", &ways.relay),
        ("blind peer", &ways.blind_peer),
    ] {
        assert!(comes_to_get_in(2, way).await, "{name}");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_the_node_itself_nor_a_replica_or_member_can_be_banned() {
    let folder = tempfile::tempdir().unwrap();
    let web = free_port();
    let error = Node::start(&options(folder.path(), &[NODE], web).check().unwrap()).await;
    assert!(
        matches!(error, Err(StartError::Bans(BansError::Member { .. }))),
        "{error:?}"
    );
    let node = start(Options {
        member: vec![public_key(4)],
        ..options(folder.path(), &[], web)
    })
    .await;
    for number in [NODE, 9, 4] {
        let error = node.set_bans([key(2), key(number)].into()).await.unwrap_err();
        assert!(
            matches!(error, NodeError::Bans(BansError::Member { .. })),
            "{error:?}"
        );
        assert!(node.bans().is_empty(), "nothing has changed");
    }
    node.shutdown().await;
}
