//! Swarms that race TCP with UDP: where no UDP gets through, peers whose addresses are known meet all the same.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "../../hyperdht/tests/support/mod.rs"]
mod support;

use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cumulet_hyperdht::FirewallHook;
use cumulet_hyperswarm::direct::KnownHost;
use cumulet_hyperswarm::{Connection, Swarm, SwarmConfig, SwarmLimits, Transport};
use cumulet_secret_stream::noise::KeyPair;
use support::{echo_over, expect_echo_over, fresh_key_pair, node};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

struct Side {
    swarm: Swarm,
    /// Where it listens over TCP.
    tcp: SocketAddr,
}

async fn side(key_pair: &KeyPair, at: &str, firewall: Option<FirewallHook>) -> Side {
    let dht = node(&[], Some(false)).await;
    let config = SwarmConfig {
        key_pair: key_pair.clone(),
        limits: SwarmLimits::default(),
        firewall,
    };
    let swarm = Swarm::spawn(dht, config, &TaskTracker::new(), CancellationToken::new());
    swarm.listen(false).await.unwrap();
    let start = Instant::now();
    // The port of an earlier life may still be held.
    let listener = loop {
        match TcpListener::bind(at).await {
            Ok(listener) => break listener,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(5), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let tcp = listener.local_addr().unwrap();
    swarm.listen_tcp(listener).unwrap();
    Side { swarm, tcp }
}

/// Takes datagrams and answers none, as a network does that lets no UDP through.
struct Hole(UdpSocket);

impl Hole {
    fn new() -> Self {
        Self(UdpSocket::bind("127.0.0.1:0").unwrap())
    }

    fn address(&self) -> SocketAddrV4 {
        support::address(&self.0.local_addr().unwrap().to_string())
    }

    fn known(&self, side: &Side) -> KnownHost {
        KnownHost {
            public_key: *side.swarm.public_key(),
            udx: vec![self.address()],
            tcp: vec![side.tcp],
            websocket: Vec::new(),
        }
    }
}

async fn next(swarm: &Swarm) -> Connection {
    tokio::time::timeout(Duration::from_secs(20), swarm.next_connection())
        .await
        .expect("in time")
        .unwrap()
}

fn echo_all(swarm: &Swarm) -> tokio::task::JoinSet<()> {
    let swarm = swarm.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut echoes = tokio::task::JoinSet::new();
        while let Some(connection) = swarm.next_connection().await {
            echoes.spawn(echo_over(connection.stream, connection.handshake));
        }
    });
    tasks
}

/// Echoes over whatever connection comes, until one works.
async fn talk(swarm: &Swarm) {
    let mut last = Ok(());
    for _ in 0..4 {
        let connection = next(swarm).await;
        last = expect_echo_over(connection.stream, connection.handshake).await;
        if last.is_ok() {
            return;
        }
    }
    last.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_udp_gets_through_a_peer_is_met_over_tcp_soon_and_again_after_its_restart() {
    let [key_a, key_b] = [fresh_key_pair(), fresh_key_pair()];
    let hole = Hole::new();
    let a = side(&key_a, "127.0.0.1:0", None).await;
    let b = side(&key_b, "127.0.0.1:0", None).await;
    let echoes = echo_all(&b.swarm);
    let (known, port) = (hole.known(&b), b.tcp);
    let begun = Instant::now();
    a.swarm.join_host(known).unwrap();
    let connection = next(&a.swarm).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(250),
        "UDP had no head start"
    );
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(matches!(connection.stream, Transport::Tcp(_)) && connection.is_initiator);
    assert_eq!(connection.remote_public_key, *key_b.public_key());
    expect_echo_over(connection.stream, connection.handshake)
        .await
        .unwrap();
    assert_eq!((a.swarm.stats().over_tcp, b.swarm.stats().over_tcp), (1, 1));

    b.swarm.shutdown().await;
    drop((b, echoes));
    let b = side(&key_b, &port.to_string(), None).await;
    let _echoes = echo_all(&b.swarm);
    talk(&a.swarm).await;
}

/// Says something, and then stays until the connection ends. `echoes` counts the answers.
async fn hold(connection: Connection, echoes: Arc<AtomicUsize>) {
    let Connection {
        mut stream,
        handshake,
        ..
    } = connection;
    if expect_echo_over(&mut stream, handshake).await.is_ok() {
        echoes.fetch_add(1, Ordering::Relaxed);
    }
    while let Ok(1..) = stream.read(&mut [0; 1_024]).await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn two_peers_that_dial_each_other_over_tcp_at_the_same_moment_keep_one_connection() {
    for round in 0..5 {
        let hole = Hole::new();
        let a = side(&fresh_key_pair(), "127.0.0.1:0", None).await;
        let b = side(&fresh_key_pair(), "127.0.0.1:0", None).await;
        let _echoes = echo_all(&b.swarm);
        let answers = Arc::new(AtomicUsize::new(0));
        let (talking, counted) = (a.swarm.clone(), answers.clone());
        let mut talks = tokio::task::JoinSet::new();
        talks.spawn(async move {
            let mut held = tokio::task::JoinSet::new();
            while let Some(connection) = talking.next_connection().await {
                held.spawn(hold(connection, counted.clone()));
            }
        });
        a.swarm.join_host(hole.known(&b)).unwrap();
        b.swarm.join_host(hole.known(&a)).unwrap();
        let start = Instant::now();
        loop {
            let settled = [&a.swarm, &b.swarm].map(|swarm| {
                let stats = swarm.stats();
                stats.client_connections + stats.server_connections == 1 && stats.connecting == 0
            });
            if settled == [true, true] && answers.load(Ordering::Relaxed) > 0 {
                break;
            }
            let stats = [&a, &b].map(|side| side.swarm.stats());
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "round {round}: {stats:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_gets_through_nothing_is_sent_over_tcp() {
    let a = side(&fresh_key_pair(), "127.0.0.1:0", None).await;
    let key_b = fresh_key_pair();
    // At the port of its DHT node, as `join_peer` expects it.
    let b = side(&key_b, "127.0.0.1:0", None).await;
    let at = b.swarm.dht().local_address();
    let same_port = TcpListener::bind(SocketAddr::V4(at)).await;
    if let Ok(listener) = same_port {
        b.swarm.listen_tcp(listener).unwrap();
    }
    a.swarm.join_peer(*key_b.public_key(), vec![at]).unwrap();
    let _echoes = echo_all(&b.swarm);
    let connection = next(&a.swarm).await;
    assert!(matches!(connection.stream, Transport::Udx(_)));
    expect_echo_over(connection.stream, connection.handshake)
        .await
        .unwrap();
    assert_eq!((a.swarm.stats().over_tcp, b.swarm.stats().over_tcp), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_met_over_tcp_at_the_port_of_its_dht_node_when_that_is_all_that_is_known() {
    let key_b = fresh_key_pair();
    let hole = Hole::new();
    let a = side(&fresh_key_pair(), "127.0.0.1:0", None).await;
    let b = side(&key_b, &hole.address().to_string(), None).await;
    a.swarm
        .join_peer(*key_b.public_key(), vec![hole.address()])
        .unwrap();
    let _echoes = echo_all(&b.swarm);
    talk(&a.swarm).await;
    assert_eq!(a.swarm.stats().over_tcp, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_met_over_ipv6_where_tcp_is() {
    let a = side(&fresh_key_pair(), "127.0.0.1:0", None).await;
    let b = side(&fresh_key_pair(), "[::1]:0", None).await;
    let _echoes = echo_all(&b.swarm);
    a.swarm.join_host(Hole::new().known(&b)).unwrap();
    talk(&a.swarm).await;
    assert_eq!(a.swarm.stats().over_tcp, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_too_the_firewall_is_asked_and_the_banned_stay_out() {
    let [key_a, key_b] = [fresh_key_pair(), fresh_key_pair()];
    let hole = Hole::new();
    let stranger = *fresh_key_pair().public_key();
    let admitted = *key_a.public_key();
    let hook: FirewallHook =
        Arc::new(move |key, _, address| *key == admitted && address.ip().is_loopback() && *key != stranger);
    let b = side(&key_b, "127.0.0.1:0", Some(hook)).await;
    let a = side(&key_a, "127.0.0.1:0", None).await;
    let other = side(&fresh_key_pair(), "127.0.0.1:0", None).await;
    let _echoes = echo_all(&b.swarm);
    a.swarm.join_host(hole.known(&b)).unwrap();
    let connection = next(&a.swarm).await;
    let control = connection.stream.control();
    let answers = Arc::new(AtomicUsize::new(0));
    let held = tokio::spawn(hold(connection, answers.clone()));

    other.swarm.join_host(hole.known(&b)).unwrap();
    let refused = next(&other.swarm).await;
    expect_echo_over(refused.stream, refused.handshake)
        .await
        .unwrap_err();

    let start = Instant::now();
    while answers.load(Ordering::Relaxed) == 0 {
        assert!(start.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Cut off by the ban, and not let in again.
    b.swarm.ban(*key_a.public_key(), true).unwrap();
    tokio::time::timeout(Duration::from_secs(5), control.closed())
        .await
        .expect("the ban ends it");
    held.await.unwrap();
    let again = next(&a.swarm).await;
    expect_echo_over(again.stream, again.handshake).await.unwrap_err();
    assert_eq!(b.swarm.stats().server_connections, 0);
    assert_eq!(b.swarm.stats().over_tcp, 1);
}
