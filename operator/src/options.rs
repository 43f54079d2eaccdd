//! Flags and their environment variables.

use clap::{Parser, ValueEnum};
use cumulet_crds::PersonalCloudSpec;
use cumulet_plan::settings::{PullPolicy, Settings};
use k8s_openapi::api::core::v1::ResourceRequirements;
use serde_json::Value;
use std::net::SocketAddr;

/// Keeps the `PersonalCloud`s and `DatArchives` of a cluster as their specs say.
///
/// Needs the custom resource definitions of group cumulet.io, and a kubeconfig or a pod's service account.
#[derive(Debug, Clone, Parser)]
#[command(version, about)]
pub struct Options {
    /// Image of the replicas.
    #[arg(long, env = "CUMULET_NODE_IMAGE")]
    pub node_image: String,
    /// When the replicas' image is pulled.
    #[arg(
        long,
        env = "CUMULET_NODE_IMAGE_PULL_POLICY",
        value_enum,
        ignore_case = true,
        default_value_t
    )]
    pub node_image_pull_policy: Pull,
    /// Resources of each replica's container, as the JSON of a pod's `resources`.
    #[arg(long, env = "CUMULET_NODE_RESOURCES", value_name = "JSON", value_parser = resources, default_value = "{}")]
    pub node_resources: ResourceRequirements,
    /// Spec of the PersonalCloud named "default" that is made on demand, as JSON.
    #[arg(long, env = "CUMULET_DEFAULT_CLOUD", value_name = "JSON", value_parser = cloud_spec, default_value = "{}")]
    pub default_cloud: PersonalCloudSpec,
    /// The cluster's DNS domain.
    #[arg(long, env = "CUMULET_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Namespace in which the operator runs: its Lease is there, and its pods alone may use the replicas' API.
    #[arg(long, env = "CUMULET_NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Name of this operator among those that stand by; unique.
    #[arg(long, env = "CUMULET_POD_NAME", default_value = "cumulet-operator")]
    pub identity: String,
    /// Name of the Lease.
    #[arg(long, env = "CUMULET_LEASE_NAME", default_value = "cumulet-operator")]
    pub lease_name: String,
    /// Address of probes and metrics.
    #[arg(long, env = "CUMULET_OPS_LISTEN", default_value = "0.0.0.0:9090")]
    pub ops_listen: SocketAddr,
    /// Reconciles of one kind that run at once.
    #[arg(long, env = "CUMULET_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// What is logged, as a tracing filter.
    #[arg(long, env = "CUMULET_LOG", default_value = "info")]
    pub log: String,
    /// How it is logged.
    #[arg(long, env = "CUMULET_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Pull {
    /// At every start.
    Always,
    /// When the node does not have it.
    #[default]
    IfNotPresent,
    /// Never.
    Never,
}

/// How lines are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

impl Options {
    /// What every cloud shares.
    pub fn settings(&self) -> Settings {
        Settings {
            image: self.node_image.clone(),
            pull_policy: match self.node_image_pull_policy {
                Pull::Always => PullPolicy::Always,
                Pull::IfNotPresent => PullPolicy::IfNotPresent,
                Pull::Never => PullPolicy::Never,
            },
            resources: self.node_resources.clone(),
            cluster_domain: self.cluster_domain.clone(),
            operator_namespace: self.namespace.clone(),
        }
    }
}

fn resources(json: &str) -> Result<ResourceRequirements, String> {
    known_fields(json)
}

fn cloud_spec(json: &str) -> Result<PersonalCloudSpec, String> {
    known_fields(json)
}

/// Parses JSON and refuses fields that the type does not have: a typo must not be silently without effect.
fn known_fields<T: serde::de::DeserializeOwned + serde::Serialize>(json: &str) -> Result<T, String> {
    let given: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let parsed: T = serde_json::from_value(given.clone()).map_err(|error| error.to_string())?;
    let kept = serde_json::to_value(&parsed).map_err(|error| error.to_string())?;
    match first_lost(&given, &kept, String::new()) {
        Some(path) => Err(format!("there is no field {path}")),
        None => Ok(parsed),
    }
}

fn first_lost(given: &Value, kept: &Value, path: String) -> Option<String> {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    match (given, kept) {
        (given, Value::Null) if is_empty(given) => None,
        (Value::Object(given), Value::Object(kept)) => given.iter().find_map(|(name, value)| {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            first_lost(value, kept.get(name).unwrap_or(&Value::Null), path)
        }),
        (_, Value::Null) => Some(path),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from([&["cumulet-operator", "--node-image", "n"], arguments].concat())
    }

    #[test]
    fn the_default_clouds_fields_arrive() {
        let json = r#"{"replicas": 1, "storage": {"size": "1Gi"}, "network": {"bootstrap": ["a:1"]},
            "backup": {"s3": {"bucket": "b"}}}"#;
        let spec = parse(&["--default-cloud", json]).unwrap().default_cloud;
        assert_eq!((spec.replicas, spec.storage.size.as_str()), (1, "1Gi"));
        assert_eq!(spec.network.bootstrap, ["a:1"]);
        assert_eq!(spec.backup.unwrap().max_lag, "5s");
        assert_eq!(parse(&[]).unwrap().default_cloud, PersonalCloudSpec::default());
    }

    #[test]
    fn a_field_that_does_not_exist_is_an_error_with_its_path() {
        for (json, path) in [
            (r#"{"storage": {"siz": "1Gi"}}"#, "storage.siz"),
            (r#"{"relay": {"enabled": true}}"#, "relay"),
        ] {
            let error = parse(&["--default-cloud", json]).unwrap_err().to_string();
            assert!(error.contains(&format!("there is no field {path}")), "{error}");
        }
        assert!(parse(&["--node-resources", r#"{"limit": {"cpu": "1"}}"#]).is_err());
        assert!(parse(&["--node-resources", r#"{"limits": {"cpu": "1"}}"#]).is_ok());
        assert!(
            parse(&[
                "--default-cloud",
                r#"{"network": {"bootstrap": []}, "backup": null}"#
            ])
            .is_ok()
        );
    }

    #[test]
    fn the_pull_policy_is_spelled_as_in_kubernetes() {
        let settings = parse(&["--node-image-pull-policy", "Never"]).unwrap().settings();
        assert_eq!(settings.pull_policy, PullPolicy::Never);
    }
}
