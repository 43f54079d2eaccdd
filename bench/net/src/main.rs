//! Measures UDX streams, what they leave to others, DHT connections, blind relays and blind peers beside the JavaScript packages (`udx-native`, `hyperdht`, `blind-relay`,
//! `blind-peer`).
//!
//! `compare` runs the rows in rounds, ours and JavaScript's taking turns, each measured program in a process of its own; `side` is
//! one of ours, with the arguments and the output of `bench.js` in `interop/udx`, `interop/dht` and `interop/relay`.
//!
//! It installs and builds nothing: `cargo xtask bench net` does that.

mod compare;
mod crowd;
mod keeping;
mod path;
mod pouring;
mod process;
mod relaying;
mod rows;
mod shares;
mod side;

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
    /// Run the comparison.
    Compare(compare::Arguments),
    /// Be one side of a measurement.
    #[command(subcommand)]
    Side(side::Task),
}

fn run() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match arguments.command {
            Command::Compare(arguments) => compare::run(&arguments).await,
            Command::Side(task) => side::run(task).await,
        }
    })
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
