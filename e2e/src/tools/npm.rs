//! The packages of a JavaScript folder of this repository, installed from its lock file by `npm ci`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// File in `node_modules` that says which lock file it was installed from.
const STAMP: &str = "node_modules/.cumulet-lock";

/// Installs `folder`'s packages, unless the lock file is the one they were installed from.
pub fn install(folder: &Path) -> Result<()> {
    let lock = fs::read(folder.join("package-lock.json"))
        .with_context(|| format!("failed to read the lock file in {}", folder.display()))?;
    if fs::read(folder.join(STAMP)).is_ok_and(|stamp| stamp == lock) {
        return Ok(());
    }
    if process::find("npm").is_none() {
        bail!("npm is missing, and the real JavaScript peers need it; hint: install Node.js 20 or newer");
    }
    process::output(
        Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund", "--silent"])
            .current_dir(folder),
    )?;
    fs::write(folder.join(STAMP), lock).context("failed to note which packages are installed")
}
