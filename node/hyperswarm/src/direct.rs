//! Known hosts: peers whose key and addresses are known, such as the replicas of one cloud. They are met without the DHT, over
//! UDX or, where UDP does not get through, over TCP, or, where only HTTP does, in a WebSocket.
//!
//! TCP carries what JavaScript's secret stream (npm `@hyperswarm/secret-stream`) carries over a socket: a Noise XX handshake in frames
//! of a 24-bit little-endian length, then the secret stream. A WebSocket carries the same ([`crate::websocket`]). A [`Dialler`]
//! races them: UDX first, the others a little later ("Happy Eyeballs", RFC 8305), the first that is through is used and the
//! others are cancelled. A [`crate::Swarm`] races likewise, for peers whose addresses are known.
//!
//! XX tells whoever connects our public key; UDX does not.

use std::fmt;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cumulet_hyperdht::{ConnectError, ConnectOptions, Dht};
use cumulet_secret_stream::noise::{Handshake, KeyPair, NoiseError};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_util::task::TaskTracker;

pub use crate::accept::TcpServer;
use crate::connection::{Connection, Transport, set_up};
use crate::race::{Race, Verdict, Way};
use crate::watched::{Watched, WatchedControl};
use crate::websocket::{self, WebSocketUrl};

/// How long a whole handshake may take, the connection's included.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// Longest handshake message: two keys, a tag each, and room for a payload that we do not read.
const MAX_MESSAGE_BYTES: usize = 1_024;
/// Addresses tried over UDX.
const MAX_UDX_ADDRESSES: usize = 8;

/// Who may connect, by public key and address. Must return at once.
pub type Admits = Arc<dyn Fn(&[u8; 32], SocketAddr) -> bool + Send + Sync>;

/// Where a known host is. At most 8 addresses of each kind are tried, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownHost {
    /// Its public key.
    pub public_key: [u8; 32],
    /// Its DHT node's addresses.
    pub udx: Vec<SocketAddrV4>,
    /// Where it listens over TCP.
    pub tcp: Vec<SocketAddr>,
    /// Where it takes secret streams in WebSockets.
    pub websocket: Vec<WebSocketUrl>,
}

/// Why a peer was not met over TCP or in a WebSocket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectError {
    /// The connection failed.
    #[error("failed to reach the peer: {0}")]
    Transport(#[from] io::Error),
    /// There is no WebSocket, or none for secret streams.
    #[error("failed to open a WebSocket for secret streams: {0}")]
    WebSocket(#[from] Box<tokio_tungstenite::tungstenite::Error>),
    /// A `wss://` host can not prove who it is.
    #[error("failed to open a WebSocket over TLS: there are no certificates to trust; hint: Swarm::set_tls")]
    NoTls,
    /// The handshake failed.
    #[error("failed to shake hands")]
    Noise(#[from] NoiseError),
    /// A handshake message is longer than any.
    #[error("failed to shake hands: a message of {0} bytes")]
    TooLong(usize),
    /// Somebody else is there.
    #[error("failed to meet the peer: somebody else answered")]
    WrongPeer,
    /// Too slow.
    #[error("failed to meet the peer in time")]
    Timeout,
    /// The system gave no randomness.
    #[error("failed to draw randomness")]
    Entropy,
    /// Not known here, or nobody is let in now.
    #[error("failed to let the peer in: it is not admitted")]
    NotAdmitted,
    /// Too many shake hands already.
    #[error("failed to let the peer in: too many handshakes are under way")]
    Full,
    /// Nobody is let in any more.
    #[error("failed to let the peer in: the end has come")]
    Closed,
}

/// Why a known host was not met.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeetError {
    /// There is no address.
    #[error("failed to meet peer: no address of it is known")]
    NoAddress,
    /// No way came through in time.
    #[error("failed to meet peer in time")]
    Timeout,
    /// Every way failed; this is how the last of each kind did.
    #[error(
        "failed to meet peer: over UDP: {}; over TCP: {}; in a WebSocket: {}",
        words(udx.as_ref()), words(tcp.as_ref()), words(websocket.as_ref())
    )]
    AllFailed {
        /// Over UDX.
        udx: Option<ConnectError>,
        /// Over TCP.
        tcp: Option<DirectError>,
        /// In a WebSocket.
        websocket: Option<DirectError>,
    },
}

fn words<E: fmt::Display>(error: Option<&E>) -> String {
    error.map_or_else(|| "not tried".to_owned(), ToString::to_string)
}

async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> Result<(), DirectError> {
    let length = u32::try_from(message.len()).map_err(|_| DirectError::TooLong(message.len()))?;
    let frame = [&length.to_le_bytes()[..3], message].concat();
    stream.write_all(&frame).await?;
    Ok(stream.flush().await?)
}

/// Reads exactly one message: what follows is the secret stream's.
async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, DirectError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length[..3]).await?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE_BYTES {
        return Err(DirectError::TooLong(length));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(crate) async fn shake_hands<Io>(
    mut stream: Watched<Io>,
    is_initiator: bool,
    key_pair: KeyPair,
    transport: fn(Watched<Io>) -> Transport,
) -> Result<Connection, DirectError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let mut ephemeral = [0; 32];
    getrandom::fill(&mut ephemeral).map_err(|_| DirectError::Entropy)?;
    let mut handshake = Handshake::xx(is_initiator, key_pair, ephemeral, &[]);
    while !handshake.is_finished() {
        if handshake.is_my_turn() {
            let message = handshake.write(&[])?;
            write_message(&mut stream, &message).await?;
        } else {
            let message = read_message(&mut stream).await?;
            handshake.read(&message)?;
        }
    }
    let result = handshake.finish()?;
    stream.forget_counts();
    Ok(Connection {
        remote_public_key: result.remote_public_key,
        handshake: result,
        stream: transport(stream),
        is_initiator,
        relay: None,
    })
}

pub(crate) async fn in_time<T>(work: impl Future<Output = Result<T, DirectError>>) -> Result<T, DirectError> {
    tokio::time::timeout(HANDSHAKE_WAIT, work)
        .await
        .unwrap_or(Err(DirectError::Timeout))
}

fn expected(connection: Connection, public_key: &[u8; 32]) -> Result<Connection, DirectError> {
    if connection.remote_public_key == *public_key {
        Ok(connection)
    } else {
        Err(DirectError::WrongPeer)
    }
}

/// Connects over TCP to the owner of `public_key`, and to nobody else. Within 10 s.
///
/// # Errors
/// [`DirectError`].
pub async fn connect_tcp(
    address: SocketAddr,
    public_key: [u8; 32],
    key_pair: KeyPair,
) -> Result<Connection, DirectError> {
    let met = in_time(async {
        let stream = TcpStream::connect(address).await?;
        set_up(&stream)?;
        let stream = Watched::new(stream, WatchedControl::default());
        shake_hands(stream, true, key_pair, Transport::Tcp).await
    });
    expected(met.await?, &public_key)
}

/// Who dials, and with what.
#[derive(Clone)]
pub struct Dialler {
    /// The DHT node, for UDX.
    pub dht: Dht,
    /// Who we are.
    pub key_pair: KeyPair,
    /// Whom to believe that it is a `wss://` host; without it none is.
    pub tls: Option<Arc<ClientConfig>>,
    /// Where the tasks of WebSockets run.
    pub tasks: TaskTracker,
}

impl fmt::Debug for Dialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialler")
            .field("dht", &self.dht)
            .finish_non_exhaustive()
    }
}

type Ended = (Way, Result<Connection, Failed>);

enum Failed {
    Udx(ConnectError),
    Direct(DirectError),
}

impl Dialler {
    /// Connects in a WebSocket to the owner of `public_key`, and to nobody else. Within 10 s.
    ///
    /// # Errors
    /// [`DirectError`].
    pub async fn connect_websocket(
        &self,
        url: &WebSocketUrl,
        public_key: [u8; 32],
    ) -> Result<Connection, DirectError> {
        // Boxed, for opening it has much to remember.
        let met = Box::pin(in_time(async {
            let stream = websocket::open(url, self.tls.as_ref(), &self.tasks).await?;
            shake_hands(stream, true, self.key_pair.clone(), Transport::WebSocket).await
        }));
        expected(met.await?, &public_key)
    }

    /// Meets a known host: over UDX at once, over TCP when that has not succeeded within 250 ms or has failed, and so on with
    /// each of its addresses, those of WebSockets last. The first success wins; the other attempts are cancelled, and what they
    /// opened is closed.
    ///
    /// # Errors
    /// [`MeetError`].
    pub async fn meet(&self, host: &KnownHost) -> Result<Connection, MeetError> {
        let udp = (!host.udx.is_empty()).then(|| ConnectOptions {
            relay_addresses: host.udx.iter().take(MAX_UDX_ADDRESSES).copied().collect(),
            never_punch: true,
            ..ConnectOptions::new(self.key_pair.clone())
        });
        self.race(udp, host).await
    }

    fn attempt<'a>(
        &'a self,
        way: Way,
        udp: Option<&ConnectOptions>,
        public_key: [u8; 32],
    ) -> BoxFuture<'a, Ended> {
        match way {
            Way::Udp => {
                let options = udp.cloned();
                let options = options.unwrap_or_else(|| ConnectOptions::new(self.key_pair.clone()));
                Box::pin(async move {
                    let met = self.dht.connect(public_key, options).await;
                    (way, met.map(Connection::from).map_err(Failed::Udx))
                })
            }
            Way::Tcp(address) => {
                let met = connect_tcp(address, public_key, self.key_pair.clone());
                Box::pin(async move { (way, met.await.map_err(Failed::Direct)) })
            }
            Way::WebSocket(ref url) => {
                let url = url.clone();
                Box::pin(async move {
                    let met = self.connect_websocket(&url, public_key).await;
                    (way, met.map_err(Failed::Direct))
                })
            }
        }
    }

    /// Races whatever the DHT node finds with `udp` against the host's addresses; see `race`. Cancelled by dropping it.
    pub(crate) async fn race(
        &self,
        udp: Option<ConnectOptions>,
        host: &KnownHost,
    ) -> Result<Connection, MeetError> {
        if udp.is_none() && host.tcp.is_empty() && host.websocket.is_empty() {
            return Err(MeetError::NoAddress);
        }
        let mut race = Race::new(Instant::now(), udp.is_some(), host);
        let (mut udx, mut tcp, mut websocket) = (None, None, None);
        // The winner's return drops, and so cancels, the others.
        let mut attempts: FuturesUnordered<BoxFuture<'_, Ended>> = FuturesUnordered::new();
        loop {
            while let Some(way) = race.begin(Instant::now()) {
                attempts.push(self.attempt(way, udp.as_ref(), host.public_key));
            }
            let next = race.poll_timeout().map(tokio::time::Instant::from);
            let (way, ended) = tokio::select! {
                Some(ended) = attempts.next() => ended,
                () = tokio::time::sleep_until(next.unwrap_or_else(tokio::time::Instant::now)), if next.is_some() => continue,
            };
            match ended {
                Ok(connection) => {
                    let verdict = race.succeeded(&way);
                    tracing::debug!(?way, ?verdict, "met");
                    return Ok(connection);
                }
                Err(Failed::Udx(error)) => udx = Some(error),
                Err(Failed::Direct(error)) if matches!(way, Way::Tcp(_)) => tcp = Some(error),
                Err(Failed::Direct(error)) => websocket = Some(error),
            }
            if race.failed(Instant::now(), &way) == Verdict::Lost {
                return Err(MeetError::AllFailed { udx, tcp, websocket });
            }
        }
    }
}
