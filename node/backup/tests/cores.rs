//! Real cores, shipped from where they are open and restored into a storage that is opened afterwards.

#![allow(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod model;
mod stores;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cumulet_backup::core::{CoreSource, LockedCore, StorageTarget};
use cumulet_backup::restore::{RestoreProgress, RestoreReport, Until};
use cumulet_backup::store::ObjectStore;
use cumulet_hypercore::core::Core;
use cumulet_hypercore::crypto::{Key, KeyPair, discovery_key};
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::messages::{Request, RequestBlock, RequestUpgrade};
use cumulet_hypercore::storage::{Changes, Head, MemoryStorage, Storage};
use model::{Ship, restorer};
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

async fn ship(store: &Arc<dyn ObjectStore>, core: &Arc<LockedCore<MemoryStorage>>) {
    let ship = Ship::new(store.clone(), Duration::from_secs(5));
    ship.shipper.add(Arc::new(CoreSource(core.clone())));
    ship.shipper.flush().await.unwrap();
    ship.stop().await;
}

async fn restore<S: Storage + 'static>(
    store: &Arc<dyn ObjectStore>,
    key: Key,
    storage: S,
) -> (RestoreReport, Core<S>) {
    let found = restorer(store)
        .find(&discovery_key(&key), Until::Newest)
        .await
        .unwrap();
    let target = Arc::new(StorageTarget::new(storage));
    let progress = tokio::sync::watch::Sender::new(RestoreProgress::default());
    let report = restorer(store)
        .restore(&found, target.clone(), &progress)
        .await
        .unwrap();
    let storage = Arc::into_inner(target).unwrap().into_storage();
    (report, Core::open(storage, key).unwrap())
}

fn same<S: Storage>(restored: &Core<S>, core: &Core<MemoryStorage>) {
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
        let (report, restored) = restore(&test.store, key, MemoryStorage::default()).await;
        assert!(report.is_complete(), "{}: {report:?}", test.name);
        same(&restored, &shared.lock());
        serves_all(&restored, key);
    }
}

#[tokio::test]
async fn a_shorter_copy_is_brought_up_to_date_and_a_newer_fork_replaces_it() {
    let test = stores::file();
    let mut core = writer(1);
    append(&mut core, 8);
    let key = *core.key();
    let shared = Arc::new(LockedCore::new(core));
    ship(&test.store, &shared).await;
    let (_, copy) = restore(&test.store, key, MemoryStorage::default()).await;

    append(&mut shared.lock(), 5);
    ship(&test.store, &shared).await;
    let (report, copy) = restore(&test.store, key, copy.into_storage()).await;
    assert_eq!(
        (report.present, report.restored),
        (1, 2),
        "the first eight blocks were there"
    );
    same(&copy, &shared.lock());
    serves_all(&copy, key);

    shared.lock().truncate(4, None).unwrap();
    append(&mut shared.lock(), 1);
    ship(&test.store, &shared).await;
    let (report, copy) = restore(&test.store, key, copy.into_storage()).await;
    assert_eq!((report.fork, report.length), (1, 5));
    same(&copy, &shared.lock());
    serves_all(&copy, key);
}

#[tokio::test]
async fn a_storage_with_another_history_is_not_papered_over() {
    let test = stores::file();
    let (mut core, mut twin) = (writer(1), writer(1));
    append(&mut core, 8);
    twin.append_batch((0..8).map(|_| Bytes::from_static(b"another history")).collect())
        .unwrap();
    let key = *core.key();
    ship(&test.store, &Arc::new(LockedCore::new(core))).await;
    let found = restorer(&test.store)
        .find(&discovery_key(&key), Until::Newest)
        .await
        .unwrap();
    let target = Arc::new(StorageTarget::new(twin.into_storage()));
    let progress = tokio::sync::watch::Sender::default();
    let error = restorer(&test.store)
        .restore(&found, target, &progress)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("two histories"), "{error}");
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
            let (report, restored) = restore(&test.store, key, MemoryStorage::default()).await;
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
