//! Opening a connection: find nodes that relay to the peer, send the same first Noise message through several of them,
//! take the first valid reply, and find the direct way (npm `hyperdht` `lib/connect.js`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cumulet_secret_stream::noise::{Handshake, HandshakeResult, KeyPair};

use super::punch_client::{ClientPunch, PunchPlan};
use super::server::prologue;
use super::{ConnectId, Event, Node, Output, Purpose, QueryPurpose, RelayId, StreamOwner};
use crate::address::{is_bogon, is_reserved, match_local};
use crate::crypto::hash;
use crate::messages::{self, Firewall, NoisePayload, RelayThrough, Udx, command, error_code, mode};
use crate::rpc::{Ask, QueryId, QuerySpec, Reply, RequestId};
use crate::{ConnectError, Hash, SocketId};

/// How long a way that led to the peer before is tried alone: what RFC 8305 gives the first of several addresses. Asking everybody
/// at once would cost others ten times the packets, for nothing as long as the way still holds.
const HEAD_START: Duration = Duration::from_millis(250);
/// Relays tried at a time.
const PARALLEL: usize = 3;
/// How long an open client waits for the server to come.
const PASSIVE_WAIT: Duration = Duration::from_secs(10);
/// Connections being opened at a time.
const MAX_CONNECTS: usize = 512;
/// Relays tried for one connection. The nodes near the target are 20, and records name up to 3 more.
const MAX_RELAYS: usize = 32;

/// Where and how to connect.
pub(crate) struct ConnectRequest {
    pub(crate) public_key: Hash,
    pub(crate) key_pair: KeyPair,
    pub(crate) relay_addresses: Vec<SocketAddrV4>,
    /// Blind relays, of which one is offered.
    pub(crate) relay_through: Vec<Hash>,
    pub(crate) never_punch: bool,
}

/// What the handshake brought.
#[derive(Debug)]
struct Established {
    result: HandshakeResult,
    payload: NoisePayload,
    remote_id: u32,
    /// Whom we had asked.
    asked: SocketAddrV4,
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts of one attempt")]
pub(super) struct Connect {
    public_key: Hash,
    pub(super) target: Hash,
    key_pair: KeyPair,
    ephemeral_seed: Hash,
    /// The handshake after our first message, and that message, made when the first relay is asked; every relay gets the same.
    first: Option<(Box<Handshake>, Bytes)>,
    /// What we said about our reachability in it.
    open: bool,
    stream: u32,
    /// We are open: until when we wait for the server to come.
    passive_until: Option<Instant>,
    /// A ping to the peer's local address is under way.
    lan: bool,
    pub(super) punch: Option<ClientPunch>,
    never_punch: bool,
    /// The relay that we offer.
    offer: Option<RelayThrough>,
    relay: Option<RelayId>,
    /// Handed over already, through the relay; what goes on here is the search for the direct way.
    is_relayed: bool,
    /// This is the connection to a relay.
    dialled_for: Option<RelayId>,
    query: Option<QueryId>,
    /// Only the way that worked before is tried until then.
    alone_until: Option<Instant>,
    /// The way that worked before was too slow, or led nowhere.
    is_detour: bool,
    /// Searches still allowed after this one.
    searches_left: u32,
    found: bool,
    waiting: VecDeque<SocketAddrV4>,
    tried: HashSet<SocketAddrV4>,
    asking: HashMap<RequestId, SocketAddrV4>,
    /// A packet of the server's stream that came before its reply.
    heard: Option<(SocketId, SocketAddrV4)>,
    established: Option<Established>,
}

impl Connect {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let punch = self.punch.as_ref().and_then(ClientPunch::poll_timeout);
        let alone = self.alone_until.filter(|_| self.established.is_none());
        [self.passive_until, punch, alone].into_iter().flatten().min()
    }

    /// The handshake after a first message with this payload, and the message.
    fn begin_handshake(&self, payload: &[u8]) -> Option<(Box<Handshake>, Bytes)> {
        let mut handshake = Handshake::ik_initiator(
            self.key_pair.clone(),
            self.ephemeral_seed,
            self.public_key,
            &prologue(),
        );
        let message = handshake.write(payload).ok()?;
        Some((Box::new(handshake), message.into()))
    }
}

impl Node {
    /// Starts connecting; [`Event::Connected`] or [`Event::ConnectFailed`] follows.
    pub(crate) fn connect(&mut self, now: Instant, request: ConnectRequest) -> ConnectId {
        let connect = self.begin_connect(now, request, None).unwrap_or_else(|| {
            let connect = ConnectId(self.fresh_id());
            self.event(Event::ConnectFailed {
                connect,
                error: ConnectError::Busy,
            });
            connect
        });
        self.pump(now);
        connect
    }

    /// `None`: too many at a time.
    pub(super) fn begin_connect(
        &mut self,
        now: Instant,
        request: ConnectRequest,
        dialled_for: Option<RelayId>,
    ) -> Option<ConnectId> {
        if self.connects.len() >= MAX_CONNECTS {
            return None;
        }
        let connect = ConnectId(self.fresh_id());
        let offer = self.choose_relay(&request.relay_through);
        let target = hash(&[&request.public_key]);
        let mut candidates = self
            .known_routes
            .get(&request.public_key)
            .cloned()
            .unwrap_or_default();
        let has_worked = !candidates.is_empty();
        candidates.extend(request.relay_addresses);
        candidates.extend(self.store.forward(&target).map(|forward| forward.relay));
        let mut seen = HashSet::new();
        candidates.retain(|address| address.port() != 0 && seen.insert(*address));
        candidates.truncate(MAX_RELAYS);
        let stream = self.fresh_stream(StreamOwner::Connect(connect));
        let entry = Connect {
            public_key: request.public_key,
            target,
            key_pair: request.key_pair,
            ephemeral_seed: self.entropy.array(),
            first: None,
            open: false,
            stream,
            passive_until: None,
            lan: false,
            punch: None,
            never_punch: request.never_punch,
            offer,
            relay: None,
            is_relayed: false,
            dialled_for,
            query: None,
            alone_until: has_worked.then(|| now + HEAD_START),
            is_detour: false,
            searches_left: u32::from(!candidates.is_empty()),
            found: !candidates.is_empty(),
            waiting: candidates.iter().copied().collect(),
            tried: HashSet::new(),
            asking: HashMap::new(),
            heard: None,
            established: None,
        };
        self.connects.insert(connect, entry);
        self.ask_relays(now, connect);
        if !has_worked {
            self.search(now, connect, candidates);
        }
        Some(connect)
    }

    /// The way that worked before has had its chance: tries everything.
    fn widen(&mut self, now: Instant, connect: ConnectId) {
        let Some(entry) = self.connects.get_mut(&connect) else {
            return;
        };
        if entry.alone_until.take().is_none() || entry.established.is_some() {
            return;
        }
        entry.is_detour = true;
        let nodes = entry.tried.iter().chain(&entry.waiting).copied().collect();
        self.ask_relays(now, connect);
        self.search(now, connect, nodes);
    }

    fn search(&mut self, now: Instant, connect: ConnectId, nodes: Vec<SocketAddrV4>) {
        let Some(entry) = self.connects.get_mut(&connect) else {
            return;
        };
        let spec = QuerySpec {
            nodes,
            retries: 3,
            ..QuerySpec::new(entry.target, command::FIND_PEER)
        };
        let query = self.rpc.query(now, spec);
        entry.query = Some(query);
        self.queries.insert(query, QueryPurpose::Connect(connect));
    }

    pub(super) fn on_route_found(&mut self, now: Instant, connect: ConnectId, reply: &Reply) {
        let Some(entry) = self.connects.get_mut(&connect) else {
            return;
        };
        let record = reply.value.as_deref().map(messages::PeerRecord::decode);
        if !matches!(record, Some(Ok(record)) if record.public_key == entry.public_key) {
            return;
        }
        entry.found = true;
        if entry.waiting.len() < MAX_RELAYS {
            entry.waiting.push_back(reply.from);
        }
        self.ask_relays(now, connect);
    }

    pub(super) fn on_routes_exhausted(&mut self, now: Instant, connect: ConnectId) {
        if let Some(entry) = self.connects.get_mut(&connect) {
            entry.query = None;
        }
        self.ask_relays(now, connect);
        self.check_exhausted(now, connect);
    }

    /// Sends the first message through the next relays.
    fn ask_relays(&mut self, now: Instant, connect: ConnectId) {
        let remote_address = self.remote_address();
        let addresses4 = self.own_addresses();
        let Some(entry) = self.connects.get_mut(&connect) else {
            return;
        };
        if entry.established.is_some() {
            return;
        }
        let parallel = if entry.alone_until.is_some() { 1 } else { PARALLEL };
        while entry.asking.len() < parallel && entry.tried.len() < MAX_RELAYS {
            let Some(relay) = entry.waiting.pop_front() else {
                break;
            };
            if !entry.tried.insert(relay) {
                continue;
            }
            if entry.first.is_none() {
                entry.open = remote_address.is_some();
                let payload = NoisePayload {
                    version: 1,
                    firewall: if entry.open {
                        Firewall::Open
                    } else {
                        Firewall::Unknown
                    },
                    addresses4: addresses4.clone(),
                    udx: Some(Udx {
                        reusable_socket: false,
                        id: entry.stream,
                        seq: 0,
                    }),
                    secret_stream: true,
                    relay_through: entry.offer,
                    ..NoisePayload::default()
                }
                .encode();
                entry.first = entry.begin_handshake(&payload);
                if entry.first.is_none() {
                    return;
                }
            }
            let noise = entry.first.as_ref().map(|(_, noise)| noise.clone());
            let value = messages::Handshake {
                mode: mode::FROM_CLIENT,
                noise,
                peer_address: None,
                relay_address: None,
            };
            let ask = Ask {
                target: Some(entry.target),
                value: Some(value.encode()),
                ..Ask::new(relay, command::PEER_HANDSHAKE)
            };
            let request = self.rpc.request(now, ask);
            entry.asking.insert(request, relay);
            self.requests.insert(
                request,
                Purpose::Handshake {
                    connect,
                    asked: relay,
                },
            );
        }
    }

    fn check_exhausted(&mut self, now: Instant, connect: ConnectId) {
        let Some(entry) = self.connects.get_mut(&connect) else {
            return;
        };
        let busy = entry.query.is_some() || !entry.asking.is_empty() || !entry.waiting.is_empty();
        if busy || entry.established.is_some() {
            return;
        }
        if entry.searches_left > 0 {
            entry.searches_left -= 1;
            // The addresses we were given may have been stale; what the network says now gets a fresh chance.
            entry.tried.clear();
            self.search(now, connect, Vec::new());
            return;
        }
        let error = if entry.found {
            ConnectError::PeerUnreachable
        } else {
            ConnectError::PeerNotFound
        };
        self.fail_connect(now, connect, error);
    }

    pub(super) fn on_handshake_reply(
        &mut self,
        now: Instant,
        connect: ConnectId,
        asked: SocketAddrV4,
        reply: Option<Reply>,
    ) {
        let Some(entry) = self.connects.get_mut(&connect) else {
            return;
        };
        entry.asking.retain(|_, relay| *relay != asked);
        if entry.established.is_some() {
            return;
        }
        let handshake = reply
            .as_ref()
            .and_then(|reply| messages::Handshake::decode(reply.value.as_deref()?).ok());
        let handshake = handshake.filter(|message| message.mode == mode::REPLY);
        let noise = handshake.as_ref().and_then(|message| message.noise.as_ref());
        let opened = noise.and_then(|noise| Self::open_reply(entry, noise));
        let (Some(reply), Some(message), Some((result, payload))) = (reply, handshake, opened) else {
            self.widen(now, connect);
            self.ask_relays(now, connect);
            self.check_exhausted(now, connect);
            return;
        };
        let refusal = match (payload.version, payload.error, payload.udx) {
            (1, error_code::NONE, Some(_)) => None,
            (1, error_code::NONE, None) => Some(ConnectError::Refused {
                code: error_code::NONE,
            }),
            (1, code, _) => Some(ConnectError::Refused { code }),
            (version, ..) => Some(ConnectError::Incompatible { version }),
        };
        if let Some(error) = refusal {
            self.fail_connect(now, connect, error);
            return;
        }
        let remote_id = payload.udx.map_or(0, |udx| udx.id);
        entry.established = Some(Established {
            result,
            payload,
            remote_id,
            asked,
        });
        let query = entry.query.take();
        let requests: Vec<RequestId> = entry.asking.drain().map(|(request, _)| request).collect();
        self.stop_asking(query, requests);
        let server_address = message.peer_address.unwrap_or(asked);
        self.find_way(now, connect, &reply, asked, server_address);
    }

    fn open_reply(entry: &Connect, noise: &[u8]) -> Option<(HandshakeResult, NoisePayload)> {
        // A copy: garbage from one relay must not spoil the reply of another.
        let (handshake, _) = entry.first.as_ref()?;
        let mut handshake = handshake.clone();
        let payload = NoisePayload::decode(&handshake.read(noise).ok()?).ok()?;
        Some((handshake.finish().ok()?, payload))
    }

    fn stop_asking(&mut self, query: Option<QueryId>, requests: Vec<RequestId>) {
        if let Some(query) = query {
            self.rpc.cancel_query(query);
            self.queries.remove(&query);
        }
        for request in requests {
            self.rpc.cancel_request(request);
            self.requests.remove(&request);
        }
    }

    /// The handshake is done: which way do the stream's packets go?
    fn find_way(
        &mut self,
        now: Instant,
        connect: ConnectId,
        reply: &Reply,
        asked: SocketAddrV4,
        server_address: SocketAddrV4,
    ) {
        let socket = self.rpc.socket();
        let Some(entry) = self.connects.get_mut(&connect) else {
            return;
        };
        let Some(established) = &entry.established else {
            return;
        };
        if let Some((socket, address)) = entry.heard {
            self.finish_connect(now, connect, socket, address);
            return;
        }
        let relayed = server_address != asked;
        if !relayed {
            self.finish_connect(now, connect, socket, asked);
            return;
        }
        let payload = &established.payload;
        let punchable = payload
            .holepunch
            .as_ref()
            .is_some_and(|holepunch| !holepunch.relays.is_empty());
        if payload.firewall == Firewall::Open || !punchable {
            let public = payload
                .addresses4
                .iter()
                .find(|address| !is_bogon(*address.ip()))
                .copied();
            self.finish_connect(now, connect, socket, public.unwrap_or(server_address));
            return;
        }
        let through = match (payload.relay_through, entry.offer) {
            (Some(theirs), _) => Some((theirs, false)),
            (None, ours) => ours.map(|ours| (ours, true)),
        };
        let (stream, open) = (entry.stream, entry.open);
        if let Some(through) = through {
            let relay = self.start_relaying(now, StreamOwner::Connect(connect), stream, through);
            if let Some(entry) = self.connects.get_mut(&connect) {
                entry.relay = relay;
            }
        }
        if open {
            if let Some(entry) = self.connects.get_mut(&connect) {
                entry.passive_until = Some(now + PASSIVE_WAIT);
            }
            return;
        }
        self.find_hole(now, connect, (reply.to, asked), server_address);
    }

    /// Neither side is open: the local network and hole punching remain.
    fn find_hole(
        &mut self,
        now: Instant,
        connect: ConnectId,
        (seen_as, asked): (SocketAddrV4, SocketAddrV4),
        server_address: SocketAddrV4,
    ) {
        let Some(entry) = self.connects.get_mut(&connect) else {
            return;
        };
        let Some(established) = &entry.established else {
            return;
        };
        if entry.never_punch {
            self.way_failed(now, connect, ConnectError::CannotHolepunch);
            return;
        }
        let payload = &established.payload;
        let plan = PunchPlan {
            handshake_hash: established.result.handshake_hash,
            remote_firewall: payload.firewall,
            slot: payload.holepunch.as_ref().map_or(0, |holepunch| holepunch.id),
            relays: payload
                .holepunch
                .as_ref()
                .map(|holepunch| holepunch.relays.clone())
                .unwrap_or_default(),
            client_relay: asked,
            server_address,
        };
        let local: Vec<_> = payload
            .addresses4
            .iter()
            .filter(|address| !is_reserved(*address.ip()))
            .copied()
            .collect();
        if Self::same_host(seen_as, server_address)
            && let Some(first) = local.first().copied()
        {
            // Raced with punching: whichever opens first is used.
            entry.lan = true;
            let address = match_local(&self.config.local_addresses, &local).unwrap_or(first);
            let request = self.rpc.request(now, Ask::ping(address));
            self.requests
                .insert(request, Purpose::LanPing { connect, address });
        }
        if !self.start_client_punch(now, connect, &plan) {
            self.way_failed(now, connect, ConnectError::CannotHolepunch);
        }
    }

    pub(super) fn on_lan_pong(
        &mut self,
        now: Instant,
        connect: ConnectId,
        address: SocketAddrV4,
        alive: bool,
    ) {
        if alive {
            self.finish_connect(now, connect, SocketId::SERVER, address);
        } else if let Some(entry) = self.connects.get_mut(&connect) {
            entry.lan = false;
            self.way_failed(now, connect, ConnectError::CannotHolepunch);
        }
    }

    /// One way to the peer failed: the connection does, if it was the last.
    pub(super) fn way_failed(&mut self, now: Instant, connect: ConnectId, error: ConnectError) {
        let Some(entry) = self.connects.get(&connect) else {
            return;
        };
        if entry.lan || entry.punch.is_some() || entry.passive_until.is_some() {
            return;
        }
        if entry.is_relayed {
            self.end_relayed_connect(connect);
        } else if entry.relay.is_none() {
            self.fail_connect(now, connect, error);
        }
    }

    /// The relay joined our stream with the server's. Returns the stream, its keys, and whether no other way is tried any more.
    pub(super) fn open_relayed(&mut self, connect: ConnectId) -> Option<(u32, HandshakeResult, bool)> {
        let entry = self.connects.get_mut(&connect)?;
        let handshake = entry.established.as_ref()?.result.clone();
        entry.is_relayed = true;
        self.counters.connected += 1;
        let alone = !entry.lan && entry.punch.is_none() && entry.passive_until.is_none();
        Some((entry.stream, handshake, alone))
    }

    /// No direct way was found; the connection stays with the relay.
    pub(super) fn end_relayed_connect(&mut self, connect: ConnectId) {
        if let Some(relay) = self.connects.remove(&connect).and_then(|entry| entry.relay) {
            self.stay_relayed(relay);
        }
    }

    /// The relay failed, or (`over`) the relayed stream is gone.
    pub(super) fn connect_lost_relay(&mut self, now: Instant, connect: ConnectId, over: bool) {
        let Some(entry) = self.connects.get_mut(&connect) else {
            return;
        };
        entry.relay = None;
        if !over {
            self.way_failed(now, connect, ConnectError::RelayFailed);
        } else if let Some(entry) = self.take_connect(connect) {
            self.streams.remove(&entry.stream);
            if let Some(punch) = entry.punch {
                self.close_puncher(now, punch.puncher);
            }
        }
    }

    /// Nobody waits for this connection any more. One that was handed over already is not cancelled.
    pub(crate) fn cancel_connect(&mut self, now: Instant, connect: ConnectId) {
        if self.connects.get(&connect).is_some_and(|entry| !entry.is_relayed) {
            self.end_connect(now, connect);
            self.pump(now);
        }
    }

    /// The relay that this connection was for is not wanted any more.
    pub(super) fn abandon_dial(&mut self, now: Instant, dial: ConnectId) {
        self.end_connect(now, dial);
    }

    /// Takes an attempt back with all that it opened; returns what is left to say of it.
    fn end_connect(&mut self, now: Instant, connect: ConnectId) -> Option<(Hash, Option<RelayId>)> {
        let entry = self.take_connect(connect)?;
        if let Some(punch) = entry.punch {
            self.close_puncher(now, punch.puncher);
        }
        self.drop_stream(entry.stream);
        if let Some(relay) = entry.relay {
            self.cancel_relaying(now, relay);
        }
        Some((entry.public_key, entry.dialled_for))
    }

    /// A packet of the server arrived on our stream.
    pub(super) fn on_connect_heard(
        &mut self,
        now: Instant,
        connect: ConnectId,
        socket: SocketId,
        from: SocketAddrV4,
    ) {
        let Some(entry) = self.connects.get_mut(&connect) else {
            return;
        };
        if entry.established.is_some() {
            self.finish_connect(now, connect, socket, from);
        } else {
            // Its reply is still on the way.
            entry.heard.get_or_insert((socket, from));
        }
    }

    fn take_connect(&mut self, connect: ConnectId) -> Option<Connect> {
        let mut entry = self.connects.remove(&connect)?;
        let query = entry.query.take();
        let requests: Vec<RequestId> = entry.asking.drain().map(|(request, _)| request).collect();
        self.stop_asking(query, requests);
        Some(entry)
    }

    pub(super) fn finish_connect(
        &mut self,
        now: Instant,
        connect: ConnectId,
        socket: SocketId,
        to: SocketAddrV4,
    ) {
        let Some(entry) = self.take_connect(connect) else {
            return;
        };
        let Some(Established {
            result,
            payload,
            remote_id,
            asked,
        }) = entry.established
        else {
            return;
        };
        let routes = payload.relay_addresses.filter(|addresses| !addresses.is_empty());
        let was_told = routes.is_some();
        let mut routes = routes.unwrap_or_else(|| entry.tried.iter().take(PARALLEL).copied().collect());
        if entry.is_detour || !was_told {
            // The first is tried alone the next time.
            routes.retain(|route| *route != asked);
            routes.insert(0, asked);
        }
        routes.truncate(MAX_RELAYS);
        self.known_routes.insert(now, entry.public_key, routes);
        if let (true, Some(relay)) = (entry.is_relayed, entry.relay) {
            self.move_relayed(relay, socket, remote_id, to);
        } else {
            if let Some(relay) = entry.relay {
                self.cancel_relaying(now, relay);
            }
            self.streams.remove(&entry.stream);
            self.outputs.push_back(Output::ConnectStream {
                stream: entry.stream,
                socket,
                remote_id,
                to,
            });
            if let Some(relay) = entry.dialled_for {
                self.relay_reached(relay, (entry.stream, result), (socket, to));
            } else {
                self.counters.connected += 1;
                self.event(Event::Connected {
                    connect,
                    stream: entry.stream,
                    handshake: result,
                    relay: None,
                });
            }
        }
        if let Some(punch) = entry.punch {
            self.close_puncher(now, punch.puncher);
        }
    }

    fn fail_connect(&mut self, now: Instant, connect: ConnectId, error: ConnectError) {
        let Some((public_key, dialled_for)) = self.end_connect(now, connect) else {
            return;
        };
        self.known_routes.remove(&public_key);
        if let Some(relay) = dialled_for {
            self.relay_failed(now, relay);
            return;
        }
        self.counters.connect_failures += 1;
        self.event(Event::ConnectFailed { connect, error });
    }

    pub(super) fn connect_timeouts(&mut self, now: Instant) {
        let due: Vec<ConnectId> = self
            .connects
            .iter()
            .filter(|(_, entry)| entry.poll_timeout().is_some_and(|at| at <= now))
            .map(|(connect, _)| *connect)
            .collect();
        for connect in due {
            let entry = self.connects.get(&connect);
            let passive = entry.and_then(|entry| entry.passive_until);
            let alone = entry.and_then(|entry| entry.alone_until);
            if alone.is_some_and(|until| until <= now) {
                self.widen(now, connect);
            } else if passive.is_some_and(|until| until <= now) {
                if let Some(entry) = self.connects.get_mut(&connect) {
                    entry.passive_until = None;
                }
                self.way_failed(now, connect, ConnectError::PassiveTimeout);
            } else {
                self.client_punch_timeout(now, connect);
            }
        }
    }
}
