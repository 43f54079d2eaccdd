//! The read side: entries, links, lists, differences, and the bytes of files.

use std::ops::Range as ByteRange;

use cumulet_hyperbee::{Bee, BeeError, Blocks, Cursor, Diff, Entry, ErrorKind, Range};

use crate::blobs::{BlobError, BlobReader, Blobs};
use crate::entry::{EntryError, FileEntry};
use crate::path::{self, PathError};
use crate::plan::Selection;

/// Most links followed from one name, as in JS.
pub const MAX_LINKS: usize = 16;

/// Why a drive can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The bee.
    #[error(transparent)]
    Bee(#[from] BeeError),
    /// The blob core.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Not a file's name.
    #[error(transparent)]
    Path(#[from] PathError),
    /// An entry that can't be read, or not be written.
    #[error("failed to read the entry of {path}")]
    Entry {
        /// Name of the file.
        path: String,
        /// What is wrong.
        #[source]
        source: EntryError,
    },
    /// Links lead around in a circle, or through too many others.
    #[error("failed to follow {path}: more than {MAX_LINKS} links")]
    TooManyLinks {
        /// The name begun with.
        path: String,
    },
    /// The name is a link or holds no bytes.
    #[error("{path} is not a file with bytes")]
    NotAFile {
        /// The name.
        path: String,
    },
}

impl DriveError {
    /// What can be done about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Bee(error) => error.kind(),
            Self::Blob(error) => error.kind(),
            Self::Path(_) | Self::TooManyLinks { .. } | Self::NotAFile { .. } => ErrorKind::Invalid,
            Self::Entry { .. } => ErrorKind::Damaged,
        }
    }
}

/// A name with what the drive says about it.
#[derive(Debug, Clone)]
pub struct File {
    /// The name, normalised.
    pub path: String,
    /// Block of the bee that holds the entry: changes whenever the file does, and not otherwise.
    pub seq: u64,
    /// The entry.
    pub entry: FileEntry,
}

/// The names of a drive: its bee without its blobs.
#[derive(Debug)]
pub struct Files<D> {
    /// The sub-bee `files`: keys are UTF-8 paths.
    bee: Bee<D>,
}

impl<D> Clone for Files<D> {
    fn clone(&self) -> Self {
        Self {
            bee: self.bee.clone(),
        }
    }
}

impl<D: Blocks> Files<D> {
    /// The files named in a drive's bee.
    pub fn new(bee: &Bee<D>) -> Self {
        Self {
            bee: bee.sub("files"),
        }
    }

    pub(crate) fn of_sub(bee: Bee<D>) -> Self {
        Self { bee }
    }

    /// The sub-bee of the names.
    pub fn bee(&self) -> &Bee<D> {
        &self.bee
    }

    /// The version read: the length of the bee's core.
    pub fn version(&self) -> u64 {
        self.bee.version()
    }

    /// The names at an earlier version.
    #[must_use]
    pub fn checkout(&self, version: u64) -> Self {
        Self {
            bee: self.bee.checkout(version),
        }
    }

    /// What the drive says about a name, or none. Links are not followed.
    pub async fn entry(&self, name: &str) -> Result<Option<File>, DriveError> {
        let path = path::normalize(name)?;
        let Some(entry) = self.bee.get(&path).await? else {
            return Ok(None);
        };
        file(path, &entry).map(Some)
    }

    /// What a name leads to after all links, or none if it, or where it leads, is not there.
    pub async fn follow(&self, name: &str) -> Result<Option<File>, DriveError> {
        Ok(self.resolve(name).await?.1)
    }

    /// The name that a name leads to after all links, and the file there, if there is one. Without it the last name may
    /// still be a folder.
    pub async fn resolve(&self, name: &str) -> Result<(String, Option<File>), DriveError> {
        let mut path = path::normalize(name)?;
        for _ in 0..=MAX_LINKS {
            let Some(file) = self.entry(&path).await? else {
                return Ok((path, None));
            };
            let Some(target) = &file.entry.linkname else {
                return Ok((path, Some(file)));
            };
            path = path::resolve(&path, target)?;
        }
        Err(DriveError::TooManyLinks {
            path: name.to_owned(),
        })
    }

    /// All files below a folder, however deep, in order of their names.
    pub fn list(&self, folder: &str) -> Result<List<D>, DriveError> {
        Ok(List {
            cursor: self.bee.range(below(folder)?),
            selection: Selection::default(),
        })
    }

    /// What changed below a folder since an older version, in order of the names.
    pub fn diff(&self, older: u64, folder: &str) -> Result<DriveDiff<D>, DriveError> {
        Ok(DriveDiff {
            diff: self.bee.diff(older, below(folder)?),
        })
    }
}

pub(crate) fn file(path: String, entry: &Entry) -> Result<File, DriveError> {
    match FileEntry::decode(entry.value.as_deref()) {
        Ok(decoded) => Ok(File {
            path,
            seq: entry.seq,
            entry: decoded,
        }),
        Err(source) => Err(DriveError::Entry { path, source }),
    }
}

/// The keys below a folder: `0` is the character after `/`.
pub(crate) fn below(folder: &str) -> Result<Range, DriveError> {
    let folder = path::normalize_folder(folder)?;
    Ok(Range::all().gt(format!("{folder}/")).lt(format!("{folder}0")))
}

/// Reads the files below a folder.
///
/// Keys that are not UTF-8 can't be named and are left out. An entry that can't be read is an error *of that step*; the
/// next step goes on behind it. Errors of the bee come again at the next step.
#[derive(Debug)]
pub struct List<D> {
    cursor: Cursor<D>,
    selection: Selection,
}

impl<D: Blocks> List<D> {
    /// Only the selected files; of others not even the entry is looked at.
    #[must_use]
    pub fn select(self, selection: Selection) -> Self {
        Self { selection, ..self }
    }

    /// The next file, none at the end.
    pub async fn next(&mut self) -> Result<Option<File>, DriveError> {
        while let Some(entry) = self.cursor.next().await? {
            if let Ok(path) = std::str::from_utf8(&entry.key)
                && (self.selection.is_everything() || self.selection.contains(path))
            {
                return file(path.to_owned(), &entry).map(Some);
            }
        }
        Ok(None)
    }
}

/// One name whose entry differs. At least one side is there; a side whose JSON can't be read keeps its place only.
#[derive(Debug, Clone)]
pub struct FileChange {
    /// The name.
    pub path: String,
    /// Block and entry in the newer version; none: deleted.
    pub left: Option<(u64, Option<FileEntry>)>,
    /// Block and entry in the older version; none: added.
    pub right: Option<(u64, Option<FileEntry>)>,
}

/// Reads the differences between two versions.
#[derive(Debug)]
pub struct DriveDiff<D> {
    diff: Diff<D>,
}

impl<D: Blocks> DriveDiff<D> {
    /// The next change, none at the end.
    pub async fn next(&mut self) -> Result<Option<FileChange>, DriveError> {
        while let Some(change) = self.diff.next().await? {
            let Some(key) = change
                .left
                .as_ref()
                .or(change.right.as_ref())
                .map(|entry| entry.key.clone())
            else {
                break;
            };
            let Ok(path) = std::str::from_utf8(&key) else {
                continue;
            };
            let side = |entry: Option<Entry>| {
                entry.map(|entry| (entry.seq, FileEntry::decode(entry.value.as_deref()).ok()))
            };
            return Ok(Some(FileChange {
                path: path.to_owned(),
                left: side(change.left),
                right: side(change.right),
            }));
        }
        Ok(None)
    }
}

/// A drive: its names and its blobs.
#[derive(Debug)]
pub struct Drive<D, B = D> {
    /// The names.
    pub files: Files<D>,
    /// The bytes.
    pub blobs: Blobs<B>,
}

impl<D, B> Clone for Drive<D, B> {
    fn clone(&self) -> Self {
        Self {
            files: self.files.clone(),
            blobs: self.blobs.clone(),
        }
    }
}

impl<D: Blocks, B: Blocks> Drive<D, B> {
    /// The drive of a bee and the blob core that [`crate::content`] names for it.
    pub fn new(bee: &Bee<D>, blobs: B) -> Self {
        Self {
            files: Files::new(bee),
            blobs: Blobs::new(blobs),
        }
    }

    /// The drive at an earlier version. Blobs are only ever appended, so theirs is the same core.
    #[must_use]
    pub fn checkout(&self, version: u64) -> Self {
        Self {
            files: self.files.checkout(version),
            blobs: self.blobs.clone(),
        }
    }

    /// Bytes of a file; 0 for an entry without a blob.
    pub async fn byte_length(&self, file: &File) -> Result<u64, DriveError> {
        match &file.entry.blob {
            Some(blob) => Ok(self.blobs.byte_length(blob).await?),
            None => Ok(0),
        }
    }

    /// A reader of a file's bytes, all of them or a part.
    pub async fn read(&self, file: &File, part: Option<ByteRange<u64>>) -> Result<BlobReader<B>, DriveError> {
        let Some(blob) = &file.entry.blob else {
            return Err(DriveError::NotAFile {
                path: file.path.clone(),
            });
        };
        Ok(match part {
            Some(part) => self.blobs.read_part(blob, part).await?,
            None => self.blobs.read(blob).await?,
        })
    }

    /// The bytes of a name after all links, if it is there and they are at most `limit`.
    pub async fn get(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, DriveError> {
        let Some(file) = self.files.follow(name).await? else {
            return Ok(None);
        };
        Ok(Some(self.read(&file, None).await?.to_vec(limit).await?))
    }
}
