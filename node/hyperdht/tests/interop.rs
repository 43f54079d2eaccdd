//! Against real JavaScript nodes (hyperdht 6.34.0) on loopback. Needs Node.js and `npm ci` in `interop/dht`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod support;

use cumulet_hyperdht::{ConnectOptions, ListenOptions};
use serde_json::json;
use support::{Js, echo, expect_echo, fresh_key_pair, key, node, node_with, rounds};

/// Serves echoes on a fresh key; returns its public key and the server's task.
async fn serve(dht: &cumulet_hyperdht::Dht) -> ([u8; 32], tokio::task::JoinSet<()>) {
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
    (*key_pair.public_key(), tasks)
}

fn options() -> ConnectOptions {
    ConnectOptions::new(fresh_key_pair())
}

#[tokio::test(flavor = "multi_thread")]
async fn default_js_clients_reach_our_open_server_every_time() {
    let mut js = Js::start();
    let bootstrap = js.testnet(8).await;
    let dht = node(&bootstrap, Some(false)).await;
    assert_eq!(
        dht.remote_address().map(|address| address.port()),
        Some(dht.local_address().port())
    );
    let (public_key, _tasks) = serve(&dht).await;
    let count = rounds(50);
    let fresh = json!({ "bootstrap": bootstrap, "publicKey": hex::encode(public_key), "count": count, "fresh": true });
    let answer = js.call("connect", fresh).await;
    eprintln!("{answer}\n{:?}", dht.counters().await);
    assert_eq!(answer["ok"], count, "{answer}");
    assert!(
        dht.counters().await.handshakes_repeated > 0,
        "copies of a handshake arrived and were answered alike"
    );
    let same = json!({ "bootstrap": bootstrap, "publicKey": hex::encode(public_key), "count": count });
    let answer = js.call("connect", same).await;
    assert_eq!(answer["ok"], count, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn our_open_client_reaches_a_default_js_server_every_time() {
    let mut js = Js::start();
    let bootstrap = js.testnet(8).await;
    let server = js.call("listen", json!({ "bootstrap": bootstrap })).await;
    let public_key = key(&server["publicKey"]);
    for round in 0..rounds(50) {
        let dht = node(&bootstrap, Some(false)).await;
        let connection = dht.connect(public_key, options()).await;
        let connection = connection.unwrap_or_else(|error| panic!("round {round}: {error}; {server}"));
        assert_eq!(connection.remote_public_key, public_key);
        expect_echo(connection)
            .await
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        dht.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_firewalled_client_reaches_an_open_js_server_and_a_default_one_in_the_same_network() {
    let mut js = Js::start();
    let bootstrap = js.testnet(8).await;
    for firewalled in [json!(false), json!(null)] {
        let server = js
            .call(
                "listen",
                json!({ "bootstrap": bootstrap, "firewalled": firewalled }),
            )
            .await;
        let dht = node(&bootstrap, Some(true)).await;
        for round in 0..rounds(10) {
            let connection = dht.connect(key(&server["publicKey"]), options()).await;
            let connection = connection.unwrap_or_else(|error| panic!("round {round}: {error}; {server}"));
            expect_echo(connection)
                .await
                .unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        dht.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn js_and_we_find_each_other_under_a_topic_and_read_each_others_values() {
    let mut js = Js::start();
    let bootstrap = js.testnet(8).await;
    let dht = node(&bootstrap, Some(false)).await;
    let (topic, key_pair) = ([3; 32], fresh_key_pair());
    let announcement = dht.announce(topic, &key_pair, Vec::new()).await.unwrap();
    assert!(announcement.stored > 0);
    let asked = json!({ "bootstrap": bootstrap, "topic": hex::encode(topic) });
    let found = js.call("lookup", asked.clone()).await;
    assert_eq!(found["peers"], json!([hex::encode(key_pair.public_key())]));

    let announced = js.call("announce", asked.clone()).await;
    let peers = dht.lookup(topic).await.unwrap();
    assert_eq!(peers.len(), 2);
    assert!(
        peers
            .iter()
            .any(|peer| peer.public_key == key(&announced["publicKey"]))
    );

    dht.unannounce(topic, &key_pair).await.unwrap();
    let found = js.call("lookup", asked).await;
    assert_eq!(found["peers"], json!([announced["publicKey"]]));

    let put =
        json!({ "bootstrap": bootstrap, "seed": 5, "seq": 3, "mutable": "ours later", "immutable": "fixed" });
    let stored = js.call("put", put).await;
    let record = dht
        .mutable_get(key(&stored["publicKey"]), 0)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((record.seq, &record.value[..]), (3, &b"ours later"[..]));
    assert_eq!(
        dht.immutable_get(key(&stored["hash"])).await.unwrap().unwrap(),
        "fixed"
    );

    let (owner, hash) = (fresh_key_pair(), dht.immutable_put(b"from rust").await.unwrap());
    assert!(dht.mutable_put(&owner, 1, b"one").await.unwrap() > 0);
    assert!(dht.mutable_put(&owner, 2, b"two").await.unwrap() > 0);
    let get = json!({ "bootstrap": bootstrap, "publicKey": hex::encode(owner.public_key()), "hash": hex::encode(hash) });
    let got = js.call("get", get).await;
    assert_eq!(
        (&got["mutable"], &got["seq"], &got["immutable"]),
        (&json!("two"), &json!(2), &json!("from rust"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn js_clients_of_every_kind_reach_our_firewalled_server_in_the_same_network_and_by_punching() {
    let mut js = Js::start();
    let bootstrap = js.testnet(16).await;
    let ways = [(true, true), (false, true), (false, false)];
    let kinds = [json!(null), json!(true)];
    for ((local, fast_open), kind) in ways
        .into_iter()
        .flat_map(|way| kinds.iter().map(move |kind| (way, kind)))
    {
        let dht = node_with(&bootstrap, Some(true), local).await;
        assert_eq!(dht.remote_address(), None);
        let (public_key, _tasks) = serve(&dht).await;
        let count = if fast_open { rounds(20) } else { 5 };
        let wanted = json!({
            "bootstrap": bootstrap, "publicKey": hex::encode(public_key), "count": count, "fresh": true,
            "local": local, "fastOpen": fast_open, "firewalled": kind,
        });
        let answer = js.call("connect", wanted).await;
        eprintln!("local {local}, fast open {fast_open}, firewalled {kind}: {answer}");
        assert_eq!(
            answer["ok"], count,
            "local {local}, fast open {fast_open}: {answer}"
        );
        dht.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_firewalled_client_punches_through_to_a_firewalled_js_server() {
    let mut js = Js::start();
    let bootstrap = js.testnet(16).await;
    let listen = json!({ "bootstrap": bootstrap, "firewalled": true, "local": false });
    let server = js.call("listen", listen).await;
    for round in 0..rounds(20) {
        let dht = node_with(&bootstrap, Some(true), false).await;
        let connection = dht.connect(key(&server["publicKey"]), options()).await;
        let counters = dht.counters().await;
        let connection =
            connection.unwrap_or_else(|error| panic!("round {round}: {error}; {server} {counters:?}"));
        expect_echo(connection)
            .await
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!((counters.punches, counters.punched), (1, 1));
        dht.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_firewalled_nodes_of_ours_punch_through_to_each_other() {
    let mut js = Js::start();
    let bootstrap = js.testnet(16).await;
    let server = node_with(&bootstrap, Some(true), false).await;
    let (public_key, _tasks) = serve(&server).await;
    for _ in 0..rounds(10) {
        let client = node_with(&bootstrap, Some(true), false).await;
        expect_echo(client.connect(public_key, options()).await.unwrap())
            .await
            .unwrap();
        assert_eq!(client.counters().await.punched, 1);
        client.close().await;
    }
}

/// Nodes of ours that form a DHT of their own; the first one's address is known from the start, as a bootstrap node's is.
async fn own_dht(size: usize) -> (Vec<cumulet_hyperdht::Dht>, Vec<String>) {
    let probe = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let public_address = support::address(&probe.local_addr().unwrap().to_string());
    drop(probe);
    let mut nodes = Vec::new();
    let bootstrap = vec![public_address.to_string()];
    for index in 0..size {
        let first = index == 0;
        let config = cumulet_hyperdht::DhtConfig {
            bind: std::net::Ipv4Addr::LOCALHOST,
            port: if first { public_address.port() } else { 0 },
            bootstrap: if first { Vec::new() } else { bootstrap.clone() },
            ephemeral: Some(false),
            firewalled: Some(false),
            public_address: first.then_some(public_address),
            ..cumulet_hyperdht::DhtConfig::default()
        };
        let (tasks, cancel) = (
            tokio_util::task::TaskTracker::new(),
            tokio_util::sync::CancellationToken::new(),
        );
        let node = cumulet_hyperdht::Dht::spawn(config, &tasks, cancel)
            .await
            .unwrap();
        let serving = tokio::time::timeout(std::time::Duration::from_secs(15), node.persistent()).await;
        serving.unwrap_or_else(|_| panic!("node {index} serves the DHT: {:?}", node.status()));
        nodes.push(node);
    }
    (nodes, bootstrap)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dht_of_our_nodes_alone_serves_js_peers() {
    for size in [1, 5] {
        let (nodes, bootstrap) = own_dht(size).await;
        let mut js = Js::start();
        let server = js.call("listen", json!({ "bootstrap": bootstrap })).await;
        let wanted =
            json!({ "bootstrap": bootstrap, "publicKey": server["publicKey"], "count": 10, "fresh": true });
        let answer = js.call("connect", wanted).await;
        assert_eq!(answer["ok"], 10, "{size} nodes: {answer}");
        let asked = json!({ "bootstrap": bootstrap, "topic": hex::encode([4; 32]) });
        let announced = js.call("announce", asked.clone()).await;
        assert_eq!(
            js.call("lookup", asked).await["peers"],
            json!([announced["publicKey"]])
        );
        let put = json!({ "bootstrap": bootstrap, "seed": 6, "seq": 1, "mutable": "m", "immutable": "i" });
        let stored = js.call("put", put).await;
        let get = json!({ "bootstrap": bootstrap, "publicKey": stored["publicKey"], "hash": stored["hash"] });
        let got = js.call("get", get).await;
        assert_eq!((&got["mutable"], &got["immutable"]), (&json!("m"), &json!("i")));
        let client = node(&bootstrap, None).await;
        expect_echo(
            client
                .connect(key(&server["publicKey"]), options())
                .await
                .unwrap(),
        )
        .await
        .unwrap();
        let mut relayed = 0;
        for node in &nodes {
            relayed += node.counters().await.relayed;
        }
        assert!(relayed > 0, "the handshakes went through our nodes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_before_its_bootstrap_node_joins_when_that_appears_and_again_from_known_nodes() {
    let mut js = Js::start();
    let port = std::net::UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let early = node(&[format!("127.0.0.1:{port}")], Some(false)).await;
    assert_eq!(early.status().nodes, 0);
    let testnet = js.call("testnet", json!({ "size": 4, "port": port })).await;
    assert_eq!(testnet["bootstrap"][0], format!("127.0.0.1:{port}"));
    // The first node of a network of JavaScript nodes alone never learns its address, and so has no id.
    let joined = async {
        while early.status().nodes < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), joined)
        .await
        .expect("it joins by itself");
    let known_nodes = early.known_nodes().await;
    assert!(known_nodes.len() >= 3);
    early.close().await;
    let config = cumulet_hyperdht::DhtConfig {
        bind: std::net::Ipv4Addr::LOCALHOST,
        known_nodes,
        ..cumulet_hyperdht::DhtConfig::default()
    };
    let (tasks, cancel) = (
        tokio_util::task::TaskTracker::new(),
        tokio_util::sync::CancellationToken::new(),
    );
    let again = cumulet_hyperdht::Dht::spawn(config, &tasks, cancel)
        .await
        .unwrap();
    again.bootstrapped().await;
    assert!(again.status().nodes >= 3, "without any bootstrap name");
}
