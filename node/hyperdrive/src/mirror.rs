//! Making a drive equal to a local folder, and a local folder equal to a drive.
//!
//! [`import`] reads a folder into a drive, [`export`] writes a drive into a folder. Both compare first and touch only what
//! differs, so a run that was interrupted is resumed by running it again: whole files are never done twice, and blobs
//! that were fetched from peers lie in the blob core.
//!
//! Both sides are walked in the order of their names, side by side, so memory does not grow with the number of files; of
//! file bytes some MiB are held at a time. The local side is read and written by blocking tasks of the tokio
//! runtime.
//!
//! What must hold when a drive is exported, whose writer may be hostile:
//! - Nothing outside of the folder is written, read or removed. Names that are not plain paths (`..`, empty parts,
//!   backslashes, NUL) are skipped; a folder on the way that is a link is not entered.
//! - Links that lead out of the folder are not made, unless [`Links::Any`] asks for it.
//! - A file appears under its name when it is whole. What is being written has a name beginning with
//!   [`PART_PREFIX`]; one that a crash left behind is removed by the next export that prunes, and never imported.
//!
//! What is skipped is told, step by step, and counted. Modification times, owners and empty folders are not kept:
//! a drive has none.

mod export;
mod import;
mod local;

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cumulet_hyperbee::{Blocks, ErrorKind};

use crate::blobs::BlobReader;
use crate::drive::{DriveError, File, List};
use crate::path::{self, PathError};
use crate::plan::Selection;

pub use export::export;
pub use import::import;
pub use local::PART_PREFIX;

/// Files up to this size are read whole and several at a time; larger ones are streamed.
const SMALL_BYTES: u64 = 1 << 16;

/// When two files count as equal. Names, links and the executable flag are always compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compare {
    /// When all bytes are: both sides are read.
    #[default]
    Content,
    /// When their lengths are. Quick, and blind to changes that keep the length.
    Size,
}

/// What becomes of symbolic links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Links {
    /// Those that stay inside of the folder are kept, others skipped.
    #[default]
    Inside,
    /// All are kept, wherever they lead. For drives of trusted writers.
    Any,
    /// None is.
    Skip,
}

/// What to mirror, and how.
#[derive(Debug, Clone)]
pub struct MirrorOptions {
    /// The drive's folder that corresponds to the local one.
    pub folder: String,
    /// Which files, by their names in the drive. Others are left alone on both sides.
    pub selection: Selection,
    /// Remove what the source does not have. The JS package does unless told otherwise, this does not.
    pub prune: bool,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// When files count as equal.
    pub compare: Compare,
    /// What becomes of links.
    pub links: Links,
    /// Export: sync every file before it gets its name, so that a loss of power can't leave an empty one. Costs a wait for
    /// the disk for each.
    pub sync: bool,
    /// Import: most files whose entries are appended together, and appear together.
    pub batch_files: usize,
}

impl Default for MirrorOptions {
    fn default() -> Self {
        Self {
            folder: "/".to_owned(),
            selection: Selection::default(),
            prune: false,
            dry_run: false,
            compare: Compare::default(),
            links: Links::default(),
            sync: false,
            batch_files: 1024,
        }
    }
}

/// Why a name was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skipped {
    /// It can't be a name on the other side: not UTF-8, with a backslash or NUL, `..`, too long.
    Name,
    /// It is a link that leads out of the folder, or links are not wanted.
    Link,
    /// It is neither file nor link: a device, a socket, a drive's entry without a blob.
    Kind,
    /// A folder is in the way, or a file or link where a folder would have to be.
    Conflict,
    /// Its entry in the drive can't be read.
    Entry,
}

/// What was done about a name, or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Was not there, is now.
    Add,
    /// Had other bytes, or another target.
    Change,
    /// Had the same bytes and another executable flag.
    Describe,
    /// Was there, is not in the source.
    Remove,
    /// Nothing: it is the same.
    Equal,
    /// Nothing: it can't be mirrored.
    Skip(Skipped),
}

/// One name, done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The name in the drive. Of a local name that can't be one, as much as can be shown.
    pub path: String,
    /// What was done.
    pub action: Action,
    /// Bytes written: the length of a file that was added or changed.
    pub bytes: u64,
}

/// Counts of steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// [`Action::Add`].
    pub added: u64,
    /// [`Action::Change`] and [`Action::Describe`].
    pub changed: u64,
    /// [`Action::Remove`].
    pub removed: u64,
    /// [`Action::Equal`].
    pub equal: u64,
    /// [`Action::Skip`].
    pub skipped: u64,
    /// Bytes of added and changed files.
    pub bytes: u64,
}

/// Told of every step, when it is done. In an import the entries of a batch are appended after the steps were told.
pub type Progress<'a> = &'a mut (dyn FnMut(&Step) + Send);

/// Why a mirror stopped. What was done before stays.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The drive.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// The local folder.
    #[error("failed to {action} {}", path.display())]
    Local {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file was shorter or longer than a moment before.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The runtime is shutting down.
    #[error("the mirror was stopped")]
    Stopped,
}

impl MirrorError {
    /// What can be done about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Drive(error) => error.kind(),
            Self::Local { .. } | Self::Stopped => ErrorKind::Failed,
            Self::Changed { .. } => ErrorKind::Unavailable,
        }
    }
}

impl From<PathError> for MirrorError {
    fn from(error: PathError) -> Self {
        Self::Drive(error.into())
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> MirrorError + 'a {
    move |source| MirrorError::Local {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Runs work on files off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MirrorError> + Send + 'static,
) -> Result<T, MirrorError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| MirrorError::Stopped)?
}

/// Counts and tells.
struct Report<'a> {
    summary: Summary,
    progress: Progress<'a>,
}

impl<'a> Report<'a> {
    fn new(progress: Progress<'a>) -> Self {
        Self {
            summary: Summary::default(),
            progress,
        }
    }

    fn step(&mut self, path: String, action: Action, bytes: u64) {
        let summary = &mut self.summary;
        match action {
            Action::Add => summary.added += 1,
            Action::Change | Action::Describe => summary.changed += 1,
            Action::Remove => summary.removed += 1,
            Action::Equal => summary.equal += 1,
            Action::Skip(_) => summary.skipped += 1,
        }
        let bytes = if matches!(action, Action::Add | Action::Change) {
            bytes
        } else {
            0
        };
        summary.bytes += bytes;
        (self.progress)(&Step { path, action, bytes });
    }
}

/// A name of the drive, relative to the mirrored folder.
struct Remote {
    /// The name in the drive.
    path: String,
    /// What comes after the folder and its slash; none if it can't be a local name.
    relative: Option<String>,
    /// None if the entry can't be read.
    file: Option<File>,
}

/// The drive's side of a mirror, in the order of names.
struct Remotes<D> {
    list: List<D>,
    /// Bytes of the folder with its slash.
    prefix: usize,
}

impl<D: Blocks> Remotes<D> {
    async fn next(&mut self, selection: &Selection) -> Result<Option<Remote>, MirrorError> {
        loop {
            let (path, file) = match self.list.next().await {
                Ok(None) => return Ok(None),
                Ok(Some(file)) => (file.path.clone(), Some(file)),
                Err(DriveError::Entry { path, .. }) => (path, None),
                Err(error) => return Err(error.into()),
            };
            if !selection.contains(&path) {
                continue;
            }
            let plain = path::normalize(&path).is_ok_and(|normal| normal == path);
            let relative = path.get(self.prefix..).filter(|_| plain);
            let relative = relative.filter(|relative| local::is_plain(relative));
            return Ok(Some(Remote {
                relative: relative.map(ToOwned::to_owned),
                path,
                file,
            }));
        }
    }
}

/// Whether a blob and a local file have the same bytes. `local` gives the next ones, none at the end.
async fn same_bytes<B: Blocks>(
    mut blob: BlobReader<B>,
    local: &mut tokio::sync::mpsc::Receiver<Result<Bytes, MirrorError>>,
) -> Result<bool, MirrorError> {
    let (mut ours, mut theirs) = (Bytes::new(), Bytes::new());
    loop {
        if ours.is_empty() {
            ours = blob.next().await.map_err(DriveError::from)?.unwrap_or_default();
        }
        if theirs.is_empty() {
            theirs = local.recv().await.transpose()?.unwrap_or_default();
        }
        let length = ours.len().min(theirs.len());
        if length == 0 {
            return Ok(ours.is_empty() && theirs.is_empty());
        }
        if ours.split_to(length) != theirs.split_to(length) {
            return Ok(false);
        }
    }
}
