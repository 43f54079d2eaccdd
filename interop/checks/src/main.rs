//! `cumulet-interop vectors DIR` and `cumulet-interop matrix`: see the library.

use std::num::NonZeroUsize;
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
        /// Cases that run at once.
        #[arg(long, default_value = "1")]
        jobs: NonZeroUsize,
        /// A file for the result and time of every case, as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Vectors { dir } => check_vectors(&dir),
        Command::Matrix {
            seed,
            size,
            only,
            jobs,
            json,
        } => drawn_seed(seed).and_then(|seed| {
            let options = matrix::Options {
                seed,
                size,
                only,
                jobs,
            };
            run_matrix(&options, json.as_deref())
        }),
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

/// The seed, or one that is short enough to be typed again.
fn drawn_seed(given: Option<u64>) -> anyhow::Result<u64> {
    if let Some(seed) = given {
        return Ok(seed);
    }
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("failed to draw a seed: {error}"))?;
    Ok(u32::from_le_bytes(bytes).into())
}

/// Cases in the table of the slowest.
const SLOWEST: usize = 10;

/// Whether all passed, and something was run. The seed stands first and last but one, the count last.
fn run_matrix(options: &matrix::Options, json: Option<&Path>) -> anyhow::Result<bool> {
    println!("seed {}", options.seed);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let report = runtime.block_on(matrix::run(options, |case| println!("{case}")))?;
    println!("slowest of {:.1} s:", report.took.as_secs_f32());
    for case in report.slowest(SLOWEST) {
        println!("{:8.1} s  {}", case.took.as_secs_f32(), case.name);
    }
    if let Some(file) = json {
        std::fs::write(file, format!("{:#}\n", report.to_json()))
            .with_context(|| format!("failed to write {}", file.display()))?;
    }
    for case in report.failed() {
        println!(
            "again: cargo xtask interop --seed {} --only '{}'",
            report.seed, case.name
        );
    }
    println!("seed {}", report.seed);
    println!("{} passed, {} failed", report.passed(), report.failed().count());
    Ok(report.failed().count() == 0 && report.passed() > 0)
}
