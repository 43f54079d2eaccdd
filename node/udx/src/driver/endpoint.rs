//! One UDX instance: the table of streams and everything that must end with it.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicU64},
};

use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    CreateStreamError, Datagrams, Socket, StreamOptions, UdxStream,
    shared::{self, StreamShared},
    socket,
};
use crate::stream::{Config, DEFAULT_RECEIVE_WINDOW, Micros};

/// Fills the buffer with unpredictable bytes. Stream ids come from it; since a packet's source address
/// is not checked, an id that can be guessed lets a stranger inject bytes.
pub type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

/// Streams of one endpoint: far more than a node serves, few enough that a collision of random ids stays rare.
const MAX_STREAMS: usize = 65_536;
/// Draws of a random id before giving up; with [`MAX_STREAMS`] one draw collides with a chance of 2^-16.
const ID_DRAWS: usize = 16;

/// One UDX instance: a table of streams and the sockets they may use. Clones share it.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<EndpointInner>,
}

pub(super) struct EndpointInner {
    streams: RwLock<HashMap<u32, Arc<StreamShared>>>,
    entropy: Mutex<Entropy>,
    started: Instant,
    pub(super) next_socket: AtomicU64,
    pub(super) tasks: TaskTracker,
    pub(super) cancel: CancellationToken,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("streams", &self.stream_count())
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint whose stream ids come from `entropy`.
    pub fn new(entropy: Entropy) -> Self {
        let inner = EndpointInner {
            streams: RwLock::default(),
            entropy: Mutex::new(entropy),
            started: Instant::now(),
            next_socket: AtomicU64::new(1),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// An endpoint whose stream ids come from the operating system's random source.
    pub fn with_system_entropy() -> Self {
        Self::new(Box::new(|bytes| {
            if let Err(error) = getrandom::fill(bytes) {
                // Ids stay unique, only guessable; the secret stream above still authenticates.
                tracing::error!(%error, "failed to read the system's random source");
            }
        }))
    }

    /// Binds a UDP socket (port 0: any) with don't-fragment and the buffer sizes that libudx uses, and starts
    /// receiving. Datagrams that belong to no stream go to the returned [`Datagrams`]. Must be called inside
    /// a tokio runtime. The socket closes when the last clone of it (streams connected over it hold one) is dropped.
    pub fn bind(&self, address: SocketAddr) -> io::Result<(Socket, Datagrams)> {
        if self.inner.cancel.is_cancelled() {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "failed to bind socket: the endpoint is closed",
            ));
        }
        socket::bind(&self.inner, address)
    }

    /// Registers a stream: from now on packets for its id are accepted, before `connect` as well.
    /// Must be called inside a tokio runtime.
    pub fn create_stream(&self, options: StreamOptions) -> Result<UdxStream, CreateStreamError> {
        let mut streams = self.inner.streams.write().unwrap_or_else(PoisonError::into_inner);
        // With the table locked: `close` tells those that are in it.
        if self.inner.cancel.is_cancelled() {
            return Err(CreateStreamError::Closed);
        }
        if streams.len() >= MAX_STREAMS {
            return Err(CreateStreamError::Full);
        }
        let id = match options.local_id {
            Some(id) => id,
            None => self.inner.draw_id(&streams).ok_or(CreateStreamError::Full)?,
        };
        let Entry::Vacant(slot) = streams.entry(id) else {
            return Err(CreateStreamError::IdInUse(id));
        };
        let config = Config {
            local_id: id,
            initial_seq: options.initial_seq,
            initial_ack: options.initial_ack,
            receive_window: match options.receive_window {
                0 => DEFAULT_RECEIVE_WINDOW,
                window => window,
            },
            keep_alive: options.keep_alive,
        };
        let stream = StreamShared::new(&self.inner, config, options.firewall);
        slot.insert(stream.clone());
        drop(streams);
        self.inner.tasks.spawn(shared::run(stream.clone()));
        Ok(UdxStream::new(stream))
    }

    /// Streams in the table, lingering ones included.
    pub fn stream_count(&self) -> usize {
        self.inner
            .streams
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Destroys every stream, closes every socket and waits until their tasks have ended.
    pub async fn close(&self) {
        self.inner.cancel.cancel();
        self.inner.kick_streams();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl EndpointInner {
    /// The one clock: microseconds since the endpoint was made.
    pub(super) fn now(&self) -> Micros {
        self.started.elapsed().as_micros() as Micros
    }

    /// Has each stream's task look. Instead of a wait for the end in every one of them, which would cost each stream memory.
    fn kick_streams(&self) {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        streams.values().for_each(|stream| stream.kick());
    }

    /// The clock's moment as the runtime's.
    pub(super) fn instant(&self, at: Micros) -> Instant {
        self.started + std::time::Duration::from_micros(at)
    }

    pub(super) fn stream(&self, id: u32) -> Option<Arc<StreamShared>> {
        self.streams
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    pub(super) fn forget(&self, id: u32) {
        self.streams
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
    }

    fn draw_id(&self, taken: &HashMap<u32, Arc<StreamShared>>) -> Option<u32> {
        let mut entropy = self.entropy.lock().unwrap_or_else(PoisonError::into_inner);
        (0..ID_DRAWS)
            .map(|_| {
                let mut bytes = [0; 4];
                entropy(&mut bytes);
                u32::from_le_bytes(bytes)
            })
            .find(|id| !taken.contains_key(id))
    }
}
