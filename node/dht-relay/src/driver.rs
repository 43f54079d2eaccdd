//! The tokio half: WebSockets, streams, lookups and the clock around one session per client.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cumulet_hyperdht::Dht;
use cumulet_hyperswarm::{Swarm, direct::DirectError, websocket};
use cumulet_protomux::{FRAME_LIMIT_BYTES, MuxError};
use cumulet_relay::blind_relay::Policy;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::{Accounts, Counters, Limits, Refusal};
use crate::client::Client;
use crate::session::SessionEnd;

/// How long a WebSocket may take to shake hands.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// A pause after the listener failed, as it does when descriptors run out.
const LISTEN_PAUSE: Duration = Duration::from_millis(100);
/// How often a draining relay looks whether its clients are done.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// How a relay is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct RelayOptions {
    /// Its bounds.
    pub limits: Limits,
}

/// Why a client was not, or is not any more, served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// There is no room, or no will.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The session ended on our side.
    #[error(transparent)]
    Session(#[from] SessionEnd),
    /// The WebSocket broke.
    #[error("failed to exchange messages with a client of the relayed DHT")]
    Socket(#[from] Box<tokio_tungstenite::tungstenite::Error>),
    /// The multiplexer broke.
    #[error("failed to follow a client's multiplexer")]
    Mux(#[from] MuxError),
    /// It wanted to be a peer of ours, and is not.
    #[error(transparent)]
    Peer(#[from] DirectError),
    /// It did not shake hands in time, or takes nothing of what it is told.
    #[error("failed to serve a client of the relayed DHT: it does not listen")]
    Deaf,
}

pub(crate) struct Shared {
    pub(crate) accounts: Arc<Mutex<Accounts>>,
    pub(crate) dht: Dht,
    pub(crate) cancel: CancellationToken,
    /// The policy has changed, or draining has begun.
    pub(crate) changed: Notify,
    tasks: TaskTracker,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A relay of the DHT for clients on WebSockets. Clones share it.
#[derive(Clone)]
pub struct Relay {
    shared: Arc<Shared>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// A relay that does for its clients on `dht` what they ask. Who they are is their Ed25519 public key, which `policy`
    /// is asked about. Tasks of [`Relay::listen`] run on `tasks`; everything ends when `cancel` is cancelled.
    pub fn new(
        dht: Dht,
        policy: Arc<dyn Policy>,
        options: RelayOptions,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Self {
        let accounts = Accounts::new(options.limits, policy);
        Self {
            shared: Arc::new(Shared {
                accounts: Arc::new(Mutex::new(accounts)),
                dht,
                cancel: cancel.child_token(),
                changed: Notify::new(),
                tasks: tasks.clone(),
            }),
        }
    }

    /// Bounds of the WebSockets given to [`Relay::serve`]: one message is one frame of Protomux.
    pub fn socket_config() -> WebSocketConfig {
        WebSocketConfig::default()
            .max_message_size(Some(FRAME_LIMIT_BYTES))
            .max_frame_size(Some(FRAME_LIMIT_BYTES))
            .read_buffer_size(16 * 1024)
            .write_buffer_size(0)
            .max_write_buffer_size(FRAME_LIMIT_BYTES + 1024)
    }

    /// Counters and gauges, now.
    pub fn counters(&self) -> Counters {
        self.shared.lock().counters
    }

    /// Serves every connection of `listener`, which speaks HTTP without TLS, until the relay ends. WebSockets that ask for a
    /// secret stream ([`websocket::SUBPROTOCOL`]) are `swarm`'s, if there is one; JavaScript's clients ask for nothing.
    pub async fn listen(&self, listener: TcpListener, swarm: Option<Swarm>) {
        loop {
            let accepted = tokio::select! {
                () = self.shared.cancel.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((connection, from)) = accepted else {
                tokio::time::sleep(LISTEN_PAUSE).await;
                continue;
            };
            let (relay, swarm) = (self.clone(), swarm.clone());
            self.shared.tasks.spawn(async move {
                let served = match swarm {
                    Some(swarm) => relay.accept_beside(connection, from, &swarm).await,
                    None => relay.accept(connection).await,
                };
                if let Err(error) = served {
                    tracing::debug!(%error, "a client of the relayed DHT is gone");
                }
            });
        }
    }

    /// Shakes hands on a fresh connection (TCP or TLS, nothing read from it) and serves it until it ends.
    pub async fn accept<Io>(&self, connection: Io) -> Result<(), ServeError>
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let here = Here::new(self)?;
        let handshake = tokio_tungstenite::accept_async_with_config(connection, Some(Self::socket_config()));
        let socket = tokio::time::timeout(HANDSHAKE_WAIT, handshake)
            .await
            .map_err(|_| ServeError::Deaf)?
            .map_err(Box::new)?;
        self.run(here, socket).await
    }

    /// As [`Relay::accept`], or gives the connection to the swarm, as it asks.
    async fn accept_beside(
        &self,
        connection: TcpStream,
        from: SocketAddr,
        swarm: &Swarm,
    ) -> Result<(), ServeError> {
        let here = Here::new(self)?;
        let mut is_peer = false;
        #[expect(clippy::result_large_err, reason = "the library's own type")]
        let answer = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
            is_peer = websocket::is_asked_for(request.headers());
            if is_peer {
                websocket::confirm(response.headers_mut());
            }
            Ok(response)
        };
        let config = Some(Self::socket_config());
        let handshake = tokio_tungstenite::accept_hdr_async_with_config(connection, answer, config);
        let socket = tokio::time::timeout(HANDSHAKE_WAIT, handshake)
            .await
            .map_err(|_| ServeError::Deaf)?
            .map_err(Box::new)?;
        if !is_peer {
            return self.run(here, socket).await;
        }
        // From here the swarm counts.
        drop(here);
        // Nothing was read beyond the handshake: the library refuses clients that say more before its answer.
        let config = Some(websocket::socket_config());
        let socket = WebSocketStream::from_raw_socket(socket.into_inner(), Role::Server, config).await;
        Ok(swarm.accept_websocket(socket, from).await?)
    }

    /// Serves a WebSocket that has shaken hands, as by a web server's upgrade
    /// (`WebSocketStream::from_raw_socket(io, Role::Server, Some(Relay::socket_config()))`), until it ends.
    pub async fn serve<Io>(&self, socket: WebSocketStream<Io>) -> Result<(), ServeError>
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let here = Here::new(self)?;
        self.run(here, socket).await
    }

    async fn run<Io>(&self, mut here: Here, socket: WebSocketStream<Io>) -> Result<(), ServeError>
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin,
    {
        here.is_counted = false; // From here the session counts.
        Client::new(self.shared.clone()).run(socket).await
    }

    /// Asks the policy about everybody again: who is not admitted any more goes, new limits hold from now.
    pub fn review(&self) {
        self.shared.changed.notify_waiters();
    }

    /// Takes nobody in any more, lets clients without streams go, waits for the others for `patience` at most, and ends
    /// the rest.
    pub async fn drain(&self, patience: Duration) {
        self.shared.lock().draining = true;
        self.shared.changed.notify_waiters();
        let deadline = Instant::now() + patience;
        while self.counters().clients > 0 && Instant::now() < deadline {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        self.shared.cancel.cancel();
    }
}

/// A place that is given back, unless a session has taken it over.
struct Here {
    shared: Arc<Shared>,
    is_counted: bool,
}

impl Here {
    fn new(relay: &Relay) -> Result<Self, Refusal> {
        relay.shared.lock().arrive()?;
        Ok(Self {
            shared: relay.shared.clone(),
            is_counted: true,
        })
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        if self.is_counted {
            self.shared.lock().leave(None);
        }
    }
}
