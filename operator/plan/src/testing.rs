//! Resources that the tests of this crate start from.

use crate::credentials::{Credentials, Entropy, EntropyError, Tls};
use crate::settings::{PullPolicy, Settings};
use crate::validate::Cloud;
use cumulet_crds::{BackupSpec, DatArchive, DatArchiveSpec, PersonalCloud, PersonalCloudSpec};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;

pub(crate) const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Counts up instead of being random.
#[derive(Default)]
pub(crate) struct Counting(pub(crate) u8);

impl Entropy for Counting {
    fn bytes(&mut self) -> Result<[u8; 32], EntropyError> {
        self.0 += 1;
        Ok([self.0; 32])
    }

    fn tls(&mut self, hosts: &[String]) -> Result<Tls, EntropyError> {
        self.0 += 1;
        Ok(Tls {
            ca_certificate: format!("ca {}", self.0),
            certificate: format!("certificate for {}", hosts.join(" ")),
            private_key: format!("key {}", self.0).into(),
        })
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

pub(crate) fn cloud() -> PersonalCloud {
    let mut cloud = PersonalCloud::new("ada", PersonalCloudSpec::default());
    cloud.metadata.namespace = Some("ns".into());
    cloud.metadata.uid = Some("cloud-uid".into());
    cloud.metadata.generation = Some(3);
    cloud
}

pub(crate) fn with_backup(cloud: &mut PersonalCloud) -> &mut BackupSpec {
    let backup = serde_json::from_value(serde_json::json!({
        "s3": {"bucket": "bucket", "endpoint": "http://10.0.0.9:4566", "region": "eu-1", "forcePathStyle": true,
               "credentialsSecretName": "s3"}, "maxLag": "5s"}));
    cloud.spec.backup.insert(backup.unwrap())
}

pub(crate) fn archive() -> DatArchive {
    let spec: DatArchiveSpec =
        serde_json::from_value(serde_json::json!({"key": format!("hyper://{HEX}"), "cloudName": "ada"}))
            .unwrap();
    let mut archive = DatArchive::new("quicklooks", spec);
    archive.metadata.namespace = Some("ns".into());
    archive.metadata.uid = Some("archive-uid".into());
    archive.metadata.generation = Some(1);
    archive
}

pub(crate) fn parsed(cloud: &PersonalCloud) -> Cloud {
    Cloud::parse(cloud, "cluster.local").unwrap()
}

pub(crate) fn full_cloud() -> Cloud {
    let mut cloud = cloud();
    with_backup(&mut cloud);
    cloud.spec.storage.storage_class_name = Some("local-path".into());
    cloud.spec.network.bootstrap = vec!["10.0.0.1:49737".into(), "dht.example.org:49737".into()];
    parsed(&cloud)
}

pub(crate) fn credentials(cloud: &Cloud) -> Credentials {
    Credentials::complete(cloud, None, &mut Counting::default()).unwrap()
}

pub(crate) fn settings() -> Settings {
    Settings {
        image: "cumulet/cumulet-node:1".into(),
        pull_policy: PullPolicy::Never,
        resources: ResourceRequirements::default(),
        cluster_domain: "cluster.local".into(),
        operator_namespace: "cumulet-system".into(),
    }
}
