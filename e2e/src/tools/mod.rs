//! Programs that the cluster, the images and the tests need, each made ready once and cached.

pub mod chromium;
pub mod debian;
pub mod go;
pub mod networks;
pub mod npm;
mod unpacked;
pub mod wheels;

use std::path::{Path, PathBuf};

/// The repository's root, found from where this crate was built.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}
