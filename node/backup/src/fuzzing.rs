//! What the fuzzer calls. Built with `--cfg fuzzing` only.

use cumulet_hypercore::crypto::discovery_key;

use crate::head::Head;
use crate::names::HeadName;
use crate::sealing::{ContentKey, Kind, content_hash, seal};

/// A head object: as it is, and as the content of one that is sealed with the right key.
///
/// # Panics
/// When opening panics, or when a head opens that its core's signers did not sign.
pub fn head(data: &[u8]) {
    let key = ContentKey::new([9; 32]);
    // Where the core's key lies in the content.
    let mut core = [0; 32];
    let body = data.get(1..).unwrap_or_default();
    let length = body.len().min(32);
    core[..length].copy_from_slice(&body[..length]);
    let discovery = discovery_key(&core);
    let sealed = seal(&key, Kind::Head, &discovery, data);
    for bytes in [data, &sealed] {
        let name = HeadName {
            fork: 0,
            length: u64::from(data.last().copied().unwrap_or_default()),
            hash: content_hash(bytes),
        };
        if let Ok(proven) = Head::open(&key, &discovery, &name, bytes) {
            assert!(proven.head.signed.verify().is_ok());
        }
    }
}
