//! What survives the loss of pods, volumes, peers and the operator itself.

use std::fs;

use anyhow::{Context, Result};
use cumulet_e2e::cluster::kubectl::condition;
use cumulet_e2e::content::{self, Content};
use cumulet_e2e::poll;
use cumulet_e2e::scene::{READY_WITHIN, Scene};
use serde_json::json;

fn entries() -> Vec<(String, Content)> {
    let file = |seed, bytes| Content::File {
        bytes: content::noise(seed, bytes),
        executable: false,
    };
    vec![
        ("/large.bin".into(), file(1, 3 << 20)),
        ("/small.bin".into(), file(2, 1000)),
        ("/na\u{ef}ve.txt".into(), file(3, 70_000)),
    ]
}

/// Takes the replica's pod and its volume away; returns when both are new.
fn lose_volume(scene: &Scene) -> Result<()> {
    let claim = format!("data-{}", Scene::pod(0));
    let old_claim = scene.get("pvc", &claim)?;
    let old_pod = scene.get("pod", &Scene::pod(0))?;
    scene.run(&["delete", "pvc", &claim, "--wait=false"])?;
    scene.run(&["delete", "pod", &Scene::pod(0), "--grace-period=1"])?;
    poll::until("a new volume", READY_WITHIN, || {
        Ok((scene.get("pvc", &claim)?["metadata"]["uid"] != old_claim["metadata"]["uid"]).then_some(()))
    })?;
    scene.wait_pod(0, old_pod["metadata"]["uid"].as_str())?;
    Ok(())
}

#[test]
fn a_deleted_pod_comes_back_with_its_data() -> Result<()> {
    let scene = Scene::new("pod")?;
    let entries = entries();
    let (peer, drive) = scene.peer_with("writer", &entries)?;
    scene.cloud(1)?;
    scene.archive(&drive.key, &json!({}))?;
    scene.wait_archive(&["Ready", "Synced"])?;
    peer.stop()?;

    let old = scene.wait_pod(0, None)?;
    scene.run(&["delete", "pod", &Scene::pod(0)])?;
    scene.wait_pod(0, old["metadata"]["uid"].as_str())?;
    poll::until("all files being served by the new pod", READY_WITHIN, || {
        scene.check_all_served(&drive.key, &entries).map(Some)
    })
}

#[test]
fn with_volume_and_writer_gone_the_archive_is_restored_from_the_bucket() -> Result<()> {
    let scene = Scene::new("restore")?;
    let entries = entries();
    let (peer, drive) = scene.peer_with("writer", &entries)?;
    scene.cloud(1)?;
    scene.archive(&drive.key, &json!({}))?;
    scene.wait_archive(&["Ready", "Synced", "BackedUp"])?;
    peer.stop()?;

    lose_volume(&scene)?;
    poll::until("all files being served from the backup", READY_WITHIN, || {
        scene.check_all_served(&drive.key, &entries).map(Some)
    })?;
    let status = scene.replica_status(0, &drive.key)?;
    assert_eq!(status["peers"], 0, "nobody else was there to serve it");
    Ok(())
}

#[test]
fn a_damaged_object_is_refused_and_its_blocks_come_from_a_peer_once_one_is_there() -> Result<()> {
    let scene = Scene::new("damage")?;
    let entries = entries();
    let (peer, drive) = scene.peer_with("writer", &entries)?;
    scene.cloud(1)?;
    scene.archive(&drive.key, &json!({}))?;
    scene.wait_archive(&["Ready", "Synced", "BackedUp"])?;
    peer.stop()?;

    // The largest object holds file content; a byte in its middle is a byte of a block.
    let objects = scene.stored_objects()?;
    let (object, bytes) = objects
        .iter()
        .max_by_key(|(_, bytes)| *bytes)
        .context("nothing is in the bucket")?;
    let mut content = fs::read(object)?;
    let middle = usize::try_from(bytes / 2)?;
    content[middle] ^= 1;
    fs::write(object, content)?;

    lose_volume(&scene)?;
    let archive = scene.wait_archive_for("the damage being reported", |archive| {
        let said = archive["status"]["conditions"].to_string().to_lowercase();
        said.contains("damaged") || said.contains("corrupt")
    })?;
    assert!(
        condition(&archive, "Synced").is_some_and(|(status, _)| status != "True"),
        "an archive with a damaged backup is not in sync: {}",
        archive["status"]
    );
    assert!(
        scene.check_all_served(&drive.key, &entries).is_err(),
        "damaged bytes must not be served"
    );

    let (_peer, _) = scene.peer("writer", None)?;
    poll::until(
        "all files being served after a peer came back",
        READY_WITHIN,
        || scene.check_all_served(&drive.key, &entries).map(Some),
    )
}
