//! Who may use the relay, and how much.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crate::Key;

/// What a member may use. Traffic counts in both directions, UDP payload bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberLimits {
    /// Links at a time.
    pub links: usize,
    /// Bytes over all its links within one [`quota_window`](super::Limits::quota_window); `None`: any number.
    pub quota_bytes: Option<u64>,
    /// Bytes over one link; `None`: any number.
    pub link_bytes: Option<u64>,
    /// How long one link may last; `None`: for ever.
    pub link_duration: Option<Duration>,
}

impl Default for MemberLimits {
    /// 32 links, 64 GiB per window, a day per link.
    fn default() -> Self {
        Self {
            links: 32,
            quota_bytes: Some(64 << 30),
            link_bytes: None,
            link_duration: Some(Duration::from_hours(24)),
        }
    }
}

/// What the relay makes of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Its connections end.
    Refused,
    /// It may be the other side of a link with a member, and pays nothing.
    Guest,
    /// It may have links with anybody who is admitted, and pays for them.
    Member(MemberLimits),
}

/// Decides about identities (Ed25519 public keys, authenticated). Asked for each new connection, and for all of them again by
/// [`Relay::review`](super::Relay::review). Must return at once.
pub trait Policy: Send + Sync + 'static {
    /// What this identity is.
    fn admission(&self, identity: &Key) -> Admission;
}

impl<F: Fn(&Key) -> Admission + Send + Sync + 'static> Policy for F {
    fn admission(&self, identity: &Key) -> Admission {
        self(identity)
    }
}

/// A list of members that may change while the relay runs; all others are `others`, who are refused unless said otherwise.
#[derive(Debug)]
pub struct AllowList {
    members: RwLock<HashMap<Key, MemberLimits>>,
    others: Admission,
}

impl AllowList {
    /// An empty list: everybody is refused.
    pub fn new() -> Self {
        Self::with_others(Admission::Refused)
    }

    /// An empty list, by which strangers are `others`. A member's peers are strangers most of the time: JavaScript
    /// peers use a fresh key pair towards relays. `Member` opens the relay to the world.
    pub fn with_others(others: Admission) -> Self {
        Self {
            members: RwLock::default(),
            others,
        }
    }

    /// Makes `identity` a member, or changes its limits.
    pub fn allow(&self, identity: Key, limits: MemberLimits) {
        self.members
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(identity, limits);
    }

    /// Makes a member a stranger; [`Relay::review`](super::Relay::review) cuts what it has.
    pub fn revoke(&self, identity: &Key) {
        self.members
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(identity);
    }
}

impl Default for AllowList {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for AllowList {
    fn admission(&self, identity: &Key) -> Admission {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        members
            .get(identity)
            .map_or(self.others, |limits| Admission::Member(*limits))
    }
}
