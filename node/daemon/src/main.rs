//! The command line of cumulet-node.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use cumulet_node::config::Options;
use cumulet_node::run;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An always-on peer of the Hypercore network: keeps archives, serves them, backs them up.
#[derive(Debug, Parser)]
#[command(name = "cumulet-node", version, after_help = EXAMPLES)]
struct Cli {
    /// TOML file with any of these options, written without the dashes in front.
    #[arg(long, env = "CUMULET_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints a completion script for a shell and ends.
    #[arg(long, value_name = "SHELL")]
    completions: Option<clap_complete::Shell>,
    #[command(flatten)]
    options: Options,
}

const EXAMPLES: &str = "\
Examples:
  Keep an archive on this machine, backed up to ~/cumulet/backup:
    cumulet-node --data-dir ~/cumulet --pin pear://<key>
  Keep it on demand only, in a network of your own:
    cumulet-node --data-dir ~/cumulet --pin <key> --sparse --bootstrap dht.example.org:49737
  Restore on a new machine with no peer online:
    cumulet-node --data-dir ~/new --pin <key> --backup-url file:///mnt/usb --content-key-file content.key";

/// How long a thread that waits for disks stays when there is nothing to do. Many cores that change at once need dozens of them, and
/// each holds on to memory that was freed on it.
const IDLE_THREAD: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(shell) = cli.completions {
        clap_complete::generate(shell, &mut Cli::command(), "cumulet-node", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("CUMULET_LOG").unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cumulet-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    let file = match &cli.config {
        Some(path) => Options::from_file(path)?,
        None => Options::default(),
    };
    let config = cli.options.over(file).check()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_keep_alive(IDLE_THREAD)
        .build()
        .context("failed to start the runtime")?;
    runtime.block_on(run::run(config))
}
