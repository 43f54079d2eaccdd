//! Segments to and from object stores: ship, restore, verify.
//!
//! A cloud's cores are kept in a bucket or a directory in the same segments as on disk, with signed heads that say which segments make
//! up which length (`docs/format/backup.md`). From the bottom up: [`store`] is the narrow interface to objects and its two kinds;
//! [`names`] and [`sealing`] are the format; [`held`] says which parts of a core there are, and [`head`] signs for them; [`plan`] decides, without I/O, what
//! to put next. [`ship`], [`restore`] and [`verify`] are the drivers; [`pins`] keeps what the cloud wants to keep. [`core`] and [`corestore`]
//! tie all that to real cores.
//!
//! Invariants: no object is overwritten; no head is there before its segments; nothing that was not proven by a signature is stored by a
//! restore; a store that fails or lies costs time, never data that is held.
//!
//! What it does not do: it neither deletes what is old (every length that was ever shipped stays restorable), nor asks peers for what a
//! restore lacks: the report says what that is.

pub mod core;
pub mod corestore;
pub mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
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
