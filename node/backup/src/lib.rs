//! Segments to and from object stores: ship, restore, verify.

pub mod core;
pub mod error;
pub mod head;
pub mod held;
pub mod names;
pub mod pins;
pub mod plan;
pub mod restore;
pub mod retry;
pub mod sealing;
pub mod ship;
pub mod source;
pub mod store;
pub mod verify;
