//! `cumulet drive`: files and folders.

use std::path::PathBuf;

use clap::{Subcommand, ValueHint};

use crate::failure::Result;
use crate::files::{self, PutOptions};
use crate::folders;
use crate::mirror::{self, MirrorArguments};
use crate::ranges::Span;
use crate::serve::{self, ServeOptions};
use crate::session::Session;

/// What can be done with drives.
#[derive(Debug, Subcommand)]
pub(crate) enum DriveCommand {
    /// Writes a file into a drive; makes the drive if the name is new.
    #[command(
        after_help = "Examples:\n  cumulet drive put photos /2024/cat.jpg cat.jpg\n  date | cumulet drive put photos /now.txt"
    )]
    Put {
        /// The drive: a name.
        drive: String,
        /// The file's path in the drive.
        path: String,
        /// The file to read; - or none: stdin.
        #[arg(value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
        #[command(flatten)]
        options: PutOptions,
    },
    /// Writes a file of a drive to a file here, whole or not at all.
    #[command(
        after_help = "Examples:\n  cumulet drive get photos /2024/cat.jpg\n  cumulet drive get pear://<key>/2024/cat.jpg --output cat.jpg"
    )]
    Get {
        /// The drive: a name, key or link; a link may have the path in it.
        drive: String,
        /// The file's path in the drive.
        path: Option<String>,
        /// The file to write; none: the path's last part, here.
        #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
        output: Option<PathBuf>,
        /// The drive as it was at this version.
        #[arg(long, value_name = "VERSION")]
        version: Option<u64>,
    },
    /// Removes a file from a drive. Older versions keep it.
    #[command(after_help = "Example:\n  cumulet drive del photos /2024/cat.jpg")]
    Del {
        /// The drive: a name.
        drive: String,
        /// The file's path in the drive.
        path: String,
    },
    /// Makes a symbolic link in a drive.
    #[command(after_help = "Example:\n  cumulet drive symlink photos /newest.jpg /2024/cat.jpg")]
    Symlink {
        /// The drive: a name.
        drive: String,
        /// The link's path in the drive.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// Lists a folder.
    #[command(
        after_help = "Examples:\n  cumulet drive ls photos\n  cumulet drive ls pear://<key>/2024 --recursive --json"
    )]
    Ls {
        /// The drive: a name, key or link; a link may have the folder in it.
        drive: String,
        /// The folder.
        folder: Option<String>,
        /// Lists all files below the folder with their sizes.
        #[arg(long, short)]
        recursive: bool,
        /// The drive as it was at this version.
        #[arg(long, value_name = "VERSION")]
        version: Option<u64>,
    },
    /// Writes a file, or a part of it, to stdout.
    #[command(after_help = "Example:\n  cumulet drive cat photos /2024/film.mp4 --range 1000..2000")]
    Cat {
        /// The drive: a name, key or link; a link may have the path in it.
        drive: String,
        /// The file's path in the drive.
        path: Option<String>,
        /// Bytes to write: START..END, START.., ..END or one number.
        #[arg(long, value_name = "BYTES")]
        range: Option<Span>,
        /// The drive as it was at this version.
        #[arg(long, value_name = "VERSION")]
        version: Option<u64>,
    },
    /// Makes a drive equal to a folder, or a folder equal to a drive.
    #[command(after_help = mirror::EXAMPLES)]
    Mirror(MirrorArguments),
    /// Lists the files that changed between two versions.
    #[command(after_help = "Example:\n  cumulet drive diff photos 10 20 --folder /2024")]
    Diff {
        /// The drive: a name, key or link.
        drive: String,
        /// The older version.
        older: u64,
        /// The newer version; none: the newest.
        newer: Option<u64>,
        /// Only below this folder.
        #[arg(long, default_value = "/")]
        folder: String,
    },
    /// Says what is known of a drive.
    #[command(after_help = "Example:\n  cumulet drive info photos --json")]
    Info {
        /// The drive: a name, key or link.
        drive: String,
    },
    /// Hashes what is stored of a drive, and names the files that are damaged.
    #[command(after_help = "Example:\n  cumulet drive verify photos\nEnds with 4 when something is damaged.")]
    Verify {
        /// The drive: a name, key or link.
        drive: String,
    },
    /// Lets peers have what the store holds, until Ctrl-C.
    #[command(visible_alias = "share", after_help = serve::EXAMPLES)]
    Serve(ServeOptions),
}

/// Runs one of them.
pub(crate) async fn run(session: &mut Session, command: DriveCommand) -> Result {
    match command {
        DriveCommand::Put {
            drive,
            path,
            file,
            options,
        } => files::put(session, &drive, &path, file.as_deref(), options).await,
        DriveCommand::Get {
            drive,
            path,
            output,
            version,
        } => files::get(session, &drive, path, output, version).await,
        DriveCommand::Del { drive, path } => files::del(session, &drive, &path).await,
        DriveCommand::Symlink { drive, path, target } => {
            files::symlink(session, &drive, &path, &target).await
        }
        DriveCommand::Ls {
            drive,
            folder,
            recursive,
            version,
        } => folders::list(session, &drive, folder, recursive, version).await,
        DriveCommand::Cat {
            drive,
            path,
            range,
            version,
        } => files::cat(session, &drive, path, range.unwrap_or(Span::ALL), version).await,
        DriveCommand::Diff {
            drive,
            older,
            newer,
            folder,
        } => folders::diff(session, &drive, older, newer, &folder).await,
        DriveCommand::Mirror(arguments) => mirror::run(session, arguments).await,
        DriveCommand::Info { drive } => folders::info(session, &drive).await,
        DriveCommand::Verify { drive } => folders::verify(session, &drive).await,
        DriveCommand::Serve(options) => serve::run(session, options).await,
    }
}
