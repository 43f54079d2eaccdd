//! `cargo xtask bench`: a comparison with the JavaScript packages, everything it needs installed and built first.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use cumulet_e2e::tools;
use cumulet_e2e::{process, tools::npm};

/// What can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Comparison {
    /// Cores, bees and drives on one machine.
    Core,
    /// A drive from a JavaScript peer to the node, and to JavaScript.
    FirstReplication,
    /// Streams over UDP, connections of the DHT, blind relays and blind peers.
    Net,
}

/// Arguments of the command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cargo xtask bench core                      the whole comparison, as a table
  cargo xtask bench core --row append         the rows whose name contains \"append\"
  cargo xtask bench core --row 'bee|drive'    several kinds of rows
  cargo xtask bench core --rounds 1           a quick look
  cargo xtask bench first-replication         a drive from a JavaScript peer to the node, and to JavaScript
  cargo xtask bench net                       streams over UDP, and connections of the DHT
  cargo xtask bench core --json > core.json   one JSON object, nothing else, on standard output

A ratio of more than 1 is better for us. Both sides take turns in every round; what is run beside them on the machine
shows in the spread.")]
pub(crate) struct Arguments {
    /// Which comparison.
    #[arg(value_enum)]
    name: Comparison,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// How often each row is measured.
    #[arg(long)]
    rounds: Option<usize>,
    /// Only rows whose name contains this, or any of several with | between.
    #[arg(long, value_name = "PATTERN")]
    row: Option<String>,
    /// Folder for what is written, emptied before and after; must be on a disk. Default: in cargo's target folder.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = tools::repository();
    let (name, packages, folders) = match arguments.name {
        Comparison::Core => ("core", &["cumulet-bench"][..], &["bench/js"][..]),
        Comparison::FirstReplication => {
            let packages = &["cumulet-bench", "cumulet-node"][..];
            ("first-replication", packages, &["bench/js"][..])
        }
        Comparison::Net => {
            let folders = &["interop/udx", "interop/dht", "interop/relay"][..];
            ("net", &["cumulet-bench-net", "cumulet-node"][..], folders)
        }
    };
    for folder in folders {
        eprintln!("installing the JavaScript packages in {folder}, unless they are there");
        npm::install(&root.join(folder))?;
    }
    eprintln!("building the release executables: {}", packages.join(", "));
    let built = Command::new("cargo")
        .args(["build", "--release"])
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .current_dir(&root)
        // Standard output is for the result alone.
        .stdout(std::io::stderr())
        .status()
        .context("failed to start cargo")?;
    if !built.success() {
        bail!("failed to build the release executables");
    }
    let target = target_folder(&root)?;
    let executables = target.join("release");
    let mut command = if let Comparison::Net = arguments.name {
        let mut command = Command::new(executables.join("cumulet-bench-net"));
        command.arg("compare");
        command
    } else {
        let mut command = Command::new(executables.join("cumulet-bench"));
        command
            .args(["compare", name])
            .arg("--data")
            .arg(arguments.data.clone().unwrap_or_else(|| target.join("bench")))
            .arg("--executables")
            .arg(&executables);
        command
    };
    command.arg("--repository").arg(&root);
    if arguments.json {
        command.arg("--json");
    }
    if let Some(rounds) = arguments.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    if let Some(row) = &arguments.row {
        command.args(["--row", row]);
    }
    let status = command.status().context("failed to start the comparison")?;
    if !status.success() {
        bail!("the comparison failed");
    }
    Ok(())
}

/// Cargo's target folder, which a variable or a configuration file may have moved.
fn target_folder(root: &std::path::Path) -> Result<PathBuf> {
    let text = process::output(
        Command::new("cargo")
            .args(["metadata", "--format-version", "1", "--no-deps"])
            .current_dir(root),
    )?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).context("failed to understand cargo's metadata")?;
    let folder = metadata["target_directory"]
        .as_str()
        .context("cargo's metadata has no target folder")?;
    Ok(PathBuf::from(folder))
}
