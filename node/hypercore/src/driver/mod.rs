//! Runs connections: bytes of a transport through secret stream and mux to the cores of a store, and back.
//!
//! One future per connection does everything for it: reading, decrypting, dispatching to cores, serving, commits, timers. It
//! never stops reading because much is to be *sent* (two peers that both did so would wait for each other for ever): blocks are
//! read from the core only when the connection has room for them, so requests wait as the few bytes they are. It stops reading
//! only while what our cores have to *say* to the peer is over a budget that honest peers do not reach.
//!
//! A connection that fails costs nothing but itself; a core that fails costs its channels.

mod connection;
mod receiving;
pub(crate) mod room;
mod service;
mod serving;

use std::time::{Duration, Instant};

use cumulet_secret_stream::noise::{HandshakeResult, KeyPair};
use cumulet_secret_stream::{HEADER_BYTES, KEEP_ALIVE, SecretStream, Seeds, StreamError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::corestore::{Corestore, CorestoreError};

use connection::Connection;
use room::OUTPUT_BUDGET_BYTES;
pub use service::Service;

/// What may wait in all, answers that are no blocks included, before nothing more is read: the budget and one largest frame.
const OUTPUT_LIMIT_BYTES: usize = OUTPUT_BUDGET_BYTES + (20 << 20);
/// Room made for reads of the transport: twice as much after each read that filled it. Most connections are quiet most of the time.
const MIN_READ_BYTES: usize = 16 * 1024;
const MAX_READ_BYTES: usize = 256 * 1024;
/// The part of it that is enough for one more read. Blocks that are kept share the room that they were received in: making more
/// while there is some would waste what is left.
const READ_AGAIN_SHARE: usize = 16;
/// How often requests without an answer are looked at, and delayed answers.
const TICK: Duration = Duration::from_millis(500);

/// How the secret stream of a connection begins. Seeds are fresh random bytes for each connection.
pub enum Session {
    /// With a Noise XX handshake on the transport, as over TCP.
    Xx {
        /// Whether we connected.
        is_initiator: bool,
        /// Our static keys.
        key_pair: KeyPair,
        /// Randomness.
        seeds: Seeds,
    },
    /// The handshake has been made, as by the DHT.
    Established {
        /// Its result.
        handshake: HandshakeResult,
        /// Randomness.
        header_seed: [u8; HEADER_BYTES],
    },
}

/// Why a connection ended, other than by its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplicateError {
    /// The transport failed.
    #[error("failed to carry bytes")]
    Transport(#[from] std::io::Error),
    /// The peer broke the secret stream, or was silent for too long.
    #[error("failed to keep the secret stream")]
    Stream(#[from] StreamError),
    /// The peer broke the multiplexer's rules.
    #[error("failed to keep the channels")]
    Mux(#[from] cumulet_protomux::MuxError),
    /// The peer does not take what it is told.
    #[error("failed to tell the peer anything: it does not listen")]
    Deaf,
    /// The peer sends a large message so slowly that others wait for the memory it takes.
    #[error("failed to receive a large message: the peer is too slow while others wait")]
    TooSlow,
    /// The store is closed or failed.
    #[error("failed to use the store")]
    Store(#[from] CorestoreError),
    /// Another protocol on the connection wants it to end.
    #[error("failed to serve the peer: {0}")]
    Service(String),
}

/// Runs one connection until it ends or `cancel` is cancelled, replicating all cores of `store` that both sides know.
///
/// # Errors
/// [`ReplicateError`]; all of a connection's state is gone then, the store is unharmed.
pub async fn replicate<Io>(
    store: Corestore,
    io: Io,
    session: Session,
    cancel: CancellationToken,
) -> Result<(), ReplicateError>
where
    Io: AsyncRead + AsyncWrite + Send + Unpin,
{
    replicate_beside(store, io, session, None, cancel).await
}

/// As [`replicate`], with other protocols on the same connection.
///
/// # Errors
/// Those of [`replicate`], and what the service ends the connection for.
pub async fn replicate_beside<Io>(
    store: Corestore,
    io: Io,
    session: Session,
    service: Option<Box<dyn Service>>,
    cancel: CancellationToken,
) -> Result<(), ReplicateError>
where
    Io: AsyncRead + AsyncWrite + Send + Unpin,
{
    let mut stream = match session {
        Session::Xx {
            is_initiator,
            key_pair,
            seeds,
        } => SecretStream::xx(is_initiator, key_pair, &seeds)?,
        Session::Established {
            handshake,
            header_seed,
        } => SecretStream::from_handshake(handshake, header_seed),
    };
    stream.set_keep_alive(KEEP_ALIVE);
    stream.handle_timeout(Instant::now())?;
    let mut connection = Connection::new(store, stream, service).await?;
    let result = tokio::select! {
        () = cancel.cancelled() => Ok(()),
        result = run(&mut connection, io) => result,
    };
    connection.leave().await;
    result
}

async fn run<Io>(connection: &mut Connection, io: Io) -> Result<(), ReplicateError>
where
    Io: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(io);
    let mut output = bytes::Bytes::new();
    let mut unflushed = false;
    let mut read_bytes = MIN_READ_BYTES;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        connection.turn(output.len()).await?;
        if output.is_empty() {
            output = connection.take_output();
        }
        let listening = connection.is_listening(output.len(), Instant::now());
        let outbox = connection.outbox.clone();
        let wake = connection.wake.clone();
        let next_commit = connection.next_commit();
        let keep_alive = connection.stream.poll_timeout();
        let input = connection.stream.receive_buffer();
        if input.capacity() - input.len() < read_bytes / READ_AGAIN_SHARE {
            input.reserve(read_bytes);
        }
        let room = input.capacity() - input.len();
        tokio::select! {
            read = reader.read_buf(input), if listening => {
                match read? {
                    // What we still have to say nobody would read: JS destroys both directions too.
                    0 => return Ok(()),
                    all if all == room => read_bytes = MAX_READ_BYTES.min(2 * read_bytes),
                    few if few < MIN_READ_BYTES / READ_AGAIN_SHARE => read_bytes = MIN_READ_BYTES,
                    _ => {}
                }
                connection.stream.note_received();
            }
            written = push(&mut writer, &mut output), if unflushed || !output.is_empty() => unflushed = written?,
            () = outbox.added() => {}
            () = wake.notified() => connection.wake_service()?,
            () = at(keep_alive) => connection.stream.handle_timeout(Instant::now())?,
            () = at(next_commit) => connection.commit(),
            Some(committed) = connection.commits.join_next(), if !connection.commits.is_empty() => {
                Connection::committed(committed);
            }
            _ = tick.tick() => connection.tick().await?,
        }
    }
}

/// Writes some of the output, or flushes the transport when there is none. Returns whether bytes were written. Nothing is lost
/// when it is cancelled.
async fn push(writer: &mut (impl AsyncWrite + Unpin), output: &mut bytes::Bytes) -> std::io::Result<bool> {
    if output.is_empty() {
        writer.flush().await?;
        return Ok(false);
    }
    match writer.write_buf(output).await? {
        0 => Err(std::io::ErrorKind::WriteZero.into()),
        _ => Ok(true),
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
