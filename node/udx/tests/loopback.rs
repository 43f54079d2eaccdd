//! Streams between two endpoints of ours over real sockets.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cumulet_udx::{Datagrams, Endpoint, Firewall, Socket, StreamOptions, UdxStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Tests must end: a stream that hangs is a failure. Far above what any of them needs.
const PATIENCE: Duration = Duration::from_mins(1);

struct Side {
    endpoint: Endpoint,
    socket: Socket,
    datagrams: Datagrams,
}

fn side() -> Side {
    let endpoint = Endpoint::with_system_entropy();
    let (socket, datagrams) = endpoint
        .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .expect("bind");
    Side {
        endpoint,
        socket,
        datagrams,
    }
}

fn pair(a: &Side, b: &Side) -> (UdxStream, UdxStream) {
    let left = a
        .endpoint
        .create_stream(StreamOptions::default())
        .expect("create");
    let right = b
        .endpoint
        .create_stream(StreamOptions::default())
        .expect("create");
    left.connect(&a.socket, right.id(), b.socket.local_addr())
        .expect("connect");
    right
        .connect(&b.socket, left.id(), a.socket.local_addr())
        .expect("connect");
    (left, right)
}

/// Bytes that differ at every position, so that a swap or a loss shows.
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

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("took too long")
}

async fn exchange(stream: UdxStream, send: Vec<u8>) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        writer.write_all(&send).await.expect("write");
        writer.shutdown().await.expect("shutdown");
    };
    let mut received = Vec::new();
    let read = reader.read_to_end(&mut received);
    let ((), n) = tokio::join!(write, read);
    n.expect("read");
    received
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_amount_arrives_whole_in_both_directions_at_once() {
    let (a, b) = (side(), side());
    for len in [0, 1, 1131, 1152, 1153, 100_000, 10 << 20] {
        let (left, right) = pair(&a, &b);
        let (to_right, to_left) = (pattern(len, 7), pattern(len, 9));
        let (at_left, at_right) = within(async {
            tokio::join!(exchange(left, to_right.clone()), exchange(right, to_left.clone()))
        })
        .await;
        assert!(at_left == to_left && at_right == to_right, "{len} bytes");
    }
}

#[tokio::test]
async fn both_sides_close_cleanly_after_both_ended() {
    let (a, b) = (side(), side());
    let (mut left, mut right) = pair(&a, &b);
    let (left_control, right_control) = (left.control().clone(), right.control().clone());
    within(async {
        let (one, other) = tokio::join!(left.shutdown(), right.shutdown());
        one.expect("left shutdown");
        other.expect("right shutdown");
        left_control.closed().await.expect("left closes");
        right_control.closed().await.expect("right closes");
    })
    .await;
    assert_eq!(left.read(&mut [0; 8]).await.expect("end"), 0);
    assert_eq!(
        left.stats().retransmits,
        0,
        "a clean close needs no retransmission on loopback"
    );
}

#[tokio::test]
async fn dropping_a_stream_resets_the_other_side_after_what_arrived_was_read() {
    let (a, b) = (side(), side());
    let (mut left, mut right) = pair(&a, &b);
    within(async {
        left.write_all(b"last words").await.expect("write");
        let mut read = [0; 10];
        right.read_exact(&mut read).await.expect("read");
        drop(left);
        let error = right.read(&mut read).await.expect_err("reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let error = right.write(b"x").await.expect_err("reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert!(right.closed().await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_server_adopts_the_source_of_the_first_packet() {
    let (a, b) = (side(), side());
    let mut client = a
        .endpoint
        .create_stream(StreamOptions::default())
        .expect("create");
    let mut server = b
        .endpoint
        .create_stream(StreamOptions::default())
        .expect("create");
    client.write_all(b"written before connect").await.expect("write");
    client
        .connect(&a.socket, server.id(), b.socket.local_addr())
        .expect("connect");
    within(async {
        let source = server.first_packet().await.expect("a packet");
        assert_eq!(
            (&source.socket, source.address),
            (&b.socket, a.socket.local_addr())
        );
        server
            .connect(&source.socket, client.id(), source.address)
            .expect("connect");
        let mut read = [0; 22];
        server.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"written before connect");
        server.write_all(b"hello").await.expect("write");
        client.read_exact(&mut read[..5]).await.expect("read");
    })
    .await;
}

#[tokio::test]
async fn the_firewall_keeps_packets_out_until_it_agrees() {
    let (a, b) = (side(), side());
    let (asked, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let mut calls = 0;
    let firewall = Firewall::Ask(Box::new(move |source| {
        calls += 1;
        asked.send(source.address).is_ok() && calls > 1
    }));
    let client = a
        .endpoint
        .create_stream(StreamOptions::default())
        .expect("create");
    let server = b
        .endpoint
        .create_stream(StreamOptions {
            firewall,
            ..StreamOptions::default()
        })
        .expect("create");
    client
        .connect(&a.socket, server.id(), b.socket.local_addr())
        .expect("connect");
    within(async {
        client.send_message(b"refused").expect("send");
        assert_eq!(answers.recv().await, Some(a.socket.local_addr()));
        client.send_message(b"admitted").expect("send");
        assert_eq!(server.recv_message().await.as_deref(), Some(&b"admitted"[..]));
    })
    .await;
}

#[tokio::test]
async fn datagrams_that_are_no_stream_packets_reach_the_owner_of_the_socket() {
    let (mut a, b) = (side(), side());
    let to = a.socket.local_addr();
    b.socket.send_to(&[0x03, 1, 2], to).await.expect("send");
    b.socket.send_to_with_ttl(&[0], to, 5).await.expect("send");
    let unknown = cumulet_udx::packet::Header {
        stream_id: 77,
        ..Default::default()
    }
    .encode();
    b.socket.send_to(&unknown, to).await.expect("send");
    within(async {
        for expected in [&[3, 1, 2][..], &[0], &unknown] {
            let datagram = a.datagrams.recv().await.expect("a datagram");
            assert_eq!(
                (&datagram.bytes[..], datagram.from),
                (expected, b.socket.local_addr())
            );
        }
    })
    .await;
}

#[tokio::test]
async fn messages_arrive_one_by_one_even_empty_ones() {
    let (a, b) = (side(), side());
    let (left, right) = pair(&a, &b);
    left.send_message(b"").expect("send");
    left.send_message(b"one").expect("send");
    assert!(left.send_message(&[0; 1153]).is_err(), "longer than a packet");
    within(async {
        assert_eq!(right.recv_message().await.as_deref(), Some(&b""[..]));
        assert_eq!(right.recv_message().await.as_deref(), Some(&b"one"[..]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_moves_to_another_socket_and_id_in_the_middle_of_a_transfer() {
    let (a, b) = (side(), side());
    let (other_socket, _datagrams) = b
        .endpoint
        .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .expect("bind");
    let (left, mut right) = pair(&a, &b);
    let mut left = left;
    let control = left.control().clone();
    let sent = pattern(4 << 20, 3);
    let target = right.id();
    within(async {
        let writer = async {
            left.write_all(&sent).await.expect("write");
        };
        let reader = async {
            let mut received = vec![0; 4 << 20];
            let (first, rest) = received.split_at_mut(1 << 20);
            right.read_exact(first).await.expect("read");
            control
                .change_remote(&a.socket, target, other_socket.local_addr())
                .expect("move");
            right.read_exact(rest).await.expect("read");
            received
        };
        let ((), received) = tokio::join!(writer, reader);
        assert!(received == sent);
        left.write_all(b"from the new place").await.expect("write");
        let mut last = [0; 18];
        right.read_exact(&mut last).await.expect("read");
        assert_eq!(right.source().map(|source| source.socket), Some(other_socket));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_leaves_out_of_a_run_of_packets_what_it_may_not_forward() {
    let (a, b, relay) = (side(), side(), side());
    let create = |side: &Side| {
        side.endpoint
            .create_stream(StreamOptions::default())
            .expect("create")
    };
    let (left, right, to_left, to_right) = (create(&a), create(&b), create(&relay), create(&relay));
    let connect = |stream: &UdxStream, from: &Side, id, to: &Side| {
        stream
            .connect(&from.socket, id, to.socket.local_addr())
            .expect("connect");
    };
    connect(&to_left, &relay, left.id(), &a);
    connect(&to_right, &relay, right.id(), &b);
    let asked = Arc::new(AtomicU64::new(0));
    let counted = asked.clone();
    let allow = move |packet: &[u8]| packet.len() >= 20 && counted.fetch_add(1, Ordering::Relaxed) % 30 != 29;
    to_left.relay_to(&to_right, Some(Arc::new(allow)));
    to_right.relay_to(&to_left, None);
    connect(&left, &a, to_left.id(), &relay);
    connect(&right, &b, to_right.id(), &relay);
    let data = pattern(1 << 20, 6);
    within(async {
        let (at_left, at_right) = tokio::join!(exchange(left, data.clone()), exchange(right, data.clone()));
        assert!(at_left == data && at_right == data);
    })
    .await;
    let relayed = to_left.stats().relayed_packets;
    let asked = asked.load(Ordering::Relaxed);
    assert!(
        relayed <= asked - asked / 30 && relayed > 700,
        "{relayed} of {asked} packets went on"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_streams_meet_through_a_relay_that_only_rewrites_ids() {
    let (a, b, relay) = (side(), side(), side());
    let left = a
        .endpoint
        .create_stream(StreamOptions::default())
        .expect("create");
    let right = b
        .endpoint
        .create_stream(StreamOptions::default())
        .expect("create");
    let to_left = relay
        .endpoint
        .create_stream(StreamOptions::default())
        .expect("create");
    let to_right = relay
        .endpoint
        .create_stream(StreamOptions::default())
        .expect("create");
    to_left
        .connect(&relay.socket, left.id(), a.socket.local_addr())
        .expect("connect");
    to_right
        .connect(&relay.socket, right.id(), b.socket.local_addr())
        .expect("connect");
    to_left.relay_to(&to_right, None);
    to_right.relay_to(&to_left, None);
    left.connect(&a.socket, to_left.id(), relay.socket.local_addr())
        .expect("connect");
    right
        .connect(&b.socket, to_right.id(), relay.socket.local_addr())
        .expect("connect");
    let right_control = right.control().clone();
    let data = pattern(1 << 20, 5);
    within(async {
        let (at_left, at_right) = tokio::join!(exchange(left, data.clone()), exchange(right, data.clone()));
        assert!(at_left == data && at_right == data);
        right_control.closed().await.expect("both ended");
    })
    .await;
    let stats = to_left.stats();
    assert!(
        stats.relayed_bytes >= 1 << 20 && stats.bytes_received == 0,
        "{stats:?}"
    );

    // A relayed DESTROY closes both halves of the relay.
    let other = a
        .endpoint
        .create_stream(StreamOptions::default())
        .expect("create");
    other
        .connect(&a.socket, to_left.id(), relay.socket.local_addr())
        .expect("connect");
    other.destroy();
    within(async {
        assert!(to_left.closed().await.is_err());
        to_right
            .closed()
            .await
            .expect("closed without an error of its own");
    })
    .await;
}

#[tokio::test]
async fn closing_an_endpoint_resets_its_peers_and_ends_its_tasks() {
    let (a, b) = (side(), side());
    let (_left, right) = pair(&a, &b);
    within(async {
        a.endpoint.close().await;
        assert!(right.closed().await.is_err());
    })
    .await;
    assert_eq!(a.endpoint.stream_count(), 0);
    assert!(a.endpoint.create_stream(StreamOptions::default()).is_err());
}

#[tokio::test]
async fn a_reader_that_sleeps_holds_the_writer_back_and_lets_it_go_on() {
    let (a, b) = (side(), side());
    let left = a
        .endpoint
        .create_stream(StreamOptions::default())
        .expect("create");
    let mut right = b
        .endpoint
        .create_stream(StreamOptions {
            receive_window: 64 * 1024,
            ..StreamOptions::default()
        })
        .expect("create");
    left.connect(&a.socket, right.id(), b.socket.local_addr())
        .expect("connect");
    right
        .connect(&b.socket, left.id(), a.socket.local_addr())
        .expect("connect");
    let data = pattern(3 << 20, 11);
    let expected = data.clone();
    let writer = async move {
        let mut left = left;
        left.write_all(&data).await.expect("write");
        left.shutdown().await.expect("shutdown");
    };
    let reader = async {
        let mut received = Vec::new();
        let mut chunk = vec![0; 40_000];
        loop {
            // Reads only when nothing more comes in: the window has run full.
            let before = right.stats().packets_received;
            tokio::time::sleep(Duration::from_millis(2)).await;
            if right.stats().packets_received > before {
                continue;
            }
            match right.read(&mut chunk).await.expect("read") {
                0 => return received,
                n => received.extend_from_slice(&chunk[..n]),
            }
        }
    };
    let ((), received) = within(async { tokio::join!(writer, reader) }).await;
    assert!(received == expected);
}
