//! Which peers are known, whom to dial next, and when to try again (npm `hyperswarm` `lib/peer-info.js`,
//! `lib/retry-timer.js`). Pure: time and randomness are passed in.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use crate::direct::KnownHost;
use crate::websocket::WebSocketUrl;
use crate::{PeerStatus, SwarmLimits, Topic};

/// A connection that lived this long was a good one: its loss starts the count of attempts anew.
const MIN_CONNECTION_TIME: Duration = Duration::from_secs(15);

/// Attempts after which a peer that nobody asked for by name is not dialled any more, until it is found again.
const MAX_ATTEMPTS: u32 = 3;

/// Topics remembered per peer.
const MAX_TOPICS_PER_PEER: usize = 64;

/// Addresses of each kind remembered per peer.
const MAX_ADDRESSES: usize = 8;

/// How long to wait before the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backoff {
    Short,
    Medium,
    Long,
    /// Only for peers joined by name.
    Last,
}

impl Backoff {
    /// The wait, with up to a tenth more by `random` (0 to 255), so that peers that failed together do not return together.
    pub(crate) fn wait(self, random: u8) -> Duration {
        let base = match self {
            Self::Short => Duration::from_secs(1),
            Self::Medium => Duration::from_secs(5),
            Self::Long => Duration::from_secs(15),
            // JS waits 10 minutes. Peers by name are a cloud's own replicas here: they come back soon after a restart.
            Self::Last => Duration::from_secs(30),
        };
        base + base * u32::from(random) / 2_560
    }
}

/// When to dial again after a failure or the end of a connection; `None`: not by ourselves.
pub(crate) fn backoff(attempts: u32, proven: bool, explicit: bool) -> Option<Backoff> {
    match (attempts, proven) {
        (0, _) | (1, true) => Some(Backoff::Short),
        (1, false) | (2, true) => Some(Backoff::Medium),
        (2 | 3, _) => Some(Backoff::Long),
        _ => explicit.then_some(Backoff::Last),
    }
}

/// Of two connections to one peer, does the new one stay? Both sides decide alike: the one dialled by the larger key stays,
/// unless the existing one has carried bytes both ways, and so belongs to an earlier life of the peer.
pub(crate) fn keep_new(
    own_key: &[u8; 32],
    remote_key: &[u8; 32],
    outdated: bool,
    new_is_initiator: bool,
) -> bool {
    outdated || (own_key > remote_key) == new_is_initiator
}

/// What connects us with a peer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    None,
    /// A dial of this number is under way.
    Dialling(u64),
    /// A connection of this number is open.
    Open {
        number: u64,
        is_initiator: bool,
    },
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about a peer, as in the protocol's rules"
)]
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) attempts: u32,
    /// A connection was open since the peer was last found anew.
    pub(crate) proven: bool,
    pub(crate) banned: bool,
    /// Joined by name.
    pub(crate) explicit: bool,
    pub(crate) link: Link,
    queued: bool,
    /// It dialled us, last time.
    was_server: bool,
    retry_at: Option<Instant>,
    connected_at: Option<Instant>,
    addresses: Vec<SocketAddrV4>,
    /// Where it listens over TCP and for WebSockets; of peers joined by name only.
    tcp: Vec<SocketAddr>,
    websocket: Vec<WebSocketUrl>,
    topics: HashSet<Topic>,
}

impl Peer {
    pub(crate) fn new() -> Self {
        Self {
            attempts: 0,
            proven: false,
            banned: false,
            explicit: false,
            link: Link::None,
            queued: false,
            was_server: true,
            retry_at: None,
            connected_at: None,
            addresses: Vec::new(),
            tcp: Vec::new(),
            websocket: Vec::new(),
            topics: HashSet::new(),
        }
    }

    /// 0 to 4; higher is dialled first. One failure raises it: a short interruption is the most likely reason.
    pub(crate) fn priority(&self) -> u8 {
        match self.attempts {
            0 => 2,
            1 => 4,
            2 => 3,
            3 => 1,
            _ => 0,
        }
    }

    /// Puts the peer in the queue, if it may be dialled.
    pub(crate) fn enqueue(&mut self) -> bool {
        if self.explicit && self.attempts > MAX_ATTEMPTS {
            self.attempts = MAX_ATTEMPTS;
        }
        let may = !self.banned && !self.queued && self.attempts <= MAX_ATTEMPTS && self.link == Link::None;
        if may {
            self.queued = true;
            self.retry_at = None;
        }
        may
    }

    fn is_garbage(&self) -> bool {
        !(self.banned || self.queued || self.explicit || self.retry_at.is_some()) && self.link == Link::None
    }
}

/// All peers of a swarm.
#[derive(Debug)]
pub(crate) struct Peers {
    own_key: [u8; 32],
    limits: SwarmLimits,
    known: HashMap<[u8; 32], Peer>,
    /// How many of them are banned: they take no room from others, and none is needed to ban.
    bans: usize,
    next_number: u64,
}

/// A peer to dial now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dial {
    pub(crate) number: u64,
    pub(crate) host: KnownHost,
}

/// What to do with a connection that just opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Hand it over under this number.
    Admit(u64),
    /// Drop it.
    Refuse,
    /// A double: drop it, the existing one stays.
    RefuseDouble,
    /// A double: end the existing connection (or forget the dial) of the first number, hand this one over under the second.
    Replace { old: u64, new: u64 },
}

impl Peers {
    pub(crate) fn new(own_key: [u8; 32], limits: SwarmLimits) -> Self {
        Self {
            own_key,
            limits,
            known: HashMap::new(),
            bans: 0,
            next_number: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    #[cfg(test)]
    fn get(&self, public_key: &[u8; 32]) -> Option<&Peer> {
        self.known.get(public_key)
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    fn upsert(&mut self, public_key: [u8; 32]) -> Option<&mut Peer> {
        let has_room = self.known.len() - self.bans < self.limits.max_known_peers;
        let full = !has_room && !self.known.contains_key(&public_key);
        if full || public_key == self.own_key {
            return None;
        }
        Some(self.known.entry(public_key).or_insert_with(Peer::new))
    }

    /// A lookup named this peer under a topic that we are in as client.
    pub(crate) fn found(&mut self, public_key: [u8; 32], topic: Topic, addresses: &[SocketAddrV4]) {
        let Some(peer) = self.upsert(public_key) else {
            return;
        };
        if peer.topics.len() < MAX_TOPICS_PER_PEER {
            peer.topics.insert(topic);
        }
        if !addresses.is_empty() && !peer.explicit {
            peer.addresses = addresses.iter().take(MAX_ADDRESSES).copied().collect();
        }
        if peer.link == Link::None && (peer.priority() < 2 || peer.was_server) {
            peer.attempts = 0;
            peer.proven = false;
            peer.was_server = false;
        }
        if peer.retry_at.is_none() {
            peer.enqueue();
        }
    }

    pub(crate) fn join_peer(&mut self, host: KnownHost) {
        let Some(peer) = self.upsert(host.public_key) else {
            return;
        };
        peer.explicit = true;
        if !host.udx.is_empty() {
            peer.addresses = host.udx;
            peer.addresses.truncate(MAX_ADDRESSES);
        }
        if !host.tcp.is_empty() {
            peer.tcp = host.tcp;
            peer.tcp.truncate(MAX_ADDRESSES);
        }
        if !host.websocket.is_empty() {
            peer.websocket = host.websocket;
            peer.websocket.truncate(MAX_ADDRESSES);
        }
        peer.attempts = 0;
        peer.enqueue();
    }

    pub(crate) fn leave_peer(&mut self, public_key: &[u8; 32]) {
        if let Some(peer) = self.known.get_mut(public_key) {
            peer.explicit = false;
        }
        self.collect(public_key);
    }

    /// Bans or pardons; returns the connection to end.
    pub(crate) fn ban(&mut self, public_key: [u8; 32], banned: bool) -> Option<u64> {
        if public_key == self.own_key {
            return None;
        }
        let peer = self.known.entry(public_key).or_insert_with(Peer::new);
        match (std::mem::replace(&mut peer.banned, banned), banned) {
            (false, true) => self.bans += 1,
            (true, false) => self.bans -= 1,
            _ => {}
        }
        if !banned {
            if peer.explicit {
                peer.attempts = 0;
                peer.enqueue();
            }
            self.collect(&public_key);
            return None;
        }
        peer.queued = false;
        peer.retry_at = None;
        if let Link::Open { number, .. } = peer.link {
            Some(number)
        } else {
            None
        }
    }

    pub(crate) fn forget_topic(&mut self, topic: &Topic) {
        for peer in self.known.values_mut() {
            if peer.topics.remove(topic) && peer.topics.is_empty() && !peer.explicit {
                peer.queued = false;
                peer.retry_at = None;
            }
        }
        self.known.retain(|_, peer| !peer.is_garbage());
    }

    fn collect(&mut self, public_key: &[u8; 32]) {
        if self.known.get(public_key).is_some_and(Peer::is_garbage) {
            self.known.remove(public_key);
        }
    }

    /// Dials under way, connections we dialled, connections that others dialled.
    pub(crate) fn count(&self) -> (usize, usize, usize) {
        let mut count = (0, 0, 0);
        for peer in self.known.values() {
            match peer.link {
                Link::None => {}
                Link::Dialling(_) => count.0 += 1,
                Link::Open {
                    is_initiator: true, ..
                } => count.1 += 1,
                Link::Open {
                    is_initiator: false, ..
                } => count.2 += 1,
            }
        }
        count
    }

    /// The next peer to dial, if the limits allow one more. `random` chooses among equals.
    pub(crate) fn next_dial(&mut self, random: u64) -> Option<Dial> {
        let (dialling, ours, theirs) = self.count();
        if dialling >= self.limits.max_parallel {
            return None;
        }
        let room = dialling + ours + theirs < self.limits.max_peers;
        let candidates = || {
            self.known
                .iter()
                .filter(|(_, peer)| peer.queued && (room || peer.explicit))
        };
        let best = candidates().map(|(_, peer)| peer.priority()).max()?;
        let equals: Vec<[u8; 32]> = candidates()
            .filter(|(_, peer)| peer.priority() == best)
            .map(|(key, _)| *key)
            .collect();
        let index = usize::try_from(random % (equals.len().max(1) as u64)).unwrap_or(0);
        let public_key = *equals.get(index)?;
        let number = self.number();
        let peer = self.known.get_mut(&public_key)?;
        peer.queued = false;
        peer.link = Link::Dialling(number);
        let host = KnownHost {
            public_key,
            udx: peer.addresses.clone(),
            tcp: peer.tcp.clone(),
            websocket: peer.websocket.clone(),
        };
        Some(Dial { number, host })
    }

    /// A dial failed.
    pub(crate) fn failed(&mut self, now: Instant, public_key: &[u8; 32], number: u64, random: u8) {
        let Some(peer) = self.known.get_mut(public_key) else {
            return;
        };
        if peer.link != Link::Dialling(number) {
            return;
        }
        peer.link = Link::None;
        peer.was_server = false;
        self.lost(now, public_key, random);
    }

    /// A dial came through. `None`: it was given up meanwhile, drop it.
    pub(crate) fn dialled(&mut self, now: Instant, public_key: &[u8; 32], number: u64) -> Option<u64> {
        let peer = self
            .known
            .get_mut(public_key)
            .filter(|peer| peer.link == Link::Dialling(number))?;
        if peer.banned {
            peer.link = Link::None;
            return None;
        }
        peer.link = Link::Open {
            number,
            is_initiator: true,
        };
        peer.was_server = false;
        peer.proven = true;
        peer.connected_at = Some(now);
        Some(number)
    }

    /// The open connection of a peer.
    pub(crate) fn open_link(&self, public_key: &[u8; 32]) -> Option<u64> {
        match self.known.get(public_key)?.link {
            Link::Open { number, .. } => Some(number),
            Link::None | Link::Dialling(_) => None,
        }
    }

    /// A peer dialled us. `alive`: it has said something on this connection, so that it has not given it up, and nothing that is
    /// still being dialled is better. `outdated` is asked for the number of an existing connection: has it carried bytes both
    /// ways?
    pub(crate) fn accepted(
        &mut self,
        now: Instant,
        public_key: [u8; 32],
        alive: bool,
        outdated: impl FnOnce(u64) -> bool,
    ) -> Admission {
        let (own_key, limit, theirs) = (self.own_key, self.limits.max_server_connections, self.count().2);
        let new = self.number();
        let Some(peer) = self.upsert(public_key) else {
            return Admission::Refuse;
        };
        let admission = match peer.link {
            _ if peer.banned => Admission::Refuse,
            Link::None if theirs >= limit => Admission::Refuse,
            Link::None => Admission::Admit(new),
            Link::Dialling(old) if alive || keep_new(&own_key, &public_key, false, false) => {
                Admission::Replace { old, new }
            }
            Link::Open { number: old, .. } if keep_new(&own_key, &public_key, outdated(old), false) => {
                Admission::Replace { old, new }
            }
            Link::Dialling(_) | Link::Open { .. } => Admission::RefuseDouble,
        };
        if matches!(admission, Admission::Admit(_) | Admission::Replace { .. }) {
            peer.link = Link::Open {
                number: new,
                is_initiator: false,
            };
            peer.queued = false;
            peer.retry_at = None;
            peer.was_server = true;
            peer.proven = true;
            peer.connected_at = Some(now);
        }
        self.collect(&public_key);
        admission
    }

    /// A connection ended.
    pub(crate) fn closed(&mut self, now: Instant, public_key: &[u8; 32], number: u64, random: u8) {
        let Some(peer) = self.known.get_mut(public_key) else {
            return;
        };
        if !matches!(peer.link, Link::Open { number: open, .. } if open == number) {
            return;
        }
        peer.link = Link::None;
        let lived = peer
            .connected_at
            .take()
            .map(|at| now.saturating_duration_since(at));
        if lived.is_some_and(|lived| lived >= MIN_CONNECTION_TIME) {
            peer.attempts = 0;
        }
        self.lost(now, public_key, random);
    }

    fn lost(&mut self, now: Instant, public_key: &[u8; 32], random: u8) {
        let Some(peer) = self.known.get_mut(public_key) else {
            return;
        };
        peer.attempts += 1;
        let wanted = peer.explicit || (!peer.topics.is_empty() && !peer.was_server);
        if wanted && !peer.banned {
            let wait = backoff(peer.attempts, peer.proven, peer.explicit).map(|backoff| backoff.wait(random));
            peer.retry_at = wait.map(|wait| now + wait);
        }
        self.collect(public_key);
    }

    /// A dial failed because no relay was offered: it is repeated at once with one, and does not count as an attempt, as in JS.
    pub(crate) fn failed_without_relay(&mut self, public_key: &[u8; 32], number: u64) {
        let Some(peer) = self.known.get_mut(public_key) else {
            return;
        };
        if peer.link != Link::Dialling(number) {
            return;
        }
        peer.link = Link::None;
        peer.was_server = false;
        if peer.explicit || !peer.topics.is_empty() {
            peer.enqueue();
        }
        self.collect(public_key);
    }

    /// Dials under way are forgotten.
    pub(crate) fn suspend(&mut self) {
        for peer in self.known.values_mut() {
            if matches!(peer.link, Link::Dialling(_)) {
                peer.link = Link::None;
                peer.queued = true;
            }
        }
    }

    /// Everybody who is wanted is dialled now, as if never tried before.
    pub(crate) fn resume(&mut self) {
        for peer in self.known.values_mut() {
            if peer.explicit || !peer.topics.is_empty() {
                peer.attempts = 0;
                peer.enqueue();
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.known.values().filter_map(|peer| peer.retry_at).min()
    }

    /// Queues the peers whose wait is over.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for peer in self.known.values_mut() {
            if peer.retry_at.is_some_and(|at| at <= now) {
                peer.retry_at = None;
                peer.enqueue();
            }
        }
        self.known.retain(|_, peer| !peer.is_garbage());
    }

    /// Whether a peer found under this topic is connected.
    pub(crate) fn is_connected_under(&self, topic: &Topic) -> bool {
        self.known
            .values()
            .any(|peer| matches!(peer.link, Link::Open { .. }) && peer.topics.contains(topic))
    }

    pub(crate) fn statuses(&self) -> Vec<PeerStatus> {
        self.known
            .iter()
            .map(|(public_key, peer)| PeerStatus {
                public_key: *public_key,
                connected: matches!(peer.link, Link::Open { .. }),
                attempts: peer.attempts,
                banned: peer.banned,
                topics: peer.topics.iter().copied().collect(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
