//! What the demonstration and the tests put on a cluster: the S3 server, the chart, archives.
//!
//! Everything here is an ordinary user's act (kubectl, helm) and can be done twice.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Kubectl};
use crate::image::Architecture;
use crate::peers::Bootstrap;
use crate::product::{self, Built, NODE, OPERATOR, Program, S3_SERVER, Tag};
use crate::progress::Progress;
use crate::tools::go;
use crate::{process, tools};

/// Namespace of the operator.
pub const OPERATOR_NAMESPACE: &str = "cumulet-system";
/// Namespace of the S3 server.
pub const S3_NAMESPACE: &str = "cumulet-s3";
/// Secret with the S3 server's keys, in every namespace with a cloud.
pub const S3_SECRET: &str = "cumulet-s3";
/// The server's one bucket.
pub const BUCKET: &str = "cumulet";
/// The server inside the cluster.
pub const S3_ENDPOINT: &str = "http://s3.cumulet-s3.svc:9000";
/// Port of the gateway, on each replica and on the cloud's Service.
pub const GATEWAY_PORT: u16 = 8080;

const S3_MANIFEST: &str = include_str!("../cluster/s3.yaml");
const STARTS_WITHIN: Duration = Duration::from_mins(2);

/// The images a cluster needs.
#[derive(Debug, Clone)]
pub struct Images {
    built: Vec<Built>,
}

impl Images {
    /// Builds the operator, the node and the S3 server, tagged by their content.
    pub fn build(progress: &Progress) -> Result<Self> {
        let programs = [OPERATOR, NODE, S3_SERVER];
        Ok(Self {
            built: product::images(&programs, Architecture::host()?, &Tag::Content, progress)?,
        })
    }

    /// Brings them into a cluster.
    pub fn import(&self, cluster: &Cluster, progress: &Progress) -> Result<()> {
        for image in &self.built {
            progress.step(format_args!("image {}", image.reference), || {
                cluster.import_image(&image.archive)
            })?;
        }
        Ok(())
    }

    /// The images, for those who bring them into a cluster themselves.
    pub fn iter(&self) -> impl Iterator<Item = &Built> {
        self.built.iter()
    }

    fn of(&self, program: Program) -> Result<&Built> {
        self.built
            .iter()
            .find(|image| image.program == program)
            .context("an image is missing from the set")
    }
}

/// The keys of the S3 server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Keys {
    /// Access key.
    pub access: String,
    /// Secret key.
    pub secret: String,
}

/// Starts the S3 server and waits for it. Its keys are random, made once and kept in its Secret.
pub fn s3(kubectl: &Kubectl, images: &Images) -> Result<S3Keys> {
    namespace(kubectl, S3_NAMESPACE)?;
    let keys = match kubectl.get(["secret", "s3", "-n", S3_NAMESPACE]) {
        Ok(secret) => S3Keys {
            access: decoded(&secret, "S3D_ACCESS_KEY")?,
            secret: decoded(&secret, "S3D_SECRET_KEY")?,
        },
        Err(_) => S3Keys {
            access: random_hex(8)?,
            secret: random_hex(20)?,
        },
    };
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s3", "namespace": S3_NAMESPACE},
        "stringData": {"S3D_ACCESS_KEY": keys.access, "S3D_SECRET_KEY": keys.secret},
    });
    kubectl.apply(&secret.to_string())?;
    kubectl.apply(&S3_MANIFEST.replace("IMAGE", &images.of(S3_SERVER)?.reference.to_string()))?;
    kubectl.wait_for(
        "the S3 server",
        STARTS_WITHIN,
        &["statefulset", "s3", "-n", S3_NAMESPACE],
        |set| {
            let current = set["status"]["currentRevision"] == set["status"]["updateRevision"];
            (current && set["status"]["readyReplicas"].as_u64() >= Some(1)).then_some(())
        },
    )?;
    Ok(keys)
}

/// Makes a namespace, if missing.
pub fn namespace(kubectl: &Kubectl, name: &str) -> Result<()> {
    kubectl
        .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string())?;
    Ok(())
}

/// Gives a namespace the keys under the names that S3 clients know.
pub fn s3_secret(kubectl: &Kubectl, namespace: &str, keys: &S3Keys) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": S3_SECRET, "namespace": namespace},
        "stringData": {"AWS_ACCESS_KEY_ID": keys.access, "AWS_SECRET_ACCESS_KEY": keys.secret},
    });
    kubectl.apply(&secret.to_string())?;
    Ok(())
}

/// The spec of a cloud that backs up to the S3 server and finds peers through `bootstrap` (none: the public DHT).
pub fn cloud_spec(replicas: u8, bootstrap: &[Bootstrap], prefix: Option<&str>) -> Value {
    let mut s3 = json!({
        "bucket": BUCKET,
        "endpoint": S3_ENDPOINT,
        "region": "us-east-1",
        "forcePathStyle": true,
        "credentialsSecretName": S3_SECRET,
    });
    if let Some(prefix) = prefix {
        s3["prefix"] = json!(prefix);
    }
    let bootstrap: Vec<String> = bootstrap.iter().map(ToString::to_string).collect();
    json!({
        "replicas": replicas,
        "storage": {"size": "1Gi"},
        "network": {"bootstrap": bootstrap},
        "backup": {"s3": s3, "maxLag": "2s"},
    })
}

/// helm against the cluster that `kubectl` talks to.
pub fn helm(kubectl: &Kubectl) -> Result<Command> {
    let mut command = Command::new(go::HELM.executable()?);
    command.arg("--kubeconfig").arg(kubectl.kubeconfig());
    if let Some(context) = kubectl.context() {
        command.args(["--kube-context", context]);
    }
    Ok(command)
}

/// The chart's folder.
pub fn chart() -> PathBuf {
    tools::repository().join("charts/cumulet")
}

/// Installs the chart, or brings it up to date, and waits for the operator.
pub fn install_chart(kubectl: &Kubectl, images: &Images, default_cloud: &Value) -> Result<()> {
    let values = json!({
        "image": {"tag": images.of(OPERATOR)?.reference.tag()},
        "nodeImage": {"tag": images.of(NODE)?.reference.tag()},
        "defaultCloud": default_cloud,
    });
    let mut command = helm(kubectl)?;
    command
        .args(["upgrade", "--install", "cumulet"])
        .arg(chart())
        .args([
            "--namespace",
            OPERATOR_NAMESPACE,
            "--create-namespace",
            "--values",
            "-",
        ])
        // Waits for readiness; without it a broken operator would only show in what it doesn't do.
        .args(["--wait", "--timeout", "2m"]);
    process::output_with_input(&mut command, &values.to_string()).map_err(|error| {
        let pods = kubectl
            .run(["get", "pods", "-n", OPERATOR_NAMESPACE, "-o", "wide"])
            .unwrap_or_default();
        let log = kubectl.run([
            "logs",
            "-n",
            OPERATOR_NAMESPACE,
            "deployment/cumulet-operator",
            "--tail",
            "20",
        ]);
        error.context(format!(
            "failed to install the chart\n{pods}\n{}",
            log.unwrap_or_default()
        ))
    })?;
    Ok(())
}

/// The address of a Service, and its port of this name.
pub fn service_address(
    kubectl: &Kubectl,
    namespace: &str,
    name: &str,
    port: &str,
) -> Result<std::net::SocketAddr> {
    let service = kubectl.get(["service", name, "-n", namespace])?;
    let ports = service["spec"]["ports"]
        .as_array()
        .context("a Service has no ports")?;
    let number = ports
        .iter()
        .find(|candidate| candidate["name"] == port)
        .and_then(|found| found["port"].as_u64());
    let (Some(address), Some(number)) = (service["spec"]["clusterIP"].as_str(), number) else {
        bail!("the Service {namespace}/{name} has no address with a port {port}");
    };
    format!("{address}:{number}")
        .parse()
        .with_context(|| format!("failed to understand {address}:{number}"))
}

/// A value of a Secret, as text.
pub fn decoded(secret: &Value, key: &str) -> Result<String> {
    let encoded = secret["data"][key]
        .as_str()
        .with_context(|| format!("the Secret has no {key}"))?;
    let bytes = data_encoding::BASE64
        .decode(encoded.as_bytes())
        .context("failed to decode a Secret")?;
    String::from_utf8(bytes).context("a Secret is not text")
}

fn random_hex(bytes: usize) -> Result<String> {
    use std::io::Read as _;
    let mut random = vec![0; bytes];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .context("no random bytes")?;
    Ok(hex::encode(random))
}
