//! Addresses of archives as people pass them around.
//!
//! A key in hex or z-base-32, alone or as a link `hyper://`, `pear://` or `dat://`, with or without a path. A version may
//! follow the key after `+`, as Beaker wrote it.

use std::fmt;
use std::str::FromStr;

use cumulet_hypercore::crypto::Key;
use cumulet_hypercore::key::{self, ParseKeyError};

/// A key with what came after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Key of the archive.
    pub key: Key,
    /// The version asked for.
    pub version: Option<u64>,
    /// What follows the key, from its `/` on and as it was written; empty without one.
    pub path: String,
}

/// The text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No key in it.
    #[error(transparent)]
    Key(#[from] ParseKeyError),
    /// A `+` without a number.
    #[error("the version after + is not a number")]
    Version,
}

impl FromStr for Link {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let text = text.trim();
        let scheme = text.find("://").map_or(0, |at| at + 3);
        let host_end = text[scheme..]
            .find(['/', '?', '#'])
            .map_or(text.len(), |at| scheme + at);
        let (address, rest) = text.split_at(host_end);
        let (address, version) = match address.split_once('+') {
            None => (address, None),
            Some((address, version)) => (address, Some(version.parse().map_err(|_| LinkError::Version)?)),
        };
        // A query or fragment belongs to the program that opens the link, not to the archive.
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        Ok(Self {
            key: key::parse(address)?,
            version,
            path: path.to_owned(),
        })
    }
}

impl fmt::Display for Link {
    /// `hyper://` with z-base-32.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hyper://{}", key::to_z32(&self.key))?;
        if let Some(version) = self.version {
            write!(f, "+{version}")?;
        }
        f.write_str(&self.path)
    }
}
