//! A claim that grows: its storage request alone, applied to the claim that the StatefulSet made.

use crate::validate::Cloud;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(crate) fn build(cloud: &Cloud, claim: &PersistentVolumeClaim) -> Option<PersistentVolumeClaim> {
    let request = [("storage".to_owned(), cloud.storage_size.quantity())];
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim.metadata.name.clone()?),
            namespace: Some(cloud.names.namespace().into()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            resources: Some(VolumeResourceRequirements {
                requests: Some(request.into_iter().collect()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::full_cloud;

    #[test]
    fn nothing_but_the_request_is_applied() {
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some("data-cumulet-ada-0".into()),
                ..ObjectMeta::default()
            },
            ..PersistentVolumeClaim::default()
        };
        let built = serde_json::to_value(build(&full_cloud(), &claim).unwrap()).unwrap();
        assert_eq!(
            built,
            serde_json::json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": "data-cumulet-ada-0", "namespace": "ns"},
                "spec": {"resources": {"requests": {"storage": "10Gi"}}}})
        );
    }
}
