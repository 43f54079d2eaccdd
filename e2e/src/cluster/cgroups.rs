//! The cluster's own root in every cgroup hierarchy of the machine, so that its pods never mix with anything else.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::layout::Layout;
use crate::poll;

const MOUNT: &str = "/sys/fs/cgroup";
/// Killed processes leave their cgroup only when the kernel has taken them apart.
const EMPTY_WITHIN: Duration = Duration::from_secs(20);

/// Makes the roots, with what the kubelet expects to find in them.
pub(super) fn create(layout: &Layout) -> Result<()> {
    for hierarchy in hierarchies()? {
        let root = hierarchy.join(layout.cgroup_root().trim_start_matches('/'));
        fs::create_dir_all(&root).with_context(|| format!("failed to create {}", root.display()))?;
        // A new cpuset starts empty, and nothing can run in an empty one.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if hierarchy.ends_with("cpuset") {
                let value =
                    fs::read(hierarchy.join(file)).with_context(|| format!("failed to read {file}"))?;
                fs::write(root.join(file), value).with_context(|| format!("failed to write {file}"))?;
            }
        }
        let controllers = root.join("cgroup.controllers");
        if hierarchy == Path::new(MOUNT) && controllers.exists() {
            for controller in ["cpu", "memory", "pids", "cpuset", "io"] {
                // A controller the machine lacks is the kubelet's to complain about.
                let _ = fs::write(hierarchy.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
    }
    Ok(())
}

/// Removes the roots and all below them, which must have no processes left.
pub(super) fn remove(layout: &Layout) -> Result<()> {
    for root in existing(layout)? {
        poll::until("the cluster's cgroups becoming empty", EMPTY_WITHIN, || {
            remove_tree(&root)
                .with_context(|| format!("failed to remove {}", root.display()))
                .map(Some)
        })?;
    }
    Ok(())
}

/// The cluster's roots that exist now.
pub(super) fn existing(layout: &Layout) -> Result<Vec<PathBuf>> {
    let name = layout.cgroup_root();
    // On a hybrid machine the container runtime makes the same folders in the v2 view.
    let everywhere = hierarchies()?
        .into_iter()
        .chain([Path::new(MOUNT).join("unified")]);
    let roots = everywhere.map(|hierarchy| hierarchy.join(name.trim_start_matches('/')));
    Ok(roots.filter(|root| root.is_dir()).collect())
}

/// One folder per hierarchy of cgroup v1, or the one of v2.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mount = Path::new(MOUNT);
    if mount.join("cgroup.controllers").exists() {
        return Ok(vec![mount.into()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(mount).context("failed to list the machine's cgroup hierarchies")? {
        let entry = entry.context("failed to list the machine's cgroup hierarchies")?;
        // `unified` is the v2 view of a hybrid machine and has no controllers; links are aliases.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && entry.file_name() != "unified" {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove_tree(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}
