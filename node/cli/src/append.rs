//! `cumulet core append`: files and stdin into blocks, in bounded memory.
//!
//! A thread reads; meanwhile what was read is appended in groups as large as has come: a slow source is appended line by line, a
//! fast one a few megabytes at a time.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use cumulet_hypercore::core::MAX_BLOCK_BYTES;
use cumulet_hypercore::key::to_hex;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::failure::{Context, Failure, Kind, Result};
use crate::output::Unit;
use crate::plain::PlainCore;
use crate::session::{Session, Target};

/// Bytes per block unless said otherwise: what Hyperblobs cuts files into.
pub(crate) const DEFAULT_BLOCK_BYTES: usize = 65_536;
/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
/// Reads that may wait to be appended: with the above 4 MiB, enough to read while a disk syncs.
const READS_WAITING: usize = 16;
/// Bytes after which a group of blocks is appended: one sync per group.
const GROUP_BYTES: usize = 4 << 20;

/// How input becomes blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    /// A block per line.
    Lines,
    /// Blocks of so many bytes.
    Bytes(usize),
}

/// What was appended.
#[derive(Debug, Serialize)]
struct Appended {
    key: String,
    start: u64,
    length: u64,
    bytes: u64,
}

impl fmt::Display for Appended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "appended {} blocks, {} bytes; the core has {} blocks",
            self.length - self.start,
            self.bytes,
            self.length
        )
    }
}

/// What the reading thread says.
enum Input {
    Bytes(Bytes),
    /// A file ended: so does its last block.
    End,
    Failed(Failure),
}

/// Appends all files.
pub(crate) async fn run(
    session: &Session,
    target: &Target,
    core: &PlainCore,
    files: &[PathBuf],
    cut: Cut,
) -> Result {
    if let Cut::Bytes(size) = cut
        && !(1..=MAX_BLOCK_BYTES).contains(&size)
    {
        return Err(Failure::usage(format!(
            "--block-size must be from 1 to {MAX_BLOCK_BYTES}"
        )));
    }
    let total = total_bytes(files)?;
    let (sender, mut inputs) = mpsc::channel(READS_WAITING);
    let files = files.to_vec();
    // It ends with the files, or when nobody takes what it reads any more.
    drop(tokio::task::spawn_blocking(move || read_all(&files, &sender)));
    let progress = session.out.progress(total, Unit::Bytes);
    let start = core.handle().state().length;
    let mut cutter = Cutter {
        cut,
        partial: BytesMut::new(),
        group: Vec::new(),
        group_bytes: 0,
    };
    let mut bytes = 0;
    while let Some(input) = inputs.recv().await {
        match input {
            Input::Bytes(read) => {
                bytes += read.len() as u64;
                progress.inc(read.len() as u64);
                cutter.take(&read)?;
            }
            Input::End => cutter.end(),
            Input::Failed(failure) => {
                let kept = core.handle().state().length - start;
                return Err(failure).context(format!("appended {kept} blocks, then"));
            }
        }
        if cutter.group_bytes >= GROUP_BYTES || inputs.is_empty() {
            cutter.append(core).await?;
        }
    }
    cutter.append(core).await?;
    progress.finish_and_clear();
    session.out.show(&Appended {
        key: to_hex(&target.key),
        start,
        length: core.handle().state().length,
        bytes,
    })
}

/// Bytes of all files, if all are files; a missing one is told before anything is appended.
fn total_bytes(files: &[PathBuf]) -> Result<Option<u64>> {
    let mut total = (!files.is_empty()).then_some(0);
    for path in files {
        if path.as_os_str() == "-" {
            total = None;
            continue;
        }
        let found = std::fs::metadata(path);
        let metadata = found.map_err(|error| missing(path, &error))?;
        total = total
            .filter(|_| metadata.is_file())
            .map(|sum| sum + metadata.len());
    }
    Ok(total)
}

/// Why a file of the user can't be read: one that is not there has its own code.
pub(crate) fn missing(path: &Path, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => Kind::NotFound,
        _ => Kind::Failed,
    };
    Failure::new(kind, format!("failed to read {}: {error}", path.display()))
}

fn read_all(files: &[PathBuf], sender: &mpsc::Sender<Input>) {
    let stdin = [PathBuf::from("-")];
    for path in if files.is_empty() { &stdin } else { files } {
        let read = if path.as_os_str() == "-" {
            read_one(io::stdin().lock(), sender)
        } else {
            File::open(path).and_then(|file| read_one(file, sender))
        };
        let end = match read {
            Ok(()) => Input::End,
            Err(error) => Input::Failed(missing(path, &error)),
        };
        if sender.blocking_send(end).is_err() {
            return;
        }
    }
}

fn read_one(mut source: impl Read, sender: &mpsc::Sender<Input>) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let length = match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let read = Bytes::copy_from_slice(&buffer[..length]);
        if sender.blocking_send(Input::Bytes(read)).is_err() {
            return Ok(());
        }
    }
}

/// Cuts input into blocks and gathers them.
struct Cutter {
    cut: Cut,
    partial: BytesMut,
    group: Vec<Bytes>,
    group_bytes: usize,
}

impl Cutter {
    fn take(&mut self, mut read: &[u8]) -> Result {
        while !read.is_empty() {
            let (taken, whole, rest) = match self.cut {
                Cut::Bytes(size) => {
                    let room = size - self.partial.len();
                    let taken = read.len().min(room);
                    (&read[..taken], taken == room, &read[taken..])
                }
                Cut::Lines => match read.iter().position(|&byte| byte == b'\n') {
                    Some(at) => (&read[..at], true, &read[at + 1..]),
                    None => (read, false, &[][..]),
                },
            };
            self.partial.extend_from_slice(taken);
            if self.partial.len() > MAX_BLOCK_BYTES {
                return Err(Failure::new(
                    Kind::Failed,
                    format!("a line is longer than the {MAX_BLOCK_BYTES} bytes that a block may have"),
                )
                .hint("leave --lines out: the input is cut into blocks of --block-size then"));
            }
            if whole {
                self.push();
            }
            read = rest;
        }
        Ok(())
    }

    /// An input ended. What follows its last line's end is a line only if there is something.
    fn end(&mut self) {
        if !self.partial.is_empty() {
            self.push();
        }
    }

    fn push(&mut self) {
        // With what a block costs beside its bytes: a million empty ones are a lot too.
        self.group_bytes += self.partial.len() + 64;
        self.group.push(self.partial.split().freeze());
    }

    async fn append(&mut self, core: &PlainCore) -> Result {
        self.group_bytes = 0;
        if !self.group.is_empty() {
            core.append_blocks(std::mem::take(&mut self.group)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(cut: Cut, reads: &[&[u8]]) -> Vec<Bytes> {
        let mut cutter = Cutter {
            cut,
            partial: BytesMut::new(),
            group: Vec::new(),
            group_bytes: 0,
        };
        for read in reads {
            cutter.take(read).unwrap();
        }
        cutter.end();
        cutter.group
    }

    #[test]
    fn blocks_do_not_depend_on_how_the_input_comes() {
        let text: &[u8] = b"one\n\nthree";
        let reads: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(cut(Cut::Lines, &[text]), ["one", "", "three"]);
        assert_eq!(cut(Cut::Lines, &reads), ["one", "", "three"]);
        assert_eq!(cut(Cut::Lines, &[b"one\n"]), ["one"]);
        assert_eq!(cut(Cut::Bytes(4), &[text]), ["one\n", "\nthr", "ee"]);
        assert_eq!(cut(Cut::Bytes(4), &reads), ["one\n", "\nthr", "ee"]);
        assert_eq!(cut(Cut::Bytes(5), &[text]), ["one\n\n", "three"]);
    }
}
