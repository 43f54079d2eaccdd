//! WebSockets with real JavaScript secret streams (`@hyperswarm/secret-stream` over `ws`), both ways. Needs Node.js and `npm ci` in
//! `interop/relay`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "../../hyperdht/tests/support/mod.rs"]
mod support;

use cumulet_hyperswarm::direct::Dialler;
use cumulet_hyperswarm::websocket::{SUBPROTOCOL, WebSocketUrl};
use cumulet_hyperswarm::{Swarm, SwarmConfig, SwarmLimits, Transport};
use serde_json::json;
use support::{Js, echo_over, expect_echo_over, fresh_key_pair, key, node};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[tokio::test(flavor = "multi_thread")]
async fn a_js_secret_stream_in_a_websocket_talks_with_a_swarm_and_hears_all_of_it_back() {
    let mut js = Js::start_script("relay", "websocket.js");
    let config = SwarmConfig {
        key_pair: fresh_key_pair(),
        limits: SwarmLimits::default(),
        firewall: None,
    };
    let own_key = *config.key_pair.public_key();
    let dht = node(&[], Some(false)).await;
    let swarm = Swarm::spawn(dht, config, &TaskTracker::new(), CancellationToken::new());
    swarm.listen(false).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/any/path", listener.local_addr().unwrap());
    swarm.listen_websocket(listener).unwrap();
    let met = async {
        let connection = swarm.next_connection().await.unwrap();
        let seen = (
            matches!(connection.stream, Transport::WebSocket(_)),
            connection.is_initiator,
            connection.remote_public_key,
            connection.handshake.handshake_hash,
        );
        echo_over(connection.stream, connection.handshake).await;
        seen
    };
    let (told, (in_websocket, is_initiator, remote_public_key, handshake_hash)) =
        tokio::join!(js.call("connect", json!({ "url": url })), met);
    assert_eq!(told["same"], true, "{told}");
    assert_eq!(told["subprotocol"], SUBPROTOCOL);
    assert_eq!(key(&told["remotePublicKey"]), own_key);
    assert_eq!(key(&told["publicKey"]), remote_public_key);
    assert_eq!(told["handshakeHash"], hex::encode(handshake_hash));
    assert!(in_websocket && !is_initiator);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_js_host_of_secret_streams_in_websockets_is_met_and_echoes() {
    let mut js = Js::start_script("relay", "websocket.js");
    let host = js.call("listen", json!({})).await;
    let url: WebSocketUrl = format!("ws://localhost:{}/", host["port"]).parse().unwrap();
    let dialler = Dialler {
        dht: node(&[], None).await,
        key_pair: fresh_key_pair(),
        tls: None,
        tasks: TaskTracker::new(),
    };
    let met = dialler.connect_websocket(&url, key(&host["publicKey"])).await;
    let met = met.unwrap();
    expect_echo_over(met.stream, met.handshake).await.unwrap();
}
