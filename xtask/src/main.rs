//! Developer commands of the repository: `cargo xtask <command>`.
//!
//! One module per command; each step says what it does and how long it took, and is skipped when its result is there.
//! What the commands share with the end-to-end tests is in the crate `cumulet-e2e`.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  cargo xtask demo                       everything, on this machine
  cargo xtask demo --down                nothing of it left
  cargo xtask cluster up                 a real Kubernetes on this machine
  cargo xtask cluster kubectl get pods   look at it
  cargo xtask cluster down               remove every trace of it";

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure beside the JavaScript packages.
    Bench(commands::bench::Arguments),
    /// A real single-node Kubernetes on this machine.
    #[command(subcommand)]
    Cluster(commands::cluster::Command),
    /// Set up everything that is missing and show the main job: a peer's archive pinned, served and backed up.
    Demo(commands::demo::Arguments),
    /// Coverage-guided fuzzing of every decoder and state machine.
    Fuzz(commands::fuzz::Arguments),
    /// Generated files: write them, or check that they are current.
    Gen(commands::r#gen::Arguments),
    /// Static container images, built without a daemon.
    Image(commands::image::Arguments),
    /// Every layer of the tests, or one.
    Test(commands::test::Arguments),
    /// Check a folder of protocol vectors.
    Vectors {
        /// The folder.
        dir: std::path::PathBuf,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Bench(arguments) => commands::bench::run(&arguments),
        Command::Cluster(command) => commands::cluster::run(command),
        Command::Demo(arguments) => commands::demo::run(&arguments),
        Command::Fuzz(arguments) => commands::fuzz::run(&arguments),
        Command::Gen(arguments) => commands::r#gen::run(&arguments),
        Command::Test(arguments) => commands::test::run(&arguments),
        Command::Vectors { dir } => Err(anyhow::anyhow!(
            "checking vectors is not built yet, so {} was not looked at",
            dir.display()
        )),
        Command::Image(arguments) => commands::image::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
