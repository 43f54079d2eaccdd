//! Whom the node has nothing to do with: the configuration's bans, and the owner's, which change while the node runs.
//!
//! Bans that `PUT /api/v1/bans` acknowledged survive a crash, as devices do. A ban wins over being a device, and over what is open to
//! everybody. The node itself, its cloud's other replicas and the configuration's members can't be banned: that is an error
//! wherever it is asked for.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use serde::{Deserialize, Serialize};

use crate::members::{parse_key, write_whole};
use crate::pins::Key;

/// Keys that the owner may ban while the node runs: who keeps strangers out by their keys has lost, since they cost nothing.
pub const MAX_BANS: usize = 1024;
/// The file in the data folder.
const FILE: &str = "bans.json";

/// Why the bans can't be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum BansError {
    /// The file can't be read or written.
    #[error("failed to read or write the bans {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("failed to parse the bans {path}: {source}; hint: mend it, or remove it and ban again")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and field.
        source: serde_json::Error,
    },
    /// More than a node keeps.
    #[error("too many bans: {given}, and at most {MAX_BANS} are possible")]
    TooMany {
        /// How many.
        given: usize,
    },
    /// Somebody who is to be served whatever happens.
    #[error(
        "{} can't be banned: it is this node, a replica of its cloud, or a member by its configuration; hint: take it from the \
         replicas or members first",
        hex::encode(key)
    )]
    Member {
        /// Who.
        key: Key,
    },
}

/// The file's text; keys are 64 hex digits.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    bans: Vec<String>,
}

/// What a change of the bans means for connections.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Banned from now on.
    pub banned: Vec<Key>,
    /// Not banned any more.
    pub pardoned: Vec<Key>,
}

/// The bans of a node.
#[derive(Debug)]
pub struct Bans {
    /// Those of the configuration.
    fixed: BTreeSet<Key>,
    /// The owner's.
    live: RwLock<BTreeSet<Key>>,
    path: PathBuf,
}

impl Bans {
    /// Those of the configuration, and those that are kept in the data folder.
    ///
    /// # Errors
    /// [`BansError`], also if the file is damaged: without it those would come in who are to stay out.
    pub fn open(data_dir: &Path, fixed: impl IntoIterator<Item = Key>) -> Result<Self, BansError> {
        let path = data_dir.join(FILE);
        Ok(Self {
            fixed: fixed.into_iter().collect(),
            live: RwLock::new(read(&path)?),
            path,
        })
    }

    fn lock(&self) -> RwLockReadGuard<'_, BTreeSet<Key>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is banned.
    pub fn contains(&self, key: &Key) -> bool {
        self.fixed.contains(key) || self.lock().contains(key)
    }

    /// All that are banned.
    pub fn all(&self) -> BTreeSet<Key> {
        self.fixed.union(&self.lock()).copied().collect()
    }

    /// As the change from a swarm that knows none.
    pub(crate) fn at_start(&self) -> Changed {
        Changed {
            banned: self.all().into_iter().collect(),
            pardoned: Vec::new(),
        }
    }

    /// The owner's bans, in the order of their keys.
    pub fn live(&self) -> Vec<Key> {
        self.lock().iter().copied().collect()
    }

    /// Makes these the owner's bans, and only these; returns when they are on disk. Those of the configuration stay.
    ///
    /// # Errors
    /// [`BansError`]; nothing has changed then.
    pub fn set(&self, bans: BTreeSet<Key>) -> Result<Changed, BansError> {
        if bans.len() > MAX_BANS {
            return Err(BansError::TooMany { given: bans.len() });
        }
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let news = |of: &BTreeSet<Key>, than: &BTreeSet<Key>| {
            let keys = of.difference(than).filter(|key| !self.fixed.contains(*key));
            keys.copied().collect()
        };
        let changed = Changed {
            banned: news(&bans, &live),
            pardoned: news(&live, &bans),
        };
        if *live != bans {
            let kept = Kept {
                bans: bans.iter().map(hex::encode).collect(),
            };
            write_whole(&self.path, &kept).map_err(|source| BansError::Io {
                path: self.path.clone(),
                source,
            })?;
            *live = bans;
        }
        Ok(changed)
    }
}

fn read(path: &Path) -> Result<BTreeSet<Key>, BansError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(source) => {
            return Err(BansError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    let parse = |source| BansError::Parse {
        path: path.to_owned(),
        source,
    };
    let kept: Kept = serde_json::from_slice(&bytes).map_err(parse)?;
    let key = |text: &String| {
        parse_key(text)
            .ok_or_else(|| parse(serde::de::Error::custom(format!("{text:?} is not 64 hex digits"))))
    };
    kept.bans.iter().map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAMMER: Key = [1; 32];
    const LOST_PHONE: Key = [2; 32];
    const CONFIGURED: Key = [9; 32];

    fn open(dir: &Path) -> Bans {
        Bans::open(dir, [CONFIGURED]).unwrap()
    }

    #[test]
    fn bans_are_there_after_a_restart_and_those_of_the_configuration_stay() {
        let dir = tempfile::tempdir().unwrap();
        let bans = open(dir.path());
        let changed = bans.set([SPAMMER, LOST_PHONE, CONFIGURED].into()).unwrap();
        assert_eq!(changed.banned, [SPAMMER, LOST_PHONE]);
        let changed = bans.set([LOST_PHONE].into()).unwrap();
        assert_eq!(
            (changed.banned, changed.pardoned),
            (Vec::new(), vec![SPAMMER]),
            "the configuration's is not pardoned"
        );
        assert_eq!(bans.set([LOST_PHONE].into()).unwrap(), Changed::default());
        for bans in [bans, open(dir.path())] {
            assert!(bans.contains(&LOST_PHONE) && bans.contains(&CONFIGURED) && !bans.contains(&SPAMMER));
            assert_eq!(bans.live(), [LOST_PHONE]);
            assert_eq!(bans.all(), [LOST_PHONE, CONFIGURED].into());
        }
    }

    #[test]
    fn bans_that_can_not_be_kept_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let bans = open(dir.path());
        bans.set([SPAMMER].into()).unwrap();
        let many = (0..=MAX_BANS).map(|number| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            key
        });
        let error = bans.set(many.collect()).unwrap_err();
        assert!(matches!(error, BansError::TooMany { given: 1025 }), "{error}");
        drop(dir);
        let error = bans.set([LOST_PHONE].into()).unwrap_err();
        assert!(matches!(error, BansError::Io { .. }), "{error}");
        assert_eq!(bans.live(), [SPAMMER]);
    }

    #[test]
    fn a_damaged_file_is_named_and_the_node_does_not_go_on_without_it() {
        for text in ["{", r#"{"bans":["ab"]}"#, r#"{"bans":[],"other":1}"#] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let error = Bans::open(dir.path(), []).unwrap_err().to_string();
            assert!(error.contains(FILE) && error.contains("hint"), "{error}");
        }
    }
}
