//! Known hosts: peers whose key and addresses are known, such as the replicas of one cloud. They are met without the DHT, over
//! UDX or, where UDP does not get through, over TCP.
//!
//! TCP carries what JavaScript's secret stream (npm `@hyperswarm/secret-stream`) carries over a socket: a Noise XX handshake in frames
//! of a 24-bit little-endian length, then the secret stream. [`meet`] races both: UDX first, TCP a little later ("Happy Eyeballs",
//! RFC 8305), the first that is through is used and the other one dropped.

use std::fmt;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cumulet_hyperdht::{ConnectError, ConnectOptions, Dht};
use cumulet_secret_stream::noise::{Handshake, HandshakeResult, KeyPair, NoiseError};
use cumulet_udx::UdxStream;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Between two attempts of a race: RFC 8305's recommendation.
const STAGGER: Duration = Duration::from_millis(250);
/// How long a whole handshake may take, the connection's included.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// Longest handshake message: two keys, a tag each, and room for a payload that we do not read.
const MAX_MESSAGE_BYTES: usize = 1_024;
/// Handshakes of strangers at a time. Beyond, they wait in the listener's backlog.
const MAX_HANDSHAKES: usize = 64;
/// Accepted connections that wait to be taken; beyond, handshakes wait.
const ACCEPT_QUEUE: usize = 64;
/// Addresses tried of each kind.
const MAX_ADDRESSES: usize = 8;
/// A pause after the listener failed, as it does when descriptors run out.
const LISTEN_PAUSE: Duration = Duration::from_millis(100);

/// Who may connect, by public key. Must return at once.
pub type Admits = Arc<dyn Fn(&[u8; 32]) -> bool + Send + Sync>;

/// The bytes' way.
#[derive(Debug)]
pub enum Transport {
    /// Over UDP.
    Udx(UdxStream),
    /// Over TCP.
    Tcp(TcpStream),
}

/// A peer that was met: the handshake is done, the transport carries the secret stream's bytes (its header first).
pub struct Direct {
    /// The peer's Ed25519 public key, authenticated.
    pub remote_public_key: [u8; 32],
    /// Keys for the secret stream.
    pub handshake: HandshakeResult,
    /// The raw bytes. Nothing of the secret stream has been written or read.
    pub transport: Transport,
    /// Whether we dialled.
    pub is_initiator: bool,
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct")
            .field("transport", &self.transport)
            .field("is_initiator", &self.is_initiator)
            .finish_non_exhaustive()
    }
}

/// Where a known host is. At most 8 addresses of each kind are tried, in order.
#[derive(Debug, Clone, Default)]
pub struct KnownHost {
    /// Its public key.
    pub public_key: [u8; 32],
    /// Its DHT node's addresses.
    pub udx: Vec<SocketAddrV4>,
    /// Where it listens by [`TcpServer`].
    pub tcp: Vec<SocketAddr>,
}

/// Why a handshake over TCP failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TcpError {
    /// The connection failed.
    #[error("failed to meet peer over TCP")]
    Transport(#[from] io::Error),
    /// The handshake did.
    #[error("failed to shake hands over TCP")]
    Noise(#[from] NoiseError),
    /// A handshake message is longer than any.
    #[error("failed to shake hands over TCP: a message of {0} bytes")]
    TooLong(usize),
    /// Somebody else is there.
    #[error("failed to meet peer over TCP: somebody else answered")]
    WrongPeer,
    /// Not admitted.
    #[error("failed to accept peer over TCP: it is not admitted")]
    Refused,
    /// Too slow.
    #[error("failed to meet peer over TCP in time")]
    Timeout,
    /// The system gave no randomness.
    #[error("failed to draw randomness")]
    Entropy,
}

/// Why a known host was not met.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeetError {
    /// There is no address.
    #[error("failed to meet peer: no address of it is known")]
    NoAddress,
    /// Every way failed; this is how the last of each kind did.
    #[error("failed to meet peer: over UDP: {}; over TCP: {}", words(udx.as_ref()), words(tcp.as_ref()))]
    AllFailed {
        /// Over UDX.
        udx: Option<ConnectError>,
        /// Over TCP.
        tcp: Option<TcpError>,
    },
}

fn words<E: fmt::Display>(error: Option<&E>) -> String {
    error.map_or_else(|| "not tried".to_owned(), ToString::to_string)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> Result<(), TcpError> {
    let length = u32::try_from(message.len()).map_err(|_| TcpError::TooLong(message.len()))?;
    let frame = [&length.to_le_bytes()[..3], message].concat();
    Ok(stream.write_all(&frame).await?)
}

/// Reads exactly one message: what follows is the secret stream's.
async fn read_message(stream: &mut TcpStream) -> Result<Vec<u8>, TcpError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length[..3]).await?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE_BYTES {
        return Err(TcpError::TooLong(length));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn shake_hands(
    mut stream: TcpStream,
    is_initiator: bool,
    key_pair: KeyPair,
) -> Result<Direct, TcpError> {
    // The stream's packets are as large as they can be; waiting to fill them delays what has no more.
    stream.set_nodelay(true)?;
    let mut ephemeral = [0; 32];
    getrandom::fill(&mut ephemeral).map_err(|_| TcpError::Entropy)?;
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
    Ok(Direct {
        remote_public_key: result.remote_public_key,
        handshake: result,
        transport: Transport::Tcp(stream),
        is_initiator,
    })
}

async fn in_time<T>(work: impl Future<Output = Result<T, TcpError>>) -> Result<T, TcpError> {
    tokio::time::timeout(HANDSHAKE_WAIT, work)
        .await
        .unwrap_or(Err(TcpError::Timeout))
}

/// Connects over TCP to the owner of `public_key`, and to nobody else. Within 10 s.
///
/// # Errors
/// [`TcpError`].
pub async fn connect_tcp(
    address: SocketAddr,
    public_key: [u8; 32],
    key_pair: KeyPair,
) -> Result<Direct, TcpError> {
    let met = in_time(async {
        let stream = TcpStream::connect(address).await?;
        shake_hands(stream, true, key_pair).await
    });
    let direct = met.await?;
    if direct.remote_public_key == public_key {
        Ok(direct)
    } else {
        Err(TcpError::WrongPeer)
    }
}

/// Meets a known host: over UDX at once, over TCP when that has not succeeded within 250 ms or has failed. The first success
/// wins; the other attempts are dropped, and what they opened is closed.
///
/// # Errors
/// [`MeetError`].
pub async fn meet(dht: &Dht, host: &KnownHost, key_pair: &KeyPair) -> Result<Direct, MeetError> {
    if host.udx.is_empty() && host.tcp.is_empty() {
        return Err(MeetError::NoAddress);
    }
    let (mut failed_udx, mut failed_tcp) = (None, None);
    let mut attempts = FuturesUnordered::new();
    let mut waiting: std::collections::VecDeque<Way> = host
        .tcp
        .iter()
        .take(MAX_ADDRESSES)
        .map(|address| Way::Tcp(*address))
        .collect();
    if !host.udx.is_empty() {
        waiting.push_front(Way::Udx(host.udx.iter().take(MAX_ADDRESSES).copied().collect()));
    }
    loop {
        if let Some(way) = waiting.pop_front() {
            attempts.push(attempt(dht, way, host.public_key, key_pair.clone()));
        }
        tokio::select! {
            Some(ended) = attempts.next() => match ended {
                Ok(direct) => return Ok(direct),
                Err(Failed::Udx(error)) => failed_udx = Some(error),
                Err(Failed::Tcp(error)) => failed_tcp = Some(error),
            },
            () = tokio::time::sleep(STAGGER), if !waiting.is_empty() => {}
        }
        if attempts.is_empty() && waiting.is_empty() {
            return Err(MeetError::AllFailed {
                udx: failed_udx,
                tcp: failed_tcp,
            });
        }
    }
}

enum Way {
    Udx(Vec<SocketAddrV4>),
    Tcp(SocketAddr),
}

enum Failed {
    Udx(ConnectError),
    Tcp(TcpError),
}

async fn attempt(dht: &Dht, way: Way, public_key: [u8; 32], key_pair: KeyPair) -> Result<Direct, Failed> {
    match way {
        Way::Udx(relay_addresses) => {
            let options = ConnectOptions {
                relay_addresses,
                never_punch: true,
                ..ConnectOptions::new(key_pair)
            };
            let connection = dht.connect(public_key, options).await.map_err(Failed::Udx)?;
            Ok(Direct {
                remote_public_key: connection.remote_public_key,
                handshake: connection.handshake,
                transport: Transport::Udx(connection.stream),
                is_initiator: true,
            })
        }
        Way::Tcp(address) => connect_tcp(address, public_key, key_pair)
            .await
            .map_err(Failed::Tcp),
    }
}

/// Accepts peers over TCP.
pub struct TcpServer {
    connections: Mutex<mpsc::Receiver<Direct>>,
    address: Option<SocketAddr>,
    cancel: CancellationToken,
}

impl fmt::Debug for TcpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl TcpServer {
    /// Listens as `key_pair` for peers that `admits` knows. Its tasks run on `tasks` and end when `cancel` is cancelled or the
    /// server is dropped.
    pub fn new(
        listener: TcpListener,
        key_pair: KeyPair,
        admits: Admits,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Self {
        let (accepted, connections) = mpsc::channel(ACCEPT_QUEUE);
        let cancel = cancel.child_token();
        let address = listener.local_addr().ok();
        let handshakes = tasks.clone();
        tasks.spawn(accept_all(
            (listener, handshakes),
            (key_pair, admits),
            accepted,
            cancel.clone(),
        ));
        Self {
            connections: Mutex::new(connections),
            address,
            cancel,
        }
    }

    /// Where it listens, if the system says so.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The next peer; `None` once the server has ended. Cancel safe.
    pub async fn accept(&self) -> Option<Direct> {
        self.connections.lock().await.recv().await
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn accept_all(
    (listener, tasks): (TcpListener, TaskTracker),
    (key_pair, admits): (KeyPair, Admits),
    accepted: mpsc::Sender<Direct>,
    cancel: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let Some((Ok(place), accepting)) = cancel.run_until_cancelled(next).await else {
            return;
        };
        let Ok((stream, _)) = accepting else {
            tokio::time::sleep(LISTEN_PAUSE).await;
            continue;
        };
        let (key_pair, admits, accepted, cancel) =
            (key_pair.clone(), admits.clone(), accepted.clone(), cancel.clone());
        tasks.spawn(async move {
            let _place = place;
            let met = cancel
                .run_until_cancelled(in_time(shake_hands(stream, false, key_pair)))
                .await;
            match met {
                Some(Ok(direct)) if admits(&direct.remote_public_key) => {
                    cancel.run_until_cancelled(accepted.send(direct)).await;
                }
                Some(Ok(_)) => tracing::debug!("a peer over TCP is not admitted"),
                Some(Err(error)) => tracing::debug!(%error, "no handshake over TCP"),
                None => {}
            }
        });
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Udx(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Udx(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Udx(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Udx(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
