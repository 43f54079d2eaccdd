//! What is true of a cloud.

use crate::credentials::CredentialsError;
use crate::plan::{Observed, PlanError, expanding};
use crate::resources::{Applied, Resources};
use crate::status::conditions::{Reason, Truth, Verdict, conditions};
use crate::validate::{Cloud, ValidateError};
use cumulet_api::NodeStatus;
use cumulet_crds::PersonalCloudStatus;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::time::Duration;

/// What one replica says of itself; `Err` is the reason why it says nothing.
pub type Report = Result<NodeStatus, String>;

/// How soon to look again while something is going on.
const SOON: Duration = Duration::from_secs(3);
/// How soon to look again when nothing is; replicas push nothing, so their state is polled.
const LATER: Duration = Duration::from_secs(15);

/// The status of a cloud after its objects were applied. `reports` are those of its running replicas, by index.
pub fn applied(
    cloud: &Cloud,
    resources: &Resources<Applied>,
    observed: &Observed,
    reports: &[Report],
    previous: &PersonalCloudStatus,
    now: Timestamp,
) -> PersonalCloudStatus {
    let set = &resources.stateful_set;
    let progress = match resources.refused_expansions.first() {
        Some(why) => Verdict::new("Progressing", Truth::False, Reason::ExpansionRefused, why),
        None => progressing(cloud, set, observed),
    };
    let mut verdicts = vec![ready(cloud, set, &observed.pods), progress];
    verdicts.extend(of_replicas(cloud, observed, reports));
    verdicts.push(paused(false));
    let mut status = figures(Some(set), observed, reports, previous);
    status.selector = Some(cloud.names.selector_string());
    status.durable_lag = cloud.backup.as_ref().and(status.durable_lag);
    finish(status, cloud.generation, verdicts, now)
}

/// The status of a cloud that the operator keeps its hands off.
pub fn held(
    cloud: &Cloud,
    observed: &Observed,
    reports: &[Report],
    previous: &PersonalCloudStatus,
    now: Timestamp,
) -> PersonalCloudStatus {
    let set = observed.stateful_set.as_ref();
    let mut verdicts: Vec<_> = set
        .map(|set| ready(cloud, set, &observed.pods))
        .into_iter()
        .collect();
    verdicts.extend(of_replicas(cloud, observed, reports));
    verdicts.push(Verdict::new(
        "Progressing",
        Truth::False,
        Reason::Paused,
        "spec.paused is set",
    ));
    verdicts.push(paused(true));
    finish(
        figures(set, observed, reports, previous),
        cloud.generation,
        verdicts,
        now,
    )
}

/// The status of a cloud whose spec cannot be carried out; figures stay as they were.
pub fn refused(
    generation: Option<i64>,
    why: &Refusal,
    previous: &PersonalCloudStatus,
    now: Timestamp,
) -> PersonalCloudStatus {
    let (reason, message) = match why {
        Refusal::Invalid(error) => (Reason::Invalid, error.to_string()),
        Refusal::Plan(error @ PlanError::NameTaken { .. }) => (Reason::NameTaken, error.to_string()),
        Refusal::Plan(error @ PlanError::Credentials(CredentialsError::Damaged { .. })) => {
            (Reason::SecretDamaged, error.to_string())
        }
        Refusal::Plan(error) => (Reason::Invalid, error.to_string()),
    };
    let verdicts = vec![
        Verdict::new("Ready", Truth::False, reason, &message),
        Verdict::new("Progressing", Truth::False, reason, &message),
    ];
    finish(previous.clone(), generation, verdicts, now)
}

/// Why nothing was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The spec does not hold together.
    #[error(transparent)]
    Invalid(#[from] ValidateError),
    /// The cluster is in the way.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// When to look again.
pub fn look_again(status: &PersonalCloudStatus) -> Duration {
    let is = |kind: &str, wanted: &str| {
        status
            .conditions
            .iter()
            .any(|condition| condition.type_ == kind && condition.status == wanted)
    };
    let quiet = is("Paused", "True") || is("Hibernated", "True");
    if quiet || (is("Ready", "True") && is("Progressing", "False")) {
        LATER
    } else {
        SOON
    }
}

fn finish(
    mut status: PersonalCloudStatus,
    generation: Option<i64>,
    verdicts: Vec<Verdict>,
    now: Timestamp,
) -> PersonalCloudStatus {
    status.observed_generation = generation;
    status.conditions = conditions(&status.conditions, verdicts, generation, now);
    status
}

fn figures(
    set: Option<&StatefulSet>,
    observed: &Observed,
    reports: &[Report],
    previous: &PersonalCloudStatus,
) -> PersonalCloudStatus {
    let mut status = previous.clone();
    let counts = set.and_then(|set| set.status.as_ref());
    status.replicas = counts.map_or(0, |counts| counts.replicas);
    status.ready_replicas = counts.and_then(|counts| counts.ready_replicas).unwrap_or(0);
    let archives = observed
        .archives
        .iter()
        .filter(|archive| archive.metadata.deletion_timestamp.is_none());
    status.archives = i32::try_from(archives.count()).unwrap_or(i32::MAX);
    let said: Vec<&NodeStatus> = reports.iter().flatten().collect();
    if said.is_empty() {
        return status;
    }
    status.peers = said.iter().map(|node| i64::from(node.peers)).sum();
    status.bytes_stored = said
        .iter()
        .map(|node| signed(node.bytes_stored))
        .max()
        .unwrap_or(0);
    let lag = said
        .iter()
        .map(|node| node.durable_lag_seconds)
        .max()
        .unwrap_or(0);
    status.durable_lag = Some(format!("{lag}s"));
    let newest = said
        .iter()
        .filter_map(|node| node.last_backup_time.clone()?.parse::<Timestamp>().ok())
        .max();
    status.relay_keys = said
        .iter()
        .filter_map(|node| node.relay_public_key.clone())
        .collect();
    status.last_backup_time = newest.map(|time| time.to_string()).or(status.last_backup_time);
    status
}

pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn ready(cloud: &Cloud, set: &StatefulSet, pods: &[Pod]) -> Verdict {
    if cloud.replicas == 0 {
        return Verdict::new("Ready", Truth::False, Reason::Hibernated, "spec.replicas is 0");
    }
    let wanted = i32::from(cloud.replicas);
    let counts = set.status.as_ref();
    let current = counts.and_then(|counts| counts.observed_generation) >= set.metadata.generation;
    let count = counts.and_then(|counts| counts.ready_replicas).unwrap_or(0);
    if current && count >= wanted {
        let message = format!("{count} of {wanted} replicas are ready");
        return Verdict::new("Ready", Truth::True, Reason::AllReplicasReady, message);
    }
    let (reason, detail) = pods
        .iter()
        .find_map(|pod| trouble(pod).map(|(reason, text)| (reason, format!("; {}: {text}", pod.name_any()))))
        .unwrap_or((Reason::WaitingForReplicas, String::new()));
    Verdict::new(
        "Ready",
        Truth::False,
        reason,
        format!("{count} of {wanted} replicas are ready{detail}"),
    )
}

/// What keeps a pod from running, if something does that time alone will not cure.
fn trouble(pod: &Pod) -> Option<(Reason, String)> {
    let status = pod.status.as_ref()?;
    let unschedulable = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable")
    });
    if let Some(condition) = unschedulable {
        return Some((
            Reason::Unschedulable,
            condition.message.clone().unwrap_or_default(),
        ));
    }
    let waiting = status
        .container_statuses
        .iter()
        .flatten()
        .find_map(|container| container.state.as_ref()?.waiting.as_ref())?;
    let reason = match waiting.reason.as_deref()? {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            Reason::ImageUnavailable
        }
        "CreateContainerConfigError" | "CreateContainerError" => Reason::ConfigurationMissing,
        "CrashLoopBackOff" => Reason::CrashLooping,
        _ => return None,
    };
    Some((reason, waiting.message.clone().unwrap_or_default()))
}

fn progressing(cloud: &Cloud, set: &StatefulSet, observed: &Observed) -> Verdict {
    let growing = expanding(cloud, &observed.claims);
    if !growing.is_empty() {
        let message = format!("waiting for {} to grow", growing.join(", "));
        return Verdict::new("Progressing", Truth::True, Reason::ExpandingStorage, message);
    }
    let counts = set.status.as_ref();
    let wanted = i32::from(cloud.replicas);
    let done = counts.is_some_and(|counts| {
        counts.observed_generation >= set.metadata.generation
            && counts.replicas == wanted
            && (wanted == 0 || counts.updated_replicas.unwrap_or(0) == wanted)
            && (wanted == 0 || counts.current_revision == counts.update_revision)
    });
    if done {
        Verdict::new(
            "Progressing",
            Truth::False,
            Reason::Steady,
            "all replicas are as the spec says",
        )
    } else {
        Verdict::new(
            "Progressing",
            Truth::True,
            Reason::RollingOut,
            "replicas are being changed",
        )
    }
}

fn paused(paused: bool) -> Verdict {
    if paused {
        Verdict::new(
            "Paused",
            Truth::True,
            Reason::Paused,
            "spec.paused is set: nothing is changed",
        )
    } else {
        Verdict::new("Paused", Truth::False, Reason::Active, "")
    }
}

fn of_replicas(cloud: &Cloud, observed: &Observed, reports: &[Report]) -> Vec<Verdict> {
    let hibernated = cloud.replicas == 0;
    let awake = if hibernated {
        Verdict::new(
            "Hibernated",
            Truth::True,
            Reason::Hibernated,
            "spec.replicas is 0; volumes and keys are kept",
        )
    } else {
        Verdict::new("Hibernated", Truth::False, Reason::Awake, "")
    };
    let backed_up = if cloud.backup.is_none() {
        Verdict::new(
            "BackedUp",
            Truth::False,
            Reason::NoBackup,
            "spec.backup is not set",
        )
    } else {
        merged("BackedUp", cloud, reports)
    };
    vec![
        replicated(cloud, observed),
        backed_up,
        merged("StorageHealthy", cloud, reports),
        awake,
    ]
}

fn replicated(cloud: &Cloud, observed: &Observed) -> Verdict {
    if cloud.replicas < 2 {
        let message = "one copy is no copy: set spec.replicas to 2 or more";
        return Verdict::new("Replicated", Truth::False, Reason::SingleReplica, message);
    }
    let archives: Vec<_> = observed
        .archives
        .iter()
        .filter(|archive| archive.metadata.deletion_timestamp.is_none())
        .collect();
    if archives.is_empty() {
        return Verdict::new(
            "Replicated",
            Truth::True,
            Reason::NoArchives,
            "there is nothing to replicate",
        );
    }
    let on_two = |archive: &&&cumulet_crds::DatArchive| {
        archive
            .status
            .as_ref()
            .is_some_and(|status| status.synced_replicas >= 2)
    };
    let done = archives.iter().filter(on_two).count();
    let message = format!(
        "{done} of {} archives are complete on two replicas or more",
        archives.len()
    );
    if done == archives.len() {
        Verdict::new("Replicated", Truth::True, Reason::OnTwoReplicas, message)
    } else {
        Verdict::new("Replicated", Truth::False, Reason::ArchivesBehind, message)
    }
}

/// True only if every wanted replica says so; the worst answer otherwise.
fn merged(kind: &'static str, cloud: &Cloud, reports: &[Report]) -> Verdict {
    let said = |node: &NodeStatus| {
        let condition = node.conditions.iter().find(|condition| condition.kind == kind);
        condition.map_or_else(
            || {
                Verdict::new(
                    kind,
                    Truth::Unknown,
                    Reason::NotReported,
                    "a replica does not say",
                )
            },
            |condition| Verdict::of_replica(kind, condition),
        )
    };
    let mut verdicts: Vec<Verdict> = reports
        .iter()
        .map(|report| match report {
            Ok(node) => said(node),
            Err(why) => Verdict::new(kind, Truth::Unknown, Reason::ReplicaUnreachable, why),
        })
        .collect();
    if reports.len() < usize::from(cloud.replicas) || reports.is_empty() {
        let message = format!("{} of {} replicas answer", reports.len(), cloud.replicas);
        verdicts.push(Verdict::new(
            kind,
            Truth::Unknown,
            Reason::ReplicaUnreachable,
            message,
        ));
    }
    worst(verdicts, kind)
}

/// The first verdict that is false, else the first that is unknown, else the first.
pub(crate) fn worst(verdicts: Vec<Verdict>, kind: &'static str) -> Verdict {
    let rank = |verdict: &Verdict| match verdict.truth {
        Truth::False => 0,
        Truth::Unknown => 1,
        Truth::True => 2,
    };
    let nobody = || Verdict::new(kind, Truth::Unknown, Reason::NotReported, "nobody knows yet");
    verdicts.into_iter().min_by_key(rank).unwrap_or_else(nobody)
}

#[cfg(test)]
#[path = "cloud_tests.rs"]
mod tests;
