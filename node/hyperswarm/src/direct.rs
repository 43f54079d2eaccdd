//! Known hosts: peers whose key and addresses are known, such as the replicas of one cloud. They are met without the DHT, over
//! UDX or, where UDP does not get through, over TCP.
//!
//! TCP carries what JavaScript's secret stream (npm `@hyperswarm/secret-stream`) carries over a socket: a Noise XX handshake in frames
//! of a 24-bit little-endian length, then the secret stream. [`meet`] races both: UDX first, TCP a little later ("Happy Eyeballs",
//! RFC 8305), the first that is through is used and the others are cancelled. A [`crate::Swarm`] races likewise, for peers whose
//! addresses are known.

use std::fmt;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cumulet_hyperdht::{ConnectError, ConnectOptions, Dht};
use cumulet_secret_stream::noise::{Handshake, KeyPair, NoiseError};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::{Connection, TcpTransport, Transport};
use crate::race::{Race, Verdict, Way};

/// How long a whole handshake may take, the connection's included.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// Longest handshake message: two keys, a tag each, and room for a payload that we do not read.
const MAX_MESSAGE_BYTES: usize = 1_024;
/// Handshakes of strangers at a time. Beyond, they wait in the listener's backlog.
const MAX_HANDSHAKES: usize = 64;
/// Accepted connections that wait to be taken; beyond, handshakes wait.
pub(crate) const ACCEPT_QUEUE: usize = 64;
/// Addresses tried over UDX.
const MAX_UDX_ADDRESSES: usize = 8;
/// A pause after the listener failed, as it does when descriptors run out.
const LISTEN_PAUSE: Duration = Duration::from_millis(100);

/// Who may connect, by public key and address. Must return at once.
pub type Admits = Arc<dyn Fn(&[u8; 32], SocketAddr) -> bool + Send + Sync>;

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
    /// No way came through in time.
    #[error("failed to meet peer in time")]
    Timeout,
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
) -> Result<Connection, TcpError> {
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
    Ok(Connection {
        remote_public_key: result.remote_public_key,
        handshake: result,
        stream: Transport::Tcp(TcpTransport::new(stream)?),
        is_initiator,
        relay: None,
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
) -> Result<Connection, TcpError> {
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
/// wins; the other attempts are cancelled, and what they opened is closed.
///
/// # Errors
/// [`MeetError`].
pub async fn meet(dht: &Dht, host: &KnownHost, key_pair: &KeyPair) -> Result<Connection, MeetError> {
    let udp = (!host.udx.is_empty()).then(|| ConnectOptions {
        relay_addresses: host.udx.iter().take(MAX_UDX_ADDRESSES).copied().collect(),
        never_punch: true,
        ..ConnectOptions::new(key_pair.clone())
    });
    race(dht, (host.public_key, key_pair), udp, &host.tcp).await
}

type Ended = (Way, Result<Connection, Failed>);

enum Failed {
    Udx(ConnectError),
    Tcp(TcpError),
}

/// Races whatever the DHT node finds with `udp` against TCP to each of `tcp`; see `race`. Cancelled by dropping it.
pub(crate) async fn race(
    dht: &Dht,
    (public_key, key_pair): ([u8; 32], &KeyPair),
    udp: Option<ConnectOptions>,
    tcp: &[SocketAddr],
) -> Result<Connection, MeetError> {
    if udp.is_none() && tcp.is_empty() {
        return Err(MeetError::NoAddress);
    }
    let mut race = Race::new(Instant::now(), udp.is_some(), tcp);
    let (mut failed_udx, mut failed_tcp) = (None, None);
    // The winner's return drops, and so cancels, the others.
    let mut attempts: FuturesUnordered<BoxFuture<'_, Ended>> = FuturesUnordered::new();
    loop {
        while let Some(way) = race.begin(Instant::now()) {
            match way {
                Way::Udp => {
                    let options = udp
                        .clone()
                        .unwrap_or_else(|| ConnectOptions::new(key_pair.clone()));
                    attempts.push(Box::pin(async move {
                        let met = dht.connect(public_key, options).await;
                        (way, met.map(Connection::from).map_err(Failed::Udx))
                    }));
                }
                Way::Tcp(address) => {
                    let met = connect_tcp(address, public_key, key_pair.clone());
                    attempts.push(Box::pin(async move { (way, met.await.map_err(Failed::Tcp)) }));
                }
            }
        }
        let next = race.poll_timeout().map(tokio::time::Instant::from);
        let (way, ended) = tokio::select! {
            Some(ended) = attempts.next() => ended,
            () = tokio::time::sleep_until(next.unwrap_or_else(tokio::time::Instant::now)), if next.is_some() => continue,
        };
        let verdict = match ended {
            Ok(connection) => {
                let verdict = race.succeeded(way);
                tracing::debug!(?way, ?verdict, "met");
                return Ok(connection);
            }
            Err(Failed::Udx(error)) => {
                failed_udx = Some(error);
                race.failed(Instant::now(), way)
            }
            Err(Failed::Tcp(error)) => {
                failed_tcp = Some(error);
                race.failed(Instant::now(), way)
            }
        };
        if verdict == Verdict::Lost {
            return Err(MeetError::AllFailed {
                udx: failed_udx,
                tcp: failed_tcp,
            });
        }
    }
}

/// Accepts peers over TCP.
pub struct TcpServer {
    connections: Mutex<mpsc::Receiver<Connection>>,
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
    pub async fn accept(&self) -> Option<Connection> {
        self.connections.lock().await.recv().await
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Shakes hands with whoever comes, and passes on the admitted.
pub(crate) async fn accept_all(
    (listener, tasks): (TcpListener, TaskTracker),
    (key_pair, admits): (KeyPair, Admits),
    accepted: mpsc::Sender<Connection>,
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
        let Ok((stream, address)) = accepting else {
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
                Some(Ok(connection)) if admits(&connection.remote_public_key, address) => {
                    cancel.run_until_cancelled(accepted.send(connection)).await;
                }
                Some(Ok(_)) => tracing::debug!("a peer over TCP is not admitted"),
                Some(Err(error)) => tracing::debug!(%error, "no handshake over TCP"),
                None => {}
            }
        });
    }
}
