//! Tasks that JavaScript alone has: a DHT, and peers on it. Ours is the node itself.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A node of the DHT.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bootstrap {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Mirrors `source` into a drive and serves it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Seed {
    pub(crate) dir: PathBuf,
    pub(crate) source: PathBuf,
    pub(crate) bootstrap: Bootstrap,
}

/// Gets a whole drive and checks its files, given as name and bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Follow {
    pub(crate) dir: PathBuf,
    pub(crate) key: String,
    pub(crate) bootstrap: Bootstrap,
    pub(crate) files: Vec<(String, usize)>,
}
