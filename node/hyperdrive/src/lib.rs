//! Hyperdrive and Hyperblobs: files on a Hyperbee and a blob core, compatible with the JS packages `hyperdrive` 13 and
//! `hyperblobs` 2.
//!
//! A drive is two cores: a bee whose entries name files, and a core that holds their bytes. The key of the second follows
//! from the manifest of the first ([`content`]).
//!
//! - [`link`] reads the addresses people pass around, [`path`] the names of files.
//! - [`Drive`] reads: entries, folders, links, differences, and file bytes, whole or in part.
//! - [`DriveWriter`] writes the same bytes as the JS packages.
//! - [`plan`] says which blocks a selection of files needs.
//! - [`mirror`] makes a folder and a drive equal, [`union`] reads many drives as one.
//!
//! Invariants: nothing that an entry says is trusted; sizes, counts and references are bounded where they are used, and
//! reading a part of a file touches only the blocks of that part. A folder exists if a file lies below it.
//!
//! Not here: replication, and waiting for blocks.

mod blob_writer;
pub mod blobs;
pub mod content;
mod drive;
pub mod entry;
mod folder;
pub mod link;
#[cfg(all(feature = "mirror", unix))]
pub mod mirror;
pub mod path;
pub mod plan;
mod stored;
pub mod union;
mod write;

pub use blob_writer::BlobWriter;
pub use blobs::{BlobError, BlobPointer, BlobReader, Blobs};
pub use drive::{Drive, DriveDiff, DriveError, File, FileChange, Files, List, MAX_LINKS};
pub use entry::FileEntry;
pub use folder::{Folder, FolderItem};
pub use stored::DriveWatcher;
pub use write::{DriveBatch, DriveWriter, FileOptions};
