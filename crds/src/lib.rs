//! The custom resources of group `cumulet.io`, version `v1alpha1`: pure types, no client, no tokio.
//!
//! [`PersonalCloud`] is one owner's set of always-on peers; [`DatArchive`] is one archive that a cloud keeps.
//! The API server enforces everything that can be said in a schema or in CEL, with a message that names the
//! field, so a bad manifest is refused by `kubectl apply` and never reaches the operator. Every list and string
//! that a CEL rule looks at is bounded: the API server refuses rules whose worst case is too expensive.
//!
//! Fields of features that are not built are not here: an unknown field is refused (or warned about) by the
//! API server instead of being silently without effect.
//!
//! [`yaml`] prints the definitions; the chart's copy is generated from it.

mod archive;
mod cloud;

pub use archive::{
    ArchiveBackup, ArchiveDeletionPolicy, ArchiveGateway, ArchiveType, DatArchive, DatArchiveSpec,
    DatArchiveStatus, SyncMode, SyncSpec,
};
pub use cloud::{
    BackupSpec, CloudDeletionPolicy, DeviceSpec, Expose, NetworkSpec, PersonalCloud, PersonalCloudSpec,
    PersonalCloudStatus, RelaySpec, S3Spec, StorageSpec,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group of both resources.
pub const GROUP: &str = "cumulet.io";

/// The definitions of both resources, in the order in which they are printed.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![PersonalCloud::crd(), DatArchive::crd()]
}

/// Both definitions as one multi-document YAML stream, as it lies in the chart.
///
/// # Errors
/// Only if a definition cannot be expressed as YAML, which would be a defect of this crate.
pub fn yaml() -> Result<String, serde_yaml_ng::Error> {
    let mut out =
        String::from("# Generated from the Rust types in crds/ by `cargo xtask gen`. Do not edit.\n");
    for definition in definitions() {
        out.push_str("---\n");
        out.push_str(&serde_yaml_ng::to_string(&definition)?);
    }
    Ok(out)
}
