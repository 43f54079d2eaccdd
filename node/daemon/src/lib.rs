//! cumulet-node: an always-on peer of a personal cloud.
//!
<<<<<<< HEAD
//! The binary is a command line and this library. From the bottom up: [`config`] is what to run with, [`secrets`] and
//! [`pins`] outlive the process, [`backup`] hands cores to the object store, [`archive`] keeps one pinned archive,
//! [`node`] holds them together, [`gateway`] shows them to the world, and [`http`] tells the owner.
=======
//! The binary is a command line and this library. Rooms: [`config`] (what to run with),
//! [`secrets`] and [`pins`] (what outlives the process), [`gateway`] (plain HTTP reading of pinned archives).
>>>>>>> main

pub mod archive;
pub mod backup;
pub mod config;
pub mod gateway;
<<<<<<< HEAD
pub mod http;
pub mod node;
=======
>>>>>>> main
pub mod pins;
pub mod run;
pub mod secrets;
