//! The commands.

pub(crate) mod bench;
pub(crate) mod cluster;
pub(crate) mod demo;
pub(crate) mod fuzz;
pub(crate) mod r#gen;
pub(crate) mod image;
pub(crate) mod test;
