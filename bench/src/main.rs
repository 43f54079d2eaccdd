//! Measures this repository's stack beside the JavaScript one.
//!
//! `compare` runs a comparison: its rows in rounds, ours and JavaScript's taking turns, each measured program in a process of
//! its own. `work` is one of our measured programs. Both kinds do the same work on the same bytes, and check what they read.
//!
//! It installs and builds nothing: `cargo xtask bench` does that.
#![expect(clippy::cast_precision_loss, reason = "what is measured is far below 2^52")]

mod compare;
mod content;
mod machine;
mod measure;
mod side;
mod table;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// As in the node, so that the measured memory is what the node would have.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a comparison.
    Compare(compare::Arguments),
    /// Do one measured task, given as JSON, and report it as JSON.
    Work {
        /// The task.
        task: String,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Work { task } => work::run(&task),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Fresh random bytes.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("failed to get random bytes: {error}"))?;
    Ok(bytes)
}

/// Where a comparison finds what it runs, and where it may write.
#[derive(Debug, Clone, clap::Args)]
struct Places {
    /// Folder for what is written; emptied at the start and the end. Must be on a disk.
    #[arg(long)]
    data: PathBuf,
    /// The repository's root, with the JavaScript packages installed.
    #[arg(long)]
    repository: PathBuf,
    /// Folder with the release executables.
    #[arg(long)]
    executables: PathBuf,
}
