//! Two of our nodes, without any DHT.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod support;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use cumulet_hyperdht::{ConnectError, ConnectOptions, Dht, DhtConfig, ListenError, ListenOptions};
use support::{echo, expect_echo, fresh_key_pair, node, rounds};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_know_an_address_and_a_key_connect_without_a_dht() {
    let (a, b) = (node(&[], Some(false)).await, node(&[], None).await);
    let key_pair = fresh_key_pair();
    let listening = ListenOptions {
        private: true,
        ..ListenOptions::default()
    };
    let mut server = a.listen(key_pair.clone(), listening.clone()).await.unwrap();
    assert_eq!(
        a.listen(key_pair.clone(), listening).await.unwrap_err(),
        ListenError::KeyInUse
    );
    let echoes = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Some(connection) = server.accept().await {
            assert!(!connection.is_initiator);
            connections.spawn(echo(connection));
        }
    });
    for _ in 0..rounds(50) {
        let relay_addresses = vec![a.local_address()];
        let options = ConnectOptions {
            relay_addresses,
            ..ConnectOptions::new(fresh_key_pair())
        };
        let connection = b.connect(*key_pair.public_key(), options).await.unwrap();
        expect_echo(connection).await.unwrap();
    }
    let unknown = ConnectOptions {
        relay_addresses: vec![a.local_address()],
        ..ConnectOptions::new(fresh_key_pair())
    };
    let error = b
        .connect(*fresh_key_pair().public_key(), unknown)
        .await
        .unwrap_err();
    assert_eq!(error, ConnectError::PeerUnreachable);
    let nowhere = ConnectOptions::new(fresh_key_pair());
    assert!(
        b.connect(*key_pair.public_key(), nowhere.clone()).await.is_ok(),
        "the way is remembered"
    );
    let stranger = node(&[], None).await;
    let error = stranger
        .connect(*key_pair.public_key(), nowhere)
        .await
        .unwrap_err();
    assert_eq!(error, ConnectError::PeerNotFound);
    a.close().await;
    tokio::time::timeout(Duration::from_secs(5), echoes)
        .await
        .expect("the server ends with its node")
        .unwrap();
}

/// Without a bootstrap node whose address is known: the first of a network says where it is.
async fn first_node() -> Dht {
    let port = {
        let probe = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        probe.local_addr().unwrap().port()
    };
    let config = DhtConfig {
        bind: Ipv4Addr::LOCALHOST,
        port,
        public_address: Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)),
        ephemeral: Some(false),
        ..DhtConfig::default()
    };
    Dht::spawn(config, &TaskTracker::new(), CancellationToken::new())
        .await
        .unwrap()
}

async fn joined(bootstrap: Vec<String>, nodes_file: Option<PathBuf>) -> Dht {
    let config = DhtConfig {
        bind: Ipv4Addr::LOCALHOST,
        bootstrap,
        nodes_file,
        firewalled: Some(false),
        ephemeral: Some(false),
        ..DhtConfig::default()
    };
    let dht = Dht::spawn(config, &TaskTracker::new(), CancellationToken::new())
        .await
        .unwrap();
    dht.bootstrapped().await;
    dht
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_finds_back_by_its_file_after_a_restart_while_no_bootstrap_node_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nodes");
    let first = first_node().await;
    let names = vec![first.local_address().to_string()];
    let mut others = Vec::new();
    for _ in 0..3 {
        let other = joined(names.clone(), None).await;
        other.persistent().await;
        others.push(other);
    }
    let node = joined(names.clone(), Some(file.clone())).await;
    let (key_pair, value) = (fresh_key_pair(), b"still here");
    node.mutable_put(&key_pair, 1, value).await.unwrap();
    node.close().await;
    first.close().await;
    let saved = std::fs::read_to_string(&file).unwrap();
    assert!(saved.lines().count() >= 3, "{saved}");

    let again = joined(names.clone(), Some(file.clone())).await;
    let found = again.mutable_get(*key_pair.public_key(), 0).await.unwrap();
    assert_eq!(found.unwrap().value[..], value[..]);
    again.close().await;
    // Without the file nobody is found.
    let lost = joined(names, None).await;
    let found = lost.mutable_get(*key_pair.public_key(), 0).await;
    assert!(!matches!(found, Ok(Some(_))), "{found:?}");
    // A damaged file costs nothing.
    std::fs::write(&file, b"\xff\xfe no address\n\n127.0.0.1\n").unwrap();
    joined(Vec::new(), Some(file)).await;
}
