//! Encryption of segments under a cloud's content key, block by block.
//!
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha). The nonce is a keyed hash of all that is encrypted: core, fork, index
//! and the block's own Merkle leaf hash. So the same nonce means the same plaintext, replicas make identical bytes,
//! and no counter has to be kept. The place of a block (core, fork, index) is authenticated with it: a block can't be
//! moved. Two keys are derived from the content key, one for nonces and one for the cipher.

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305, XNonce};

use super::format::Place;
use crate::crypto::{Hash, keyed_hash};

const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// Bytes that encryption adds to a block: the nonce before it, the tag behind it.
pub const OVERHEAD: usize = NONCE_BYTES + TAG_BYTES;

/// Seals and opens blocks under a content key. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct ContentCipher {
    cipher: XChaCha20Poly1305,
    nonce_key: Hash,
}

impl std::fmt::Debug for ContentCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentCipher").finish_non_exhaustive()
    }
}

/// Equal when made from the same content key. Not for secrets that an attacker may probe.
impl PartialEq for ContentCipher {
    fn eq(&self, other: &Self) -> bool {
        self.nonce_key == other.nonce_key
    }
}

impl Eq for ContentCipher {}

/// The bytes were not sealed for this place under this key, or were changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes don't open under this content key: they were changed, or belong to another cloud")]
pub struct OpenError;

impl ContentCipher {
    /// The cipher of a content key.
    pub fn new(content_key: &[u8; 32]) -> Self {
        let key = keyed_hash(content_key, &[b"cumulet segment v1 cipher"]);
        Self {
            cipher: XChaCha20Poly1305::new(&key.into()),
            nonce_key: keyed_hash(content_key, &[b"cumulet segment v1 nonce"]),
        }
    }

    /// Appends nonce, ciphertext and tag of a block to `out`. Fails only beyond the cipher's limit of 256 GiB.
    pub(super) fn seal(
        &self,
        place: &Place,
        block_index: u64,
        leaf: &Hash,
        block: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), OpenError> {
        let bound = bound(place, block_index);
        let digest = keyed_hash(&self.nonce_key, &[&bound, leaf]);
        let nonce = &digest[..NONCE_BYTES];
        out.extend_from_slice(nonce);
        let start = out.len();
        out.extend_from_slice(block);
        let tag = self
            .cipher
            .encrypt_in_place_detached(XNonce::from_slice(nonce), &bound, &mut out[start..])
            .map_err(|_| OpenError)?;
        out.extend_from_slice(&tag);
        Ok(())
    }

    /// The block in `stored`, which is what [`ContentCipher::seal`] appended for the same place.
    pub(super) fn open(&self, place: &Place, block_index: u64, stored: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (nonce, rest) = stored.split_at_checked(NONCE_BYTES).ok_or(OpenError)?;
        let body = rest.len().checked_sub(TAG_BYTES).ok_or(OpenError)?;
        let (body, tag) = rest.split_at(body);
        let mut block = body.to_vec();
        self.cipher
            .decrypt_in_place_detached(
                XNonce::from_slice(nonce),
                &bound(place, block_index),
                &mut block,
                Tag::from_slice(tag),
            )
            .map_err(|_| OpenError)?;
        Ok(block)
    }
}

/// What a block's encryption is bound to: discovery key ‖ u64 fork ‖ u64 block index, little endian.
fn bound(place: &Place, block_index: u64) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..32].copy_from_slice(&place.discovery_key);
    bytes[32..40].copy_from_slice(&place.fork.to_le_bytes());
    bytes[40..].copy_from_slice(&block_index.to_le_bytes());
    bytes
}
