//! Getting through two NATs at once: fresh sockets, what kind of NAT they are behind, and one-byte probes until one of
//! them arrives (npm `hyperdht` `lib/holepuncher.js`). Both sides of a connection run one.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::nat_class::NatClass;
use super::{ConnectId, Node, Output, Purpose, ServerId};
use crate::messages::Firewall;
use crate::rpc::{Ask, Reply};
use crate::{SocketId, Transmit};

/// Punchers at a time. Each has a socket; beyond, a connection that needs one fails.
const MAX_PUNCHERS: usize = 64;
/// Nodes asked what they see of a fresh socket.
const SAMPLES: usize = 4;
/// Fresh sockets tried when the NAT looks unhelpful: mobile networks often give a better one next time.
const MAX_REOPENS: u32 = 3;
/// Leaves our NAT and dies before the other.
const LOW_TTL: u8 = 5;
const NORMAL_TTL: u8 = 64;
/// Both consistent: rounds of probes, and between them.
const CONSISTENT_ROUNDS: u32 = 10;
const CONSISTENT_EVERY: Duration = Duration::from_secs(1);
/// One random: probes, and between them; about 35 s.
const RANDOM_PROBES: u32 = 1_750;
const RANDOM_EVERY: Duration = Duration::from_millis(20);
/// Sockets of the side with the random NAT: with that many, guessing a port takes seconds (birthday paradox).
const BIRTHDAY_SOCKETS: usize = 256;
const BIRTHDAY_PAUSE: Duration = Duration::from_millis(100);
/// Between two random punches of this node: they are loud.
const RANDOM_INTERVAL: Duration = Duration::from_secs(20);

/// A puncher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PuncherId(pub(super) u64);

/// Whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PunchOwner {
    Slot { server: ServerId, slot: usize },
    Connect(ConnectId),
}

/// What the other side said of itself.
#[derive(Debug, Default)]
pub(super) struct Remote {
    pub(super) firewall: Firewall,
    /// With whether it proved to receive at this host.
    addresses: Vec<(SocketAddrV4, bool)>,
    pub(super) punching: bool,
}

#[derive(Debug)]
enum Strategy {
    /// Send to the addresses named.
    Consistent { round: u32 },
    /// Send to random ports of the host.
    Guess { host: Ipv4Addr, left: u32 },
    /// Send to one address from many sockets.
    Birthday {
        to: SocketAddrV4,
        left: u32,
        index: usize,
        low_ttl: bool,
    },
}

#[derive(Debug)]
pub(super) struct Puncher {
    pub(super) owner: PunchOwner,
    is_initiator: bool,
    /// The first socket; the others are only for strategies.
    sockets: Vec<SocketId>,
    pub(super) nat: NatClass,
    /// Answers awaited from nodes.
    sampling: usize,
    may_resample: bool,
    reopens: u32,
    reopening: bool,
    pub(super) remote: Remote,
    strategy: Option<(Strategy, Instant)>,
}

fn coerce(firewall: Firewall) -> Firewall {
    if firewall == Firewall::Open {
        Firewall::Consistent
    } else {
        firewall
    }
}

impl Puncher {
    pub(super) fn socket(&self) -> SocketId {
        self.sockets.first().copied().unwrap_or(SocketId::CLIENT)
    }

    /// Nothing more will be learnt about our NAT.
    pub(super) fn is_settled(&self) -> bool {
        !self.reopening && (self.nat.is_settled() || self.sampling == 0)
    }

    /// Punching can not work like this.
    pub(super) fn is_unstable(&self) -> bool {
        let own = self.nat.firewall();
        own == Firewall::Unknown || (own == Firewall::Random && self.remote.firewall == Firewall::Random)
    }

    /// Fresh sockets were tried already.
    pub(super) fn has_reopened(&self) -> bool {
        self.reopens > 0
    }

    pub(super) fn is_punching(&self) -> bool {
        self.strategy.is_some()
    }

    pub(super) fn is_random(&self) -> bool {
        self.nat.firewall() == Firewall::Random || self.remote.firewall == Firewall::Random
    }

    pub(super) fn update_remote(
        &mut self,
        firewall: Firewall,
        punching: bool,
        addresses: Option<&Vec<SocketAddrV4>>,
        verified: Option<Ipv4Addr>,
    ) {
        let known = std::mem::take(&mut self.remote.addresses);
        let was_verified = |host: &Ipv4Addr| {
            known
                .iter()
                .any(|(address, proven)| *proven && address.ip() == host)
        };
        self.remote.addresses = addresses
            .into_iter()
            .flatten()
            .map(|address| {
                (
                    *address,
                    verified == Some(*address.ip()) || was_verified(address.ip()),
                )
            })
            .collect();
        self.remote.firewall = firewall;
        self.remote.punching = punching;
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.strategy.as_ref().map(|(_, at)| *at)
    }
}

impl Node {
    /// A puncher with a fresh socket, already asking nodes what they see of it. `None`: too many.
    pub(super) fn new_puncher(
        &mut self,
        now: Instant,
        owner: PunchOwner,
        is_initiator: bool,
        remote: Firewall,
    ) -> Option<PuncherId> {
        if self.punchers.len() >= MAX_PUNCHERS {
            return None;
        }
        let id = PuncherId(self.fresh_id());
        let socket = self.open_socket(id);
        let puncher = Puncher {
            owner,
            is_initiator,
            sockets: vec![socket],
            nat: NatClass::new(!self.rpc.is_firewalled()),
            sampling: 0,
            may_resample: true,
            reopens: 0,
            reopening: false,
            remote: Remote {
                firewall: remote,
                ..Remote::default()
            },
            strategy: None,
        };
        self.punchers.insert(id, puncher);
        self.sample_nat(now, id);
        Some(id)
    }

    fn open_socket(&mut self, puncher: PuncherId) -> SocketId {
        self.next_socket += 1;
        let socket = SocketId(self.next_socket);
        self.punch_sockets.insert(socket, puncher);
        self.outputs.push_back(Output::OpenSocket(socket));
        socket
    }

    fn close_socket(&mut self, socket: SocketId) {
        self.punch_sockets.remove(&socket);
        self.outputs.push_back(Output::CloseSocket(socket));
    }

    /// Ends a puncher. A stream that was connected over one of its sockets keeps that socket alive.
    pub(super) fn close_puncher(&mut self, now: Instant, id: PuncherId) {
        let Some(puncher) = self.punchers.remove(&id) else {
            return;
        };
        if self.random_punch == Some(id) {
            self.random_punch = None;
            self.last_random_punch = Some(now);
        }
        for socket in puncher.sockets {
            self.close_socket(socket);
        }
    }

    fn sample_nat(&mut self, now: Instant, id: PuncherId) {
        let known = self.rpc.table_len();
        // The newest nodes may be those that relay to us: their view would count twice.
        let skip = if known >= 8 { 5 } else { 0 };
        let nodes: Vec<SocketAddrV4> = self.rpc.latest_nodes().skip(skip).take(SAMPLES).collect();
        let Some(puncher) = self.punchers.get_mut(&id) else {
            return;
        };
        puncher.sampling = nodes.len();
        let socket = Some(puncher.socket());
        for node in nodes {
            let request = self.rpc.request(
                now,
                Ask {
                    socket,
                    retries: 0,
                    ..Ask::ping(node)
                },
            );
            self.requests
                .insert(request, Purpose::NatSample { puncher: id, socket });
        }
    }

    pub(super) fn on_nat_sample(
        &mut self,
        now: Instant,
        id: PuncherId,
        socket: Option<SocketId>,
        reply: Option<&Reply>,
    ) {
        let Some(puncher) = self
            .punchers
            .get_mut(&id)
            .filter(|puncher| Some(puncher.socket()) == socket)
        else {
            return;
        };
        let was_settled = puncher.is_settled();
        puncher.sampling = puncher.sampling.saturating_sub(1);
        if let Some(reply) = reply {
            puncher.nat.add(reply.to, reply.from);
        }
        if puncher.sampling == 0 && !puncher.nat.is_settled() && std::mem::take(&mut puncher.may_resample) {
            self.sample_nat(now, id);
            return;
        }
        if was_settled && !puncher.reopening {
            return;
        }
        if puncher.reopening && (puncher.nat.is_settled() || puncher.sampling == 0) {
            if puncher.is_unstable() && puncher.reopens < MAX_REOPENS {
                self.reopen(now, id);
                return;
            }
            puncher.reopening = false;
        }
        if puncher.is_settled() {
            let owner = puncher.owner;
            self.on_nat_settled(now, owner);
        }
    }

    pub(super) fn on_nat_settled(&mut self, now: Instant, owner: PunchOwner) {
        match owner {
            PunchOwner::Slot { server, slot } => self.continue_holepunch(now, server, slot),
            PunchOwner::Connect(connect) => self.continue_client_punch(now, connect),
        }
    }

    /// Tries a fresh socket: perhaps its mapping is a better one. The owner hears when that is known.
    pub(super) fn reopen(&mut self, now: Instant, id: PuncherId) {
        let socket = self.open_socket(id);
        let open = !self.rpc.is_firewalled();
        let Some(puncher) = self.punchers.get_mut(&id) else {
            return;
        };
        let old = std::mem::replace(&mut puncher.sockets, vec![socket]);
        puncher.reopens += 1;
        puncher.reopening = true;
        puncher.may_resample = true;
        puncher.nat = NatClass::new(open);
        for socket in old {
            self.close_socket(socket);
        }
        self.sample_nat(now, id);
        // Without any node to ask there will be no answer to wait for.
        if let Some(puncher) = self.punchers.get_mut(&id)
            && puncher.sampling == 0
        {
            puncher.reopening = false;
            let owner = puncher.owner;
            self.on_nat_settled(now, owner);
        }
    }

    fn probe(&mut self, socket: SocketId, to: SocketAddrV4, ttl: u8) {
        if to.port() != 0 {
            let transmit = Transmit {
                socket,
                to,
                data: Bytes::from_static(&[0]),
                ttl: Some(ttl),
            };
            self.outputs.push_back(Output::Transmit(transmit));
        }
    }

    /// Opens our NAT towards `to` without reaching it.
    pub(super) fn open_session(&mut self, id: PuncherId, to: SocketAddrV4) {
        if let Some(socket) = self.punchers.get(&id).map(Puncher::socket) {
            self.probe(socket, to, LOW_TTL);
        }
    }

    /// One probe that shall arrive.
    pub(super) fn knock(&mut self, id: PuncherId, to: SocketAddrV4) {
        if let Some(socket) = self.punchers.get(&id).map(Puncher::socket) {
            self.probe(socket, to, NORMAL_TTL);
        }
    }

    /// A one-byte datagram arrived.
    pub(super) fn on_probe(&mut self, now: Instant, socket: SocketId, from: SocketAddrV4) {
        let Some(puncher) = self
            .punch_sockets
            .get(&socket)
            .and_then(|id| self.punchers.get(id))
        else {
            return;
        };
        match puncher.owner {
            PunchOwner::Connect(connect) if puncher.is_initiator => {
                self.counters.punched += 1;
                self.finish_connect(now, connect, socket, from);
            }
            // The initiator decides which of the ways that opened is used; it needs our answer for that.
            _ => self.probe(socket, from, NORMAL_TTL),
        }
    }

    /// May a punch with a random NAT start now?
    pub(super) fn random_punch_allowed(&self, now: Instant, id: PuncherId) -> bool {
        let rested = self
            .last_random_punch
            .is_none_or(|last| now.saturating_duration_since(last) >= RANDOM_INTERVAL);
        self.random_punch == Some(id) || (self.random_punch.is_none() && rested)
    }

    /// Starts probing, by the strategy that both NATs allow. False: there is none.
    pub(super) fn start_punching(&mut self, now: Instant, id: PuncherId) -> bool {
        let Some(puncher) = self.punchers.get_mut(&id) else {
            return false;
        };
        if puncher.strategy.is_some() {
            return true;
        }
        if puncher.remote.addresses.is_empty() {
            return false;
        }
        let verified = puncher
            .remote
            .addresses
            .iter()
            .find(|(_, proven)| *proven)
            .map(|(address, _)| *address);
        let strategy = match (
            coerce(puncher.nat.firewall()),
            coerce(puncher.remote.firewall),
            verified,
        ) {
            (Firewall::Consistent, Firewall::Consistent, _) => {
                // The responder's fast probe just went out; its rounds follow a second later.
                let first = if puncher.is_initiator {
                    now
                } else {
                    now + CONSISTENT_EVERY
                };
                (Strategy::Consistent { round: 0 }, first)
            }
            (Firewall::Consistent, Firewall::Random, Some(to)) => (
                Strategy::Guess {
                    host: *to.ip(),
                    left: RANDOM_PROBES,
                },
                now,
            ),
            (Firewall::Random, Firewall::Consistent, Some(to)) => {
                let birthday = Strategy::Birthday {
                    to,
                    left: RANDOM_PROBES,
                    index: 0,
                    low_ttl: true,
                };
                (birthday, now + BIRTHDAY_PAUSE)
            }
            _ => return false,
        };
        let birthday = if let Strategy::Birthday { to, .. } = strategy.0 {
            Some(to)
        } else {
            None
        };
        let random = !matches!(strategy.0, Strategy::Consistent { .. });
        puncher.strategy = Some(strategy);
        if random {
            self.random_punch = Some(id);
        }
        if let Some(to) = birthday {
            self.open_birthday_sockets(id, to);
        }
        true
    }

    fn open_birthday_sockets(&mut self, id: PuncherId, to: SocketAddrV4) {
        for _ in 1..BIRTHDAY_SOCKETS {
            let socket = self.open_socket(id);
            if let Some(puncher) = self.punchers.get_mut(&id) {
                puncher.sockets.push(socket);
            }
            self.probe(socket, to, LOW_TTL);
        }
    }

    pub(super) fn puncher_timeouts(&mut self, now: Instant) {
        let due = self
            .punchers
            .iter()
            .filter(|(_, puncher)| puncher.poll_timeout().is_some_and(|at| at <= now));
        let due: Vec<PuncherId> = due.map(|(id, _)| *id).collect();
        for id in due {
            if !self.punch_step(now, id) {
                let Some(owner) = self.punchers.get(&id).map(|puncher| puncher.owner) else {
                    continue;
                };
                match owner {
                    PunchOwner::Slot { server, slot } => self.abandon_slot(now, server, slot),
                    PunchOwner::Connect(connect) => self.punch_failed(now, connect, "no probe got through"),
                }
            }
        }
    }

    /// Sends the next probes; false when all were sent.
    fn punch_step(&mut self, now: Instant, id: PuncherId) -> bool {
        let port = 1_000 + (self.entropy.below(64_536) as u16);
        let Some(puncher) = self.punchers.get_mut(&id) else {
            return false;
        };
        let first = puncher.socket();
        let Some((strategy, at)) = &mut puncher.strategy else {
            return false;
        };
        let probes: Vec<(SocketId, SocketAddrV4, u8)> = match strategy {
            Strategy::Consistent { round } => {
                if *round >= CONSISTENT_ROUNDS {
                    return false;
                }
                *round += 1;
                *at = now + CONSISTENT_EVERY;
                // An address that is not proven may be somebody else's: it gets a probe only now and then.
                let all = round.is_multiple_of(4);
                let chosen = puncher
                    .remote
                    .addresses
                    .iter()
                    .filter(|(_, proven)| *proven || all);
                chosen.map(|(to, _)| (first, *to, NORMAL_TTL)).collect()
            }
            Strategy::Guess { host, left } => {
                if *left == 0 {
                    return false;
                }
                *left -= 1;
                *at = now + RANDOM_EVERY;
                vec![(first, SocketAddrV4::new(*host, port), NORMAL_TTL)]
            }
            Strategy::Birthday {
                to,
                left,
                index,
                low_ttl,
            } => {
                if *left == 0 {
                    return false;
                }
                *left -= 1;
                *at = now + RANDOM_EVERY;
                if *index >= puncher.sockets.len() {
                    (*index, *low_ttl) = (0, false);
                }
                let socket = puncher.sockets.get(*index).copied().unwrap_or(first);
                *index += 1;
                vec![(socket, *to, if *low_ttl { LOW_TTL } else { NORMAL_TTL })]
            }
        };
        for (socket, to, ttl) in probes {
            self.probe(socket, to, ttl);
        }
        true
    }
}
