//! Peers joined by key and address, without any DHT: how the replicas of one cloud hold together.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "../../hyperdht/tests/support/mod.rs"]
mod support;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use cumulet_hyperdht::{Dht, DhtConfig};
use cumulet_hyperswarm::{Connection, Swarm, SwarmConfig, SwarmLimits};
use cumulet_secret_stream::noise::KeyPair;
use support::{echo_over, expect_echo_over, fresh_key_pair};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

async fn replica(key_pair: &KeyPair, port: u16) -> Swarm {
    let config = DhtConfig {
        bind: Ipv4Addr::LOCALHOST,
        port,
        firewalled: Some(false),
        ..DhtConfig::default()
    };
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    // Streams of an earlier life hold its socket until their readers have noticed the end.
    let start = std::time::Instant::now();
    let dht = loop {
        match Dht::spawn(config.clone(), &tasks, cancel.clone()).await {
            Ok(dht) => break dht,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(5), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let config = SwarmConfig {
        key_pair: key_pair.clone(),
        limits: SwarmLimits::default(),
        firewall: None,
    };
    let swarm = Swarm::spawn(dht, config, &tasks, cancel);
    swarm.listen(false).await.unwrap();
    swarm
}

async fn next(swarm: &Swarm) -> Connection {
    tokio::time::timeout(Duration::from_secs(20), swarm.next_connection())
        .await
        .expect("in time")
        .unwrap()
}

fn address(swarm: &Swarm) -> SocketAddrV4 {
    swarm.dht().local_address()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_that_name_each_other_hold_one_connection_and_find_each_other_after_a_restart() {
    let [key_a, key_b] = [fresh_key_pair(), fresh_key_pair()];
    let (a, b) = (replica(&key_a, 0).await, replica(&key_b, 0).await);
    let port_b = address(&b).port();
    a.join_peer(*key_b.public_key(), vec![address(&b)]).unwrap();
    b.join_peer(*key_a.public_key(), vec![address(&a)]).unwrap();
    // Doubles may show up first; the one that survives carries an echo.
    let mut echoes = tokio::task::JoinSet::new();
    let watcher = b.clone();
    echoes.spawn(async move {
        while let Some(connection) = watcher.next_connection().await {
            tokio::spawn(echo_over(connection.stream, connection.handshake));
        }
    });
    let mut last = Err("nothing tried".to_owned());
    for _ in 0..3 {
        let connection = next(&a).await;
        last = expect_echo_over(connection.stream, connection.handshake).await;
        if last.is_ok() {
            break;
        }
    }
    last.unwrap();

    b.shutdown().await;
    b.dht().close().await;
    drop((b, echoes));
    let b = replica(&key_b, port_b).await;
    let mut found = false;
    let echoes = tokio::spawn(async move {
        while let Some(connection) = b.next_connection().await {
            tokio::spawn(echo_over(connection.stream, connection.handshake));
        }
    });
    for _ in 0..3 {
        let connection = next(&a).await;
        assert_eq!(connection.remote_public_key, *key_b.public_key());
        found = expect_echo_over(connection.stream, connection.handshake)
            .await
            .is_ok();
        if found {
            break;
        }
    }
    assert!(
        found,
        "a dialled b again: b does not know a's address in its second life"
    );
    echoes.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_peer_is_cut_off_and_stays_out() {
    let [key_a, key_b] = [fresh_key_pair(), fresh_key_pair()];
    let (a, b) = (replica(&key_a, 0).await, replica(&key_b, 0).await);
    b.join_peer(*key_a.public_key(), vec![address(&a)]).unwrap();
    let connection = next(&a).await;
    a.ban(*key_b.public_key(), true).unwrap();
    let closed = connection.stream.control();
    tokio::time::timeout(Duration::from_secs(5), closed.closed())
        .await
        .expect("the ban ends it");
    let before = a.dht().counters().await.handshakes_refused;
    let refused = async {
        while a.dht().counters().await.handshakes_refused == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refused)
        .await
        .expect("b tries again and is refused");
    assert_eq!(a.stats().server_connections, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_swarm_has_no_connections_and_lets_nobody_in_until_it_goes_on() {
    let [key_a, key_b] = [fresh_key_pair(), fresh_key_pair()];
    let (a, b) = (replica(&key_a, 0).await, replica(&key_b, 0).await);
    a.join_peer(*key_b.public_key(), vec![address(&b)]).unwrap();
    let (ours, theirs) = tokio::join!(next(&a), next(&b));
    let ended = [ours.stream.control(), theirs.stream.control()];
    drop(theirs);
    a.suspend().await;
    for control in &ended {
        tokio::time::timeout(Duration::from_secs(5), control.closed())
            .await
            .expect("the pause ends it");
    }
    drop(ours);
    let knocking = cumulet_hyperdht::ConnectOptions {
        relay_addresses: vec![address(&a)],
        ..cumulet_hyperdht::ConnectOptions::new(fresh_key_pair())
    };
    b.dht()
        .connect(*key_a.public_key(), knocking.clone())
        .await
        .unwrap_err();
    let stats = a.stats();
    assert_eq!((stats.client_connections, stats.connecting), (0, 0));
    let dialled = stats.dialled;
    a.resume().await;
    let (again, _) = tokio::join!(next(&a), next(&b));
    assert_eq!(again.remote_public_key, *key_b.public_key());
    assert_eq!(a.stats().dialled, dialled + 1);
    b.dht().connect(*key_a.public_key(), knocking).await.unwrap();
}
