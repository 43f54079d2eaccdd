//! What is shipped comes back, whatever happens in between.

#![allow(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod model;
mod stores;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cumulet_backup::error::ErrorKind;
use cumulet_backup::plan::{ChangeMark, Durable};
use cumulet_backup::restore::{RestoreError, Restorer, Until};
use cumulet_backup::retry::Patience;
use cumulet_backup::sealing::ContentKey;
use cumulet_backup::source::{BackupSource, CoreError, HeldCore};
use cumulet_backup::store::ObjectStore;
use cumulet_hypercore::crypto::Key;
use cumulet_hypercore::segment::{ContentCipher, Place};
use futures::future::BoxFuture;
use model::{Faulty, ModelCore, Ship, contents, is_head, restore_into, restorer};
use tokio::sync::Notify;

const SEED: u8 = 1;

#[tokio::test]
async fn a_core_is_shipped_wiped_and_restored_equal_from_a_directory_and_from_s3() {
    for test in stores::both().await {
        let core = ModelCore::with_blocks(SEED, (0..300).map(|i| i * 13 % 1000));
        let progress = Ship::once(&test.store, &core).await;
        let core_progress = &progress.cores[&core.discovery_key()];
        assert_eq!(
            core_progress.durable,
            Durable { fork: 0, length: 300 },
            "{}",
            test.name
        );
        assert_eq!(core_progress.durable_bytes, core.state().roots.byte_length());
        assert!(progress.capabilities.unwrap().conditional_writes);

        let bare = core.bare();
        let report = restore_into(&test.store, &bare).await;
        assert_eq!(bare.blocks(), core.blocks());
        assert_eq!(bare.state().signature, core.state().signature);
        assert!(report.is_complete() && report.damaged.is_empty());
        assert_eq!(report.restored, 4, "300 = 256 + 32 + 8 + 4 blocks");
        assert_eq!(
            restorer(&test.store).cores().await.unwrap(),
            [core.discovery_key()]
        );
    }
}

#[tokio::test]
async fn large_blocks_are_cut_into_segments_of_eight_mib_and_come_back() {
    let test = stores::file();
    let core = ModelCore::with_blocks(SEED, [1 << 20; 9].into_iter().chain([9 << 20, 5]));
    Ship::once(&test.store, &core).await;
    let largest = contents(test.store.as_ref())
        .await
        .values()
        .map(bytes::Bytes::len)
        .max()
        .unwrap();
    assert!((9 << 20..10 << 20).contains(&largest), "{largest}");
    let bare = core.bare();
    let report = restore_into(&test.store, &bare).await;
    assert!(bare.blocks() == core.blocks());
    assert_eq!(report.restored, 4, "8 MiB, 1 MiB, 9 MiB, 5 bytes");
}

#[tokio::test]
async fn a_sparse_core_is_restored_with_exactly_the_blocks_that_were_held() {
    for test in stores::both().await {
        let core = ModelCore::with_blocks(SEED, [100; 77]);
        for range in [3..4, 10..30, 64..65, 70..77] {
            core.clear(range);
        }
        Ship::once(&test.store, &core).await;
        let bare = core.bare();
        let report = restore_into(&test.store, &bare).await;
        assert_eq!(bare.blocks(), core.blocks(), "{}", test.name);
        assert!(report.is_complete());

        // What was restored can be shipped again: the tree nodes came back too.
        let other = stores::file();
        Ship::once(&other.store, &bare).await;
        assert_eq!(
            contents(other.store.as_ref()).await,
            contents(test.store.as_ref()).await
        );
    }
}

#[tokio::test]
async fn growth_is_shipped_within_the_lag_and_older_lengths_stay_restorable() {
    let test = stores::file();
    let core = ModelCore::with_blocks(SEED, [50; 5]);
    let ship = Ship::new(test.store.clone(), Duration::from_millis(20));
    ship.shipper.add(core.clone());
    for length in 6..=20 {
        ship.until(|p| {
            p.cores
                .get(&core.discovery_key())
                .is_some_and(|c| c.durable.length == length - 1)
        })
        .await;
        core.append(SEED, [50]);
    }
    ship.shipper.flush().await.unwrap();
    let progress = ship.stop().await;
    assert_eq!(progress.lag(), Duration::ZERO);

    for length in 5..=20 {
        let found = restorer(&test.store)
            .find(&core.discovery_key(), Until::Length(length))
            .await
            .unwrap();
        assert_eq!(found.head.head.signed.length(), length);
        let bare = core.bare();
        let progress = tokio::sync::watch::Sender::default();
        let report = restorer(&test.store)
            .restore(&found, bare.clone(), &progress)
            .await
            .unwrap();
        assert!(report.is_complete());
        assert_eq!(bare.blocks(), core.blocks()[..length as usize]);
    }
    let error = restorer(&test.store)
        .find(&core.discovery_key(), Until::Length(4))
        .await
        .unwrap_err();
    assert!(matches!(error, RestoreError::NoHead));
}

/// A core that says when it changes, and counts how often it is looked at.
struct Telling {
    core: Arc<ModelCore>,
    changed: Arc<Notify>,
    looks: AtomicUsize,
}

impl BackupSource for Telling {
    fn key(&self) -> Key {
        self.core.key()
    }

    fn mark(&self) -> ChangeMark {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.core.mark()
    }

    fn changed(&self) -> Option<BoxFuture<'static, ()>> {
        let changed = Arc::clone(&self.changed);
        Some(Box::pin(async move { changed.notified().await }))
    }

    fn held(&self) -> Result<Option<HeldCore>, CoreError> {
        self.core.held()
    }

    fn segment(&self, place: &Place, cipher: &ContentCipher) -> Result<Option<Bytes>, CoreError> {
        self.core.segment(place, cipher)
    }
}

#[tokio::test]
async fn a_core_that_says_when_it_changes_is_left_alone_until_it_does() {
    const LAG: Duration = Duration::from_millis(20);
    let test = stores::file();
    let core = ModelCore::with_blocks(SEED, [50; 5]);
    let telling = Arc::new(Telling {
        core: Arc::clone(&core),
        changed: Arc::default(),
        looks: AtomicUsize::new(0),
    });
    let ship = Ship::new(test.store.clone(), LAG);
    ship.shipper.add(telling.clone());
    let shipped = |length| {
        let key = core.discovery_key();
        ship.until(move |progress| {
            let core = progress.cores.get(&key);
            core.is_some_and(|core| core.durable.length == length)
        })
    };
    shipped(5).await;
    let looks = || telling.looks.load(Ordering::SeqCst);
    let before = looks();
    // One that can't tell is looked at forty times meanwhile.
    tokio::time::sleep(LAG * 20).await;
    assert!(looks() <= before + 1, "{} looks", looks() - before);
    core.append(SEED, [50]);
    telling.changed.notify_one();
    shipped(6).await;
}

#[tokio::test]
async fn a_new_fork_replaces_the_old_one_even_when_it_is_shorter() {
    let test = stores::file();
    let core = ModelCore::with_blocks(SEED, [50; 9]);
    Ship::once(&test.store, &core).await;
    core.rewrite(SEED, [50; 3]);
    Ship::once(&test.store, &core).await;
    let bare = core.bare();
    let report = restore_into(&test.store, &bare).await;
    assert_eq!((report.fork, report.length), (1, 3));
    assert_eq!(bare.blocks(), core.blocks());
}

#[tokio::test]
async fn a_shipper_killed_between_segments_and_head_leaves_the_old_head_and_goes_on_where_it_was() {
    let test = stores::file();
    let core = ModelCore::with_blocks(SEED, [50; 4]);
    Ship::once(&test.store, &core).await;

    core.append(SEED, [50; 100]);
    let faulty = Faulty::new(test.store.clone());
    faulty.fail(|verb, name| verb == "write" && is_head(name));
    let ship = Ship::new(faulty.clone(), Duration::from_millis(10));
    ship.shipper.add(core.clone());
    let progress = ship.until(|progress| progress.failure().is_some()).await;
    assert_eq!(progress.failure().unwrap().kind, ErrorKind::Retry);
    ship.stop().await;
    let segments = faulty.puts();
    assert_eq!(segments, 3, "104 = 64 + 32 + 8 blocks");
    let bare = core.bare();
    assert_eq!(
        restore_into(&test.store, &bare).await.length,
        4,
        "segments without a head are not seen"
    );

    let counting = Faulty::new(test.store.clone());
    let again: Arc<dyn ObjectStore> = counting.clone();
    Ship::once(&again, &core).await;
    assert_eq!(counting.puts(), 1, "only the head was missing");
    let report = restore_into(&test.store, &bare).await;
    assert_eq!(report.length, 104);
    assert_eq!(bare.blocks(), core.blocks());
}

#[tokio::test]
async fn answers_that_get_lost_lead_to_no_second_copy_and_no_loss() {
    let test = stores::file();
    let core = ModelCore::with_blocks(SEED, [50; 45]);
    let faulty = Faulty::new(test.store.clone());
    let mut calls = 0;
    faulty.fail(move |verb, _| {
        calls += usize::from(verb == "answer");
        verb == "answer" && calls % 2 == 1
    });
    let ship = Ship::new(faulty.clone(), Duration::from_millis(10));
    ship.shipper.add(core.clone());
    ship.until(|progress| progress.cores.values().any(|core| core.durable.length == 45))
        .await;
    ship.stop().await;
    assert_eq!(
        contents(test.store.as_ref()).await.len(),
        5,
        "45 = 32 + 8 + 4 + 1 blocks, and a head"
    );
    let bare = core.bare();
    restore_into(&test.store, &bare).await;
    assert_eq!(bare.blocks(), core.blocks());
}

#[tokio::test]
async fn a_restarted_shipper_puts_nothing_that_is_there() {
    let test = stores::s3().await;
    let core = ModelCore::with_blocks(SEED, [500; 100]);
    Ship::once(&test.store, &core).await;
    let counting = Faulty::new(test.store.clone());
    let again: Arc<dyn ObjectStore> = counting.clone();
    let progress = Ship::once(&again, &core).await;
    assert_eq!(counting.puts(), 0);
    assert_eq!(
        progress.cores[&core.discovery_key()].durable.length,
        100,
        "it knows what is durable all the same"
    );
}

#[tokio::test]
async fn two_replicas_at_once_make_identical_bytes_and_no_conflict() {
    for test in stores::both().await {
        let core = ModelCore::with_blocks(SEED, [70; 10]);
        let replica = core.copy();
        let ships = [&core, &replica].map(|core| {
            let ship = Ship::new(test.store.clone(), Duration::from_millis(5));
            ship.shipper.add(core.clone());
            ship
        });
        for _ in 0..10 {
            core.append(SEED, [70; 3]);
            replica.append(SEED, [70; 3]);
            let (one, other) = tokio::join!(ships[0].shipper.flush(), ships[1].shipper.flush());
            one.unwrap();
            other.unwrap();
        }
        for ship in ships {
            let progress = ship.stop().await;
            assert_eq!(progress.failure(), None);
            assert_eq!(progress.cores[&core.discovery_key()].durable.length, 40);
        }
        // A lone shipper makes the very objects of the newest head.
        let alone = stores::file();
        Ship::once(&alone.store, &core).await;
        let both = contents(test.store.as_ref()).await;
        for (name, bytes) in contents(alone.store.as_ref()).await {
            assert_eq!(both.get(&name), Some(&bytes), "{} {name}", test.name);
        }
        let bare = core.bare();
        assert!(restore_into(&test.store, &bare).await.is_complete());
        assert_eq!(bare.blocks(), core.blocks());
    }
}

#[tokio::test]
async fn replicas_that_hold_different_parts_back_up_the_union() {
    let test = stores::file();
    let core = ModelCore::with_blocks(SEED, [70; 20]);
    let (left, right) = (core.copy(), core.copy());
    left.clear(12..20);
    right.clear(0..5);
    Ship::once(&test.store, &left).await;
    Ship::once(&test.store, &right).await;
    let bare = core.bare();
    let report = restore_into(&test.store, &bare).await;
    assert!(report.is_complete());
    assert_eq!(bare.blocks(), core.blocks());
}

#[tokio::test]
async fn a_store_that_is_down_is_reported_and_shipped_to_when_it_is_up_again() {
    let directory = tempfile::tempdir().unwrap();
    let server = stores::server(directory.path(), ([127, 0, 0, 1], 0).into()).await;
    let (address, endpoint) = (server.address(), server.endpoint());
    let s3 = cumulet_backup::store::s3::S3Store::new(stores::s3_config(&endpoint)).unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(s3);
    let core = ModelCore::with_blocks(SEED, [50; 10]);
    let ship = Ship::new(store.clone(), Duration::from_millis(20));
    ship.shipper.add(core.clone());
    ship.until(|progress| progress.cores.values().any(|core| core.durable.length == 10))
        .await;

    server.stop().await;
    core.append(SEED, [50; 10]);
    let down = ship.until(|progress| progress.failure().is_some()).await;
    let failure = down.failure().unwrap();
    assert_eq!(failure.kind, ErrorKind::Retry);
    assert!(failure.hint.unwrap().contains("can't be reached"), "{failure:?}");
    assert_eq!(down.cores[&core.discovery_key()].durable.length, 10);
    ship.until(|progress| progress.lag() > Duration::from_millis(100))
        .await;

    let server = stores::server(directory.path(), address).await;
    let up = ship
        .until(|progress| progress.cores.values().any(|core| core.settled))
        .await;
    assert_eq!(up.cores[&core.discovery_key()].durable.length, 20);
    assert_eq!(up.failure(), None);
    ship.stop().await;
    let bare = core.bare();
    restore_into(&store, &bare).await;
    assert_eq!(bare.blocks(), core.blocks());
    server.stop().await;
}

#[tokio::test]
async fn another_content_key_is_told_apart_from_damage() {
    let test = stores::file();
    let core = ModelCore::with_blocks(SEED, [50; 10]);
    Ship::once(&test.store, &core).await;
    let wrong = Restorer::new(test.store.clone(), ContentKey::new([1; 32]), Patience::default());
    let error = wrong
        .find(&core.discovery_key(), Until::Newest)
        .await
        .unwrap_err();
    assert!(matches!(error, RestoreError::OtherKey));
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.hint().unwrap().contains("content key"));

    let error = restorer(&test.store)
        .find(&[0; 32], Until::Newest)
        .await
        .unwrap_err();
    assert!(matches!(error, RestoreError::NoHead));
}

#[tokio::test]
async fn a_restore_that_was_broken_off_fetches_only_what_is_missing() {
    let test = stores::file();
    let core = ModelCore::with_blocks(SEED, [50; 31]);
    Ship::once(&test.store, &core).await;
    let faulty = Faulty::new(test.store.clone());
    let mut reads = 0;
    faulty.fail(move |verb, name| {
        reads += usize::from(verb == "read" && !is_head(name));
        reads > 3
    });
    let store: Arc<dyn ObjectStore> = faulty.clone();
    let bare = core.bare();
    let found = model::find(&store, &core).await;
    let progress = tokio::sync::watch::Sender::default();
    let error = restorer(&store)
        .restore(&found, bare.clone(), &progress)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry);
    let there = bare.blocks().iter().flatten().count();

    let report = restore_into(&test.store, &bare).await;
    assert_eq!(report.present > 0, there > 0);
    assert_eq!(report.restored + report.present, 5);
    assert_eq!(bare.blocks(), core.blocks());
}
