//! What `network.*` of a cloud does.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use cumulet_e2e::cluster::kubectl::condition;
use cumulet_e2e::content::{self, Content};
use cumulet_e2e::peers::{BOOTSTRAP_PORT, Bootstrap, Peer, Site};
use cumulet_e2e::scene::{CLOUD, READY_WITHIN, Scene};
use cumulet_e2e::script::{self, Script};
use cumulet_e2e::{http, poll, stage};
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

/// Seed of a device's key pair, in hex.
const DEVICE: &str = "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b";

/// What `/metrics` of a cloud's one replica says of a name.
fn metric(scene: &Scene, cloud: &str, name: &str) -> Result<u64> {
    let node = dht_node(scene, cloud)?;
    let target = format!("{}:9090", node.host).parse().context("no address")?;
    let url = format!("http://{}/metrics", scene.cluster().forward(target)?);
    let body = String::from_utf8(http::get(&url, &[])?.body).context("not text")?;
    let value = body
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")));
    value
        .and_then(|value| value.parse().ok())
        .with_context(|| format!("no {name} in {body}"))
}

#[test]
fn two_clouds_in_one_cluster_never_share_a_relay() -> Result<()> {
    let scene = Scene::new("two-relays")?;
    let mut javascript = Script::start(scene.cluster().command(&script::node()?)?, "peer.js")?;
    let device = javascript.call("identity", json!({"seed": DEVICE}))?["publicKey"].clone();
    let host = scene.cluster().host().to_string();
    let bootstrap = Bootstrap {
        host: host.clone(),
        port: BOOTSTRAP_PORT,
    };
    for cloud in ["home", "office"] {
        let mut spec = stage::cloud_spec(
            1,
            std::slice::from_ref(&bootstrap),
            Some(&format!("{}-{cloud}", scene.namespace())),
        );
        spec["network"]["relay"] = json!({"enabled": true});
        if cloud == "home" {
            spec["devices"] = json!([{"name": "phone", "publicKey": device}]);
        }
        let manifest = json!({
            "apiVersion": "cumulet.io/v1alpha1",
            "kind": "PersonalCloud",
            "metadata": {"name": cloud, "namespace": scene.namespace()},
            "spec": spec,
        });
        scene.kubectl().apply(&manifest.to_string())?;
    }
    for (cloud, serves) in [("home", 1), ("office", 0)] {
        let object = ["personalcloud", cloud, "-n", scene.namespace()];
        let relay = scene
            .kubectl()
            .wait_for("the key of the relay", READY_WITHIN, &object, |cloud| {
                cloud["status"]["relayKeys"][0].as_str().map(str::to_owned)
            })?;
        dht_node(&scene, cloud)?;
        // The device listens, and does without holes in its firewall.
        let mut listening = json!({"bootstrap": [bootstrap.to_string()], "host": host, "seed": DEVICE});
        listening["relay"] = json!(relay);
        listening["blocked"] = json!(true);
        let listens = javascript.call("listen", listening)?;
        let bytes = 65_536;
        let connected = javascript.call(
            "connect",
            json!({
                "bootstrap": [bootstrap.to_string()], "host": host, "publicKey": listens["publicKey"],
                "count": 1, "bytes": bytes, "text": "plain",
            }),
        )?;
        assert_eq!(connected["ok"], serves, "{cloud}: {connected}");
        assert_eq!(
            metric(&scene, cloud, "cumulet_node_relay_links_opened_total")?,
            serves,
            "{cloud}"
        );
        // There and back.
        let forwarded = metric(&scene, cloud, "cumulet_node_relay_forwarded_bytes_total")?;
        assert!(forwarded >= serves * 2 * bytes, "{cloud}: {forwarded}");
        javascript.call("close", json!({"handle": listens["handle"]}))?;
    }
    Ok(())
}

/// The first line of the answer to a WebSocket's handshake (RFC 6455, section 4.1).
fn upgrade(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address).context("failed to connect")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = "GET / HTTP/1.1\r\nHost: cloud\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).context("no answer")?;
    Ok(line.trim_end().to_owned())
}

#[test]
fn a_cloud_serves_others_only_when_it_is_told_to_and_says_by_which_keys() -> Result<()> {
    let scene = Scene::new("services")?;
    scene.cloud(1)?;
    scene.wait_pod(0, None)?;
    let service = format!("cumulet-{CLOUD}");
    let websocket = || stage::service_address(scene.kubectl(), scene.namespace(), &service, "websocket");
    assert!(websocket().is_err(), "nobody asked for it yet");
    let patch = json!({"spec": {
        "network": {
            "relay": {"enabled": true, "maxBytesPerSecond": "10Mi"},
            "websocket": {"enabled": true},
            "blindPeer": {"enabled": true},
        },
        "devices": [{"name": "phone", "publicKey": "ab".repeat(32)}],
    }});
    let patch = patch.to_string();
    scene.run(&["patch", "personalcloud", CLOUD, "--type=merge", "--patch", &patch])?;
    let object = ["personalcloud", CLOUD, "-n", scene.namespace()];
    let keys = scene
        .kubectl()
        .wait_for("the keys of the services", READY_WITHIN, &object, |cloud| {
            let status = &cloud["status"];
            let keys = [&status["relayKeys"], &status["blindPeerKeys"]].map(|keys| keys[0].as_str());
            Some([keys[0]?.to_owned(), keys[1]?.to_owned()])
        })?;
    for key in &keys {
        assert!(
            key.len() == 64 && key.bytes().all(|digit| digit.is_ascii_hexdigit()),
            "{key}"
        );
    }
    assert_ne!(keys[0], keys[1], "each service has a key of its own");
    let address = scene.cluster().forward(websocket()?)?;
    let answered = poll::until("a WebSocket", READY_WITHIN, || Ok(upgrade(address).ok()))?;
    assert_eq!(answered, "HTTP/1.1 101 Switching Protocols");
    Ok(())
}
