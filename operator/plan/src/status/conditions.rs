//! Conditions: a closed list of reasons, and transition times that change with the status alone.

use cumulet_api::ConditionStatus;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Whether a condition holds.
pub use cumulet_api::ConditionStatus as Truth;

/// The longest message written into a status, in characters: messages come from replicas too.
const MAX_MESSAGE_CHARS: usize = 1024;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Every reason that the operator itself gives. A replica's reasons are its own closed list.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason { $($(#[$doc])* $name),+ }
        impl Reason {
            /// As it stands in a condition.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

reasons! {
    /// Every replica is ready.
    AllReplicasReady,
    /// Some replica is not ready yet.
    WaitingForReplicas,
    /// The image cannot be pulled.
    ImageUnavailable,
    /// A Secret or another part of the pod's configuration is missing.
    ConfigurationMissing,
    /// A replica starts and fails again and again.
    CrashLooping,
    /// No node has room for a replica.
    Unschedulable,
    /// Replicas are being changed.
    RollingOut,
    /// Volumes are growing.
    ExpandingStorage,
    /// A volume cannot be made to grow.
    ExpansionRefused,
    /// Nothing is changing.
    Steady,
    /// There are no replicas, by wish.
    Hibernated,
    /// There are replicas.
    Awake,
    /// The owner paused the cloud.
    Paused,
    /// The operator works on the cloud.
    Active,
    /// The spec cannot be carried out.
    Invalid,
    /// A name is taken by somebody else's object.
    NameTaken,
    /// A secret is damaged.
    SecretDamaged,
    /// One replica only.
    SingleReplica,
    /// There is no archive.
    NoArchives,
    /// Every archive is complete on two replicas or more.
    OnTwoReplicas,
    /// Some archive is not.
    ArchivesBehind,
    /// No bucket is configured.
    NoBackup,
    /// The archive shall not be backed up.
    NotRequested,
    /// A replica does not answer.
    ReplicaUnreachable,
    /// A replica refuses.
    ReplicaRefuses,
    /// A replica does not say.
    NotReported,
    /// The cloud does not exist.
    CloudMissing,
    /// Another archive pins the same key.
    DuplicateKey,
    /// All replicas have what they shall have.
    Complete,
    /// Every replica keeps the archive.
    Pinned,
    /// The resource is being deleted.
    Deleting,
}

/// One condition, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The condition's type.
    pub kind: &'static str,
    /// Whether it holds.
    pub truth: Truth,
    /// One CamelCase word.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

impl Verdict {
    /// A verdict of the operator's own.
    pub fn new(kind: &'static str, truth: Truth, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            kind,
            truth,
            reason: reason.as_str().into(),
            message: message.into(),
        }
    }

    /// A verdict that a replica gave. A reason that Kubernetes would refuse becomes `NotReported`.
    pub(crate) fn of_replica(kind: &'static str, condition: &cumulet_api::Condition) -> Self {
        let starts = condition.reason.starts_with(|c: char| c.is_ascii_alphabetic());
        let fits = starts
            && condition.reason.len() <= 64
            && condition.reason.bytes().all(|c| c.is_ascii_alphanumeric());
        let reason = if fits {
            condition.reason.clone()
        } else {
            Reason::NotReported.as_str().into()
        };
        Self {
            kind,
            truth: condition.status,
            reason,
            message: condition.message.clone(),
        }
    }
}

/// Conditions for a status: the transition time is kept while the status stays the same, and types that have no
/// verdict now are kept as they were.
pub(crate) fn conditions(
    previous: &[Condition],
    verdicts: Vec<Verdict>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut all: Vec<Condition> = previous.to_vec();
    for verdict in verdicts {
        let status = match verdict.truth {
            ConditionStatus::True => "True",
            ConditionStatus::False => "False",
            ConditionStatus::Unknown => "Unknown",
        };
        let before = all.iter().position(|condition| condition.type_ == verdict.kind);
        let since = before
            .map(|at| &all[at])
            .filter(|condition| condition.status == status);
        let condition = Condition {
            last_transition_time: since.map_or(Time(now), |condition| condition.last_transition_time.clone()),
            message: verdict.message.chars().take(MAX_MESSAGE_CHARS).collect(),
            observed_generation: generation,
            reason: verdict.reason,
            status: status.into(),
            type_: verdict.kind.into(),
        };
        match before {
            Some(at) => all[at] = condition,
            None => all.push(condition),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::now;

    fn ready(truth: Truth, message: &str) -> Vec<Verdict> {
        vec![Verdict::new("Ready", truth, Reason::Steady, message)]
    }

    #[test]
    fn a_transition_time_changes_with_the_status_and_not_with_the_message() {
        let later = now() + jiff::SignedDuration::from_secs(60);
        let first = conditions(&[], ready(Truth::False, "a"), Some(1), now());
        let same = conditions(&first, ready(Truth::False, "b"), Some(2), later);
        assert_eq!(same[0].last_transition_time, Time(now()));
        assert_eq!(
            (same[0].message.as_str(), same[0].observed_generation),
            ("b", Some(2))
        );
        let changed = conditions(&same, ready(Truth::True, "b"), Some(2), later);
        assert_eq!(changed[0].last_transition_time, Time(later));
        assert_eq!(changed.len(), 1);
    }

    #[test]
    fn conditions_without_a_new_verdict_stay() {
        let first = conditions(&[], ready(Truth::True, ""), None, now());
        let both = conditions(
            &first,
            vec![Verdict::new("Paused", Truth::False, Reason::Active, "")],
            None,
            now(),
        );
        let kinds: Vec<_> = both.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(kinds, ["Ready", "Paused"]);
    }

    #[test]
    fn what_a_replica_says_is_bounded_and_well_formed() {
        let said = cumulet_api::Condition {
            kind: "Synced".into(),
            status: Truth::False,
            reason: "no peers!".into(),
            message: "x".repeat(5000),
        };
        let verdict = Verdict::of_replica("Synced", &said);
        assert_eq!(verdict.reason, "NotReported");
        let written = conditions(&[], vec![verdict], None, now());
        assert_eq!(written[0].message.len(), MAX_MESSAGE_CHARS);
    }
}
