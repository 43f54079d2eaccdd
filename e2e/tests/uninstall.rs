//! What stays when the chart goes. It takes the shared operator away, so it runs alone, after all others.

use std::time::Duration;

use anyhow::{Context, Result};
use cumulet_e2e::content::{self, Content};
use cumulet_e2e::scene::{ARCHIVE, CLOUD, READY_WITHIN, Scene};
use cumulet_e2e::{poll, process, stage};
use serde_json::json;

const RELEASE: &str = "cumulet";

fn helm(scene: &Scene, arguments: &[&str]) -> Result<String> {
    process::output(
        stage::helm(scene.kubectl())?
            .args(arguments)
            .args(["--namespace", stage::OPERATOR_NAMESPACE]),
    )
}

/// Whether the cluster knows both resources.
fn definitions_exist(scene: &Scene) -> Result<()> {
    for plural in ["personalclouds", "datarchives"] {
        scene
            .kubectl()
            .get(["customresourcedefinition", &format!("{plural}.cumulet.io")])
            .with_context(|| format!("the definition of {plural} is gone"))?;
    }
    Ok(())
}

#[test]
fn uninstalling_and_deleting_keeps_the_volume_and_the_bucket() -> Result<()> {
    let mut scene = Scene::new("uninstall")?;
    let entries = vec![(
        "/large.bin".to_owned(),
        Content::File {
            bytes: content::noise(1, 3 << 20),
            executable: false,
        },
    )];
    let (peer, drive) = scene.peer_with("writer", &entries)?;
    scene.cloud(1)?;
    scene.archive(&drive.key, &json!({}))?;
    scene.wait_archive(&["Ready", "Synced", "BackedUp"])?;
    peer.stop()?;
    let objects = scene.stored_objects()?;
    assert!(!objects.is_empty());

    let values = helm(&scene, &["get", "values", RELEASE, "--output", "yaml"])?;
    helm(&scene, &["uninstall", RELEASE, "--wait", "--timeout", "2m"])?;
    assert!(
        scene
            .kubectl()
            .get(["deployment", "cumulet-operator", "-n", stage::OPERATOR_NAMESPACE])
            .is_err(),
        "the operator must be gone for this to show anything"
    );
    definitions_exist(&scene)?;
    scene.get("datarchive", ARCHIVE)?;
    scene.get("personalcloud", CLOUD)?;
    scene
        .check_all_served(&drive.key, &entries)
        .context("a cloud serves without its operator")?;
    assert_eq!(scene.stored_objects()?, objects, "the bucket stays as it was");

    // The owner comes back, and then lets the archive and the cloud go.
    let mut install = stage::helm(scene.kubectl())?;
    install.args(["install", RELEASE]).arg(stage::chart()).args([
        "--namespace",
        stage::OPERATOR_NAMESPACE,
        "--values",
        "-",
        "--wait",
        "--timeout",
        "2m",
    ]);
    process::output_with_input(&mut install, &values)?;
    scene.run(&["delete", "datarchive", ARCHIVE, "--timeout", "60s"])?;
    scene.run(&["delete", "personalcloud", CLOUD, "--timeout", "60s"])?;
    poll::until("the pod being gone", Duration::from_mins(2), || {
        Ok(scene
            .run(&["get", "pods", "--output", "name"])?
            .trim()
            .is_empty()
            .then_some(()))
    })?;
    let claim = scene.get("pvc", &format!("data-{}", Scene::pod(0)))?;
    assert_eq!(claim["status"]["phase"], "Bound", "the volume stays");
    assert_eq!(scene.stored_objects()?, objects, "the bucket stays as it was");

    // What stayed is enough: the same archive, applied again, is served with nobody else there.
    scene.forget_gateway();
    scene.cloud(1)?;
    scene.archive(&drive.key, &json!({}))?;
    scene.wait_archive(&["Ready"])?;
    poll::until("all files being served again", READY_WITHIN, || {
        scene.check_all_served(&drive.key, &entries).map(Some)
    })
}
