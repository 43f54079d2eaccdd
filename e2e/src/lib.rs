//! A real Kubernetes on one machine, and the things the end-to-end tests and `cargo xtask demo` share.
//!
//! What is here:
//! - [`tools`]: the programs a cluster needs (Debian packages, Go modules, PyPI wheels), fetched or built once into a
//!   cache outside the tree and never installed on the machine;
//! - [`image`]: container images written as OCI tars from static binaries, without a daemon or a registry;
//! - [`cluster`]: one Kubernetes node in mount, network, pid and uts namespaces of its own, reachable on 127.0.0.1.
//!
//! Invariants: nothing is written outside the cache, the repository's `target/` and the cluster's own folder; a
//! cluster that was taken down leaves no process, mount, cgroup, network namespace or link; every wait is a bounded
//! poll on the condition itself.
//!
//! It does not know what runs on the cluster beyond DNS, volumes and network policies.

pub mod cache;
pub mod cluster;
pub mod content;
pub mod forward;
pub mod http;
pub mod image;
pub mod peers;
pub mod poll;
pub mod process;
pub mod product;
pub mod progress;
pub mod scene;
pub mod script;
pub mod stage;
pub mod tools;
