//! Key pairs of named cores, as npm `corestore` 7 derives them from a store's primary key.
//!
//! Pure functions: this crate's own store keeps key pairs by core and derives nothing by itself.

use crate::crypto::{Hash, KeyPair, hash, keyed_hash, namespace};

/// The namespace of a store's root session.
pub const ROOT_NAMESPACE: Hash = [0; 32];

/// The namespace that a session under `parent` has for `name`: H(parent ‖ name).
pub fn child_namespace(parent: &Hash, name: &str) -> Hash {
    hash(&[parent, name.as_bytes()])
}

/// The key pair of the core `name` in a namespace. Whoever has the primary key has all of them.
pub fn named_key_pair(primary_key: &[u8; 32], store_namespace: &Hash, name: &str) -> KeyPair {
    let seed = keyed_hash(
        primary_key,
        &[&namespace("corestore", 0), store_namespace, name.as_bytes()],
    );
    KeyPair::from_seed(&seed)
}
