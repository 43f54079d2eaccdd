//! Hashes, namespaces and signatures of the DHT.

use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput, Mac};
use blake2::{Blake2b, Blake2bMac, Digest};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::Hash;

/// BLAKE2b-256 over the concatenation of `parts`.
pub fn hash(parts: &[&[u8]]) -> Hash {
    let mut state = Blake2b::<U32>::new();
    for part in parts {
        state.update(part);
    }
    state.finalize().into()
}

/// Keyed BLAKE2b-256. Keys longer than 64 bytes, which no format here has, hash as if unkeyed.
pub(crate) fn keyed_hash(key: &[u8], message: &[u8]) -> Hash {
    match <Blake2bMac<U32> as Mac>::new_from_slice(key) {
        Ok(mut state) => {
            Mac::update(&mut state, message);
            state.finalize_fixed().into()
        }
        Err(_) => hash(&[key, message]),
    }
}

/// The domain separator of one command: hash of the hash of `hyperswarm/dht` and the command's byte.
pub fn namespace(command: u8) -> Hash {
    hash(&[&hash(&[b"hyperswarm/dht"]), &[command]])
}

pub(crate) fn sign(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    key.sign(message).to_bytes()
}

/// Checks an Ed25519 signature. Malformed keys and signatures are simply not valid.
pub(crate) fn verify(public_key: &Hash, message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(public_key).is_ok_and(|key| {
        key.verify_strict(message, &Signature::from_bytes(signature))
            .is_ok()
    })
}
