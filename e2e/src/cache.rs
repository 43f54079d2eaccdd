//! Expensive results, kept outside the tree: `${XDG_CACHE_HOME:-~/.cache}/cumulet/<tool>-<key>/`.
//!
//! The key is a hash of everything the result depends on (lock files, flags), so a changed pin is a new folder and
//! an unchanged one is never built twice. A folder appears by one rename when it is complete: a build that was
//! stopped halfway leaves nothing that looks finished.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

/// Hex digits of the key in a folder's name: 64 bits, far more than the handful of pins a machine will see.
const KEY_DIGITS: usize = 16;

/// What a cached result depends on.
#[derive(Debug, Clone)]
pub struct Key {
    tool: String,
    hash: Sha256,
}

impl Key {
    /// A key for a tool of this name.
    pub fn new(tool: &str) -> Self {
        Self {
            tool: tool.into(),
            hash: Sha256::new(),
        }
    }

    /// Adds text, such as flags or versions.
    #[must_use]
    pub fn with(mut self, text: &str) -> Self {
        self.hash.update((text.len() as u64).to_le_bytes());
        self.hash.update(text);
        self
    }

    /// Adds a file's contents.
    pub fn with_file(self, file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
        Ok(self.with(&text))
    }

    /// The folder this key stands for, whether or not it exists.
    pub fn folder(&self) -> Result<PathBuf> {
        let digest = hex::encode(self.hash.clone().finalize());
        Ok(root()?.join(format!("{}-{}", self.tool, &digest[..KEY_DIGITS])))
    }

    /// The folder, made by `build` if it is not there yet. `build` gets an empty folder to fill.
    ///
    /// Two processes that want the same folder take turns, and the second finds it made.
    pub fn get_or_build(&self, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let folder = self.folder()?;
        if folder.is_dir() {
            return Ok(folder);
        }
        let _lock = lock(&folder)?;
        if folder.is_dir() {
            return Ok(folder);
        }
        let partial = folder.with_extension("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).with_context(|| format!("failed to clear {}", partial.display()))?;
        }
        fs::create_dir_all(&partial).with_context(|| format!("failed to create {}", partial.display()))?;
        build(&partial)?;
        fs::rename(&partial, &folder).with_context(|| format!("failed to finish {}", folder.display()))?;
        Ok(folder)
    }
}

/// Waits until nobody else uses a folder of the cache, and keeps others from it until the lock is dropped.
pub fn lock(folder: &Path) -> Result<Flock<File>> {
    lock_as(folder, FlockArg::LockExclusive)
}

fn lock_as(folder: &Path, how: FlockArg) -> Result<Flock<File>> {
    let path = folder.with_extension("lock");
    let file = File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
    Flock::lock(file, how)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("failed to lock {}", path.display()))
}

/// Removes the folders whose names begin with `prefix`, but for `kept` and those that are in use.
pub fn keep_only(root: &Path, prefix: &str, kept: &Path) -> Result<()> {
    let listed = fs::read_dir(root).with_context(|| format!("failed to list {}", root.display()))?;
    for entry in listed.filter_map(Result::ok) {
        let (name, path) = (entry.file_name(), entry.path());
        let is_other = name.to_string_lossy().starts_with(prefix) && path != kept && path.is_dir();
        if is_other && let Ok(_lock) = lock_as(&path, FlockArg::LockExclusiveNonblock) {
            fs::remove_dir_all(&path).with_context(|| format!("failed to remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// The cache's root, made if missing.
pub fn root() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set, so there is no place for built tools")?;
    let root = base.join("cumulet");
    fs::create_dir_all(&root).with_context(|| format!("failed to create {}", root.display()))?;
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_and_what_is_in_use_stays() {
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (kept, used, old, other) = (folder("a-1"), folder("a-2"), folder("a-3"), folder("b-1"));
        let lock = lock(&used).unwrap();
        keep_only(root.path(), "a-", &kept).unwrap();
        assert_eq!(
            [&kept, &used, &old, &other].map(|path| path.exists()),
            [true, true, false, true]
        );
        drop(lock);
        keep_only(root.path(), "a-", &kept).unwrap();
        assert!(!used.exists());
    }

    #[test]
    fn a_key_depends_on_every_part_and_on_where_the_parts_end() {
        let key = |parts: &[&str]| {
            parts
                .iter()
                .fold(Key::new("tool"), |key, part| key.with(part))
                .hash
                .finalize()
        };
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["ab"]), key(&["ab", ""]));
    }
}
