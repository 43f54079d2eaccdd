//! The real executable with a store of its own.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)] // each test binary uses a part

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// A user's store, and the command line on it.
pub(crate) struct User {
    pub(crate) directory: TempDir,
}

impl User {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// A file of the user's beside the store.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name).display().to_string()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cumulet"));
        command
            .env_clear()
            .env("CUMULET_STORE", self.store())
            .env("RUST_BACKTRACE", "0")
            .current_dir(self.directory.path())
            .args(args)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it with something on stdin.
    pub(crate) fn feed(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        // A command that fails early does not read to the end.
        let _ = writer.join().unwrap();
        output
    }

    /// Runs it; it must succeed. Returns its stdout.
    #[track_caller]
    pub(crate) fn bytes(&self, args: &[&str]) -> Vec<u8> {
        succeeded(args, self.run(args))
    }

    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        String::from_utf8(self.bytes(args)).unwrap()
    }

    #[track_caller]
    pub(crate) fn ok_fed(&self, args: &[&str], input: &[u8]) -> String {
        String::from_utf8(succeeded(args, self.feed(args, input))).unwrap()
    }

    /// Runs it with `--json`; every line is an object.
    #[track_caller]
    pub(crate) fn lines(&self, args: &[&str]) -> Vec<Value> {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        json_lines(&self.ok(&args))
    }

    /// As [`User::lines`], for commands with one result.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let mut lines = self.lines(args);
        assert_eq!(lines.len(), 1, "{args:?}: {lines:?}");
        lines.remove(0)
    }

    /// Runs it; it must fail with this code. Returns its stderr.
    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stdout}{stderr}");
        stderr
    }

    /// Starts serving; returns when peers can come.
    pub(crate) fn serve(&self, args: &[&str]) -> Server {
        let mut child = self
            .command(args)
            .arg("--json")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let said = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{args:?} said {line:?}"));
        Server { child, stdout, said }
    }
}

#[track_caller]
fn succeeded(args: &[&str], output: Output) -> Vec<u8> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {} {stderr}", output.status);
    output.stdout
}

pub(crate) fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A command that runs until it is interrupted.
pub(crate) struct Server {
    child: Child,
    pub(crate) stdout: BufReader<ChildStdout>,
    /// Its first line.
    pub(crate) said: Value,
}

impl Server {
    pub(crate) fn listen(&self) -> String {
        self.said["listen"].as_str().unwrap().to_owned()
    }

    /// The next line that it prints.
    pub(crate) fn next(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("said {line:?}"))
    }

    /// Interrupts it as Ctrl-C does; returns its exit code.
    pub(crate) fn interrupt(&mut self) -> Option<i32> {
        interrupt(&mut self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Interrupts a process as Ctrl-C does; returns its exit code.
pub(crate) fn interrupt(child: &mut Child) -> Option<i32> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    child.wait().unwrap().code()
}

/// Waits until a condition holds, for at most a minute.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_mins(1), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes that compress to nothing known and differ by seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let byte = |()| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_n((), length).map(byte).collect()
}

/// All files below a directory.
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}
