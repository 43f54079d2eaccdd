//! Programs of Debian packages that were unpacked and not installed, started with the libraries that came with them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Makes a program `name` in `root` that starts `root/executable`.
pub(super) fn wrapper(root: &Path, name: &str, executable: &str) -> Result<PathBuf> {
    let wrapper = root.join(name);
    if !wrapper.exists() {
        let script = format!(
            r#"#!/bin/sh
root=$(dirname "$(readlink -f "$0")")
for folder in "$root"/usr/lib/*-linux-gnu "$root"/lib/*-linux-gnu "$root"/usr/lib/*-linux-gnu/pulseaudio; do
    libraries=$libraries${{libraries:+:}}$folder
done
LD_LIBRARY_PATH=$libraries exec "$root/{executable}" "$@"
"#
        );
        // Complete when it has its name: somebody else may be about to start it.
        let partial = root.join(format!("{name}-{}", std::process::id()));
        fs::write(&partial, script)
            .and_then(|()| fs::set_permissions(&partial, fs::Permissions::from_mode(0o755)))
            .and_then(|()| fs::rename(&partial, &wrapper))
            .with_context(|| format!("failed to write {}", wrapper.display()))?;
    }
    Ok(wrapper)
}
