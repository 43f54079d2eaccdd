//! Hashes, keys and signatures of Hypercore.
//!
//! Every hash is BLAKE2b with a 32-byte digest. "Keyed" means the key input of BLAKE2b, not concatenation.
//! Signatures are Ed25519 over the raw message; verification refuses what libsodium refuses (small-order
//! points, non-canonical scalars). Sources: npm hypercore-crypto 3.7, hypercore `lib/caps.js`.

use std::fmt;
use std::sync::LazyLock;

use blake2b_simd::Params;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::node::Node;

/// A BLAKE2b-256 digest.
pub type Hash = [u8; 32];
/// The name of a core: its manifest's hash, or for older ("compat") cores the signer's public key.
pub type Key = [u8; 32];
/// An Ed25519 public key.
pub type PublicKey = [u8; 32];

/// BLAKE2b-256 of the concatenated parts.
pub fn hash(parts: &[&[u8]]) -> Hash {
    finish(Params::new().hash_length(32), parts)
}

/// BLAKE2b-256 of the concatenated parts under a key of at most 64 bytes (a longer key is cut to 64).
pub fn keyed_hash(key: &[u8], parts: &[&[u8]]) -> Hash {
    finish(
        Params::new().hash_length(32).key(&key[..key.len().min(64)]),
        parts,
    )
}

fn finish(params: &Params, parts: &[&[u8]]) -> Hash {
    let mut state = params.to_state();
    for part in parts {
        state.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(state.finalize().as_bytes());
    digest
}

/// Namespace number `index` of a protocol name: H(H(name) ‖ index).
pub fn namespace(name: &str, index: u8) -> Hash {
    hash(&[&hash(&[name.as_bytes()]), &[index]])
}

/// The six namespaces of the name `hypercore`.
#[derive(Debug)]
pub struct Namespaces {
    /// Prefix of what a signer signs.
    pub tree: Hash,
    /// Capability of the side that initiated the stream.
    pub replicate_initiator: Hash,
    /// Capability of the other side.
    pub replicate_responder: Hash,
    /// Prefix of the manifest hash.
    pub manifest: Hash,
    /// A signer's namespace when none is given.
    pub default_signer: Hash,
    /// Derivation of block encryption keys.
    pub default_encryption: Hash,
}

/// The namespaces, computed once.
pub static NAMESPACES: LazyLock<Namespaces> = LazyLock::new(|| {
    let of = |index| namespace("hypercore", index);
    Namespaces {
        tree: of(0),
        replicate_initiator: of(1),
        replicate_responder: of(2),
        manifest: of(3),
        default_signer: of(4),
        default_encryption: of(5),
    }
});

/// The public name under which peers look a core up; it does not give the key away.
pub fn discovery_key(key: &Key) -> Hash {
    keyed_hash(key, &[b"hypercore"])
}

/// Proof, sent when a channel opens, that a side of a stream knows the core's key. `is_initiator` is the role of
/// the side that sends it; a remote's capability is checked against the other role.
pub fn capability(key: &Key, handshake_hash: &[u8; 64], is_initiator: bool) -> Hash {
    let role = if is_initiator {
        &NAMESPACES.replicate_initiator
    } else {
        &NAMESPACES.replicate_responder
    };
    keyed_hash(handshake_hash, &[role, key])
}

/// Hash of a block: H(0 ‖ length ‖ bytes).
pub fn leaf_hash(block: &[u8]) -> Hash {
    hash(&[&[0], &(block.len() as u64).to_le_bytes(), block])
}

/// The hashes of many blocks, in their order: several are computed side by side, which takes about half the time.
pub fn leaf_hashes<'a>(blocks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Hash> {
    let blocks: Vec<&[u8]> = blocks.into_iter().collect();
    let params = Params::new().hash_length(32).clone();
    let mut states: Vec<_> = blocks
        .iter()
        .map(|block| {
            let mut state = params.to_state();
            state.update(&[0]).update(&(block.len() as u64).to_le_bytes());
            state
        })
        .collect();
    blake2b_simd::many::update_many(states.iter_mut().zip(blocks));
    let digest = |state: &blake2b_simd::State| {
        let mut digest = [0; 32];
        digest.copy_from_slice(state.finalize().as_bytes());
        digest
    };
    states.iter().map(digest).collect()
}

/// Hash of an inner node: H(1 ‖ sum of sizes ‖ left hash ‖ right hash). `left` is the child with the smaller index.
pub fn parent_hash(left: &Node, right: &Node) -> Hash {
    hash(&[
        &[1],
        &left.size.saturating_add(right.size).to_le_bytes(),
        &left.hash,
        &right.hash,
    ])
}

/// Hash of a whole tree: H(2 ‖ for each root its hash, index and size).
pub fn tree_hash(roots: &[Node]) -> Hash {
    let mut state = Params::new().hash_length(32).to_state();
    state.update(&[2]);
    for root in roots {
        state
            .update(&root.hash)
            .update(&root.index.to_le_bytes())
            .update(&root.size.to_le_bytes());
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(state.finalize().as_bytes());
    digest
}

/// An Ed25519 key pair. Its `Debug` shows the public key only; the secret is wiped when dropped.
#[derive(Clone)]
pub struct KeyPair {
    signing: SigningKey,
}

impl KeyPair {
    /// The key pair of a 32-byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self {
            signing: SigningKey::from_bytes(seed),
        }
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        self.signing.verifying_key().to_bytes()
    }

    /// The secret half as libsodium stores it: seed ‖ public key.
    pub fn secret_key(&self) -> [u8; 64] {
        self.signing.to_keypair_bytes()
    }

    /// Detached signature of a message.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair")
            .field("public_key", &crate::key::to_hex(&self.public_key()))
            .finish_non_exhaustive()
    }
}

/// Whether `signature` is the signature of `message` by `public_key`, as strictly as libsodium checks it. A wrong
/// length or an invalid key is simply not a signature.
pub fn verify(public_key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(public_key) else {
        return false;
    };
    let Ok(signature) = Signature::from_slice(signature) else {
        return false;
    };
    key.verify_strict(message, &signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hashed_together_have_the_hashes_of_each() {
        for count in 0..20_usize {
            let blocks: Vec<Vec<u8>> = (0..count).map(|i| vec![i as u8; i * i * 41]).collect();
            let each: Vec<Hash> = blocks.iter().map(|block| leaf_hash(block)).collect();
            assert_eq!(leaf_hashes(blocks.iter().map(Vec::as_slice)), each);
        }
    }
}
