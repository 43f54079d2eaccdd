//! Sealing what the two ends of a hole punch tell each other through relays (npm `hyperdht` `lib/secure-payload.js`).

use std::net::Ipv4Addr;

use bytes::Bytes;
use crypto_secretbox::aead::Aead;
use crypto_secretbox::{KeyInit, Nonce, XSalsa20Poly1305};

use crate::Hash;
use crate::crypto::{keyed_hash, namespace};
use crate::messages::{HolepunchPayload, command};

const NONCE: usize = 24;

pub(crate) struct SecurePayload {
    cipher: XSalsa20Poly1305,
    /// Keys the tokens; ours alone.
    local_secret: Hash,
}

impl SecurePayload {
    /// Of one handshake, on either side.
    pub(crate) fn new(handshake_hash: &[u8; 64], local_secret: Hash) -> Self {
        let secret = keyed_hash(handshake_hash, &namespace(command::PEER_HOLEPUNCH as u8));
        Self::with_secret(&secret, local_secret)
    }

    pub(crate) fn with_secret(secret: &Hash, local_secret: Hash) -> Self {
        Self {
            cipher: XSalsa20Poly1305::new(secret.into()),
            local_secret,
        }
    }

    pub(crate) fn seal(&self, payload: &HolepunchPayload, nonce: [u8; NONCE]) -> Bytes {
        let sealed = self
            .cipher
            .encrypt(Nonce::from_slice(&nonce), payload.encode().as_slice());
        // Encryption of a few hundred bytes into a growing vector has no way to fail.
        [&nonce[..], &sealed.unwrap_or_default()].concat().into()
    }

    pub(crate) fn open(&self, sealed: &[u8]) -> Option<HolepunchPayload> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE)?;
        let plain = self.cipher.decrypt(Nonce::from_slice(nonce), sealed).ok()?;
        HolepunchPayload::decode(&plain).ok()
    }

    /// What a peer at this host must echo to prove that it receives there.
    pub(crate) fn token(&self, host: Ipv4Addr) -> Hash {
        keyed_hash(&self.local_secret, host.to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorded::{bytes, cases, fixed};

    #[test]
    fn payloads_and_tokens_are_those_of_js_and_a_changed_one_does_not_open() {
        for case in cases("holepunch-secure-payload") {
            let secure =
                SecurePayload::with_secret(&fixed(&case["holepunch_secret"]), fixed(&case["local_secret"]));
            let payload = HolepunchPayload::decode(&bytes(&case["plain"])).unwrap();
            let sealed = secure.seal(&payload, fixed(&case["nonce"]));
            assert_eq!(sealed, bytes(&case["hex"]), "{case}");
            assert_eq!(secure.open(&sealed), Some(payload));
            let host = case["token_host"].as_str().unwrap().parse().unwrap();
            assert_eq!(secure.token(host), fixed(&case["token"]));
            let mut broken = sealed.to_vec();
            broken[30] ^= 1;
            assert_eq!(secure.open(&broken), None);
            assert_eq!(secure.open(&sealed[..20]), None);
        }
    }
}
