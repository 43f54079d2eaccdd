//! cumulet-node: an always-on peer of a personal cloud.
//!
//! The binary is a command line and this library. Rooms: [`config`] (what to run with),
//! [`secrets`] and [`pins`] (what outlives the process), [`gateway`] (plain HTTP reading of pinned archives).

pub mod config;
pub mod gateway;
pub mod pins;
pub mod secrets;
