//! Protocols by which peers that can't meet directly are helped.
//!
//! - [`blind_relay`]: pairing two streams at a third party that sees ciphertext only, as that party and as its client;
//! - [`blind_peer`]: asking an always-on peer to keep cores, over [`protomux_rpc`]; messages alone;
//! - [`dht_relay`]: a DHT for browsers, over a WebSocket; messages alone;
//! - [`wakeup`]: hints about which cores of a group have news; messages alone.
//!
//! Decoders take bytes from strangers, allocate no more than they were given bytes, and never panic; bytes after the
//! known fields are ignored, as JavaScript does, so that formats may grow at their end.

pub mod blind_peer;
pub mod blind_relay;
pub mod dht_relay;
pub mod protomux_rpc;
pub mod wakeup;

use cumulet_encoding::{DecodeError, Reader, Writer};

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

/// Reads what is there if its flag is set.
fn given<T>(is_set: bool, read: impl FnOnce() -> Result<T, DecodeError>) -> Result<Option<T>, DecodeError> {
    if is_set { read().map(Some) } else { Ok(None) }
}

/// Reads as many items as announced; each takes at least `min_bytes`, so their number is bounded by the bytes left.
fn array<T>(
    reader: &mut Reader<'_>,
    min_bytes: usize,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = reader.array_len(min_bytes)?;
    (0..count).map(|_| read(reader)).collect()
}
