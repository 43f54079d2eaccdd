//! `drive mirror`: a folder into a drive, and a drive into a folder.
//!
//! The work is done by `cumulet_hyperdrive::mirror`; here it is found out which side is which, peers are asked for the bytes
//! of a drive that is not here, and what was done is told.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use clap::{Args, ValueEnum, ValueHint};
use cumulet_hypercore::corestore::Download;
use cumulet_hyperdrive::mirror::{self, Action, Compare, Links, MirrorOptions, Skipped, Step, Summary};
use cumulet_hyperdrive::plan::Selection;
use indicatif::ProgressBar;
use serde::Serialize;

use crate::append::missing;
use crate::failure::{Failure, Result};
use crate::files::{self, PlainDrive};
use crate::folders::readable;
use crate::output::{Output, Unit};
use crate::session::Session;

pub(crate) const EXAMPLES: &str = "\
Examples:
  cumulet drive mirror ./photos photos
  cumulet drive mirror photos ./restored --prune
  cumulet drive mirror pear://<key>/2024 ./2024 --include '**/*.jpg' --dry-run
A folder begins with /, ./ or ../ or is one of . and ..; anything else is a drive.
Only what differs is touched, so the same command goes on after an interruption.";

/// What is mirrored, and how.
#[derive(Debug, Args)]
pub(crate) struct MirrorArguments {
    /// What is read: a folder, or a drive (a name, key or link; a link may have a folder in it).
    #[arg(value_hint = ValueHint::AnyPath)]
    source: PathBuf,
    /// What is made equal to it: a drive of your own, made if the name is new, or a folder.
    #[arg(value_hint = ValueHint::AnyPath)]
    target: PathBuf,
    /// The folder of the drive.
    #[arg(long, value_name = "PATH")]
    folder: Option<String>,
    /// Only files that match one of these, by their names in the drive: * and ? stay inside a folder, ** does not.
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// No files that match one of these.
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Removes what the source does not have.
    #[arg(long)]
    prune: bool,
    /// Says what would be done, and does nothing.
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// When files count as equal: their bytes are, or only their lengths.
    #[arg(long, value_enum, default_value_t = CompareBy::Content, value_name = "BY")]
    compare: CompareBy,
    /// What becomes of symbolic links: those that stay inside the folder are kept, all are, or none.
    #[arg(long, value_enum, default_value_t = KeepLinks::Inside, value_name = "WHICH")]
    links: KeepLinks,
    /// Lists every file that is written or removed. With --json and --dry-run they always are.
    #[arg(long, short)]
    verbose: bool,
    /// The drive as it was at this version.
    #[arg(long, value_name = "VERSION")]
    version: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CompareBy {
    Content,
    Size,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KeepLinks {
    Inside,
    Any,
    Skip,
}

/// One side of a mirror.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Folder(PathBuf),
    Drive(String),
}

impl Side {
    fn of(argument: PathBuf) -> Result<Self> {
        let is_folder = matches!(
            argument.components().next(),
            Some(Component::RootDir | Component::CurDir | Component::ParentDir)
        );
        if is_folder {
            return Ok(Self::Folder(argument));
        }
        match argument.into_os_string().into_string() {
            Ok(text) if !text.is_empty() => Ok(Self::Drive(text)),
            _ => Err(Failure::usage("a side is neither folder nor drive").hint(SIDES_HINT)),
        }
    }
}

const SIDES_HINT: &str = "a folder begins with /, ./ or ../ (./photos, not photos); anything else is a name, key or link of a drive";

/// One name that was done.
#[derive(Debug, Serialize)]
struct StepShown<'a> {
    path: &'a str,
    /// added, changed, described, removed or skipped.
    action: &'static str,
    bytes: u64,
    /// Why it was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl fmt::Display for StepShown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.action {
            "added" => '+',
            "removed" => '-',
            "skipped" => '!',
            _ => '~',
        };
        write!(f, "{sign} {}", readable(self.path))
    }
}

impl<'a> StepShown<'a> {
    /// None of what was equal: there is nothing to tell.
    fn of(step: &'a Step) -> Option<Self> {
        let (action, reason) = match step.action {
            Action::Equal => return None,
            Action::Add => ("added", None),
            Action::Change => ("changed", None),
            Action::Describe => ("described", None),
            Action::Remove => ("removed", None),
            Action::Skip(skipped) => ("skipped", Some(because(skipped))),
        };
        Some(Self {
            path: &step.path,
            action,
            bytes: step.bytes,
            reason,
        })
    }
}

fn because(skipped: Skipped) -> &'static str {
    match skipped {
        Skipped::Name => "the name is not possible on the other side",
        Skipped::Link => "the link leads out of the folder, or links are not wanted",
        Skipped::Kind => "it is neither a file nor a link",
        Skipped::Conflict => "something else is in the way",
        Skipped::Entry => "its entry in the drive can't be read",
    }
}

/// The counts, which end the output.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Mirrored {
    added: u64,
    changed: u64,
    removed: u64,
    equal: u64,
    skipped: u64,
    bytes: u64,
    /// The drive's version: the one that was read, or that there is now.
    version: u64,
    dry_run: bool,
}

impl Mirrored {
    fn new(summary: Summary, version: u64, dry_run: bool) -> Self {
        Self {
            added: summary.added,
            changed: summary.changed,
            removed: summary.removed,
            equal: summary.equal,
            skipped: summary.skipped,
            bytes: summary.bytes,
            version,
            dry_run,
        }
    }
}

impl fmt::Display for Mirrored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if self.dry_run { "would be: " } else { "" };
        write!(
            f,
            "{prefix}{} added, {} changed, {} removed, {} equal, {} skipped, {} bytes written; version {}",
            self.added, self.changed, self.removed, self.equal, self.skipped, self.bytes, self.version
        )
    }
}

/// Tells of steps as they are done.
struct Telling<'a> {
    out: &'a Output,
    progress: ProgressBar,
    lists: bool,
    /// Why nothing can be told any more: the reader of our results went away.
    ended: Result,
}

impl<'a> Telling<'a> {
    fn new(out: &'a Output, total: Option<u64>, lists: bool) -> Self {
        Self {
            out,
            progress: out.progress(total, Unit::Bytes),
            lists: lists || out.json,
            ended: Ok(()),
        }
    }

    fn step(&mut self, step: &Step) {
        self.progress.inc(step.bytes);
        let Some(shown) = StepShown::of(step) else { return };
        let progress = self.progress.clone();
        progress.suspend(|| {
            if self.lists && self.ended.is_ok() {
                self.ended = self.out.show(&shown);
            }
            if let Some(reason) = shown.reason {
                let path = readable(shown.path);
                self.out.note(format_args!("cumulet: skipped {path}: {reason}"));
            }
        });
    }

    fn end(self) -> Result {
        self.progress.finish_and_clear();
        self.ended
    }
}

/// Mirrors in the direction that the arguments say.
pub(crate) async fn run(session: &mut Session, arguments: MirrorArguments) -> Result {
    let options = MirrorOptions {
        folder: arguments.folder.unwrap_or_else(|| "/".to_owned()),
        selection: Selection::new(&arguments.include, &arguments.exclude)
            .map_err(|error| Failure::usage(error.to_string()))?,
        prune: arguments.prune,
        dry_run: arguments.dry_run,
        compare: match arguments.compare {
            CompareBy::Content => Compare::Content,
            CompareBy::Size => Compare::Size,
        },
        links: match arguments.links {
            KeepLinks::Inside => Links::Inside,
            KeepLinks::Any => Links::Any,
            KeepLinks::Skip => Links::Skip,
        },
        ..MirrorOptions::default()
    };
    let lists = arguments.verbose || arguments.dry_run;
    match (Side::of(arguments.source)?, Side::of(arguments.target)?) {
        (Side::Folder(folder), Side::Drive(drive)) => {
            if arguments.version.is_some() {
                return Err(Failure::usage("a drive is written at its newest version")
                    .hint("leave --version out; it is for reading drives"));
            }
            import(session, &folder, &drive, &options, lists).await
        }
        (Side::Drive(drive), Side::Folder(folder)) => {
            export(session, &drive, arguments.version, &folder, options, lists).await
        }
        (Side::Folder(_), Side::Folder(_)) => {
            Err(Failure::usage("both sides are folders, none is a drive").hint(SIDES_HINT))
        }
        (Side::Drive(_), Side::Drive(_)) => {
            Err(Failure::usage("both sides are drives, none is a folder").hint(SIDES_HINT))
        }
    }
}

async fn import(
    session: &mut Session,
    folder: &Path,
    text: &str,
    options: &MirrorOptions,
    lists: bool,
) -> Result {
    // Before a name is taken for the drive.
    if !std::fs::metadata(folder)
        .map_err(|error| missing(folder, &error))?
        .is_dir()
    {
        return Err(Failure::usage(format!("{} is no folder", folder.display()))
            .hint("`cumulet drive put` writes a single file"));
    }
    // A dry run makes no drive.
    let (_, mut writer) = files::writer(session, text, !options.dry_run).await?;
    let mut telling = Telling::new(&session.out, None, lists);
    let done = mirror::import(folder, &mut writer, options, &mut |step| telling.step(step)).await;
    telling.end()?;
    let shown = Mirrored::new(done?, writer.version(), options.dry_run);
    session.out.show(&shown)
}

async fn export(
    session: &mut Session,
    text: &str,
    version: Option<u64>,
    folder: &Path,
    mut options: MirrorOptions,
    lists: bool,
) -> Result {
    if folder.exists() && !folder.is_dir() {
        return Err(Failure::usage(format!("{} is no folder", folder.display()))
            .hint("`cumulet drive get` writes a single file"));
    }
    let (target, drive) = files::open(session, text, version).await?;
    if options.folder == "/"
        && let Some(path) = target.path
    {
        options.folder = path;
    }
    let (wishes, total) = wish(session, &drive, &options).await?;
    let mut telling = Telling::new(&session.out, total, lists);
    let done = mirror::export(&drive, folder, &options, &mut |step| telling.step(step)).await;
    drop(wishes);
    telling.end()?;
    let shown = Mirrored::new(done?, drive.files.version(), options.dry_run);
    session.out.show(&shown)
}

/// Wishes for all blocks of a whole drive, so that peers send while files are written. Returns the bytes of its files too.
async fn wish(
    session: &Session,
    drive: &PlainDrive,
    options: &MirrorOptions,
) -> Result<(Vec<Download>, Option<u64>)> {
    if !session.is_online() {
        return Ok((Vec::new(), None));
    }
    let core = drive.blobs.core();
    session.know_blobs(core, u64::MAX).await?;
    // Of a folder each file's blocks are asked for when it is its turn.
    if options.folder != "/" || options.dry_run {
        return Ok((Vec::new(), None));
    }
    let mut plan = drive.plan(&options.selection).await?;
    plan.clamp(core.handle().state().length);
    let mut wishes = Vec::new();
    for blocks in plan.blocks {
        wishes.push(core.handle().download(blocks).await);
    }
    Ok((wishes, Some(plan.bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_a_folder_by_its_first_letters_and_a_drive_otherwise() {
        for folder in [".", "..", "./photos", "../photos", "/photos", "./pear:/x"] {
            assert_eq!(Side::of(folder.into()).unwrap(), Side::Folder(folder.into()));
        }
        for drive in ["photos", "a/photos", "pear://key/2024", ".photos"] {
            assert_eq!(Side::of(drive.into()).unwrap(), Side::Drive(drive.into()));
        }
        assert!(Side::of("".into()).is_err());
    }
}
