//! The local side: names, the walk over a folder, links, reading and writing files. All of it blocks.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::vec::IntoIter;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Links, MirrorError, SMALL_BYTES, Skipped, failed};
use crate::path;

/// How names of files begin that are still being written.
pub const PART_PREFIX: &str = ".cumulet-part-";

/// Longest part of a name on common file systems.
const MAX_NAME_BYTES: usize = 255;
/// Bytes read or written at once: the default block of a blob.
const CHUNK_BYTES: usize = crate::blobs::BLOCK_SIZE;
/// Chunks of a streamed file between the thread that reads and the one that writes: 1 MiB.
pub(super) const CHUNKS_AHEAD: usize = 16;
/// Names tried for a part before giving up.
const PART_TRIES: u32 = 64;

/// Whether a relative name of a drive can be a local one: every part an ordinary name.
pub(super) fn is_plain(relative: &str) -> bool {
    relative.split('/').all(|part| {
        !matches!(part, "" | "." | "..")
            && part.len() <= MAX_NAME_BYTES
            && !part.contains(['\\', '\0'])
            && !part.starts_with(PART_PREFIX)
    })
}

/// What lies under a local name.
#[derive(Debug)]
pub(super) enum Kind {
    File { size: u64, executable: bool },
    Link(String),
    Skip(Skipped),
}

/// One local name.
#[derive(Debug)]
pub(super) struct Local {
    /// Relative to the root, with `/` between parts.
    pub(super) relative: String,
    pub(super) kind: Kind,
    /// The bytes of a small file, if they were asked for.
    pub(super) data: Option<Bytes>,
}

struct Name {
    /// With a slash behind it if it is a folder: so folders sort as the files in them.
    key: String,
    is_folder: bool,
    skip: Option<Skipped>,
}

/// Walks a folder in the byte order of whole names, which is that of a drive. Holds the names of one path of folders.
pub(super) struct Walk {
    root: PathBuf,
    /// For each open folder its relative name with a slash, and the names left in it.
    stack: Vec<(String, IntoIter<Name>)>,
    /// Parts that a crash left behind.
    pub(super) parts: Vec<PathBuf>,
    read_small: bool,
}

impl Walk {
    /// A walk over everything below `root`; links are not followed.
    pub(super) fn new(root: PathBuf, read_small: bool) -> Result<Self, MirrorError> {
        let mut walk = Self {
            root,
            stack: Vec::new(),
            parts: Vec::new(),
            read_small,
        };
        walk.enter(String::new())?;
        Ok(walk)
    }

    fn enter(&mut self, relative: String) -> Result<(), MirrorError> {
        let folder = self.root.join(&relative);
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed("list", &folder))? {
            let entry = entry.map_err(failed("list", &folder))?;
            let is_folder = entry
                .file_type()
                .map_err(failed("look at", &entry.path()))?
                .is_dir();
            let (mut key, skip) = match entry.file_name().to_str() {
                Some(name) if name.starts_with(PART_PREFIX) && !is_folder => {
                    self.parts.push(entry.path());
                    continue;
                }
                Some(name) if is_plain(name) => (name.to_owned(), None),
                _ => {
                    let shown = entry.file_name().to_string_lossy().into_owned();
                    (shown, Some(Skipped::Name))
                }
            };
            if is_folder {
                key.push('/');
            }
            names.push(Name { key, is_folder, skip });
        }
        names.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        self.stack.push((relative, names.into_iter()));
        Ok(())
    }

    /// The next name, none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Local>, MirrorError> {
        while let Some((folder, names)) = self.stack.last_mut() {
            let Some(name) = names.next() else {
                self.stack.pop();
                continue;
            };
            let relative = format!("{folder}{}", name.key);
            if let Some(skip) = name.skip {
                return Ok(Some(Local {
                    relative,
                    kind: Kind::Skip(skip),
                    data: None,
                }));
            }
            if name.is_folder {
                self.enter(relative)?;
                continue;
            }
            let path = self.root.join(&relative);
            match look(&path)? {
                // Gone since its folder was listed.
                None => {}
                Some(kind) => {
                    let small = match kind {
                        Kind::File { size, .. } => self.read_small && size <= SMALL_BYTES,
                        _ => false,
                    };
                    let data = if small { read_small(&path)? } else { None };
                    return Ok(Some(Local { relative, kind, data }));
                }
            }
        }
        Ok(None)
    }
}

/// What lies under a path, none if nothing does. A folder is a [`Skipped::Conflict`].
pub(super) fn look(path: &Path) -> Result<Option<Kind>, MirrorError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(failed("look at", path)(error)),
    };
    let kind = metadata.file_type();
    Ok(Some(if kind.is_file() {
        Kind::File {
            size: metadata.len(),
            executable: metadata.permissions().mode() & 0o100 != 0,
        }
    } else if kind.is_symlink() {
        let target = fs::read_link(path).map_err(failed("read the link", path))?;
        match target.to_str() {
            Some(target) => Kind::Link(target.to_owned()),
            None => Kind::Skip(Skipped::Name),
        }
    } else if kind.is_dir() {
        Kind::Skip(Skipped::Conflict)
    } else {
        Kind::Skip(Skipped::Kind)
    }))
}

/// Not there, or a file stands where a folder would be.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// All bytes of a file, none if it has grown beyond a small one.
pub(super) fn read_small(path: &Path) -> Result<Option<Bytes>, MirrorError> {
    let file = fs::File::open(path).map_err(failed("open", path))?;
    let mut data = Vec::new();
    let read = file.take(SMALL_BYTES + 1).read_to_end(&mut data);
    read.map_err(failed("read", path))?;
    Ok((data.len() as u64 <= SMALL_BYTES).then(|| data.into()))
}

/// The bytes of a file, chunk by chunk, from a blocking task that ends with them or when nobody listens.
pub(super) fn stream(path: PathBuf) -> mpsc::Receiver<Result<Bytes, MirrorError>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    // It ends with the file or when the receiver is dropped, which every caller does: nobody else has to wait for it.
    drop(tokio::task::spawn_blocking(move || {
        let read = || -> Result<(), MirrorError> {
            let file = fs::File::open(&path).map_err(failed("open", &path))?;
            loop {
                let mut chunk = Vec::with_capacity(CHUNK_BYTES);
                let read = (&file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
                read.map_err(failed("read", &path))?;
                if chunk.is_empty() || sender.blocking_send(Ok(chunk.into())).is_err() {
                    return Ok(());
                }
            }
        };
        if let Err(error) = read() {
            let _ = sender.blocking_send(Err(error));
        }
    }));
    receiver
}

/// A file being written: gets its name by [`Part::name`], or is removed.
pub(super) struct Part {
    path: PathBuf,
    file: fs::File,
    named: bool,
}

impl Part {
    /// A new part in a folder that was made by [`make_folders`].
    pub(super) fn create(folder: &Path, executable: bool) -> Result<Self, MirrorError> {
        let mode = if executable { 0o777 } else { 0o666 };
        let mut number = 0;
        loop {
            let path = folder.join(format!("{PART_PREFIX}{}-{number}", std::process::id()));
            // `create_new` follows no link and takes over no file.
            let opened = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&path);
            match opened {
                Ok(file) => {
                    return Ok(Self {
                        path,
                        file,
                        named: false,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < PART_TRIES => {
                    number += 1;
                }
                Err(error) => return Err(failed("create", &path)(error)),
            }
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), MirrorError> {
        self.file.write_all(bytes).map_err(failed("write", &self.path))
    }

    /// Puts the whole file under its name, in place of a file or link that has it.
    pub(super) fn name(mut self, target: &Path, sync: bool) -> Result<(), MirrorError> {
        if sync {
            self.file.sync_all().map_err(failed("sync", &self.path))?;
        }
        fs::rename(&self.path, target).map_err(failed("name", target))?;
        self.named = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.named {
            // If even this fails, the next export that prunes removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the folders above a plain relative name. False if something else is in the way, a link too: through it bytes could
/// get anywhere.
pub(super) fn make_folders(root: &Path, relative: &str) -> Result<bool, MirrorError> {
    let mut folder = root.to_owned();
    let Some((above, _)) = relative.rsplit_once('/') else {
        return Ok(true);
    };
    for part in above.split('/') {
        folder.push(part);
        match fs::create_dir(&folder) {
            Ok(()) => continue,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("create the folder", &folder)(error)),
        }
        let metadata = fs::symlink_metadata(&folder).map_err(failed("look at", &folder))?;
        if !metadata.is_dir() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether all folders above a plain relative name that exist are folders, and no links.
pub(super) fn is_below_folders(root: &Path, relative: &str) -> Result<bool, MirrorError> {
    let mut folder = root.to_owned();
    let Some((above, _)) = relative.rsplit_once('/') else {
        return Ok(true);
    };
    for part in above.split('/') {
        folder.push(part);
        match fs::symlink_metadata(&folder) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Ok(false),
            Err(error) if is_absent(&error) => return Ok(true),
            Err(error) => return Err(failed("look at", &folder)(error)),
        }
    }
    Ok(true)
}

/// Gives a file the executable flag, or takes it, for those who may read it.
pub(super) fn set_executable(path: &Path, executable: bool) -> Result<(), MirrorError> {
    let mut permissions = fs::symlink_metadata(path)
        .map_err(failed("look at", path))?
        .permissions();
    let mode = permissions.mode();
    permissions.set_mode(if executable {
        mode | (mode & 0o444) >> 2
    } else {
        mode & !0o111
    });
    fs::set_permissions(path, permissions).map_err(failed("change the mode of", path))
}

/// Makes a link under a name, in place of a file or link that has it.
pub(super) fn make_link(folder: &Path, target: &str, path: &Path) -> Result<(), MirrorError> {
    for number in 0..PART_TRIES {
        let part = folder.join(format!("{PART_PREFIX}{}-l{number}", std::process::id()));
        match std::os::unix::fs::symlink(target, &part) {
            Ok(()) => return fs::rename(&part, path).map_err(failed("name", path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("create the link", path)(error)),
        }
    }
    Err(failed("create the link", path)(
        io::ErrorKind::AlreadyExists.into(),
    ))
}

/// Removes files and the folders that this leaves empty.
pub(super) fn remove(root: &Path, relatives: &[String]) -> Result<(), MirrorError> {
    for relative in relatives {
        let path = root.join(relative);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(failed("remove", &path)(error)),
        }
        let mut folder = path.parent();
        while let Some(empty) = folder.filter(|folder| *folder != root && folder.starts_with(root)) {
            // Not empty, or not ours to remove: it stays.
            if fs::remove_dir(empty).is_err() {
                break;
            }
            folder = empty.parent();
        }
    }
    Ok(())
}

/// What a drive's link at `relative` points to in the local folder; none if it is not to be made.
///
/// Relative targets are kept as they are, as the JS package does. Absolute ones mean the drive's root: they become relative
/// ones. `folder` is the drive's folder that is mirrored, without a slash at its end.
pub(super) fn local_target(relative: &str, target: &str, folder: &str, links: Links) -> Option<String> {
    match links {
        Links::Skip => return None,
        Links::Any => return Some(target.to_owned()),
        Links::Inside => {}
    }
    if target.is_empty() || target.contains(['\0', '\\']) {
        return None;
    }
    let depth = relative.matches('/').count();
    if target.starts_with('/') {
        let target = path::normalize(target).ok()?;
        let inside = target.strip_prefix(folder)?.strip_prefix('/')?;
        return Some(format!("{}{inside}", "../".repeat(depth)));
    }
    is_inside(depth, target).then(|| target.to_owned())
}

/// What a local link is called in the drive; none if it leads out of the folder.
pub(super) fn drive_target(
    root: &Path,
    relative: &str,
    target: &str,
    folder: &str,
    links: Links,
) -> Option<String> {
    match links {
        Links::Skip => return None,
        Links::Any => return Some(target.to_owned()),
        Links::Inside => {}
    }
    if Path::new(target).is_absolute() {
        let inside = Path::new(target).strip_prefix(root).ok()?;
        let plain = inside
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let inside = inside.to_str().filter(|inside| plain && is_plain(inside))?;
        return Some(format!("{folder}/{inside}"));
    }
    is_inside(relative.matches('/').count(), target).then(|| target.to_owned())
}

/// Whether a relative target of a link that lies `depth` folders deep stays inside. A `..` behind a name is refused: the name
/// may be a link, and `..` then leads from where that points.
fn is_inside(depth: usize, target: &str) -> bool {
    let (mut up, mut named) = (0, false);
    for part in Path::new(OsStr::new(target)).components() {
        match part {
            Component::ParentDir if named => return false,
            Component::ParentDir => up += 1,
            Component::Normal(_) => named = true,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    up <= depth && !target.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_plain_paths_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "a//b",
            "a/../b",
            "/a",
            "a/",
            "a\\b",
            "a\0",
            ".cumulet-part-1",
        ] {
            assert!(!is_plain(name), "{name:?}");
        }
        assert!(!is_plain(&"x".repeat(256)));
        for name in ["a", "a/b", "...", "..a", "ü n/…", "-", "~"] {
            assert!(is_plain(name), "{name:?}");
        }
    }

    #[test]
    fn links_that_lead_out_are_refused() {
        let local = |relative, target| local_target(relative, target, "", Links::Inside);
        for (relative, target) in [
            ("l", ".."),
            ("l", "../x"),
            ("a/l", "../../x"),
            ("a/l", "b/../../../x"),
            // `b` may be a link to the root.
            ("l", "b/.."),
            ("l", ""),
            ("l", "a\0b"),
            ("l", "/"),
            ("l", "/../x"),
        ] {
            assert_eq!(local(relative, target), None, "{relative} -> {target}");
        }
        assert_eq!(local("a/b/l", "../../x").as_deref(), Some("../../x"));
        assert_eq!(local("a/b/l", "/x/y").as_deref(), Some("../../x/y"));
        assert_eq!(local("l", "/etc/passwd").as_deref(), Some("etc/passwd"));
        assert_eq!(
            local_target("l", "/in/x", "/in", Links::Inside).as_deref(),
            Some("x")
        );
        assert_eq!(local_target("l", "/inner/x", "/in", Links::Inside), None);
        let drive =
            |relative, target| drive_target(Path::new("/home/me"), relative, target, "/in", Links::Inside);
        assert_eq!(drive("l", "/home/me/x").as_deref(), Some("/in/x"));
        assert_eq!(drive("l", "/home/mean"), None);
        assert_eq!(drive("l", "/home/me/../x"), None);
        assert_eq!(drive("l", "/etc/passwd"), None);
        assert_eq!(drive("a/l", "../x").as_deref(), Some("../x"));
        assert_eq!(drive("l", "../x"), None);
    }
}
