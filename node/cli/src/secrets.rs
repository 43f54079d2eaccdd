//! Secrets in files: the store's primary key, and encryption keys. Never on the command line, never printed unasked.
//!
//! A file holds 32 bytes, raw or as 64 hex digits; those made here have hex digits and are the owner's alone.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::failure::{Context, Failure, Kind, Result};

/// A secret's bytes.
pub(crate) type Secret = [u8; 32];

/// Fresh random bytes from the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(Failure::new(
            Kind::Failed,
            format!("the operating system gave no random bytes: {error}"),
        )),
    }
}

/// Reads a secret; none if there is no file.
pub(crate) fn read(path: &Path) -> Result<Option<Secret>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(format!("failed to read {}", path.display())),
    };
    if let Ok(raw) = Secret::try_from(bytes.as_slice()) {
        return Ok(Some(raw));
    }
    let mut secret = [0; 32];
    if hex::decode_to_slice(bytes.trim_ascii(), &mut secret).is_ok() {
        return Ok(Some(secret));
    }
    let text = format!(
        "{} must hold 32 bytes, raw or as 64 hex digits; it holds {} bytes",
        path.display(),
        bytes.len()
    );
    Err(Failure::new(Kind::Failed, text))
}

/// Makes a secret in a new file, readable by the owner only. A file that is there is never overwritten: what was
/// encrypted or signed with it would be lost.
pub(crate) fn make(path: &Path) -> Result<Secret> {
    let secret: Secret = random()?;
    let unfinished = path.with_extension(format!("new{}", std::process::id()));
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(hex::encode(secret).as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        // Appears whole, and only where nothing is.
        let linked = fs::hard_link(&unfinished, path);
        fs::remove_file(&unfinished)?;
        linked?;
        match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => fs::File::open(parent)?.sync_all(),
            None => Ok::<_, io::Error>(()),
        }
    };
    write().context(format!("failed to make {}", path.display()))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_made_secret_is_read_again_is_the_owners_alone_and_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert_eq!(read(&path).unwrap(), None);
        let secret = make(&path).unwrap();
        assert_eq!(read(&path).unwrap(), Some(secret));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(make(&path).is_err());
        fs::write(&path, [7; 32]).unwrap();
        assert_eq!(read(&path).unwrap(), Some([7; 32]));
        fs::write(&path, "short").unwrap();
        assert!(read(&path).is_err());
    }
}
