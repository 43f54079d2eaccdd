//! Sealing: how heads and pins are encrypted under a cloud's content key.
//!
//! A sealed object is `magic (4) ‖ version (1) ‖ key id (8) ‖ nonce (24) ‖ ciphertext ‖ tag (16)`, XChaCha20-Poly1305 with all
//! before the ciphertext, and the caller's context, as associated data. The nonce is a keyed hash of context and
//! plaintext, so two replicas that seal the same content make the same bytes and the same object name; a nonce comes
//! twice only with the same plaintext (or with a collision of 192 bits). The key id is a hash that tells "sealed under
//! another key" from "damaged", without telling the key.
//!
//! Described in `docs/format/backup.md`.

use std::fmt;

use blake2::digest::consts::U32;
use blake2::digest::{KeyInit, Mac};
use blake2::{Blake2b, Blake2bMac, Digest};
use bytes::Bytes;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

const VERSION: u8 = 1;
const ID: usize = 8;
const NONCE: usize = 24;
const TAG: usize = 16;
const HEADER: usize = 4 + 1 + ID + NONCE;

/// The secret under which a cloud's backup is encrypted: 32 bytes, wiped from memory on drop, never printed.
#[derive(Clone)]
pub struct ContentKey(Zeroizing<[u8; 32]>);

impl ContentKey {
    /// Takes the 32 bytes of the key.
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// The 32 bytes, for the segment format.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Eight bytes that tell keys apart and say nothing of the key itself. Sealed objects carry it in the clear.
    pub fn id(&self) -> [u8; ID] {
        let mut id = [0; ID];
        id.copy_from_slice(&self.derive(b"cumulet/backup/v1/id", &[])[..ID]);
        id
    }

    pub(crate) fn derive(&self, domain: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        keyed_hash(&self.0, domain, parts)
    }
}

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentKey(..)")
    }
}

/// Which kind of object is sealed; a head can't be passed off as a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Head,
    Pin,
}

impl Kind {
    fn magic(self) -> &'static [u8; 4] {
        match self {
            Self::Head => b"CuHd",
            Self::Pin => b"CuPn",
        }
    }
}

/// Why sealed bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The bytes are not a sealed object of this kind, or some were changed.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Made by a newer program.
    #[error("its format version {0} is newer than this program")]
    NewerVersion(u8),
    /// Sealed under another content key.
    #[error("it was encrypted under another content key")]
    OtherKey,
}

/// Encrypts; the same input always gives the same bytes.
pub(crate) fn seal(key: &ContentKey, kind: Kind, context: &[u8], plaintext: &[u8]) -> Bytes {
    let length = (context.len() as u64).to_le_bytes();
    let nonce = key.derive(
        b"cumulet/backup/v1/nonce",
        &[kind.magic(), &length, context, plaintext],
    );
    let mut sealed = Vec::with_capacity(HEADER + plaintext.len() + TAG);
    sealed.extend_from_slice(kind.magic());
    sealed.push(VERSION);
    sealed.extend_from_slice(&key.id());
    sealed.extend_from_slice(&nonce[..NONCE]);
    let aad = [&sealed[..], context].concat();
    let payload = Payload {
        msg: plaintext,
        aad: &aad,
    };
    // Fails only for plaintexts of 256 GiB; an empty ciphertext would be refused by everyone who opens it.
    let body = cipher(key)
        .encrypt(XNonce::from_slice(&nonce[..NONCE]), payload)
        .unwrap_or_default();
    sealed.extend_from_slice(&body);
    sealed.into()
}

/// Decrypts and authenticates.
pub(crate) fn open(
    key: &ContentKey,
    kind: Kind,
    context: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, OpenError> {
    if sealed.len() < HEADER + TAG {
        return Err(OpenError::Damaged("too short"));
    }
    let (header, body) = sealed.split_at(HEADER);
    if header[..4] != kind.magic()[..] {
        return Err(OpenError::Damaged("it does not start as an object of its kind"));
    }
    if header[4] != VERSION {
        return Err(OpenError::NewerVersion(header[4]));
    }
    if header[5..5 + ID] != key.id() {
        return Err(OpenError::OtherKey);
    }
    let aad = [header, context].concat();
    let nonce = XNonce::from_slice(&header[5 + ID..]);
    cipher(key)
        .decrypt(nonce, Payload { msg: body, aad: &aad })
        .map_err(|_| OpenError::Damaged("its authentication tag does not fit"))
}

fn cipher(key: &ContentKey) -> XChaCha20Poly1305 {
    let sealing = Zeroizing::new(key.derive(b"cumulet/backup/v1/seal", &[]));
    XChaCha20Poly1305::new(Key::from_slice(&sealing[..]))
}

fn keyed_hash(key: &[u8; 32], domain: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut padded = Zeroizing::new([0; 64]);
    padded[..32].copy_from_slice(key);
    let mut mac = <Blake2bMac<U32> as KeyInit>::new((&*padded).into());
    mac.update(&(domain.len() as u64).to_le_bytes());
    mac.update(domain);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The first eight bytes of BLAKE2b-256: the part of an object's name that says what is in it.
pub(crate) fn content_hash(bytes: &[u8]) -> [u8; 8] {
    let hash: [u8; 32] = Blake2b::<U32>::digest(bytes).into();
    let mut short = [0; 8];
    short.copy_from_slice(&hash[..8]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> ContentKey {
        ContentKey::new([n; 32])
    }

    #[test]
    fn the_same_content_gives_the_same_bytes_and_other_content_other_nonces() {
        let one = seal(&key(1), Kind::Head, b"core", b"text");
        assert_eq!(one, seal(&key(1), Kind::Head, b"core", b"text"));
        let nonce = |sealed: &Bytes| sealed[13..37].to_vec();
        for other in [
            seal(&key(1), Kind::Head, b"core", b"texT"),
            seal(&key(1), Kind::Head, b"cor", b"etext"),
            seal(&key(1), Kind::Pin, b"core", b"text"),
            seal(&key(2), Kind::Head, b"core", b"text"),
        ] {
            assert_ne!(nonce(&one), nonce(&other));
        }
        assert_eq!(open(&key(1), Kind::Head, b"core", &one).unwrap(), b"text");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let sealed = seal(&key(1), Kind::Head, b"core", b"some text that is sealed");
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut bad = sealed.to_vec();
                bad[at] ^= 1 << bit;
                assert!(
                    open(&key(1), Kind::Head, b"core", &bad).is_err(),
                    "byte {at} bit {bit}"
                );
            }
            assert!(open(&key(1), Kind::Head, b"core", &sealed[..at]).is_err());
        }
        assert!(open(&key(1), Kind::Head, b"other", &sealed).is_err());
        assert!(open(&key(1), Kind::Pin, b"core", &sealed).is_err());
    }

    #[test]
    fn another_key_is_told_from_damage_and_shows_in_no_debug_output() {
        let sealed = seal(&key(1), Kind::Head, b"core", b"text");
        assert_eq!(
            open(&key(2), Kind::Head, b"core", &sealed),
            Err(OpenError::OtherKey)
        );
        assert_eq!(format!("{:?}", key(7)), "ContentKey(..)");
    }
}
