//! The directory that a user's archives live in, and the names in it (`docs/format/names.md`).
//!
//! It has the layout of a node's data directory (`lock`, `cores/`), so a stopped node's archives can be looked at as they are.
//! Beside that lie the primary key that own key pairs follow from, and the names they were made under. One process at a
//! time: the lock is taken before anything is read.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cumulet_hypercore::corestore::{Corestore, CorestoreConfig, PrimaryKey};
use cumulet_hypercore::crypto::{Key, KeyPair};
use cumulet_hypercore::key::to_hex;
use cumulet_hypercore::manifest::Manifest;

use crate::failure::{Context, Failure, IN_USE_HINT, Kind, Result};
use crate::names::{self, ArchiveKind, Named};
use crate::secrets;

/// Name that the key pair of the swarm has in the root namespace, as the JS packages have it.
const SWARM_NAME: &str = "hyperswarm";

/// An open store directory.
pub(crate) struct Store {
    directory: PathBuf,
    pub(crate) cores: Corestore,
    _lock: File,
}

impl Store {
    /// Opens and locks the store; `make` makes it if it is not there.
    pub(crate) fn open(directory: &Path, make: bool, timeout: Duration) -> Result<Self> {
        if !make && !directory.is_dir() {
            let text = format!("there is no store in {}", directory.display());
            return Err(Failure::not_found(text)
                .hint("name it with --store, or make one with `cumulet core create NAME`"));
        }
        let shown = directory.display();
        fs::create_dir_all(directory).context(format!("failed to make the store {shown}"))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join("lock"))
            .context(format!("failed to lock the store {shown}"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!("the store {shown} is in use by another process");
                return Err(Failure::new(Kind::InUse, text).hint(IN_USE_HINT));
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).context(format!("failed to lock the store {shown}"));
            }
        }
        let config = CorestoreConfig {
            read_timeout: timeout,
            ..CorestoreConfig::default()
        };
        Ok(Self {
            directory: directory.to_owned(),
            cores: Corestore::open(&directory.join("cores"), config)?,
            _lock: lock,
        })
    }

    /// Where a core's files lie.
    pub(crate) fn core_directory(&self, discovery_key: &Key) -> PathBuf {
        let name = to_hex(discovery_key);
        self.directory.join("cores").join(&name[..2]).join(name)
    }

    fn primary_key_path(&self) -> PathBuf {
        self.directory.join("primary-key")
    }

    /// The primary key, made if there is none.
    fn make_primary_key(&self) -> Result<PrimaryKey> {
        let path = self.primary_key_path();
        let secret = match secrets::read(&path)? {
            Some(secret) => secret,
            None => secrets::make(&path)?,
        };
        Ok(PrimaryKey::new(secret))
    }

    /// The key pair that we are known by to peers: the same every time, once the store has a primary key.
    pub(crate) fn network_seed(&self) -> Result<[u8; 32]> {
        match secrets::read(&self.primary_key_path())? {
            Some(secret) => {
                let pair = PrimaryKey::new(secret).key_pair::<&str>(&[], SWARM_NAME);
                let secret = pair.secret_key();
                Ok(std::array::from_fn(|index| secret[index]))
            }
            None => secrets::random(),
        }
    }

    /// All names.
    pub(crate) fn names(&self) -> Result<std::collections::BTreeMap<String, Named>> {
        names::load(&self.directory)
    }

    /// The key pair of a name: of the core itself, or of both cores of a drive.
    pub(crate) fn key_pair(&self, name: &str, kind: ArchiveKind) -> Result<KeyPair> {
        let secret = secrets::read(&self.primary_key_path())?.ok_or_else(|| {
            let text = format!("the primary key {} is gone", self.primary_key_path().display());
            Failure::not_found(text).hint("what was made with it can be read, but not written any more")
        })?;
        derive(&PrimaryKey::new(secret), name, kind)
    }

    /// Takes a name for a new archive. Returns its key pair.
    ///
    /// # Errors
    /// When the name is taken, or leads to a core that another name has.
    pub(crate) fn take_name(&self, name: &str, kind: ArchiveKind, encrypted: bool) -> Result<KeyPair> {
        let pair = derive(&self.make_primary_key()?, name, kind)?;
        let key = Manifest::single(pair.public_key()).key();
        let mut names = self.names()?;
        let taken = match names.get(name) {
            Some(known) => Some((name, known.kind)),
            None => names::of_key(&names, &key).map(|(other, known)| (other, known.kind)),
        };
        if let Some((other, kind)) = taken {
            let text = format!("there is a {} {other} already", kind.as_str());
            return Err(Failure::new(Kind::Failed, text).hint("choose another name"));
        }
        let known = Named {
            kind,
            key: to_hex(&key),
            encrypted,
        };
        names.insert(name.to_owned(), known);
        names::save(&self.directory, names)?;
        Ok(pair)
    }
}

/// A drive's key pair is that of the core `db` in the namespace of the drive's name, as JS drives are made in a
/// namespaced store.
fn derive(primary: &PrimaryKey, name: &str, kind: ArchiveKind) -> Result<KeyPair> {
    let (mut namespaces, last) = names::split(name)?;
    Ok(if kind == ArchiveKind::Drive {
        namespaces.push(last);
        primary.key_pair(&namespaces, "db")
    } else {
        primary.key_pair(&namespaces, last)
    })
}
