//! Against the real `udx-native`: both directions, every way to end, a lossy path, relaying, moving.

#[expect(clippy::panic, reason = "a test fails by panicking")]
mod js;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use cumulet_udx::{Endpoint, Socket, StreamOptions, UdxStream};
use js::Peer;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
    task::JoinSet,
};

const PATIENCE: Duration = Duration::from_secs(90);

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("took too long")
}

/// The same bytes as the peer's `pattern()`.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        })
        .collect()
}

fn next_id() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

struct Ours {
    endpoint: Endpoint,
    socket: Socket,
}

impl Ours {
    fn new() -> Self {
        let endpoint = Endpoint::with_system_entropy();
        let (socket, _) = endpoint
            .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .expect("bind");
        Self { endpoint, socket }
    }

    fn stream(&self) -> UdxStream {
        self.endpoint
            .create_stream(StreamOptions::default())
            .expect("create")
    }

    fn port(&self) -> u16 {
        self.socket.local_addr().port()
    }
}

fn localhost(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Who ends first.
#[derive(Clone, Copy, PartialEq)]
enum First {
    Us,
    Js,
    Both,
}

struct Transfer {
    to_js: usize,
    from_js: usize,
    first: First,
}

fn transfer(to_js: usize, from_js: usize, first: First) -> Transfer {
    Transfer {
        to_js,
        from_js,
        first,
    }
}

/// Sends `to_js` bytes and expects `from_js`, both at once, through `via` if given; returns the peer's last word.
async fn exchange(peer: &mut Peer, ours: &Ours, what: Transfer, via: Option<&Forwarder>) -> Value {
    let Transfer {
        to_js,
        from_js,
        first,
    } = what;
    let (stream, theirs) = (ours.stream(), next_id());
    let port = via.map_or(ours.port(), |via| via.for_js);
    peer.say(json!({
        "cmd": "open", "local": theirs, "remote": stream.id(), "port": port, "close": if first == First::Us { "after" } else { "end" },
        "send": from_js, "seed": 5, "expect": to_js, "expectSeed": 6,
    }))
    .await;
    peer.event("opened", Some(theirs)).await;
    let to = via.map_or(peer.port, |via| via.for_us);
    stream
        .connect(&ours.socket, theirs, localhost(to))
        .expect("connect");
    let control = stream.control().clone();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let data = pattern(to_js, 6);
    let mut received = Vec::new();
    let js_ended = tokio::sync::Notify::new();
    within(async {
        let write = async {
            writer.write_all(&data).await.expect("write");
            if first == First::Js {
                js_ended.notified().await;
            }
            writer.shutdown().await.expect("shutdown");
        };
        let read = async {
            reader.read_to_end(&mut received).await.expect("read");
            js_ended.notify_one();
        };
        tokio::join!(write, read);
        control.closed().await.expect("closes cleanly");
    })
    .await;
    assert_same(&received, &pattern(from_js, 5));
    let closed = peer.event("closed", Some(theirs)).await;
    assert_eq!(
        (&closed["matches"], &closed["error"]),
        (&json!(true), &Value::Null),
        "{closed}"
    );
    closed
}

/// Compares without printing megabytes.
fn assert_same(received: &[u8], expected: &[u8]) {
    let differs = received.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(
        (received.len(), differs),
        (expected.len(), None),
        "length, first difference"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_amount_crosses_in_either_direction_and_in_both() {
    let Some(mut peer) = Peer::start().await else {
        return;
    };
    let ours = Ours::new();
    for len in [0, 1, 1132, 1152, 5000, 10 << 20] {
        exchange(&mut peer, &ours, transfer(len, 0, First::Both), None).await;
        exchange(&mut peer, &ours, transfer(0, len, First::Both), None).await;
        exchange(&mut peer, &ours, transfer(len, len, First::Both), None).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lossy_path_loses_nothing() {
    let Some(mut peer) = Peer::start().await else {
        return;
    };
    let ours = Ours::new();
    for (seed, loss) in [(1, 0.01), (2, 0.05), (3, 0.15)] {
        let via = Forwarder::start(seed, loss, ours.port(), peer.port).await;
        // When both end at once and the last acknowledgement of JS is lost, libudx leaves the other side in doubt
        // about its last bytes. So one ends first.
        for first in [First::Us, First::Js] {
            exchange(&mut peer, &ours, transfer(300_000, 300_000, first), Some(&via)).await;
            exchange(&mut peer, &ours, transfer(0, 1, first), Some(&via)).await;
            exchange(&mut peer, &ours, transfer(1, 0, first), Some(&via)).await;
        }
        assert!(via.dropped.load(Ordering::Relaxed) > 0, "the path was lossy");
    }
}

#[tokio::test]
async fn a_destroy_from_js_resets_our_stream_after_its_bytes() {
    let Some(mut peer) = Peer::start().await else {
        return;
    };
    let ours = Ours::new();
    let (mut stream, theirs) = (ours.stream(), next_id());
    stream
        .connect(&ours.socket, theirs, localhost(peer.port))
        .expect("connect");
    peer.say(json!({
        "cmd": "open", "local": theirs, "remote": stream.id(), "port": ours.port(), "close": "destroy",
        "send": 10, "seed": 3, "check": false,
    }))
    .await;
    within(async {
        let mut received = Vec::new();
        let error = stream.read_to_end(&mut received).await.expect_err("reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(received, pattern(10, 3));
    })
    .await;
}

#[tokio::test]
async fn our_destroy_resets_the_stream_of_js() {
    let Some(mut peer) = Peer::start().await else {
        return;
    };
    let ours = Ours::new();
    let (mut stream, theirs) = (ours.stream(), next_id());
    peer.say(json!({
        "cmd": "open", "local": theirs, "remote": stream.id(), "port": ours.port(), "close": "wait",
        "expect": 5, "expectSeed": 2,
    }))
    .await;
    peer.event("opened", Some(theirs)).await;
    stream
        .connect(&ours.socket, theirs, localhost(peer.port))
        .expect("connect");
    within(async {
        stream.write_all(&pattern(5, 2)).await.expect("write");
        while stream.stats().in_flight > 0 || stream.stats().packets_received == 0 {
            tokio::task::yield_now().await;
        }
        drop(stream);
        let closed = peer.event("closed", Some(theirs)).await;
        assert_eq!(
            (&closed["error"], &closed["received"]),
            (&json!("ECONNRESET"), &json!(5)),
            "{closed}"
        );
    })
    .await;
}

#[tokio::test]
async fn half_closed_streams_carry_on_in_the_other_direction() {
    let Some(mut peer) = Peer::start().await else {
        return;
    };
    let ours = Ours::new();
    let (mut stream, theirs) = (ours.stream(), next_id());
    peer.say(json!({
        "cmd": "open", "local": theirs, "remote": stream.id(), "port": ours.port(), "close": "end", "send": 100, "seed": 9,
        "expect": 200_000, "expectSeed": 4,
    }))
    .await;
    peer.event("opened", Some(theirs)).await;
    stream
        .connect(&ours.socket, theirs, localhost(peer.port))
        .expect("connect");
    within(async {
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.expect("read");
        assert_eq!(received, pattern(100, 9));
        stream.write_all(&pattern(200_000, 4)).await.expect("write");
        stream.shutdown().await.expect("shutdown");
        stream.closed().await.expect("clean");
    })
    .await;
    assert_eq!(peer.event("closed", Some(theirs)).await["matches"], json!(true));
}

#[tokio::test]
async fn each_side_may_speak_before_the_other_is_connected() {
    let Some(mut peer) = Peer::start().await else {
        return;
    };
    let ours = Ours::new();
    within(async {
        // JS speaks first; we adopt the source of its first packet.
        let (mut stream, theirs) = (ours.stream(), next_id());
        peer.say(json!({
            "cmd": "open", "local": theirs, "remote": stream.id(), "port": ours.port(), "close": "end", "send": 3000, "seed": 8,
        }))
        .await;
        let source = stream.first_packet().await.expect("a packet");
        assert_eq!(source.address, localhost(peer.port));
        stream.connect(&source.socket, theirs, source.address).expect("connect");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.expect("read");
        assert_eq!(received, pattern(3000, 8));
        stream.shutdown().await.expect("shutdown");

        // We speak first; JS adopts us.
        let (mut stream, theirs) = (ours.stream(), next_id());
        peer.say(json!({
            "cmd": "open", "local": theirs, "remote": stream.id(), "close": "end", "adopt": true,
            "expect": 3000, "expectSeed": 12,
        }))
        .await;
        peer.event("opened", Some(theirs)).await;
        stream.write_all(&pattern(3000, 12)).await.expect("write");
        stream.connect(&ours.socket, theirs, localhost(peer.port)).expect("connect");
        stream.shutdown().await.expect("shutdown");
        assert_eq!(peer.event("closed", Some(theirs)).await["matches"], json!(true));
    })
    .await;
}

#[tokio::test]
async fn messages_cross_in_both_directions_even_empty_ones() {
    let Some(mut peer) = Peer::start().await else {
        return;
    };
    let ours = Ours::new();
    let (stream, theirs) = (ours.stream(), next_id());
    peer.say(json!({ "cmd": "open", "local": theirs, "remote": stream.id(), "port": ours.port(), "close": "wait" })).await;
    peer.event("opened", Some(theirs)).await;
    stream
        .connect(&ours.socket, theirs, localhost(peer.port))
        .expect("connect");
    within(async {
        for message in [&b"from us"[..], b""] {
            stream.send_message(message).expect("send");
            assert_eq!(
                peer.event("message", Some(theirs)).await["hex"],
                json!(hex::encode(message))
            );
            peer.say(json!({ "cmd": "message", "local": theirs, "hex": hex::encode(message) }))
                .await;
            assert_eq!(stream.recv_message().await.as_deref(), Some(message));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn js_streams_meet_through_our_relay_and_ours_through_that_of_js() {
    let (Some(mut one), Some(mut other)) = (Peer::start().await, Peer::start().await) else {
        return;
    };
    let ours = Ours::new();
    within(async {
        // JS – our relay – JS
        let (to_one, to_other) = (ours.stream(), ours.stream());
        let (left, right) = (next_id(), next_id());
        to_one
            .connect(&ours.socket, left, localhost(one.port))
            .expect("connect");
        to_other
            .connect(&ours.socket, right, localhost(other.port))
            .expect("connect");
        to_one.relay_to(&to_other, None);
        to_other.relay_to(&to_one, None);
        for (peer, local, remote, send, expect) in [
            (&mut one, left, to_one.id(), 7, 8),
            (&mut other, right, to_other.id(), 8, 7),
        ] {
            peer.say(json!({
                "cmd": "open", "local": local, "remote": remote, "port": ours.port(), "close": "end",
                "send": 400_000, "seed": send, "expect": 400_000, "expectSeed": expect,
            }))
            .await;
        }
        assert_eq!(one.event("closed", Some(left)).await["matches"], json!(true));
        assert_eq!(other.event("closed", Some(right)).await["matches"], json!(true));

        // ours – relay of JS – ours
        let (mut left, mut right) = (ours.stream(), ours.stream());
        let (a, b) = (next_id(), next_id());
        one.say(json!({
            "cmd": "relay",
            "a": { "local": a, "remote": left.id(), "port": ours.port() },
            "b": { "local": b, "remote": right.id(), "port": ours.port() },
        }))
        .await;
        one.event("opened", Some(a)).await;
        left.connect(&ours.socket, a, localhost(one.port))
            .expect("connect");
        right
            .connect(&ours.socket, b, localhost(one.port))
            .expect("connect");
        let data = pattern(400_000, 21);
        let mut received = vec![0; data.len()];
        let (write, read) = tokio::join!(left.write_all(&data), right.read_exact(&mut received));
        write.expect("write");
        read.expect("read");
        assert!(received == data);
        drop(left);
        one.event("closed", Some(a)).await;
        assert!(right.closed().await.is_err(), "the DESTROY was relayed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_moves_from_a_relay_to_the_direct_path_without_losing_a_byte() {
    let (Some(mut relay), Some(mut peer)) = (Peer::start().await, Peer::start().await) else {
        return;
    };
    let ours = Ours::new();
    let (mut stream, theirs) = (ours.stream(), next_id());
    let (a, b) = (next_id(), next_id());
    within(async {
        relay
            .say(json!({
                "cmd": "relay",
                "a": { "local": a, "remote": stream.id(), "port": ours.port() },
                "b": { "local": b, "remote": theirs, "port": peer.port },
            }))
            .await;
        relay.event("opened", Some(a)).await;
        peer.say(json!({
            "cmd": "open", "local": theirs, "remote": b, "port": relay.port, "close": "end",
            "send": 2_000_000, "seed": 31, "expect": 2_000_000, "expectSeed": 32,
        }))
        .await;
        peer.event("opened", Some(theirs)).await;
        stream
            .connect(&ours.socket, a, localhost(relay.port))
            .expect("connect");
        let control = stream.control().clone();
        let data = pattern(2_000_000, 32);
        let mut received = vec![0; 2_000_000];
        let direct = localhost(peer.port);
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        let write = async {
            writer.write_all(&data[..1_000_000]).await.expect("write");
            control.change_remote(&ours.socket, theirs, direct).expect("move");
            control.send_message(b"").expect("message");
            writer.write_all(&data[1_000_000..]).await.expect("write");
            writer.shutdown().await.expect("shutdown");
        };
        let (id, port) = (control.id(), ours.port());
        let read = async {
            reader.read_exact(&mut received).await.expect("read");
        };
        let moves = async {
            peer.event("message", Some(theirs)).await;
            peer.say(json!({ "cmd": "move", "local": theirs, "remote": id, "port": port }))
                .await;
            peer.event("closed", Some(theirs)).await
        };
        let ((), (), closed) = tokio::join!(write, read, moves);
        assert!(received == pattern(2_000_000, 31));
        assert_eq!(
            (&closed["matches"], &closed["error"]),
            (&json!(true), &Value::Null),
            "{closed}"
        );
    })
    .await;
}

/// A UDP path between one of ours and one of JS that drops, doubles and delays packets, decided by a seed.
struct Forwarder {
    for_us: u16,
    for_js: u16,
    dropped: Arc<AtomicU32>,
    _tasks: JoinSet<()>,
}

impl Forwarder {
    async fn start(seed: u64, loss: f64, our_port: u16, js_port: u16) -> Self {
        let us = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("bind"));
        let js = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("bind"));
        let dropped = Arc::new(AtomicU32::new(0));
        let ports = (
            us.local_addr().expect("address").port(),
            js.local_addr().expect("address").port(),
        );
        let mut tasks = JoinSet::new();
        let lossy = Lossy {
            loss,
            dropped: dropped.clone(),
        };
        tasks.spawn(lossy.clone().forward(seed * 2, us.clone(), js.clone(), js_port));
        tasks.spawn(lossy.forward(seed * 2 + 1, js, us, our_port));
        Self {
            for_us: ports.0,
            for_js: ports.1,
            dropped,
            _tasks: tasks,
        }
    }
}

#[derive(Clone)]
struct Lossy {
    loss: f64,
    dropped: Arc<AtomicU32>,
}

impl Lossy {
    async fn forward(self, seed: u64, from: Arc<UdpSocket>, to: Arc<UdpSocket>, port: u16) {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut chance = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            f64::from((state >> 33) as u32) / f64::from(u32::MAX >> 1)
        };
        let mut buffer = [0; 2048];
        let mut held: Option<Vec<u8>> = None;
        loop {
            // A packet that was held back leaves with the next one, or soon.
            let received = tokio::time::timeout(Duration::from_millis(5), from.recv_from(&mut buffer)).await;
            let Ok(Ok((len, _))) = received else {
                if let Some(late) = held.take() {
                    drop(to.send_to(&late, localhost(port)).await);
                }
                continue;
            };
            if chance() < self.loss {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            // Every so often a packet waits until the next has passed it.
            if held.is_none() && chance() < 0.05 {
                held = Some(buffer[..len].to_vec());
                continue;
            }
            let copies = if chance() < 0.02 { 2 } else { 1 };
            for _ in 0..copies {
                drop(to.send_to(&buffer[..len], localhost(port)).await);
            }
            if let Some(late) = held.take() {
                drop(to.send_to(&late, localhost(port)).await);
            }
        }
    }
}
