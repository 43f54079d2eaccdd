//! The relay's decisions: sessions, pairings, links, accounts. In: messages, ends of connections and streams, time. Out:
//! [`Output`]s, to be carried out in order.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::meter::{Allowance, Meter, PacketHook, Totals};
use super::policy::{Admission, MemberLimits, Policy};
use super::{Pair, Unpair};
use crate::Key;

/// How often meters are read while there are links. A quota is overdrawn by nothing (the meter drops), a used-up one ends its
/// link this much later; the relay's rate is refilled this often.
const TICK: Duration = Duration::from_millis(100);
/// The relay's rate may be saved up for this long.
const BURST: Duration = Duration::from_millis(500);

/// Bounds of the whole relay. Those of one member are [`MemberLimits`].
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Control connections. Each costs a stream and a task.
    pub sessions: usize,
    /// Control connections of one identity: JavaScript opens one for each link.
    pub sessions_per_identity: usize,
    /// Requests that wait for their other side, each about a hundred bytes.
    pub pending: usize,
    /// And those of one connection.
    pub pending_per_session: usize,
    /// How long a request may wait. JavaScript peers give up after 15 s.
    pub pending_lifetime: Duration,
    /// Links at a time, each with two UDX streams.
    pub links: usize,
    /// How long a link may be quiet. Secret streams say something every 5 s.
    pub link_idle: Duration,
    /// Bytes forwarded per second, all links and both directions together; `None`: as many as the machine can.
    pub bytes_per_second: Option<u64>,
    /// After this time a member's quota is whole again.
    pub quota_window: Duration,
    /// Members whose use is remembered. When full, unknown ones are refused until windows pass.
    pub accounts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 1_024,
            sessions_per_identity: 64,
            pending: 4_096,
            pending_per_session: 16,
            pending_lifetime: Duration::from_secs(30),
            links: 512,
            link_idle: Duration::from_mins(1),
            bytes_per_second: None,
            quota_window: Duration::from_hours(24),
            accounts: 16_384,
        }
    }
}

/// A control connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

/// Two joined streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(u64);

/// Why a control connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The policy does not know the identity.
    #[error("failed to open relay session: the identity is not admitted")]
    NotAdmitted,
    /// The identity, or everybody, has as many connections as it may.
    #[error("failed to open relay session: too many are open")]
    Full,
    /// The relay is about to stop.
    #[error("failed to open relay session: the relay is draining")]
    Draining,
}

/// What the driver must do.
#[derive(Debug)]
pub enum Output {
    /// Make two streams, forward each to the other as far as `meter` allows, and report [`Server::linked`] or
    /// [`Server::link_ended`]. Each stream connects to the source of its first packet, under that side's id.
    Link {
        /// The link.
        link: LinkId,
        /// The peers' own stream ids: of the responder, of the initiator.
        remote_ids: [u32; 2],
        /// Asked for every packet.
        meter: Arc<Meter>,
    },
    /// Tell the peer the id of its stream at the relay.
    Answer {
        /// To whom.
        session: SessionId,
        /// The message.
        pair: Pair,
    },
    /// Destroy both streams, silently.
    Unlink(LinkId),
    /// End the control connection.
    Close(SessionId),
}

/// Counters since the start, and gauges, for metrics. No label: identities are unbounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Control connections open now.
    pub sessions: u64,
    /// Control connections ever admitted.
    pub sessions_opened: u64,
    /// Control connections turned away.
    pub sessions_refused: u64,
    /// Requests waiting now.
    pub pending: u64,
    /// Requests taken.
    pub pairs_requested: u64,
    /// Requests dropped: over a bound, or of two guests.
    pub pairs_refused: u64,
    /// Requests whose other side never came.
    pub pairs_expired: u64,
    /// Links now.
    pub links: u64,
    /// Links ever made.
    pub links_opened: u64,
    /// Links ended because a quota or a duration was used up.
    pub links_exhausted: u64,
    /// Links ended because nothing came any more.
    pub links_idle: u64,
    /// Links ended because a member was revoked.
    pub links_revoked: u64,
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes forwarded, UDP payload.
    pub bytes: u64,
    /// Packets dropped by a rate, a quota or the hook.
    pub packets_dropped: u64,
}

struct Session {
    identity: Key,
    admission: Admission,
    pending: usize,
}

#[derive(Clone, Copy)]
struct Side {
    session: SessionId,
    remote_id: u32,
}

struct Pending {
    /// Of the responder, of the initiator.
    sides: [Option<Side>; 2],
    until: Instant,
}

struct Link {
    token: Key,
    /// Who pays.
    members: Vec<Key>,
    sides: [Side; 2],
    meter: Arc<Meter>,
    until: Option<Instant>,
    /// Packets at the last look, and when they last had grown.
    seen: (u64, Instant),
}

struct Account {
    links: usize,
    left: Arc<Allowance>,
    quota: Option<u64>,
    whole_at: Instant,
}

/// A relay without its IO.
pub struct Server {
    limits: Limits,
    policy: Arc<dyn Policy>,
    inspect: Option<PacketHook>,
    sessions: BTreeMap<SessionId, Session>,
    by_identity: HashMap<Key, usize>,
    pending: HashMap<Key, Pending>,
    links: BTreeMap<LinkId, Link>,
    accounts: HashMap<Key, Account>,
    rate: Arc<Allowance>,
    refilled_at: Instant,
    totals: Arc<Totals>,
    counters: Counters,
    draining: bool,
    next_id: u64,
    outputs: VecDeque<Output>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

impl Server {
    /// A relay that admits by `policy`.
    pub fn new(limits: Limits, policy: Arc<dyn Policy>, inspect: Option<PacketHook>, now: Instant) -> Self {
        Self {
            rate: Allowance::new(limits.bytes_per_second.map(burst)),
            limits,
            policy,
            inspect,
            sessions: BTreeMap::new(),
            by_identity: HashMap::new(),
            pending: HashMap::new(),
            links: BTreeMap::new(),
            accounts: HashMap::new(),
            refilled_at: now,
            totals: Arc::default(),
            counters: Counters::default(),
            draining: false,
            next_id: 0,
            outputs: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Counters now.
    pub fn counters(&self) -> Counters {
        Counters {
            sessions: self.sessions.len() as u64,
            pending: self.pending.len() as u64,
            links: self.links.len() as u64,
            packets: self.totals.packets.load(Ordering::Relaxed),
            bytes: self.totals.bytes.load(Ordering::Relaxed),
            packets_dropped: self.totals.dropped.load(Ordering::Relaxed),
            ..self.counters
        }
    }

    /// Whether a connection of this identity would be served now.
    pub fn admits(&self, identity: &Key) -> bool {
        self.refusal(identity).is_none()
    }

    fn refusal(&self, identity: &Key) -> Option<Refusal> {
        let own = self.by_identity.get(identity).copied().unwrap_or(0);
        if self.draining {
            Some(Refusal::Draining)
        } else if self.policy.admission(identity) == Admission::Refused {
            Some(Refusal::NotAdmitted)
        } else if self.sessions.len() >= self.limits.sessions || own >= self.limits.sessions_per_identity {
            Some(Refusal::Full)
        } else {
            None
        }
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A control connection of `identity` was opened.
    ///
    /// # Errors
    /// Any [`Refusal`]: end it.
    pub fn open(&mut self, identity: Key) -> Result<SessionId, Refusal> {
        if let Some(refusal) = self.refusal(&identity) {
            self.counters.sessions_refused += 1;
            return Err(refusal);
        }
        let id = SessionId(self.fresh_id());
        let session = Session {
            identity,
            admission: self.policy.admission(&identity),
            pending: 0,
        };
        self.sessions.insert(id, session);
        *self.by_identity.entry(identity).or_insert(0) += 1;
        self.counters.sessions_opened += 1;
        Ok(id)
    }

    /// A control connection ended: so do its requests and its links.
    pub fn close(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        if let Some(open) = self.by_identity.get_mut(&session.identity) {
            *open -= 1;
            if *open == 0 {
                self.by_identity.remove(&session.identity);
            }
        }
        let own = |side: &Side| side.session == id;
        // JavaScript forgets the whole pairing, the other side's request included.
        let tokens: Vec<Key> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.sides.iter().flatten().any(own))
            .map(|(token, _)| *token)
            .collect();
        for token in tokens {
            self.forget_pending(&token);
        }
        let links: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| link.sides.iter().any(own))
            .map(|(link, _)| *link)
            .collect();
        for link in links {
            self.unlink(link);
        }
    }

    fn forget_pending(&mut self, token: &Key) {
        let Some(pending) = self.pending.remove(token) else {
            return;
        };
        for side in pending.sides.iter().flatten() {
            if let Some(session) = self.sessions.get_mut(&side.session) {
                session.pending -= 1;
            }
        }
    }

    /// A peer asks to be paired.
    pub fn pair(&mut self, now: Instant, id: SessionId, request: &Pair) {
        let slot = usize::from(request.is_initiator);
        let pending = self.pending.len();
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let known = self.pending.get_mut(&request.token);
        if known.as_ref().is_some_and(|known| known.sides[slot].is_some()) {
            return;
        }
        let full = known.is_none() && pending >= self.limits.pending;
        let Ok(remote_id) = u32::try_from(request.id) else {
            self.counters.pairs_refused += 1;
            return;
        };
        if full || self.draining || session.pending >= self.limits.pending_per_session {
            self.counters.pairs_refused += 1;
            return;
        }
        session.pending += 1;
        self.counters.pairs_requested += 1;
        let until = now + self.limits.pending_lifetime;
        let entry = self.pending.entry(request.token).or_insert(Pending {
            sides: [None; 2],
            until,
        });
        entry.sides[slot] = Some(Side {
            session: id,
            remote_id,
        });
        if let [Some(responder), Some(initiator)] = entry.sides {
            self.forget_pending(&request.token);
            self.link(now, request.token, [responder, initiator]);
        }
    }

    /// The members among the two sides, with what they may. An identity on both sides counts once.
    fn members(&self, sides: &[Side; 2]) -> Vec<(Key, MemberLimits)> {
        let mut members: Vec<(Key, MemberLimits)> = Vec::new();
        for side in sides {
            let Some(session) = self.sessions.get(&side.session) else {
                continue;
            };
            if let Admission::Member(limits) = session.admission
                && members.iter().all(|(known, _)| *known != session.identity)
            {
                members.push((session.identity, limits));
            }
        }
        members
    }

    fn link(&mut self, now: Instant, token: Key, sides: [Side; 2]) {
        let members = self.members(&sides);
        let admitted = !members.is_empty()
            && self.links.len() < self.limits.links
            && members
                .iter()
                .all(|(identity, limits)| self.may_link(now, identity, limits));
        if !admitted {
            self.counters.pairs_refused += 1;
            return;
        }
        let allowances = members.iter().filter_map(|(identity, _)| {
            let account = self.accounts.get_mut(identity)?;
            account.links += 1;
            Some(account.left.clone())
        });
        let members_left = allowances.collect();
        let least =
            |of: fn(&MemberLimits) -> Option<u64>| members.iter().filter_map(|(_, limits)| of(limits)).min();
        let duration = members
            .iter()
            .filter_map(|(_, limits)| limits.link_duration)
            .min();
        let meter = Arc::new(Meter::new(
            Allowance::new(least(|limits| limits.link_bytes)),
            members_left,
            (self.rate.clone(), self.totals.clone()),
            self.inspect.clone(),
        ));
        let id = LinkId(self.fresh_id());
        let link = Link {
            token,
            members: members.into_iter().map(|(identity, _)| identity).collect(),
            sides,
            meter: meter.clone(),
            until: duration.map(|duration| now + duration),
            seen: (0, now),
        };
        self.links.insert(id, link);
        self.counters.links_opened += 1;
        self.outputs.push_back(Output::Link {
            link: id,
            remote_ids: sides.map(|side| side.remote_id),
            meter,
        });
    }

    /// Opens or renews the member's account; whether it has room for one more link.
    fn may_link(&mut self, now: Instant, identity: &Key, limits: &MemberLimits) -> bool {
        if !self.accounts.contains_key(identity) && self.accounts.len() >= self.limits.accounts {
            self.accounts
                .retain(|_, account| account.links > 0 || account.whole_at > now);
            if self.accounts.len() >= self.limits.accounts {
                return false;
            }
        }
        let account = self.accounts.entry(*identity).or_insert_with(|| Account {
            links: 0,
            left: Allowance::new(limits.quota_bytes),
            quota: limits.quota_bytes,
            whole_at: now + self.limits.quota_window,
        });
        account.renew(now, limits.quota_bytes, self.limits.quota_window);
        account.links < limits.links && account.left.left() > 0
    }

    /// Both streams of a link exist, under these ids: of the responder's side, of the initiator's.
    pub fn linked(&mut self, id: LinkId, local_ids: [u32; 2]) {
        let Some(link) = self.links.get(&id) else {
            return;
        };
        for (slot, side) in link.sides.iter().enumerate() {
            self.outputs.push_back(Output::Answer {
                session: side.session,
                pair: Pair {
                    is_initiator: slot == 1,
                    token: link.token,
                    id: local_ids[slot].into(),
                    seq: 0,
                },
            });
        }
    }

    /// A stream of the link closed, or could not be made.
    pub fn link_ended(&mut self, id: LinkId) {
        self.unlink(id);
    }

    fn unlink(&mut self, id: LinkId) {
        let Some(link) = self.links.remove(&id) else {
            return;
        };
        for member in &link.members {
            if let Some(account) = self.accounts.get_mut(member) {
                account.links -= 1;
            }
        }
        self.outputs.push_back(Output::Unlink(id));
    }

    /// A peer takes its request back, or ends its link. Only what it is part of: others' tokens are none of its business.
    pub fn unpair(&mut self, id: SessionId, request: Unpair) {
        let own = |side: &Side| side.session == id;
        let pending = self.pending.get(&request.token);
        if pending.is_some_and(|pending| pending.sides.iter().flatten().any(own)) {
            self.forget_pending(&request.token);
            return;
        }
        let links = self.links.iter();
        let link = links
            .filter(|(_, link)| link.token == request.token && link.sides.iter().any(own))
            .map(|(link, _)| *link)
            .next();
        if let Some(link) = link {
            self.unlink(link);
        }
    }

    /// Asks the policy about everybody again: ends what is not admitted any more, and applies new limits to what is.
    pub fn review(&mut self, now: Instant) {
        let mut refused = Vec::new();
        for (id, session) in &mut self.sessions {
            session.admission = self.policy.admission(&session.identity);
            match session.admission {
                Admission::Refused => refused.push(*id),
                Admission::Member(limits) => {
                    if let Some(account) = self.accounts.get_mut(&session.identity) {
                        account.renew(now, limits.quota_bytes, self.limits.quota_window);
                    }
                }
                Admission::Guest => {}
            }
        }
        let before = self.links.len();
        for session in refused {
            self.close(session);
            self.outputs.push_back(Output::Close(session));
        }
        let orphans = self
            .links
            .iter()
            .filter(|(_, link)| self.members(&link.sides).is_empty());
        let orphans: Vec<LinkId> = orphans.map(|(link, _)| *link).collect();
        for link in orphans {
            self.unlink(link);
        }
        self.counters.links_revoked += (before - self.links.len()) as u64;
    }

    /// Takes nobody in any more: waiting requests are dropped, connections without links end, links go on.
    pub fn drain(&mut self) {
        self.draining = true;
        let tokens: Vec<Key> = self.pending.keys().copied().collect();
        for token in tokens {
            self.forget_pending(&token);
        }
        let busy: Vec<SessionId> = self
            .links
            .values()
            .flat_map(|link| link.sides)
            .map(|side| side.session)
            .collect();
        let idle: Vec<SessionId> = self
            .sessions
            .keys()
            .filter(|id| !busy.contains(id))
            .copied()
            .collect();
        for session in idle {
            self.close(session);
            self.outputs.push_back(Output::Close(session));
        }
    }

    /// Ends everything: the patience of a drain is over.
    pub fn cut(&mut self) {
        self.draining = true;
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.close(session);
            self.outputs.push_back(Output::Close(session));
        }
    }

    /// No link is left.
    pub fn is_quiet(&self) -> bool {
        self.links.is_empty()
    }

    /// When to call [`Server::handle_timeout`] next.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let pending = self.pending.values().map(|pending| pending.until).min();
        let tick = (!self.links.is_empty()).then(|| now + TICK);
        pending.into_iter().chain(tick).min()
    }

    /// Time has passed: refills the rate, ends what expired.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(rate) = self.limits.bytes_per_second {
            let passed = now.saturating_duration_since(self.refilled_at).min(BURST);
            let bytes = (u128::from(rate) * passed.as_micros() / 1_000_000) as u64;
            if bytes > 0 {
                self.refilled_at = now;
                self.rate.refill(bytes, burst(rate));
            }
        }
        let expired: Vec<Key> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.until <= now)
            .map(|(token, _)| *token)
            .collect();
        for token in expired {
            self.counters.pairs_expired += 1;
            self.forget_pending(&token);
        }
        let (mut exhausted, mut idle) = (Vec::new(), Vec::new());
        for (id, link) in &mut self.links {
            let packets = link.meter.packets();
            if packets != link.seen.0 {
                link.seen = (packets, now);
            }
            if link.meter.is_spent() || link.until.is_some_and(|until| until <= now) {
                exhausted.push(*id);
            } else if now.saturating_duration_since(link.seen.1) >= self.limits.link_idle {
                idle.push(*id);
            }
        }
        self.counters.links_exhausted += exhausted.len() as u64;
        self.counters.links_idle += idle.len() as u64;
        for link in exhausted.into_iter().chain(idle) {
            self.unlink(link);
        }
    }
}

impl Account {
    /// A new window, or a new quota, of which what was used in this window is gone.
    fn renew(&mut self, now: Instant, quota: Option<u64>, window: Duration) {
        if self.whole_at <= now {
            self.whole_at = now + window;
            self.left.set(quota);
        } else if self.quota != quota {
            let used = self.quota.unwrap_or(u64::MAX) - self.left.left().min(self.quota.unwrap_or(u64::MAX));
            self.left.set(quota.map(|quota| quota.saturating_sub(used)));
        }
        self.quota = quota;
    }
}

fn burst(bytes_per_second: u64) -> u64 {
    // At least one full packet, or nothing would ever pass.
    (u128::from(bytes_per_second) * BURST.as_millis() / 1_000).max(2_048) as u64
}
