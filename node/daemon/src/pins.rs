//! The pins of a node on disk: which archives it keeps, one small JSON file each.
//!
//! A pin that `PUT /api/v1/archives/{key}` acknowledged survives a crash: files are written beside, synced
//! and renamed. A file that can't be read is reported by name and left alone; the other pins go on.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cumulet_api::ArchiveSpec;

/// An archive's key: the 32 bytes that name it.
pub type Key = [u8; 32];

/// Why a pin can't be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The file or folder can't be read or written.
    #[error("failed to read or write the pin {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("failed to parse the pin {path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and field.
        source: serde_json::Error,
    },
}

/// The folder of pins.
#[derive(Debug)]
pub struct PinStore {
    dir: PathBuf,
}

impl PinStore {
    /// Opens the folder, making it when it isn't there.
    pub fn open(dir: &Path) -> Result<Self, PinError> {
        fs::create_dir_all(dir).map_err(|source| PinError::Io {
            path: dir.to_owned(),
            source,
        })?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// All pins, and the files that can't be read.
    pub fn load(&self) -> Result<(BTreeMap<Key, ArchiveSpec>, Vec<PinError>), PinError> {
        let io = |source| PinError::Io {
            path: self.dir.clone(),
            source,
        };
        let (mut pins, mut damaged) = (BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(&self.dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let Some(key) = path.file_name().and_then(|name| name.to_str()).and_then(key_of) else {
                continue;
            };
            match read(&path) {
                Ok(spec) => drop(pins.insert(key, spec)),
                Err(error) => damaged.push(error),
            }
        }
        Ok((pins, damaged))
    }

    /// Keeps a pin; when this returns it is on disk.
    pub fn put(&self, key: &Key, spec: &ArchiveSpec) -> Result<(), PinError> {
        let path = self.path(key);
        let write = || -> io::Result<()> {
            let partial = path.with_extension("partial");
            let mut file = fs::File::create(&partial)?;
            file.write_all(&serde_json::to_vec_pretty(spec)?)?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            fs::File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| PinError::Io {
            path: path.clone(),
            source,
        })
    }

    /// Forgets a pin; one that isn't there is no error.
    pub fn remove(&self, key: &Key) -> Result<(), PinError> {
        let path = self.path(key);
        let remove = || match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => fs::File::open(&self.dir)?.sync_all(),
        };
        remove().map_err(|source| PinError::Io {
            path: path.clone(),
            source,
        })
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(format!("{}.json", hex::encode(key)))
    }
}

fn key_of(name: &str) -> Option<Key> {
    let mut key = [0; 32];
    hex::decode_to_slice(name.strip_suffix(".json")?, &mut key).ok()?;
    Some(key)
}

fn read(path: &Path) -> Result<ArchiveSpec, PinError> {
    let bytes = fs::read(path).map_err(|source| PinError::Io {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|source| PinError::Parse {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_there_after_opening_again_and_gone_after_removing() {
        let dir = tempfile::tempdir().unwrap();
        let store = PinStore::open(dir.path()).unwrap();
        let spec = ArchiveSpec {
            announce: true,
            name: Some("notes".into()),
            ..ArchiveSpec::default()
        };
        store.put(&[1; 32], &spec).unwrap();
        store.put(&[2; 32], &ArchiveSpec::default()).unwrap();
        store.remove(&[2; 32]).unwrap();
        store.remove(&[3; 32]).unwrap();
        let (pins, damaged) = PinStore::open(dir.path()).unwrap().load().unwrap();
        assert_eq!(pins, BTreeMap::from([([1; 32], spec)]));
        assert!(damaged.is_empty());
    }

    #[test]
    fn a_damaged_pin_is_named_and_the_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = PinStore::open(dir.path()).unwrap();
        store.put(&[1; 32], &ArchiveSpec::default()).unwrap();
        fs::write(
            dir.path().join(format!("{}.json", "02".repeat(32))),
            "{\"typo\":1}",
        )
        .unwrap();
        let (pins, damaged) = store.load().unwrap();
        assert_eq!(pins.len(), 1);
        assert!(damaged[0].to_string().contains("typo"), "{}", damaged[0]);
    }
}
