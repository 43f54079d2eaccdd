//! Replicas of one cloud, with a core in one of them that only it has.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::path::Path;

use bytes::Bytes;
use cumulet_hypercore::corestore::{Corestore, CorestoreConfig};
use cumulet_hypercore::crypto;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::segment::ContentCipher;
use cumulet_hypercore::storage::DiskOptions;
use cumulet_secret_stream::noise::KeyPair;

/// Blocks of the core.
pub const BLOCKS: u64 = 200;
const BLOCK_BYTES: usize = 10_000;
const CONTENT_KEY: [u8; 32] = [9; 32];

/// The swarm's public key of the replica with this number.
pub fn public_key(number: u8) -> String {
    hex::encode(KeyPair::from_seed([number; 32]).public_key())
}

/// Makes a replica's data folder.
pub fn prepare(data_dir: &Path, number: u8) {
    std::fs::write(data_dir.join("device.seed"), hex::encode([number; 32])).unwrap();
    std::fs::write(data_dir.join("content.key"), hex::encode(CONTENT_KEY)).unwrap();
}

/// Makes a core in a replica's data folder; returns its key.
pub async fn write_core(data_dir: &Path) -> [u8; 32] {
    let config = CorestoreConfig {
        disk: DiskOptions {
            cipher: Some(ContentCipher::new(&CONTENT_KEY)),
            ..DiskOptions::default()
        },
        ..CorestoreConfig::default()
    };
    let store = Corestore::open(&data_dir.join("cores"), config).unwrap();
    let key_pair = crypto::KeyPair::from_seed(&[5; 32]);
    let manifest = Manifest::single(key_pair.public_key());
    let key = manifest.key();
    let core = store.create(manifest, Some(key_pair)).await.unwrap();
    let block = |number: u64| Bytes::from(vec![u8::try_from(number % 251).unwrap(); BLOCK_BYTES]);
    core.append((0..BLOCKS).map(block).collect()).await.unwrap();
    core.flush().await.unwrap();
    store.close().await.unwrap();
    key
}
