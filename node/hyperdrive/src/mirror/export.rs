//! From a drive into a local folder.
//!
//! Names come in groups: what lies under them locally is looked up in one blocking task, and their small files are written
//! in another; large files are streamed one by one.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use cumulet_hyperbee::Blocks;
use futures::stream::{FuturesOrdered, TryStreamExt};
use tokio::sync::mpsc;

use super::local::{self, Kind, Part, Walk};
use super::{
    Action, Compare, MirrorError, MirrorOptions, Progress, Remote, Remotes, Report, SMALL_BYTES, Skipped,
    Summary, blocking, failed, same_bytes,
};
use crate::drive::{Drive, DriveError, File};
use crate::path;

/// Names in a group, whose small files are in memory together: 4 MiB.
const GROUP: usize = 64;
/// Names removed by one blocking task.
const REMOVE: usize = 1024;

/// Makes a local folder equal to a drive's. It is created if it does not exist. The drive is read at its version of now.
///
/// # Errors
/// [`MirrorError`]. What can't be made safely or at all under its name is no error but a skipped step.
pub async fn export<D: Blocks, B: Blocks>(
    drive: &Drive<D, B>,
    root: &Path,
    options: &MirrorOptions,
    progress: Progress<'_>,
) -> Result<Summary, MirrorError> {
    let (given, dry_run) = (root.to_owned(), options.dry_run);
    let root = blocking(move || {
        if !dry_run {
            std::fs::create_dir_all(&given).map_err(failed("create the folder", &given))?;
        }
        // A dry run into a folder that is not there yet finds nothing in it.
        match std::fs::canonicalize(&given) {
            Err(_) if dry_run && !given.exists() => Ok(given),
            root => root.map_err(failed("open the folder", &given)),
        }
    })
    .await?;
    let folder = path::normalize_folder(&options.folder)?;
    let mut export = Export {
        drive: drive.checkout(drive.files.version()),
        root,
        folder,
        options,
        report: Report::new(progress),
    };
    if options.prune {
        export.prune().await?;
    }
    let mut remotes = export.remotes()?;
    loop {
        let mut group = Vec::with_capacity(GROUP);
        while group.len() < GROUP {
            let Some(remote) = remotes.next(&options.selection).await? else {
                break;
            };
            group.push(remote);
        }
        if group.is_empty() {
            return Ok(export.report.summary);
        }
        export.write(group).await?;
    }
}

struct Export<'a, D, B> {
    drive: Drive<D, B>,
    root: PathBuf,
    folder: String,
    options: &'a MirrorOptions,
    report: Report<'a>,
}

/// What is to be done about a name by the blocking task of its group.
enum Job {
    /// Decided already.
    Done { action: Action, bytes: u64 },
    Link {
        relative: String,
        target: String,
        is_new: bool,
    },
    Small {
        relative: String,
        data: Bytes,
        executable: bool,
        local: Local,
    },
}

/// What lies under a name.
#[derive(Debug, Clone, Copy)]
struct Local {
    size: Option<u64>,
    executable: bool,
    is_new: bool,
}

impl<D: Blocks, B: Blocks> Export<'_, D, B> {
    fn remotes(&self) -> Result<Remotes<D>, MirrorError> {
        Ok(Remotes {
            list: self.drive.files.list(&self.folder)?,
            prefix: self.folder.len() + 1,
        })
    }

    /// Removes local files that the drive does not have, and parts of an earlier run.
    async fn prune(&mut self) -> Result<(), MirrorError> {
        let (sender, mut locals) = mpsc::channel(GROUP);
        let (root, dry_run) = (self.root.clone(), self.options.dry_run);
        let walk = tokio::task::spawn_blocking(move || {
            if dry_run && !root.exists() {
                return Ok::<_, MirrorError>(());
            }
            let mut walk = Walk::new(root, false)?;
            while let Some(local) = walk.next()? {
                if sender.blocking_send(local).is_err() {
                    return Ok(());
                }
            }
            for part in walk.parts.iter().filter(|_| !dry_run) {
                std::fs::remove_file(part).map_err(failed("remove", part))?;
            }
            Ok(())
        });
        let mut remotes = self.remotes()?;
        let mut remote = remotes.next(&self.options.selection).await?;
        let mut doomed: Vec<String> = Vec::new();
        while let Some(local) = locals.recv().await {
            let name = format!("{}/{}", self.folder, local.relative);
            if !self.options.selection.contains(&name) {
                continue;
            }
            while remote.as_ref().is_some_and(|remote| remote.path < name) {
                remote = remotes.next(&self.options.selection).await?;
            }
            if remote.as_ref().is_some_and(|remote| remote.path == name) {
                continue;
            }
            // Sockets and devices are nobody's copy of anything.
            if let Kind::Skip(reason) = local.kind {
                self.report.step(name, Action::Skip(reason), 0);
                continue;
            }
            self.report.step(name, Action::Remove, 0);
            doomed.push(local.relative);
            if doomed.len() == REMOVE {
                self.remove(std::mem::take(&mut doomed)).await?;
            }
        }
        // The walk has ended, so no folder goes that it has yet to enter.
        walk.await.map_err(|_| MirrorError::Stopped)??;
        self.remove(doomed).await
    }

    async fn remove(&self, relatives: Vec<String>) -> Result<(), MirrorError> {
        if self.options.dry_run || relatives.is_empty() {
            return Ok(());
        }
        let root = self.root.clone();
        blocking(move || local::remove(&root, &relatives)).await
    }

    async fn write(&mut self, group: Vec<Remote>) -> Result<(), MirrorError> {
        let kinds = self.look(&group).await?;
        let names: Vec<String> = group.iter().map(|remote| remote.path.clone()).collect();
        let mut jobs = Vec::with_capacity(group.len());
        {
            let this = &*self;
            // Side by side, so that a group of small files of a remote drive costs a few round trips.
            let mut decided: FuturesOrdered<_> = group
                .into_iter()
                .zip(kinds)
                .map(|(remote, kind)| this.decide(remote, kind))
                .collect();
            while let Some(job) = decided.try_next().await? {
                jobs.push(job);
            }
        }
        let mut small = Vec::with_capacity(jobs.len());
        for job in jobs {
            small.push(match job {
                Decided::Job(job) => job,
                Decided::Large(large) => {
                    let bytes = large.size;
                    let action = self.write_large(large).await?;
                    Job::Done { action, bytes }
                }
            });
        }
        let (root, dry_run, sync) = (self.root.clone(), self.options.dry_run, self.options.sync);
        let same_size = self.options.compare == Compare::Size;
        let work = move || {
            let run = |job| run(&root, job, dry_run, sync, same_size);
            small.into_iter().map(run).collect::<Result<Vec<_>, _>>()
        };
        for (name, (action, bytes)) in names.into_iter().zip(blocking(work).await?) {
            self.report.step(name, action, bytes);
        }
        Ok(())
    }

    /// What lies under the names of a group.
    async fn look(&self, group: &[Remote]) -> Result<Vec<Option<Kind>>, MirrorError> {
        let relatives: Vec<_> = group.iter().map(|remote| remote.relative.clone()).collect();
        let root = self.root.clone();
        let look = move |relative: Option<String>| match relative {
            None => Ok(Some(Kind::Skip(Skipped::Name))),
            Some(relative) if !local::is_below_folders(&root, &relative)? => {
                Ok(Some(Kind::Skip(Skipped::Conflict)))
            }
            Some(relative) => local::look(&root.join(relative)),
        };
        blocking(move || relatives.into_iter().map(look).collect()).await
    }

    async fn decide(&self, remote: Remote, kind: Option<Kind>) -> Result<Decided, MirrorError> {
        let done = |action| Ok(Decided::Job(Job::Done { action, bytes: 0 }));
        let is_new = kind.is_none();
        if let Some(Kind::Skip(reason)) = kind {
            return done(Action::Skip(reason));
        }
        let Some(relative) = remote.relative else {
            return done(Action::Skip(Skipped::Name));
        };
        let Some(file) = remote.file else {
            return done(Action::Skip(Skipped::Entry));
        };
        if let Some(target) = &file.entry.linkname {
            let target = local::local_target(&relative, target, &self.folder, self.options.links);
            return match (target, kind) {
                (None, _) => done(Action::Skip(Skipped::Link)),
                (Some(target), Some(Kind::Link(local))) if target == local => done(Action::Equal),
                (Some(target), _) => Ok(Decided::Job(Job::Link {
                    relative,
                    target,
                    is_new,
                })),
            };
        }
        if file.entry.blob.is_none() {
            return done(Action::Skip(Skipped::Kind));
        }
        let size = self.drive.byte_length(&file).await?;
        let mut local = Local {
            size: None,
            executable: false,
            is_new,
        };
        if let Some(Kind::File { size, executable }) = kind {
            (local.size, local.executable) = (Some(size), executable);
        }
        let executable = file.entry.executable;
        // Nothing has to be read to see that the lengths differ, or that they suffice.
        let unread = match local.size {
            Some(length) => length != size || self.options.compare == Compare::Size,
            None => true,
        };
        if unread && self.options.dry_run
            || unread && local.size == Some(size) && local.executable == executable
        {
            let action = if is_new {
                Action::Add
            } else if local.size != Some(size) {
                Action::Change
            } else if local.executable == executable {
                Action::Equal
            } else {
                Action::Describe
            };
            return Ok(Decided::Job(Job::Done { action, bytes: size }));
        }
        if size > SMALL_BYTES {
            return Ok(Decided::Large(Large {
                file,
                relative,
                size,
                local,
            }));
        }
        let data = self.drive.read(&file, None).await?;
        let data = data.to_vec(SMALL_BYTES as usize).await;
        Ok(Decided::Job(Job::Small {
            relative,
            data: data.map_err(DriveError::from)?.into(),
            executable,
            local,
        }))
    }

    async fn write_large(&self, large: Large) -> Result<Action, MirrorError> {
        let Large {
            file,
            relative,
            size,
            local,
        } = large;
        let (path, executable) = (self.root.join(&relative), file.entry.executable);
        if local.size == Some(size) {
            let same = self.options.compare == Compare::Size || {
                let blob = self.drive.read(&file, None).await?;
                same_bytes(blob, &mut local::stream(path.clone())).await?
            };
            if same {
                if local.executable == executable {
                    return Ok(Action::Equal);
                }
                if !self.options.dry_run {
                    blocking(move || local::set_executable(&path, executable)).await?;
                }
                return Ok(Action::Describe);
            }
        }
        let action = if local.is_new { Action::Add } else { Action::Change };
        if self.options.dry_run {
            return Ok(action);
        }
        let (sender, mut chunks) = mpsc::channel::<Bytes>(local::CHUNKS_AHEAD);
        let (root, sync) = (self.root.clone(), self.options.sync);
        let write = tokio::task::spawn_blocking(move || {
            if !local::make_folders(&root, &relative)? {
                return Ok::<_, MirrorError>(false);
            }
            let path = root.join(&relative);
            let mut part = Part::create(path.parent().unwrap_or(&root), executable)?;
            let mut written = 0;
            while let Some(chunk) = chunks.blocking_recv() {
                written += chunk.len() as u64;
                part.write(&chunk)?;
            }
            // Less: reading the drive failed, and its error is told. The part goes.
            if written == size {
                part.name(&path, sync)?;
            }
            Ok(true)
        });
        let mut blob = self.drive.read(&file, None).await?;
        let read = async {
            while let Some(bytes) = blob.next().await? {
                // Nobody listens: writing failed, and its error is told.
                if sender.send(bytes).await.is_err() {
                    break;
                }
            }
            Ok::<_, crate::BlobError>(())
        };
        let read = read.await;
        drop(sender);
        let written = write.await.map_err(|_| MirrorError::Stopped)??;
        read.map_err(DriveError::from)?;
        Ok(if written {
            action
        } else {
            Action::Skip(Skipped::Conflict)
        })
    }
}

enum Decided {
    Job(Job),
    Large(Large),
}

struct Large {
    file: File,
    relative: String,
    size: u64,
    local: Local,
}

/// Does a job, or with `dry_run` only says what it would do.
fn run(
    root: &Path,
    job: Job,
    dry_run: bool,
    sync: bool,
    same_size: bool,
) -> Result<(Action, u64), MirrorError> {
    const CONFLICT: (Action, u64) = (Action::Skip(Skipped::Conflict), 0);
    let action = |is_new| if is_new { Action::Add } else { Action::Change };
    match job {
        Job::Done { action, bytes } => Ok((action, bytes)),
        Job::Link {
            relative,
            target,
            is_new,
        } => {
            if !dry_run {
                if !local::make_folders(root, &relative)? {
                    return Ok(CONFLICT);
                }
                let path = root.join(&relative);
                local::make_link(path.parent().unwrap_or(root), &target, &path)?;
            }
            Ok((action(is_new), 0))
        }
        Job::Small {
            relative,
            data,
            executable,
            local,
        } => {
            let (path, bytes) = (root.join(&relative), data.len() as u64);
            let same = local.size == Some(bytes)
                && (same_size || local::read_small(&path)?.is_some_and(|before| before == data));
            if same {
                if local.executable == executable {
                    return Ok((Action::Equal, 0));
                }
                if !dry_run {
                    local::set_executable(&path, executable)?;
                }
                return Ok((Action::Describe, 0));
            }
            if !dry_run {
                if !local::make_folders(root, &relative)? {
                    return Ok(CONFLICT);
                }
                let mut part = Part::create(path.parent().unwrap_or(root), executable)?;
                part.write(&data)?;
                part.name(&path, sync)?;
            }
            Ok((action(local.is_new), bytes))
        }
    }
}
