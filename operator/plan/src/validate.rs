//! Parses the specs into types that cannot hold a bad state.
//!
//! The API server refuses most of this already, by the rules in the definitions. It is checked again because a
//! definition may be older than the operator, and because the builders rely on it.

use crate::key::{ArchiveKey, ParseKeyError};
use crate::names::CloudNames;
use crate::quantity::{ParseSizeError, Size};
use cumulet_api::{ArchiveSpec, Device, Devices, NodeStatus};
use cumulet_crds::{
    ArchiveDeletionPolicy, ArchiveType, BackupSpec, BlindPeerSpec, CloudDeletionPolicy, DatArchive,
    DeviceSpec, Expose, PersonalCloud, RelaySpec, S3Spec, SyncMode, WebSocketSpec,
};
use data_encoding::HEXLOWER;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use std::collections::BTreeSet;
use std::time::Duration;

/// The most replicas of a cloud: each has a key of its own in the Secret, whose size is bounded.
pub const MAX_REPLICAS: u8 = 16;

/// A cloud whose spec holds together.
#[derive(Debug, Clone, PartialEq)]
pub struct Cloud {
    /// Names of everything it becomes.
    pub names: CloudNames,
    /// How its objects point back to it.
    pub owner: OwnerReference,
    /// Generation of the spec that was read.
    pub generation: Option<i64>,
    /// Wanted replicas, 0 to [`MAX_REPLICAS`].
    pub replicas: u8,
    /// Size of each volume.
    pub storage_size: Size,
    /// Storage class; `None` is the cluster's default.
    pub storage_class: Option<String>,
    /// Port of the swarm, for UDP and TCP.
    pub swarm_port: u16,
    /// How that port is reached from outside.
    pub expose: Expose,
    /// DHT bootstrap nodes, `host:port`; empty is the public DHT.
    pub bootstrap: Vec<String>,
    /// Whether archives that do not say so are announced.
    pub announce: bool,
    /// Whether the replicas are lasting nodes of the DHT.
    pub serve_dht: bool,
    /// Public keys of the owner's devices, lower-case hex, in their order, each once.
    pub devices: Vec<String>,
    /// How they relay, if they do.
    pub relay: Option<Relay>,
    /// Whether browsers get a DHT, and which.
    pub websocket: WebSocketSpec,
    /// Whether cores are kept for apps, and whose.
    pub blind_peer: BlindPeerSpec,
    /// Where blocks are backed up.
    pub backup: Option<Backup>,
    /// What happens to volumes and keys at the end.
    pub deletion_policy: CloudDeletionPolicy,
    /// Hands off.
    pub paused: bool,
}

/// How replicas relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Everybody may use it.
    pub open: bool,
    /// Bytes per second of each replica; `None`: as many as it can.
    pub max_bytes_per_second: Option<u64>,
    /// Links at a time of each replica.
    pub max_sessions: u16,
}

/// Where a cloud's blocks are backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// `s3://bucket/prefix`.
    pub url: String,
    /// A store that is not AWS.
    pub endpoint: Option<Endpoint>,
    /// The bucket's region.
    pub region: Option<String>,
    /// Bucket in the path instead of the host name.
    pub force_path_style: bool,
    /// Secret with the credentials.
    pub credentials_secret: Option<String>,
    /// How long a block may wait.
    pub max_lag: Duration,
}

/// An object store's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// As it was written.
    pub url: String,
    /// Host name or IPv4 address.
    pub host: String,
    /// TCP port, the scheme's own if none was written.
    pub port: u16,
}

/// An archive whose spec holds together.
#[derive(Debug, Clone, PartialEq)]
pub struct Archive {
    /// Its name, under which the gateway serves it.
    pub name: String,
    /// Generation of the spec that was read.
    pub generation: Option<i64>,
    /// The cloud that keeps it.
    pub cloud_name: String,
    /// The key.
    pub key: ArchiveKey,
    /// What each replica is asked to do; the cloud's own choice about announcing is not in it yet.
    spec: ArchiveSpec,
    announce: Option<bool>,
    /// What happens to the blocks at the end.
    pub deletion_policy: ArchiveDeletionPolicy,
}

/// Why a spec cannot be carried out. The text names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidateError {
    /// The resource was not read from a cluster.
    #[error("metadata has no namespace, name or uid")]
    NotFromCluster,
    /// Names of pods would be too long or not allowed.
    #[error("metadata.name {0:?} must be at most 40 lower-case letters, digits and dashes")]
    Name(String),
    /// Out of range.
    #[error("spec.replicas must be 0 to {MAX_REPLICAS}, not {0}")]
    Replicas(i32),
    /// No size.
    #[error("spec.storage.size: {0}")]
    Size(#[from] ParseSizeError),
    /// Taken or out of range.
    #[error("spec.network.port must be 1024 to 65535 and not 8080, 8090, 8443 or 9090, not {0}")]
    Port(i32),
    /// No `host:port`.
    #[error("spec.network.bootstrap must be a list of host:port, not {0:?}")]
    Bootstrap(String),
    /// No rate.
    #[error("spec.network.relay.maxBytesPerSecond: {0}")]
    RelayRate(ParseSizeError),
    /// Out of range.
    #[error("spec.network.relay.maxSessions must be 1 to {MAX_RELAY_SESSIONS}, not {0}")]
    RelaySessions(i32),
    /// No key.
    #[error("spec.devices.publicKey of {name:?} must be 64 hex digits, not {key:?}")]
    DeviceKey {
        /// The device.
        name: String,
        /// What stands there.
        key: String,
    },
    /// No duration.
    #[error("spec.backup.maxLag must be a duration such as 5s, not {0:?}")]
    MaxLag(String),
    /// No URL.
    #[error("spec.backup.s3.endpoint must be an http or https URL without a path, not {0:?}")]
    Endpoint(String),
    /// No key.
    #[error("spec.key: {0}")]
    Key(#[from] ParseKeyError),
    /// A path that leaves the drive, or none at all.
    #[error("spec.sync.{field} must be relative to the drive's root and without '..', not {path:?}")]
    Path {
        /// `include` or `exclude`.
        field: &'static str,
        /// The path.
        path: String,
    },
    /// Files of something that has none.
    #[error("spec.sync.include and spec.sync.exclude need spec.type Auto or Drive")]
    FilesOfNoDrive,
}

/// Most links that a replica relays at a time: each has two streams, and a Pi has 1 GiB or little more.
pub const MAX_RELAY_SESSIONS: u16 = 4096;

impl Cloud {
    /// What a replica is to be told of the owner's devices, if what it says of itself is something else.
    pub fn devices_to_tell(&self, replica: &NodeStatus) -> Option<Devices> {
        let devices = self.devices.iter().map(|key| Device {
            public_key: key.clone(),
        });
        (replica.devices != self.devices).then(|| Devices {
            devices: devices.collect(),
        })
    }

    /// Parses a cloud that was read from a cluster whose DNS domain is `cluster_domain`.
    pub fn parse(cloud: &PersonalCloud, cluster_domain: &str) -> Result<Self, ValidateError> {
        let spec = &cloud.spec;
        let name = cloud.name_any();
        let namespace = cloud.namespace().ok_or(ValidateError::NotFromCluster)?;
        let owner = cloud
            .controller_owner_ref(&())
            .ok_or(ValidateError::NotFromCluster)?;
        if !is_cloud_name(&name) {
            return Err(ValidateError::Name(name));
        }
        let replicas = u8::try_from(spec.replicas)
            .ok()
            .filter(|replicas| *replicas <= MAX_REPLICAS);
        let backup = spec
            .backup
            .as_ref()
            .map(|backup| Backup::parse(backup, &namespace, &name))
            .transpose()?;
        for node in &spec.network.bootstrap {
            host_and_port(node).ok_or_else(|| ValidateError::Bootstrap(node.clone()))?;
        }
        Ok(Self {
            names: CloudNames::new(&name, &namespace, cluster_domain),
            owner,
            generation: cloud.meta().generation,
            replicas: replicas.ok_or(ValidateError::Replicas(spec.replicas))?,
            storage_size: Size::parse(&spec.storage.size)?,
            storage_class: spec.storage.storage_class_name.clone(),
            swarm_port: swarm_port(spec.network.port)?,
            expose: spec.network.expose,
            bootstrap: spec.network.bootstrap.clone(),
            announce: spec.network.announce,
            serve_dht: spec.network.serve_dht,
            devices: device_keys(&spec.devices)?,
            relay: Relay::parse(&spec.network.relay)?,
            websocket: spec.network.websocket,
            blind_peer: spec.network.blind_peer,
            backup,
            deletion_policy: spec.deletion_policy,
            paused: spec.paused,
        })
    }
}

/// The public keys of devices, lower-case hex, in their order, each once.
fn device_keys(devices: &[DeviceSpec]) -> Result<Vec<String>, ValidateError> {
    let keys = devices.iter().map(|device| {
        let key = device.public_key.to_ascii_lowercase();
        if key.len() == 64 && HEXLOWER.decode(key.as_bytes()).is_ok() {
            Ok(key)
        } else {
            Err(ValidateError::DeviceKey {
                name: device.name.clone(),
                key: device.public_key.clone(),
            })
        }
    });
    let keys: BTreeSet<String> = keys.collect::<Result<_, _>>()?;
    Ok(keys.into_iter().collect())
}

impl Relay {
    fn parse(spec: &RelaySpec) -> Result<Option<Self>, ValidateError> {
        let rate = spec.max_bytes_per_second.as_deref().map(Size::parse).transpose();
        let rate = rate.map_err(ValidateError::RelayRate)?;
        let sessions = u16::try_from(spec.max_sessions)
            .ok()
            .filter(|sessions| (1..=MAX_RELAY_SESSIONS).contains(sessions))
            .ok_or(ValidateError::RelaySessions(spec.max_sessions))?;
        Ok(spec.enabled.then(|| Self {
            open: spec.open,
            max_bytes_per_second: rate.map(|rate| u64::try_from(rate.bytes()).unwrap_or(u64::MAX)),
            max_sessions: sessions,
        }))
    }
}

impl Backup {
    fn parse(backup: &BackupSpec, namespace: &str, cloud: &str) -> Result<Self, ValidateError> {
        let S3Spec {
            bucket,
            prefix,
            endpoint,
            region,
            force_path_style,
            credentials_secret_name,
        } = &backup.s3;
        let prefix = prefix.clone().unwrap_or_else(|| format!("{namespace}/{cloud}"));
        let endpoint = endpoint.as_deref().map(Endpoint::parse).transpose()?;
        Ok(Self {
            url: format!("s3://{bucket}/{prefix}"),
            endpoint,
            region: region.clone(),
            force_path_style: *force_path_style,
            credentials_secret: credentials_secret_name.clone(),
            max_lag: duration(&backup.max_lag)
                .ok_or_else(|| ValidateError::MaxLag(backup.max_lag.clone()))?,
        })
    }
}

impl Endpoint {
    fn parse(url: &str) -> Result<Self, ValidateError> {
        let refuse = || ValidateError::Endpoint(url.to_owned());
        let (authority, default_port) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (rest, 443),
            (_, Some(rest)) => (rest, 80),
            _ => return Err(refuse()),
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = match host_and_port(authority) {
            Some(found) => found,
            None if is_host(authority) => (authority, default_port),
            None => return Err(refuse()),
        };
        Ok(Self {
            url: url.to_owned(),
            host: host.to_owned(),
            port,
        })
    }
}

impl Archive {
    /// Parses an archive that was read from a cluster.
    pub fn parse(archive: &DatArchive) -> Result<Self, ValidateError> {
        let spec = &archive.spec;
        let sync = &spec.sync;
        for (field, paths) in [("include", &sync.include), ("exclude", &sync.exclude)] {
            if let Some(path) = paths.iter().find(|path| !is_inside_drive(path)) {
                return Err(ValidateError::Path {
                    field,
                    path: path.clone(),
                });
            }
        }
        let selects = !sync.include.is_empty() || !sync.exclude.is_empty();
        if selects && matches!(spec.kind, ArchiveType::Core | ArchiveType::Bee) {
            return Err(ValidateError::FilesOfNoDrive);
        }
        Ok(Self {
            name: archive.name_any(),
            generation: archive.meta().generation,
            cloud_name: spec.cloud_name.clone(),
            key: ArchiveKey::parse(&spec.key)?,
            spec: ArchiveSpec {
                name: Some(archive.name_any()),
                kind: match spec.kind {
                    ArchiveType::Auto => cumulet_api::ArchiveType::Auto,
                    ArchiveType::Core => cumulet_api::ArchiveType::Core,
                    ArchiveType::Bee => cumulet_api::ArchiveType::Bee,
                    ArchiveType::Drive => cumulet_api::ArchiveType::Drive,
                },
                sync: cumulet_api::SyncSpec {
                    mode: match sync.mode {
                        SyncMode::Full => cumulet_api::SyncMode::Full,
                        SyncMode::Sparse => cumulet_api::SyncMode::Sparse,
                    },
                    include: sync.include.clone(),
                    exclude: sync.exclude.clone(),
                },
                announce: false,
                gateway: spec.gateway.public,
                backup: spec.backup.enabled,
            },
            announce: spec.announce,
            deletion_policy: spec.deletion_policy,
        })
    }

    /// What a replica of `cloud` is asked to do. Backup needs a bucket, and announcing is the cloud's choice
    /// where the archive does not say.
    pub fn pin(&self, cloud: &Cloud) -> ArchiveSpec {
        ArchiveSpec {
            announce: self.announce.unwrap_or(cloud.announce),
            backup: self.spec.backup && cloud.backup.is_some(),
            ..self.spec.clone()
        }
    }
}

/// Whether a cloud may bear this name.
pub fn is_cloud_name(name: &str) -> bool {
    let alphanumeric = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=40).contains(&bytes.len())
        && bytes.iter().all(|c| alphanumeric(c) || *c == b'-')
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
}

fn is_inside_drive(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && path.split('/').all(|segment| segment != "..")
}

fn swarm_port(port: i32) -> Result<u16, ValidateError> {
    let taken = [8080, 8090, 8443, 9090];
    u16::try_from(port)
        .ok()
        .filter(|p| *p >= 1024 && !taken.contains(p))
        .ok_or(ValidateError::Port(port))
}

fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || c == b'.' || c == b'-')
}

fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    is_host(host).then_some((host, port))
}

/// A duration such as `500ms`, `5s`, `10m` or `1h`.
fn duration(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().ok().filter(|n| *n > 0)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{HEX, archive, cloud, with_backup};

    fn refuse(change: impl FnOnce(&mut PersonalCloud)) -> ValidateError {
        let mut cloud = cloud();
        change(&mut cloud);
        Cloud::parse(&cloud, "cluster.local").unwrap_err()
    }

    #[test]
    fn an_empty_spec_becomes_two_replicas_on_the_public_dht_without_backup() {
        let parsed = Cloud::parse(&cloud(), "cluster.local").unwrap();
        assert_eq!(
            (parsed.replicas, parsed.swarm_port, parsed.expose),
            (2, 49737, Expose::ClusterIP)
        );
        assert_eq!(parsed.storage_size.bytes(), 10 << 30);
        assert!(parsed.bootstrap.is_empty() && parsed.backup.is_none() && !parsed.announce);
        assert_eq!(parsed.owner.uid, "cloud-uid");
    }

    #[test]
    fn a_replica_is_told_of_devices_only_if_it_knows_others() {
        let device = |name: &str, public_key: String| DeviceSpec {
            name: name.into(),
            public_key,
        };
        let mut resource = cloud();
        let (phone, laptop) = ("ab".repeat(32), "0c".repeat(32));
        resource.spec.devices = vec![
            device("phone", phone.to_uppercase()),
            device("laptop", laptop.clone()),
            device("the-same", phone.clone()),
        ];
        let told = |devices: &[&String]| {
            let replica = NodeStatus {
                devices: devices.iter().copied().cloned().collect(),
                ..NodeStatus::default()
            };
            let devices = Cloud::parse(&resource, "cluster.local")
                .unwrap()
                .devices_to_tell(&replica)?
                .devices;
            Some(
                devices
                    .into_iter()
                    .map(|device| device.public_key)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(told(&[&laptop, &phone]), None);
        let all = Some(vec![laptop.clone(), phone.clone()]);
        assert_eq!(told(&[]), all);
        assert_eq!(told(&[&laptop]), all);
    }

    #[test]
    fn a_bad_field_is_named() {
        for (error, field) in [
            (refuse(|c| c.spec.replicas = 17), "spec.replicas"),
            (refuse(|c| c.spec.replicas = -1), "spec.replicas"),
            (refuse(|c| c.spec.storage.size = "x".into()), "spec.storage.size"),
            (refuse(|c| c.spec.network.port = 9090), "spec.network.port"),
            (refuse(|c| c.spec.network.port = 8090), "spec.network.port"),
            (refuse(|c| c.spec.network.port = 80), "spec.network.port"),
            (
                refuse(|c| c.spec.network.relay.max_bytes_per_second = Some("0".into())),
                "spec.network.relay.maxBytesPerSecond",
            ),
            (
                refuse(|c| c.spec.network.relay.max_sessions = 0),
                "spec.network.relay.maxSessions",
            ),
            (
                refuse(|c| {
                    c.spec.devices = vec![DeviceSpec {
                        name: "phone".into(),
                        public_key: "zz".into(),
                    }];
                }),
                "spec.devices.publicKey",
            ),
            (
                refuse(|c| c.spec.network.bootstrap = vec!["a:0".into()]),
                "spec.network.bootstrap",
            ),
            (
                refuse(|c| c.spec.network.bootstrap = vec!["a,b:1".into()]),
                "spec.network.bootstrap",
            ),
            (refuse(|c| c.metadata.name = Some("a.b".into())), "metadata.name"),
            (refuse(|c| c.metadata.uid = None), "metadata"),
            (
                refuse(|c| with_backup(c).max_lag = "5 s".into()),
                "spec.backup.maxLag",
            ),
            (
                refuse(|c| with_backup(c).s3.endpoint = Some("http://a/b".into())),
                "spec.backup.s3.endpoint",
            ),
        ] {
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }

    #[test]
    fn a_backup_without_a_prefix_goes_to_a_place_of_its_own() {
        let mut cloud = cloud();
        with_backup(&mut cloud).max_lag = "2m".into();
        let backup = Cloud::parse(&cloud, "cluster.local").unwrap().backup.unwrap();
        assert_eq!(backup.url, "s3://bucket/ns/ada");
        assert_eq!(backup.max_lag, Duration::from_mins(2));
        assert_eq!(backup.endpoint.unwrap().port, 4566);
    }

    #[test]
    fn an_endpoint_without_a_port_has_its_schemes_port() {
        assert_eq!(Endpoint::parse("https://s3.example.org/").unwrap().port, 443);
        assert_eq!(Endpoint::parse("http://s3.example.org").unwrap().port, 80);
        for bad in [
            "s3.example.org",
            "https://",
            "https://a:b",
            "https://u@h",
            "ftp://a",
        ] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_outside_the_drive_are_refused() {
        for path in ["", "/a", "..", "a/..", "../b"] {
            let mut archive = archive();
            archive.spec.sync.exclude = vec![path.into()];
            let error = Archive::parse(&archive).unwrap_err().to_string();
            assert!(error.starts_with("spec.sync.exclude"), "{error}");
        }
    }

    #[test]
    fn files_of_a_plain_core_are_refused() {
        let mut archive = archive();
        archive.spec.kind = ArchiveType::Core;
        archive.spec.sync.include = vec!["a".into()];
        assert_eq!(Archive::parse(&archive), Err(ValidateError::FilesOfNoDrive));
    }

    #[test]
    fn a_pin_is_backed_up_only_with_a_bucket_and_announced_as_the_cloud_says() {
        let mut resource = cloud();
        let archive = archive();
        let pin = |resource: &PersonalCloud, archive: &DatArchive| {
            Archive::parse(archive)
                .unwrap()
                .pin(&Cloud::parse(resource, "cluster.local").unwrap())
        };
        assert_eq!(archive.spec.key, format!("hyper://{HEX}"));
        let first = pin(&resource, &archive);
        assert_eq!(
            (first.backup, first.announce, first.gateway),
            (false, false, false)
        );
        assert_eq!(first.name.as_deref(), Some("quicklooks"));
        with_backup(&mut resource);
        resource.spec.network.announce = true;
        let second = pin(&resource, &archive);
        assert_eq!((second.backup, second.announce), (true, true));
        let mut quiet = archive.clone();
        quiet.spec.announce = Some(false);
        quiet.spec.backup.enabled = false;
        let third = pin(&resource, &quiet);
        assert_eq!((third.backup, third.announce), (false, false));
    }
}
