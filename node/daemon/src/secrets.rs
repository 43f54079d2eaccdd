//! Secrets on disk: the device seed, the content key, the API's bearer token.
//!
//! A secret is either given (a file that must exist, e.g. from a Kubernetes Secret) or made once in the
//! data folder, readable by the owner only. A file that exists is never overwritten: losing the content key
//! means losing the backup.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why a secret can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read or written.
    #[error("failed to read or make the secret {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("the secret {path} must hold 32 bytes, raw or as 64 hex digits; it holds {len} bytes")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// The operating system gave no random bytes.
    #[error("failed to get random bytes from the operating system: {0}")]
    Random(getrandom::Error),
}

/// Reads 32 bytes from `path`, raw or as hex digits with surrounding white space.
pub fn read_key(path: &Path) -> Result<[u8; 32], SecretError> {
    let bytes = fs::read(path).map_err(|source| SecretError::Io {
        path: path.to_owned(),
        source,
    })?;
    if let Ok(raw) = <[u8; 32]>::try_from(bytes.as_slice()) {
        return Ok(raw);
    }
    let mut key = [0; 32];
    match hex::decode_to_slice(bytes.trim_ascii(), &mut key) {
        Ok(()) => Ok(key),
        Err(_) => Err(SecretError::Malformed {
            path: path.to_owned(),
            len: bytes.len(),
        }),
    }
}

/// Reads 32 bytes from `path`, or makes them when there is no such file. Says whether they are new.
pub fn read_or_make_key(path: &Path) -> Result<([u8; 32], bool), SecretError> {
    match read_key(path) {
        Err(SecretError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; 32];
            getrandom::fill(&mut key).map_err(SecretError::Random)?;
            let made = write_new(path, hex::encode(key).as_bytes()).map_err(|source| SecretError::Io {
                path: path.to_owned(),
                source,
            })?;
            // Another process may have been first: then its key is the one that counts.
            if made {
                Ok((key, true))
            } else {
                read_key(path).map(|key| (key, false))
            }
        }
        other => other.map(|key| (key, false)),
    }
}

/// Reads the bearer token from `path`: its text without surrounding white space.
pub fn read_token(path: &Path) -> Result<String, SecretError> {
    let text = fs::read_to_string(path).map_err(|source| SecretError::Io {
        path: path.to_owned(),
        source,
    })?;
    let token = text.trim();
    if token.is_empty() {
        return Err(SecretError::Malformed {
            path: path.to_owned(),
            len: 0,
        });
    }
    Ok(token.to_owned())
}

/// Writes a file that didn't exist, for the owner only, whole or not at all; false when it was there.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let partial = path.with_extension(format!("new{}", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let made = match fs::hard_link(&partial, path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => {
            fs::remove_file(&partial)?;
            return Err(error);
        }
    };
    fs::remove_file(&partial)?;
    if let Some(dir) = path.parent() {
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_only_the_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("content.key");
        let (first, made) = read_or_make_key(&path).unwrap();
        let (second, again) = read_or_make_key(&path).unwrap();
        assert!(made && !again);
        assert_eq!(first, second);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn raw_and_hex_keys_are_read_and_anything_else_is_refused_without_showing_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, [7; 32]).unwrap();
        assert_eq!(read_key(&path).unwrap(), [7; 32]);
        fs::write(&path, format!("{}\n", "07".repeat(32))).unwrap();
        assert_eq!(read_key(&path).unwrap(), [7; 32]);
        fs::write(&path, "hunter2").unwrap();
        let text = read_key(&path).unwrap_err().to_string();
        assert!(text.contains("64 hex") && !text.contains("hunter2"), "{text}");
    }
}
