//! A page in a browser, and a pod.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use cumulet_e2e::peers::{BOOTSTRAP_PORT, Site};
use cumulet_e2e::scene::{CLOUD, READY_WITHIN, Scene};
use cumulet_e2e::script::Script;
use cumulet_e2e::tools::chromium;
use cumulet_e2e::{poll, script, stage};
use serde_json::json;

const BLOCKS: u64 = 40;
const BLOCK_BYTES: usize = 10_000;
/// Seed of the page's key pair, in hex.
const SEED: &str = "0909090909090909090909090909090909090909090909090909090909090909";

#[test]
fn a_page_in_chromium_replicates_a_core_from_a_pod_through_a_websocket_until_it_is_no_device_any_more()
-> Result<()> {
    let mut command = Command::new(script::node()?);
    command.env(chromium::VARIABLE, chromium::program()?);
    let mut browser = Script::start(command, "chromium.js")?;
    let page = browser.call("identity", json!({"seed": SEED}))?["publicKey"].clone();

    let scene = Scene::new("browser")?;
    scene.cloud(1)?;
    let patch = json!({"spec": {
        "network": {"websocket": {"enabled": true}},
        "devices": [{"name": "page", "publicKey": page}],
    }});
    let patch = patch.to_string();
    scene.run(&["patch", "personalcloud", CLOUD, "--type=merge", "--patch", &patch])?;

    let mut writer = Script::start(scene.cluster().command(&script::node()?)?, "page.js")?;
    let host = scene.cluster().host();
    let written = json!({
        "host": host, "bootstrap": [format!("{host}:{BOOTSTRAP_PORT}")], "blocks": BLOCKS, "bytes": BLOCK_BYTES,
    });
    let key = writer.call("serve", written)?["key"].clone();
    let key = key.as_str().context("no key")?;
    scene.archive(key, &json!({"type": "Core", "announce": true}))?;
    scene.wait_archive(&["Ready", "Synced"])?;
    // The writer is gone before the page comes.
    drop(writer);

    let service = format!("cumulet-{CLOUD}");
    let target = poll::until("the Service's port", READY_WITHIN, || {
        Ok(stage::service_address(scene.kubectl(), scene.namespace(), &service, "websocket").ok())
    })?;
    let url = format!("ws://{}/", scene.cluster().forward(target)?);
    let hold = json!({"url": url, "seed": SEED});
    let let_in = |browser: &mut Script, wanted: bool| {
        poll::until("the replica to know who is a device", READY_WITHIN, || {
            let held = browser.call("hold", hold.clone())?;
            Ok((held["isOpen"] == wanted).then_some(()))
        })
    };
    let_in(&mut browser, true)?;
    let read = browser.call(
        "read",
        json!({"url": url, "seed": SEED, "key": key, "length": BLOCKS}),
    )?;
    let blocks: Vec<String> = (1..=BLOCKS)
        .map(|number| hex::encode(vec![number as u8; BLOCK_BYTES]))
        .collect();
    ensure!(
        read["blocks"] == json!(blocks),
        "the page read something else: {:.200}",
        read["blocks"].to_string()
    );

    let pod = || {
        let uid = "jsonpath={.metadata.uid} {.status.startTime}";
        scene.run(&["get", "pod", &format!("cumulet-{CLOUD}-0"), "-o", uid])
    };
    let before = pod()?;
    let patch = json!({"spec": {"devices": []}}).to_string();
    scene.run(&["patch", "personalcloud", CLOUD, "--type=merge", "--patch", &patch])?;
    let ended = browser.call("ended", json!({"wait": READY_WITHIN.as_millis() as u64}))?;
    ensure!(
        ended["hasEnded"] == true,
        "a device that was taken off is still there"
    );
    let_in(&mut browser, false)?;
    ensure!(
        pod()? == before,
        "the replica restarted because a device was taken off"
    );
    Ok(())
}
