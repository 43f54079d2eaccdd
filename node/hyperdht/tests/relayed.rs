//! Connections through a blind relay, all sides ours, on loopback.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "support/relay.rs"]
mod relay;
mod support;

use std::net::Ipv4Addr;

use cumulet_hyperdht::{ConnectError, ConnectOptions, Dht, DhtConfig, ListenOptions};
use relay::{BYTES, OurRelay, round_trip, serve};
use support::{fresh_key_pair, node_with, rounds};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A DHT of our nodes; the first one's address is known from the start, as a bootstrap node's is.
async fn own_dht(size: usize) -> (Vec<Dht>, Vec<String>) {
    let probe = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let public_address = support::address(&probe.local_addr().unwrap().to_string());
    drop(probe);
    let bootstrap = vec![public_address.to_string()];
    let mut nodes = Vec::new();
    for index in 0..size {
        let first = index == 0;
        let config = DhtConfig {
            bind: Ipv4Addr::LOCALHOST,
            port: if first { public_address.port() } else { 0 },
            bootstrap: if first { Vec::new() } else { bootstrap.clone() },
            ephemeral: Some(false),
            firewalled: Some(false),
            public_address: first.then_some(public_address),
            ..DhtConfig::default()
        };
        let node = Dht::spawn(config, &TaskTracker::new(), CancellationToken::new())
            .await
            .unwrap();
        let serving = tokio::time::timeout(std::time::Duration::from_secs(15), node.persistent()).await;
        serving.unwrap_or_else(|_| panic!("node {index} serves the DHT: {:?}", node.status()));
        nodes.push(node);
    }
    (nodes, bootstrap)
}

fn listening(relay: Option<[u8; 32]>, never_punch: bool) -> ListenOptions {
    ListenOptions {
        relay_through: relay.into_iter().collect(),
        never_punch,
        ..ListenOptions::default()
    }
}

fn options(relay: Option<[u8; 32]>) -> ConnectOptions {
    ConnectOptions {
        relay_through: relay.into_iter().collect(),
        ..ConnectOptions::new(fresh_key_pair())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_without_a_direct_way_meet_at_the_relay_that_either_of_them_names() {
    let (nodes, bootstrap) = own_dht(4).await;
    let relay = OurRelay::start(nodes[1].clone()).await;
    for server_names in [true, false] {
        let server = node_with(&bootstrap, Some(true), false).await;
        let named = Some(relay.public_key);
        let (public_key, _tasks) = serve(&server, listening(named.filter(|_| server_names), true)).await;
        let client = node_with(&bootstrap, Some(true), false).await;
        for round in 0..rounds(3) {
            let before = relay.bytes();
            let connection = client
                .connect(public_key, options(named.filter(|_| !server_names)))
                .await;
            let connection = connection.unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert_eq!(connection.relay, named);
            round_trip(connection, async || true).await.unwrap();
            assert!(
                relay.bytes() - before > 2 * BYTES as u64,
                "both directions crossed the relay"
            );
        }
        let (ours, theirs) = (client.counters().await, server.counters().await);
        assert_eq!((ours.relayed_upgraded, theirs.relayed_upgraded), (0, 0));
        assert_eq!(ours.relayed_connections, theirs.relayed_connections);
        client.close().await;
        server.close().await;
    }
    relay.assert_saw_ciphertext_only();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_relay_such_peers_do_not_meet_and_a_relay_that_does_not_exist_is_given_up() {
    let (_nodes, bootstrap) = own_dht(4).await;
    let server = node_with(&bootstrap, Some(true), false).await;
    let (public_key, _tasks) = serve(&server, listening(None, true)).await;
    let client = node_with(&bootstrap, Some(true), false).await;
    let blocked = |relay| ConnectOptions {
        never_punch: true,
        ..options(relay)
    };
    let error = client.connect(public_key, blocked(None)).await.unwrap_err();
    assert_eq!(error, ConnectError::CannotHolepunch);
    let error = client
        .connect(public_key, blocked(Some([9; 32])))
        .await
        .unwrap_err();
    assert_eq!(error, ConnectError::RelayFailed);
    assert_eq!(client.counters().await.relay_failures, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_learns_at_once_that_the_relay_ended_its_link() {
    let (nodes, bootstrap) = own_dht(4).await;
    let relay = OurRelay::start(nodes[1].clone()).await;
    let server = node_with(&bootstrap, Some(true), false).await;
    let (public_key, _tasks) = serve(&server, listening(Some(relay.public_key), true)).await;
    let client = node_with(&bootstrap, Some(true), false).await;
    let mut connection = client.connect(public_key, options(None)).await.unwrap();
    assert_eq!(relay.relay.counters().links, 1);
    relay.relay.drain(std::time::Duration::ZERO).await;
    let mut heard = Vec::new();
    let ended = tokio::io::AsyncReadExt::read_to_end(&mut connection.stream, &mut heard);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), ended).await;
    ended.expect("at once, not by silence").unwrap_err();
    assert_eq!(relay.relay.counters().links, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayed_stream_moves_to_the_direct_way_and_lets_the_relay_go() {
    let (nodes, bootstrap) = own_dht(4).await;
    let relay = OurRelay::start(nodes[1].clone()).await;
    let server = node_with(&bootstrap, Some(true), false).await;
    let (public_key, _tasks) = serve(&server, listening(Some(relay.public_key), false)).await;
    let mut upgraded = 0;
    for round in 0..rounds(5) {
        let client = node_with(&bootstrap, Some(true), false).await;
        let connection = client.connect(public_key, options(None)).await;
        let connection = connection.unwrap_or_else(|error| panic!("round {round}: {error}"));
        let began_relayed = connection.relay.is_some();
        let moved = async || !began_relayed || client.counters().await.relayed_upgraded > 0;
        round_trip(connection, moved).await.unwrap();
        upgraded += usize::from(began_relayed);
        client.close().await;
    }
    eprintln!("{upgraded} began at the relay and moved");
    let quiet = async {
        while relay.relay.counters().links > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let released = tokio::time::timeout(std::time::Duration::from_secs(15), quiet).await;
    released.expect("the relay is let go");
}
