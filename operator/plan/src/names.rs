//! Names and labels of everything that a cloud becomes.
//!
//! All names are functions of the cloud's name, so that a cloud that is deleted and made again finds its volumes
//! and keys. A cloud's name has at most 40 characters (a rule of the definition); with the longest addition,
//! the revision hash that a StatefulSet puts on its pods' labels, 63 are not passed.

use std::collections::BTreeMap;

/// The field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "cumulet-operator";
/// Label that says who manages an object; its value is [`FIELD_MANAGER`].
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Label that says of which program an object is part.
pub const NAME_LABEL: &str = "app.kubernetes.io/name";
/// Value of [`NAME_LABEL`] on everything that belongs to replicas.
pub const NODE_NAME: &str = "cumulet-node";
/// Label with the cloud's name.
pub const CLOUD_LABEL: &str = "cumulet.io/cloud";
/// Finalizer of a `DatArchive`: its pin is taken back from the replicas before it goes.
pub const FINALIZER: &str = "cumulet.io/pin";
/// Name of the volume claim template; a claim is named `data-<pod>`.
pub const DATA_VOLUME: &str = "data";

/// The names of one cloud's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudNames {
    cloud: String,
    namespace: String,
    cluster_domain: String,
}

impl CloudNames {
    /// Names for the cloud `cloud` in `namespace`; `cluster_domain` is the cluster's DNS domain.
    pub fn new(cloud: &str, namespace: &str, cluster_domain: &str) -> Self {
        Self {
            cloud: cloud.into(),
            namespace: namespace.into(),
            cluster_domain: cluster_domain.into(),
        }
    }

    /// The cloud's own name.
    pub fn cloud(&self) -> &str {
        &self.cloud
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// StatefulSet, client Service, Secret, NetworkPolicy, ServiceAccount and disruption budget.
    pub fn base(&self) -> String {
        format!("cumulet-{}", self.cloud)
    }

    /// The headless Service that gives each replica a name of its own.
    pub fn headless(&self) -> String {
        format!("cumulet-{}-peers", self.cloud)
    }

    /// The pod of the replica with this index.
    pub fn pod(&self, index: u8) -> String {
        format!("{}-{index}", self.base())
    }

    /// The index of the replica that runs in `pod`, if the pod is one of this cloud's.
    pub fn replica_index(&self, pod: &str) -> Option<u8> {
        pod.strip_prefix(&self.base())?.strip_prefix('-')?.parse().ok()
    }

    /// DNS name of a replica.
    pub fn replica_host(&self, index: u8) -> String {
        format!(
            "{}.{}.{}.svc.{}",
            self.pod(index),
            self.headless(),
            self.namespace,
            self.cluster_domain
        )
    }

    /// DNS name under which every replica's certificate is valid.
    pub fn service_host(&self) -> String {
        format!("{}.{}.svc", self.base(), self.namespace)
    }

    /// All names that the replicas' certificate covers.
    pub fn certificate_hosts(&self) -> Vec<String> {
        let service = self.service_host();
        let headless = format!("{}.{}.svc", self.headless(), self.namespace);
        vec![
            self.base(),
            format!("{service}.{}", self.cluster_domain),
            format!("*.{headless}"),
            format!("*.{headless}.{}", self.cluster_domain),
            service,
            "localhost".into(),
        ]
    }

    /// Labels that select this cloud's pods. They never change: a StatefulSet's selector is immutable.
    pub fn selector(&self) -> BTreeMap<String, String> {
        [(NAME_LABEL, NODE_NAME), (CLOUD_LABEL, self.cloud.as_str())]
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    /// Labels of every object of this cloud.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        labels.insert(MANAGED_BY_LABEL.into(), FIELD_MANAGER.into());
        labels
    }

    /// [`Self::selector`] as a label selector string.
    pub fn selector_string(&self) -> String {
        self.selector()
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect::<Vec<_>>()
            .join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_cloud_name_still_fits_every_label() {
        let names = CloudNames::new(&"a".repeat(40), "ns", "cluster.local");
        assert!(names.headless().len() <= 63);
        // A StatefulSet labels its pods with its name, a dash and a hash of ten characters.
        assert!(names.base().len() + 11 <= 63);
        assert!(names.pod(15).len() <= 63);
    }

    #[test]
    fn a_pod_tells_its_replica_index_and_foreign_pods_none() {
        let names = CloudNames::new("ada", "ns", "cluster.local");
        assert_eq!(names.replica_index("cumulet-ada-11"), Some(11));
        for foreign in [
            "cumulet-ada",
            "cumulet-ada-",
            "cumulet-ada-x",
            "cumulet-adam-0",
            "other-0",
            "cumulet-ada-999",
        ] {
            assert_eq!(names.replica_index(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_certificate_covers_the_name_that_the_operator_asks_for() {
        let names = CloudNames::new("ada", "ns", "cluster.local");
        assert!(names.certificate_hosts().contains(&names.service_host()));
        assert_eq!(
            names.replica_host(1),
            "cumulet-ada-1.cumulet-ada-peers.ns.svc.cluster.local"
        );
    }
}
