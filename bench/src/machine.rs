//! What the numbers were measured on.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::measure::field;

/// Processor, memory, kernel and Node in one line.
pub(crate) fn describe() -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo").context("failed to look at the processor")?;
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let count = std::thread::available_parallelism().context("failed to count processors")?;
    let memory = field("/proc/meminfo", "MemTotal")? >> 20;
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("failed to read the kernel's version")?;
    let node = Command::new("node")
        .arg("--version")
        .output()
        .context("failed to start node; hint: install Node.js 20 or newer")?;
    Ok(format!(
        "{count} x {model}, {memory} GiB, Linux {}, Node {}",
        kernel.trim(),
        String::from_utf8_lossy(&node.stdout).trim()
    ))
}

/// Programs that wanted to run in the last minute, on average.
pub(crate) fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("failed to read the load")?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().context("failed to understand the load")
}

/// Refuses a folder in memory: writing there costs nothing.
pub(crate) fn must_be_disk(folder: &Path) -> Result<()> {
    let system = statfs(folder).with_context(|| format!("failed to look at {}", folder.display()))?;
    if system.filesystem_type() == TMPFS_MAGIC {
        bail!(
            "{} is in memory; hint: choose a folder on a disk with --data",
            folder.display()
        );
    }
    Ok(())
}
