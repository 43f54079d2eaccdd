//! `cargo xtask demo`: from a fresh machine to an archive of a real JavaScript peer, pinned, served and backed up.

mod elsewhere;

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use cumulet_e2e::cluster::kubectl::condition;
use cumulet_e2e::cluster::{Cluster, Kubectl};
use cumulet_e2e::content::{self, Content};
use cumulet_e2e::http;
use cumulet_e2e::peers::{self, Bootstrap, Peer, Site};
use cumulet_e2e::progress::Progress;
use cumulet_e2e::stage::{self, Images};
use cumulet_e2e::{poll, tools};
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
  cargo xtask demo --context kind-test                       with a peer on this machine
  cargo xtask demo --context kind-test --key hyper://…       with an archive of the public network
  cargo xtask demo --context kind-test --down")]
pub(crate) struct Arguments {
    /// Use this context of your kubeconfig instead of a cluster on this machine.
    #[arg(long)]
    context: Option<String>,
    /// With --context: pin this archive instead of one that a peer on this machine makes.
    #[arg(long, requires = "context")]
    key: Option<String>,
    /// With --context and --key: enter the DHT here instead of by the public nodes.
    #[arg(long, requires = "key", value_name = "HOST:PORT")]
    bootstrap: Vec<Bootstrap>,
    /// With --context: this machine's address as the cluster reaches it; found by the route to its API server otherwise.
    #[arg(long, requires = "context", conflicts_with = "key")]
    host: Option<IpAddr>,
    /// Remove every trace of the demonstration.
    #[arg(long)]
    down: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let progress = Progress::new();
    match (&arguments.context, arguments.down) {
        (Some(context), true) => elsewhere::down(context, &progress),
        (Some(context), false) => elsewhere::up(context, arguments, &progress),
        (None, true) => {
            Cluster::named(super::cluster::DEFAULT_NAME)?.down(false)?;
            progress.say("the demonstration is gone, and nothing of it is left on the machine");
            Ok(())
        }
        (None, false) => here(&progress),
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
    let default_cloud = stage::cloud_spec(1, std::slice::from_ref(&bootstrap), None);
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
fn drive(site: &dyn Site) -> Result<String> {
    let note = site.folder().join("demo.key");
    if site.has_adopted("demo")? {
        return fs::read_to_string(&note).context("failed to read the key of the peer's drive");
    }
    let bootstrap = peers::ensure_dht(site)?;
    let (mut peer, status) = Peer::start(site, "demo", &bootstrap, None)?;
    let entries = content::entries();
    if peer.hashes()?.len() < entries.len() {
        content::put_all(&mut peer, &entries, &site.folder().join("files"))?;
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
