//! The JavaScript peer, our own store beside it, and connections between them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use cumulet_hypercore::corestore::{CoreHandle, Corestore, CorestoreConfig};
use cumulet_hypercore::driver::{ReplicateError, Session, replicate};
use cumulet_secret_stream::Seeds;
use cumulet_secret_stream::noise::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest that anything here may take; reached only when a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A running `interop/data/peer.js`.
pub(crate) struct JsPeer {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

fn interop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/data")
}

/// Whether Node and the packages are there; installs the packages once if they are missing.
fn is_ready() -> bool {
    static READY: OnceLock<bool> = OnceLock::new();
    *READY.get_or_init(|| {
        let run = |program: &str, args: &[&str]| {
            let status = std::process::Command::new(program)
                .args(args)
                .current_dir(interop())
                .status();
            status.is_ok_and(|status| status.success())
        };
        let installed = || interop().join("node_modules/corestore/package.json").exists();
        let ready =
            run("node", &["--version"]) && (installed() || run("npm", &["ci", "--no-audit", "--no-fund"]));
        if !ready {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "Node or its packages are missing"
            );
            eprintln!("skipped: Node or its packages are missing");
        }
        ready
    })
}

impl JsPeer {
    /// None if Node is not there.
    pub(crate) fn start() -> Option<Self> {
        if !is_ready() {
            return None;
        }
        let mut child = Command::new("node")
            .arg("peer.js")
            .current_dir(interop())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Some(Self { child, stdin, lines })
    }

    pub(crate) async fn ask(&mut self, cmd: &str, mut args: Value) -> Value {
        args["cmd"] = cmd.into();
        self.stdin
            .write_all(format!("{args}\n").as_bytes())
            .await
            .unwrap();
        let line = tokio::time::timeout(2 * PATIENCE, self.lines.next_line()).await;
        let line = line
            .unwrap_or_else(|_| panic!("no answer to {args}"))
            .unwrap()
            .unwrap();
        let mut answer: Value = serde_json::from_str(&line).unwrap();
        assert!(
            answer["error"].is_null(),
            "{args}: {}",
            answer["error"].as_str().unwrap_or_default()
        );
        answer["ok"].take()
    }

    /// Makes a core with blocks of these sizes; returns its key.
    pub(crate) async fn create(&mut self, name: &str, kind: &str, sizes: &[usize]) -> [u8; 32] {
        let core = self.ask("create", json!({"name": name, "kind": kind})).await;
        self.append(name, sizes).await;
        key_of(&core)
    }

    pub(crate) async fn append(&mut self, name: &str, sizes: &[usize]) {
        self.ask(
            "append",
            json!({"name": name, "seed": seed(name), "sizes": sizes}),
        )
        .await;
    }

    /// Of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub(crate) async fn close(mut self) {
        self.ask("close", json!({})).await;
    }
}

pub(crate) fn key_of(core: &Value) -> [u8; 32] {
    hex::decode(core["key"].as_str().unwrap())
        .unwrap()
        .try_into()
        .unwrap()
}

pub(crate) fn seed(name: &str) -> u64 {
    name.bytes().map(u64::from).sum()
}

/// The bytes that the JavaScript peer makes for a block.
pub(crate) fn block(name: &str, index: u64, size: usize) -> Bytes {
    let byte = |i: u64| (seed(name) * 31 + index * 7 + i * 13 + (i >> 8) * 17) as u8;
    (0..size as u64).map(byte).collect::<Vec<_>>().into()
}

/// The digest that the JavaScript peer makes of all blocks.
pub(crate) fn digest(blocks: impl IntoIterator<Item = Bytes>) -> String {
    let mut hash = Sha256::new();
    for block in blocks {
        hash.update(format!("{}:", block.len()));
        hash.update(&block);
    }
    hex::encode(hash.finalize())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// Our side: a store and its connections.
pub(crate) struct Node {
    pub(crate) store: Corestore,
    tasks: TaskTracker,
    cancel: CancellationToken,
    directory: tempfile::TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        // Shown with `RUST_LOG=debug`, and by the test runner when a test fails.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let directory = tempfile::tempdir().unwrap();
        let config = CorestoreConfig {
            read_timeout: Duration::from_secs(20),
            ..CorestoreConfig::default()
        };
        Self {
            store: Corestore::open(directory.path(), config).unwrap(),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            directory,
        }
    }

    /// Closes the store and opens it again from its files, as a restart does.
    pub(crate) async fn reopen(&mut self) {
        self.store.close().await.unwrap();
        self.store = Corestore::open(self.directory.path(), self.store.config().clone()).unwrap();
    }

    fn run(&self, io: TcpStream, is_initiator: bool) -> JoinHandle<Result<(), ReplicateError>> {
        io.set_nodelay(true).unwrap();
        let seeds = Seeds {
            ephemeral: random(),
            header: random(),
        };
        let session = Session::Xx {
            is_initiator,
            key_pair: KeyPair::from_seed(random()),
            seeds,
        };
        self.tasks.spawn(replicate(
            self.store.clone(),
            io,
            session,
            self.cancel.child_token(),
        ))
    }

    /// Connects to a JavaScript peer that listens.
    pub(crate) async fn connect(&self, peer: &mut JsPeer) -> JoinHandle<Result<(), ReplicateError>> {
        let port = peer.ask("listen", json!({})).await["port"].as_u64().unwrap() as u16;
        self.connect_to(port).await
    }

    pub(crate) async fn connect_to(&self, port: u16) -> JoinHandle<Result<(), ReplicateError>> {
        let io = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        self.run(io, true)
    }

    /// Connects to another of ours.
    pub(crate) async fn connect_to_node(&self, other: &Node) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (accepted, _) = tokio::join!(listener.accept(), self.connect_to(port));
        other.run(accepted.unwrap().0, false);
    }

    /// Has a JavaScript peer connect to us.
    pub(crate) async fn accept(&self, peer: &mut JsPeer) -> JoinHandle<Result<(), ReplicateError>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (accepted, _) = tokio::join!(listener.accept(), peer.ask("connect", json!({"port": port})));
        self.run(accepted.unwrap().0, false)
    }

    pub(crate) async fn close(self) {
        self.cancel.cancel();
        self.tasks.close();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.unwrap();
        self.store.close().await.unwrap();
    }
}

/// Waits until the core is what `condition` says.
pub(crate) async fn until(
    core: &CoreHandle,
    what: &str,
    condition: impl Fn(&cumulet_hypercore::corestore::CoreState) -> bool,
) {
    let mut state = core.watch_durable();
    let waited = tokio::time::timeout(PATIENCE, state.wait_for(|state| condition(state))).await;
    assert!(matches!(waited, Ok(Ok(_))), "{what}: is {:?}", core.state());
}

/// The digest of everything the core has.
pub(crate) async fn digest_of(core: &CoreHandle) -> String {
    let mut blocks = Vec::new();
    for index in 0..core.state().length {
        blocks.push(
            core.get_local(index)
                .await
                .unwrap()
                .unwrap_or_else(|| panic!("block {index} is missing")),
        );
    }
    digest(blocks)
}
