//! `first-replication`: a drive that a JavaScript peer serves, until somebody who knew nothing but its key holds all of it.
//!
//! Who gets it is our node, or a JavaScript peer; both find the sender over a DHT of a few JavaScript nodes on loopback. The
//! node's pin has no backup, as the JavaScript peer has none.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Bench, Outcome, Plan};
use crate::content::Content;
use crate::measure::{Report, field, processor_seconds};
use crate::side::{Program, Side};
use crate::work::{BLOCK_BYTES, Bootstrap, Follow, Seed, Task, write_file};

const SMALL_FILES: u32 = 57;
const SMALL_BYTES: usize = 4 << 10;
const LARGE_BYTES: [usize; 2] = [20 << 20, 200 << 20];
/// How often a node is asked how far it is: a hundredth of what the fastest run takes.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Far more than a busy machine needs.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long a node that has nothing to do is left alone before its memory is looked at.
const REST: Duration = Duration::from_secs(1);

/// The rows.
pub(super) fn rows() -> Vec<Plan> {
    vec![Plan {
        name: "first replication of a drive of 59 files, 220 MiB",
        unit: "MB/s",
        has_peer: true,
        ceiling: None,
        run: Box::new(|bench, side| {
            prepare(bench)?;
            let Some(world) = &bench.world else {
                bail!("there is nobody to replicate from");
            };
            let dir = world.dir.join("receiver");
            let report = match side {
                Side::Ours => world.node(bench, &dir)?,
                Side::Js => bench.work(
                    side,
                    &Task::Follow(Follow {
                        dir: dir.clone(),
                        key: world.key.clone(),
                        bootstrap: world.bootstrap.clone(),
                        files: files(),
                    }),
                )?,
            };
            Bench::remove(&dir)?;
            Outcome::new(&report, &[])
        }),
    }]
}

/// Names and sizes of the drive's files.
fn files() -> Vec<(String, usize)> {
    let small = (0..SMALL_FILES).map(|file| (format!("/small/{file}.bin"), SMALL_BYTES));
    let large = LARGE_BYTES.map(|bytes| (format!("/large/{bytes}.bin"), bytes));
    small.chain(large).collect()
}

/// The DHT and the sender.
pub(super) struct World {
    dir: PathBuf,
    bootstrap: Bootstrap,
    key: String,
    // Ended in this order.
    _seed: Program,
    _testnet: Program,
}

/// Makes the world when it is first needed.
fn prepare(bench: &mut Bench) -> Result<()> {
    if bench.world.is_some() {
        return Ok(());
    }
    let dir = bench.folder();
    let source = dir.join("source");
    let content = Content::new();
    for (name, bytes) in files() {
        write_file(&content, &source.join(name.trim_start_matches('/')), 0, bytes)?;
    }
    let mut testnet = Program::start(&bench.places, Side::Js, &Task::Testnet { nodes: 4 })?;
    let bootstrap: Bootstrap = serde_json::from_value(testnet.ready()?)?;
    let seed = Task::Seed(Seed {
        dir: dir.join("seed"),
        source,
        bootstrap: bootstrap.clone(),
    });
    let mut seed = Program::start(&bench.places, Side::Js, &seed)?;
    let ready = seed.ready()?;
    bench.world = Some(World {
        dir,
        bootstrap,
        key: ready["key"].as_str().context("the sender has no key")?.to_owned(),
        _seed: seed,
        _testnet: testnet,
    });
    Ok(())
}

impl World {
    /// From telling a running node to keep the drive until it says that it does.
    fn node(&self, bench: &Bench, dir: &PathBuf) -> Result<Report> {
        let node = Node::start(bench, dir, &self.bootstrap)?;
        std::thread::sleep(REST);
        let rest = node.memory("VmRSS")?;
        let wish =
            serde_json::json!({ "type": "Drive", "gateway": true, "announce": false, "backup": false });
        let (start, before) = (Instant::now(), node.processor_seconds()?);
        node.put(&self.key, &wish)?;
        node.wait("hold the drive", |node| node.is_synced(&self.key))?;
        let seconds = start.elapsed().as_secs_f64();
        let cpu = node.processor_seconds()? - before;
        let content = Content::new();
        let mut amount = 0.0;
        for (name, bytes) in files() {
            let data = node.file(&self.key, &name)?;
            if data.len() != bytes {
                bail!("{name} has {} bytes instead of {bytes}", data.len());
            }
            let size = bytes.min(BLOCK_BYTES);
            for (index, block) in (0..).zip(data.chunks(size)) {
                content.check(block, index, size)?;
            }
            amount += bytes as f64 / 1e6;
        }
        Ok(Report {
            amount,
            seconds,
            cpu,
            rss: node.memory("VmHWM")?,
            written: field(&format!("/proc/{}/io", node.process.id()), "write_bytes")?,
            rest: Some(rest),
            ..Report::default()
        })
    }
}

/// A running cumulet-node; killed when this is dropped.
struct Node {
    process: Child,
    token: String,
    api: String,
    gateway: String,
    ops: String,
    client: ureq::Agent,
}

impl Node {
    fn start(bench: &Bench, dir: &PathBuf, bootstrap: &Bootstrap) -> Result<Self> {
        let address = || -> Result<String> {
            let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
            Ok(listener.local_addr()?.to_string())
        };
        let (api, gateway, ops) = (address()?, address()?, address()?);
        let mut command = Command::new(bench.places.executables.join("cumulet-node"));
        command
            .arg("--data-dir")
            .arg(dir)
            .args(["--swarm-port", "0", "--api-listen", &api])
            .args(["--gateway-listen", &gateway, "--ops-listen", &ops])
            .args(["--bootstrap", &format!("{}:{}", bootstrap.host, bootstrap.port)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command
            .spawn()
            .context("failed to start cumulet-node; hint: cargo build --release --package cumulet-node")?;
        let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE));
        let mut node = Self {
            process,
            token: String::new(),
            api,
            gateway,
            ops,
            client: config.build().into(),
        };
        node.wait("start", |node| {
            Ok(node
                .client
                .get(format!("http://{}/readyz", node.ops))
                .call()
                .is_ok())
        })?;
        let token = std::fs::read_to_string(dir.join("api.token")).context("the node has no token")?;
        node.token = format!("Bearer {}", token.trim());
        Ok(node)
    }

    fn memory(&self, name: &str) -> Result<u64> {
        Ok(field(&format!("/proc/{}/status", self.process.id()), name)? * 1024)
    }

    fn processor_seconds(&self) -> Result<f64> {
        processor_seconds(&self.process.id().to_string())
    }

    fn archive(&self, key: &str) -> String {
        format!("http://{}/api/v1/archives/{key}", self.api)
    }

    fn put(&self, key: &str, wish: &Value) -> Result<()> {
        self.client
            .put(self.archive(key))
            .header("Authorization", &self.token)
            .header("Content-Type", "application/json")
            .send(wish.to_string())
            .context("failed to tell the node to keep the drive")?;
        Ok(())
    }

    fn is_synced(&self, key: &str) -> Result<bool> {
        let mut answer = self
            .client
            .get(self.archive(key))
            .header("Authorization", &self.token)
            .call()
            .context("failed to ask the node")?;
        let status: Value = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions
            .iter()
            .any(|condition| condition["type"] == "Synced" && condition["status"] == "True"))
    }

    fn file(&self, key: &str, name: &str) -> Result<Vec<u8>> {
        let url = format!("http://{}/{key}{name}", self.gateway);
        let mut answer = self
            .client
            .get(&url)
            .call()
            .with_context(|| format!("failed to get {url}"))?;
        let body = answer.body_mut().with_config().limit(u64::MAX);
        Ok(body.read_to_vec()?)
    }

    fn wait(&self, what: &str, holds: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while !holds(self)? {
            if start.elapsed() > PATIENCE {
                bail!("the node did not {what} in {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(ASK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Its folder is deleted next: nothing is worth an orderly end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
