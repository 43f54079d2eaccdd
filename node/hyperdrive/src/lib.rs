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
//! ```
//! use cumulet_hyperbee::Bee;
//! use cumulet_hypercore::corestore::{Corestore, CorestoreConfig};
//! use cumulet_hypercore::crypto::KeyPair;
//! use cumulet_hypercore::driver::{Session, replicate};
//! use cumulet_hypercore::manifest::Manifest;
//! use cumulet_hyperdrive::{Drive, DriveWriter, FileOptions, content};
//! use cumulet_secret_stream::{Seeds, noise};
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Both cores of a drive; in a program the seed comes from a source of randomness.
//! let ours = Corestore::in_memory(CorestoreConfig::default());
//! let pair = || KeyPair::from_seed(&[7; 32]);
//! let manifest = Manifest::single(pair().public_key());
//! let key = manifest.key();
//! let blobs = content::content_manifest(&key, &manifest).ok_or("no manifest of blobs")?;
//! let (db, blobs) = (ours.create(manifest, Some(pair())).await?, ours.create(blobs, Some(pair())).await?);
//! let mut writer = DriveWriter::new(db, blobs);
//! writer.put("/notes/today.txt", b"hello", FileOptions::default()).await?;
//! writer.put("/old.txt", b"gone soon", FileOptions::default()).await?;
//! writer.del("/old.txt").await?;
//!
//! // Somebody else, who knows the key, at the other end of a pipe; a socket would do.
//! let theirs = Corestore::in_memory(CorestoreConfig::default());
//! let session = |is_initiator, seed| Session::Xx {
//!     is_initiator,
//!     key_pair: noise::KeyPair::from_seed([seed; 32]),
//!     seeds: Seeds { ephemeral: [seed + 1; 32], header: [seed + 2; 24] },
//! };
//! let (a, b) = tokio::io::duplex(1 << 16);
//! let stop = CancellationToken::new();
//! let us = tokio::spawn(replicate(ours.clone(), a, session(true, 10), stop.clone()));
//! let them = tokio::spawn(replicate(theirs.clone(), b, session(false, 20), stop.clone()));
//!
//! let db = theirs.get(key).await?;
//! db.update().await?;
//! let manifest = db.manifest().await.ok_or("no manifest")?;
//! let bee = Bee::new(db);
//! let content = content::content(&bee.header().await?, &key, &manifest)?;
//! let drive = Drive::new(&bee, theirs.get(content.key).await?);
//! assert_eq!(drive.get("/notes/today.txt", 1024).await?.as_deref(), Some(&b"hello"[..]));
//! assert!(drive.files.entry("/old.txt").await?.is_none());
//! assert!(drive.files.checkout(3).entry("/old.txt").await?.is_some());
//!
//! // The bytes here can be forgotten, and are fetched again when they are read.
//! assert!(drive.has("/notes/today.txt").await?);
//! drive.clear("/notes/today.txt").await?;
//! assert!(!drive.has("/notes/today.txt").await?);
//! assert!(drive.get("/notes/today.txt", 1024).await?.is_some());
//!
//! stop.cancel();
//! let _ = (us.await?, them.await?);
//! ours.close().await?;
//! theirs.close().await?;
//! # Ok(())
//! # }
//! ```
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
