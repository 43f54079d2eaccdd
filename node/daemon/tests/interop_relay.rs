//! The node as a blind relay between real JavaScript peers that can't reach each other. Needs Node.js and `npm ci` in
//! `interop/relay`, as `cargo xtask test interop` sees to.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use cumulet_node::config::Options;
use cumulet_node::node::Node;
use serde_json::{Value, json};

/// Connections per case.
const COUNT: u64 = 3;
/// Payload of each, in both directions.
const BYTES: u64 = 65_536;

/// The peers' process: one JSON command a line, one JSON answer a line.
struct Javascript {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    calls: u64,
}

impl Javascript {
    fn start() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/relay");
        assert!(
            folder.join("node_modules").is_dir(),
            "no packages in interop/relay: run `npm ci` there, or all tests by `cargo xtask test interop`"
        );
        let mut process = Command::new("node")
            .arg("peer.js")
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self {
            process,
            input,
            output: BufReader::new(output),
            calls: 0,
        }
    }

    fn call(&mut self, command: &str, mut arguments: Value) -> Value {
        self.calls += 1;
        (arguments["id"], arguments["cmd"]) = (self.calls.into(), command.into());
        self.input.write_all(format!("{arguments}\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert!(answer["error"].is_null(), "{command}: {answer}");
        answer
    }
}

impl Drop for Javascript {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn relaying_node(data_dir: &Path, bootstrap: &[String], open: bool) -> Arc<Node> {
    let free = std::net::UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let options = Options {
        data_dir: Some(data_dir.to_owned()),
        swarm_port: Some(free),
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
    let mut javascript = Javascript::start();
    let bootstrap = javascript.call("testnet", json!({"size": 6}))["bootstrap"].clone();
    let addresses: Vec<String> = serde_json::from_value(bootstrap.clone()).unwrap();
    for open in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let node = relaying_node(folder.path(), &addresses, open).await;
        let relay = node.status().await.relay_public_key.unwrap();
        // A refused one waits long before it gives up.
        let count = if open { COUNT } else { 1 };
        let met = connect(&mut javascript, &bootstrap, &relay, count);
        let counters = node.relay_counters().unwrap();
        if open {
            assert_eq!((met, counters.links_opened), (COUNT, COUNT), "{counters:?}");
            assert!(counters.bytes > 2 * COUNT * BYTES, "{counters:?}");
        } else {
            assert_eq!((met, counters.links_opened), (0, 0), "{counters:?}");
            assert!(counters.pairs_refused > 0, "{counters:?}");
        }
        node.shutdown().await;
        assert!(
            !cumulet_node::known_nodes::read(folder.path()).is_empty(),
            "the next start knows nobody of the network"
        );
    }
}
