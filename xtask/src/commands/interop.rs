//! `cargo xtask interop`: the matrix of cores, drives and bees against the real JavaScript packages.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use cumulet_e2e::process;

use super::vectors::conformance;

/// Arguments of the command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cargo xtask interop --seed 7
  cargo xtask interop --size small --only 'truncated twice'")]
pub(crate) struct Arguments {
    /// Decides everything that is random; without it a random one. It is printed first and last.
    #[arg(long)]
    seed: Option<u64>,
    /// How much is run: small takes minutes, full goes up to 100,000 blocks.
    #[arg(long, value_enum, default_value = "full")]
    size: Size,
    /// Only cases whose name contains this.
    #[arg(long, value_name = "CELL")]
    only: Option<String>,
    /// Cases that run at once.
    #[arg(long, default_value = "1")]
    jobs: NonZeroUsize,
    /// A file for the result and time of every case, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How much is run.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Size {
    Small,
    Full,
}

/// Prints `N passed, N failed` last; fails if anything did.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if process::find("node").is_none() || process::find("npm").is_none() {
        bail!("the matrix needs Node.js with npm: install them, or set PATH");
    }
    let (size, is_optimised) = match arguments.size {
        Size::Small => ("small", false),
        Size::Full => ("full", true),
    };
    let mut given: Vec<OsString> = ["matrix", "--size", size].map(OsString::from).into();
    if let Some(seed) = arguments.seed {
        given.extend(["--seed".into(), seed.to_string().into()]);
    }
    if let Some(only) = &arguments.only {
        given.extend(["--only".into(), only.into()]);
    }
    given.extend(["--jobs".into(), arguments.jobs.to_string().into()]);
    if let Some(json) = &arguments.json {
        let json = std::path::absolute(json).with_context(|| format!("failed to find {}", json.display()))?;
        given.extend(["--json".into(), json.into()]);
    }
    conformance(given.iter().map(OsString::as_os_str), is_optimised)
}
