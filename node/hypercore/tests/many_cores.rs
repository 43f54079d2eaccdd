//! A store of many cores costs a bounded number of descriptors, whether they were written to or only opened.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use cumulet_hypercore::blocks::Blocks;
use cumulet_hypercore::corestore::{Corestore, CorestoreConfig};
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::storage::{DiskOptions, Durability};
use tempfile::TempDir;

const CORES: u16 = 400;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn hundreds_of_cores_with_unsynced_bytes_keep_few_descriptors_open() {
    let dir = TempDir::new().unwrap();
    let disk = DiskOptions {
        durability: Durability::Unsynced,
        ..DiskOptions::default()
    };
    let config = CorestoreConfig {
        disk,
        ..CorestoreConfig::default()
    };
    for round in 0..2 {
        let store = Corestore::open(dir.path(), config.clone()).unwrap();
        let mut cores = Vec::new();
        for number in 0..CORES {
            let mut seed = [9; 32];
            seed[..2].copy_from_slice(&number.to_le_bytes());
            let pair = KeyPair::from_seed(&seed);
            let manifest = Manifest::single(pair.public_key());
            let core = store.create(manifest, Some(pair)).await.unwrap();
            if round == 0 {
                core.append(vec![Bytes::copy_from_slice(&number.to_le_bytes())])
                    .await
                    .unwrap();
            }
            assert_eq!(core.get(0).await.unwrap()[..], number.to_le_bytes());
            cores.push(core);
        }
        let open = descriptors();
        assert!(open < 256, "{open} descriptors for {CORES} cores");
        drop(cores);
        store.close().await.unwrap();
    }
}
