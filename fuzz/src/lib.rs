//! What the fuzzing targets do with their bytes, one function per target.
//!
//! A target panics when the code under it panics, and when something is not as it must be: what was decoded and encoded
//! again decodes to the same, nothing is accepted that the writer did not sign, memory stays bounded. Each file in
//! `fuzz_targets/` names one function; `cargo xtask fuzz` builds and runs them.
//!
//! What it does not do: it judges no answers of the protocol; the tests beside the code do.

pub mod cores;
pub mod decoders;
pub mod files;
#[cfg(feature = "node")]
pub mod node;
pub mod streams;
