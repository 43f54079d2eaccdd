//! One replica at a time may be evicted. Not for a single replica: its node could never be drained.

use crate::build::{owned, pods_of};
use crate::validate::Cloud;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub(crate) fn build(cloud: &Cloud) -> Option<PodDisruptionBudget> {
    (cloud.replicas >= 2).then(|| PodDisruptionBudget {
        metadata: owned(cloud, cloud.names.base()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(pods_of(cloud)),
            // A replica that is not ready holds nothing up.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cloud, parsed};

    #[test]
    fn only_two_replicas_or_more_have_a_budget() {
        let mut resource = cloud();
        for (replicas, expected) in [(0, false), (1, false), (2, true), (3, true)] {
            resource.spec.replicas = replicas;
            assert_eq!(build(&parsed(&resource)).is_some(), expected, "{replicas}");
        }
    }
}
