//! The operator's driver: it reads the cluster, lets `cumulet-plan` decide, and writes.
//!
//! Each controller's reconcile is five steps, in this order, and reads like a table of contents:
//! dereference ([`dereference`] holds the only reads), validate, plan and build (`cumulet-plan`, pure),
//! apply ([`apply`] holds the only writes), update status.
//!
//! Invariants
//! - One field manager; nothing is written that is as it should be, so a steady cluster is not written to.
//! - The operator talks to the replicas, never the other way round; it trusts the one authority of the cloud's Secret.
//! - Only the holder of the Lease writes; who cannot renew it stops at once ([`lease`]).
//! - Every reconcile has a time limit, and only so many run at once.

pub mod apply;
pub mod archive_controller;
pub mod cloud_controller;
pub mod context;
pub mod dereference;
pub mod entropy;
pub mod lease;
pub mod node_client;
pub mod ops_server;
pub mod options;
pub mod run;
pub mod telemetry;
pub mod watch;
