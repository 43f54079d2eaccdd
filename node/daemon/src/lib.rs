//! cumulet-node: an always-on peer of a personal cloud.
//!
//! The binary is a command line and this library. From the bottom up: [`config`] is what to run with, [`secrets`] and
//! [`pins`] outlive the process, [`members`] says who may use what, [`bans`] who nothing, [`backup`] hands cores to the object store, [`archive`] keeps one pinned archive,
//! `swarm` finds peers and lets them in, [`services`] are what the node does for others, [`node`] holds them together, [`gateway`] shows them to the world,
//! [`http`] tells the owner, and [`run`] starts and stops all of it.

pub mod archive;
pub mod backup;
pub mod bans;
pub mod config;
pub mod gateway;
pub mod http;
pub mod members;
pub mod node;
pub mod pins;
pub mod run;
pub mod secrets;
pub mod services;
mod swarm;
