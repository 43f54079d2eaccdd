//! Makes dynamically provisioned volumes writable for pods that don't run as root.
//!
//! The provisioner of the controller manager creates its folders for root alone, and Kubernetes does not apply `fsGroup` to
//! hostPath volumes. Provisioners of real clusters on local disks open theirs to every user; so does this.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// Any user may write: what local-disk provisioners give a volume's folder.
const OPEN: u32 = 0o777;

/// Opens the volumes in `folder`, and from a thread of its own each one that appears later.
pub(super) fn open_to_all(folder: &Path) -> Result<()> {
    let watch = Inotify::init(InitFlags::IN_CLOEXEC).context("failed to watch for volumes")?;
    watch
        .add_watch(folder, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)
        .with_context(|| format!("failed to watch {}", folder.display()))?;
    // After the watch is on: a volume made in between is seen by one of the two.
    for entry in fs::read_dir(folder).context("failed to list volumes")? {
        open(&entry.context("failed to list volumes")?.path());
    }
    let folder: PathBuf = folder.into();
    std::thread::Builder::new()
        .name("volumes".into())
        .spawn(move || {
            while let Ok(events) = watch.read_events() {
                for name in events.into_iter().filter_map(|event| event.name) {
                    open(&folder.join(name));
                }
            }
        })
        .context("failed to start the volume watch")?;
    Ok(())
}

fn open(volume: &Path) {
    if let Err(error) = fs::set_permissions(volume, Permissions::from_mode(OPEN)) {
        eprintln!("failed to open {} to all users: {error}", volume.display());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::poll;

    #[test]
    fn volumes_made_before_and_after_are_open_to_every_user() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::set_permissions(folder.path().join(name), Permissions::from_mode(0o750)).unwrap();
        };
        make("before");
        open_to_all(folder.path()).unwrap();
        fs::create_dir(folder.path().join("after")).unwrap();
        for name in ["before", "after"] {
            poll::until("an open volume", Duration::from_secs(5), || {
                let mode = fs::metadata(folder.path().join(name))?.permissions().mode();
                Ok((mode & 0o777 == OPEN).then_some(()))
            })
            .unwrap();
        }
    }
}
