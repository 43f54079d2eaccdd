//! What a pinned drive looks like from outside: its files, its changes, its parts.

use std::time::Duration;

use anyhow::Result;
use cumulet_e2e::content::{self, Content, LARGE_PATH};
use cumulet_e2e::scene::Scene;
use serde_json::{Value, json};

/// How soon a change made by a connected peer must be served.
const CHANGE_SERVED_WITHIN: Duration = Duration::from_secs(2);

/// The content core's blocks are 64 KiB; with the metadata that proves them, a small read may cost this much.
const SMALL_READ_BYTES: u64 = 1 << 20;

fn downloaded(scene: &Scene, key: &str) -> Result<(u64, u64)> {
    let status = scene.replica_status(0, key)?;
    let count = |field: &str| status[field].as_u64().unwrap_or(0);
    Ok((count("downloadedBytes"), count("downloadedBlocks")))
}

#[test]
fn every_file_of_a_pinned_drive_is_read_back_byte_for_byte() -> Result<()> {
    let scene = Scene::new("files")?;
    let entries = content::entries();
    let (_peer, drive) = scene.peer_with("writer", &entries)?;
    scene.cloud(1)?;
    scene.archive(&format!("hyper://{}", drive.key), &json!({}))?;
    let archive = scene.wait_archive(&["Ready", "Synced"])?;
    assert_eq!(archive["status"]["key"], drive.key);
    assert_eq!(archive["status"]["length"], drive.length);
    scene.check_all_served(&drive.key, &entries)?;

    let absent = scene.gateway(&drive.key, "/pages/no-such-page.txt", &[])?;
    assert_eq!(absent.status, 404);
    let stranger = scene.gateway(&"a".repeat(64), "/index.html", &[])?;
    assert_eq!(stranger.status, 404, "only pinned archives are served");
    Ok(())
}

#[test]
fn a_change_is_served_within_two_seconds_and_only_what_changed_crosses_the_wire() -> Result<()> {
    let scene = Scene::new("changes")?;
    let large = content::noise(7, 8 << 20);
    let entries = [
        (
            "/large.bin".to_owned(),
            Content::File {
                bytes: large.clone(),
                executable: false,
            },
        ),
        (
            "/news.txt".to_owned(),
            Content::File {
                bytes: b"old".to_vec(),
                executable: false,
            },
        ),
    ];
    let (mut peer, drive) = scene.peer_with("writer", &entries)?;
    scene.cloud(1)?;
    scene.archive(&drive.key, &json!({}))?;
    scene.wait_archive(&["Ready", "Synced"])?;
    scene.check_all_served(&drive.key, &entries)?;
    let (before, _) = downloaded(&scene, &drive.key)?;
    assert!(
        before >= large.len() as u64,
        "the whole drive was downloaded once, not {before} bytes of it"
    );

    peer.put("/news.txt", b"new")?;
    scene.wait_served(&drive.key, "/news.txt", b"new", CHANGE_SERVED_WITHIN)?;
    let (after, _) = downloaded(&scene, &drive.key)?;
    assert!(after > before, "the change came from the peer");
    assert!(
        after - before < SMALL_READ_BYTES,
        "{} bytes crossed the wire for a change of three",
        after - before
    );
    Ok(())
}

#[test]
fn a_small_range_of_a_large_sparse_file_downloads_only_the_blocks_it_needs() -> Result<()> {
    let scene = Scene::new("sparse")?;
    let entries = content::entries();
    let (_peer, drive) = scene.peer_with("writer", &entries)?;
    scene.cloud(1)?;
    scene.archive(&drive.key, &json!({"type": "Drive", "sync": {"mode": "Sparse"}}))?;
    scene.wait_archive(&["Ready"])?;
    let (before, blocks_before) = downloaded(&scene, &drive.key)?;
    assert!(
        before < SMALL_READ_BYTES,
        "nothing was asked for yet, but {before} bytes were downloaded"
    );

    let at = 9_999_999;
    let range = format!("bytes={at}-{}", at + 1023);
    let answer = scene.gateway(&drive.key, LARGE_PATH, &[("range", &range)])?;
    assert_eq!(answer.status, 206);
    let Some((_, Content::File { bytes, .. })) = entries.iter().find(|(path, _)| path == LARGE_PATH) else {
        panic!("the large file is part of the content");
    };
    assert!(answer.body == bytes[at..at + 1024], "the range is the file's");
    let (after, blocks_after) = downloaded(&scene, &drive.key)?;
    assert!(blocks_after > blocks_before, "the block came from the peer");
    assert!(
        after - before < SMALL_READ_BYTES,
        "{} bytes were downloaded for a range of 1024",
        after - before
    );
    Ok(())
}

#[test]
fn the_status_of_an_archive_counts_what_is_held() -> Result<()> {
    let scene = Scene::new("status")?;
    let entries = [(
        "/a.bin".to_owned(),
        Content::File {
            bytes: content::noise(3, 300_000),
            executable: false,
        },
    )];
    let (_peer, drive) = scene.peer_with("writer", &entries)?;
    scene.cloud(1)?;
    scene.archive(&format!("pear://{}", drive.key), &json!({}))?;
    let archive = scene.wait_archive(&["Ready", "Synced", "BackedUp"])?;
    let status = &archive["status"];
    assert_eq!(status["type"], "Drive");
    assert!(status["storedBytes"].as_u64() >= Some(300_000), "{status}");
    assert_eq!(status["progress"].as_f64(), Some(1.0));
    assert_eq!(status["durableLength"], drive.length);
    let cloud: Value = scene.get("personalcloud", cumulet_e2e::scene::CLOUD)?;
    assert_eq!(cloud["status"]["readyReplicas"], 1);
    Ok(())
}
