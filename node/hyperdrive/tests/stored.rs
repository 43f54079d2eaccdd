//! What of a drive lies in a store: asked, cleared, fetched again as a plan says; and watched.

#![allow(clippy::unwrap_used, clippy::panic, clippy::single_range_in_vec_init)]

use cumulet_hyperbee::Bee;
use cumulet_hypercore::corestore::{CoreHandle, Corestore, CorestoreConfig};
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hyperdrive::plan::Selection;
use cumulet_hyperdrive::{Drive, DriveWriter, FileOptions, content};

async fn writer() -> (Corestore, DriveWriter<CoreHandle, CoreHandle>) {
    let store = Corestore::in_memory(CorestoreConfig::default());
    let pair = || KeyPair::from_seed(&[9; 32]);
    let manifest = Manifest::single(pair().public_key());
    let derived = content::content_manifest(&manifest.key(), &manifest).unwrap();
    let db = store.create(manifest, Some(pair())).await.unwrap();
    let blobs = store.create(derived, Some(pair())).await.unwrap();
    (store, DriveWriter::new(db, blobs))
}

#[tokio::test]
async fn a_cleared_file_is_not_here_and_its_neighbours_are() {
    let (_store, mut writer) = writer().await;
    let data = vec![7; 150_000];
    for name in ["/a/one", "/a/two", "/b"] {
        writer.put(name, &data, FileOptions::default()).await.unwrap();
    }
    let drive = writer.drive();
    for name in ["/a/one", "/a", "/a/", "/", "/b"] {
        assert!(drive.has(name).await.unwrap(), "{name}");
    }
    assert!(!drive.has("/c").await.unwrap());
    drive.clear("/a/two").await.unwrap();
    drive.clear("/c").await.unwrap();
    for (name, has) in [
        ("/a/one", true),
        ("/a/two", false),
        ("/a", false),
        ("/", false),
        ("/b", true),
    ] {
        assert_eq!(drive.has(name).await.unwrap(), has, "{name}");
    }
    assert_eq!(drive.get("/b", 1 << 20).await.unwrap().unwrap(), data);
    drive.clear_all().await.unwrap();
    assert!(!drive.has("/b").await.unwrap());
    assert_eq!(drive.blobs_length().await.unwrap(), 9);
}

#[tokio::test]
async fn a_plan_of_a_difference_names_the_blocks_of_what_changed() {
    let (_store, mut writer) = writer().await;
    writer
        .put("/a", &vec![1; 70_000], FileOptions::default())
        .await
        .unwrap();
    writer.put("/b", b"b", FileOptions::default()).await.unwrap();
    let version = writer.version();
    writer.put("/b", b"bb", FileOptions::default()).await.unwrap();
    writer.put("/in/c", b"c", FileOptions::default()).await.unwrap();
    writer.del("/a").await.unwrap();
    let drive = writer.drive();
    let everything = Selection::default();
    let plan = drive.plan_diff(version, "/", &everything).await.unwrap();
    assert_eq!(
        (plan.blocks.as_slice(), plan.files, plan.bytes),
        ([3..5].as_slice(), 2, 3)
    );
    let plan = drive.plan_diff(version, "/in", &everything).await.unwrap();
    assert_eq!(plan.blocks, [4..5]);
    let same = drive
        .plan_diff(drive.files.version(), "/", &everything)
        .await
        .unwrap();
    assert_eq!(same.files, 0);
}

#[tokio::test]
async fn a_folder_in_a_store_is_watched_and_its_end_is_told() {
    let (store, mut writer) = writer().await;
    writer.put("/in/a", b"1", FileOptions::default()).await.unwrap();
    let drive = Drive::new(
        &Bee::new(writer.drive().files.bee().blocks().clone()),
        writer.blobs().clone(),
    );
    let mut watcher = drive.files.watch("/in").unwrap();
    let waiting = async {
        let (current, previous) = watcher.next().await.unwrap();
        let mut diff = current.diff(previous.version(), "/in").unwrap();
        diff.next().await.unwrap().unwrap().path
    };
    let changes = async {
        writer.put("/out", b"1", FileOptions::default()).await.unwrap();
        writer.put("/in/b", b"1", FileOptions::default()).await.unwrap();
    };
    let (path, ()) = tokio::join!(waiting, changes);
    assert_eq!(path, "/in/b");
    let (ended, closed) = tokio::join!(watcher.next(), store.close());
    assert!(ended.is_err() && closed.is_ok());
}
