//! What commands print: results on stdout, everything else on stderr.
//!
//! A result is either text for people or, with `--json`, one JSON object per line. Notes and progress never mix with it.

use std::fmt::Display;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Stdout, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::BASE64;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::{Context, Failure, Kind, Result};

/// How often a progress line is drawn: as often as an eye can follow.
const TICK: Duration = Duration::from_millis(100);

/// Where results go.
pub(crate) struct Output {
    pub(crate) json: bool,
    quiet: bool,
    stdout: Mutex<BufWriter<Stdout>>,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self {
            json,
            quiet,
            stdout: Mutex::new(BufWriter::new(io::stdout())),
        }
    }

    fn stdout(&self) -> MutexGuard<'_, BufWriter<Stdout>> {
        self.stdout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints one result: its JSON, or its text with the line's end.
    pub(crate) fn show<T: Serialize + Display>(&self, result: &T) -> Result {
        let line = if self.json {
            serde_json::to_string(result)?
        } else {
            result.to_string()
        };
        written(writeln!(self.stdout(), "{line}"))
    }

    /// Prints bytes as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result {
        written(self.stdout().write_all(bytes))
    }

    /// Sends on what was printed so far: before waiting, and at the end.
    pub(crate) fn flush(&self) -> Result {
        written(self.stdout().flush())
    }

    /// Says something beside the result, on stderr.
    pub(crate) fn note(&self, text: impl Display) {
        if !self.quiet {
            // Nobody is left to tell that stderr is closed.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// A progress line of bytes or of things, on a terminal only.
    pub(crate) fn progress(&self, total: Option<u64>, unit: Unit) -> ProgressBar {
        if self.quiet || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr());
        let template = match (unit, total) {
            (Unit::Bytes, Some(_)) => "{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left {wide_msg}",
            (Unit::Bytes, None) => "{spinner} {bytes} {bytes_per_sec} {wide_msg}",
            (Unit::Blocks, Some(_)) => "{bar:30} {pos}/{len} blocks, {eta} left {wide_msg}",
            (Unit::Peers, _) => "{bar:30} {pos}/{len} peers {wide_msg}",
            (Unit::Seconds, _) => "{bar:30} {pos}/{len} s {wide_msg}",
            (Unit::Blocks, None) => "{spinner} {pos} blocks {wide_msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        bar
    }
}

/// What a progress line counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    Bytes,
    Blocks,
    Peers,
    Seconds,
}

/// A reader that has seen enough (`| head`) closes the pipe: the command ends at once and quietly.
fn written(result: io::Result<()>) -> Result {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::new(Kind::Failed, "")),
        other => other.context("failed to write to stdout"),
    }
}

/// Bytes in JSON: as text where they are UTF-8, else in base64; the second field says which.
pub(crate) fn text_or_base64(bytes: &[u8]) -> (String, &'static str) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), "utf-8"),
        Err(_) => (BASE64.encode(bytes), "base64"),
    }
}

/// Bytes for people: as text where they are UTF-8 without control characters, else in hex after `0x`.
pub(crate) fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("0x{}", hex::encode(bytes)),
    }
}
