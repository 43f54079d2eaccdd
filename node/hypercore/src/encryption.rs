//! Block encryption as JS Hypercore does it by default: 8 bytes of blinded fork, then the XSalsa20-ed bytes.
//!
//! There is no authentication here: the Merkle tree over the encrypted bytes gives it. Encrypting is deterministic in
//! (index, fork, plaintext), so one (index, fork) must never be encrypted twice with different bytes: append at a
//! higher fork after a truncation. Source: npm hypercore 11.37 `lib/default-encryption.js`.

use salsa20::XSalsa20;
use salsa20::cipher::{KeyIvInit, StreamCipher};

use crate::crypto::{Key, NAMESPACES, hash, keyed_hash};

/// Bytes that encryption adds at the front of every block.
pub const PADDING: usize = 8;

/// A block that is too short to be encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failed to decrypt the block: {length} bytes are fewer than its 8-byte header")]
pub struct DecryptError {
    /// Bytes there were.
    pub length: usize,
}

/// Encrypts and decrypts the blocks of one core.
#[derive(Clone)]
pub struct BlockCipher {
    block_key: [u8; 32],
    blinding_key: [u8; 32],
}

impl std::fmt::Debug for BlockCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockCipher").finish_non_exhaustive()
    }
}

impl BlockCipher {
    /// The cipher of a core under an encryption key; `compat` as in [`crate::manifest::Manifest::is_compat`].
    pub fn new(core_key: &Key, encryption_key: &[u8; 32], compat: bool) -> Self {
        Self::from_block_key(if compat {
            keyed_hash(core_key, &[encryption_key])
        } else {
            hash(&[&NAMESPACES.default_encryption, core_key, encryption_key])
        })
    }

    /// The cipher of a block key that was derived elsewhere.
    pub fn from_block_key(block_key: [u8; 32]) -> Self {
        Self::from_keys(block_key, hash(&[&block_key]))
    }

    /// The cipher of two keys that were derived elsewhere.
    pub fn from_keys(block_key: [u8; 32], blinding_key: [u8; 32]) -> Self {
        Self {
            block_key,
            blinding_key,
        }
    }

    /// The key the blocks are encrypted with.
    pub fn block_key(&self) -> &[u8; 32] {
        &self.block_key
    }

    /// The key that hides the fork.
    pub fn blinding_key(&self) -> &[u8; 32] {
        &self.blinding_key
    }

    /// The stored form of a block.
    pub fn encrypt(&self, index: u64, fork: u64, plaintext: &[u8]) -> Vec<u8> {
        let mut block = Vec::with_capacity(PADDING + plaintext.len());
        block.extend_from_slice(&fork.to_le_bytes());
        block.extend_from_slice(plaintext);
        let (head, body) = block.split_at_mut(PADDING);
        apply(&self.blinding_key, index, &[0; 8], head);
        apply(&self.block_key, index, head, body);
        block
    }

    /// The plaintext of a stored block.
    pub fn decrypt(&self, index: u64, block: &[u8]) -> Result<Vec<u8>, DecryptError> {
        let (head, body) = block
            .split_at_checked(PADDING)
            .ok_or(DecryptError { length: block.len() })?;
        let mut plaintext = body.to_vec();
        apply(&self.block_key, index, head, &mut plaintext);
        Ok(plaintext)
    }
}

/// XSalsa20 with nonce = index ‖ `middle` (8 bytes) ‖ 8 zero bytes.
fn apply(key: &[u8; 32], index: u64, middle: &[u8], bytes: &mut [u8]) {
    let mut nonce = [0; 24];
    nonce[..8].copy_from_slice(&index.to_le_bytes());
    nonce[8..16].copy_from_slice(middle);
    XSalsa20::new(key.into(), &nonce.into()).apply_keystream(bytes);
}
