//! Scenarios of a cloud's status: one value in, one value out.

#![allow(clippy::needless_pass_by_value, clippy::unnecessary_wraps)] // Values read better in tables.

use super::*;
use crate::build::{Inputs, build};
use crate::testing::{archive, cloud, credentials, full_cloud, now, parsed, settings};
use serde_json::json;

struct Applier(serde_json::Value);

impl crate::resources::Apply for Applier {
    type Error = String;
    async fn apply<K: crate::resources::Object>(&self, object: &K) -> Result<K, String> {
        let mut value = serde_json::to_value(object).map_err(|e| e.to_string())?;
        if value["kind"] == "StatefulSet" {
            value["status"] = self.0.clone();
            value["metadata"]["generation"] = json!(7);
        }
        serde_json::from_value(value).map_err(|e| e.to_string())
    }
}

/// Runs a future that never waits.
fn now_or_never<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    match future
        .as_mut()
        .poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("the future waits"),
    }
}

fn after_apply(cloud: &Cloud, counts: serde_json::Value) -> Resources<Applied> {
    let prepared = build(&Inputs {
        credentials: &credentials(cloud),
        settings: &settings(),
        claim_size: cloud.storage_size.quantity(),
        gateway_open: false,
        growing: &[],
        cloud,
    });
    now_or_never(prepared.apply(&Applier(counts))).unwrap()
}

fn node(lag: u64, conditions: serde_json::Value) -> Report {
    Ok(serde_json::from_value(
        json!({"version": "1", "publicKey": "", "peers": 3, "bytesStored": 100 + lag,
        "archives": 1, "durableLagSeconds": lag, "lastBackupTime": format!("2026-01-01T00:00:0{lag}Z"),
        "conditions": conditions}),
    )
    .unwrap())
}

fn healthy(lag: u64) -> Report {
    node(
        lag,
        json!([
        {"type": "BackedUp", "status": "True", "reason": "Shipped", "message": ""},
        {"type": "StorageHealthy", "status": "True", "reason": "Verified", "message": ""}]),
    )
}

fn all_ready() -> serde_json::Value {
    json!({"replicas": 2, "readyReplicas": 2, "updatedReplicas": 2, "currentRevision": "a",
        "updateRevision": "a", "observedGeneration": 7})
}

fn status(counts: serde_json::Value, observed: &Observed, reports: &[Report]) -> PersonalCloudStatus {
    let cloud = full_cloud();
    applied(
        &cloud,
        &after_apply(&cloud, counts),
        observed,
        reports,
        &PersonalCloudStatus::default(),
        now(),
    )
}

fn condition(status: &PersonalCloudStatus, kind: &str) -> (String, String) {
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
fn a_healthy_cloud_is_ready_backed_up_and_looked_at_seldom() {
    let status = status(all_ready(), &Observed::default(), &[healthy(1), healthy(4)]);
    assert_eq!(condition(&status, "Ready"), is("True", "AllReplicasReady"));
    assert_eq!(condition(&status, "Progressing"), is("False", "Steady"));
    assert_eq!(condition(&status, "BackedUp"), is("True", "Shipped"));
    assert_eq!(condition(&status, "StorageHealthy"), is("True", "Verified"));
    assert_eq!(condition(&status, "Replicated"), is("True", "NoArchives"));
    assert_eq!(
        (status.peers, status.bytes_stored, status.durable_lag.as_deref()),
        (6, 104, Some("4s"))
    );
    assert_eq!(status.last_backup_time.as_deref(), Some("2026-01-01T00:00:04Z"));
    assert_eq!(
        status.selector.as_deref(),
        Some("app.kubernetes.io/name=cumulet-node,cumulet.io/cloud=ada")
    );
    assert_eq!(
        (status.observed_generation, look_again(&status)),
        (Some(3), LATER)
    );
}

#[test]
fn a_statefulset_status_of_an_older_generation_is_not_believed() {
    let mut counts = all_ready();
    counts["observedGeneration"] = json!(6);
    let status = status(counts, &Observed::default(), &[]);
    assert_eq!(condition(&status, "Ready").0, "False");
    assert_eq!(condition(&status, "Progressing"), is("True", "RollingOut"));
    assert_eq!(look_again(&status), SOON);
}

#[test]
fn a_replica_that_does_not_answer_makes_its_conditions_unknown() {
    for reports in [vec![healthy(0)], vec![healthy(0), Err("timed out".into())]] {
        let status = status(all_ready(), &Observed::default(), &reports);
        assert_eq!(
            condition(&status, "BackedUp"),
            is("Unknown", "ReplicaUnreachable")
        );
    }
}

#[test]
fn the_worst_replica_decides() {
    let failing = node(
        9,
        json!([{"type": "BackedUp", "status": "False", "reason": "StoreUnreachable", "message": "m"}]),
    );
    let status = status(all_ready(), &Observed::default(), &[healthy(0), failing]);
    assert_eq!(condition(&status, "BackedUp"), is("False", "StoreUnreachable"));
    assert_eq!(condition(&status, "StorageHealthy"), is("Unknown", "NotReported"));
}

#[test]
fn a_pod_that_cannot_run_gives_the_reason() {
    for (waiting, reason) in [
        ("ImagePullBackOff", "ImageUnavailable"),
        ("ErrImageNeverPull", "ImageUnavailable"),
        ("CreateContainerConfigError", "ConfigurationMissing"),
        ("CrashLoopBackOff", "CrashLooping"),
        ("ContainerCreating", "WaitingForReplicas"),
    ] {
        let pod = serde_json::from_value(
            json!({"metadata": {"name": "cumulet-ada-0"}, "status": {"containerStatuses":
            [{"name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 0,
              "state": {"waiting": {"reason": waiting, "message": "why"}}}]}}),
        );
        let observed = Observed {
            pods: vec![pod.unwrap()],
            ..Observed::default()
        };
        let status = status(json!({"replicas": 2, "observedGeneration": 7}), &observed, &[]);
        assert_eq!(condition(&status, "Ready"), is("False", reason), "{waiting}");
    }
}

#[test]
fn a_cloud_is_replicated_when_every_archive_is_complete_on_two_replicas() {
    let with = |synced: i32| {
        let mut archive = archive();
        archive.status.get_or_insert_default().synced_replicas = synced;
        archive
    };
    let mut observed = Observed {
        archives: vec![with(2), with(1)],
        ..Observed::default()
    };
    let behind = status(all_ready(), &observed, &[]);
    assert_eq!(condition(&behind, "Replicated"), is("False", "ArchivesBehind"));
    assert_eq!(behind.archives, 2);
    observed.archives.pop();
    assert_eq!(
        condition(&status(all_ready(), &observed, &[]), "Replicated"),
        is("True", "OnTwoReplicas")
    );
}

#[test]
fn a_hibernated_cloud_says_so_and_is_not_called_broken_storage() {
    let mut resource = cloud();
    resource.spec.replicas = 0;
    let cloud = parsed(&resource);
    let counts = json!({"replicas": 0, "observedGeneration": 7});
    let previous = PersonalCloudStatus {
        bytes_stored: 55,
        ..PersonalCloudStatus::default()
    };
    let status = applied(
        &cloud,
        &after_apply(&cloud, counts),
        &Observed::default(),
        &[],
        &previous,
        now(),
    );
    assert_eq!(condition(&status, "Hibernated"), is("True", "Hibernated"));
    assert_eq!(condition(&status, "Ready"), is("False", "Hibernated"));
    assert_eq!(condition(&status, "Progressing"), is("False", "Steady"));
    assert_eq!(condition(&status, "StorageHealthy").0, "Unknown");
    assert_eq!(
        (status.bytes_stored, look_again(&status)),
        (55, LATER),
        "figures stay as they were"
    );
}

#[test]
fn a_paused_cloud_says_so() {
    let mut resource = cloud();
    resource.spec.paused = true;
    let status = held(
        &parsed(&resource),
        &Observed::default(),
        &[],
        &PersonalCloudStatus::default(),
        now(),
    );
    assert_eq!(condition(&status, "Paused"), is("True", "Paused"));
    assert_eq!(look_again(&status), LATER);
}

#[test]
fn a_refusal_names_its_reason_and_keeps_the_figures() {
    let previous = PersonalCloudStatus {
        ready_replicas: 2,
        ..PersonalCloudStatus::default()
    };
    for (why, reason) in [
        (Refusal::Invalid(ValidateError::Replicas(99)), "Invalid"),
        (
            Refusal::Plan(PlanError::NameTaken {
                kind: "Secret",
                name: "x".into(),
            }),
            "NameTaken",
        ),
        (
            Refusal::Plan(
                CredentialsError::Damaged {
                    key: "seed-0".into(),
                    expected: "32 bytes",
                }
                .into(),
            ),
            "SecretDamaged",
        ),
    ] {
        let status = refused(Some(9), &why, &previous, now());
        assert_eq!(condition(&status, "Ready"), is("False", reason));
        assert_eq!((status.ready_replicas, status.observed_generation), (2, Some(9)));
    }
}

#[test]
fn the_stateful_set_is_applied_last() {
    use std::sync::Mutex;
    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);
    impl crate::resources::Apply for Recorder {
        type Error = String;
        async fn apply<K: crate::resources::Object>(&self, object: &K) -> Result<K, String> {
            self.0
                .lock()
                .map_err(|e| e.to_string())?
                .push(K::kind(&()).into_owned());
            Ok(object.clone())
        }
    }
    let cloud = full_cloud();
    let recorder = Recorder::default();
    let prepared = build(&Inputs {
        credentials: &credentials(&cloud),
        settings: &settings(),
        claim_size: cloud.storage_size.quantity(),
        gateway_open: false,
        growing: &[],
        cloud: &cloud,
    });
    now_or_never(prepared.apply(&recorder)).unwrap();
    let order = recorder.0.into_inner().unwrap();
    assert_eq!(
        (
            order.first().map(String::as_str),
            order.last().map(String::as_str)
        ),
        (Some("Secret"), Some("StatefulSet"))
    );
    assert_eq!(order.len(), 7);
}

#[test]
fn a_volume_that_cannot_grow_is_shown_and_keeps_nothing_else_from_being_applied() {
    struct Stubborn;
    impl crate::resources::Apply for Stubborn {
        type Error = String;
        async fn apply<K: crate::resources::Object>(&self, object: &K) -> Result<K, String> {
            if K::kind(&()) == "PersistentVolumeClaim" {
                return Err("the storage class forbids it".into());
            }
            Ok(object.clone())
        }
    }
    let cloud = full_cloud();
    let claim = serde_json::from_value(json!({"metadata": {"name": "data-cumulet-ada-0"}})).unwrap();
    let prepared = build(&Inputs {
        credentials: &credentials(&cloud),
        settings: &settings(),
        claim_size: cloud.storage_size.quantity(),
        gateway_open: false,
        growing: &[claim],
        cloud: &cloud,
    });
    let resources = now_or_never(prepared.apply(&Stubborn)).unwrap();
    let previous = PersonalCloudStatus::default();
    let status = applied(&cloud, &resources, &Observed::default(), &[], &previous, now());
    assert_eq!(condition(&status, "Progressing"), is("False", "ExpansionRefused"));
    assert_eq!(resources.stateful_set.spec.unwrap().replicas, Some(2));
}
