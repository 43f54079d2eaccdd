//! DHT nodes that were heard from, kept over a restart: the node finds its network again when no bootstrap node answers.
//!
//! The file is a hint: one `address:port` a line, oldest knowledge is as good as none, and a damaged or missing file means to
//! start from the bootstrap nodes alone. So a failure to write it is logged and nothing else.

use std::io;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cumulet_hyperdht::Dht;
use tokio_util::sync::CancellationToken;
use tracing::debug;

const FILE: &str = "dht-nodes";
/// Most nodes that are read: what the DHT gives for the purpose.
const MAX_NODES: usize = 64;
/// Most bytes that are read of the file: as many lines of the longest address.
const MAX_BYTES: u64 = 64 * 22;
/// How often they are written: a node that is killed loses no more than this.
const INTERVAL: Duration = Duration::from_mins(10);

/// What an earlier run knew.
pub fn read(data_dir: &Path) -> Vec<SocketAddrV4> {
    match read_text(&data_dir.join(FILE)) {
        Ok(text) => parse(&text),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                debug!(%error, "the known DHT nodes can't be read");
            }
            Vec::new()
        }
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    use std::io::Read;

    let mut text = String::new();
    std::fs::File::open(path)?
        .take(MAX_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

fn parse(text: &str) -> Vec<SocketAddrV4> {
    text.lines()
        .filter_map(|line| line.parse().ok())
        .take(MAX_NODES)
        .collect()
}

/// Writes what the DHT knows now; nothing if it knows nobody, so that an outage forgets no one.
pub async fn write(dht: &Dht, data_dir: &Path) {
    let nodes = dht.known_nodes().await;
    if nodes.is_empty() {
        return;
    }
    let lines: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    let (path, fresh) = (data_dir.join(FILE), data_dir.join("dht-nodes.new"));
    let written = match tokio::fs::write(&fresh, lines.join("\n")).await {
        Ok(()) => tokio::fs::rename(&fresh, &path).await,
        Err(error) => Err(error),
    };
    if let Err(error) = written {
        debug!(%error, "the known DHT nodes can't be kept");
    }
}

/// Writes them now and then, until cancelled.
pub async fn keep(dht: Dht, data_dir: PathBuf, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => write(&dht, &data_dir).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_lines_are_left_out_and_the_rest_is_used() {
        let text = "10.0.0.1:49737\nnonsense\n\n[::1]:7\n10.0.0.2:1\n10.0.0.3:99999\n10.0.0.4";
        let wanted: Vec<SocketAddrV4> = ["10.0.0.1:49737", "10.0.0.2:1"]
            .iter()
            .map(|node| node.parse().unwrap())
            .collect();
        assert_eq!(parse(text), wanted);
        let many = "10.0.0.1:1\n".repeat(1000);
        assert_eq!(parse(&many).len(), MAX_NODES);
    }

    #[test]
    fn a_folder_without_the_file_knows_nobody() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), Vec::new());
    }
}
