//! The commands.

pub(crate) mod cluster;
