//! A bound UDP socket: options, batched system calls, and sorting what arrives into streams and the rest.

use std::{
    cell::RefCell,
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use tokio::{
    io::Interest,
    net::UdpSocket,
    sync::{Notify, mpsc},
};
use tokio_util::sync::CancellationToken;

use super::{
    Source,
    endpoint::EndpointInner,
    shared::{Arrival, Relay, StreamShared},
};
use crate::{packet, stream::SocketId};

/// Datagrams of the DHT that wait to be read; at 1 KiB each a megabyte.
const MAX_WAITING_DATAGRAMS: usize = 1024;
/// libudx's send buffer.
const SEND_BUFFER: usize = 212_992;
/// libudx's receive buffers, the first that the system grants.
const RECEIVE_BUFFERS: [usize; 4] = [1 << 20, 512 << 10, 256 << 10, 208 << 10];
const DEFAULT_TTL: u32 = 64;
/// One receive buffer: the largest run of datagrams that the kernel joins (GRO).
const RECEIVE_LEN: usize = 64 * 1024;
/// Batches read in a row before other tasks get their turn.
const BATCHES_PER_TURN: usize = 8;

/// A bound UDP socket of an endpoint. Clones are the same socket; equality is identity.
#[derive(Clone)]
pub struct Socket {
    handle: Arc<SocketHandle>,
}

/// What all clones of a [`Socket`] share; the receiving task does not hold it, so that the last clone closes.
struct SocketHandle {
    inner: Arc<SocketInner>,
}

impl Drop for SocketHandle {
    fn drop(&mut self) {
        self.inner.cancel.cancel();
    }
}

pub(super) struct SocketInner {
    id: SocketId,
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    dropped: AtomicU64,
    /// Streams whose packets did not fit the send buffer.
    blocked: Mutex<Vec<Weak<StreamShared>>>,
    blocked_added: Notify,
    /// Held while the socket's time to live is not the default.
    ttl: tokio::sync::Mutex<()>,
    cancel: CancellationToken,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("local", &self.handle.inner.local)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Socket {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle, &other.handle)
    }
}

impl Eq for Socket {}

/// A datagram that belongs to no stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Its payload.
    pub bytes: Bytes,
    /// Who sent it.
    pub from: SocketAddr,
}

/// The datagrams of one socket that belong to no stream, in order of arrival. The queue is bounded;
/// when it is full new datagrams are dropped and counted ([`Socket::dropped_datagrams`]).
#[derive(Debug)]
pub struct Datagrams {
    queue: mpsc::Receiver<Datagram>,
}

impl Datagrams {
    /// The next datagram; `None` once the socket is closed. Cancel safe.
    pub async fn recv(&mut self) -> Option<Datagram> {
        self.queue.recv().await
    }
}

pub(super) fn bind(endpoint: &Arc<EndpointInner>, address: SocketAddr) -> io::Result<(Socket, Datagrams)> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // The system may grant less than asked; a refusal is no reason not to run.
    drop(socket.set_send_buffer_size(SEND_BUFFER));
    for size in RECEIVE_BUFFERS {
        if socket.set_recv_buffer_size(size).is_ok() {
            break;
        }
    }
    if address.is_ipv4() {
        socket.set_ttl_v4(DEFAULT_TTL)?;
    }
    socket.bind(&address.into())?;
    let io = UdpSocket::from_std(socket.into())?;
    // Turns on don't-fragment in probe mode, and joining of received datagrams where the system has it.
    let state = UdpSocketState::new((&io).into())?;
    let inner = Arc::new(SocketInner {
        id: SocketId(endpoint.next_socket.fetch_add(1, Ordering::Relaxed)),
        local: io.local_addr()?,
        io,
        state,
        dropped: AtomicU64::new(0),
        blocked: Mutex::default(),
        blocked_added: Notify::new(),
        ttl: tokio::sync::Mutex::new(()),
        cancel: endpoint.cancel.child_token(),
    });
    let handle = Arc::new(SocketHandle { inner: inner.clone() });
    let (sender, queue) = mpsc::channel(MAX_WAITING_DATAGRAMS);
    let receiver = ReceiveTask {
        endpoint: endpoint.clone(),
        socket: inner,
        handle: Arc::downgrade(&handle),
        queue: sender,
    };
    endpoint.tasks.spawn(receiver.run());
    Ok((Socket { handle }, Datagrams { queue }))
}

impl Socket {
    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.inner.local
    }

    /// Sends one datagram, waiting for room in the socket's send buffer.
    pub async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        self.handle.inner.io.send_to(datagram, to).await.map(drop)
    }

    /// Sends one datagram with an IP time to live of its own (1..=255), as hole punching needs.
    pub async fn send_to_with_ttl(&self, datagram: &[u8], to: SocketAddr, ttl: u8) -> io::Result<()> {
        let inner = &self.handle.inner;
        let _turn = inner.ttl.lock().await;
        loop {
            inner.io.writable().await?;
            inner.io.set_ttl(u32::from(ttl.max(1)))?;
            let sent = inner.io.try_send_to(datagram, to);
            // Between the two calls no other packet of this task can leave; those of other threads may get this
            // time to live once, which costs at most a retransmission.
            inner.io.set_ttl(DEFAULT_TTL)?;
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other.map(drop),
            }
        }
    }

    /// Datagrams for the owner of [`Datagrams`] that were dropped because its queue was full.
    pub fn dropped_datagrams(&self) -> u64 {
        self.handle.inner.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn id(&self) -> SocketId {
        self.handle.inner.id
    }

    /// Most packets of one [`try_send`](Self::try_send).
    pub(super) fn max_segments(&self) -> usize {
        self.handle.inner.state.max_gso_segments()
    }

    /// Sends packets of `segment` bytes (the last may be shorter). Every error but a full buffer counts as loss on the way.
    pub(super) fn try_send(&self, to: SocketAddr, contents: &[u8], segment: usize) -> io::Result<()> {
        let transmit = quinn_udp::Transmit {
            destination: to,
            ecn: None,
            contents,
            segment_size: (segment < contents.len()).then_some(segment),
            src_ip: None,
        };
        let inner = &self.handle.inner;
        let send = || inner.state.try_send((&inner.io).into(), &transmit);
        // The runtime's idea of readiness may be older than the socket's state; it is asked, and so told, only when the
        // socket is really full.
        let outcome = match send() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                inner.io.try_io(Interest::WRITABLE, send)
            }
            other => other,
        };
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(error) => {
                tracing::trace!(%error, %to, "packet not sent");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// The stream's packets did not fit; its flush is called again when they may.
    pub(super) fn add_blocked(&self, stream: Weak<StreamShared>) {
        self.handle
            .inner
            .blocked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(stream);
        self.handle.inner.blocked_added.notify_one();
    }
}

impl SocketInner {
    /// Waits until blocked streams may try again, and returns them.
    async fn unblocked(&self) -> Vec<Weak<StreamShared>> {
        loop {
            let waiting = !self
                .blocked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_empty();
            if waiting && self.io.writable().await.is_ok() {
                return std::mem::take(&mut *self.blocked.lock().unwrap_or_else(PoisonError::into_inner));
            }
            self.blocked_added.notified().await;
        }
    }
}

thread_local! {
    /// Receive buffers, one set per thread rather than per socket: a hole puncher opens hundreds of sockets.
    /// Nothing stays in them between two uses.
    static RECEIVE: RefCell<Vec<u8>> = RefCell::new(vec![0; BATCH_SIZE * RECEIVE_LEN]);
}

struct ReceiveTask {
    endpoint: Arc<EndpointInner>,
    socket: Arc<SocketInner>,
    handle: Weak<SocketHandle>,
    queue: mpsc::Sender<Datagram>,
}

impl ReceiveTask {
    async fn run(self) {
        let cancel = self.socket.cancel.clone();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                ready = self.socket.io.readable() => {
                    if let Err(error) = ready {
                        tracing::warn!(%error, socket = %self.socket.local, "socket broke");
                        return;
                    }
                    self.receive_ready();
                    tokio::task::yield_now().await;
                }
                streams = self.socket.unblocked() => {
                    for stream in streams.iter().filter_map(Weak::upgrade) {
                        stream.flush_blocked();
                    }
                }
            }
        }
    }

    fn receive_ready(&self) {
        let Some(handle) = self.handle.upgrade() else {
            return;
        };
        let socket = Socket { handle };
        for _ in 0..BATCHES_PER_TURN {
            let more = RECEIVE.with_borrow_mut(|storage| self.receive_batch(&socket, storage));
            if !more {
                return;
            }
        }
    }

    /// Reads and handles one batch of datagrams; `false` when nothing was there.
    fn receive_batch(&self, socket: &Socket, storage: &mut [u8]) -> bool {
        let mut meta = [RecvMeta::default(); BATCH_SIZE];
        let io = &self.socket.io;
        let received = io.try_io(Interest::READABLE, || {
            let mut chunks = storage.chunks_exact_mut(RECEIVE_LEN);
            let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
            self.socket.state.recv(io.into(), &mut buffers, &mut meta)
        });
        let count = match received {
            Ok(count) => count,
            // A previous send was refused: no news about what can be read.
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        };
        let mut touched: Vec<Arc<StreamShared>> = Vec::new();
        for (meta, buffer) in meta.iter().zip(storage.chunks_exact_mut(RECEIVE_LEN)).take(count) {
            let Some(joined) = buffer.get_mut(..meta.len) else {
                continue;
            };
            let source = Source {
                socket: socket.clone(),
                address: meta.addr,
            };
            self.handle_joined(&source, joined, meta.stride.max(1), &mut touched);
        }
        for stream in touched {
            stream.after_batch();
        }
        count > 0
    }

    /// Datagrams that the kernel joined, each `stride` long and the last perhaps shorter. Those in a row for one relayed stream leave
    /// together, as they came.
    fn handle_joined(
        &self,
        source: &Source,
        joined: &mut [u8],
        stride: usize,
        touched: &mut Vec<Arc<StreamShared>>,
    ) {
        let mut run: Option<(Arc<Relay>, Range<usize>)> = None;
        for start in (0..joined.len()).step_by(stride) {
            let end = (start + stride).min(joined.len());
            let next = self.handle_datagram(source, &joined[start..end], touched);
            run = match (run, next) {
                (Some((relay, range)), Some(next)) if Arc::ptr_eq(&relay, &next) => {
                    Some((relay, range.start..end))
                }
                (before, next) => {
                    if let Some((relay, range)) = before {
                        relay.forward(&mut joined[range], stride);
                    }
                    next.map(|relay| (relay, start..end))
                }
            };
        }
        if let Some((relay, range)) = run {
            relay.forward(&mut joined[range], stride);
        }
    }

    /// Takes a datagram; the answer is by whom it is to be forwarded.
    fn handle_datagram(
        &self,
        source: &Source,
        datagram: &[u8],
        touched: &mut Vec<Arc<StreamShared>>,
    ) -> Option<Arc<Relay>> {
        if let Some(id) = packet::stream_id(datagram) {
            let last = touched.last().filter(|stream| stream.id() == id).cloned();
            let known = last.is_some();
            if let Some(stream) = last.or_else(|| self.endpoint.stream(id)) {
                return match stream.handle_packet(source, datagram) {
                    Arrival::Handled => {
                        if !known {
                            touched.push(stream);
                        }
                        None
                    }
                    Arrival::Dropped => None,
                    Arrival::Relayed(relay) => Some(relay),
                };
            }
        }
        let datagram = Datagram {
            bytes: Bytes::copy_from_slice(datagram),
            from: source.address,
        };
        if self.queue.try_send(datagram).is_err() {
            self.socket.dropped.fetch_add(1, Ordering::Relaxed);
        }
        None
    }
}
