//! The reconcile of an archive against an API server in memory and replicas over real TLS.

#![allow(clippy::unwrap_used, clippy::large_futures)]

mod support;

use cumulet_crds::{DatArchive, PersonalCloud};
use cumulet_operator::archive_controller::reconcile;
use cumulet_operator::cloud_controller;
use cumulet_operator::context::Context;
use serde_json::{Value, json};
use std::sync::Arc;
use support::replica::{self, Replica};
use support::{ARCHIVE, CLOUD, Cluster, HEX, archive, cloud, condition, is, operator, pod, reread};

/// A cloud with running replicas, an archive in it, and the operator.
struct Scene {
    cluster: Cluster,
    replicas: Vec<Replica>,
    operator: Arc<Context>,
}

async fn scene(replicas: u8, extra: Value) -> Scene {
    let cluster = Cluster::default();
    let cloud = cloud(&cluster, json!({"replicas": replicas}));
    let archive = archive(&cluster, "ada", extra);
    let maker = operator(&cluster, std::slice::from_ref(&cloud), &[], 1);
    cloud_controller::reconcile(reread::<PersonalCloud>(&cluster, CLOUD), maker)
        .await
        .unwrap();
    let (running, port) = replica::start(&cluster, replicas).await;
    for index in 0..replicas {
        pod(&cluster, index, &format!("container-{index}"));
    }
    let operator = operator(&cluster, &[cloud], &[archive], port);
    cluster.writes();
    Scene {
        cluster,
        replicas: running,
        operator,
    }
}

impl Scene {
    async fn reconcile(&self) -> Result<(), String> {
        let archive = reread::<DatArchive>(&self.cluster, ARCHIVE);
        reconcile(archive, Arc::clone(&self.operator))
            .await
            .map(|_| ())
            .map_err(|error| error.to_string())
    }

    fn delete(&self) {
        self.cluster.change(ARCHIVE, |archive| {
            archive["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
    }
}

fn put() -> String {
    format!("PUT /api/v1/archives/{HEX}")
}

fn get() -> String {
    format!("GET /api/v1/archives/{HEX}")
}

#[tokio::test]
async fn an_archive_alone_makes_the_default_cloud_with_the_charts_defaults() {
    let cluster = Cluster::default();
    let mut archive = archive(&cluster, "default", json!({}));
    archive.metadata.finalizers = None;
    let operator = operator(&cluster, &[], &[archive.clone()], 1);
    reconcile(Arc::new(archive), operator).await.unwrap();
    let path = "/apis/cumulet.io/v1alpha1/namespaces/ns/personalclouds/default";
    let made = cluster.get(path).unwrap();
    assert_eq!(
        (&made["spec"]["replicas"], &made["spec"]["storage"]["size"]),
        (&json!(1), &json!("1Gi"))
    );
    assert_eq!(
        cluster.get(ARCHIVE).unwrap()["metadata"]["finalizers"],
        json!(["cumulet.io/pin"])
    );
    assert_eq!(condition(&cluster, ARCHIVE, "Ready"), is("False", "CloudMissing"));
}

#[tokio::test]
async fn an_archive_of_a_cloud_that_is_not_there_waits_and_makes_none() {
    let cluster = Cluster::default();
    let archive = archive(&cluster, "bob", json!({}));
    reconcile(Arc::new(archive.clone()), operator(&cluster, &[], &[archive], 1))
        .await
        .unwrap();
    assert_eq!(cluster.writes(), [format!("PATCH {ARCHIVE}/status")]);
    assert_eq!(condition(&cluster, ARCHIVE, "Ready"), is("False", "CloudMissing"));
}

#[tokio::test]
async fn every_replica_is_told_once_and_then_only_asked() {
    let scene = scene(2, json!({"type": "Drive", "sync": {"include": ["a/**"]}})).await;
    scene.reconcile().await.unwrap();
    for replica in &scene.replicas {
        assert_eq!(replica.requests(), [put()]);
        let pin = replica.pinned().unwrap();
        assert_eq!(
            (&pin["name"], &pin["type"], &pin["sync"]["include"]),
            (&json!("photos"), &json!("Drive"), &json!(["a/**"]))
        );
    }
    assert_eq!(
        condition(&scene.cluster, ARCHIVE, "Synced"),
        is("False", "NoPeers")
    );
    scene.reconcile().await.unwrap();
    assert_eq!(scene.replicas[0].requests(), [get()]);
}

#[tokio::test]
async fn the_archive_is_synced_when_every_replica_is_and_then_nothing_is_written() {
    let scene = scene(2, json!({})).await;
    scene.replicas[0].becomes_synced();
    scene.reconcile().await.unwrap();
    assert_eq!(
        condition(&scene.cluster, ARCHIVE, "Synced"),
        is("False", "NoPeers")
    );
    scene.replicas[1].becomes_synced();
    scene.reconcile().await.unwrap();
    assert_eq!(
        condition(&scene.cluster, ARCHIVE, "Synced"),
        is("True", "Complete")
    );
    let status = &scene.cluster.get(ARCHIVE).unwrap()["status"];
    assert_eq!(
        (&status["syncedReplicas"], &status["progress"], &status["type"]),
        (&json!(2), &json!(1.0), &json!("Drive"))
    );
    scene.cluster.writes();
    scene.reconcile().await.unwrap();
    assert_eq!(scene.cluster.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_restarted_container_is_told_again_and_so_is_one_that_forgot() {
    let scene = scene(1, json!({})).await;
    scene.reconcile().await.unwrap();
    scene.replicas[0].requests();
    pod(&scene.cluster, 0, "container-after-restart");
    scene.reconcile().await.unwrap();
    assert_eq!(scene.replicas[0].requests(), [put()]);
    scene.replicas[0].forgets();
    scene.reconcile().await.unwrap();
    assert_eq!(scene.replicas[0].requests(), [get(), put()]);
}

#[tokio::test]
async fn a_changed_wish_is_told() {
    let scene = scene(1, json!({})).await;
    scene.reconcile().await.unwrap();
    scene.cluster.change(ARCHIVE, |archive| {
        archive["spec"]["gateway"] = json!({"public": true});
    });
    scene.replicas[0].requests();
    scene.reconcile().await.unwrap();
    assert_eq!(scene.replicas[0].requests(), [put()]);
    assert_eq!(scene.replicas[0].pinned().unwrap()["gateway"], true);
}

#[tokio::test]
async fn deleting_an_archive_takes_the_pin_back_and_keeps_the_blocks() {
    let scene = scene(2, json!({})).await;
    scene.reconcile().await.unwrap();
    scene.delete();
    for replica in &scene.replicas {
        replica.requests();
    }
    scene.reconcile().await.unwrap();
    for replica in &scene.replicas {
        assert_eq!(
            replica.requests(),
            [format!("DELETE /api/v1/archives/{HEX}?data=retain")]
        );
    }
    assert!(scene.cluster.get(ARCHIVE).is_none(), "the finalizer is off");
}

#[tokio::test]
async fn deleting_an_archive_deletes_the_blocks_if_it_says_so() {
    let scene = scene(1, json!({"deletionPolicy": "Delete"})).await;
    scene.delete();
    scene.reconcile().await.unwrap();
    assert_eq!(
        scene.replicas[0].requests(),
        [format!("DELETE /api/v1/archives/{HEX}?data=delete")]
    );
}

#[tokio::test]
async fn an_archive_stays_until_every_replica_was_told() {
    let scene = scene(1, json!({})).await;
    pod(&scene.cluster, 0, "c");
    scene
        .cluster
        .change("/api/v1/namespaces/ns/pods/cumulet-ada-0", |pod| {
            pod["status"]["containerStatuses"][0]["state"] =
                json!({"waiting": {"reason": "CrashLoopBackOff"}});
        });
    scene.delete();
    let error = scene.reconcile().await.unwrap_err();
    assert!(error.contains("cumulet-ada-0 is not running"), "{error}");
    assert_eq!(
        condition(&scene.cluster, ARCHIVE, "Ready"),
        is("False", "Deleting")
    );
}

#[tokio::test]
async fn with_its_cloud_gone_an_archive_goes_at_once() {
    let cluster = Cluster::default();
    archive(&cluster, "ada", json!({}));
    cluster.change(ARCHIVE, |archive| {
        archive["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    reconcile(reread(&cluster, ARCHIVE), operator(&cluster, &[], &[], 1))
        .await
        .unwrap();
    assert!(cluster.get(ARCHIVE).is_none());
}

#[tokio::test]
async fn a_replica_with_another_authoritys_certificate_gets_no_token() {
    let scene = scene(1, json!({})).await;
    let path = support::SECRET;
    let other = Cluster::default();
    let twin = cloud(&other, json!({"replicas": 1}));
    let maker = operator(&other, std::slice::from_ref(&twin), &[], 1);
    cloud_controller::reconcile(Arc::new(twin), maker).await.unwrap();
    let foreign = other.get(path).unwrap()["data"]["ca.crt"].clone();
    scene
        .cluster
        .change(path, |secret| secret["data"]["ca.crt"] = foreign);
    scene.reconcile().await.unwrap();
    assert_eq!(scene.replicas[0].requests(), Vec::<String>::new());
    assert_eq!(
        condition(&scene.cluster, ARCHIVE, "Ready"),
        is("False", "ReplicaUnreachable")
    );
}

#[tokio::test]
async fn a_replica_that_fails_is_shown_with_its_words() {
    let scene = scene(1, json!({})).await;
    scene.replicas[0].refuses();
    scene.reconcile().await.unwrap();
    let status = scene.cluster.get(ARCHIVE).unwrap()["status"].to_string();
    assert!(status.contains("disk full: no room"), "{status}");
}

#[tokio::test]
async fn of_two_archives_with_one_key_the_younger_is_refused_and_its_end_keeps_the_pin() {
    let scene = scene(1, json!({})).await;
    let older = reread::<DatArchive>(&scene.cluster, ARCHIVE);
    let mut younger = (*older).clone();
    younger.metadata.name = Some("twin".into());
    younger.metadata.uid = Some("twin-uid".into());
    let path = ARCHIVE.replace("photos", "twin");
    scene.cluster.put(&path, serde_json::to_value(&younger).unwrap());
    let cloud = reread::<PersonalCloud>(&scene.cluster, CLOUD);
    let port = scene.operator.api_port;
    let operator = operator(
        &scene.cluster,
        &[(*cloud).clone()],
        &[(*older).clone(), younger.clone()],
        port,
    );
    reconcile(Arc::new(younger), Arc::clone(&operator)).await.unwrap();
    assert_eq!(
        condition(&scene.cluster, &path, "Ready"),
        is("False", "DuplicateKey")
    );
    scene.cluster.change(&path, |archive| {
        archive["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    reconcile(reread(&scene.cluster, &path), operator).await.unwrap();
    assert_eq!(scene.replicas[0].requests(), Vec::<String>::new());
    assert!(scene.cluster.get(&path).is_none());
}

#[tokio::test]
async fn an_archive_whose_replica_never_ran_goes_at_once() {
    let scene = scene(1, json!({})).await;
    scene
        .cluster
        .change("/api/v1/namespaces/ns/pods/cumulet-ada-0", |pod| {
            pod["status"] = json!({});
        });
    scene.delete();
    scene.reconcile().await.unwrap();
    assert!(scene.cluster.get(ARCHIVE).is_none());
}
