//! A blind relay of ours on a DHT node of ours, and payloads that cross it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cumulet_hyperdht::{Connection, Dht, ListenOptions};
use cumulet_relay::blind_relay::{Admission, MemberLimits, PacketHook, Peer, Relay, RelayOptions};
use cumulet_secret_stream::{Event, SecretStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::support::{echo, fresh_key_pair};

/// What payloads are made of.
pub const TEXT: &str = "a plain text that no relay must see. ";
/// Bytes of a payload.
pub const BYTES: usize = 65_536;
/// Most bytes of packets that a relay of ours remembers for the test.
const MAX_SEEN: usize = 32 << 20;

pub fn payload() -> Vec<u8> {
    TEXT.bytes().cycle().take(BYTES).collect()
}

pub struct OurRelay {
    pub relay: Relay,
    pub public_key: [u8; 32],
    seen: Arc<Mutex<Vec<u8>>>,
    _dht: Dht,
    _tasks: JoinSet<()>,
}

impl OurRelay {
    /// Runs a relay that is open to everybody on `dht`.
    pub async fn start(dht: Dht) -> Self {
        let everybody = |_: &[u8; 32]| Admission::Member(MemberLimits::default());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let memory = seen.clone();
        let inspect: PacketHook = Arc::new(move |packet: &[u8]| {
            let mut memory = memory.lock().unwrap();
            if memory.len() < MAX_SEEN {
                memory.extend_from_slice(packet);
            }
            true
        });
        let options = RelayOptions {
            inspect: Some(inspect),
            ..RelayOptions::default()
        };
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let relay = Relay::new(
            dht.endpoint().clone(),
            Arc::new(everybody),
            options,
            &tracker,
            cancel,
        );
        let key_pair = fresh_key_pair();
        let admits = relay.clone();
        let listening = ListenOptions {
            firewall: Some(Arc::new(move |identity, _, _| admits.admits(identity))),
            ..ListenOptions::default()
        };
        let mut server = dht.listen(key_pair.clone(), listening).await.unwrap();
        server.announced().await;
        let mut tasks = JoinSet::new();
        let serving = relay.clone();
        tasks.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Some(connection) = server.accept().await {
                let relay = serving.clone();
                let peer = Peer {
                    identity: connection.remote_public_key,
                    handshake: connection.handshake,
                    stream: connection.stream,
                };
                sessions.spawn(async move { relay.serve(peer).await });
            }
        });
        Self {
            relay,
            public_key: *key_pair.public_key(),
            seen,
            _dht: dht,
            _tasks: tasks,
        }
    }

    /// Bytes forwarded since the start.
    pub fn bytes(&self) -> u64 {
        self.relay.counters().bytes
    }

    /// Fails if any packet held a piece of a payload.
    pub fn assert_saw_ciphertext_only(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(!seen.is_empty());
        let piece = &TEXT.as_bytes()[..16];
        assert!(!seen.windows(piece.len()).any(|window| window == piece));
    }
}

/// Serves echoes on a fresh key; returns its public key and the server's task.
pub async fn serve(dht: &Dht, options: ListenOptions) -> ([u8; 32], JoinSet<()>) {
    let key_pair = fresh_key_pair();
    let mut server = dht.listen(key_pair.clone(), options).await.unwrap();
    server.announced().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Some(connection) = server.accept().await {
            connections.spawn(echo(connection));
        }
    });
    (*key_pair.public_key(), tasks)
}

/// Sends a payload, and returns when it has come back unharmed and `until` holds.
pub async fn round_trip(connection: Connection, until: impl AsyncFn() -> bool) -> Result<(), String> {
    let mut stream = connection.stream;
    let mut secret = SecretStream::from_handshake(connection.handshake, [9; 24]);
    let payload = payload();
    secret.send(&payload).map_err(|error| error.to_string())?;
    let (mut returned, mut buffer) = (Vec::new(), vec![0; 65_536]);
    let exchange = async {
        loop {
            let output = secret.take_output();
            stream
                .write_all(&output)
                .await
                .map_err(|error| format!("write: {error}"))?;
            if returned.len() >= payload.len() {
                assert!(returned == payload, "the echo differs");
                if until().await {
                    return Ok(());
                }
                // Keeps the stream busy while it waits to be moved.
                returned.clear();
                secret.send(&payload).map_err(|error| error.to_string())?;
                continue;
            }
            let read = stream
                .read(&mut buffer)
                .await
                .map_err(|error| format!("read: {error}"))?;
            if read == 0 {
                return Err("ended".to_owned());
            }
            secret.receive(&buffer[..read]);
            while let Some(event) = secret.poll_event().map_err(|error| error.to_string())? {
                if let Event::Message(message) = event {
                    returned.extend_from_slice(&message);
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(25), exchange)
        .await
        .unwrap_or_else(|_| Err("no echo in 25 s".to_owned()))
}
