//! Known hosts, met over UDX and TCP.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "../../hyperdht/tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cumulet_hyperdht::{Dht, ListenOptions};
use cumulet_hyperswarm::direct::{Dialler, DirectError, KnownHost, MeetError, TcpServer, connect_tcp};
use cumulet_hyperswarm::{Connection, Transport};
use cumulet_secret_stream::noise::KeyPair;
use cumulet_secret_stream::{Event, SecretStream};
use support::{fresh_key_pair, node};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Sends `say` and returns the first message of the other side.
async fn exchange(connection: Connection, say: &[u8]) -> Vec<u8> {
    let mut stream = connection.stream;
    let mut secret = SecretStream::from_handshake(connection.handshake, [7; 24]);
    secret.send(say).unwrap();
    stream.write_all(&secret.take_output()).await.unwrap();
    let mut buffer = [0; 4_096];
    loop {
        if let Some(event) = secret.poll_event().unwrap() {
            if let Event::Message(message) = event {
                return message.to_vec();
            }
            continue;
        }
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0);
        secret.receive(&buffer[..read]);
    }
}

fn dialler(dht: Dht, key_pair: &KeyPair) -> Dialler {
    Dialler {
        dht,
        key_pair: key_pair.clone(),
        tls: None,
        tasks: TaskTracker::new(),
    }
}

struct Host {
    server: TcpServer,
    address: SocketAddr,
    _end: tokio_util::sync::DropGuard,
}

async fn host(key_pair: &KeyPair, admitted: Option<[u8; 32]>) -> Host {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cancel = CancellationToken::new();
    let admits = Arc::new(move |key: &[u8; 32], _| admitted.is_none_or(|admitted| admitted == *key));
    let server = TcpServer::new(listener, key_pair.clone(), admits, &TaskTracker::new(), &cancel);
    Host {
        server,
        address,
        _end: cancel.drop_guard(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_does_not_get_through_tcp_does_soon() {
    let (ours, theirs) = (fresh_key_pair(), fresh_key_pair());
    let host = host(&theirs, None).await;
    let dialler = dialler(node(&[], None).await, &ours);
    // Takes datagrams and answers none.
    let hole = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let std::net::SocketAddr::V4(hole_address) = hole.local_addr().unwrap() else {
        panic!("not IPv4")
    };
    let known = KnownHost {
        public_key: *theirs.public_key(),
        udx: vec![hole_address],
        tcp: vec![host.address],
        websocket: Vec::new(),
    };
    let begun = Instant::now();
    let (met, accepted) = tokio::join!(dialler.meet(&known), host.server.accept());
    let (met, accepted) = (met.unwrap(), accepted.unwrap());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(
        begun.elapsed() >= Duration::from_millis(250),
        "UDX had no head start"
    );
    assert!(matches!(met.stream, Transport::Tcp(_)));
    assert_eq!(accepted.remote_public_key, *ours.public_key());
    let (heard, said) = tokio::join!(exchange(met, b"ping"), exchange(accepted, b"pong"));
    assert_eq!((&heard[..], &said[..]), (&b"pong"[..], &b"ping"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_gets_through_tcp_is_not_even_tried() {
    let (ours, theirs) = (fresh_key_pair(), fresh_key_pair());
    let host = host(&theirs, None).await;
    let (here, there) = (node(&[], None).await, node(&[], Some(false)).await);
    let listening = ListenOptions {
        private: true,
        ..ListenOptions::default()
    };
    let mut server = there.listen(theirs.clone(), listening).await.unwrap();
    let known = KnownHost {
        public_key: *theirs.public_key(),
        udx: vec![there.local_address()],
        tcp: vec![host.address],
        websocket: Vec::new(),
    };
    let dialler = dialler(here, &ours);
    let (met, accepted) = tokio::join!(dialler.meet(&known), server.accept());
    assert!(matches!(met.unwrap().stream, Transport::Udx(_)));
    assert_eq!(accepted.unwrap().remote_public_key, *ours.public_key());
    let over_tcp = tokio::time::timeout(Duration::from_millis(400), host.server.accept()).await;
    assert!(over_tcp.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_known_host_is_met_and_nobody_but_the_admitted_gets_in() {
    let (ours, theirs) = (fresh_key_pair(), fresh_key_pair());
    let host = host(&theirs, Some(*ours.public_key())).await;
    let wrong = connect_tcp(host.address, *ours.public_key(), ours.clone()).await;
    assert!(matches!(wrong, Err(DirectError::WrongPeer)), "{wrong:?}");
    drop(host.server.accept().await);
    // A stranger's handshake ends well, and its connection at once after it.
    let stranger = connect_tcp(host.address, *theirs.public_key(), fresh_key_pair())
        .await
        .unwrap();
    let Transport::Tcp(mut stream) = stranger.stream else {
        panic!("not over TCP")
    };
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0; 64]))
        .await
        .unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
    // Garbage, and a length that nobody may make us hold.
    let mut garbage = TcpStream::connect(host.address).await.unwrap();
    garbage.write_all(&[0xff; 64]).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), garbage.read(&mut [0; 64]))
        .await
        .unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
    let (met, accepted) = tokio::join!(
        connect_tcp(host.address, *theirs.public_key(), ours.clone()),
        host.server.accept()
    );
    met.unwrap();
    assert_eq!(accepted.unwrap().remote_public_key, *ours.public_key());
    let dialler = dialler(node(&[], None).await, &ours);
    let nowhere = dialler.meet(&KnownHost::default()).await;
    assert!(matches!(nowhere, Err(MeetError::NoAddress)));
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let known = KnownHost {
        public_key: *theirs.public_key(),
        udx: Vec::new(),
        tcp: vec![closed, closed],
        websocket: Vec::new(),
    };
    let failed = dialler.meet(&known).await;
    assert!(
        matches!(
            failed,
            Err(MeetError::AllFailed {
                udx: None,
                tcp: Some(_),
                websocket: None,
            })
        ),
        "{failed:?}"
    );
}
