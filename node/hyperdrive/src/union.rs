//! Many drives read as one: the union of their files.
//!
//! Names, rules, deletions and failures are those of [`cumulet_hyperbee::union`]; a file deleted from one drive shows that
//! of the next, unless an entry that the caller calls a tombstone hides it. The bytes of a file come from the drive
//! whose entry won.
//!
//! ```
//! # futures::executor::block_on(async {
//! use cumulet_hyperbee::MemoryBlocks;
//! use cumulet_hyperdrive::union::{UnionDrive, UnionOptions};
//! use cumulet_hyperdrive::{DriveWriter, FileOptions};
//!
//! let mut drives = Vec::new();
//! for (name, file) in [("desk", "/plan.txt"), ("phone", "/photo.jpg")] {
//!     let mut writer = DriveWriter::new(MemoryBlocks::default(), MemoryBlocks::default());
//!     writer.put(file, name.as_bytes(), FileOptions::default()).await?;
//!     drives.push((name.to_owned(), writer.drive()));
//! }
//! let union = UnionDrive::new(drives, UnionOptions::default());
//! let mut list = union.list("/")?;
//! assert_eq!(list.next().await?.unwrap().file.path, "/photo.jpg");
//! assert_eq!(union.get("/plan.txt", 100).await?.unwrap(), b"desk");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range as ByteRange;
use std::sync::Arc;

use cumulet_hyperbee::union::{Found, Merged, OnFailure, Rule, Source, Union, UnionCursor, UnionError};
use cumulet_hyperbee::{Blocks, Entry, ErrorKind, Range};

use crate::blobs::BlobReader;
use crate::drive::{Drive, DriveError, File, MAX_LINKS, below, file};
use crate::folder::is_plain;
use crate::path::{self, PathError};

/// Why a union of drives can't be read.
#[derive(Debug, thiserror::Error)]
pub enum UnionDriveError {
    /// The names of a drive.
    #[error(transparent)]
    Names(#[from] UnionError),
    /// An entry or the bytes of a drive.
    #[error("failed to read from the drive {name}")]
    Drive {
        /// Its name.
        name: String,
        /// What it said.
        #[source]
        source: DriveError,
    },
    /// Not a file's name.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Links lead around in a circle, or through too many others.
    #[error("failed to follow {path}: more than {MAX_LINKS} links")]
    TooManyLinks {
        /// The name begun with.
        path: String,
    },
}

impl UnionDriveError {
    /// What can be done about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Names(error) => error.kind(),
            Self::Drive { source, .. } => source.kind(),
            Self::Path(_) | Self::TooManyLinks { .. } => ErrorKind::Invalid,
        }
    }
}

type Tombstone = Arc<dyn Fn(&Entry) -> bool + Send + Sync>;

/// How drives are united.
#[derive(Clone)]
pub struct UnionOptions {
    /// What becomes of a name that several drives have. [`crate::FileEntry::decode`] reads the entries' values.
    pub rule: Rule,
    /// What becomes of the view when a drive's names can't be read.
    pub on_failure: OnFailure,
    /// Drives of which nothing has arrived are empty, not unavailable.
    pub may_be_empty: bool,
    /// Which entries mean "deleted".
    pub hiding: Option<Tombstone>,
}

impl Default for UnionOptions {
    /// The first drive that has a name wins, and every drive must be readable.
    fn default() -> Self {
        Self {
            rule: Rule::First,
            on_failure: OnFailure::Fail,
            may_be_empty: false,
            hiding: None,
        }
    }
}

impl fmt::Debug for UnionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnionOptions")
            .field("rule", &self.rule)
            .field("on_failure", &self.on_failure)
            .finish_non_exhaustive()
    }
}

/// A file of the view.
#[derive(Debug, Clone)]
pub struct UnionFile {
    /// Number of the drive it is from, in the order in which they were given.
    pub source: usize,
    /// The file.
    pub file: File,
    /// The same name in other drives, with [`Rule::All`].
    pub others: Vec<(usize, File)>,
}

/// The answer to a look-up.
#[derive(Debug, Default)]
pub struct UnionAnswer {
    /// The file, if the view has it.
    pub file: Option<UnionFile>,
    /// Drives that could not be asked, with [`OnFailure::Skip`].
    pub skipped: Vec<UnionError>,
}

/// The union of any number of drives. Cheap to clone.
#[derive(Debug)]
pub struct UnionDrive<D, B = D> {
    names: Union<D>,
    drives: Arc<[Drive<D, B>]>,
}

impl<D, B> Clone for UnionDrive<D, B> {
    fn clone(&self) -> Self {
        Self {
            names: self.names.clone(),
            drives: Arc::clone(&self.drives),
        }
    }
}

impl<D: Blocks, B: Blocks> UnionDrive<D, B> {
    /// A view of these drives, each under a name for errors.
    pub fn new(drives: impl IntoIterator<Item = (String, Drive<D, B>)>, options: UnionOptions) -> Self {
        let (mut sources, mut opened) = (Vec::new(), Vec::new());
        for (name, drive) in drives {
            let source = Source::new(name, drive.files.bee().clone());
            sources.push(if options.may_be_empty {
                source.may_be_empty()
            } else {
                source
            });
            opened.push(drive);
        }
        let mut names = Union::new(sources, options.rule).on_failure(options.on_failure);
        if let Some(hiding) = options.hiding {
            names = names.hiding(move |entry| hiding(entry));
        }
        Self {
            names,
            drives: opened.into(),
        }
    }

    /// The union of the names: keys are UTF-8 paths.
    pub fn names(&self) -> &Union<D> {
        &self.names
    }

    /// A drive.
    pub fn drive(&self, source: usize) -> Option<&Drive<D, B>> {
        self.drives.get(source)
    }

    /// What the view says about a name. Links are not followed.
    pub async fn entry(&self, name: &str) -> Result<UnionAnswer, UnionDriveError> {
        let path = path::normalize(name)?;
        let lookup = self.names.get(&path).await?;
        let file = lookup
            .merged
            .map(|merged| self.file(&path, &merged))
            .transpose()?;
        Ok(UnionAnswer {
            file,
            skipped: lookup.skipped,
        })
    }

    /// What a name leads to after all links, which are followed in the view: also from one drive into another.
    pub async fn follow(&self, name: &str) -> Result<UnionAnswer, UnionDriveError> {
        let (mut path, mut skipped) = (path::normalize(name)?, Vec::new());
        for _ in 0..=MAX_LINKS {
            let mut answer = self.entry(&path).await?;
            skipped.append(&mut answer.skipped);
            let target = answer
                .file
                .as_ref()
                .and_then(|found| found.file.entry.linkname.as_ref());
            let Some(target) = target else {
                return Ok(UnionAnswer { skipped, ..answer });
            };
            path = path::resolve(&path, target)?;
        }
        Err(UnionDriveError::TooManyLinks {
            path: name.to_owned(),
        })
    }

    /// All files below a folder, however deep, in order of their names.
    pub fn list(&self, folder: &str) -> Result<UnionList<D, B>, UnionDriveError> {
        let range = below(folder).map_err(|error| match error {
            DriveError::Path(error) => UnionDriveError::Path(error),
            source => UnionDriveError::Drive {
                name: String::new(),
                source,
            },
        })?;
        Ok(UnionList {
            cursor: self.names.range(range),
            union: self.clone(),
        })
    }

    /// The first `limit` names in a folder, with whether each is a folder itself. One look-up for each name and drive.
    pub async fn folder(&self, name: &str, limit: usize) -> Result<BTreeMap<String, bool>, UnionDriveError> {
        let folder = path::normalize_folder(name)?;
        let (prefix, view) = (format!("{folder}/"), self.names.snapshot());
        let end = Range::all().lt(format!("{folder}0"));
        let (mut range, mut names) = (end.clone().gt(&prefix), BTreeMap::new());
        // Skipped names count too, or a hostile drive could keep this going through its whole length.
        for _ in 0..limit {
            let Some(merged) = view.peek(range).await? else {
                break;
            };
            let rest = merged.key().get(prefix.len()..).unwrap_or_default();
            let slash = rest.iter().position(|&byte| byte == b'/');
            let part = rest.get(..slash.unwrap_or(rest.len())).unwrap_or_default();
            range = match slash {
                Some(_) => end.clone().gte([prefix.as_bytes(), part, b"0"].concat()),
                None => end.clone().gt(merged.key()),
            };
            if let Some(part) = std::str::from_utf8(part).ok().filter(|part| is_plain(part)) {
                *names.entry(part.to_owned()).or_default() |= slash.is_some();
            }
        }
        Ok(names)
    }

    /// A reader of a file's bytes, all of them or a part, from the drive it is from.
    pub async fn read(
        &self,
        found: &UnionFile,
        part: Option<ByteRange<u64>>,
    ) -> Result<BlobReader<B>, UnionDriveError> {
        let missing = || DriveError::NotAFile {
            path: found.file.path.clone(),
        };
        let reader = match self.drives.get(found.source) {
            Some(drive) => drive.read(&found.file, part).await,
            None => Err(missing()),
        };
        reader.map_err(|source| self.failed(found.source, source))
    }

    /// The bytes of a name after all links, if the view has it and they are at most `limit`.
    pub async fn get(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, UnionDriveError> {
        let Some(found) = self.follow(name).await?.file else {
            return Ok(None);
        };
        let data = self.read(&found, None).await?.to_vec(limit).await;
        data.map(Some)
            .map_err(|error| self.failed(found.source, error.into()))
    }

    fn failed(&self, source: usize, error: DriveError) -> UnionDriveError {
        UnionDriveError::Drive {
            name: self.names.name(source).to_owned(),
            source: error,
        }
    }

    fn file(&self, path: &str, merged: &Merged) -> Result<UnionFile, UnionDriveError> {
        let decode = |found: &Found| {
            file(path.to_owned(), &found.entry).map_err(|error| self.failed(found.source, error))
        };
        // Another drive's entry that can't be read is no reason to refuse the one that won.
        let others = merged.others().iter();
        let others = others.filter_map(|found| Some((found.source, decode(found).ok()?)));
        Ok(UnionFile {
            source: merged.winner().source,
            file: decode(merged.winner())?,
            others: others.collect(),
        })
    }
}

/// Reads the files of a union below a folder.
///
/// Keys that are not UTF-8 are left out. An entry that can't be read is an error *of that step*; the next step goes on behind
/// it. Errors of the names come again at the next step.
#[derive(Debug)]
pub struct UnionList<D, B> {
    cursor: UnionCursor<D>,
    union: UnionDrive<D, B>,
}

impl<D: Blocks, B: Blocks> UnionList<D, B> {
    /// The next file, none at the end.
    pub async fn next(&mut self) -> Result<Option<UnionFile>, UnionDriveError> {
        while let Some(merged) = self.cursor.next().await? {
            let key = merged.key().clone();
            if let Ok(path) = std::str::from_utf8(&key) {
                return self.union.file(path, &merged).map(Some);
            }
        }
        Ok(None)
    }

    /// The drives left out so far, with [`OnFailure::Skip`].
    pub fn skipped(&self) -> &[UnionError] {
        self.cursor.skipped()
    }
}
