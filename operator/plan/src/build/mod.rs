//! One Kubernetes object per file, from validated types only. Same input, same object: no clock, no randomness.
//!
//! Each builder returns the whole object that the operator wishes; fields that are absent are left to others.

mod client_service;
mod container;
mod expansion;
mod headless_service;
mod network_policy;
mod pod_disruption_budget;
mod secret;
mod service_account;
mod stateful_set;

use crate::credentials::Credentials;
use crate::resources::{Prepared, Resources};
use crate::settings::Settings;
use crate::validate::Cloud;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

/// UDP, also the name of the swarm's port.
pub(crate) const SWARM_PORT_NAME: &str = "swarm";
/// TCP at the same number, for networks that let no UDP through.
pub(crate) const SWARM_TCP_PORT_NAME: &str = "swarm-tcp";
/// TLS: the owner's and the operator's API.
pub const API_PORT: u16 = 8443;
/// Plain HTTP reading of archives.
pub const GATEWAY_PORT: u16 = 8080;
/// Probes and metrics.
pub const OPS_PORT: u16 = 9090;
/// A DHT for browsers, over WebSockets, of every replica that serves one.
pub const WEBSOCKET_PORT: u16 = 8090;
/// User and group of the replicas' process; that of "nonroot" in distroless images.
pub(crate) const USER: i64 = 65532;

/// What the builders need to know beside the cloud's spec.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The cloud.
    pub cloud: &'a Cloud,
    /// Its secrets.
    pub credentials: &'a Credentials,
    /// What all clouds share.
    pub settings: &'a Settings,
    /// Size in the volume claim template: what the existing StatefulSet says, because it cannot be changed.
    pub claim_size: Quantity,
    /// Some archive is public, so the gateway's port is open.
    pub gateway_open: bool,
    /// Claims that have to grow.
    pub growing: &'a [PersistentVolumeClaim],
}

/// Builds everything that a cloud becomes.
pub fn build(inputs: &Inputs<'_>) -> Resources<Prepared> {
    Resources {
        secret: secret::build(inputs.cloud, inputs.credentials),
        service_account: service_account::build(inputs.cloud),
        network_policy: network_policy::build(inputs.cloud, inputs.settings, inputs.gateway_open),
        headless_service: headless_service::build(inputs.cloud),
        client_service: client_service::build(inputs.cloud),
        pod_disruption_budget: pod_disruption_budget::build(inputs.cloud),
        expansions: inputs
            .growing
            .iter()
            .filter_map(|claim| expansion::build(inputs.cloud, claim))
            .collect(),
        refused_expansions: Vec::new(),
        stateful_set: stateful_set::build(inputs),
        state: std::marker::PhantomData,
    }
}

/// Metadata of an object that goes when its cloud goes.
pub(crate) fn owned(cloud: &Cloud, name: String) -> ObjectMeta {
    ObjectMeta {
        owner_references: Some(vec![cloud.owner.clone()]),
        ..kept(cloud, name)
    }
}

/// Metadata of an object that outlives its cloud.
pub(crate) fn kept(cloud: &Cloud, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cloud.names.namespace().into()),
        labels: Some(cloud.names.labels()),
        ..ObjectMeta::default()
    }
}

pub(crate) fn pods_of(cloud: &Cloud) -> LabelSelector {
    LabelSelector {
        match_labels: Some(cloud.names.selector()),
        ..LabelSelector::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{credentials, full_cloud, settings};
    use kube::Resource;

    fn all() -> Resources<Prepared> {
        let cloud = full_cloud();
        build(&Inputs {
            credentials: &credentials(&cloud),
            settings: &settings(),
            claim_size: cloud.storage_size.quantity(),
            gateway_open: true,
            growing: &[],
            cloud: &cloud,
        })
    }

    #[test]
    fn the_same_input_builds_the_same_objects() {
        assert_eq!(all(), all());
    }

    #[test]
    fn everything_is_labelled_with_its_cloud_and_all_but_the_secret_goes_with_it() {
        let resources = all();
        let metas = [
            (resources.secret.meta().clone(), 0),
            (resources.service_account.meta().clone(), 1),
            (resources.network_policy.meta().clone(), 1),
            (resources.headless_service.meta().clone(), 1),
            (resources.client_service.meta().clone(), 1),
            (resources.pod_disruption_budget.unwrap().meta().clone(), 1),
            (resources.stateful_set.meta().clone(), 1),
        ];
        for (meta, owners) in metas {
            assert_eq!(meta.labels.unwrap()["cumulet.io/cloud"], "ada");
            assert_eq!(
                meta.owner_references.unwrap_or_default().len(),
                owners,
                "{:?}",
                meta.name
            );
        }
    }

    /// The whole of what a cloud becomes, for people to read in a review. `UPDATE_GOLDEN=1` writes it anew.
    #[test]
    fn a_cloud_with_everything_becomes_the_golden_objects() {
        let resources = all();
        let mut yaml = String::new();
        let mut put = |object: serde_json::Value| {
            yaml.push_str("---\n");
            yaml.push_str(&serde_yaml_ng::to_string(&object).unwrap());
        };
        put(serde_json::to_value(&resources.service_account).unwrap());
        put(serde_json::to_value(&resources.network_policy).unwrap());
        put(serde_json::to_value(&resources.headless_service).unwrap());
        put(serde_json::to_value(&resources.client_service).unwrap());
        put(serde_json::to_value(&resources.pod_disruption_budget).unwrap());
        put(serde_json::to_value(&resources.stateful_set).unwrap());
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/cloud.yaml");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &yaml).unwrap();
        }
        assert_eq!(yaml, std::fs::read_to_string(path).unwrap());
    }
}
