//! Bytes that are counted, and that can be ended by who does not hold them.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

#[derive(Debug, Default)]
struct State {
    received: AtomicU64,
    sent: AtomicU64,
    destroy: CancellationToken,
    gone: CancellationToken,
}

/// What can be done to a [`Watched`] stream from elsewhere. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct WatchedControl {
    state: Arc<State>,
}

impl WatchedControl {
    /// Ends the stream at once: reading and writing fail.
    pub fn destroy(&self) {
        self.state.destroy.cancel();
    }

    /// Waits until the stream was destroyed.
    pub(crate) async fn destroyed(&self) {
        self.state.destroy.cancelled().await;
    }

    /// Waits until nobody holds the stream.
    pub(crate) async fn gone(&self) {
        self.state.gone.cancelled().await;
    }

    /// Waits until the stream was destroyed or dropped.
    pub async fn closed(&self) {
        tokio::select! {
            () = self.destroyed() => {}
            () = self.gone() => {}
        }
    }

    /// Data went both ways.
    pub(crate) fn carried_both_ways(&self) -> bool {
        let [received, sent] =
            [&self.state.received, &self.state.sent].map(|bytes| bytes.load(Ordering::Relaxed));
        received > 0 && sent > 0
    }
}

type Destroyed = Pin<Box<WaitForCancellationFutureOwned>>;

/// A stream of bytes that are counted, and that can be ended from elsewhere.
pub struct Watched<Io> {
    io: Io,
    control: WatchedControl,
    /// One for each direction: they may be polled by different tasks.
    destroyed: [Destroyed; 2],
}

impl<Io: fmt::Debug> fmt::Debug for Watched<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("io", &self.io)
            .finish_non_exhaustive()
    }
}

impl<Io> Watched<Io> {
    /// Bytes are counted from now on.
    pub(crate) fn new(io: Io, control: WatchedControl) -> Self {
        let destroyed = || Box::pin(control.state.destroy.clone().cancelled_owned());
        Self {
            io,
            destroyed: [destroyed(), destroyed()],
            control,
        }
    }

    /// What is watched.
    pub fn get_ref(&self) -> &Io {
        &self.io
    }

    /// Bytes are counted anew from now on.
    pub(crate) fn forget_counts(&self) {
        for bytes in [&self.control.state.received, &self.control.state.sent] {
            bytes.store(0, Ordering::Relaxed);
        }
    }

    /// What can be done to it from elsewhere.
    pub fn control(&self) -> WatchedControl {
        self.control.clone()
    }
}

impl<Io> Drop for Watched<Io> {
    fn drop(&mut self) {
        self.control.state.gone.cancel();
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

impl<Io: AsyncRead + Unpin> AsyncRead for Watched<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        poll_destroyed(&mut this.destroyed[0], cx)?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let read = (buf.filled().len() - before) as u64;
        this.control.state.received.fetch_add(read, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Watched<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        poll_destroyed(&mut this.destroyed[1], cx)?;
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        this.control
            .state
            .sent
            .fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
