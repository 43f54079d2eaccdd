//! What is true of an archive, merged over its cloud's replicas.
//!
//! `Synced` needs every replica, because each must be able to serve alone. `BackedUp` needs one replica that is
//! synced and says so, because all replicas ship the same objects to the same bucket.

use crate::build::GATEWAY_PORT;
use crate::names::CloudNames;
use crate::status::cloud::{signed, worst};
use crate::status::conditions::{Reason, Truth, Verdict, conditions};
use crate::validate::{Archive, Cloud};
use cumulet_api::ArchiveStatus;
use cumulet_crds::{ArchiveType, DatArchiveStatus};
use jiff::Timestamp;
use std::time::Duration;

/// How soon to look again while an archive is not complete.
const SOON: Duration = Duration::from_secs(2);
/// How soon to look again at an archive that is: its writer may append at any time.
const LATER: Duration = Duration::from_secs(10);

/// What a replica answered, or why there is no answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The archive as this replica has it.
    Has(ArchiveStatus),
    /// There was no answer.
    Unreachable(String),
    /// The replica refuses the pin.
    Refused(String),
}

/// The status of an archive that its cloud's replicas were asked about, one reply for each wanted replica.
pub fn asked(
    archive: &Archive,
    cloud: &Cloud,
    replies: &[Reply],
    previous: &DatArchiveStatus,
    now: Timestamp,
) -> DatArchiveStatus {
    let has: Vec<&ArchiveStatus> = replies.iter().filter_map(|reply| reply.status()).collect();
    let synced = has
        .iter()
        .filter(|status| truth(status, "Synced") == Truth::True)
        .count();
    let verdicts = vec![
        each("Ready", replies, Reason::Pinned),
        each("Synced", replies, Reason::Complete),
        backed_up(archive, cloud, replies),
    ];
    let mut status = previous.clone();
    status.key = Some(archive.key.to_string());
    status.synced_replicas = i32::try_from(synced).unwrap_or(i32::MAX);
    status.url = archive
        .pin(cloud)
        .gateway
        .then(|| url(&cloud.names, &archive.name));
    if !has.is_empty() {
        figures(&mut status, &has, has.len() == replies.len());
    }
    finish(status, archive.generation, verdicts, now)
}

/// The status of an archive that nobody can be asked about now; figures stay as they were.
pub fn waiting(
    generation: Option<i64>,
    reason: Reason,
    message: &str,
    previous: &DatArchiveStatus,
    now: Timestamp,
) -> DatArchiveStatus {
    let verdicts = vec![
        Verdict::new("Ready", Truth::False, reason, message),
        Verdict::new("Synced", Truth::Unknown, reason, message),
        Verdict::new("BackedUp", Truth::Unknown, reason, message),
    ];
    finish(previous.clone(), generation, verdicts, now)
}

/// When to look again.
pub fn look_again(status: &DatArchiveStatus, wants_backup: bool) -> Duration {
    let is = |kind: &str| {
        status
            .conditions
            .iter()
            .any(|c| c.type_ == kind && c.status == "True")
    };
    if is("Synced") && (is("BackedUp") || !wants_backup) {
        LATER
    } else {
        SOON
    }
}

impl Reply {
    fn status(&self) -> Option<&ArchiveStatus> {
        match self {
            Self::Has(status) => Some(status),
            Self::Unreachable(_) | Self::Refused(_) => None,
        }
    }
}

fn finish(
    mut status: DatArchiveStatus,
    generation: Option<i64>,
    verdicts: Vec<Verdict>,
    now: Timestamp,
) -> DatArchiveStatus {
    status.observed_generation = generation;
    status.conditions = conditions(&status.conditions, verdicts, generation, now);
    status
}

fn url(names: &CloudNames, archive: &str) -> String {
    format!("http://{}:{GATEWAY_PORT}/{archive}/", names.service_host())
}

fn figures(status: &mut DatArchiveStatus, has: &[&ArchiveStatus], everyone: bool) {
    let longest = |of: fn(&ArchiveStatus) -> u64| has.iter().map(|one| signed(of(one))).max().unwrap_or(0);
    let sum =
        |of: fn(&ArchiveStatus) -> u64| has.iter().map(|one| signed(of(one))).fold(0, i64::saturating_add);
    status.discovery_key = has
        .iter()
        .map(|one| one.discovery_key.clone())
        .find(|key| !key.is_empty());
    let kind = has
        .iter()
        .map(|one| one.kind)
        .find(|kind| *kind != cumulet_api::ArchiveType::Auto);
    status.kind = kind.map(|kind| match kind {
        cumulet_api::ArchiveType::Auto => ArchiveType::Auto,
        cumulet_api::ArchiveType::Core => ArchiveType::Core,
        cumulet_api::ArchiveType::Bee => ArchiveType::Bee,
        cumulet_api::ArchiveType::Drive => ArchiveType::Drive,
    });
    status.length = longest(|one| one.length);
    status.byte_length = longest(|one| one.byte_length);
    status.durable_length = longest(|one| one.durable_length);
    status.peers = sum(|one| u64::from(one.peers));
    status.uploaded_bytes = sum(|one| one.uploaded_bytes);
    status.downloaded_bytes = sum(|one| one.downloaded_bytes);
    // A replica that does not answer may hold nothing: then the least is not known, and the old figure stays.
    if everyone {
        status.stored_bytes = has.iter().map(|one| signed(one.stored_bytes)).min().unwrap_or(0);
        let progress = has
            .iter()
            .map(|one| one.progress)
            .fold(1.0, f64::min)
            .clamp(0.0, 1.0);
        // Rounded down, so that 1 means all; the fourth digit is enough for people and writes less.
        status.progress = (progress * 10_000.0).floor() / 10_000.0;
    }
}

fn truth(status: &ArchiveStatus, kind: &str) -> Truth {
    let condition = status.conditions.iter().find(|condition| condition.kind == kind);
    condition.map_or(Truth::Unknown, |condition| condition.status)
}

fn verdict(kind: &'static str, reply: &Reply) -> Verdict {
    match reply {
        Reply::Has(status) => match status.conditions.iter().find(|condition| condition.kind == kind) {
            Some(condition) => Verdict::of_replica(kind, condition),
            None => Verdict::new(
                kind,
                Truth::Unknown,
                Reason::NotReported,
                "a replica does not say",
            ),
        },
        Reply::Unreachable(why) => {
            let truth = if kind == "Ready" {
                Truth::False
            } else {
                Truth::Unknown
            };
            Verdict::new(kind, truth, Reason::ReplicaUnreachable, why)
        }
        Reply::Refused(why) => Verdict::new(kind, Truth::False, Reason::ReplicaRefuses, why),
    }
}

/// True if every replica says so, with `reason`; else the worst answer.
fn each(kind: &'static str, replies: &[Reply], reason: Reason) -> Verdict {
    let worst = worst(replies.iter().map(|reply| verdict(kind, reply)).collect(), kind);
    if worst.truth == Truth::True {
        let message = format!("{0} of {0} replicas", replies.len());
        return Verdict::new(kind, Truth::True, reason, message);
    }
    worst
}

fn backed_up(archive: &Archive, cloud: &Cloud, replies: &[Reply]) -> Verdict {
    if !archive.pin(cloud).backup {
        let (reason, message) = match cloud.backup {
            None => (Reason::NoBackup, "the cloud has no spec.backup"),
            Some(_) => (Reason::NotRequested, "spec.backup.enabled is false"),
        };
        return Verdict::new("BackedUp", Truth::False, reason, message);
    }
    let whole = |reply: &&Reply| {
        reply.status().is_some_and(|status| {
            truth(status, "Synced") == Truth::True && truth(status, "BackedUp") == Truth::True
        })
    };
    if let Some(reply) = replies.iter().find(whole) {
        return verdict("BackedUp", reply);
    }
    // Nobody has it all in the bucket. A replica that is itself behind must not say otherwise.
    let mut worst = worst(
        replies.iter().map(|reply| verdict("BackedUp", reply)).collect(),
        "BackedUp",
    );
    if worst.truth == Truth::True {
        worst.truth = Truth::Unknown;
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{HEX, archive, cloud, full_cloud, now, parsed};
    use serde_json::json;

    fn has(synced: &str, backed_up: &str, stored: u64, progress: f64) -> Reply {
        let condition = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "message": "m"});
        let reason = if synced == "True" { "Complete" } else { "NoPeers" };
        Reply::Has(
            serde_json::from_value(json!({"key": HEX, "discoveryKey": "d", "type": "Drive", "length": stored / 10,
                "byteLength": stored, "fork": 0, "storedBlocks": 1, "storedBytes": stored, "wantedBlocks": 1,
                "progress": progress, "peers": 1, "uploadedBytes": 5, "downloadedBytes": 7, "downloadedBlocks": 1,
                "durableLength": stored / 20, "durableBytes": 0,
                "conditions": [condition("Ready", "True", "Pinned"), condition("Synced", synced, reason),
                               condition("BackedUp", backed_up, "Shipped")]}))
            .unwrap(),
        )
    }

    fn status(replies: &[Reply]) -> DatArchiveStatus {
        let archive = Archive::parse(&archive()).unwrap();
        asked(
            &archive,
            &full_cloud(),
            replies,
            &DatArchiveStatus::default(),
            now(),
        )
    }

    fn condition(status: &DatArchiveStatus, kind: &str) -> (String, String) {
        let condition = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == kind)
            .unwrap();
        (condition.status.clone(), condition.reason.clone())
    }

    fn is(status: &str, reason: &str) -> (String, String) {
        (status.into(), reason.into())
    }

    #[test]
    fn synced_needs_every_replica() {
        let both = status(&[has("True", "True", 100, 1.0), has("True", "False", 100, 1.0)]);
        assert_eq!(condition(&both, "Synced"), is("True", "Complete"));
        assert_eq!((both.synced_replicas, both.progress), (2, 1.0));
        let one = status(&[has("True", "True", 100, 1.0), has("False", "False", 40, 0.399_99)]);
        assert_eq!(condition(&one, "Synced"), is("False", "NoPeers"));
        assert_eq!(
            (one.synced_replicas, one.stored_bytes, one.progress),
            (1, 40, 0.3999)
        );
        assert_eq!(
            (one.length, one.byte_length, one.peers, one.uploaded_bytes),
            (10, 100, 2, 10)
        );
    }

    #[test]
    fn a_replica_that_is_away_leaves_synced_unknown_and_the_least_figures_alone() {
        let previous = status(&[has("True", "True", 100, 1.0), has("True", "True", 90, 1.0)]);
        let archive = Archive::parse(&archive()).unwrap();
        let replies = [
            has("True", "True", 100, 1.0),
            Reply::Unreachable("timed out".into()),
        ];
        let status = asked(&archive, &full_cloud(), &replies, &previous, now());
        assert_eq!(condition(&status, "Synced"), is("Unknown", "ReplicaUnreachable"));
        assert_eq!(condition(&status, "Ready"), is("False", "ReplicaUnreachable"));
        assert_eq!(status.stored_bytes, 90);
        assert_eq!(look_again(&status, true), SOON);
    }

    #[test]
    fn one_complete_replica_is_enough_for_the_backup() {
        let done = status(&[has("True", "True", 100, 1.0), has("False", "False", 40, 0.4)]);
        assert_eq!(condition(&done, "BackedUp"), is("True", "Shipped"));
    }

    #[test]
    fn replicas_that_are_behind_cannot_call_the_archive_backed_up() {
        let behind = status(&[has("False", "True", 40, 0.4), has("False", "True", 50, 0.5)]);
        assert_eq!(condition(&behind, "BackedUp").0, "Unknown");
    }

    #[test]
    fn no_bucket_and_no_wish_are_told_apart() {
        let mut quiet = archive();
        let replies = [has("True", "True", 1, 1.0)];
        let none = DatArchiveStatus::default();
        let no_bucket = asked(
            &Archive::parse(&quiet).unwrap(),
            &parsed(&cloud()),
            &replies,
            &none,
            now(),
        );
        assert_eq!(condition(&no_bucket, "BackedUp"), is("False", "NoBackup"));
        assert_eq!(look_again(&no_bucket, false), LATER);
        quiet.spec.backup.enabled = false;
        let no_wish = asked(
            &Archive::parse(&quiet).unwrap(),
            &full_cloud(),
            &replies,
            &none,
            now(),
        );
        assert_eq!(condition(&no_wish, "BackedUp"), is("False", "NotRequested"));
    }

    #[test]
    fn a_public_archive_has_a_url_and_a_private_one_has_none() {
        let mut public = archive();
        let replies = [has("True", "True", 1, 1.0)];
        let of = |archive: &cumulet_crds::DatArchive| {
            asked(
                &Archive::parse(archive).unwrap(),
                &full_cloud(),
                &replies,
                &DatArchiveStatus::default(),
                now(),
            )
            .url
        };
        assert_eq!(of(&public), None);
        public.spec.gateway.public = true;
        assert_eq!(
            of(&public).as_deref(),
            Some("http://cumulet-ada.ns.svc:8080/quicklooks/")
        );
    }

    #[test]
    fn waiting_keeps_the_figures_and_says_why() {
        let previous = status(&[has("True", "True", 100, 1.0)]);
        let waiting = waiting(
            Some(4),
            Reason::CloudMissing,
            "there is no PersonalCloud ada",
            &previous,
            now(),
        );
        assert_eq!(condition(&waiting, "Ready"), is("False", "CloudMissing"));
        assert_eq!(condition(&waiting, "Synced").0, "Unknown");
        assert_eq!(
            (waiting.stored_bytes, waiting.observed_generation),
            (100, Some(4))
        );
    }

    #[test]
    fn a_refusal_is_shown() {
        let refused = status(&[Reply::Refused("disk full".into()), has("True", "True", 1, 1.0)]);
        assert_eq!(condition(&refused, "Ready"), is("False", "ReplicaRefuses"));
        assert_eq!(condition(&refused, "Synced"), is("False", "ReplicaRefuses"));
    }
}
