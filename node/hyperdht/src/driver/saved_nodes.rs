//! Nodes known from earlier runs, in a file that the caller names: one `address:port` per line, in no order; other lines are
//! ignored. Hints only, so a file that is missing or damaged costs nothing but time.

use std::fs;
use std::io::{self, Read as _};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

/// Nodes taken from the file: as many as are saved.
pub(super) const MAX_NODES: usize = 64;
/// Longest file looked at: that many lines of the longest address.
const MAX_BYTES: u64 = 64 * 22;
/// The first time is early, since many processes live shortly; later the routing table changes slowly.
const FIRST_SAVE: Duration = Duration::from_secs(30);
const SAVE_EVERY: Duration = Duration::from_mins(10);

/// The nodes of the file.
pub(super) fn load(path: &Path) -> Vec<SocketAddrV4> {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => tracing::warn!(%error, path = %path.display(), "failed to read saved nodes"),
    }
    let nodes = text.lines().filter_map(|line| line.parse().ok());
    nodes.take(MAX_NODES).collect()
}

/// A crash leaves the old file or the new one.
fn save(path: &Path, nodes: &[SocketAddrV4]) -> io::Result<()> {
    let lines: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    let next = path.with_extension("next");
    fs::write(&next, lines.join("\n"))?;
    fs::rename(next, path)
}

/// When the file is to be written.
#[derive(Debug)]
pub(super) struct Saver {
    path: PathBuf,
    due: Instant,
    writing: Option<JoinHandle<()>>,
}

impl Saver {
    pub(super) fn new(path: PathBuf, now: Instant) -> Self {
        Self {
            path,
            due: now + FIRST_SAVE,
            writing: None,
        }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Writes the file in the background. An empty list is not worth forgetting what is known.
    pub(super) fn save(&mut self, now: Instant, nodes: Vec<SocketAddrV4>) {
        self.due = now + SAVE_EVERY;
        if nodes.is_empty()
            || self
                .writing
                .as_ref()
                .is_some_and(|writing| !writing.is_finished())
        {
            return;
        }
        let path = self.path.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = save(&path, &nodes) {
                tracing::warn!(%error, path = %path.display(), "failed to save nodes");
            }
        }));
    }

    /// Writes it for the last time, and waits for that.
    pub(super) async fn finish(mut self, nodes: Vec<SocketAddrV4>) {
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
        self.save(Instant::now(), nodes);
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
    }
}
