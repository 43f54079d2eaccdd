//! The binary alone, without a cluster, against real JavaScript peers on a DHT of their own: what the README shows first.
//!
//! Needs Node; without it the test says so and ends, except in CI, where that is a failure.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(
    clippy::unused_self,
    reason = "requests read better as methods of the node that is asked"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

const HOST: &str = "127.0.0.1";
/// Far beyond what a loaded machine needs; nothing waits this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(90);

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scripts() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/js");
    let has_node = Command::new("node")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !has_node {
        assert!(std::env::var_os("CI").is_none(), "CI needs Node for this test");
        println!("skipped: there is no Node on this machine");
        return None;
    }
    if !dir.join("node_modules/hyperdrive").exists() {
        let installed = Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund"])
            .current_dir(&dir)
            .status()
            .unwrap();
        assert!(installed.success(), "npm ci failed in {}", dir.display());
    }
    Some(dir)
}

fn json_line(from: &mut impl BufRead) -> Value {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

/// A JavaScript peer with a Hyperdrive, driven over its standard input and output.
struct Peer {
    _process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    requests: u64,
}

impl Peer {
    fn start(scripts: &Path, storage: &Path, bootstrap: &Value, key: Option<&str>) -> Self {
        let mut command = Command::new("node");
        command
            .arg(scripts.join("peer.mjs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (input, output) = (
            process.stdin.take().unwrap(),
            BufReader::new(process.stdout.take().unwrap()),
        );
        let mut peer = Self {
            _process: Process(process),
            input,
            output,
            requests: 0,
        };
        let mut start = json!({"do": "start", "storage": storage, "host": HOST, "bootstrap": bootstrap});
        if let Some(key) = key {
            start["key"] = key.into();
        }
        peer.ask(start);
        peer
    }

    fn ask(&mut self, mut request: Value) -> Value {
        self.requests += 1;
        request["id"] = self.requests.into();
        writeln!(self.input, "{request}").unwrap();
        let answer = json_line(&mut self.output);
        assert!(answer.get("error").is_none(), "{request}: {answer}");
        answer["ok"].clone()
    }

    fn put(&mut self, path: &str, file: &Path) {
        self.ask(json!({"do": "put", "path": path, "file": file}));
    }

    fn key(&mut self) -> String {
        self.ask(json!({"do": "status"}))["key"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

/// A running cumulet-node.
struct Node {
    process: Process,
    dir: PathBuf,
    gateway: u16,
    api: u16,
    ops: u16,
}

fn free_port() -> u16 {
    TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap().port()
}

impl Node {
    fn start(dir: &Path, bootstrap: &Value, arguments: &[&str]) -> Self {
        let (gateway, api, ops) = (free_port(), free_port(), free_port());
        let mut command = Command::new(env!("CARGO_BIN_EXE_cumulet-node"));
        command.arg("--data-dir").arg(dir).args(arguments);
        command.args([
            "--swarm-port",
            "0",
            "--bootstrap",
            &format!("{HOST}:{}", bootstrap[0]["port"]),
        ]);
        for (flag, port) in [
            ("--gateway-listen", gateway),
            ("--api-listen", api),
            ("--ops-listen", ops),
        ] {
            command.args([flag, &format!("{HOST}:{port}")]);
        }
        let process = Process(command.spawn().unwrap());
        let node = Self {
            process,
            dir: dir.to_owned(),
            gateway,
            api,
            ops,
        };
        wait("the node to start", || {
            node.get(node.ops, "/readyz", "")
                .is_some_and(|(status, _)| status == 200)
        });
        node
    }

    fn get(&self, port: u16, path: &str, headers: &str) -> Option<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect((HOST, port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"
        )
        .ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        let status = std::str::from_utf8(&answer[9..12]).ok()?.parse().ok()?;
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let body = answer.split_off(end + 4);
        Some((
            status,
            if head.contains("transfer-encoding: chunked") {
                unchunk(&body)
            } else {
                body
            },
        ))
    }

    fn file(&self, key: &str, path: &str) -> Option<Vec<u8>> {
        self.get(self.gateway, &format!("/{key}/{path}"), "")
            .filter(|(status, _)| *status == 200)
            .map(|(_, body)| body)
    }

    fn archive(&self) -> Value {
        let token = std::fs::read_to_string(self.dir.join("api.token")).unwrap_or_default();
        let header = format!("Authorization: Bearer {}\r\n", token.trim());
        let (status, body) = self.get(self.api, "/api/v1/archives", &header).unwrap();
        assert_eq!(status, 200);
        serde_json::from_slice::<Value>(&body).unwrap()[0].clone()
    }

    fn holds(&self, condition: &str) -> bool {
        let archive = self.archive();
        let conditions = archive["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|found| found["type"] == condition && found["status"] == "True")
    }

    fn wait_for(&self, conditions: &[&str]) {
        let all = || conditions.iter().all(|condition| self.holds(condition));
        wait_or(&format!("{conditions:?}"), all, || self.archive().to_string());
    }

    /// Ends it as a service manager does, and checks that it ends well.
    fn stop(mut self) {
        let pid = self.process.0.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        assert!(self.process.0.wait().unwrap().success());
    }
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size + 2..];
    }
    whole
}

fn wait(what: &str, holds: impl Fn() -> bool) {
    wait_or(what, holds, String::new);
}

fn wait_or(what: &str, holds: impl Fn() -> bool, otherwise: impl Fn() -> String) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < PATIENCE,
            "waited too long for {what}: {}",
            otherwise()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A DHT, a JavaScript peer with some files, and what they contain.
struct World {
    dir: TempDir,
    scripts: PathBuf,
    bootstrap: Value,
    _dht: Process,
    files: BTreeMap<String, Vec<u8>>,
}

impl World {
    fn new() -> Option<Self> {
        let scripts = scripts()?;
        let mut command = Command::new("node");
        command.args([
            scripts.join("testnet.mjs").to_str().unwrap(),
            HOST,
            "4",
            &free_port().to_string(),
        ]);
        let mut dht = Process(command.stdout(Stdio::piped()).spawn().unwrap());
        let bootstrap = json_line(&mut BufReader::new(dht.0.stdout.take().unwrap()));
        let mut files = BTreeMap::from([("empty".to_owned(), Vec::new())]);
        files.insert(
            "large.bin".into(),
            (0..4_400_000_u32)
                .flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes())
                .collect(),
        );
        for i in 0..20_u8 {
            files.insert(format!("folder/file-{i}.txt"), vec![i; 100 + usize::from(i)]);
        }
        Some(Self {
            dir: TempDir::new().unwrap(),
            scripts,
            bootstrap,
            _dht: dht,
            files,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn writer(&self) -> Peer {
        let mut peer = Peer::start(&self.scripts, &self.path("writer"), &self.bootstrap, None);
        for (name, bytes) in &self.files {
            std::fs::write(self.path("content"), bytes).unwrap();
            peer.put(&format!("/{name}"), &self.path("content"));
        }
        peer
    }

    fn assert_serves_all(&self, node: &Node, key: &str) {
        for (name, bytes) in &self.files {
            assert!(node.file(key, name).as_ref() == Some(bytes), "{name} differs");
        }
    }
}

#[test]
fn a_javascript_drive_is_kept_followed_served_backed_up_and_restored() {
    let Some(world) = World::new() else { return };
    let mut writer = world.writer();
    let key = writer.key();

    let node = Node::start(
        &world.path("node"),
        &world.bootstrap,
        &["--pin", &key, "--announce"],
    );
    node.wait_for(&["Ready", "Synced", "BackedUp"]);
    world.assert_serves_all(&node, &key);

    // The writer changes one file: it is followed, and nothing else is fetched again.
    let before = node.archive()["downloadedBlocks"].as_u64().unwrap();
    std::fs::write(world.path("content"), b"changed").unwrap();
    writer.put("/folder/file-3.txt", &world.path("content"));
    let changed = Instant::now();
    wait("the change", || {
        node.file(&key, "folder/file-3.txt").as_deref() == Some(b"changed")
    });
    assert!(
        changed.elapsed() < Duration::from_secs(2),
        "{:?}",
        changed.elapsed()
    );
    assert_eq!(
        node.archive()["downloadedBlocks"].as_u64().unwrap() - before,
        2,
        "one blob block and one entry"
    );
    node.wait_for(&["Synced", "BackedUp"]);
    let version = writer.ask(json!({"do": "status"}))["version"].as_u64();

    // Another peer that knows only the key gets everything from the node while the writer is off.
    drop(writer);
    let mut reader = Peer::start(
        &world.scripts,
        &world.path("reader"),
        &world.bootstrap,
        Some(&key),
    );
    let downloaded = reader.ask(json!({"do": "download"}));
    assert_eq!(downloaded["version"].as_u64(), version, "{downloaded}");
    drop(reader);
    node.stop();
    assert_same_segments(&world.path("node/cores"), &world.path("node/backup"));

    // An empty node with the same content key restores from the folder with nobody online.
    let restored = world.path("restored");
    std::fs::create_dir(&restored).unwrap();
    std::fs::copy(world.path("node/content.key"), restored.join("content.key")).unwrap();
    let backup = format!("file:{}", world.path("node/backup").display());
    let node = Node::start(
        &restored,
        &world.bootstrap,
        &["--pin", &key, "--backup-url", &backup],
    );
    node.wait_for(&["Ready"]);
    assert_eq!(node.archive()["downloadedBlocks"], 0);
    assert_eq!(
        node.file(&key, "folder/file-3.txt").as_deref(),
        Some(&b"changed"[..])
    );
    assert!(node.file(&key, "large.bin").as_ref() == world.files.get("large.bin"));
    node.stop();
    assert_same_segments(&restored.join("cores"), &world.path("node/backup"));
}

/// What is in the files below a folder whose path contains `part`.
fn contents(dir: &Path, part: &str) -> BTreeSet<Vec<u8>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_str().unwrap().contains(part) {
                found.insert(std::fs::read(path).unwrap());
            }
        }
    }
    found
}

/// A sealed segment is the same bytes on the volume and in the backup.
fn assert_same_segments(cores: &Path, backup: &Path) {
    let (volume, store) = (contents(cores, ".seg"), contents(backup, "/segments/"));
    assert!(!volume.is_empty(), "17 MB are more than stay in the log");
    assert!(
        volume.is_subset(&store),
        "a sealed segment differs from the backup's"
    );
}

#[test]
fn a_sparse_pin_fetches_no_more_than_a_range_needs() {
    let Some(world) = World::new() else { return };
    let mut writer = world.writer();
    let key = writer.key();
    let node = Node::start(
        &world.path("node"),
        &world.bootstrap,
        &["--pin", &key, "--sparse"],
    );
    node.wait_for(&["Ready"]);
    let size = world.files["large.bin"].len();
    // The first read of any part finds the entry; the second only fetches bytes.
    let range = |start: usize| format!("Range: bytes={}-{}\r\n", start, start + 1023);
    let path = format!("/{key}/large.bin");
    let (status, _) = node.get(node.gateway, &path, &range(0)).unwrap();
    assert_eq!(status, 206);
    let before = node.archive()["downloadedBlocks"].as_u64().unwrap();
    let (status, body) = node.get(node.gateway, &path, &range(size / 2)).unwrap();
    assert_eq!(status, 206);
    assert!(body == world.files["large.bin"][size / 2..size / 2 + 1024]);
    let fetched = node.archive()["downloadedBlocks"].as_u64().unwrap() - before;
    assert!((1..=2).contains(&fetched), "{fetched} blocks");
}

#[test]
fn a_key_that_nobody_serves_is_told_as_such_and_disturbs_nobody() {
    let Some(world) = World::new() else { return };
    let key = "ab".repeat(32);
    let node = Node::start(&world.path("node"), &world.bootstrap, &["--pin", &key]);
    let reason = || {
        let conditions = node.archive()["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions
            .iter()
            .find(|found| found["type"] == "Synced")
            .map(|found| found["reason"].clone())
    };
    wait("the reason", || reason() == Some("NoPeers".into()));
    assert_eq!(node.get(node.ops, "/readyz", "").unwrap().0, 200);
    assert_eq!(
        node.get(node.gateway, &format!("/{}/x", "cd".repeat(32)), "")
            .unwrap()
            .0,
        404
    );
}

#[test]
fn a_malformed_key_is_refused_with_the_forms_that_work() {
    let dir = TempDir::new().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cumulet-node"))
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .args(["--pin", "hyper://nonsense"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("64 hex"), "{text}");
    assert!(!dir.path().join("data").exists(), "nothing was made");
}

#[test]
fn two_nodes_do_not_share_a_data_folder() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), &json!([{"port": free_port()}]), &[]);
    let output = Command::new(env!("CARGO_BIN_EXE_cumulet-node"))
        .arg("--data-dir")
        .arg(dir.path())
        .args(["--swarm-port", "0"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("another process"),
        "{text}"
    );
    node.stop();
}
