//! An API server of a few hundred objects in memory, and a replica that speaks the node's API over real TLS.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    clippy::similar_names
)]
#![allow(dead_code, unreachable_pub)] // Each test file uses a part.

pub mod replica;

use cumulet_crds::{DatArchive, PersonalCloud};
use cumulet_operator::apply::Server;
use cumulet_operator::context::{Context, Pins};
use cumulet_operator::telemetry::Metrics;
use cumulet_plan::settings::{PullPolicy, Settings};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::Client;
use kube::client::Body;
use kube::runtime::reflector::store;
use kube::runtime::watcher::Event;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

pub const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What an API server keeps, by path, and every write in order.
#[derive(Default)]
pub struct State {
    objects: BTreeMap<String, Value>,
    writes: Vec<String>,
    version: u64,
}

#[derive(Clone, Default)]
pub struct Cluster(Arc<Mutex<State>>);

impl Cluster {
    /// Puts an object at its path, as somebody else would.
    pub fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().objects.insert(path.into(), object);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    pub fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.0.lock().unwrap();
        state.version += 1;
        let version = state.version.to_string();
        let object = state.objects.get_mut(path).unwrap();
        change(object);
        object["metadata"]["resourceVersion"] = json!(version);
    }

    /// The writes since this was last called, as `VERB path`.
    pub fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().writes)
    }

    pub fn client(&self) -> Client {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let cluster = self.clone();
        #[allow(clippy::disallowed_methods)] // The test's runtime owns it.
        tokio::spawn(async move {
            while let Some((request, send)) = handle.next_request().await {
                send.send_response(cluster.answer(request).await);
            }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut state = self.0.lock().unwrap();
        if method != Method::GET {
            state.writes.push(format!("{method} {path}"));
        }
        let (code, answer) = match method {
            Method::GET if is_list(&path) => (200, state.list(&path)),
            Method::GET => state
                .objects
                .get(&path)
                .map_or_else(not_found, |object| (200, object.clone())),
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                state.create(&path, body)
            }
            Method::PATCH if path.ends_with("/status") => {
                state.status(path.trim_end_matches("/status"), &body)
            }
            Method::PATCH => state.apply(&path, body),
            Method::DELETE => match state.objects.remove(&path) {
                Some(object) => (200, object),
                None => not_found(),
            },
            other => panic!("nobody expected {other} {path}"),
        };
        Response::builder()
            .status(code)
            .body(Body::from(answer.to_string().into_bytes()))
            .unwrap()
    }
}

impl State {
    fn list(&self, path: &str) -> Value {
        let inside = format!("{path}/");
        let items: Vec<_> = self
            .objects
            .iter()
            .filter(|(at, _)| at.starts_with(&inside))
            .map(|(_, o)| o.clone())
            .collect();
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})
    }

    fn create(&mut self, path: &str, mut object: Value) -> (u16, Value) {
        if self.objects.contains_key(path) {
            return refusal(409, "AlreadyExists", "it exists");
        }
        self.stamp(&mut object, path, 1);
        self.objects.insert(path.into(), object.clone());
        (201, object)
    }

    /// Server-side apply as far as these tests need it: the one manager's object replaces what it applied before, and
    /// status and what the server itself sets stay.
    fn apply(&mut self, path: &str, mut wish: Value) -> (u16, Value) {
        let Some(before) = self.objects.get(path).cloned() else {
            if wish["metadata"].get("uid").is_some_and(|uid| !uid.is_null()) {
                return refusal(409, "Conflict", "uid mismatch: no existing object was found");
            }
            return self.create(path, wish);
        };
        if wish["metadata"].get("uid").is_some() && wish["metadata"]["uid"] != before["metadata"]["uid"] {
            return refusal(409, "Conflict", "uid mismatch");
        }
        for kept in [
            "uid",
            "creationTimestamp",
            "generation",
            "resourceVersion",
            "deletionTimestamp",
        ] {
            if let Some(value) = before["metadata"].get(kept) {
                wish["metadata"][kept] = value.clone();
            }
        }
        for kept in ["status", "spec", "data"] {
            if wish.get(kept).is_none() && before.get(kept).is_some() {
                wish[kept] = before[kept].clone();
            }
        }
        if wish != before {
            let raise = i64::from(wish["spec"] != before["spec"]);
            let generation = before["metadata"]["generation"].as_i64().unwrap_or(0) + raise;
            self.stamp(&mut wish, path, generation);
        }
        let done =
            wish["metadata"]["deletionTimestamp"].is_string() && wish["metadata"].get("finalizers").is_none();
        if done {
            self.objects.remove(path);
        } else {
            self.objects.insert(path.into(), wish.clone());
        }
        (200, wish)
    }

    fn status(&mut self, path: &str, patch: &Value) -> (u16, Value) {
        let Some(mut object) = self.objects.get(path).cloned() else {
            return not_found();
        };
        object["status"] = patch["status"].clone();
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path.into(), object.clone());
        (200, object)
    }

    fn stamp(&mut self, object: &mut Value, path: &str, generation: i64) {
        self.version += 1;
        let meta = object["metadata"].as_object_mut().unwrap();
        meta.entry("uid").or_insert(json!(format!("uid of {path}")));
        meta.insert("generation".into(), json!(generation));
        meta.insert("resourceVersion".into(), json!(self.version.to_string()));
    }
}

/// `…/namespaces/NS/PLURAL` is a list, with a name behind it is not.
fn is_list(path: &str) -> bool {
    path.split_once("/namespaces/")
        .is_some_and(|(_, rest)| rest.split('/').count() == 2)
}

fn not_found() -> (u16, Value) {
    refusal(404, "NotFound", "there is no such object")
}

fn refusal(code: u16, reason: &str, message: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}),
    )
}

/// An operator that sees these clouds and archives in its caches.
pub fn operator(
    cluster: &Cluster,
    clouds: &[PersonalCloud],
    archives: &[DatArchive],
    api_port: u16,
) -> Arc<Context> {
    let (cloud_store, mut cloud_writer) = store();
    let (archive_store, mut archive_writer) = store();
    for cloud in clouds {
        cloud_writer.apply_watcher_event(&Event::Apply(cloud.clone()));
    }
    for archive in archives {
        archive_writer.apply_watcher_event(&Event::Apply(archive.clone()));
    }
    let metrics = Metrics::new(&mut Registry::default());
    Arc::new(Context {
        client: cluster.client(),
        server: Server::new(cluster.client(), metrics.clone()),
        settings: Settings {
            image: "cumulet/cumulet-node:test".into(),
            pull_policy: PullPolicy::Never,
            resources: ResourceRequirements::default(),
            cluster_domain: "cluster.local".into(),
            operator_namespace: "cumulet-system".into(),
        },
        default_cloud: serde_json::from_value(json!({"replicas": 1, "storage": {"size": "1Gi"}})).unwrap(),
        clouds: cloud_store,
        archives: archive_store,
        // Nobody listens: a dropped wake-up must not matter.
        wake_cloud: mpsc::channel(1).0,
        wake_archive: mpsc::channel(1).0,
        pins: Pins::default(),
        api_port,
        now: || Timestamp::from_second(1_800_000_000).unwrap(),
        metrics,
    })
}

pub const CLOUD: &str = "/apis/cumulet.io/v1alpha1/namespaces/ns/personalclouds/ada";
pub const ARCHIVE: &str = "/apis/cumulet.io/v1alpha1/namespaces/ns/datarchives/photos";
pub const SET: &str = "/apis/apps/v1/namespaces/ns/statefulsets/cumulet-ada";
pub const SECRET: &str = "/api/v1/namespaces/ns/secrets/cumulet-ada";

/// A cloud in the cluster.
pub fn cloud(cluster: &Cluster, spec: Value) -> PersonalCloud {
    let object = json!({"apiVersion": "cumulet.io/v1alpha1", "kind": "PersonalCloud", "spec": spec,
        "metadata": {"name": "ada", "namespace": "ns", "uid": "cloud-uid", "generation": 1, "resourceVersion": "1"}});
    cluster.put(CLOUD, object.clone());
    serde_json::from_value(object).unwrap()
}

/// An archive in the cluster, with the finalizer.
pub fn archive(cluster: &Cluster, cloud_name: &str, extra: Value) -> DatArchive {
    let mut spec = json!({"key": format!("hyper://{HEX}"), "cloudName": cloud_name});
    spec.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    let object = json!({"apiVersion": "cumulet.io/v1alpha1", "kind": "DatArchive", "spec": spec,
        "metadata": {"name": "photos", "namespace": "ns", "uid": "archive-uid", "generation": 1, "resourceVersion": "1",
                     "finalizers": ["cumulet.io/pin"]}});
    cluster.put(ARCHIVE, object.clone());
    serde_json::from_value(object).unwrap()
}

/// A resource as the cluster now has it.
pub fn reread<K: serde::de::DeserializeOwned>(cluster: &Cluster, path: &str) -> Arc<K> {
    Arc::new(serde_json::from_value(cluster.get(path).unwrap()).unwrap())
}

/// A running pod of the cloud, at an address of the loopback range.
pub fn pod(cluster: &Cluster, index: u8, container: &str) {
    let name = format!("cumulet-ada-{index}");
    cluster.put(
        &format!("/api/v1/namespaces/ns/pods/{name}"),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "uid": name}, "status": {
            "podIP": format!("127.0.0.{}", index + 1),
            "containerStatuses": [{"name": "node", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                                   "containerID": container, "state": {"running": {}}}]}}),
    );
}

/// Status and reason of a condition.
pub fn condition(cluster: &Cluster, path: &str, kind: &str) -> (String, String) {
    let object = cluster.get(path).unwrap();
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let found = conditions
        .iter()
        .find(|condition| condition["type"] == kind)
        .unwrap_or_else(|| panic!("no {kind}: {object}"));
    (
        found["status"].as_str().unwrap().into(),
        found["reason"].as_str().unwrap().into(),
    )
}

pub fn is(status: &str, reason: &str) -> (String, String) {
    (status.into(), reason.into())
}
