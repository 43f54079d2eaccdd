//! Single files of drives: put, get, cat, del, symlink.

use std::fmt;
use std::fs::File as DiskFile;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use cumulet_hyperbee::Bee;
use cumulet_hypercore::corestore::Download;
use cumulet_hypercore::key::to_hex;
use cumulet_hyperdrive::entry::FileEntry;
use cumulet_hyperdrive::{Drive, DriveWriter, File};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::append::missing;
use crate::failure::{Context, Failure, Result};
use crate::names::ArchiveKind;
use crate::output::Unit;
use crate::plain::PlainCore;
use crate::ranges::Span;
use crate::session::{Session, Target};

/// Bytes read from a file at once.
const READ_BYTES: usize = 256 * 1024;
/// Reads that may wait to be written.
const READS_WAITING: usize = 8;

/// A drive with both cores in plain.
pub(crate) type PlainDrive = Drive<PlainCore, PlainCore>;

/// What a file has beside its bytes.
#[derive(Debug, Args)]
pub(crate) struct PutOptions {
    /// Marks it as meant to be run; a file that is here is marked as it is.
    #[arg(long)]
    executable: bool,
    /// Any JSON that goes with it.
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
}

/// What a change wrote.
#[derive(Debug, Serialize)]
struct Written {
    key: String,
    path: String,
    seq: u64,
    version: u64,
    bytes: Option<u64>,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at version {}", self.path, self.version)
    }
}

/// Opens a drive at the version that the option, or else the link, names.
pub(crate) async fn open(
    session: &mut Session,
    text: &str,
    version: Option<u64>,
) -> Result<(Target, PlainDrive)> {
    let target = session.target(text)?;
    let cores = session.drive(&target).await?;
    let newest = Drive::new(&Bee::new(cores.db), cores.blobs);
    let Some(version) = version.or(target.version) else {
        return Ok((target, newest));
    };
    if version > newest.files.version() {
        let text = format!("the newest version is {}", newest.files.version());
        return Err(Failure::not_found(text).hint("--update asks peers for newer ones"));
    }
    Ok((target, newest.checkout(version)))
}

/// Opens a drive of our own to write; `make` makes it if the name is new.
pub(crate) async fn writer(
    session: &mut Session,
    text: &str,
    make: bool,
) -> Result<(Target, DriveWriter<PlainCore, PlainCore>)> {
    let target = if make {
        session.target_or_new(text, ArchiveKind::Drive)?
    } else {
        session.target(text)?
    };
    session.writable(&target).await?;
    let cores = session.drive(&target).await?;
    Ok((target, DriveWriter::new(cores.db, cores.blobs)))
}

fn show_written(
    session: &Session,
    target: &Target,
    path: &str,
    seq: u64,
    bytes: Option<u64>,
    version: u64,
) -> Result {
    let path = cumulet_hyperdrive::path::normalize(path)?;
    session.out.show(&Written {
        key: to_hex(&target.key),
        path,
        seq,
        version,
        bytes,
    })
}

/// Writes a file into a drive.
pub(crate) async fn put(
    session: &mut Session,
    text: &str,
    path: &str,
    file: Option<&Path>,
    options: PutOptions,
) -> Result {
    cumulet_hyperdrive::path::normalize(path)?;
    let metadata = match options.metadata {
        Some(json) => Some(
            serde_json::value::RawValue::from_string(json)
                .map_err(|error| Failure::usage(format!("--metadata is not JSON: {error}")))?,
        ),
        None => None,
    };
    let file = file.filter(|file| file.as_os_str() != "-");
    let (size, is_executable) = match file {
        Some(file) => {
            let metadata = std::fs::metadata(file).map_err(|error| missing(file, &error))?;
            if metadata.is_dir() {
                return Err(Failure::usage(format!("{} is a folder", file.display()))
                    .hint("`cumulet drive mirror` writes folders"));
            }
            (Some(metadata.len()), metadata.permissions().mode() & 0o100 != 0)
        }
        None => (None, false),
    };
    let (target, mut writer) = writer(session, text, true).await?;
    let (sender, mut reads) = mpsc::channel(READS_WAITING);
    let source = file.map(Path::to_owned);
    drop(tokio::task::spawn_blocking(move || {
        read(source.as_deref(), &sender);
    }));
    let progress = session.out.progress(size, Unit::Bytes);
    let mut blob = writer.blob();
    while let Some(read) = reads.recv().await {
        let bytes = read?;
        blob.write(&bytes).await?;
        progress.inc(bytes.len() as u64);
    }
    let blob = blob.finish().await?;
    progress.finish_and_clear();
    let entry = FileEntry {
        executable: options.executable || is_executable,
        linkname: None,
        blob: Some(blob),
        metadata,
    };
    let seq = writer.put_entry(path, &entry).await?;
    show_written(
        session,
        &target,
        path,
        seq,
        Some(blob.byte_length),
        writer.version(),
    )
}

fn read(source: Option<&Path>, sender: &mpsc::Sender<Result<Bytes>>) {
    let result = match source {
        None => read_one(std::io::stdin().lock(), sender).context("failed to read stdin"),
        Some(path) => DiskFile::open(path)
            .and_then(|file| read_one(file, sender))
            .map_err(|error| missing(path, &error)),
    };
    if let Err(failure) = result {
        // Nobody listens any more: then there is nobody to tell.
        let _ = sender.blocking_send(Err(failure));
    }
}

fn read_one(mut source: impl Read, sender: &mpsc::Sender<Result<Bytes>>) -> std::io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let length = match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if sender
            .blocking_send(Ok(Bytes::copy_from_slice(&buffer[..length])))
            .is_err()
        {
            return Ok(());
        }
    }
}

/// Removes a name.
pub(crate) async fn del(session: &mut Session, text: &str, path: &str) -> Result {
    let (target, mut writer) = writer(session, text, false).await?;
    let Some(seq) = writer.del(path).await? else {
        return Err(Failure::not_found(format!("{text} has no file {path}")));
    };
    show_written(session, &target, path, seq, None, writer.version())
}

/// Makes a link.
pub(crate) async fn symlink(session: &mut Session, text: &str, path: &str, leads_to: &str) -> Result {
    let (target, mut writer) = writer(session, text, true).await?;
    let seq = writer.symlink(path, leads_to).await?;
    show_written(session, &target, path, seq, None, writer.version())
}

/// Finds the file that an argument, or else the link, names, after all links.
async fn find(target: &Target, drive: &PlainDrive, path: Option<String>) -> Result<File> {
    let path = path.or_else(|| target.path.clone()).ok_or_else(|| {
        Failure::usage("which file?").hint("write its path behind the drive, or in the link")
    })?;
    if let Some(file) = drive.files.follow(&path).await? {
        return Ok(file);
    }
    let failure = Failure::not_found(format!("{} has no file {path}", target.text));
    Err(if drive.files.is_folder(&path).await? {
        failure.hint("it is a folder: `cumulet drive ls` lists it, `cumulet drive mirror` copies it")
    } else {
        failure
    })
}

/// Wishes for all blocks that a part of a file needs, so that peers send while it is read.
async fn wish(
    session: &Session,
    drive: &PlainDrive,
    file: &File,
    part: std::ops::Range<u64>,
) -> Result<Vec<Download>> {
    let Some(blob) = file.entry.blob.filter(|_| session.is_online()) else {
        return Ok(Vec::new());
    };
    let core = drive.blobs.core();
    let mut wishes = Vec::new();
    for blocks in drive.blobs.blocks_of(&blob, part).await? {
        wishes.push(core.handle().download(blocks).await);
    }
    Ok(wishes)
}

/// Makes sure that the file's blocks are known to exist. Returns its length.
async fn length(session: &Session, drive: &PlainDrive, file: &File) -> Result<u64> {
    if let Some(blob) = &file.entry.blob {
        session.know_blobs(drive.blobs.core(), blob.blocks().end).await?;
    }
    Ok(drive.byte_length(file).await?)
}

/// Writes a file's bytes to stdout.
pub(crate) async fn cat(
    session: &mut Session,
    text: &str,
    path: Option<String>,
    span: Span,
    version: Option<u64>,
) -> Result {
    if session.out.json {
        return Err(Failure::usage("cat writes the file's bytes and has no JSON form")
            .hint("`cumulet drive ls --json` tells about files"));
    }
    let (target, drive) = open(session, text, version).await?;
    let file = find(&target, &drive, path).await?;
    let length = length(session, &drive, &file).await?;
    let part = span.within(length).ok_or_else(|| {
        Failure::not_found(format!("{} has {length} bytes, fewer than asked for", file.path))
    })?;
    let wishes = wish(session, &drive, &file, part.clone()).await?;
    let mut reader = drive.read(&file, Some(part)).await?;
    while let Some(bytes) = reader.next().await? {
        session.out.bytes(&bytes)?;
    }
    drop(wishes);
    Ok(())
}

/// What `get` wrote.
#[derive(Debug, Serialize)]
struct Got {
    path: String,
    output: String,
    bytes: u64,
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}, {} bytes", self.path, self.output, self.bytes)
    }
}

/// Writes a file's bytes to a file here.
pub(crate) async fn get(
    session: &mut Session,
    text: &str,
    path: Option<String>,
    output: Option<PathBuf>,
    version: Option<u64>,
) -> Result {
    let (target, drive) = open(session, text, version).await?;
    let file = find(&target, &drive, path).await?;
    let output = match output {
        Some(output) => output,
        // Parts of a normalised path are never `..`, but a key of a hostile drive need not be normalised.
        None => match file.path.rsplit('/').next() {
            Some(name) if !matches!(name, "" | "." | "..") && !name.contains(['\0', '\\']) => {
                PathBuf::from(name)
            }
            _ => return Err(Failure::usage("where to?").hint("name the file to write with --output")),
        },
    };
    let length = length(session, &drive, &file).await?;
    let wishes = wish(session, &drive, &file, 0..length).await?;
    let mut reader = drive.read(&file, None).await?;
    let mut unfinished = output.clone().into_os_string();
    unfinished.push(".part");
    let unfinished = PathBuf::from(unfinished);
    let context = || format!("failed to write {}", output.display());
    let mut disk = DiskFile::create(&unfinished).context(context())?;
    let progress = session.out.progress(Some(length), Unit::Bytes);
    while let Some(bytes) = reader.next().await? {
        disk.write_all(&bytes).context(context())?;
        progress.inc(bytes.len() as u64);
    }
    progress.finish_and_clear();
    drop(wishes);
    if file.entry.executable {
        let mode = disk.metadata()?.permissions().mode();
        // Whoever may read it may run it.
        disk.set_permissions(PermissionsExt::from_mode(mode | (mode & 0o444) >> 2))?;
    }
    disk.sync_all().context(context())?;
    std::fs::rename(&unfinished, &output).context(context())?;
    session.out.show(&Got {
        path: file.path,
        output: output.display().to_string(),
        bytes: length,
    })
}
