//! Secret streams in WebSockets: as the last way of a race, behind a TLS proxy, and cancelled.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "../../hyperdht/tests/support/mod.rs"]
mod support;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use cumulet_hyperdht::FirewallHook;
use cumulet_hyperswarm::direct::{Dialler, DirectError, KnownHost, MeetError};
use cumulet_hyperswarm::websocket::{SUBPROTOCOL, WebSocketUrl};
use cumulet_hyperswarm::{Connection, Swarm, SwarmConfig, SwarmLimits, Transport};
use cumulet_secret_stream::noise::KeyPair;
use futures::StreamExt;
use support::{echo_over, expect_echo_over, fresh_key_pair, node};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::aws_lc_rs};
use tokio_rustls::{TlsAcceptor, rustls};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async, client_async};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const PATIENCE: Duration = Duration::from_secs(30);

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("in time")
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn url(scheme: &str, host: &str, port: u16) -> WebSocketUrl {
    format!("{scheme}://{host}:{port}/any/path").parse().unwrap()
}

struct Side {
    swarm: Swarm,
    /// Where it listens for WebSockets.
    address: SocketAddr,
}

async fn side(key_pair: &KeyPair, firewall: Option<FirewallHook>) -> Side {
    let config = SwarmConfig {
        key_pair: key_pair.clone(),
        limits: SwarmLimits::default(),
        firewall,
    };
    let dht = node(&[], Some(false)).await;
    let swarm = Swarm::spawn(dht, config, &TaskTracker::new(), CancellationToken::new());
    swarm.listen(false).await.unwrap();
    let (listener, address) = listener().await;
    swarm.listen_websocket(listener).unwrap();
    Side { swarm, address }
}

async fn dialler(key_pair: &KeyPair) -> Dialler {
    Dialler {
        dht: node(&[], None).await,
        key_pair: key_pair.clone(),
        tls: None,
        tasks: TaskTracker::new(),
    }
}

async fn next(swarm: &Swarm) -> Connection {
    in_time(swarm.next_connection()).await.unwrap()
}

fn echo_all(swarm: &Swarm) -> JoinSet<()> {
    let swarm = swarm.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut echoes = JoinSet::new();
        while let Some(connection) = swarm.next_connection().await {
            echoes.spawn(echo_over(connection.stream, connection.handshake));
        }
    });
    tasks
}

/// A port at which TCP is refused, and a socket that keeps it so: it takes datagrams and answers none.
fn refused() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_neither_udp_nor_tcp_gets_through_a_peer_is_met_in_a_websocket() {
    let b = side(&fresh_key_pair(), None).await;
    let a = side(&fresh_key_pair(), None).await;
    let _echoes = echo_all(&b.swarm);
    let (_hole, closed) = refused();
    let host = KnownHost {
        public_key: *b.swarm.public_key(),
        udx: vec![support::address(&closed.to_string())],
        tcp: vec![closed],
        websocket: vec![url("ws", "localhost", b.address.port())],
    };
    a.swarm.join_host(host).unwrap();
    let connection = next(&a.swarm).await;
    assert!(matches!(connection.stream, Transport::WebSocket(_)) && connection.is_initiator);
    assert_eq!(connection.remote_public_key, *b.swarm.public_key());
    expect_echo_over(connection.stream, connection.handshake)
        .await
        .unwrap();
    let stats = [&a, &b].map(|side| side.swarm.stats());
    assert_eq!(
        stats.map(|stats| (stats.over_tcp, stats.over_websocket)),
        [(0, 1); 2]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transfer_arrives_whole_in_both_directions_at_once() {
    const LENGTH: usize = 24 << 20;
    let b = side(&fresh_key_pair(), None).await;
    let dialler = dialler(&fresh_key_pair()).await;
    let at = url("ws", "127.0.0.1", b.address.port());
    let ours = in_time(dialler.connect_websocket(&at, *b.swarm.public_key())).await;
    let mut ours = ours.unwrap().stream;
    // The other side is given out once something came.
    ours.write_all(b"!").await.unwrap();
    let mut theirs = next(&b.swarm).await.stream;
    theirs.read_exact(&mut [0; 1]).await.unwrap();
    let carry = |io: Transport, seed: u8| async move {
        let (mut reader, mut writer) = tokio::io::split(io);
        let byte = |at: usize, seed: u8| (at / 251) as u8 ^ (at % 251) as u8 ^ seed;
        let sending = async {
            let bytes: Vec<u8> = (0..LENGTH).map(|at| byte(at, seed)).collect();
            writer.write_all(&bytes).await.unwrap();
            writer.flush().await.unwrap();
        };
        let receiving = async {
            let mut bytes = vec![0; LENGTH];
            reader.read_exact(&mut bytes).await.unwrap();
            bytes
                .iter()
                .enumerate()
                .all(|(at, got)| *got == byte(at, 1 - seed))
        };
        tokio::join!(sending, receiving).1
    };
    let (ours, theirs) = (tokio::spawn(carry(ours, 0)), tokio::spawn(carry(theirs, 1)));
    assert!(in_time(ours).await.unwrap() && in_time(theirs).await.unwrap());
}

/// Speaks TLS at an address, and passes everything on to another: what an Ingress does.
async fn tls_proxy(to: SocketAddr) -> (SocketAddr, Arc<ClientConfig>, JoinSet<()>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (listener, address) = listener().await;
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let mut proxy = JoinSet::new();
    proxy.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                let Ok(mut here) = acceptor.accept(stream).await else {
                    return;
                };
                let mut there = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
            });
        }
    });
    (address, Arc::new(client), proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_tls_a_host_is_met_by_who_trusts_its_certificate_and_by_nobody_else() {
    let b = side(&fresh_key_pair(), None).await;
    let _echoes = echo_all(&b.swarm);
    let (proxy, trusting, _proxy) = tls_proxy(b.address).await;
    let public_key = *b.swarm.public_key();
    let at = url("wss", "localhost", proxy.port());
    let mut dialler = dialler(&fresh_key_pair()).await;
    let without = in_time(dialler.connect_websocket(&at, public_key)).await;
    assert!(matches!(without, Err(DirectError::NoTls)), "{without:?}");
    dialler.tls = Some(trusting.clone());
    let met = in_time(dialler.connect_websocket(&at, public_key)).await.unwrap();
    expect_echo_over(met.stream, met.handshake).await.unwrap();
    let other_name = url("wss", "127.0.0.1", proxy.port());
    let met = in_time(dialler.connect_websocket(&other_name, public_key)).await;
    assert!(matches!(met, Err(DirectError::Transport(_))), "{met:?}");

    // And by a swarm.
    let a = side(&fresh_key_pair(), None).await;
    a.swarm.set_tls(trusting).unwrap();
    let (_hole, closed) = refused();
    let host = KnownHost {
        public_key,
        udx: vec![support::address(&closed.to_string())],
        websocket: vec![at],
        ..KnownHost::default()
    };
    a.swarm.join_host(host).unwrap();
    let connection = next(&a.swarm).await;
    expect_echo_over(connection.stream, connection.handshake)
        .await
        .unwrap();
}

/// Confirms every subprotocol, as many servers do.
#[expect(
    clippy::result_large_err,
    clippy::unnecessary_wraps,
    reason = "the library's own"
)]
fn confirm(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let asked = request.headers()["sec-websocket-protocol"].clone();
    assert_eq!(asked, SUBPROTOCOL);
    response.headers_mut().insert("sec-websocket-protocol", asked);
    Ok(response)
}

/// A host that takes WebSockets and says nothing in them; whether it was said goodbye to is told.
async fn silent_host() -> (SocketAddr, oneshot::Receiver<()>, JoinSet<bool>) {
    let (listener, address) = listener().await;
    let (begun, has_begun) = oneshot::channel();
    let mut host = JoinSet::new();
    host.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket: WebSocketStream<TcpStream> = accept_hdr_async(stream, confirm).await.unwrap();
        // The first message of the handshake.
        assert!(matches!(socket.next().await, Some(Ok(Message::Binary(_)))));
        begun.send(()).unwrap();
        matches!(socket.next().await, Some(Ok(Message::Close(_))))
    });
    (address, has_begun, host)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_cancelled_says_goodbye_and_leaves_nothing_behind() {
    let (address, has_begun, mut host) = silent_host().await;
    let dialler = dialler(&fresh_key_pair()).await;
    let at = url("ws", "127.0.0.1", address.port());
    tokio::select! {
        met = dialler.connect_websocket(&at, [1; 32]) => panic!("{met:?}"),
        begun = has_begun => begun.unwrap(),
    }
    assert!(in_time(host.join_next()).await.unwrap().unwrap());
    dialler.tasks.close();
    in_time(dialler.tasks.wait()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_tcp_wins_the_race_the_websocket_that_was_begun_is_closed() {
    let theirs = fresh_key_pair();
    let b = side(&theirs, None).await;
    let (listener_tcp, direct) = listener().await;
    b.swarm.listen_tcp(listener_tcp).unwrap();
    let (address, has_begun, mut host) = silent_host().await;
    // TCP goes through only once the WebSocket is under way.
    let (slow, slow_address) = listener().await;
    let mut proxy = JoinSet::new();
    proxy.spawn(async move {
        let (mut here, _) = slow.accept().await.unwrap();
        has_begun.await.unwrap();
        let mut there = TcpStream::connect(direct).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
    });
    let dialler = dialler(&fresh_key_pair()).await;
    let known = KnownHost {
        public_key: *theirs.public_key(),
        tcp: vec![slow_address],
        websocket: vec![url("ws", "127.0.0.1", address.port())],
        ..KnownHost::default()
    };
    let met = in_time(dialler.meet(&known)).await.unwrap();
    assert!(matches!(met.stream, Transport::Tcp(_)));
    assert!(
        in_time(host.join_next()).await.unwrap().unwrap(),
        "not said goodbye to"
    );
    dialler.tasks.close();
    in_time(dialler.tasks.wait()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_websocket_too_the_firewall_is_asked_and_only_the_known_host_is_met() {
    let (ours, theirs) = (fresh_key_pair(), fresh_key_pair());
    let admitted = *ours.public_key();
    let hook: FirewallHook = Arc::new(move |key, _, address| *key == admitted && address.ip().is_loopback());
    let b = side(&theirs, Some(hook)).await;
    let _echoes = echo_all(&b.swarm);
    let at = url("ws", "127.0.0.1", b.address.port());
    let dialler_of = async |key_pair: &KeyPair| dialler(key_pair).await;
    let known = dialler_of(&ours).await;
    let wrong = in_time(known.connect_websocket(&at, admitted)).await;
    assert!(matches!(wrong, Err(DirectError::WrongPeer)), "{wrong:?}");
    let stranger = dialler_of(&fresh_key_pair()).await;
    let refused = in_time(stranger.connect_websocket(&at, *theirs.public_key())).await;
    // Its handshake ends well, and its connection at once after it.
    let refused = refused.unwrap();
    expect_echo_over(refused.stream, refused.handshake)
        .await
        .unwrap_err();
    let met = in_time(known.connect_websocket(&at, *theirs.public_key())).await;
    let met = met.unwrap();
    expect_echo_over(met.stream, met.handshake).await.unwrap();

    b.swarm.ban(admitted, true).unwrap();
    // The order is the swarm's own: once this is answered, the ban holds.
    let peers = b.swarm.peers().await;
    assert!(peers.iter().any(|peer| peer.banned));
    let banned = in_time(known.connect_websocket(&at, *theirs.public_key())).await;
    let banned = banned.unwrap();
    expect_echo_over(banned.stream, banned.handshake)
        .await
        .unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_something_else_gets_words_and_who_does_not_listen_answers_nobody() {
    let b = side(&fresh_key_pair(), None).await;
    let stream = TcpStream::connect(b.address).await.unwrap();
    let met = in_time(client_async(format!("ws://{}/", b.address), stream)).await;
    let Err(Error::Http(refusal)) = met else {
        panic!("{met:?}")
    };
    assert_eq!(refusal.status(), 400);

    let config = SwarmConfig {
        key_pair: fresh_key_pair(),
        limits: SwarmLimits::default(),
        firewall: None,
    };
    let dht = node(&[], Some(false)).await;
    let quiet = Swarm::spawn(dht, config, &TaskTracker::new(), CancellationToken::new());
    let [(tcp, at_tcp), (websocket, at_websocket)] = [listener().await, listener().await];
    quiet.listen_tcp(tcp).unwrap();
    quiet.listen_websocket(websocket).unwrap();
    let known = KnownHost {
        public_key: *quiet.public_key(),
        tcp: vec![at_tcp],
        websocket: vec![url("ws", "127.0.0.1", at_websocket.port())],
        ..KnownHost::default()
    };
    let dialler = dialler(&fresh_key_pair()).await;
    let met = in_time(dialler.meet(&known)).await;
    let Err(MeetError::AllFailed { udx, tcp, websocket }) = met else {
        panic!("{met:?}")
    };
    assert!(udx.is_none() && tcp.is_some() && websocket.is_some());
    quiet.listen(false).await.unwrap();
    assert!(in_time(dialler.meet(&known)).await.is_ok());
}
