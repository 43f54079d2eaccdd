//! Attacks by scripted peers. Through each of them the process grows by less than [`scene::MAX_GROWTH_BYTES`], and an honest peer
//! beside the attacker keeps its speed, within what two processors that also run the attacker allow.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

#[path = "../connections/hand.rs"]
#[allow(dead_code)] // shared with other tests
mod hand;
#[path = "../connections/pair.rs"]
#[allow(dead_code)] // shared with other tests
mod pair;

mod readers;
mod scene;
mod servers;
mod transport;
