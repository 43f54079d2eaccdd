//! A control connection: the secret stream and the Protomux over one UDX stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes};
use cumulet_protomux::{ChannelId, Event, Mux, MuxError, Request};
use cumulet_secret_stream::noise::HandshakeResult;
use cumulet_secret_stream::{KEEP_ALIVE, SecretStream, StreamError};
use cumulet_udx::UdxStream;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::Key;

/// Bytes read at a time. Messages are about 50 bytes.
const READ_BYTES: usize = 2_048;
/// Longest frame that makes sense here: a batch of all messages a peer may have waiting. A peer that announces more is not ours.
const MAX_BUFFERED_BYTES: usize = 65_536;
/// How long a peer may take to acknowledge the end.
const END_WAIT: std::time::Duration = std::time::Duration::from_secs(3);

/// A connected peer, as the DHT hands it over.
#[derive(Debug)]
pub struct Peer {
    /// Its Ed25519 public key, authenticated.
    pub identity: Key,
    /// Keys of the secret stream.
    pub handshake: HandshakeResult,
    /// The stream; nothing was written to it or read from it.
    pub stream: UdxStream,
}

/// Why a control connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The transport broke.
    #[error("failed to exchange bytes with the peer")]
    Transport(#[from] std::io::Error),
    /// The secret stream broke.
    #[error("failed to keep up the secret stream")]
    Stream(#[from] StreamError),
    /// The multiplexer broke.
    #[error("failed to follow the multiplexer")]
    Mux(#[from] MuxError),
    /// A frame was longer than anything this protocol says.
    #[error("failed to read a frame: it is longer than {MAX_BUFFERED_BYTES} bytes")]
    TooLong,
    /// The system gave no randomness.
    #[error("failed to draw randomness")]
    Entropy,
    /// The peer ended the connection.
    #[error("failed to go on: the peer ended the connection")]
    Ended,
}

pub(super) struct Control {
    stream: UdxStream,
    secret: SecretStream,
    mux: Mux,
    output: Bytes,
}

impl Control {
    pub(super) fn new(peer: Peer) -> Result<Self, ControlError> {
        let mut header = [0; cumulet_secret_stream::HEADER_BYTES];
        getrandom::fill(&mut header).map_err(|_| ControlError::Entropy)?;
        let mut secret = SecretStream::from_handshake(peer.handshake, header);
        secret.set_keep_alive(KEEP_ALIVE);
        secret.handle_timeout(Instant::now())?;
        Ok(Self {
            stream: peer.stream,
            secret,
            mux: Mux::new(),
            output: Bytes::new(),
        })
    }

    pub(super) fn stream(&self) -> &UdxStream {
        &self.stream
    }

    pub(super) fn open(&mut self, protocol: &str, id: &[u8]) -> Option<ChannelId> {
        self.mux.open(protocol, id, &[]).ok()
    }

    pub(super) fn accept(&mut self, request: &Request) -> Option<ChannelId> {
        self.mux.accept(request, &[]).ok()
    }

    pub(super) fn reject(&mut self, request: &Request) {
        self.mux.reject(request);
    }

    pub(super) fn send(&mut self, channel: ChannelId, kind: u64, message: &[u8]) {
        // Far below the frame limit.
        let _ = self.mux.send(channel, kind, message);
    }

    /// The next event of the multiplexer. Sends what is to be sent meanwhile. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Event, ControlError> {
        loop {
            if let Some(event) = self.mux.poll_event()? {
                return Ok(event);
            }
            if self.mux.wants_input()
                && let Some(event) = self.secret.poll_event()?
            {
                if let cumulet_secret_stream::Event::Message(message) = event {
                    self.mux.receive(message);
                }
                continue;
            }
            self.gather();
            if self.secret.buffered_input() > MAX_BUFFERED_BYTES {
                return Err(ControlError::TooLong);
            }
            let wake = self.secret.poll_timeout();
            tokio::select! {
                moved = poll_fn(|cx| self.poll_bytes(cx)) => moved?,
                () = until(wake) => self.secret.handle_timeout(Instant::now())?,
            }
        }
    }

    /// Moves bytes of either direction. They are read onto the stack: thousands of connections that say nothing hold no buffer.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ControlError>> {
        if !self.output.is_empty()
            && let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, &self.output)
        {
            self.output.advance(written?);
            return Poll::Ready(Ok(()));
        }
        let mut storage = [0; READ_BYTES];
        let mut input = ReadBuf::new(&mut storage);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut input))?;
        if input.filled().is_empty() {
            return Poll::Ready(Err(ControlError::Ended));
        }
        self.secret.receive(input.filled());
        Poll::Ready(Ok(()))
    }

    /// Encrypts what the multiplexer has to say, once the last output has left.
    fn gather(&mut self) {
        if !self.output.is_empty() {
            return;
        }
        while let Some(frame) = self.mux.poll_transmit() {
            let _ = self.secret.send(&frame);
        }
        self.output = self.secret.take_output();
    }

    /// Says goodbye and waits a little for the peer to have heard it.
    pub(super) async fn end(&mut self, channel: Option<ChannelId>) {
        if let Some(channel) = channel {
            self.mux.close(channel);
        }
        let goodbye = async {
            loop {
                self.gather();
                if self.output.is_empty() {
                    break;
                }
                let output = std::mem::take(&mut self.output);
                if self.stream.write_all(&output).await.is_err() {
                    return;
                }
            }
            let _ = self.stream.shutdown().await;
        };
        let _ = tokio::time::timeout(END_WAIT, goodbye).await;
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
