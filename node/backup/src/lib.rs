//! Segments to and from object stores: ship, restore, verify.

pub mod error;
pub mod names;
pub mod plan;
pub mod sealing;
pub mod store;
