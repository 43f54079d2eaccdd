//! The handles of a stream: [`UdxStream`] for its bytes, [`StreamControl`] for everything else.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    ConnectError, MessageError, Socket, Source, StreamStats,
    shared::{Allow, State, StreamShared},
};
use crate::stream::{Closed, ReadState};

/// A reliable stream. `shutdown` sends END and waits until the peer has every byte; dropping it sends DESTROY,
/// unless our END was acknowledged (then the peer's END is awaited for a while). Reading yields EOF after the peer's END.
///
/// Bytes may be written before `connect`; they leave when it is called.
#[derive(Debug)]
pub struct UdxStream {
    control: StreamControl,
}

impl UdxStream {
    pub(super) fn new(shared: Arc<StreamShared>) -> Self {
        Self {
            control: StreamControl { shared },
        }
    }

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

impl Drop for UdxStream {
    fn drop(&mut self) {
        let shared = &self.control.shared;
        let now = shared.now();
        shared.with(|state| {
            if state.relay.is_some() {
                state.stream.destroy_silently();
            } else {
                state.stream.detach(now);
            }
        });
    }
}

impl AsyncRead for UdxStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let shared = &self.control.shared;
        let mut state = shared.lock();
        match state.stream.read_state() {
            ReadState::Readable => {
                let n = state.stream.read(buf.initialize_unfilled());
                buf.advance(n);
                let announce = state.stream.owes_ack();
                drop(state);
                if announce {
                    shared.with(|_| ());
                }
                Poll::Ready(Ok(()))
            }
            ReadState::End => Poll::Ready(Ok(())),
            ReadState::Broken(reason) => Poll::Ready(Err(broken(reason))),
            ReadState::Pending => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for UdxStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.control.shared.with_writer(|state| {
            if let Some(reason) = state.stream.closed() {
                return Poll::Ready(Err(broken(reason)));
            }
            if state.stream.is_finishing() {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::BrokenPipe,
                    "written after shutdown",
                )));
            }
            match state.stream.write(buf) {
                0 => {
                    state.writer = Some(cx.waker().clone());
                    Poll::Pending
                }
                n => Poll::Ready(Ok(n)),
            }
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Written bytes leave by themselves; only shutdown waits for the peer.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.control.shared.with(|state| {
            state.stream.finish();
            if state.stream.is_finished() {
                return Poll::Ready(Ok(()));
            }
            match state.stream.closed() {
                Some(Closed::Ended) => Poll::Ready(Ok(())),
                Some(reason) => Poll::Ready(Err(broken(reason))),
                None => {
                    state.closer = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }
}

fn broken(reason: Closed) -> io::Error {
    let (kind, text) = match reason {
        Closed::Ended => (io::ErrorKind::BrokenPipe, "the stream has ended"),
        Closed::Destroyed => (io::ErrorKind::ConnectionAborted, "the stream was destroyed"),
        Closed::Reset => (io::ErrorKind::ConnectionReset, "the peer destroyed the stream"),
        Closed::TimedOut => (io::ErrorKind::TimedOut, "the peer stopped answering"),
    };
    io::Error::new(kind, text)
}

/// Everything about a stream except its bytes. Clones do not keep the stream alive.
#[derive(Clone)]
pub struct StreamControl {
    shared: Arc<StreamShared>,
}

impl fmt::Debug for StreamControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamControl")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl StreamControl {
    /// Our id: what the peer must write into its packets.
    pub fn id(&self) -> u32 {
        self.shared.id()
    }

    /// Sets where the stream sends to: `remote_id` is the peer's id. Nothing is sent unless bytes are waiting
    /// to leave or to be acknowledged. Once only.
    pub fn connect(&self, socket: &Socket, remote_id: u32, address: SocketAddr) -> Result<(), ConnectError> {
        self.shared.connect(socket, remote_id, address)
    }

    /// Whether `connect` was called.
    pub fn is_connected(&self) -> bool {
        self.shared.lock().stream.remote().is_some()
    }

    /// Moves a connected stream: new packets go to the new place at once. The peer is not told;
    /// it moves by itself (relay to direct path).
    pub fn change_remote(
        &self,
        socket: &Socket,
        remote_id: u32,
        address: SocketAddr,
    ) -> Result<(), ConnectError> {
        self.shared.change_remote(socket, remote_id, address)
    }

    /// Whether packets sent before the last [`change_remote`](Self::change_remote) are still unacknowledged.
    pub fn is_moving(&self) -> bool {
        self.shared.lock().stream.is_moving()
    }

    /// Where the stream sends to now; `None` before `connect`.
    pub fn remote(&self) -> Option<Source> {
        self.shared.lock().target().map(|(path, _, socket)| Source {
            socket,
            address: path.address,
        })
    }

    /// Waits for the first packet that the firewall let through, and says where it came from: a server then
    /// connects the stream to it. `None` if the stream closed first. Cancel safe.
    pub async fn first_packet(&self) -> Option<Source> {
        self.heard(|_| true).await
    }

    /// Waits until the newest accepted packet came from a place that is `wanted`, and says from where: lets the owner see that a
    /// new path works before it drops the old one. `None` if the stream closed first. Cancel safe.
    pub async fn heard(&self, mut wanted: impl FnMut(&Source) -> bool) -> Option<Source> {
        self.watch(|state| {
            let source = state.source.as_ref().filter(|source| wanted(source)).cloned();
            let over = source.is_some() || state.stream.closed().is_some();
            over.then_some(source)
        })
        .await
    }

    /// Looks at the state now and after every change, until there is an answer.
    async fn watch<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(answer) = look(&mut self.shared.lock()) {
                return answer;
            }
            changed.await;
        }
    }

    /// The place the newest accepted packet came from.
    pub fn source(&self) -> Option<Source> {
        self.shared.lock().source.clone()
    }

    /// Queues one unreliable message; it may be empty. Fails when it does not fit one packet, or when not connected.
    pub fn send_message(&self, message: &[u8]) -> Result<(), MessageError> {
        self.shared.with(|state| {
            let stream = &mut state.stream;
            if stream.closed().is_some() {
                return Err(MessageError::Closed);
            }
            if stream.remote().is_none() {
                return Err(MessageError::NotConnected);
            }
            let limit = stream.message_limit();
            if message.len() > limit {
                return Err(MessageError::TooLong {
                    length: message.len(),
                    limit,
                });
            }
            if stream.send_message(Bytes::copy_from_slice(message)) {
                Ok(())
            } else {
                Err(MessageError::QueueFull)
            }
        })
    }

    /// The next unreliable message; `None` once the stream is closed. Cancel safe.
    pub async fn recv_message(&self) -> Option<Bytes> {
        self.watch(|state| {
            let message = state.stream.recv_message();
            let over = message.is_some() || state.stream.closed().is_some();
            over.then_some(message)
        })
        .await
    }

    /// Forwards every packet that arrives for this stream verbatim to where `to` sends to, rewriting only the id.
    /// This stream neither reads nor acknowledges any more. Packets are dropped while `to` is not connected.
    /// `allow` is asked with each packet that has somewhere to go, on the receiving task; `false` drops it (rate limits,
    /// quotas). A DESTROY is passed on without asking.
    /// When `to` closes this stream closes too; a forwarded DESTROY closes both.
    pub fn relay_to(&self, to: &StreamControl, allow: Option<Allow>) {
        self.shared.relay_to(&to.shared, allow);
    }

    /// Closes at once: the peer gets one DESTROY (not from a relaying stream), local reads and writes fail.
    pub fn destroy(&self) {
        self.shared.destroy();
    }

    /// Waits until the stream is closed: `Ok` if both sides ended (or we destroyed it), else why it broke
    /// (`ConnectionReset`: the peer destroyed it; `TimedOut`: the peer stopped answering).
    pub async fn closed(&self) -> io::Result<()> {
        let reason = self.watch(|state| state.stream.closed()).await;
        match reason {
            Closed::Reset | Closed::TimedOut => Err(broken(reason)),
            Closed::Ended | Closed::Destroyed => Ok(()),
        }
    }

    /// Counters and estimates, now.
    pub fn stats(&self) -> StreamStats {
        let state = self.shared.lock();
        let (counters, estimates) = (state.stream.counters(), state.stream.estimates());
        let time = |micros: Option<u64>| Duration::from_micros(micros.unwrap_or(0));
        StreamStats {
            rtt: time(estimates.rtt),
            min_rtt: time(estimates.min_rtt),
            congestion_window: estimates.congestion_window,
            in_flight: estimates.in_flight,
            pacing_rate: estimates.pacing_rate,
            mtu: estimates.mtu,
            bytes_sent: counters.bytes_sent,
            bytes_received: counters.bytes_received,
            packets_sent: counters.packets_sent,
            packets_received: counters.packets_received,
            retransmits: counters.retransmits,
            timeouts: counters.timeouts,
            relayed_packets: state.relayed_packets,
            relayed_bytes: state.relayed_bytes,
        }
    }
}
