//! One client's task: its WebSocket, its session, and the tasks of its streams, servers and queries.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cumulet_hyperdht::{ConnectOptions, Connection, Dht, ListenOptions, Server};
use cumulet_protomux::{ChannelId, Event, Mux};
use cumulet_relay::dht_relay::{Message, PROTOCOL};
use cumulet_secret_stream::noise::KeyPair;
use futures::{Sink, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message as Frame, protocol::CloseFrame};

use crate::driver::{ServeError, Shared};
use crate::session::{Command, Occurrence, Query, Session, SessionEnd, StreamId};
use crate::stream::{self, Backlog, Order};

/// Messages of peers on their way to one client, beside one that each stream holds.
const OCCURRENCES: usize = 16;
/// Bytes that may wait for the WebSocket before nothing more is taken from peers or from the client.
const OUTPUT_BYTES: usize = 1 << 20;
/// Bytes that may wait for peers before the client is not read.
const BACKLOG_BYTES: usize = 2 << 20;
/// A client that takes nothing of what waits for it is given up after this time.
const WRITE_WAIT: Duration = Duration::from_secs(45);
/// How long a client may take to hear why it has to go.
const CLOSE_WAIT: Duration = Duration::from_secs(3);
/// Longest reason that fits a WebSocket's close frame, bytes.
const REASON_BYTES: usize = 123;

/// What a client's tasks tell it.
enum News {
    Plain(Occurrence),
    Dialled(StreamId, Box<Connection>),
    Incoming(u32, Box<Connection>),
}

impl From<Occurrence> for News {
    fn from(occurrence: Occurrence) -> Self {
        Self::Plain(occurrence)
    }
}

/// A server that the client listens with.
struct Listening {
    public_key: [u8; 32],
    relay_addresses: watch::Receiver<Vec<SocketAddrV4>>,
    close: Option<oneshot::Sender<()>>,
}

pub(crate) struct Client {
    shared: Arc<Shared>,
    session: Session,
    mux: Mux,
    channel: Option<ChannelId>,
    output: Output,
    backlog: Arc<Backlog>,
    news: (mpsc::Sender<News>, mpsc::Receiver<News>),
    occurrences: (mpsc::Sender<Occurrence>, mpsc::Receiver<Occurrence>),
    tasks: JoinSet<()>,
    dials: HashMap<StreamId, AbortHandle>,
    offered: HashMap<StreamId, Box<Connection>>,
    streams: HashMap<StreamId, (mpsc::UnboundedSender<Order>, AbortHandle)>,
    servers: HashMap<u32, Listening>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.session.end();
    }
}

/// Frames on their way to the WebSocket.
#[derive(Default)]
struct Output {
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Output {
    /// Gives the WebSocket what it takes. Done when at least one frame, or all, has left.
    fn send_some<W>(&mut self, writer: &mut W, cx: &mut Context<'_>) -> Poll<Result<(), Error>>
    where
        W: Sink<Frame, Error = Error> + Unpin,
    {
        let mut writer = Pin::new(writer);
        let mut sent = false;
        while !self.frames.is_empty() {
            match writer.as_mut().poll_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending if sent => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
            if let Some(frame) = self.frames.pop_front() {
                self.bytes -= frame.len();
                writer.as_mut().start_send(Frame::Binary(frame))?;
                sent = true;
            }
        }
        match writer.poll_flush(cx) {
            Poll::Pending if sent => Poll::Ready(Ok(())),
            flushed => flushed,
        }
    }
}

impl Client {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let session = Session::new(shared.accounts.clone(), Instant::now());
        Self {
            shared,
            session,
            mux: Mux::new(),
            channel: None,
            output: Output::default(),
            backlog: Arc::default(),
            news: mpsc::channel(OCCURRENCES),
            occurrences: mpsc::channel(OCCURRENCES),
            tasks: JoinSet::new(),
            dials: HashMap::new(),
            offered: HashMap::new(),
            streams: HashMap::new(),
            servers: HashMap::new(),
        }
    }

    /// Serves the client; says why when it has to go.
    pub(crate) async fn run<Io>(mut self, socket: WebSocketStream<Io>) -> Result<(), ServeError>
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let (mut writer, mut reader) = socket.split();
        let ended = self.exchange(&mut reader, &mut writer).await;
        let reason = match &ended {
            Ok(()) => None,
            Err(ServeError::Session(end)) => Some((CloseCode::Policy, end.to_string())),
            Err(_) => return ended,
        };
        let frame = reason.map(|(code, mut reason)| {
            reason.truncate(reason.floor_char_boundary(REASON_BYTES));
            CloseFrame {
                code,
                reason: reason.into(),
            }
        });
        let _ = tokio::time::timeout(CLOSE_WAIT, writer.send(Frame::Close(frame))).await;
        ended
    }

    async fn exchange<R, W>(&mut self, reader: &mut R, writer: &mut W) -> Result<(), ServeError>
    where
        R: futures::Stream<Item = Result<Frame, Error>> + Unpin,
        W: Sink<Frame, Error = Error> + Unpin,
    {
        let cancel = self.shared.cancel.clone();
        let shared = self.shared.clone();
        let mut deaf_at = None;
        let mut unflushed = false;
        loop {
            // Before anything is looked at, so that no change is missed.
            let changed = shared.changed.notified();
            self.turn()?;
            if self.shared.lock().draining && !self.session.has_streams() {
                return Ok(());
            }
            let has_output = unflushed || !self.output.frames.is_empty();
            deaf_at = has_output.then(|| deaf_at.unwrap_or_else(|| Instant::now() + WRITE_WAIT));
            let has_room = self.output.bytes < OUTPUT_BYTES;
            let is_reading = has_room && self.backlog.bytes() < BACKLOG_BYTES;
            let wake = self.session.poll_timeout();
            let backlog = self.backlog.clone();
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = changed => self.session.review()?,
                frame = reader.next(), if is_reading => match frame {
                    Some(Ok(Frame::Binary(frame))) => self.mux.receive(frame),
                    Some(Ok(Frame::Close(_))) | None => return Ok(()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(Box::new(error).into()),
                },
                sent = std::future::poll_fn(|cx| self.output.send_some(writer, cx)), if has_output => {
                    sent.map_err(Box::new)?;
                    unflushed = !self.output.frames.is_empty();
                    deaf_at = None;
                }
                Some(news) = self.news.1.recv(), if has_room => self.on_news(news),
                Some(occurrence) = self.occurrences.1.recv(), if has_room => {
                    self.session.on_occurrence(Instant::now(), occurrence);
                }
                () = backlog.taken(), if !is_reading => {}
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
                () = tokio::time::sleep_until(wake.into()) => {
                    self.session.handle_timeout(Instant::now(), is_reading)?;
                }
                () = until(deaf_at), if has_output => return Err(ServeError::Deaf),
            }
            unflushed |= !self.output.frames.is_empty();
        }
    }

    /// Handles what was received and carries out what is to be done.
    fn turn(&mut self) -> Result<(), ServeError> {
        while let Some(event) = self.mux.poll_event()? {
            self.on_event(event)?;
        }
        while let Some(command) = self.session.poll_command() {
            self.carry_out(command)?;
        }
        while let Some(frame) = self.mux.poll_transmit() {
            self.output.bytes += frame.len();
            self.output.frames.push_back(frame);
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) -> Result<(), ServeError> {
        match event {
            Event::Requested(request) if request.protocol == PROTOCOL && self.channel.is_none() => {
                self.channel = self.mux.accept(&request, &[]).ok();
            }
            Event::Requested(request) => self.mux.reject(&request),
            Event::Message {
                channel,
                kind,
                payload,
            } if Some(channel) == self.channel => {
                self.session.on_message(Instant::now(), kind, &payload)?;
            }
            Event::Closed { channel, .. } if Some(channel) == self.channel => {
                return Err(SessionEnd::Protocol("it closed its channel").into());
            }
            Event::Opened { .. } | Event::Message { .. } | Event::Closed { .. } => {}
        }
        Ok(())
    }

    fn carry_out(&mut self, command: Command) -> Result<(), ServeError> {
        match command {
            Command::Send(message) => self.tell(&message)?,
            Command::Dial {
                stream,
                key_pair,
                remote,
            } => {
                let (dht, news) = (self.shared.dht.clone(), self.news.0.clone());
                let dial = self.tasks.spawn(dial(dht, stream, (key_pair, remote), news));
                self.dials.insert(stream, dial);
            }
            Command::Listen { server, key_pair } => self.listen(server, key_pair),
            Command::CloseServer(server) => {
                if let Some(close) = self
                    .servers
                    .get_mut(&server)
                    .and_then(|server| server.close.take())
                {
                    let _ = close.send(());
                }
            }
            Command::Query(id, query) => {
                let relays = self.relay_addresses(&query);
                let (dht, news) = (self.shared.dht.clone(), self.news.0.clone());
                self.tasks.spawn(ask(dht, id, (query, relays), news));
            }
            Command::Start(stream) => {
                if let Some(connection) = self.offered.remove(&stream) {
                    self.start(stream, *connection);
                }
            }
            Command::Write(stream, data) => {
                if let Some((orders, _)) = self.streams.get(&stream) {
                    self.backlog.add(&data);
                    // A stream that has just ended gives nothing back: so do we.
                    if let Err(mpsc::error::SendError(Order::Write(data))) = orders.send(Order::Write(data)) {
                        self.backlog.remove(&data);
                    }
                }
            }
            Command::Finish(stream) => {
                if let Some((orders, _)) = self.streams.get(&stream) {
                    let _ = orders.send(Order::Finish);
                }
            }
            Command::Destroy(stream) => {
                self.offered.remove(&stream);
                let task = self.streams.remove(&stream).map(|(_, task)| task);
                for task in self.dials.remove(&stream).into_iter().chain(task) {
                    task.abort();
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, message: &Message) -> Result<(), ServeError> {
        let Some(channel) = self.channel else {
            return Ok(());
        };
        // Data is as long as one message of a peer at most, which is shorter than a frame by more than our header.
        self.mux
            .send(channel, message.number(), &message.encode())
            .map_err(|_| SessionEnd::Protocol("a message for it is too long"))?;
        Ok(())
    }

    fn start(&mut self, stream: StreamId, connection: Connection) {
        let (orders, queue) = mpsc::unbounded_channel();
        let (backlog, occurrences) = (self.backlog.clone(), self.occurrences.0.clone());
        let task = self
            .tasks
            .spawn(stream::run(stream, connection, queue, backlog, occurrences));
        self.streams.insert(stream, (orders, task));
        self.streams.retain(|_, (orders, _)| !orders.is_closed());
    }

    fn listen(&mut self, server: u32, key_pair: KeyPair) {
        let (close, closing) = oneshot::channel();
        let (addresses, relay_addresses) = watch::channel(Vec::new());
        self.servers.insert(
            server,
            Listening {
                public_key: *key_pair.public_key(),
                relay_addresses,
                close: Some(close),
            },
        );
        let (dht, news) = (self.shared.dht.clone(), self.news.0.clone());
        self.tasks
            .spawn(listen(dht, (server, key_pair), (closing, addresses), news));
    }

    /// Where the key that announces itself can be reached, if it listens here.
    fn relay_addresses(&self, query: &Query) -> Vec<SocketAddrV4> {
        let Query::Announce(_, key_pair) = query else {
            return Vec::new();
        };
        let server = self
            .servers
            .values()
            .find(|server| server.public_key == *key_pair.public_key());
        server
            .map(|server| server.relay_addresses.borrow().clone())
            .unwrap_or_default()
    }

    fn on_news(&mut self, news: News) {
        let now = Instant::now();
        match news {
            News::Plain(occurrence) => {
                match &occurrence {
                    Occurrence::ServerClosed(server) => drop(self.servers.remove(server)),
                    Occurrence::DialFailed(stream, _) => drop(self.dials.remove(stream)),
                    _ => {}
                }
                self.session.on_occurrence(now, occurrence);
            }
            News::Dialled(stream, connection) => {
                // Gone if the dial was called off meanwhile.
                if self.dials.remove(&stream).is_some() {
                    let hash = connection.handshake.handshake_hash;
                    self.start(stream, *connection);
                    self.session
                        .on_occurrence(now, Occurrence::Connected(stream, hash));
                }
            }
            News::Incoming(server, connection) => {
                let (remote, hash) = (connection.remote_public_key, connection.handshake.handshake_hash);
                if let Some(stream) = self.session.on_incoming(now, server, remote, hash) {
                    self.offered.insert(stream, connection);
                }
            }
        }
    }
}

async fn dial(dht: Dht, stream: StreamId, (key_pair, remote): (KeyPair, [u8; 32]), news: mpsc::Sender<News>) {
    let told = match dht.connect(remote, ConnectOptions::new(key_pair)).await {
        Ok(connection) => News::Dialled(stream, Box::new(connection)),
        Err(error) => Occurrence::DialFailed(stream, error.to_string()).into(),
    };
    let _ = news.send(told).await;
}

/// Accepts connections until the client closes the server, or goes.
async fn listen(
    dht: Dht,
    (server, key_pair): (u32, KeyPair),
    (closing, addresses): (oneshot::Receiver<()>, watch::Sender<Vec<SocketAddrV4>>),
    news: mpsc::Sender<News>,
) {
    if let Ok(open) = dht.listen(key_pair, ListenOptions::default()).await {
        open.announced().await;
        addresses.send_replace(open.relay_addresses());
        let address = dht.remote_address().unwrap_or(SocketAddrV4::new(
            Ipv4Addr::UNSPECIFIED,
            dht.local_address().port(),
        ));
        let _ = news.send(Occurrence::Listening(server, address).into()).await;
        accept(open, server, (closing, addresses), &news).await;
    }
    let _ = news.send(Occurrence::ServerClosed(server).into()).await;
}

async fn accept(
    mut open: Server,
    server: u32,
    (mut closing, addresses): (oneshot::Receiver<()>, watch::Sender<Vec<SocketAddrV4>>),
    news: &mpsc::Sender<News>,
) {
    loop {
        tokio::select! {
            _ = &mut closing => return open.close().await,
            connection = open.accept() => {
                let Some(connection) = connection else { return };
                addresses.send_replace(open.relay_addresses());
                if news.send(News::Incoming(server, Box::new(connection))).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn ask(dht: Dht, id: u32, (query, relays): (Query, Vec<SocketAddrV4>), news: mpsc::Sender<News>) {
    let search = match query {
        Query::Lookup(topic) => dht.search(topic).await.ok(),
        Query::Announce(topic, key_pair) => dht.announce_and_search(topic, &key_pair, relays).await.ok(),
        Query::Unannounce(topic, key_pair) => {
            let _ = dht.unannounce(topic, &key_pair).await;
            None
        }
    };
    if let Some(mut search) = search {
        while let Some(peers) = search.next().await {
            let _ = news.send(Occurrence::Found(id, peers).into()).await;
        }
    }
    let _ = news.send(Occurrence::Finished(id).into()).await;
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
