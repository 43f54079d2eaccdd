//! What a cluster remembers about itself between commands: its processes and ports, in `cluster.json`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use crate::poll;

const FILE: &str = "cluster.json";

/// How long a killed process may take to disappear: the kernel takes a whole pid namespace apart.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// A process, named so that a reused process id is never mistaken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// What it is, for messages.
    pub name: String,
    /// Process id in the machine's pid namespace.
    pub pid: i32,
    /// Start time in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub started_ticks: u64,
}

impl Process {
    /// A process that runs now.
    pub fn of(name: &str, pid: i32) -> Result<Self> {
        let started_ticks = started(pid).with_context(|| format!("process {pid} ({name}) is not running"))?;
        Ok(Self {
            name: name.into(),
            pid,
            started_ticks,
        })
    }

    /// Whether it still runs (a zombie does not).
    pub fn is_alive(&self) -> bool {
        started(self.pid) == Some(self.started_ticks)
    }

    /// Kills it and waits until it is gone. A process that is already gone is a success.
    pub fn kill(&self) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => {
                return Err(errno).with_context(|| format!("failed to stop {} ({})", self.name, self.pid));
            }
        }
        poll::until("the end of a process", GONE_WITHIN, || {
            Ok((!self.is_alive()).then_some(()))
        })
        .with_context(|| format!("failed to stop {} ({})", self.name, self.pid))
    }
}

/// Start time in ticks, `None` when there is no such process or it is a zombie.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may itself hold spaces and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let state = *fields.first()?;
    (state != "Z" && state != "X")
        .then(|| fields.get(19)?.parse().ok())
        .flatten()
}

/// A cluster's memory.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The cluster's name.
    pub name: String,
    /// Process 1 of the cluster's namespaces.
    pub init: Option<Process>,
    /// The process that made the namespaces; it ends with `init`.
    pub launcher: Option<Process>,
    /// Port of the API server on 127.0.0.1.
    pub api_port: u16,
    /// Whatever else was started for the cluster in the machine's pid namespace: forwards and peers.
    pub others: Vec<Process>,
}

impl Record {
    /// Reads a cluster's record; `None` when there is none.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("failed to read {}", path.display())),
        };
        serde_json::from_slice(&text)
            .with_context(|| format!("failed to understand {}", path.display()))
            .map(Some)
    }

    /// Writes the record by one rename.
    pub fn save(&self, layout: &Layout) -> Result<()> {
        let path = layout.at(FILE);
        let partial = layout.at("cluster.json.partial");
        let text = serde_json::to_vec_pretty(self).context("failed to write the cluster's record")?;
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, &path))
            .with_context(|| format!("failed to write {}", path.display()))
    }

    /// Whether the node runs.
    pub fn is_running(&self) -> bool {
        self.init.as_ref().is_some_and(Process::is_alive)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_alive_until_killed_and_a_stranger_with_its_id_is_not_it() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process::of("sleeper", i32::try_from(child.id()).unwrap()).unwrap();
        assert!(process.is_alive());
        let stranger = Process {
            started_ticks: process.started_ticks + 1,
            ..process.clone()
        };
        assert!(!stranger.is_alive());
        stranger.kill().unwrap();
        assert!(
            process.is_alive(),
            "killing a stranger must not touch the process that has its id now"
        );
        process.kill().unwrap();
        assert!(!process.is_alive());
        child.wait().unwrap();
    }
}
