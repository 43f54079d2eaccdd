//! Measured programs, each a process of its own: ours and JavaScript's take the same tasks and answer alike.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Places;
use crate::measure::Report;
use crate::work::Task;

/// Whose program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Ours,
    Js,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Js => "JS",
        }
    }
}

/// A program that was started; it is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    process: Child,
    /// Closing it tells a program that serves others to end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Program {
    pub(crate) fn start(places: &Places, side: Side, task: &Task) -> Result<Self> {
        let mut command = match side {
            Side::Ours => {
                let mut command =
                    Command::new(std::env::current_exe().context("failed to find this program")?);
                command.arg("work");
                command
            }
            Side::Js => {
                let mut command = Command::new("node");
                command.arg(places.repository.join("bench/js/work.mjs"));
                command
            }
        };
        command.arg(serde_json::to_string(task)?);
        Self::spawn(&mut command)
    }

    /// Starts a program that answers in lines of JSON.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let name = Path::new(command.get_program()).display().to_string();
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {name}"))?;
        let output = process.stdout.take().context("the program has no output")?;
        Ok(Self {
            input: process.stdin.take(),
            output: BufReader::new(output),
            process,
        })
    }

    /// The next line it prints.
    pub(crate) fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .context("failed to read a program's answer")?;
        if line.is_empty() {
            bail!("a program ended without an answer: {}", self.process.wait()?);
        }
        serde_json::from_str(&line).with_context(|| format!("failed to understand the answer {line:?}"))
    }

    /// What a program that serves others says when it is ready.
    pub(crate) fn ready(&mut self) -> Result<Value> {
        let answer: Value = self.answer()?;
        match answer.get("ready") {
            Some(ready) => Ok(ready.clone()),
            None => bail!("a program said {answer} instead of being ready"),
        }
    }

    /// Waits for its report, after telling it to end.
    pub(crate) fn finish(mut self) -> Result<Report> {
        drop(self.input.take());
        let report = self.answer()?;
        let status = self.process.wait().context("failed to wait for a program")?;
        if !status.success() {
            bail!("a program reported and then failed: {status}");
        }
        Ok(report)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already if all went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
