//! The replicas: one pod, one volume and one device key each.

use crate::build::container::{self, SECRET_VOLUME};
use crate::build::{Inputs, USER, owned, pods_of};
use crate::names::{CLOUD_LABEL, DATA_VOLUME};
use crate::validate::Cloud;
use cumulet_crds::{CloudDeletionPolicy, Expose};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Affinity, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodAffinityTerm, PodAntiAffinity,
    PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile, SecretVolumeSource, Volume,
    VolumeResourceRequirements, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

/// Seconds that a replica has to flush its heads and leave the swarm.
const GRACE_SECONDS: i64 = 30;

pub(crate) fn build(inputs: &Inputs<'_>) -> StatefulSet {
    let cloud = inputs.cloud;
    let when_deleted = match cloud.deletion_policy {
        CloudDeletionPolicy::Retain => "Retain",
        CloudDeletionPolicy::Delete => "Delete",
    };
    StatefulSet {
        metadata: owned(cloud, cloud.names.base()),
        spec: Some(StatefulSetSpec {
            replicas: Some(cloud.replicas.into()),
            service_name: Some(cloud.names.headless()),
            selector: pods_of(cloud),
            // Replicas have no order among themselves; one that cannot start must not keep the others down.
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: None,
            }),
            revision_history_limit: Some(2),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some(when_deleted.into()),
                when_scaled: Some("Retain".into()),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(cloud.names.labels()),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(inputs)),
            },
            volume_claim_templates: Some(vec![claim(cloud, inputs.claim_size.clone())]),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn pod(inputs: &Inputs<'_>) -> PodSpec {
    let cloud = inputs.cloud;
    let host_network = cloud.expose == Expose::HostNetwork;
    PodSpec {
        service_account_name: Some(cloud.names.base()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        host_network: host_network.then_some(true),
        dns_policy: host_network.then(|| "ClusterFirstWithHostNet".into()),
        affinity: Some(Affinity {
            pod_anti_affinity: Some(apart(cloud)),
            ..Affinity::default()
        }),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            // Walking a large volume at every start takes minutes.
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".into(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container::build(inputs)],
        volumes: Some(vec![Volume {
            name: SECRET_VOLUME.into(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(cloud.names.base()),
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        }]),
        ..PodSpec::default()
    }
}

/// Replicas of one cloud rather run on different nodes.
fn apart(cloud: &Cloud) -> PodAntiAffinity {
    let one = [(CLOUD_LABEL.to_owned(), cloud.names.cloud().to_owned())];
    PodAntiAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
            weight: 100,
            pod_affinity_term: PodAffinityTerm {
                label_selector: Some(LabelSelector {
                    match_labels: Some(one.into_iter().collect()),
                    ..LabelSelector::default()
                }),
                topology_key: "kubernetes.io/hostname".into(),
                ..PodAffinityTerm::default()
            },
        }]),
        ..PodAntiAffinity::default()
    }
}

fn claim(cloud: &Cloud, size: Quantity) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA_VOLUME.into()),
            labels: Some(cloud.names.labels()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            storage_class_name: cloud.storage_class.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), size)].into_iter().collect()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cloud, credentials, full_cloud, parsed, settings};
    use cumulet_crds::PersonalCloud;

    fn spec(cloud: &Cloud) -> StatefulSetSpec {
        let inputs = Inputs {
            cloud,
            credentials: &credentials(cloud),
            settings: &settings(),
            claim_size: Quantity("5Gi".into()),
            gateway_open: false,
            growing: &[],
        };
        build(&inputs).spec.unwrap()
    }

    fn changed(change: impl FnOnce(&mut PersonalCloud)) -> StatefulSetSpec {
        let mut resource = cloud();
        change(&mut resource);
        spec(&parsed(&resource))
    }

    #[test]
    fn a_replica_has_no_privilege_and_no_kubernetes_token() {
        let pod = spec(&full_cloud()).template.spec.unwrap();
        assert_eq!(pod.automount_service_account_token, Some(false));
        let pod_context = pod.security_context.unwrap();
        assert_eq!(
            (pod_context.run_as_non_root, pod_context.run_as_user),
            (Some(true), Some(65532))
        );
        assert_eq!(pod_context.seccomp_profile.unwrap().type_, "RuntimeDefault");
        let context = pod.containers[0].security_context.clone().unwrap();
        assert_eq!(context.read_only_root_filesystem, Some(true));
        assert_eq!(context.allow_privilege_escalation, Some(false));
        assert_eq!(
            context.capabilities.unwrap(),
            serde_json::from_value(serde_json::json!({"drop": ["ALL"]})).unwrap()
        );
    }

    #[test]
    fn the_selector_chooses_exactly_this_clouds_pods() {
        let spec = spec(&full_cloud());
        let labels = spec.template.metadata.unwrap().labels.unwrap();
        for (key, value) in spec.selector.match_labels.unwrap() {
            assert_eq!(labels.get(&key), Some(&value));
        }
        assert_eq!(labels["cumulet.io/cloud"], "ada");
    }

    #[test]
    fn the_claim_template_has_the_given_size_and_not_the_specs() {
        let claim = spec(&full_cloud())
            .volume_claim_templates
            .unwrap()
            .remove(0)
            .spec
            .unwrap();
        assert_eq!(claim.resources.unwrap().requests.unwrap()["storage"].0, "5Gi");
        assert_eq!(claim.storage_class_name.as_deref(), Some("local-path"));
    }

    #[test]
    fn volumes_stay_unless_the_cloud_says_otherwise_and_always_on_scale_down() {
        let policy = |spec: StatefulSetSpec| {
            let policy = spec.persistent_volume_claim_retention_policy.unwrap();
            (policy.when_deleted.unwrap(), policy.when_scaled.unwrap())
        };
        let retain = "Retain".to_owned();
        assert_eq!(policy(changed(|_| {})), (retain.clone(), retain.clone()));
        let delete = changed(|cloud| cloud.spec.deletion_policy = CloudDeletionPolicy::Delete);
        assert_eq!(policy(delete), ("Delete".to_owned(), retain));
    }

    #[test]
    fn only_host_network_leaves_the_pod_network() {
        let pod = changed(|cloud| cloud.spec.network.expose = Expose::HostNetwork)
            .template
            .spec
            .unwrap();
        assert_eq!(
            (pod.host_network, pod.dns_policy.as_deref()),
            (Some(true), Some("ClusterFirstWithHostNet"))
        );
        let pod = changed(|cloud| cloud.spec.network.expose = Expose::NodePort)
            .template
            .spec
            .unwrap();
        assert_eq!((pod.host_network, pod.dns_policy), (None, None));
    }

    #[test]
    fn a_hibernated_cloud_has_no_replicas_and_keeps_its_claims() {
        let spec = changed(|cloud| cloud.spec.replicas = 0);
        assert_eq!(spec.replicas, Some(0));
        assert_eq!(spec.volume_claim_templates.unwrap().len(), 1);
    }
}
