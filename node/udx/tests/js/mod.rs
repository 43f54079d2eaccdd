//! The real `udx-native` in a node process, driven line by line.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::OnceLock,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

const PATIENCE: Duration = Duration::from_secs(90);

/// A running peer; it ends with its standard input.
pub(crate) struct Peer {
    _process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// Events that were read while waiting for another.
    early: Vec<Value>,
    pub(crate) port: u16,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/udx")
}

/// Installs the locked packages once; says why not if that fails.
fn install() -> Result<(), String> {
    static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            let run = |program: &str, arguments: &[&str]| {
                std::process::Command::new(program)
                    .args(arguments)
                    .current_dir(directory())
                    .output()
                    .map_err(|error| format!("{program}: {error}"))
                    .and_then(|output| {
                        let text = String::from_utf8_lossy(&output.stderr).into_owned();
                        if output.status.success() {
                            Ok(())
                        } else {
                            Err(format!("{program}: {text}"))
                        }
                    })
            };
            run("node", &["--version"])?;
            if directory().join("node_modules/udx-native").exists() {
                return Ok(());
            }
            run("npm", &["ci"])
        })
        .clone()
}

impl Peer {
    /// Starts a peer. `None`, with the reason printed, where node is missing; under `CI=true` that is a failure.
    pub(crate) async fn start() -> Option<Self> {
        if let Err(reason) = install() {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "udx-native is needed in CI: {reason}"
            );
            eprintln!("skipped, udx-native can not run here: {reason}");
            return None;
        }
        let mut process = Command::new("node")
            .arg("peer.js")
            .current_dir(directory())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node starts");
        let input = process.stdin.take().expect("stdin");
        let output = BufReader::new(process.stdout.take().expect("stdout")).lines();
        let mut peer = Self {
            _process: process,
            input,
            output,
            early: Vec::new(),
            port: 0,
        };
        let ready = peer.event("ready", None).await;
        peer.port = u16::try_from(ready["port"].as_u64().expect("port")).expect("port");
        Some(peer)
    }

    pub(crate) async fn say(&mut self, command: Value) {
        self.input
            .write_all(format!("{command}\n").as_bytes())
            .await
            .expect("node listens");
    }

    /// The next event of a kind, of a stream.
    pub(crate) async fn event(&mut self, kind: &str, local: Option<u32>) -> Value {
        let matches = |event: &Value| {
            event["event"] == kind && local.is_none_or(|local| event["local"] == json!(local))
        };
        if let Some(index) = self.early.iter().position(matches) {
            return self.early.remove(index);
        }
        loop {
            let line = tokio::time::timeout(PATIENCE, self.output.next_line())
                .await
                .unwrap_or_else(|_| panic!("no event {kind} of {local:?} in time; seen: {:?}", self.early))
                .expect("node's output")
                .expect("node runs");
            let event: Value = serde_json::from_str(&line).expect("JSON");
            if matches(&event) {
                return event;
            }
            self.early.push(event);
        }
    }
}
