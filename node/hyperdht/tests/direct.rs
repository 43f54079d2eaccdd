//! Two of our nodes, without any DHT.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod support;

use std::time::Duration;

use cumulet_hyperdht::{ConnectError, ConnectOptions, ListenError, ListenOptions};
use support::{echo, expect_echo, fresh_key_pair, node, rounds};

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
