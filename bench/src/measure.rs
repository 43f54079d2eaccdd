//! What a task reports of itself: time, the process's highest resident memory, and what it had written.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// One run of a task.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// How much was done, in the row's unit.
    pub(crate) amount: f64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Highest resident memory of the process, bytes.
    pub(crate) rss: u64,
    /// Bytes that the process gave the file system to store.
    pub(crate) written: u64,
    /// Open descriptors at the end, where the row is about them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) descriptors: Option<u64>,
    /// Resident memory before it had anything to do, where the row is about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rest: Option<u64>,
}

/// A run that goes on.
#[derive(Debug)]
pub(crate) struct Measure {
    report: Report,
    written_before: u64,
}

impl Measure {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            report: Report::default(),
            written_before: field("/proc/self/io", "write_bytes")?,
        })
    }

    /// Times `work`, which does `amount` of the row's unit.
    pub(crate) async fn time<T>(&mut self, amount: f64, work: impl Future<Output = Result<T>>) -> Result<T> {
        let start = Instant::now();
        let result = work.await?;
        self.report.seconds = start.elapsed().as_secs_f64();
        self.report.amount = amount;
        Ok(result)
    }

    pub(crate) fn count_descriptors(&mut self) -> Result<()> {
        let open = fs::read_dir("/proc/self/fd").context("failed to count descriptors")?;
        self.report.descriptors = Some(open.count() as u64);
        Ok(())
    }

    /// To be called when everything is closed.
    pub(crate) fn report(mut self) -> Result<Report> {
        self.report.rss = field("/proc/self/status", "VmHWM")? * 1024;
        self.report.written = field("/proc/self/io", "write_bytes")? - self.written_before;
        Ok(self.report)
    }
}

/// A number out of a file of the process table.
pub(crate) fn field(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("failed to read {path}"))?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|value| value.split_whitespace().next());
    value
        .and_then(|value| value.parse().ok())
        .with_context(|| format!("{path} does not say {name}"))
}
