//! A connected peer, whichever way its bytes go.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use cumulet_secret_stream::noise::HandshakeResult;
use cumulet_udx::{StreamControl, UdxStream};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

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

/// The bytes' way. Dropping it ends the connection.
#[derive(Debug)]
pub enum Transport {
    /// Over UDP: direct, through a hole, or through a blind relay.
    Udx(UdxStream),
    /// Over TCP.
    Tcp(TcpTransport),
}

impl Transport {
    /// What can be done to the connection by who does not hold its bytes.
    pub fn control(&self) -> Control {
        match self {
            Self::Udx(stream) => Control::Udx(stream.control().clone()),
            Self::Tcp(stream) => Control::Tcp(TcpControl {
                state: stream.state.clone(),
            }),
        }
    }

    /// Waits until the peer has sent something, without taking it. False: it is gone, or can not be asked.
    pub(crate) async fn heard(&self) -> bool {
        match self {
            Self::Udx(stream) => {
                let mut sources = stream.control().sources();
                sources.wait_for(Option::is_some).await.is_ok()
            }
            Self::Tcp(stream) => matches!(stream.stream.peek(&mut [0]).await, Ok(1..)),
        }
    }
}

/// Ends a connection, or waits for its end, beside whoever holds its bytes. Clones share it.
#[derive(Debug, Clone)]
pub enum Control {
    /// Of a stream over UDP.
    Udx(StreamControl),
    /// Of one over TCP.
    Tcp(TcpControl),
}

impl Control {
    /// Ends the connection at once: reading and writing fail.
    pub fn destroy(&self) {
        match self {
            Self::Udx(control) => control.destroy(),
            Self::Tcp(control) => control.state.destroy.cancel(),
        }
    }

    /// Waits until the connection is closed on our side: ended, lost, destroyed, or (over TCP) dropped.
    pub async fn closed(&self) {
        match self {
            Self::Udx(control) => {
                let _ = control.closed().await;
            }
            Self::Tcp(control) => {
                tokio::select! {
                    () = control.state.destroy.cancelled() => {}
                    () = control.state.gone.cancelled() => {}
                }
            }
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
            Self::Tcp(TcpControl { state }) => {
                let [received, sent] =
                    [&state.received, &state.sent].map(|bytes| bytes.load(Ordering::Relaxed));
                received > 0 && sent > 0
            }
        }
    }
}

#[derive(Debug, Default)]
struct TcpState {
    received: AtomicU64,
    sent: AtomicU64,
    destroy: CancellationToken,
    gone: CancellationToken,
}

/// See [`Control`].
#[derive(Debug, Clone)]
pub struct TcpControl {
    state: Arc<TcpState>,
}

type Destroyed = Pin<Box<WaitForCancellationFutureOwned>>;

/// A TCP connection that can be ended from elsewhere.
pub struct TcpTransport {
    stream: TcpStream,
    state: Arc<TcpState>,
    /// One for each direction: they may be polled by different tasks.
    destroyed: [Destroyed; 2],
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpTransport")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

impl TcpTransport {
    /// Takes a connection whose handshake is done.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        let keepalive = TcpKeepalive::new()
            .with_time(KEEP_ALIVE)
            .with_interval(KEEP_ALIVE_EVERY);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        let state = Arc::new(TcpState::default());
        let destroyed = || Box::pin(state.destroy.clone().cancelled_owned());
        Ok(Self {
            stream,
            destroyed: [destroyed(), destroyed()],
            state,
        })
    }

    /// The connection itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.state.gone.cancel();
    }
}

fn poll_destroyed(destroyed: &mut Destroyed, cx: &mut Context<'_>) -> io::Result<()> {
    match destroyed.as_mut().poll(cx) {
        Poll::Ready(()) => Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the connection was destroyed on this side",
        )),
        Poll::Pending => Ok(()),
    }
}

impl AsyncRead for TcpTransport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        poll_destroyed(&mut this.destroyed[0], cx)?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        this.state.received.fetch_add(read as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TcpTransport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        poll_destroyed(&mut this.destroyed[1], cx)?;
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        this.state.sent.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
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
