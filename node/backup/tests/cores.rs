//! Real cores, shipped from where they are open and restored into a storage that is opened afterwards.

#![allow(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod model;
mod stores;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cumulet_backup::core::{CoreSource, CoreTarget, LockedCore};
use cumulet_backup::restore::{RestoreError, RestoreProgress, RestoreReport, Until};
use cumulet_backup::store::ObjectStore;
use cumulet_hypercore::core::Core;
use cumulet_hypercore::corestore::{Corestore, CorestoreConfig};
use cumulet_hypercore::crypto::{Key, KeyPair, discovery_key};
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::messages::{Request, RequestBlock, RequestUpgrade};
use cumulet_hypercore::segment::ContentCipher;
use cumulet_hypercore::storage::{Changes, DiskOptions, DiskStorage, Head, MemoryStorage, Storage};
use model::{Ship, content_key, contents, restorer};
use proptest::prelude::*;

fn writer(seed: u8) -> Core<MemoryStorage> {
    let key_pair = KeyPair::from_seed(&[seed; 32]);
    let manifest = Manifest::single(key_pair.public_key());
    Core::create(MemoryStorage::default(), manifest, Some(key_pair)).unwrap()
}

fn block(index: u64, fork: u64) -> Bytes {
    Bytes::from(format!(
        "block {index} of fork {fork} {}",
        "x".repeat(index as usize % 40)
    ))
}

fn append(core: &mut Core<MemoryStorage>, count: u64) {
    let (from, fork) = (core.length(), core.fork());
    core.append_batch((from..from + count).map(|index| block(index, fork)).collect())
        .unwrap();
}

async fn ship<S: Storage + 'static>(store: &Arc<dyn ObjectStore>, core: &Arc<LockedCore<S>>) {
    let ship = Ship::new(store.clone(), Duration::from_secs(5));
    ship.shipper.add(Arc::new(CoreSource(core.clone())));
    ship.shipper.flush().await.unwrap();
    ship.stop().await;
}

async fn try_restore<S: Storage + 'static>(
    store: &Arc<dyn ObjectStore>,
    core: Core<S>,
) -> Result<(RestoreReport, Core<S>), RestoreError> {
    let (key, core) = (*core.key(), Arc::new(LockedCore::new(core)));
    let found = restorer(store).find(&discovery_key(&key), Until::Newest).await?;
    let progress = tokio::sync::watch::Sender::new(RestoreProgress::default());
    let target = Arc::new(CoreTarget(
        core.clone(),
        ContentCipher::new(content_key().as_bytes()),
    ));
    let report = restorer(store).restore(&found, target, &progress).await?;
    // Opened anew, so that what the storage has is what counts.
    let storage = Arc::into_inner(core).unwrap().into_core().into_storage();
    Ok((report, Core::open(storage, key).unwrap()))
}

async fn restore(store: &Arc<dyn ObjectStore>, key: Key) -> (RestoreReport, Core<MemoryStorage>) {
    try_restore(store, Core::open(MemoryStorage::default(), key).unwrap())
        .await
        .unwrap()
}

fn same<S: Storage, T: Storage>(restored: &Core<S>, core: &Core<T>) {
    assert_eq!((restored.length(), restored.fork()), (core.length(), core.fork()));
    assert_eq!(
        (restored.roots(), restored.signature()),
        (core.roots(), core.signature())
    );
    for index in 0..core.length() {
        assert_eq!(
            restored.get(index).unwrap(),
            core.get(index).unwrap(),
            "block {index}"
        );
    }
}

/// Every block of the core is proven to a peer that knows the head only.
fn serves_all<S: Storage>(core: &Core<S>, key: Key) {
    let mut storage = MemoryStorage::default();
    let head = Some(Head {
        fork: core.fork(),
        ..Head::default()
    });
    storage
        .apply(Changes {
            head,
            ..Changes::default()
        })
        .unwrap();
    let mut peer = Core::open(storage, key).unwrap();
    for index in (0..core.length()).filter(|index| core.has(*index)) {
        let upgrade = (peer.length() < core.length()).then(|| RequestUpgrade {
            start: peer.length(),
            length: core.length() - peer.length(),
        });
        let nodes = peer.missing_nodes(index).unwrap();
        let block = Some(RequestBlock { index, nodes });
        let request = Request {
            fork: core.fork(),
            block,
            upgrade,
            manifest: true,
            ..Request::default()
        };
        peer.verify_and_apply(core.create_proof(&request).unwrap())
            .unwrap();
        assert_eq!(peer.get(index).unwrap(), core.get(index).unwrap());
    }
}

#[tokio::test]
async fn a_real_core_comes_back_from_both_stores_and_serves_every_block() {
    for test in stores::both().await {
        let mut core = writer(1);
        append(&mut core, 77);
        core.clear(10..12).unwrap();
        core.clear(64..70).unwrap();
        let key = *core.key();
        let shared = Arc::new(LockedCore::new(core));
        ship(&test.store, &shared).await;
        let (report, restored) = restore(&test.store, key).await;
        assert!(report.is_complete(), "{}: {report:?}", test.name);
        same(&restored, &shared.lock());
        serves_all(&restored, key);
    }
}

#[tokio::test]
async fn a_shorter_copy_is_brought_up_to_date_where_its_place_is_known() {
    let test = stores::file();
    let mut core = writer(1);
    append(&mut core, 8);
    let key = *core.key();
    let shared = Arc::new(LockedCore::new(core));
    ship(&test.store, &shared).await;
    let (_, copy) = restore(&test.store, key).await;

    append(&mut shared.lock(), 5);
    ship(&test.store, &shared).await;
    let (report, copy) = try_restore(&test.store, copy).await.unwrap();
    assert_eq!(
        (report.present, report.restored),
        (1, 2),
        "the first eight blocks were there"
    );
    same(&copy, &shared.lock());
    serves_all(&copy, key);

    append(&mut shared.lock(), 3);
    ship(&test.store, &shared).await;
    let error = try_restore(&test.store, copy).await.err().unwrap();
    assert!(error.to_string().contains("can't be joined"), "{error}");
    let (_, fresh) = restore(&test.store, key).await;
    same(&fresh, &shared.lock());
}

#[tokio::test]
async fn a_later_fork_is_restored_into_an_empty_core_and_never_over_another_fork() {
    let test = stores::file();
    let mut core = writer(1);
    append(&mut core, 8);
    let key = *core.key();
    let shared = Arc::new(LockedCore::new(core));
    ship(&test.store, &shared).await;
    let (_, old) = restore(&test.store, key).await;
    shared.lock().truncate(4, None).unwrap();
    append(&mut shared.lock(), 1);
    ship(&test.store, &shared).await;

    let (report, copy) = restore(&test.store, key).await;
    assert_eq!((report.fork, report.length), (1, 5));
    same(&copy, &shared.lock());
    serves_all(&copy, key);
    let error = try_restore(&test.store, old).await.err().unwrap();
    assert!(
        error.to_string().contains("fork 0 here, the backup at fork 1"),
        "{error}"
    );
}

#[tokio::test]
async fn a_storage_with_another_history_is_not_papered_over() {
    let test = stores::file();
    let (mut core, mut twin) = (writer(1), writer(1));
    append(&mut core, 8);
    twin.append_batch((0..8).map(|_| Bytes::from_static(b"another history")).collect())
        .unwrap();
    ship(&test.store, &Arc::new(LockedCore::new(core))).await;
    let error = try_restore(&test.store, twin).await.err().unwrap();
    assert!(error.to_string().contains("two histories"), "{error}");
}

#[tokio::test]
async fn cores_on_disk_are_shipped_and_restored_as_the_very_files_whatever_their_encryption() {
    let [memory_store, disk_store] = [stores::file(), stores::file()];
    let mut core = writer(1);
    for round in 0..5_u8 {
        core.append_batch(vec![
            Bytes::from(vec![round; 1 << 20]),
            Bytes::from(vec![round; 9]),
        ])
        .unwrap();
    }
    let key = *core.key();
    let memory = Arc::new(LockedCore::new(core));
    ship(&memory_store.store, &memory).await;
    let shipped = contents(memory_store.store.as_ref()).await;
    for cipher in [
        None,
        Some(ContentCipher::new(content_key().as_bytes())),
        Some(ContentCipher::new(&[9; 32])),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let options = DiskOptions {
            cipher,
            ..DiskOptions::default()
        };
        let open = || DiskStorage::open(directory.path(), discovery_key(&key), options.clone()).unwrap();
        let empty = Core::open(open(), key).unwrap();
        let (report, restored) = try_restore(&memory_store.store, empty).await.unwrap();
        assert!(report.is_complete());
        same(&restored, &memory.lock());
        drop(restored);
        let reopened = Core::open(open(), key).unwrap();
        same(&reopened, &memory.lock());

        ship(&disk_store.store, &Arc::new(LockedCore::new(reopened))).await;
        assert!(
            contents(disk_store.store.as_ref()).await == shipped,
            "every replica makes the same objects"
        );
    }
}

#[tokio::test]
async fn the_cores_of_a_corestore_are_shipped_while_they_are_written_and_restored_into_another() {
    for test in stores::both().await {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let written = Corestore::open(here.path(), CorestoreConfig::default()).unwrap();
        let key_pair = KeyPair::from_seed(&[1; 32]);
        let core = written
            .create(Manifest::single(key_pair.public_key()), Some(key_pair))
            .await
            .unwrap();
        let ship = Ship::new(test.store.clone(), Duration::from_millis(20));
        ship.shipper.add(Arc::new(CoreSource(core.clone())));
        let discovery = *core.discovery_key();
        for round in 0..10_u64 {
            core.append((0..7).map(|index| block(index, round)).collect())
                .await
                .unwrap();
            let length = core.state().length;
            ship.until(|p| {
                p.cores
                    .get(&discovery)
                    .is_some_and(|core| core.durable.length >= length)
            })
            .await;
        }
        core.clear(20..30).await.unwrap();
        ship.shipper.flush().await.unwrap();
        ship.stop().await;

        let restored = Corestore::open(there.path(), CorestoreConfig::default()).unwrap();
        let found = restorer(&test.store)
            .find(&discovery, Until::Newest)
            .await
            .unwrap();
        let copy = restored.get(found.head.head.signed.key).await.unwrap();
        let target = CoreTarget(copy.clone(), ContentCipher::new(content_key().as_bytes()));
        let progress = tokio::sync::watch::Sender::default();
        let report = restorer(&test.store)
            .restore(&found, Arc::new(target), &progress)
            .await
            .unwrap();
        assert!(report.is_complete(), "{}: {report:?}", test.name);
        assert_eq!(copy.state().length, 70);
        for index in (0..20).chain(30..70) {
            let block = core.get_local(index).await.unwrap();
            assert!(block.is_some());
            assert_eq!(copy.get_local(index).await.unwrap(), block);
        }
        restored.close().await.unwrap();
        let again = Corestore::open(there.path(), CorestoreConfig::default()).unwrap();
        let copy = again.find(&discovery).await.unwrap().unwrap();
        assert!(copy.state().held_blocks >= 60, "it is durable");
        again.close().await.unwrap();
        written.close().await.unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever happened to a core, what its backup gives back is what it holds, and can be served.
    #[test]
    fn the_backup_of_any_history_gives_back_what_is_held(
        steps in proptest::collection::vec((0..5_u8, 0..60_u64, 1..30_u64), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let test = stores::file();
            let core = writer(3);
            let key = *core.key();
            let shared = Arc::new(LockedCore::new(core));
            append(&mut shared.lock(), 1);
            for (step, at, count) in steps {
                match step {
                    0 | 1 => append(&mut shared.lock(), count),
                    2 => shared.lock().clear(at..at + count).unwrap(),
                    3 => {
                        let length = at.min(shared.lock().length());
                        let held = { let core = shared.lock(); (0..length).all(|index| core.has(index)) };
                        if held && length > 0 {
                            shared.lock().truncate(length, None).unwrap();
                        }
                    }
                    _ => ship(&test.store, &shared).await,
                }
            }
            ship(&test.store, &shared).await;
            let (report, restored) = restore(&test.store, key).await;
            assert!(report.is_complete(), "{report:?}");
            assert_eq!(report.damaged, []);
            let verified = restorer(&test.store).verify().await.unwrap();
            assert!(verified.is_whole());
            let core = shared.lock();
            let held: u64 = core.bitfield().count();
            assert!(restored.bitfield().count() >= held, "cleared blocks may come back, held ones must");
            for index in (0..core.length()).filter(|index| core.has(*index)) {
                assert_eq!(restored.get(index).unwrap(), core.get(index).unwrap());
            }
            serves_all(&restored, key);
        });
    }
}
