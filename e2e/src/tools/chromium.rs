//! Chromium without a screen: the machine's own, or Debian's, unpacked into the cache.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{debian, unpacked};
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
    unpacked::wrapper(&root, "chromium", "usr/lib/chromium/chromium-headless-shell")
}
