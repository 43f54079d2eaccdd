//! `cargo xtask vectors`: any folder of protocol vectors, checked against the product.
//!
//! The work is done by the executable of `cumulet-interop`, so that this one does not have to link the product.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use cumulet_e2e::tools;

/// Arguments of the command.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A folder of vector files, or of folders of them.
    #[arg(default_value = "vectors")]
    dir: PathBuf,
}

/// Prints `N passed, N failed` last; fails if anything did.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let dir = std::path::absolute(&arguments.dir)
        .with_context(|| format!("failed to find {}", arguments.dir.display()))?;
    conformance(["vectors".as_ref(), dir.as_os_str()], false)
}

/// Runs `cumulet-interop` with these arguments; its output is ours.
pub(super) fn conformance<'a>(
    arguments: impl IntoIterator<Item = &'a OsStr>,
    is_optimised: bool,
) -> Result<()> {
    let mut command = Command::new("cargo");
    command.current_dir(tools::repository()).args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "cumulet-interop",
    ]);
    if is_optimised {
        command.arg("--release");
    }
    let status = command
        .arg("--")
        .args(arguments)
        .status()
        .context("failed to start cargo")?;
    if !status.success() {
        bail!("the conformance checks failed ({status})");
    }
    Ok(())
}
