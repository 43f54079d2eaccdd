//! Durability of a store's cores: who waits for which sync.

use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::blocks::{Blocks, BlocksError};
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

fn words(words: &[&'static str]) -> Vec<Bytes> {
    words
        .iter()
        .map(|word| Bytes::from_static(word.as_bytes()))
        .collect()
}

#[tokio::test]
async fn a_snapshot_stays_as_it_is_also_where_truncations_took_what_it_reads() {
    let dir = TempDir::new().unwrap();
    for store in [
        Corestore::in_memory(CorestoreConfig::default()),
        Corestore::open(dir.path(), CorestoreConfig::default()).unwrap(),
    ] {
        read_while_the_core_is_cut(store).await;
    }
}

async fn read_while_the_core_is_cut(store: Corestore) {
    let core = writer(&store).await;
    core.append(words(&["a", "bb", "ccc", "dddd"])).await.unwrap();
    let (whole, older) = (core.snapshot().await, core.checkout(2).await.unwrap());
    assert!(matches!(
        core.checkout(5).await,
        Err(BlocksError::OutOfRange { length: 4, .. })
    ));
    core.append(words(&["later"])).await.unwrap();
    assert_eq!((whole.length(), older.length(), core.length()), (4, 2, 5));
    assert_eq!(whole.get(3).await.unwrap(), "dddd");
    assert_eq!(older.get(1).await.unwrap(), "bb");
    assert!(matches!(
        older.get(2).await,
        Err(BlocksError::OutOfRange { length: 2, .. })
    ));
    assert_eq!(older.seek(1).await.unwrap(), (1, 0));
    assert_eq!(older.seek(3).await.unwrap(), (2, 0));
    assert!(matches!(older.seek(4).await, Err(BlocksError::OutOfRange { .. })));

    core.truncate_to_fork(3, 5).await.unwrap();
    core.append(words(&["other"])).await.unwrap();
    assert_eq!((core.fork(), whole.fork()), (5, 0));
    assert_eq!(
        (whole.length(), whole.kept_length(), older.kept_length()),
        (4, 3, 2)
    );
    assert_eq!(whole.get(2).await.unwrap(), "ccc");
    assert_eq!(whole.get(3).await.unwrap(), "dddd");
    assert_eq!(whole.seek(8).await.unwrap(), (3, 2));
    assert_eq!(whole.seek(4).await.unwrap(), (2, 1));
    assert_eq!(whole.seek(10).await.unwrap(), (4, 0));
    assert!(matches!(
        whole.seek(11).await,
        Err(BlocksError::OutOfRange { .. })
    ));
    assert_eq!(older.get(1).await.unwrap(), "bb");
    assert_eq!(core.get(3).await.unwrap(), "other");

    // Both of them, further down, and a snapshot of what came between.
    let between = core.snapshot().await;
    core.truncate(1).await.unwrap();
    core.append(words(&["x", "y", "z", "z"])).await.unwrap();
    for (index, word) in ["a", "bb", "ccc", "dddd"].iter().enumerate() {
        assert_eq!(whole.get(index as u64).await.unwrap(), word.as_bytes());
    }
    assert_eq!(between.get(3).await.unwrap(), "other");
    assert_eq!(between.get(2).await.unwrap(), "ccc");
    assert_eq!(older.get(1).await.unwrap(), "bb");
    assert_eq!(
        (between.fork(), between.kept_length(), older.kept_length()),
        (5, 1, 1)
    );
    assert_eq!(whole.seek(8).await.unwrap(), (3, 2));
    assert_eq!(between.seek(10).await.unwrap(), (3, 4));
    core.close().await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(whole.get(3).await, Err(BlocksError::Closed)));
}

#[tokio::test]
async fn what_a_snapshot_did_not_hold_when_it_was_cut_off_is_an_error_and_never_another_block() {
    let store = Corestore::in_memory(CorestoreConfig::default());
    let core = writer(&store).await;
    core.append(words(&["a", "bb", "ccc", "dddd"])).await.unwrap();
    core.clear(2..3).await.unwrap();
    let whole = core.snapshot().await;
    core.truncate(2).await.unwrap();
    core.append(words(&["x", "y"])).await.unwrap();
    assert!(matches!(
        whole.get(2).await,
        Err(BlocksError::Replaced { index: 2 })
    ));
    assert_eq!(whole.get(3).await.unwrap(), "dddd");
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_core_whose_last_handle_was_given_back_is_closed_and_can_be_opened_again() {
    let dir = TempDir::new().unwrap();
    let store = Corestore::open(dir.path(), CorestoreConfig::default()).unwrap();
    let core = writer(&store).await;
    let (name, other) = (*core.discovery_key(), core.clone());
    core.append(words(&["kept"])).await.unwrap();
    core.set_user_data("app", Some(Bytes::from("state")))
        .await
        .unwrap();
    let open = || async { store.inner.cores.lock().await.as_ref().unwrap().len() };
    core.close().await.unwrap();
    assert_eq!(open().await, 1, "another handle has it");
    assert_eq!(other.get(0).await.unwrap(), "kept");
    other.close().await.unwrap();
    assert_eq!(open().await, 0);
    let again = store.find(&name).await.unwrap().unwrap();
    assert_eq!(again.get(0).await.unwrap(), "kept");
    assert_eq!(again.user_data("app").await.unwrap(), "state");
    again.set_user_data("app", None).await.unwrap();
    drop(again);
    store.close().await.unwrap();
    let store = Corestore::open(dir.path(), CorestoreConfig::default()).unwrap();
    let again = store.find(&name).await.unwrap().unwrap();
    assert_eq!(again.user_data("app").await, None);
    store.close().await.unwrap();
    // A handle that outlives its store can still be given back.
    again.close().await.unwrap();
}

#[tokio::test]
async fn a_compat_core_has_its_signers_key_and_is_writable_whenever_its_key_pair_is_given() {
    let dir = TempDir::new().unwrap();
    let pair = KeyPair::from_seed(&[3; 32]);
    for round in 0..2 {
        let store = Corestore::open(dir.path(), CorestoreConfig::default()).unwrap();
        let core = store.create_compat(pair.clone()).await.unwrap();
        assert_eq!(*core.key(), pair.public_key());
        assert!(core.with_core(Core::is_compat).await);
        assert_eq!(core.append(words(&["a"])).await.unwrap(), round + 1);
        store.close().await.unwrap();
    }
}
