//! Whether to take a Lease: pure.

use k8s_openapi::api::coordination::v1::Lease;
use std::time::Duration;

/// What to do about a Lease.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// There is none: make it.
    Create,
    /// It is free, expired or already ours: write it, on condition that nobody else did.
    Take {
        /// How often it has changed hands, with this time.
        transitions: i32,
    },
    /// Another holds it.
    Wait,
}

/// A Lease that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    holder: Option<String>,
    transitions: i32,
    duration: Option<Duration>,
    unchanged: Duration,
}

impl Held {
    /// Reads a Lease that has not changed for `unchanged`, as far as this process saw.
    pub(super) fn read(lease: &Lease, unchanged: Duration) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        Self {
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            transitions: spec.lease_transitions.unwrap_or(0),
            duration: spec
                .lease_duration_seconds
                .and_then(|s| u64::try_from(s).ok())
                .map(Duration::from_secs),
            unchanged,
        }
    }

    /// Whether `identity` holds it.
    pub(super) fn is_by(&self, identity: &str) -> bool {
        self.holder.as_deref() == Some(identity)
    }
}

/// Decides what `identity` does about the Lease. The holder's own duration counts, but at least `least`.
pub(super) fn decide(held: Option<&Held>, identity: &str, least: Duration) -> Decision {
    let Some(held) = held else { return Decision::Create };
    if held.is_by(identity) {
        return Decision::Take {
            transitions: held.transitions,
        };
    }
    let expired = held.unchanged > held.duration.unwrap_or(least).max(least);
    if held.holder.is_none() || expired {
        return Decision::Take {
            transitions: held.transitions.saturating_add(1),
        };
    }
    Decision::Wait
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_secs(15);

    fn held(holder: Option<&str>, unchanged: u64) -> Held {
        Held {
            holder: holder.map(Into::into),
            transitions: 4,
            duration: Some(LEAST),
            unchanged: Duration::from_secs(unchanged),
        }
    }

    #[test]
    fn a_lease_is_made_taken_or_waited_for() {
        assert_eq!(decide(None, "me", LEAST), Decision::Create);
        assert_eq!(
            decide(Some(&held(None, 0)), "me", LEAST),
            Decision::Take { transitions: 5 }
        );
        assert_eq!(
            decide(Some(&held(Some("other"), 15)), "me", LEAST),
            Decision::Wait
        );
        assert_eq!(
            decide(Some(&held(Some("other"), 16)), "me", LEAST),
            Decision::Take { transitions: 5 }
        );
    }

    #[test]
    fn a_restarted_holder_takes_its_own_lease_up_at_once() {
        assert_eq!(
            decide(Some(&held(Some("me"), 0)), "me", LEAST),
            Decision::Take { transitions: 4 }
        );
    }

    #[test]
    fn a_holder_with_a_longer_duration_is_respected() {
        let mut other = held(Some("other"), 20);
        other.duration = Some(Duration::from_mins(1));
        assert_eq!(decide(Some(&other), "me", LEAST), Decision::Wait);
        other.duration = Some(Duration::ZERO);
        other.unchanged = Duration::from_secs(10);
        assert_eq!(
            decide(Some(&other), "me", LEAST),
            Decision::Wait,
            "a zero duration does not make it free"
        );
    }
}
