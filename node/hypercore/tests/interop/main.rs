//! Replication with the JavaScript Corestore, both ways, over TCP on loopback.
//!
//! Without Node these tests are skipped with a printed reason; under `CI=true` they fail instead.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod peer;
mod pushing;
mod reading;
mod serving;
mod signing;
mod snapshots;
mod unasked;
