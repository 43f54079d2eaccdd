//! What `network.*` of a cloud does.

use anyhow::{Context, Result};
use cumulet_e2e::cluster::kubectl::condition;
use cumulet_e2e::content::{self, Content};
use cumulet_e2e::peers::{Bootstrap, Peer};
use cumulet_e2e::poll;
use cumulet_e2e::scene::{CLOUD, READY_WITHIN, Scene};
use serde_json::json;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/private-dht.yaml");

/// The swarm address of a cloud's one replica, once it is ready.
fn dht_node(scene: &Scene, cloud: &str) -> Result<Bootstrap> {
    let name = format!("cumulet-{cloud}-0");
    let object = ["pod", name.as_str(), "-n", scene.namespace()];
    let pod = scene
        .kubectl()
        .wait_for(&format!("pod {name}"), READY_WITHIN, &object, |pod| {
            condition(pod, "Ready")
                .is_some_and(|(status, _)| status == "True")
                .then(|| pod.clone())
        })?;
    let host = pod["status"]["podIP"]
        .as_str()
        .context("the pod has no address")?
        .to_owned();
    Ok(Bootstrap { host, port: 49737 })
}

#[test]
fn three_clouds_that_serve_the_dht_are_a_network_of_their_own() -> Result<()> {
    let scene = Scene::new("private-dht")?;
    scene.run(&["apply", "-f", EXAMPLE])?;
    let north = dht_node(&scene, "north")?;
    dht_node(&scene, "east")?;
    let west = dht_node(&scene, "west")?;

    // The writer knows nothing but the first cloud, and the second keeps what it writes.
    let name = |role: &str| format!("{}-{role}", scene.namespace());
    let (mut writer, _) = Peer::start(scene.cluster(), &name("writer"), &north, None)?;
    let files = scene
        .cluster()
        .layout()
        .at("peers")
        .join(name("writer"))
        .join("files");
    let entries = [(
        "/kept.bin".to_owned(),
        Content::File {
            bytes: content::noise(3, 300_000),
            executable: false,
        },
    )];
    let drive = content::put_all(&mut writer, &entries, &files)?;
    let original = writer.hashes()?;
    scene.archive(&drive.key, &json!({"cloudName": "east", "announce": true}))?;
    scene.wait_archive(&["Ready", "Synced"])?;
    writer.stop()?;

    // Any two are enough, and a reader may start from any.
    scene.run(&["delete", "personalcloud", "north", "--wait=true"])?;
    let (mut reader, _) = Peer::start(scene.cluster(), &name("reader"), &west, Some(&drive.key))?;
    poll::until("the reader finding our pod", READY_WITHIN, || {
        Ok((reader.update()?.length == drive.length).then_some(()))
    })?;
    reader.download()?;
    assert_eq!(reader.hashes()?, original);
    Ok(())
}

#[test]
fn a_cloud_that_relays_says_by_which_keys() -> Result<()> {
    let scene = Scene::new("relay")?;
    scene.cloud(1)?;
    scene.run(&[
        "patch",
        "personalcloud",
        CLOUD,
        "--type=merge",
        "--patch",
        &json!({"spec": {
            "network": {"relay": {"enabled": true, "maxBytesPerSecond": "10Mi"}},
            "devices": [{"name": "phone", "publicKey": "ab".repeat(32)}],
        }})
        .to_string(),
    ])?;
    let object = ["personalcloud", CLOUD, "-n", scene.namespace()];
    let keys = scene
        .kubectl()
        .wait_for("the key of the relay", READY_WITHIN, &object, |cloud| {
            cloud["status"]["relayKeys"].as_array().cloned()
        })?;
    assert_eq!(keys.len(), 1);
    let key = keys[0].as_str().context("a key is a text")?;
    assert!(
        key.len() == 64 && key.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "{key}"
    );
    Ok(())
}
