//! A JavaScript peer process under control, and an echo over a connection.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cumulet_hyperdht::{Connection, Dht, DhtConfig};
use cumulet_secret_stream::noise::{HandshakeResult, KeyPair};
use cumulet_secret_stream::{Event, SecretStream};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A folder for what a script writes, which goes with it: a script that is killed clears up nothing.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("js-{}-{number}", std::process::id());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One Node.js process running a script under `interop/`.
pub struct Js {
    _child: Child,
    _scratch: Scratch,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    next: u64,
}

impl Js {
    pub fn start() -> Self {
        Self::start_in("dht")
    }

    /// The peer of another folder of `interop/`.
    pub fn start_in(folder: &str) -> Self {
        Self::start_script(folder, "peer.js")
    }

    /// A script of a folder of `interop/`.
    pub fn start_script(folder: &str, script: &str) -> Self {
        let directory = format!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../interop/{}"), folder);
        assert!(
            std::path::Path::new(&directory).join("node_modules").is_dir(),
            "no packages in interop/{folder}: run `npm ci` there, or all tests by `cargo xtask test interop`"
        );
        let scratch = Scratch::new();
        let mut child = Command::new("node")
            .arg(script)
            .current_dir(directory)
            .env("TMPDIR", &scratch.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Node.js can be started");
        let stdin = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            _child: child,
            _scratch: scratch,
            stdin,
            lines,
            next: 0,
        }
    }

    /// Sends a command and waits for its answer.
    pub async fn call(&mut self, command: &str, mut arguments: Value) -> Value {
        self.next += 1;
        arguments["id"] = self.next.into();
        arguments["cmd"] = command.into();
        self.stdin
            .write_all(format!("{arguments}\n").as_bytes())
            .await
            .unwrap();
        let line = tokio::time::timeout(Duration::from_mins(3), self.lines.next_line()).await;
        let line = line
            .expect("an answer in time")
            .unwrap()
            .expect("a living process");
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert!(answer["error"].is_null(), "{command}: {answer}");
        answer
    }

    /// A DHT of this many JavaScript nodes; returns its bootstrap addresses.
    pub async fn testnet(&mut self, size: usize) -> Vec<String> {
        strings(&self.call("testnet", json!({ "size": size })).await["bootstrap"])
    }
}

pub fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item.as_str().unwrap().to_owned())
        .collect()
}

pub fn key(value: &Value) -> [u8; 32] {
    hex::decode(value.as_str().unwrap()).unwrap().try_into().unwrap()
}

/// A key pair of its own for each call.
pub fn fresh_key_pair() -> KeyPair {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    KeyPair::from_seed(cumulet_hyperdht::hash(&[
        b"test",
        &number.to_le_bytes(),
        &std::process::id().to_le_bytes(),
    ]))
}

/// How often to repeat what is repeated; the environment may ask for more.
pub fn rounds(default: usize) -> usize {
    std::env::var("CUMULET_INTEROP_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

pub async fn node(bootstrap: &[String], firewalled: Option<bool>) -> Dht {
    node_with(bootstrap, firewalled, true).await
}

/// With `local` false the node keeps its interface addresses to itself, so that only punching remains.
pub async fn node_with(bootstrap: &[String], firewalled: Option<bool>, local: bool) -> Dht {
    let config = DhtConfig {
        share_local_addresses: local,
        bind: std::net::Ipv4Addr::LOCALHOST,
        bootstrap: bootstrap.to_vec(),
        firewalled,
        ..DhtConfig::default()
    };
    let dht = Dht::spawn(config, &TaskTracker::new(), CancellationToken::new())
        .await
        .unwrap();
    dht.bootstrapped().await;
    dht
}

pub fn address(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

/// Echoes messages until the peer goes away.
pub async fn echo(connection: Connection) {
    echo_over(connection.stream, connection.handshake).await;
}

/// As [`echo`], over any stream.
pub async fn echo_over(mut stream: impl AsyncRead + AsyncWrite + Unpin, handshake: HandshakeResult) {
    let mut secret = SecretStream::from_handshake(handshake, [7; 24]);
    let mut buffer = vec![0; 65_536];
    loop {
        let output = secret.take_output();
        if stream.write_all(&output).await.is_err() {
            return;
        }
        let Ok(read @ 1..) = stream.read(&mut buffer).await else {
            return;
        };
        secret.receive(&buffer[..read]);
        while let Ok(Some(event)) = secret.poll_event() {
            if let Event::Message(message) = event
                && !message.is_empty()
            {
                secret.send(&message).unwrap();
            }
        }
    }
}

/// Sends a message and waits for it to come back.
pub async fn expect_echo(connection: Connection) -> Result<(), String> {
    expect_echo_over(connection.stream, connection.handshake).await
}

/// As [`expect_echo`], over any stream.
pub async fn expect_echo_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    handshake: HandshakeResult,
) -> Result<(), String> {
    let mut secret = SecretStream::from_handshake(handshake, [9; 24]);
    secret.send(b"hello").map_err(|error| error.to_string())?;
    let mut buffer = vec![0; 65_536];
    let exchange = async {
        loop {
            let output = secret.take_output();
            stream
                .write_all(&output)
                .await
                .map_err(|error| format!("write: {error}"))?;
            let read = stream
                .read(&mut buffer)
                .await
                .map_err(|error| format!("read: {error}"))?;
            if read == 0 {
                return Err("ended".to_owned());
            }
            secret.receive(&buffer[..read]);
            while let Some(event) = secret.poll_event().map_err(|error| error.to_string())? {
                if event == Event::Message(b"hello"[..].into()) {
                    return Ok(());
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(8), exchange)
        .await
        .unwrap_or(Err("no echo in 8 s".to_owned()))
}
