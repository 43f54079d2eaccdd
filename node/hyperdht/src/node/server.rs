//! A listening key: answers handshakes, hands over connections (npm `hyperdht` `lib/server.js`).
//!
//! A client sends one Noise message through several relays, and repeats it: this part sees it two or three times
//! within milliseconds. The answer is remembered under the exact bytes of the message, so that every copy gets the
//! same reply and one stream; see rule 31 of HyperDHT's server behaviour. The stream is ordered before the reply.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cumulet_secret_stream::noise::{Handshake, HandshakeResult, KeyPair};
use ed25519_dalek::SigningKey;

use super::announcer::Announcer;
use super::punch_server::PendingPunch;
use super::puncher::PuncherId;
use super::router::ReplyPath;
use super::secure_payload::SecurePayload;
use super::{Event, Node, Output, RelayId, ServerId, StreamOwner};
use crate::address::{is_private, match_local};
use crate::crypto::{hash, namespace};
use crate::messages::{
    Firewall, Holepunch, NoisePayload, PeerRecord, RelayThrough, Udx, command, error_code,
};
use crate::rpc::Incoming;
use crate::{FirewallHook, Hash, ListenError, SocketId};

/// How long a reply is remembered after its connection came about or was given up.
const CLEAR_WAIT: Duration = Duration::from_secs(10);
/// How long a client may take from our reply to its first packet.
const CLIENT_WAIT: Duration = Duration::from_secs(10);
/// Handshakes remembered per server. Each is a few hundred bytes and lives 10 to 20 s.
const MAX_SLOTS: usize = 1_024;
/// How exactly those waits are kept. To look at a thousand handshakes after every packet would take longer than the packet.
const SWEEP_EVERY: Duration = Duration::from_millis(250);
/// How long a relayed client may take to find the direct way: the longest strategy of punching, and some.
const UPGRADE_WAIT: Duration = Duration::from_mins(1);

/// One client's handshake.
pub(super) struct Slot {
    noise: Bytes,
    reply: Bytes,
    remote_id: u32,
    /// Present while the stream waits for the client.
    waiting: Option<Waiting>,
    clear_at: Option<Instant>,
    /// The client is, or is to be, met at this relay; `is_relayed` once it was.
    relay: Option<RelayId>,
    is_relayed: bool,
    /// The relay is the last hope.
    lost_direct: bool,
    /// Relayed replies leave from here: the relay then reports this socket's address to the client.
    reply_from: Option<SocketId>,
    pub(super) puncher: Option<PuncherId>,
    pub(super) secure: Option<SecurePayload>,
    /// Highest round of hole punching seen.
    pub(super) round: u64,
    pub(super) pending_punches: Vec<PendingPunch>,
}

impl Slot {
    /// Just answered. A refused client has nothing that waits; its reply is kept a while for its repetitions.
    fn new(noise: Bytes, reply: Bytes, remote_id: u32, waiting: Option<Waiting>, now: Instant) -> Self {
        Self {
            noise,
            reply,
            remote_id,
            clear_at: waiting.is_none().then(|| now + CLEAR_WAIT),
            waiting,
            relay: None,
            is_relayed: false,
            lost_direct: false,
            reply_from: None,
            puncher: None,
            secure: None,
            round: 0,
            pending_punches: Vec::new(),
        }
    }

    /// Nothing comes of it any more, and it holds nothing.
    fn is_over(&self) -> bool {
        self.waiting.is_none() && self.relay.is_none() && self.puncher.is_none()
    }

    /// Gets ready for hole punch messages; only while the client is awaited.
    pub(super) fn open_secure(&mut self, local_secret: Hash, puncher: PuncherId) -> Option<()> {
        let waiting = self.waiting.as_ref()?;
        self.secure = Some(SecurePayload::new(
            &waiting.handshake.handshake_hash,
            local_secret,
        ));
        self.puncher = Some(puncher);
        Some(())
    }
}

#[derive(Debug)]
struct Waiting {
    stream: u32,
    handshake: HandshakeResult,
    until: Instant,
}

/// How a key listens.
#[derive(Clone, Default)]
pub(crate) struct ServerOptions {
    pub(crate) firewall: Option<FirewallHook>,
    pub(crate) private: bool,
    /// Blind relays, of which one is offered to each client.
    pub(crate) relay_through: Vec<Hash>,
    pub(crate) never_punch: bool,
}

pub(super) struct Server {
    key_pair: KeyPair,
    pub(super) target: Hash,
    options: ServerOptions,
    pub(super) announcer: Announcer,
    pub(super) slots: Vec<Option<Slot>>,
    by_noise: HashMap<Bytes, usize>,
    /// When the slots are looked at next, if there are any.
    sweep_at: Instant,
    /// Being closed: no new handshakes.
    closing: bool,
}

impl Server {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let sweep = (!self.slots.is_empty()).then_some(self.sweep_at);
        sweep.into_iter().chain(self.announcer.poll_timeout()).min()
    }

    /// The record that a node keeps of a listening key: no addresses, since the node itself is the way.
    fn record(&self) -> Bytes {
        PeerRecord {
            public_key: *self.key_pair.public_key(),
            relay_addresses: Vec::new(),
        }
        .encode()
    }

    /// A place for one more handshake. When all are taken, that of the connection that came about first is: its reply is remembered
    /// for copies of its handshake alone, which come within a second or not at all.
    fn free_slot(&mut self, now: Instant) -> Option<usize> {
        if self.slots.is_empty() {
            self.sweep_at = now + SWEEP_EVERY;
        }
        if let Some(free) = self.slots.iter().position(Option::is_none) {
            return Some(free);
        }
        if self.slots.len() < MAX_SLOTS {
            self.slots.push(None);
            return Some(self.slots.len() - 1);
        }
        let over = self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let slot = slot.as_ref().filter(|slot| slot.is_over())?;
            Some((slot.clear_at?, index))
        });
        let (_, index) = over.min()?;
        if let Some(slot) = self.slots.get_mut(index)?.take() {
            self.by_noise.remove(&slot.noise);
        }
        Some(index)
    }
}

/// Prologue of every handshake.
pub(super) fn prologue() -> Hash {
    namespace(command::PEER_HANDSHAKE as u8)
}

impl Node {
    /// Accepts connections to `key_pair` from now on, and announces it unless `private`.
    pub(crate) fn listen(
        &mut self,
        now: Instant,
        key_pair: KeyPair,
        options: ServerOptions,
    ) -> Result<ServerId, ListenError> {
        let target = hash(&[key_pair.public_key()]);
        if self.targets.contains_key(&target) {
            return Err(ListenError::KeyInUse);
        }
        let server = ServerId(self.fresh_id());
        let announcer = Announcer::new(SigningKey::from_bytes(key_pair.seed()));
        let private = options.private;
        let entry = Server {
            key_pair,
            target,
            options,
            announcer,
            slots: Vec::new(),
            by_noise: HashMap::new(),
            sweep_at: now,
            closing: false,
        };
        self.servers.insert(server, entry);
        self.targets.insert(target, server);
        if !private {
            self.start_announcing(now, server);
        }
        self.pump(now);
        Ok(server)
    }

    /// Announces a server that listened privately; nothing happens if it is announced already.
    pub(crate) fn announce_server(&mut self, now: Instant, server: ServerId) {
        if self
            .servers
            .get(&server)
            .is_some_and(|entry| !entry.closing && entry.announcer.is_off())
        {
            self.start_announcing(now, server);
            self.pump(now);
        }
    }

    /// Stops accepting and withdraws the announcement; [`Event::ServerClosed`] follows.
    pub(crate) fn close_server(&mut self, now: Instant, server: ServerId) {
        let Some(entry) = self.servers.get_mut(&server) else {
            return;
        };
        if std::mem::replace(&mut entry.closing, true) {
            return;
        }
        let target = entry.target;
        let slots: Vec<Slot> = entry.slots.drain(..).flatten().collect();
        entry.by_noise.clear();
        self.targets.remove(&target);
        for slot in slots {
            if let Some(waiting) = slot.waiting {
                self.drop_stream(waiting.stream);
            }
            if let Some(puncher) = slot.puncher {
                self.close_puncher(now, puncher);
            }
            match slot.relay {
                Some(relay) if slot.is_relayed => self.stay_relayed(relay),
                Some(relay) => self.cancel_relaying(now, relay),
                None => {}
            }
        }
        self.stop_announcing(now, server);
        self.pump(now);
    }

    pub(super) fn forget_server(&mut self, server: ServerId) {
        if self.servers.remove(&server).is_some() {
            self.event(Event::ServerClosed { server });
        }
    }

    pub(crate) fn servers(&self) -> Vec<ServerId> {
        self.servers.keys().copied().collect()
    }

    pub(super) fn own_record(&self, target: &Hash) -> Option<Bytes> {
        self.targets
            .get(target)
            .and_then(|server| self.servers.get(server))
            .map(Server::record)
    }

    /// A copy of a client's first Noise message arrived. `way` is the client's address and how to answer.
    pub(super) fn on_server_handshake(
        &mut self,
        now: Instant,
        server: ServerId,
        incoming: &Incoming,
        noise: &Bytes,
        way: (SocketAddrV4, ReplyPath),
    ) {
        let Some(entry) = self.servers.get(&server) else {
            return;
        };
        let known = entry
            .by_noise
            .get(noise)
            .and_then(|slot| entry.slots.get(*slot)?.as_ref());
        let reply = if let Some(slot) = known {
            self.counters.handshakes_repeated += 1;
            Some((slot.reply.clone(), slot.reply_from))
        } else if self.handshake_rations.take(now, *incoming.from.ip()) {
            self.new_handshake(now, server, incoming, noise, way)
        } else {
            self.counters.rationed += 1;
            None
        };
        match reply {
            Some(reply) => self.reply_handshake(now, incoming, reply, way.1),
            None => self.counters.handshakes_refused += 1,
        }
    }

    /// Answers a Noise message seen for the first time. `None`: no reply.
    fn new_handshake(
        &mut self,
        now: Instant,
        server: ServerId,
        incoming: &Incoming,
        noise: &Bytes,
        (client, path): (SocketAddrV4, ReplyPath),
    ) -> Option<(Bytes, Option<SocketId>)> {
        let seed = self.entropy.array();
        let entry = self.servers.get_mut(&server)?;
        let mut handshake = Handshake::ik_responder(entry.key_pair.clone(), seed, &prologue());
        let payload = NoisePayload::decode(&handshake.read(noise).ok()?).ok()?;
        let public_key = *handshake.remote_public_key()?;
        if public_key == *entry.key_pair.public_key() {
            return None;
        }
        if entry
            .options
            .firewall
            .as_ref()
            .is_some_and(|allow| !allow(&public_key, &payload, client))
        {
            return None;
        }
        let index = entry.free_slot(now)?;
        let error = match (payload.version, payload.udx) {
            (1, Some(_)) => error_code::NONE,
            (1, None) => error_code::ABORTED,
            _ => error_code::VERSION_MISMATCH,
        };
        let remote_id = payload.udx.map_or(0, |udx| udx.id);
        let accepted = error == error_code::NONE;
        let stream = accepted.then(|| self.fresh_stream(StreamOwner::Slot { server, slot: index }));
        let relays = self
            .servers
            .get(&server)
            .map(|entry| entry.options.relay_through.clone());
        let offer = self.choose_relay(&relays.unwrap_or_default());
        let answer = NoisePayload {
            relay_through: offer,
            ..self.server_payload(server, index, error, stream.unwrap_or(0))
        };
        let Ok(reply) = handshake.write(&answer.encode()) else {
            if let Some(stream) = stream {
                self.drop_stream(stream);
            }
            return None;
        };
        let reply = Bytes::from(reply);
        let waiting = match (stream, handshake.finish()) {
            (Some(stream), Ok(handshake)) => Some(Waiting {
                stream,
                handshake,
                until: now + CLIENT_WAIT,
            }),
            _ => None,
        };
        let slot = Slot::new(noise.clone(), reply.clone(), remote_id, waiting, now);
        let entry = self.servers.get_mut(&server)?;
        entry.by_noise.insert(noise.clone(), index);
        *entry.slots.get_mut(index)? = Some(slot);
        if !accepted {
            return Some((reply, None));
        }
        let reply_from = self.await_client(now, (server, index), incoming, &payload, (client, path));
        let through = match (offer, payload.relay_through) {
            (Some(ours), _) => Some((ours, true)),
            (None, theirs) => theirs.map(|theirs| (theirs, false)),
        };
        if let Some(through) = through {
            self.relay_slot(now, server, index, through);
        }
        Some((reply, reply_from))
    }

    /// Meets a client that is still awaited at a relay, too.
    fn relay_slot(&mut self, now: Instant, server: ServerId, index: usize, through: (RelayThrough, bool)) {
        let Some(stream) = self.waiting_stream(server, index) else {
            return;
        };
        let owner = StreamOwner::Slot { server, slot: index };
        let relay = self.start_relaying(now, owner, stream, through);
        if let Some(slot) = self.slot(server, index) {
            slot.relay = relay;
        }
    }

    fn slot(&mut self, server: ServerId, index: usize) -> Option<&mut Slot> {
        self.servers.get_mut(&server)?.slots.get_mut(index)?.as_mut()
    }

    fn waiting_stream(&mut self, server: ServerId, index: usize) -> Option<u32> {
        Some(self.slot(server, index)?.waiting.as_ref()?.stream)
    }

    /// The relay joined our stream with the client's: hands it over, and goes on looking for the direct way.
    pub(super) fn accepted_relayed(&mut self, now: Instant, server: ServerId, index: usize, relay: Hash) {
        let Some(slot) = self.slot(server, index) else {
            return;
        };
        let Some(Waiting {
            stream, handshake, ..
        }) = slot.waiting.take()
        else {
            return;
        };
        slot.is_relayed = true;
        slot.clear_at = Some(now + UPGRADE_WAIT);
        self.counters.accepted += 1;
        self.event(Event::Accepted {
            server,
            stream,
            handshake,
            relay: Some(relay),
        });
    }

    /// The relay failed, or (`over`) the relayed stream is gone.
    pub(super) fn slot_lost_relay(&mut self, now: Instant, (server, index): (ServerId, usize), over: bool) {
        let Some(slot) = self.slot(server, index) else {
            return;
        };
        slot.relay = None;
        if over || slot.lost_direct {
            self.abandon_slot(now, server, index);
        }
    }

    /// The reply is made: connects to the client, or gets ready for the way it will come. Returns the socket that the reply must
    /// leave from, if it matters.
    fn await_client(
        &mut self,
        now: Instant,
        (server, index): (ServerId, usize),
        incoming: &Incoming,
        payload: &NoisePayload,
        (client, path): (SocketAddrV4, ReplyPath),
    ) -> Option<SocketId> {
        // A client that anybody can reach, or that reached us itself, is met at once: it waits for our header.
        let mut reply_from = None;
        match path {
            ReplyPath::Direct => self.adopt(now, server, index, incoming.socket, client),
            ReplyPath::Through { .. } if payload.firewall == Firewall::Open => {
                let socket = self.rpc.socket();
                self.adopt(now, server, index, socket, client);
            }
            ReplyPath::Through { .. } if self.never_punches(server) => {}
            ReplyPath::Through { .. } if self.shares_network(client, incoming.to, payload) => {
                // It will find our server socket in the local network; the reply must not name another one.
                self.prepare_punch(now, server, index, payload.firewall);
            }
            ReplyPath::Through { .. } if self.remote_address().is_none() => {
                reply_from = self.prepare_punch(now, server, index, payload.firewall);
            }
            ReplyPath::Through { .. } => {}
        }
        let slot = self
            .servers
            .get_mut(&server)
            .and_then(|entry| entry.slots.get_mut(index)?.as_mut());
        if let Some(slot) = slot {
            slot.reply_from = reply_from;
        }
        reply_from
    }

    fn never_punches(&self, server: ServerId) -> bool {
        self.servers
            .get(&server)
            .is_some_and(|entry| entry.options.never_punch)
    }

    /// The client seems to sit behind the same public address as we do, in a network that we are in as well.
    fn shares_network(&self, client: SocketAddrV4, seen_as: SocketAddrV4, payload: &NoisePayload) -> bool {
        let private: Vec<_> = payload
            .addresses4
            .iter()
            .filter(|address| is_private(*address.ip()))
            .copied()
            .collect();
        Self::same_host(client, seen_as) && match_local(self.local_addresses(), &private).is_some()
    }

    /// Gives a client more time: punching has begun.
    pub(super) fn extend_slot(&mut self, server: ServerId, slot: usize, until: Instant) {
        let slot = self
            .servers
            .get_mut(&server)
            .and_then(|entry| entry.slots.get_mut(slot)?.as_mut());
        if let Some(waiting) = slot.and_then(|slot| slot.waiting.as_mut()) {
            waiting.until = waiting.until.max(until);
        }
    }

    /// Gives a client up: it did not come, or punching failed.
    pub(super) fn abandon_slot(&mut self, now: Instant, server: ServerId, slot: usize) {
        let slot = self
            .servers
            .get_mut(&server)
            .and_then(|entry| entry.slots.get_mut(slot)?.as_mut());
        let Some(slot) = slot else { return };
        let puncher = slot.puncher.take();
        slot.pending_punches.clear();
        if let (Some(waiting), true) = (&mut slot.waiting, slot.relay.is_some()) {
            // The relay has its own deadline, and ends this slot then.
            slot.lost_direct = true;
            waiting.until += UPGRADE_WAIT;
            if let Some(puncher) = puncher {
                self.close_puncher(now, puncher);
            }
            return;
        }
        slot.clear_at.get_or_insert(now + CLEAR_WAIT);
        let waiting = slot.waiting.take();
        if let Some(waiting) = waiting {
            self.counters.abandoned += 1;
            self.drop_stream(waiting.stream);
        }
        if let Some(puncher) = puncher {
            self.close_puncher(now, puncher);
        }
    }

    fn server_payload(&self, server: ServerId, slot: usize, error: u64, stream: u32) -> NoisePayload {
        let open = self.remote_address().is_some();
        let announcer = self.servers.get(&server).map(|entry| &entry.announcer);
        let relays = announcer
            .map(|announcer| announcer.relays.clone())
            .unwrap_or_default();
        let relay_addresses = announcer
            .map(|announcer| announcer.relay_addresses.clone())
            .unwrap_or_default();
        NoisePayload {
            version: 1,
            error,
            firewall: if open { Firewall::Open } else { Firewall::Unknown },
            holepunch: (!open).then_some(Holepunch {
                id: slot as u64,
                relays,
            }),
            addresses4: self.own_addresses(),
            udx: Some(Udx {
                reusable_socket: false,
                id: stream,
                seq: 0,
            }),
            secret_stream: true,
            relay_addresses: Some(relay_addresses).filter(|addresses| !addresses.is_empty()),
            ..NoisePayload::default()
        }
    }

    /// The way to a waiting client is known: connect its stream there and hand it over. Only the first way counts.
    pub(super) fn adopt(
        &mut self,
        now: Instant,
        server: ServerId,
        slot: usize,
        socket: SocketId,
        to: SocketAddrV4,
    ) {
        let slots = self.servers.get_mut(&server).map(|entry| &mut entry.slots);
        let Some(slot) = slots.and_then(|slots| slots.get_mut(slot)?.as_mut()) else {
            return;
        };
        if to.port() == 0 {
            return;
        }
        let (remote_id, relay) = (slot.remote_id, slot.relay.take());
        let puncher = slot.puncher.take();
        slot.clear_at = Some(now + CLEAR_WAIT);
        match (slot.waiting.take(), relay) {
            (Some(waiting), relay) => {
                if let Some(relay) = relay {
                    self.cancel_relaying(now, relay);
                }
                let stream = waiting.stream;
                self.streams.remove(&stream);
                self.counters.accepted += 1;
                self.outputs.push_back(Output::ConnectStream {
                    stream,
                    socket,
                    remote_id,
                    to,
                });
                self.event(Event::Accepted {
                    server,
                    stream,
                    handshake: waiting.handshake,
                    relay: None,
                });
            }
            (None, Some(relay)) => self.move_relayed(relay, socket, remote_id, to),
            (None, None) => {}
        }
        if let Some(puncher) = puncher {
            self.close_puncher(now, puncher);
        }
    }

    pub(super) fn server_timeouts(&mut self, now: Instant) {
        let mut announcers = Vec::new();
        let (mut lost, mut cleared) = (Vec::new(), Vec::new());
        for (id, entry) in &mut self.servers {
            if entry.announcer.poll_timeout().is_some_and(|at| at <= now) {
                announcers.push(*id);
            }
            if entry.slots.is_empty() || entry.sweep_at > now {
                continue;
            }
            entry.sweep_at = now + SWEEP_EVERY;
            for (index, place) in entry.slots.iter_mut().enumerate() {
                let Some(slot) = place else { continue };
                if slot.waiting.as_ref().is_some_and(|waiting| waiting.until <= now) {
                    lost.push((*id, index));
                    continue;
                }
                if slot.clear_at.is_some_and(|at| at <= now) {
                    entry.by_noise.remove(&slot.noise);
                    cleared.extend(place.take());
                }
            }
            while entry.slots.last().is_some_and(Option::is_none) {
                entry.slots.pop();
            }
        }
        for slot in cleared {
            if let Some(puncher) = slot.puncher {
                self.close_puncher(now, puncher);
            }
            if let Some(relay) = slot.relay {
                self.stay_relayed(relay);
            }
        }
        for (server, slot) in lost {
            self.abandon_slot(now, server, slot);
        }
        for server in announcers {
            self.announcer_timeout(now, server);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_key_that_many_connect_to_takes_the_place_of_those_that_came_first() {
        let (start, key_pair) = (Instant::now(), KeyPair::from_seed([1; 32]));
        let mut server = Server {
            target: hash(&[key_pair.public_key()]),
            announcer: Announcer::new(SigningKey::from_bytes(key_pair.seed())),
            key_pair,
            options: ServerOptions::default(),
            slots: Vec::new(),
            by_noise: HashMap::new(),
            sweep_at: start,
            closing: false,
        };
        let noise = |number: usize| Bytes::from(number.to_le_bytes().to_vec());
        for number in 0..MAX_SLOTS + 10 {
            let now = start + Duration::from_millis(number as u64);
            let index = server.free_slot(now).unwrap();
            assert_eq!(index, number % MAX_SLOTS);
            server.slots[index] = Some(Slot::new(noise(number), Bytes::new(), 0, None, now));
            server.by_noise.insert(noise(number), index);
        }
        assert_eq!(server.by_noise.len(), MAX_SLOTS);
        assert!(!server.by_noise.contains_key(&noise(9)) && server.by_noise.contains_key(&noise(10)));
        // Those that are still awaited keep theirs.
        for slot in server.slots.iter_mut().flatten() {
            slot.waiting = Some(Waiting {
                stream: 1,
                handshake: HandshakeResult {
                    tx: [0; 32],
                    rx: [0; 32],
                    handshake_hash: [0; 64],
                    remote_public_key: [0; 32],
                    is_initiator: false,
                },
                until: start,
            });
        }
        assert!(server.free_slot(start).is_none());
    }
}
