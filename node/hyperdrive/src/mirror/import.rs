//! From a local folder into a drive.
//!
//! One thread walks the folder and reads small files ahead; the names of the drive come in the same order, so each side is
//! compared with the other's next name.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use cumulet_hyperbee::AppendBlocks;
use tokio::sync::mpsc;

use super::local::{self, Kind, Local, Walk};
use super::{
    Action, Compare, MirrorError, MirrorOptions, Progress, Remote, Remotes, Report, Skipped, Summary,
    blocking, failed, same_bytes,
};
use crate::drive::{Drive, DriveError, File};
use crate::path;
use crate::write::{DriveBatch, DriveWriter, FileOptions, file_entry};

/// Names that the walk is ahead, each with at most a small file's bytes: 4 MiB.
const NAMES_AHEAD: usize = 64;
/// Bytes of blobs after which the entries so far are appended: what an interruption costs to do again.
const BATCH_BYTES: u64 = 256 << 20;

/// Makes a drive's folder equal to a local one. The drive's metadata of files that are there already is kept.
///
/// Entries are appended in batches of [`MirrorOptions::batch_files`] names: what a run that fails has flushed stays, and the
/// next run goes on from there.
///
/// # Errors
/// [`MirrorError`]; also when a file is truncated while it is read. A local name that can't be in a drive is no error but a
/// skipped step.
pub async fn import<D, B>(
    root: &Path,
    writer: &mut DriveWriter<D, B>,
    options: &MirrorOptions,
    progress: Progress<'_>,
) -> Result<Summary, MirrorError>
where
    D: AppendBlocks + Clone,
    B: AppendBlocks + Clone,
{
    let root = {
        let root = root.to_owned();
        blocking(move || std::fs::canonicalize(&root).map_err(failed("open the folder", &root))).await?
    };
    let drive = writer.drive();
    let drive = drive.checkout(drive.files.version());
    let folder = path::normalize_folder(&options.folder)?;
    let mut import = Import {
        remotes: Remotes {
            list: drive.files.list(&folder)?,
            prefix: folder.len() + 1,
        },
        locals: walk(root.clone()),
        local: None,
        remote: None,
        root,
        drive,
        folder,
        options,
        report: Report::new(progress),
    };
    import.advance(true, true).await?;
    loop {
        let mut batch = writer.batch();
        let more = import.fill(&mut batch).await?;
        batch.flush().await?;
        if !more {
            return Ok(import.report.summary);
        }
    }
}

/// The folder's names from a blocking task, which ends with them or when nobody listens.
fn walk(root: PathBuf) -> mpsc::Receiver<Result<Local, MirrorError>> {
    let (sender, receiver) = mpsc::channel(NAMES_AHEAD);
    // It ends by itself when the receiver is dropped.
    drop(tokio::task::spawn_blocking(move || {
        let mut walk = match Walk::new(root, true) {
            Ok(walk) => walk,
            Err(error) => {
                let _ = sender.blocking_send(Err(error));
                return;
            }
        };
        while let Some(step) = walk.next().transpose() {
            let failed = step.is_err();
            if sender.blocking_send(step).is_err() || failed {
                return;
            }
        }
    }));
    receiver
}

struct Import<'a, D, B> {
    root: PathBuf,
    /// The drive as it was at first.
    drive: Drive<D, B>,
    folder: String,
    options: &'a MirrorOptions,
    locals: mpsc::Receiver<Result<Local, MirrorError>>,
    remotes: Remotes<D>,
    /// Next name of either side.
    local: Option<Local>,
    remote: Option<Remote>,
    report: Report<'a>,
}

impl<D: AppendBlocks, B: AppendBlocks> Import<'_, D, B> {
    async fn advance(&mut self, local: bool, remote: bool) -> Result<(), MirrorError> {
        if local {
            loop {
                self.local = self.locals.recv().await.transpose()?;
                let Some(local) = &self.local else { break };
                if self.options.selection.contains(&self.name(&local.relative)) {
                    break;
                }
            }
        }
        if remote {
            self.remote = self.remotes.next(&self.options.selection).await?;
        }
        Ok(())
    }

    /// The drive's name for a local one.
    fn name(&self, relative: &str) -> String {
        format!("{}/{relative}", self.folder)
    }

    /// Adds changes to a batch until it is full. False at the end of both sides.
    async fn fill(&mut self, batch: &mut DriveBatch<'_, D, B>) -> Result<bool, MirrorError> {
        let begun = self.report.summary.bytes;
        while batch.len() < self.options.batch_files.max(1) && self.report.summary.bytes - begun < BATCH_BYTES
        {
            let order = match (&self.local, &self.remote) {
                (None, None) => return Ok(false),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(local), Some(remote)) => self.name(&local.relative).cmp(&remote.path),
            };
            let local = if order.is_le() { self.local.take() } else { None };
            let remote = if order.is_ge() { self.remote.take() } else { None };
            match (local, remote) {
                (Some(local), remote) => self.put(batch, local, remote).await?,
                (None, Some(remote)) if self.options.prune => self.prune(batch, remote).await?,
                (None, _) => {}
            }
            self.advance(order.is_le(), order.is_ge()).await?;
        }
        Ok(true)
    }

    async fn prune(&mut self, batch: &mut DriveBatch<'_, D, B>, remote: Remote) -> Result<(), MirrorError> {
        // A key that does not name itself would remove another.
        if !path::normalize(&remote.path).is_ok_and(|name| name == remote.path) {
            self.report.step(remote.path, Action::Skip(Skipped::Name), 0);
            return Ok(());
        }
        if !self.options.dry_run {
            batch.del(&remote.path).await?;
        }
        self.report.step(remote.path, Action::Remove, 0);
        Ok(())
    }

    async fn put(
        &mut self,
        batch: &mut DriveBatch<'_, D, B>,
        local: Local,
        remote: Option<Remote>,
    ) -> Result<(), MirrorError> {
        let path = self.name(&local.relative);
        let is_new = remote.is_none();
        let old = remote.and_then(|remote| remote.file);
        match local.kind {
            Kind::Skip(reason) => self.report.step(path, Action::Skip(reason), 0),
            Kind::Link(ref target) => {
                let links = self.options.links;
                let target = local::drive_target(&self.root, &local.relative, target, &self.folder, links);
                let Some(target) = target else {
                    self.report.step(path, Action::Skip(Skipped::Link), 0);
                    return Ok(());
                };
                let before = old.and_then(|old| old.entry.linkname);
                // An absolute link of the drive is a relative one in the folder.
                let same = before.is_some_and(|before| {
                    let seen = |name: &str| local::local_target(&local.relative, name, &self.folder, links);
                    before == target || seen(&before).is_some_and(|before| seen(&target) == Some(before))
                });
                if same {
                    self.report.step(path, Action::Equal, 0);
                    return Ok(());
                }
                if !self.options.dry_run {
                    batch.symlink(&path, &target).await?;
                }
                let action = if is_new { Action::Add } else { Action::Change };
                self.report.step(path, action, 0);
            }
            Kind::File { size, executable } => {
                let file = LocalFile {
                    path: self.root.join(&local.relative),
                    size,
                    executable,
                    data: local.data,
                };
                self.put_file(batch, path, file, old, is_new).await?;
            }
        }
        Ok(())
    }

    async fn put_file(
        &mut self,
        batch: &mut DriveBatch<'_, D, B>,
        path: String,
        local: LocalFile,
        old: Option<File>,
        is_new: bool,
    ) -> Result<(), MirrorError> {
        let size = local.data.as_ref().map_or(local.size, |data| data.len() as u64);
        if let Some(old) = &old
            && self.is_same(&local, size, old).await?
        {
            if old.entry.executable == local.executable {
                self.report.step(path, Action::Equal, 0);
                return Ok(());
            }
            if !self.options.dry_run {
                let mut entry = old.entry.clone();
                entry.executable = local.executable;
                batch.put_entry(&path, &entry).await?;
            }
            self.report.step(path, Action::Describe, 0);
            return Ok(());
        }
        let mut written = size;
        if !self.options.dry_run {
            let metadata = old.and_then(|old| old.entry.metadata);
            let mut blob = batch.blob();
            if let Some(data) = local.data {
                blob.write_bytes(data).await?;
            } else {
                let mut chunks = local::stream(local.path.clone());
                while let Some(chunk) = chunks.recv().await.transpose()? {
                    blob.write_bytes(chunk).await?;
                }
            }
            let blob = blob.finish().await?;
            written = blob.byte_length;
            if written < size {
                return Err(MirrorError::Changed { path: local.path });
            }
            let options = FileOptions {
                executable: local.executable,
                metadata,
            };
            batch.put_entry(&path, &file_entry(blob, options)).await?;
        }
        let action = if is_new { Action::Add } else { Action::Change };
        self.report.step(path, action, written);
        Ok(())
    }

    async fn is_same(&self, local: &LocalFile, size: u64, old: &File) -> Result<bool, MirrorError> {
        let is_file = old.entry.blob.is_some() && old.entry.linkname.is_none();
        if !is_file || self.drive.byte_length(old).await? != size {
            return Ok(false);
        }
        if self.options.compare == Compare::Size {
            return Ok(true);
        }
        let blob = self.drive.read(old, None).await?;
        if let Some(data) = &local.data {
            let before: Vec<u8> = blob.to_vec(data.len()).await.map_err(DriveError::from)?;
            return Ok(before == Bytes::as_ref(data));
        }
        same_bytes(blob, &mut local::stream(local.path.clone())).await
    }
}

struct LocalFile {
    path: PathBuf,
    size: u64,
    executable: bool,
    data: Option<Bytes>,
}
