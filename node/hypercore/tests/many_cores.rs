//! A store of many cores costs a bounded number of descriptors and a bounded memory for each, whether they were written to
//! or only opened. The full size is measured by the example `open_cores`.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use cumulet_hypercore::blocks::Blocks;
use cumulet_hypercore::corestore::{Corestore, CorestoreConfig};
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::storage::{DiskOptions, Durability};
use tempfile::TempDir;

const CORES: u16 = 400;

/// What a core that is only open may cost in memory: ten thousand must fit into 200 MiB.
const MOST_KIBIBYTES_PER_CORE: u64 = 20;

/// In memory where the system has such a directory: making a core syncs several times, which is not what is tested.
fn directory() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// Memory in use by this process, in KiB.
fn resident_kibibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

/// What is counted is counted for the whole process.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn hundreds_of_cores_with_unsynced_bytes_keep_few_descriptors_open() {
    let _alone = ALONE.lock().await;
    let dir = directory();
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

#[tokio::test]
async fn a_core_that_is_found_in_the_store_and_kept_open_costs_little_memory() {
    let _alone = ALONE.lock().await;
    let dir = directory();
    let config = CorestoreConfig {
        disk: DiskOptions {
            durability: Durability::Unsynced,
            ..DiskOptions::default()
        },
        ..CorestoreConfig::default()
    };
    let store = Corestore::open(dir.path(), config.clone()).unwrap();
    for number in 0..CORES {
        let mut seed = [8; 32];
        seed[..2].copy_from_slice(&number.to_le_bytes());
        let pair = KeyPair::from_seed(&seed);
        let manifest = Manifest::single(pair.public_key());
        let core = store.create(manifest, Some(pair)).await.unwrap();
        core.append(vec![Bytes::from_static(&[1; 512]); 4]).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);

    let store = Corestore::open(dir.path(), config).unwrap();
    let names = store.list().await.unwrap();
    assert_eq!(names.len(), usize::from(CORES));
    let before = resident_kibibytes();
    let mut cores = Vec::new();
    for name in names {
        let core = store.find(&name).await.unwrap().unwrap();
        assert_eq!(core.get(3).await.unwrap(), Bytes::from_static(&[1; 512]));
        cores.push(core);
    }
    let each = resident_kibibytes().saturating_sub(before) / u64::from(CORES);
    assert!(each <= MOST_KIBIBYTES_PER_CORE, "{each} KiB for each core");
    store.close().await.unwrap();
}
