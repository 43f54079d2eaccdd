//! `cumulet-interop vectors DIR` and `cumulet-interop matrix`: see the library.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use cumulet_interop::matrix::{self, Size};
use cumulet_interop::vectors;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Check a folder of protocol vectors.
    Vectors {
        /// The folder.
        dir: PathBuf,
    },
    /// Run the product beside the real JavaScript packages.
    Matrix {
        /// Decides everything that is random; without it a random one.
        #[arg(long)]
        seed: Option<u64>,
        /// How much is run.
        #[arg(long, value_enum, default_value = "full")]
        size: Size,
        /// Only cases whose name contains this.
        #[arg(long)]
        only: Option<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Vectors { dir } => check_vectors(&dir),
        Command::Matrix { seed, size, only } => run_matrix(seed, size, only),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all passed. The last line is the count.
fn check_vectors(dir: &Path) -> anyhow::Result<bool> {
    let report = vectors::check(dir, |line| println!("{line}"))
        .with_context(|| format!("failed to read {}", dir.display()))?;
    for failure in &report.failures {
        println!("FAILED {failure}");
    }
    println!("{} passed, {} failed", report.passed, report.failures.len());
    Ok(report.failures.is_empty())
}

/// A seed that is short enough to be typed again.
fn drawn_seed() -> anyhow::Result<u64> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("failed to draw a seed: {error}"))?;
    Ok(u32::from_le_bytes(bytes).into())
}

/// Whether all passed, and something was run. The seed stands first and last but one, the count last.
fn run_matrix(seed: Option<u64>, size: Size, only: Option<String>) -> anyhow::Result<bool> {
    let seed = seed.map_or_else(drawn_seed, Ok)?;
    println!("seed {seed}");
    let options = matrix::Options { seed, size, only };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let outcome = runtime.block_on(matrix::run(&options, |line| println!("{line}")))?;
    for name in &outcome.failed {
        println!("again: cargo xtask interop --seed {seed} --only '{name}'");
    }
    println!("seed {seed}");
    println!("{} passed, {} failed", outcome.passed, outcome.failed.len());
    Ok(outcome.failed.is_empty() && outcome.passed > 0)
}
