//! Blind relays, with real JavaScript peers (blind-relay 1.6.1, hyperdht 6.34.0) as every side, on loopback. Needs Node.js
//! and `npm ci` in `interop/relay`. `CUMULET_INTEROP_ROUNDS` says how often.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "support/relay.rs"]
mod relay;
mod support;

use cumulet_hyperdht::{ConnectOptions, Dht, ListenOptions};
use relay::{BYTES, OurRelay, TEXT, round_trip, serve};
use serde_json::{Value, json};
use support::{Js, fresh_key_pair, key, node, node_with, rounds};

/// Connections per case.
const ROUNDS: usize = 10;

fn listening(relay: Option<[u8; 32]>, never_punch: bool) -> ListenOptions {
    ListenOptions {
        relay_through: relay.into_iter().collect(),
        never_punch,
        ..ListenOptions::default()
    }
}

/// A JavaScript client's orders. The relay is named by the client if given.
fn dial(bootstrap: &[String], server: [u8; 32], relay: Option<[u8; 32]>) -> Value {
    json!({
        "bootstrap": bootstrap, "publicKey": hex::encode(server), "count": rounds(ROUNDS), "bytes": BYTES, "text": TEXT,
        "relay": relay.map(hex::encode),
    })
}

async fn connect_often(client: &Dht, server: [u8; 32], relay: Option<[u8; 32]>) {
    for round in 0..rounds(ROUNDS) {
        let options = ConnectOptions {
            relay_through: relay.into_iter().collect(),
            ..ConnectOptions::new(fresh_key_pair())
        };
        let connection = client.connect(server, options).await;
        let connection = connection.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(connection.relay.is_some());
        round_trip(connection, async || true)
            .await
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
}

/// Both directions of every payload went through.
fn crossed(bytes: u64) {
    let payloads = 2 * (rounds(ROUNDS) * BYTES) as u64;
    assert!(bytes > payloads, "{bytes} bytes for {payloads} of payload");
}

#[tokio::test(flavor = "multi_thread")]
async fn js_peers_meet_at_our_relay_whoever_names_it() {
    let mut js = Js::start_in("relay");
    let bootstrap = js.testnet(6).await;
    let relay = OurRelay::start(node(&bootstrap, Some(false)).await).await;
    for server_names in [true, false] {
        let before = relay.bytes();
        let named = server_names.then(|| hex::encode(relay.public_key));
        let listen = json!({ "bootstrap": bootstrap, "relay": named, "blocked": true });
        let server = js.call("listen", listen).await;
        let offered = (!server_names).then_some(relay.public_key);
        let answer = js
            .call("connect", dial(&bootstrap, key(&server["publicKey"]), offered))
            .await;
        eprintln!(
            "server names the relay: {server_names}: {answer} {:?}",
            relay.relay.counters()
        );
        assert_eq!(answer["ok"], rounds(ROUNDS), "{answer}");
        crossed(relay.bytes() - before);
    }
    relay.assert_saw_ciphertext_only();
    assert_eq!(relay.relay.counters().links_opened, 2 * rounds(ROUNDS) as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_reaches_a_js_server_through_a_js_relay_whoever_names_it() {
    let mut js = Js::start_in("relay");
    let bootstrap = js.testnet(6).await;
    let relay = js.call("relay", json!({ "bootstrap": bootstrap })).await;
    for server_names in [true, false] {
        let before = js.call("stats", json!({ "handle": relay["handle"] })).await;
        let named = server_names.then_some(&relay["publicKey"]);
        let listen = json!({ "bootstrap": bootstrap, "relay": named, "blocked": true });
        let server = js.call("listen", listen).await;
        let client = node_with(&bootstrap, Some(true), false).await;
        let offered = (!server_names).then(|| key(&relay["publicKey"]));
        connect_often(&client, key(&server["publicKey"]), offered).await;
        assert_eq!(client.counters().await.relayed_connections, rounds(ROUNDS) as u64);
        client.close().await;
        let stats = js.call("stats", json!({ "handle": relay["handle"] })).await;
        eprintln!("server names the relay: {server_names}: {stats}");
        crossed(stats["received"].as_u64().unwrap() - before["received"].as_u64().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_js_client_reaches_our_server_through_a_js_relay_whoever_names_it() {
    let mut js = Js::start_in("relay");
    let bootstrap = js.testnet(6).await;
    let relay = js.call("relay", json!({ "bootstrap": bootstrap })).await;
    let relay_key = key(&relay["publicKey"]);
    for server_names in [true, false] {
        let before = js.call("stats", json!({ "handle": relay["handle"] })).await;
        let server = node_with(&bootstrap, Some(true), false).await;
        let (public_key, _tasks) = serve(&server, listening(server_names.then_some(relay_key), true)).await;
        let offered = (!server_names).then_some(relay_key);
        let answer = js.call("connect", dial(&bootstrap, public_key, offered)).await;
        let counters = server.counters().await;
        eprintln!("server names the relay: {server_names}: {answer} {counters:?}");
        assert_eq!(answer["ok"], rounds(ROUNDS), "{answer}");
        assert_eq!(counters.relayed_connections, rounds(ROUNDS) as u64);
        server.close().await;
        let stats = js.call("stats", json!({ "handle": relay["handle"] })).await;
        crossed(stats["received"].as_u64().unwrap() - before["received"].as_u64().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_peers_meet_at_our_relay_in_a_js_network() {
    let mut js = Js::start_in("relay");
    let bootstrap = js.testnet(6).await;
    let relay = OurRelay::start(node(&bootstrap, Some(false)).await).await;
    let server = node_with(&bootstrap, Some(true), false).await;
    let (public_key, _tasks) = serve(&server, listening(Some(relay.public_key), true)).await;
    let client = node_with(&bootstrap, Some(true), false).await;
    connect_often(&client, public_key, None).await;
    crossed(relay.bytes());
    relay.assert_saw_ciphertext_only();
}

#[tokio::test(flavor = "multi_thread")]
async fn relayed_streams_between_js_and_us_survive_their_move_to_the_direct_way() {
    let mut js = Js::start_in("relay");
    let bootstrap = js.testnet(6).await;
    let relay = OurRelay::start(node(&bootstrap, Some(false)).await).await;

    let server = node_with(&bootstrap, Some(true), false).await;
    let (public_key, _tasks) = serve(&server, listening(Some(relay.public_key), false)).await;
    let mut wanted = dial(&bootstrap, public_key, None);
    (wanted["late"], wanted["hold"]) = (json!(true), json!(300));
    let answer = js.call("connect", wanted).await;
    let counters = server.counters().await;
    eprintln!("js client: {answer}, {counters:?}");
    assert_eq!(answer["ok"], rounds(ROUNDS), "{answer}");
    assert!(counters.relayed_upgraded > 0);

    let named = hex::encode(relay.public_key);
    let theirs = js
        .call(
            "listen",
            json!({ "bootstrap": bootstrap, "relay": named, "late": true }),
        )
        .await;
    let (mut relayed, mut upgraded) = (0, 0);
    for round in 0..rounds(ROUNDS) {
        let client = node_with(&bootstrap, Some(true), false).await;
        let connection = client
            .connect(key(&theirs["publicKey"]), ConnectOptions::new(fresh_key_pair()))
            .await
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        let began_relayed = connection.relay.is_some();
        let moved = async || !began_relayed || client.counters().await.relayed_upgraded > 0;
        round_trip(connection, moved)
            .await
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        relayed += usize::from(began_relayed);
        upgraded += client.counters().await.relayed_upgraded;
        client.close().await;
    }
    eprintln!("our client: {relayed} began at the relay, {upgraded} moved");
    assert_eq!((relayed, upgraded), (rounds(ROUNDS), rounds(ROUNDS) as u64));
    relay.assert_saw_ciphertext_only();
}
