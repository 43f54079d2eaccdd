//! The bytes of version 1 (`docs/format/backup.md`) stay as they are: what old programs wrote must be read for ever.
//!
//! `UPDATE_GOLDEN=1` writes the files anew; do that only for a new version, beside the old files.

#![allow(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod model;
mod stores;

use std::fmt::Write;
use std::path::Path;

use cumulet_backup::names::CORES;
use cumulet_backup::pins::{Pin, Pins};
use cumulet_backup::retry::Patience;
use cumulet_backup::store::{ObjectStore, list_all};
use model::{ModelCore, Ship, content_key, restore_into};

/// The objects that a core of 11 blocks, some of them cleared, and a pin make.
async fn write(store: &std::sync::Arc<dyn ObjectStore>) -> std::sync::Arc<ModelCore> {
    let core = ModelCore::with_blocks(1, (0..11).map(|n| n * 5));
    core.clear(4..7);
    Ship::once(store, &core).await;
    let pins = Pins::new(store.clone(), content_key(), Patience::default());
    pins.put(&Pin {
        key: [7; 32],
        spec: Some("{\"type\":\"Drive\"}".into()),
    })
    .await
    .unwrap();
    pins.put(&Pin {
        key: [8; 32],
        spec: None,
    })
    .await
    .unwrap();
    core
}

#[tokio::test]
async fn what_is_written_is_byte_for_byte_what_version_1_wrote() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let test = stores::file();
    write(&test.store).await;
    let mut lines = String::new();
    for object in list_all(test.store.as_ref(), "v1/", 100).await.unwrap() {
        let bytes = test.store.get(&object.name).await.unwrap().unwrap();
        writeln!(lines, "{} {}", object.name, hex::encode(bytes)).unwrap();
    }
    let file = golden.join("store-v1.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(&golden).unwrap();
        std::fs::write(&file, &lines).unwrap();
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), lines);
}

#[tokio::test]
async fn what_version_1_wrote_is_restored() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/store-v1.txt");
    let test = stores::file();
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let (name, bytes) = line.split_once(' ').unwrap();
        test.store
            .put_if_absent(name, hex::decode(bytes).unwrap().into())
            .await
            .unwrap();
    }
    let fresh = stores::file();
    let core = write(&fresh.store).await;
    let bare = core.bare();
    assert!(restore_into(&test.store, &bare).await.is_complete());
    assert_eq!(bare.blocks(), core.blocks());
    let pins = Pins::new(test.store.clone(), content_key(), Patience::default())
        .list()
        .await
        .unwrap();
    assert_eq!(
        pins.pins,
        [Pin {
            key: [7; 32],
            spec: Some("{\"type\":\"Drive\"}".into())
        }]
    );
    assert!(list_all(test.store.as_ref(), CORES, 100).await.unwrap().len() > 3);
}
