//! Hypercore: signed append-only logs, their Merkle proofs, storage and replication.
//!
//! A core is a list of blocks under a Merkle tree whose roots its manifest's signers sign. From the bottom up:
//! [`flat_tree`] numbers the nodes, [`crypto`] hashes and signs, [`roots`] grows a tree, [`manifest`] and [`verifier`] say
//! who may sign, [`proof`] and [`messages`] are what travels.
//!
//! What it does not do: no sockets and no tasks; everything here is bytes in, bytes out.

pub mod blocks;
pub mod crypto;
pub mod encryption;
pub mod flat_tree;
pub mod key;
pub mod manifest;
pub mod messages;
pub mod node;
pub mod proof;
pub mod replication;
pub mod roots;
pub mod segment;
pub mod verifier;
