//! The file that tells the key of a stored core, so that the core can be opened by its discovery key alone.
//!
//! It lies beside the core's directory, as `<discovery key in hex>.key`, 44 bytes: the eight bytes `CUMKEY\0\1` (name and version
//! of the format), the key (32 bytes), CRC-32C of these 40 bytes (u32, little endian). It is written whole or not at all, before the
//! core's directory is made.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::{CorestoreError, failed};
use crate::crypto::{Hash, Key, discovery_key};
use crate::key::to_hex;

const MAGIC: &[u8; 8] = b"CUMKEY\0\x01";
const BODY_BYTES: usize = 40;
const FILE_BYTES: usize = BODY_BYTES + 4;

/// Where a core of the store in `root` lies.
#[derive(Debug, Clone)]
pub(super) struct CorePaths {
    pub(super) directory: PathBuf,
    pub(super) key_file: PathBuf,
    /// Exists if the core is frozen.
    pub(super) conflict: PathBuf,
    discovery_key: Hash,
}

impl CorePaths {
    pub(super) fn new(root: &Path, discovery_key: &Hash) -> Self {
        let name = to_hex(discovery_key);
        let outer = root.join(&name[..2]);
        let key_file = outer.join(format!("{name}.key"));
        Self {
            conflict: outer.join(format!("{name}.conflict")),
            directory: outer.join(name),
            key_file,
            discovery_key: *discovery_key,
        }
    }

    /// The core's key; none if the store does not hold the core.
    pub(super) fn read_key(&self) -> Result<Option<Key>, CorestoreError> {
        let bytes = match fs::read(&self.key_file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &self.key_file)(error)),
        };
        let key = decode(&bytes).filter(|key| discovery_key(key) == self.discovery_key);
        let damaged = || failed("read", &self.key_file)(ErrorKind::InvalidData.into());
        key.map(Some).ok_or_else(damaged)
    }

    /// Writes the key, durably, unless it is there.
    pub(super) fn write_key(&self, key: &Key) -> Result<(), CorestoreError> {
        if self.read_key()?.is_some() {
            return Ok(());
        }
        let Some(outer) = self.key_file.parent() else {
            return Ok(());
        };
        let is_new = !outer.exists();
        fs::create_dir_all(outer).map_err(failed("create", outer))?;
        let unfinished = self.key_file.with_extension("key.new");
        let write = || {
            let mut file = File::create(&unfinished)?;
            file.write_all(&encode(key))?;
            file.sync_all()?;
            fs::rename(&unfinished, &self.key_file)?;
            // A core's directory that is still to be made is synced together with the key's name.
            if self.directory.exists() {
                File::open(outer)?.sync_all()?;
            }
            match outer.parent().filter(|_| is_new) {
                Some(root) => File::open(root)?.sync_all(),
                None => Ok(()),
            }
        };
        write().map_err(failed("write", &self.key_file))
    }

    /// # Errors
    /// [`CorestoreError::Frozen`] if the core's writer signed two trees.
    pub(super) fn refuse_frozen(&self) -> Result<(), CorestoreError> {
        if self.conflict.exists() {
            return Err(CorestoreError::Frozen);
        }
        Ok(())
    }

    /// Deletes the core; the key goes first, so that what a crash leaves is not found as a core. Returns whether it was there.
    pub(super) fn remove(&self) -> Result<bool, CorestoreError> {
        let gone = |result: std::io::Result<()>, path: &Path| match result {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("delete", path)(error)),
        };
        let key = gone(fs::remove_file(&self.key_file), &self.key_file)?;
        let directory = gone(fs::remove_dir_all(&self.directory), &self.directory)?;
        gone(fs::remove_file(&self.conflict), &self.conflict)?;
        Ok(key || directory)
    }
}

fn encode(key: &Key) -> [u8; FILE_BYTES] {
    let mut file = [0; FILE_BYTES];
    file[..8].copy_from_slice(MAGIC);
    file[8..BODY_BYTES].copy_from_slice(key);
    let crc = crc32c::crc32c(&file[..BODY_BYTES]);
    file[BODY_BYTES..].copy_from_slice(&crc.to_le_bytes());
    file
}

fn decode(file: &[u8]) -> Option<Key> {
    let file: &[u8; FILE_BYTES] = file.try_into().ok()?;
    let (body, crc) = file.split_at(BODY_BYTES);
    let sound = body.starts_with(MAGIC) && crc == crc32c::crc32c(body).to_le_bytes();
    sound.then(|| body[8..].try_into().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_and_every_changed_byte_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let key = [7; 32];
        let paths = CorePaths::new(root.path(), &discovery_key(&key));
        assert_eq!(paths.read_key().unwrap(), None);
        paths.write_key(&key).unwrap();
        assert_eq!(paths.read_key().unwrap(), Some(key));
        let golden = fs::read(&paths.key_file).unwrap();
        assert_eq!(&golden[..8], b"CUMKEY\0\x01");
        assert_eq!(golden[8..40], key);
        assert_eq!(
            golden[40..],
            [0x82, 0xf5, 0x88, 0x5d][..],
            "{:02x?}",
            &golden[40..]
        );
        for index in 0..golden.len() {
            let mut changed = golden.clone();
            changed[index] ^= 0x10;
            fs::write(&paths.key_file, changed).unwrap();
            assert!(paths.read_key().is_err(), "byte {index}");
        }
        assert!(paths.remove().unwrap());
        assert!(!paths.remove().unwrap());
    }
}
