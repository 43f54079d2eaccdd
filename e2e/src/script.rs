//! Scripts of `interop/relay` under control: one JSON command a line, one JSON answer a line.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{process, tools};

/// A script that runs. It ends when this is dropped.
#[derive(Debug)]
pub struct Script {
    process: Child,
    /// None at the end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// Node.js.
pub fn node() -> Result<PathBuf> {
    process::find("node").context("Node.js is missing")
}

impl Script {
    /// Starts a script of that name; `node` is a command of Node.js without arguments.
    pub fn start(mut node: Command, name: &str) -> Result<Self> {
        let scripts = tools::repository().join("interop/relay");
        tools::npm::install(&scripts)?;
        let mut process = node
            .arg(scripts.join(name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {name}"))?;
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().context("no output")?);
        Ok(Self {
            process,
            input,
            output,
        })
    }

    /// Gives a command and waits for its answer; an `error` in it is one here.
    pub fn call(&mut self, command: &str, mut arguments: Value) -> Result<Value> {
        arguments["cmd"] = command.into();
        let input = self.input.as_mut().context("no input")?;
        writeln!(input, "{arguments}").context("failed to ask")?;
        let mut line = String::new();
        self.output.read_line(&mut line).context("failed to hear")?;
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("{command}: {line:?}"))?;
        ensure!(answer["error"].is_null(), "{command}: {answer}");
        Ok(answer)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It ends by itself, and a browser with it.
        drop(self.input.take());
        let _ = self.process.wait();
    }
}
