//! What every cluster is expected to have and a bare one lacks: DNS for pods, and a default StorageClass.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::Kubectl;
use crate::image::{self, Entry, ImageSpec, Reference};
use crate::tools::go;

const MANIFESTS: &str = include_str!("../../cluster/addons.yaml");
const DNS_IMAGE: &str = "cumulet.local/coredns:1.12.4";
const DNS_READY_WITHIN: Duration = Duration::from_mins(2);

/// CoreDNS as an image: its tar and reference.
pub(super) fn dns_image() -> Result<(PathBuf, Reference)> {
    let spec = ImageSpec {
        reference: Reference::parse(DNS_IMAGE)?,
        architecture: image::Architecture::host()?,
        entrypoint: vec!["/coredns".into()],
        user: None,
        environment: Vec::new(),
        entries: vec![Entry::executable("coredns", go::COREDNS.executable()?)],
    };
    let tar = image::write_cached(&spec)?;
    Ok((tar, spec.reference))
}

/// Applies the objects and waits until names resolve.
pub(super) fn apply(kubectl: &Kubectl) -> Result<()> {
    kubectl.apply(MANIFESTS)?;
    kubectl.wait_for(
        "cluster DNS",
        DNS_READY_WITHIN,
        &["deployment", "coredns", "-n", "kube-system"],
        |deployment| (deployment["status"]["readyReplicas"].as_u64() >= Some(1)).then_some(()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::layout::DNS_SERVICE_IP;

    #[test]
    fn the_manifests_name_the_image_that_is_imported_and_the_address_that_pods_ask() {
        assert!(MANIFESTS.contains(&format!("image: {DNS_IMAGE}\n")));
        assert!(MANIFESTS.contains(&format!("clusterIP: {DNS_SERVICE_IP}\n")));
    }
}
