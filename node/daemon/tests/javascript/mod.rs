//! JavaScript peers under control: a process of a script in `interop/relay`, one JSON command a line, one JSON answer a line.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long to wait before a condition is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long a process may take to end by itself once its input is closed.
const GOODBYE: Duration = Duration::from_secs(5);

pub struct Javascript {
    process: Child,
    /// For what the script writes: one that is killed clears up nothing.
    _scratch: tempfile::TempDir,
    /// None at the end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    calls: u64,
}

/// The scripts, with their packages.
pub fn scripts() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/relay");
    assert!(
        folder.join("node_modules").is_dir(),
        "no packages in interop/relay: run `npm ci` there, or all tests by `cargo xtask test interop`"
    );
    folder
}

impl Javascript {
    pub fn start(script: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut process = Command::new("node")
            .arg(script)
            .current_dir(scripts())
            .env("TMPDIR", scratch.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take(), process.stdout.take().unwrap());
        Self {
            process,
            _scratch: scratch,
            input,
            output: BufReader::new(output),
            calls: 0,
        }
    }

    pub fn call(&mut self, command: &str, mut arguments: Value) -> Value {
        self.calls += 1;
        (arguments["id"], arguments["cmd"]) = (self.calls.into(), command.into());
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{arguments}\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert!(answer["error"].is_null(), "{command}: {answer}");
        answer
    }
}

impl Drop for Javascript {
    fn drop(&mut self) {
        drop(self.input.take());
        let deadline = Instant::now() + GOODBYE;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that nobody has at the moment, neither for UDP nor for TCP: a node's swarm uses both.
pub fn free_udp_port() -> u16 {
    loop {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        if std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until something holds.
pub async fn until(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < deadline, "not in {patience:?}: {what}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
