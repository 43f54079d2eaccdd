//! The node as the blind peer of an app of today (`blind-peering` 2.0.1), on a DHT of its own. Needs Node.js and `npm ci` in
//! `interop/relay`, as `cargo xtask test interop` sees to.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod javascript;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cumulet_node::config::Options;
use cumulet_node::node::Node;
use cumulet_secret_stream::noise::KeyPair;
use serde_json::{Value, json};

use javascript::{Javascript, free_udp_port, until};

const VALUES: u64 = 20;
/// Seed of the owner's device.
const OWNER: u8 = 5;
/// Far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(30);

/// `outside` has what outlives the machine: the backup and the keys.
async fn keeping_node(data_dir: &Path, outside: &Path, bootstrap: &[String]) -> Arc<Node> {
    std::fs::write(outside.join("seed-0"), hex::encode([6; 32])).unwrap();
    std::fs::write(outside.join("content.key"), hex::encode([7; 32])).unwrap();
    let options = Options {
        data_dir: Some(data_dir.to_owned()),
        device_seeds_dir: Some(outside.to_owned()),
        replica_name: Some("node-0".to_owned()),
        content_key_file: Some(outside.join("content.key")),
        backup_url: Some(format!("file:{}", outside.join("backup").display())),
        swarm_port: Some(free_udp_port()),
        bootstrap: bootstrap.to_vec(),
        public_host: Some(Ipv4Addr::LOCALHOST),
        member: vec![hex::encode(KeyPair::from_seed([OWNER; 32]).public_key())],
        blind_peer: Some(true),
        ..Options::default()
    };
    Node::start(&options.check().unwrap()).await.unwrap()
}

/// Waits until those who announce the core are these.
async fn announced_by(javascript: &mut Javascript, core: &Value, expected: &[&str]) {
    until(PATIENCE, &format!("announced by {expected:?}"), || {
        javascript.call("holders", core.clone())["holders"] == json!(expected)
    })
    .await;
}

/// Waits until the core and the list of cores are in the backup.
async fn backed_up(node: &Node, outside: &Path) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let status = node.status().await;
        let condition = status
            .conditions
            .iter()
            .find(|condition| condition.kind == "BackedUp");
        let is_listed = outside.join("backup/v1/blind-peers").exists();
        let has_head = std::fs::read_dir(outside.join("backup/v1/cores")).is_ok_and(|mut cores| {
            cores.any(|core| core.is_ok_and(|core| core.path().join("heads").exists()))
        });
        if is_listed && has_head && condition.is_some_and(|condition| condition.reason == "UpToDate") {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{condition:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_knows_only_the_key_finds_an_announced_core_after_a_restart_and_on_a_bare_machine_until_it_is_deleted()
 {
    let mut javascript = Javascript::start("app.js");
    let bootstrap = javascript.call("testnet", json!({"size": 4}))["bootstrap"].clone();
    let addresses: Vec<String> = serde_json::from_value(bootstrap.clone()).unwrap();
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let node = keeping_node(folder.path(), outside.path(), &addresses).await;
    let peer = node.status().await.blind_peer_public_key.unwrap();
    let store = |seed| json!({"bootstrap": bootstrap, "peer": peer, "values": VALUES, "seed": seed});

    let mut owner = Javascript::start("app.js");
    let stored = owner.call("store", store(OWNER));
    let core = json!({"bootstrap": bootstrap, "key": stored["key"], "length": stored["length"]});
    announced_by(&mut javascript, &core, &[&peer]).await;
    until(PATIENCE, "the core is here", || {
        let counters = node.service_counters().blind_peer.unwrap();
        counters.bytes > 0 && counters.behind == 0
    })
    .await;
    // The writer's process ends.
    drop(owner);
    let values: Vec<String> = (0..VALUES).map(|number| format!("value {number}")).collect();
    assert_eq!(javascript.call("find", core.clone())["values"], json!(values));

    node.shutdown().await;
    drop(node);
    announced_by(&mut javascript, &core, &[]).await;
    let node = keeping_node(folder.path(), outside.path(), &addresses).await;
    announced_by(&mut javascript, &core, &[&peer]).await;
    assert_eq!(javascript.call("find", core.clone())["values"], json!(values));

    // The machine is lost, and with it everything but the keys and the backup.
    backed_up(&node, outside.path()).await;
    node.shutdown().await;
    drop((node, folder));
    announced_by(&mut javascript, &core, &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let node = keeping_node(folder.path(), outside.path(), &addresses).await;
    announced_by(&mut javascript, &core, &[&peer]).await;
    assert_eq!(javascript.call("find", core.clone())["values"], json!(values));
    assert_eq!(node.service_counters().blind_peer.unwrap().cores, 1);

    let mut order = store(OWNER);
    order["key"] = core["key"].clone();
    assert_eq!(javascript.call("delete", order)["answer"], true);
    announced_by(&mut javascript, &core, &[]).await;
    node.shutdown().await;
}
