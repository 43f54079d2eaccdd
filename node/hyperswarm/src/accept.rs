//! Letting peers in, over TCP and in WebSockets: bounded handshakes, and then whoever is admitted.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cumulet_secret_stream::noise::KeyPair;
use futures::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::arrivals::{Arrivals, Source};
use crate::connection::{Connection, Transport, set_up};
use crate::direct::{Admits, DirectError, in_time, shake_hands};
use crate::watched::{Watched, WatchedControl};
use crate::websocket;

/// Handshakes of strangers at a time, over all listeners. Beyond, they wait in a listener's backlog.
const MAX_HANDSHAKES: usize = 64;
/// Accepted connections that wait to be taken; beyond, handshakes wait.
const ACCEPT_QUEUE: usize = 64;
/// A pause after the listener failed, as it does when descriptors run out.
const LISTEN_PAUSE: Duration = Duration::from_millis(100);

/// Where peers come in: whoever has a clone can let some in.
#[derive(Clone)]
pub(crate) struct Door {
    key_pair: KeyPair,
    admits: Admits,
    accepted: mpsc::Sender<Connection>,
    is_open: Arc<AtomicBool>,
    places: Arc<Semaphore>,
    arrivals: Arc<Mutex<Arrivals>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("is_open", &self.is_open)
            .finish_non_exhaustive()
    }
}

/// A source's place, which is given back.
struct Arrived {
    arrivals: Arc<Mutex<Arrivals>>,
    source: Source,
}

impl Drop for Arrived {
    fn drop(&mut self) {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.ended(self.source);
    }
}

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Spoken {
    Tcp,
    WebSocket,
}

impl Door {
    /// A door for peers that `admits` knows, closed at first, and the peers that come in. Handshakes run on `tasks`; all
    /// ends when `cancel` is cancelled.
    pub(crate) fn new(
        key_pair: KeyPair,
        admits: Admits,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> (Self, mpsc::Receiver<Connection>) {
        let (accepted, connections) = mpsc::channel(ACCEPT_QUEUE);
        let door = Self {
            key_pair,
            admits,
            accepted,
            is_open: Arc::default(),
            places: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            arrivals: Arc::default(),
            tasks,
            cancel,
        };
        (door, connections)
    }

    /// While it is closed, nobody is answered: not even who we are is told.
    pub(crate) fn set_open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Relaxed);
    }

    /// Whether it is gone for good.
    pub(crate) fn is_gone(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Lets in whoever comes to a listener.
    pub(crate) fn listen(&self, listener: TcpListener, spoken: Spoken) {
        self.tasks.spawn(self.clone().accept_all(listener, spoken));
    }

    async fn accept_all(self, listener: TcpListener, spoken: Spoken) {
        loop {
            let next = async {
                let place = self.places.clone().acquire_owned().await;
                (place, listener.accept().await)
            };
            let Some((Ok(place), accepting)) = self.cancel.run_until_cancelled(next).await else {
                return;
            };
            match accepting {
                Ok((stream, from)) => self.meet(place, stream, from, spoken),
                Err(_) => tokio::time::sleep(LISTEN_PAUSE).await,
            }
        }
    }

    fn meet(&self, place: OwnedSemaphorePermit, stream: TcpStream, from: SocketAddr, spoken: Spoken) {
        if !self.is_open.load(Ordering::Relaxed) {
            return;
        }
        let Some(arrived) = self.arrive(from) else {
            tracing::debug!(%from, "too many handshakes come from there");
            return;
        };
        let (door, tasks) = (self.clone(), self.tasks.clone());
        let meeting: BoxFuture<'static, Result<Connection, DirectError>> = match spoken {
            Spoken::Tcp => Box::pin(async move {
                set_up(&stream)?;
                let stream = Watched::new(stream, WatchedControl::default());
                shake_hands(stream, false, door.key_pair, Transport::Tcp).await
            }),
            Spoken::WebSocket => Box::pin(async move {
                set_up(&stream)?;
                let stream = websocket::accept(stream, &tasks).await?;
                shake_hands(stream, false, door.key_pair, Transport::WebSocket).await
            }),
        };
        let door = self.clone();
        self.tasks.spawn(async move {
            let _here = (place, arrived);
            if let Err(error) = door.let_in(meeting, from).await {
                tracing::debug!(%from, %error, "a peer is not let in");
            }
        });
    }

    fn arrive(&self, from: SocketAddr) -> Option<Arrived> {
        let source = Source::from(from.ip());
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.begin(Instant::now(), source).then(|| Arrived {
            arrivals: self.arrivals.clone(),
            source,
        })
    }

    /// Shakes hands in a WebSocket that a web server has upgraded. Sources are the web server's to bound: behind a proxy all
    /// clients have one address.
    pub(crate) async fn take_websocket<Io>(
        &self,
        socket: WebSocketStream<Io>,
        from: SocketAddr,
    ) -> Result<(), DirectError>
    where
        Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        if !self.is_open.load(Ordering::Relaxed) {
            return Err(DirectError::NotAdmitted);
        }
        let places = self.places.clone();
        let _place = places.try_acquire_owned().map_err(|_| DirectError::Full)?;
        let stream = websocket::take(socket, &self.tasks);
        let meeting = shake_hands(stream, false, self.key_pair.clone(), Transport::WebSocket);
        self.let_in(meeting, from).await
    }

    async fn let_in(
        &self,
        meeting: impl Future<Output = Result<Connection, DirectError>>,
        from: SocketAddr,
    ) -> Result<(), DirectError> {
        let meeting = async {
            let connection = in_time(meeting).await?;
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            if !(self.admits)(&connection.remote_public_key, from) {
                return Err(DirectError::NotAdmitted);
            }
            let accepted = self.accepted.send(connection).await;
            accepted.map_err(|_| DirectError::Closed)
        };
        let met = self.cancel.run_until_cancelled(meeting).await;
        met.unwrap_or(Err(DirectError::Closed))
    }
}

/// Accepts peers over TCP.
pub struct TcpServer {
    connections: tokio::sync::Mutex<mpsc::Receiver<Connection>>,
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
        let cancel = cancel.child_token();
        let address = listener.local_addr().ok();
        let (door, connections) = Door::new(key_pair, admits, tasks.clone(), cancel.clone());
        door.set_open(true);
        door.listen(listener, Spoken::Tcp);
        Self {
            connections: tokio::sync::Mutex::new(connections),
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
