//! Replicas of one cloud whose network lets no UDP through, or nothing but HTTP.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod replicas;

use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdTcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cumulet_api::{ArchiveSpec, ArchiveType};
use cumulet_node::config::{DEFAULT_SWARM_PORT, Options};
use cumulet_node::node::{Node, StartError};
use replicas::{BLOCKS, prepare, public_key, write_core};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(40);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Takes datagrams and answers none; nothing listens at its port over TCP.
fn hole() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Another address of a port, at which TCP gets through and datagrams are lost.
async fn tcp_alone(to: u16) -> (SocketAddr, UdpSocket, JoinSet<()>) {
    let (listener, hole) = loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // Somebody else may have the number for UDP.
        if let Ok(hole) = UdpSocket::bind(listener.local_addr().unwrap()) {
            break (listener, hole);
        }
    };
    let address = listener.local_addr().unwrap();
    let mut forwarding = JoinSet::new();
    forwarding.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut here, _)) = listener.accept().await {
            connections.spawn(async move {
                if let Ok(mut there) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await {
                    let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                }
            });
        }
    });
    (address, hole, forwarding)
}

fn options(data_dir: &Path, number: u8, nowhere: SocketAddr, replicas: &[String]) -> Options {
    prepare(data_dir, number);
    Options {
        data_dir: Some(data_dir.to_owned()),
        swarm_port: Some(0),
        // Nobody answers: nothing is found but who is named.
        bootstrap: vec![nowhere.to_string()],
        replicas_peers: replicas.to_vec(),
        ..Options::default()
    }
}

async fn start(options: Options) -> Arc<Node> {
    Node::start(&options.check().unwrap()).await.unwrap()
}

async fn keep(node: &Node, key: [u8; 32]) {
    let spec = ArchiveSpec {
        kind: ArchiveType::Core,
        ..ArchiveSpec::default()
    };
    node.pin(key, spec).await.unwrap();
    let here = async {
        while node.archive(&key).await.unwrap().stored_blocks < BLOCKS {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, here).await;
    assert!(in_time.is_ok(), "{:?}", node.swarm_stats());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_udp_gets_through_replicas_sync_over_tcp_at_the_port_of_the_swarm() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (_hole, nowhere) = hole();
    let key = write_core(folders[0].path()).await;
    let there = options(
        folders[0].path(),
        1,
        nowhere,
        &[format!("{}@{nowhere}", public_key(2))],
    );
    let writer = start(there).await;
    keep(&writer, key).await;
    let (address, _lost, _forwarding) = tcp_alone(writer.swarm_port()).await;
    let here = options(
        folders[1].path(),
        2,
        nowhere,
        &[format!("{}@{address}", public_key(1))],
    );
    let reader = start(here).await;
    keep(&reader, key).await;
    for node in [&reader, &writer] {
        let stats = node.swarm_stats();
        assert!(stats.over_tcp >= 1 && stats.over_websocket == 0, "{stats:?}");
    }
    reader.shutdown().await;
    writer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_neither_udp_nor_tcp_gets_through_replicas_sync_in_a_websocket() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (_hole, nowhere) = hole();
    let key = write_core(folders[0].path()).await;
    let web = StdTcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listen = web.local_addr().unwrap();
    drop(web);
    let there = Options {
        websocket_listen: Some(listen),
        ..options(
            folders[0].path(),
            1,
            nowhere,
            &[format!("{}@{nowhere}", public_key(2))],
        )
    };
    let writer = start(there).await;
    keep(&writer, key).await;
    let ways = [
        format!("{}@{nowhere}", public_key(1)),
        format!("{}@ws://localhost:{}/swarm", public_key(1), listen.port()),
    ];
    let reader = start(options(folders[1].path(), 2, nowhere, &ways)).await;
    keep(&reader, key).await;
    for node in [&reader, &writer] {
        let stats = node.swarm_stats();
        assert!(stats.over_websocket >= 1 && stats.over_tcp == 0, "{stats:?}");
    }
    // It is the swarm's, and no client of the DHT for browsers.
    assert_eq!(writer.service_counters().websocket.unwrap().clients, 0);
    reader.shutdown().await;
    writer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_replicas_that_announces_nothing_answers_nobody_over_tcp() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let folder = tempfile::tempdir().unwrap();
    let (_hole, nowhere) = hole();
    let node = start(options(folder.path(), 1, nowhere, &[])).await;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, node.swarm_port()))
        .await
        .unwrap();
    // The first message of a handshake.
    let _ = stream.write_all(&[&[32, 0, 0][..], &[7; 32]].concat()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(answer.is_empty(), "{answer:?}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_over_tcp_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let taken = StdTcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    assert_ne!(port, DEFAULT_SWARM_PORT);
    let (_hole, nowhere) = hole();
    let config = Options {
        swarm_port: Some(port),
        ..options(folder.path(), 1, nowhere, &[])
    };
    let error = Node::start(&config.check().unwrap()).await.unwrap_err();
    assert!(matches!(error, StartError::SwarmTcp { .. }), "{error:?}");
    let words = error.to_string();
    assert!(
        words.contains(&port.to_string()) && words.contains("--swarm-port"),
        "{words}"
    );
}
