//! Running other programs, with errors that show the command and what it said.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// How much of a failed program's output an error shows: enough for a compiler error, not a whole build log.
const SHOWN_LINES: usize = 25;

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// The program is missing, or ended with a failure; the message carries the end of its output.
pub fn output(command: &mut Command) -> Result<String> {
    let result = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to start {}", described(command)))?;
    let stdout = String::from_utf8_lossy(&result.stdout).into_owned();
    if result.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&result.stderr);
    let said = if stderr.trim().is_empty() {
        stdout.as_str()
    } else {
        &stderr
    };
    bail!(
        "{} ended with {}\n{}",
        described(command),
        result.status,
        last_lines(said)
    );
}

/// As [`output`], feeding `input` to the program's standard input.
pub fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {}", described(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .with_context(|| format!("failed to write to {}", described(command)))?;
    }
    let result = child
        .wait_with_output()
        .with_context(|| format!("failed to wait for {}", described(command)))?;
    if result.status.success() {
        return Ok(String::from_utf8_lossy(&result.stdout).into_owned());
    }
    bail!(
        "{} ended with {}\n{}",
        described(command),
        result.status,
        last_lines(&String::from_utf8_lossy(&result.stderr))
    );
}

/// Runs a long program with its output in a file; an error shows the file's end.
pub fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let file = File::create(log).with_context(|| format!("failed to create {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("failed to duplicate a log handle")?)
        .stderr(file)
        .status()
        .with_context(|| format!("failed to start {}", described(command)))?;
    if status.success() {
        return Ok(());
    }
    bail!(
        "{} ended with {status}; the end of {}:\n{}",
        described(command),
        log.display(),
        tail(log)
    );
}

/// Runs a program whose output the user should see as it comes.
pub fn run_shown(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("failed to start {}", described(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", described(command));
    }
    Ok(())
}

/// Where a program is on `PATH`.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// The end of a text file, for an error message.
pub fn tail(file: &Path) -> String {
    std::fs::read(file).map_or_else(
        |_| "(no log)".into(),
        |bytes| last_lines(&String::from_utf8_lossy(&bytes)),
    )
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

fn described(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args().take(12) {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_command_and_the_end_of_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "seq 100 >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("sh -c seq 100 >&2; exit 3 ended with exit status: 3"),
            "{error}"
        );
        assert!(
            error.ends_with("\n99\n100") && !error.contains("\n70\n"),
            "{error}"
        );
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(
            output_with_input(&mut Command::new("cat"), "hello").unwrap(),
            "hello"
        );
    }
}
