//! `cumulet`: cores, bees and drives on the command line, for people and for debugging.
//!
//! A command opens the user's store ([`store`]), finds the archive that was named ([`session`]), asks peers for what is not
//! here ([`network`]) and prints a result ([`output`]). What archives are and how they are read, written, compared and
//! mirrored is all in the crates below; here is only what a command line adds.
//!
//! Invariants: results go to stdout and nothing else does; a secret is never an argument and is printed only when asked for;
//! memory is bounded however large an archive is; Ctrl-C ends with everything received or written so far stored.

mod append;
mod bee;
mod cli;
mod core;
mod drive;
mod failure;
mod files;
mod folders;
mod mirror;
mod names;
mod net;
mod network;
mod output;
mod plain;
mod ranges;
mod secrets;
mod serve;
mod session;
mod store;
mod verify;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::{Cli, Command};
use crate::failure::{Context, Failure, Kind, Result};
use crate::session::Session;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("CUMULET_LOG").unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let json = cli.global.json;
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&failure, json);
            ExitCode::from(failure.code())
        }
    }
}

/// Says on stderr why the command failed; nothing if whoever read its results went away.
fn tell(failure: &Failure, json: bool) {
    if failure.text.is_empty() {
        return;
    }
    if let (true, Ok(text)) = (json, serde_json::to_string(&failure.as_json())) {
        eprintln!("{text}");
        return;
    }
    eprintln!("cumulet: {}", failure.text);
    if let Some(hint) = &failure.hint {
        eprintln!("hint: {hint}");
    }
}

fn start(cli: Cli) -> Result {
    let command = match cli.command {
        Command::Completions { shell } => return cli::completions(shell),
        Command::Man { directory } => return cli::man(&directory),
        Command::Keygen { file } => {
            secrets::make(&file)?;
            return Ok(());
        }
        command => command,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let result = runtime.block_on(run(Session::new(cli.global), command));
    // A read of stdin can't be cancelled: it ends with the process.
    runtime.shutdown_background();
    result
}

async fn run(mut session: Session, command: Command) -> Result {
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    tasks.spawn(watch_signals(cancel.clone())?);
    let result = tokio::select! {
        result = dispatch(&mut session, command) => result,
        () = cancel.cancelled() => Err(Failure::new(Kind::Interrupted, "interrupted")
            .hint("what was received or written so far is kept; the same command goes on from there")),
    };
    let flushed = session.out.flush();
    let closed = session.close().await;
    result.and(flushed).and(closed)
}

async fn dispatch(session: &mut Session, command: Command) -> Result {
    match command {
        Command::Core(command) => core::run(session, command).await,
        Command::Bee(command) => bee::run(session, command).await,
        Command::Drive(command) => drive::run(session, command).await,
        Command::Net(command) => net::run(session, command).await,
        Command::Completions { .. } | Command::Man { .. } | Command::Keygen { .. } => Ok(()),
    }
}

/// The first signal ends the command in order; the second one at once.
fn watch_signals(cancel: CancellationToken) -> Result<impl Future<Output = ()> + Send> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        let mut asked = false;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if asked {
                std::process::exit(i32::from(Kind::Interrupted as u8));
            }
            asked = true;
            cancel.cancel();
        }
    })
}
