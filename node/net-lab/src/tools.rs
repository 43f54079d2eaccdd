//! The programs that build a network, and whether we may.

use std::fmt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// Where administrators' programs are, if `PATH` leaves them out.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// What keeps this machine from building a network.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// The process is not root.
    Root,
    /// A program is not there.
    Program(&'static str),
    /// The kernel has no network namespaces.
    Namespaces,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("it needs root"),
            Self::Program(name) => write!(f, "the program `{name}` is missing"),
            Self::Namespaces => f.write_str("the kernel has no network namespaces"),
        }
    }
}

impl Missing {
    /// What the user can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Root => {
                "run it with sudo; everything happens in namespaces of its own, the machine's network stays as it is"
            }
            Self::Program("ip") => "install iproute2 (Debian: apt-get install iproute2)",
            Self::Program(_) => "install nftables (Debian: apt-get install nftables)",
            Self::Namespaces => "use a Linux kernel with CONFIG_NET_NS",
        }
    }
}

/// The programs, found.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) ip: PathBuf,
    pub(crate) nft: PathBuf,
}

/// What is missing on this machine, if anything.
pub fn missing() -> Option<Missing> {
    find().err()
}

pub(crate) fn find() -> Result<Tools, Missing> {
    if !Path::new("/proc/self/ns/net").exists() {
        return Err(Missing::Namespaces);
    }
    let tools = Tools {
        ip: program("ip")?,
        nft: program("nft")?,
    };
    if !geteuid().is_root() {
        return Err(Missing::Root);
    }
    Ok(tools)
}

fn program(name: &'static str) -> Result<PathBuf, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or(Missing::Program(name))
}
