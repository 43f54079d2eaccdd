//! The commands.

pub(crate) mod cluster;
pub(crate) mod image;
