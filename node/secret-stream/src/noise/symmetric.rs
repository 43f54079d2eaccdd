//! Noise's symmetric state (revision 34, section 5.2) with ChaCha20-Poly1305 and BLAKE2b-512.
//!
//! HMAC is the RFC 2104 construction with BLAKE2b's 128 byte block, not BLAKE2b's own keyed mode.

use blake2::{Blake2b512, Digest};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, Tag};
use hmac::{Mac, SimpleHmac};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::NoiseError;

/// Bytes of the authentication tag that follows each encrypted field.
pub(super) const TAG_BYTES: usize = 16;

#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct SymmetricState {
    hash: [u8; 64],
    chaining_key: [u8; 64],
    key: Option<[u8; 32]>,
    counter: u32,
}

impl SymmetricState {
    /// `protocol_name` is at most 64 bytes, so it is zero padded, not hashed.
    pub(super) fn new(protocol_name: &str, prologue: &[u8]) -> Self {
        let mut hash = [0; 64];
        for (to, from) in hash.iter_mut().zip(protocol_name.bytes()) {
            *to = from;
        }
        let mut state = Self {
            hash,
            chaining_key: hash,
            key: None,
            counter: 0,
        };
        state.mix_hash(prologue);
        state
    }

    pub(super) fn hash(&self) -> &[u8; 64] {
        &self.hash
    }

    #[cfg(feature = "vectors")]
    pub(super) fn chaining_key(&self) -> &[u8; 64] {
        &self.chaining_key
    }

    pub(super) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    pub(super) fn mix_hash(&mut self, data: &[u8]) {
        self.hash = Blake2b512::new()
            .chain_update(self.hash)
            .chain_update(data)
            .finalize()
            .into();
    }

    pub(super) fn mix_key(&mut self, input: &[u8]) {
        let (chaining_key, key) = hkdf(&self.chaining_key, input);
        self.chaining_key.copy_from_slice(&*chaining_key);
        self.key = Some(first_half(&key));
        self.counter = 0;
    }

    /// Appends `plaintext`, encrypted once a key exists, to `out`.
    pub(super) fn encrypt_and_hash(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), NoiseError> {
        let start = out.len();
        out.extend_from_slice(plaintext);
        if let Some(key) = self.key {
            let nonce = self.next_nonce()?;
            let tag = ChaCha20Poly1305::new(&key.into())
                .encrypt_in_place_detached(&nonce, &self.hash, &mut out[start..])
                .map_err(|_| NoiseError::MessageTooLong)?;
            out.extend_from_slice(&tag);
        }
        self.mix_hash(&out[start..]);
        Ok(())
    }

    pub(super) fn decrypt_and_hash(&mut self, ciphertext: &[u8]) -> Result<Vec<u8>, NoiseError> {
        let Some(key) = self.key else {
            self.mix_hash(ciphertext);
            return Ok(ciphertext.to_vec());
        };
        let (body, tag) = ciphertext
            .split_last_chunk::<TAG_BYTES>()
            .ok_or(NoiseError::MessageTooShort)?;
        let mut plaintext = body.to_vec();
        let nonce = self.next_nonce()?;
        ChaCha20Poly1305::new(&key.into())
            .decrypt_in_place_detached(&nonce, &self.hash, &mut plaintext, &Tag::from(*tag))
            .map_err(|_| NoiseError::Authentication)?;
        self.mix_hash(ciphertext);
        Ok(plaintext)
    }

    /// The two transport keys: initiator to responder, and back.
    pub(super) fn split(&self) -> ([u8; 32], [u8; 32]) {
        let (first, second) = hkdf(&self.chaining_key, &[]);
        (first_half(&first), first_half(&second))
    }

    fn next_nonce(&mut self) -> Result<Nonce, NoiseError> {
        let mut nonce = Nonce::default();
        nonce[4..8].copy_from_slice(&self.counter.to_le_bytes());
        self.counter = self.counter.checked_add(1).ok_or(NoiseError::Finished)?;
        Ok(nonce)
    }
}

fn first_half(key: &[u8; 64]) -> [u8; 32] {
    let mut half = [0; 32];
    half.copy_from_slice(&key[..32]);
    half
}

type Wide = Zeroizing<[u8; 64]>;

fn hkdf(chaining_key: &[u8; 64], input: &[u8]) -> (Wide, Wide) {
    let secret = hmac(chaining_key, &[input]);
    let first = hmac(&secret, &[&[1]]);
    let second = hmac(&secret, &[&*first, &[2]]);
    (first, second)
}

fn hmac(key: &[u8; 64], parts: &[&[u8]]) -> Wide {
    // A 64 byte key is shorter than the 128 byte block, so it is padded; every length is accepted.
    let mut padded = hmac::digest::Key::<SimpleHmac<Blake2b512>>::default();
    padded[..64].copy_from_slice(key);
    let mut mac = <SimpleHmac<Blake2b512> as hmac::digest::KeyInit>::new(&padded);
    for part in parts {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}
