//! `ip` and `nft`, with which networks for tests are made: the machine's own, or Debian's, unpacked into the cache.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{debian, unpacked};
use crate::process;

/// Folders to add to the search path for them; none if the machine has both.
pub fn folders() -> Result<Option<PathBuf>> {
    if process::find("ip").is_some() && process::find("nft").is_some() {
        return Ok(None);
    }
    unpack().map(Some)
}

fn unpack() -> Result<PathBuf> {
    let root = debian::NETWORKS
        .root()
        .context("failed to get what makes networks; hint: install iproute2 and nftables")?;
    unpacked::wrapper(&root, "nft", "usr/sbin/nft")?;
    unpacked::wrapper(&root, "ip", "bin/ip")?;
    Ok(root)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Downloads, so it is not for every run; `cargo test -p cumulet-e2e -- --ignored unpacked`.
    #[test]
    #[ignore = "downloads Debian packages"]
    fn the_unpacked_programs_run() {
        let root = unpack().unwrap();
        for (program, argument) in [("nft", "--version"), ("ip", "-V")] {
            let said = process::output(Command::new(root.join(program)).arg(argument)).unwrap();
            assert!(said.contains("nftables") || said.contains("iproute2"), "{said}");
        }
    }
}
