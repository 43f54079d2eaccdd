//! What the operator was started with and every cloud shares.

use k8s_openapi::api::core::v1::ResourceRequirements;

/// When the kubelet pulls the node's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// When the node does not have it.
    #[default]
    IfNotPresent,
    /// Never: it was loaded by other means.
    Never,
}

impl PullPolicy {
    /// As Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// What every cloud shares.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Image of the replicas.
    pub image: String,
    /// When that image is pulled.
    pub pull_policy: PullPolicy,
    /// Resources of each replica's container.
    pub resources: ResourceRequirements,
    /// The cluster's DNS domain, such as `cluster.local`.
    pub cluster_domain: String,
    /// The namespace in which the operator runs: only its pods may talk to the replicas' API.
    pub operator_namespace: String,
}
