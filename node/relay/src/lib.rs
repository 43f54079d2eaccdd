//! Protocols by which peers that can't meet directly are helped.
//!
//! - [`blind_relay`]: pairing two streams at a third party that sees ciphertext only, as that party and as its client.
//!
//! Decoders take bytes from strangers, allocate no more than they were given bytes, and never panic; bytes after the
//! known fields are ignored, as JavaScript does, so that formats may grow at their end.

pub mod blind_relay;

use cumulet_encoding::Writer;

/// 32 bytes: a public key, a topic, a token, a hash.
pub type Key = [u8; 32];

/// `bit` if it is set.
fn flag(is_set: bool, bit: u64) -> u64 {
    if is_set { bit } else { 0 }
}

/// Encodes by `write` into fresh bytes.
fn encoded(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::new();
    write(&mut writer);
    writer.into_vec()
}
