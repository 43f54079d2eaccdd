//! A measured program: a child process that prints one value per line.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use cumulet_net_lab::Namespace;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A program that says nothing for this long is given up: the slowest row takes a fraction of it.
const PATIENCE: Duration = Duration::from_mins(5);

/// Whose program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Js,
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// This executable.
    pub(crate) ours: PathBuf,
    /// The folder `interop`, with its packages installed.
    pub(crate) interop: PathBuf,
}

/// A running program. It ends when dropped, or when its standard input closes.
pub(crate) struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts the side's program of a folder of `interop`.
    pub(crate) fn start(places: &Places, side: Side, folder: &str, arguments: &[&str]) -> Result<Self> {
        let program = match side {
            Side::Ours => Command::new(&places.ours),
            Side::Js => Command::new("node"),
        };
        Self::start_as(program, places, side, folder, arguments)
    }

    /// The same in a network namespace.
    pub(crate) fn start_within(
        namespace: &Namespace,
        places: &Places,
        side: Side,
        folder: &str,
        arguments: &[&str],
    ) -> Result<Self> {
        let program = match side {
            Side::Ours => namespace.command(&places.ours.to_string_lossy()),
            Side::Js => namespace.command("node"),
        };
        Self::start_as(program.into(), places, side, folder, arguments)
    }

    fn start_as(
        mut program: Command,
        places: &Places,
        side: Side,
        folder: &str,
        arguments: &[&str],
    ) -> Result<Self> {
        match side {
            Side::Ours => program.arg("side"),
            Side::Js => program.arg("bench.js").current_dir(places.interop.join(folder)),
        };
        Self::spawn(program.args(arguments))
    }

    /// A DHT of JavaScript nodes; it takes commands of `interop/dht/peer.js`.
    pub(crate) fn start_peer(places: &Places) -> Result<Self> {
        let mut command = Command::new("node");
        Self::spawn(command.arg("peer.js").current_dir(places.interop.join("dht")))
    }

    fn spawn(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to start {}", command.as_std().get_program().display()))?;
        let output = child.stdout.take().context("a program without output")?;
        Ok(Self {
            input: child.stdin.take(),
            child,
            output: BufReader::new(output).lines(),
        })
    }

    /// The next value it prints.
    pub(crate) async fn next(&mut self) -> Result<Value> {
        let line = tokio::time::timeout(PATIENCE, self.output.next_line())
            .await
            .context("a program is silent")??
            .context("a program ended early")?;
        serde_json::from_str(&line).with_context(|| format!("a program printed {line:?}"))
    }

    /// Gives it a line, and returns what it prints then.
    pub(crate) async fn ask(&mut self, line: &str) -> Result<Value> {
        let input = self.input.as_mut().context("a program without input")?;
        input.write_all(format!("{line}\n").as_bytes()).await?;
        self.next().await
    }

    /// Ends it, and waits for that.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.input = None;
        if tokio::time::timeout(Duration::from_secs(5), self.child.wait())
            .await
            .is_err()
        {
            self.child.kill().await?;
        }
        Ok(())
    }
}

/// A number of an object.
pub(crate) fn number(value: &Value, name: &str) -> Result<f64> {
    value[name]
        .as_f64()
        .with_context(|| format!("{value} has no number {name}"))
}
