//! `DatArchive`: one archive that a cloud keeps.

// The schema derive makes a private twin of each struct and copies its `pub`.
#![allow(unreachable_pub)]
// Clippy takes the columns of the table for repetitions.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a cloud shall keep.
///
/// z-base-32 writes 32 bytes as 52 characters, the last of which carries one bit: `y` or `o`.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "cumulet.io",
    version = "v1alpha1",
    kind = "DatArchive",
    plural = "datarchives",
    shortname = "dat",
    category = "cumulet",
    namespaced,
    status = "DatArchiveStatus",
    derive = "PartialEq",
    doc = "One archive (a Hypercore, Hyperbee or Hyperdrive) that a cloud keeps, serves and backs up.",
    annotation("helm.sh/resource-policy", "keep"),
    printcolumn(
        name = "Synced",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Synced")].status"#
    ),
    printcolumn(
        name = "Backed up",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="BackedUp")].status"#
    ),
    printcolumn(name = "Type", type_ = "string", json_path = ".status.type"),
    printcolumn(name = "Progress", type_ = "number", json_path = ".status.progress"),
    printcolumn(
        name = "Stored",
        type_ = "integer",
        json_path = ".status.storedBytes",
        description = "bytes held"
    ),
    printcolumn(name = "Peers", type_ = "integer", json_path = ".status.peers"),
    printcolumn(name = "Cloud", type_ = "string", json_path = ".spec.cloudName", priority = 1),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    selectable = ".spec.cloudName"
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type in ['Auto', 'Drive'] || !has(self.sync) || ((!has(self.sync.include) || size(self.sync.include) == 0) && (!has(self.sync.exclude) || size(self.sync.exclude) == 0))")
    .message("spec.sync.include and spec.sync.exclude select files: they need spec.type Auto or Drive"))]
pub struct DatArchiveSpec {
    /// The cloud that keeps the archive. A cloud named `default` is made on demand.
    #[serde(default = "default_cloud")]
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')")
            .message("spec.cloudName must be the name of a PersonalCloud: lower-case letters, digits and dashes"),
        validation = Rule::new("self == oldSelf")
            .message("spec.cloudName cannot be changed: make a new DatArchive in the other cloud instead")
    )]
    pub cloud_name: String,
    /// The archive's key: 64 hex digits or 52 characters of z-base-32, alone or after `hyper://`, `pear://` or `dat://`.
    #[schemars(length(max = 128))]
    #[x_kube(
        validation = Rule::new("self.matches('^((hyper|pear|dat)://)?([0-9a-fA-F]{64}|[ybndrfg8ejkmcpqxot1uwisza345h769]{51}[yo])/?$')")
            .message("spec.key must be 64 hex digits or 52 characters of z-base-32, alone or after hyper://, pear:// or dat://"),
        validation = Rule::new("self == oldSelf")
            .message("spec.key cannot be changed: make a new DatArchive for another key")
    )]
    pub key: String,
    /// What the key names.
    #[serde(default, rename = "type")]
    pub kind: ArchiveType,
    /// What is downloaded.
    #[serde(default)]
    pub sync: SyncSpec,
    /// Announce the archive on the DHT, so that strangers who know the key find this cloud. Off: private.
    /// Absent: as the cloud says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announce: Option<bool>,
    /// Plain HTTP reading.
    #[serde(default)]
    pub gateway: ArchiveGateway,
    /// Backup of this archive.
    #[serde(default)]
    pub backup: ArchiveBackup,
    /// What happens to the blocks when this resource is deleted.
    #[serde(default)]
    pub deletion_policy: ArchiveDeletionPolicy,
}

/// What the key names.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ArchiveType {
    /// Found out from the first block.
    #[default]
    Auto,
    /// A plain Hypercore.
    Core,
    /// A Hyperbee: keys and values.
    Bee,
    /// A Hyperdrive: files.
    Drive,
}

/// Whether all of an archive is kept, or only what is asked for.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SyncMode {
    /// Every block of the selected files is downloaded and kept.
    #[default]
    Full,
    /// Only blocks that somebody read, and those of `include`d files.
    Sparse,
}

/// What is downloaded.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncSpec {
    /// All, or on demand.
    #[serde(default)]
    pub mode: SyncMode,
    /// Globs of the files to keep, relative to the drive's root; `**` allowed. Empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    #[x_kube(
        validation = Rule::new("self.all(p, !p.startsWith('/'))")
            .message("spec.sync.include must be relative to the drive's root: no leading slash"),
        validation = Rule::new("self.all(p, !p.matches('(^|/)[.][.](/|$)'))")
            .message("spec.sync.include must not contain '..'")
    )]
    pub include: Vec<String>,
    /// Globs of the files not to keep; wins over `include`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    #[x_kube(
        validation = Rule::new("self.all(p, !p.startsWith('/'))")
            .message("spec.sync.exclude must be relative to the drive's root: no leading slash"),
        validation = Rule::new("self.all(p, !p.matches('(^|/)[.][.](/|$)'))")
            .message("spec.sync.exclude must not contain '..'")
    )]
    pub exclude: Vec<String>,
}

/// Plain HTTP reading of an archive.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveGateway {
    /// Serve the archive to everybody who reaches the cloud's gateway port.
    #[serde(default)]
    pub public: bool,
}

/// Backup of an archive.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveBackup {
    /// Ship the archive's blocks to the cloud's bucket, if it has one.
    #[serde(default = "yes")]
    pub enabled: bool,
}

impl Default for ArchiveBackup {
    fn default() -> Self {
        Self { enabled: yes() }
    }
}

/// What happens to an archive's blocks when its `DatArchive` is deleted.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ArchiveDeletionPolicy {
    /// The pin is forgotten, the blocks stay on the volumes and in the bucket.
    #[default]
    Retain,
    /// The blocks are deleted from the volumes; the bucket is left alone.
    Delete,
}

/// What is true of an archive, merged over the cloud's replicas.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatArchiveStatus {
    /// The generation that the rest of this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The key, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The discovery key, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery_key: Option<String>,
    /// What the key was found to name.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ArchiveType>,
    /// Blocks of the archive's own core, as signed by its writer: the longest length that a replica knows.
    #[serde(default)]
    pub length: i64,
    /// Bytes of that core.
    #[serde(default)]
    pub byte_length: i64,
    /// Bytes held over all of the archive's cores, by the replica that holds least.
    #[serde(default)]
    pub stored_bytes: i64,
    /// Peers connected, over all replicas.
    #[serde(default)]
    pub peers: i64,
    /// Bytes sent to peers since the replicas started.
    #[serde(default)]
    pub uploaded_bytes: i64,
    /// Bytes accepted from peers since the replicas started.
    #[serde(default)]
    pub downloaded_bytes: i64,
    /// 0 to 1, of the replica that is furthest behind.
    #[serde(default)]
    pub progress: f64,
    /// Blocks of the archive's own core up to which everything held is backed up, by the replica furthest along.
    #[serde(default)]
    pub durable_length: i64,
    /// Replicas that hold everything that is wanted.
    #[serde(default)]
    pub synced_replicas: i32,
    /// Where the gateway serves the archive inside the cluster; absent when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `Ready`, `Synced`, `BackedUp`.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

fn default_cloud() -> String {
    "default".into()
}
fn yes() -> bool {
    true
}
