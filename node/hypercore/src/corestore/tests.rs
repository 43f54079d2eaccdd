//! Durability of a store's cores: who waits for which sync.

use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::blocks::Blocks;
use crate::storage::{Durability, Faults, Files};

fn config(durability: Durability, faults: &Arc<Faults>) -> CorestoreConfig {
    let disk = DiskOptions {
        durability,
        files: Files::with_faults(8, faults.clone()),
        ..DiskOptions::default()
    };
    CorestoreConfig {
        disk,
        ..CorestoreConfig::default()
    }
}

async fn writer(store: &Corestore) -> CoreHandle {
    let pair = KeyPair::from_seed(&[3; 32]);
    store
        .create(Manifest::single(pair.public_key()), Some(pair))
        .await
        .unwrap()
}

/// Far more than any of these tests needs.
const MANY: i64 = 1 << 40;

#[tokio::test]
async fn appenders_at_the_same_time_share_syncs_and_each_gets_its_own_block() {
    let (dir, faults) = (TempDir::new().unwrap(), Faults::after(MANY));
    let store = Corestore::open(dir.path(), config(Durability::Synced, &faults)).unwrap();
    let core = writer(&store).await;
    let before = faults.syncs();
    let mut appends = JoinSet::new();
    for number in 0..64_u8 {
        let core = core.clone();
        appends.spawn(async move {
            let length = core.append(vec![Bytes::from(vec![number; 100])]).await.unwrap();
            (number, length)
        });
    }
    while let Some(ended) = appends.join_next().await {
        let (number, length) = ended.unwrap();
        assert_eq!(core.get(length - 1).await.unwrap()[0], number);
        assert!(core.watch_durable().borrow().length >= length);
    }
    assert_eq!(core.state().length, 64);
    let syncs = faults.syncs() - before;
    assert!((1..=16).contains(&syncs), "{syncs} syncs for 64 appends");
    drop(core);
    store.close().await.unwrap();
}

#[tokio::test]
async fn an_append_without_sync_returns_before_the_disk_has_it_and_a_flush_waits_for_the_disk() {
    let (dir, faults) = (TempDir::new().unwrap(), Faults::after(MANY));
    let store = Corestore::open(dir.path(), config(Durability::Unsynced, &faults)).unwrap();
    let core = writer(&store).await;
    let before = faults.syncs();
    for number in 0..20_u8 {
        core.append(vec![Bytes::from(vec![number; 10])]).await.unwrap();
    }
    assert_eq!(faults.syncs(), before);
    assert_eq!(
        core.watch_durable().borrow().length,
        0,
        "nothing is claimed to be durable"
    );
    core.flush().await.unwrap();
    assert_eq!(faults.syncs(), before + 1);
    assert_eq!(core.watch_durable().borrow().length, 20);
    core.append(vec![Bytes::from_static(b"last")]).await.unwrap();
    drop(core);
    store.close().await.unwrap();
    assert_eq!(faults.syncs(), before + 2, "closing makes durable");
}

#[tokio::test]
async fn appenders_that_share_a_failed_sync_are_all_told() {
    let (dir, faults) = (TempDir::new().unwrap(), Faults::after(MANY));
    let store = Corestore::open(dir.path(), config(Durability::Synced, &faults)).unwrap();
    let core = writer(&store).await;
    core.append(vec![Bytes::from_static(b"kept")]).await.unwrap();
    faults.fail_syncs();
    let mut appends = JoinSet::new();
    for number in 0..8_u8 {
        let core = core.clone();
        appends.spawn(async move { core.append(vec![Bytes::from(vec![number])]).await });
    }
    while let Some(ended) = appends.join_next().await {
        assert!(ended.unwrap().is_err());
    }
    assert_eq!(core.watch_durable().borrow().length, 1);
}
