//! Who is there, and what each identity has used: shared by all sessions of a relay.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cumulet_relay::Key;
use cumulet_relay::blind_relay::{Admission, MemberLimits, Policy};

/// Bounds of the whole relay. Those of one identity are [`MemberLimits`], where a link is a stream to a peer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// WebSockets. Each costs a task and up to a MiB of queues.
    pub clients: usize,
    /// WebSockets of one identity: the tabs of one browser.
    pub clients_per_identity: usize,
    /// Streams to peers, of all clients together.
    pub streams: usize,
    /// Key pairs that one client listens on.
    pub servers_per_client: usize,
    /// Lookups and announcements under way of one client.
    pub queries_per_client: usize,
    /// After this time an identity's quota of bytes is whole again.
    pub quota_window: Duration,
    /// Identities whose use is remembered. When full, unknown ones are refused until windows pass.
    pub accounts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 512,
            clients_per_identity: 8,
            streams: 4_096,
            servers_per_client: 4,
            queries_per_client: 16,
            quota_window: Duration::from_hours(24),
            accounts: 16_384,
        }
    }
}

/// Why a client is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The policy does not know the identity.
    #[error("failed to open a relayed DHT: the identity is not admitted")]
    NotAdmitted,
    /// The identity, or everybody, has as many connections as it may.
    #[error("failed to open a relayed DHT: too many clients are connected")]
    Full,
    /// The relay is about to stop.
    #[error("failed to open a relayed DHT: the relay is draining")]
    Draining,
}

/// Counters since the start, and gauges, for metrics. No label: identities are unbounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// WebSockets open now, those that have not said who they are included.
    pub clients: u64,
    /// Clients ever admitted.
    pub clients_opened: u64,
    /// Clients turned away.
    pub clients_refused: u64,
    /// Streams to peers now.
    pub streams: u64,
    /// Streams ever opened.
    pub streams_opened: u64,
    /// Streams refused: over a bound.
    pub streams_refused: u64,
    /// Streams ended because a quota or a duration was used up.
    pub streams_exhausted: u64,
    /// Lookups and announcements.
    pub queries: u64,
    /// Bytes from clients to peers.
    pub bytes_to_peers: u64,
    /// Bytes from peers to clients.
    pub bytes_to_clients: u64,
}

#[derive(Debug)]
struct Account {
    clients: usize,
    streams: usize,
    left: Option<u64>,
    whole_at: Instant,
}

pub(crate) struct Accounts {
    pub(crate) limits: Limits,
    policy: Arc<dyn Policy>,
    by_identity: HashMap<Key, Account>,
    pub(crate) counters: Counters,
    pub(crate) draining: bool,
}

impl Accounts {
    pub(crate) fn new(limits: Limits, policy: Arc<dyn Policy>) -> Self {
        Self {
            limits,
            policy,
            by_identity: HashMap::new(),
            counters: Counters::default(),
            draining: false,
        }
    }

    /// A WebSocket, before anybody knows whose.
    pub(crate) fn arrive(&mut self) -> Result<(), Refusal> {
        let refusal = if self.draining {
            Refusal::Draining
        } else if self.counters.clients >= self.limits.clients as u64 {
            Refusal::Full
        } else {
            self.counters.clients += 1;
            return Ok(());
        };
        self.counters.clients_refused += 1;
        Err(refusal)
    }

    pub(crate) fn leave(&mut self, identity: Option<&Key>) {
        self.counters.clients = self.counters.clients.saturating_sub(1);
        if let Some(account) = identity.and_then(|identity| self.by_identity.get_mut(identity)) {
            account.clients = account.clients.saturating_sub(1);
        }
    }

    /// What this identity may use at the moment; `None` if nothing.
    pub(crate) fn limits_of(&self, identity: &Key) -> Option<MemberLimits> {
        match self.policy.admission(identity) {
            Admission::Member(limits) => Some(limits),
            Admission::Guest | Admission::Refused => None,
        }
    }

    pub(crate) fn admit(&mut self, now: Instant, identity: Key) -> Result<MemberLimits, Refusal> {
        let admitted = self.try_admit(now, identity);
        match admitted {
            Ok(_) => self.counters.clients_opened += 1,
            Err(_) => self.counters.clients_refused += 1,
        }
        admitted
    }

    fn try_admit(&mut self, now: Instant, identity: Key) -> Result<MemberLimits, Refusal> {
        if self.draining {
            return Err(Refusal::Draining);
        }
        let limits = self.limits_of(&identity).ok_or(Refusal::NotAdmitted)?;
        if !self.by_identity.contains_key(&identity) && self.by_identity.len() >= self.limits.accounts {
            self.by_identity
                .retain(|_, account| account.clients > 0 || account.whole_at > now);
            if self.by_identity.len() >= self.limits.accounts {
                return Err(Refusal::Full);
            }
        }
        let window = self.limits.quota_window;
        let account = self.by_identity.entry(identity).or_insert_with(|| Account {
            clients: 0,
            streams: 0,
            left: limits.quota_bytes,
            whole_at: now + window,
        });
        if account.clients >= self.limits.clients_per_identity {
            return Err(Refusal::Full);
        }
        account.clients += 1;
        Ok(limits)
    }

    /// Takes a place for one more stream of the identity; `false` if there is none.
    pub(crate) fn take_stream(&mut self, identity: &Key, limits: &MemberLimits) -> bool {
        let full = self.counters.streams >= self.limits.streams as u64;
        match self.by_identity.get_mut(identity) {
            Some(account) if !full && account.streams < limits.links => {
                account.streams += 1;
                self.counters.streams += 1;
                self.counters.streams_opened += 1;
                true
            }
            _ => {
                self.counters.streams_refused += 1;
                false
            }
        }
    }

    pub(crate) fn return_stream(&mut self, identity: &Key) {
        self.counters.streams = self.counters.streams.saturating_sub(1);
        if let Some(account) = self.by_identity.get_mut(identity) {
            account.streams = account.streams.saturating_sub(1);
        }
    }

    /// Charges the identity; `false` once its quota is used up.
    pub(crate) fn charge(
        &mut self,
        now: Instant,
        (identity, limits): (&Key, &MemberLimits),
        bytes: u64,
        to_peer: bool,
    ) -> bool {
        let window = self.limits.quota_window;
        let Some(account) = self.by_identity.get_mut(identity) else {
            return false;
        };
        if account.whole_at <= now {
            account.whole_at = now + window;
            account.left = limits.quota_bytes;
        }
        // A quota that was given or changed while the client is there.
        account.left = match (account.left, limits.quota_bytes) {
            (_, None) => None,
            (None, Some(quota)) => Some(quota),
            (Some(left), Some(quota)) => Some(left.min(quota)),
        };
        if let Some(left) = &mut account.left {
            let Some(rest) = left.checked_sub(bytes) else {
                return false;
            };
            *left = rest;
        }
        if to_peer {
            self.counters.bytes_to_peers += bytes;
        } else {
            self.counters.bytes_to_clients += bytes;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const ALICE: Key = [1; 32];
    const BOB: Key = [2; 32];

    fn accounts(limits: Limits, member: MemberLimits) -> Accounts {
        let policy = move |identity: &Key| {
            if identity[0] < 9 {
                Admission::Member(member)
            } else {
                Admission::Refused
            }
        };
        Accounts::new(limits, Arc::new(policy))
    }

    #[test]
    fn a_quota_is_shared_by_the_clients_of_an_identity_and_by_nobody_else_and_comes_back() {
        let now = Instant::now();
        let member = MemberLimits {
            quota_bytes: Some(100),
            ..MemberLimits::default()
        };
        let mut accounts = accounts(Limits::default(), member);
        accounts.admit(now, ALICE).unwrap();
        accounts.admit(now, ALICE).unwrap();
        accounts.admit(now, BOB).unwrap();
        assert!(accounts.charge(now, (&ALICE, &member), 60, true));
        assert!(!accounts.charge(now, (&ALICE, &member), 60, false));
        assert!(accounts.charge(now, (&BOB, &member), 60, true));
        let later = now + Limits::default().quota_window;
        assert!(accounts.charge(later, (&ALICE, &member), 60, false));
        let counters = accounts.counters;
        assert_eq!((counters.bytes_to_peers, counters.bytes_to_clients), (120, 60));
    }

    #[test]
    fn strangers_crowds_and_latecomers_are_refused() {
        let now = Instant::now();
        let limits = Limits {
            clients_per_identity: 1,
            accounts: 2,
            ..Limits::default()
        };
        let mut accounts = accounts(limits, MemberLimits::default());
        assert_eq!(accounts.admit(now, [9; 32]), Err(Refusal::NotAdmitted));
        accounts.admit(now, ALICE).unwrap();
        assert_eq!(accounts.admit(now, ALICE), Err(Refusal::Full));
        accounts.admit(now, BOB).unwrap();
        assert_eq!(accounts.admit(now, [3; 32]), Err(Refusal::Full));
        // Bob leaves, and his window passes: his place is free.
        accounts.leave(Some(&BOB));
        accounts.admit(now + limits.quota_window, [3; 32]).unwrap();
        accounts.draining = true;
        assert_eq!(accounts.arrive(), Err(Refusal::Draining));
    }

    #[test]
    fn streams_are_bounded_per_identity_and_in_all() {
        let member = MemberLimits {
            links: 2,
            ..MemberLimits::default()
        };
        let limits = Limits {
            streams: 3,
            ..Limits::default()
        };
        let mut accounts = accounts(limits, member);
        let now = Instant::now();
        for identity in [ALICE, BOB] {
            accounts.admit(now, identity).unwrap();
        }
        assert!(accounts.take_stream(&ALICE, &member) && accounts.take_stream(&ALICE, &member));
        assert!(!accounts.take_stream(&ALICE, &member));
        assert!(accounts.take_stream(&BOB, &member));
        assert!(!accounts.take_stream(&BOB, &member), "three are open in all");
        accounts.return_stream(&ALICE);
        assert!(accounts.take_stream(&BOB, &member));
    }
}
