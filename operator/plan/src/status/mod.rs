//! Says what is true of a cloud and of an archive, as values; the operator writes them only when they changed.

pub mod archive;
pub mod cloud;
mod conditions;

pub use conditions::{Reason, Truth, Verdict};
