//! The cloud's secrets. With `Retain` the Secret has no owner, so that it outlives the cloud as its volumes do:
//! volumes without the content key would be lost.

use crate::build::{kept, owned};
use crate::credentials::Credentials;
use crate::validate::Cloud;
use cumulet_crds::CloudDeletionPolicy;
use k8s_openapi::api::core::v1::Secret;

pub(crate) fn build(cloud: &Cloud, credentials: &Credentials) -> Secret {
    let metadata = match cloud.deletion_policy {
        CloudDeletionPolicy::Retain => kept(cloud, cloud.names.base()),
        CloudDeletionPolicy::Delete => owned(cloud, cloud.names.base()),
    };
    Secret {
        metadata,
        type_: Some("Opaque".into()),
        data: Some(credentials.data()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cloud, credentials, parsed};

    #[test]
    fn keys_outlive_the_cloud_unless_they_shall_be_deleted() {
        let mut resource = cloud();
        let retained = build(&parsed(&resource), &credentials(&parsed(&resource)));
        assert_eq!(retained.metadata.owner_references, None);
        resource.spec.deletion_policy = CloudDeletionPolicy::Delete;
        let deleted = build(&parsed(&resource), &credentials(&parsed(&resource)));
        assert_eq!(deleted.metadata.owner_references.unwrap()[0].uid, "cloud-uid");
    }

    #[test]
    fn every_secret_of_two_replicas_is_there() {
        let cloud = parsed(&cloud());
        let data = build(&cloud, &credentials(&cloud)).data.unwrap();
        let keys: Vec<_> = data.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "api-token",
                "ca.crt",
                "content-key",
                "seed-0",
                "seed-1",
                "tls.crt",
                "tls.key"
            ]
        );
    }
}
