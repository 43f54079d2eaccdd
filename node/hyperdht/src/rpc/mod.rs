//! dht-rpc: requests and replies over UDP, a routing table, iterative queries, and the question whether others
//! can reach us (npm `dht-rpc` 6.27).
//!
//! [`Rpc`] is a state machine: datagrams and time go in, [`Transmit`]s and [`RpcEvent`]s come out. It serves the
//! commands of dht-rpc itself; all others are handed up as [`RpcEvent::Request`].
//!
//! Invariants: an id is believed only if it is the hash of the source address; a response is believed only from the
//! address that was asked; everything a stranger can make grow has a bound named here.

mod inflight;
pub(crate) mod message;
pub(crate) mod nat;
mod network;
mod query;
mod serve;
mod silent;
pub(crate) mod table;
pub(crate) mod token;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::inflight::{Expiry, Inflight, Sending, TRY_TIMEOUT};
use self::message::{Message, Request, Response};
use self::nat::NatSampler;
use self::network::{Bootstrap, NetworkCheck};
use self::query::{CONCURRENCY, Query, Steps};
use self::silent::Silent;
use self::table::{Inserted, Node, Table};
use self::token::Tokens;
use crate::address::{self, node_id};
use crate::rates::Rations;
use crate::{Entropy, Hash, SocketId, Transmit};

#[cfg(test)]
pub(crate) use self::message::Request as WireRequest;
#[cfg(test)]
pub(crate) use self::message::sniff_value;
pub(crate) use self::query::QuerySpec;
pub(crate) use self::table::K;

const PING: u64 = 0;
const PING_NAT: u64 = 1;
const FIND_NODE: u64 = 2;
const DOWN_HINT: u64 = 3;
const DELAYED_PING: u64 = 4;

pub(crate) const ERROR_UNKNOWN_COMMAND: u64 = 1;
const ERROR_INVALID_TOKEN: u64 = 2;

/// A reply to a host that proved nothing may be this many times as long as its request.
const AMPLIFICATION: usize = 3;
/// Bytes of replies beyond that, per host: at once, and per second. A lookup's fullest reply has about 1,200, so this is a
/// hundred of them, then a dozen per second; a node asks another one once per lookup.
pub(crate) const EXCESS_RATION: (u32, u32) = (131_072, 16_384);
const TICK: Duration = Duration::from_secs(5);
/// Ticks of stable address before an adaptive node asks whether it may become persistent (20 min).
const STABLE_TICKS: u64 = 240;
/// Ticks until it asks again after a no (1 h).
const MORE_STABLE_TICKS: u64 = 720;
const REFRESH_TICKS: u64 = 60;
const RECENT_NODE: u64 = 12;
const OLD_NODE: u64 = 360;
/// A tick this late means the machine slept.
const SLEEPING: Duration = Duration::from_secs(15);
const MAX_DOWN_HINTS_PER_TICK: u32 = 50;
/// Table nodes being pinged on a hint or in turn.
const MAX_CHECKS: u32 = 10;
const MAX_REPINGS: u32 = 3;
const MAX_DELAYED_PING: Duration = Duration::from_secs(10);
/// Delayed pings waiting. They cost an attacker one datagram each; beyond this they are dropped.
const MAX_DELAYED_PINGS: usize = 256;
/// Queries at a time; beyond, a query ends at once without replies. Each may hold [`CONCURRENCY`] requests.
const MAX_QUERIES: usize = 1_024;

/// A query, for as long as it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct QueryId(u64);

/// A request of the layer above, until its [`RpcEvent::Response`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RequestId(u64);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) from: SocketAddrV4,
    /// Set only if the id is the hash of `from`.
    pub(crate) from_id: Option<Hash>,
    /// Our address as the other side saw it.
    pub(crate) to: SocketAddrV4,
    /// The socket it arrived on.
    pub(crate) socket: SocketId,
    pub(crate) token: Option<Hash>,
    pub(crate) closer_nodes: Vec<SocketAddrV4>,
    pub(crate) error: u64,
    pub(crate) value: Option<Bytes>,
}

/// A question to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) tid: u16,
    pub(crate) from: SocketAddrV4,
    /// Our address as the asker wrote it.
    pub(crate) to: SocketAddrV4,
    pub(crate) socket: SocketId,
    /// Present only if valid.
    pub(crate) token: Option<Hash>,
    pub(crate) internal: bool,
    pub(crate) command: u64,
    pub(crate) target: Option<Hash>,
    pub(crate) value: Option<Bytes>,
    /// Bytes of its datagram.
    pub(crate) length: usize,
}

/// How to answer an [`Incoming`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) value: Option<Bytes>,
    pub(crate) error: u64,
    pub(crate) token: bool,
    pub(crate) closer_nodes: bool,
    /// Instead of the asker.
    pub(crate) to: Option<SocketAddrV4>,
    /// Instead of the socket the question came in on.
    pub(crate) socket: Option<SocketId>,
}

/// A request to send.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) to: SocketAddrV4,
    pub(crate) socket: Option<SocketId>,
    pub(crate) internal: bool,
    pub(crate) command: u64,
    pub(crate) target: Option<Hash>,
    pub(crate) token: Option<Hash>,
    pub(crate) value: Option<Bytes>,
    /// Sends after the first; 3 is usual.
    pub(crate) retries: u32,
}

impl Ask {
    pub(crate) fn new(to: SocketAddrV4, command: u64) -> Self {
        Self {
            to,
            socket: None,
            internal: false,
            command,
            target: None,
            token: None,
            value: None,
            retries: 3,
        }
    }

    pub(crate) fn ping(to: SocketAddrV4) -> Self {
        Self {
            internal: true,
            ..Self::new(to, PING)
        }
    }
}

/// Nobody answered, or too many requests are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoAnswer;

#[derive(Debug)]
pub(crate) enum RpcEvent {
    Request(Incoming),
    Response {
        request: RequestId,
        result: Result<Reply, NoAnswer>,
    },
    QueryReply {
        query: QueryId,
        reply: Reply,
    },
    QueryDone {
        query: QueryId,
        closest: Vec<Reply>,
    },
    Bootstrapped,
}

/// Who waits for a response.
#[derive(Debug, Clone)]
enum Owner {
    Above(RequestId),
    Query(QueryId),
    /// Is this table node still there? With the tick of its last sign of life.
    Check {
        id: Hash,
        seen: u64,
    },
    /// Does this table node still deserve the place that the other wants?
    Challenge {
        id: Hash,
        seen: u64,
        challenger: Box<Node>,
    },
    QuickNat,
    NetworkCheck,
    Nobody,
}

/// Counters, from the start of the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RpcCounters {
    /// Requests sent, not counting repeats.
    pub requests: u64,
    /// Responses to them.
    pub responses: u64,
    /// Requests that nobody answered.
    pub timeouts: u64,
    /// Requests received.
    pub served: u64,
    /// Replies shortened or left out, because a host that proved nothing asked for more than its share.
    pub shortened: u64,
    /// Datagrams that were neither a request nor a response, or damaged.
    pub malformed: u64,
}

/// What an [`Rpc`] needs to know at its start.
#[derive(Debug, Clone)]
pub(crate) struct RpcConfig {
    /// Local port of the server socket.
    pub(crate) server_port: u16,
    /// `None`: find out.
    pub(crate) firewalled: Option<bool>,
    /// `None`: become persistent once proven stable and reachable.
    pub(crate) ephemeral: Option<bool>,
    /// Our address as others reach it, where the operator of the node knows it.
    pub(crate) public_address: Option<SocketAddrV4>,
}

pub(crate) struct Rpc {
    config: RpcConfig,
    entropy: Entropy,
    table: Table,
    nat: NatSampler,
    tokens: Option<Tokens>,
    inflight: Inflight<Owner>,
    silent: Silent,
    queries: BTreeMap<QueryId, Query>,
    background: Vec<QueryId>,
    bootstrap_nodes: Vec<SocketAddrV4>,
    bootstrap: Bootstrap,
    network_check: Option<NetworkCheck>,
    idless_samples: Vec<SocketAddrV4>,
    firewalled: bool,
    ephemeral: bool,
    tick: u64,
    tick_at: Instant,
    refresh_in: u64,
    stable_in: u64,
    last_host: Option<Ipv4Addr>,
    down_hints: u32,
    checks: u32,
    repings: u32,
    delayed: Vec<(Instant, Incoming)>,
    excess_rations: Rations,
    next_id: u64,
    transmits: VecDeque<Transmit>,
    events: VecDeque<RpcEvent>,
    counters: RpcCounters,
}

impl Rpc {
    pub(crate) fn new(config: RpcConfig, mut entropy: Entropy, now: Instant) -> Self {
        let tick_at = now + TICK;
        let offset = u64::from(entropy.uint16());
        let mut nat = NatSampler::default();
        let mut id = entropy.array();
        if let Some(address) = config.public_address {
            nat.add(address);
            id = node_id(address);
        }
        Self {
            firewalled: config.firewalled != Some(false),
            ephemeral: config.ephemeral != Some(false) || config.public_address.is_none(),
            table: Table::new(id),
            nat,
            tokens: None,
            inflight: Inflight::new(entropy.uint16()),
            silent: Silent::new(),
            queries: BTreeMap::new(),
            background: Vec::new(),
            bootstrap_nodes: Vec::new(),
            bootstrap: Bootstrap::NotStarted,
            network_check: None,
            idless_samples: Vec::new(),
            tick: offset | 1,
            tick_at,
            refresh_in: REFRESH_TICKS - offset % (REFRESH_TICKS / 2),
            stable_in: STABLE_TICKS,
            last_host: None,
            down_hints: 0,
            checks: 0,
            repings: 0,
            delayed: Vec::new(),
            excess_rations: Rations::new(EXCESS_RATION.0, EXCESS_RATION.1),
            next_id: 1,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: RpcCounters::default(),
            config,
            entropy,
        }
    }

    // ---- what others ask about us ----

    pub(crate) fn counters(&self) -> RpcCounters {
        self.counters
    }

    pub(crate) fn is_firewalled(&self) -> bool {
        self.firewalled
    }

    pub(crate) fn seen_as(&self) -> Option<(Ipv4Addr, u16, u8)> {
        Some((self.nat.host()?, self.nat.port(), self.nat.samples()))
    }

    pub(crate) fn is_bootstrapped(&self) -> bool {
        matches!(self.bootstrap, Bootstrap::Done)
    }

    /// Our id, while we are persistent.
    pub(crate) fn id(&self) -> Option<&Hash> {
        (!self.ephemeral).then(|| self.table.id())
    }

    pub(crate) fn table_len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn latest_nodes(&self) -> impl Iterator<Item = SocketAddrV4> {
        self.table.latest().map(|node| node.address)
    }

    /// The socket our own requests leave from.
    pub(crate) fn socket(&self) -> SocketId {
        if self.firewalled {
            SocketId::CLIENT
        } else {
            SocketId::SERVER
        }
    }

    /// The address at which anybody can reach our server socket; known only when it was proven or configured.
    pub(crate) fn remote_address(&self) -> Option<SocketAddrV4> {
        if self.config.public_address.is_some() {
            return self.config.public_address;
        }
        let host = self.nat.host()?;
        let proven = !self.firewalled && self.nat.port() == self.config.server_port;
        proven.then(|| SocketAddrV4::new(host, self.config.server_port))
    }

    // ---- the driver's side ----

    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub(crate) fn poll_event(&mut self) -> Option<RpcEvent> {
        self.events.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Instant {
        let delayed = self.delayed.iter().map(|(at, _)| *at).min();
        [Some(self.tick_at), self.inflight.poll_timeout(), delayed]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.tick_at)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let mut transmits = std::mem::take(&mut self.transmits);
        let expiries = self.inflight.handle_timeout(now, &mut transmits);
        transmits.append(&mut self.transmits);
        self.transmits = transmits;
        for expiry in expiries {
            self.on_expiry(now, expiry);
        }
        self.answer_delayed(now);
        if now >= self.tick_at {
            self.on_tick(now);
        }
    }

    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddrV4,
        data: &[u8],
    ) {
        if from.port() == 0 {
            return;
        }
        let message = message::decode(data);
        if message.is_some() {
            self.silent.heard(from);
        }
        match message {
            Some(Message::Request(request)) => {
                self.counters.served += 1;
                self.on_request(now, socket, (from, data.len()), request);
            }
            Some(Message::Response(response)) => self.on_response(now, socket, from, response),
            None => self.counters.malformed += 1,
        }
    }

    // ---- the upper layer's side ----

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Sends a request; its outcome arrives as [`RpcEvent::Response`].
    pub(crate) fn request(&mut self, now: Instant, ask: Ask) -> RequestId {
        let id = RequestId(self.fresh_id());
        self.send(now, ask, None, Owner::Above(id));
        id
    }

    /// Sends what waited for others to end: to be called after every input and every cancellation.
    pub(crate) fn release_queued(&mut self, now: Instant) {
        self.inflight.release(now, &mut self.transmits);
    }

    /// Forgets a request; no event will come.
    pub(crate) fn cancel_request(&mut self, request: RequestId) {
        self.inflight
            .retain(|owner| !matches!(owner, Owner::Above(id) if *id == request));
    }

    fn send(&mut self, now: Instant, ask: Ask, to_id: Option<Hash>, owner: Owner) {
        self.counters.requests += 1;
        let Some(tid) = self.inflight.allocate() else {
            self.on_no_answer(now, ask.to, owner);
            return;
        };
        let socket = ask.socket.unwrap_or_else(|| self.socket());
        let datagram = Request {
            tid,
            to: ask.to,
            id: self.id_on(socket),
            token: ask.token,
            internal: ask.internal,
            command: ask.command,
            target: ask.target,
            value: ask.value,
        }
        .encode();
        let timeout = TRY_TIMEOUT;
        let how = Sending {
            to: ask.to,
            to_id,
            owner,
            socket,
            retries: ask.retries,
            timeout,
            force: false,
        };
        self.transmits.extend(self.inflight.send(now, tid, datagram, how));
    }

    /// Our id, where a message from `socket` may carry it.
    fn id_on(&self, socket: SocketId) -> Option<Hash> {
        self.id().copied().filter(|_| socket == SocketId::SERVER)
    }

    /// Starts a query. Events: any number of [`RpcEvent::QueryReply`], then one [`RpcEvent::QueryDone`].
    pub(crate) fn query(&mut self, now: Instant, spec: QuerySpec) -> QueryId {
        let id = self.allocate_query();
        self.start_query(now, id, spec);
        id
    }

    fn allocate_query(&mut self) -> QueryId {
        QueryId(self.fresh_id())
    }

    fn start_query(&mut self, now: Instant, id: QueryId, spec: QuerySpec) {
        if self.queries.len() >= MAX_QUERIES {
            self.queries.insert(id, Query::new(spec, *self.table.id()));
            self.finish_query(now, id);
            return;
        }
        let mut query = Query::new(spec, *self.table.id());
        if query.room() > 0 {
            self.feed_from_table(&mut query);
        }
        let steps = query.advance();
        self.queries.insert(id, query);
        self.apply(now, id, steps);
    }

    fn feed_from_table(&self, query: &mut Query) {
        let room = query.room();
        let mut nodes: Vec<SocketAddrV4> = self
            .table
            .closest(&query.spec.target, room)
            .iter()
            .map(|node| node.address)
            .collect();
        if nodes.len() < room {
            nodes.extend(&self.bootstrap_nodes);
        }
        query.add_from_table(&nodes);
    }

    /// Stops a query; no event will come.
    pub(crate) fn cancel_query(&mut self, query: QueryId) {
        if self.queries.remove(&query).is_some() {
            self.inflight
                .retain(|owner| !matches!(owner, Owner::Query(id) if *id == query));
        }
    }

    fn apply(&mut self, now: Instant, id: QueryId, mut steps: Steps) {
        loop {
            for (referrer, down) in steps.down_hints.drain(..) {
                if self.down_hints < MAX_DOWN_HINTS_PER_TICK {
                    self.down_hints += 1;
                    let value = Some(Bytes::copy_from_slice(&address::encode(down)));
                    let ask = Ask {
                        internal: true,
                        value,
                        ..Ask::new(referrer, DOWN_HINT)
                    };
                    self.send(now, ask, None, Owner::Nobody);
                }
            }
            let Some(query) = self.queries.get(&id) else {
                return;
            };
            let spec = &query.spec;
            let template = Ask {
                internal: spec.internal,
                target: Some(spec.target),
                value: spec.value.clone(),
                retries: spec.retries,
                ..Ask::new(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), spec.command)
            };
            for to in std::mem::take(&mut steps.visit) {
                let retries = if self.silent.contains(to) {
                    0
                } else {
                    template.retries
                };
                self.send(
                    now,
                    Ask {
                        to,
                        retries,
                        ..template.clone()
                    },
                    Some(node_id(to)),
                    Owner::Query(id),
                );
            }
            if steps.done {
                self.finish_query(now, id);
                return;
            }
            if !steps.wants_table {
                return;
            }
            let Some(mut query) = self.queries.remove(&id) else {
                return;
            };
            self.feed_from_table(&mut query);
            steps = query.advance();
            self.queries.insert(id, query);
        }
    }

    fn finish_query(&mut self, now: Instant, id: QueryId) {
        let Some(query) = self.queries.remove(&id) else {
            return;
        };
        self.inflight
            .retain(|owner| !matches!(owner, Owner::Query(query) if *query == id));
        if let Some(position) = self.background.iter().position(|query| *query == id) {
            self.background.swap_remove(position);
            self.on_background_done(now, id);
            return;
        }
        self.events.push_back(RpcEvent::QueryDone {
            query: id,
            closest: query.closest_replies(),
        });
    }

    // ---- responses ----

    fn on_response(&mut self, now: Instant, socket: SocketId, from: SocketAddrV4, response: Response) {
        let Some(entry) = self.inflight.settle(response.tid, from) else {
            return;
        };
        self.counters.responses += 1;
        let reply = Reply {
            from,
            from_id: response.id.filter(|id| *id == node_id(from)),
            to: response.to,
            socket,
            token: response.token,
            closer_nodes: response.closer_nodes,
            error: response.error,
            value: response.value,
        };
        self.note_node(now, socket, from, reply.from_id, reply.to);
        match entry.owner {
            Owner::Above(request) => {
                self.events.push_back(RpcEvent::Response {
                    request,
                    result: Ok(reply),
                });
            }
            Owner::Query(id) => self.on_query_reply(now, id, reply),
            Owner::Check { id, seen } => {
                self.checks = self.checks.saturating_sub(1);
                if reply.from_id != Some(id) {
                    self.remove_stale(&id, seen);
                }
            }
            Owner::Challenge { id, seen, challenger } => {
                self.repings = self.repings.saturating_sub(1);
                if reply.from_id != Some(id) && self.remove_stale(&id, seen) {
                    self.table.insert(*challenger);
                }
            }
            Owner::QuickNat => self.on_quick_nat(now, socket),
            Owner::NetworkCheck => self.on_network_pong(now, Some(&reply)),
            Owner::Nobody => {}
        }
    }

    fn on_query_reply(&mut self, now: Instant, id: QueryId, reply: Reply) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let steps = query.on_reply(&reply);
        if self.background.contains(&id) {
            // Yields to other traffic.
            query.spec.concurrency = if self.inflight.len() < 3 { CONCURRENCY } else { 2 };
            self.on_background_reply(now, id, &reply);
        } else if reply.error == 0 {
            self.events.push_back(RpcEvent::QueryReply { query: id, reply });
        }
        self.apply(now, id, steps);
    }

    fn on_expiry(&mut self, now: Instant, expiry: Expiry<Owner>) {
        match expiry {
            Expiry::Slow {
                to,
                owner: Owner::Query(id),
            } => {
                let Some(query) = self.queries.get_mut(&id) else {
                    return;
                };
                let steps = query.on_slow(to);
                self.apply(now, id, steps);
            }
            Expiry::Slow { .. } => {}
            Expiry::TimedOut(entry) => {
                self.counters.timeouts += 1;
                self.silent.unanswered(now, entry.to, entry.sent);
                if let Some(id) = entry.to_id {
                    self.table.remove(&id);
                }
                self.on_no_answer(now, entry.to, entry.owner);
            }
        }
    }

    fn on_no_answer(&mut self, now: Instant, to: SocketAddrV4, owner: Owner) {
        match owner {
            Owner::Above(request) => {
                self.events.push_back(RpcEvent::Response {
                    request,
                    result: Err(NoAnswer),
                });
            }
            Owner::Query(id) => {
                let Some(query) = self.queries.get_mut(&id) else {
                    return;
                };
                let steps = query.on_timeout(to);
                self.apply(now, id, steps);
            }
            Owner::Check { id, .. } => {
                self.checks = self.checks.saturating_sub(1);
                self.table.remove(&id);
            }
            Owner::Challenge { id, challenger, .. } => {
                self.repings = self.repings.saturating_sub(1);
                self.table.remove(&id);
                self.table.insert(*challenger);
            }
            Owner::NetworkCheck => self.on_network_pong(now, None),
            Owner::QuickNat | Owner::Nobody => {}
        }
    }
}

#[cfg(test)]
mod tests;
