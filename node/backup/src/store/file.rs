//! An object store in a directory: the backup of a node that runs without S3, by the same code.
//!
//! An object is written to a temporary file in `.tmp`, flushed, and then given its name by a hard link, which fails
//! when the name is taken: whole or not at all, and never overwritten, also between processes. File systems without
//! hard links get a rename behind a lock of this process, and say so in [`Capabilities`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind as IoErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::{
    Capabilities, MAX_OBJECT_BYTES, ObjectInfo, ObjectStore, PAGE_OBJECTS, Page, Put, StoreError,
    StoreFuture, check_name, check_size, too_large,
};
use crate::error::ErrorKind;

/// Directory of half-written files, below the root; no object name can start with a dot.
const TEMPORARY: &str = ".tmp";
/// Temporary files older than this belong to a process that died: no write of 64 MiB takes an hour.
const STALE: Duration = Duration::from_hours(1);
/// Most names tried for a temporary file; each loss means another process made one with the same number.
const TEMPORARY_TRIES: u32 = 1000;

/// Objects as files below a directory.
pub struct FileStore {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    hard_links: bool,
    counter: AtomicU64,
    rename: Mutex<()>,
}

impl FileStore {
    /// Opens the directory, making it when it is not there, and removes what a crashed process left half-written.
    /// Blocks for as long as the file system takes.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        let describe = root.display().to_string();
        let fail = |error| io_error("open", &describe, error);
        let temporary = root.join(TEMPORARY);
        fs::create_dir_all(&temporary).map_err(fail)?;
        let mut inner = Inner {
            root,
            hard_links: false,
            counter: AtomicU64::new(0),
            rename: Mutex::new(()),
        };
        inner.hard_links = inner.probe().map_err(fail)?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Opens the directory that a `file:` URL names: `file:/abs/path`, `file:///abs/path` or `file:rel/path`.
    pub fn from_url(url: &str) -> Result<Self, StoreError> {
        let path = url
            .strip_prefix("file:")
            .map(|rest| rest.strip_prefix("//").unwrap_or(rest));
        match path {
            Some(path) if !path.is_empty() => Self::open(path),
            _ => Err(
                StoreError::new("open", url, ErrorKind::Invalid, "not a file: URL").hint(
                    "write file: and then the path of a directory, for example file:/var/backups/cloud",
                ),
            ),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        verb: &'static str,
        name: &str,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(done) => done,
            Err(_) => Err(StoreError::new(
                verb,
                name,
                ErrorKind::Closed,
                "the program is shutting down",
            )),
        }
    }
}

impl ObjectStore for FileStore {
    fn location(&self) -> String {
        format!("file:{}", self.inner.root.display())
    }

    fn capabilities(&self) -> StoreFuture<'_, Capabilities> {
        Box::pin(async {
            Ok(Capabilities {
                conditional_writes: self.inner.hard_links,
            })
        })
    }

    fn put_if_absent<'a>(&'a self, name: &'a str, bytes: Bytes) -> StoreFuture<'a, Put> {
        Box::pin(async move {
            check_name("write", name)?;
            check_size(name, bytes.len())?;
            let object = name.to_owned();
            self.blocking("write", name, move |inner| {
                inner
                    .put(&object, &bytes)
                    .map_err(|error| io_error("write", &object, error))
            })
            .await
        })
    }

    fn get<'a>(&'a self, name: &'a str) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            check_name("read", name)?;
            let object = name.to_owned();
            self.blocking("read", name, move |inner| inner.read(&object, None))
                .await
        })
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            check_name("read", name)?;
            let object = name.to_owned();
            self.blocking("read", name, move |inner| inner.read(&object, Some(range)))
                .await
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: &'a str) -> StoreFuture<'a, Page> {
        Box::pin(async move {
            let (below, after) = (prefix.to_owned(), after.to_owned());
            self.blocking("list", prefix, move |inner| {
                inner
                    .list(&below, &after)
                    .map_err(|error| io_error("list", &below, error))
            })
            .await
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            check_name("delete", name)?;
            let object = name.to_owned();
            self.blocking("delete", name, move |inner| {
                match fs::remove_file(inner.root.join(&object)) {
                    Err(error) if !absent(&error) => Err(io_error("delete", &object, error)),
                    _ => Ok(()),
                }
            })
            .await
        })
    }
}

impl Inner {
    /// Finds out whether the file system has hard links, and removes stale temporary files. The age of a file is
    /// measured against one made just now, so the clock of the file system decides and not this machine's.
    fn probe(&self) -> io::Result<bool> {
        let (path, file) = self.temporary()?;
        let now = file.metadata()?.modified()?;
        let link = path.with_extension("link");
        let hard_links = fs::hard_link(&path, &link).is_ok();
        let _ = fs::remove_file(&link);
        fs::remove_file(&path)?;
        for entry in fs::read_dir(self.root.join(TEMPORARY))? {
            let entry = entry?;
            let age = now
                .duration_since(entry.metadata()?.modified()?)
                .unwrap_or_default();
            if age > STALE {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(hard_links)
    }

    fn temporary(&self) -> io::Result<(PathBuf, File)> {
        let mut last = io::Error::from(IoErrorKind::AlreadyExists);
        for _ in 0..TEMPORARY_TRIES {
            let number = self.counter.fetch_add(1, Ordering::Relaxed);
            let path = self
                .root
                .join(TEMPORARY)
                .join(format!("{}-{number}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == IoErrorKind::AlreadyExists => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<Put> {
        let target = self.root.join(name);
        if target.try_exists()? {
            return Ok(Put::AlreadyThere);
        }
        let (temporary, mut file) = self.temporary()?;
        let done = file
            .write_all(bytes)
            .and_then(|()| file.sync_all())
            .and_then(|()| self.make_parents(&target))
            .and_then(|()| self.publish(&temporary, &target));
        let _ = fs::remove_file(&temporary);
        let done = done?;
        if let Some(parent) = target.parent() {
            sync_directory(parent)?;
        }
        Ok(done)
    }

    fn publish(&self, temporary: &Path, target: &Path) -> io::Result<Put> {
        if self.hard_links {
            return match fs::hard_link(temporary, target) {
                Ok(()) => Ok(Put::Created),
                Err(error) if error.kind() == IoErrorKind::AlreadyExists => Ok(Put::AlreadyThere),
                Err(error) => Err(error),
            };
        }
        let _one_writer = self.rename.lock().unwrap_or_else(PoisonError::into_inner);
        if target.try_exists()? {
            return Ok(Put::AlreadyThere);
        }
        fs::rename(temporary, target)?;
        Ok(Put::Created)
    }

    /// Makes the missing directories above a file, each flushed into the one above it.
    fn make_parents(&self, target: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        let mut at = target.parent();
        while let Some(directory) = at {
            if directory == self.root || directory.try_exists()? {
                break;
            }
            missing.push(directory);
            at = directory.parent();
        }
        for directory in missing.into_iter().rev() {
            match fs::create_dir(directory) {
                Err(error) if error.kind() != IoErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            if let Some(parent) = directory.parent() {
                sync_directory(parent)?;
            }
        }
        Ok(())
    }

    fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<Option<Bytes>, StoreError> {
        let fail = |error| io_error("read", name, error);
        let mut file = match File::open(self.root.join(name)) {
            Ok(file) => file,
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        let metadata = file.metadata().map_err(fail)?;
        if metadata.is_dir() {
            return Ok(None);
        }
        let range = range.unwrap_or(0..metadata.len());
        let end = range.end.min(metadata.len());
        let start = range.start.min(end);
        if end - start > MAX_OBJECT_BYTES as u64 {
            return Err(too_large(name));
        }
        file.seek(SeekFrom::Start(start)).map_err(fail)?;
        let mut bytes = Vec::with_capacity((end - start) as usize);
        file.take(end - start).read_to_end(&mut bytes).map_err(fail)?;
        Ok(Some(bytes.into()))
    }

    fn list(&self, prefix: &str, after: &str) -> io::Result<Page> {
        let mut objects = Vec::new();
        let more = self.walk("", prefix, after, &mut objects)?;
        Ok(Page { objects, more })
    }

    /// Adds the objects below `directory` ("" or ending in `/`) in byte order of their whole names, until the page is full:
    /// true when there may be more. A directory sorts as its name with the slash, which is what puts `a-b` before `a/c`.
    fn walk(
        &self,
        directory: &str,
        prefix: &str,
        after: &str,
        page: &mut Vec<ObjectInfo>,
    ) -> io::Result<bool> {
        let entries = match fs::read_dir(self.root.join(directory)) {
            Ok(entries) => entries,
            Err(error) if absent(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
            names.push(format!("{directory}{name}{slash}"));
        }
        names.sort_unstable();
        for name in names {
            let wanted = name.starts_with(prefix) || (name.ends_with('/') && prefix.starts_with(&name));
            // Everything below a directory starts with its name, so one that sorts before `after` and does not lead to it is done.
            let done = name.as_str() <= after && !(name.ends_with('/') && after.starts_with(&name));
            if !wanted || done {
                continue;
            }
            if name.ends_with('/') {
                if self.walk(&name, prefix, after, page)? {
                    return Ok(true);
                }
                continue;
            }
            if page.len() == PAGE_OBJECTS {
                return Ok(true);
            }
            match fs::metadata(self.root.join(&name)) {
                Ok(metadata) => page.push(ObjectInfo {
                    name,
                    size: metadata.len(),
                }),
                Err(error) if absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

/// A file's parent may be a file too, when the name asked for is longer than one that is there.
fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), IoErrorKind::NotFound | IoErrorKind::NotADirectory)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn io_error(verb: &'static str, object: &str, error: io::Error) -> StoreError {
    let (kind, hint) = match error.kind() {
        IoErrorKind::PermissionDenied | IoErrorKind::ReadOnlyFilesystem => (
            ErrorKind::Invalid,
            Some("give the node's user the right to write in the backup directory"),
        ),
        IoErrorKind::StorageFull | IoErrorKind::QuotaExceeded | IoErrorKind::FileTooLarge => (
            ErrorKind::Retry,
            Some("free space on the backup's file system, or move the backup to a larger one"),
        ),
        _ => (ErrorKind::Retry, None),
    };
    StoreError {
        verb,
        object: object.to_owned(),
        reason: error.to_string(),
        kind,
        hint,
        source: Some(Box::new(error)),
    }
}
