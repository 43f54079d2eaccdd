//! Round-trip tokens: proof that a requester receives at the address it sends from.
//!
//! A token is the requester's host (dotted, no port) hashed under a local secret. Two secrets are valid at a time
//! and rotate, so a token lives one to two rotation periods.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;

use crate::Hash;
use crate::crypto::{hash, keyed_hash};

/// Time between rotations: ten drain ticks of 750 ms in dht-rpc.
pub(crate) const ROTATION: Duration = Duration::from_millis(7_500);

#[derive(Debug)]
pub(crate) struct Tokens {
    /// Older secret first; new tokens are made with the second.
    secrets: [Hash; 2],
    rotate_at: Instant,
}

impl Tokens {
    pub(crate) fn new(secrets: [Hash; 2], now: Instant) -> Self {
        Self {
            secrets,
            rotate_at: now + ROTATION,
        }
    }

    pub(crate) fn create(&self, host: Ipv4Addr) -> Hash {
        keyed_hash(&self.secrets[1], host.to_string().as_bytes())
    }

    pub(crate) fn is_valid(&self, host: Ipv4Addr, token: &Hash) -> bool {
        let host = host.to_string();
        self.secrets
            .iter()
            .fold(subtle::Choice::from(0), |found, secret| {
                found | keyed_hash(secret, host.as_bytes()).ct_eq(token)
            })
            .into()
    }

    /// Rotates as often as time demands. Lazy: no timer runs while nobody asks.
    pub(crate) fn advance(&mut self, now: Instant) {
        // After two periods both secrets are new anyway; catching up further would change nothing.
        for _ in 0..2 {
            if now < self.rotate_at {
                return;
            }
            self.rotate();
            self.rotate_at += ROTATION;
        }
        if now >= self.rotate_at {
            self.rotate_at = now + ROTATION;
        }
    }

    fn rotate(&mut self) {
        let [old, current] = self.secrets;
        self.secrets = [current, hash(&[&old])];
    }

    #[cfg(any(test, feature = "vectors"))]
    pub(crate) fn secrets(&self) -> [Hash; 2] {
        self.secrets
    }
}
