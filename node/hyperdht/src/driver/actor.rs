//! The task that owns the node: feeds it datagrams, time and commands, and carries out what it says.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use cumulet_secret_stream::noise::HandshakeResult;
use cumulet_udx::{Datagram, Datagrams, Endpoint, Socket, Source, StreamOptions, UdxStream};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::relays::{RelayNews, Relays};
use super::resolve::resolve;
use super::saved_nodes::{self, Saver};
use super::{Connection, DhtStatus, SeenAs};
use crate::messages::PeerRecord;
use crate::node::{
    ConnectId, ConnectRequest, Event, Goal, Node, NodeCounters, OperationId, Outcome, Output, ServerId,
    ServerOptions,
};
use crate::{ConnectError, Hash, ListenError, SocketId, Transmit};
use cumulet_secret_stream::noise::KeyPair;

/// Connections accepted and not taken yet, per server. Beyond, newcomers are dropped: the application is too slow.
const ACCEPT_QUEUE: usize = 64;
/// How long withdrawing announcements may take at the end.
const CLOSE_WAIT: Duration = Duration::from_secs(3);
/// Names are resolved again after this: first while nobody is known, doubled up to the last; then rarely.
const RESOLVE_FIRST: Duration = Duration::from_secs(1);
const RESOLVE_LAST: Duration = Duration::from_secs(30);
const RESOLVE_IDLE: Duration = Duration::from_mins(10);
/// Datagrams of hole punchers' sockets waiting for the task. Beyond, the sockets' own queues fill and then drop.
const EXTRA_QUEUE: usize = 256;
/// Nodes remembered for the next start.
const KNOWN_NODES: usize = saved_nodes::MAX_NODES;

/// What the handles ask of the task.
pub(super) enum Command {
    Connect {
        request: ConnectRequest,
        done: oneshot::Sender<Result<Connection, ConnectError>>,
        /// Cancelled when nobody waits for it any more, at the latest when it is done.
        given_up: CancellationToken,
    },
    Listen {
        key_pair: KeyPair,
        options: ServerOptions,
        done: oneshot::Sender<Result<Listening, ListenError>>,
    },
    Announce {
        server: ServerId,
    },
    CloseServer {
        server: ServerId,
        done: Option<oneshot::Sender<()>>,
    },
    Operate {
        goal: Goal,
        peers: Option<mpsc::Sender<Vec<PeerRecord>>>,
        done: oneshot::Sender<Outcome>,
    },
    Counters(oneshot::Sender<NodeCounters>),
    KnownNodes(oneshot::Sender<Vec<SocketAddrV4>>),
    Refresh,
    Close(oneshot::Sender<()>),
}

/// What a listening key is to its handle.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) id: ServerId,
    pub(super) connections: mpsc::Receiver<Connection>,
    pub(super) announced: watch::Receiver<Option<Vec<SocketAddrV4>>>,
}

struct ServerEnds {
    connections: mpsc::Sender<Connection>,
    announced: watch::Sender<Option<Vec<SocketAddrV4>>>,
    closed: Vec<oneshot::Sender<()>>,
}

struct OperationEnds {
    peers: Option<mpsc::Sender<Vec<PeerRecord>>>,
    done: oneshot::Sender<Outcome>,
}

type FirstPacket = BoxFuture<'static, (u32, Option<Source>)>;

/// Both sockets of a node, bound.
pub(super) struct Sockets {
    pub(super) server: (Socket, Datagrams),
    pub(super) client: (Socket, Datagrams),
}

pub(super) struct Actor {
    node: Node,
    endpoint: Endpoint,
    server_socket: Socket,
    client_socket: Socket,
    /// Sockets of hole punchers, with the tasks that receive on them.
    extra: HashMap<SocketId, (Socket, AbortHandle)>,
    receivers: JoinSet<()>,
    received_tx: mpsc::Sender<(SocketId, Datagram)>,
    received: mpsc::Receiver<(SocketId, Datagram)>,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<DhtStatus>,
    streams: HashMap<u32, UdxStream>,
    first_packets: FuturesUnordered<FirstPacket>,
    relays: Relays,
    servers: HashMap<ServerId, ServerEnds>,
    connects: HashMap<ConnectId, oneshot::Sender<Result<Connection, ConnectError>>>,
    given_up: FuturesUnordered<BoxFuture<'static, ConnectId>>,
    operations: HashMap<OperationId, OperationEnds>,
    bootstrap: Vec<String>,
    known_nodes: Vec<SocketAddrV4>,
    saver: Option<Saver>,
    resolving: Option<BoxFuture<'static, Vec<SocketAddrV4>>>,
    resolve_at: Instant,
    resolve_failures: u32,
    closing: Option<(Instant, Vec<oneshot::Sender<()>>)>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "one lives at a time, on the task's stack"
)]
enum Input {
    Datagram(SocketId, Option<Datagram>),
    FirstPacket(u32, Option<Source>),
    GivenUp(ConnectId),
    Relay(RelayNews),
    Command(Option<Command>),
    Resolved(Vec<SocketAddrV4>),
    Time,
    Cancelled,
}

fn v4(address: SocketAddr) -> Option<SocketAddrV4> {
    if let SocketAddr::V4(address) = address {
        Some(address)
    } else {
        None
    }
}

impl Actor {
    pub(super) fn new(
        node: Node,
        endpoint: Endpoint,
        sockets: &Sockets,
        commands: mpsc::Receiver<Command>,
        names: (Vec<String>, Vec<SocketAddrV4>),
    ) -> (Self, watch::Receiver<DhtStatus>) {
        let (status, seen) = watch::channel(DhtStatus::default());
        let (received_tx, received) = mpsc::channel(EXTRA_QUEUE);
        let actor = Self {
            node,
            endpoint,
            server_socket: sockets.server.0.clone(),
            client_socket: sockets.client.0.clone(),
            extra: HashMap::new(),
            receivers: JoinSet::new(),
            received_tx,
            received,
            commands,
            status,
            streams: HashMap::new(),
            first_packets: FuturesUnordered::new(),
            relays: Relays::new(),
            servers: HashMap::new(),
            connects: HashMap::new(),
            given_up: FuturesUnordered::new(),
            operations: HashMap::new(),
            bootstrap: names.0,
            known_nodes: names.1,
            saver: None,
            resolving: None,
            resolve_at: Instant::now(),
            resolve_failures: 0,
            closing: None,
        };
        (actor, seen)
    }

    /// Remembers nodes for the next start.
    pub(super) fn saving(mut self, saver: Option<Saver>) -> Self {
        self.saver = saver;
        self
    }

    pub(super) async fn run(mut self, sockets: Sockets, cancel: CancellationToken) {
        let (mut server, mut client) = (sockets.server.1, sockets.client.1);
        self.resolving = Some(Box::pin(resolve(self.bootstrap.clone())));
        self.publish();
        loop {
            let wake = self.next_wake();
            let input = tokio::select! {
                biased;
                () = cancel.cancelled() => Input::Cancelled,
                command = self.commands.recv() => Input::Command(command),
                Some((stream, source)) = self.first_packets.next() => Input::FirstPacket(stream, source),
                Some(connect) = self.given_up.next() => Input::GivenUp(connect),
                news = self.relays.next() => Input::Relay(news),
                datagram = server.recv() => Input::Datagram(SocketId::SERVER, datagram),
                datagram = client.recv() => Input::Datagram(SocketId::CLIENT, datagram),
                Some((socket, datagram)) = self.received.recv() => Input::Datagram(socket, Some(datagram)),
                nodes = pending(&mut self.resolving) => Input::Resolved(nodes),
                () = tokio::time::sleep_until(wake.into()) => Input::Time,
            };
            if !self.handle(input) {
                break;
            }
            self.carry_out().await;
            self.publish();
            if self.is_closed() {
                break;
            }
        }
        if let Some(saver) = self.saver.take() {
            saver.finish(self.node.known_nodes(KNOWN_NODES)).await;
        }
        self.endpoint.close().await;
        let closing = self.closing.take();
        // Whoever waits for the end may bind the port again.
        drop((self, server, client));
        for done in closing.into_iter().flat_map(|(_, done)| done) {
            let _ = done.send(());
        }
    }

    /// There is somebody to join through.
    fn has_names(&self) -> bool {
        !(self.bootstrap.is_empty() && self.known_nodes.is_empty())
    }

    fn next_wake(&self) -> Instant {
        let closing = self.closing.as_ref().map(|(deadline, _)| *deadline);
        let resolve = (self.has_names() && self.resolving.is_none()).then_some(self.resolve_at);
        let save = self.saver.as_ref().map(Saver::due);
        [closing, resolve, save]
            .into_iter()
            .flatten()
            .min()
            .map_or(self.node.poll_timeout(), |at| at.min(self.node.poll_timeout()))
    }

    /// False: end at once.
    fn handle(&mut self, input: Input) -> bool {
        let now = Instant::now();
        match input {
            // Without handles nobody can close us or use what we do.
            Input::Cancelled | Input::Datagram(_, None) | Input::Command(None) => return false,
            Input::Datagram(socket, Some(datagram)) => {
                if let Some(from) = v4(datagram.from) {
                    self.node.handle_datagram(now, socket, from, &datagram.bytes);
                }
            }
            Input::FirstPacket(stream, source) => {
                let heard = source.and_then(|s| Some((self.socket_id(&s.socket)?, v4(s.address)?)));
                if let Some((socket, from)) = heard {
                    self.node.handle_stream_packet(now, stream, socket, from);
                }
            }
            Input::GivenUp(connect) => {
                if self.connects.remove(&connect).is_some() {
                    self.node.cancel_connect(now, connect);
                }
            }
            Input::Relay(news) => self.on_relay_news(now, news),
            Input::Command(Some(command)) => self.command(now, command),
            Input::Resolved(nodes) => self.on_resolved(now, nodes),
            Input::Time => {
                self.node.handle_timeout(now);
                if let Some(saver) = self.saver.as_mut().filter(|saver| saver.due() <= now) {
                    saver.save(now, self.node.known_nodes(KNOWN_NODES));
                }
                if self.resolving.is_none() && now >= self.resolve_at && self.has_names() {
                    self.resolving = Some(Box::pin(resolve(self.bootstrap.clone())));
                }
            }
        }
        true
    }

    fn on_resolved(&mut self, now: Instant, mut nodes: Vec<SocketAddrV4>) {
        self.resolving = None;
        nodes.extend(&self.known_nodes);
        nodes.sort_unstable();
        nodes.dedup();
        self.node.set_bootstrap_nodes(nodes);
        if self.node.table_len() == 0 {
            self.node.bootstrap(now);
            let wait = (RESOLVE_FIRST * 2_u32.pow(self.resolve_failures.min(8))).min(RESOLVE_LAST);
            self.resolve_failures = self.resolve_failures.saturating_add(1);
            self.resolve_at = now + wait;
        } else {
            self.resolve_failures = 0;
            self.resolve_at = now + RESOLVE_IDLE;
        }
    }

    fn command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Connect {
                request,
                done,
                given_up,
            } => {
                let id = self.node.connect(now, request);
                self.connects.insert(id, done);
                self.given_up.push(Box::pin(async move {
                    given_up.cancelled_owned().await;
                    id
                }));
            }
            Command::Listen {
                key_pair,
                options,
                done,
            } => {
                let result = self
                    .node
                    .listen(now, key_pair, options)
                    .map(|id| self.open_server(id));
                let _ = done.send(result);
            }
            Command::Announce { server } => self.node.announce_server(now, server),
            Command::CloseServer { server, done } => {
                if let Some(ends) = self.servers.get_mut(&server) {
                    ends.closed.extend(done);
                }
                self.node.close_server(now, server);
            }
            Command::Operate { goal, peers, done } => {
                let id = self.node.operate(now, goal);
                self.operations.insert(id, OperationEnds { peers, done });
            }
            Command::Counters(done) => {
                let _ = done.send(self.node.counters());
            }
            Command::KnownNodes(done) => {
                let _ = done.send(self.node.known_nodes(KNOWN_NODES));
            }
            Command::Refresh => self.node.refresh(now),
            Command::Close(done) => {
                let (_, waiting) = self.closing.get_or_insert_with(|| (now + CLOSE_WAIT, Vec::new()));
                waiting.push(done);
                for server in self.node.servers() {
                    self.node.close_server(now, server);
                }
            }
        }
    }

    fn open_server(&mut self, id: ServerId) -> Listening {
        let (connections, accepted) = mpsc::channel(ACCEPT_QUEUE);
        let (announced, seen) = watch::channel(None);
        self.servers.insert(
            id,
            ServerEnds {
                connections,
                announced,
                closed: Vec::new(),
            },
        );
        Listening {
            id,
            connections: accepted,
            announced: seen,
        }
    }

    fn is_closed(&self) -> bool {
        let over = |deadline: Instant| self.node.servers().is_empty() || Instant::now() >= deadline;
        self.closing.as_ref().is_some_and(|(deadline, _)| over(*deadline))
    }

    async fn carry_out(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Transmit(transmit) => {
                    if let Some(socket) = self.socket(transmit.socket).cloned() {
                        send(socket, transmit).await;
                    }
                }
                Output::OpenSocket(socket) => self.open_socket(socket),
                Output::CloseSocket(socket) => self.close_socket(socket),
                Output::CreateStream(id) => self.create_stream(id),
                Output::ConnectStream {
                    stream,
                    socket,
                    remote_id,
                    to,
                } => {
                    let ends = self.streams.get(&stream).zip(self.socket(socket));
                    let result =
                        ends.map(|(stream, socket)| stream.control().connect(socket, remote_id, to.into()));
                    if let Some(Err(error)) = result {
                        tracing::debug!(%error, "stream can not be connected");
                    }
                }
                Output::DestroyStream(id) => {
                    if let Some(stream) = self.streams.remove(&id) {
                        stream.control().destroy();
                    }
                    self.relays.destroy(id);
                }
                Output::PairAtRelay {
                    relay,
                    control,
                    handshake,
                    order,
                } => {
                    if let Some(stream) = self.streams.remove(&control) {
                        self.relays.pair(relay, (stream, handshake), &order);
                    }
                }
                Output::ConnectRelayed {
                    relay,
                    stream,
                    socket,
                    remote_id,
                    to,
                } => {
                    if let Some((stream, socket)) =
                        self.streams.get(&stream).zip(self.socket(socket).cloned())
                    {
                        let control = stream.control().clone();
                        self.relays.connect(relay, control, (&socket, remote_id, to));
                    }
                }
                Output::MoveStream {
                    relay,
                    socket,
                    remote_id,
                    to,
                } => {
                    if let Some(socket) = self.socket(socket).cloned() {
                        self.relays.change_remote(relay, (&socket, remote_id, to));
                    }
                }
                Output::ReleaseRelay(relay) => self.relays.release(relay),
                Output::Event(event) => self.event(event),
            }
        }
    }

    fn on_relay_news(&mut self, now: Instant, news: RelayNews) {
        match news {
            RelayNews::Paired { relay, remote_id } => self.node.on_relay_paired(now, relay, remote_id),
            RelayNews::Lost { relay } => self.node.on_relay_lost(now, relay),
            RelayNews::Direct { relay } => self.node.on_direct_confirmed(now, relay),
            RelayNews::Closed { relay } => self.node.on_relayed_closed(now, relay),
            RelayNews::Heard { stream, source } => {
                if let Some((socket, from)) = self.socket_id(&source.socket).zip(v4(source.address)) {
                    self.node.handle_stream_packet(now, stream, socket, from);
                }
            }
        }
    }

    /// `None`: a puncher's socket that is closed already, or could not be opened.
    fn socket(&self, id: SocketId) -> Option<&Socket> {
        match id {
            SocketId::SERVER => Some(&self.server_socket),
            SocketId::CLIENT => Some(&self.client_socket),
            id => self.extra.get(&id).map(|(socket, _)| socket),
        }
    }

    fn socket_id(&self, socket: &Socket) -> Option<SocketId> {
        if *socket == self.server_socket {
            Some(SocketId::SERVER)
        } else if *socket == self.client_socket {
            Some(SocketId::CLIENT)
        } else {
            self.extra
                .iter()
                .find(|(_, (known, _))| known == socket)
                .map(|(id, _)| *id)
        }
    }

    fn open_socket(&mut self, id: SocketId) {
        let mut address = self.client_socket.local_addr();
        address.set_port(0);
        match self.endpoint.bind(address) {
            Ok((socket, mut datagrams)) => {
                let received = self.received_tx.clone();
                let task = self.receivers.spawn(async move {
                    while let Some(datagram) = datagrams.recv().await {
                        if received.send((id, datagram)).await.is_err() {
                            return;
                        }
                    }
                });
                self.extra.insert(id, (socket, task));
            }
            // The punch fails by its own timers.
            Err(error) => tracing::debug!(%error, "no socket for a hole punch"),
        }
    }

    fn close_socket(&mut self, id: SocketId) {
        if let Some((_, task)) = self.extra.remove(&id) {
            task.abort();
        }
        while self.receivers.try_join_next().is_some() {}
    }

    fn create_stream(&mut self, id: u32) {
        match self.endpoint.create_stream(StreamOptions {
            local_id: Some(id),
            ..StreamOptions::default()
        }) {
            Ok(stream) => {
                let control = stream.control().clone();
                self.first_packets
                    .push(Box::pin(async move { (id, control.first_packet().await) }));
                self.streams.insert(id, stream);
            }
            Err(error) => tracing::debug!(%error, "no stream for a handshake"),
        }
    }

    fn connection(
        &mut self,
        stream: u32,
        handshake: HandshakeResult,
        relay: Option<Hash>,
    ) -> Option<Connection> {
        let stream = self.streams.remove(&stream)?;
        let (remote_public_key, is_initiator) = (handshake.remote_public_key, handshake.is_initiator);
        Some(Connection {
            remote_public_key,
            handshake,
            stream,
            is_initiator,
            relay,
        })
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Bootstrapped => {}
            Event::Accepted {
                server,
                stream,
                handshake,
                relay,
            } => {
                let Some(connection) = self.connection(stream, handshake, relay) else {
                    return;
                };
                let queue = self.servers.get(&server).map(|ends| &ends.connections);
                if queue.is_none_or(|queue| queue.try_send(connection).is_err()) {
                    tracing::debug!("connection dropped: nobody accepts fast enough");
                }
            }
            Event::Announced {
                server,
                relay_addresses,
            } => {
                if let Some(ends) = self.servers.get(&server) {
                    ends.announced.send_replace(Some(relay_addresses));
                }
            }
            Event::ServerClosed { server } => {
                for done in self
                    .servers
                    .remove(&server)
                    .into_iter()
                    .flat_map(|ends| ends.closed)
                {
                    let _ = done.send(());
                }
            }
            Event::Connected {
                connect,
                stream,
                handshake,
                relay,
            } => {
                let connection = self
                    .connection(stream, handshake, relay)
                    .ok_or(ConnectError::Busy);
                if let Some(done) = self.connects.remove(&connect) {
                    let _ = done.send(connection);
                }
            }
            Event::ConnectFailed { connect, error } => {
                if let Some(done) = self.connects.remove(&connect) {
                    let _ = done.send(Err(error));
                }
            }
            Event::Peers { operation, peers } => {
                if let Some(queue) = self
                    .operations
                    .get(&operation)
                    .and_then(|ends| ends.peers.as_ref())
                {
                    let _ = queue.try_send(peers);
                }
            }
            Event::Finished { operation, outcome } => {
                if let Some(ends) = self.operations.remove(&operation) {
                    let _ = ends.done.send(outcome);
                }
            }
        }
    }

    fn publish(&self) {
        let status = DhtStatus {
            bootstrapped: self.node.is_bootstrapped(),
            remote_address: self.node.remote_address(),
            firewalled: self.node.is_firewalled(),
            persistent: self.node.is_persistent(),
            nodes: self.node.table_len(),
            stored: self.node.stored_len(),
            seen_as: self.node.seen_as().map(|(host, port, samples)| SeenAs {
                host,
                port: (port != 0).then_some(port),
                samples,
            }),
        };
        self.status
            .send_if_modified(|seen| std::mem::replace(seen, status) != status);
    }
}

/// The future, if there is one; else nothing, ever.
async fn pending<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn send(socket: Socket, transmit: Transmit) {
    let to = SocketAddr::V4(transmit.to);
    let sent = match transmit.ttl {
        Some(ttl) => socket.send_to_with_ttl(&transmit.data, to, ttl).await,
        None => socket.send_to(&transmit.data, to).await,
    };
    if let Err(error) = sent {
        // As good as lost on the way; requests are repeated.
        tracing::trace!(%to, %error, "datagram not sent");
    }
}
