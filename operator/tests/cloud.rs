//! The reconcile of a cloud against an API server in memory.

#![allow(clippy::unwrap_used, clippy::large_futures)]

mod support;

use cumulet_crds::PersonalCloud;
use cumulet_operator::cloud_controller::reconcile;
use serde_json::json;
use std::sync::Arc;
use support::{CLOUD, Cluster, SECRET, SET, cloud, condition, is, operator, pod, replica, reread};

fn ready(cluster: &Cluster, replicas: i32) {
    cluster.change(SET, |set| {
        set["status"] = json!({"replicas": replicas, "readyReplicas": replicas, "updatedReplicas": replicas,
            "currentRevision": "a", "updateRevision": "a", "observedGeneration": set["metadata"]["generation"]});
    });
}

#[tokio::test]
async fn a_new_cloud_becomes_its_objects_with_the_stateful_set_last_and_a_status_after_it() {
    let cluster = Cluster::default();
    let cloud = cloud(&cluster, json!({"replicas": 2}));
    reconcile(Arc::new(cloud.clone()), operator(&cluster, &[cloud], &[], 1))
        .await
        .unwrap();
    let writes = cluster.writes();
    let kinds: Vec<_> = writes
        .iter()
        .map(|write| write.rsplit('/').nth(1).unwrap().to_owned())
        .collect();
    let expected = [
        "secrets",
        "serviceaccounts",
        "networkpolicies",
        "services",
        "services",
        "poddisruptionbudgets",
        "statefulsets",
        "ada",
    ];
    assert_eq!(kinds, expected, "{writes:?}");
    assert_eq!(
        condition(&cluster, CLOUD, "Ready"),
        is("False", "WaitingForReplicas")
    );
}

#[tokio::test]
async fn a_steady_cloud_is_not_written_to() {
    let cluster = Cluster::default();
    let resource = cloud(&cluster, json!({"replicas": 2}));
    let operator = operator(&cluster, std::slice::from_ref(&resource), &[], 1);
    reconcile(Arc::new(resource), Arc::clone(&operator))
        .await
        .unwrap();
    ready(&cluster, 2);
    reconcile(reread(&cluster, CLOUD), Arc::clone(&operator))
        .await
        .unwrap();
    assert_eq!(
        condition(&cluster, CLOUD, "Ready"),
        is("True", "AllReplicasReady")
    );
    cluster.writes();
    for _ in 0..3 {
        reconcile(reread(&cluster, CLOUD), Arc::clone(&operator))
            .await
            .unwrap();
    }
    assert_eq!(cluster.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_stateful_set_that_somebody_changed_is_applied_again() {
    let cluster = Cluster::default();
    let resource = cloud(&cluster, json!({"replicas": 1}));
    let operator = operator(&cluster, std::slice::from_ref(&resource), &[], 1);
    reconcile(Arc::new(resource), Arc::clone(&operator))
        .await
        .unwrap();
    cluster.change(SET, |set| {
        set["spec"]["replicas"] = json!(7);
        set["metadata"]["generation"] = json!(2);
    });
    reconcile(reread(&cluster, CLOUD), operator).await.unwrap();
    assert_eq!(cluster.get(SET).unwrap()["spec"]["replicas"], 1);
}

#[tokio::test]
async fn another_operator_keeps_the_secrets_that_are_there() {
    let cluster = Cluster::default();
    let resource = cloud(&cluster, json!({"replicas": 2}));
    reconcile(
        Arc::new(resource.clone()),
        operator(&cluster, std::slice::from_ref(&resource), &[], 1),
    )
    .await
    .unwrap();
    let before = cluster.get(SECRET).unwrap();
    reconcile(
        Arc::new(resource.clone()),
        operator(&cluster, &[resource], &[], 1),
    )
    .await
    .unwrap();
    let after = cluster.get(SECRET).unwrap();
    assert_eq!(before["data"], after["data"]);
    assert_eq!(before["data"].as_object().unwrap().len(), 7);
}

#[tokio::test]
async fn a_strangers_stateful_set_is_left_alone_and_the_status_says_so() {
    let cluster = Cluster::default();
    let stranger = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "cumulet-ada"},
        "spec": {"selector": {}, "serviceName": "x", "template": {}}});
    cluster.put(SET, stranger.clone());
    let cloud = cloud(&cluster, json!({}));
    reconcile(Arc::new(cloud.clone()), operator(&cluster, &[cloud], &[], 1))
        .await
        .unwrap();
    assert_eq!(cluster.get(SET).unwrap(), stranger);
    assert_eq!(condition(&cluster, CLOUD, "Ready"), is("False", "NameTaken"));
    assert_eq!(cluster.writes(), [format!("PATCH {CLOUD}/status")]);
}

#[tokio::test]
async fn a_cloud_that_shrinks_to_one_replica_loses_its_disruption_budget() {
    let budget = "/apis/policy/v1/namespaces/ns/poddisruptionbudgets/cumulet-ada";
    let cluster = Cluster::default();
    let mut resource = cloud(&cluster, json!({"replicas": 2}));
    let operator = operator(&cluster, std::slice::from_ref(&resource), &[], 1);
    reconcile(Arc::new(resource.clone()), Arc::clone(&operator))
        .await
        .unwrap();
    assert!(cluster.get(budget).is_some());
    resource.spec.replicas = 1;
    reconcile(Arc::new(resource), operator).await.unwrap();
    assert!(cluster.get(budget).is_none());
}

#[tokio::test]
async fn a_paused_cloud_is_written_nothing_but_its_status() {
    let cluster = Cluster::default();
    let cloud = cloud(&cluster, json!({"paused": true}));
    reconcile(Arc::new(cloud.clone()), operator(&cluster, &[cloud], &[], 1))
        .await
        .unwrap();
    assert_eq!(cluster.writes(), [format!("PATCH {CLOUD}/status")]);
    assert_eq!(condition(&cluster, CLOUD, "Paused"), is("True", "Paused"));
}

#[tokio::test]
async fn what_the_replicas_say_reaches_the_status() {
    let cluster = Cluster::default();
    let resource = cloud(&cluster, json!({"replicas": 2}));
    reconcile(
        Arc::new(resource.clone()),
        operator(&cluster, std::slice::from_ref(&resource), &[], 1),
    )
    .await
    .unwrap();
    ready(&cluster, 2);
    let (_replicas, port) = replica::start(&cluster, 2).await;
    pod(&cluster, 0, "a");
    pod(&cluster, 1, "b");
    reconcile(
        reread::<PersonalCloud>(&cluster, CLOUD),
        operator(&cluster, &[resource], &[], port),
    )
    .await
    .unwrap();
    let status = &cluster.get(CLOUD).unwrap()["status"];
    assert_eq!(
        (&status["peers"], &status["bytesStored"]),
        (&json!(4), &json!(10)),
        "{status}"
    );
    assert_eq!(
        condition(&cluster, CLOUD, "StorageHealthy"),
        is("True", "Verified")
    );
}
