//! The JSON types of a node's REST API (`/api/v1`), shared by the node and by whoever talks to it.
//!
//! Pure data: no client, no server. Field names are camelCase on the wire, like the custom resources
//! they come from. Unknown fields are refused on input, so a typo is an error and not a silent default.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /api/v1/status` | | [`NodeStatus`] |
//! | `GET /api/v1/archives` | | list of [`ArchiveStatus`] |
//! | `PUT /api/v1/archives/{key}` | [`ArchiveSpec`] | [`ArchiveStatus`], idempotent |
//! | `GET /api/v1/archives/{key}` | | [`ArchiveStatus`] |
//! | `DELETE /api/v1/archives/{key}?data=retain\|delete` | | 204 |
//! | `GET /api/v1/devices` | | [`Devices`] |
//! | `PUT /api/v1/devices` | [`Devices`], all of them | [`Devices`], idempotent |
//! | `GET /api/v1/bans` | | [`Bans`] |
//! | `PUT /api/v1/bans` | [`Bans`], all of them | [`Bans`], idempotent |
//!
//! `{key}` is the archive's key as 64 hex digits. Errors are [`Problem`] (RFC 9457, `application/problem+json`).

use serde::{Deserialize, Serialize};

/// What kind of archive a key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ArchiveType {
    /// Found out from the first block: a Hyperbee header with a derivable blob core is a drive.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SyncMode {
    /// Every block (of the selected files) is downloaded and kept.
    #[default]
    Full,
    /// Only blocks that somebody read, and the blocks of `include`d paths.
    Sparse,
}

/// What a pin downloads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SyncSpec {
    /// All, or on demand.
    pub mode: SyncMode,
    /// Globs of drive paths to keep; empty means all. Relative, `**` allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Globs of drive paths not to keep; wins over `include`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

/// A wish to keep one archive: the body of `PUT /api/v1/archives/{key}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ArchiveSpec {
    /// The name under which the gateway serves the archive beside its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the key names.
    #[serde(rename = "type")]
    pub kind: ArchiveType,
    /// What is downloaded.
    pub sync: SyncSpec,
    /// Announce the discovery key on the DHT, so that strangers who know the key find this node.
    pub announce: bool,
    /// Serve the archive on the gateway.
    pub gateway: bool,
    /// Ship its blocks to the backup store.
    pub backup: bool,
}

/// One of the owner's devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    /// Its public key, 64 hex digits: what it shows when it connects.
    pub public_key: String,
}

/// The owner's devices: they may use the node's relay, its DHT for browsers and its blind peer. One that is left out of a `PUT`
/// loses what it has there at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Devices {
    /// In the order of their keys; at most 1024.
    pub devices: Vec<Device>,
}

/// Somebody with whom the node has nothing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ban {
    /// Its public key, 64 hex digits: what it shows when it connects.
    pub public_key: String,
}

/// Whom the node never connects with, nor serves, also if it is one of the owner's devices; beside those of its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bans {
    /// In the order of their keys; at most 1024.
    pub bans: Vec<Ban>,
}

/// One condition of an archive or a node, as Kubernetes words it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Ready`, `Synced`, `BackedUp`, `StorageHealthy`.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, false or not known yet.
    pub status: ConditionStatus,
    /// One CamelCase word from a closed list.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// The three values of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// The condition holds.
    True,
    /// It does not hold; `reason` says why.
    False,
    /// Nobody knows yet.
    Unknown,
}

/// What a node knows about one archive. Lengths are blocks, sizes bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveStatus {
    /// The key, 64 hex digits.
    pub key: String,
    /// The discovery key, 64 hex digits.
    pub discovery_key: String,
    /// The kind that was found (`Auto` until the first block is known).
    #[serde(rename = "type")]
    pub kind: ArchiveType,
    /// Blocks of the archive's own core (the database core of a drive), as signed by its writer.
    pub length: u64,
    /// Bytes of that core.
    pub byte_length: u64,
    /// Fork counter of that core.
    pub fork: u64,
    /// Blocks held over all of the archive's cores.
    pub stored_blocks: u64,
    /// Bytes held over all of the archive's cores.
    pub stored_bytes: u64,
    /// Blocks that the pin wants over all of the archive's cores; 0 until known.
    pub wanted_blocks: u64,
    /// `stored / wanted` for a full pin, 0..1; 1 for a sparse pin that has all that was asked.
    pub progress: f64,
    /// Peers connected that opened one of the archive's cores.
    pub peers: u32,
    /// Block payload bytes sent to peers since the process started.
    pub uploaded_bytes: u64,
    /// Block payload bytes accepted from peers since the process started.
    pub downloaded_bytes: u64,
    /// Blocks accepted from peers since the process started.
    pub downloaded_blocks: u64,
    /// Length of the archive's own core up to which everything held is in the backup store.
    pub durable_length: u64,
    /// Bytes of this archive in the backup store, as far as this node shipped or found them.
    pub durable_bytes: u64,
    /// `Ready`, `Synced`, `BackedUp`.
    pub conditions: Vec<Condition>,
}

/// The answer to `GET /api/v1/status`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Version of the program.
    pub version: String,
    /// The node's public key on the swarm, 64 hex digits.
    pub public_key: String,
    /// Key of the node's relay, 64 hex digits: what a peer gives as `relayThrough`. Absent if it does not relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay_public_key: Option<String>,
    /// Key of the node's blind peer, 64 hex digits: what an app gives to keep its cores here. Absent if it keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blind_peer_public_key: Option<String>,
    /// Connections open.
    pub peers: u32,
    /// Bytes of blocks held.
    pub bytes_stored: u64,
    /// Public keys of the owner's devices, 64 hex digits each, in their order.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Public keys of those whom the owner has banned, 64 hex digits each, in their order; without those of the configuration.
    #[serde(default)]
    pub bans: Vec<String>,
    /// Archives pinned.
    pub archives: u32,
    /// Seconds since the oldest block that is held but not yet backed up was stored; 0 when none is waiting.
    pub durable_lag_seconds: u64,
    /// RFC 3339 time of the last object shipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_backup_time: Option<String>,
    /// `StorageHealthy`, `BackedUp`.
    pub conditions: Vec<Condition>,
}

/// RFC 9457 problem details, with a hint what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// A URI reference that names the kind of problem; `about:blank` when the status says it all.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short sentence.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
