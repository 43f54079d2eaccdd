//! Progress lines with the time since the command began, on standard error, so that standard output carries results.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Prints one line per step, each with the seconds since this value was made.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    started: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// Starts the clock.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    /// Prints one line.
    pub fn say(&self, line: impl Display) {
        eprintln!("[{:7.1} s] {line}", self.started.elapsed().as_secs_f64());
    }

    /// Runs a step: its name before, its duration after. A failed step is named in the error.
    pub fn step<T>(&self, name: impl Display, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.say(format_args!("{name} …"));
        let began = Instant::now();
        let value = work().map_err(|error| error.context(format!("failed at step: {name}")))?;
        let took = began.elapsed();
        if took >= Duration::from_secs(2) {
            self.say(format_args!("{name}: done in {:.1} s", took.as_secs_f64()));
        }
        Ok(value)
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
