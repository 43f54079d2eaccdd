//! The names that a store's owner gave to cores, bees and drives: the file `names.json` (`docs/format/names.md`).
//!
//! Key pairs follow from names, so the file adds only what a name alone does not tell: what it is, and whether its blocks are
//! encrypted. It is replaced whole, and only under the store's lock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use cumulet_hypercore::crypto::Key;
use cumulet_hypercore::key::to_hex;
use cumulet_hyperdrive::link::Link;
use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure, Result};

const FILE: &str = "names.json";
const VERSION: u32 = 1;

/// What an archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ArchiveKind {
    Core,
    Bee,
    Drive,
}

impl ArchiveKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Bee => "bee",
            Self::Drive => "drive",
        }
    }
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) kind: ArchiveKind,
    /// In hex: the core of the name, for a drive that of its file names.
    pub(crate) key: String,
    /// Whether blocks are encrypted, so that none is ever written in plain by accident.
    pub(crate) encrypted: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Names {
    version: u32,
    names: BTreeMap<String, Named>,
}

/// All names of a store; none without a file.
pub(crate) fn load(store: &Path) -> Result<BTreeMap<String, Named>> {
    let path = store.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).context(format!("failed to read {}", path.display())),
    };
    let names: Names = serde_json::from_str(&text).context(format!("failed to read {}", path.display()))?;
    if names.version == VERSION {
        Ok(names.names)
    } else {
        let text = format!("{} was written by a later version of cumulet", path.display());
        Err(Failure::new(crate::failure::Kind::Failed, text))
    }
}

/// Writes all names, durably.
pub(crate) fn save(store: &Path, names: BTreeMap<String, Named>) -> Result {
    let path = store.join(FILE);
    let unfinished = store.join("names.json.new");
    let text = serde_json::to_string_pretty(&Names {
        version: VERSION,
        names,
    })?;
    let write = || {
        let mut file = File::create(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        File::open(store)?.sync_all()
    };
    write().context(format!("failed to write {}", path.display()))
}

/// The name that a key was made under.
pub(crate) fn of_key<'a>(names: &'a BTreeMap<String, Named>, key: &Key) -> Option<(&'a str, &'a Named)> {
    let key = to_hex(key);
    names
        .iter()
        .find(|(_, named)| named.key == key)
        .map(|(name, named)| (name.as_str(), named))
}

/// Splits a name into its namespaces and its last part.
///
/// # Errors
/// Names that a reader could take for a key or a link, with empty parts, or with characters that don't print.
pub(crate) fn split(name: &str) -> Result<(Vec<&str>, &str)> {
    let refused = |why: &str| Err(Failure::usage(format!("{name:?} can't be a name: {why}")));
    if name.contains("://") || name.parse::<Link>().is_ok() {
        return refused("it reads like a key or a link");
    }
    if name.chars().any(char::is_control) || name.contains('+') || name.starts_with('-') {
        return refused("it has a +, begins with a dash, or has characters that don't print");
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    if parts.iter().any(|part| part.trim().is_empty()) {
        return refused("a part of it is empty");
    }
    match parts.pop() {
        Some(last) => Ok((parts, last)),
        None => refused("it is empty"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_reads_as_its_page_says() {
        let directory = tempfile::tempdir().unwrap();
        let golden = format!(
            "{{\n  \"version\": 1,\n  \"names\": {{\n    \"photos/2024\": {{\n      \"kind\": \"drive\",\n      \"key\": \"{}\",\n      \"encrypted\": true\n    }}\n  }}\n}}\n",
            "ab".repeat(32)
        );
        fs::write(directory.path().join(FILE), &golden).unwrap();
        let names = load(directory.path()).unwrap();
        let (name, known) = of_key(&names, &[0xab; 32]).unwrap();
        assert_eq!(name, "photos/2024");
        assert_eq!((known.kind, known.encrypted), (ArchiveKind::Drive, true));
        save(directory.path(), names).unwrap();
        assert_eq!(fs::read_to_string(directory.path().join(FILE)).unwrap(), golden);
    }

    #[test]
    fn a_file_of_a_later_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), r#"{"version":2,"names":{}}"#).unwrap();
        assert!(load(directory.path()).is_err());
    }

    #[test]
    fn names_that_could_be_keys_links_or_nothing_are_refused() {
        assert_eq!(split("a").unwrap(), (vec![], "a"));
        assert_eq!(split("a/b/c").unwrap(), (vec!["a", "b"], "c"));
        let key = "0".repeat(64);
        for name in [
            "",
            "/",
            "a//b",
            "a/",
            "hyper://x",
            "a\nb",
            "-x",
            "a+1",
            key.as_str(),
        ] {
            assert!(split(name).is_err(), "{name:?}");
        }
    }
}
