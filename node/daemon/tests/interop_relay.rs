//! The node as a blind relay between real JavaScript peers that can't reach each other. Needs Node.js and `npm ci` in
//! `interop/relay`, as `cargo xtask test interop` sees to.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod javascript;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use cumulet_node::config::Options;
use cumulet_node::node::Node;
use serde_json::{Value, json};

use javascript::{Javascript, free_udp_port};

/// Connections per case.
const COUNT: u64 = 3;
/// Payload of each, in both directions.
const BYTES: u64 = 65_536;

async fn relaying_node(data_dir: &Path, bootstrap: &[String], open: bool) -> Arc<Node> {
    let options = Options {
        data_dir: Some(data_dir.to_owned()),
        swarm_port: Some(free_udp_port()),
        bootstrap: bootstrap.to_vec(),
        public_host: Some(Ipv4Addr::LOCALHOST),
        relay: Some(true),
        relay_open: Some(open),
        ..Options::default()
    };
    Node::start(&options.check().unwrap()).await.unwrap()
}

/// Blocked JavaScript peers, the server naming the node as relay, connect; returns how many did.
fn connect(javascript: &mut Javascript, bootstrap: &Value, relay: &str, count: u64) -> u64 {
    let listening = json!({"bootstrap": bootstrap, "relay": relay, "blocked": true});
    let server = javascript.call("listen", listening);
    let dialling = json!({
        "bootstrap": bootstrap, "publicKey": server["publicKey"], "count": count, "bytes": BYTES, "text": "plain",
    });
    javascript.call("connect", dialling)["ok"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_peers_meet_at_an_open_node_and_not_at_one_that_knows_neither() {
    let mut javascript = Javascript::start("peer.js");
    let bootstrap = javascript.call("testnet", json!({"size": 6}))["bootstrap"].clone();
    let addresses: Vec<String> = serde_json::from_value(bootstrap.clone()).unwrap();
    for open in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let node = relaying_node(folder.path(), &addresses, open).await;
        let relay = node.status().await.relay_public_key.unwrap();
        // A refused one waits long before it gives up.
        let count = if open { COUNT } else { 1 };
        let met = connect(&mut javascript, &bootstrap, &relay, count);
        let counters = node.service_counters().relay.unwrap();
        if open {
            assert_eq!((met, counters.links_opened), (COUNT, COUNT), "{counters:?}");
            assert!(counters.bytes > 2 * COUNT * BYTES, "{counters:?}");
        } else {
            assert_eq!((met, counters.links_opened), (0, 0), "{counters:?}");
            assert!(counters.pairs_refused > 0, "{counters:?}");
        }
        node.shutdown().await;
        assert!(
            std::fs::metadata(folder.path().join("dht-nodes")).unwrap().len() > 0,
            "the next start knows nobody of the network"
        );
    }
}
