//! Connections between our own stores, and with peers that break the rules, over pipes in memory.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod hand;
mod hostile;
mod pair;
mod stores;
mod unasked;
