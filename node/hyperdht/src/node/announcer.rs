//! Keeping a listening key reachable: announce it on the three nodes nearest to it, ping them, move on when they die
//! (npm `hyperdht` `lib/announcer.js`).
//!
//! Announcements leave from the socket that requests leave from: the nodes store their source as the way to us, and
//! the pings keep that way open in a NAT.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;

use super::{Event, Node, Purpose, QueryPurpose, ServerId};
use crate::Hash;
use crate::messages::{Relay, command, sign_announce};
use crate::rpc::{Ask, QueryId, QuerySpec, Reply};

/// Nodes the key is announced on.
const RELAYS: usize = 3;
/// Between rounds of pings.
const PING_EVERY: Duration = Duration::from_secs(3);
/// Rounds after which everything is announced anew, about 5 minutes.
const ROUNDS: u32 = 100;
/// While nobody could be found to announce to: first wait, doubled up to the last.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(30);

#[derive(Debug)]
enum Phase {
    /// Not announcing: private, or not started.
    Off,
    Finding(QueryId),
    Committing {
        pending: usize,
        relays: Vec<Relay>,
    },
    Pinging {
        pending: usize,
        asked: usize,
        answered: usize,
    },
    Waiting {
        until: Instant,
    },
    Stopping {
        pending: usize,
    },
}

/// The announcement of one key.
#[derive(Debug)]
pub(super) struct Announcer {
    key: SigningKey,
    phase: Phase,
    /// Where the key is announced, with our address as each of them sees it.
    pub(super) relays: Vec<Relay>,
    /// What we tell others about where to reach us: own address first, at most three.
    pub(super) relay_addresses: Vec<SocketAddrV4>,
    /// Relays of the last three updates, oldest first: a message through one of them came our way.
    cycles: [Vec<SocketAddrV4>; 3],
    closest: Vec<SocketAddrV4>,
    rounds: u32,
    failures: u32,
}

/// Withdrawing an announcement from one node: fetch a token, then say so.
#[derive(Debug, Clone)]
pub(super) struct Unannouncing {
    server: ServerId,
    node: SocketAddrV4,
    target: Hash,
    key: SigningKey,
    /// The second step is under way.
    told: bool,
    /// The server waits for this to close.
    closing: bool,
}

impl Announcer {
    pub(super) fn new(key: SigningKey) -> Self {
        Self {
            key,
            phase: Phase::Off,
            relays: Vec::new(),
            relay_addresses: Vec::new(),
            cycles: Default::default(),
            closest: Vec::new(),
            rounds: 0,
            failures: 0,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if let Phase::Waiting { until } = self.phase {
            Some(until)
        } else {
            None
        }
    }

    pub(super) fn is_off(&self) -> bool {
        matches!(self.phase, Phase::Off)
    }

    pub(super) fn is_relay(&self, address: SocketAddrV4) -> bool {
        self.cycles.iter().any(|cycle| cycle.contains(&address))
    }
}

impl Node {
    /// Starts announcing a server's key, or brings the announcement up to date.
    pub(super) fn start_announcing(&mut self, now: Instant, server: ServerId) {
        let Some(entry) = self.servers.get_mut(&server) else {
            return;
        };
        let announcer = &mut entry.announcer;
        let spec = QuerySpec {
            nodes: announcer.closest.clone(),
            ..QuerySpec::new(entry.target, command::FIND_PEER)
        };
        let query = self.rpc.query(now, spec);
        announcer.phase = Phase::Finding(query);
        announcer.rounds = 0;
        self.queries.insert(query, QueryPurpose::Announcer(server));
    }

    /// The network is there now: those who waited for it need not wait longer.
    pub(super) fn announce_soon(&mut self, now: Instant) {
        for entry in self.servers.values_mut() {
            if let Phase::Waiting { until } = &mut entry.announcer.phase
                && entry.announcer.relays.is_empty()
            {
                *until = now;
            }
        }
    }

    pub(super) fn on_announce_nodes(&mut self, now: Instant, server: ServerId, closest: &[Reply]) {
        let Some(entry) = self.servers.get_mut(&server) else {
            return;
        };
        let (target, announcer) = (entry.target, &mut entry.announcer);
        announcer.cycles.rotate_left(1);
        announcer.cycles[2].clear();
        announcer.closest = closest.iter().map(|reply| reply.from).collect();
        let mut asks = Vec::new();
        for reply in closest {
            let (Some(token), Some(id)) = (reply.token, reply.from_id) else {
                continue;
            };
            if asks.len() == RELAYS {
                break;
            }
            let value = sign_announce(&announcer.key, true, &target, (&id, &token), &[]).encode();
            let ask = Ask {
                target: Some(target),
                token: Some(token),
                value: Some(value),
                ..Ask::new(reply.from, command::ANNOUNCE)
            };
            asks.push((
                ask,
                Purpose::AnnounceCommit {
                    server,
                    node: reply.from,
                    seen_as: reply.to,
                },
            ));
        }
        announcer.phase = Phase::Committing {
            pending: asks.len(),
            relays: Vec::new(),
        };
        if asks.is_empty() {
            self.finish_announcing(now, server);
        }
        for (ask, purpose) in asks {
            let request = self.rpc.request(now, ask);
            self.requests.insert(request, purpose);
        }
    }

    pub(super) fn on_announce_commit(
        &mut self,
        now: Instant,
        server: ServerId,
        stored: Option<(SocketAddrV4, SocketAddrV4)>,
    ) {
        let Some(entry) = self.servers.get_mut(&server) else {
            return;
        };
        let announcer = &mut entry.announcer;
        let Phase::Committing { pending, relays } = &mut announcer.phase else {
            return;
        };
        *pending = pending.saturating_sub(1);
        if let Some((relay_address, peer_address)) = stored {
            relays.push(Relay {
                relay_address,
                peer_address,
            });
            announcer.cycles[2].push(relay_address);
        }
        if *pending == 0 {
            self.finish_announcing(now, server);
        }
    }

    fn finish_announcing(&mut self, now: Instant, server: ServerId) {
        let own = self.rpc.remote_address().filter(|_| !self.rpc.is_firewalled());
        let Some(entry) = self.servers.get_mut(&server) else {
            return;
        };
        let (target, announcer) = (entry.target, &mut entry.announcer);
        let Phase::Committing { relays, .. } = std::mem::replace(&mut announcer.phase, Phase::Off) else {
            return;
        };
        announcer.relay_addresses = own
            .into_iter()
            .chain(relays.iter().map(|relay| relay.relay_address))
            .take(RELAYS)
            .collect();
        announcer.failures = if relays.is_empty() {
            announcer.failures.saturating_add(1)
        } else {
            0
        };
        let wait = if relays.is_empty() {
            (RETRY_FIRST * 2_u32.pow(announcer.failures.saturating_sub(1).min(8))).min(RETRY_LAST)
        } else {
            PING_EVERY
        };
        announcer.relays = relays;
        announcer.phase = Phase::Waiting { until: now + wait };
        let removed: Vec<_> = announcer.cycles[1]
            .iter()
            .filter(|node| !announcer.cycles[2].contains(node))
            .copied()
            .collect();
        let (key, relay_addresses) = (announcer.key.clone(), announcer.relay_addresses.clone());
        for node in removed {
            self.unannounce(
                now,
                Unannouncing {
                    server,
                    node,
                    target,
                    key: key.clone(),
                    told: false,
                    closing: false,
                },
            );
        }
        self.event(Event::Announced {
            server,
            relay_addresses,
        });
    }

    /// The pause is over: ping the relays, or announce anew.
    pub(super) fn announcer_timeout(&mut self, now: Instant, server: ServerId) {
        let Some(entry) = self.servers.get_mut(&server) else {
            return;
        };
        let announcer = &mut entry.announcer;
        let nodes = announcer.cycles[2].clone();
        announcer.rounds += 1;
        if nodes.is_empty() || announcer.rounds > ROUNDS {
            self.start_announcing(now, server);
            return;
        }
        announcer.phase = Phase::Pinging {
            pending: nodes.len(),
            asked: nodes.len(),
            answered: 0,
        };
        for node in nodes {
            let request = self.rpc.request(now, Ask::ping(node));
            self.requests.insert(request, Purpose::AnnouncePing { server });
        }
    }

    pub(super) fn on_announce_ping(&mut self, now: Instant, server: ServerId, alive: bool) {
        let Some(entry) = self.servers.get_mut(&server) else {
            return;
        };
        let Phase::Pinging {
            pending,
            asked,
            answered,
        } = &mut entry.announcer.phase
        else {
            return;
        };
        *pending = pending.saturating_sub(1);
        *answered += usize::from(alive);
        if *pending > 0 {
            return;
        }
        if *answered < (*asked).min(RELAYS) {
            self.start_announcing(now, server);
        } else {
            entry.announcer.phase = Phase::Waiting {
                until: now + PING_EVERY,
            };
        }
    }

    /// Withdraws the announcement everywhere; [`Event::ServerClosed`] follows.
    pub(super) fn stop_announcing(&mut self, now: Instant, server: ServerId) {
        let Some(entry) = self.servers.get_mut(&server) else {
            return;
        };
        let (target, announcer) = (entry.target, &mut entry.announcer);
        if let Phase::Finding(query) = announcer.phase {
            self.rpc.cancel_query(query);
            self.queries.remove(&query);
        }
        let mut nodes: Vec<SocketAddrV4> = announcer.cycles.concat();
        nodes.sort_unstable();
        nodes.dedup();
        announcer.phase = Phase::Stopping { pending: nodes.len() };
        let key = announcer.key.clone();
        if nodes.is_empty() {
            self.forget_server(server);
        }
        for node in nodes {
            self.unannounce(
                now,
                Unannouncing {
                    server,
                    node,
                    target,
                    key: key.clone(),
                    told: false,
                    closing: true,
                },
            );
        }
    }

    fn unannounce(&mut self, now: Instant, step: Unannouncing) {
        let ask = Ask {
            target: Some(step.target),
            ..Ask::new(step.node, command::FIND_PEER)
        };
        let request = self.rpc.request(now, ask);
        self.requests.insert(request, Purpose::Unannounce(Box::new(step)));
    }

    pub(super) fn on_unannounce(&mut self, now: Instant, step: Unannouncing, reply: Option<Reply>) {
        let token = reply
            .filter(|reply| reply.value.is_some())
            .and_then(|reply| reply.token.zip(reply.from_id));
        if let (false, Some((token, id))) = (step.told, token) {
            let value = sign_announce(&step.key, false, &step.target, (&id, &token), &[]).encode();
            let ask = Ask {
                target: Some(step.target),
                token: Some(token),
                value: Some(value),
                ..Ask::new(step.node, command::UNANNOUNCE)
            };
            let request = self.rpc.request(now, ask);
            self.requests.insert(
                request,
                Purpose::Unannounce(Box::new(Unannouncing { told: true, ..step })),
            );
            return;
        }
        let Some(entry) = self.servers.get_mut(&step.server) else {
            return;
        };
        if let Phase::Stopping { pending } = &mut entry.announcer.phase
            && step.closing
        {
            *pending = pending.saturating_sub(1);
            if *pending == 0 {
                self.forget_server(step.server);
            }
        }
    }
}
