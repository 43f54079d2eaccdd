//! Real JavaScript peers and a DHT of their own, at a [`Site`]: in the cluster's network, or on this machine's own.
//!
//! A peer is driven by JSON lines (`e2e/js/peer.mjs` lists them). Its input is a named pipe that the peer itself holds
//! open and its output a file, so that a peer can outlive the command that started it: the demo's does. A peer of a test
//! ends when the handle is dropped; whatever is forgotten ends with the site, which knows every peer.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cluster::layout::NODE_IP;
use crate::cluster::{Cluster, Process};
use crate::{poll, process, tools};

/// A command that only touches the peer's own storage or a peer on the same machine.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);

/// Time between two looks at a peer's output: it bounds how precisely a test can time an answer.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Port of the DHT's first node, so that a bootstrap list stays true when the DHT is started again.
pub const BOOTSTRAP_PORT: u16 = 49_700;

/// Where peers and pods enter the DHT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Address of a node.
    pub host: String,
    /// Its UDP port.
    pub port: u16,
}

impl std::fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl std::str::FromStr for Bootstrap {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (host, port) = text
            .rsplit_once(':')
            .with_context(|| format!("{text} is not of the form HOST:PORT"))?;
        let port = port.parse().with_context(|| format!("{port} is not a port"))?;
        if host.is_empty() || port == 0 {
            bail!("{text} is not of the form HOST:PORT");
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// Where peers run.
pub trait Site {
    /// Their files.
    fn folder(&self) -> PathBuf;
    /// The address that they are bound to.
    fn host(&self) -> IpAddr;
    /// A program that will run in the site's network.
    fn command(&self, program: &Path) -> Result<Command>;
    /// Remembers a process, which ends with the site.
    fn adopt(&self, process: Process) -> Result<()>;
    /// Whether a process of this name was adopted and runs.
    fn has_adopted(&self, name: &str) -> Result<bool>;
}

impl Site for Cluster {
    fn folder(&self) -> PathBuf {
        self.layout().at("peers")
    }

    fn host(&self) -> IpAddr {
        NODE_IP.into()
    }

    fn command(&self, program: &Path) -> Result<Command> {
        self.command_in_network(program)
    }

    fn adopt(&self, process: Process) -> Result<()> {
        Cluster::adopt(self, process)
    }

    fn has_adopted(&self, name: &str) -> Result<bool> {
        Cluster::has_adopted(self, name)
    }
}

/// This machine, for a cluster that is elsewhere. What was started ends when it is dropped.
#[derive(Debug)]
pub struct Machine {
    folder: PathBuf,
    host: IpAddr,
    processes: Mutex<Vec<Process>>,
}

impl Machine {
    /// Peers with their files in `folder`, bound to `host`, which must be an address that the cluster reaches.
    pub fn new(folder: PathBuf, host: IpAddr) -> Self {
        Self {
            folder,
            host,
            processes: Mutex::default(),
        }
    }

    fn processes(&self) -> MutexGuard<'_, Vec<Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Site for Machine {
    fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    fn host(&self) -> IpAddr {
        self.host
    }

    fn command(&self, program: &Path) -> Result<Command> {
        Ok(Command::new(program))
    }

    fn adopt(&self, process: Process) -> Result<()> {
        self.processes().push(process);
        Ok(())
    }

    fn has_adopted(&self, name: &str) -> Result<bool> {
        let found = |process: &Process| process.name == name && process.is_alive();
        Ok(self.processes().iter().any(found))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for process in self.processes().iter() {
            let _ = process.kill(); // It may have ended by itself.
        }
    }
}

/// Installs the peers' packages.
pub fn install() -> Result<()> {
    tools::npm::install(&scripts())
}

fn scripts() -> PathBuf {
    tools::repository().join("e2e/js")
}

/// Starts a DHT of four nodes on the site's address, unless it has one.
pub fn ensure_dht(site: &dyn Site) -> Result<Bootstrap> {
    let bootstrap = Bootstrap {
        host: site.host().to_string(),
        port: BOOTSTRAP_PORT,
    };
    if site.has_adopted("dht")? {
        return Ok(bootstrap);
    }
    let folder = site.folder().join("dht");
    fs::create_dir_all(&folder).context("failed to create the DHT's folder")?;
    let node = node()?;
    let mut command = site.command(&node)?;
    command.arg(scripts().join("testnet.mjs")).args([
        bootstrap.host.as_str(),
        "4",
        &bootstrap.port.to_string(),
    ]);
    let mut lines = start(site, "dht", &folder, command)?.1;
    let printed = poll::until_every(LOOK_EVERY, "the DHT", ANSWER_WITHIN, || lines.next())?;
    if printed.pointer("/0/port") != Some(&json!(bootstrap.port)) {
        bail!("the DHT's first node is at {printed}, not at {bootstrap}");
    }
    Ok(bootstrap)
}

/// An entry of a drive, as a JavaScript peer reads it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum DriveEntry {
    /// A symbolic link.
    Link {
        /// Where it points.
        link: String,
    },
    /// A file.
    File {
        /// SHA-256 of the content, in hex.
        sha256: String,
        /// Size of the content.
        bytes: u64,
        /// Whether it is marked as a program.
        executable: bool,
    },
}

/// What a peer says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Key of the drive, in hex.
    pub key: String,
    /// Version of the drive.
    pub version: u64,
    /// Blocks of the drive's metadata core.
    pub length: u64,
    /// Blocks of the drive's content core.
    pub blobs_length: u64,
    /// Open connections.
    pub connections: u64,
}

/// A running peer with a Hyperdrive.
#[derive(Debug)]
pub struct Peer {
    process: Process,
    input: File,
    lines: Lines,
    next_id: u64,
    kept: bool,
}

impl Peer {
    /// Starts a peer named `name`. It reads the drive `key`, or writes one of its own when there is none; its storage
    /// stays in the site's folder, so a peer of the same name continues.
    pub fn start(
        site: &dyn Site,
        name: &str,
        bootstrap: &Bootstrap,
        key: Option<&str>,
    ) -> Result<(Self, PeerStatus)> {
        let folder = site.folder().join(name);
        fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
        let mut command = site.command(&node()?)?;
        command.arg(scripts().join("peer.mjs"));
        let (process, lines, input) = {
            let (process, lines) = start(site, name, &folder, command)?;
            let input = OpenOptions::new()
                .read(true)
                .write(true)
                .open(folder.join("input"));
            (process, lines, input.context("failed to open a peer's input")?)
        };
        let mut peer = Self {
            process,
            input,
            lines,
            next_id: 1,
            kept: false,
        };
        let status = peer.ask(
            "start",
            json!({"storage": folder.join("storage"), "host": site.host(), "bootstrap": [bootstrap], "key": key}),
            ANSWER_WITHIN,
        )?;
        Ok((peer, parse(status)?))
    }

    /// Lets the peer run on when this handle goes; it ends with the site.
    pub fn keep(mut self) {
        self.kept = true;
    }

    /// Writes a file into the drive.
    pub fn put(&mut self, path: &str, content: &[u8]) -> Result<PeerStatus> {
        let content = data_encoding::BASE64.encode(content);
        parse(self.ask("put", json!({"path": path, "base64": content}), ANSWER_WITHIN)?)
    }

    /// Copies a file of this machine into the drive.
    pub fn put_file(&mut self, path: &str, file: &Path, executable: bool) -> Result<PeerStatus> {
        parse(self.ask(
            "put",
            json!({"path": path, "file": file, "executable": executable}),
            ANSWER_WITHIN,
        )?)
    }

    /// Writes a symbolic link into the drive.
    pub fn put_link(&mut self, path: &str, target: &str) -> Result<PeerStatus> {
        parse(self.ask("put", json!({"path": path, "link": target}), ANSWER_WITHIN)?)
    }

    /// Every entry of the drive, its content read through the drive (from other peers, where it is not here).
    pub fn hashes(&mut self) -> Result<BTreeMap<String, DriveEntry>> {
        parse(self.ask("hashes", json!({}), ANSWER_WITHIN)?)
    }

    /// Fetches the whole drive from other peers.
    pub fn download(&mut self) -> Result<PeerStatus> {
        parse(self.ask("download", json!({}), Duration::from_mins(2))?)
    }

    /// Looks for peers, and for a newer version.
    pub fn update(&mut self) -> Result<PeerStatus> {
        parse(self.ask("update", json!({}), ANSWER_WITHIN)?)
    }

    /// What the peer says of itself now.
    pub fn status(&mut self) -> Result<PeerStatus> {
        parse(self.ask("status", json!({}), ANSWER_WITHIN)?)
    }

    /// Leaves the network in an orderly way and ends.
    pub fn stop(mut self) -> Result<()> {
        self.ask("stop", json!({}), ANSWER_WITHIN)?;
        poll::until("the end of a peer", ANSWER_WITHIN, || {
            Ok((!self.process.is_alive()).then_some(()))
        })
    }

    fn ask(&mut self, name: &str, mut request: Value, timeout: Duration) -> Result<Value> {
        let id = self.next_id;
        self.next_id += 1;
        request["id"] = json!(id);
        request["do"] = json!(name);
        writeln!(self.input, "{request}")
            .with_context(|| format!("failed to ask peer {}", self.process.name))?;
        let answer = poll::until_every(LOOK_EVERY, &format!("the answer to {name:?}"), timeout, || {
            while let Some(line) = self.lines.next()? {
                if line["id"] == json!(id) {
                    return Ok(Some(Ok(line)));
                }
            }
            if !self.process.is_alive() {
                let log = process::tail(&self.lines.file.with_file_name("errors.log"));
                return Ok(Some(Err(anyhow::anyhow!(
                    "peer {} has ended\n{log}",
                    self.process.name
                ))));
            }
            Ok(None)
        })??;
        match answer.get("error") {
            Some(error) => bail!("peer {} failed to {name}: {error}", self.process.name),
            None => Ok(answer["ok"].clone()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if !self.kept {
            // The site ends it later, should this fail.
            let _ = self.process.kill();
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).context("failed to understand a peer's answer")
}

fn node() -> Result<PathBuf> {
    process::find("node")
        .context("Node.js is missing, and the real JavaScript peers need it; hint: install Node.js 20")
}

/// Starts a program with a named pipe as its input and files as its output, and lets the site know it.
fn start(site: &dyn Site, name: &str, folder: &Path, mut command: Command) -> Result<(Process, Lines)> {
    let input = folder.join("input");
    let _ = fs::remove_file(&input);
    nix::unistd::mkfifo(&input, Mode::S_IRUSR | Mode::S_IWUSR)
        .with_context(|| format!("failed to create {}", input.display()))?;
    // Opened for writing too: a pipe that someone may still write to never ends.
    let stdin = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&input)
        .context("failed to open a peer's input")?;
    let file = folder.join("output.jsonl");
    let stdout = File::create(&file).with_context(|| format!("failed to create {}", file.display()))?;
    let stderr = File::create(folder.join("errors.log")).context("failed to create a peer's log")?;
    let child = command
        .stdin(Stdio::from(stdin))
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .with_context(|| format!("failed to start peer {name}"))?;
    let process = Process::of(
        name,
        i32::try_from(child.id()).context("a process id is out of range")?,
    )?;
    site.adopt(process.clone())?;
    Ok((process, Lines { file, read: 0 }))
}

/// The complete lines of a growing file.
#[derive(Debug)]
struct Lines {
    file: PathBuf,
    read: usize,
}

impl Lines {
    fn next(&mut self) -> Result<Option<Value>> {
        let bytes =
            fs::read(&self.file).with_context(|| format!("failed to read {}", self.file.display()))?;
        let rest = bytes.get(self.read..).unwrap_or_default();
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        self.read += end + 1;
        serde_json::from_slice(&rest[..end])
            .context("failed to understand a peer's line")
            .map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_lines_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("output");
        fs::write(&file, "{\"id\": 1}\n{\"id\"").unwrap();
        let mut lines = Lines {
            file: file.clone(),
            read: 0,
        };
        assert_eq!(lines.next().unwrap(), Some(json!({"id": 1})));
        assert_eq!(lines.next().unwrap(), None);
        fs::write(&file, "{\"id\": 1}\n{\"id\": 2}\n").unwrap();
        assert_eq!(lines.next().unwrap(), Some(json!({"id": 2})));
    }
}
