//! Chromium without a screen: the machine's own, or Debian's, unpacked into the cache.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::debian;
use crate::process;

/// Names the program, for this crate and for the JavaScript that drives it.
pub const VARIABLE: &str = "CUMULET_CHROMIUM";

/// What it is called where it is installed.
const NAMES: [&str; 4] = [
    "chromium-headless-shell",
    "chromium",
    "google-chrome",
    "chromium-browser",
];

/// Starts the unpacked one with the libraries that were unpacked with it.
const WRAPPER: &str = r#"#!/bin/sh
root=$(dirname "$(readlink -f "$0")")
for folder in "$root"/usr/lib/*-linux-gnu "$root"/lib/*-linux-gnu "$root"/usr/lib/*-linux-gnu/pulseaudio; do
    libraries=$libraries${libraries:+:}$folder
done
LD_LIBRARY_PATH=$libraries exec "$root/usr/lib/chromium/chromium-headless-shell" "$@"
"#;

/// The program: what the environment names, what the machine has, or Debian's.
pub fn program() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return Ok(named.into());
    }
    if let Some(installed) = NAMES.iter().find_map(|name| process::find(name)) {
        return Ok(installed);
    }
    let root = debian::CHROMIUM.root().with_context(|| {
        format!("failed to get Chromium; hint: install it, or name a program by {VARIABLE}")
    })?;
    let wrapper = root.join("chromium");
    if !wrapper.exists() {
        // Complete when it has its name: somebody else may be about to start it.
        let partial = root.join(format!("chromium-{}", std::process::id()));
        fs::write(&partial, WRAPPER)
            .and_then(|()| fs::set_permissions(&partial, fs::Permissions::from_mode(0o755)))
            .and_then(|()| fs::rename(&partial, &wrapper))
            .with_context(|| format!("failed to write {}", wrapper.display()))?;
    }
    Ok(wrapper)
}
