//! Hypercore: signed append-only logs, their Merkle proofs, storage and replication.
