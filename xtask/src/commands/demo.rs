//! `cargo xtask demo`: from a fresh machine to an archive of a real JavaScript peer, pinned, served and backed up.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use cumulet_e2e::cluster::kubectl::condition;
use cumulet_e2e::cluster::{Cluster, Kubectl};
use cumulet_e2e::content::{self, Content};
use cumulet_e2e::http;
use cumulet_e2e::peers::{self, Peer};
use cumulet_e2e::progress::Progress;
use cumulet_e2e::stage::{self, Images};
use cumulet_e2e::{poll, process, tools};
use serde_json::Value;

/// Name of the archive in the example manifest.
const ARCHIVE: &str = "my-archive";
/// The Service of the cloud that is made on demand.
const SERVICE: &str = "cumulet-default";
const NAMESPACE: &str = "default";
const PLACEHOLDER: &str = "hyper://0000000000000000000000000000000000000000000000000000000000000000";
/// Where people expect a web page on their own machine; another port is taken when it is in use.
const PREFERRED_PORT: u16 = 8080;
/// Pulling in twenty mebibytes from a peer on the same machine, after the pod has started and found it.
const READY_WITHIN: Duration = Duration::from_mins(5);

/// Arguments of the command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sudo -E cargo xtask demo
  sudo -E cargo xtask demo --down
  cargo xtask demo --context k3d-test --key hyper://…")]
pub(crate) struct Arguments {
    /// Use this context of your kubeconfig instead of a cluster on this machine.
    #[arg(long, requires = "key")]
    context: Option<String>,
    /// With --context: the archive to pin, found on the public DHT.
    #[arg(long, requires = "context")]
    key: Option<String>,
    /// Remove every trace of the demonstration.
    #[arg(long)]
    down: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let progress = Progress::new();
    match (&arguments.context, &arguments.key) {
        (Some(context), Some(key)) if arguments.down => elsewhere_down(context, key, &progress),
        (Some(context), Some(key)) => elsewhere(context, key, &progress),
        _ if arguments.down => {
            Cluster::named(super::cluster::DEFAULT_NAME)?.down(false)?;
            progress.say("the demonstration is gone, and nothing of it is left on the machine");
            Ok(())
        }
        _ => here(&progress),
    }
}

fn here(progress: &Progress) -> Result<()> {
    let cluster = Cluster::named(super::cluster::DEFAULT_NAME)?;
    let reexec = super::cluster::reexec();
    progress.step("packages of the JavaScript peers", peers::install)?;
    let images = Images::build(progress)?;
    cluster.up(&reexec, progress)?;
    images.import(&cluster, progress)?;
    let kubectl = cluster.kubectl();

    let keys = progress.step("S3 server", || stage::s3(&kubectl, &images))?;
    stage::s3_secret(&kubectl, NAMESPACE, &keys)?;
    let bootstrap = progress.step("a DHT of its own", || peers::ensure_dht(&cluster))?;
    let key = progress.step("a JavaScript peer with a Hyperdrive", || drive(&cluster))?;
    let default_cloud = stage::cloud_spec(1, Some(&bootstrap), None);
    progress.step("chart", || {
        stage::install_chart(&kubectl, &images, &default_cloud)
    })?;
    progress.step("kubectl apply -f examples/datarchive.yaml", || {
        apply_example(&kubectl, &format!("hyper://{key}"))
    })?;
    wait_ready(&kubectl, progress)?;

    let target = stage::service_address(&kubectl, NAMESPACE, SERVICE, "gateway")?;
    let address = cluster.lasting_forward(&reexec, "gateway", PREFERRED_PORT, target)?;
    let url = progress.step("a first page through the gateway", || first_page(address, &key))?;
    report(&cluster, &url, progress);
    Ok(())
}

/// The peer's drive, filled on the first run; its key.
fn drive(cluster: &Cluster) -> Result<String> {
    let note = cluster.layout().at("peers/demo.key");
    if cluster.has_adopted("demo")? {
        return fs::read_to_string(&note).context("failed to read the key of the peer's drive");
    }
    let bootstrap = peers::ensure_dht(cluster)?;
    let (mut peer, status) = Peer::start(cluster, "demo", &bootstrap, None)?;
    let entries = content::entries();
    if peer.hashes()?.len() < entries.len() {
        content::put_all(&mut peer, &entries, &cluster.layout().at("peers/files"))?;
    }
    fs::write(&note, &status.key).context("failed to note the key of the peer's drive")?;
    peer.keep();
    Ok(status.key)
}

fn apply_example(kubectl: &Kubectl, key: &str) -> Result<()> {
    let path = tools::repository().join("examples/datarchive.yaml");
    let example = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    if !example.contains(PLACEHOLDER) {
        bail!("{} has no key to substitute", path.display());
    }
    kubectl.run(["create", "namespace", NAMESPACE]).ok();
    kubectl.apply(&example.replace(PLACEHOLDER, key))?;
    Ok(())
}

/// Waits for the archive, printing each change of what its status says.
fn wait_ready(kubectl: &Kubectl, progress: &Progress) -> Result<()> {
    let mut said = String::new();
    let object = ["datarchive", ARCHIVE, "-n", NAMESPACE];
    kubectl
        .wait_for("the archive becoming ready", READY_WITHIN, &object, |archive| {
            let line = summary(archive);
            if line != said {
                progress.say(&line);
                said.clone_from(&line);
            }
            let is = |kind| condition(archive, kind).is_some_and(|(status, _)| status == "True");
            (is("Ready") && is("BackedUp")).then_some(())
        })
        .map_err(|error| {
            let pods = kubectl
                .run(["get", "personalclouds,datarchives,pods", "-A", "-o", "wide"])
                .unwrap_or_default();
            error.context(format!(
                "the archive did not become ready; the cluster looks like this:\n{pods}"
            ))
        })
}

fn summary(archive: &Value) -> String {
    let status = &archive["status"];
    let mut line = format!(
        "archive: length {}, progress {}, peers {}",
        status["length"].as_u64().unwrap_or(0),
        status["progress"]
            .as_str()
            .map_or_else(|| status["progress"].to_string(), str::to_owned),
        status["peers"].as_u64().unwrap_or(0)
    );
    for kind in ["Ready", "Synced", "BackedUp"] {
        if let Some((value, reason)) = condition(archive, kind) {
            let _ = write!(line, ", {kind}={value} ({reason})"); // Writing into a String cannot fail.
        }
    }
    line
}

/// Reads a page that was put into the drive and compares it.
fn first_page(address: SocketAddr, key: &str) -> Result<String> {
    let url = format!("http://{address}/{key}/");
    let entries = content::entries();
    let page = entries.iter().find_map(|(path, content)| match content {
        Content::File { bytes, .. } if path == "/index.html" => Some(bytes),
        _ => None,
    });
    let page = page.context("the demonstration has no first page")?;
    poll::until(
        "the gateway serving the first page",
        Duration::from_mins(1),
        || {
            let answer = http::get(&format!("{url}index.html"), &[])?;
            if answer.status != 200 || &answer.body != page {
                bail!(
                    "the gateway answered {} with {} bytes",
                    answer.status,
                    answer.body.len()
                );
            }
            Ok(Some(()))
        },
    )?;
    Ok(url)
}

fn report(cluster: &Cluster, url: &str, progress: &Progress) {
    progress.say(format_args!(
        "ready after {:.0} s",
        progress.elapsed().as_secs_f64()
    ));
    println!(
        "
The archive of a JavaScript peer is pinned, served and backed up:
  {url}

Try:
  curl {url}index.html
  curl --range 1000-1999 {url}{large} | wc -c
  export KUBECONFIG={kubeconfig}
  {kubectl} get datarchives,personalclouds,pods,pvc
  {kubectl} describe datarchive {ARCHIVE}
  {kubectl} delete pod {SERVICE}-0     # comes back with its data

Stop and remove everything:
  cargo xtask demo --down",
        large = content::LARGE_PATH.trim_start_matches('/'),
        kubeconfig = cluster.kubeconfig().display(),
        kubectl = cluster.layout().at("bin/kubectl").display(),
    );
}

/// Somebody else's cluster: the images are theirs to bring, the archive is one of theirs.
fn elsewhere(context: &str, key: &str, progress: &Progress) -> Result<()> {
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
    let keys = progress.step("S3 server", || stage::s3(&kubectl, &images))?;
    stage::s3_secret(&kubectl, NAMESPACE, &keys)?;
    progress.step("chart", || {
        stage::install_chart(&kubectl, &images, &stage::cloud_spec(1, None, None))
    })?;
    progress.step("kubectl apply -f examples/datarchive.yaml", || {
        apply_example(&kubectl, key)
    })?;
    wait_ready(&kubectl, progress)?;
    println!(
        "
Ready. To open the archive:
  kubectl --context {context} -n {NAMESPACE} port-forward service/{SERVICE} {PREFERRED_PORT}:gateway
  curl http://127.0.0.1:{PREFERRED_PORT}/{ARCHIVE}/

Remove it again:
  cargo xtask demo --context {context} --key {key} --down"
    );
    Ok(())
}

fn elsewhere_down(context: &str, key: &str, progress: &Progress) -> Result<()> {
    let kubectl = foreign(context)?;
    let path = tools::repository().join("examples/datarchive.yaml");
    let example = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    process::output_with_input(
        kubectl
            .command()
            .args(["delete", "--ignore-not-found", "--filename", "-"]),
        &example.replace(PLACEHOLDER, key),
    )?;
    kubectl.run([
        "delete",
        "--ignore-not-found",
        "-n",
        NAMESPACE,
        "personalcloud",
        "default",
    ])?;
    kubectl.run([
        "delete",
        "--ignore-not-found",
        "-n",
        NAMESPACE,
        "secret",
        stage::S3_SECRET,
    ])?;
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
