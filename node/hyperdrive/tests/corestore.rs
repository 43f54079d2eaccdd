//! A drive in real cores, written and read again by its key alone.

#![allow(clippy::unwrap_used, clippy::panic)]

use cumulet_hyperbee::Bee;
use cumulet_hypercore::corestore::{Corestore, CorestoreConfig};
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hyperdrive::{Drive, DriveWriter, FileOptions, content};

#[tokio::test]
async fn a_drive_in_a_corestore_is_found_by_its_key_and_keeps_its_files() {
    let directory = tempfile::tempdir().unwrap();
    let manifest = Manifest::single(KeyPair::from_seed(&[7; 32]).public_key());
    let key = manifest.key();
    let data: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();

    let store = Corestore::open(directory.path(), CorestoreConfig::default()).unwrap();
    let derived = content::content_manifest(&key, &manifest).unwrap();
    let db = store
        .create(manifest, Some(KeyPair::from_seed(&[7; 32])))
        .await
        .unwrap();
    // The same key pair signs both.
    let blobs = store
        .create(derived, Some(KeyPair::from_seed(&[7; 32])))
        .await
        .unwrap();
    let mut writer = DriveWriter::new(db, blobs);
    writer
        .put("/large.bin", &data, FileOptions::default())
        .await
        .unwrap();
    writer
        .put("/small.txt", b"hello", FileOptions::default())
        .await
        .unwrap();
    writer.symlink("/latest", "/large.bin").await.unwrap();
    store.close().await.unwrap();

    let store = Corestore::open(directory.path(), CorestoreConfig::default()).unwrap();
    let db = store.get(key).await.unwrap();
    let manifest = db.manifest().await.unwrap();
    let bee = Bee::new(db);
    let content = content::content(&bee.header().await.unwrap(), &key, &manifest).unwrap();
    let drive = Drive::new(&bee, store.get(content.key).await.unwrap());
    assert_eq!(drive.files.version(), 4);
    assert!(drive.get("/latest", 1 << 20).await.unwrap().unwrap() == data);
    let large = drive.files.entry("/large.bin").await.unwrap().unwrap();
    let part = drive
        .read(&large, Some(131_000..131_100))
        .await
        .unwrap()
        .to_vec(1000)
        .await
        .unwrap();
    assert_eq!(part, &data[131_000..131_100]);
    assert_eq!(drive.get("/small.txt", 100).await.unwrap().unwrap(), b"hello");
    store.close().await.unwrap();
}
