//! Unordered messages beside a stream: UDX datagrams (npm `@hyperswarm/secret-stream` 6.9, `_setupSecretSend`).
//!
//! A datagram is an eight byte counter and a secretbox whose nonce is that counter. Nothing is said about order, loss or
//! repetition: whoever uses them bears all three.

use std::sync::LazyLock;

use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput, Mac};
use blake2::{Blake2b, Blake2bMac, Digest};
use crypto_secretbox::aead::Aead;
use crypto_secretbox::{KeyInit, Nonce, XSalsa20Poly1305};

/// Bytes of the counter before the box.
const COUNTER_BYTES: usize = 8;

/// Bytes of a secretbox's authenticator.
const BOX_OVERHEAD_BYTES: usize = 16;

/// Namespaces of the name `hyperswarm/secret-stream`: of the initiator, the responder, and sending datagrams.
static NAMESPACES: LazyLock<[[u8; 32]; 3]> = LazyLock::new(|| {
    let name: [u8; 32] = Blake2b::<U32>::digest(b"hyperswarm/secret-stream").into();
    [0, 1, 2].map(|index| {
        let state = Blake2b::<U32>::new().chain_update(name);
        state.chain_update([index]).finalize().into()
    })
});

/// The key under which the side of this role seals: BLAKE2b-256 over the role's namespace and that of sending, keyed by
/// the handshake hash.
pub fn sending_key(handshake_hash: &[u8; 64], is_initiator: bool) -> [u8; 32] {
    let [initiator, responder, send] = &*NAMESPACES;
    let role = if is_initiator { initiator } else { responder };
    match <Blake2bMac<U32> as Mac>::new_from_slice(handshake_hash) {
        Ok(state) => Mac::chain_update(Mac::chain_update(state, role), send)
            .finalize_fixed()
            .into(),
        // A key of 64 bytes, BLAKE2b's longest, is always taken.
        Err(_) => [0; 32],
    }
}

/// Seals what one side sends.
pub struct DatagramSealer {
    cipher: XSalsa20Poly1305,
    counter: u64,
}

impl DatagramSealer {
    /// For the side of this role. The counter starts at a random value, so that a side that lost its state does not
    /// repeat nonces.
    pub fn new(handshake_hash: &[u8; 64], is_initiator: bool, initial_counter: u64) -> Self {
        Self {
            cipher: XSalsa20Poly1305::new(&sending_key(handshake_hash, is_initiator).into()),
            counter: initial_counter,
        }
    }

    /// The next datagram; none if the message is too long for the cipher (2^38 bytes, far above any datagram).
    pub fn seal(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        self.counter = self.counter.wrapping_add(1);
        let counter = self.counter.to_le_bytes();
        let sealed = self.cipher.encrypt(&nonce(counter), message).ok()?;
        Some([&counter[..], &sealed].concat())
    }
}

/// Opens what the other side sent.
pub struct DatagramOpener {
    cipher: XSalsa20Poly1305,
}

impl DatagramOpener {
    /// For what the side of this role sends.
    pub fn new(handshake_hash: &[u8; 64], sender_is_initiator: bool) -> Self {
        Self {
            cipher: XSalsa20Poly1305::new(&sending_key(handshake_hash, sender_is_initiator).into()),
        }
    }

    /// The message of a datagram; none if it is too short or not by the other side. Such datagrams are dropped.
    pub fn open(&self, datagram: &[u8]) -> Option<Vec<u8>> {
        let (counter, sealed) = datagram.split_first_chunk::<COUNTER_BYTES>()?;
        if sealed.len() < BOX_OVERHEAD_BYTES {
            return None;
        }
        self.cipher.decrypt(&nonce(*counter), sealed).ok()
    }
}

fn nonce(counter: [u8; COUNTER_BYTES]) -> Nonce {
    let mut nonce = Nonce::default();
    nonce[..COUNTER_BYTES].copy_from_slice(&counter);
    nonce
}
