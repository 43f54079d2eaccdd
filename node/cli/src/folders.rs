//! Drives and folders as a whole: ls, diff, info, verify.

use std::collections::BTreeSet;
use std::fmt;

use cumulet_hyperbee::{Bee, Blocks};
use cumulet_hypercore::key::{to_hex, to_z32};
use cumulet_hyperdrive::entry::FileEntry;
use cumulet_hyperdrive::{Drive, DriveError, File};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::failure::{Failure, Result};
use crate::files::{PlainDrive, open};
use crate::session::Session;
use crate::verify::{self, Verified};

/// Most names of a folder that are listed: one look-up each.
const MAX_NAMES: usize = 1_000_000;

/// One name as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    path: String,
    /// file, folder or link; entry if it is neither.
    kind: &'static str,
    seq: Option<u64>,
    /// Bytes; of a file whose blocks are mapped those of its map.
    size: Option<u64>,
    executable: bool,
    linkname: Option<String>,
    metadata: Option<Box<RawValue>>,
}

impl Shown {
    fn folder(path: String) -> Self {
        Self {
            path,
            kind: "folder",
            seq: None,
            size: None,
            executable: false,
            linkname: None,
            metadata: None,
        }
    }

    fn entry(path: String, seq: u64, entry: FileEntry) -> Self {
        let kind = match (&entry.linkname, &entry.blob) {
            (Some(_), _) => "link",
            (None, Some(_)) => "file",
            (None, None) => "entry",
        };
        Self {
            path,
            kind,
            seq: Some(seq),
            size: entry.blob.map(|blob| blob.byte_length),
            executable: entry.executable,
            linkname: entry.linkname,
            metadata: entry.metadata,
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = readable(&self.path);
        match (&self.linkname, self.size) {
            (Some(target), _) => write!(f, "{path} -> {}", readable(target)),
            (None, Some(size)) => write!(f, "{path}\t{size}"),
            (None, None) if self.kind == "folder" => write!(f, "{path}/"),
            (None, None) => f.write_str(&path),
        }
    }
}

/// A name that can't do anything to a terminal.
pub(crate) fn readable(name: &str) -> String {
    if name.chars().any(char::is_control) {
        name.escape_debug().to_string()
    } else {
        name.to_owned()
    }
}

/// Lists a folder.
pub(crate) async fn list(
    session: &mut Session,
    text: &str,
    folder: Option<String>,
    recursive: bool,
    version: Option<u64>,
) -> Result {
    let (target, drive) = open(session, text, version).await?;
    let folder = folder.or(target.path).unwrap_or_else(|| "/".to_owned());
    let empty = if recursive {
        list_all(session, &drive, &folder).await?
    } else {
        list_one(session, &drive, &folder).await?
    };
    if !empty || cumulet_hyperdrive::path::normalize_folder(&folder)?.is_empty() {
        return Ok(());
    }
    match drive.files.entry(&folder).await? {
        Some(File { path, seq, entry }) => session.out.show(&Shown::entry(path, seq, entry)),
        None => Err(Failure::not_found(format!("{text} has no folder {folder}"))),
    }
}

async fn list_all(session: &Session, drive: &PlainDrive, folder: &str) -> Result<bool> {
    let mut list = drive.files.list(folder)?;
    let mut empty = true;
    loop {
        match list.next().await {
            Ok(Some(File { path, seq, entry })) => session.out.show(&Shown::entry(path, seq, entry))?,
            Ok(None) => return Ok(empty),
            Err(DriveError::Entry { path, source }) => {
                let path = readable(&path);
                session
                    .out
                    .note(format_args!("cumulet: {path} can't be read: {source}"));
            }
            Err(error) => return Err(error.into()),
        }
        empty = false;
    }
}

async fn list_one(session: &Session, drive: &PlainDrive, folder: &str) -> Result<bool> {
    let found = drive.files.folder(folder, MAX_NAMES).await?;
    let (empty, truncated) = (found.is_empty(), found.truncated);
    let parent = cumulet_hyperdrive::path::normalize_folder(folder)?;
    for (name, item) in found.items {
        let path = format!("{parent}/{name}");
        if let Some((seq, entry)) = item.file {
            session.out.show(&Shown::entry(path.clone(), seq, entry))?;
        }
        if item.is_folder {
            session.out.show(&Shown::folder(path))?;
        }
    }
    if truncated {
        session.out.note(format_args!(
            "cumulet: only the first {MAX_NAMES} names; --recursive lists all"
        ));
    }
    Ok(empty)
}

/// One file that differs between two versions.
#[derive(Debug, Serialize)]
struct ChangeShown {
    path: String,
    /// added, changed or deleted.
    change: &'static str,
    new_seq: Option<u64>,
    old_seq: Option<u64>,
}

impl fmt::Display for ChangeShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.change {
            "added" => '+',
            "deleted" => '-',
            _ => '~',
        };
        write!(f, "{sign} {}", readable(&self.path))
    }
}

/// Lists what changed.
pub(crate) async fn diff(
    session: &mut Session,
    text: &str,
    older: u64,
    newer: Option<u64>,
    folder: &str,
) -> Result {
    let (_, drive) = open(session, text, newer).await?;
    let mut diff = drive.files.diff(older, folder)?;
    while let Some(change) = diff.next().await? {
        let (new, old) = (change.left.map(|(seq, _)| seq), change.right.map(|(seq, _)| seq));
        session.out.show(&ChangeShown {
            path: change.path,
            change: match (new, old) {
                (_, None) => "added",
                (None, _) => "deleted",
                _ => "changed",
            },
            new_seq: new,
            old_seq: old,
        })?;
    }
    Ok(())
}

/// What is known of a drive.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    name: Option<String>,
    key: String,
    link: String,
    discovery_key: String,
    version: u64,
    held_versions: u64,
    blobs_key: String,
    blobs_length: u64,
    blobs_bytes: u64,
    held_blobs: u64,
    writable: bool,
    encrypted: bool,
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            writeln!(f, "name           {name} (drive)")?;
        }
        writeln!(f, "key            {}", self.key)?;
        writeln!(f, "link           {}", self.link)?;
        writeln!(f, "discovery key  {}", self.discovery_key)?;
        writeln!(
            f,
            "version        {}, {} blocks of names held",
            self.version, self.held_versions
        )?;
        writeln!(
            f,
            "blobs          {} bytes in {} blocks, {} held",
            self.blobs_bytes, self.blobs_length, self.held_blobs
        )?;
        writeln!(f, "blobs key      {}", self.blobs_key)?;
        let yes = |is| if is { "yes" } else { "no" };
        write!(
            f,
            "writable       {}, encrypted: {}",
            yes(self.writable),
            yes(self.encrypted)
        )
    }
}

/// Shows a drive.
pub(crate) async fn info(session: &mut Session, text: &str) -> Result {
    let target = session.target(text)?;
    let cores = session.drive(&target).await?;
    let (db, blobs) = (cores.db.handle(), cores.blobs.handle());
    session.know_blobs(&cores.blobs, 1).await?;
    let (state, blob_state) = (db.state(), blobs.state());
    session.out.show(&Info {
        name: target.own.as_ref().map(|(name, _)| name.clone()),
        key: to_hex(db.key()),
        link: format!("pear://{}", to_z32(db.key())),
        discovery_key: to_hex(db.discovery_key()),
        version: state.length.max(1),
        held_versions: state.held_blocks,
        blobs_key: to_hex(blobs.key()),
        blobs_length: blob_state.length,
        blobs_bytes: cores.blobs.plain_bytes(),
        held_blobs: blob_state.held_blocks,
        writable: db.with_core(cumulet_hypercore::core::Core::is_writable).await,
        encrypted: session.options.encryption_key_file.is_some(),
    })
}

/// What verifying a drive found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DriveVerified {
    key: String,
    version: u64,
    files: u64,
    /// Files of the newest version whose bytes are damaged.
    damaged_files: BTreeSet<String>,
    /// Files of the newest version of which something is not here: no damage.
    incomplete_files: u64,
    /// What keeps the names from being read.
    problem: Option<String>,
    names: Verified,
    blobs: Verified,
}

impl fmt::Display for DriveVerified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.names)?;
        writeln!(f, "{}", self.blobs)?;
        write!(
            f,
            "{} files at version {}: {} damaged, {} not all here",
            self.files,
            self.version,
            self.damaged_files.len(),
            self.incomplete_files
        )?;
        for path in &self.damaged_files {
            write!(f, "\n  {}", readable(path))?;
        }
        match &self.problem {
            Some(problem) => write!(f, "\nthe names can't be read: {problem}"),
            None => Ok(()),
        }
    }
}

/// Verifies both cores of a drive, and tells which files the damage is in.
pub(crate) async fn verify(session: &mut Session, text: &str) -> Result {
    session.options.offline = true;
    let target = session.target(text)?;
    let core = session.core(&target).await?;
    let names = verify::core_of(session, core.handle(), format!("names of {text}")).await?;
    let cores = match session.drive(&target).await {
        Ok(cores) => cores,
        Err(failure) => {
            // Without its first block the second core has no name.
            session.out.show(&names)?;
            return names.into_result().and(Err(failure));
        }
    };
    let blobs = verify::core_of(session, cores.blobs.handle(), format!("blobs of {text}")).await?;
    let drive = Drive::new(&Bee::new(cores.db), cores.blobs);
    let mut verified = DriveVerified {
        key: to_hex(&target.key),
        version: drive.files.version(),
        files: 0,
        damaged_files: BTreeSet::new(),
        incomplete_files: 0,
        problem: None,
        names: names.clone(),
        blobs: blobs.clone(),
    };
    let walked = walk(&drive, &mut verified).await;
    verified.problem = walked.as_ref().err().map(|failure| failure.text.clone());
    session.out.show(&verified)?;
    names.into_result().and(blobs.into_result()).and(walked)
}

/// Finds the files that damaged blocks belong to.
async fn walk(drive: &PlainDrive, verified: &mut DriveVerified) -> Result {
    let damaged: BTreeSet<u64> = verified
        .blobs
        .damaged
        .iter()
        .filter_map(|damage| damage.block)
        .collect();
    let mut list = drive.files.list("/")?;
    loop {
        let file = match list.next().await {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(()),
            Err(DriveError::Entry { path, .. }) => {
                verified.files += 1;
                verified.damaged_files.insert(path);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        verified.files += 1;
        let Some(blob) = &file.entry.blob else { continue };
        let mut ranges = vec![blob.blocks()];
        if blob.block_map {
            match drive.blobs.map(blob).await {
                Ok(map) => ranges.extend(map.iter().map(|entry| entry.index..entry.index + 1)),
                Err(error) if error.kind() == cumulet_hyperbee::ErrorKind::Unavailable => {
                    verified.incomplete_files += 1;
                    continue;
                }
                Err(_) => {
                    verified.damaged_files.insert(file.path);
                    continue;
                }
            }
        }
        if ranges
            .iter()
            .any(|range| damaged.range(range.clone()).next().is_some())
        {
            verified.damaged_files.insert(file.path);
            continue;
        }
        let core = drive.blobs.core();
        let length = core.length();
        let held = core
            .handle()
            .with_core(|core| {
                ranges
                    .iter()
                    .all(|range| range.end <= length && core.bitfield().contains_range(range.clone()))
            })
            .await;
        if !held {
            verified.incomplete_files += 1;
        }
    }
}
