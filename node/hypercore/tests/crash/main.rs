//! What is on the disk after a crash, a loss of power, a full disk or a broken one.
//!
//! Each test lets a core live on a disk that fails somewhere, for every place where it can fail, and holds what is found
//! afterwards against one sentence: what was flushed is there, nothing is there by half, the whole core verifies, and it
//! can be written on.
//!
//! `CUMULET_CRASH_ROUNDS` is the number of processes that are killed (12 when absent), `CUMULET_CRASH_SEED` where their
//! random numbers start.
#![allow(clippy::unwrap_used, clippy::panic)]

mod disk;
mod errors;
mod life;
mod power;
mod process;
mod random;
mod readers;
mod sequences;
