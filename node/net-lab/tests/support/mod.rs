//! Whether this machine can, and peers of both kinds in a lab's hosts.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cumulet_net_lab::probe::{self, Joining};
use cumulet_net_lab::{Lab, Namespace, SERVICES, Topology};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Where JavaScript's side is.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../interop/dht");

/// Whether the test can run here; says why not, and fails where nothing may be skipped.
pub fn can_run(needs_node: bool) -> bool {
    let missing = cumulet_net_lab::missing().map(|missing| format!("{missing}; hint: {}", missing.hint()));
    unless(missing) && (!needs_node || has_packages())
}

/// The same for a test that needs JavaScript and nothing else.
pub fn has_packages() -> bool {
    let there = std::path::Path::new(SCRIPTS).join("node_modules").is_dir();
    unless((!there).then(|| "no packages in interop/dht; hint: run `npm ci` there".to_owned()))
}

fn unless(missing: Option<String>) -> bool {
    let Some(reason) = missing else {
        return true;
    };
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!ci, "nothing is skipped in CI, but {reason}");
    eprintln!("skipped: {reason}");
    false
}

/// How a connection came about.
#[derive(Debug, Clone)]
pub struct Came {
    pub ms: u64,
    pub relayed: bool,
}

/// One program of a lab's host.
pub enum Program {
    Ours(Namespace),
    Js(Box<Js>),
}

/// A running server.
pub struct Server {
    pub public_key: [u8; 32],
    _ours: Option<DropGuard>,
    handle: Option<Value>,
}

impl Program {
    pub async fn serve(&self, joining: &Joining) -> Result<Server, String> {
        match self {
            Self::Ours(host) => {
                let cancel = CancellationToken::new();
                let (ready, key) = oneshot::channel();
                let joining = joining.clone();
                let ended = host
                    .spawn(cancel.clone(), move || probe::serve(joining, ready))
                    .map_err(|error| error.to_string())?;
                let public_key = tokio::select! {
                    key = key => key.map_err(|_| "no server".to_owned())?,
                    ended = ended => return Err(format!("the server ended: {ended:?}")),
                };
                Ok(Server {
                    public_key,
                    _ours: Some(cancel.drop_guard()),
                    handle: None,
                })
            }
            Self::Js(js) => {
                let answer = js.call("listen", arguments(joining)).await?;
                Ok(Server {
                    public_key: key(&answer["publicKey"])?,
                    _ours: None,
                    handle: Some(answer["handle"].clone()),
                })
            }
        }
    }

    pub async fn dial(&self, joining: &Joining, server: [u8; 32], timeout: Duration) -> Result<Came, String> {
        match self {
            Self::Ours(host) => {
                let joining = joining.clone();
                let dialled = host
                    .spawn(CancellationToken::new(), move || {
                        probe::dial(joining, server, 0, timeout)
                    })
                    .map_err(|error| error.to_string())?
                    .await
                    .map_err(|error| error.to_string())?
                    .map_err(|error| error.to_string())?
                    .map_err(|error| error.to_string())?;
                Ok(Came {
                    ms: dialled.connected_ms,
                    relayed: dialled.relayed,
                })
            }
            Self::Js(js) => {
                let mut order = arguments(joining);
                order["publicKey"] = hex::encode(server).into();
                order["timeout"] = (timeout.as_millis() as u64).into();
                let answer = js.call("connect", order).await?;
                if let Some(failed) = answer["failed"].as_str() {
                    return Err(failed.to_owned());
                }
                Ok(Came {
                    ms: answer["ms"].as_u64().unwrap_or(u64::MAX),
                    relayed: services().any(|address| answer["from"] == address),
                })
            }
        }
    }

    pub async fn close(&self, server: Server) {
        if let (Self::Js(js), Some(handle)) = (self, server.handle) {
            let _ = js.call("close", json!({ "handle": handle })).await;
        }
    }
}

fn services() -> impl Iterator<Item = String> {
    (0..SERVICES).map(|service| Topology::service_address(service).to_string())
}

fn arguments(joining: &Joining) -> Value {
    json!({
        "bootstrap": joining.bootstrap,
        "relay": joining.relays.first().map(hex::encode),
        "topic": joining.topic.map(hex::encode),
    })
}

pub fn key(value: &Value) -> Result<[u8; 32], String> {
    let bytes = hex::decode(value.as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
    bytes.try_into().map_err(|_| "a key of another length".to_owned())
}

/// One Node.js process that answers in any order.
pub struct Js {
    _child: Child,
    stdin: tokio::sync::Mutex<ChildStdin>,
    pending: Pending,
    _reader: JoinSet<()>,
}

/// Commands without an answer, and the next one's number.
type Pending = Arc<Mutex<(u64, HashMap<u64, oneshot::Sender<Value>>)>>;

impl Js {
    /// Starts one in a host of the lab.
    pub fn start(lab: &Lab, site: usize, host: usize) -> Self {
        Self::run(Command::from(lab.host(site, host).command("node")), "lab.js")
    }

    /// Starts one in the machine's own network, where it keeps to this address of loopback.
    pub fn on_loopback(address: Ipv4Addr) -> Self {
        let mut node = Command::new("node");
        node.env("CUMULET_LOOPBACK", address.to_string());
        Self::run(node, "peer.js")
    }

    fn run(mut node: Command, script: &str) -> Self {
        let mut child = node
            .arg(script)
            .current_dir(SCRIPTS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Node.js can be started");
        let stdin = child.stdin.take().unwrap().into();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let pending = Pending::default();
        let answers = Arc::clone(&pending);
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let answer: Value = serde_json::from_str(&line).unwrap();
                let id = answer["id"].as_u64().unwrap();
                if let Some(waiting) = answers.lock().unwrap().1.remove(&id) {
                    let _ = waiting.send(answer);
                }
            }
            answers.lock().unwrap().1.clear();
        });
        Self {
            _child: child,
            stdin,
            pending,
            _reader: reader,
        }
    }

    pub async fn call(&self, command: &str, mut arguments: Value) -> Result<Value, String> {
        let (done, answer) = oneshot::channel();
        {
            let mut pending = self.pending.lock().unwrap();
            pending.0 += 1;
            let id = pending.0;
            arguments["id"] = id.into();
            pending.1.insert(id, done);
        }
        arguments["cmd"] = command.into();
        let line = format!("{arguments}\n");
        let written = self.stdin.lock().await.write_all(line.as_bytes()).await;
        written.map_err(|error| error.to_string())?;
        let answer = answer.await.map_err(|_| "Node.js ended".to_owned())?;
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    }
}
