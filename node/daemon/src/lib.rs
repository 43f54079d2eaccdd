//! cumulet-node: an always-on peer of a personal cloud.
//!
//! The binary is a command line and this library. From the bottom up: [`config`] is what to run with, [`secrets`],
//! [`pins`] and [`known_nodes`] outlive the process, [`backup`] hands cores to the object store, [`archive`] keeps one pinned archive,
//! [`relay`] carries what peers can't send to each other, [`node`] holds them together, [`gateway`] shows them to the world, [`http`] tells the owner, and [`run`] starts and stops
//! all of it.

pub mod archive;
pub mod backup;
pub mod config;
pub mod gateway;
pub mod http;
pub mod known_nodes;
pub mod node;
pub mod pins;
pub mod relay;
pub mod run;
pub mod secrets;
