//! A HyperDHT node as a state machine: what others ask of it, servers that listen on it, connections it opens, and
//! the queries of its owner.
//!
//! In: datagrams ([`Node::handle_datagram`]), packets of streams that are not connected yet
//! ([`Node::handle_stream_packet`]), time, commands. Out: [`Output`]s, to be carried out in order: a stream is always
//! ordered before the reply that advertises it.
//!
//! Architecture: [`Rpc`] below does requests and queries. Each request and query of ours carries a purpose here; its
//! outcome goes to the part that asked: `announcer`, `server`, `client`, `operation`.

mod announcer;
mod client;
pub(crate) mod nat_class;
mod operation;
mod punch_client;
mod punch_server;
mod puncher;
mod relaying;
pub(crate) mod router;
pub(crate) mod secure_payload;
mod serve;
mod server;
mod store;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use cumulet_secret_stream::noise::{HandshakeResult, KeyPair};

use self::announcer::Unannouncing;
use self::client::Connect;
use self::operation::Operation;
use self::puncher::{Puncher, PuncherId};
use self::relaying::Relayed;
use self::server::Server;
use self::store::Store;
use crate::expiring::Expiring;
use crate::messages::PeerRecord;
use crate::rates::Rations;
use crate::rpc::{NoAnswer, QueryId, Reply, RequestId, Rpc, RpcConfig, RpcCounters, RpcEvent};
use crate::{ConnectError, Entropy, Hash, SocketId, Transmit};

pub(crate) use self::client::ConnectRequest;
pub(crate) use self::operation::{Goal, Outcome};
pub(crate) use self::relaying::{PairOrder, RelayId};
pub(crate) use self::server::ServerOptions;

/// How often stored records are looked through for old ones.
const EXPIRE_EVERY: Duration = Duration::from_mins(1);

/// Relay addresses of peers we reached, kept so that the next connection needs no search.
const MAX_KNOWN_ROUTES: usize = 4_096;
const KNOWN_ROUTE_AGE: Duration = Duration::from_hours(1);

/// Diffie-Hellman handshakes per source host. A busy relay hands on many clients' handshakes.
const HANDSHAKE_RATION: (u32, u32) = (512, 128);
/// Signature checks (announcements, mutable values) per source host.
const SIGNATURE_RATION: (u32, u32) = (512, 128);
/// Answers per source host: bounds what a forged source can make us send to a victim.
const ANSWER_RATION: (u32, u32) = (4_000, 1_000);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(u64);
    };
}
id!(
    /// A listening key pair.
    ServerId
);
id!(
    /// A connection being opened.
    ConnectId
);
id!(
    /// A lookup, an announcement, a put or a get.
    OperationId
);

/// What the driver must do, in this order.
#[derive(Debug)]
pub(crate) enum Output {
    Transmit(Transmit),
    /// Register a UDX stream under this local id; report its first packet.
    CreateStream(u32),
    ConnectStream {
        stream: u32,
        socket: SocketId,
        remote_id: u32,
        to: SocketAddrV4,
    },
    DestroyStream(u32),
    /// A connection to a relay is there: ask for the pairing over it; report that and the end.
    PairAtRelay {
        relay: RelayId,
        control: u32,
        handshake: HandshakeResult,
        order: PairOrder,
    },
    /// As `ConnectStream`, through a relay: report packets that come another way, and the stream's end. A packet must leave at
    /// once, or the relay does not know where we are.
    ConnectRelayed {
        relay: RelayId,
        stream: u32,
        socket: SocketId,
        remote_id: u32,
        to: SocketAddrV4,
    },
    /// A relayed stream takes the direct way now: tell the peer by a packet there, once all that went through the relay has
    /// arrived; report the first packet that comes that way.
    MoveStream {
        relay: RelayId,
        socket: SocketId,
        remote_id: u32,
        to: SocketAddrV4,
    },
    /// End the connection to the relay, if there is one.
    ReleaseRelay(RelayId),
    /// Bind one more UDP socket on the same interface.
    OpenSocket(SocketId),
    /// Receive no more on it; it lives on while a stream uses it.
    CloseSocket(SocketId),
    Event(Event),
}

/// What the owner of the node learns.
#[derive(Debug)]
pub(crate) enum Event {
    Bootstrapped,
    /// A client connected; the stream is connected already.
    Accepted {
        server: ServerId,
        stream: u32,
        handshake: HandshakeResult,
        /// Through which relay it goes for now.
        relay: Option<Hash>,
    },
    /// The key's announcement was brought up to date (or could not be); where it is reachable.
    Announced {
        server: ServerId,
        relay_addresses: Vec<SocketAddrV4>,
    },
    /// The announcement is withdrawn; the server is gone.
    ServerClosed {
        server: ServerId,
    },
    Connected {
        connect: ConnectId,
        stream: u32,
        handshake: HandshakeResult,
        relay: Option<Hash>,
    },
    ConnectFailed {
        connect: ConnectId,
        error: ConnectError,
    },
    /// Peers found by a lookup or an announcement, as they come.
    Peers {
        operation: OperationId,
        peers: Vec<PeerRecord>,
    },
    Finished {
        operation: OperationId,
        outcome: Outcome,
    },
}

/// Whose a stream is, until it is connected.
#[derive(Debug, Clone, Copy)]
enum StreamOwner {
    Slot { server: ServerId, slot: usize },
    Connect(ConnectId),
}

/// Why a request was sent.
#[derive(Debug, Clone)]
enum Purpose {
    AnnounceCommit {
        server: ServerId,
        node: SocketAddrV4,
        seen_as: SocketAddrV4,
    },
    AnnouncePing {
        server: ServerId,
    },
    Unannounce(Box<Unannouncing>),
    Operation(OperationId),
    Handshake {
        connect: ConnectId,
        asked: SocketAddrV4,
    },
    LanPing {
        connect: ConnectId,
        address: SocketAddrV4,
    },
    NatSample {
        puncher: PuncherId,
        socket: Option<SocketId>,
    },
    Holepunch {
        connect: ConnectId,
        peer: SocketAddrV4,
    },
}

/// Why a query was started.
#[derive(Debug, Clone, Copy)]
enum QueryPurpose {
    Announcer(ServerId),
    Operation(OperationId),
    Connect(ConnectId),
}

/// Counters, from the start of the node: what a person needs to see why peers do or do not connect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeCounters {
    /// Requests and responses.
    pub rpc: RpcCounters,
    /// Handshakes for our servers, every copy counted.
    pub handshakes_received: u64,
    /// Copies answered from the reply cache.
    pub handshakes_repeated: u64,
    /// Handshakes refused: malformed, by the firewall, by a ration or a bound.
    pub handshakes_refused: u64,
    /// Clients connected to our servers.
    pub accepted: u64,
    /// Clients that got a reply and never came.
    pub abandoned: u64,
    /// Handshake and hole punch messages passed on for others.
    pub relayed: u64,
    /// Connections opened.
    pub connected: u64,
    /// Connections that failed to open.
    pub connect_failures: u64,
    /// Hole punches tried as the side that dials.
    pub punches: u64,
    /// And those that got through.
    pub punched: u64,
    /// Connections that were tried through a blind relay beside the direct ways, as either side.
    pub relays_tried: u64,
    /// Relays that could not be reached or did not pair us in time.
    pub relay_failures: u64,
    /// Connections that began through a relay.
    pub relayed_connections: u64,
    /// And those of them that then took a direct way.
    pub relayed_upgraded: u64,
    /// Requests not answered because their source host used up its ration.
    pub rationed: u64,
}

/// What a node needs to know at its start.
#[derive(Debug, Clone)]
pub(crate) struct NodeConfig {
    pub(crate) rpc: RpcConfig,
    /// Our interface addresses, empty if they must not be told. The port is the server socket's.
    pub(crate) local_addresses: Vec<SocketAddrV4>,
    /// Wall clock at start.
    pub(crate) unix_ms: u64,
    /// Who we are towards blind relays.
    pub(crate) key_pair: KeyPair,
}

pub(crate) struct Node {
    rpc: Rpc,
    config: NodeConfig,
    entropy: Entropy,
    started: Instant,
    store: Store,
    expire_at: Instant,
    servers: BTreeMap<ServerId, Server>,
    targets: HashMap<Hash, ServerId>,
    connects: BTreeMap<ConnectId, Connect>,
    operations: BTreeMap<OperationId, Operation>,
    requests: HashMap<RequestId, Purpose>,
    queries: HashMap<QueryId, QueryPurpose>,
    streams: HashMap<u32, StreamOwner>,
    relayed: BTreeMap<RelayId, Relayed>,
    punchers: BTreeMap<PuncherId, Puncher>,
    punch_sockets: HashMap<SocketId, PuncherId>,
    next_socket: u32,
    /// The puncher that guesses ports now; one at a time.
    random_punch: Option<PuncherId>,
    last_random_punch: Option<Instant>,
    known_routes: Expiring<Hash, Vec<SocketAddrV4>>,
    handshake_rations: Rations,
    signature_rations: Rations,
    answer_rations: Rations,
    next_id: u64,
    outputs: VecDeque<Output>,
    counters: NodeCounters,
}

impl Node {
    pub(crate) fn new(config: NodeConfig, mut entropy: Entropy, now: Instant) -> Self {
        Self {
            rpc: Rpc::new(config.rpc.clone(), entropy.fork(), now),
            entropy,
            config,
            started: now,
            store: Store::new(),
            expire_at: now + EXPIRE_EVERY,
            servers: BTreeMap::new(),
            targets: HashMap::new(),
            connects: BTreeMap::new(),
            operations: BTreeMap::new(),
            requests: HashMap::new(),
            queries: HashMap::new(),
            streams: HashMap::new(),
            relayed: BTreeMap::new(),
            punchers: BTreeMap::new(),
            punch_sockets: HashMap::new(),
            next_socket: SocketId::CLIENT.0,
            random_punch: None,
            last_random_punch: None,
            known_routes: Expiring::new(MAX_KNOWN_ROUTES, KNOWN_ROUTE_AGE),
            handshake_rations: Rations::new(HANDSHAKE_RATION.0, HANDSHAKE_RATION.1),
            signature_rations: Rations::new(SIGNATURE_RATION.0, SIGNATURE_RATION.1),
            answer_rations: Rations::new(ANSWER_RATION.0, ANSWER_RATION.1),
            next_id: 0,
            outputs: VecDeque::new(),
            counters: NodeCounters::default(),
        }
    }

    // ---- state that others ask about ----

    pub(crate) fn counters(&self) -> NodeCounters {
        NodeCounters {
            rpc: self.rpc.counters(),
            ..self.counters
        }
    }

    pub(crate) fn remote_address(&self) -> Option<SocketAddrV4> {
        self.rpc.remote_address()
    }

    pub(crate) fn is_bootstrapped(&self) -> bool {
        self.rpc.is_bootstrapped()
    }

    pub(crate) fn is_firewalled(&self) -> bool {
        self.rpc.is_firewalled()
    }

    /// How others see us: host, port (0 if they differ), and how many said so.
    pub(crate) fn seen_as(&self) -> Option<(Ipv4Addr, u16, u8)> {
        self.rpc.seen_as()
    }

    pub(crate) fn is_persistent(&self) -> bool {
        self.rpc.id().is_some()
    }

    pub(crate) fn table_len(&self) -> usize {
        self.rpc.table_len()
    }

    pub(crate) fn stored_len(&self) -> usize {
        self.store.len()
    }

    /// Nodes heard from lately, newest first.
    pub(crate) fn known_nodes(&self, limit: usize) -> Vec<SocketAddrV4> {
        self.rpc.latest_nodes().take(limit).collect()
    }

    fn unix_ms(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.started).as_millis();
        self.config.unix_ms + u64::try_from(elapsed).unwrap_or(u64::MAX / 2)
    }

    // ---- joining ----

    pub(crate) fn set_bootstrap_nodes(&mut self, nodes: Vec<SocketAddrV4>) {
        self.rpc.set_bootstrap_nodes(nodes);
    }

    pub(crate) fn bootstrap(&mut self, now: Instant) {
        self.rpc.bootstrap(now);
        self.pump(now);
    }

    /// Looks for nodes again: after names resolved at last, or a network change.
    pub(crate) fn refresh(&mut self, now: Instant) {
        self.rpc.refresh(now);
        self.pump(now);
    }

    // ---- in and out ----

    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddrV4,
        data: &[u8],
    ) {
        match data.len() {
            0 => return,
            1 => self.on_probe(now, socket, from),
            _ => self.rpc.handle_datagram(now, socket, from, data),
        }
        self.pump(now);
    }

    /// The first packet of a stream that is not connected yet.
    pub(crate) fn handle_stream_packet(
        &mut self,
        now: Instant,
        stream: u32,
        socket: SocketId,
        from: SocketAddrV4,
    ) {
        match self.streams.get(&stream).copied() {
            Some(_) if self.is_from_relay(stream, from) => {}
            Some(StreamOwner::Slot { server, slot }) => self.adopt(now, server, slot, socket, from),
            Some(StreamOwner::Connect(connect)) => self.on_connect_heard(now, connect, socket, from),
            None => {}
        }
        self.pump(now);
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.rpc.handle_timeout(now);
        if now >= self.expire_at {
            self.expire_at = now + EXPIRE_EVERY;
            self.store.expire(now);
            self.known_routes.expire(now);
        }
        self.pump(now);
        self.server_timeouts(now);
        self.connect_timeouts(now);
        self.puncher_timeouts(now);
        self.relay_timeouts(now);
        self.pump(now);
    }

    pub(crate) fn poll_timeout(&self) -> Instant {
        let servers = self.servers.values().filter_map(Server::poll_timeout);
        let connects = self.connects.values().filter_map(Connect::poll_timeout);
        let punchers = self.punchers.values().filter_map(Puncher::poll_timeout);
        let earliest = servers
            .chain(connects)
            .chain(punchers)
            .chain(self.relay_timeout())
            .min()
            .unwrap_or(self.expire_at);
        earliest.min(self.rpc.poll_timeout()).min(self.expire_at)
    }

    /// The next thing to do. Orders about streams come before the datagrams that depend on them.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs
            .pop_front()
            .or_else(|| self.rpc.poll_transmit().map(Output::Transmit))
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A stream id that no stream awaiting its connection has. Whether the endpoint has it is the driver's to see;
    /// of 2^32 it is improbable enough, and then one connection fails.
    fn fresh_stream(&mut self, owner: StreamOwner) -> u32 {
        loop {
            let id = self.entropy.uint32();
            if id != 0 && !self.streams.contains_key(&id) {
                self.streams.insert(id, owner);
                self.outputs.push_back(Output::CreateStream(id));
                return id;
            }
        }
    }

    fn drop_stream(&mut self, stream: u32) {
        if self.streams.remove(&stream).is_some() {
            self.outputs.push_back(Output::DestroyStream(stream));
        }
    }

    /// Handles what the RPC layer brought up, until it is quiet.
    fn pump(&mut self, now: Instant) {
        while let Some(event) = self.rpc.poll_event() {
            match event {
                RpcEvent::Bootstrapped => {
                    self.event(Event::Bootstrapped);
                    self.announce_soon(now);
                }
                RpcEvent::Request(incoming) => self.on_request(now, &incoming),
                RpcEvent::Response { request, result } => {
                    if let Some(purpose) = self.requests.remove(&request) {
                        self.on_response(now, purpose, result);
                    }
                }
                RpcEvent::QueryReply { query, reply } => match self.queries.get(&query).copied() {
                    Some(QueryPurpose::Operation(id)) => self.on_operation_reply(now, id, &reply),
                    Some(QueryPurpose::Connect(id)) => self.on_route_found(now, id, &reply),
                    Some(QueryPurpose::Announcer(_)) | None => {}
                },
                RpcEvent::QueryDone { query, closest } => match self.queries.remove(&query) {
                    Some(QueryPurpose::Announcer(server)) => self.on_announce_nodes(now, server, &closest),
                    Some(QueryPurpose::Operation(id)) => self.on_operation_nodes(now, id, &closest),
                    Some(QueryPurpose::Connect(id)) => self.on_routes_exhausted(now, id),
                    None => {}
                },
            }
        }
        self.rpc.release_queued(now);
    }

    fn on_response(&mut self, now: Instant, purpose: Purpose, result: Result<Reply, NoAnswer>) {
        match purpose {
            Purpose::AnnounceCommit {
                server,
                node,
                seen_as,
            } => {
                let stored = result.is_ok_and(|reply| reply.error == 0);
                self.on_announce_commit(now, server, stored.then_some((node, seen_as)));
            }
            Purpose::AnnouncePing { server } => self.on_announce_ping(now, server, result.is_ok()),
            Purpose::Unannounce(step) => self.on_unannounce(now, *step, result.ok()),
            Purpose::Operation(id) => {
                self.on_operation_commit(id, result.is_ok_and(|reply| reply.error == 0));
            }
            Purpose::Handshake { connect, asked } => {
                self.on_handshake_reply(now, connect, asked, result.ok());
            }
            Purpose::NatSample { puncher, socket } => {
                self.on_nat_sample(now, puncher, socket, result.as_ref().ok());
            }
            Purpose::Holepunch { connect, peer } => self.on_holepunch_reply(now, connect, peer, result.ok()),
            Purpose::LanPing { connect, address } => self.on_lan_pong(now, connect, address, result.is_ok()),
        }
    }

    fn local_addresses(&self) -> &[SocketAddrV4] {
        &self.config.local_addresses
    }

    /// Addresses to tell a peer: the public one first.
    fn own_addresses(&self) -> Vec<SocketAddrV4> {
        self.remote_address()
            .into_iter()
            .chain(self.local_addresses().iter().copied())
            .collect()
    }

    fn same_host(a: SocketAddrV4, b: SocketAddrV4) -> bool {
        let (a, b): (&Ipv4Addr, &Ipv4Addr) = (a.ip(), b.ip());
        a == b
    }
}

#[cfg(test)]
mod churn;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
