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
    /// Seconds of processor time in that, of all threads; of a program that only serves, in its whole life.
    pub(crate) cpu: f64,
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
    timed: bool,
}

impl Measure {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            report: Report::default(),
            written_before: field("/proc/self/io", "write_bytes")?,
            timed: false,
        })
    }

    /// Times `work`, which does `amount` of the row's unit.
    pub(crate) async fn time<T>(&mut self, amount: f64, work: impl Future<Output = Result<T>>) -> Result<T> {
        let (start, before) = (Instant::now(), processor_seconds("self")?);
        let result = work.await?;
        self.report.seconds = start.elapsed().as_secs_f64();
        self.report.cpu = processor_seconds("self")? - before;
        self.report.amount = amount;
        self.timed = true;
        Ok(result)
    }

    pub(crate) fn count_descriptors(&mut self) -> Result<()> {
        let open = fs::read_dir("/proc/self/fd").context("failed to count descriptors")?;
        self.report.descriptors = Some(open.count() as u64);
        Ok(())
    }

    /// To be called when everything is closed.
    pub(crate) fn report(mut self) -> Result<Report> {
        if !self.timed {
            self.report.cpu = processor_seconds("self")?;
        }
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

/// Processor time of a process so far, its threads included: seconds, in hundredths (Linux's clock tick is 1/100 s on all
/// its platforms).
pub(crate) fn processor_seconds(process: &str) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    // The name of the program, in parentheses, may hold anything; user and system time are fields 14 and 15, the 12th and
    // 13th after it.
    let (_, fields) = text
        .rsplit_once(')')
        .with_context(|| format!("{path} is not as expected"))?;
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    match (ticks.next(), ticks.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok((user + system) / 100.0),
        _ => anyhow::bail!("{path} does not say how long the process ran"),
    }
}
