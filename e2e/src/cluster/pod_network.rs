//! Doing something on the network as a pod would: with its address, under the policies that hold for it.

use std::fs::{self, File};
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use super::{Cluster, Process, Record};

impl Cluster {
    /// Runs `work` on a thread inside the network namespace of the pod that has this address.
    pub fn in_pod_network<T: Send>(
        &self,
        address: IpAddr,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        let namespace = self.pod_network(address)?;
        inside(&namespace, work)
    }

    /// The namespace in which the address is a local one: there, and nowhere else, a socket can be bound to it.
    fn pod_network(&self, address: IpAddr) -> Result<PathBuf> {
        let record = Record::load(self.layout().dir())?.unwrap_or_default();
        let Some(init) = record.init.filter(Process::is_alive) else {
            bail!("the cluster {} is not running", self.layout().name());
        };
        // The namespaces are files of the cluster's own mounts, which its first process shows.
        let folder = PathBuf::from(format!("/proc/{}/root/run/netns", init.pid));
        let listed = fs::read_dir(&folder).with_context(|| format!("failed to list {}", folder.display()))?;
        for entry in listed.flatten() {
            let is_local = inside(&entry.path(), || Ok(UdpSocket::bind((address, 0)).is_ok()));
            if is_local.unwrap_or(false) {
                return Ok(entry.path());
            }
        }
        bail!("no pod has the address {address}")
    }
}

/// Runs `work` on a thread of its own, which alone enters the namespace.
fn inside<T: Send>(namespace: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file =
                File::open(namespace).with_context(|| format!("failed to open {}", namespace.display()))?;
            setns(file, CloneFlags::CLONE_NEWNET).context("failed to enter a pod's network")?;
            work()
        });
        thread
            .join()
            .unwrap_or_else(|_| bail!("the thread in the pod's network panicked"))
    })
}
