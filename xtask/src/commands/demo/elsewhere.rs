//! The demonstration on somebody else's cluster: the images are theirs to bring. The archive is one of the public network, or one
//! of a JavaScript peer that runs on this machine for as long as the command does.

use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use cumulet_e2e::cluster::Kubectl;
use cumulet_e2e::peers::{self, Bootstrap, Machine};
use cumulet_e2e::progress::Progress;
use cumulet_e2e::stage::{self, Images};
use cumulet_e2e::{process, tools};
use nix::sys::signal::{SigSet, Signal};

use super::{ARCHIVE, Arguments, NAMESPACE, PREFERRED_PORT, SERVICE, apply_example, drive, wait_ready};

pub(super) fn up(context: &str, arguments: &Arguments, progress: &Progress) -> Result<()> {
    let kubectl = foreign(context)?;
    kubectl
        .run(["version"])
        .with_context(|| format!("failed to reach the cluster of the context {context}"))?;
    let images = Images::build(progress)?;
    println!("Images to bring into the cluster, should it not have them yet:");
    for image in images.iter() {
        println!(
            "  {}\n    sudo k3s ctr images import {}",
            image.reference,
            image.archive.display()
        );
        println!("    kind load image-archive {}", image.archive.display());
    }
    let (key, bootstrap, machine) = if let Some(key) = &arguments.key {
        (key.clone(), arguments.bootstrap.clone(), None)
    } else {
        let host = arguments.host.map_or_else(|| own_address(&kubectl), Ok)?;
        let (key, bootstrap, machine) = peer(host, progress)?;
        (key, vec![bootstrap], Some(machine))
    };
    let keys = progress.step("S3 server", || stage::s3(&kubectl, &images))?;
    stage::s3_secret(&kubectl, NAMESPACE, &keys)?;
    progress.step("chart", || {
        stage::install_chart(&kubectl, &images, &stage::cloud_spec(1, &bootstrap, None))
    })?;
    progress.step("kubectl apply -f examples/datarchive.yaml", || {
        apply_example(&kubectl, &key)
    })?;
    wait_ready(&kubectl, progress)?;
    println!(
        "
Ready. To open the archive:
  kubectl --context {context} -n {NAMESPACE} port-forward service/{SERVICE} {PREFERRED_PORT}:gateway
  curl http://127.0.0.1:{PREFERRED_PORT}/{ARCHIVE}/

Remove it again:
  cargo xtask demo --context {context} --down"
    );
    if machine.is_some() {
        println!(
            "\nThe JavaScript peer runs on this machine until Ctrl-C; the archive stays available without it."
        );
        wait_for_interrupt()?;
    }
    Ok(())
}

/// A DHT and a peer with a drive on this machine; they end when the last of what is returned is dropped.
fn peer(host: IpAddr, progress: &Progress) -> Result<(String, Bootstrap, Machine)> {
    progress.step("packages of the JavaScript peers", peers::install)?;
    let machine = Machine::new(tools::repository().join("target/demo-peers"), host);
    let bootstrap = progress.step(format_args!("a DHT on {host}"), || peers::ensure_dht(&machine))?;
    let key = progress.step("a JavaScript peer with a Hyperdrive", || drive(&machine))?;
    Ok((format!("hyper://{key}"), bootstrap, machine))
}

pub(super) fn down(context: &str, progress: &Progress) -> Result<()> {
    let kubectl = foreign(context)?;
    let delete = |arguments: &[&str]| {
        let all = ["delete", "--ignore-not-found", "-n", NAMESPACE];
        kubectl.run(all.iter().chain(arguments).copied())
    };
    let known = kubectl.run(["get", "customresourcedefinitions", "--output", "name"])?;
    if known.contains("datarchives.cumulet.io") {
        delete(&["datarchive", ARCHIVE])?;
        delete(&["personalcloud", "default"])?;
    }
    delete(&["secret", stage::S3_SECRET])?;
    process::output(stage::helm(&kubectl)?.args([
        "uninstall",
        "cumulet",
        "--namespace",
        stage::OPERATOR_NAMESPACE,
        "--ignore-not-found",
        "--wait",
    ]))?;
    kubectl.run([
        "delete",
        "--ignore-not-found",
        "namespace",
        stage::OPERATOR_NAMESPACE,
        stage::S3_NAMESPACE,
    ])?;
    progress.say("removed; the volume of the cloud and the custom resource definitions stay");
    Ok(())
}

fn foreign(context: &str) -> Result<Kubectl> {
    let Some(program) = process::find("kubectl") else {
        bail!("kubectl is missing; hint: install it, or leave --context out for a cluster on this machine");
    };
    let kubeconfig = std::env::var_os("KUBECONFIG")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config")))
        .context("neither KUBECONFIG nor HOME is set, so there is no kubeconfig to find the context in")?;
    Ok(Kubectl::new(program, kubeconfig).with_context(context))
}

/// The address from which this machine reaches the cluster's first node, which then reaches this machine there. Connecting a
/// UDP socket sends nothing; it asks the routing table.
fn own_address(kubectl: &Kubectl) -> Result<IpAddr> {
    let nodes = kubectl.get(["nodes"])?;
    let addresses = nodes["items"][0]["status"]["addresses"].as_array();
    let address = addresses
        .into_iter()
        .flatten()
        .find(|address| address["type"] == "InternalIP")
        .and_then(|address| address["address"].as_str())
        .with_context(|| {
            format!(
                "the cluster's first node has no address: {}",
                nodes["items"][0]["status"]["addresses"]
            )
        })?;
    let node: IpAddr = address
        .parse()
        .with_context(|| format!("failed to understand the address {address}"))?;
    let socket = UdpSocket::bind("0.0.0.0:0").context("failed to open a socket")?;
    socket
        .connect((node, 9))
        .and_then(|()| socket.local_addr())
        .map(|local| local.ip())
        .with_context(|| {
            format!("failed to find this machine's address towards {node}; hint: name it with --host")
        })
}

fn wait_for_interrupt() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals
        .thread_block()
        .and_then(|()| signals.wait())
        .context("failed to wait for a signal")?;
    Ok(())
}
