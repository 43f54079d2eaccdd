//! Running `interop/data/peer.js`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::CASE_LIMIT;

/// Longest wait for a change on our side; reached only when something is wrong. JavaScript has as long as the case.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data")
}

/// Installs the packages at their pinned versions if they are not there.
pub(super) fn install() -> Result<()> {
    if folder().join("node_modules/corestore/package.json").exists() {
        return Ok(());
    }
    let status = std::process::Command::new("npm")
        .args(["ci", "--no-audit", "--no-fund"])
        .current_dir(folder())
        .stdout(Stdio::null())
        .status()
        .context("failed to start npm, which comes with Node.js")?;
    ensure!(
        status.success(),
        "failed to install the JavaScript packages: npm ended with {status}"
    );
    Ok(())
}

/// JavaScript processes that did a case well and are clean again.
#[derive(Default)]
pub(super) struct IdlePeers(Mutex<Vec<JsPeer>>);

impl IdlePeers {
    /// A process with an empty store: one that is idle, or a new one.
    pub(super) fn take(&self) -> Result<JsPeer> {
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(JsPeer::start, Ok)
    }

    /// Takes a process back after a case: its connections, cores and store go. What failed is not given back, and ends.
    pub(super) async fn give_back(&self, mut peer: JsPeer) -> Result<()> {
        peer.ask("reset", json!({})).await?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
        Ok(())
    }
}

/// A JavaScript peer: a Corestore of its own, in a folder that goes with it.
pub(super) struct JsPeer {
    _child: Child,
    _directory: tempfile::TempDir,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl JsPeer {
    fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut child = Command::new("node")
            // Every block that is read or sent is short-lived garbage: collecting it took a third of the time.
            .arg("--max-semi-space-size=64")
            .arg("peer.js")
            .current_dir(folder())
            .env("TMPDIR", directory.path())
            .env("CUMULET_PATIENCE_MS", CASE_LIMIT.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("failed to start node")?;
        let stdin = child.stdin.take().context("node has no input")?;
        let lines = BufReader::new(child.stdout.take().context("node has no output")?).lines();
        Ok(Self {
            _child: child,
            _directory: directory,
            stdin,
            lines,
        })
    }

    pub(super) async fn ask(&mut self, command: &str, mut arguments: Value) -> Result<Value> {
        arguments["cmd"] = command.into();
        self.stdin.write_all(format!("{arguments}\n").as_bytes()).await?;
        let line = self.lines.next_line().await?;
        let line = line.with_context(|| format!("JavaScript died of {command}"))?;
        let mut answer: Value = serde_json::from_str(&line)?;
        if let Some(error) = answer["error"].as_str() {
            bail!("JavaScript's {command}: {error}");
        }
        Ok(answer["ok"].take())
    }

    /// Makes a core; returns its key. A prologue is of two blocks.
    pub(super) async fn create(&mut self, name: &str, kind: &str) -> Result<[u8; 32]> {
        let arguments = json!({"name": name, "kind": kind, "seed": seed(name), "sizes": PROLOGUE_SIZES});
        key_of(&self.ask("create", arguments).await?)
    }

    pub(super) async fn append(&mut self, name: &str, sizes: &[usize]) -> Result<()> {
        let is_even = sizes.windows(2).all(|pair| pair[0] == pair[1]);
        match sizes {
            [] => {}
            [size, ..] if is_even && sizes.len() > 100 => {
                let arguments = json!({"name": name, "seed": seed(name), "count": sizes.len(), "size": size});
                self.ask("fill", arguments).await?;
            }
            sizes => {
                let arguments = json!({"name": name, "seed": seed(name), "sizes": sizes});
                self.ask("append", arguments).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn open(&mut self, name: &str, key: &[u8; 32], kind: &str) -> Result<()> {
        let arguments = json!({"name": name, "key": hex::encode(key), "kind": kind});
        self.ask("open", arguments).await.map(drop)
    }

    pub(super) async fn port(&mut self) -> Result<u16> {
        let port = self.ask("listen", json!({})).await?["port"].as_u64();
        Ok(port.context("no port")?.try_into()?)
    }
}

/// Sizes of the blocks of a prologue.
pub(super) const PROLOGUE_SIZES: [usize; 2] = [10, 20];

pub(super) fn key_of(core: &Value) -> Result<[u8; 32]> {
    let key = hex::decode(core["key"].as_str().context("no key")?)?;
    key.try_into()
        .map_err(|_| anyhow::anyhow!("a key of another length"))
}

/// What a core's blocks are made of.
pub(super) fn seed(name: &str) -> u64 {
    name.bytes().map(u64::from).sum()
}
