//! libsodium's `crypto_secretstream_xchacha20poly1305`, one direction of it, encrypting in place.
//!
//! A sealed message is `encrypted tag byte || ciphertext || 16 byte MAC`. The MAC of each message changes the nonce of the next, so
//! messages can be neither dropped nor reordered. Additional data is not supported: Hyperswarm uses none.

use chacha20::cipher::consts::U10;
use chacha20::cipher::generic_array::GenericArray;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use chacha20::{ChaCha20, hchacha};
use poly1305::Poly1305;
use poly1305::universal_hash::{KeyInit, UniversalHash};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes that sealing adds: the tag byte in front and the MAC behind.
pub const OVERHEAD_BYTES: usize = TAG_BYTES + MAC_BYTES;
/// Bytes of the random header that starts a direction.
pub const HEADER_BYTES: usize = 24;

/// Bytes of the message tag in front of each message.
pub(crate) const TAG_BYTES: usize = 1;
pub(crate) const MAC_BYTES: usize = 16;

const BLOCK_BYTES: u32 = 64;
const TAG_MESSAGE: u8 = 0;
/// Bit of the tag after which both sides derive a new key. FINAL (3) contains it.
const TAG_REKEY_BIT: u8 = 2;
const COUNTER_BYTES: usize = 4;

/// A sealed message did not authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forged;

/// The state of one direction.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Cipher {
    key: [u8; 32],
    /// Message counter (u32, little endian, from 1), then 8 bytes that every MAC is mixed into.
    nonce: [u8; 12],
}

impl Cipher {
    pub(crate) fn new(key: &[u8; 32], header: &[u8; HEADER_BYTES]) -> Self {
        let subkey = hchacha::<U10>(
            GenericArray::from_slice(key),
            GenericArray::from_slice(&header[..16]),
        );
        let mut nonce = [0; 12];
        nonce[0] = 1;
        nonce[COUNTER_BYTES..].copy_from_slice(&header[16..]);
        Self {
            key: subkey.into(),
            nonce,
        }
    }

    /// Seals `message`: one byte for the tag, the plaintext, then [`MAC_BYTES`] that are overwritten.
    /// Shorter slices are left alone (callers reserve [`OVERHEAD_BYTES`]).
    pub(crate) fn seal(&mut self, message: &mut [u8]) {
        let Some((body, mac)) = message.split_last_chunk_mut::<MAC_BYTES>() else {
            return;
        };
        let Some((tag, text)) = body.split_first_mut() else {
            return;
        };
        *tag = TAG_MESSAGE;
        let mut keystream = self.keystream();
        let poly = poly_key(&mut keystream);
        let tag_block = crypt_tag(&mut keystream, tag, TAG_MESSAGE);
        keystream.apply_keystream(text);
        *mac = authenticate(poly, &tag_block, text);
        self.advance(mac, TAG_MESSAGE);
    }

    /// Opens a sealed message in place; the plaintext is what lies between the tag byte and the MAC.
    pub(crate) fn open(&mut self, message: &mut [u8]) -> Result<(), Forged> {
        let (body, mac) = message.split_last_chunk_mut::<MAC_BYTES>().ok_or(Forged)?;
        let (tag, text) = body.split_first_mut().ok_or(Forged)?;
        let mut keystream = self.keystream();
        let poly = poly_key(&mut keystream);
        let sealed_tag = *tag;
        let mut tag_block = [0; BLOCK_BYTES as usize];
        tag_block[0] = sealed_tag;
        keystream.apply_keystream(&mut tag_block);
        let plain_tag = tag_block[0];
        tag_block[0] = sealed_tag;
        let expected = authenticate(poly, &tag_block, text);
        if !bool::from(expected.ct_eq(mac)) {
            return Err(Forged);
        }
        keystream.apply_keystream(text);
        *tag = plain_tag;
        self.advance(&expected, plain_tag);
        Ok(())
    }

    fn keystream(&self) -> ChaCha20 {
        ChaCha20::new(
            GenericArray::from_slice(&self.key),
            GenericArray::from_slice(&self.nonce),
        )
    }

    fn advance(&mut self, mac: &[u8; MAC_BYTES], tag: u8) {
        for (to, from) in self.nonce[COUNTER_BYTES..].iter_mut().zip(mac) {
            *to ^= from;
        }
        let counter = self.counter().wrapping_add(1);
        self.nonce[..COUNTER_BYTES].copy_from_slice(&counter.to_le_bytes());
        if tag & TAG_REKEY_BIT != 0 || counter == 0 {
            self.rekey();
        }
    }

    fn counter(&self) -> u32 {
        let [a, b, c, d, ..] = self.nonce;
        u32::from_le_bytes([a, b, c, d])
    }

    /// Key and inner nonce are encrypted with themselves; the counter starts again.
    fn rekey(&mut self) {
        let mut state = [0; 40];
        state[..32].copy_from_slice(&self.key);
        state[32..].copy_from_slice(&self.nonce[COUNTER_BYTES..]);
        self.keystream().apply_keystream(&mut state);
        self.key.copy_from_slice(&state[..32]);
        self.nonce[..COUNTER_BYTES].copy_from_slice(&1_u32.to_le_bytes());
        self.nonce[COUNTER_BYTES..].copy_from_slice(&state[32..]);
        state.zeroize();
    }
}

/// The one-time MAC key: the first keystream block, of which half is dropped.
fn poly_key(keystream: &mut ChaCha20) -> Poly1305 {
    let mut key = poly1305::Key::default();
    keystream.apply_keystream(&mut key);
    keystream.seek(BLOCK_BYTES);
    let poly = Poly1305::new(&key);
    key.zeroize();
    poly
}

/// Encrypts the tag, which takes a whole keystream block; the block is what the MAC covers.
fn crypt_tag(keystream: &mut ChaCha20, tag: &mut u8, plain: u8) -> [u8; BLOCK_BYTES as usize] {
    let mut block = [0; BLOCK_BYTES as usize];
    block[0] = plain;
    keystream.apply_keystream(&mut block);
    *tag = block[0];
    block
}

fn authenticate(mut poly: Poly1305, tag_block: &[u8; 64], text: &[u8]) -> [u8; MAC_BYTES] {
    // Both lengths are multiples of 16, so nothing is padded here.
    poly.update_padded(tag_block);
    let (whole, rest) = text.split_at(text.len() & !15);
    poly.update_padded(whole);
    // libsodium pads by `len & 15` zeros where RFC 8439 would align to 16; both sides must agree with it.
    let mut tail = [0; 15 + 15 + 16];
    tail[..rest.len()].copy_from_slice(rest);
    let lengths = 2 * rest.len();
    let sealed = (text.len() as u64).wrapping_add(u64::from(BLOCK_BYTES));
    tail[lengths + 8..lengths + 16].copy_from_slice(&sealed.to_le_bytes());
    poly.compute_unpadded(&tail[..lengths + 16]).into()
}
