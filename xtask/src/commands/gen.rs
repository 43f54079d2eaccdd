//! `cargo xtask gen`: files that are generated from the code, or a check that they are what the code says.

use anyhow::Result;
use clap::Args;

/// Arguments of the command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cargo xtask gen\n  cargo xtask gen --check")]
pub(crate) struct Arguments {
    /// Change nothing; fail when a file is not what would be written.
    #[arg(long)]
    check: bool,
}

/// Generating links the Kubernetes types, which every other command does without: it is a build of its own.
#[cfg(not(feature = "gen"))]
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    use std::process::Command;

    let mut command = Command::new("cargo");
    command.current_dir(cumulet_e2e::tools::repository());
    command.args([
        "run",
        "--quiet",
        "--package",
        "xtask",
        "--features",
        "gen",
        "--",
        "gen",
    ]);
    if arguments.check {
        command.arg("--check");
    }
    cumulet_e2e::process::run_shown(&mut command)
}

#[cfg(feature = "gen")]
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    use std::fs;

    use anyhow::{Context, bail};

    let path = cumulet_e2e::tools::repository().join("charts/cumulet/files/crds.yaml");
    let wanted = cumulet_crds::yaml().context("failed to write the custom resource definitions")?;
    if fs::read_to_string(&path).is_ok_and(|text| text == wanted) {
        println!("{} is up to date", path.display());
        return Ok(());
    }
    if arguments.check {
        bail!(
            "{} is not what the code says; hint: `cargo xtask gen`",
            path.display()
        );
    }
    fs::write(&path, wanted).with_context(|| format!("failed to write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}
