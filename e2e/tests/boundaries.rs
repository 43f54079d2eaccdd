//! What is refused: wrong input, keys that nobody serves, and everything on the network but the swarm.

use std::time::Duration;

use anyhow::{Result, bail};
use cumulet_e2e::cluster::kubectl::condition;
use cumulet_e2e::content::Content;
use cumulet_e2e::scene::{READY_WITHIN, Scene};
use cumulet_e2e::{image, poll};
use serde_json::{Value, json};

const GOOD_KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111";

fn refusal(scene: &Scene, manifest: &Value) -> Result<String> {
    match scene.kubectl().apply(&manifest.to_string()) {
        Ok(said) => bail!("the API server accepted {manifest}: {said}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

#[test]
fn wrong_input_is_refused_by_the_api_server_and_the_field_is_named() -> Result<()> {
    let scene = Scene::new("wrong")?;
    for (key, more, field) in [
        ("not-a-key", json!({}), "spec.key"),
        ("1111", json!({}), "spec.key"),
        (GOOD_KEY, json!({"cloudName": "Not A Name"}), "spec.cloudName"),
        (GOOD_KEY, json!({"type": "Tape"}), "spec.type"),
        (
            GOOD_KEY,
            json!({"type": "Core", "sync": {"include": ["a/**"]}}),
            "spec.sync.include",
        ),
        (GOOD_KEY, json!({"sync": {"mode": "Sometimes"}}), "spec.sync.mode"),
        (GOOD_KEY, json!({"speed": 9}), "spec.speed"),
    ] {
        let said = refusal(&scene, &scene.archive_manifest(key, &more))?;
        assert!(said.contains(field), "{field} is not named in: {said}");
    }
    Ok(())
}

#[test]
fn a_key_that_nobody_serves_says_so() -> Result<()> {
    let scene = Scene::new("nobody")?;
    scene.cloud(1)?;
    scene.archive(GOOD_KEY, &json!({}))?;
    let archive = scene.wait_archive_for("Synced=False for want of peers", |archive| {
        condition(archive, "Synced") == Some(("False", "NoPeers"))
    })?;
    assert_eq!(archive["status"]["peers"], 0);
    Ok(())
}

#[test]
fn from_another_namespace_only_the_swarm_port_is_reachable() -> Result<()> {
    let scene = Scene::new("walls")?;
    let entries = [(
        "/a".to_owned(),
        Content::File {
            bytes: b"a".to_vec(),
            executable: false,
        },
    )];
    let (_peer, drive) = scene.peer_with("writer", &entries)?;
    scene.cloud(1)?;
    // Not public, so that the gateway is closed as well.
    scene.archive(&drive.key, &json!({"gateway": {"public": false}}))?;
    scene.wait_archive(&["Ready", "Synced"])?;
    let pod = scene.wait_pod(0, None)?;
    let target = pod["status"]["podIP"].as_str().unwrap_or_default();

    let probe = Scene::new("probe")?;
    probe.run(&[
        "run",
        "probe",
        "--image",
        image::BUSYBOX,
        "--image-pull-policy=Never",
        "--command",
        "--",
        "sleep",
        "3600",
    ])?;
    probe.run(&["wait", "--for=condition=Ready", "pod/probe", "--timeout=60s"])?;
    let connects = |port: u16| {
        let test = format!("nc -w 2 {target} {port} </dev/null >/dev/null 2>&1 && echo open || echo closed");
        probe
            .run(&["exec", "probe", "--", "sh", "-c", &test])
            .map(|said| said.trim().to_owned())
    };
    for (port, what) in [
        (8443, "the API"),
        (8080, "the gateway"),
        (9090, "probes and metrics"),
    ] {
        assert_eq!(
            connects(port)?,
            "closed",
            "{what} must not be reachable from another namespace"
        );
    }

    // The same probe reaches a port without a policy, so "closed" above is the policy's doing.
    let dns = "nc -w 2 kube-dns.kube-system.svc.cluster.local 53 </dev/null >/dev/null 2>&1 && echo open || echo closed";
    assert_eq!(
        probe.run(&["exec", "probe", "--", "sh", "-c", dns])?.trim(),
        "open"
    );

    // A pod of the same namespace as the probe can reach the swarm: a DHT ping (a request with the command 0) is
    // answered. UDP has no handshake to look at, so the answer is what counts.
    poll::until("an answer from the swarm port", READY_WITHIN, || {
        let ping = "printf '\\003\\004\\001\\000\\000\\000\\000\\000\\000\\000\\000' | timeout 3 nc -u -w 2";
        let test = format!("{ping} {target} 49737 | wc -c");
        let said = probe.run(&["exec", "probe", "--", "sh", "-c", &test])?;
        Ok((said.trim().parse::<u32>().unwrap_or(0) > 0).then_some(()))
    })?;

    // Opening the archive to the public opens the gateway, and nothing else.
    scene.archive(&drive.key, &json!({"gateway": {"public": true}}))?;
    poll::until("the gateway being open", Duration::from_mins(1), || {
        Ok((connects(8080)? == "open").then_some(()))
    })?;
    assert_eq!(connects(8443)?, "closed");
    assert_eq!(connects(9090)?, "closed");
    Ok(())
}
