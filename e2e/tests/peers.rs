//! What peers have from a cloud: it is there when nobody else is, and its replicas agree.

use std::time::Duration;

use anyhow::Result;
use cumulet_e2e::content::{self, Content};
use cumulet_e2e::peers::DriveEntry;
use cumulet_e2e::poll;
use cumulet_e2e::scene::{READY_WITHIN, Scene};
use serde_json::json;

#[test]
fn a_second_javascript_peer_downloads_from_our_pod_while_the_first_is_off() -> Result<()> {
    let scene = Scene::new("second")?;
    let entries = content::entries();
    let (mut writer, drive) = scene.peer_with("writer", &entries)?;
    let original = writer.hashes()?;
    scene.cloud(1)?;
    scene.archive(&drive.key, &json!({"announce": true}))?;
    scene.wait_archive(&["Ready", "Synced"])?;
    writer.stop()?;

    let (mut reader, _) = scene.peer("reader", Some(&drive.key))?;
    poll::until("the reader finding our pod", READY_WITHIN, || {
        Ok((reader.update()?.length == drive.length).then_some(()))
    })?;
    let status = reader.download()?;
    assert_eq!(status.length, drive.length);
    let copy = reader.hashes()?;
    assert_eq!(copy, original);
    assert!(
        copy.values()
            .any(|entry| matches!(entry, DriveEntry::File { executable: true, .. }))
    );
    Ok(())
}

#[test]
fn two_replicas_are_equal_again_after_one_was_cut_off() -> Result<()> {
    let scene = Scene::new("replicas")?;
    let file = |seed| Content::File {
        bytes: content::noise(seed, 200_000),
        executable: false,
    };
    let entries = [
        ("/first.bin".to_owned(), file(1)),
        ("/second.bin".to_owned(), file(2)),
    ];
    let (mut peer, drive) = scene.peer_with("writer", &entries)?;
    scene.cloud(2)?;
    scene.archive(&drive.key, &json!({}))?;
    scene.wait_archive_for("both replicas holding everything", |archive| {
        archive["status"]["syncedReplicas"].as_u64() == Some(2)
    })?;

    let cut = scene.cut_off(1)?;
    let news = content::noise(9, 150_000);
    let after = peer.put("/third.bin", &news)?;
    let served = |replica: u8| -> Result<bool> {
        let answer = scene.replica_gateway(replica, &drive.key, "/third.bin")?;
        Ok(answer.status == 200 && answer.body == news)
    };
    poll::until("the connected replica serving the news", READY_WITHIN, || {
        Ok(served(0)?.then_some(()))
    })?;
    assert_eq!(scene.replica_status(0, &drive.key)?["length"], after.length);

    drop(cut);
    poll::until("the other replica serving the news", READY_WITHIN, || {
        Ok(served(1)?.then_some(()))
    })?;
    poll::until("both replicas saying the same", Duration::from_mins(1), || {
        let [one, other] = [
            scene.replica_status(0, &drive.key)?,
            scene.replica_status(1, &drive.key)?,
        ];
        let same = ["length", "byteLength", "fork", "storedBlocks", "storedBytes"]
            .iter()
            .all(|field| one[field] == other[field]);
        Ok(same.then_some(()))
    })
}
