//! Looks for anything a cluster could have left on the machine.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Result;

use super::cgroups;
use super::layout::{Layout, PROVISIONER_DIR};

/// Describes each process, mount, cgroup, network namespace user and link that belongs to the cluster. `network` is the inode
/// of its network namespace, where known. Empty means nothing is left.
pub(super) fn find(layout: &Layout, network: Option<u64>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let dir = layout.dir().display().to_string();
    for pid in processes() {
        let folder = Path::new("/proc").join(pid.to_string());
        let command = fs::read(folder.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&format!("{dir}/")) {
            found.push(format!(
                "process {pid}: {}",
                command.chars().take(120).collect::<String>()
            ));
        }
        if network.is_some() && fs::metadata(folder.join("ns/net")).ok().map(|file| file.ino()) == network {
            found.push(format!(
                "process {pid} in the cluster's network: {}",
                command.trim()
            ));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&dir))
            .map(|line| format!("mount: {line}")),
    );
    found.extend(
        cgroups::existing(layout)?
            .into_iter()
            .map(|root| format!("cgroup: {}", root.display())),
    );
    for link in ["node0", "node0p"] {
        if Path::new("/sys/class/net").join(link).exists() {
            found.push(format!("network link: {link}"));
        }
    }
    Ok(found)
}

/// Whether any process of the machine has a volume folder mounted at the provisioner's path.
pub(super) fn provisioner_path_in_use() -> bool {
    processes().any(|pid| {
        fs::read_to_string(format!("/proc/{pid}/mountinfo")).is_ok_and(|mounts| {
            mounts
                .lines()
                .any(|line| line.split(' ').nth(4) == Some(PROVISIONER_DIR))
        })
    })
}

fn processes() -> impl Iterator<Item = u32> {
    let own = std::process::id();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(move |pid| *pid != own)
}
