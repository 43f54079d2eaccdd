//! The files of the demonstration and of the tests: small and large, empty, oddly named, linked, executable.
//!
//! The same bytes every time, so that what a cluster serves can be compared with what was put in.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::peers::{Peer, PeerStatus};

/// Path of the large file, which is cut into many blocks.
pub const LARGE_PATH: &str = "/recordings/flight.bin";
/// Its size.
pub const LARGE_BYTES: usize = 20 << 20;
/// Ordinary small files.
const PAGES: usize = 50;

/// What a path of the drive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file.
    File {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Whether it is marked as a program.
        executable: bool,
    },
    /// A symbolic link to another path of the drive.
    Link(&'static str),
}

/// All entries, by path.
pub fn entries() -> Vec<(String, Content)> {
    let file = |bytes: &[u8]| Content::File {
        bytes: bytes.to_vec(),
        executable: false,
    };
    let mut entries = vec![
        (
            "/index.html".to_owned(),
            file(b"<!doctype html><title>A small cloud</title><h1>It came home.</h1>\n"),
        ),
        ("/empty".into(), file(b"")),
        (
            "/na\u{ef}ve/\u{65e5}\u{672c}\u{8a9e} \u{2601}.txt".into(),
            file("\u{2601} in any script\n".as_bytes()),
        ),
        ("/with space/100%.txt".into(), file(b"percent\n")),
        ("/latest".into(), Content::Link("/pages/page-01.txt")),
        (
            "/bin/hello".into(),
            Content::File {
                bytes: b"#!/bin/sh\necho hello\n".to_vec(),
                executable: true,
            },
        ),
        (LARGE_PATH.into(), file(&noise(1, LARGE_BYTES))),
    ];
    for page in 1..=PAGES {
        // Sizes from a few bytes to a few blocks.
        let bytes = noise(1000 + page as u64, page * page * 61 % 150_000);
        entries.push((format!("/pages/page-{page:02}.txt"), file(&bytes)));
    }
    entries
}

/// Bytes that don't compress and are the same every time (Marsaglia's xorshift64).
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// Puts entries into a peer's drive; `folder` takes copies of the files.
pub fn put_all(peer: &mut Peer, entries: &[(String, Content)], folder: &Path) -> Result<PeerStatus> {
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let mut status = peer.status()?;
    for (index, (path, content)) in entries.iter().enumerate() {
        status = match content {
            Content::Link(target) => peer.put_link(path, target)?,
            Content::File { bytes, executable } => {
                let file: PathBuf = folder.join(index.to_string());
                fs::write(&file, bytes).with_context(|| format!("failed to write {}", file.display()))?;
                peer.put_file(path, &file, *executable)?
            }
        };
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_of_every_kind_of_file() {
        let entries = entries();
        assert!(entries.len() >= 50);
        let has = |wanted: &dyn Fn(&Content) -> bool| entries.iter().any(|(_, content)| wanted(content));
        assert!(has(
            &|content| matches!(content, Content::File { bytes, .. } if bytes.len() == LARGE_BYTES)
        ));
        assert!(has(
            &|content| matches!(content, Content::File { bytes, .. } if bytes.is_empty())
        ));
        assert!(has(&|content| matches!(
            content,
            Content::File { executable: true, .. }
        )));
        assert!(has(&|content| matches!(content, Content::Link(_))));
        assert!(entries.iter().any(|(path, _)| !path.is_ascii()));
    }
}
