//! What programs use: processor time and memory, and bytes through the interfaces of a namespace. Read from `/proc`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use crate::namespace::Namespace;

/// What processes use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Processor time since they started, with that of children that have ended, milliseconds.
    pub cpu_ms: u64,
    /// Resident memory now, bytes. What processes share counts for each.
    pub rss_bytes: u64,
}

impl Usage {
    /// The larger of each: over several looks the time used and the highest memory.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            cpu_ms: self.cpu_ms.max(other.cpu_ms),
            rss_bytes: self.rss_bytes.max(other.rss_bytes),
        }
    }

    /// Of this process.
    pub fn own() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let used = Ticks::parse(&stat).ok_or_else(|| unreadable("/proc/self/stat"))?;
        used.usage()
    }
}

/// Bytes of frames through all interfaces of a namespace, `lo` too, on which hosts reach themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Carried {
    /// Out of programs.
    pub sent: u64,
    /// Into programs.
    pub received: u64,
}

impl Namespace {
    /// What the processes in the namespace use together; threads of other processes that are in it count nothing. A process that
    /// nobody waited for takes its figures along when it ends.
    pub fn usage(&self) -> io::Result<Usage> {
        let own = fs::metadata(Path::new("/run/netns").join(self.name()))?.ino();
        let mut all = Ticks::default();
        for entry in fs::read_dir("/proc")?.flatten() {
            let process = entry.path();
            // It may end meanwhile; and not all that is in /proc is a process.
            let Ok(place) = fs::metadata(process.join("ns/net")) else {
                continue;
            };
            if place.ino() != own {
                continue;
            }
            if let Some(used) = fs::read_to_string(process.join("stat"))
                .ok()
                .and_then(|stat| Ticks::parse(&stat))
            {
                all.time += used.time;
                all.pages += used.pages;
            }
        }
        all.usage()
    }

    /// What went through its interfaces since they are there.
    pub fn carried(&self) -> io::Result<Carried> {
        self.call(|| {
            let file = "/proc/thread-self/net/dev";
            carried(&fs::read_to_string(file)?).ok_or_else(|| unreadable(file))
        })
    }
}

fn unreadable(file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{file} is not as it was"))
}

/// In the kernel's units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ticks {
    time: u64,
    pages: u64,
}

impl Ticks {
    /// Reads `/proc/<pid>/stat` (proc_pid_stat(5)): fields 14 to 17 are the times of the process and of its ended children, field
    /// 24 is its resident pages. Field 2, in parentheses, may contain anything.
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let mut time = 0;
        for field in 14..=17 {
            time += number(field)?;
        }
        Some(Self {
            time,
            pages: number(24)?,
        })
    }

    fn usage(self) -> io::Result<Usage> {
        let setting = |variable| -> io::Result<u64> {
            let value = sysconf(variable)?.and_then(|value| u64::try_from(value).ok());
            value
                .filter(|value| *value > 0)
                .ok_or_else(|| io::ErrorKind::Unsupported.into())
        };
        Ok(Usage {
            cpu_ms: self.time.saturating_mul(1_000) / setting(SysconfVar::CLK_TCK)?,
            rss_bytes: self.pages.saturating_mul(setting(SysconfVar::PAGE_SIZE)?),
        })
    }
}

/// Reads `/proc/net/dev`: two lines of titles, then an interface a line, whose first number is the bytes received and the ninth
/// those sent.
fn carried(text: &str) -> Option<Carried> {
    let mut all = Carried::default();
    for line in text.lines().skip(2) {
        let (_, numbers) = line.split_once(':')?;
        let numbers: Vec<&str> = numbers.split_ascii_whitespace().collect();
        all.received += numbers.first()?.parse::<u64>().ok()?;
        all.sent += numbers.get(8)?.parse::<u64>().ok()?;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_a_process_are_found_behind_any_name_it_gives_itself() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194304 9 8 7 6 100 20 3 4 20 0 1 0 55 9999 321 1 2 3";
        assert_eq!(
            Ticks::parse(stat),
            Some(Ticks {
                time: 127,
                pages: 321
            })
        );
        assert_eq!(Ticks::parse("42 (a) S 1"), None);
        assert_eq!(Ticks::parse(""), None);
    }

    #[test]
    fn bytes_of_all_interfaces_are_added() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 10 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0\n  \
                    eth0:500 1 0 0 0 0 0 0    7000 1 0 0 0 0 0 0\n";
        let all = Carried {
            sent: 7_010,
            received: 510,
        };
        assert_eq!(carried(text), Some(all));
        assert_eq!(carried("a\nb\neth0: 1 2\n"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(Usage::own().unwrap().rss_bytes > 1 << 20);
    }
}
