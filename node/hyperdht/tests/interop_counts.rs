//! Connection after connection between real JavaScript nodes (hyperdht 6.34.0) and ours, on loopback: every one must open and
//! carry an echo. Each is of a fresh client node; every tenth has a fresh server too, and begins the moment that server is
//! announced. Needs Node.js and `npm ci` in `interop/dht`. `CUMULET_INTEROP_ROUNDS` says how many per case. Through relays:
//! `interop_relay`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod support;

use std::time::{Duration, Instant};

use cumulet_hyperdht::{ConnectOptions, Dht, ListenOptions};
use serde_json::{Value, json};
use support::{Js, echo, expect_echo, fresh_key_pair, key, node_with, rounds};

/// Connections per case in CI.
const COUNT: usize = 20;
/// Connections to one server.
const PER_SERVER: usize = 10;

/// What a case came to.
#[derive(Default)]
struct Tally {
    ok: usize,
    failed: Vec<String>,
    times: Vec<Duration>,
}

impl Tally {
    fn add_js(&mut self, what: &str, answer: &Value) {
        self.ok += usize::try_from(answer["ok"].as_u64().unwrap()).unwrap();
        let errors = answer["errors"].as_object().unwrap();
        self.failed.extend(
            errors
                .iter()
                .map(|(error, count)| format!("{what}: {count} times {error}")),
        );
        let times = answer["times"].as_array().unwrap().iter();
        self.times
            .extend(times.map(|ms| Duration::from_millis(ms.as_u64().unwrap())));
    }

    fn add(&mut self, what: &str, begun: Instant, result: Result<(), String>) {
        self.times.push(begun.elapsed());
        match result {
            Ok(()) => self.ok += 1,
            Err(error) => self.failed.push(format!("{what}: {error}")),
        }
    }

    fn finish(mut self, case: &str) {
        let count = rounds(COUNT);
        self.times.sort_unstable();
        let median = self.times.get(self.times.len() / 2);
        eprintln!(
            "{case}: {} of {count}; median {median:?}, longest {:?}",
            self.ok,
            self.times.last()
        );
        assert_eq!(self.ok, count, "{case}: {:#?}", self.failed);
    }
}

/// A fresh echo server of ours, its node, and its task; it is announced.
async fn serve(
    bootstrap: &[String],
    firewalled: bool,
    local: bool,
) -> (Dht, [u8; 32], tokio::task::JoinSet<()>) {
    let dht = node_with(bootstrap, Some(firewalled), local).await;
    let key_pair = fresh_key_pair();
    let mut server = dht
        .listen(key_pair.clone(), ListenOptions::default())
        .await
        .unwrap();
    server.announced().await;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Some(connection) = server.accept().await {
            connections.spawn(echo(connection));
        }
    });
    (dht, *key_pair.public_key(), tasks)
}

/// JavaScript clients, half of them with the firewall they find out about themselves and half behind one, to servers of ours.
async fn inbound(case: &str, firewalled: bool, local: bool) {
    let mut js = Js::start();
    let bootstrap = js.testnet(8).await;
    let mut tally = Tally::default();
    let mut left = rounds(COUNT);
    for number in 0.. {
        let count = left.min(PER_SERVER);
        if count == 0 {
            break;
        }
        left -= count;
        let kind = if number % 2 == 0 { json!(null) } else { json!(true) };
        // In the network before the server is, so that nothing lies between the announcement and the connection.
        let early = js
            .call("node", json!({ "bootstrap": bootstrap, "firewalled": kind }))
            .await;
        let (dht, public_key, _tasks) = serve(&bootstrap, firewalled, local).await;
        let wanted = json!({
            "node": early["handle"], "bootstrap": bootstrap, "publicKey": hex::encode(public_key), "count": count,
            "fresh": true, "local": local, "firewalled": kind,
        });
        let answer = js.call("connect", wanted).await;
        tally.add_js(&format!("server {number}, client firewalled {kind}"), &answer);
        dht.close().await;
    }
    tally.finish(case);
}

/// Clients of ours, half of them behind a firewall, to JavaScript servers.
async fn outbound(case: &str, firewalled: bool, local: bool) {
    let mut js = Js::start();
    let bootstrap = js.testnet(8).await;
    let mut tally = Tally::default();
    let mut server = Value::Null;
    for number in 0..rounds(COUNT) {
        let kind = (number / PER_SERVER % 2 == 1).then_some(true);
        let client = node_with(&bootstrap, kind, local).await;
        if number % PER_SERVER == 0 {
            if !server.is_null() {
                js.call("close", json!({ "handle": server["handle"] })).await;
            }
            let listen = json!({ "bootstrap": bootstrap, "firewalled": firewalled, "local": local });
            server = js.call("listen", listen).await;
        }
        let begun = Instant::now();
        let options = ConnectOptions::new(fresh_key_pair());
        let result = match client.connect(key(&server["publicKey"]), options).await {
            Ok(connection) => expect_echo(connection).await,
            Err(error) => Err(error.to_string()),
        };
        let what = format!("connection {number}, client firewalled {kind:?}");
        tally.add(&what, begun, result);
        client.close().await;
    }
    tally.finish(case);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_js_client_reaches_an_open_server_of_ours() {
    inbound("inbound, open", false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_js_client_reaches_a_firewalled_server_of_ours_by_punching() {
    inbound("inbound, firewalled, punched", true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_js_client_reaches_a_firewalled_server_of_ours_in_its_own_network() {
    inbound("inbound, firewalled, same network", true, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_of_ours_reaches_an_open_js_server() {
    outbound("outbound, open", false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_of_ours_reaches_a_firewalled_js_server_by_punching() {
    outbound("outbound, firewalled, punched", true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_of_ours_reaches_a_firewalled_js_server_in_its_own_network() {
    outbound("outbound, firewalled, same network", true, true).await;
}
