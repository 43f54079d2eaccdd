//! Where a cluster keeps its things, and the addresses inside it.
//!
//! Two clusters never meet: addresses live in a network namespace of their own that has no link to the machine's, the
//! cgroup root carries the cluster's name, and everything on disk is below the cluster's folder. The one fixed path,
//! the hostPath provisioner's, is a private mount.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The node's only address beside the pod bridge's.
pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
/// Name of the one node.
pub const NODE_NAME: &str = "node1";
/// Addresses of pods.
pub const POD_CIDR: &str = "10.244.0.0/24";
/// Addresses of Services.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// First address of [`SERVICE_CIDR`], which the API server takes.
pub const API_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Where pods ask for names.
pub const DNS_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The API server's port on [`NODE_IP`].
pub const API_PORT: u16 = 6443;
/// Folder the hostPath provisioner of the controller manager creates volumes in; it has no setting for it.
pub const PROVISIONER_DIR: &str = "/tmp/hostpath_pv";

/// The folders and files of one cluster.
#[derive(Debug, Clone)]
pub struct Layout {
    name: String,
    dir: PathBuf,
}

impl Layout {
    /// A cluster of this name in this folder.
    pub fn new(name: &str, dir: &Path) -> Self {
        Self {
            name: name.into(),
            dir: dir.into(),
        }
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file or folder below the cluster's.
    pub fn at(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// As [`Self::at`], for configuration files and arguments.
    pub fn text(&self, path: &str) -> String {
        self.at(path).display().to_string()
    }

    /// The cluster's folder in each cgroup hierarchy, as the kubelet names it.
    pub fn cgroup_root(&self) -> String {
        format!("/cumulet-{}", self.name)
    }

    /// Folders that exist before anything starts.
    pub const FOLDERS: [&str; 13] = [
        "bin",
        "pki",
        "log",
        "run",
        "varlog",
        "etcd",
        "kubelet",
        "containerd",
        "cni/net.d",
        "cni/data",
        "plugins",
        "sysctl",
        "volumes",
    ];
}
