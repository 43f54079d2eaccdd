//! cumulet-node: an always-on peer of a personal cloud.
//!
//! The binary is a command line and this library. Rooms: [`config`] (what to run with),
//! [`secrets`] and [`pins`] (what outlives the process).

pub mod config;
pub mod pins;
pub mod secrets;
