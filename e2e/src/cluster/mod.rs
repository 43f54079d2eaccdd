//! One Kubernetes node in namespaces of its own, from stock programs that are not installed on the machine.
//!
//! [`Cluster::up`] is idempotent: a running cluster is left alone, one that was stopped starts with its state. The API
//! server, and anything else inside, is reached from the user's own shell on 127.0.0.1 through forwards.
//!
//! It needs root and Linux; it does not touch the machine's packages, network, firewall, sysctls or container runtime.

mod addons;
mod cgroups;
mod components;
mod config;
pub mod init;
pub mod kubectl;
pub mod layout;
mod leftovers;
pub mod lifecycle;
mod pki;
mod pod_network;
mod record;
mod volumes;

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

pub use self::kubectl::Kubectl;
pub use self::layout::Layout;
pub use self::record::{Process, Record};
use crate::forward::Forward;
use crate::process;

/// Image of the container that holds a pod's namespaces; [`Cluster::up`] imports it.
pub fn sandbox_reference() -> &'static str {
    config::SANDBOX_IMAGE
}

/// A handle to a cluster, running or not.
#[derive(Debug, Clone)]
pub struct Cluster {
    layout: Layout,
}

impl Cluster {
    /// A cluster by name, in `$CUMULET_CLUSTER_DIR` or else `/var/lib/cumulet-<name>`.
    pub fn named(name: &str) -> Result<Self> {
        let plain = !name.is_empty()
            && name.len() <= 32
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        if !plain {
            bail!("a cluster's name has 1 to 32 letters, digits and dashes, unlike {name:?}");
        }
        let dir = std::env::var_os("CUMULET_CLUSTER_DIR").map_or_else(
            || PathBuf::from(format!("/var/lib/cumulet-{name}")),
            PathBuf::from,
        );
        if !dir.is_absolute() || dir.display().to_string().contains(char::is_whitespace) {
            bail!(
                "a cluster's folder is an absolute path without spaces, unlike {}",
                dir.display()
            );
        }
        Ok(Self {
            layout: Layout::new(name, &dir),
        })
    }

    /// The running cluster in a folder.
    pub fn attach(dir: &Path) -> Result<Self> {
        let Some(record) = Record::load(dir)? else {
            bail!(
                "there is no cluster in {}; hint: `cargo xtask cluster up`",
                dir.display()
            );
        };
        if !record.is_running() {
            bail!(
                "the cluster in {} is not running; hint: `cargo xtask cluster up`",
                dir.display()
            );
        }
        Ok(Self {
            layout: Layout::new(&record.name, dir),
        })
    }

    /// Paths and addresses.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// kubectl with full rights, against the forward on 127.0.0.1.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(self.layout.at("bin/kubectl"), self.kubeconfig())
    }

    /// A kubeconfig that works in the machine's own network.
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.at("kubeconfig")
    }

    /// The cluster's network namespace.
    pub fn network(&self) -> Result<PathBuf> {
        let record = Record::load(self.layout.dir())?.unwrap_or_default();
        let Some(init) = record.init.filter(Process::is_alive) else {
            bail!("the cluster {} is not running", self.layout.name());
        };
        Ok(PathBuf::from(format!("/proc/{}/ns/net", init.pid)))
    }

    /// A command that runs in the cluster's network and otherwise on the machine.
    pub fn command_in_network(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.network()?.display()))
            .arg("--")
            .arg(program);
        Ok(command)
    }

    /// One of the cluster's own programs (`iptables`, `ip`), run in the cluster's network.
    pub fn tool_in_network(&self, program: &str) -> Result<Command> {
        let mut command = self.command_in_network(&self.layout.at("bin").join(program))?;
        init::environment(&self.layout, &mut command);
        Ok(command)
    }

    /// A free port on 127.0.0.1 that leads to an address inside, for as long as this process lives.
    pub fn forward(&self, target: SocketAddr) -> Result<SocketAddr> {
        Forward::bind(0, &self.network()?, target)?.serve_in_background()
    }

    /// Brings an image tar into the node's store. Images are kept by digest: bringing one twice costs little.
    pub fn import_image(&self, tar: &Path) -> Result<()> {
        process::output(
            init::tool(&self.layout, "ctr")
                .arg("--address")
                .arg(self.layout.at(config::CONTAINERD_SOCKET))
                .args(["--namespace", "k8s.io", "images", "import"])
                .arg(tar),
        )
        .with_context(|| format!("failed to import {}", tar.display()))?;
        Ok(())
    }

    /// What is on the machine because of this cluster. Empty after [`Cluster::down`].
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let network = self
            .network()
            .ok()
            .and_then(|path| std::fs::metadata(path).ok())
            .map(|file| file.ino());
        leftovers::find(&self.layout, network)
    }
}
