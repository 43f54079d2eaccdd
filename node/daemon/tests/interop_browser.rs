//! A page in Chromium without a screen reads an archive from the node through a WebSocket: `@hyperswarm/dht-relay` 0.4.3,
//! Hyperswarm and Hypercore bundled for browsers. Needs Node.js, `npm ci` in `interop/relay`, and a Chromium, which
//! `cargo xtask test interop` sees to.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod javascript;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cumulet_api::{ArchiveSpec, ArchiveType};
use cumulet_node::config::Options;
use cumulet_node::node::Node;
use serde_json::{Value, json};

use javascript::{Javascript, free_udp_port};

const BLOCKS: u64 = 40;
const BLOCK_BYTES: usize = 10_000;
/// Seed of the page's key pair, in hex.
const SEED: &str = "0707070707070707070707070707070707070707070707070707070707070707";
/// Far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(30);

async fn serving_node(data_dir: &Path, bootstrap: &[String], listen: SocketAddr) -> Arc<Node> {
    let options = Options {
        data_dir: Some(data_dir.to_owned()),
        swarm_port: Some(free_udp_port()),
        bootstrap: bootstrap.to_vec(),
        public_host: Some(Ipv4Addr::LOCALHOST),
        websocket_listen: Some(listen),
        ..Options::default()
    };
    Node::start(&options.check().unwrap()).await.unwrap()
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Pins a core, and waits until all of it is here.
async fn keep(node: &Node, key: &Value) {
    let key = hex::decode(key.as_str().unwrap()).unwrap().try_into().unwrap();
    let spec = ArchiveSpec {
        kind: ArchiveType::Core,
        announce: true,
        ..ArchiveSpec::default()
    };
    node.pin(key, spec).await.unwrap();
    let here = async {
        while node.archive(&key).await.unwrap().stored_blocks < BLOCKS {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, here).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_chromium_joins_a_topic_and_replicates_the_core_from_the_node_through_a_websocket() {
    if std::env::var_os("CUMULET_CHROMIUM").is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI needs Chromium for this test"
        );
        println!("skipped: CUMULET_CHROMIUM names no Chromium; `cargo xtask test interop` sees to one");
        return;
    }
    let mut network = Javascript::start("page.js");
    let bootstrap = network.call("testnet", json!({"size": 4}))["bootstrap"].clone();
    let addresses: Vec<String> = serde_json::from_value(bootstrap.clone()).unwrap();
    let mut chromium = Javascript::start("chromium.js");
    let page = chromium.call("identity", json!({"seed": SEED}))["publicKey"].clone();

    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    let node = serving_node(folder.path(), &addresses, address).await;
    let mut writer = Javascript::start("page.js");
    let written = json!({"bootstrap": bootstrap, "blocks": BLOCKS, "bytes": BLOCK_BYTES});
    let key = writer.call("serve", written)["key"].clone();
    keep(&node, &key).await;
    // The writer is gone before the page comes.
    drop(writer);

    let url = format!("ws://{address}/");
    let hold = json!({"url": url, "seed": SEED});
    assert_eq!(
        chromium.call("hold", hold.clone())["isOpen"],
        false,
        "it is nobody's device yet"
    );
    let page = hex::decode(page.as_str().unwrap()).unwrap().try_into().unwrap();
    node.set_devices([page].into()).await.unwrap();
    let read = json!({"url": url, "seed": SEED, "key": key, "length": BLOCKS});
    let read = chromium.call("read", read);
    let browser = read["browser"].as_str().unwrap();
    assert!(browser.contains("Chrom"), "{browser}");
    assert_eq!(read["peers"], json!([hex::encode(node.public_key())]));
    let blocks: Vec<String> = (1..=BLOCKS)
        .map(|number| hex::encode(vec![u8::try_from(number).unwrap(); BLOCK_BYTES]))
        .collect();
    assert!(read["blocks"] == json!(blocks), "the page read something else");
    let counters = node.service_counters().websocket.unwrap();
    assert!(
        counters.bytes_to_clients > BLOCKS * BLOCK_BYTES as u64,
        "{counters:?}"
    );
    assert_eq!(chromium.call("hold", hold.clone())["isOpen"], true);
    node.set_devices(BTreeSet::new()).await.unwrap();
    let wait = u64::try_from(PATIENCE.as_millis()).unwrap();
    assert_eq!(chromium.call("ended", json!({"wait": wait}))["hasEnded"], true);
    assert_eq!(chromium.call("hold", hold)["isOpen"], false, "it was taken off");
    node.shutdown().await;
}
