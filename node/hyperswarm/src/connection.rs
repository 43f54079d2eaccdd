//! A connected peer, whichever way its bytes go.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use cumulet_secret_stream::noise::HandshakeResult;
use cumulet_udx::{StreamControl, UdxStream};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::watched::{Watched, WatchedControl};
use crate::websocket::WebSocketBytes;

/// Bytes of a UDX header: more than this per packet means data was carried.
const UDX_HEADER: u64 = 20;
/// A TCP peer that is silent is asked for a sign of life after this time, and then this often: what vanished without a word is
/// noticed within some two minutes (Linux asks nine times).
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);

/// A connected peer: the handshake is done, the stream carries the secret stream's bytes (its header first).
#[derive(Debug)]
pub struct Connection {
    /// The peer's Ed25519 public key, authenticated.
    pub remote_public_key: [u8; 32],
    /// Keys for the secret stream over `stream`.
    pub handshake: HandshakeResult,
    /// The raw bytes. Nothing of the secret stream has been written or read.
    pub stream: Transport,
    /// Whether we dialled.
    pub is_initiator: bool,
    /// The blind relay through which the stream began; it may have moved to a direct way since.
    pub relay: Option<[u8; 32]>,
}

impl From<cumulet_hyperdht::Connection> for Connection {
    fn from(connection: cumulet_hyperdht::Connection) -> Self {
        Self {
            remote_public_key: connection.remote_public_key,
            handshake: connection.handshake,
            stream: Transport::Udx(connection.stream),
            is_initiator: connection.is_initiator,
            relay: connection.relay,
        }
    }
}

/// Sends what is written at once, and notices a peer that has vanished.
pub(crate) fn set_up(stream: &TcpStream) -> io::Result<()> {
    // The stream's packets are as large as they can be; waiting to fill them delays what has no more.
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE)
        .with_interval(KEEP_ALIVE_EVERY);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// The bytes' way. Dropping it ends the connection.
#[derive(Debug)]
pub enum Transport {
    /// Over UDP: direct, through a hole, or through a blind relay.
    Udx(UdxStream),
    /// Over TCP.
    Tcp(Watched<TcpStream>),
    /// In the messages of a WebSocket.
    WebSocket(Watched<WebSocketBytes>),
}

impl Transport {
    /// What can be done to the connection by who does not hold its bytes.
    pub fn control(&self) -> Control {
        match self {
            Self::Udx(stream) => Control::Udx(stream.control().clone()),
            Self::Tcp(stream) => Control::Watched(stream.control()),
            Self::WebSocket(stream) => Control::Watched(stream.control()),
        }
    }

    /// Waits until the peer has sent something, without taking it. False: it is gone, or can not be asked.
    pub(crate) async fn heard(&self) -> bool {
        match self {
            Self::Udx(stream) => stream.control().first_packet().await.is_some(),
            Self::Tcp(stream) => matches!(stream.get_ref().peek(&mut [0]).await, Ok(1..)),
            Self::WebSocket(stream) => stream.get_ref().heard().await,
        }
    }
}

/// Ends a connection, or waits for its end, beside whoever holds its bytes. Clones share it.
#[derive(Debug, Clone)]
pub enum Control {
    /// Of a stream over UDP.
    Udx(StreamControl),
    /// Of one over TCP or in a WebSocket.
    Watched(WatchedControl),
}

impl Control {
    /// Ends the connection at once: reading and writing fail.
    pub fn destroy(&self) {
        match self {
            Self::Udx(control) => control.destroy(),
            Self::Watched(control) => control.destroy(),
        }
    }

    /// Waits until the connection is closed on our side: ended, lost, destroyed, or (other than over UDP) dropped.
    pub async fn closed(&self) {
        match self {
            Self::Udx(control) => {
                let _ = control.closed().await;
            }
            Self::Watched(control) => control.closed().await,
        }
    }

    /// Data went both ways.
    pub(crate) fn carried_both_ways(&self) -> bool {
        match self {
            Self::Udx(control) => {
                let stats = control.stats();
                stats.bytes_received > UDX_HEADER * stats.packets_received
                    && stats.bytes_sent > UDX_HEADER * stats.packets_sent
            }
            Self::Watched(control) => control.carried_both_ways(),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Udx(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::WebSocket(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Udx(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::WebSocket(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Udx(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::WebSocket(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Udx(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::WebSocket(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
