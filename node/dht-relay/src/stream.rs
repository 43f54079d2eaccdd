//! One stream to a peer: the secret stream over UDX on one side, messages on the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cumulet_hyperdht::Connection;
use cumulet_secret_stream::{Event, HEADER_BYTES, KEEP_ALIVE, SecretStream, StreamError};
use cumulet_udx::UdxStream;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

use crate::session::{Occurrence, StreamId};

/// Bytes read at a time.
const READ_BYTES: usize = 65_536;
/// Encrypted bytes made before the last ones have left.
const OUTPUT_BYTES: usize = 256 * 1024;
/// A peer that takes nothing of what waits for it is given up after this time: its client is not read meanwhile.
const WRITE_WAIT: Duration = Duration::from_mins(1);
/// How long a peer may take to say goodbye once its client has.
const END_WAIT: Duration = Duration::from_secs(10);
/// What one message costs beside its bytes.
pub(crate) const MESSAGE_BYTES: usize = 64;

/// What the client tells its peer.
#[derive(Debug)]
pub(crate) enum Order {
    Write(Vec<Bytes>),
    Finish,
}

/// Bytes that wait for the streams of one client: while there are too many, the client is not read.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    bytes: AtomicUsize,
    taken: Notify,
}

impl Backlog {
    pub(crate) fn add(&self, data: &[Bytes]) {
        self.bytes.fetch_add(cost(data), Ordering::Relaxed);
    }

    /// Takes back what was added for a stream that is gone.
    pub(crate) fn remove(&self, data: &[Bytes]) {
        self.take(cost(data));
    }

    fn take(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.taken.notify_one();
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) async fn taken(&self) {
        self.taken.notified().await;
    }
}

fn cost(data: &[Bytes]) -> usize {
    data.iter().map(|part| part.len() + MESSAGE_BYTES).sum()
}

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the connection to the peer broke: {0}")]
    Transport(#[from] std::io::Error),
    #[error("the peer broke the secret stream: {0}")]
    Secret(#[from] StreamError),
    #[error("the relay failed to draw randomness")]
    Entropy,
    #[error("a message is too long")]
    TooLong,
    #[error("the peer takes nothing")]
    Stuck,
}

/// What is given back to the backlog however the stream ends.
struct Queue {
    orders: mpsc::UnboundedReceiver<Order>,
    backlog: Arc<Backlog>,
    finished: bool,
}

impl Queue {
    async fn next(&mut self) -> Option<Order> {
        let order = self.orders.recv().await;
        match &order {
            Some(Order::Write(data)) => self.backlog.take(cost(data)),
            Some(Order::Finish) | None => self.finished = true,
        }
        order
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.orders.close();
        while let Ok(order) = self.orders.try_recv() {
            if let Order::Write(data) = order {
                self.backlog.take(cost(&data));
            }
        }
    }
}

/// Carries the messages of one stream until it ends.
pub(crate) async fn run(
    stream: StreamId,
    connection: Connection,
    orders: mpsc::UnboundedReceiver<Order>,
    backlog: Arc<Backlog>,
    occurrences: mpsc::Sender<Occurrence>,
) {
    let queue = Queue {
        orders,
        backlog,
        finished: false,
    };
    let ended = carry(stream, connection, queue, &occurrences).await;
    let error = ended.err().map(|error| error.to_string());
    let _ = occurrences.send(Occurrence::Closed(stream, error)).await;
}

struct Carrier {
    transport: UdxStream,
    secret: SecretStream,
    output: Bytes,
    /// Messages of the peer on their way to the client.
    received: VecDeque<Occurrence>,
    peer_ended: bool,
}

async fn carry(
    stream: StreamId,
    connection: Connection,
    mut queue: Queue,
    occurrences: &mpsc::Sender<Occurrence>,
) -> Result<(), Broken> {
    let mut header = [0; HEADER_BYTES];
    getrandom::fill(&mut header).map_err(|_| Broken::Entropy)?;
    let mut secret = SecretStream::from_handshake(connection.handshake, header);
    secret.set_keep_alive(KEEP_ALIVE);
    secret.handle_timeout(Instant::now())?;
    let mut carrier = Carrier {
        transport: connection.stream,
        secret,
        output: Bytes::new(),
        received: VecDeque::new(),
        peer_ended: false,
    };
    let mut input = vec![0; READ_BYTES];
    let (mut stuck_at, mut end_at) = (None, None);
    loop {
        carrier.open(stream)?;
        if carrier.output.is_empty() {
            carrier.output = carrier.secret.take_output();
            stuck_at = (!carrier.output.is_empty()).then(|| Instant::now() + WRITE_WAIT);
        }
        let said_all = queue.finished && carrier.output.is_empty();
        if carrier.received.is_empty() && carrier.peer_ended {
            break;
        }
        let has_room = carrier.secret.pending_output() < OUTPUT_BYTES;
        let wake = carrier.secret.poll_timeout();
        let (mut reader, mut writer) = tokio::io::split(&mut carrier.transport);
        tokio::select! {
            permit = occurrences.reserve(), if !carrier.received.is_empty() => {
                let Ok(permit) = permit else { return Ok(()) };
                if let Some(occurrence) = carrier.received.pop_front() {
                    permit.send(occurrence);
                }
            }
            read = reader.read(&mut input), if carrier.received.is_empty() && !carrier.peer_ended => {
                match read? {
                    0 => {
                        carrier.peer_ended = true;
                        carrier.received.push_back(Occurrence::Ended(stream));
                    }
                    read => carrier.secret.receive(&input[..read]),
                }
            }
            written = push(&mut writer, &carrier.output), if !carrier.output.is_empty() || (said_all && end_at.is_none()) => {
                if said_all {
                    end_at = Some(Instant::now() + END_WAIT);
                } else {
                    carrier.output = carrier.output.slice(written?..);
                    stuck_at = Some(Instant::now() + WRITE_WAIT);
                }
            }
            order = queue.next(), if has_room && !queue.finished => {
                if let Some(Order::Write(data)) = order {
                    for message in data {
                        carrier.secret.send(&message).map_err(|_| Broken::TooLong)?;
                    }
                }
            }
            () = until(end_at), if end_at.is_some() => return Ok(()),
            () = until(wake) => carrier.secret.handle_timeout(Instant::now())?,
            () = until(stuck_at), if !carrier.output.is_empty() => return Err(Broken::Stuck),
        }
    }
    let _ = tokio::time::timeout(END_WAIT, carrier.transport.shutdown()).await;
    Ok(())
}

impl Carrier {
    /// Decrypts what was received, unless the client has not taken the last messages yet.
    fn open(&mut self, stream: StreamId) -> Result<(), Broken> {
        while self.received.is_empty() {
            match self.secret.poll_event()? {
                Some(Event::Message(message)) => self.received.push_back(Occurrence::Data(stream, message)),
                Some(_) => {}
                None => break,
            }
        }
        Ok(())
    }
}

/// Writes some of the output, or says goodbye when there is none. Nothing is lost when it is cancelled.
async fn push(writer: &mut (impl AsyncWrite + Unpin), output: &[u8]) -> std::io::Result<usize> {
    if output.is_empty() {
        writer.shutdown().await?;
        return Ok(0);
    }
    writer.write(output).await
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
