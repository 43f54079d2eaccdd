//! The bytes of a WebSocket's binary messages, both ways.
//!
//! A task of its own exchanges the messages: it has to answer pings, send its own and flush whoever reads or writes the bytes
//! meanwhile. It ends soon after the bytes are dropped, and at once when they are destroyed.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf,
};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::task::TaskTracker;

use super::MAX_MESSAGE_BYTES;
use crate::watched::{Watched, WatchedControl};

/// Bytes that wait in each direction beside the message on its way.
const BUFFER_BYTES: usize = 64 * 1024;
/// How often we say that we live. Proxies commonly cut a WebSocket that is silent for a minute.
const PING_EVERY: Duration = Duration::from_secs(15);
/// A peer that says nothing for this long, while we listen, is gone: it pings as we do, also while it can not say more.
const SILENCE: Duration = Duration::from_secs(45);
/// How long the peer may take to say goodbye once nobody here holds the bytes.
const CLOSE_WAIT: Duration = Duration::from_secs(3);

/// The bytes that the two sides of a WebSocket exchange.
pub struct WebSocketBytes {
    io: DuplexStream,
    /// Bytes that have come, ever.
    received: watch::Receiver<u64>,
    /// And those that were taken.
    taken: u64,
    /// The WebSocket broke, and was not closed.
    is_broken: Arc<AtomicBool>,
}

impl fmt::Debug for WebSocketBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketBytes")
            .field("received", &*self.received.borrow())
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

impl WebSocketBytes {
    /// Waits until there is something to take. False: the peer is gone before.
    pub(crate) async fn heard(&self) -> bool {
        let mut received = self.received.clone();
        received.wait_for(|received| *received > self.taken).await.is_ok()
    }
}

impl AsyncRead for WebSocketBytes {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let read = (buf.filled().len() - before) as u64;
        this.taken += read;
        if read == 0 && buf.remaining() > 0 && this.is_broken.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocketBytes {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Starts the task that exchanges the messages of a WebSocket.
pub(super) fn carry<Io>(socket: WebSocketStream<Io>, tasks: &TaskTracker) -> Watched<WebSocketBytes>
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (io, far_end) = tokio::io::duplex(BUFFER_BYTES);
    let (received, seen) = watch::channel(0);
    let is_broken = Arc::<AtomicBool>::default();
    let control = WatchedControl::default();
    let bytes = WebSocketBytes {
        io,
        received: seen,
        taken: 0,
        is_broken: is_broken.clone(),
    };
    let watched = Watched::new(bytes, control.clone());
    tasks.spawn(async move {
        tokio::select! {
            ended = exchange(socket, far_end, &received, &control, &is_broken) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a WebSocket broke");
                }
            }
            () = control.destroyed() => {}
        }
    });
    watched
}

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Socket(#[from] Error),
    #[error("the peer was silent for too long")]
    Silent,
    #[error("the peer sent a message that is not binary")]
    NotBinary,
}

async fn exchange<Io>(
    socket: WebSocketStream<Io>,
    far_end: DuplexStream,
    received: &watch::Sender<u64>,
    control: &WatchedControl,
    is_broken: &AtomicBool,
) -> Result<(), Broken>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let (sink, source) = socket.split();
    let (reader, writer) = tokio::io::split(far_end);
    let given_up = async {
        control.gone().await;
        tokio::time::sleep(CLOSE_WAIT).await;
    };
    let (down, up) = (take_in(source, writer, received), send_out(sink, reader));
    tokio::pin!(down, up);
    let ended = tokio::select! {
        // The peer has said all, or is gone: it would not read what is still to be said.
        ended = &mut down => ended,
        said_all = &mut up => match said_all {
            Ok(()) => tokio::select! {
                ended = &mut down => ended,
                () = given_up => Ok(()),
            },
            Err(error) => Err(error.into()),
        },
    };
    // Before the halves are dropped, which is what the reader wakes for.
    is_broken.store(ended.is_err(), Ordering::Release);
    ended
}

/// From the peer to us, until it closes the WebSocket or nobody takes what it says.
async fn take_in<Io>(
    mut source: SplitStream<WebSocketStream<Io>>,
    mut writer: WriteHalf<DuplexStream>,
    received: &watch::Sender<u64>,
) -> Result<(), Broken>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let next = tokio::time::timeout(SILENCE, source.next()).await;
        match next.map_err(|_| Broken::Silent)?.transpose()? {
            Some(Message::Binary(data)) => {
                received.send_modify(|received| *received += data.len() as u64);
                if writer.write_all(&data).await.is_err() {
                    return Ok(());
                }
            }
            Some(Message::Ping(_) | Message::Pong(_)) => {}
            Some(Message::Close(_)) => break,
            Some(_) => return Err(Broken::NotBinary),
            None => return Ok(()),
        }
    }
    // All is said: what is left is to answer the goodbye, which the library does while it is asked for more.
    let _ = writer.shutdown().await;
    let goodbye = async { while let Some(Ok(_)) = source.next().await {} };
    let _ = tokio::time::timeout(CLOSE_WAIT, goodbye).await;
    Ok(())
}

/// From us to the peer, until we have said all.
async fn send_out<Io>(
    mut sink: SplitSink<WebSocketStream<Io>, Message>,
    mut reader: ReadHalf<DuplexStream>,
) -> Result<(), Error>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping.reset();
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(MAX_MESSAGE_BYTES);
        let mut room = (&mut buffer).limit(MAX_MESSAGE_BYTES);
        tokio::select! {
            read = reader.read_buf(&mut room) => {
                if !matches!(read, Ok(1..)) {
                    break;
                }
                sink.send(Message::Binary(buffer.split().freeze())).await?;
            }
            _ = ping.tick() => sink.send(Message::Ping(Bytes::new())).await?,
        }
    }
    match sink.send(Message::Close(None)).await {
        // The peer was faster.
        Err(Error::ConnectionClosed | Error::AlreadyClosed) => Ok(()),
        closed => closed,
    }
}

#[cfg(test)]
#[path = "bytes_tests.rs"]
mod tests;
