//! The tokio half: sockets, the table of streams, timers and wakers. It decides nothing about the protocol.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

/// Fills the buffer with unpredictable bytes. Stream ids come from it; since a packet's source address
/// is not checked, an id that can be guessed lets a stranger inject bytes.
pub type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

/// One UDX instance: a table of streams and the sockets they may use. Clones share it.
#[derive(Clone)]
pub struct Endpoint {}

impl Endpoint {
    /// An endpoint whose stream ids come from `entropy`.
    pub fn new(entropy: Entropy) -> Self {
        drop(entropy);
        Self {}
    }

    /// An endpoint whose stream ids come from the operating system's random source.
    pub fn with_system_entropy() -> Self {
        Self {}
    }

    /// Binds a UDP socket (port 0: any) with don't-fragment and the buffer sizes that libudx uses, and starts
    /// receiving. Datagrams that belong to no stream go to the returned [`Datagrams`]. Must be called inside
    /// a tokio runtime. The socket closes when the last clone of it (streams connected over it hold one) is dropped.
    pub fn bind(&self, address: SocketAddr) -> io::Result<(Socket, Datagrams)> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("failed to bind {address}: not built yet"),
        ))
    }

    /// Registers a stream: from now on packets for its id are accepted, before `connect` as well.
    /// Must be called inside a tokio runtime.
    pub fn create_stream(&self, options: StreamOptions) -> Result<UdxStream, CreateStreamError> {
        drop(options);
        Err(CreateStreamError::Closed)
    }

    /// Destroys every stream, closes every socket and waits until their tasks have ended.
    pub async fn close(&self) {}
}

/// A bound UDP socket of an endpoint. Clones are the same socket; equality is identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Socket {}

impl Socket {
    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        SocketAddr::from(([0, 0, 0, 0], 0))
    }

    /// Sends one datagram, waiting for room in the socket's send buffer.
    pub async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let _ = (datagram, to);
        Err(io::Error::new(io::ErrorKind::Unsupported, "not built yet"))
    }

    /// Sends one datagram with an IP time to live of its own (1..=255), as hole punching needs.
    pub async fn send_to_with_ttl(&self, datagram: &[u8], to: SocketAddr, ttl: u8) -> io::Result<()> {
        let _ = (datagram, to, ttl);
        Err(io::Error::new(io::ErrorKind::Unsupported, "not built yet"))
    }

    /// Datagrams for the owner of [`Datagrams`] that were dropped because its queue was full.
    pub fn dropped_datagrams(&self) -> u64 {
        0
    }
}

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
pub struct Datagrams {}

impl Datagrams {
    /// The next datagram; `None` once the socket is closed. Cancel safe.
    pub async fn recv(&mut self) -> Option<Datagram> {
        None
    }
}

/// Where a packet of a stream came from, or where a stream sends to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The socket of ours that received it.
    pub socket: Socket,
    /// The remote address.
    pub address: SocketAddr,
}

/// What to do with packets that arrive on another socket than the one a stream is connected over;
/// before `connect` that is every packet.
#[derive(Default)]
pub enum Firewall {
    /// Take them. The sender must know the stream's random id.
    #[default]
    Accept,
    /// Drop them silently.
    Reject,
    /// Ask for every such packet; `false` drops it. Called with the stream locked: it must return at once
    /// and must not call into the stream.
    Ask(Box<dyn FnMut(&Source) -> bool + Send>),
}

impl fmt::Debug for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "Accept",
            Self::Reject => "Reject",
            Self::Ask(_) => "Ask",
        })
    }
}

/// How a stream is made.
#[derive(Debug, Default)]
pub struct StreamOptions {
    /// Our id; `None` draws a random one that no stream of the endpoint has.
    pub local_id: Option<u32>,
    /// Packets from other sockets than the connected one.
    pub firewall: Firewall,
    /// Our first sequence number (hyperdht uses 0).
    pub initial_seq: u32,
    /// The first sequence number we expect.
    pub initial_ack: u32,
    /// Most received bytes we hold, and so the window we advertise; 0 means the default, 4 MiB.
    pub receive_window: u32,
    /// Send a HEARTBEAT after this much silence; `None` (hyperdht's choice) never.
    pub keep_alive: Option<Duration>,
}

/// A reliable stream. `shutdown` sends END and waits until the peer has it; dropping it sends DESTROY,
/// unless both sides have ended. Reading yields EOF after the peer's END.
///
/// Bytes may be written before `connect`; they leave when it is called.
#[derive(Debug)]
pub struct UdxStream {
    control: StreamControl,
}

impl UdxStream {
    /// The part of the stream that may be cloned and kept while the stream itself is handed on.
    pub fn control(&self) -> &StreamControl {
        &self.control
    }
}

impl std::ops::Deref for UdxStream {
    type Target = StreamControl;

    fn deref(&self) -> &StreamControl {
        &self.control
    }
}

impl AsyncRead for UdxStream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

impl AsyncWrite for UdxStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

/// Everything about a stream except its bytes. Clones do not keep the stream alive.
#[derive(Clone, Debug)]
pub struct StreamControl {
    shared: Arc<()>,
}

impl StreamControl {
    /// Our id: what the peer must write into its packets.
    pub fn id(&self) -> u32 {
        0
    }

    /// Sets where the stream sends to: `remote_id` is the peer's id. Nothing is sent unless bytes are waiting
    /// to leave or to be acknowledged. Once only.
    pub fn connect(&self, socket: &Socket, remote_id: u32, address: SocketAddr) -> Result<(), ConnectError> {
        let _ = (socket, remote_id, address, &self.shared);
        Err(ConnectError::Closed)
    }

    /// Whether `connect` was called.
    pub fn is_connected(&self) -> bool {
        false
    }

    /// Moves a connected stream: new packets go to the new place at once. The peer is not told;
    /// it moves by itself (relay to direct path).
    pub fn change_remote(
        &self,
        socket: &Socket,
        remote_id: u32,
        address: SocketAddr,
    ) -> Result<(), ConnectError> {
        let _ = (socket, remote_id, address);
        Err(ConnectError::Closed)
    }

    /// Where the stream sends to now; `None` before `connect`.
    pub fn remote(&self) -> Option<Source> {
        None
    }

    /// Waits for the first packet that the firewall let through, and says where it came from: a server then
    /// connects the stream to it. `None` if the stream closed first. Cancel safe.
    pub async fn first_packet(&self) -> Option<Source> {
        None
    }

    /// The place the newest accepted packet came from; changes only when another place speaks. Lets the owner see that a
    /// new path works before it drops the old one.
    pub fn sources(&self) -> watch::Receiver<Option<Source>> {
        watch::channel(None).1
    }

    /// Queues one unreliable message; it may be empty. Fails when it does not fit one packet, or when not connected.
    pub fn send_message(&self, message: &[u8]) -> Result<(), MessageError> {
        let _ = message;
        Err(MessageError::Closed)
    }

    /// The next unreliable message; `None` once the stream is closed. Cancel safe.
    pub async fn recv_message(&self) -> Option<Bytes> {
        None
    }

    /// Forwards every packet that arrives for this stream verbatim to where `to` sends to, rewriting only the id.
    /// This stream neither reads nor acknowledges any more. Packets are dropped while `to` is not connected.
    /// `allow` is asked with each packet's length in bytes; `false` drops it (rate limits, quotas).
    pub fn relay_to(&self, to: &StreamControl, allow: Option<Arc<dyn Fn(usize) -> bool + Send + Sync>>) {
        let _ = (to, allow);
    }

    /// Closes at once: the peer gets one DESTROY, local reads and writes fail.
    pub fn destroy(&self) {}

    /// Waits until the stream is closed: `Ok` if both sides ended (or we destroyed it), else why it broke
    /// (`ConnectionReset`: the peer destroyed it; `TimedOut`: the peer stopped answering).
    pub async fn closed(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Counters and estimates, now.
    pub fn stats(&self) -> StreamStats {
        StreamStats::default()
    }
}

/// Counters and estimates of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Smoothed round trip time; zero before the first sample.
    pub rtt: Duration,
    /// Smallest round trip time seen lately; zero before the first sample.
    pub min_rtt: Duration,
    /// Congestion window, packets.
    pub congestion_window: u32,
    /// Packets in flight.
    pub in_flight: u32,
    /// Pacing rate, bytes per second.
    pub pacing_rate: u64,
    /// Largest IP packet in use, bytes.
    pub mtu: u16,
    /// UDP payload bytes sent, headers and retransmissions included.
    pub bytes_sent: u64,
    /// UDP payload bytes received, headers included.
    pub bytes_received: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets received.
    pub packets_received: u64,
    /// Packets sent again.
    pub retransmits: u64,
    /// Retransmission timeouts.
    pub timeouts: u64,
    /// Packets forwarded to another stream (`relay_to`).
    pub relayed_packets: u64,
    /// Bytes forwarded to another stream (`relay_to`).
    pub relayed_bytes: u64,
}

/// Why a stream could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateStreamError {
    /// Another stream of the endpoint has this id.
    #[error("failed to create stream: id {0} is in use")]
    IdInUse(u32),
    /// The endpoint is closed.
    #[error("failed to create stream: the endpoint is closed")]
    Closed,
    /// The endpoint has as many streams as it may.
    #[error("failed to create stream: the endpoint is full")]
    Full,
}

/// Why a stream could not be connected or moved.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// Port 0 or an unspecified address.
    #[error("failed to connect stream: {0} can not be sent to")]
    InvalidAddress(SocketAddr),
    /// `connect` was called before; use `change_remote`.
    #[error("failed to connect stream: it is connected already")]
    AlreadyConnected,
    /// `change_remote` needs a connected stream.
    #[error("failed to move stream: it is not connected")]
    NotConnected,
    /// The stream is closed.
    #[error("failed to connect stream: it is closed")]
    Closed,
}

/// Why an unreliable message was not sent.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageError {
    /// Longer than one packet holds.
    #[error("failed to send message: {length} bytes, at most {limit} fit")]
    TooLong {
        /// Its length, bytes.
        length: usize,
        /// The most that fits, bytes.
        limit: usize,
    },
    /// The queue of messages to send is full.
    #[error("failed to send message: the queue is full")]
    QueueFull,
    /// The stream is not connected.
    #[error("failed to send message: the stream is not connected")]
    NotConnected,
    /// The stream is closed.
    #[error("failed to send message: the stream is closed")]
    Closed,
}
