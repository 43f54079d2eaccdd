//! Bytes that are not what they should be are refused, and the rest is restored.

#![allow(clippy::single_range_in_vec_init, reason = "ranges of blocks are the values")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that can't go on shall say where"
)]

mod model;
mod stores;

use std::time::Duration;

use cumulet_backup::error::ErrorKind;
use cumulet_backup::head::Head;
use cumulet_backup::names::CoreNames;
use cumulet_backup::restore::{Damaged, RestoreError, Until};
use cumulet_backup::source::BackupSource;
use cumulet_hypercore::segment::{ContentCipher, Place, SegmentId};
use model::{ModelCore, Ship, content_key, contents, is_head, restore_into, restorer};
use stores::TestStore;

const SEED: u8 = 1;

async fn shipped(test: &TestStore, sizes: impl IntoIterator<Item = usize>) -> std::sync::Arc<ModelCore> {
    let core = ModelCore::with_blocks(SEED, sizes);
    Ship::once(&test.store, &core).await;
    core
}

/// The one object that fits, of a store.
async fn object(test: &TestStore, fits: impl Fn(&str) -> bool) -> String {
    let mut names: Vec<String> = contents(test.store.as_ref())
        .await
        .into_keys()
        .filter(|name| fits(name))
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    names.pop().unwrap()
}

fn flip(test: &TestStore, name: &str, at: usize) {
    let path = test.path(name);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_flipped_byte_anywhere_in_a_segment_is_refused_and_the_rest_is_restored() {
    let test = stores::file();
    let core = shipped(&test, [7, 0, 30, 11, 40, 41]).await;
    let segment = object(&test, |name| name.contains("/2-0-")).await;
    let size = std::fs::metadata(test.path(&segment)).unwrap().len() as usize;
    for at in 0..size {
        flip(&test, &segment, at);
        let bare = core.bare();
        let report = restore_into(&test.store, &bare).await;
        assert_eq!(
            report.damaged.iter().map(|d| &d.object).collect::<Vec<_>>(),
            [&segment],
            "byte {at}"
        );
        assert_eq!(report.missing, [0..4]);
        assert!(!report.is_complete());
        assert_eq!(bare.blocks()[..4], [const { None }; 4]);
        assert_eq!(bare.blocks()[4..], core.blocks()[4..]);
        flip(&test, &segment, at);
    }
    for length in [0, 1, 50, 104, 120, size - 1] {
        let whole = std::fs::read(test.path(&segment)).unwrap();
        std::fs::write(test.path(&segment), &whole[..length]).unwrap();
        assert_eq!(
            restore_into(&test.store, &core.bare()).await.missing,
            [0..4],
            "cut at {length}"
        );
        std::fs::write(test.path(&segment), [&whole[..], b"x"].concat()).unwrap();
        assert_eq!(
            restore_into(&test.store, &core.bare()).await.missing,
            [0..4],
            "with a byte more"
        );
        std::fs::write(test.path(&segment), whole).unwrap();
    }
    let bare = core.bare();
    assert!(restore_into(&test.store, &bare).await.is_complete());
}

#[tokio::test]
async fn a_flipped_byte_anywhere_in_the_only_head_is_refused() {
    let test = stores::file();
    let core = shipped(&test, [7, 0, 30]).await;
    let head = object(&test, is_head).await;
    let size = std::fs::metadata(test.path(&head)).unwrap().len() as usize;
    for at in 0..size {
        flip(&test, &head, at);
        let error = restorer(&test.store)
            .find(&core.discovery_key(), Until::Newest)
            .await
            .unwrap_err();
        match at {
            5..13 => assert!(matches!(error, RestoreError::OtherKey), "byte {at}: {error}"),
            _ => assert!(
                matches!(&error, RestoreError::AllDamaged(d) if d[0].object == head),
                "byte {at}: {error}"
            ),
        }
        flip(&test, &head, at);
    }
}

#[tokio::test]
async fn a_head_under_another_name_is_refused() {
    let test = stores::file();
    let core = shipped(&test, [7, 0, 30]).await;
    let head = object(&test, is_head).await;
    let longer = head.replace("-0000000000000003-", "-0000000000000009-");
    std::fs::rename(test.path(&head), test.path(&longer)).unwrap();
    let error = restorer(&test.store)
        .find(&core.discovery_key(), Until::Newest)
        .await
        .unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Damaged,
        "a provider must not pass an old head off as a new one"
    );
}

#[tokio::test]
async fn an_older_head_is_restored_when_the_newest_is_damaged() {
    for test in stores::both().await {
        let core = shipped(&test, [10; 4]).await;
        core.append(SEED, [10; 2]);
        Ship::once(&test.store, &core).await;
        let newest = object(&test, |name| name.contains("-0000000000000006-")).await;
        flip(&test, &newest, 60);
        let bare = core.bare();
        let report = restore_into(&test.store, &bare).await;
        assert_eq!(report.length, 4, "{}", test.name);
        assert!(report.is_complete());
        assert!(matches!(&report.damaged[..], [Damaged { object, .. }] if *object == newest));
        assert_eq!(bare.blocks(), core.blocks()[..4]);
    }
}

#[tokio::test]
async fn a_good_copy_goes_beside_a_damaged_segment_and_is_found() {
    for test in stores::both().await {
        let core = shipped(&test, [10; 6]).await;
        let segment = object(&test, |name| name.contains("/2-0-")).await;
        let good = std::fs::read(test.path(&segment)).unwrap();
        flip(&test, &segment, 110);
        let bare = core.bare();
        let report = restore_into(&test.store, &bare).await;
        assert!(!report.is_complete());

        let ship = Ship::new(test.store.clone(), Duration::from_millis(20));
        ship.shipper.add(core.clone());
        ship.shipper.flush().await.unwrap();
        for round in 1..=3 {
            let damaged = if round == 1 {
                segment.clone()
            } else {
                format!("{segment}.r{}", round - 1)
            };
            ship.shipper.damaged([damaged]);
            ship.shipper.flush().await.unwrap();
            let copy = format!("{segment}.r{round}");
            assert_eq!(std::fs::read(test.path(&copy)).unwrap(), good, "{}", test.name);
            let bare = core.bare();
            let report = restore_into(&test.store, &bare).await;
            assert!(report.is_complete());
            assert_eq!(bare.blocks(), core.blocks());
            flip(&test, &copy, 120);
        }
        // A shipper that starts later believes the names that it lists, until a reader reports what it refused.
        ship.stop().await;
        let report = restore_into(&test.store, &core.bare()).await;
        assert_eq!(report.damaged.len(), 4);
        let later = Ship::new(test.store.clone(), Duration::from_millis(20));
        later.shipper.add(core.clone());
        later.shipper.flush().await.unwrap();
        later
            .shipper
            .damaged(report.damaged.into_iter().map(|damaged| damaged.object));
        later.shipper.flush().await.unwrap();
        later.stop().await;
        assert!(restore_into(&test.store, &core.bare()).await.is_complete());
    }
}

#[tokio::test]
async fn a_good_copy_goes_beside_a_damaged_head() {
    let test = stores::file();
    let core = shipped(&test, [10; 6]).await;
    let head = object(&test, is_head).await;
    flip(&test, &head, 99);
    let ship = Ship::new(test.store.clone(), Duration::from_millis(20));
    ship.shipper.add(core.clone());
    ship.shipper.flush().await.unwrap();
    ship.shipper.damaged([head.clone()]);
    ship.shipper.flush().await.unwrap();
    ship.stop().await;
    let bare = core.bare();
    let report = restore_into(&test.store, &bare).await;
    assert_eq!(bare.blocks(), core.blocks());
    assert_eq!(report.length, 6);
}

#[tokio::test]
async fn verification_reads_everything_and_names_what_is_bad() {
    for test in stores::both().await {
        let core = shipped(&test, [10; 6]).await;
        core.append(SEED, [10; 2]);
        Ship::once(&test.store, &core).await;
        let second = ModelCore::with_blocks(2, [500; 3]);
        Ship::once(&test.store, &second).await;

        let report = restorer(&test.store).verify().await.unwrap();
        assert!(report.is_whole(), "{report:?}");
        assert_eq!((report.cores, report.heads, report.segments), (2, 3, 2 + 1 + 2));
        assert_eq!(report.bytes, 60 + 80 + 1500);
        assert_eq!(report.unnamed, 0);

        let segment = object(&test, |name| name.contains("/3-0-")).await;
        flip(&test, &segment, 300);
        let head = object(&test, |name| is_head(name) && name.contains("-0000000000000003-")).await;
        flip(&test, &head, 300);
        let report = restorer(&test.store).verify().await.unwrap();
        assert!(!report.is_whole());
        assert_eq!(report.missing, std::slice::from_ref(&segment));
        assert_eq!(report.lost, [second.discovery_key()]);
        assert_eq!(
            report.unnamed, 2,
            "the segments of the core whose head is damaged"
        );
        let mut damaged: Vec<&String> = report.damaged.iter().map(|damaged| &damaged.object).collect();
        damaged.sort();
        let mut expected = [&segment, &head];
        expected.sort();
        assert_eq!(damaged, expected);
    }
}

/// Puts a head into an empty store under the name that it asks for, and looks for it.
async fn found_after(core: &ModelCore, change: impl FnOnce(&mut Head)) -> Result<(), String> {
    let held = core.held().unwrap().unwrap();
    let mut sealed = Head {
        signed: held.signed,
        selection: held.cut.select(true),
    };
    change(&mut sealed);
    let test = stores::file();
    let (name, bytes) = sealed.seal(&content_key());
    let object = CoreNames::new(core.discovery_key()).head(&name, 0);
    test.store.put_if_absent(&object, bytes).await.unwrap();
    match restorer(&test.store)
        .find(&core.discovery_key(), Until::Newest)
        .await
    {
        Ok(_) => Ok(()),
        Err(RestoreError::AllDamaged(damaged)) => Err(damaged[0].reason.clone()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_head_that_its_writer_did_not_sign_is_refused_though_it_is_sealed_rightly() {
    let core = ModelCore::with_blocks(SEED, [10; 7]);
    core.clear(2..3);
    assert_eq!(found_after(&core, |_| {}).await, Ok(()));
    let other = ModelCore::with_blocks(SEED, [11; 7]).held().unwrap().unwrap();
    let stranger = ModelCore::with_blocks(2, [10; 7]).held().unwrap().unwrap();

    let reason = found_after(&core, |head| head.signed.signature[10] ^= 1)
        .await
        .unwrap_err();
    assert!(reason.contains("signature"), "{reason}");
    let reason = found_after(&core, |head| head.signed.signature.clear())
        .await
        .unwrap_err();
    assert!(reason.contains("signature"), "{reason}");
    let reason = found_after(&core, |head| head.signed.roots = other.signed.roots.clone())
        .await
        .unwrap_err();
    assert!(reason.contains("signature"), "{reason}");
    let reason = found_after(&core, |head| head.signed.fork = 1).await.unwrap_err();
    assert!(reason.contains("signature"), "{reason}");
    let reason = found_after(&core, |head| head.signed.manifest = stranger.signed.manifest)
        .await
        .unwrap_err();
    assert!(reason.contains("manifest"), "{reason}");

    let reason = found_after(&core, |head| head.selection = other.cut.select(true))
        .await
        .unwrap_err();
    assert!(reason.contains("segments"), "{reason}");
    let reason = found_after(&core, |head| head.selection.segments.truncate(1))
        .await
        .unwrap_err();
    assert!(reason.contains("covered by no subtree"), "{reason}");
    let twice = |head: &mut Head| head.selection.absent.push(head.selection.segments[0]);
    let reason = found_after(&core, twice).await.unwrap_err();
    assert!(reason.contains("named twice"), "{reason}");
    let reason = found_after(&core, |head| head.selection.segments[0].size += 1)
        .await
        .unwrap_err();
    assert!(reason.contains("another hash"), "{reason}");
}

#[tokio::test]
async fn a_segment_of_blocks_that_nobody_signed_is_refused_though_it_is_whole_in_itself() {
    let test = stores::file();
    let core = shipped(&test, [10; 4]).await;
    let name = object(&test, |name| name.contains("/2-0-")).await;
    let forger = ModelCore::with_blocks(SEED, [11; 4]);
    let id = SegmentId { level: 2, index: 0 };
    let place = Place {
        discovery_key: core.discovery_key(),
        fork: 0,
        id,
    };
    let segment = forger
        .segment(&place, &ContentCipher::new(content_key().as_bytes()))
        .unwrap()
        .unwrap();
    std::fs::write(test.path(&name), segment).unwrap();
    let bare = core.bare();
    let report = restore_into(&test.store, &bare).await;
    assert_eq!(report.missing, [0..4]);
    assert!(report.damaged[0].reason.contains("core's tree"), "{report:?}");
    assert_eq!(bare.blocks(), [const { None }; 4]);
}
