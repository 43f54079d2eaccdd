//! TCP with real JavaScript secret streams (`@hyperswarm/secret-stream` over `net`), both ways. Needs Node.js and `npm ci` in
//! `interop/dht`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "../../hyperdht/tests/support/mod.rs"]
mod support;

use std::sync::Arc;

use cumulet_hyperswarm::Connection;
use cumulet_hyperswarm::direct::{TcpServer, connect_tcp};
use cumulet_secret_stream::{Event, SecretStream};
use serde_json::json;
use support::{Js, fresh_key_pair, key};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Says hello, or answers what it hears; returns what it heard.
async fn talk(connection: Connection) -> Vec<u8> {
    let is_initiator = connection.is_initiator;
    let mut stream = connection.stream;
    let mut secret = SecretStream::from_handshake(connection.handshake, [7; 24]);
    if is_initiator {
        secret.send(b"hello").unwrap();
    }
    let mut buffer = [0; 4_096];
    loop {
        stream.write_all(&secret.take_output()).await.unwrap();
        while let Some(event) = secret.poll_event().unwrap() {
            if let Event::Message(message) = event {
                if !is_initiator {
                    secret.send(&message).unwrap();
                    stream.write_all(&secret.take_output()).await.unwrap();
                    // Until the peer has it.
                    let _ = stream.read(&mut buffer).await;
                }
                return message.to_vec();
            }
        }
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0);
        secret.receive(&buffer[..read]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_js_secret_stream_over_tcp_is_met_as_client_and_as_server() {
    let mut js = Js::start();
    let there = js.call("tcpListen", json!({})).await;
    let address = there["address"].as_str().unwrap().parse().unwrap();
    let met = connect_tcp(address, key(&there["publicKey"]), fresh_key_pair())
        .await
        .unwrap();
    assert_eq!(talk(met).await, b"hello");

    let (key_pair, cancel) = (fresh_key_pair(), CancellationToken::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let everybody = Arc::new(|_: &[u8; 32], _| true);
    let server = TcpServer::new(
        listener,
        key_pair.clone(),
        everybody,
        &TaskTracker::new(),
        &cancel,
    );
    let (answer, heard) = tokio::join!(js.call("tcpConnect", json!({ "port": port })), async {
        talk(server.accept().await.unwrap()).await
    });
    assert_eq!(heard, b"hello from JavaScript");
    assert_eq!(answer["heard"], "hello from JavaScript");
    assert_eq!(answer["remotePublicKey"], hex::encode(key_pair.public_key()));
}
