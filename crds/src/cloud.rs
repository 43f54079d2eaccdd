//! `PersonalCloud`: one owner's always-on peers.

// The schema derive makes a private twin of each struct and copies its `pub`.
#![allow(unreachable_pub)]
// Clippy takes the columns of the table for repetitions.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the owner wishes of a cloud.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "cumulet.io",
    version = "v1alpha1",
    kind = "PersonalCloud",
    plural = "personalclouds",
    // Not `pc`: that is PriorityClass, which kubectl prefers.
    shortname = "cloud",
    category = "cumulet",
    namespaced,
    status = "PersonalCloudStatus",
    derive = "PartialEq",
    doc = "One person's cloud: a few always-on peers of the Hypercore network that keep, serve and back up archives.",
    annotation("helm.sh/resource-policy", "keep"),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Archives", type_ = "integer", json_path = ".status.archives"),
    printcolumn(name = "Stored", type_ = "integer", json_path = ".status.bytesStored", description = "bytes of blocks held by the fullest replica"),
    printcolumn(name = "Backup lag", type_ = "string", json_path = ".status.durableLag"),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("metadata.name must have at most 40 characters: pods and services are named after it"),
    validation = Rule::new("!self.metadata.name.contains('.')")
        .message("metadata.name must not contain a dot: pods and services are named after it")
)]
#[serde(rename_all = "camelCase")]
pub struct PersonalCloudSpec {
    /// Always-on peers. 0 hibernates the cloud: no pods, volumes kept.
    #[serde(default = "two")]
    #[schemars(range(min = 0, max = 16))]
    pub replicas: i32,
    /// The volume of each replica.
    #[serde(default)]
    pub storage: StorageSpec,
    /// How peers reach the replicas.
    #[serde(default)]
    pub network: NetworkSpec,
    /// Where blocks are backed up. Absent: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupSpec>,
    /// The owner's devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub devices: Vec<DeviceSpec>,
    /// What happens to volumes and keys when this resource is deleted. `Retain` keeps them, and a cloud of the
    /// same name takes them up again.
    #[serde(default)]
    pub deletion_policy: CloudDeletionPolicy,
    /// Stops the operator from changing anything; replicas go on as they are.
    #[serde(default)]
    pub paused: bool,
}

impl Default for PersonalCloudSpec {
    fn default() -> Self {
        Self {
            replicas: two(),
            storage: StorageSpec::default(),
            network: NetworkSpec::default(),
            backup: None,
            devices: Vec::new(),
            deletion_policy: CloudDeletionPolicy::default(),
            paused: false,
        }
    }
}

/// The volume of each replica.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
    .message("spec.storage.storageClassName cannot be changed: move the data to a new cloud instead"))]
pub struct StorageSpec {
    /// Size of each volume as a Kubernetes quantity. Grows, never shrinks.
    #[serde(default = "ten_gi")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
            .message("spec.storage.size must be a quantity above zero, such as 10Gi"),
        validation = Rule::new("!isQuantity(self) || !isQuantity(oldSelf) || quantity(self).compareTo(quantity(oldSelf)) >= 0")
            .message("spec.storage.size cannot shrink: volumes only grow")
    )]
    pub size: String,
    /// Storage class of the volumes; absent means the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

impl Default for StorageSpec {
    fn default() -> Self {
        Self {
            size: ten_gi(),
            storage_class_name: None,
        }
    }
}

/// How peers reach the replicas.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSpec {
    /// Port of the swarm, for UDP and TCP.
    #[serde(default = "swarm_port")]
    #[schemars(range(min = 1024, max = 65535))]
    #[x_kube(validation = Rule::new("!(self in [8080, 8090, 8443, 9090])")
        .message("spec.network.port must not be 8080, 8090, 8443 or 9090: the replica listens there for other things"))]
    pub port: i32,
    /// How the swarm's port is reached from outside the cluster.
    #[serde(default)]
    pub expose: Expose,
    /// DHT bootstrap nodes as `host:port`. Empty means the public DHT.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 260)))]
    #[x_kube(validation = Rule::new("self.all(b, b.matches('^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?:[0-9]{1,5}$'))")
        .message("spec.network.bootstrap must be a list of host:port"))]
    pub bootstrap: Vec<String>,
    /// Announce this cloud's archives on the DHT unless an archive says otherwise. Off: private.
    #[serde(default)]
    pub announce: bool,
    /// Be lasting nodes of the DHT: answer others, store their records, and be ones to start from.
    #[serde(default)]
    pub serve_dht: bool,
    /// Whether and how replicas relay between peers that cannot reach each other.
    #[serde(default)]
    pub relay: RelaySpec,
    /// Whether pages in browsers get a DHT over WebSockets.
    #[serde(default)]
    pub websocket: WebSocketSpec,
    /// Whether replicas keep cores for apps that use the blind-peering protocol.
    #[serde(default)]
    pub blind_peer: BlindPeerSpec,
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self {
            port: swarm_port(),
            expose: Expose::default(),
            bootstrap: Vec::new(),
            announce: false,
            serve_dht: false,
            relay: RelaySpec::default(),
            websocket: WebSocketSpec::default(),
            blind_peer: BlindPeerSpec::default(),
        }
    }
}

/// Blind relaying: replicas forward packets that they cannot read. `spec.devices` may use it, and whoever talks to them.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelaySpec {
    /// Relay. Off by default: it makes the replicas findable by their relay keys.
    #[serde(default)]
    pub enabled: bool,
    /// Let everybody use it, and not only this cloud's devices.
    #[serde(default)]
    pub open: bool,
    /// Bytes that each replica forwards per second at most, as a Kubernetes quantity. Absent: as many as it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
        .message("spec.network.relay.maxBytesPerSecond must be a quantity above zero, such as 10Mi"))]
    pub max_bytes_per_second: Option<String>,
    /// Links that each replica carries at a time.
    #[serde(default = "relay_sessions")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_sessions: i32,
}

impl Default for RelaySpec {
    fn default() -> Self {
        Self {
            enabled: false,
            open: false,
            max_bytes_per_second: None,
            max_sessions: relay_sessions(),
        }
    }
}

/// A DHT for browsers, on the port `websocket` of the cloud's Service, without TLS: an Ingress or a proxy adds it. Pages give
/// the replica their key pair, so it is for pages that trust it.
#[derive(KubeSchema, Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebSocketSpec {
    /// Serve it.
    #[serde(default)]
    pub enabled: bool,
    /// To every page, and not only to this cloud's devices.
    #[serde(default)]
    pub open: bool,
}

/// Keeping cores for apps. What this cloud's devices have kept is backed up.
#[derive(KubeSchema, Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlindPeerSpec {
    /// Keep cores for this cloud's devices, who may also delete them.
    #[serde(default)]
    pub enabled: bool,
    /// Keep cores for everybody, within quotas.
    #[serde(default)]
    pub open: bool,
}

/// One of the owner's devices.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceSpec {
    /// What the owner calls it.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')")
        .message("spec.devices.name must be lower-case letters, digits and dashes"))]
    pub name: String,
    /// Its public key on the swarm, 64 hex digits.
    #[schemars(length(min = 64, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9a-fA-F]{64}$')")
        .message("spec.devices.publicKey must be 64 hex digits"))]
    pub public_key: String,
}

/// How the swarm's port is reached from outside the cluster.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Expose {
    /// Not at all by a Service; hole punching still works where the network allows it.
    #[default]
    ClusterIP,
    /// By a port on every node.
    NodePort,
    /// By a load balancer.
    LoadBalancer,
    /// The pods use the node's network.
    HostNetwork,
}

/// Backup of a cloud.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupSpec {
    /// The bucket.
    pub s3: S3Spec,
    /// Recovery point objective: how long a block may wait before it is shipped.
    #[serde(default = "five_seconds")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^[1-9][0-9]{0,6}(ms|s|m|h)$')")
        .message("spec.backup.maxLag must be a duration such as 500ms, 5s, 10m or 1h"))]
    pub max_lag: String,
}

/// A place in an S3 bucket.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct S3Spec {
    /// The bucket's name.
    #[schemars(length(min = 3, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9][a-z0-9.-]*[a-z0-9]$')")
        .message("spec.backup.s3.bucket must be a bucket name: lower-case letters, digits, dots and dashes"))]
    pub bucket: String,
    /// Put before every object's name. Absent: the namespace and the cloud's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$')")
        .message("spec.backup.s3.prefix must be relative path segments of letters, digits, dots, dashes and underscores, without a slash at either end"))]
    pub prefix: Option<String>,
    /// URL of a store that is not AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/?$')")
        .message("spec.backup.s3.endpoint must be an http or https URL without a path, such as https://s3.example.org"))]
    pub endpoint: Option<String>,
    /// The bucket's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub region: Option<String>,
    /// Address the bucket as a path and not as a host name; most stores that are not AWS need it.
    #[serde(default)]
    pub force_path_style: bool,
    /// A Secret in this namespace with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    /// Absent: the pod's own identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret_name: Option<String>,
}

/// What happens to volumes and keys when a cloud is deleted.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CloudDeletionPolicy {
    /// Volumes and keys stay.
    #[default]
    Retain,
    /// Volumes and keys go with the cloud; the bucket is left alone.
    Delete,
}

/// What is true of a cloud.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PersonalCloudStatus {
    /// The generation that the rest of this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Label selector of the pods, for `kubectl scale` and autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Archives that this cloud is asked to keep.
    #[serde(default)]
    pub archives: i32,
    /// Connections open, over all replicas.
    #[serde(default)]
    pub peers: i64,
    /// Bytes of blocks held by the fullest replica.
    #[serde(default)]
    pub bytes_stored: i64,
    /// How long the oldest block without a backup waits, as of the slowest replica; absent without backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable_lag: Option<String>,
    /// Keys of the replicas' relays, 64 hex digits: what a device gives as `relayThrough`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relay_keys: Vec<String>,
    /// Keys of the replicas' blind peers, 64 hex digits: what an app gives to have its cores kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blind_peer_keys: Vec<String>,
    /// When the last object was shipped, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup_time: Option<String>,
    /// `Ready`, `Progressing`, `Replicated`, `BackedUp`, `StorageHealthy`, `Paused`, `Hibernated`.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

fn two() -> i32 {
    2
}
fn ten_gi() -> String {
    "10Gi".into()
}
fn swarm_port() -> i32 {
    49737
}
fn relay_sessions() -> i32 {
    64
}
fn five_seconds() -> String {
    "5s".into()
}
