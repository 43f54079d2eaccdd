//! Hypercore: signed append-only logs, their Merkle proofs, storage and replication.
//!
//! A core is a list of blocks under a Merkle tree whose roots its manifest's signers sign. From the bottom up:
//! [`flat_tree`] numbers the nodes, [`crypto`] hashes and signs, [`roots`] grows a tree, [`manifest`] and [`verifier`] say
//! who may sign ([`multisig`] if several do), [`proof`] and [`messages`] are what travels, [`segment`] is how sealed blocks lie on disk and in a bucket,
//! [`storage`] keeps a core's state, and [`core`] is the core.
//!
//! What it does not do: no sockets and no tasks; everything here is bytes in, bytes out.

pub mod bitfield;
pub mod blocks;
pub mod core;
#[cfg(feature = "tokio")]
pub mod corestore;
pub mod crypto;
pub mod derivation;
#[cfg(feature = "tokio")]
pub mod driver;
pub mod encryption;
pub mod flat_tree;
pub mod key;
pub mod manifest;
pub mod messages;
pub mod multisig;
pub mod node;
pub mod proof;
pub mod replication;
pub mod roots;
pub mod segment;
pub mod storage;
pub mod verifier;
