//! Against real JavaScript swarms (hyperswarm 4.17.2) on loopback. Needs Node.js and `npm ci` in `interop/dht`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "../../hyperdht/tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use cumulet_hyperdht::Dht;
use cumulet_hyperswarm::{Mode, Swarm, SwarmConfig, SwarmLimits};
use serde_json::{Value, json};
use support::{Js, echo_over, expect_echo_over, fresh_key_pair, node, rounds};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

fn swarm(dht: Dht) -> Swarm {
    let config = SwarmConfig {
        key_pair: fresh_key_pair(),
        limits: SwarmLimits::default(),
        firewall: None,
    };
    Swarm::spawn(dht, config, &TaskTracker::new(), CancellationToken::new())
}

fn topic(number: usize) -> [u8; 32] {
    cumulet_hyperdht::hash(&[b"topic", &number.to_le_bytes()])
}

/// Echoes on every connection, for as long as the swarm lives.
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

/// Asks until the JS swarm's statistics satisfy, and returns them. What is known of both sides is printed when they never do.
async fn stats_until(
    js: &mut Js,
    (handle, ours): (&Value, &Swarm),
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let start = Instant::now();
    loop {
        let stats = js.call("stats", json!({ "handle": handle })).await;
        if wanted(&stats) {
            return stats;
        }
        if start.elapsed() > Duration::from_secs(10) {
            let (dht, peers) = (ours.dht(), ours.peers().await);
            panic!(
                "{stats}\n{:?}\n{peers:?}\n{:?}\n{:?}",
                ours.stats(),
                dht.status(),
                dht.counters().await
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_swarm_finds_a_js_server_under_a_topic_every_time() {
    let mut js = Js::start();
    let bootstrap = js.testnet(8).await;
    let join =
        json!({ "bootstrap": bootstrap, "topic": hex::encode(topic(1)), "server": true, "client": false });
    let server = js.call("swarm", join).await;
    for round in 0..rounds(50) {
        let dht = node(&bootstrap, Some(false)).await;
        let swarm = swarm(dht.clone());
        let _join = swarm.join(topic(1), Mode::CLIENT).await.unwrap();
        let connection = tokio::time::timeout(Duration::from_secs(5), swarm.next_connection()).await;
        let connection = connection
            .unwrap_or_else(|_| panic!("round {round}: {:?}", swarm.stats()))
            .unwrap();
        assert_eq!(hex::encode(connection.remote_public_key), server["publicKey"]);
        assert!(connection.is_initiator);
        expect_echo_over(connection.stream, connection.handshake)
            .await
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        let announced = dht.lookup(topic(1)).await.unwrap();
        assert_eq!(announced.len(), 1, "we looked and told nobody");
        swarm.shutdown().await;
        dht.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn default_js_swarms_find_our_server_from_the_first_moment_and_every_time() {
    let mut js = Js::start();
    let bootstrap = js.testnet(8).await;
    let mut pair = None;
    for round in 0..rounds(50) {
        // Every tenth time a fresh server and topic: the first connection right after the announcement counts.
        if round % 10 == 0 {
            let dht = node(&bootstrap, Some(false)).await;
            let ours = swarm(dht);
            let echoes = echo_all(&ours);
            let join = ours.join(topic(round), Mode::SERVER).await.unwrap();
            join.flushed().await;
            pair = Some((topic(round), ours, echoes, join));
        }
        let Some((topic, ours, ..)) = &pair else {
            unreachable!()
        };
        let join =
            json!({ "bootstrap": bootstrap, "topic": hex::encode(topic), "server": false, "client": true });
        let client = js.call("swarm", join).await;
        let stats = stats_until(&mut js, (&client["handle"], ours), |stats| stats["echoes"] == 1).await;
        assert_eq!(
            stats["keys"],
            json!([hex::encode(ours.public_key())]),
            "round {round}"
        );
        assert_eq!(stats["connections"], 1, "round {round}");
        js.call("close", json!({ "handle": client["handle"] })).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_both_announce_and_look_up_one_connection_remains() {
    let mut js = Js::start();
    let bootstrap = js.testnet(8).await;
    for round in 0..rounds(20) {
        let ours = swarm(node(&bootstrap, Some(false)).await);
        let _echoes = echo_all(&ours);
        let join_js = json!({ "bootstrap": bootstrap, "topic": hex::encode(topic(round)), "server": true, "client": true });
        let (join, theirs) = tokio::join!(ours.join(topic(round), Mode::BOTH), js.call("swarm", join_js));
        let _join = join.unwrap();
        let stats = stats_until(&mut js, (&theirs["handle"], &ours), |stats| {
            stats["open"] == 1 && stats["echoes"] != 0
        })
        .await;
        assert_eq!(
            stats["keys"],
            json!([hex::encode(ours.public_key())]),
            "round {round}"
        );
        let now = ours.stats();
        assert_eq!(
            now.client_connections + now.server_connections,
            1,
            "round {round}: {now:?}"
        );
        js.call("close", json!({ "handle": theirs["handle"] })).await;
        ours.shutdown().await;
        ours.dht().close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_announces_itself_after_our_lookup_is_found_within_seconds() {
    let mut js = Js::start();
    let bootstrap = js.testnet(8).await;
    let ours = swarm(node(&bootstrap, None).await);
    let join = ours.join(topic(7), Mode::CLIENT).await.unwrap();
    join.flushed().await;
    let join_js =
        json!({ "bootstrap": bootstrap, "topic": hex::encode(topic(7)), "server": true, "client": false });
    let theirs = js.call("swarm", join_js).await;
    let connection = tokio::time::timeout(Duration::from_secs(8), ours.next_connection())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(hex::encode(connection.remote_public_key), theirs["publicKey"]);
    expect_echo_over(connection.stream, connection.handshake)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_both_dial_at_the_same_moment_one_connection_remains_and_carries_data() {
    let mut js = Js::start();
    let bootstrap = js.testnet(8).await;
    let mut doubles = 0;
    for round in 0..rounds(20) {
        let ours = swarm(node(&bootstrap, Some(false)).await);
        let _echoes = echo_all(&ours);
        ours.listen(true).await.unwrap();
        let join = ours.join([90; 32], Mode::SERVER).await.unwrap();
        join.flushed().await;
        // Topics that nobody shares: the two meet only because each is told of the other.
        let alone = json!({ "bootstrap": bootstrap, "topic": hex::encode([91; 32]), "server": true, "client": false });
        let theirs = js.call("swarm", alone).await;
        ours.join_peer(support::key(&theirs["publicKey"]), Vec::new())
            .unwrap();
        let told = json!({ "handle": theirs["handle"], "publicKey": hex::encode(ours.public_key()) });
        js.call("join_peer", told).await;
        stats_until(&mut js, (&theirs["handle"], &ours), |stats| {
            stats["open"] == 1 && stats["echoes"] != 0
        })
        .await;
        let settled = Instant::now();
        let stats = loop {
            let now = ours.stats();
            if now.client_connections + now.server_connections == 1 && now.connecting == 0 {
                break now;
            }
            assert!(
                settled.elapsed() < Duration::from_secs(10),
                "round {round}: {now:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        doubles += stats.duplicates;
        js.call("close", json!({ "handle": theirs["handle"] })).await;
        ours.shutdown().await;
        ours.dht().close().await;
    }
    eprintln!("{doubles} doubles");
}
