//! The setting of one end-to-end test: a namespace of its own on the shared cluster, with a cloud and its archives.
//!
//! The cluster is up already (`cargo xtask test e2e` sees to it and names its folder in `CUMULET_E2E_DIR`). A scene's
//! namespace goes when the scene does; its prefix in the bucket is its namespace's name.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cluster::kubectl::condition;
use crate::cluster::{Cluster, Kubectl};
use crate::content::{self, Content};
use crate::http::{self, Answer};
use crate::peers::{self, Bootstrap, Peer, PeerStatus};
use crate::stage::{self, S3Keys};
use crate::{poll, process};

/// Names the folder of the tests' cluster.
pub const CLUSTER_DIR_VARIABLE: &str = "CUMULET_E2E_DIR";
/// Name of the one cloud of a scene.
pub const CLOUD: &str = "cloud";
/// Name of the one archive of most scenes.
pub const ARCHIVE: &str = "archive";

/// A pod on a busy two-core machine, from nothing to ready with an archive of 30 MiB.
pub const READY_WITHIN: Duration = Duration::from_mins(3);

/// A test's namespace and what is in it.
#[derive(Debug)]
pub struct Scene {
    cluster: Cluster,
    kubectl: Kubectl,
    namespace: String,
    bootstrap: Bootstrap,
    gateway: OnceLock<SocketAddr>,
}

impl Scene {
    /// A namespace `name` with the S3 server's keys, on the running cluster.
    pub fn new(name: &str) -> Result<Self> {
        let Some(dir) = std::env::var_os(CLUSTER_DIR_VARIABLE) else {
            bail!(
                "{CLUSTER_DIR_VARIABLE} is not set; hint: run the end-to-end tests by `cargo xtask test e2e`"
            );
        };
        let cluster = Cluster::attach(Path::new(&dir))?;
        let kubectl = cluster.kubectl();
        let namespace = format!("e2e-{name}");
        // A run before this one may have left it, when the cluster was kept.
        kubectl.run([
            "delete",
            "namespace",
            &namespace,
            "--ignore-not-found",
            "--timeout",
            "120s",
        ])?;
        stage::namespace(&kubectl, &namespace)?;
        let secret = kubectl.get(["secret", "s3", "-n", stage::S3_NAMESPACE])?;
        let keys = S3Keys {
            access: stage::decoded(&secret, "S3D_ACCESS_KEY")?,
            secret: stage::decoded(&secret, "S3D_SECRET_KEY")?,
        };
        stage::s3_secret(&kubectl, &namespace, &keys)?;
        let bootstrap = peers::ensure_dht(&cluster)?;
        Ok(Self {
            cluster,
            kubectl,
            namespace,
            bootstrap,
            gateway: OnceLock::new(),
        })
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// kubectl, with no namespace chosen.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Runs kubectl in the namespace.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl.run(
            ["-n", self.namespace.as_str()]
                .into_iter()
                .chain(arguments.iter().copied()),
        )
    }

    /// An object of the namespace.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        self.kubectl.get([kind, name, "-n", &self.namespace])
    }

    /// A JavaScript peer with a drive, empty and writable or somebody else's by key.
    pub fn peer(&self, name: &str, key: Option<&str>) -> Result<(Peer, PeerStatus)> {
        Peer::start(
            &self.cluster,
            &format!("{}-{name}", self.namespace),
            &self.bootstrap,
            key,
        )
    }

    /// A JavaScript peer with a drive that holds these entries.
    pub fn peer_with(&self, name: &str, entries: &[(String, Content)]) -> Result<(Peer, PeerStatus)> {
        let (mut peer, _) = self.peer(name, None)?;
        let files = self
            .cluster
            .layout()
            .at("peers")
            .join(format!("{}-{name}", self.namespace))
            .join("files");
        let status = content::put_all(&mut peer, entries, &files)?;
        Ok((peer, status))
    }

    /// Applies the cloud with so many replicas.
    pub fn cloud(&self, replicas: u8) -> Result<()> {
        let cloud = json!({
            "apiVersion": "cumulet.io/v1alpha1",
            "kind": "PersonalCloud",
            "metadata": {"name": CLOUD, "namespace": self.namespace},
            "spec": stage::cloud_spec(replicas, std::slice::from_ref(&self.bootstrap), Some(&self.namespace)),
        });
        self.kubectl.apply(&cloud.to_string())?;
        Ok(())
    }

    /// Applies the archive; `more` is merged into its spec.
    pub fn archive(&self, key: &str, more: &Value) -> Result<()> {
        self.kubectl
            .apply(&self.archive_manifest(key, more).to_string())?;
        Ok(())
    }

    /// The archive, as it would be applied.
    pub fn archive_manifest(&self, key: &str, more: &Value) -> Value {
        let mut spec = json!({"cloudName": CLOUD, "key": key, "gateway": {"public": true}});
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        json!({
            "apiVersion": "cumulet.io/v1alpha1",
            "kind": "DatArchive",
            "metadata": {"name": ARCHIVE, "namespace": self.namespace},
            "spec": spec,
        })
    }

    /// Waits until conditions of the archive are true; returns the archive.
    pub fn wait_archive(&self, kinds: &[&str]) -> Result<Value> {
        self.wait_archive_for(&format!("{kinds:?} of the archive"), |archive| {
            kinds
                .iter()
                .all(|kind| condition(archive, kind).is_some_and(|(status, _)| status == "True"))
        })
    }

    /// Waits until the archive looks as it should; returns it.
    pub fn wait_archive_for(&self, what: &str, look: impl Fn(&Value) -> bool) -> Result<Value> {
        let object = ["datarchive", ARCHIVE, "-n", &self.namespace];
        let seen = self.kubectl.wait_for(what, READY_WITHIN, &object, |archive| {
            look(archive).then(|| archive.clone())
        });
        seen.map_err(|error| {
            let status = self
                .get("datarchive", ARCHIVE)
                .map(|archive| archive["status"].to_string());
            let pods = self.run(&["get", "pods,pvc", "-o", "wide"]).unwrap_or_default();
            error.context(format!("archive status: {}\n{pods}", status.unwrap_or_default()))
        })
    }

    /// A replica's pod.
    pub fn pod(replica: u8) -> String {
        format!("cumulet-{CLOUD}-{replica}")
    }

    /// Waits until a replica's pod is ready, and is not the one with the id `not`; returns it.
    pub fn wait_pod(&self, replica: u8, not: Option<&str>) -> Result<Value> {
        let name = Self::pod(replica);
        let object = ["pod", name.as_str(), "-n", &self.namespace];
        self.kubectl
            .wait_for(&format!("pod {name}"), READY_WITHIN, &object, |pod| {
                let ready = condition(pod, "Ready").is_some_and(|(status, _)| status == "True");
                (ready && pod["metadata"]["uid"].as_str() != not).then(|| pod.clone())
            })
    }

    /// Asks a replica's gateway for a path of an archive. It connects anew each time, from the node.
    pub fn replica_gateway(&self, replica: u8, key: &str, path: &str) -> Result<Answer> {
        let pod = self.get("pod", &Self::pod(replica))?;
        let ip = pod["status"]["podIP"]
            .as_str()
            .context("the pod has no address")?;
        let target = format!("{ip}:{}", stage::GATEWAY_PORT)
            .parse()
            .context("failed to understand an address")?;
        http::get(&url(self.cluster.forward(target)?, key, path), &[])
    }

    /// Asks the cloud's gateway for a path of an archive.
    pub fn gateway(&self, key: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        http::get(&url(self.gateway_address()?, key, path), headers)
    }

    /// Looks the gateway's address up anew: a Service that was made again has another one.
    pub fn forget_gateway(&mut self) {
        self.gateway.take();
    }

    fn gateway_address(&self) -> Result<SocketAddr> {
        if let Some(address) = self.gateway.get() {
            return Ok(*address);
        }
        let name = format!("cumulet-{CLOUD}");
        let target = stage::service_address(&self.kubectl, &self.namespace, &name, "gateway")?;
        let address = self.cluster.forward(target)?;
        Ok(*self.gateway.get_or_init(|| address))
    }

    /// Reads every file through the gateway and compares it with what was put in; links must lead to their target's
    /// content.
    pub fn check_all_served(&self, key: &str, entries: &[(String, Content)]) -> Result<()> {
        for (path, content) in entries {
            let wanted = match content {
                Content::File { bytes, .. } => bytes,
                Content::Link(target) => match entries.iter().find(|(path, _)| path == target) {
                    Some((_, Content::File { bytes, .. })) => bytes,
                    _ => bail!("the link {path} leads nowhere"),
                },
            };
            let answer = self.gateway(key, path, &[])?;
            if answer.status != 200 || &answer.body != wanted {
                bail!(
                    "{path}: the gateway answered {} with {} bytes, and {} were put in",
                    answer.status,
                    answer.body.len(),
                    wanted.len()
                );
            }
        }
        Ok(())
    }

    /// Waits until the gateway serves these bytes at a path.
    pub fn wait_served(&self, key: &str, path: &str, bytes: &[u8], timeout: Duration) -> Result<()> {
        poll::until_every(
            Duration::from_millis(50),
            &format!("{path} being served"),
            timeout,
            || {
                let answer = self.gateway(key, path, &[])?;
                if answer.status != 200 {
                    bail!("the gateway answered {}", answer.status);
                }
                Ok((answer.body == bytes).then_some(()))
            },
        )
    }

    /// A replica's own account of an archive, from its API.
    pub fn replica_status(&self, replica: u8, key: &str) -> Result<Value> {
        let secret = self.get("secret", &format!("cumulet-{CLOUD}"))?;
        let (token, authority) = (
            stage::decoded(&secret, "api-token")?,
            stage::decoded(&secret, "ca.crt")?,
        );
        let pod = self.get("pod", &Self::pod(replica))?;
        let ip = pod["status"]["podIP"]
            .as_str()
            .context("the pod has no address")?;
        let address = self.cluster.forward(
            format!("{ip}:8443")
                .parse()
                .context("failed to understand an address")?,
        )?;
        // The certificate names localhost, and not the address of a forward.
        let url = format!("https://localhost:{}/api/v1/archives/{key}", address.port());
        let answer = http::get_tls(
            &url,
            &[("authorization", &format!("Bearer {token}"))],
            authority.as_bytes(),
        )?;
        if answer.status != 200 {
            bail!(
                "{url} answered {}: {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            );
        }
        serde_json::from_slice(&answer.body).context("failed to understand a replica's status")
    }

    /// Objects of this scene in the bucket, as files of the S3 server's volume, with their sizes.
    pub fn stored_objects(&self) -> Result<Vec<(PathBuf, u64)>> {
        let mut objects = Vec::new();
        for volume in list(&self.cluster.layout().at("volumes"))? {
            let prefix = volume.join(stage::BUCKET).join(&self.namespace);
            if prefix.is_dir() {
                collect(&prefix, &mut objects)?;
            }
        }
        Ok(objects)
    }

    /// Cuts a pod off the network in both directions; the returned guard mends it when it goes.
    pub fn cut_off(&self, replica: u8) -> Result<CutOff<'_>> {
        let pod = self.get("pod", &Self::pod(replica))?;
        let address = pod["status"]["podIP"]
            .as_str()
            .context("the pod has no address")?
            .to_owned();
        let cut = CutOff { scene: self, address };
        cut.rules("-I")?;
        Ok(cut)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A failed test's namespace stays for whoever looks at the logs; the cluster goes with all of them.
        if !std::thread::panicking() {
            let _ = self
                .kubectl
                .run(["delete", "namespace", &self.namespace, "--wait=false"]);
        }
    }
}

/// A pod that is cut off.
#[derive(Debug)]
pub struct CutOff<'a> {
    scene: &'a Scene,
    address: String,
}

impl CutOff<'_> {
    fn rules(&self, how: &str) -> Result<()> {
        // Between pods; and between the pod and the node, where the DHT and the JavaScript peers are.
        for (chain, direction) in [
            ("FORWARD", "-s"),
            ("FORWARD", "-d"),
            ("INPUT", "-s"),
            ("OUTPUT", "-d"),
        ] {
            let mut command = self.scene.cluster.tool_in_network("iptables")?;
            command.args(["-w", "10", how, chain, direction, &self.address, "-j", "DROP"]);
            process::output(&mut command).context("failed to change the firewall of the cluster")?;
        }
        Ok(())
    }
}

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.rules("-D") {
            eprintln!("failed to mend the network: {error:#}");
        }
    }
}

fn url(address: SocketAddr, key: &str, path: &str) -> String {
    format!("http://{address}/{key}{}", http::escape_path(path))
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = std::fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?;
    Ok(listed.filter_map(|entry| Some(entry.ok()?.path())).collect())
}

fn collect(folder: &Path, into: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    for path in list(folder)? {
        if path.is_dir() {
            collect(&path, into)?;
        } else {
            let bytes = path
                .metadata()
                .with_context(|| format!("failed to look at {}", path.display()))?
                .len();
            into.push((path, bytes));
        }
    }
    Ok(())
}
