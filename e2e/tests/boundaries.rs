//! What is refused: wrong input, keys that nobody serves, and everything on the network but the swarm.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cumulet_e2e::cluster::kubectl::condition;
use cumulet_e2e::content::Content;
use cumulet_e2e::scene::{CLOUD, Scene};
use cumulet_e2e::{image, poll};
use serde_json::{Value, json};

const GOOD_KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111";

fn refusal(scene: &Scene, manifest: &Value) -> Result<String> {
    match scene.kubectl().apply(&manifest.to_string()) {
        Ok(said) => bail!("the API server accepted {manifest}: {said}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

fn address(pod: &Value) -> Result<IpAddr> {
    pod["status"]["podIP"]
        .as_str()
        .context("the pod has no address")?
        .parse()
        .context("failed to understand an address")
}

/// Sends a DHT ping and waits for its answer. The request (dht-rpc): type, flags (an internal command), transaction 1,
/// the receiver's address (which it does not check), command 0. The answer begins with its type and our transaction.
fn ping(to: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("failed to open a socket")?;
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .context("failed to set a timeout")?;
    socket
        .send_to(&[3, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0], to)
        .context("failed to send a ping")?;
    let mut answer = [0; 1500];
    let (bytes, from) = socket.recv_from(&mut answer).context("no answer to a ping")?;
    ensure!(
        from == to && bytes >= 4 && answer[0] == 0x13 && answer[2..4] == [1, 0],
        "not the answer to a ping"
    );
    Ok(())
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
        (
            GOOD_KEY,
            json!({"type": "Drive", "sync": {"include": ["a/**", "/etc/passwd"]}}),
            "spec.sync.include",
        ),
        (GOOD_KEY, json!({"speed": 9}), "spec.speed"),
    ] {
        let said = refusal(&scene, &scene.archive_manifest(key, &more))?;
        assert!(said.contains(field), "{field} is not named in: {said}");
    }
    scene.cloud(1)?;
    let mut smaller = scene.get("personalcloud", CLOUD)?;
    // As a person's file has it, without the version: the operator writes to the same object meanwhile.
    smaller["metadata"] = json!({"name": CLOUD, "namespace": scene.namespace()});
    let size = &mut smaller["spec"]["storage"]["size"];
    assert_eq!(*size, "1Gi", "the test shrinks it");
    *size = json!("512Mi");
    let said = refusal(&scene, &smaller)?;
    assert!(said.contains("spec.storage.size"), "{said}");
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
    let target = address(&scene.wait_pod(0, None)?)?;

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
    let from = address(&probe.get("pod", "probe")?)?;
    let connects = |target: IpAddr, port: u16| {
        probe.cluster().in_pod_network(from, || {
            Ok(TcpStream::connect_timeout(&SocketAddr::new(target, port), Duration::from_secs(2)).is_ok())
        })
    };
    for (port, what) in [
        (8443, "the API"),
        (8080, "the gateway"),
        (9090, "probes and metrics"),
    ] {
        assert!(
            !connects(target, port)?,
            "{what} must not be reachable from another namespace"
        );
    }
    // The same probe reaches a pod without a policy, so "not reachable" above is the policy's doing.
    let dns = probe
        .kubectl()
        .get(["service", "kube-dns", "-n", "kube-system"])?;
    let dns = dns["spec"]["clusterIP"].as_str().unwrap_or_default().parse()?;
    assert!(connects(dns, 53)?);

    // UDP has no handshake to look at: a DHT ping is sent to the swarm port, and its answer is what counts.
    poll::until("an answer from the swarm port", Duration::from_mins(1), || {
        probe
            .cluster()
            .in_pod_network(from, || ping(SocketAddr::new(target, 49_737)))
            .map(Some)
    })?;

    // Over TCP the swarm is reached as over UDP.
    assert!(
        connects(target, 49_737)?,
        "peers whose network lets no UDP through come over TCP"
    );

    // Opening the archive to the public opens the gateway, and nothing else.
    scene.archive(&drive.key, &json!({"gateway": {"public": true}}))?;
    poll::until("the gateway being open", Duration::from_mins(1), || {
        Ok(connects(target, 8080)?.then_some(()))
    })?;
    assert!(!connects(target, 8443)?);
    assert!(!connects(target, 9090)?);
    Ok(())
}
